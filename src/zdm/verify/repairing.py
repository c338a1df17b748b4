"""Running repairs: a few rows in a transaction; where one of them cannot be repaired, the others are all the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from zdm.db.session import transaction
from zdm.errors import Busy
from zdm.model.row_mapping import RowMapping
from zdm.sql.identifiers import all_of
from zdm.verify.statements import of_a_row

ROWS = 200
"""Rows of one transaction."""
TOLD = 3
"""Reasons why rows could not be repaired, of which the person is told."""


@dataclass(frozen=True, slots=True)
class Repair:
    """Rows that are wrong, and what makes them right.

    Parameters
    ----------
    source: what they are read from, as FROM has it.
    alias: of the rows among that which are gone through.
    wrong: the condition that they meet.
    making: makes some of those right that meet a condition.
    settings: of its transaction.
    asks: what is made right asks itself whether it is wrong, cheaper than `wrong` can.
    name: what tells one of the rows from the others, where they are no table's.
    """

    source: sql.Composable
    alias: str
    wrong: sql.Composable
    making: Callable[[sql.Composable], sql.Composed]
    settings: Mapping[str, str] | None = None
    asks: bool = False
    name: sql.Composable | None = None

    @property
    def every(self) -> sql.Composed:
        """What makes some of them right."""
        return self.making(self.wrong)

    @property
    def count(self) -> sql.Composed:
        """A SELECT of how many there are."""
        return sql.SQL("SELECT pg_catalog.count(*) FROM {} WHERE {}").format(self.source, self.wrong)

    @property
    def names(self) -> sql.Composed:
        """A SELECT of what tells each of them from the others, as text."""
        return sql.SQL("SELECT DISTINCT {} FROM {} WHERE {}").format(self._name, self.source, self.wrong)

    def some(self, names: Sequence[str]) -> sql.Composed:
        """What makes these right, if they are still there and wrong."""
        found: list[sql.Composable] = [
            sql.SQL("{} OPERATOR(pg_catalog.=) ANY ({})").format(self._name, sql.Literal(list(names)))
        ]
        if self.name is None:
            places = [name.split(" ")[1] for name in names]
            found.insert(
                0,
                sql.SQL("{}.ctid OPERATOR(pg_catalog.=) ANY ({}::pg_catalog.tid[])").format(
                    sql.Identifier(self.alias), sql.Literal(places)
                ),
            )
        if not self.asks:
            found.append(self.wrong)
        return self.making(all_of(found))

    @property
    def _name(self) -> sql.Composable:
        if self.name is not None:
            return self.name
        return sql.SQL("pg_catalog.concat({0}.tableoid, ' ', {0}.ctid)").format(sql.Identifier(self.alias))


@dataclass(frozen=True, slots=True)
class Repairs:
    """Runs them on one mapping.

    Parameters
    ----------
    guard: called in each transaction before its work; raises if the lease is lost.
    note: told why rows could not be repaired.
    """

    conn: psycopg.Connection[Any]
    mapping: RowMapping
    guard: Callable[[psycopg.Cursor[Any]], None]
    note: Callable[[str], None]
    lock_budget: timedelta
    patience: timedelta

    def run(self, repairs: Iterable[Repair]) -> int:
        """Run each as often as it can have something to do: a row can stay wrong whatever is done. Returns how many rows were tried."""
        return sum(self._run(repair) for repair in repairs)

    def _run(self, repair: Repair) -> int:
        with transaction(self.conn, read_only=True):
            row = self.conn.execute(repair.count).fetchone()
        left, total = int(row[0]) if row else 0, 0
        while left > 0:
            try:
                total += self._some(repair.every, repair.settings)
            except psycopg.Error as error:
                if not of_a_row(error):
                    raise
                return total + self._apart(repair)
            left -= ROWS
        return total

    def _apart(self, repair: Repair) -> int:
        """Rows of which some cannot be repaired: they are left, for the verification to name. One may wait for another to let go of a value."""
        with transaction(self.conn, read_only=True):
            names = [name for (name,) in self.conn.execute(repair.names).fetchall()]
        total = 0
        while True:
            refused: dict[str, str] = {}
            for begin in range(0, len(names), ROWS):
                total += self._halved(repair, names[begin : begin + ROWS], refused)
            if not refused or len(refused) == len(names):
                break
            names = list(refused)
        reasons = list(dict.fromkeys(refused.values()))
        for reason in reasons[:TOLD]:
            self.note(f"{self.mapping.id}: not repaired: {reason}")
        if len(reasons) > TOLD:
            self.note(f"{self.mapping.id}: {len(refused)} rows were not repaired")
        return total

    def _halved(self, repair: Repair, names: Sequence[str], refused: dict[str, str]) -> int:
        try:
            return self._some(repair.some(names), repair.settings)
        except psycopg.Error as error:
            if not of_a_row(error):
                raise
            if len(names) == 1:
                refused[names[0]] = error.diag.message_primary or str(error).strip()
                return 0
        middle = len(names) // 2
        return sum(self._halved(repair, part, refused) for part in (names[:middle], names[middle:]))

    def _some(self, statement: sql.Composed, settings: Mapping[str, str] | None) -> int:
        deadline = time.monotonic() + self.patience.total_seconds()
        while True:
            try:
                with transaction(
                    self.conn, lock_timeout=self.lock_budget / 2, settings=settings, path=self.mapping.path
                ):
                    self.guard(self.conn.cursor())
                    return self.conn.execute(statement).rowcount
            except (pg.LockNotAvailable, pg.DeadlockDetected, pg.SerializationFailure) as error:
                if time.monotonic() >= deadline:
                    raise Busy(
                        f"rows of {self.mapping.id} that need repair have been locked for "
                        f"{self.patience.total_seconds():.0f} s",
                        remedy="Let the transaction that holds them end, and run again.",
                    ) from error
            time.sleep(random.uniform(0.005, 0.1))  # noqa: S311  # jitter
