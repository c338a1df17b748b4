"""All signals together: whether to go on, and what for to wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import psycopg

from zdm.errors import ZdmError
from zdm.throttle.base import Reading, Signal, signals
from zdm.throttle.duty import rest
from zdm.throttle.settings import ThrottleSettings

READ_EVERY = 1.0
WAIT = 0.5


class _Settings(Protocol):
    @property
    def replicas(self) -> tuple[str, ...]: ...

    @property
    def throttle(self) -> ThrottleSettings: ...


@dataclass(frozen=True, slots=True)
class Pause:
    """How long to wait, and for what; zero seconds to go on."""

    seconds: float
    reason: str = ""


class Governor:
    """Asked before each chunk, by several threads; reads the signals at most once a second on a connection of its own.

    Parameters
    ----------
    settings: the limits; or the engine's settings, whose replicas are looked at unless the limits name some.
    """

    def __init__(
        self, connect: Callable[[], psycopg.Connection[Any]], settings: _Settings | ThrottleSettings
    ) -> None:
        limits = settings if isinstance(settings, ThrottleSettings) else settings.throttle
        if not limits.replicas:
            limits = limits.model_copy(update={"replicas": settings.replicas})
        self._connect = connect
        self._nice = limits.nice
        self._signals: list[Signal] = [s for kind in signals() if (s := kind.configured(limits)) is not None]
        self._lock = threading.Lock()
        self._conn: psycopg.Connection[Any] | None = None
        self._read_at: float | None = None
        self._readings: dict[str, Reading] = {}

    def pause(self, last: float) -> Pause:
        """What to do after a chunk of `last` seconds (zero: none since the last question)."""
        against = [reading for reading in self.readings().values() if not reading.ok]
        if against:
            return Pause(WAIT, "; ".join(reading.text for reading in against))
        seconds = rest(self._nice, last)
        return Pause(seconds, f"resting {self._nice:g} times as long as working" if seconds else "")

    def readings(self) -> dict[str, Reading]:
        """The latest reading of each signal, at most a second old."""
        with self._lock:
            now = time.monotonic()
            if self._signals and (self._read_at is None or now - self._read_at >= READ_EVERY):
                self._readings = self._read()
                self._read_at = time.monotonic()
            return dict(self._readings)

    def _read(self) -> dict[str, Reading]:
        try:
            if self._conn is None or self._conn.closed or self._conn.broken:
                self._conn = self._connect()
        except (psycopg.Error, ZdmError) as error:
            why = f"the server does not answer: {' '.join(str(error).split())}"
            return {signal.name: Reading(None, 0.0, ok=False, text=why) for signal in self._signals[:1]}
        return {signal.name: signal.look(self._conn) for signal in self._signals}

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            if self._conn is not None:
                self._conn.close()
                self._conn = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
