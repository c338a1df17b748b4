"""Tables and columns that a rollback takes away are closed first: what the new version still writes there is refused, not lost. So are, for the
old version, tables that cleanup takes away.

The triggers that carry its writes over go in the transaction that closes them, so that each of its writes is either in the old version
or was refused. The old version's own writes, mirrored or made by foreign keys, come out of triggers, and pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from psycopg import sql

from zdm.model.names import QualifiedName, fit
from zdm.sql.identifiers import SCHEMA, qualified_name
from zdm.sql.templates import dollar_quoted, load

PREFIX = "!zdm_closed"
"""How the triggers are called: they sort, and fire, before the application's."""

_DIRECT: Final = (
    "pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.=) 0"
    " AND COALESCE(pg_catalog.current_setting('zdm.row', true), '') OPERATOR(pg_catalog.=) ''"
)
"""The row is written by a statement of an application's own, neither by a trigger nor by a reconciler of zdm's."""


def function_name(table: QualifiedName) -> str:
    """The function that refuses."""
    return fit(f"closed_{table}")


def close_table(table: QualifiedName, *, cleanup: bool = False) -> tuple[str, ...]:
    """What refuses every statement's own writes. Takes SHARE ROW EXCLUSIVE on the table; repeatable.

    Parameters
    ----------
    cleanup: it is the old version's, and the migration is completed.
    """
    made = load("closed_table").fill(
        direct=sql.SQL(_DIRECT),
        table=qualified_name(table),
        function=_function(table),
        written=sql.Identifier(f"{PREFIX}_written"),
        truncated=sql.Identifier(f"{PREFIX}_truncated"),
    )
    return (_refuse(table, cleanup=cleanup), made.as_string(None))


def close_columns(table: QualifiedName, columns: Sequence[str]) -> tuple[str, ...]:
    """What refuses a statement that writes those of the columns that are there. Takes SHARE ROW EXCLUSIVE on the table; repeatable."""
    made = dollar_quoted(
        "closed_columns",
        direct=sql.Literal(_DIRECT),
        table=sql.Literal(qualified_name(table).as_string(None)),
        columns=sql.Literal(list(columns)),
        function=sql.Literal(_function(table).as_string(None)),
        inserted=sql.Literal([_trigger(column, "inserted") for column in columns]),
        updated=sql.Literal([_trigger(column, "updated") for column in columns]),
    )
    return (_refuse(table), made.as_string(None))


def open_columns(table: QualifiedName, columns: Iterable[str]) -> tuple[str, ...]:
    """What makes closed columns droppable: in the transaction that drops them; ACCESS EXCLUSIVE on the table. Repeatable."""
    return tuple(
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}")
        .format(sql.Identifier(_trigger(column, event)), qualified_name(table))
        .as_string(None)
        for column in columns
        for event in ("inserted", "updated")
    )


def forget(table: QualifiedName) -> str:
    """What drops the function, once nothing is closed any more."""
    return sql.SQL("DROP FUNCTION IF EXISTS {}()").format(_function(table)).as_string(None)


def _trigger(column: str, event: str) -> str:
    return fit(f"{PREFIX}_{event}_{column}")


def _function(table: QualifiedName) -> sql.Identifier:
    return sql.Identifier(SCHEMA, function_name(table))


def _refuse(table: QualifiedName, *, cleanup: bool = False) -> str:
    message = f"{table} is closed for the new version: the migration is rolled back"
    hint = "What the new version wrote before is in the old version; let the old version of the application write."
    if cleanup:
        message = f"{table} is closed for the old version: the migration is completed, and the table goes"
        hint = "What the old version wrote before is in the new version; let the new version of the application write."
    return dollar_quoted(
        "closed", function=_function(table), message=sql.Literal(message), hint=sql.Literal(hint)
    ).as_string(None)
