"""Replication slots: WAL and xmin that they hold back, and logical consumers that see our rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot. `retained_bytes` is WAL kept for it; None if it keeps none yet."""

    name: str
    kind: str  # "physical" or "logical"
    plugin: str
    database: str
    active: bool
    retained_bytes: int | None
    wal_status: str


def slots(conn: psycopg.Connection[Any]) -> tuple[Slot, ...]:
    """Every replication slot of the server, by name."""
    raise NotImplementedError
