"""What the server says about things that do not exist yet: would adding a column be instant, is a name still free."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import sql

from zdm.db.session import Connection, execute_one, fetch_value, search_path_of, transaction
from zdm.model.names import QualifiedName


def adds_instantly(conn: Connection, type_: str, default: str | None, target: str) -> bool:
    """Whether ADD COLUMN with this type and default leaves the table's file alone, asked on an empty temporary table.

    False as well where the server refuses the type or the default: whoever uses them reports that with its reason.
    """
    with transaction(conn, rollback=True):
        conn.execute(search_path_of(["pg_temp", target, "public"]))
        conn.execute("CREATE TEMP TABLE _zdm_addition (present integer)")
        before = fetch_value(
            conn, "SELECT pg_catalog.pg_relation_filenode('pg_temp._zdm_addition'::regclass)"
        )
        clause = sql.SQL(" DEFAULT ({})").format(sql.SQL(default)) if default is not None else sql.SQL("")
        try:
            # The text is the user's: it must not be more than one statement.
            execute_one(
                conn,
                sql.SQL("ALTER TABLE pg_temp._zdm_addition ADD COLUMN added {}{}").format(
                    sql.SQL(type_), clause
                ),
            )
        except psycopg.Error:
            return False
        after = fetch_value(conn, "SELECT pg_catalog.pg_relation_filenode('pg_temp._zdm_addition'::regclass)")
        return bool(before == after)


def taken_names(conn: Connection, names: Iterable[QualifiedName]) -> set[QualifiedName]:
    """Those of `names` that a relation, a type or an index already has in its schema."""
    found = set()
    for name in set(names):
        row = conn.execute(
            """SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = %(schema)s AND c.relname = %(name)s
               UNION ALL
               SELECT FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
               WHERE n.nspname = %(schema)s AND t.typname = %(name)s
               LIMIT 1""",
            {"schema": name.schema_, "name": name.name},
        ).fetchone()
        if row is not None:
            found.add(name)
    return found
