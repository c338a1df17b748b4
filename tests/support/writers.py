"""Applications that write without pause while something else happens.

::

    def old(connection, rng, n):
        connection.execute("UPDATE accounts SET balance = balance + 1 WHERE id = %s", [rng.randrange(100)])

    with Writers(database.dsn, seed=7) as writers:
        writers.add("old", old, threads=2)
        writers.add("new", new, isolation="REPEATABLE READ")
        writers.wait_for(20)            # every one of them has done 20 more
        ...                             # what is under test
        with writers.paused():
            ...                         # nobody is inside a transaction
    report = writers.report             # complete once the block is left
    report.assert_only("40001")
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from psycopg import IsolationLevel

from tests.support.interleave import DEADLINE, Isolation, eventually

Connection = psycopg.Connection[tuple[Any, ...]]

#: One piece of an application's work, committed by its caller: (connection, random numbers, how manyth).
Work = Callable[[Connection, random.Random, int], object]

_LEVELS: Final[dict[Isolation, IsolationLevel]] = {
    "READ COMMITTED": IsolationLevel.READ_COMMITTED,
    "REPEATABLE READ": IsolationLevel.REPEATABLE_READ,
    "SERIALIZABLE": IsolationLevel.SERIALIZABLE,
}

#: What a disconnected client sees; it connects again.
_CONNECTION_LOST = "08006"


@dataclass(frozen=True, slots=True)
class WriteError:
    """One piece of work that failed.

    Parameters
    ----------
    writer: the writer's name.
    sqlstate: the server's code; ``08006`` where the connection was lost or could not be made.
    message: the server's words.
    at: seconds since the writers started.
    """

    writer: str
    sqlstate: str
    message: str
    at: float


@dataclass(slots=True)
class WriterReport:
    """What one thread did.

    Parameters
    ----------
    latencies: seconds of each piece of work that committed, its commit included.
    slowest_failed: the longest a failed one took, in seconds.
    """

    name: str
    latencies: list[float] = field(default_factory=list)
    errors: list[WriteError] = field(default_factory=list)
    slowest_failed: float = 0.0

    @property
    def count(self) -> int:
        """How many committed."""
        return len(self.latencies)


@dataclass(frozen=True, slots=True)
class Report:
    """What all threads did."""

    writers: tuple[WriterReport, ...]

    @property
    def count(self) -> int:
        """How many pieces of work committed."""
        return sum(writer.count for writer in self.writers)

    @property
    def errors(self) -> list[WriteError]:
        """All failures, in the order of time."""
        return sorted(
            (error for writer in self.writers for error in writer.errors), key=lambda error: error.at
        )

    @property
    def by_sqlstate(self) -> Counter[str]:
        """How often each SQLSTATE was met."""
        return Counter(error.sqlstate for error in self.errors)

    def of(self, name: str) -> Report:
        """The report of one application's threads only."""
        return Report(tuple(writer for writer in self.writers if writer.name == name))

    def slowest(self) -> float:
        """The longest anybody waited, in seconds, whether it failed or not."""
        times = [time_ for writer in self.writers for time_ in (*writer.latencies, writer.slowest_failed)]
        return max(times, default=0.0)

    def percentile(self, percent: float) -> float:
        """The latency in seconds that `percent` % of the committed work stayed at or below."""
        times = sorted(time_ for writer in self.writers for time_ in writer.latencies)
        return times[min(len(times) - 1, int(len(times) * percent / 100))] if times else 0.0

    def assert_only(self, *allowed: str) -> None:
        """Fail if work failed with any SQLSTATE but these (deadlocks are ``40P01``, serialization ``40001``)."""
        unexpected = [error for error in self.errors if error.sqlstate not in allowed]
        assert not unexpected, f"{len(unexpected)} writes failed, the first: {unexpected[:3]}"


class _Thread(threading.Thread):
    def __init__(
        self, writers: Writers, report: WriterReport, seed: str, dsn: str, isolation: Isolation, work: Work
    ) -> None:
        super().__init__(name=f"writer-{report.name}", daemon=True)
        self.report = report
        self.idle = threading.Event()
        self.failure: BaseException | None = None
        self._writers = writers
        self._rng = random.Random(seed)
        self._dsn = dsn
        self._isolation = isolation
        self._work = work
        self._connection: Connection | None = None

    def run(self) -> None:
        number = 0
        try:
            while not self._writers.stopping.is_set():
                if not self._writers.going.is_set():
                    self.idle.set()
                    self._writers.going.wait(0.1)
                    continue
                self.idle.clear()
                # Asked again: pausing waits for idle, so it must not be set while we work.
                if self._writers.going.is_set():
                    self._once(number)
                    number += 1
        except BaseException as error:  # noqa: BLE001  shown by stop(), in the thread of the test
            self.failure = error
        finally:
            self.idle.set()
            if self._connection is not None:
                self._connection.close()

    def _once(self, number: int) -> None:
        begin = time.perf_counter()
        try:
            connection = self._connected()
            self._work(connection, self._rng, number)
            if not connection.autocommit:
                connection.commit()
        except psycopg.Error as error:
            self._failed(error, begin)
        else:
            self.report.latencies.append(time.perf_counter() - begin)

    def _failed(self, error: psycopg.Error, begin: float) -> None:
        now = time.perf_counter()
        self.report.slowest_failed = max(self.report.slowest_failed, now - begin)
        self.report.errors.append(
            WriteError(
                writer=self.report.name,
                sqlstate=error.sqlstate or _CONNECTION_LOST,
                message=str(error).strip(),
                at=now - self._writers.began,
            )
        )
        connection = self._connection
        if connection is None:
            # The server is away: not a synchronisation, only politeness towards the processor.
            self._writers.stopping.wait(0.02)
        elif connection.closed or connection.broken:
            connection.close()
            self._connection = None
        else:
            try:
                connection.rollback()
            except psycopg.Error:
                connection.close()
                self._connection = None

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = psycopg.connect(self._dsn, application_name=self.report.name, connect_timeout=10)
            connection.isolation_level = _LEVELS[self._isolation]
            self._connection = connection
        return self._connection


class Writers:
    """Threads that repeat a piece of work, each on its own connection, until stopped.

    Parameters
    ----------
    dsn: where they write, unless :meth:`add` says otherwise.
    seed: decides all random numbers; thread i of application n always gets the same.
    """

    def __init__(self, dsn: str, *, seed: int = 0) -> None:
        self.began = time.perf_counter()
        self.stopping = threading.Event()
        self.going = threading.Event()
        self.going.set()
        self._dsn = dsn
        self._seed = seed
        self._threads: list[_Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            # The test has failed already; its own error is the one to show.
            with contextlib.suppress(AssertionError):
                self.stop()

    def add(
        self,
        name: str,
        work: Work,
        *,
        threads: int = 1,
        isolation: Isolation = "READ COMMITTED",
        dsn: str | None = None,
    ) -> None:
        """Start threads of one application.

        Parameters
        ----------
        name: the ``application_name``, and the name in the report.
        work: what is repeated. Its transaction is committed after it; on a psycopg error it is rolled back, the
            error recorded, and the next piece begins. Any other exception ends the thread and fails the test.
        """
        for index in range(threads):
            thread = _Thread(
                self, WriterReport(name), f"{self._seed}:{name}:{index}", dsn or self._dsn, isolation, work
            )
            self._threads.append(thread)
            thread.start()

    def wait_for(self, more: int, *, name: str | None = None, seconds: float = DEADLINE) -> None:
        """Wait until every thread (of one application) has committed `more` pieces of work from now on."""
        goals = [
            (thread, thread.report.count + more)
            for thread in self._threads
            if name is None or thread.report.name == name
        ]
        assert goals, f"there is no writer {name!r}"

        def reached() -> bool:
            self._check()
            return all(thread.report.count >= goal for thread, goal in goals)

        eventually(reached, seconds=seconds, what=f"{more} more writes by each of {len(goals)} writers")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While the block runs, no writer is inside a transaction."""
        self.going.clear()
        try:
            for thread in self._threads:
                assert thread.idle.wait(DEADLINE), f"{thread.name} did not come to rest"
            self._check()
            yield
        finally:
            for thread in self._threads:
                thread.idle.clear()
            self.going.set()

    def stop(self) -> Report:
        """Let every thread finish its piece of work, and end it. May be called again.

        Raises
        ------
        AssertionError: a thread does not end, or ended by an exception that is not the database's.
        """
        self.stopping.set()
        self.going.set()
        deadline = time.monotonic() + DEADLINE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"{thread.name} did not end within {DEADLINE:g} s"
        self._check()
        return self.report

    @property
    def report(self) -> Report:
        """What happened so far; complete after :meth:`stop`."""
        return Report(tuple(thread.report for thread in self._threads))

    def _check(self) -> None:
        for thread in self._threads:
            if thread.failure is not None:
                raise AssertionError(f"{thread.name} died: {thread.failure!r}") from thread.failure
