"""What the new version demands of rows is counted before anything demands it, and refuses the gate until it is met."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.engine.results import Outcome, TableVerification
from zdm.engine.rollout import Engine
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.plan import Plan
from zdm.model.step import Phase
from zdm.operations.migration import Migration

GATES: dict[str, Any] = {"replication_lag": False, "soak": "0s", "old_version_unused": False}


def migration(*operations: dict[str, Any], id_: str = "promised") -> Migration:
    return Migration.model_validate({"id": id_, "operations": list(operations), "gates": GATES})


def prepared(database: Database, setup: str) -> Engine:
    database.execute(setup)
    engine = Engine(database.dsn)
    engine.init()
    return engine


def broken(table: TableVerification) -> dict[str, int]:
    return {v.constraint: v.rows for v in table.violations}


def warned(plan: Plan) -> list[str]:
    return sorted(
        f.text.split(" as things are")[0] for f in plan.findings if f.rule == "rows-break-constraint"
    )


PEOPLE = """
CREATE TABLE teams (id int PRIMARY KEY, name text);
INSERT INTO teams VALUES (1, 'a'), (2, 'b');
CREATE TABLE people (id int PRIMARY KEY, email text, team int, age int);
INSERT INTO people SELECT g, 'p' || g, g % 2 + 1, g FROM generate_series(1, 100) g;
UPDATE people SET email = 'same' WHERE id IN (4, 9, 12);
UPDATE people SET team = 7 WHERE id = 20;
UPDATE people SET age = -1 WHERE id IN (30, 31);
UPDATE people SET age = NULL WHERE id = 40;
"""


@on_all_versions
def test_rows_that_break_added_constraints(database: Database) -> None:
    engine = prepared(database, PEOPLE)
    change = migration(
        {"add_unique": {"table": "people", "columns": ["email"]}},
        {
            "add_foreign_key": {
                "table": "people",
                "columns": ["team"],
                "references": {"table": "teams", "columns": ["id"]},
            }
        },
        {"add_check": {"table": "people", "name": "grown", "check": "age >= 0"}},
        {"set_not_null": {"table": "people", "column": "age"}},
    )
    assert warned(engine.plan(change)) == [
        "1 row of public.people breaks foreign key people_team_fkey",
        "1 row of public.people breaks not null age",
        "2 rows of public.people break check grown",
        "3 rows of public.people break unique people_email_key",
    ]
    engine.advance(change, until=Phase.MIGRATION)
    (found,) = engine.status("promised")[0].verification
    assert broken(found) == {
        "unique people_email_key": 3,
        "foreign key people_team_fkey": 1,
        "check grown": 2,
        "not null age": 1,
    }
    assert {v.constraint: v.samples for v in found.violations} == {
        "unique people_email_key": ("id=12 and id=4 and 1 more",),
        "foreign key people_team_fkey": ("id=20",),
        "check grown": ("id=30", "id=31"),
        "not null age": ("id=40",),
    }
    refused = engine.advance("promised")
    assert refused.outcome is Outcome.REFUSED
    (verdict,) = [v for v in refused.verdicts if not v.lets_through]
    assert verdict.gate == "verification"
    assert "3 rows that break unique people_email_key" in verdict.observed
    # Repairing derives sides again; it cannot invent values.
    assert broken(engine.verify("promised", repair=True).tables[0]) == broken(found)

    database.execute(
        "UPDATE people SET email = 'p' || id, team = 1, age = id WHERE id IN (4, 9, 12, 20, 30, 31, 40)"
    )
    assert engine.verify("promised").clean
    assert engine.advance("promised", until=Phase.CLEANUP).state is State.COMPLETED
    valid = "SELECT array_agg(conname ORDER BY conname) FROM pg_constraint WHERE conrelid = 'people'::regclass AND convalidated"
    assert set(database.value(valid)) >= {"grown", "people_email_key", "people_team_fkey"}


ACCOUNTS = """
CREATE EXTENSION IF NOT EXISTS citext;
CREATE TABLE codes (code citext PRIMARY KEY);
INSERT INTO codes VALUES ('aa'), ('bb');
CREATE TABLE accounts (id int PRIMARY KEY, name text CONSTRAINT one_name UNIQUE, number int CONSTRAINT one_number UNIQUE,
                       cents int CONSTRAINT enough CHECK (cents > 10), code citext);
CREATE UNIQUE INDEX short_name ON accounts (left(name, 3)) WHERE id > 90;
INSERT INTO accounts SELECT g, 'name' || g, g, 1000 + g, CASE WHEN g % 2 = 0 THEN 'AA' ELSE 'bb' END FROM generate_series(1, 80) g;
"""


@on_all_versions
def test_what_is_carried_to_a_successor_can_be_broken_by_up(database: Database) -> None:
    """Two values that `up` makes one; a check that what `up` gives does not meet: no write of the old version fails for it."""
    engine = prepared(database, ACCOUNTS)
    change = migration(
        {
            "change_type": {
                "table": "accounts",
                "column": "name",
                "to": "varchar(20)",
                "up": "lower(name)",
                "down": "name",
            }
        },
        {"change_type": {"table": "accounts", "column": "number", "to": "bigint"}},
        {
            "change_type": {
                "table": "accounts",
                "column": "cents",
                "to": "numeric(10,2)",
                "up": "cents / 100.0",
                "down": "(cents * 100)::int",
            }
        },
        {
            "add_foreign_key": {
                "table": "accounts",
                "columns": ["code"],
                "references": {"table": "codes", "columns": ["code"]},
            }
        },
    )
    plan = engine.plan(change)
    assert warned(plan) == []
    phases = {step.id.split(".", 1)[1]: step.phase for step in plan.steps if ".carry.one_" in step.id}
    assert phases == {
        "public.accounts.carry.one_name": Phase.SWITCHOVER,
        "public.accounts.carry.one_name.constraint": Phase.SWITCHOVER,
        "public.accounts.carry.one_number": Phase.MIGRATION,
        "public.accounts.carry.one_number.constraint": Phase.MIGRATION,
    }
    engine.advance(change, until=Phase.MIGRATION)
    assert engine.status("promised")[0].verification[0].violations == ()
    # The old application writes what it always might.
    database.execute(
        "INSERT INTO accounts VALUES (91, 'Name1', 91, 900, 'aa'), (92, 'NAME2', 92, 2000, 'zz')"
    )
    database.execute("UPDATE accounts SET name = 'NAME1' WHERE id = 92")
    found = engine.verify("promised")
    assert broken(found.tables[0]) == {
        "unique one_name": 3,
        "unique short_name": 2,
        "check enough": 1,
        "foreign key accounts_code_fkey": 1,
    }
    assert found.tables[0].disagreements == 0
    assert engine.advance("promised").outcome is Outcome.REFUSED
    database.execute("UPDATE accounts SET cents = 5000, code = 'BB', name = 'x' || id WHERE id > 90")
    assert broken(engine.verify("promised").tables[0]) == {}
    assert engine.advance("promised", until=Phase.CLEANUP).state is State.COMPLETED
    names = "SELECT array_agg(indexrelid::regclass::text) FROM pg_index WHERE indrelid = 'accounts'::regclass"
    assert sorted(database.value(names)) == ["accounts_pkey", "one_name", "one_number", "short_name"]


def test_a_foreign_key_that_the_server_would_not_have_is_refused(database: Database) -> None:
    """Not half-way through switchover: of types without a common equality, or pointing at what is not unique."""
    engine = prepared(database, PEOPLE)
    keys = [
        {"table": "people", "columns": ["email"], "references": {"table": "teams", "columns": ["id"]}},
        {
            "table": "people",
            "columns": ["email"],
            "references": {"table": "teams", "columns": ["name"]},
            "name": "x",
        },
    ]
    with pytest.raises(BadInput) as refused:
        engine.plan(migration(*({"add_foreign_key": key} for key in keys)))
    types, unique = refused.value.problems
    assert "incompatible types: text and integer" in types.what
    assert 'no unique constraint matching given keys for referenced table "teams"' in unique.what
    assert [types.where, unique.where] == ["1:add_foreign_key", "2:add_foreign_key"]


def test_counting_goes_on_behind_the_fence(database: Database) -> None:
    """A fence sets names aside that the promise speaks of."""
    engine = prepared(database, PEOPLE)
    change = migration(
        {"rename_column": {"table": "people", "column": "email", "to": "address"}},
        {"rename_table": {"table": "people", "to": "persons"}},
        {"add_check": {"table": "persons", "name": "written", "check": "address <> ''"}},
    )
    engine.advance(change, until=Phase.SWITCHOVER)
    engine.fence("promised")
    assert engine.verify("promised").clean
    engine.fence("promised", lift=True)
    assert engine.rollback("promised").leftovers == ()
    assert database.value("SELECT count(*) FROM pg_constraint WHERE conname = 'written'") == 0


def test_a_promise_that_cannot_be_counted_is_said_so(database: Database) -> None:
    """The type has an equality for indexes that no GROUP BY can use; the rollout must not be stuck for that."""
    engine = prepared(
        database, "CREATE TABLE spots (id int PRIMARY KEY, at point, note json); INSERT INTO spots VALUES (1)"
    )
    change = migration(
        {"add_check": {"table": "spots", "name": "noted", "check": "1 / (id - 1) = 1"}},
    )
    plan = engine.plan(change)
    (finding,) = [f for f in plan.findings if "noted" in f.text]
    assert "an expression raises on some row" in finding.text
    engine.advance(change, until=Phase.MIGRATION)
    (found,) = engine.status("promised")[0].verification
    assert found.violations[0].samples == ("it raises on some row, SQLSTATE 22012",)
    assert engine.advance("promised").outcome is Outcome.REFUSED
