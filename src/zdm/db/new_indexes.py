"""The server spells indexes that do not exist yet, made on an empty temporary table with the columns that theirs will have.

What it does not take (an operator class that is not there, a parameter that the access method does not have, an expression
that is not immutable) is so refused before anything is changed, in its own words; and a name without a schema that the
migration's author wrote means later, under any search_path, what it meant then.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from zdm.db.carry import index_body
from zdm.db.session import Connection, execute_one, search_path_of, transaction
from zdm.errors import Problem
from zdm.model.requests import IndexRequest

_TABLE = "_zdm_index_on"
_INDEX = "_zdm_new_index"


def spell_indexes(
    conn: Connection, requests: Sequence[IndexRequest], search_path: Sequence[str]
) -> tuple[dict[str, str], list[Problem]]:
    """What follows ``ON table`` of each index by its key, and a problem for each that the server refused. Nothing is left.

    Parameters
    ----------
    search_path: where unqualified names of the author's are looked up, after pg_catalog.
    """
    found: dict[str, str] = {}
    problems: list[Problem] = []
    if not requests:
        return found, problems
    with transaction(conn, rollback=True):
        for request in requests:
            try:
                with conn.transaction(force_rollback=True):
                    found[request.key] = _spell(conn, request, search_path)
            except psycopg.Error as error:
                if error.sqlstate is None or error.sqlstate[:2] in {"08", "57", "58", "XX"}:
                    raise
                problems.append(
                    Problem(
                        f"{(error.diag.message_primary or str(error)).strip()} (SQLSTATE {error.sqlstate})",
                        request.where,
                        error.diag.message_hint or "",
                    )
                )
    return found, problems


def _spell(conn: Connection, request: IndexRequest, search_path: Sequence[str]) -> str:
    table = sql.Identifier("pg_temp", _TABLE)
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}{}").format(
            sql.Identifier(name),
            sql.SQL(column.type),
            sql.SQL(" COLLATE {}").format(sql.SQL(column.collation)) if column.collation else sql.SQL(""),
        )
        for name, column in request.columns.items()
    )
    conn.execute(search_path_of([*search_path, "pg_temp"]))
    conn.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP").format(sql.Identifier(_TABLE), columns)
    )
    execute_one(
        conn,
        sql.SQL("CREATE {}INDEX {} ON {} {}").format(
            sql.SQL("UNIQUE " if request.unique else ""),
            sql.Identifier(_INDEX),
            table,
            sql.SQL(request.definition),
        ),
    )
    conn.execute(search_path_of([]))
    place = (
        ""
        if request.tablespace is None
        else sql.SQL(" TABLESPACE {}").format(sql.Identifier(request.tablespace)).as_string(conn)
    )
    return index_body(conn, "x.relname = %s AND x.relnamespace = pg_my_temp_schema()", (_INDEX,), place)
