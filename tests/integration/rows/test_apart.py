"""The moment in which two tables go apart: what either version writes between any two steps of cleanup, and of the way back, stays as it wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from zdm.engine.reporter import Silent
from zdm.engine.results import StepRun
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.model.step import Step


@dataclass
class Busy(Silent):
    """An application that writes before each step and after the last one."""

    work: Callable[[int], None]
    numbers: count[int] = field(default_factory=lambda: count(100))

    def step_started(self, step: Step, number: int, total: int) -> None:
        del step, number, total
        self.work(next(self.numbers))

    def step_finished(self, step: Step, number: int, total: int, run: StepRun) -> None:
        del step, run
        if number == total:
            self.work(next(self.numbers))


@dataclass(frozen=True)
class Case:
    """What the new version writes, each statement a transaction of its own; and how many rows are not as it wrote them."""

    setup: str
    operation: dict[str, Any]
    writes: tuple[str, ...]
    wrong: str


CASES = {
    # Both halves of a row at once: the first one's trigger finds the other there, and looks at the row when the transaction ends.
    "move_columns": Case(
        "CREATE TABLE accounts (id int PRIMARY KEY, hits int NOT NULL DEFAULT 0, name text); INSERT INTO accounts VALUES (1, 1)",
        {
            "move_columns": {
                "table": "accounts",
                "to": "stats",
                "key": {"account_id": "id"},
                "columns": ["hits"],
                "create": {},
            }
        },
        (
            "WITH a AS (INSERT INTO accounts (id) VALUES ({n}) RETURNING id) INSERT INTO stats (account_id, hits) SELECT id, id FROM a",
        ),
        "SELECT count(*) FROM stats WHERE account_id > 1 AND hits <> account_id",
    ),
    # One table, then the other one, both of which stay.
    "split_table": Case(
        "CREATE TABLE ledger (id int PRIMARY KEY, amount int, notes text); INSERT INTO ledger VALUES (1, 1), (2, 2)",
        {
            "split_table": {
                "table": "ledger",
                "keep": True,
                "into": [
                    {"to": "reports", "key": {"id": "id"}, "columns": ["amount", "notes"], "create": {}}
                ],
            }
        },
        (
            "UPDATE reports SET amount = {n} WHERE id = 1",
            "UPDATE ledger SET notes = '{n}' WHERE id = 1",
            "UPDATE ledger SET amount = {n} WHERE id = 2",
            "UPDATE reports SET notes = '{n}' WHERE id = 2",
        ),
        "SELECT (SELECT count(*) FROM reports WHERE id = 1 AND amount <> {n}) + (SELECT count(*) FROM ledger WHERE id = 2 AND amount <> {n})",
    ),
    # The application's triggers are on the old table until the new one takes its place.
    "shadow_table": Case(
        """
        CREATE TABLE events (id int PRIMARY KEY, body text); INSERT INTO events VALUES (1, 'a');
        CREATE TABLE audit (event int PRIMARY KEY);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.audit VALUES (NEW.id); RETURN NULL; END $$;
        CREATE TRIGGER note AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION note()
        """,
        {
            "shadow_table": {
                "table": "events",
                "columns": [{"column": "body", "type": "varchar(40)"}],
            }
        },
        ("INSERT INTO events VALUES ({n}, '{n}')",),
        "SELECT count(*) FROM events e WHERE id > 1 AND NOT EXISTS (SELECT FROM audit WHERE event = e.id)",
    ),
    # A row that refers to another parent by what its own is called, which it says as well until cleanup.
    "normalise": Case(
        "CREATE TABLE goods (id int PRIMARY KEY, shop int NOT NULL, kind text); INSERT INTO goods VALUES (1, 0, 'a')",
        {
            "normalise": {
                "table": "goods",
                "columns": ["kind"],
                "parent": "kinds",
                "values": {"shop": "shop", "name": "kind"},
                "create": {
                    "columns": [
                        {"name": "id", "type": "int", "identity": "by default"},
                        {"name": "shop", "type": "int"},
                        {"name": "name", "type": "text"},
                    ],
                    "primary_key": ["id"],
                },
                "reference": {"columns": {"kind_id": "id"}},
            }
        },
        (
            "UPDATE kinds k SET name = '{n}' FROM goods g WHERE k.id = g.kind_id",
            # As long as the sync stands it belongs to another parent then, of the name that its own has.
            "UPDATE goods SET shop = {n} WHERE id = 1",
            "UPDATE goods SET shop = 0 WHERE id = 1",
        ),
        "SELECT count(*) FROM goods g JOIN kinds k ON k.id = g.kind_id WHERE k.name <> '{n}'",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_what_the_new_version_writes_during_cleanup_stays(database: Database, case: Case) -> None:
    rollout = Rollout(database, Scenario(setup=case.setup, operations=(case.operation,)), compared=False)
    rollout.advance_to(State.SWITCHED_OVER)
    path = ", ".join(rollout.new_path)
    wrong: list[int] = []

    def work(n: int) -> None:
        for statement in case.writes:
            database.execute(f"SET search_path = {path}; {statement.format(n=n)}")
        wrong.append(database.value(f"SET search_path = {path}; {case.wrong.format(n=n)}"))

    assert rollout.engine(Busy(work)).advance(rollout.migration).state is State.COMPLETED
    assert len(wrong) > 4
    assert set(wrong) == {0}


def test_what_the_old_version_writes_on_the_way_there_and_back_stays(database: Database) -> None:
    """A cascade writes the other table's row, whose trigger looks at both halves: the first one's has to be there as well."""
    setup = """
    CREATE TABLE accounts (id int PRIMARY KEY, hits int NOT NULL DEFAULT 0);
    CREATE TABLE stats (account_id int PRIMARY KEY REFERENCES accounts ON UPDATE CASCADE, hits int);
    INSERT INTO accounts VALUES (1, 1); INSERT INTO stats VALUES (1, 1)
    """
    moved = {
        "table": "accounts",
        "to": "stats",
        "key": {"account_id": "id"},
        "columns": ["hits"],
    }
    rollout = Rollout(database, Scenario(setup=setup, operations=({"move_columns": moved},)))
    held: list[tuple[int, int]] = []

    def work(n: int) -> None:
        database.execute(f"UPDATE accounts SET hits = {n}")
        database.execute(f"UPDATE accounts SET id = {n}")
        held.append((n, database.value("SELECT hits FROM accounts")))

    busy = Busy(work)
    while rollout.engine(busy).advance(rollout.migration).state is not State.SWITCHED_OVER:
        pass
    assert rollout.engine(busy).rollback("try_it").state is State.ROLLED_BACK
    assert len(held) > 10
    assert [wrote for wrote, _ in held] == [holds for _, holds in held]
