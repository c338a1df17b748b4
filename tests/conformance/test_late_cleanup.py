"""What either version still writes while cleanup is under way: the new one's stays as it was written, the old one's is carried over or refused."""

from __future__ import annotations

import psycopg.errors as pg
import pytest

from tests.conformance.harness import Rollout
from tests.conformance.late import Late
from tests.conformance.test_operations import SCENARIOS
from tests.support.servers import Database
from zdm.engine import executor
from zdm.errors import Busy
from zdm.model.phases import State
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


class LateInCleanup(Late):
    """The old version loses its structure, and what the new one sees is as it wrote it."""

    ended = (pg.UndefinedFunction, pg.UndefinedTable, Busy)

    def __init__(self, rollout: Rollout) -> None:
        super().__init__(rollout)
        self.views = [
            str(view)
            for (view,) in rollout.database.execute(
                "SELECT format('%I.%I', schemaname, viewname) FROM pg_views WHERE schemaname = 'public_try_it' ORDER BY 1"
            )
        ]
        self.carried = [
            text
            for text in rollout.scenario.old_writes
            if text not in SAME_AGAIN and self.changed(text, ["public"])
        ]
        self.last = self.seen()

    def seen(self) -> list[object]:
        # The marker, which its view may show, goes in the middle of it.
        return [
            self.rollout.database.value(
                f"SELECT md5(string_agg(r, ' ' ORDER BY r)) FROM (SELECT (to_jsonb(t) - '_zdm_state')::text AS r FROM {view} AS t) AS x"
            )
            for view in self.views
        ]

    def turn(self, where: str) -> None:
        if self.seen() != self.last:
            self.lost.append(f"{where}: what the new version sees was changed by zdm")
        for text in self.rollout.scenario.new_writes:
            self.succeed(text, self.rollout.new_path, where)
        for text in self.carried:
            self.carry(text, ["public"], where)
        self.reconcile()
        self.last = self.seen()


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
    late = LateInCleanup(rollout)
    monkeypatch.setattr(executor, "run_locked", late.run_locked)
    rollout.advance_to(State.COMPLETED)
    assert late.transactions
    assert (late.lost, late.failed) == ([], [])
    assert late.seen() == late.last
    rollout.nothing_left()
    left = "SELECT proname FROM pg_proc WHERE pronamespace = 'zdm'::regnamespace AND proname LIKE 'closed%'"
    assert database.execute(left) == []


def test_the_short_ones_exist() -> None:
    assert set(SHORT) <= {parameter.id for parameter in SCENARIOS}
