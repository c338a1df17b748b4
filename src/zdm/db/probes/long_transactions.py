"""Transactions that are open for long: they hold back vacuum, and CREATE INDEX CONCURRENTLY waits for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg


@dataclass(frozen=True, slots=True)
class LongTransaction:
    """One open (or prepared) transaction. `pid` is None for a prepared one, whose `name` is its gid."""

    pid: int | None
    name: str
    user: str
    state: str
    age: timedelta
    holds_xmin: bool


@dataclass(frozen=True, slots=True)
class LongTransactions:
    """What was found. `unreadable` says why not everybody's transactions could be seen; empty if they could."""

    found: tuple[LongTransaction, ...]
    unreadable: str = ""


def long_transactions(conn: psycopg.Connection[Any], older_than: timedelta) -> LongTransactions:
    """Transactions older than `older_than` in this database, oldest first; zdm's own session excluded."""
    raise NotImplementedError
