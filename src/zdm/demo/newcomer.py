"""The new application: it knows only the new version's schema, and keeps account of all it did."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import psycopg

SCHEMA = "public_widen_balance"
FIRST_AID = 1_000_000_000
"""Its own accounts are numbered from here, far from pgbench's."""


class Newcomer:
    """Writers through the new version's schema, on connections of their own.

    While rows may be unfilled it inserts, and updates what it inserted; once both sides agree (`free`) it also adds to
    balances of any account, as pgbench does. All amounts are whole, so the books can be balanced to the cent at the end.
    """

    def __init__(self, dsn: str, rows: int, threads: int = 2) -> None:
        self.dsn, self.rows = dsn, rows
        self.added = 0
        self.inserted = 0
        self.transactions = 0
        self.errors: list[str] = []
        self.retried = 0
        self._free = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._next = FIRST_AID
        self._count = threads
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """The new application is deployed."""
        self._stop.clear()
        self._free.clear()
        self._threads = [
            threading.Thread(target=self._work, args=(seed,), name=f"new-{seed}", daemon=True)
            for seed in range(self._count)
        ]
        for thread in self._threads:
            thread.start()

    def free(self) -> None:
        """From here on it may compute from every row's new columns."""
        self._free.set()

    def stop(self) -> None:
        """The new application is taken back."""
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def _work(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - a load, not a secret
        mine: list[int] = []
        with psycopg.connect(self.dsn, autocommit=True, application_name="new application") as conn:
            while not self._stop.is_set():
                try:
                    self._once(conn, rng, mine)
                except psycopg.errors.SerializationFailure:
                    self.retried += 1
                except psycopg.Error as error:
                    self.errors.append(f"{error.sqlstate}: {str(error).splitlines()[0]}")
                    if conn.closed:
                        return
                time.sleep(0.01)  # an application that thinks; not a synchronisation

    def _once(self, conn: psycopg.Connection[Any], rng: random.Random, mine: list[int]) -> None:
        choice = rng.random()
        amount = rng.randint(1, 100)
        if not mine or choice < 0.3:
            with self._lock:
                self._next += 1
                aid = self._next
            conn.execute(
                f"INSERT INTO {SCHEMA}.pgbench_accounts (aid, bid, abalance, note, tag) VALUES (%s, 1, %s, 'new', 'demo')",  # noqa: S608
                (aid, amount),
            )
            mine.append(aid)
            with self._lock:
                self.inserted += 1
                self.added += amount
        elif choice < 0.4:
            conn.execute(
                f"UPDATE {SCHEMA}.pgbench_accounts SET note = %s WHERE aid = %s",  # noqa: S608
                (f"note {amount}", rng.choice(mine)),
            )
        else:
            aid = rng.randint(1, self.rows) if self._free.is_set() and choice < 0.8 else rng.choice(mine)
            conn.execute(
                f"UPDATE {SCHEMA}.pgbench_accounts SET abalance = abalance + %s WHERE aid = %s",  # noqa: S608
                (amount, aid),
            )
            with self._lock:
                self.added += amount
        with self._lock:
            self.transactions += 1
