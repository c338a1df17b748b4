"""The harness itself: each of its assertions fails when what it asserts is not so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.harness import Rollout
from tests.support.mortal import How, Mortal
from tests.support.servers import Database
from zdm.model.phases import State
from zdm.model.sample import Scenario

SCENARIO = Scenario(
    setup="CREATE TABLE t (id serial PRIMARY KEY, a int NOT NULL, b text, c int);"
    " INSERT INTO t (a, b) SELECT g, 'x ' || g FROM generate_series(1, 50) g",
    operations=(
        {
            "change_type": {
                "table": "t",
                "column": "a",
                "to": "numeric(9,1)",
                "up": "a::numeric(9,1)",
                "down": "round(a)::int",
            }
        },
        {
            "split_column": {
                "table": "t",
                "column": "b",
                "into": [
                    {"name": "l", "type": "text", "up": "split_part(b, ' ', 1)"},
                    {"name": "r", "type": "text", "up": "split_part(b, ' ', 2)"},
                ],
                "down": "l || ' ' || r",
            }
        },
        {"create_index": {"table": "t", "name": "t_l", "columns": ["l"]}},
    ),
    old_writes=("UPDATE t SET a = a + 1 WHERE id = {n} % 50 + 1",),
    new_writes=("UPDATE t SET a = {n} + 0.4 WHERE id = {n} % 50 + 1",),
    agree="SELECT bool_and(a IS NOT NULL) FROM t",
)


def unsynced(rollout: Rollout, statement: str) -> None:
    """Write past the sync triggers."""
    rollout.database.execute(f"BEGIN; ALTER TABLE t DISABLE TRIGGER USER; {statement}; COMMIT")


def fails(check: Callable[[], object]) -> None:
    with pytest.raises(AssertionError):
        check()


def test_every_assertion_can_fail(database: Database) -> None:
    rollout = Rollout(database, SCENARIO)
    rollout.advance_to(State.PREPARED)
    rollout.sides_agree(complete=False)
    fails(rollout.sides_agree)
    columns = {
        n.final: n.name
        for m in rollout.engine().plan(rollout.migration).mappings
        for g in m.groups
        for n in g.new
    }
    # Something on the new side of a row that is not filled.
    unsynced(rollout, f"UPDATE t SET \"{columns['l']}\" = 'z' WHERE id = 7")
    fails(lambda: rollout.sides_agree(complete=False))
    unsynced(rollout, f'UPDATE t SET "{columns["l"]}" = NULL WHERE id = 7')
    rollout.sides_agree(complete=False)
    fails(rollout.nothing_left)
    assert rollout.dump() != rollout.before


@pytest.mark.parametrize(
    "wrong",
    ["a = -5", '"{a}" = 3.4', "b = 'other one'", '"{r}" = NULL'],
    ids=["old a", "new a", "old b", "new r"],
)
def test_sides_that_do_not_agree(database: Database, wrong: str) -> None:
    rollout = Rollout(database, SCENARIO)
    rollout.advance_to(State.MIGRATED)
    rollout.execute_new("UPDATE t SET a = 8.4, r = 'new' WHERE id = 8")
    rollout.agree()
    columns = {
        n.final: n.name
        for m in rollout.engine().plan(rollout.migration).mappings
        for g in m.groups
        for n in g.new
    }
    unsynced(rollout, f"UPDATE t SET {wrong.format(**columns)} WHERE id = 9")
    fails(rollout.sides_agree)


def test_errors_of_writers(database: Database) -> None:
    rollout = Rollout(database, SCENARIO)
    for level in ("40001", "23514"):
        database.execute(
            f"CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '{level}'; END $$;"
            "CREATE OR REPLACE TRIGGER refuse BEFORE UPDATE ON t FOR EACH ROW WHEN (NEW.id = 3) EXECUTE FUNCTION refuse()"
        )

        def write() -> None:
            with rollout.writing(new=False) as writers:
                writers.wait_for(60, seconds=60)

        fails(write)


def test_what_is_left(database: Database) -> None:
    """A version schema, a privilege, a comment: whatever pg_dump shows."""
    rollout = Rollout(database, SCENARIO)
    for statement in (
        "CREATE SCHEMA public_left",
        "COMMENT ON TABLE t IS 'left'",
        "GRANT SELECT ON t TO public",
        "ALTER TABLE t ALTER COLUMN c SET STATISTICS 7",
    ):
        before = rollout.dump()
        database.execute(statement)
        assert rollout.dump() != before, statement


def test_processes_die_where_they_are_told(database: Database) -> None:
    rollout = Rollout(database, SCENARIO)
    with Mortal() as mortal:
        for how in How:
            assert mortal.advance(database.dsn, rollout.migration, at=30, how=how).killed
        ended = mortal.advance(database.dsn, rollout.migration)
        assert (ended.killed, ended.error, ended.state) == (False, "", "prepared")
        assert ended.trips > 20
        assert mortal.roll_back(database.dsn, "no_such").error
