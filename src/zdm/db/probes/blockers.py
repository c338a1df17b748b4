"""Who holds, or waits for, a lock on a table that conflicts with one we want."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from zdm.model.step import TableLock


@dataclass(frozen=True, slots=True)
class Blocker:
    """One transaction in the way. Never carries query text: its literals may be secret.

    Parameters
    ----------
    pid: its backend, or None for a prepared transaction (then `application` is its gid).
    relation: the table it is in the way on.
    mode: its lock mode, as `pg_locks` names it.
    granted: it holds the lock; otherwise it waits for it, in the queue before us.
    kind: "client", "autovacuum", "wraparound vacuum", "prepared transaction", "logical apply" or other backend types.
    state: "active", "idle in transaction" …; "unknown" where our role may not see it.
    transaction_age / query_age: how long its transaction is open, its present (or last) query runs; None if not visible.
    """

    pid: int | None
    application: str
    user: str
    relation: str
    mode: str
    granted: bool
    kind: str
    state: str
    transaction_age: timedelta | None
    query_age: timedelta | None

    def __str__(self) -> str:
        raise NotImplementedError


def blockers(conn: psycopg.Connection[Any], locks: Sequence[TableLock]) -> tuple[Blocker, ...]:
    """Everybody whose lock conflicts with one of `locks`, oldest transaction first."""
    raise NotImplementedError
