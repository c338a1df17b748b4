"""VACUUM while the backfill runs: each filled row leaves its old version behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql

from zdm.backfill.options import VacuumPolicy
from zdm.backfill.table import Shape
from zdm.model.mapping import TableMapping
from zdm.sql.identifiers import qualified_name


class Vacuumer:
    """Vacuums the table in a thread and connection of its own each time another share of it is done.

    Never with truncation, whose ACCESS EXCLUSIVE lock would stall everybody; and never waiting for somebody else's vacuum.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        mapping: TableMapping,
        policy: VacuumPolicy,
        found: Sequence[Shape],
        note: Callable[[str], None],
    ) -> None:
        self.runs = 0
        self._connect = connect
        self._mapping = mapping
        self._note = note
        self._every = policy.every if sum(one.bytes for one in found) >= policy.from_bytes else 0.0
        self._next = self._every
        self._due = threading.Event()
        self._over = False
        self._conn: psycopg.Connection[Any] | None = None
        self._thread: threading.Thread | None = None

    def reached(self, share: float) -> None:
        """So much of the table is done."""
        if self._every and share >= self._next and share < 1:
            self._next = share + self._every
            self._due.set()

    def __enter__(self) -> Self:
        if self._every:
            self._thread = threading.Thread(target=self._run, name="backfill-vacuum", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._due.set()
        # What is left to vacuum is autovacuum's; nobody waits for it at the end.
        while self._thread is not None and self._thread.is_alive():
            conn = self._conn
            if conn is not None and not conn.closed:
                conn.cancel_safe(timeout=5)
            self._thread.join(0.5)

    def _run(self) -> None:
        try:
            self._conn = self._connect()
            try:
                while self._due.wait() and not self._over:
                    self._due.clear()
                    self._vacuum(self._conn)
            finally:
                self._conn.close()
        except psycopg.errors.QueryCanceled:
            return
        except Exception as error:  # noqa: BLE001  # an aid that fails must not stop the work
            self._note(f"{self._mapping.table} is not vacuumed meanwhile: {str(error).strip()}")

    def _vacuum(self, conn: psycopg.Connection[Any]) -> None:
        conn.execute(
            sql.SQL("VACUUM (TRUNCATE false, SKIP_LOCKED true) {}").format(
                qualified_name(self._mapping.table)
            )
        )
        self.runs += 1
