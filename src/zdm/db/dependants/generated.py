"""A virtual generated column is made anew in the swap: adding one changes the catalogs only.

Until then it is generated from the old column, which is kept in step. A stored one has its values in the table's file, so
another expression means a rewrite under the strongest lock: that is refused.
"""

from __future__ import annotations

from psycopg import sql

from zdm.db.dependants.clones import CannotFollowError, rename, retype
from zdm.db.session import Connection, fetch_value
from zdm.model.requests import Follow, FollowRequest


def follow_generated(conn: Connection, request: FollowRequest) -> Follow:
    """DROP COLUMN and ADD COLUMN … VIRTUAL with the expression over the successors."""
    row = conn.execute(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull,"
        " CASE WHEN a.attcollation <> y.typcollation THEN (SELECT format('%%I.%%I', n.nspname, c.collname)"
        " FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE c.oid = a.attcollation) END"
        " FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid"
        " JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE d.oid = %s",
        (request.oid,),
    ).fetchone()
    if row is None:
        raise CannotFollowError("it is not there any more")
    name, type_, expression, not_null, collation = row
    if not_null:
        raise CannotFollowError("it is NOT NULL, which would have to be proven by a scan under lock")
    copy, table = (
        sql.Identifier("pg_temp", "_zdm_carry"),
        sql.Identifier(request.table.schema_, request.table.name),
    )
    conn.execute(sql.SQL("CREATE TEMPORARY TABLE _zdm_carry (LIKE {}) ON COMMIT DROP").format(table))
    replaced = [c for r in request.replaced if r.table == request.table for c in r.columns]
    for column in replaced:
        retype(conn, copy, column)
    column_name = sql.Identifier(name)
    definition = sql.SQL("{} {}{}").format(
        column_name,
        sql.SQL(type_),
        sql.SQL(" COLLATE {}").format(sql.SQL(collation)) if collation else sql.SQL(""),
    )
    conn.execute(
        sql.SQL("ALTER TABLE {} DROP COLUMN {}, ADD COLUMN {} GENERATED ALWAYS AS ({}) VIRTUAL").format(
            copy, column_name, definition, sql.SQL(expression)
        )
    )
    rename(conn, copy, replaced)
    rewritten = fetch_value(
        conn,
        "SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid"
        " AND a.attnum = d.adnum JOIN pg_class c ON c.oid = d.adrelid"
        " WHERE c.relname = '_zdm_carry' AND c.relnamespace = pg_my_temp_schema() AND a.attname = %s",
        (name,),
    )
    statement = sql.SQL(
        "ALTER TABLE {} DROP COLUMN {}, ADD COLUMN {} GENERATED ALWAYS AS ({}) VIRTUAL"
    ).format(table, column_name, definition, sql.SQL(rewritten))
    return Follow(on=request.table, swap=(statement.as_string(conn),))
