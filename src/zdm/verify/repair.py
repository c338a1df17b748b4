"""Deriving again what disagrees, the authority's side being the truth."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from zdm.db.partitions import Leaf, holding
from zdm.db.session import fetch_value, transaction
from zdm.errors import Busy
from zdm.model.mapping import Authority, ColumnGroup, TableMapping
from zdm.model.row_mapping import RowMapping
from zdm.sql import row_conditions
from zdm.sql.identifiers import any_of, qualified_name
from zdm.sql.reference_sync import taken
from zdm.sql.rows import SETTLING, Kind, fail_assignments, mismatch_kinds, repair_assignments
from zdm.verify.logged import TableLog
from zdm.verify.statements import ROW, between, of_a_row

BLOCKS = 512
ROWS = 200


def _ignore(_: psycopg.Cursor[Any]) -> None:
    return None


def repair(
    connect: Callable[[], psycopg.Connection[Any]],
    mapping: TableMapping,
    authority: Authority,
    *,
    guard: Callable[[psycopg.Cursor[Any]], None] = _ignore,
    lock_budget: timedelta = timedelta(milliseconds=100),
    patience: timedelta = timedelta(seconds=60),
    rollout: int = 0,
    log: TableLog | None = None,
    rows: Sequence[RowMapping] = (),
) -> int:
    """Make every settled row agree again, in small transactions over locked rows. Returns how many rows were repaired.

    Each row is looked at again once it is locked: one that an application has put right meanwhile is left alone. Rows that
    nobody has settled are the backfill's; those that cannot be derived are failed, and recorded. Verify again afterwards.

    Parameters
    ----------
    guard: called in each transaction before its work; raises if the lease is lost.
    lock_budget: no foreground statement waits longer for us; we wait for its rows half as long at a time.
    patience: how long rows that somebody holds are waited for, for each few hundred rows.
    rollout: whose functions find what rows refer to; for mappings with a shared table.
    log: where some of it is synced by log: what waits there is not wrong.
    rows: mappings of the table's rows to another table's. What is derived here is not what the old version has written, and
        must not go there: those rows are repaired by themselves.

    Raises
    ------
    Busy: rows stayed locked by somebody.
    """
    if not mapping.needs_sync:
        return 0
    conn = connect()
    try:
        return sum(
            _group(
                _Job(conn, mapping, guard, lock_budget, patience, rollout, log, _silent(group, rows)),
                group,
                authority,
            )
            for group in mapping.groups
        )
    finally:
        conn.close()


def _silent(group: ColumnGroup, rows: Sequence[RowMapping]) -> dict[str, str]:
    """The settings by which the mapping that reads the group's old columns leaves alone what is written to them."""
    written = {old.name for old in group.old}
    for m in rows:
        if m.parent is None and m.elements is None and written.intersection(c.name for c in m.old.columns):
            return {"zdm.row": row_conditions.silencing(m)}
    return {}


@dataclass(frozen=True, slots=True)
class _Job:
    conn: psycopg.Connection[Any]
    mapping: TableMapping
    guard: Callable[[psycopg.Cursor[Any]], None]
    lock_budget: timedelta
    patience: timedelta
    rollout: int
    log: TableLog | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def _group(job: _Job, group: ColumnGroup, authority: Authority) -> int:
    conn, mapping = job.conn, job.mapping
    # A parent that is not there is made, as the triggers do it.
    given = taken(mapping, group, group.parent, job.rollout, ROW) if group.parent is not None else None
    assignments = repair_assignments(mapping, group, authority, given)
    stale = [
        m.predicate
        for m in mismatch_kinds(mapping)
        if m.group == group.name and m.kind in (Kind.STALE_NEW, Kind.STALE_OLD, Kind.NULL_NEW)
    ]
    if assignments is None or not stale:
        return 0
    wrong = any_of(stale)
    if job.log is not None:
        wrong = sql.SQL("(CASE WHEN {} THEN NOT {} ELSE false END)").format(wrong, job.log.waits)
    failing = fail_assignments(mapping, group, authority)
    return sum(_leaf(job, leaf, assignments, failing, wrong) for leaf in holding(conn, mapping))


def _leaf(
    job: _Job, leaf: Leaf, assignments: sql.Composable, failing: sql.Composable, wrong: sql.Composable
) -> int:
    """Repair the rows that are in one table: the mapped one itself, or a partition or child of it."""
    conn, table = job.conn, qualified_name(leaf.name)
    blocks = int(
        fetch_value(
            conn,
            "SELECT pg_catalog.pg_relation_size(%s::oid) / pg_catalog.current_setting('block_size')::bigint",
            [leaf.oid],
        )
        or 0
    )
    total = 0
    for block in range(0, blocks, BLOCKS):
        within = between((block, 0), (min(blocks, block + BLOCKS), 0))
        statement = sql.SQL(
            "UPDATE ONLY {table} AS {row} SET {assignments} WHERE ctid = ANY (ARRAY("
            "SELECT ctid FROM ONLY {table} AS {row} WHERE {within} AND {wrong} LIMIT {rows} FOR NO KEY UPDATE)) AND {wrong}"
        ).format(
            table=table,
            row=sql.Identifier(ROW),
            assignments=assignments,
            within=within,
            wrong=wrong,
            rows=sql.Literal(ROWS),
        )
        # A row can stay wrong whatever is derived (an `up` that gives NULL): never more rounds than there were rows.
        count = sql.SQL("SELECT pg_catalog.count(*) FROM ONLY {} AS {} WHERE {} AND {}").format(
            table, sql.Identifier(ROW), within, wrong
        )
        with transaction(conn, read_only=True):
            row = conn.execute(count).fetchone()
        left = int(row[0]) if row else 0
        while left > 0:
            try:
                total += _some(job, statement)
            except psycopg.Error as error:
                if not of_a_row(error):
                    raise
                total += _one_by_one(job, table, within, assignments, failing, wrong)
                break
            left -= ROWS
    return total


def _one_by_one(
    job: _Job,
    table: sql.Composable,
    within: sql.Composable,
    assignments: sql.Composable,
    failing: sql.Composable,
    wrong: sql.Composable,
) -> int:
    """Repair the rows of which one cannot be: that is recorded as failed, for the verification to name, and the others are repaired.

    A row that an application writes meanwhile moves, and is in step by that.
    """
    there = sql.SQL("SELECT ctid::text FROM ONLY {} AS {} WHERE {} AND {}").format(
        table, sql.Identifier(ROW), within, wrong
    )
    with transaction(job.conn, read_only=True):
        found = [position for (position,) in job.conn.execute(there).fetchall()]
    update = sql.SQL("UPDATE ONLY {} AS {} SET {} WHERE ctid = {}::pg_catalog.tid AND {}")
    total = 0
    for position in found:
        one = (sql.Literal(position), wrong)
        try:
            total += _some(job, update.format(table, sql.Identifier(ROW), assignments, *one))
        except psycopg.Error as error:
            if not of_a_row(error):
                raise
            _some(job, update.format(table, sql.Identifier(ROW), failing, *one))
    return total


def _some(job: _Job, statement: sql.Composed) -> int:
    deadline = time.monotonic() + job.patience.total_seconds()
    while True:
        try:
            with transaction(
                job.conn,
                lock_timeout=job.lock_budget / 2,
                settings={SETTLING: "on", **job.settings},
                path=job.mapping.path,
            ):
                job.guard(job.conn.cursor())
                return job.conn.execute(statement).rowcount
        except (pg.LockNotAvailable, pg.DeadlockDetected, pg.SerializationFailure) as error:
            if time.monotonic() >= deadline:
                raise Busy(
                    f"rows of {job.mapping.table} that need repair have been locked for "
                    f"{job.patience.total_seconds():.0f} s",
                    remedy="Let the transaction that holds them end, and run again.",
                ) from error
        time.sleep(random.uniform(0.005, 0.1))  # noqa: S311  # jitter
