"""One row, many elements: what both applications and the backfill do at once, each of which breaks a simpler way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.integration.rows.stage import staged
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.backfill.options import Options
from zdm.backfill.run import backfill
from zdm.backfill.sweep import BadData
from zdm.catalog import install, registry, rollouts
from zdm.db.session import connect, transaction
from zdm.engine.compile import compile_plan
from zdm.errors import BadInput
from zdm.model.mapping import Authority
from zdm.model.plan import Plan
from zdm.model.row_mapping import RowMapping
from zdm.model.step import Phase, Stage, Transaction
from zdm.operations.migration import Migration
from zdm.sql import row_objects, row_sync
from zdm.sql.rows import Kind
from zdm.verify.elements import verify_elements
from zdm.verify.repair_rows import repair_rows

#: Elements that are told apart by what they are, with their place beside it.
OPERATION: dict[str, object] = {
    "table": "posts",
    "to": "tags",
    "key": {"post": "id"},
    "columns": [{"column": "tags", "down": "coalesce(string_agg(tag, ',' ORDER BY place, tag), '')"}],
    "elements": [
        {"column": "tag", "type": "varchar(12)"},
        {"column": "place", "type": "int", "not_null": True},
    ],
    "up": "SELECT tag, place FROM unnest(string_to_array(tags, ',')) WITH ORDINALITY AS e (tag, place)",
    "order": "place",
    "create": {
        "columns": [
            {"name": "id", "type": "bigint", "identity": "always"},
            {"name": "votes", "type": "int", "default": "0"},
        ],
        "primary_key": ["id"],
        "foreign_key": None,
    },
}

#: The same where the list is one column, which holds one element or none.
COLUMNS: dict[str, object] = {
    "columns": [],
    "up": None,
    "order": None,
    "from": {"columns": ["tags"]},
    "elements": [{"column": "place", "type": "int"}, {"column": "tag", "type": "text"}],
    "element_key": ["place"],
}

BAD = """
SELECT count(*) FROM posts AS p FULL JOIN
  (SELECT post, string_agg(tag, ',' ORDER BY place, tag) AS tags FROM tags GROUP BY post) AS t ON t.post = p.id
WHERE p.id IS NULL OR coalesce(p.tags, '') <> coalesce(t.tags, '')
"""
"""Rows that disagree, by a query that knows nothing of zdm's."""

#: What one writes who has not met the interleavings yet.
NAIVE = """
CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM tags WHERE post = OLD.id;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO tags (post, tag, place)
    SELECT NEW.id, tag, place FROM unnest(string_to_array(NEW.tags, ',')) WITH ORDINALITY AS e (tag, place);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER UPDATE OR DELETE ON posts FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION naive();
CREATE FUNCTION naive_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE posts SET tags = (SELECT coalesce(string_agg(tag, ',' ORDER BY place, tag), '') FROM tags WHERE post = coalesce(NEW.post, OLD.post))
  WHERE id = coalesce(NEW.post, OLD.post);
  RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER INSERT OR UPDATE OR DELETE ON tags FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION naive_back();
"""


@dataclass
class Posts:
    """``posts`` with a list of tags in a text, empty ``tags``, and what mirrors them; no engine."""

    database: Database
    rows: int = 30
    naive: bool = False
    options: dict[str, object] = field(default_factory=dict)
    extra: str = ""
    sync: str = "immediate"
    plan: Plan = field(init=False)
    mapping: RowMapping = field(init=False)
    rollout: int = field(init=False)

    def __post_init__(self) -> None:
        self.database.execute(
            "CREATE TABLE posts (id int PRIMARY KEY, title text, tags text NOT NULL DEFAULT '', data jsonb)"
        )
        self.database.execute(
            "INSERT INTO posts (id, title, tags) SELECT g, 'p' || g, (ARRAY['a,b', 'c', '', 'a,c,d'])[g % 4 + 1]"
            f" FROM generate_series(1, {self.rows}) g"
        )
        if self.extra:
            self.database.execute(self.extra)
        migration = Migration.model_validate(
            {
                "id": "try_it",
                "sync": self.sync,
                "operations": [{"explode": {**OPERATION, **self.options}}],
            }
        )
        self.plan, self.mapping, self.rollout = staged(
            self.database, migration, naive=NAIVE if self.naive else None, new_first=True
        )

    def fill(self) -> None:
        """Run the backfill to its end."""
        assert backfill(
            lambda: connect(self.database.dsn, application_name="backfill"), self.rollout, self.mapping
        ).complete

    def found(self) -> dict[Kind, int]:
        """What the verification finds."""
        return dict(
            verify_elements(
                lambda: connect(self.database.dsn, application_name="stage"), self.mapping, self.rollout
            ).counts
        )

    def repair(self, authority: Authority) -> int:
        """Make both sides agree, by one of them."""
        return repair_rows(
            lambda: connect(self.database.dsn, application_name="stage"),
            self.mapping,
            self.rollout,
            authority,
            guard=lambda _: None,
        )

    def bad(self) -> int:
        """Rows that disagree."""
        return int(self.database.execute(BAD)[0][0])

    def both(self, post: int) -> tuple[object, object]:
        """What the old version reads, and what the new one does."""
        old = self.database.execute(f"SELECT tags FROM posts WHERE id = {post}")
        new = self.database.execute(
            f"SELECT string_agg(tag, ',' ORDER BY place, tag) FROM tags WHERE post = {post}"
        )
        return (old[0][0] if old else None), new[0][0]


def tagged(post: int, tags: str) -> str:
    return f"UPDATE posts SET tags = '{tags}' WHERE id = {post}"


def added(post: int, tag: str, place: int = 9) -> str:
    return f"INSERT INTO tags (post, tag, place) VALUES ({post}, '{tag}', {place})"


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


@on_all_versions
def test_everything_that_can_be_written(database: Database) -> None:
    posts = Posts(
        database,
        extra="""
        CREATE FUNCTION lower_tags() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.tags := lower(NEW.tags); RETURN NEW; END $$;
        CREATE TRIGGER lower_tags BEFORE INSERT OR UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION lower_tags();
        CREATE FUNCTION hot() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF NEW.title = 'hot' THEN UPDATE posts SET tags = tags || ',hot' WHERE id = NEW.id; END IF;
          RETURN NULL;
        END $$;
        CREATE TRIGGER hot AFTER UPDATE OF title ON posts FOR EACH ROW EXECUTE FUNCTION hot();
        CREATE TABLE blogs (id int PRIMARY KEY); INSERT INTO blogs VALUES (1), (2);
        ALTER TABLE posts ADD COLUMN blog int REFERENCES blogs ON DELETE CASCADE; UPDATE posts SET blog = 2 WHERE id = 22;
        """,
    )
    posts.fill()
    assert (posts.bad(), posts.found()) == (0, {})
    keys = database.execute("SELECT post, tag, id FROM tags ORDER BY id")
    posts.fill()
    assert database.execute("SELECT post, tag, id FROM tags ORDER BY id") == keys
    kept = database.execute("UPDATE tags SET votes = 5 WHERE post = 3 AND tag = 'c' RETURNING id")
    for statement, post, old, new in (
        ("INSERT INTO posts (id, tags) VALUES (100, 'n,m')", 100, "n,m", "n,m"),
        ("INSERT INTO posts (id, tags) VALUES (101, 'Big')", 101, "big", "big"),
        ("UPDATE posts SET title = 't' WHERE id = 100", 100, "n,m", "n,m"),
        ("UPDATE posts SET title = 'hot' WHERE id = 100", 100, "n,m,hot", "n,m,hot"),
        ("UPDATE posts SET id = 200 WHERE id = 100", 200, "n,m,hot", "n,m,hot"),
        (
            "INSERT INTO posts (id, tags) VALUES (200, 'u') ON CONFLICT (id) DO UPDATE SET tags = EXCLUDED.tags",
            200,
            "u",
            "u",
        ),
        # An element that stays keeps its row, wherever it comes to stand.
        (tagged(3, "e,c,f"), 3, "e,c,f", "e,c,f"),
        (added(3, "g"), 3, "e,c,f,g", "e,c,f,g"),
        ("DELETE FROM tags WHERE post = 3 AND tag = 'e'", 3, "c,f,g", "c,f,g"),
        ("UPDATE tags SET tag = 'renamed' WHERE post = 3 AND tag = 'f'", 3, "c,renamed,g", "c,renamed,g"),
        ("UPDATE tags SET place = 99 WHERE post = 3 AND tag = 'c'", 3, "renamed,g,c", "renamed,g,c"),
        # It stays in order, though its places have gaps that the list cannot hold.
        ("UPDATE posts SET title = 'x' WHERE id = 3", 3, "renamed,g,c", "renamed,g,c"),
        ("UPDATE tags SET post = 5 WHERE post = 3 AND tag = 'g'", 5, "c,g", "c,g"),
        ("UPDATE tags SET votes = votes + 1 WHERE post = 3", 3, "renamed,c", "renamed,c"),
        (
            added(3, "c", 50) + " ON CONFLICT (post, tag) DO UPDATE SET place = -1",
            3,
            "c,renamed",
            "c,renamed",
        ),
        # All in one statement, after which the triggers run.
        (
            (
                "WITH p AS (INSERT INTO posts (id) VALUES (300) RETURNING id)"
                " INSERT INTO tags (post, tag, place) SELECT id, 't' || g, g FROM p, generate_series(1, 3) g"
            ),
            300,
            "t1,t2,t3",
            "t1,t2,t3",
        ),
        (
            (
                "WITH d AS (DELETE FROM tags WHERE post = 300) INSERT INTO tags (post, tag, place)"
                " VALUES (300, 'other', 1), (300, 'more', 2)"
            ),
            300,
            "other,more",
            "other,more",
        ),
        ("DELETE FROM tags WHERE post = 300", 300, "", None),
        (
            (
                "BEGIN; INSERT INTO posts (id) VALUES (301); INSERT INTO tags (post, tag, place) VALUES (301, 'b', 2), (301, 'a', 1);"
                " DELETE FROM tags WHERE post = 301 AND tag = 'b'; COMMIT"
            ),
            301,
            "a",
            "a",
        ),
        ("UPDATE tags SET tag = 'Upper' WHERE post = 301", 301, "upper", "upper"),
        ("SET session_replication_role = replica; " + tagged(10, "r"), 10, "r", "r"),
        ("DELETE FROM blogs WHERE id = 2", 22, None, None),
        ("DELETE FROM posts WHERE id = 16", 16, None, None),
    ):
        database.execute(statement)
        assert posts.both(post) == (old, new), statement
        assert posts.bad() == 0, statement
    assert database.execute("SELECT id, votes FROM tags WHERE post = 3 AND tag = 'c'") == [(kept[0][0], 6)]
    with pytest.raises(psycopg.errors.CheckViolation, match="have no form in"):
        database.execute(added(4, "with,comma"))
    with pytest.raises(psycopg.errors.CheckViolation, match="have no form in"):
        database.execute(added(300, ""))
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.execute(added(99999, "x"))
    assert posts.both(4) == ("a,b", "a,b")
    database.execute("TRUNCATE tags")
    assert (posts.bad(), posts.both(4)) == (0, ("", None))
    database.execute(tagged(4, "again") + "; TRUNCATE posts")
    assert database.execute("SELECT count(*) FROM tags") == [(0,)]
    assert posts.found() == {}


def test_a_list_that_has_no_elements_of_that_kind(database: Database) -> None:
    """The old application's write goes through; the row is recorded, named by the backfill, and heals when it is corrected."""
    posts = Posts(
        database,
        extra="UPDATE posts SET tags = 'much too long a tag' WHERE id = 4; UPDATE posts SET tags = 'x,y,x' WHERE id = 8",
    )
    (found,) = [finding.text for finding in posts.plan.findings if finding.rule == "up-raises"]
    assert "2 of 30 rows of public.posts have no form in public.tags, for example id=" in found
    with pytest.raises(BadData, match="2 rows") as raised:
        posts.fill()
    assert "too long" in str(raised.value)
    assert "duplicate key" in str(raised.value)
    assert posts.found() == {Kind.FAILED: 2}
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="no form"):
        database.execute(added(4, "t1"))
    database.execute(tagged(4, "short"))
    database.execute("DELETE FROM posts WHERE id = 8")
    posts.fill()
    assert (posts.found(), posts.bad()) == ({}, 0)
    database.execute(tagged(12, "twice,twice"))
    assert posts.found() == {Kind.FAILED: 1}
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="no new form"):
        database.execute("DELETE FROM tags WHERE post = 12 AND tag = 'a'")
    database.execute(tagged(12, "good"))
    assert (posts.found(), posts.bad()) == ({}, 0)


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


def test_an_element_of_a_row_that_is_not_there(database: Database) -> None:
    """Trying again does not help where a foreign key says that there must be one; without it the row may only be not seen."""
    posts = Posts(database)
    posts.fill()
    late = f"BEGIN ISOLATION LEVEL REPEATABLE READ; {added(999, 'x')}; COMMIT"
    with pytest.raises(psycopg.errors.SerializationFailure):
        database.execute(late)
    database.execute("ALTER TABLE tags ADD FOREIGN KEY (post) REFERENCES posts ON DELETE CASCADE")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.execute(late)


def test_a_list_that_no_elements_give_as_well(database: Database) -> None:
    """It has an element by its own value, and is what none give: the backfill leaves it as it is, and comes to an end."""
    posts = Posts(
        database, options={**COLUMNS, "lossy": True}, extra="UPDATE posts SET tags = '' WHERE id = 3"
    )
    backfill(
        lambda: connect(database.dsn, application_name="backfill"),
        posts.rollout,
        posts.mapping,
        Options(lock_patience=timedelta()),
    )
    assert posts.found() == {}
    assert database.execute("SELECT tag FROM tags WHERE post = 3") == []
    database.execute("DELETE FROM tags WHERE post = 4")
    database.execute(added(3, "new", 1))
    assert database.execute("SELECT id, tags FROM posts WHERE id IN (3, 4) ORDER BY id") == [
        (3, "new"),
        (4, ""),
    ]
    assert posts.found() == {}


@pytest.mark.parametrize("authority", list(Authority))
def test_what_somebody_broke_is_found_and_repaired(database: Database, authority: Authority) -> None:
    posts = Posts(database)
    posts.fill()
    names = [
        (table, name)
        for table in ("posts", "tags")
        for (name,) in database.execute(
            f"SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal"
        )
    ]
    database.execute("ALTER TABLE posts DISABLE TRIGGER USER; ALTER TABLE tags DISABLE TRIGGER USER")
    database.execute(tagged(4, "wrong"))
    database.execute(
        "DELETE FROM tags WHERE post = 8 AND tag = 'a'; UPDATE tags SET place = 7 WHERE post = 12 AND tag = 'a'"
    )
    database.execute(added(888, "nobody"))
    for table, name in names:
        database.execute(f'ALTER TABLE {table} ENABLE ALWAYS TRIGGER "{name}"')
    assert posts.found() == {Kind.MISSING: 2, Kind.EXTRA: 3, Kind.DIFFERENT: 1}
    if authority is Authority.NEW:
        database.execute("DELETE FROM tags WHERE post = 888")
    posts.repair(authority)
    assert (posts.found(), posts.bad()) == ({}, 0)
    expected = ("wrong", "a,b", "a,b") if authority is Authority.OLD else ("a,b", "b", "b,a")
    assert tuple(posts.both(post)[0] for post in (4, 8, 12)) == expected


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


def test_what_cannot_be_is_refused_by_name(database: Database) -> None:
    database.execute(
        "CREATE TABLE posts (id int PRIMARY KEY, tags text NOT NULL, data jsonb, n int);"
        " CREATE TABLE tags (post int NOT NULL, tag text NOT NULL, more text NOT NULL);"
        " INSERT INTO posts VALUES (1, 'a, b', '[1, 2]', 1)"
    )

    def refused(**options: object) -> str:
        operation = {**OPERATION, "to": "labels", **options}
        migration = Migration.model_validate({"id": "try_it", "operations": [{"explode": operation}]})
        with connect(database.dsn, application_name="stage") as conn, pytest.raises(BadInput) as raised:
            compile_plan(conn, migration, "public")
        return str(raised.value)

    assert "column tags of public.posts is NOT NULL without a default" in refused()
    database.execute("ALTER TABLE posts ALTER tags SET DEFAULT ''")
    existing = refused(to="tags", create=None)
    assert "(post, tag) is no unique key of public.tags" in existing
    database.execute(
        "CREATE TABLE known (post int, tag text, place int NOT NULL, PRIMARY KEY (post, tag)); INSERT INTO known VALUES (1, 'a', 1), (7, 'x', 1)"
    )
    disagree = refused(to="known", create=None)
    assert "2 rows of public.known are not what public.posts says of them, for example " in disagree
    assert "post=7, tag=x" in disagree
    assert "column more of public.tags is NOT NULL without a default" in existing
    assert "is mapped in one direction only" in refused(columns=["tags"])
    assert (
        "what comes back from public.labels differs in 1 of 1 rows of public.posts (for example id=1)"
        in refused(columns=[{"column": "tags", "down": "string_agg(upper(tag), ',' ORDER BY place, tag)"}])
    )
    assert "random() is volatile" in refused(up="SELECT tags, random()::int")
    assert "it reads tags, which may change without the row" in refused(up="SELECT t.tag, 1 FROM tags AS t")
    assert "must appear in the GROUP BY clause" in refused(columns=[{"column": "tags", "down": "tag"}])
    assert 'column "nothing" does not exist' in refused(up="SELECT nothing, 1")
    assert "is no unique key of public.posts" in refused(key={"post": "n"})
    plain: dict[str, object] = {"columns": [], "up": None, "order": None}
    assert "column n is integer" in refused(
        **plain, **{"from": {"json_array": "n"}, "elements": ["place", "tag"]}
    )
    assert "3 columns, and [place, value] are needed" in refused(
        **plain, **{"from": {"json_array": "data"}, "elements": ["a", "b", {"column": "c", "type": "int"}]}
    )
    with pytest.raises(ValueError, match="either `from` or `up`"):
        refused(up=None)


FORMS: tuple[tuple[str, str, dict[str, object], list[object], int], ...] = (
    (
        "jsonb",
        '[1, "a", null, {"x": 2}]',
        {"json_array": "list"},
        ["place", {"column": "item", "type": "jsonb"}],
        4,
    ),
    ("json", '["a", "b"]', {"json_array": "list"}, ["place", "item"], 2),
    ("jsonb", "[3, 2]", {"json_array": "list"}, ["place", {"column": "item", "type": "int"}], 2),
    ("jsonb", '{"a": "1", "b": "2"}', {"json_object": "list"}, ["name", "item"], 2),
    ("text[]", "{b,a,b}", {"array": "list"}, ["place", "item"], 3),
    ("text[]", "{a,b}", {"array": "list"}, ["item"], 2),
    (
        "text",
        "3; 4",
        {"delimited": "list", "separator": "; "},
        ["place", {"column": "item", "type": "int"}],
        2,
    ),
    ("varchar(9)", "x", {"columns": ["list"]}, ["place", "item"], 1),
)


def test_the_forms(database: Database) -> None:
    """Each goes there and back as it was, through the triggers."""
    operations: list[dict[str, object]] = []
    for number, (column, value, form, elements, _) in enumerate(FORMS):
        database.execute(
            f"CREATE TABLE things{number} (id int PRIMARY KEY, list {column});"
            f" INSERT INTO things{number} VALUES (1, '{value}'), (2, NULL)"
        )
        operations.append(
            {
                "explode": {
                    "table": f"things{number}",
                    "to": f"items{number}",
                    "key": {"thing": "id"},
                    "from": form,
                    "elements": elements,
                    "create": {"foreign_key": None},
                }
            }
        )
    migration = Migration.model_validate({"id": "try_it", "operations": operations})
    with connect(database.dsn, application_name="stage") as conn:
        install.install(conn)
        plan = compile_plan(conn, migration, "public")
        registry.register(conn, migration, migration.canonical())
        with transaction(conn):
            rollout = rollouts.create(conn, plan).id
        for step in plan.of(Phase.PREPARATION):
            if step.stage is Stage.TABLES and isinstance(step.action, Transaction):
                for statement in step.action.statements:
                    conn.execute(statement.encode())
        for mapping in plan.row_mappings:
            for side in reversed(row_objects.sides(mapping)):
                for statement in row_sync.install(mapping, rollout, side).statements:
                    conn.execute(statement.encode())
    for number, (column, _, _, _, rows) in enumerate(FORMS):
        things, items = f"things{number}", f"items{number}"
        before = database.execute(f"SELECT list::text FROM {things} ORDER BY id")
        database.execute(f"CREATE TABLE kept AS SELECT * FROM {things}; DELETE FROM {things}")
        database.execute(f"INSERT INTO {things} SELECT * FROM kept; DROP TABLE kept")
        assert database.execute(f"SELECT count(*) FROM {items}") == [(rows,)], column
        database.execute(f"CREATE TABLE kept AS SELECT * FROM {items}; DELETE FROM {items}")
        assert database.execute(f"SELECT count(list) FROM {things}") == [(0,)], column
        database.execute(f"INSERT INTO {items} SELECT * FROM kept ORDER BY random(); DROP TABLE kept")
        assert database.execute(f"SELECT list::text FROM {things} ORDER BY id") == before, column
