"""Scripting two sessions step by step.

::

    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        a.run("UPDATE t SET x = 1")
        waiting = b.start("UPDATE t SET x = 2")
        waiting.wait_blocked()          # polled in the server, never slept for
        a.run("COMMIT")
        waiting.result()
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from types import TracebackType
from typing import Any, Literal, Self

import psycopg

Rows = list[tuple[Any, ...]]
Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]

#: Seconds after which a step that should have happened is a failure of the test.
DEADLINE = 20.0


def eventually(
    condition: Callable[[], object], *, seconds: float = DEADLINE, what: str = "the condition"
) -> None:
    """Poll `condition` until it is true.

    Raises
    ------
    AssertionError: it was not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds:g} s"
        time.sleep(0.005)


class Pending:
    """A statement that runs in the background."""

    def __init__(self, session: Session, statement: str, future: Future[Rows]) -> None:
        self._session = session
        self._statement = statement
        self._future = future

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._future.done()

    def wait_blocked(self, *, by: Session | None = None, seconds: float = DEADLINE) -> list[int]:
        """Wait until the server says that it waits for a lock; return the process ids that it waits for.

        Parameters
        ----------
        by: wait until this session is among them.

        Raises
        ------
        AssertionError: it ended without, or was not blocked within `seconds`.
        """
        blockers: list[int] = []

        def blocked() -> bool:
            if self._future.done():
                outcome = self._future.exception() or "it succeeded"
                raise AssertionError(
                    f"{self._session.name} was not blocked in {self._statement!r}: {outcome}"
                )
            blockers[:] = self._session.scene.blockers(self._session.pid)
            return bool(blockers) if by is None else by.pid in blockers

        eventually(blocked, seconds=seconds, what=f"{self._session.name} waiting for a lock")
        return blockers

    def result(self, *, seconds: float = DEADLINE) -> Rows:
        """Its rows, once it has ended.

        Raises
        ------
        psycopg.Error: the statement's own.
        AssertionError: it has not ended within `seconds`.
        """
        try:
            return self._future.result(timeout=seconds)
        except FutureTimeout:
            raise AssertionError(
                f"{self._session.name} still runs {self._statement!r} after {seconds:g} s"
            ) from None

    def error(self, *, seconds: float = DEADLINE) -> str | None:
        """The SQLSTATE it failed with, once it has ended; None if it succeeded."""
        try:
            self.result(seconds=seconds)
        except psycopg.Error as error:
            return error.sqlstate or type(error).__name__
        return None


class Session:
    """One connection whose statements run one after another; made by :meth:`Scene.session`.

    It is in autocommit mode, so ``BEGIN`` and ``COMMIT`` are statements of the script like any other.
    """

    def __init__(self, scene: Scene, name: str, dsn: str) -> None:
        self.scene = scene
        self.name = name
        self.connection = psycopg.connect(dsn, autocommit=True, application_name=name)
        self.pid = self.connection.info.backend_pid
        self._last: Future[Rows] | None = None

    def begin(self, isolation: Isolation = "READ COMMITTED") -> None:
        """Begin a transaction. Its snapshot is taken by the first statement after, at the higher levels too."""
        self.run(f"BEGIN ISOLATION LEVEL {isolation}")

    def run(self, statement: str, *parameters: object, seconds: float = DEADLINE) -> Rows:
        """Run a statement to its end and return its rows."""
        return self.start(statement, *parameters).result(seconds=seconds)

    def start(self, statement: str, *parameters: object) -> Pending:
        """Start a statement in the background.

        Raises
        ------
        AssertionError: the session's statement before has not ended.
        """
        assert self._last is None or self._last.done(), f"{self.name} is still busy"
        future: Future[Rows] = Future()

        def work() -> None:
            try:
                cursor = self.connection.execute(statement.encode(), parameters or None)
                rows = cursor.fetchall() if cursor.description else []
            except BaseException as error:  # noqa: BLE001  handed to whoever asks for the result
                future.set_exception(error)
            else:
                future.set_result(rows)

        # A daemon: a script that fails leaves its blocked statement behind, and closing cancels it.
        threading.Thread(target=work, name=f"session-{self.name}", daemon=True).start()
        self._last = future
        return Pending(self, statement, future)

    def cancel(self) -> None:
        """Cancel what still runs."""
        if self._last is not None and not self._last.done():
            self.connection.cancel_safe(timeout=5)
            try:
                self._last.exception(timeout=5)
            except FutureTimeout:
                self.scene.terminate(self.pid)
                self._last.exception(timeout=5)


class Scene:
    """Several sessions on one database, and an observer that asks the server who waits for whom."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._sessions: list[Session] = []
        self._observer = psycopg.connect(dsn, autocommit=True, application_name="observer")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def session(self, name: str, *, dsn: str | None = None) -> Session:
        """A new session. `name` is its ``application_name``; `dsn` may name another role."""
        session = Session(self, name, dsn or self.dsn)
        self._sessions.append(session)
        return session

    def blockers(self, pid: int) -> list[int]:
        """The processes that a session waits for, if it waits for a lock."""
        row = self._observer.execute("SELECT pg_blocking_pids(%s)", [pid]).fetchone()
        assert row is not None
        blockers: list[int] = row[0]
        return blockers

    def waits_for_us(self, application: str) -> bool:
        """Whether a session whose ``application_name`` begins so waits for a lock of one of ours."""
        row = self._observer.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, %s) AND pg_blocking_pids(pid) && %s::int[]",
            [application, [session.pid for session in self._sessions]],
        ).fetchone()
        return row is not None and row[0] > 0

    def connected(self, application: str) -> bool:
        """Whether a session of this database has an ``application_name`` that begins so."""
        row = self._observer.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND starts_with(application_name, %s)",
            [application],
        ).fetchone()
        return row is not None and row[0] > 0

    def terminate(self, pid: int) -> None:
        """End a session from outside."""
        self._observer.execute("SELECT pg_terminate_backend(%s)", [pid])

    def close(self) -> None:
        """Cancel what still runs, and close all sessions."""
        # All are cancelled before any is closed, or one would get the lock that another lets go.
        for session in self._sessions:
            session.cancel()
        for session in self._sessions:
            session.connection.close()
        self._observer.close()
