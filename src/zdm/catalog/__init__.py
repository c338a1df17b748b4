"""zdm's own tables, in schema ``zdm`` of the database they describe, and the typed store over them.

One module per concept. Every function takes the caller's psycopg connection and never commits it: a single write joins the
transaction that is open, so that a step's mark or a backfill's cursor commits with the work. What is called
atomic opens a savepoint of its own; with no transaction open, it is one, and commits. Results are frozen values.
"""
