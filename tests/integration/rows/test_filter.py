"""Rows that leave the filter of a mapping: they are the old version's own from then on, and nothing happens to them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.conformance.harness import OPEN_GATES
from tests.support.interleave import Isolation
from tests.support.servers import Database
from tests.support.versions import on_all_versions, on_all_versions_at_length
from zdm.engine.rollout import Engine
from zdm.model.phases import State
from zdm.operations.migration import Migration


@on_all_versions
@pytest.mark.parametrize("gone", [{}, {"status": "'inactive'"}])
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SERIALIZABLE"])
def test_a_row_that_leaves_the_filter_stays(
    database: Database, isolation: Isolation, gone: dict[str, str]
) -> None:
    database.execute(
        "CREATE TABLE ledger (id int PRIMARY KEY, amount int, status text NOT NULL);"
        "INSERT INTO ledger SELECT g, g, 'active' FROM generate_series(1, 4) g"
    )
    part = {
        "to": "reports",
        "key": {"id": "id"},
        "where": "status = 'active'",
        "columns": [{"column": "value", "up": "amount"}],
        "down": {"amount": "value", "status": "'active'"},
        "gone": gone,
        "create": {},
    }
    engine = Engine(database.dsn)
    engine.init()
    migration = Migration.model_validate(
        {
            "id": "split",
            "operations": [{"split_table": {"table": "ledger", "keep": True, "into": [part]}}],
            "gates": OPEN_GATES,
        }
    )

    def run(statement: str) -> None:
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")

    while engine.advance(migration).state is not State.MIGRATED:
        # Also a row that is not filled yet.
        run("UPDATE ledger SET status = 'archived' WHERE id = 1")
    run("UPDATE ledger SET status = 'archived' WHERE id = 2")
    run("DELETE FROM reports WHERE id = 3")
    of_three = [(3, 3, "inactive")] if gone else []
    assert database.execute("TABLE ledger ORDER BY id") == [
        (1, 1, "archived"),
        (2, 2, "archived"),
        *of_three,
        (4, 4, "active"),
    ]
    assert database.execute("TABLE reports") == [(4, 4)]
    assert engine.verify("split").clean


@on_all_versions_at_length
@pytest.mark.parametrize("policy", ["refuse", "record"])
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SERIALIZABLE"])
def test_a_row_outside_the_filter_is_written_with_its_other_half(
    database: Database, isolation: Isolation, policy: str
) -> None:
    """In one statement: the old row's trigger is first, and the other half is none of its business."""
    database.execute(
        "CREATE TABLE users (id int PRIMARY KEY, team int, bio text);"
        "INSERT INTO users VALUES (1, 1, 'one'), (2, 1, ''), (3, 1, NULL)"
    )
    operation = {
        "table": "users",
        "to": "profiles",
        "key": {"id": "id"},
        "columns": ["bio"],
        "copies": {"team": "team"},
        "rows": "needed",
        "where": "bio <> ''",
        "create": {"foreign_key": None},
        "without_old_form": policy,
    }
    engine = Engine(database.dsn)
    engine.init()
    migration = Migration.model_validate(
        {"id": "move", "operations": [{"move_columns": operation}], "gates": OPEN_GATES}
    )
    while engine.advance(migration).state is not State.MIGRATED:
        pass
    for statement in (
        "WITH u AS (UPDATE users SET team = 2 WHERE id > 1 RETURNING id, team) INSERT INTO profiles (id, team, bio) SELECT id, team, 'new' FROM u",
        "WITH u AS (INSERT INTO users VALUES (4, 4, '') RETURNING id, team) INSERT INTO profiles (id, team, bio) SELECT id, team, 'new' FROM u",
    ):
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
    expected = [(1, 1, "one"), (2, 2, "new"), (3, 2, "new"), (4, 4, "new")]
    assert database.execute("SELECT id, team, bio FROM users ORDER BY id") == expected
    assert database.execute("SELECT id, team, bio FROM profiles ORDER BY id") == expected
    assert engine.verify("move").clean


@pytest.mark.parametrize("sync", ["immediate", "logged"])
def test_a_column_that_repeats_one_follows_it_beside_one_that_is_mapped(
    database: Database, sync: str
) -> None:
    """What the new version wrote stays finer than the old column can hold, whatever else of the row is written."""
    database.execute(
        "CREATE TABLE builds (id int PRIMARY KEY, project int NOT NULL, score int, tries int); INSERT INTO builds VALUES (1, 1, 1, 1)"
    )
    operation = {
        "table": "builds",
        "to": "scores",
        "key": {"build": "id"},
        "columns": [
            {"column": "score", "type": "numeric", "up": "score::numeric", "down": "round(score)::int"},
            "tries",
        ],
        "copies": {"project": "project"},
        "rows": "needed",
        "lossy": True,
        "create": {},
    }
    engine = Engine(database.dsn)
    engine.init()
    migration = Migration.model_validate(
        {"id": "move", "sync": sync, "operations": [{"move_columns": operation}], "gates": OPEN_GATES}
    )
    while engine.advance(migration).state is not State.SWITCHED_OVER:
        pass
    for statement, expected in (
        ("UPDATE public_move.scores SET score = 1.4", (1, Decimal("1.4"), 1)),
        ("UPDATE builds SET project = 7", (7, Decimal("1.4"), 1)),
        ("UPDATE builds SET tries = 70", (7, Decimal("1.4"), 70)),
        ("UPDATE public_move.builds SET project = 8", (8, Decimal("1.4"), 70)),
    ):
        database.execute(statement)
        if sync == "logged":
            engine.reconcile("move")
        assert database.execute("SELECT project, score, tries FROM scores") == [expected]
    assert database.execute("SELECT project, score, tries FROM builds") == [(8, 1, 70)]
    assert engine.verify("move").clean
