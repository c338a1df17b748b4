"""Applications that are still at work while zdm takes structure away: each of their statements before any transaction of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

import psycopg
import psycopg.errors as pg
from psycopg import sql

from tests.conformance.harness import Rollout
from zdm.db.locks import run_locked
from zdm.model.row_mapping import SyncMode


class Late(ABC):
    """Both versions' statements; put `run_locked` in the place of the executor's own.

    A statement of the version that loses its structure, which changed what the other one sees before that began, has to change it, or to
    fail, until its end.
    """

    #: What reconciling may meet of a log that has ended.
    ended: ClassVar[tuple[type[Exception], ...]] = (pg.UndefinedFunction,)

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self.lost: list[str] = []
        self.failed: list[str] = []
        self.transactions = 0

    @abstractmethod
    def seen(self) -> list[object]:
        """What the version sees that stays."""

    @abstractmethod
    def turn(self, where: str) -> None:
        """Let both versions write."""

    def write(self, text: str, path: Sequence[str]) -> int:
        """Run a statement, and say how many rows it was about."""
        names = sql.SQL(", ").join(map(sql.Identifier, path))
        with psycopg.connect(self.rollout.database.dsn) as connection:
            connection.execute(sql.SQL("SET LOCAL search_path = {}").format(names))
            return connection.execute(text.format(n=next(self.rollout.numbers)).encode()).rowcount

    def reconcile(self) -> None:
        """Carry over what a log says."""
        if self.rollout.scenario.sync is SyncMode.LOGGED:
            with suppress(*self.ended):
                self.rollout.engine().reconcile("try_it")

    def changed(self, text: str, path: Sequence[str]) -> bool | None:
        """Whether the statement changed what is seen; None if there was no row for it."""
        before = self.seen()
        found = self.write(text, path)
        self.reconcile()
        return self.seen() != before if found else None

    def carry(self, text: str, path: Sequence[str], where: str) -> None:
        """Run a statement that has to be carried over; one that fails lets its application know that nothing was written."""
        with suppress(psycopg.Error):
            # By chance it may write what the row has; the next number writes something else.
            if all(self.changed(text, path) is False for _ in range(2)):
                self.lost.append(f"{where}: {text}")

    def succeed(self, text: str, path: Sequence[str], where: str) -> None:
        """Run a statement that must not notice anything."""
        try:
            self.write(text, path)
        except psycopg.Error as error:
            self.failed.append(f"{where}: {text}: {error}")

    def run_locked(self, conn: Any, statements: Sequence[str], *args: Any, **options: Any) -> None:
        """The executor's, after the applications."""
        self.transactions += 1
        self.turn(f"before {self.transactions}: {'; '.join(statements)[:300]}")
        run_locked(conn, statements, *args, **options)
