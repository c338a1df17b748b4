"""Elements of a list that the old version cannot hold, recorded by policy: each by itself, and the others stay in the list."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest

from tests.integration.rows.explode_stage import Posts, added, tagged
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions, on_all_versions_at_length
from tests.support.writers import Writers
from zdm.db.session import connect
from zdm.model.mapping import Authority
from zdm.verify.elements import verify_elements
from zdm.verify.run import Found

LEVELS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

#: The list takes twelve characters, and may not be one tag 'z' alone.
SHORT = "ALTER TABLE posts ADD CHECK (length(tags) <= 12), ADD CHECK (tags <> 'z')"

WRONG = """
SELECT 'list', p.id::text FROM posts AS p FULL JOIN
  (SELECT post, string_agg(tag, ',' ORDER BY place, tag) AS tags FROM tags WHERE NOT EXISTS (SELECT FROM zdm.rows_without_old_form AS f
   WHERE f.key = jsonb_build_object('post', post, 'tag', tag)) GROUP BY post) AS t ON t.post = p.id
WHERE p.id IS NULL OR coalesce(p.tags, '') <> coalesce(t.tags, '')
UNION ALL SELECT 'record', f.key::text FROM zdm.rows_without_old_form AS f LEFT JOIN tags AS t
  ON f.key = jsonb_build_object('post', post, 'tag', tag) WHERE to_jsonb(t) IS DISTINCT FROM f.new_row
"""
"""Lists that are not what their elements say, and entries of the record that are no element as it is, by a query that knows nothing of zdm's."""


def recording(database: Database, **options: object) -> Posts:
    posts = Posts(database, rows=12, options={"without_old_form": "record", **options}, extra=SHORT)
    posts.fill()
    return posts


def found(posts: Posts) -> Found:
    return verify_elements(
        lambda: connect(posts.database.dsn, application_name="verify"), posts.mapping, posts.rollout
    )


def right(posts: Posts, recorded: int) -> None:
    """Each list says what its other elements say; that many are recorded."""
    assert posts.database.execute(WRONG) == []
    looked = found(posts)
    assert (looked.counts, looked.without_old_form) == ({}, recorded)


def on_record(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT (key -> 'post')::int, key ->> 'tag', sqlstate FROM zdm.rows_without_old_form ORDER BY 1, 2"
    )


@on_all_versions
@pytest.mark.parametrize("isolation", LEVELS)
def test_everything_that_can_be_written(database: Database, isolation: str) -> None:
    """Posts 4, 8 and 12 hold 'a,b'."""
    posts = recording(database)

    def run(statement: str) -> None:
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")

    run(added(4, "x,y"))
    assert (on_record(database), posts.both(4)) == ([(4, "x,y", "23514")], ("a,b", "a,b,x,y"))
    right(posts, 1)
    # What is written to it is recorded, and nothing else happens.
    run("UPDATE tags SET votes = 7 WHERE tag = 'x,y'")
    assert database.value("SELECT new_row ->> 'votes' FROM zdm.rows_without_old_form") == "7"
    # Others come and go beside it; the old version writes its list, and changes the row's key.
    run(added(4, "c", 10))
    run("DELETE FROM tags WHERE post = 4 AND tag = 'a'")
    assert posts.both(4)[0] == "b,c"
    run(tagged(4, "d,e"))
    run("UPDATE posts SET id = 400 WHERE id = 4")
    assert (on_record(database), posts.both(400)) == ([(400, "x,y", "23514")], ("d,e", "d,e,x,y"))
    right(posts, 1)
    # It gets a form, and loses it again; and goes to another row.
    run("UPDATE tags SET tag = 'x' WHERE tag = 'x,y'")
    assert (on_record(database), posts.both(400)[0]) == ([], "d,e,x")
    run("UPDATE tags SET tag = 'x,z' WHERE tag = 'x'")
    run("UPDATE tags SET post = 8 WHERE tag = 'x,z'")
    assert (on_record(database), posts.both(8)[0], posts.both(400)[0]) == (
        [(8, "x,z", "23514")],
        "a,b",
        "d,e",
    )
    run("UPDATE tags SET post = 12, tag = 'x' WHERE tag = 'x,z'")
    assert (on_record(database), posts.both(12)[0]) == ([], "a,b,x")
    # Several at once: only what does not fit is left out, whichever comes first.
    run("INSERT INTO tags (post, tag, place) VALUES (8, 'p,q', 3), (8, 'r', 4), (8, 's,t', 5), (8, 'u', 6)")
    assert [tag for _, tag, _ in on_record(database)] == ["p,q", "s,t"]
    assert posts.both(8)[0] == "a,b,r,u"
    run("UPDATE tags SET tag = replace(tag, ',', '') WHERE post = 8 AND place > 2")
    # There is room for twelve characters: something is left out, until others go.
    assert posts.both(8)[1] == "a,b,pq,r,st,u"
    assert len(on_record(database)) == 1
    right(posts, 1)
    run("DELETE FROM tags WHERE post = 8 AND tag IN ('a', 'b')")
    assert (on_record(database), posts.both(8)) == ([], ("pq,r,st,u", "pq,r,st,u"))
    right(posts, 0)


@on_all_versions_at_length
def test_what_the_old_version_says_wins(database: Database) -> None:
    """Over a recorded element of the same key, which is kept as what lost; others stay. What goes with its row is forgotten."""
    posts = recording(database)
    database.execute(added(4, "long enough") + "; " + added(4, "x,y", 10))
    assert [tag for _, tag, _ in on_record(database)] == ["long enough", "x,y"]
    database.execute(tagged(4, "long enough"))
    assert (on_record(database), posts.both(4)) == ([(4, "x,y", "23514")], ("long enough", "long enough,x,y"))
    ((won, lost, kept),) = database.execute(
        "SELECT won, lost ->> 'place', kept ->> 'place' FROM zdm.row_conflicts"
    )
    assert (won, lost, kept) == ("old", "9", "1")
    right(posts, 1)
    database.execute("DELETE FROM posts WHERE id = 4")
    right(posts, 0)
    assert database.value("SELECT count(*) FROM zdm.rows_without_old_form") == 0
    for table in ("tags", "posts"):
        database.execute(added(8, "x,y"))
        database.execute(f"TRUNCATE {table}")
        assert database.value("SELECT count(*) FROM zdm.rows_without_old_form") == 0
        assert database.execute(WRONG) == []


def test_what_is_refused_still(database: Database) -> None:
    """Elements of no row; a list that cannot be what is left of it, which is no row that could be recorded; and values without a new form."""
    posts = recording(database)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.execute(added(888, "nobody"))
    database.execute("ALTER TABLE posts ADD CHECK (id <> 8 OR tags <> '')")
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("DELETE FROM tags WHERE post = 8")
    # 'z' alone is no list, and none at all is one.
    database.execute(tagged(4, "a,z"))
    database.execute("DELETE FROM tags WHERE post = 4 AND tag = 'a'")
    assert (on_record(database), posts.both(4)) == ([(4, "z", "23514")], ("", "z"))
    right(posts, 1)
    database.execute(added(4, "b"))
    assert posts.both(4) == ("b", "z,b")
    database.execute("UPDATE tags SET place = 99 WHERE post = 4 AND tag = 'b'")
    assert (on_record(database), posts.both(4)[0]) == ([], "z,b")
    database.execute(tagged(12, "t,t"))
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        database.execute(added(12, "x,y"))
    right_but_failed = found(posts)
    assert right_but_failed.without_old_form == 0


@on_all_versions_at_length
@pytest.mark.parametrize("isolation", LEVELS)
def test_a_snapshot_older_than_what_is_recorded(database: Database, isolation: Isolation) -> None:
    """Who does not see that an element is recorded waits, or is told to try again; nobody takes it for one that the list has."""
    posts = recording(database)
    with Scene(database.dsn) as scene:
        for number, statement in enumerate(
            (
                added(4, "c", 10),
                "DELETE FROM tags WHERE post = 8 AND tag = 'a'",
                tagged(12, "q"),
            )
        ):
            post = 4 * (number + 1)
            a, b = scene.session(f"a{post}"), scene.session(f"b{post}")
            b.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM tags")
            a.run(f"BEGIN; {added(post, 'x,y')}")
            waiting = b.start(statement)
            waiting.wait_blocked()
            a.run("COMMIT")
            if isolation == "READ COMMITTED":
                waiting.result()
                b.run("COMMIT")
            else:
                with pytest.raises(psycopg.errors.SerializationFailure):
                    waiting.result()
                b.run("ROLLBACK")
                b.run(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
    assert [posts.both(post)[0] for post in (4, 8, 12)] == ["a,b,c", "b", "q"]
    right(posts, 3)


@on_all_versions_at_length
@pytest.mark.parametrize("written", ["DELETE FROM tags", "UPDATE tags SET votes = 5"])
@pytest.mark.parametrize("isolation", LEVELS)
def test_an_element_is_recorded_for_anothers_sake_while_it_is_written(
    database: Database, isolation: Isolation, written: str
) -> None:
    """Its own row is not locked by whoever records it: what is on record is only looked at under the lock of the list."""
    posts = recording(database)
    database.execute(tagged(4, "a,z"))
    statement = f"{written} WHERE post = 4 AND tag = 'z'"
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        b.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM tags")
        a.run("BEGIN; DELETE FROM tags WHERE post = 4 AND tag = 'a'")
        waiting = b.start(statement)
        waiting.wait_blocked()
        a.run("COMMIT")
        if isolation == "READ COMMITTED":
            waiting.result()
            b.run("COMMIT")
        else:
            with pytest.raises(psycopg.errors.SerializationFailure):
                waiting.result()
            b.run(f"ROLLBACK; BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
    right(posts, int(written.startswith("UPDATE")))


@pytest.mark.parametrize("authority", list(Authority))
def test_repair(database: Database, authority: Authority) -> None:
    """What is recorded stays; under the new authority an element that was planted is recorded as well."""
    posts = recording(database)
    database.execute(added(4, "x,y"))
    database.execute("SET \"zdm.row\" = '1:new:*'; " + added(8, "p,q"))
    assert sum(found(posts).counts.values()) == 1
    posts.repair(authority)
    assert [post for post, _, _ in on_record(database)] == ([4] if authority is Authority.OLD else [4, 8])
    right(posts, 1 if authority is Authority.OLD else 2)


def test_everybody_at_once(database: Database) -> None:
    """Both versions at all isolation levels on a few rows, with elements that have a form and such that have none."""
    posts = Posts(database, rows=400, options={"without_old_form": "record"}, extra=SHORT)

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        post = rng.randrange(1, 30)
        connection.execute("SELECT 1 FROM public.posts LIMIT 1")
        statement = (
            f"UPDATE public.posts SET tags = 'n{rng.randrange(12)},a' WHERE id = {post}",
            f"UPDATE public.posts SET tags = 'w{rng.randrange(3)}' WHERE id = {post}",
            f"INSERT INTO public.posts (id, tags) VALUES ({post}, 'i') ON CONFLICT (id) DO UPDATE SET tags = 'u,v'",
            f"DELETE FROM public.posts WHERE id = {post}",
            f"UPDATE public.posts SET id = -(SELECT coalesce(max(-id), 0) + 1 + {number % 7} FROM public.posts) WHERE id = {post}",
        )[rng.randrange(5)]
        connection.execute(statement.encode())

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        post = rng.randrange(1, 30)
        if number % 3 == 0:
            connection.execute("SELECT 1 FROM public.posts LIMIT 1")
        tag = (f"w{rng.randrange(3)}", f"x,{rng.randrange(3)}", "long enough", "z")[rng.randrange(4)]
        statement = (
            (
                f"INSERT INTO public.tags (post, tag, place) SELECT {post}, '{tag}', {number} FROM public.posts"
                f" WHERE id = {post} ON CONFLICT DO NOTHING"
            ),
            f"DELETE FROM public.tags WHERE post = {post} AND tag = '{tag}'",
            f"UPDATE public.tags SET place = {number}, votes = votes + 1 WHERE post = {post} AND place > 1",
            f"UPDATE public.tags SET tag = left(tag, 1) WHERE post = {post} AND tag = 'x,{rng.randrange(3)}'",
        )[rng.randrange(4)]
        connection.execute(statement.encode())

    with Writers(database.dsn) as writers:
        for level in LEVELS:
            writers.add(f"old {level}", old, isolation=level)
            writers.add(f"new {level}", new, isolation=level)
        writers.wait_for(1)
        posts.fill()
        writers.wait_for(30)
    writers.report.assert_only("40001", "40P01", "23503", "23505")
    assert database.value("SELECT count(*) FROM zdm.rows_without_old_form")
    right(posts, int(database.value("SELECT count(*) FROM zdm.rows_without_old_form")))
