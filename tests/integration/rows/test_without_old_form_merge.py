"""Columns that came from another table hold what that one has no form for: recorded by policy, with what the old version has not seen."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from tests.conformance.harness import Rollout
from tests.integration.rows.test_merge import LEVELS, OPERATION, SETUP
from tests.support.interleave import Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.model.phases import State
from zdm.model.sample import Scenario

RECORDED = "SELECT key, new_row, old_row, sqlstate FROM zdm.rows_without_old_form ORDER BY key"
WRONG = """
SELECT count(*) FROM accounts a FULL JOIN stats s ON s.account_id = a.id WHERE (a.id IS NULL OR (a.posts, a.note) IS DISTINCT FROM
(coalesce(s.posts, 0), s.note)) AND NOT EXISTS (SELECT FROM zdm.rows_without_old_form WHERE key = jsonb_build_object('id', a.id) AND s.account_id IS NULL)
"""


def recording(database: Database, state: State = State.MIGRATED, **options: Any) -> Rollout:
    operation = {**OPERATION, "without_old_form": "record", **options}
    setup = SETUP + "ALTER TABLE stats ADD CHECK (posts < 1000);"
    rollout = Rollout(database, Scenario(setup=setup, operations=({"merge_tables": operation},)))
    rollout.advance_to(state)
    return rollout


def too_many(account: int, posts: int = 5000) -> str:
    return f"UPDATE accounts SET posts = {posts} WHERE id = {account}"


@on_all_versions
@pytest.mark.parametrize("level", LEVELS)
def test_what_the_other_table_cannot_hold(database: Database, level: str) -> None:
    """It stands in the columns, the other table's row goes; it follows what is written to it, and ends with it, or when it has a form again."""
    rollout = recording(database)

    def run(statement: str) -> None:
        database.execute(f"BEGIN ISOLATION LEVEL {level}; {statement}; COMMIT")

    run(too_many(1))
    before = {"account_id": 1, "posts": 10, "note": "n1"}
    assert database.execute(RECORDED) == [
        ({"id": 1}, {"id": 1, "posts": 5000, "note": "n1"}, before, "23514")
    ]
    assert database.execute("SELECT FROM stats WHERE account_id = 1") == []
    (found,) = rollout.engine().verify("try_it").tables
    assert (found.different, found.extra, found.without_old_form) == (0, 0, 1)
    # What the old version has always seen is not recorded; the columns are, and the key.
    run("UPDATE accounts SET name = 'seen' WHERE id = 1")
    run("UPDATE accounts SET note = 'more' WHERE id = 1")
    run("UPDATE accounts SET id = 101 WHERE id = 1")
    assert database.execute(RECORDED) == [
        ({"id": 101}, {"id": 101, "posts": 5000, "note": "more"}, before, "23514")
    ]
    run("UPDATE accounts SET posts = 7 WHERE id = 101")
    assert database.execute("SELECT posts, note FROM stats WHERE account_id = 101") == [(7, "more")]
    run(f"{too_many(2)}; UPDATE accounts SET posts = 0, note = NULL WHERE id = 2")
    run(f"{too_many(3)}; DELETE FROM accounts WHERE id = 3")
    run(
        "INSERT INTO accounts (id, name, posts) VALUES (60, 'x', 9999); INSERT INTO accounts (id) VALUES (61)"
    )
    assert database.execute(RECORDED) == [
        ({"id": 60}, {"id": 60, "posts": 9999, "note": None}, None, "23514")
    ]
    # The old version's word, for that row and for all.
    run("INSERT INTO stats VALUES (60, 3, 'mine')")
    assert database.execute(RECORDED) == []
    ((lost, kept),) = database.execute("SELECT lost, kept FROM zdm.row_conflicts WHERE won = 'old'")
    assert (lost, kept) == ({"id": 60, "posts": 9999, "note": None}, {"posts": 3, "note": "mine"})
    run(too_many(5))
    run("DELETE FROM stats WHERE account_id IN (5, 6)")
    if level == "READ COMMITTED":
        run("TRUNCATE stats")
    assert database.execute("SELECT posts FROM accounts WHERE id = 5") == [(5000,)]
    assert database.execute(WRONG) == [(0,)]
    assert rollout.engine().verify("try_it").clean


def one_after_the_other(
    database: Database,
    level: str,
    first: str,
    second: str,
    *,
    met: tuple[type[psycopg.Error], ...] = (),
    again: bool = True,
) -> None:
    """Two transactions that know nothing of each other, of which the second waits for the first; and what it meets then.

    Parameters
    ----------
    again: it tries again.
    """
    begin = f"BEGIN ISOLATION LEVEL {level}; SELECT 1;"
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        b.run(begin)
        a.run(begin + first)
        waiting = b.start(second)
        waiting.wait_blocked()
        a.run("COMMIT")
        if not met:
            waiting.result()
            b.run("COMMIT")
            return
        with pytest.raises(met):
            waiting.result()
        b.run("ROLLBACK" + (f"; {begin} {second}; COMMIT" if again else ""))


@on_all_versions
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("first", ["old", "new", "unlocked"])
def test_both_versions_at_the_same_moment(database: Database, level: str, first: str) -> None:
    """The row that is there is locked before it is asked whether it is recorded; without it what was recorded would be written over, and kept nowhere."""
    rollout = recording(database)
    if first == "unlocked":
        (settle,) = database.execute("SELECT pg_get_functiondef('zdm.rows_1_1_settle_new'::regproc)")
        database.execute(settle[0].replace("FOR NO KEY UPDATE", ""))
    old, new = "INSERT INTO stats VALUES (12, 4, 'mine')", too_many(12)
    two = (old, new) if first == "old" else (new, old)
    met = () if level == "READ COMMITTED" else (pg.SerializationFailure,)
    one_after_the_other(database, level, *two, met=met)
    if first == "unlocked" and level == "READ COMMITTED":
        assert database.execute("SELECT lost FROM zdm.row_conflicts") == []
        return
    assert database.execute(WRONG) == [(0,)]
    recorded = database.execute("SELECT key FROM zdm.rows_without_old_form")
    lost = database.execute("SELECT lost ->> 'posts' FROM zdm.row_conflicts")
    assert (recorded, lost) == (([({"id": 12},)], []) if first == "old" else ([], [("5000",)]))
    assert rollout.engine().verify("try_it").clean


def test_a_rollback_keeps_what_the_old_version_has_not_seen(database: Database) -> None:
    rollout = recording(database, State.SWITCHED_OVER)
    database.execute(f"{too_many(1)}; {too_many(15)}; UPDATE accounts SET posts = 77 WHERE id = 2")
    result = rollout.engine().rollback("try_it")
    assert [(row.key, row.new_row, row.old_row) for row in result.without_old_form] == [
        ({"id": 1}, {"id": 1, "posts": 5000, "note": "n1"}, {"account_id": 1, "posts": 10, "note": "n1"}),
        ({"id": 15}, {"id": 15, "posts": 5000, "note": None}, None),
    ]
    assert database.execute("SELECT posts FROM stats WHERE account_id = 2") == [(77,)]
    rollout.nothing_left()


def test_refused_unless_it_is_said(database: Database) -> None:
    rollout = recording(database, without_old_form="refuse")
    with pytest.raises(pg.CheckViolation):
        database.execute(too_many(1))
    assert rollout.engine().verify("try_it").clean
