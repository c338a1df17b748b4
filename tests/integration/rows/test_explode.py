"""One row, many elements: what both applications and the backfill do at once, each of which breaks a simpler way."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest

from tests.integration.rows.explode_stage import BAD, Posts, added, tagged
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers


@pytest.mark.parametrize("naive", [False, True])
def test_two_that_add_elements_to_one_row_at_once(database: Database, naive: bool) -> None:
    """Each sees its own only: the second waits for the row, and counts the first one's in; or is told to try again."""
    posts = Posts(database, naive=naive)
    if not naive:
        posts.fill()
    levels: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    with Scene(database.dsn) as scene:
        for number, isolation in enumerate(levels):
            post = 4 * (number + 1)
            a, b = scene.session(f"a {isolation}"), scene.session(f"b {isolation}")
            a.run(f"BEGIN ISOLATION LEVEL {isolation}")
            b.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT 1 FROM posts")
            a.run(added(post, "x", 7))
            waiting = b.start(added(post, "y", 8))
            waiting.wait_blocked()
            a.run("COMMIT")
            if naive:
                # It waited in its UPDATE, which had looked at the elements before.
                waiting.result()
                b.run("COMMIT")
                assert posts.both(post) == ("y", "x,y")
                return
            if isolation == "READ COMMITTED":
                waiting.result()
                b.run("COMMIT")
            else:
                with pytest.raises(psycopg.errors.SerializationFailure):
                    waiting.result()
                b.run("ROLLBACK")
                b.run(f"BEGIN ISOLATION LEVEL {isolation}; {added(post, 'y', 8)}; COMMIT")
            assert posts.both(post) == ("a,b,x,y", "a,b,x,y")
    assert (posts.bad(), posts.found()) == (0, {})


@on_all_versions
@pytest.mark.parametrize("naive", [False, True])
def test_a_snapshot_older_than_the_backfill(database: Database, naive: bool) -> None:
    """The elements that the backfill has made are not seen: 40001, or they would stay. Tried again, it succeeds."""
    posts = Posts(database, naive=naive)
    statements = (
        tagged(4, "new"),
        tagged(4, ""),
        "UPDATE posts SET id = 400 WHERE id = 4",
        "DELETE FROM posts WHERE id = 4",
        added(4, "x"),
    )
    with Scene(database.dsn) as scene:
        a = scene.session("a")
        a.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
        a.run("SELECT count(*) FROM posts")
        posts.fill()
        if naive:
            a.run(statements[1])
            a.run("COMMIT")
            assert posts.bad() > 0
            return
        for statement in statements:
            a.run("SAVEPOINT s")
            with pytest.raises(psycopg.errors.SerializationFailure):
                a.run(statement)
            a.run("ROLLBACK TO s")
        a.run("ROLLBACK")
        for level in ("REPEATABLE READ", "SERIALIZABLE"):
            for statement in statements:
                a.run(f"BEGIN ISOLATION LEVEL {level}; {statement}")
                assert a.run("SELECT 1") is not None
                a.run("ROLLBACK")
        a.run(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {tagged(4, 'new')}; COMMIT")
    assert (posts.bad(), posts.found(), posts.both(4)) == (0, {}, ("new", "new"))


@on_all_versions
@pytest.mark.parametrize("filled", [True, False])
def test_a_key_taken_over_from_a_row_that_the_snapshot_still_sees(database: Database, filled: bool) -> None:
    """Two rows of one key are seen then, one of them gone; the elements were made of the one that is gone."""
    posts = Posts(database)
    if filled:
        posts.fill()
    taken_over = "INSERT INTO posts (id, tags) VALUES (7, 'x,y')"
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        a.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM posts")
        b.run("UPDATE posts SET id = 1007 WHERE id = 7")
        with pytest.raises(psycopg.errors.SerializationFailure):
            a.run(taken_over)
        a.run(f"ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; {taken_over}; COMMIT")
    posts.fill()
    assert database.value(BAD) == 0


def test_a_snapshot_that_misses_elements_which_change_nothing(database: Database) -> None:
    """An element that leaves the list as it was is only seen by whoever comes later because the row is touched."""
    # The greatest tag is all that the old version holds.
    options: dict[str, object] = {
        "columns": [{"column": "tags", "down": "coalesce(max(tag), '')"}],
        "up": "SELECT tags, 1 WHERE tags <> ''",
        "lossy": True,
    }
    posts = Posts(database, options=options)
    database.execute("UPDATE posts SET tags = 'm'")
    posts.fill()
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        b.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM posts")
        a.run(added(1, "f"))
        # By what it sees none would be left.
        with pytest.raises(psycopg.errors.SerializationFailure):
            b.run("DELETE FROM tags WHERE post = 1 AND tag = 'm'")
        b.run("ROLLBACK")
        b.run("BEGIN ISOLATION LEVEL REPEATABLE READ; DELETE FROM tags WHERE post = 1 AND tag = 'm'; COMMIT")
    assert posts.both(1) == ("f", "f")
    assert posts.found() == {}


@on_all_versions
def test_a_list_that_is_written_while_elements_are(database: Database) -> None:
    """Whoever comes second acts on what the first one left; elements lock their row first, so that nobody deadlocks."""
    posts = Posts(database)
    posts.fill()
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        a.run(f"BEGIN; {tagged(4, 'q')}")
        waiting = b.start(added(4, "x"))
        waiting.wait_blocked()
        a.run("COMMIT")
        waiting.result()
        assert posts.both(4) == ("q,x", "q,x")
        a.run(f"BEGIN; {added(4, 'y', 10)}")
        waiting = b.start("UPDATE posts SET tags = tags || ',z' WHERE id = 4")
        waiting.wait_blocked()
        a.run("COMMIT")
        waiting.result()
        assert posts.both(4) == ("q,x,y,z", "q,x,y,z")
        # The same element from both sides.
        a.run(f"BEGIN; {tagged(8, 'same')}")
        waiting = b.start(added(8, "same"))
        waiting.wait_blocked()
        a.run("COMMIT")
        with pytest.raises(psycopg.errors.UniqueViolation):
            waiting.result()
        a.run("BEGIN; DELETE FROM posts WHERE id = 12")
        waiting = b.start(added(12, "late"))
        waiting.wait_blocked()
        a.run("COMMIT")
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            waiting.result()
    assert (posts.bad(), posts.found()) == (0, {})


def test_rows_that_are_not_filled_yet(database: Database) -> None:
    """Whoever adds an element finds those that the list has; what is written at REPEATABLE READ succeeds."""
    posts = Posts(database)
    database.execute(added(4, "x"))
    assert posts.both(4) == ("a,b,x", "a,b,x")
    database.execute("INSERT INTO tags (post, tag, place) VALUES (8, 'x', 3), (8, 'y', 4)")
    assert posts.both(8) == ("a,b,x,y", "a,b,x,y")
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.execute(added(12, "a"))
    # It cannot be told whether there was nothing to delete, or it is deleted.
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not filled yet"):
        database.execute("BEGIN; DELETE FROM tags WHERE post = 16; " + added(16, "x") + "; COMMIT")
    for number, statement in enumerate(
        (
            "DELETE FROM posts WHERE id = 20",
            "UPDATE posts SET id = 240 WHERE id = 24",
            tagged(28, "other"),
            tagged(3, ""),
            added(7, "x"),
        )
    ):
        level = ("REPEATABLE READ", "SERIALIZABLE")[number % 2]
        database.execute(f"BEGIN ISOLATION LEVEL {level}; {statement}; COMMIT")
    posts.fill()
    assert (posts.found(), posts.bad()) == ({}, 0)
    assert posts.both(7) == ("a,c,d,x", "a,c,d,x")
    assert posts.both(16) == ("a,b", "a,b")


def test_everybody_at_once(database: Database) -> None:
    """Both versions at all isolation levels on a few rows, while the backfill goes through them."""
    posts = Posts(database, rows=2000)

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        post = rng.randrange(1, 2000) if number % 3 else rng.randrange(1, 40)
        # A snapshot first, so that what the backfill commits meanwhile is not in it.
        connection.execute("SELECT 1 FROM public.posts LIMIT 1")
        statement = (
            tagged(post, f"n{rng.randrange(12)},a"),
            tagged(post, ""),
            f"UPDATE posts SET title = 'x{number}' WHERE id = {post}",
            f"INSERT INTO posts (id, tags) VALUES ({post}, 'i') ON CONFLICT (id) DO UPDATE SET tags = 'u,v'",
            f"DELETE FROM posts WHERE id = {post}",
            f"UPDATE posts SET id = -(SELECT coalesce(max(-id), 0) + 1 + {number % 7} FROM public.posts) WHERE id = {post}",
        )[rng.randrange(6)]
        connection.execute(statement.replace("posts ", "public.posts ", 1).encode())

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        post = rng.randrange(1, 2000) if number % 3 else rng.randrange(1, 40)
        if number % 5 == 0:
            connection.execute("SELECT 1 FROM public.posts LIMIT 1")
        statement = (
            (
                f"INSERT INTO public.tags (post, tag, place) SELECT {post}, 'w{rng.randrange(5)}', {number} FROM public.posts"
                f" WHERE id = {post} ON CONFLICT DO NOTHING"
            ),
            f"DELETE FROM public.tags WHERE post = {post}",
            f"UPDATE public.tags SET place = {number} WHERE post = {post} AND tag = 'a'",
        )[rng.randrange(3)]
        connection.execute(statement.encode())

    levels: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    with Writers(database.dsn) as writers:
        for level in levels:
            writers.add(f"old {level}", old, isolation=level)
            writers.add(f"new {level}", new, isolation=level)
        writers.wait_for(1)
        posts.fill()
        writers.wait_for(30)
    writers.report.assert_only("40001", "40P01", "23503", "23505")
    assert (posts.found(), posts.bad()) == ({}, 0)
