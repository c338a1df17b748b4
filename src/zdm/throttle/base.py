"""What a signal is, and how signals are found: one file each in this package, nothing else to edit."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import psycopg

from zdm.errors import ZdmError
from zdm.throttle.settings import ThrottleSettings


@dataclass(frozen=True, slots=True)
class Reading:
    """What a signal saw.

    Parameters
    ----------
    value: in the signal's unit; None if it could not be read, which is never `ok`.
    limit: above it the work waits.
    text: for people, with units, value and limit in it.
    """

    value: float | None
    limit: float
    ok: bool
    text: str


def unreadable(limit: float, why: str) -> Reading:
    """What could not be read throttles: silence is not health."""
    return Reading(None, limit, ok=False, text=why)


class Signal(ABC):
    """One reason to slow down."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def configured(cls, settings: ThrottleSettings) -> Signal | None:
        """The signal with its limits, or None if the settings do without it."""

    @abstractmethod
    def read(self, conn: psycopg.Connection[Any]) -> Reading:
        """Look. May raise `psycopg.Error` or `ZdmError`, which counts as unreadable."""

    def look(self, conn: psycopg.Connection[Any]) -> Reading:
        """`read`, with what it raises as a reading."""
        try:
            return self.read(conn)
        except (psycopg.Error, ZdmError) as error:
            return unreadable(0.0, f"{self.name} cannot be read: {' '.join(str(error).split())}")


@cache
def signals() -> tuple[type[Signal], ...]:
    """Every signal of the package, by name."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")
    found = (signal for signal in Signal.__subclasses__() if signal.__module__.startswith(f"{__package__}."))
    return tuple(sorted(found, key=lambda signal: signal.name))
