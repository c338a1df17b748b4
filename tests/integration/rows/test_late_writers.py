"""The new version writes all the time while a rollback takes everything away: each write is in the old version, or failed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import psycopg
import psycopg.errors as pg
import pytest

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario
from zdm.operations.split_column import SplitColumn
from zdm.operations.split_table import SplitTable

GONE = (pg.CheckViolation, pg.UndefinedTable, pg.UndefinedColumn)
SPLIT = SplitTable.scenarios[1]


class Application:
    """Writes values, one after the other, until it is stopped; knows which were taken."""

    def __init__(self, dsn: str, statement: str, value: Callable[[int], str]) -> None:
        self.dsn, self.statement, self.value = dsn, statement, value
        self.taken: set[str] = set()
        self.failed = 0
        self.other: list[str] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            for number in itertools.count():
                # An application thinks; what must keep up with it shares the processors.
                if self.stop.wait(0.005):
                    return
                value = self.value(number)
                try:
                    conn.execute(self.statement.encode(), [value])
                    self.taken.add(value)
                except GONE:
                    self.failed += 1
                except psycopg.Error as error:
                    self.other.append(str(error))


@pytest.mark.parametrize(
    ("scenario", "statements", "kept"),
    [
        pytest.param(
            SplitColumn.scenarios[0],
            {"new": "INSERT INTO people (first_name, last_name) VALUES ('Late', %s)"},
            "SELECT 'new ' || split_part(name, ' ', 3) FROM people WHERE name LIKE 'Late %'",
            id="columns",
        ),
        *(
            pytest.param(
                SPLIT.model_copy(update={"sync": sync}),
                {
                    "new": "INSERT INTO logins (email) VALUES (%s)",
                    "town": "INSERT INTO addresses (town) VALUES (%s)",
                    "old": "INSERT INTO customers (email) VALUES (%s)",
                },
                "SELECT email FROM customers UNION ALL SELECT city FROM customers",
                id=f"tables-{sync}",
            )
            for sync in SyncMode
        ),
    ],
)
def test_each_write_is_kept_or_fails(
    database: Database, scenario: Scenario, statements: dict[str, str], kept: str
) -> None:
    rollout = Rollout(database, scenario, expose="columns", compared=False)
    rollout.advance_to(State.SWITCHED_OVER)
    applications = {
        name: Application(database.dsn, statement, f"{name} {{}}".format)
        for name, statement in statements.items()
    }
    for one in applications.values():
        one.thread.start()
    try:
        rollout.engine().rollback("try_it")
    finally:
        for one in applications.values():
            one.stop.set()
            one.thread.join()
    found = {value for (value,) in database.execute(kept)}
    for name, one in applications.items():
        assert one.other == []
        assert one.taken
        assert one.taken <= found, f"{name}: {len(one.taken - found)} of {len(one.taken)} lost"
        assert (one.failed == 0) == (name == "old")
