"""Brings tables that are synced by log to agree: in passes over what is noted, a few keys in a transaction.

Several may do so at once; each key is locked among them, and left to whoever has it. The application goes first: a row that it
holds is put off after a moment, long before the server would look for a deadlock.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from zdm.catalog import row_changes
from zdm.catalog.rollouts import Rollout
from zdm.db.session import Session, transaction
from zdm.engine.results import Reconciled, ReconcileResult
from zdm.errors import Busy, ZdmError
from zdm.model.row_mapping import RowMapping
from zdm.sql import row_log

if TYPE_CHECKING:
    from zdm.engine.work import Work

ROWS = 200
"""Entries of one transaction."""

PATIENCE = timedelta(seconds=60)
"""How long a drain tries before it says what is in the way."""

_IN_PASSING = timedelta(milliseconds=3)
"""How long a row that somebody holds is waited for while other rows of the transaction are locked."""

SAY = timedelta(seconds=10)
"""How often the service says what it did."""

_END = 2**63 - 1

Connect = Callable[[], Session]


@dataclass(slots=True)
class Tally:
    """Keys that were brought to agree, put off because somebody was at them, or recorded as failed."""

    done: int = 0
    busy: int = 0
    failed: int = 0

    def add(self, other: Tally) -> None:
        """Count on."""
        self.done += other.done
        self.busy += other.busy
        self.failed += other.failed


@dataclass(frozen=True, slots=True)
class _Some:
    """How far one transaction came, the entries that others held it off, those whose value another row has, and what it did."""

    reached: int
    held: list[int]
    blocked: list[int]
    tally: Tally


@dataclass(slots=True)
class Reconciler:
    """Works on the log of one mapping.

    Parameters
    ----------
    lock_budget: how long an application may be stalled: half of it is what one transaction takes at most.
    """

    conn: psycopg.Connection[Any]
    mapping: RowMapping
    rollout: int
    lock_budget: timedelta = timedelta(milliseconds=100)

    def once(self, last: int | None = None) -> Tally:
        """Go over what waits at this moment, once; what was held is tried again by itself, a little longer.

        Parameters
        ----------
        last: the entry to which it goes, if not to the last one: whoever waits for the end of it must not wait for what is added meanwhile.
        """
        if last is None:
            last = row_changes.waiting(self.conn, self.rollout, self.mapping.number).last
        tally, held, blocked, after = Tally(), list[int](), list[int](), 0
        while after < last:
            found = self._some(after, ROWS, _IN_PASSING)
            tally.add(found.tally)
            held += found.held
            blocked += found.blocked
            after = found.reached
        for entry in held:
            found = self._some(entry - 1, 1, self.lock_budget / 2)
            tally.add(found.tally)
            tally.busy += len(found.held)
            blocked += found.blocked
        # A value that another row had is free now, if that row was noted after this one; or one of these has it.
        while blocked:
            tried, blocked = blocked, []
            for entry in tried:
                found = self._some(entry - 1, 1, self.lock_budget / 2)
                tally.add(found.tally)
                blocked += found.held + found.blocked
            if len(blocked) == len(tried):
                break
        tally.busy += len(blocked)
        return tally

    def drain(self, patience: timedelta = PATIENCE) -> Tally:
        """Carry over everything that waits at this moment.

        Raises
        ------
        Busy: rows were held by others all the time.
        """
        last = row_changes.waiting(self.conn, self.rollout, self.mapping.number).last
        deadline = time.monotonic() + patience.total_seconds()
        tally = Tally()
        while row_changes.before(self.conn, self.rollout, self.mapping.number, last):
            tally.add(self.once(last))
            if not row_changes.before(self.conn, self.rollout, self.mapping.number, last):
                break
            if time.monotonic() >= deadline:
                left = row_changes.waiting(self.conn, self.rollout, self.mapping.number)
                raise Busy(
                    f"{left.entries} changes of {self.mapping.id} still wait after {patience.total_seconds():.0f} s: rows have been "
                    "locked all the time, or take a value that another row still has.",
                    remedy="Let the transactions that hold them end, and run again; nothing is lost meanwhile. zdm.sync_failures says what "
                    "stands in the way of a row.",
                )
            time.sleep(random.uniform(0.002, 0.02))  # noqa: S311  # jitter
        return tally

    def _some(self, after: int, rows: int, lock_timeout: timedelta) -> _Some:
        """One transaction."""
        statement = sql.SQL(
            "SELECT reached, seen, done, failed, held, blocked FROM {}({}, {}, pg_catalog.clock_timestamp() + {}::pg_catalog.interval)"
        ).format(
            row_log.work(self.mapping, self.rollout),
            sql.Literal(after),
            sql.Literal(rows),
            sql.Literal(self.lock_budget / 2),
        )
        try:
            with transaction(self.conn, lock_timeout=lock_timeout, settings={"synchronous_commit": "off"}):
                row = self.conn.execute(statement).fetchone()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            # What is written besides the rows was held, such as a failure that another one records: nothing was done.
            return self._some(after, 1, lock_timeout) if rows > 1 else self._held_after(after)
        assert row is not None
        reached, seen, done, failed, held, blocked = row
        return _Some((reached if seen else _END), held, blocked, Tally(done, 0, failed))

    def _held_after(self, after: int) -> _Some:
        """The next entry, left for later."""
        entry = row_changes.next_after(self.conn, self.rollout, self.mapping.number, after)
        return _Some(_END, [], [], Tally()) if entry is None else _Some(entry, [entry], [], Tally())


def drain(
    conn: psycopg.Connection[Any],
    mappings: Sequence[RowMapping],
    rollout: int,
    *,
    lock_budget: timedelta,
    patience: timedelta = PATIENCE,
) -> Tally:
    """Carry over what waits at this moment, of every mapping that is synced by log. Raises Busy as `Reconciler.drain`."""
    tally = Tally()
    for mapping in logged(mappings):
        tally.add(Reconciler(conn, mapping, rollout, lock_budget).drain(patience))
    return tally


WORTH_TELLING = 1000
"""Changes that wait, from which on somebody who looks on is told: some seconds' work."""


def carry_over(
    work: Work, connect: Callable[[], AbstractContextManager[Session]], *, again: bool = False
) -> None:
    """Carry over what waits of a rollout, as far as the applications let us: what stays, a gate or the caller finds.

    Parameters
    ----------
    again: try as well what failed before.
    """
    if not logged(work.plan.row_mappings):
        return
    with connect() as session, suppress(Busy, pg.UndefinedFunction):
        if again:
            with transaction(session):
                row_changes.retry(session, work.rollout.id)
        waiting = row_changes.waiting(session, work.rollout.id).entries
        if waiting >= WORTH_TELLING:
            work.reporter.note(f"carrying over {waiting:,} changes that wait in the log")
        drain(
            session,
            work.plan.row_mappings,
            work.rollout.id,
            lock_budget=work.settings.lock_budget,
            patience=timedelta(seconds=10),
        )


def of_rollout(session: Session, rollout: Rollout, tally: Tally | None = None) -> Reconciled:
    """What waits of a rollout, and what was done about it."""
    found = row_changes.waiting(session, rollout.id)
    done = tally or Tally()
    return Reconciled(
        rollout=rollout.migration,
        target=rollout.target,
        keys=done.done,
        failed=done.failed,
        waiting=found.entries,
        lag_seconds=found.age.total_seconds() if found.age is not None else 0.0,
        without_form=found.failed,
        conflicts=row_changes.count_conflicts(session, rollout.id),
    )


@dataclass(slots=True)
class Service:
    """Reconciles every rollout of a target that is synced by log, or one of them. Several may run at once.

    Parameters
    ----------
    connect: opens a session on the database.
    find: the rollouts to look after, with their mappings; asked anew at each round, since rollouts come and go.
    """

    connect: Connect
    find: Callable[[Session], Sequence[tuple[Rollout, Sequence[RowMapping]]]]
    lock_budget: timedelta
    tallies: dict[int, Tally] = field(default_factory=dict)

    def run_once(self) -> ReconcileResult:
        """Carry over what waits at this moment, also what failed before.

        Raises
        ------
        Busy: rows were held by others all the time.
        """
        begun = time.monotonic()
        with self.connect() as session:
            for rollout, mappings in self._standing(session):
                with transaction(session):
                    row_changes.retry(session, rollout.id)
                found = drain(session, mappings, rollout.id, lock_budget=self.lock_budget)
                self.tallies.setdefault(rollout.id, Tally()).add(found)
            return self._result(session, begun)

    def follow(
        self, stop: threading.Event, interval: timedelta, tell: Callable[[ReconcileResult], None]
    ) -> ReconcileResult:
        """Carry over what comes, until it is told to stop. A lost connection is opened anew.

        Parameters
        ----------
        interval: the pause after a round that found nothing.
        tell: told now and then what was done since the last time.
        """
        result, told, pause = ReconcileResult(), time.monotonic(), interval.total_seconds()
        session: Session | None = None
        try:
            while not stop.is_set():
                done = 0
                try:
                    if session is None or session.closed:
                        session = self.connect()
                    done = self._round(session)
                    if time.monotonic() - told >= SAY.total_seconds():
                        result = self._result(session, told)
                        tell(result)
                        told = time.monotonic()
                        self.tallies.clear()
                except psycopg.OperationalError as error:
                    tell(ReconcileResult(interrupted=str(error).strip()))
                    if session is not None:
                        session.close()
                    stop.wait(1)
                if not done:
                    stop.wait(pause)
            if session is not None and not session.closed:
                result = self._result(session, told)
        finally:
            if session is not None:
                session.close()
        return result

    def _round(self, session: Session) -> int:
        done = 0
        for rollout, mappings in self._standing(session):
            for mapping in mappings:
                with suppress(pg.UndefinedFunction):  # the rollout ended meanwhile
                    found = Reconciler(session, mapping, rollout.id, self.lock_budget).once()
                    self.tallies.setdefault(rollout.id, Tally()).add(found)
                    done += found.done
        return done

    def _standing(self, session: Session) -> list[tuple[Rollout, list[RowMapping]]]:
        """What has a log that can be worked on."""
        return [
            (rollout, found)
            for rollout, mappings in self.find(session)
            if (found := [m for m in logged(mappings) if _installed(session, m, rollout.id)])
        ]

    def _result(self, session: Session, begun: float) -> ReconcileResult:
        return ReconcileResult(
            rollouts=tuple(
                of_rollout(session, rollout, self.tallies.get(rollout.id))
                for rollout, mappings in self.find(session)
                if logged(mappings)
            ),
            seconds=time.monotonic() - begun,
        )


def _installed(session: Session, mapping: RowMapping, rollout: int) -> bool:
    row = session.execute(
        "SELECT pg_catalog.to_regprocedure(%s || '(bigint, integer, timestamptz)') IS NOT NULL",
        [row_log.work(mapping, rollout).as_string(None)],
    ).fetchone()
    assert row is not None
    return bool(row[0])


@contextmanager
def reconciling(
    connect: Connect, mappings: Sequence[RowMapping], rollout: int, *, lock_budget: timedelta
) -> Iterator[None]:
    """Reconcile in the background while the block runs; nothing to do where no mapping is synced by log."""
    found = logged(mappings)
    if not found:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(
        target=_serve, args=(connect, found, rollout, lock_budget, stop), name="reconcile", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def logged(mappings: Sequence[RowMapping]) -> list[RowMapping]:
    """Those that are synced by log."""
    return [mapping for mapping in mappings if mapping.logged]


def _serve(
    connect: Connect,
    mappings: Sequence[RowMapping],
    rollout: int,
    lock_budget: timedelta,
    stop: threading.Event,
) -> None:
    """Until it is told to stop. What it does not do is left in the log, where the next one finds it."""
    conn: Session | None = None
    try:
        while not stop.is_set():
            try:
                if conn is None or conn.closed:
                    conn = connect()
                done = sum(
                    Reconciler(conn, mapping, rollout, lock_budget).once().done for mapping in mappings
                )
            except (pg.UndefinedFunction, pg.InvalidSchemaName, pg.UndefinedTable):
                return  # it is not there yet, or not any more
            except (psycopg.Error, ZdmError):
                # Whoever works in the foreground meets the same, and says so; a server that recovers refuses connections for a while.
                done = 0
            stop.wait(0.02 if done else 0.2)
    finally:
        if conn is not None:
            conn.close()
