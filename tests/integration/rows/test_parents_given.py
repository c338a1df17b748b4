"""normalise with a parent that exists, of which nobody could make a row: values find theirs, and one that has none is named."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from zdm.backfill.sweep import BadData
from zdm.model.phases import State
from zdm.model.sample import Scenario

LINK = {"link": {"table": "written", "source": {"post": "id"}, "parent": {"author": "id"}}}
REFERENCE = {"reference": {"columns": {"author": "id"}}}


@pytest.mark.parametrize("how", [LINK, REFERENCE])
def test_no_parent_is_made(database: Database, how: dict[str, Any]) -> None:
    operation = {
        "table": "posts",
        "columns": ["login"],
        "parent": "authors",
        "values": {"login": "login"},
        **how,
    }
    rollout = Rollout(
        database,
        Scenario(
            setup="CREATE TABLE authors (id serial PRIMARY KEY, login text NOT NULL UNIQUE, name text NOT NULL);"
            " INSERT INTO authors (login, name) VALUES ('ada', 'Ada'), ('bob', 'Bob');"
            " CREATE TABLE posts (id int PRIMARY KEY, login text);"
            " INSERT INTO posts VALUES (1, 'ada'), (2, 'bob'), (3, 'eve'), (4, NULL)",
            operations=({"normalise": operation},),
        ),
    )
    plan = rollout.engine().plan(rollout.migration)
    assert any("since name must be given" in found.text for found in plan.findings)
    rollout.advance_to(State.PREPARED)
    with pytest.raises(BadData, match="id=3"):
        rollout.advance_to(State.MIGRATED)
    database.execute(
        "INSERT INTO authors (login, name) VALUES ('eve', 'Eve'); UPDATE posts SET login = login WHERE id = 3"
    )
    rollout.advance_to(State.MIGRATED)
    database.execute(
        "UPDATE posts SET login = 'bob' WHERE id = 1; UPDATE authors SET login = 'eva' WHERE login = 'eve'"
    )
    assert database.execute("SELECT id, login FROM posts ORDER BY id") == [
        (1, "bob"),
        (2, "bob"),
        (3, "eva"),
        (4, None),
    ]
    assert database.value("SELECT count(*) FROM authors") == 3
    assert rollout.engine().verify("try_it").clean
