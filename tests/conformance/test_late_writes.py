"""What either version still writes while a rollback is under way: nothing of the new one's is lost, and the old one never notices."""

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
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
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


class Late:
    """Applications that are still at work: each of their statements before any transaction of the way back.

    A statement of the new one that changed the old version's columns before the way back began has to change them, or to fail, until its end.
    """

    def __init__(self, rollout: Rollout, columns: Sequence[tuple[str, str]]) -> None:
        self.rollout, self.columns = rollout, columns
        self.carried = [text for text in rollout.scenario.new_writes if self.changed(text, rollout.new_path)]
        self.lost: list[str] = []
        self.failed: list[str] = []
        self.last = self.old_version()
        self.transactions = 0

    def old_version(self) -> list[object]:
        return [
            self.rollout.database.value(
                f"SELECT md5(string_agg(r::text, ' ' ORDER BY r::text)) FROM (SELECT {columns} FROM {table}) AS r"
            )
            for table, columns in self.columns
        ]

    def changed(self, text: str, path: Sequence[str]) -> bool | None:
        """Whether the statement changed the old version's columns; None if there was no row for it."""
        before = self.old_version()
        names = sql.SQL(", ").join(map(sql.Identifier, path))
        with psycopg.connect(self.rollout.database.dsn) as connection:
            connection.execute(sql.SQL("SET LOCAL search_path = {}").format(names))
            found = connection.execute(text.format(n=next(self.rollout.numbers)).encode()).rowcount
        if self.rollout.scenario.sync is SyncMode.LOGGED:
            with suppress(pg.UndefinedFunction):  # Of what is taken back already.
                self.rollout.engine().reconcile("try_it")
        self.last = self.old_version()
        return self.last != before if found else None

    def run_locked(self, conn: Any, statements: Sequence[str], *args: Any, **options: Any) -> None:
        """In the place of the executor's own."""
        self.transactions += 1
        self.write(f"before {self.transactions}: {'; '.join(statements)[:300]}")
        run_locked(conn, statements, *args, **options)

    def write(self, where: str) -> None:
        for text in self.carried:
            try:
                # By chance it may write what the row has; the next number writes something else.
                if all(self.changed(text, self.rollout.new_path) is False for _ in range(2)):
                    self.lost.append(f"{where}: {text}")
            except psycopg.Error:
                continue  # It knows that nothing was written.
        for text in self.rollout.scenario.old_writes:
            try:
                self.changed(text, ["public"])
            except psycopg.Error as error:
                self.failed.append(f"{where}: {text}: {error}")


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
    late = Late(rollout, columns)
    monkeypatch.setattr(executor, "run_locked", late.run_locked)
    rollout.engine().rollback("try_it")
    assert late.transactions
    assert (late.lost, late.failed) == ([], [])
    assert late.old_version() == late.last
    rollout.nothing_left()


def test_the_short_ones_exist() -> None:
    assert {identity for identity, _ in SHORT} <= {parameter.id for parameter in SCENARIOS}
