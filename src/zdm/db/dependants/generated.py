"""A generated column gets its expression over the successors in the swap.

Until then it is generated from the old column, which is kept in step. A virtual one is made anew, which changes the catalogs
only. A stored one has its values in the table's file, so the server writes that anew under the strongest lock: that is tried on
a copy of the rows, and refused where it takes too long.
"""

from __future__ import annotations

from functools import partial

from psycopg import sql

from zdm.db.dependants.clones import CannotFollowError, rename, retype
from zdm.db.dependants.under_lock import COPY, Allowance
from zdm.db.session import Connection, fetch_value
from zdm.errors import Problem
from zdm.model.requests import Follow, FollowRequest

_SET_EXPRESSION = 170000
"""The first version that gives a stored generated column another expression in place."""


def follow_generated(conn: Connection, request: FollowRequest, allowance: Allowance) -> Follow:
    """DROP COLUMN and ADD COLUMN with the expression over the successors; SET EXPRESSION where the server has it for stored ones."""
    row = conn.execute(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull, a.attgenerated = 's',"
        " CASE WHEN a.attcollation <> y.typcollation THEN (SELECT format('%%I.%%I', n.nspname, c.collname)"
        " FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE c.oid = a.attcollation) END"
        " FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid"
        " JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE d.oid = %s",
        (request.oid,),
    ).fetchone()
    if row is None:
        raise CannotFollowError("it is not there any more")
    name, type_, expression, not_null, stored, collation = row
    if not_null and not stored:
        raise CannotFollowError("it is NOT NULL, which would have to be proven by a scan under lock")
    copy, table = (
        sql.Identifier("pg_temp", "_zdm_carry"),
        sql.Identifier(request.table.schema_, request.table.name),
    )
    conn.execute(sql.SQL("CREATE TEMPORARY TABLE _zdm_carry (LIKE {}) ON COMMIT DROP").format(table))
    replaced = [c for r in request.replaced if r.table == request.table for c in r.columns]
    for column in replaced:
        retype(conn, copy, column)
    definition = sql.SQL("{} {}{}").format(
        sql.Identifier(name),
        sql.SQL(type_),
        sql.SQL(" COLLATE {}").format(sql.SQL(collation)) if collation else sql.SQL(""),
    )
    kind = sql.SQL("STORED NOT NULL" if not_null else "STORED" if stored else "VIRTUAL")
    conn.execute(_remade(copy, sql.Identifier(name), definition=definition, expression=expression, kind=kind))
    in_place = stored and conn.info.server_version >= _SET_EXPRESSION
    if stored:
        again = _reset if in_place else partial(_remade, definition=definition, kind=kind)
        allowance.take(
            conn, request.table, [again(COPY, sql.Identifier(name), expression=expression)], indexes=True
        )
    rename(conn, copy, replaced)
    rewritten = fetch_value(
        conn,
        "SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid"
        " AND a.attnum = d.adnum JOIN pg_class c ON c.oid = d.adrelid"
        " WHERE c.relname = '_zdm_carry' AND c.relnamespace = pg_my_temp_schema() AND a.attname = %s",
        (name,),
    )
    if in_place:
        statement = _reset(table, sql.Identifier(name), expression=rewritten)
        return Follow(on=request.table, swap=(statement.as_string(conn),))
    statement = _remade(table, sql.Identifier(name), definition=definition, expression=rewritten, kind=kind)
    return Follow(on=request.table, swap=(statement.as_string(conn),), remade=True)


def too_long(request: FollowRequest, why: str) -> Problem:
    """What is said where the swap would write too much."""
    return Problem(
        f"the stored generated column {request.name} of {request.table} uses a replaced column, and gets another expression only "
        f"by writing the table anew under lock: {why}",
        where=request.where,
        remedy="Drop it in an earlier migration and add it again after this one; or make it a plain column that a trigger fills; "
        "or make a new table with shadow_table; or raise `lock_budget` if a longer stall does no harm.",
        rule="stored-generated-column",
    )


def _reset(table: sql.Identifier, name: sql.Identifier, *, expression: str) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET EXPRESSION AS ({})").format(
        table, name, sql.SQL(expression)
    )


def _remade(
    table: sql.Identifier, name: sql.Identifier, *, definition: sql.Composed, expression: str, kind: sql.SQL
) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} DROP COLUMN {}, ADD COLUMN {} GENERATED ALWAYS AS ({}) {}").format(
        table, name, definition, sql.SQL(expression), kind
    )
