"""After ranges that left rows behind: the whole table once more, until a look at every block finds nothing left to settle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from zdm.backfill.reference_statements import statements_for
from zdm.backfill.row_statements import RowStatements
from zdm.backfill.table import Statements, same_parts, shapes
from zdm.backfill.worker import LAST_BLOCK, FileChanged, Job, Worker
from zdm.catalog import backfills, sync_failures
from zdm.db.session import transaction
from zdm.errors import Busy, Problem, ZdmError
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName

PROBE = 4096
"""Blocks that are looked at in one statement where nothing is left to do: 32 MB."""

NAMED = 10
"""How many bad rows are named."""

REGION = 64
"""Blocks that are gone through around a row that is left."""

MOST_SWEEPS = 50


class BadData(ZdmError):  # noqa: N818  # named like the errors of zdm.errors
    """For some rows `up` raises, or gives NULL where the new version promises none. All other rows are settled."""


@dataclass(slots=True)
class _Look:
    """What one look over the table did: rows settled, rows that failed again, rows that others hold."""

    settled: int = 0
    failed: int = 0
    held: int = 0


def sweep(conn: psycopg.Connection[Any], job: Job, rollout: int) -> None:
    """Look at every block, and settle what is found, until a look finds nothing.

    Rows are left by the ranges only where somebody held them locked or an expression raised, and by applications only where an
    expression raised. Where none was, there is nothing to look for, and the verification, which reads every row anyway, proves it.

    Raises
    ------
    FileChanged: the table was rewritten, or a partition came or went, so what was looked at says nothing.
    BadData, Busy, ZdmError: as `zdm.backfill.run.backfill` says.
    """
    mapping = job.mapping
    deadline: float | None = None
    for attempt in range(10**9):
        found = shapes(conn, mapping)
        recorded = sync_failures.stamps(conn, rollout, mapping.oid) if job.rows is None else []
        look = _Look()
        for one in found:
            _look(Worker(job, conn, one), job, rollout, one.blocks, look)
        if not same_parts(conn, mapping, found):
            raise FileChanged
        if look.held:
            now = time.monotonic()
            deadline = deadline or now + job.options.lock_patience.total_seconds()
            if now >= deadline:
                raise _held(conn, job, look.held)
            job.watch.wait(
                min(2.0, 0.02 * 2 ** min(attempt, 10)), f"{look.held} rows are locked by somebody else"
            )
        elif look.settled:
            # A look that finds nothing is the proof. An application cannot leave rows behind, so it comes soon.
            if attempt > MOST_SWEEPS and deadline is None:
                break
        elif look.failed:
            raise bad_data(conn, job)
        else:
            if recorded:
                # No row is failed any more, so what was recorded before this look is of rows that are gone.
                with transaction(conn):
                    job.hooks.guard(conn.cursor())
                    sync_failures.forget(conn, rollout, mapping.oid, recorded)
            return
    raise ZdmError(
        f"rows of {mapping.table} do not stay settled however often they are gone over",
        remedy="The sync triggers may be disabled or changed; `zdm doctor` tells.",
    )


def _look(worker: Worker, job: Job, rollout: int, blocks: int, look: _Look) -> None:
    def record(conn: psycopg.Connection[Any], _block: int, rows: int, _left: bool) -> None:
        if rows:
            backfills.add_swept(conn, rollout, job.mapping.table, rows)
            look.settled += rows

    position, probe = 0, PROBE
    if job.rows is not None:
        # An update that the mapping does not read moves a row without settling it, so that only a look at all blocks in one
        # statement, those included that are appended meanwhile, proves that none is left.
        blocks = probe = LAST_BLOCK
    while position < blocks:
        job.watch.between_chunks(worker.conn, 0.0)
        end = min(blocks, position + probe)
        try:
            left = worker.left(position, end)
        except psycopg.errors.UndefinedTable as error:
            raise FileChanged from error
        if not left:
            position = end
        for block in left:
            if block < position:
                continue  # it belongs to the region before
            position = min(blocks, block + REGION)
            worker.run(block, position, record)
            look.failed += worker.retry_failed(block, position, record)
            look.held += worker.count_unsettled(block, position)


def _held(conn: psycopg.Connection[Any], job: Job, count: int) -> Busy:
    names: list[str] = []
    for statements in _every(conn, job):
        with transaction(conn, read_only=True):
            rows = conn.execute(statements.samples(statements.unsettled, NAMED)).fetchall()
        names += [named(job.mapping, row) for row in rows]
        if len(names) >= NAMED:
            break
    return Busy(
        f"{count} rows of {_gone_through(job)} have been locked by somebody else for "
        f"{job.options.lock_patience.total_seconds():.0f} s, among them {', '.join(names[:NAMED])}",
        remedy="Let the transaction that holds them end (pg_stat_activity, pg_prepared_xacts), and run again.",
        changed="All other rows are settled.",
    )


def _gone_through(job: Job) -> QualifiedName:
    """The table whose rows these are; a mapping of rows may be called by the one that gets them."""
    return job.mapping.table if job.rows is None else job.rows.source


def _every(conn: psycopg.Connection[Any], job: Job) -> Iterator[Statements | RowStatements]:
    """The statements of everything that holds rows of the table."""
    if job.rows is not None:
        yield job.rows
        return
    for one in shapes(conn, job.mapping):
        yield statements_for(job.mapping, one.name)


def bad_data(conn: psycopg.Connection[Any], job: Job) -> BadData:
    """What is wrong with the failed rows, the first few by name."""
    mapping = job.mapping
    problems: list[Problem] = []
    for statements in _every(conn, job):
        with transaction(conn, read_only=True):
            rows = conn.execute(statements.samples(statements.failed, NAMED + 1 - len(problems))).fetchall()
        problems += [
            Problem(what=_why(conn, statements, row[0]), where=f"{_gone_through(job)} {named(mapping, row)}")
            for row in rows
        ]
        if len(problems) > NAMED:
            break
    many = f"more than {NAMED} rows" if len(problems) > NAMED else f"{len(problems)} rows"
    return BadData(
        f"{many if len(problems) != 1 else '1 row'} of {_gone_through(job)} cannot be mapped to the new version",
        problems=problems[:NAMED],
        remedy="Correct these rows (an update of the old column is enough), or the migration's `up`, and run again.",
        changed="All other rows are settled; the old columns are untouched.",
    )


def named(mapping: TableMapping, row: tuple[Any, ...]) -> str:
    """A sampled row, as ``id=42``."""
    position, values = row
    if not mapping.key:
        return f"ctid={position}"
    return ", ".join(f"{name}={value}" for name, value in zip(mapping.key, values, strict=True))


def _why(conn: psycopg.Connection[Any], statements: Statements | RowStatements, position: str) -> str:
    for name, query in statements.ups_of(position):
        try:
            with transaction(conn, rollback=True):
                row = conn.execute(query).fetchone()
        except psycopg.Error as error:
            detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
            return f"up of {name} raised {error.sqlstate}: {error.diag.message_primary or str(error).strip()}{detail}"
        if row is not None and row[0] and name in statements.promised:
            return statements.promised[name]
    if isinstance(statements, RowStatements):
        # Its values can be computed; it is the other table that refuses them.
        with transaction(conn, read_only=True):
            row = conn.execute(statements.recorded(position)).fetchone()
        if row is not None:
            return f"{row[1]} ({row[0]})"
    return "it has changed meanwhile"
