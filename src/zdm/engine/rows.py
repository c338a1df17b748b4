"""The row work of a rollout: ties backfill and verification, which know nothing of rollouts, to lease, catalog and reporter."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import errors

from zdm.backfill.options import Hooks, Options, Progress, Wait
from zdm.backfill.options import Result as Filled
from zdm.backfill.run import backfill
from zdm.catalog import rollouts, verifications
from zdm.catalog.lease import Lease
from zdm.catalog.verifications import Verification
from zdm.db.locks import WaitReport
from zdm.db.session import Connection, Session, transaction
from zdm.engine.children import Children
from zdm.engine.promises import promise_checks
from zdm.engine.reconcile import carry_over, drain, logged
from zdm.engine.results import BackfillResult, TableBackfill, TableVerification, VerifyResult, Violation
from zdm.engine.work import Work
from zdm.errors import Busy, Interrupted
from zdm.model.mapping import Authority, TableMapping
from zdm.model.names import QualifiedName
from zdm.model.row_mapping import RowMapping
from zdm.sql.rows import Kind, describe
from zdm.throttle.governor import Governor
from zdm.verify.by_kind import comparer
from zdm.verify.logged import TableLog
from zdm.verify.repair import repair
from zdm.verify.repair_rows import repair_rows
from zdm.verify.run import verify

if TYPE_CHECKING:
    from zdm.engine.executor import Executor


@dataclass(slots=True)
class RowWorker:
    """Backfills and verifies single tables of one rollout, under its lease."""

    work: Work
    lease: Lease
    connect: Callable[[], Session]

    def backfill(self, table: QualifiedName, again: bool) -> int:
        """Fill one table to the end, once more if it is filled and that is asked; returns the rows that this run settled.

        Raises
        ------
        Interrupted: somebody stopped it.
        """
        result = self.fill(table, again=again)
        if not result.complete:
            raise Interrupted("The backfill was stopped before its end.", remedy="Run again; it continues.")
        return result.rows

    def fill(self, table: QualifiedName, *, again: bool = False) -> Filled:
        """Fill one table as far as it is let.

        Parameters
        ----------
        again: go over a table that is filled once more, for rows whose `up` raised then.
        """
        work, stop = self.work, threading.Event()
        reporter = work.reporter
        with Governor(self.connect, work.settings) as governor:

            def throttle(seconds: float) -> Wait:
                pause = governor.pause(seconds)
                if pause.seconds:
                    reporter.waiting(pause.reason)
                return Wait(pause.seconds, pause.reason)

            def progress(at: Progress) -> None:
                if at.waiting:
                    reporter.waiting(at.waiting)
                total = at.total
                done = at.fraction * total if total is not None else float(at.rows)
                reporter.progress(done, total, at.rate, at.eta, "rows")

            hooks = Hooks(
                guard=self.lease.guard,
                paused=lambda conn: rollouts.is_paused(conn, work.rollout.id),
                throttle=throttle,
                progress=progress,
                note=reporter.note,
                stop=stop,
            )
            options = Options(
                workers=work.settings.workers, lock_budget=work.settings.lock_budget, again=again
            )
            mapping = work.rows(table) or work.mapping(table)
            if isinstance(mapping, TableMapping) and mapping.has_children and mapping.needs_sync:
                self._keep_in_step(mapping)
            return backfill(self.connect, work.rollout.id, mapping, options, hooks)

    def _keep_in_step(self, mapping: TableMapping) -> None:
        """Children that came since the sync was installed get their triggers before they are filled."""
        work = self.work

        def guard(conn: Connection) -> None:
            with conn.cursor() as cursor:
                self.lease.guard(cursor)

        def waiting(report: WaitReport) -> None:
            work.reporter.waiting(str(report))

        with self.connect() as session:
            children = Children(session, mapping, work.rollout.id, work.budget, guard, waiting)
            if came := children.keep_in_step():
                work.reporter.note(
                    f"{came} more tables that inherit from {mapping.table} are kept in step now"
                )

    def verify_and_store(self, table: QualifiedName) -> int:
        """Verify one table for a step; returns the rows compared.

        Findings do not fail the step: they are stored, shown, and refused by the gates of the next phases.
        """
        found = self.compare(table)
        if not found.clean:
            self.work.reporter.note(
                f"{table}: {describe(found.mismatches)}; the gate of the next phase will refuse"
            )
        return found.rows

    def compare(self, table: QualifiedName) -> Verification:
        """Compare every row of one table, and store what was found."""
        work = self.work
        with self.connect() as conn:
            rows = work.rows(table)
            if rows is not None:
                workers = max(2, work.settings.workers)
                if rows.logged:
                    self.carry_over(rows)
                    found = comparer(rows)(
                        self.connect,
                        rows,
                        work.rollout.id,
                        workers=workers,
                        carry_over=lambda: self.carry_over(rows),
                    )
                else:
                    found = comparer(rows)(self.connect, rows, work.rollout.id, workers=workers)
            else:
                fenced = work.rollout.fenced_at is not None
                checks = promise_checks(work.plan, table, fenced=fenced, conn=conn)
                found = verify(self.connect, work.mapping(table), checks=checks, log=self.log(table))
            record = Verification(
                table=table,
                started_at=found.started_at,
                rows=found.rows,
                authority=work.rollout.authority,
                mismatches={**{str(kind): count for kind, count in found.counts.items()}, **found.extra},
                sample_keys={
                    **{str(kind): list(keys) for kind, keys in found.samples.items()},
                    **{name: list(keys) for name, keys in found.extra_samples.items()},
                },
                snapshot=found.snapshot,
                lsn=found.lsn,
                without_old_form=found.without_old_form,
            )
            with transaction(conn):
                with conn.cursor() as cursor:
                    self.lease.guard(cursor)
                return verifications.store(conn, work.rollout.id, record)

    def log(self, table: QualifiedName) -> TableLog | None:
        """What is synced by log on the table's own rows; what waits there is carried over first."""
        found = self.work.logs(table)
        if not found:
            return None

        def carry() -> None:
            for rows in found:
                self.carry_over(rows)

        carry()
        return TableLog(found, self.work.rollout.id, carry)

    def carry_over_all(self) -> None:
        """Carry over what waits in any log of the rollout. Raises Busy if rows are held by others all the time."""
        if logged(self.work.plan.row_mappings):
            with self.connect() as conn, suppress(errors.UndefinedFunction):
                drain(
                    conn,
                    self.work.plan.row_mappings,
                    self.work.rollout.id,
                    lock_budget=self.work.settings.lock_budget,
                )

    def carry_over(self, mapping: RowMapping) -> None:
        """Carry over what waits in the log of a mapping, as far as the applications let us."""
        if mapping.logged:
            with self.connect() as conn, suppress(Busy):
                drain(conn, (mapping,), self.work.rollout.id, lock_budget=self.work.settings.lock_budget)


def verify_all(work: Work, executor: Executor, *, repair_first: bool = False) -> VerifyResult:
    """Compare every mapped table.

    Parameters
    ----------
    repair_first: derive again what disagrees, from the side that is the authority, before the comparison that counts.
    """
    begun = time.monotonic()
    rows = RowWorker(work, executor.lease, executor.connect)
    tables: list[TableVerification] = []
    carry_over(work, executor.connect, again=repair_first)
    for table in work.plan.verified:
        started = time.monotonic()
        repaired = 0
        if repair_first and table in work.plan.passes:
            mapped = work.rows(table)
            # A row that is filled in place differs whether it was not filled or was written since: the new side's word first.
            first = mapped is not None and mapped.joins and work.rollout.authority is Authority.NEW
            repaired = _repair(work, executor, table, rows) if first else 0
            rows.fill(table, again=True)
            repaired = repaired if first else _repair(work, executor, table, rows)
        found = rows.compare(table)
        tables.append(
            table_verification(found).model_copy(
                update={"repaired": repaired, "seconds": time.monotonic() - started}
            )
        )
    return VerifyResult(
        rollout=work.rollout.migration,
        target=work.rollout.target,
        tables=tuple(tables),
        repaired=repair_first,
        seconds=time.monotonic() - begun,
    )


def _repair(work: Work, executor: Executor, table: QualifiedName, worker: RowWorker) -> int:
    mapping = work.rows(table)
    if mapping is None:
        return repair(
            executor.connect,
            work.mapping(table),
            work.rollout.authority,
            guard=executor.lease.guard,
            rollout=work.rollout.id,
            log=worker.log(table),
            rows=[m for m in work.plan.row_mappings if m.old.table == table],
        )
    return repair_rows(
        executor.connect,
        mapping,
        work.rollout.id,
        work.rollout.authority,
        guard=executor.lease.guard,
        note=work.reporter.note,
    )


def backfill_all(work: Work, executor: Executor) -> BackfillResult:
    """Fill every mapped table. A rollout that is past migration has nothing left unless rows became unsettled since."""
    begun = time.monotonic()
    rows = RowWorker(work, executor.lease, executor.connect)
    tables: list[TableBackfill] = []
    carry_over(work, executor.connect, again=True)
    for table in work.plan.passes:
        found = rows.fill(table)
        mapped = work.rows(table)
        over = mapped.source.table if mapped is not None else table
        facts = next((f for f in work.plan.facts if f.table == over), None)
        tables.append(
            TableBackfill(
                table=table,
                rows=found.rows,
                total=facts.rows if facts is not None and facts.rows >= 0 else None,
                chunks=found.chunks,
                complete=found.complete,
                seconds=found.seconds,
                throttled_seconds=found.waited,
            )
        )
    return BackfillResult(
        rollout=work.rollout.migration,
        target=work.rollout.target,
        tables=tuple(tables),
        workers=work.settings.workers,
        seconds=time.monotonic() - begun,
    )


def table_verification(found: Verification) -> TableVerification:
    """A stored comparison as the engine answers it."""
    count = {kind: int(found.mismatches.get(kind.value, 0)) for kind in Kind}
    keys = [str(key) for kind in Kind for key in found.sample_keys.get(kind.value, ())]
    broken = tuple(
        Violation(
            constraint=name, rows=int(rows), samples=tuple(str(k) for k in found.sample_keys.get(name, ()))
        )
        for name, rows in found.mismatches.items()
        if rows and name not in set(Kind)
    )
    return TableVerification(
        table=found.table,
        rows=found.rows,
        unsettled=count[Kind.UNSETTLED],
        failed=count[Kind.FAILED],
        old_disagrees=count[Kind.STALE_NEW],
        new_disagrees=count[Kind.STALE_OLD],
        nulls=count[Kind.NULL_NEW],
        violations=broken,
        missing=count[Kind.MISSING],
        extra=count[Kind.EXTRA],
        different=count[Kind.DIFFERENT],
        without_old_form=found.without_old_form,
        sample_keys=tuple(dict.fromkeys(keys))[:10],
        at=found.started_at,
    )
