"""Rows between two tables that have no form in the new version, or would not come back as they were: tried before anything changes."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from zdm.db.session import transaction
from zdm.engine.mapper import Mapper
from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import RowMapping
from zdm.model.table import Table
from zdm.sql.identifiers import qualified_name


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
