"""merge_tables: rows of one table become columns of another, in the orders that break naive ways."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from tests.support.versions import on_all_versions, on_all_versions_at_length
from zdm.errors import BadInput, Drift
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.operations.merge_tables import MergeTables

SETUP = """
CREATE TABLE accounts (id bigint PRIMARY KEY, name text);
CREATE TABLE stats (account_id bigint PRIMARY KEY, posts bigint NOT NULL DEFAULT 0, note text);
INSERT INTO accounts SELECT g, 'a' || g FROM generate_series(1, 20) g;
INSERT INTO stats SELECT g, g * 10, 'n' || g FROM generate_series(1, 10) g;
"""
OPERATION: dict[str, Any] = {
    "table": "stats",
    "to": "accounts",
    "key": {"id": "account_id"},
    "columns": ["posts", {"column": "note", "type": "varchar(9)", "up": "note", "down": "note"}],
}
FILL = "SELECT zdm.rows_1_1_settle_new(s, false, false) FROM stats s"
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


def prepared(database: Database, state: State = State.PREPARED, **options: Any) -> Rollout:
    scenario = Scenario(setup=SETUP, operations=({"merge_tables": {**OPERATION, **options}},))
    rollout = Rollout(database, scenario)
    rollout.advance_to(state)
    return rollout


def wrong(database: Database, of: str = "TRUE") -> int:
    """Rows that do not agree, by a query that knows nothing of zdm's."""
    query = f"""SELECT count(*) FROM accounts a FULL JOIN stats s ON s.account_id = a.id
      WHERE ({of}) AND (a.id IS NULL OR (a.posts, a.note) IS DISTINCT FROM (coalesce(s.posts, 0), s.note))"""
    return int(database.execute(query)[0][0])


WRITES = (
    "DELETE FROM stats WHERE account_id = 1",
    # What the columns are empty with: a snapshot from before the fill would find that both agree.
    "UPDATE stats SET posts = 0, note = NULL WHERE account_id = 2",
    "UPDATE stats SET account_id = 11 WHERE account_id = 3",
    "DELETE FROM accounts WHERE id = 4",
    "TRUNCATE stats",
)


@on_all_versions
@pytest.mark.parametrize("level", LEVELS)
def test_a_snapshot_from_before_the_fill(database: Database, level: str) -> None:
    """It either writes over what has been filled since, or gets 40001 and tries again."""
    prepared(database)
    met = 0
    with psycopg.connect(database.dsn) as old:
        for row, write in enumerate(WRITES, 1):
            old.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
            old.execute("SELECT count(*) FROM accounts")
            database.execute(f"{FILL} WHERE account_id = {row}")
            try:
                old.execute(write.encode())
                old.commit()
            except pg.SerializationFailure:
                met += 1
                old.rollback()
                old.execute(write.encode())
                old.commit()
            of = (
                "TRUE"
                if write.startswith("TRUNCATE")
                else f"{row} IN (a.id, s.account_id) OR 11 IN (a.id, s.account_id)"
            )
            assert wrong(database, of) == 0, write
    assert met == (0 if level == "READ COMMITTED" else len(WRITES))


@on_all_versions_at_length
def test_what_is_not_filled_is_not_written_over(database: Database) -> None:
    """The new application computes from what it sees, and that is nothing yet."""
    rollout = prepared(database)
    with pytest.raises(pg.ObjectNotInPrerequisiteState, match="not filled yet"):
        database.execute("UPDATE accounts SET posts = posts + 1 WHERE id = 1")
    # Rows that have no other half, and what is not mapped, may be written; so may what the old application writes first.
    database.execute("UPDATE accounts SET posts = posts + 1 WHERE id = 15")
    database.execute("UPDATE accounts SET name = 'b' WHERE id = 1")
    database.execute("UPDATE stats SET posts = 7 WHERE account_id = 2")
    database.execute("UPDATE accounts SET posts = posts + 1 WHERE id = 2")
    assert database.execute("SELECT * FROM stats WHERE account_id IN (1, 2, 15) ORDER BY 1") == [
        (1, 10, "n1"),
        (2, 8, "n2"),
        (15, 1, None),
    ]
    rollout.advance_to(State.MIGRATED)
    assert wrong(database) == 0
    database.execute("UPDATE accounts SET posts = posts + 1 WHERE id = 1")
    assert database.execute("SELECT posts FROM stats WHERE account_id = 1") == [(11,)]


@on_all_versions_at_length
def test_both_sides_write_everything(database: Database) -> None:
    rollout = prepared(database, State.MIGRATED)
    database.execute("INSERT INTO accounts (id, name, posts) VALUES (30, 'new', 3), (31, 'empty', 0)")
    database.execute("UPDATE accounts SET id = 130 WHERE id = 3")
    database.execute("UPDATE accounts SET posts = 0, note = NULL WHERE id = 4")
    database.execute("DELETE FROM accounts WHERE id = 5")
    found = database.execute(
        "SELECT account_id, posts FROM stats WHERE account_id IN (3, 4, 5, 30, 31, 130) ORDER BY 1"
    )
    assert found == [(4, 0), (30, 3), (130, 30)]
    database.execute("INSERT INTO stats VALUES (31, 5)")
    database.execute("DELETE FROM stats WHERE account_id = 6")
    database.execute("UPDATE stats SET account_id = 16 WHERE account_id = 7")
    assert wrong(database) == 0
    # The rest of a rollout, and back: what only the new application wrote is in the old table.
    rollout.advance_to(State.SWITCHED_OVER)
    engine = rollout.engine()
    engine.fence("try_it")
    with pytest.raises(pg.UndefinedTable):
        database.execute("SELECT * FROM stats")
    database.execute("UPDATE accounts SET posts = 99 WHERE id = 20")
    assert engine.verify("try_it").clean
    engine.fence("try_it", lift=True)
    engine.rollback("try_it")
    assert database.execute("SELECT posts FROM stats WHERE account_id = 20") == [(99,)]
    rollout.nothing_left()


@on_all_versions_at_length
def test_a_row_before_the_one_that_it_belongs_to(database: Database) -> None:
    """Without a foreign key the old application may make them in this order; it is noted, and then taken over."""
    rollout = prepared(database, State.MIGRATED)
    database.execute("INSERT INTO stats VALUES (40, 4, 'first'), (41, 4, 'alone')")
    failures = "SELECT key ->> 'account_id', sqlstate FROM zdm.sync_failures ORDER BY 1"
    assert database.execute(failures) == [("40", "23503"), ("41", "23503")]
    database.execute("INSERT INTO accounts (id, name) VALUES (40, 'then')")
    assert database.execute("SELECT posts, note FROM accounts WHERE id = 40") == [(4, "first")]
    assert database.execute(failures) == [("41", "23503")]
    found = rollout.engine().advance(rollout.migration)
    assert {"sync_failures", "verification"} & {v.gate for v in found.verdicts if not v.lets_through}
    with pytest.raises(pg.ObjectNotInPrerequisiteState):
        database.execute("INSERT INTO accounts (id, posts) VALUES (41, 1)")
    database.execute("DELETE FROM stats WHERE account_id = 41")
    assert database.execute(failures) == []
    assert wrong(database) == 0


@on_all_versions_at_length
def test_a_value_that_does_not_fit_and_a_trigger_that_refuses(database: Database) -> None:
    """The old application's writes go through, the rows are recorded, and clear themselves."""
    rollout = prepared(database, State.MIGRATED)
    database.execute("UPDATE stats SET note = 'much longer than nine' WHERE account_id = 1")
    assert database.execute("SELECT sqlstate FROM zdm.sync_failures") == [("22001",)]
    assert [t.failed for t in rollout.engine().verify("try_it").tables] == [1]
    database.execute("UPDATE stats SET note = 'short' WHERE account_id = 1")
    assert database.execute("SELECT count(*) FROM zdm.sync_failures") == [(0,)]
    assert rollout.engine().verify("try_it").clean


@on_all_versions_at_length
@pytest.mark.parametrize("state", [State.MIGRATED, State.SWITCHED_OVER])
def test_repair(database: Database, state: State) -> None:
    """Whoever is the authority is right."""
    rollout = prepared(database, state)
    engine = rollout.engine()
    with psycopg.connect(database.dsn) as connection:
        connection.execute("SET LOCAL zdm.row = '1:new:*'")
        connection.execute("UPDATE accounts SET posts = 5 WHERE id IN (1, 19)")
    found = engine.verify("try_it")
    assert [(t.missing, t.extra, t.different) for t in found.tables] == [(0, 1, 1)]
    assert engine.verify("try_it", repair=True).clean
    assert wrong(database) == 0
    right = (10, 0) if state is State.MIGRATED else (5, 5)
    assert database.execute("SELECT posts FROM accounts WHERE id IN (1, 19) ORDER BY id") == [
        (value,) for value in right
    ]


@pytest.mark.parametrize(
    ("before", "change", "expected"),
    [
        (
            "INSERT INTO stats VALUES (77, 1), (78, 1)",
            {},
            "2 rows of public.stats have no row of public.accounts",
        ),
        ("", {"columns": ["posts"]}, "neither merged nor discarded"),
        ("", {"columns": ["posts", {"column": "note", "up": "upper(note)"}]}, "in one direction only"),
        (
            "",
            {"columns": ["posts", {"column": "note", "up": "upper(note)", "down": "note"}]},
            "differs from x",
        ),
        ("", {"columns": ["posts", {"column": "note", "to": "name"}]}, "already has a column name"),
        ("CREATE TABLE child (s bigint REFERENCES stats)", {}, "child_s_fkey of public.child points at"),
        (
            "ALTER TABLE stats ADD at timestamptz DEFAULT now()",
            {"columns": ["posts", "note", "at"]},
            "another value each time",
        ),
    ],
)
def test_what_cannot_be_merged(
    database: Database, before: str, change: dict[str, Any], expected: str
) -> None:
    scenario = Scenario(setup=SETUP + before, operations=({"merge_tables": {**OPERATION, **change}},))
    rollout = Rollout(database, scenario)
    with pytest.raises(BadInput) as raised:
        rollout.engine().plan(rollout.migration)
    assert expected in str([problem.what for problem in raised.value.problems])
    assert isinstance(rollout.migration.operations[0], MergeTables)


def test_a_unique_index_that_somebody_drops(database: Database) -> None:
    """The next move names it; what cannot be mirrored without it is refused meanwhile, and nothing is lost."""
    given = MergeTables.scenarios[0]
    setup = given.setup.replace("account_id bigint NOT NULL UNIQUE", "account_id bigint NOT NULL")
    assert setup != given.setup
    setup += "; CREATE UNIQUE INDEX by_account ON account_stats (account_id)"
    rollout = Rollout(database, given.model_copy(update={"setup": setup}), compared=False)
    rollout.advance_to(State.MIGRATED)
    database.execute("DROP INDEX by_account")
    with pytest.raises(psycopg.Error) as raised:
        rollout.execute_new("INSERT INTO accounts (username, statuses_count) VALUES ('new', 5)")
    assert raised.value.sqlstate == "42P10"
    database.execute("UPDATE account_stats SET statuses_count = 50 WHERE account_id = 1")
    with pytest.raises(Drift, match=r"no unique index over \(account_id\) of public.account_stats"):
        rollout.engine().advance(rollout.migration)
    database.execute("CREATE UNIQUE INDEX again ON account_stats (account_id)")
    rollout.agree()
    rollout.advance_to(State.SWITCHED_OVER)
