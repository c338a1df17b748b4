"""Counts what the workers do, tells it, and makes them wait where somebody asks for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from zdm.backfill.options import Hooks, Progress, Result
from zdm.backfill.worker import Stopped
from zdm.catalog.backfills import BackfillState

TELL_EVERY = 0.2
ASK_PAUSED_EVERY = 1.0
LOOK_EVERY = 0.5
"""How soon a wait notices that another worker failed."""
SMOOTHING = 5.0
"""Seconds over which the speed is averaged, later ones counting more."""


class Tracker:
    """Shared by all workers of one pass.

    Parameters
    ----------
    total: estimated rows of the table, None if unknown.
    """

    def __init__(self, hooks: Hooks, result: Result, state: BackfillState, total: float | None) -> None:
        self.abort = threading.Event()
        self._hooks = hooks
        self._result = result
        self._total = total
        self._pass_no = state.pass_no
        self._blocks = max(1, state.total_blocks)
        self._done_blocks = state.done_blocks
        self._lock = threading.Lock()
        self._told = 0.0
        self._asked: dict[int, float] = {}
        self._mark = time.monotonic()
        self._since_mark = 0
        self._speed: float | None = None
        self._sweeping = False
        self._on_share: Callable[[float], None] = lambda _: None

    def on_share(self, call: Callable[[float], None]) -> None:
        """Have `call` told the share of the table that is done, after each chunk."""
        self._on_share = call

    # --- what the workers tell --------------------------------------------------------------------------------------

    def settled(self, rows: int, blocks: int, seconds: float) -> None:
        with self._lock:
            result = self._result
            result.rows += rows
            result.chunks += 1
            result.swept += rows if self._sweeping else 0
            result.longest_chunk = max(result.longest_chunk, seconds)
            if not self._sweeping:
                self._done_blocks += blocks
            self._since_mark += rows
            share = min(1.0, self._done_blocks / self._blocks)
            self._measure()
            self._tell()
        self._on_share(share)

    def split(self) -> None:
        with self._lock:
            self._result.split += 1

    def careful(self, error: Exception) -> None:
        with self._lock:
            self._result.careful += 1
            first = self._result.careful == 1
        if first:
            text = error.diag.message_primary if isinstance(error, psycopg.Error) else None
            self._hooks.note(
                f"an expression raised ({text or error}); rows it cannot map are recorded one by one"
            )

    def retried(self) -> None:
        with self._lock:
            self._result.retried += 1

    def sweeping(self) -> None:
        """The ranges are done."""
        with self._lock:
            self._sweeping = True
            self._done_blocks = self._blocks
            self._tell(force=True)

    def finished(self) -> None:
        """Nothing is left."""
        with self._lock:
            self._tell(force=True)

    # --- what makes them wait ---------------------------------------------------------------------------------------

    def between_chunks(self, conn: psycopg.Connection[Any], last: float) -> None:
        self.check()
        me = threading.get_ident()
        if time.monotonic() - self._asked.get(me, -math.inf) >= ASK_PAUSED_EVERY:
            while self._hooks.paused(conn):
                self.wait(ASK_PAUSED_EVERY, "paused by a person")
            self._asked[me] = time.monotonic()
        while True:
            asked = self._hooks.throttle(last)
            if asked.seconds <= 0:
                return
            self.wait(asked.seconds, asked.reason)
            last = 0.0  # the chunk has been paid for

    def check(self) -> None:
        """Raise `Stopped` if it is time to end."""
        if self._hooks.stop.is_set() or self.abort.is_set():
            raise Stopped

    def wait(self, seconds: float, reason: str) -> None:
        """Wait, unless it is time to end."""
        begun = time.monotonic()
        with self._lock:
            self._tell(force=True, waiting=reason)
        while (left := begun + seconds - time.monotonic()) > 0:
            self._hooks.stop.wait(min(left, LOOK_EVERY))
            self.check()
        with self._lock:
            waited = time.monotonic() - begun
            self._result.waited += waited
            self._mark += waited  # a pause is not slowness

    # --- what is told -----------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        now = time.monotonic()
        passed = now - self._mark
        if passed < TELL_EVERY:
            return
        speed = self._since_mark / passed
        weight = 1 - math.exp(-passed / SMOOTHING)
        self._speed = speed if self._speed is None else self._speed + weight * (speed - self._speed)
        self._mark, self._since_mark = now, 0

    def _tell(self, *, force: bool = False, waiting: str = "") -> None:
        now = time.monotonic()
        if not force and now - self._told < TELL_EVERY:
            return
        self._told = now
        fraction = min(1.0, self._done_blocks / self._blocks)
        total = self._total
        eta = None
        if self._speed and total:
            eta = (1 - fraction) * total / self._speed
        self._hooks.progress(
            Progress(
                rows=self._result.rows,
                total=total,
                fraction=fraction,
                rate=self._speed,
                eta=eta,
                pass_no=self._pass_no,
                sweeping=self._sweeping,
                waiting=waiting,
            )
        )
