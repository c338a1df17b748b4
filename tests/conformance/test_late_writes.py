"""What either version still writes while a rollback is under way: nothing of the new one's is lost, and the old one never notices."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.conformance.harness import Rollout
from tests.conformance.late import Late
from tests.conformance.test_operations import SCENARIOS
from tests.support.servers import Database
from zdm.engine import executor
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.sample import Scenario

_COLUMNS = """
SELECT pg_catalog.format('%I', c.relname), pg_catalog.string_agg(pg_catalog.format('%I', a.attname), ', ' ORDER BY a.attnum)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::pg_catalog.regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY c.relname ORDER BY c.relname
"""

#: One of each kind of end: columns of the table, of another one, a table, two of them, one that several fill, one with a parent; and two of those synced by log.
SHORT = {
    ("split_column", "columns"),
    ("extract_json-1", "views"),
    ("collapse-1", "columns"),
    ("split_table-1", "columns"),
    ("merge_tables-2", "columns"),
    ("normalise", "views"),
    ("explode-2", "columns"),
    ("normalise-4", "views"),
    ("merge_tables-6", "columns"),
}


class LateInRollback(Late):
    """The new version loses its structure, and the old one must not notice."""

    def __init__(self, rollout: Rollout, columns: Sequence[tuple[str, str]]) -> None:
        super().__init__(rollout)
        self.columns = columns
        self.carried = [text for text in rollout.scenario.new_writes if self.changed(text, rollout.new_path)]
        self.last = self.seen()

    def seen(self) -> list[object]:
        return [
            self.rollout.database.value(
                f"SELECT md5(string_agg(r::text, ' ' ORDER BY r::text)) FROM (SELECT {columns} FROM {table}) AS r"
            )
            for table, columns in self.columns
        ]

    def turn(self, where: str) -> None:
        for text in self.carried:
            self.carry(text, self.rollout.new_path, where)
        for text in self.rollout.scenario.old_writes:
            self.succeed(text, ["public"], where)
        self.reconcile()
        self.last = self.seen()


@pytest.mark.parametrize(
    ("scenario", "expose"),
    [
        pytest.param(
            *parameter.values,
            expose,
            id=f"{parameter.id}-{expose}",
            marks=() if (parameter.id, expose) in SHORT else pytest.mark.soak,
        )
        for parameter in SCENARIOS
        for expose in ("views", "columns")
    ],
)
def test_late_writes(
    database: Database, scenario: Scenario, expose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute(scenario.setup)
    columns = database.execute(_COLUMNS)
    database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    rollout = Rollout(database, scenario, expose=expose, compared=False)
    try:
        rollout.advance_to(State.SWITCHED_OVER)
    except BadInput as error:
        if expose == "views":
            raise
        pytest.skip(str(error))
    late = LateInRollback(rollout, columns)
    monkeypatch.setattr(executor, "run_locked", late.run_locked)
    rollout.engine().rollback("try_it")
    assert late.transactions
    assert (late.lost, late.failed) == ([], [])
    assert late.seen() == late.last
    rollout.nothing_left()


def test_the_short_ones_exist() -> None:
    assert {identity for identity, _ in SHORT} <= {parameter.id for parameter in SCENARIOS}
