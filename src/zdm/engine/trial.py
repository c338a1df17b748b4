"""Rows between two tables that have no form in the new version, or would not come back as they were: tried before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql

from zdm.db.session import transaction
from zdm.engine.mapper import Mapper
from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import RowMapping
from zdm.model.table import Table
from zdm.sql import element_rows
from zdm.sql.identifiers import column, comma, qualified_name, type_name

SAMPLE = 20_000
"""On about how many rows a mapping of one row to many is tried."""

_SHOWN = 40
"""How many characters of a value are told."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a trial of a mapping (`sql.trial`) found.

    Parameters
    ----------
    rows: on how many it was tried; failed: on how many it raised; lost: of how many a value did not come back.
    failed_keys / lost_keys: some of them. message: of the last one that raised.
    """

    rows: int
    failed: int
    failed_keys: tuple[str, ...]
    message: str
    lost: int
    lost_keys: tuple[str, ...]


def sample(table: Table, size: int) -> sql.Composable:
    """A FROM item: all rows of a table of up to about `size`, else pages taken at random; at most twice as many."""
    source: sql.Composable = qualified_name(table.name)
    if table.rows > size * 1.2:
        share = max(0.0001, 100.0 * size / table.rows)
        source = sql.SQL("{} TABLESAMPLE SYSTEM ({})").format(source, sql.Literal(share))
    return sql.SQL("{} LIMIT {}").format(source, sql.Literal(size * 2))


def tried(mapper: Mapper, statement: sql.Composed) -> Tried:
    """Run a trial. Nothing of it stays."""
    with transaction(mapper.conn, isolation="repeatable read", rollback=True):
        mapper.conn.execute(statement)
        row = mapper.conn.execute("SELECT * FROM pg_temp._zdm_tried()").fetchone()
    assert row is not None
    rows, failed, failed_keys, message, lost, lost_keys = row
    return Tried(rows, failed, tuple(failed_keys), message or "", lost, tuple(lost_keys))


def no_form(found: Tried, of: QualifiedName, to: QualifiedName) -> str:
    """That rows `of` a table have none in another one."""
    return f"{found.failed} of {found.rows} rows of {of} have no form in {to}"


def an_element(mapper: Mapper, mapping: RowMapping, given: Mapping[str, sql.Composable]) -> str | None:
    """An element, as text, of a row whose list is in these columns, and nothing in the others that hold it; what else it holds, some row of today
    does. None if it has none."""
    one = mapping.source
    held = {c.name: c.type for c in element_rows.one_to_many(mapping).held}
    others = [c.name for c in mapper.draft.tables[one.table].columns if c.name not in held]
    row = [
        sql.SQL("CAST({} AS {}) AS {}").format(given.get(name, sql.NULL), type_name(type_), column(name))
        for name, type_ in held.items()
    ]
    asked = sql.SQL(
        "SELECT zdm_e::text FROM (SELECT {row} FROM (SELECT) AS zdm_n LEFT JOIN (SELECT * FROM {one} LIMIT 1) AS zdm_o ON true) AS zdm_row"
        " CROSS JOIN LATERAL ({split}) AS zdm_e LIMIT 1"
    ).format(
        row=comma([*row, *(column(name, "zdm_o") for name in others)]),
        one=qualified_name(one.table),
        split=element_rows.split(mapping, "zdm_row"),
    )
    with transaction(mapper.conn, rollback=True):
        found = mapper.conn.execute(asked).fetchone()
    return None if found is None else str(found[0])


def otherwise(name: str, before: sql.Composable, after: sql.Composable) -> sql.Composed:
    """That a column's value comes back as another one, in words."""

    def shown(value: sql.Composable) -> sql.Composable:
        text = sql.SQL("pg_catalog.quote_nullable({}::pg_catalog.text)").format(value)
        return sql.SQL(
            "CASE WHEN pg_catalog.length({0}) OPERATOR(pg_catalog.>) {1} THEN pg_catalog.left({0}, {1}) || '…' ELSE {0} END"
        ).format(text, sql.Literal(_SHOWN))

    return sql.SQL("{} || {} || ' as ' || {}").format(sql.Literal(f"{name} "), shown(before), shown(after))


def tell_failed(mapper: Mapper, mapping: RowMapping, found: Tried, what: str) -> None:
    """Warn of the rows on which the mapping raises, if there are any; `what` says it in words."""
    if found.failed:
        mapper.findings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"{what}, for example {'; '.join(found.failed_keys)} ({found.message}); the backfill will stop there until they "
                "are corrected",
                where=mapping.operation,
                rule="up-raises",
            )
        )
