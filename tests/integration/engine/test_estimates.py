"""What a plan is said to cost: measured on the tables, near to what it then costs, and without a trace of the measuring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command import Command
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.engine.rollout import Engine
from zdm.model.estimate import Effort, StepEstimate
from zdm.model.step import Lock, Phase
from zdm.operations.migration import Migration

SETUP = """
CREATE TABLE accounts (id serial PRIMARY KEY, balance int NOT NULL, filler text);
INSERT INTO accounts (balance, filler) SELECT g, repeat('x', 80) FROM generate_series(1, 60000) g;
CREATE SEQUENCE tickets;
"""
WIDEN: dict[str, Any] = {
    "change_type": {
        "table": "accounts",
        "column": "balance",
        "to": "numeric(18,2)",
        "up": "balance::numeric(18,2)",
        "down": "round(balance)::int",
    }
}


def migration(*operations: dict[str, Any]) -> Migration:
    return Migration.model_validate(
        {"id": "costly", "operations": list(operations), "gates": {"replication_lag": False}}
    )


@on_all_versions
def test_each_step_and_the_whole(database: Database) -> None:
    database.execute(SETUP)
    engine = Engine(database.dsn)
    engine.init()
    change = migration(
        WIDEN,
        {"add_check": {"table": "accounts", "name": "positive", "check": "balance > 0"}},
        {"create_index": {"table": "accounts", "name": "by_filler", "columns": ["filler"]}},
    )
    plan = engine.plan(change)
    found = plan.estimates
    assert found is not None
    steps = {step.step.removeprefix(f"{step.phase.value}.public.accounts."): step for step in found.steps}
    assert len(found.steps) == len(plan.steps)
    assert all(step.seconds is not None for step in found.steps)
    # The table was never analysed; its rows are known all the same.
    fill = steps["backfill"]
    assert fill.effort is Effort.FILL
    assert fill.rows == pytest.approx(60000, rel=0.05)
    assert fill.naive == "update-whole-table"
    (rates,) = found.tables
    assert rates.sample == 10000
    assert rates.fill_rows_per_second
    assert rates.scan_bytes_per_second
    assert steps["create_index.by_filler"].effort is Effort.INDEX
    assert steps["add_check.positive.validate"].effort is Effort.SCAN
    assert held(steps["add_check.positive"]) == {Lock.ACCESS_EXCLUSIVE: "reads and writes"}
    assert held(steps["add_check.positive.validate"]) == {
        Lock.SHARE_UPDATE_EXCLUSIVE: "schema changes and vacuum"
    }
    assert held(steps["authority"]) == {}
    # All of cleanup but the proof of NOT NULL, which lets everybody read and write.
    assert [s.step for s in found.steps if s.phase is Phase.CLEANUP and s.effort is not Effort.CATALOG] == [
        "cleanup.public.accounts.balance.prove"
    ]
    assert steps["add_check.positive"].naive_reason.startswith("it reads the whole table")
    assert found.risk.level == "low"

    before, size = written(database), database.value("SELECT pg_total_relation_size('accounts')")
    engine.advance(change, until=Phase.MIGRATION)
    wal, grown = (
        written(database) - before,
        database.value("SELECT pg_total_relation_size('accounts')") - size,
    )
    assert found.wal_bytes is not None
    assert found.disk_bytes is not None
    assert 0.4 < found.wal_bytes / wal < 2.5
    assert 0.4 < found.disk_bytes / grown < 2.5


def held(step: StepEstimate) -> dict[Lock, str]:
    return {lock.mode: lock.stops for lock in step.locks}


def written(database: Database) -> int:
    return int(database.value("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


def test_measuring_leaves_no_trace(database: Database) -> None:
    """Not a number of a sequence is taken; rows on which `up` raises, and empty tables, are no obstacle."""
    database.execute(SETUP)
    database.execute("CREATE TABLE words (id int PRIMARY KEY, n text); INSERT INTO words VALUES (1, 'one')")
    database.execute("CREATE TABLE nothing (id int PRIMARY KEY, n int)")
    tables = "SELECT array_agg(relname ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'v', 'S') AND relname !~ '^pg_'"
    before = database.value(tables)
    plan = Engine(database.dsn).plan(
        migration(
            {
                "add_column": {
                    "table": "accounts",
                    "column": "ticket",
                    "type": "bigint",
                    "default": "nextval('tickets')",
                }
            },
            {
                "change_type": {
                    "table": "words",
                    "column": "n",
                    "to": "integer",
                    "up": "n::int",
                    "down": "n::text",
                }
            },
            {"change_type": {"table": "nothing", "column": "n", "to": "bigint"}},
        )
    )
    assert database.value("SELECT is_called FROM tickets") is False
    assert database.value(tables) == before
    assert plan.estimates is not None
    rates = {r.table.name: r for r in plan.estimates.tables}
    assert rates["accounts"].fill_rows_per_second
    assert rates["words"].fill_rows_per_second is None
    assert rates["nothing"].scan_bytes_per_second is None
    assert plan.estimates.risk.level == "high"
    assert plan.estimates.risk.reasons[0] == "the mapping raises on some rows"


def test_a_plan_is_read_from_the_registry_and_validate_says_what_it_did_not_check(
    database: Database, tmp_path: Path
) -> None:
    database.execute(SETUP)
    path = tmp_path / "costly.yaml"
    path.write_text(json.dumps({"id": "costly", "operations": [WIDEN]}), encoding="utf-8")
    zdm = Command(database.dsn, tmp_path)
    checked = zdm("validate", str(path), "--json").json
    assert checked["not_checked"] == []
    assert checked["estimates"]["costly"]["seconds"] > 0
    offline = zdm("validate", str(path), "--offline", "--json").json
    assert offline["estimates"] == {}
    assert any("locks, time" in text for text in offline["not_checked"])
    zdm("init").done()
    zdm("advance", str(path)).done()
    path.unlink()
    plan = zdm("plan", "costly", "--json").json
    assert plan["plan"]["estimates"]["steps"][0]["statements"][0].startswith("ALTER TABLE")
    assert "costly.yaml (as registered)" not in json.dumps(plan["plan"]["steps"])
