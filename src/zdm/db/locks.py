"""DDL that does not stall anybody for longer than a budget.

A statement that waits for a strong lock makes everybody who comes later wait behind it: the queue is the outage, not
the DDL. So `run_locked`

1. looks first who is in the way, and does not even try while a conflicting transaction is older than `holder_age`: it
   will hardly end within the next 100 ms, so trying would only stall the others;
2. takes the locks in the order given, waiting no longer than the budget, gives up and tries again later;
3. has the server abort statements that keep a strong lock for longer than the budget;
4. sends locks, statements and COMMIT in one round trip, so that neither a slow network nor a busy client lengthens the hold, and
   does not have the COMMIT wait for the disk or a standby while it holds them: what comes after it, at the latest the
   record of the phase, does.

A foreground statement may meet our waiting and then our holding, so the budget is for both: at most three quarters of it are
spent waiting, and the statements, usually a few milliseconds, have what is left.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, Literal

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from zdm.db.probes.blockers import CONFLICTS, Blocker, blockers, blocking
from zdm.db.session import Connection, OutcomeUnknown, fetch_value, transaction
from zdm.errors import Busy, ZdmError
from zdm.model.step import Lock, TableLock

__all__ = [
    "LockBudget",
    "OutcomeUnknown",
    "Statement",
    "WaitReport",
    "run_concurrently",
    "run_locked",
    "run_scan",
]

Statement = str | sql.Composable


@dataclass(frozen=True, slots=True)
class LockBudget:
    """How long others may be stalled, and how long we try.

    Parameters
    ----------
    timeout: the longest our lock requests may wait, all tables of a transaction together, and then hold what they got; for
        several locks at most half of the server's deadlock_timeout. Elsewhere 100 ms … 10 s
        (GitLab, in 41 steps), 200 ms (online_migrations), 500 ms (pgroll), 750 ms (GoCardless), 1 s (reshape); 100 ms is
        below what people notice, and short attempts that are repeated beat long ones.
    hold: the longest the statements may keep a strong lock (one that stops writers) where the plan calls it brief;
        None means what waiting has left of `timeout`. Beyond, the transaction is rolled back and counted as an attempt.
    attempts: lock attempts before giving up; waiting for an old transaction to end is not an attempt.
    max_wait: the longest time for everything, before giving up with `Busy`.
    holder_age: a conflicting transaction older than this is waited for without asking for the lock. With a reader of 4 s
        in the way everybody's stall was 105 ms with retries alone, and 12 ms with this rule at 200 ms.
    backoff / backoff_cap: between attempts we sleep a random time up to `backoff` times 2ⁿ, at most the cap (full jitter, as
        online_migrations does with its cap of one minute; ours is lower since an attempt is announced by a look).
    autovacuum: "cancel" ends an ordinary autovacuum that is in the way, as any DDL would after deadlock_timeout (1 s), which
        a shorter lock timeout never lives to see; where our role may not, and with "wait", it is waited for. One that
        prevents wraparound is never cancelled.
    """

    timeout: timedelta = timedelta(milliseconds=100)
    hold: timedelta | None = None
    attempts: int = 30
    max_wait: timedelta = timedelta(minutes=5)
    holder_age: timedelta = timedelta(milliseconds=200)
    backoff: timedelta = timedelta(milliseconds=50)
    backoff_cap: timedelta = timedelta(seconds=10)
    autovacuum: Literal["cancel", "wait"] = "cancel"


@dataclass(frozen=True, slots=True)
class WaitReport:
    """What we are waiting for and who is in the way, one line for people: told before each wait, and about once a second.

    reason: "older transaction", "autovacuum", "lock timeout", "deadlock", "too long under lock" or "older snapshots".
    """

    reason: str
    attempt: int
    waited: timedelta
    sleeping: timedelta
    blockers: tuple[Blocker, ...] = field(default=())

    def __str__(self) -> str:
        who = "; ".join(str(blocker) for blocker in self.blockers)
        return f"waiting ({self.reason}){': ' + who if who else ''}"


OnWait = Callable[[WaitReport], None]
BeforeCommit = Callable[[Connection], None]

_POLL: Final = (0.02, 0.25)  # seconds between looks, from … to
_REPORT_EVERY: Final = 1.0
_TOO_LONG_LIMIT: Final = 8
_DEFAULT: Final = LockBudget()

_STRONG: Final = frozenset(mode for mode in Lock if Lock.ROW_EXCLUSIVE in CONFLICTS[mode])
"""Modes that stop writers; the others stop only DDL and vacuum."""


def run_locked(
    conn: Connection,
    statements: Sequence[Statement],
    locks: Sequence[TableLock],
    budget: LockBudget = _DEFAULT,
    before_commit: BeforeCommit | None = None,
    on_wait: OnWait | None = None,
    *,
    first: Sequence[Statement] = (),
) -> None:
    """Run `statements` in one transaction, `locks` taken first and in their order, within `budget`.

    Parameters
    ----------
    first: run in the same transaction before `locks` are asked for: what needs none of them (CREATE FUNCTION), so that
        nobody waits for it, and what must lock before them (DROP VIEW), as the applications' statements do.
    locks: what does not exist (any more) and what cannot be locked explicitly (views, foreign tables) is skipped; the
        statements lock those themselves, under the same limit.
    before_commit: runs in the same transaction, before the locks are asked for, for the mark that the step is finished.
    on_wait: told whenever we wait.

    Raises
    ------
    Busy: the locks could not be had within the bounds; nothing was changed, and the blockers are named.
    OutcomeUnknown: the connection was lost during COMMIT.
    psycopg.Error: a statement failed; nothing was changed.
    """
    _Attempts(conn, locks, budget, on_wait).run(statements, before_commit, first)


def run_scan(
    conn: Connection,
    statement: Statement,
    done_when: Statement,
    locks: Sequence[TableLock] = (),
    budget: LockBudget = _DEFAULT,
    before_commit: BeforeCommit | None = None,
    on_wait: OnWait | None = None,
) -> bool:
    """Run one long statement under weak locks (VALIDATE CONSTRAINT) in a transaction of its own.

    The statement itself has no time limit: its lock stops only DDL and vacuum.

    Returns
    -------
    bool: False if `done_when` held already. `before_commit` has run and committed either way.
    """
    done = bool(_probe(conn, done_when))
    if done and before_commit is None:
        return False
    _Attempts(conn, () if done else locks, budget, on_wait).run(() if done else (statement,), before_commit)
    return not done


# --- attempts ---------------------------------------------------------------------------------------------------------


class _TooLong(Exception):  # noqa: N818 - never leaves this file
    """The statements kept their locks for longer than they may."""


class _Attempts:
    """The loop around one transaction: look, try, wait, within the bounds of a budget."""

    def __init__(
        self, conn: Connection, locks: Sequence[TableLock], budget: LockBudget, on_wait: OnWait | None
    ) -> None:
        self.locks = [lock for lock in locks if lock.mode is not Lock.NONE]
        if len(self.locks) > 1:
            # An application that takes the same locks in another order must not be the one whom the server ends.
            budget = replace(budget, timeout=min(budget.timeout, _deadlock_timeout(conn) / 2))
        self.conn, self.budget, self.on_wait = conn, budget, on_wait
        brief = all(lock.hold == "brief" for lock in self.locks)
        strong = any(lock.mode in _STRONG for lock in self.locks)
        self.hold = (budget.hold or budget.timeout) if brief and strong else None
        self.wait = budget.timeout * 0.75 if self.hold is not None and budget.hold is None else budget.timeout
        self.started = time.monotonic()
        self.attempt = 0
        self.too_long = 0
        self.seen: dict[str, Blocker] = {}
        self.first_seen: dict[str, float] = {}
        self.last_report = -_REPORT_EVERY
        self.lower_deadlock_timeout = _may_set_deadlock_timeout(conn) if self.locks else False
        self.may_cancel = budget.autovacuum == "cancel"

    def run(
        self,
        statements: Sequence[Statement],
        before_commit: BeforeCommit | None,
        first: Sequence[Statement] = (),
    ) -> None:
        while True:
            self._wait_for_holders()
            self.attempt += 1
            try:
                self._try(statements, before_commit, first)
            except pg.LockNotAvailable:
                self._failed("lock timeout")
            except pg.DeadlockDetected:
                self._failed("deadlock")
            except _TooLong:
                self.too_long += 1
                self._failed("too long under lock")
            else:
                return

    # -- looking --

    def _wait_for_holders(self) -> None:
        pause = _POLL[0]
        while self.locks:
            holders = self._in_the_way(blockers(self.conn, self.locks))
            if not holders:
                return
            self._remember(holders)
            if self._elapsed() >= self.budget.max_wait.total_seconds():
                raise self._busy("older transaction")
            reason = "autovacuum" if all("vacuum" in h.kind for h in holders) else "older transaction"
            self._report(reason, pause, holders)
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL[1])

    def _in_the_way(self, found: Iterable[Blocker]) -> list[Blocker]:
        """The holders too old to try against. Those we may not look into are timed from when we first saw them."""
        now, old = time.monotonic(), []
        for blocker in found:
            if not blocker.granted:
                continue
            if blocker.kind == "autovacuum" and self._ended(blocker):
                continue
            if blocker.transaction_age is None:
                since = self.first_seen.setdefault(blocker.transaction, now)
                fresh = now == since
                # Seen for the first time: look again before deciding, it costs nobody anything.
                if fresh or now - since >= self.budget.holder_age.total_seconds():
                    old.append(blocker)
            elif blocker.transaction_age >= self.budget.holder_age:
                old.append(blocker)
        return old

    def _ended(self, vacuum: Blocker) -> bool:
        """Whether this autovacuum will give way to our request, or has just been told to."""
        if self.budget.autovacuum != "cancel":
            return False
        if self.lower_deadlock_timeout:
            return True  # the server cancels it itself when our request meets it
        if self.may_cancel:
            try:
                # May take a moment to end: it stays in the way until it has.
                self.conn.execute("SELECT pg_catalog.pg_cancel_backend(%s)", (vacuum.pid,))
            except psycopg.errors.InsufficientPrivilege:
                self.may_cancel = False
        return False

    # -- trying --

    def _try(
        self,
        statements: Sequence[Statement],
        before_commit: BeforeCommit | None,
        first: Sequence[Statement],
    ) -> None:
        budget, settings = self.budget, {}
        if self.lower_deadlock_timeout and budget.autovacuum == "cancel":
            settings["deadlock_timeout"] = f"{max(1, round(budget.timeout.total_seconds() * 250))}ms"
        hold = self.hold.total_seconds() if self.hold is not None else None
        # A client that freezes while it holds strong locks must lose them.
        idle = timedelta(seconds=max(1.0, 10 * hold)) if hold is not None else timedelta(seconds=60)
        begun = time.monotonic()
        if hold is not None:
            settings["synchronous_commit"] = "off"
        try:
            with transaction(self.conn, lock_timeout=self.wait, idle_timeout=idle, settings=settings):
                if first:
                    self.conn.execute(sql.SQL("\n;\n").join(_composable(statement) for statement in first))
                if before_commit is not None:
                    before_commit(self.conn)
                batch = self._batch(statements)
                begun = time.monotonic()
                if hold is not None:
                    self._at_once(batch)
                elif batch:
                    self.conn.execute(sql.SQL("\n;\n").join(batch))
        except pg.QueryCanceled as error:
            if hold is not None and time.monotonic() - begun >= (hold - self.wait.total_seconds()) * 0.9:
                raise _TooLong from error
            raise

    def _at_once(self, batch: Sequence[sql.Composable]) -> None:
        """The batch and its COMMIT in one message: the server goes on to the next without asking us."""
        try:
            self.conn.execute(sql.SQL("\n;\n").join([*batch, sql.SQL("COMMIT")]))
        except psycopg.Error as error:
            if self.conn.closed or self.conn.broken:
                raise OutcomeUnknown(
                    "the connection was lost while the server changed something; whether it did is not known",
                    remedy="Run the same command again: it looks what the database holds and goes on from there.",
                ) from error
            raise

    def _batch(self, statements: Sequence[Statement]) -> list[sql.Composable]:
        """Locks, then statements, each told how much of the budget is left by the server's own clock."""
        batch: list[sql.Composable] = [_stamp("zdm.asked_at")]
        for number, (table, mode) in enumerate(_lockable(self.conn, self.locks)):
            if number:
                batch.append(_remaining("lock_timeout", "zdm.asked_at", self.wait))
            # One by one, because lock_timeout counts for each partition anew.
            batch.append(sql.SQL("LOCK TABLE ONLY {} IN {} MODE").format(table, sql.SQL(mode.sql)))
        batch.append(_stamp("zdm.locked_at"))
        batch.append(
            sql.SQL("SELECT pg_catalog.set_config('lock_timeout', {}, true)").format(_literal(self.wait))
        )
        since = "zdm.asked_at" if self.budget.hold is None else "zdm.locked_at"
        for statement in statements:
            if self.hold is not None:
                batch.append(_remaining("statement_timeout", since, self.hold))
            batch.append(_composable(statement))
        return batch

    # -- giving up, or not yet --

    def _failed(self, reason: str) -> None:
        if reason != "too long under lock":
            self._remember(blockers(self.conn, self.locks))
        if (
            self.attempt >= self.budget.attempts
            or self.too_long >= _TOO_LONG_LIMIT
            or self._elapsed() >= self.budget.max_wait.total_seconds()
        ):
            raise self._busy(reason)
        limit = min(
            self.budget.backoff.total_seconds() * 2 ** min(self.attempt, 20),
            self.budget.backoff_cap.total_seconds(),
        )
        pause = random.uniform(0, limit)  # noqa: S311 - jitter, not a secret
        self._report(reason, pause, self.seen.values(), force=True)
        time.sleep(pause)

    def _busy(self, reason: str) -> Busy:
        tables = ", ".join(dict.fromkeys(str(lock.table) for lock in self.locks)) or "the objects of the step"
        waited = f"after {self._elapsed():.1f} s and {self.attempt} attempts"
        if reason == "too long under lock":
            limit = (self.hold or timedelta()).total_seconds() * 1000
            return Busy(
                f"the statements keep {tables} locked for longer than the {limit:.0f} ms they may ({waited}); "
                "nothing was changed",
                remedy="Try again when the server is less busy, or allow a longer lock budget.",
            )
        names = "; ".join(str(blocker) for blocker in self.seen.values()) or "nobody who could still be seen"
        remedy = "Wait for those transactions to end, or end them, and run the same command again."
        if reason == "lock timeout":
            # Each was too young to be waited for, and yet always one was there.
            remedy += (
                " Where short ones follow each other without a pause, let `lock_budget` be longer than they take, "
                f"now {self.budget.timeout.total_seconds() * 1000:.0f} ms, or keep them away for a moment."
            )
        return Busy(
            f"could not lock {tables} {waited}; in the way: {names}; nothing was changed", remedy=remedy
        )

    def _remember(self, found: Iterable[Blocker]) -> None:
        for blocker in found:
            self.seen[f"{blocker.pid}/{blocker.application}"] = blocker

    def _report(self, reason: str, pause: float, found: Iterable[Blocker], *, force: bool = False) -> None:
        now = time.monotonic()
        if self.on_wait is None or (not force and now - self.last_report < _REPORT_EVERY):
            return
        self.last_report = now
        waited = timedelta(seconds=self._elapsed())
        self.on_wait(WaitReport(reason, self.attempt, waited, timedelta(seconds=pause), tuple(found)))

    def _elapsed(self) -> float:
        return time.monotonic() - self.started


_FAMILIES: Final = """
WITH RECURSIVE wanted AS (
  SELECT w.*, c.oid FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::bool[]))
    WITH ORDINALITY AS w (schema_name, table_name, alone, n)
  JOIN pg_catalog.pg_namespace s ON s.nspname = w.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = s.oid AND c.relname = w.table_name
), family (n, level, oid) AS (
  SELECT n, 0, oid FROM wanted
  UNION ALL
  SELECT f.n, f.level + 1, i.inhrelid FROM family f JOIN pg_catalog.pg_inherits i ON i.inhparent = f.oid
  WHERE f.n IN (SELECT n FROM wanted WHERE NOT alone)
)
SELECT f.n::int - 1, s.nspname, c.relname FROM family f JOIN pg_catalog.pg_class c ON c.oid = f.oid
JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') ORDER BY f.n, f.level, f.oid
"""


def _lockable(conn: Connection, locks: Sequence[TableLock]) -> list[tuple[sql.Identifier, Lock]]:
    """What LOCK TABLE accepts, partitions after their table in the order in which the server itself locks them.

    On a view it would also lock every table below, so views are left out.
    """
    wanted = list(dict.fromkeys(locks))
    if not wanted:
        return []
    rows = conn.execute(
        _FAMILIES,
        (
            [lock.table.schema_ for lock in wanted],
            [lock.table.name for lock in wanted],
            [lock.only for lock in wanted],
        ),
    ).fetchall()
    return [(sql.Identifier(schema, name), wanted[number].mode) for number, schema, name in rows]


def _deadlock_timeout(conn: Connection) -> timedelta:
    """How long a statement waits for a lock before the server looks for a deadlock."""
    query = "SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'"
    return timedelta(milliseconds=int(fetch_value(conn, query)))


def _may_set_deadlock_timeout(conn: Connection) -> bool:
    if conn.info.server_version >= 150000:
        return bool(fetch_value(conn, "SELECT pg_catalog.has_parameter_privilege('deadlock_timeout', 'SET')"))
    return bool(fetch_value(conn, "SELECT pg_catalog.current_setting('is_superuser')::bool"))


def _stamp(name: str) -> sql.Composed:
    return sql.SQL(
        "SELECT pg_catalog.set_config({}, pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())::text, true)"
    ).format(sql.Literal(name))


def _remaining(setting: str, stamp: str, limit: timedelta) -> sql.Composed:
    """Set a timeout to what is left of `limit` since `stamp`; never 0, which would mean for ever."""
    return sql.SQL(
        "SELECT pg_catalog.set_config({}, greatest(1, pg_catalog.ceil({} - 1000 * ("
        "pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())"
        " - pg_catalog.current_setting({})::float8))::int)::text, true)"
    ).format(sql.Literal(setting), sql.Literal(limit.total_seconds() * 1000), sql.Literal(stamp))


def _literal(duration: timedelta) -> sql.Literal:
    return sql.Literal(str(max(1, round(duration.total_seconds() * 1000))))


def _composable(statement: Statement) -> sql.Composable:
    return sql.SQL(statement) if isinstance(statement, str) else statement


def _probe(conn: Connection, query: Statement) -> Any:
    return fetch_value(conn, sql.Composed([_composable(query)]))


# --- statements that refuse a transaction -----------------------------------------------------------------------------


def run_concurrently(
    conn: Connection,
    statement: Statement,
    done_when: Statement,
    cleanup: Sequence[Statement] = (),
    locks: Sequence[TableLock] = (),
    on_wait: OnWait | None = None,
    attempts: int = 3,
) -> bool:
    """Run a statement that refuses a transaction (CREATE or DROP INDEX CONCURRENTLY).

    It runs without a lock timeout: a timeout would leave an invalid index, and its lock stops neither readers nor
    writers. It waits for every transaction that is older; whom it waits for is reported about once a second.

    Parameters
    ----------
    done_when: a query of one boolean; asked first, and again at the end.
    cleanup: run (each on its own, in order) before the statement, and after it if it fails: it removes what an aborted
        run left, such as an invalid index. Only ever run while `done_when` is false.
    locks: the tables it works on; a build on them that still runs (of a client that was killed) is waited for first.
    attempts: how often a deadlock, which the server may resolve against us, is tried again.

    Returns
    -------
    bool: False if `done_when` held already.

    Raises
    ------
    OutcomeUnknown: the connection was lost; `done_when` tells.
    psycopg.Error: the statement failed; `cleanup` has run.
    """
    _refuse_limits(conn)
    _wait_for_builders(conn, locks, on_wait)
    if _probe(conn, done_when):
        return False
    for left in range(attempts - 1, -1, -1):
        _clean(conn, cleanup)
        try:
            _watched(conn, statement, on_wait)
            break
        except pg.DeadlockDetected:
            _clean(conn, cleanup)
            if not left:
                raise
        except psycopg.OperationalError as error:
            if conn.closed or conn.broken:
                raise OutcomeUnknown(
                    "the connection was lost while the server built or dropped an index; whether it finished is not known",
                    remedy="Run the same command again: it looks what the database holds and goes on from there.",
                ) from error
            _clean(conn, cleanup)
            raise
        except BaseException:
            if not conn.closed:
                _clean(conn, cleanup)
            raise
    if not _probe(conn, done_when):
        raise ZdmError(
            "the server reported success, but the object is not what the step needs",
            remedy="Run the same command again; if it happens again, look at the server's log.",
        )
    return True


def _clean(conn: Connection, cleanup: Sequence[Statement]) -> None:
    for statement in cleanup:
        conn.execute(sql.Composed([_composable(statement)]))


def _refuse_limits(conn: Connection) -> None:
    """Behind a pooler nothing can be set outside a transaction, so limits of the role or database would apply."""
    if not getattr(conn, "pooled", False):
        return
    limits = [
        name
        for name in ("lock_timeout", "statement_timeout")
        if fetch_value(conn, "SELECT pg_catalog.current_setting(%s)", (name,)) != "0"
    ]
    if getattr(conn, "role", None) is not None:
        limits.append("role")
    if limits:
        raise ZdmError(
            f"this step cannot run through the connection pooler, because {' and '.join(limits)} cannot be set there "
            "outside a transaction",
            remedy="Give zdm a direct connection to the server.",
        )


def _wait_for_builders(conn: Connection, locks: Sequence[TableLock], on_wait: OnWait | None) -> None:
    started, told = time.monotonic(), -_REPORT_EVERY
    pids = (
        "SELECT p.pid FROM pg_catalog.pg_stat_progress_create_index p WHERE p.pid <> pg_catalog.pg_backend_pid()"
        " AND p.datname = pg_catalog.current_database()"
    )
    while locks:
        running = {pid for (pid,) in conn.execute(pids).fetchall()}
        found = [blocker for blocker in blockers(conn, locks) if blocker.pid in running]
        if not found:
            return
        if on_wait is not None and time.monotonic() - told >= _REPORT_EVERY:
            told = time.monotonic()
            waited = timedelta(seconds=told - started)
            on_wait(WaitReport("another index build", 0, waited, timedelta(seconds=_POLL[1]), tuple(found)))
        time.sleep(_POLL[1])


def _watched(conn: Connection, statement: Statement, on_wait: OnWait | None) -> None:
    """Run the statement in a thread while this one reports whom it waits for, and can be interrupted."""
    failure: list[BaseException] = []
    done = threading.Event()
    pid = fetch_value(conn, "SELECT pg_catalog.pg_backend_pid()")

    def work() -> None:
        try:
            conn.execute(sql.Composed([_composable(statement)]))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            failure.append(error)
        finally:
            done.set()

    worker = threading.Thread(target=work, name="zdm-concurrently", daemon=True)
    started = time.monotonic()
    worker.start()
    try:
        if not done.wait(_REPORT_EVERY / 2) and on_wait is not None and not getattr(conn, "pooled", False):
            _tell(conn, pid, started, done, on_wait)
        done.wait()
    except BaseException:
        conn.cancel_safe(timeout=10)
        worker.join(timeout=30)
        raise
    worker.join()
    if failure:
        raise failure[0]


def _tell(conn: Connection, pid: int, started: float, done: threading.Event, on_wait: OnWait) -> None:
    info = conn.info
    try:
        monitor = psycopg.connect(make_conninfo(info.dsn, password=info.password), autocommit=True)
    except psycopg.Error:
        return  # no connection to spare: the work goes on, unreported
    with monitor:
        while not done.wait(_REPORT_EVERY):
            found = blocking(monitor, pid)
            if found:
                waited = timedelta(seconds=time.monotonic() - started)
                on_wait(WaitReport("older snapshots", 1, waited, timedelta(seconds=_REPORT_EVERY), found))
