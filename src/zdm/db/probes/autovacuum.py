"""Autovacuum (and manual VACUUM) at work on a table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from zdm.model.names import QualifiedName


@dataclass(frozen=True, slots=True)
class Vacuum:
    """One running vacuum or analyze. `wraparound`: it prevents transaction id wraparound and must not be cancelled."""

    pid: int
    automatic: bool
    wraparound: bool
    phase: str
    running: timedelta
    done: float | None  # share of heap blocks scanned


def vacuums(conn: psycopg.Connection[Any], table: QualifiedName) -> tuple[Vacuum, ...]:
    """What vacuums the table (or its TOAST table) right now."""
    raise NotImplementedError
