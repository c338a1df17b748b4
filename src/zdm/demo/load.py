"""The old application: pgbench, unmodified, with its own TPC-B-like script; and what its log says about latency."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from zdm.devdb import DevServer

CLIENTS = 4
RATE = 200
"""Transactions a second that the four clients are offered together: a busy application that leaves the machine room."""

_PROGRESS = re.compile(r"progress: .*?, (\d+) failed")


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of a window, in milliseconds; None where the window saw nothing."""

    p50: float | None
    p99: float | None
    max: float | None
    count: int


def latency_of(milliseconds: list[float]) -> Latency:
    """Percentiles by nearest rank."""
    found = sorted(milliseconds)
    if not found:
        return Latency(None, None, None, 0)

    def rank(share: float) -> float:
        return round(found[min(len(found) - 1, int(share * len(found)))], 3)

    return Latency(rank(0.50), rank(0.99), round(found[-1], 3), len(found))


class Pgbench:
    """A running pgbench. Its failed transactions are counted as it reports them, its latencies read from its log."""

    def __init__(self, server: DevServer, database: str, directory: Path) -> None:
        self._prefix = directory / "pgbench_log"
        self._failed = 0
        self._complaints: list[str] = []
        self._process = server.start_client(
            [
                "pgbench",
                "--no-vacuum",
                "--builtin=tpcb-like",
                f"--client={CLIENTS}",
                f"--rate={RATE}",
                "--time=3600",
                "--progress=1",
                "--log",
                f"--log-prefix={self._prefix}",
                database,
            ],
            dbname=database,
        )
        self._reader = threading.Thread(target=self._read, name="pgbench", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            progress = _PROGRESS.search(line)
            if progress:
                self._failed += int(progress[1])
            elif "error" in line.lower() or "aborted" in line:
                self._complaints.append(line.strip())

    @property
    def errors(self) -> int:
        """Failed transactions, and clients that gave up."""
        return self._failed + len(self._complaints)

    @property
    def complaints(self) -> list[str]:
        """What pgbench complained about."""
        return list(self._complaints)

    def stop(self) -> None:
        """End it. Whether it was still running at all is part of the result."""
        if self._process.poll() is not None:
            self._complaints.append(f"pgbench ended by itself with {self._process.returncode}")
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)

    def transactions(self) -> list[tuple[float, float]]:
        """(end as seconds since the epoch, milliseconds) of every logged transaction."""
        found: list[tuple[float, float]] = []
        for path in sorted(self._prefix.parent.glob(f"{self._prefix.name}.*")):
            # The last line may be cut off: pgbench writes its log in blocks.
            for line in path.read_text(encoding="utf-8").splitlines()[:-1]:
                fields = line.split()
                if len(fields) >= 6 and fields[2].isdigit():
                    # With --rate the time counts from when the transaction was due; what it waited for a client is not ours.
                    lag = int(fields[6]) if len(fields) > 6 else 0
                    found.append((int(fields[4]) + int(fields[5]) / 1e6, (int(fields[2]) - lag) / 1000))
        return found


def window(transactions: list[tuple[float, float]], begin: float, end: float) -> Latency:
    """The latency of transactions that ended in a window of time."""
    return latency_of([ms for at, ms in transactions if begin <= at < end])
