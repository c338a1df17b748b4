"""Lock-safe DDL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from psycopg import sql

from zdm.db.probes.blockers import Blocker
from zdm.db.session import Connection, OutcomeUnknown
from zdm.model.step import TableLock

__all__ = ["LockBudget", "OutcomeUnknown", "WaitReport", "run_concurrently", "run_locked", "run_scan"]


@dataclass(frozen=True, slots=True)
class LockBudget:
    timeout: timedelta = timedelta(milliseconds=100)
    hold: timedelta = timedelta(milliseconds=1000)
    attempts: int = 30
    max_wait: timedelta = timedelta(minutes=5)
    holder_age: timedelta = timedelta(milliseconds=200)


@dataclass(frozen=True, slots=True)
class WaitReport:
    """What we are waiting for, for people: told before each wait, at most about once a second while it lasts."""

    reason: str  # "older transaction", "lock timeout", "deadlock", "autovacuum", "older snapshots", "too long under lock"
    attempt: int
    waited: timedelta
    sleeping: timedelta
    blockers: tuple[Blocker, ...] = field(default=())


def run_locked(
    conn: Connection,
    statements: Sequence[str | sql.Composable],
    locks: Sequence[TableLock],
    budget: LockBudget = LockBudget(),
    before_commit: Callable[[Connection], None] | None = None,
    on_wait: Callable[[WaitReport], None] | None = None,
) -> None:
    raise NotImplementedError


def run_concurrently(
    conn: Connection,
    statement: str | sql.Composable,
    done_when: str | sql.Composable,
    cleanup: Sequence[str | sql.Composable] = (),
    on_wait: Callable[[WaitReport], None] | None = None,
) -> bool:
    """Run a statement that refuses a transaction (CREATE INDEX CONCURRENTLY); False if `done_when` held already."""
    raise NotImplementedError


def run_scan(
    conn: Connection,
    statement: str | sql.Composable,
    done_when: str | sql.Composable,
    locks: Sequence[TableLock] = (),
    budget: LockBudget = LockBudget(),
    before_commit: Callable[[Connection], None] | None = None,
    on_wait: Callable[[WaitReport], None] | None = None,
) -> bool:
    """Run one long statement under a weak lock (VALIDATE CONSTRAINT) in its own transaction; False if done already."""
    raise NotImplementedError
