"""Runs one step, or undoes one: the only place where a plan's SQL meets a connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from zdm.catalog import steps as step_store
from zdm.catalog.lease import Lease
from zdm.catalog.steps import StepStatus
from zdm.db.locks import LockBudget, WaitReport, run_concurrently, run_locked, run_scan
from zdm.db.session import Connection, OutcomeUnknown, Session, transaction
from zdm.engine.children import Children
from zdm.engine.partitions import Partitions
from zdm.engine.reconcile import drain
from zdm.engine.reporter import Reporter
from zdm.engine.results import StepOutcome, StepRun
from zdm.errors import Busy, ZdmError
from zdm.model.mapping import Authority, TableMapping
from zdm.model.names import QualifiedName
from zdm.model.row_mapping import RowMapping
from zdm.model.step import (
    Action,
    Backfill,
    Concurrent,
    Lock,
    PartitionedForeignKey,
    PartitionedIndex,
    Scan,
    Step,
    Sync,
    TableLock,
    Transaction,
    Verify,
)
from zdm.sql import copies, row_log, row_sync, sync
from zdm.sql.closed import close_columns
from zdm.sql.sync_generator import SyncObjects

Connect = Callable[[], Session]
Mark = Callable[[Connection], None]
RowWork = Callable[[QualifiedName], int | None]
"""Verifies one table and returns how many rows it went over."""
Filling = Callable[[QualifiedName, bool], int | None]
"""Backfills one table, once more if it is filled, and returns how many rows it settled."""


@dataclass(slots=True)
class Executor:
    """Runs the steps of one rollout, whose lease the caller holds.

    Parameters
    ----------
    connect: makes a new session, when the present one was lost.
    mapping: the mapping of a table as its columns are called at present (a fence renames old ones).
    rows: the row mapping of that id, if it is one.
    backfill / verify: do the row work of one table.
    carry_over: brings to agree what waits in logs, before a scan proves something of the rows.
    """

    connect: Connect
    session: Session
    rollout: int
    lease: Lease
    budget: LockBudget
    reporter: Reporter
    mapping: Callable[[QualifiedName], TableMapping]
    rows: Callable[[QualifiedName], RowMapping | None]
    logs: Callable[[QualifiedName], Sequence[RowMapping]]
    backfill: Filling
    verify: RowWork
    carry_over: Callable[[], None] = lambda: None
    attempts: int = field(default=1, init=False)

    def run(self, step: Step) -> StepRun:
        """Run one step and record it. A step that an earlier run finished is skipped.

        Raises
        ------
        ZdmError: it failed; the step is recorded as failed and can be run again.
        """
        if self._finished(step):
            return self._ran(step, StepOutcome.SKIPPED, time.monotonic(), attempts=0)
        self.lease.check()
        begun = time.monotonic()
        self.attempts = 1
        step_store.mark_started(self.session, self.rollout, step.id)
        try:
            rows = self._settling(lambda: self._do(step.action, lambda c: self._finish(c, step)), step)
        except (ZdmError, psycopg.Error) as error:
            self._record_failure(step, error)
            raise
        return self._ran(step, StepOutcome.DONE, begun, attempts=self.attempts, rows=rows)

    def undo(self, step: Step) -> StepRun:
        """Take one step back, whether or not it ran, and record it."""
        self.lease.check()
        begun = time.monotonic()
        self.attempts = 1
        last = len(step.undo) - 1
        for number, action in enumerate(step.undo):
            mark = (lambda c: self._undone(c, step)) if number == last else self.guard
            self._settling(lambda a=action, m=mark: self._do(a, m), None)  # type: ignore[misc]
        if not step.undo:
            self._in_own_transaction(lambda c: self._undone(c, step))
        return self._ran(step, StepOutcome.UNDONE, begun, attempts=self.attempts)

    # -- how ----------------------------------------------------------------------------------------------------

    def _do(self, action: Action, mark: Mark) -> int | None:
        match action:
            case Transaction():
                for parts in action.parts:
                    self._partitions.build_index(parts, self.guard)
                run_locked(
                    self.session,
                    action.statements,
                    action.locks,
                    self.budget,
                    mark,
                    self._waiting,
                    first=action.first,
                )
            case Concurrent():
                run_concurrently(
                    self.session,
                    action.statement,
                    action.done_when,
                    action.cleanup,
                    action.locks,
                    self._waiting,
                )
                self._in_own_transaction(mark)
            case Scan():
                self.carry_over()
                run_scan(
                    self.session,
                    action.statement,
                    action.done_when,
                    action.locks,
                    self.budget,
                    mark,
                    self._waiting,
                )
            case PartitionedIndex():
                index = self._partitions.remove_index if action.remove else self._partitions.build_index
                index(action, mark)
            case PartitionedForeignKey():
                key = self._partitions.remove_key if action.remove else self._partitions.build_key
                key(action, mark)
            case Sync():
                self._sync(action, mark)
            case Backfill():
                rows = self.backfill(action.table, action.again)
                self._in_own_transaction(mark)
                return rows
            case Verify():
                rows = self.verify(action.table)
                self._in_own_transaction(mark)
                return rows
        return None

    @property
    def _partitions(self) -> Partitions:
        return Partitions(self.session, self.budget, self.guard, self._waiting)

    def _sync(self, action: Sync, mark: Mark) -> None:
        if action.side:
            self._sync_rows(action, mark)
            return
        if action.remove:
            self._end_sync(action, mark)
            return
        mapping = self.mapping(action.table)
        locks: tuple[TableLock, ...] = ()
        first: tuple[str, ...] = ()
        if mapping.partitioned and mapping.needs_sync:
            self._sync_partitioned(action, mapping)
        inherited = mapping.has_children and mapping.needs_sync
        if sync_installed(self.session, mapping) and not by_another_zdm(self.session, mapping, self.rollout):
            # Only the functions differ between authorities, and replacing those takes no lock on the table.
            statements = sync.switch(mapping, self.rollout, action.authority)
        else:
            objects = sync.install(mapping, self.rollout, action.authority)
            self._watch(objects)
            first, statements = objects.functions, objects.triggers + objects.comments
            locks = (TableLock(table=action.table, mode=Lock.SHARE_ROW_EXCLUSIVE, only=inherited),)
        done = self.guard if inherited else mark
        run_locked(self.session, statements, locks, self.budget, done, self._waiting, first=first)
        if inherited:
            self._children(mapping).keep_in_step()
            self._in_own_transaction(mark)

    def _end_sync(self, action: Sync, mark: Mark) -> None:
        """Drop the triggers, what the action's ending says together with them, and then the functions."""
        mapping = self.mapping(action.table)
        ending = action.ending or Transaction(statements=())
        statements: tuple[str, ...] = ()
        functions = list(sync.drop_functions(mapping, self.rollout))
        alone = (TableLock(table=action.table, mode=Lock.ACCESS_EXCLUSIVE),)
        self._release(mapping)
        # Where the swap has dropped the triggers, DROP TRIGGER IF EXISTS would lock the table for nothing.
        if sync_installed(self.session, mapping):
            drops = sync.drop_triggers(mapping)
            if mapping.partitioned:
                # The server drops each on every partition: those that carry nothing over go one by one before.
                for drop in sync.drop_accounts(mapping):
                    run_locked(self.session, (drop,), alone, self.budget, self.guard, self._waiting)
            if mapping.has_children:
                drops = [*self._children(mapping).drops(), *drops]
            statements = tuple(drops)
            for rows in self.logs(action.table):
                self._drain(rows)
                statements = (row_log.end(rows, "new", over=False), *statements)
                # Without the columns they would only fail, whoever reconciles.
                functions += row_sync.drop_functions(rows, self.rollout, "old")
        if any(copies.copied_groups(mapping)):
            # What they are copies of is watched until nothing is copied any more, and its triggers go before the columns that they write.
            if statements:
                own = [new.name for group in mapping.groups if group.copied is None for new in group.new]
                closed = close_columns(mapping.table, own)
                run_locked(
                    self.session, (*statements, *closed), alone, self.budget, self.guard, self._waiting
                )
            self._unwatch(mapping)
            statements = ()
        statements = (*statements, *ending.statements)
        locks = ending.locks or (alone if statements else ())
        statements = (*statements, *functions)
        run_locked(self.session, statements, locks, self.budget, mark, self._waiting, first=ending.first)

    def _children(self, mapping: TableMapping) -> Children:
        return Children(self.session, mapping, self.rollout, self.budget, self.guard, self._waiting)

    def _watch(self, objects: SyncObjects) -> None:
        """Watch what the table has copies of, before the first row of it has them."""
        for table, statements in objects.watching:
            locks = (TableLock(table=table, mode=Lock.SHARE_ROW_EXCLUSIVE),)
            run_locked(
                self.session,
                statements,
                locks,
                self.budget,
                self.guard,
                self._waiting,
                first=objects.functions,
            )

    def _release(self, mapping: TableMapping) -> None:
        """Drop foreign keys over copies first: without triggers a row that gets another reference would keep the copies of before."""
        for group, copied in copies.copied_groups(mapping):
            name = copies.key_name(mapping, group.number)
            found = self.session.execute(
                "SELECT FROM pg_catalog.pg_constraint WHERE conname = %s AND contype = 'f'", (name,)
            ).fetchone()
            if found is not None:
                key = PartitionedForeignKey(
                    table=mapping.table, name=name, body="", references=copied.table, remove=True
                )
                self._partitions.remove_key(key, self.guard)

    def _unwatch(self, mapping: TableMapping) -> None:
        watching = copies.unwatch(mapping)
        names = [name for _, name, _ in watching]
        rows = self.session.execute(
            "SELECT tgname FROM pg_catalog.pg_trigger WHERE tgname = ANY (%s) AND NOT tgisinternal", (names,)
        ).fetchall()
        there = {name for (name,) in rows}
        for table, name, statement in watching:
            # Cleanup has dropped them; DROP TRIGGER IF EXISTS would lock the table for nothing.
            if name in there:
                locks = (TableLock(table=table, mode=Lock.ACCESS_EXCLUSIVE),)
                run_locked(self.session, (statement,), locks, self.budget, self.guard, self._waiting)

    def _sync_rows(self, action: Sync, mark: Mark) -> None:
        mapping = self.rows(action.table)
        assert mapping is not None
        if action.together:
            self._sync_together(mapping, action, mark)
            return
        assert action.side
        assert action.on is not None
        locks: tuple[TableLock, ...] = ()
        first: tuple[str, ...] = ()
        if not action.remove:
            objects = row_sync.install(mapping, self.rollout, action.side)
            first, statements = objects.functions, objects.triggers + objects.comments
            # Triggers that a former attempt left are dropped first, if there are any.
            mode = (
                Lock.ACCESS_EXCLUSIVE if self._row_triggers(mapping, action.on) else Lock.SHARE_ROW_EXCLUSIVE
            )
            locks = (TableLock(table=action.on, mode=mode),)
        elif self._row_triggers(mapping, action.on):
            statements = row_sync.remove(mapping, self.rollout, action.side, action.ending)
            if mapping.logged and action.side == "new":
                # What the new version wrote is carried over to its end, while nobody can write there.
                self._drain(mapping)
                statements = (row_log.end(mapping, "new", over=False), *statements)
            locks = (TableLock(table=action.on, mode=Lock.ACCESS_EXCLUSIVE),)
        else:
            functions = row_sync.drop_functions(mapping, self.rollout, action.side)
            statements = functions if action.ending is None else ()
        run_locked(self.session, statements, locks, self.budget, mark, self._waiting, first=first)

    def _sync_together(self, mapping: RowMapping, action: Sync, mark: Mark) -> None:
        there = any(self._row_triggers(mapping, table) for table in action.together)
        first: tuple[str, ...] = ()
        tables, mode = action.together, Lock.ACCESS_EXCLUSIVE
        if not action.remove:
            objects = row_sync.install_together(mapping, self.rollout)
            first, statements = objects.functions, objects.triggers + objects.comments
            # Triggers that a former attempt left are dropped first, if there are any.
            mode = mode if there else Lock.SHARE_ROW_EXCLUSIVE
        elif there:
            statements = row_sync.remove_together(mapping, self.rollout)
        else:
            statements, tables = row_sync.drop_all_functions(mapping, self.rollout), ()
        locks = tuple(TableLock(table=table, mode=mode) for table in tables)
        run_locked(self.session, statements, locks, self.budget, mark, self._waiting, first=first)

    def _drain(self, mapping: RowMapping) -> None:
        """Leave little to do under the lock that follows; what cannot be done now, it says then."""
        with self.connect() as session, suppress(Busy, psycopg.errors.UndefinedFunction):
            drain(session, (mapping,), self.rollout, lock_budget=self.budget.timeout)

    def _row_triggers(self, mapping: RowMapping, on: QualifiedName) -> bool:
        return (
            self.session.execute(
                "SELECT FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid"
                " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
                " WHERE n.nspname = %s AND c.relname = %s AND pg_catalog.starts_with(t.tgname, %s)",
                (on.schema_, on.name, row_sync.trigger_prefix(mapping)),
            ).fetchone()
            is not None
        )

    def _sync_partitioned(self, action: Sync, mapping: TableMapping) -> None:
        """One trigger at a time: the server makes each of them on every partition, under a lock that stops writers.

        In such an order that nothing is settled that would not be kept in step: rows that come before the last trigger
        stands are unsettled, and the backfill finds them.
        """
        steps = sync.install_one_by_one(mapping, self.rollout, sync_triggers(self.session, mapping))
        if steps:
            objects = sync.install(mapping, self.rollout, action.authority)
            run_locked(self.session, objects.functions, (), self.budget, self.guard, self._waiting)
            self._watch(objects)
        for statements in steps:
            locks = (TableLock(table=action.table, mode=Lock.SHARE_ROW_EXCLUSIVE),)
            run_locked(self.session, statements, locks, self.budget, self.guard, self._waiting)

    def _settling(self, work: Callable[[], int | None], step: Step | None) -> int | None:
        """Do the work; if the connection was lost at COMMIT, look whether it took effect, and repeat it if it did not."""
        for _ in range(5):
            try:
                return work()
            except OutcomeUnknown:
                self.reporter.note(
                    "the connection was lost while the server committed; looking whether it did"
                )
                self.session = self.connect()
                if step is not None and self._finished(step):
                    return None
        raise ZdmError(
            "the connection was lost at COMMIT five times in a row",
            remedy="Look at the server's log; then run the same command again, it continues.",
        )

    # -- marks --------------------------------------------------------------------------------------------------

    def _finished(self, step: Step) -> bool:
        return step_store.status(self.session, self.rollout, step.id) is StepStatus.FINISHED

    def guard(self, conn: Connection) -> None:
        """Make the transaction that is open on `conn` depend on the lease."""
        with conn.cursor() as cursor:
            self.lease.guard(cursor)

    def _finish(self, conn: Connection, step: Step) -> None:
        self.guard(conn)
        step_store.mark_finished(conn, self.rollout, step.id)

    def _undone(self, conn: Connection, step: Step) -> None:
        self.guard(conn)
        if step_store.status(conn, self.rollout, step.id) is not StepStatus.UNDONE:
            step_store.mark_undone(conn, self.rollout, step.id)

    def _in_own_transaction(self, mark: Mark) -> None:
        with transaction(self.session):
            mark(self.session)

    def _record_failure(self, step: Step, error: Exception) -> None:
        try:
            if self.session.closed:
                self.session = self.connect()
            step_store.mark_failed(self.session, self.rollout, step.id, str(error).strip())
        except (psycopg.Error, ZdmError):
            # The server is gone: the step stays "started", which a re-run treats like "failed". The first error counts.
            self.reporter.note("the failure could not be recorded, because the server cannot be reached")

    def _waiting(self, report: WaitReport) -> None:
        self.attempts = max(self.attempts, report.attempt)
        self.reporter.waiting(str(report))

    @staticmethod
    def _ran(
        step: Step, outcome: StepOutcome, begun: float, *, attempts: int, rows: int | None = None
    ) -> StepRun:
        return StepRun(
            id=step.id,
            title=step.title,
            phase=step.phase,
            outcome=outcome,
            seconds=time.monotonic() - begun,
            attempts=attempts,
            rows=rows,
        )


def sync_triggers(conn: Session, mapping: TableMapping) -> frozenset[str]:
    """The sync triggers that the table has, by name."""
    rows = conn.execute(
        "SELECT tgname FROM pg_catalog.pg_trigger WHERE tgrelid = %s AND NOT tgisinternal AND pg_catalog.starts_with(tgname, '~zdm_')",
        (mapping.oid,),
    )
    return frozenset(name for (name,) in rows)


def sync_installed(conn: Session, mapping: TableMapping) -> bool:
    """Whether the table has sync triggers at all; one of the application's that is only called so is none."""
    row = conn.execute(
        """SELECT FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
           JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
           WHERE t.tgrelid = %s AND NOT t.tgisinternal AND pg_catalog.starts_with(t.tgname, '~zdm_') AND n.nspname = 'zdm'""",
        (mapping.oid,),
    ).fetchone()
    return row is not None


def by_another_zdm(conn: Session, mapping: TableMapping, rollout: int) -> list[str]:
    """Triggers that another version of zdm installed: our functions may not fit them, so both are made anew together."""
    rows = conn.execute(sync.state_query(mapping, rollout).encode()).fetchall()
    expected = [
        item for item in sync.expected_objects(mapping, rollout, Authority.OLD) if item.kind == "trigger"
    ]
    return sync.by_another_zdm(expected, rows)
