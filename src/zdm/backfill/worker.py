"""One worker: it takes ranges and goes through them, chunk by chunk, each chunk one transaction together with its cursor."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import psycopg
from psycopg import sql

from zdm.backfill.chunks import Sizer
from zdm.backfill.counted import MOVED, Counting
from zdm.backfill.element_statements import GroupStatements
from zdm.backfill.options import Hooks, Options
from zdm.backfill.outcome import Trouble, classify
from zdm.backfill.reference_statements import ReferenceStatements, statements_for
from zdm.backfill.row_statements import RowStatements
from zdm.backfill.table import Shape, relfilenode, shapes
from zdm.db.session import WORK_MEM, OutcomeUnknown, transaction
from zdm.errors import ZdmError
from zdm.model.mapping import TableMapping
from zdm.sql.rows import SETTLING

MOST_CONFLICTS = 10
"""Deadlocks and serialization errors in a row before a chunk is cut into smaller pieces as if a row were locked."""

MOST_TRIES = 5000
"""More transactions than the rows of one block can need."""

CROWDED = 32
"""Chunks that look for rows which are there already, after one was met."""

MOST_LOCKING = 16
"""Chunks that lock their rows, at most, after some went from one that did not."""

FEWEST_COUNTING, MOST_COUNTING = 4, 64
"""Quiet chunks that are counted beforehand, after one that was not turned out not to be quiet.

To repeat a chunk costs as much as to count a dozen of them, so the number grows fourfold where that happens again, and shrinks by one with each chunk for which it did not.
"""

LAST_BLOCK = 2**32 - 2
"""No table has one with a higher number."""

UNLOCKED_ROWS = 64
"""Rows that are taken at a time where others hold rows of the same block."""


class FileChanged(Exception):  # noqa: N818  # a signal between two layers, never shown
    """VACUUM FULL, CLUSTER, TRUNCATE or the like has given the table another file: blocks mean nothing any more.

    Or a partition has come, gone, or got another name.
    """


class Stopped(Exception):  # noqa: N818
    """The stop event is set, or another worker failed."""


Record = Callable[[psycopg.Connection[Any], int, int, bool], int | None]
"""Writes into the chunk's transaction: blocks before the first number are done, so many rows were settled, and whether rows
may have been left there. Returns the file that the table has, if it looked."""


class Watch(Protocol):
    """What a worker asks and tells between its chunks."""

    def between_chunks(self, conn: psycopg.Connection[Any], last: float) -> None:
        """Wait as long as pausing and throttling ask for; raises `Stopped`."""

    def settled(self, rows: int, blocks: int, seconds: float) -> None:
        """A chunk was committed."""

    def split(self) -> None:
        """A chunk was given up, to be repeated in smaller pieces."""

    def careful(self, error: Exception) -> None:
        """A chunk was given up because an expression raised."""

    def retried(self) -> None:
        """A chunk is repeated as it was."""

    def wait(self, seconds: float, reason: str) -> None:
        """Wait, and say why; raises `Stopped`."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all workers of one backfill share.

    Parameters
    ----------
    counting: how chunks are copied without locking their rows, if they are.
    since: rows that no transaction has written since this one was the oldest are settled, or known to be left.
    """

    mapping: TableMapping
    rows: RowStatements | None
    options: Options
    hooks: Hooks
    watch: Watch
    silent: bool
    extra: Mapping[str, str] = field(default_factory=dict)
    counting: Counting | None = None
    since: str | None = None

    @property
    def settings(self) -> dict[str, str]:
        """Of every writing transaction. What a crash loses of it, the cursor loses with it."""
        found = self.heard
        return {**found, "session_replication_role": "replica"} if self.silent else found

    @property
    def heard(self) -> dict[str, str]:
        """The same where the application's triggers and foreign keys must not be silent."""
        return {"synchronous_commit": "off", "work_mem": WORK_MEM, SETTLING: "on", **self.extra}


class Worker:
    """Goes through blocks on one connection. Not for several threads at once.

    Parameters
    ----------
    conn: replaced by the caller after `Trouble.LOST`.
    shape: of the table, or the partition, whose blocks they are.
    """

    def __init__(self, job: Job, conn: psycopg.Connection[Any], shape: Shape) -> None:
        self.conn = conn
        self._job = job
        self._shape = shape
        self.statements = job.rows or statements_for(job.mapping, shape.name)
        self._random = random.Random()  # noqa: S311  # jitter
        self._sizer = Sizer(
            density=shape.density,
            target=job.options.target,
            first_rows=job.options.first_rows,
            most_rows=job.options.most_rows,
        )
        self._limit: int | None = None  # blocks, while somebody's row lock is near
        # An expression raised in a chunk that ends before this block; or rows refer to others of the chunk, which only the
        # triggers, row by row, find as the chunk leaves them.
        self._careful_until = LAST_BLOCK if job.mapping.refers_to_itself else 0
        self._singly_until = (
            0  # what a row refers to could not be made in a chunk that ends before this block
        )
        self._meeting_until = 0  # a row was made by somebody else in a chunk that ends before this block
        self._crowded = 0  # chunks in which others are likely to have made rows as well
        self._locking_until = 0  # rows of a chunk that ends before this block went while it was copied
        self._locking = 1  # chunks, the next time that rows go
        self._counting = 0  # quiet chunks that are counted before the first one that is not
        self._doubts = FEWEST_COUNTING  # the same, the next time that one turns out not to be quiet
        self._conflicts = 0
        self._last = 0.0

    def run(self, start: int, end: int, record: Record) -> None:
        """Settle all rows of these blocks, except those that somebody keeps locked.

        Raises
        ------
        FileChanged: the blocks are of a file that is gone.
        Stopped: between two chunks.
        psycopg.Error: what cannot be helped; with a lost connection the caller looks where the cursor is.
        """
        position = start
        while position < end:
            self._job.watch.between_chunks(self.conn, self._last)
            position = self._step(position, end, record)

    def _step(self, position: int, end: int, record: Record) -> int:
        blocks = min(self._sizer.blocks, self._limit or self._sizer.blocks, end - position)
        careful = position < self._careful_until
        begun = time.perf_counter()
        try:
            rows, locked, filled = self._chunk(position, position + blocks, record, careful=careful)
        except (psycopg.Error, OutcomeUnknown) as error:
            return self._troubled(error, position, blocks, record, careful=careful)
        if not careful:
            self._sizer.took(filled - locked, blocks, rows, besides=time.perf_counter() - filled)
        self._committed(begun, blocks, rows)
        return position + blocks

    def _committed(self, begun: float, blocks: int, rows: int) -> None:
        self._last = time.perf_counter() - begun
        self._conflicts = 0
        if self._limit is not None:
            self._limit = self._limit * 2 if self._limit < self._sizer.blocks else None
        self._job.watch.settled(rows, blocks, self._last)

    def _chunk(self, start: int, end: int, record: Record, *, careful: bool) -> tuple[int, float, float]:
        """How many rows were filled, and when that began and ended: locks are held from then to the commit."""
        counting = self._job.counting
        if counting is not None and not careful and start >= max(self._meeting_until, self._locking_until):
            return self._counted(counting, start, end, record)
        with self._transaction(careful=careful):
            statements = self.statements
            if isinstance(statements, RowStatements) and start < self._meeting_until and not careful:
                statement = statements.fill_meeting(start, end)
            else:
                statement = statements.fill(start, end, careful=careful)
            locked, left = time.perf_counter(), careful
            if isinstance(statements, ReferenceStatements) and not careful:
                with self._heard():
                    for one in statements.makes(start, end, singly=start < self._singly_until):
                        self.conn.execute(one)
                        self._hurry(locked)
            if isinstance(statements, RowStatements) and statements.locks_first and not careful:
                self.conn.execute(statements.lock(start, end))
                self._hurry(locked)
            rows = self.conn.execute(statement).rowcount
            if isinstance(statements, ReferenceStatements) and not careful:
                self._hurry(locked)
                again = self._rest(statements, start, end)
                rows, left = rows + (again or 0), again != 0
            filled = time.perf_counter()
            # An expression that raised has left its row failed; the sweep tries it again, and tells of it.
            self._record(record, end, rows, left=left)
        return rows, locked, filled

    def _counted(self, counting: Counting, start: int, end: int, record: Record) -> tuple[int, float, float]:
        """The same without a lock on each row."""
        statements = self.statements
        assert isinstance(statements, RowStatements)
        if not self._counting and not self._crowded:
            return self._uncounted(counting, start, end, record)
        with self._transaction():
            count = counting.count(self.conn, start, end)
            locked, rows = time.perf_counter(), 0
            if count.quiet:
                absent = statements.absent_between(start, end) if self._crowded else None
                rows = self.conn.execute(counting.fill(start, end, count.since, absent)).rowcount
            if count.young or not count.quiet:
                self._hurry(locked)
                rows += self.conn.execute(statements.fill(start, end, careful=False)).rowcount
            kept = 0
            if count.held and count.quiet:
                self._hurry(locked)
                kept = self.conn.execute(counting.hold(start, end, count)).rowcount
            filled = time.perf_counter()
            self._record(record, end, rows)
            if count.quiet:
                self.conn.execute(counting.close(start, end, count, kept))
        self._crowded = max(0, self._crowded - 1)
        self._locking = 1
        if not count.held and not count.young:
            self._counting = max(0, self._counting - 1)
        return rows, locked, filled

    def _uncounted(
        self, counting: Counting, start: int, end: int, record: Record
    ) -> tuple[int, float, float]:
        """The same where nobody seems to write: what is copied is the count."""
        with self._transaction():
            since = counting.oldest(self.conn)
            locked = time.perf_counter()
            rows = self.conn.execute(counting.fill(start, end, since, None)).rowcount
            filled = time.perf_counter()
            self._record(record, end, rows)
            self.conn.execute(counting.close_quiet(start, end, since, rows))
        self._doubts = max(FEWEST_COUNTING, self._doubts - 1)
        return rows, locked, filled

    def _hurry(self, since: float) -> None:
        """Leave the next statement of a chunk only the time that those before it have left: all keep their locks to its end."""
        left = self._job.options.statement_timeout.total_seconds() - (time.perf_counter() - since)
        self.conn.execute(
            sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(max(1, int(left * 1000))))
        )

    def _rest(self, statements: ReferenceStatements, start: int, end: int) -> int | None:
        """Rows that are settled one by one; None where somebody holds what one of them waits for."""
        try:
            with self._heard(), self.conn.transaction():
                return self.conn.execute(statements.rest(start, end)).rowcount
        except psycopg.errors.LockNotAvailable:
            return None

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Statements for which the application's triggers and foreign keys are not silent: they write another table than the rows'."""
        if not self._job.silent:
            yield
            return
        self.conn.execute("SET LOCAL session_replication_role = origin")
        yield
        self.conn.execute("SET LOCAL session_replication_role = replica")

    @contextmanager
    def _transaction(self, *, timeout: timedelta | None = None, careful: bool = False) -> Iterator[None]:
        """READ COMMITTED whatever the default is, within the budget, the lease guarded before anything else.

        Parameters
        ----------
        careful: rows are settled by the triggers, which may write another table.
        """
        options = self._job.options
        refers = isinstance(self.statements, ReferenceStatements)
        heard = careful and refers
        with transaction(
            self.conn,
            lock_timeout=options.lock_timeout,
            statement_timeout=timeout or options.statement_timeout,
            settings=self._job.settings if not heard else self._job.heard,
            # For the application's triggers alone: what somebody else may make there could stand in for a function of the server's.
            path=self._job.mapping.path if refers or not self._job.silent else (),
        ):
            self._job.hooks.guard(self.conn.cursor())
            yield

    def _record(self, record: Record, end: int, rows: int, *, left: bool = False) -> None:
        # Our write holds a lock on the table, so the file cannot change from here to the commit.
        file = record(self.conn, end, rows, left) or relfilenode(self.conn, self._shape.relation)
        if file != self._shape.relfilenode:
            raise FileChanged

    def _troubled(
        self,
        error: psycopg.Error | OutcomeUnknown,
        position: int,
        blocks: int,
        record: Record,
        *,
        careful: bool,
    ) -> int:
        trouble = classify(error, self.conn)
        if isinstance(error, psycopg.errors.UndefinedTable) and self._is_gone():
            raise FileChanged from error
        if isinstance(error, psycopg.Error) and error.sqlstate == MOVED:
            self._job.watch.retried()
            if not self._counting and not self._crowded:
                self._counting = self._doubts
                self._doubts = min(4 * self._doubts, MOST_COUNTING)
                return position
            self._locking_until = position + blocks * self._locking
            self._locking = min(2 * self._locking, MOST_LOCKING)
            return position
        if trouble is Trouble.CONFLICT:
            self._conflicts += 1
            if self._conflicts <= MOST_CONFLICTS:
                self._job.watch.retried()
                self._pause(self._conflicts)
                return position
            trouble = Trouble.LOCKED
        if (
            isinstance(error, psycopg.errors.UniqueViolation)
            and isinstance(self.statements, RowStatements)
            and position >= self._meeting_until
        ):
            self._job.watch.retried()
            self._meeting_until = position + blocks
            self._crowded = CROWDED
            return position
        if trouble is Trouble.RAISED and not careful:
            self._job.watch.careful(error)
            if isinstance(self.statements, ReferenceStatements) and position >= self._singly_until:
                self._singly_until = position + blocks
                return position
            self._careful_until = position + blocks
            return position
        if trouble in (Trouble.LOCKED, Trouble.SLOW):
            self._job.watch.split()
            if trouble is Trouble.SLOW:
                self._sizer.cut_off(blocks)
            if blocks > 1:
                self._limit = blocks // 2
                return position
            return self._around_locks(position, record, careful=careful)
        raise error

    def _is_gone(self) -> bool:
        """Whether the partition was dropped, detached or renamed."""
        found = {(one.relation, one.name) for one in shapes(self.conn, self._job.mapping)}
        return (self._shape.relation, self._shape.name) not in found

    def _around_locks(self, block: int, record: Record, *, careful: bool) -> int:
        """Settle the rows of one block that nobody holds, a few at a time; the sweep comes back to the others."""
        limit, total, conflicts = UNLOCKED_ROWS, 0, 0
        for _ in range(MOST_TRIES):
            begun = time.perf_counter()
            try:
                # A single row is given all the time it needs.
                hour = timedelta(hours=1) if limit == 1 else None
                careful = careful or isinstance(self.statements, ReferenceStatements)
                with self._transaction(timeout=hour, careful=careful):
                    statement = self.statements.fill_unlocked(block, block + 1, careful=careful, limit=limit)
                    rows = self.conn.execute(statement).rowcount
                    if rows < limit:
                        self._record(record, block + 1, total + rows, left=True)
            except (psycopg.Error, OutcomeUnknown) as error:
                trouble = classify(error, self.conn)
                if trouble is Trouble.RAISED and not careful:
                    self._job.watch.careful(error)
                    careful = True
                elif trouble is Trouble.SLOW and limit > 1:
                    limit = max(1, limit // 4)
                elif trouble in (Trouble.LOCKED, Trouble.CONFLICT) and conflicts < MOST_CONFLICTS:
                    conflicts += 1
                    self._pause(conflicts)
                elif trouble is Trouble.LOCKED and isinstance(
                    self.statements, ReferenceStatements | GroupStatements
                ):
                    # Not the rows are held, which are passed over, but what they refer to, or are to make.
                    with self._transaction():
                        self._record(record, block + 1, total, left=True)
                    self._committed(begun, 1, total)
                    return block + 1
                else:
                    raise
                continue
            total += rows
            if rows < limit:
                self._committed(begun, 1, total)
                return block + 1
        raise ZdmError(
            f"the rows of block {block} of {self._shape.name} do not stay settled",
            remedy="The sync triggers may be disabled or changed; `zdm doctor` tells.",
        )

    def _pause(self, attempt: int) -> None:
        self._job.hooks.stop.wait(self._random.uniform(0, min(1.0, 0.005 * 2**attempt)))

    # --- the sweep --------------------------------------------------------------------------------------------------

    def left(self, start: int, end: int) -> list[int]:
        """Some of these blocks in which rows still have to be settled, or failed, in order; none if there is none. Reads only."""
        statements = self.statements
        if isinstance(statements, RowStatements):
            query = statements.left(start, end, self._job.since)
        else:
            query = statements.left(start, end)
        with transaction(self.conn, read_only=True, settings={"jit": "off", "work_mem": WORK_MEM}):
            return [int(row[0]) for row in self.conn.execute(query).fetchall()]

    def retry_failed(self, start: int, end: int, record: Record) -> int:
        """Have the triggers try the failed rows of these blocks again. Returns how many failed again."""
        again, position, size, attempts = 0, start, end - start, 0
        while position < end:
            stop = min(end, position + size)
            try:
                with self._transaction(timeout=timedelta(hours=1) if size == 1 else None, careful=True):
                    row = self.conn.execute(self.statements.retry_failed(position, stop)).fetchone()
                    assert row is not None
                    tried, bad = row
                    self._record(record, stop, tried - bad)
            except (psycopg.Error, OutcomeUnknown) as error:
                attempts += 1
                trouble = classify(error, self.conn)
                if trouble not in (Trouble.LOCKED, Trouble.SLOW, Trouble.CONFLICT) or attempts > MOST_TRIES:
                    raise
                size = max(1, size // 2)
                self._pause(min(attempts, MOST_CONFLICTS))
                continue
            again += bad
            position = stop
        return again

    def count_unsettled(self, start: int, end: int) -> int:
        """How many rows of these blocks nobody has settled."""
        with transaction(self.conn, read_only=True):
            row = self.conn.execute(self.statements.count_unsettled(start, end)).fetchone()
        return 0 if row is None else int(row[0])
