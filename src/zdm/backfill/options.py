"""What a caller decides about a backfill, what it is told while it runs, and what it gets at the end."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg

from zdm.errors import BadInput

GIGABYTE = 1 << 30


@dataclass(frozen=True, slots=True)
class VacuumPolicy:
    """How often the table is vacuumed meanwhile, so that the space of the rewritten rows is used again.

    Parameters
    ----------
    every: after which share of the table, 0 for never. Measured: the table grows to 2.05 times its size without, to 1.15
        times with one every tenth.
    from_bytes: smaller tables are left to autovacuum.
    """

    every: float = 0.1
    from_bytes: int = GIGABYTE

    @classmethod
    def parse(cls, text: str) -> VacuumPolicy:
        """``auto`` (every 10 % where the table has 1 GB or more), ``off``, or a share such as ``5%`` whatever the size."""
        if text == "auto":
            return cls()
        if text == "off":
            return cls(every=0)
        share = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text)
        if share is None or not 0 < float(share[1]) <= 100:
            raise BadInput(
                f"{text!r} is not a vacuum policy", remedy="Write auto, off, or a share such as 10%."
            )
        return cls(every=float(share[1]) / 100, from_bytes=0)


@dataclass(frozen=True, slots=True)
class Options:
    """The knobs of a backfill.

    Parameters
    ----------
    workers: contiguous parts that are worked on at a time, each on its own connection.
    lock_budget: the longest that a statement of the applications may wait for us. A chunk aims at half of it, because they
        may wait for its row locks until it commits; it is cut off by the server when it takes nine tenths.
    first_rows / most_rows: rows of the first chunk, and the most that one may have.
    lock_patience: how long rows that somebody keeps locked are waited for at the end.
    reconnects: how often in a row a worker connects again after its connection was lost.
    again: go over a table whose backfill is finished once more, to try failed rows again; voids its verifications.
    """

    workers: int = 1
    lock_budget: timedelta = timedelta(milliseconds=100)
    first_rows: int = 1000
    most_rows: int = 50_000
    vacuum: VacuumPolicy = field(default_factory=VacuumPolicy)
    lock_patience: timedelta = timedelta(minutes=5)
    reconnects: int = 5
    again: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 64:
            raise BadInput(f"{self.workers} workers are not possible; choose 1 to 64")
        if self.lock_budget < timedelta(milliseconds=10):
            raise BadInput(
                "a lock budget below 10ms leaves no time to do anything", remedy="Allow at least 10ms."
            )

    @property
    def target(self) -> float:
        """Seconds that a chunk aims at."""
        return self.lock_budget.total_seconds() / 2

    @property
    def lock_timeout(self) -> timedelta:
        """How long a chunk waits for one row that somebody else holds, while it holds others itself."""
        return self.lock_budget / 4

    @property
    def statement_timeout(self) -> timedelta:
        """When the server cuts a chunk off: all its waits and its work together stay below the budget."""
        return self.lock_budget * 0.9


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backfill is.

    Parameters
    ----------
    rows: settled by this run.
    total: estimated rows of the table; None while there is nothing to estimate from.
    fraction: of the table's blocks that are done, runs before this one included.
    rate: rows a second, smoothed; None at the beginning.
    eta: seconds that are left at this speed.
    sweeping: the ranges are done and the table is looked through once more.
    waiting: why nothing moves at present; empty if it does.
    """

    rows: int
    total: float | None
    fraction: float
    rate: float | None
    eta: float | None
    pass_no: int
    sweeping: bool = False
    waiting: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """What a throttle answers: pause for so long, and why. Zero seconds: go on."""

    seconds: float
    reason: str = ""


def _go(_: float) -> Wait:
    return Wait(0.0)


def _never(_: psycopg.Connection[Any]) -> bool:
    return False


def _ignore(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a backfill asks and tells between its chunks. All are called from several threads.

    Parameters
    ----------
    guard: called in every writing transaction before its work; raises if the lease is lost.
    paused: asked about once a second on a connection of the backfill's own, outside a transaction.
    throttle: asked before each chunk, given the seconds that the last one took; answers how many seconds to wait, and why.
        It is asked again after that wait, with zero, until it answers zero.
    progress: told a few times a second, never from two threads at once.
    note: something that a person should read once.
    stop: when set, the backfill ends after the chunk it is in.
    """

    guard: Callable[[psycopg.Cursor[Any]], None] = _ignore
    paused: Callable[[psycopg.Connection[Any]], bool] = _never
    throttle: Callable[[float], Wait] = _go
    progress: Callable[[Progress], None] = _ignore
    note: Callable[[str], None] = _ignore
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class Result:
    """What one run did. `complete` is False only if it was stopped."""

    complete: bool = False
    rows: int = 0
    chunks: int = 0
    swept: int = 0
    split: int = 0
    """Chunks given up and repeated in smaller pieces, because of somebody's row lock or because they took too long."""
    careful: int = 0
    """Chunks repeated through the triggers, because an expression raised in them."""
    retried: int = 0
    vacuums: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    passes: int = 1
    longest_chunk: float = 0.0
