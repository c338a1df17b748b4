"""What either version still writes while cleanup is under way: the new one's stays as it was written, the old one's is carried over or refused."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psycopg
import psycopg.errors as pg
import pytest
from psycopg import sql

from tests.conformance.harness import Rollout
from tests.conformance.test_operations import SCENARIOS
from tests.support.servers import Database
from zdm.db.locks import run_locked
from zdm.engine import executor
from zdm.errors import Busy
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario

#: Columns of one table and of two, a table that goes with its rows, several of them, one with a parent, and some by log.
SHORT = (
    "split_column",
    "collapse-4",
    "explode-2",
    "merge_tables",
    "merge_tables-1",
    "merge_tables-6",
    "normalise",
    "normalise-4",
    "split_table-1",
)

#: What the old version's statement would write is what is there: it says nothing whether it is carried over.
SAME_AGAIN = ("UPDATE events SET region = NULL WHERE id = {n} % 300 + 1",)


class Late:
    """Applications that are still at work: each of their statements before any transaction of cleanup.

    A statement of the old one that changed what the new version sees before cleanup began has to change it, or to fail.
    """

    def __init__(self, rollout: Rollout) -> None:
        self.rollout, scenario = rollout, rollout.scenario
        self.views = [
            str(view)
            for (view,) in rollout.database.execute(
                "SELECT format('%I.%I', schemaname, viewname) FROM pg_views WHERE schemaname = 'public_try_it' ORDER BY 1"
            )
        ]
        self.carried = [
            text for text in scenario.old_writes if text not in SAME_AGAIN and self.changed(text, ["public"])
        ]
        self.lost: list[str] = []
        self.failed: list[str] = []
        self.transactions = 0
        self.last = self.new_version()

    def new_version(self) -> list[object]:
        """What the new version sees; the marker, which its view may show, goes in the middle of it."""
        return [
            self.rollout.database.value(
                f"SELECT md5(string_agg(r, ' ' ORDER BY r)) FROM (SELECT (to_jsonb(t) - '_zdm_state')::text AS r FROM {view} AS t) AS x"
            )
            for view in self.views
        ]

    def write(self, text: str, path: Sequence[str]) -> int:
        names = sql.SQL(", ").join(map(sql.Identifier, path))
        with psycopg.connect(self.rollout.database.dsn) as connection:
            connection.execute(sql.SQL("SET LOCAL search_path = {}").format(names))
            return connection.execute(text.format(n=next(self.rollout.numbers)).encode()).rowcount

    def changed(self, text: str, path: Sequence[str]) -> bool | None:
        """Whether the statement changed what the new version sees; None if there was no row for it."""
        before = self.new_version()
        found = self.write(text, path)
        self.reconcile()
        return self.new_version() != before if found else None

    def reconcile(self) -> None:
        if self.rollout.scenario.sync is SyncMode.LOGGED:
            with suppress(pg.UndefinedFunction, pg.UndefinedTable, Busy):  # Of what has ended already.
                self.rollout.engine().reconcile("try_it")

    def run_locked(self, conn: Any, statements: Sequence[str], *args: Any, **options: Any) -> None:
        """In the place of the executor's own."""
        self.transactions += 1
        where = f"before {self.transactions}: {'; '.join(statements)[:300]}"
        if self.new_version() != self.last:
            self.lost.append(f"{where}: what the new version sees was changed by zdm")
        for text in self.rollout.scenario.new_writes:
            try:
                self.write(text, self.rollout.new_path)
            except psycopg.Error as error:
                self.failed.append(f"{where}: {text}: {error}")
        for text in self.carried:
            with suppress(psycopg.Error):  # It knows that nothing was written.
                # By chance it may write what the row has; the next number writes something else.
                if all(self.changed(text, ["public"]) is False for _ in range(2)):
                    self.lost.append(f"{where}: {text}")
        self.reconcile()
        self.last = self.new_version()
        run_locked(conn, statements, *args, **options)


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(
            *parameter.values,
            id=parameter.id,
            marks=() if parameter.id in SHORT else pytest.mark.soak,
        )
        for parameter in SCENARIOS
    ],
)
def test_late_writes_of_cleanup(
    database: Database, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = Rollout(database, scenario, compared=False)
    rollout.advance_to(State.SWITCHED_OVER)
    rollout.turns(State.SWITCHED_OVER)
    late = Late(rollout)
    monkeypatch.setattr(executor, "run_locked", late.run_locked)
    rollout.advance_to(State.COMPLETED)
    assert late.transactions
    assert (late.lost, late.failed) == ([], [])
    assert late.new_version() == late.last
    rollout.nothing_left()
    left = "SELECT proname FROM pg_proc WHERE pronamespace = 'zdm'::regnamespace AND proname LIKE 'closed%'"
    assert database.execute(left) == []


def test_the_short_ones_exist() -> None:
    assert set(SHORT) <= {parameter.id for parameter in SCENARIOS}
