"""The whole backfill of one table: ranges, then, where they left rows, a sweep until nothing is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import psycopg

from zdm.backfill.by_kind import refers, statements_of, surrogate
from zdm.backfill.counted import tells
from zdm.backfill.options import Hooks, Options, Result, VacuumPolicy
from zdm.backfill.outcome import Trouble, classify
from zdm.backfill.row_statements import RowStatements
from zdm.backfill.sweep import BadData, sweep
from zdm.backfill.table import (
    Shape,
    estimated_rows,
    may_silence,
    rules_that_apply,
    same_parts,
    shapes,
    triggers_that_fire,
)
from zdm.backfill.tracker import Tracker
from zdm.backfill.vacuum import Vacuumer
from zdm.backfill.worker import FileChanged, Job, Stopped, Worker
from zdm.catalog import backfills, sync_failures
from zdm.catalog.backfills import BackfillState, BackfillStatus, Range
from zdm.db.session import OutcomeUnknown, fetch_value, transaction
from zdm.errors import ZdmError
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName
from zdm.model.row_mapping import RowMapping
from zdm.sql.row_conditions import backfilling

__all__ = ["BadData", "Connect", "backfill"]

Connect = Callable[[], psycopg.Connection[Any]]
"""Opens a working connection, as `zdm.db.session.connect` does."""

T = TypeVar("T")

MOST_PASSES = 20
"""Passes that are begun anew because the table got another file, before we ask a person to stop that."""


def backfill(
    connect: Connect,
    rollout: int,
    mapping: TableMapping | RowMapping,
    options: Options | None = None,
    hooks: Hooks | None = None,
) -> Result:
    """Settle every row of one table, or of one row mapping, or take up where an earlier run stopped.

    Safe to kill at any moment, and to repeat; a backfill that is finished returns at once. The sync triggers must stand,
    and nobody else may work on this rollout (`Hooks.guard` makes sure).

    Raises
    ------
    BadData: all other rows are settled, but for some `up` raises, or gives NULL where the new version promises none.
    Busy: rows stayed locked by somebody for longer than `Options.lock_patience`.
    ZdmError: the connection was lost for good, or the database refused; running again continues.
    """
    options, hooks = options or Options(), hooks or Hooks()
    result = Result()
    if isinstance(mapping, TableMapping) and not mapping.needs_sync:
        result.complete = True
        return result
    begun = time.monotonic()
    try:
        _Run(connect, rollout, mapping, options, hooks, result).to_the_end()
        result.complete = True
    except Stopped:
        result.complete = False
    finally:
        result.seconds = time.monotonic() - begun
    return result


class _Run:
    def __init__(
        self,
        connect: Connect,
        rollout: int,
        mapping: TableMapping | RowMapping,
        options: Options,
        hooks: Hooks,
        result: Result,
    ) -> None:
        self._connect = connect
        self._rollout = rollout
        self._hooks = hooks
        self._result = result
        self._again = options.again
        self._statements: RowStatements | None = None
        self._rows = mapping if isinstance(mapping, RowMapping) else None
        if isinstance(mapping, RowMapping):
            self._mapping = surrogate(mapping)
            self._statements = statements_of(mapping, rollout)
            # Rows are added to the other table; nothing of this one dies.
            self._options = replace(options, vacuum=VacuumPolicy(every=0))
        else:
            self._mapping = mapping
            self._options = options
        self._refers = False
        self._silent, firing, rewriting = self._steadily(self._triggers)
        if rewriting:
            raise ZdmError(
                f"{', '.join(rewriting)} would rewrite the statements that fill {self._mapping.table}",
                remedy="Let the connected role set session_replication_role, or switch the rule off until cleanup (ALTER TABLE … DISABLE "
                "RULE …); then run again.",
                changed="Nothing was filled.",
            )
        if firing:
            hooks.note(
                f"the triggers {', '.join(firing)} of {self._mapping.table} fire for every row that is filled: "
                + (
                    "they are enabled to fire even for replicated changes"
                    if self._silent
                    else "this role may not set session_replication_role "
                    "(GRANT SET ON PARAMETER session_replication_role allows it)"
                )
            )

    def _triggers(self, conn: psycopg.Connection[Any]) -> tuple[bool, list[str], list[str]]:
        """Whether they are silent for us, those that are not, and rules that would rewrite what we say."""
        silent = may_silence(conn)
        if self._rows is not None:
            # Without triggers there are no foreign keys either.
            self._refers = refers(conn, self._rows)
            return silent and not self._refers, [], []
        firing = triggers_that_fire(conn, self._mapping, silenced=silent)
        return silent, firing, rules_that_apply(conn, self._mapping, silenced=silent)

    def to_the_end(self) -> None:
        for _ in range(MOST_PASSES):
            state, found = self._steadily(self._open)
            self._result.passes = state.pass_no
            if state.status is BackfillStatus.FINISHED:
                return
            try:
                self._pass(state, found)
            except FileChanged:
                self._hooks.note(
                    f"{self._mapping.table} was rewritten meanwhile (VACUUM FULL, CLUSTER or the like), or a partition came or "
                    "went; looking at it again"
                )
                continue
            return
        raise ZdmError(
            f"{self._mapping.table} was rewritten, or got or lost a partition, {MOST_PASSES} times while it was filled",
            remedy="Keep VACUUM FULL, CLUSTER and TRUNCATE away from it, and run again.",
        )

    def _open(self, conn: psycopg.Connection[Any]) -> tuple[BackfillState, list[Shape]]:
        # Before the table is measured: what is appended later was written since.
        since = str(
            fetch_value(conn, "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text")
        )
        found = shapes(conn, self._mapping)
        parts = [one.part for one in found]
        where = (conn, self._rollout, self._mapping.table, parts, self._options.workers)
        with transaction(conn):
            self._hooks.guard(conn.cursor())
            state = backfills.open(*where, since=since)
            if state.status is BackfillStatus.FINISHED and self._again:
                state = backfills.next_pass(*where, since=since)
        self._again = False
        return state, found

    def _pass(self, state: BackfillState, found: list[Shape]) -> None:
        tracker = Tracker(self._hooks, self._result, state, estimated_rows(found))
        extra = {} if self._rows is None else {"zdm.row": backfilling(self._rows)}
        counting = None if self._statements is None or self._refers else self._statements.counting
        job = Job(
            self._mapping,
            self._statements,
            self._options,
            self._hooks,
            tracker,
            self._silent,
            extra,
            counting,
        )
        if state.status is BackfillStatus.RUNNING:
            self._ranges(state, found, job, tracker)
        # A row that moves before another row is made from it is found by a look at all of them in one snapshot; and so is one that its
        # write has left, since somebody had locked what it has copies of.
        left = self._rows is not None or any(group.copied is not None for group in self._mapping.groups)
        looked = state.status is BackfillStatus.SWEEPING or left
        if looked or self._steadily(self._left_rows, tracker):
            self._steadily(lambda conn: self._mark(conn, backfills.start_sweep), tracker)
            tracker.sweeping()
            if counting is not None and not self._steadily(self._left_rows, tracker):
                job = replace(job, since=self._steadily(partial(self._since, state), tracker))
            self._steadily(partial(sweep, job=job, rollout=self._rollout), tracker)
        # A partition that came while the others were filled is filled as well.
        if self._mapping.spread and not self._steadily(lambda conn: same_parts(conn, self._mapping, found)):
            raise FileChanged
        self._steadily(lambda conn: self._mark(conn, backfills.finish), tracker)
        tracker.finished()

    def _left_rows(self, conn: psycopg.Connection[Any]) -> bool:
        """Whether some row may be unsettled or failed. Any other row was settled by its chunk, or by the write that moved it."""
        state = backfills.get(conn, self._rollout, self._mapping.table)
        assert state is not None
        return state.left_rows or sync_failures.count(conn, self._rollout, self._mapping.oid) > 0

    def _since(self, state: BackfillState, conn: psycopg.Connection[Any]) -> str | None:
        """The transaction since which rows were written that the last look is for, if rows can still tell."""
        now = str(
            fetch_value(conn, "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text")
        )
        return state.since if state.since is not None and tells(state.since, now) else None

    def _mark(
        self,
        conn: psycopg.Connection[Any],
        step: Callable[[psycopg.Connection[Any], int, QualifiedName], object],
    ) -> None:
        with transaction(conn):
            self._hooks.guard(conn.cursor())
            step(conn, self._rollout, self._mapping.table)

    def _ranges(self, state: BackfillState, found: list[Shape], job: Job, tracker: Tracker) -> None:
        left = [part for part in state.ranges if not part.finished]
        if not left:
            return
        files = {one.relation: one for one in found}
        vacuumer = Vacuumer(self._connect, self._mapping, self._options.vacuum, found, self._hooks.note)
        tracker.on_share(vacuumer.reached)

        def work(part: Range) -> None:
            def go(conn: psycopg.Connection[Any]) -> None:
                # Where the range really stands: the connection may have been lost while a chunk committed.
                current = backfills.get(conn, self._rollout, self._mapping.table)
                assert current is not None
                mine = next((r for r in current.ranges if r.number == part.number), None)
                if mine is None or mine.file != files[mine.relation].relfilenode:
                    raise FileChanged
                Worker(job, conn, files[mine.relation]).run(mine.next, mine.hi, record)

            def record(conn: psycopg.Connection[Any], next_block: int, rows: int, left: bool) -> int | None:
                return backfills.advance(
                    conn, self._rollout, self._mapping.table, part.number, next_block, rows, left=left
                )

            self._steadily(go, tracker)

        with ThreadPoolExecutor(self._options.workers, thread_name_prefix="backfill") as pool, vacuumer:
            futures = [pool.submit(work, part) for part in left]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                # The others end after the chunk they are in.
                tracker.abort.set()
                for future in futures:
                    future.cancel()
                raise
        self._result.vacuums += vacuumer.runs

    def _steadily(self, work: Callable[[psycopg.Connection[Any]], T], tracker: Tracker | None = None) -> T:
        """Run `work` on a connection of its own, and again on a new one if that is lost."""
        lost = 0
        while True:
            before = self._result.chunks
            conn: psycopg.Connection[Any] | None = None
            try:
                conn = self._connect()
                return work(conn)
            except (psycopg.Error, OutcomeUnknown, ZdmError) as error:
                lost = lost + 1 if self._result.chunks == before else 1
                self._give_up_unless_lost(error, conn, lost)
                self._result.retried += 1
            finally:
                if conn is not None:
                    conn.close()
            pause = min(5.0, 0.1 * 2**lost)
            if tracker is not None:
                tracker.wait(pause, "the connection was lost; connecting again")
            elif self._hooks.stop.wait(pause):
                raise Stopped

    def _give_up_unless_lost(
        self, error: psycopg.Error | ZdmError, conn: psycopg.Connection[Any] | None, lost: int
    ) -> None:
        cannot_connect = conn is None
        if isinstance(error, ZdmError) and not isinstance(error, OutcomeUnknown) and not cannot_connect:
            raise error
        gone = cannot_connect or (
            conn is not None
            and isinstance(error, psycopg.Error | OutcomeUnknown)
            and classify(error, conn) is Trouble.LOST
        )
        if gone and lost <= self._options.reconnects:
            return
        if gone:
            raise ZdmError(
                f"the connection was lost {lost} times while {self._mapping.table} was filled: {error}",
                remedy="Run again: it continues where it stopped.",
                changed="All finished chunks stay.",
            ) from error
        raise ZdmError(
            f"filling {self._mapping.table} stopped: {str(error).strip()}",
            remedy="Run again once the cause is gone: it continues where it stopped.",
            changed="All finished chunks stay.",
        ) from error
