"""Columns with a default that is another value each time move to another table: what nobody gave is not taken for what somebody wrote."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.acceptance.test_dump import advance
from tests.conformance.harness import OPEN_GATES
from tests.support.interleave import Isolation
from tests.support.servers import Database
from zdm.engine.rollout import Engine
from zdm.model.phases import State
from zdm.operations.migration import Migration

LEVELS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
SETUP = """
CREATE TABLE users (id serial PRIMARY KEY, name text NOT NULL UNIQUE, email text NOT NULL UNIQUE, seen timestamptz NOT NULL DEFAULT now());
INSERT INTO users (name, email) SELECT 'u' || g, 'u' || g || '@x' FROM generate_series(1, 30) g;
"""
SEEN = "2001-02-03 04:05:06+00"
#: The new application makes both halves itself: in one statement, in two, in a part of the transaction that could be undone.
BOTH = {
    "one statement": [
        f"""WITH u AS (INSERT INTO users (name) VALUES ('new') RETURNING id)
            INSERT INTO contacts (user_id, email, seen) SELECT id, 'new@x', '{SEEN}' FROM u"""
    ],
    "two statements": [
        "INSERT INTO users (name) VALUES ('new')",
        f"INSERT INTO contacts (user_id, email, seen) SELECT id, 'new@x', '{SEEN}' FROM users WHERE name = 'new'",
    ],
    "after a savepoint": [
        "SAVEPOINT a",
        "INSERT INTO users (name) VALUES ('new')",
        "SAVEPOINT b",
        f"INSERT INTO contacts (user_id, email, seen) SELECT id, 'new@x', '{SEEN}' FROM users WHERE name = 'new'",
    ],
}


def started(database: Database, state: State, **more: Any) -> Engine:
    database.execute(SETUP)
    moved = {
        "table": "users",
        "to": "contacts",
        "key": {"user_id": "id"},
        "columns": [{"column": "email", "empty": "'none-' || gen_random_uuid()"}, "seen"],
        "create": {"unique": [{"columns": ["email"]}]},
    }
    migration = {"id": "move", "operations": [{"move_columns": moved | more}], "gates": OPEN_GATES}
    engine = Engine(database.dsn)
    engine.init()
    advance(engine, Migration.model_validate(migration), state)
    return engine


def run(database: Database, path: str, level: Isolation, *statements: str) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(f"SET search_path = {path}")
        connection.execute(f"BEGIN ISOLATION LEVEL {level}".encode())
        for statement in statements:
            connection.execute(statement.encode())
        connection.execute("COMMIT")


def sides(database: Database, name: str) -> list[tuple[Any, ...]]:
    """The row's two halves, old and new."""
    return database.execute(
        "SELECT u.email, u.seen = %s, c.email, c.seen = u.seen FROM public.users u LEFT JOIN public.contacts c ON c.user_id = u.id"
        " WHERE name = %s",
        SEEN,
        name,
    )


@pytest.mark.parametrize("rows", ["every", "needed"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("how", BOTH)
def test_what_the_new_version_writes_stands(
    database: Database, how: str, level: Isolation, rows: str
) -> None:
    engine = started(database, State.MIGRATED, rows=rows)
    run(database, "public_move, public", level, *BOTH[how])
    assert sides(database, "new") == [("new@x", True, "new@x", True)]
    assert sum(t.differences for t in engine.verify("move").tables) == 0
    engine.rollback("move")
    assert database.execute("SELECT email, seen = %s FROM users WHERE name = 'new'", SEEN) == [
        ("new@x", True)
    ]


@pytest.mark.parametrize("rows", ["every", "needed"])
def test_a_row_that_is_given_no_other_half_gets_one_when_the_transaction_ends(
    database: Database, rows: str
) -> None:
    engine = started(database, State.MIGRATED, rows=rows)
    run(database, "public_move, public", "READ COMMITTED", "INSERT INTO users (name) VALUES ('bare')")
    ((old, _, new, same),) = sides(database, "bare")
    assert old.startswith("none-")
    assert (old, same) == (new, True)
    assert sum(t.differences for t in engine.verify("move").tables) == 0


@pytest.mark.parametrize("state", [State.PREPARED, State.MIGRATED])
@pytest.mark.parametrize("level", LEVELS)
def test_what_the_old_version_writes_is_there_as_well(
    database: Database, state: State, level: Isolation
) -> None:
    started(database, state)
    run(
        database,
        "public",
        level,
        f"INSERT INTO users (name, email, seen) VALUES ('old', 'old@x', '{SEEN}')",
        "INSERT INTO users (name, email) VALUES ('later', 'old@y')",
        f"UPDATE users SET email = 'later@x', seen = '{SEEN}' WHERE name = 'later'",
        "INSERT INTO users (name, email) VALUES ('gone', 'gone@x')",
        "DELETE FROM users WHERE name = 'gone'",
    )
    assert sides(database, "old") == [("old@x", True, "old@x", True)]
    assert sides(database, "later") == [("later@x", True, "later@x", True)]
    assert database.value("SELECT count(*) FROM contacts WHERE email = 'gone@x'") == 0


def test_before_the_rows_are_filled_nothing_is_overwritten(database: Database) -> None:
    started(database, State.PREPARED)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        run(
            database,
            "public_move, public",
            "READ COMMITTED",
            "INSERT INTO contacts (user_id, email, seen) VALUES (1, 'mine@x', now())",
        )
    assert database.value("SELECT email FROM users WHERE id = 1") == "u1@x"
