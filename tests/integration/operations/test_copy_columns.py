"""Copies of columns of the row that is referred to: who may write what when, at every isolation level, and what is found at the end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.integration.operations.copy_stage import (
    ADD,
    CHANGE,
    LEVELS,
    POINT,
    Assignees,
    ends,
    refusing,
)
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.backfill.table import Statements
from zdm.engine.reporter import Silent
from zdm.model.step import Step

# --- two at once --------------------------------------------------------------------------------------------------------


def interleave(a: Assignees, scene: Scene, level: Isolation, number: int, issue: int) -> None:
    """Each order in which one that refers to an issue and one that changes it can meet. Their snapshots are from before.

    Each time nothing disagrees afterwards, and only what is above READ COMMITTED was refused, to be tried again.
    """
    child, parent = scene.session(f"child {number}"), scene.session(f"parent {number}")
    writes = [
        ADD.format(issue=issue, who=f"added {number}"),
        POINT.format(issue=issue, who=f"pointed {number}", id=3 * number + 1),
    ]
    for place, write in enumerate(writes):
        # It is there first, and whoever changes the issue waits for it.
        child.begin(level)
        parent.begin(level)
        parent.run("SELECT count(*) FROM assignees")
        child.run(write)
        change = parent.start(CHANGE.format(issue=issue, value=100 + place))
        change.wait_blocked(by=child)
        child.run("COMMIT")
        assert ends(parent, change) == refusing(level)
        assert a.bad() == 0
        # It comes, and is committed, between the snapshot of whoever changes the issue and the change.
        parent.begin(level)
        parent.run("SELECT count(*) FROM assignees")
        child.run(write)
        assert ends(parent, parent.start(CHANGE.format(issue=issue, value=200 + place))) == refusing(level)
        assert a.bad() == 0
        # The issue is changed first, and whoever refers to it waits, and takes the new values.
        child.begin(level)
        child.run("SELECT count(*) FROM assignees")
        parent.begin(level)
        parent.run(CHANGE.format(issue=issue, value=300 + place))
        waiting = child.start(
            POINT.format(issue=issue + 1, who="away", id=3 * number + 1) if place else write
        )
        if place == 0:
            waiting.wait_blocked(by=parent)
            parent.run("COMMIT")
            assert ends(child, waiting) == refusing(level)
        else:
            # Away from it: this one waits too, for the row.
            waiting.wait_blocked(by=parent)
            parent.run("COMMIT")
            assert ends(child, waiting) == refusing(level)
        assert a.bad() == 0
        # To nothing again, and back.
        parent.run(f"UPDATE issues SET team = NULL WHERE id = {issue}")
        assert a.bad() == 0


@on_all_versions
def test_one_that_refers_and_one_that_changes(database: Database) -> None:
    a = Assignees(database)
    a.fill()
    with Scene(database.dsn) as scene:
        for number, level in enumerate(LEVELS, 1):
            interleave(a, scene, level, number, issue=10 + 2 * number)
            # One whose team is NULL.
            interleave(a, scene, level, 10 + number, issue=60 + 2 * number)
    assert a.found() == {}


def _key(a: Assignees) -> None:
    name = a.database.value("SELECT conname FROM pg_constraint WHERE conname ~ '^_zdm_copy_'")
    a.database.execute(f'ALTER TABLE assignees DROP CONSTRAINT "{name}"')


def _index(a: Assignees) -> None:
    name = a.database.value("SELECT relname FROM pg_class WHERE relname ~ '^_zdm_copied_'")
    a.database.execute(f'DROP INDEX "{name}"')


def _trigger(a: Assignees) -> None:
    for (name,) in a.database.execute("SELECT tgname FROM pg_trigger WHERE tgname ~ '^!zdm_copy_'"):
        a.database.execute(f'DROP TRIGGER "{name}" ON issues')


def test_each_part_is_needed(database: Database) -> None:
    """The interleavings from above, with one part after the other taken out; it is put back, but for what comes last."""
    a = Assignees(database)
    a.fill()
    functions = [
        definition
        for (definition,) in database.execute(
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'zdm'::regnamespace AND proname ~ '^sync_'"
        )
    ]
    (trigger,) = database.execute(
        "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname ~ '^!zdm_copy_'"
    )
    parts: tuple[tuple[str, Isolation, int, Callable[[Assignees], object]], ...] = (
        ("the lock of the issue", "READ COMMITTED", 10, lambda a: a.take_out("FOR KEY SHARE;", ";")),
        ("the notes", "REPEATABLE READ", 60, lambda a: a.take_out("FOR SHARE SKIP LOCKED")),
        ("the trigger on the issues", "READ COMMITTED", 70, _trigger),
        ("the foreign key that sees who came since", "REPEATABLE READ", 20, _key),
        ("the index that makes it a lock of the columns", "READ COMMITTED", 30, _index),
    )
    for number, (what, level, issue, taken) in enumerate(parts, 1):
        taken(a)
        with Scene(database.dsn) as scene:
            try:
                interleave(a, scene, level, number, issue=issue)
            except AssertionError:
                pass
            else:
                pytest.fail(f"nothing showed that {what} was missing")
        database.execute(f'DROP TRIGGER IF EXISTS "{trigger[0]}" ON issues; {trigger[1]}')
        database.execute(f'ALTER TABLE issues ENABLE ALWAYS TRIGGER "{trigger[0]}"')
        for definition in functions:
            database.execute(definition)
        a.repair()
        assert a.bad() == 0


def test_rows_are_filled_while_issues_change(database: Database) -> None:
    """A chunk computes values over its snapshot: whoever changes an issue since goes to its rows, which are filled then and left alone."""
    a = Assignees(database)
    fill = Statements(a.mapping).fill(0, 1000, careful=False).as_string(None)
    with Scene(database.dsn) as scene:
        chunk, reader, parent = (scene.session(name) for name in ("chunk", "reader", "parent"))
        reader.begin()
        reader.run("SELECT FROM assignees WHERE id = 1 FOR UPDATE")
        chunk.begin()
        filling = chunk.start(fill)
        filling.wait_blocked(by=reader)
        # Its rows come after the first.
        parent.run(CHANGE.format(issue=40, value=900))
        assert database.value("SELECT count(*) FROM assignees WHERE issue_id = 40 AND project_id = 900") == 2
        reader.run("COMMIT")
        filling.result()
        # It has written the rows of this one, and whoever changes it waits for its end.
        change = parent.start(CHANGE.format(issue=41, value=901))
        change.wait_blocked(by=chunk)
        chunk.run("COMMIT")
        change.result()
    assert a.bad() == 0
    a.fill()
    assert a.found() == {}


def test_snapshots_from_before_the_first_copy(database: Database) -> None:
    """They do not see which rows came without copies meanwhile, or what the issues have become; each is refused, to be tried again."""
    row, name = "SELECT min(id) FROM assignees WHERE issue_id = 60", "preparation.public.assignees.sync"
    with Scene(database.dsn) as scene:
        changing, filling, other = (scene.session(one) for one in ("changing", "filling", "other"))

        class Watching(Silent):
            def step_started(self, step: Step, number: int, total: int) -> None:
                if step.id == name:
                    for session in (changing, filling):
                        session.begin("REPEATABLE READ")
                        session.run("SELECT count(*) FROM assignees")
                    other.run(ADD.format(issue=20, who="unseen"))
                    other.run(CHANGE.format(issue=60, value=300))

        # An issue without rows, and one without a team: what the server's own trigger sees raises 40001 by itself.
        a = Assignees(database, reporter=Watching(), extra="DELETE FROM assignees WHERE issue_id = 20;")
        # Without anybody who saw the row come, and while it is not filled.
        change = changing.start(CHANGE.format(issue=20, value=301))
        assert change.error() == "40001"
        other.run("UPDATE assignees SET who = 'filled' WHERE who = 'unseen'")
        changing.run("ROLLBACK")
        assert filling.start(f"UPDATE assignees SET who = 'old' WHERE id = ({row})").error() == "40001"
        filling.run("ROLLBACK")
        for session, statement in (
            (changing, CHANGE.format(issue=20, value=301)),
            (filling, f"UPDATE assignees SET who = 'new' WHERE id = ({row})"),
        ):
            session.begin("REPEATABLE READ")
            session.run(statement)
            session.run("COMMIT")
    assert (a.of("filled"), a.of("new"), a.bad()) == ((20, 301, 301), (60, 300, 300), 0)


def test_nobody_waits_in_a_circle(database: Database) -> None:
    """Who only fills a row, or writes its copies, does not wait for the issue while he is waited for."""
    a = Assignees(database)
    with Scene(database.dsn) as scene:
        child, parent = scene.session("child"), scene.session("parent")
        for issue, level in zip((10, 20, 30), LEVELS, strict=True):
            row = f"SELECT min(id) FROM assignees WHERE issue_id = {issue}"
            for value, write in enumerate(("who = 'filled'", "project_id = 77"), 500):
                child.begin(level)
                child.run(f"UPDATE assignees SET {write} WHERE id = ({row})")
                change = parent.start(CHANGE.format(issue=issue, value=value))
                change.wait_blocked(by=child)
                child.run("UPDATE issues SET title = 'touched' WHERE id = 50")
                child.run("COMMIT")
                change.result()
                assert a.bad() == 0
            # The same in the other order: who changes the issue has locked it, and comes by the row only at the end.
            for value, write in enumerate(("who = 'left'", "project_id = 78"), 510):
                other = f"SELECT max(id) FROM assignees WHERE issue_id = {issue}"
                parent.begin()
                parent.run(f"SELECT FROM issues WHERE id = {issue} FOR UPDATE")
                child.begin(level)
                child.run(f"UPDATE assignees SET {write} WHERE id = ({other})")
                change = parent.start(CHANGE.format(issue=issue, value=value))
                change.wait_blocked(by=child)
                child.run("COMMIT")
                change.result()
                parent.run("COMMIT")
                assert a.bad() == 0
            # Who has added a row may write the issue after it, while somebody waits to change it.
            child.begin(level)
            child.run(ADD.format(issue=issue, who=f"touching {issue}"))
            change = parent.start(CHANGE.format(issue=issue, value=502))
            change.wait_blocked(by=child)
            child.run(f"UPDATE issues SET title = 'touched' WHERE id = {issue}")
            child.run("COMMIT")
            change.result()
            # Who writes other columns of the issue waits for nobody.
            child.begin(level)
            child.run(ADD.format(issue=12, who="other"))
            parent.run("UPDATE issues SET title = 'free' WHERE id = 12")
            child.run("COMMIT")
            assert (a.bad(), a.of(f"touching {issue}")[1:]) == (0, (502, 502))


def test_an_issue_that_somebody_else_brings(database: Database) -> None:
    """A row may come before its issue, if the foreign key is checked late. What is looked up at the end is held from then on."""
    a = Assignees(database, reference="REFERENCES issues DEFERRABLE INITIALLY DEFERRED")
    a.fill()
    with Scene(database.dsn) as scene:
        child, parent = scene.session("child"), scene.session("parent")
        child.begin()
        child.run(ADD.format(issue=3000, who="early"))
        parent.run("INSERT INTO issues VALUES (3000, 1, NULL)")
        # The end of the transaction, up to the moment before the server's own checks.
        child.run('SET CONSTRAINTS "~zdm_6_late_insert" IMMEDIATE')
        change = parent.start(CHANGE.format(issue=3000, value=2))
        change.wait_blocked(by=child)
        child.run("COMMIT")
        change.result()
    assert (a.of("early"), a.bad(), a.found()) == ((3000, 2, 2), 0, {})


def test_two_that_refer_to_an_issue_without_a_team_do_not_wait(database: Database) -> None:
    a = Assignees(database)
    with Scene(database.dsn) as scene:
        first, second, third = (scene.session(name) for name in ("first", "second", "third"))
        for session in (first, second):
            session.begin("SERIALIZABLE")
            session.run("SELECT count(*) FROM issues WHERE id = 60")
        for session in (first, second, third):
            session.run(ADD.format(issue=60, who=session.name))
            session.run(ADD.format(issue=61, who=session.name))
        for session in (first, second):
            session.run("COMMIT")
    assert a.bad() == 0


def test_everybody_at_once(database: Database) -> None:
    """All isolation levels on a few issues, with and without a team, while the backfill goes through the rows."""
    a = Assignees(database)

    def work(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        for _ in range(rng.randint(1, 2)):
            issue, row = rng.choice([1, 2, 60, 61]), rng.randint(1, 60)
            statement = rng.choice(
                (
                    ADD.format(issue=issue, who=number),
                    POINT.format(issue=issue, who=number, id=row),
                    f"UPDATE assignees SET who = 'seen', team = 4 WHERE id = {row}",
                    f"DELETE FROM assignees WHERE id = {row}",
                    f"UPDATE issues SET title = 'touched' WHERE id = {issue}",
                    CHANGE.format(issue=issue, value=number),
                    f"UPDATE issues SET team = NULL WHERE id = {issue}",
                )
            )
            connection.execute(statement.encode())

    with Writers(database.dsn) as writers:
        for level in LEVELS:
            writers.add(f"one {level}", work, isolation=level)
            writers.add(f"two {level}", work, isolation=level)
        a.fill()
        writers.wait_for(60)
    writers.report.assert_only("40001", "40P01")
    a.fill()
    assert (a.found(), a.bad()) == ({}, 0)
