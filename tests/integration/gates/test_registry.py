"""Discovery, overrides, and what happens to a gate that cannot answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gates.sample import KnownFacts, context, migration, session
from tests.support.servers import Database
from zdm.gates.registry import check_overrides, describe, evaluate_all, gates, mask, resolve
from zdm.model.phases import machine
from zdm.model.step import Phase
from zdm.model.verdict import Answer

ROOT = Path(__file__).parents[3]


def test_every_gate_of_the_phases_exists_with_valid_defaults() -> None:
    for definition in machine().definitions:
        for name, defaults in definition.gates.items():
            assert resolve(name, defaults, {}) is not None


@pytest.mark.parametrize("name", sorted(gates()))
def test_every_gate_has_its_page(name: str) -> None:
    page = (ROOT / "docs" / "gates" / f"{name}.md").read_text(encoding="utf-8")
    assert gates()[name].asks in page
    for parameter in gates()[name].model_fields:
        assert f"`{parameter}`" in page


@pytest.mark.parametrize(
    "override",
    [
        {"replication_lag": "5s"},
        {"replication_lag": {"max": "5s", "replicas": ["postgresql://reader@replica-a/shop"], "require": 1}},
        {"soak": "24h"},
        {"soak": False},
        {"soak": "off"},
        {"old_version_unused": False},
        {"approvals": 2},
        {"verification": {"max_age": "1h"}},
        {"drift": None},
    ],
)
def test_overrides_that_are_right(override: dict[str, Any]) -> None:
    assert check_overrides(override) == []


@pytest.mark.parametrize(
    "override, said",
    [
        ({"soka": "1h"}, "there is no gate 'soka'"),
        ({"soak": "soon"}, "'soon' is not a duration"),
        ({"soak": {"max": "1h"}}, "soak.max"),
        ({"approvals": "two"}, "approvals.required"),
        ({"approvals": -1}, "greater than or equal to 0"),
        ({"dependencies": "1h"}, "has no short form"),
        ({"replication_lag": {"replicas": ["host=a password=secret"]}}, "holds a password"),
    ],
)
def test_overrides_that_are_wrong(override: dict[str, Any], said: str) -> None:
    (problem,) = check_overrides(override)
    assert said in problem.what
    assert problem.remedy
    assert "secret" not in str(problem)


def test_all_problems_at_once() -> None:
    assert len(check_overrides({"soka": 1, "soak": "soon", "verification": "1h"})) == 2


def test_an_override_replaces_only_what_it_sets() -> None:
    gate = resolve("replication_lag", {"max": "30s", "require": 2}, {"replication_lag": "5s"})
    assert gate is not None
    assert gate.model_dump(mode="json")["max"] == "5s"
    assert gate.model_dump()["require"] == 2


def test_switched_off_is_recorded_as_skipped(database: Database) -> None:
    definition = replace(machine().definition(Phase.CLEANUP), gates={"soak": {"min": "24h"}})
    with session(database.dsn) as conn:
        (verdict,) = evaluate_all(context(conn, migration=migration(gates={"soak": False})), definition)
    assert verdict.answer is Answer.SKIPPED
    assert verdict.lets_through


class Broken(KnownFacts):
    """A catalog that cannot be read, in a way that quotes a password."""

    def backfills(self) -> Mapping[Any, Any]:
        raise OSError("connection to postgresql://zdm:hunter2@db/shop failed: password=hunter2")


def test_what_cannot_be_read_refuses_and_stops_nobody(database: Database) -> None:
    definition = replace(
        machine().definition(Phase.CLEANUP), gates={"backfill_complete": {}, "validations": {}, "soak": {}}
    )
    wrong = migration(validations=[{"name": "v", "sql": "SELECT 1/0", "expect": 0}])
    with session(database.dsn) as conn:
        verdicts = evaluate_all(context(conn, facts=Broken(), migration=wrong), definition)
    assert [v.answer for v in verdicts] == [Answer.UNREADABLE, Answer.UNREADABLE, Answer.REFUSED]
    assert not any(v.lets_through for v in verdicts)
    assert "hunter2" not in repr(verdicts)
    assert "division by zero" in verdicts[1].observed


def test_a_lost_connection_refuses_everywhere(database: Database) -> None:
    definition = replace(
        machine().definition(Phase.CLEANUP), gates={"long_transactions": {}, "validations": {}, "drift": {}}
    )
    one = migration(validations=[{"name": "v", "sql": "SELECT 1", "expect": 1}])
    with session(database.dsn) as conn:
        ctx = context(conn, migration=one)
        database.execute("SELECT pg_terminate_backend(%s, 5000)", conn.info.backend_pid)
        verdicts = evaluate_all(ctx, definition)
    assert {v.answer for v in verdicts} == {Answer.UNREADABLE}


def test_masking() -> None:
    assert (
        mask("postgresql://u:p%40ss@h/d and password='x y' here")
        == "postgresql://u:***@h/d and password=*** here"
    )
    assert describe(KeyError("x")) == "there is no 'x'"
    assert not re.search("Traceback", describe(ValueError("a\nb")))
