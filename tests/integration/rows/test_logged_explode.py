"""A list in a row, and a row for each of its elements, synced by log: which side counts for a key, and what comes while it is reconciled."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.integration.rows.explode_stage import Posts, added, tagged
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.backfill.options import Options
from zdm.db.session import connect
from zdm.engine.reconcile import Reconciler, Tally, reconciling
from zdm.model.mapping import Authority
from zdm.sql.rows import Kind
from zdm.verify.elements import verify_elements

RECONCILE = "SELECT zdm.rows_1_1_reconcile('{{{key}}}', NULL)"
LEVELS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


@dataclass
class Logged(Posts):
    sync: str = "logged"
    filled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.filled:
            self.fill()

    def session(self) -> Any:
        return connect(self.database.dsn, application_name="zdm")

    def once(self) -> Tally:
        with self.session() as conn:
            return Reconciler(conn, self.mapping, self.rollout).once()

    def reconcile(self) -> None:
        """Afterwards nothing waits, and both sides agree."""
        with self.session() as conn:
            Reconciler(conn, self.mapping, self.rollout).drain()
        assert self.database.execute("SELECT * FROM zdm.row_changes WHERE NOT failed") == []

    def agree(self) -> None:
        self.reconcile()
        assert (self.bad(), self.found()) == (0, {})

    def conflicts(self) -> list[tuple[Any, ...]]:
        return self.database.execute("SELECT key, won, lost FROM zdm.row_conflicts ORDER BY id")


@on_all_versions
@pytest.mark.parametrize("reference", ["cascade", None])
def test_everything_that_can_be_written(database: Database, reference: str | None) -> None:
    made: dict[str, Any] = {
        "columns": [
            {"name": "id", "type": "bigint", "identity": "always"},
            {"name": "votes", "type": "int", "default": "0"},
        ],
        "primary_key": ["id"],
        "foreign_key": None,
    }
    posts = Logged(
        database,
        rows=60,
        options={"create": made},
        extra="""
        CREATE FUNCTION lower_tags() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.tags := lower(NEW.tags); RETURN NEW; END $$;
        CREATE TRIGGER lower_tags BEFORE INSERT OR UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION lower_tags();
        """,
    )
    if reference is not None:
        database.execute(
            "ALTER TABLE tags ADD FOREIGN KEY (post) REFERENCES posts ON DELETE CASCADE ON UPDATE CASCADE"
        )
    database.execute("UPDATE tags SET votes = post")
    posts.agree()
    kept = dict(database.execute("SELECT tag || post, id FROM tags"))
    for statement in (
        # The old version: lists, rows, keys.
        tagged(3, "e,c,f"),
        "UPDATE posts SET title = 'x' WHERE id = 5; DELETE FROM posts WHERE id = 7; UPDATE posts SET id = 400 WHERE id = 4",
        "INSERT INTO posts (id, tags) VALUES (100, 'Big'); INSERT INTO posts (id, tags) VALUES (8, 'u') ON CONFLICT (id) DO UPDATE SET tags = 'u,b'",
        # The new one: elements added, changed, removed, taken to another row; a row with its elements in one statement.
        added(11, "g"),
        "UPDATE tags SET tag = 'renamed' WHERE post = 12 AND tag = 'b'; UPDATE tags SET votes = -1 WHERE post = 12 AND tag = 'a'",
        "DELETE FROM tags WHERE post = 15; UPDATE tags SET post = 13 WHERE post = 19 AND tag = 'd'; UPDATE tags SET place = 99 WHERE post = 16 AND tag = 'a'",
        (
            "WITH p AS (INSERT INTO posts (id) VALUES (300) RETURNING id)"
            " INSERT INTO tags (post, tag, place) SELECT id, 't' || g, g FROM p, generate_series(1, 3) g"
        ),
        "UPDATE tags SET tag = 'Upper' WHERE post = 17 AND tag = 'c'",
        # A key that changes with a list, or after an element came; one that goes to and fro; gone and come again.
        "UPDATE posts SET id = 420, tags = 'b,q' WHERE id = 20; "
        + added(24, "n")
        + "; UPDATE posts SET id = 424 WHERE id = 24",
        "UPDATE posts SET id = 428 WHERE id = 28; UPDATE posts SET id = 28 WHERE id = 428",
        "DELETE FROM posts WHERE id = 31; INSERT INTO posts (id) VALUES (31); " + added(31, "since"),
        "SET session_replication_role = replica; " + tagged(32, "r"),
    ):
        database.execute(statement)
    posts.agree()
    expected = {
        3: "e,c,f", 7: None, 4: None, 400: "a,b", 100: "big", 8: "u,b", 11: "a,c,d,g", 12: "a,renamed", 15: None, 13: "c,d", 19: "a,c",
        16: "b,a", 300: "t1,t2,t3", 17: "upper", 420: "b,q", 424: "a,b,n", 28: "a,b", 31: "since", 32: "r",
    }  # fmt: skip
    assert {post: posts.both(post)[1] for post in expected} == expected
    now = dict(database.execute("SELECT tag || post, id FROM tags"))
    assert (now["a400"], now["c3"], now["a12"], now["b420"], now["a424"], now["a28"]) == tuple(
        kept[name] for name in ("a4", "c3", "a12", "b20", "a24", "a28")
    )
    assert database.execute("SELECT votes FROM tags WHERE post = 400") == [(4,), (4,)]
    assert posts.conflicts() == []
    # What is emptied: elements that came since stay, and of the other table as well.
    database.execute("TRUNCATE tags; " + added(8, "late"))
    posts.agree()
    assert database.execute("SELECT id, tags FROM posts WHERE tags <> ''") == [(8, "late")]
    if reference is None:
        database.execute("TRUNCATE posts; INSERT INTO posts (id, tags) VALUES (3, 'again')")
        posts.agree()
        assert database.execute("SELECT post, tag FROM tags") == [(3, "again")]


def test_both_versions_write_one_list(database: Database) -> None:
    """The later one wins, and the other's is kept whole; nobody waits, at any isolation level."""
    posts = Logged(database)
    with Scene(database.dsn) as scene:
        for number, isolation in enumerate(LEVELS):
            post = 4 * (number + 1)
            old, new = scene.session(f"old {isolation}"), scene.session(f"new {isolation}")
            old.begin(isolation)
            new.begin(isolation)
            old.run("SELECT 1 FROM posts")
            new.run(added(post, "x"))
            old.run(tagged(post, "q"))
            old.run("COMMIT")
            new.run("COMMIT")
    database.execute(tagged(16, "b,q") + "; " + added(16, "x"))
    # A row that went takes along what came later.
    database.execute("DELETE FROM posts WHERE id = 20; " + added(20, "x"))
    posts.agree()
    assert [posts.both(post)[1] for post in (4, 8, 12, 16, 20)] == ["q", "q", "q", "a,b,x", None]
    found = {key[0]: (won, lost) for key, won, lost in posts.conflicts()}
    assert found["16"] == ("new", {"tags": "b,q"})
    assert found["4"][0] == "old"
    assert [(e["tag"], e["votes"]) for e in found["4"][1]["tags"]] == [("a", 0), ("b", 0), ("x", 0)]
    assert found["20"][0] == "old"


@pytest.mark.parametrize("naive", [False, True])
def test_an_element_that_comes_while_its_list_is_reconciled(database: Database, naive: bool) -> None:
    """It is not there to be locked; whoever settles the elements by the list alone, and strikes out what was noted, removes it."""
    posts = Logged(database)
    database.execute(tagged(4, "b,c"))
    with Scene(database.dsn) as scene:
        worker, new = scene.session("worker"), scene.session("new")
        new.run("BEGIN")
        new.run(added(4, "c", 5))
        worker.run("BEGIN")
        naively = "SELECT zdm.rows_1_1_settle_new(p, p, 'naive') FROM posts AS p WHERE id = 4"
        waiting = worker.start(naively if naive else RECONCILE.format(key=4))
        waiting.wait_blocked()
        new.run("COMMIT")
        waiting.result()
        worker.run("DELETE FROM zdm.row_changes" if naive else "SELECT 1")
        worker.run("COMMIT")
    if naive:
        assert database.execute("SELECT place FROM tags WHERE post = 4 AND tag = 'c'") == [(2,)]
        return
    posts.agree()
    assert (posts.both(4)[1], posts.conflicts()) == ("b,c", []) or posts.conflicts()[0][:2] == (["4"], "new")


@on_all_versions
def test_elements_that_come_before_their_row_is_filled(database: Database) -> None:
    """Those that the list has are added by the reconciler, but for what has been taken away since; nobody gets an error for it."""
    posts = Logged(database, filled=False)
    database.execute("INSERT INTO tags (post, tag, place) VALUES (4, 'x', 7), (4, 'y', 8)")
    with Scene(database.dsn) as scene:
        new = scene.session("new")
        new.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM posts")
        database.execute(added(8, "x") + "; DELETE FROM tags WHERE post = 8 AND tag = 'x'")
        posts.reconcile()
        # It does not see what was filled, and removed, since.
        database.execute("SELECT zdm.rows_1_1_reconcile('{12}', 'old')")
        database.execute("DELETE FROM tags WHERE post = 12 AND tag = 'a'")
        new.run(added(12, "z"))
        new.run("COMMIT")
    database.execute("TRUNCATE tags; " + added(16, "t"))
    database.execute(added(20, "a", 5))
    posts.agree()
    posts.fill()
    assert [posts.both(post)[0] for post in (4, 8, 12, 16, 20)] == ["", "", "", "t", "a"]
    database.execute(
        "DELETE FROM zdm.data_migrations; DELETE FROM zdm.row_conflicts; INSERT INTO posts (id, tags) SELECT g, 'a,b' FROM generate_series(104, 120, 4) g;"
        "DELETE FROM zdm.row_changes"
    )
    database.execute("INSERT INTO tags (post, tag, place) VALUES (104, 'x', 7), (104, 'y', 8)")
    database.execute(added(108, "b", 9))
    with Scene(database.dsn) as scene:
        new = scene.session("new")
        new.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM posts")
        database.execute("SELECT zdm.rows_1_1_reconcile('{112}', 'old')")
        database.execute("DELETE FROM tags WHERE post = 112 AND tag = 'a'")
        new.run(added(112, "z"))
        new.run("COMMIT")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not filled yet"):
        database.execute("BEGIN; DELETE FROM tags WHERE post = 116; " + added(116, "x") + "; COMMIT")
    posts.reconcile()
    posts.fill()
    posts.agree()
    assert [posts.both(post)[0] for post in (104, 108, 112, 116)] == ["a,b,x,y", "a,b", "b,z", "a,b"]


def test_what_has_no_form(database: Database) -> None:
    """Neither version's write fails; the row is recorded, refuses the gates, and is looked at again when either side is written."""
    posts = Logged(database)
    database.execute(tagged(4, "much too long a tag") + "; " + added(8, "with,comma"))
    database.execute(added(9999, "x"))
    posts.reconcile()
    assert database.value("SELECT count(*) FROM zdm.sync_failures") == 3
    assert (posts.both(4)[1], posts.both(8)[0]) == ("a,b", "a,b")
    database.execute("DELETE FROM tags WHERE tag = 'with,comma'; DELETE FROM tags WHERE post = 9999")
    database.execute(added(4, "t1"))
    posts.reconcile()
    assert database.value("SELECT count(*) FROM zdm.sync_failures") == 2
    assert posts.both(4)[0] == "much too long a tag"
    database.execute(tagged(4, "short"))
    posts.agree()
    assert database.value("SELECT count(*) FROM zdm.sync_failures") == 0
    assert posts.both(4) == ("short", "short")


@pytest.mark.parametrize("authority", list(Authority))
def test_what_somebody_broke_is_found_and_repaired(database: Database, authority: Authority) -> None:
    posts = Logged(database)
    database.execute(
        "SET zdm.row = '1:new:*'; DELETE FROM tags WHERE post = 8 AND tag = 'a'; " + added(888, "nobody")
    )
    database.execute("SET zdm.row = '1:row:(4)'; " + tagged(4, "wrong"))
    waits = "UPDATE posts SET tags = 'later' WHERE id = 12"
    database.execute(waits)
    # What waits is looked at again once it is carried over.
    broken = {Kind.MISSING: 2, Kind.EXTRA: 3}
    found = verify_elements(posts.session, posts.mapping, posts.rollout, carry_over=posts.reconcile)
    assert found.counts == broken
    database.execute("UPDATE posts SET tags = 'last' WHERE id = 12")
    posts.repair(authority)
    if authority is Authority.NEW:
        assert database.value("SELECT count(*) FROM zdm.sync_failures") == 1
        database.execute("DELETE FROM tags WHERE post = 888")
    posts.agree()
    expected = ("wrong", "a,b", "last") if authority is Authority.OLD else ("a,b", "b", "last")
    assert tuple(posts.both(post)[0] for post in (4, 8, 12)) == expected


@contextmanager
def naively(posts: Logged) -> Iterator[None]:
    """As one would without knowing better: make the other side of what is noted say the same, and strike out what was noted of it."""
    stop = threading.Event()

    def work() -> None:
        with psycopg.connect(posts.database.dsn, autocommit=True) as conn:
            while not stop.is_set():
                noted = conn.execute(
                    "SELECT side, key[1]::int FROM zdm.row_changes ORDER BY id LIMIT 200"
                ).fetchall()
                for side, key in noted:
                    settle = (
                        "zdm.rows_1_1_settle_new(p, p, 'naive')"
                        if side == "old"
                        else "zdm.rows_1_1_settle_old(id, 'again')"
                    )
                    with suppress(psycopg.Error):
                        conn.execute(f"SELECT {settle} FROM public.posts AS p WHERE id = {key}".encode())
                conn.execute(
                    "DELETE FROM zdm.row_changes WHERE key[1]::int = ANY (%s)", [[key for _, key in noted]]
                )

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("naive", [False, True])
def test_everybody_at_once(database: Database, naive: bool) -> None:
    """Both versions at all isolation levels on a few rows, while the backfill goes through them and two reconcile: no error, and all agree."""
    posts = Logged(database, rows=2000, filled=False, extra="CREATE SEQUENCE moved")

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        post = 2 * (rng.randrange(1, 1000) if number % 3 else rng.randrange(1, 40))
        connection.execute("SELECT 1 FROM public.posts LIMIT 1")
        connection.execute(
            (
                tagged(post, f"n{rng.randrange(12)},a"),
                tagged(post, ""),
                f"UPDATE posts SET title = 'x{number}' WHERE id = {post}",
                f"INSERT INTO posts (id, tags) VALUES ({post}, 'i') ON CONFLICT (id) DO UPDATE SET tags = 'u,v'",
                f"DELETE FROM posts WHERE id = {post}",
                f"UPDATE posts SET id = -nextval('public.moved') WHERE id = {post}",
            )[rng.randrange(6)]
            .replace("posts ", "public.posts ", 1)
            .encode()
        )

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        post = rng.randrange(1, 2000) if number % 3 else rng.randrange(1, 40)
        connection.execute("SELECT 1 FROM public.posts LIMIT 1")
        connection.execute(
            (
                (
                    f"INSERT INTO public.tags (post, tag, place) SELECT {post}, 'w{rng.randrange(5)}', {number} FROM public.posts"
                    f" WHERE id = {post} ON CONFLICT DO NOTHING"
                ),
                f"DELETE FROM public.tags WHERE post = {post}",
                f"UPDATE public.tags SET place = {number} WHERE post = {post} AND tag = 'a'",
            )[rng.randrange(3)].encode()
        )

    with ExitStack() as stack:
        if naive:
            stack.enter_context(naively(posts))
        for _ in range(0 if naive else 2):
            stack.enter_context(
                reconciling(posts.session, (posts.mapping,), posts.rollout, lock_budget=Options().lock_budget)
            )
        with Writers(database.dsn) as writers:
            for level in LEVELS:
                writers.add(f"old {level}", old, isolation=level)
                writers.add(f"new {level}", new, isolation=level)
            writers.wait_for(1)
            posts.fill()
            writers.wait_for(30)
    for error in writers.report.errors:
        assert error.sqlstate == "40001", error
        assert "READ COMMITTED" not in error.writer
    posts.reconcile()
    # What has no row was added after that went, which nobody has told its application.
    database.execute("DELETE FROM tags WHERE NOT EXISTS (SELECT FROM posts WHERE id = post)")
    if naive:
        posts.reconcile()
        assert posts.bad() > 0
    else:
        posts.agree()


def test_a_document_whose_other_fields_are_written(database: Database) -> None:
    """That is no write of the list: what the new version has added meanwhile stays, and so does the field."""
    posts = Logged(
        database,
        rows=4,
        extra='UPDATE posts SET data = \'{"tags": ["a", "b"], "seen": 1}\'',
        options={
            "columns": [
                {
                    "column": "data",
                    "down": "jsonb_set(data, '{tags}', coalesce(jsonb_agg(tag ORDER BY place, tag) FILTER (WHERE tag IS NOT NULL), '[]'))",
                }
            ],
            "up": "SELECT e, n::int FROM jsonb_array_elements_text(data -> 'tags') WITH ORDINALITY AS x (e, n)",
        },
    )
    database.execute(added(1, "x") + "; UPDATE posts SET data = data || '{\"seen\": 2}' WHERE id = 1")
    database.execute(added(2, "x") + '; UPDATE posts SET data = \'{"tags": ["q"]}\' WHERE id = 2')
    posts.reconcile()
    assert database.execute("SELECT id, data FROM posts WHERE id < 3 ORDER BY id") == [
        (1, {"tags": ["a", "b", "x"], "seen": 2}),
        (2, {"tags": ["q"]}),
    ]
    assert [found[:2] for found in posts.conflicts()] == [(["2"], "old")]
    assert posts.found() == {}
