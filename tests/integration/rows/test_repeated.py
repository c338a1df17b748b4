"""Columns of the new version that repeat what stays with the old one: nothing writes them back, so only that can put them right."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from tests.conformance.harness import OPEN_GATES
from tests.support.interleave import Isolation
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.engine.rollout import Engine
from zdm.model.phases import State
from zdm.operations.migration import Migration

COPIES: dict[str, Any] = {
    "move_columns": {
        "table": "roles",
        "to": "policies",
        "key": {"id": "id"},
        "columns": ["access"],
        "copies": {"name": "name"},
        "create": {},
    }
}
KEYS: dict[str, Any] = {
    "split_table": {
        "table": "roles",
        "keep": True,
        "into": [
            {
                "to": "policies",
                "key": {"id": "id"},
                "columns": ["access", {"column": "name", "up": "'role ' || id", "type": "text"}],
                "down": {"name": "'made'"},
                "create": {},
            }
        ],
    }
}


LOSSY: dict[str, Any] = {
    "split_table": {
        "table": "roles",
        "keep": True,
        "into": [
            {
                "to": "policies",
                "key": {"id": "id"},
                "columns": ["access", {"column": "name", "up": "upper(name)", "type": "text"}],
                "down": {"name": "'new'"},
                "create": {},
            }
        ],
    }
}
"""What each makes of a role's name: nothing of the role is written from it."""


def prepared(database: Database, operation: dict[str, Any], state: State) -> Engine:
    database.execute(
        "CREATE TABLE roles (id int PRIMARY KEY, name text NOT NULL, access text);"
        "INSERT INTO roles SELECT g, 'role ' || g, 'a' || g FROM generate_series(1, 5) g"
    )
    engine = Engine(database.dsn)
    engine.init()
    migration = Migration.model_validate({"id": "try_it", "operations": [operation], "gates": OPEN_GATES})
    while engine.advance(migration).state is not state:
        pass
    return engine


@on_all_versions
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SERIALIZABLE"])
@pytest.mark.parametrize(("operation", "repeats"), [(COPIES, "name"), (LOSSY, "upper(name)")])
def test_what_repeats_the_old_row_follows_it_and_nothing_else(
    database: Database, isolation: Isolation, operation: dict[str, Any], repeats: str
) -> None:
    """Also where all other columns agree already, in both directions."""
    engine = prepared(database, operation, State.MIGRATED)

    def run(statement: str) -> None:
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")

    run("UPDATE roles SET name = 'changed' WHERE id = 1")
    run("UPDATE policies SET access = 'new' WHERE id = 2")
    run("UPDATE roles SET name = 'both', access = 'old' WHERE id = 3")
    for statement in (
        "UPDATE policies SET name = 'mine' WHERE id = 4",
        "UPDATE policies SET name = 'mine', access = 'new' WHERE id = 5",
    ):
        with pytest.raises(
            pg.IntegrityConstraintViolation, match=r"repeats columns of its row of public.roles.*: name"
        ):
            run(statement)
    expected = [
        (1, "changed", "a1"),
        (2, "role 2", "new"),
        (3, "both", "old"),
        (4, "role 4", "a4"),
        (5, "role 5", "a5"),
    ]
    assert database.execute("TABLE roles ORDER BY id") == expected
    assert database.execute("SELECT id, name, access FROM policies ORDER BY id") == database.execute(
        f"SELECT id, {repeats}, access FROM roles ORDER BY id"
    )
    assert engine.verify("try_it").clean


@pytest.mark.parametrize("operation", [COPIES, KEYS])
@pytest.mark.parametrize("state", [State.MIGRATED, State.SWITCHED_OVER])
def test_what_repeats_the_old_row_is_repaired_by_it(
    database: Database, operation: dict[str, Any], state: State
) -> None:
    """Whoever is the authority; of the other columns that counts, also in a row in which both are wrong."""
    engine = prepared(database, operation, state)
    with psycopg.connect(database.dsn) as connection:
        connection.execute("SET LOCAL zdm.row = '1:new:*'")
        connection.execute("UPDATE policies SET name = 'damaged' WHERE id IN (1, 2)")
        connection.execute("UPDATE policies SET access = 'new' WHERE id IN (2, 3)")
    assert [t.different for t in engine.verify("try_it").tables] == [3]
    assert engine.verify("try_it", repair=True).clean
    access = "new" if state is State.SWITCHED_OVER else "a"
    expected = [(g, f"role {g}", "new" if access == "new" and g in {2, 3} else f"a{g}") for g in range(1, 6)]
    assert database.execute("SELECT id, name, access FROM policies ORDER BY id") == expected
    assert database.execute("SELECT id, name, access FROM roles ORDER BY id") == expected
    if state is State.SWITCHED_OVER:
        assert engine.rollback("try_it").state is State.ROLLED_BACK
