"""Elements in a table that has rows of something else as well: these are never read, written, counted or taken away."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.rows.explode_stage import OPERATION, Posts, added, tagged
from tests.support.servers import Database
from zdm.db.session import connect
from zdm.engine.compile import compile_plan
from zdm.errors import BadInput
from zdm.model.mapping import Authority
from zdm.operations.migration import Migration
from zdm.sql.rows import Kind

SHARED: dict[str, object] = {"create": None, "elements_where": "tag NOT LIKE 'x:%'"}
THERE = (
    "CREATE TABLE tags (post int NOT NULL, tag varchar(12) NOT NULL, place int NOT NULL, votes int DEFAULT 0, PRIMARY KEY (post, tag));"
    " INSERT INTO tags SELECT g, 'x:' || k, 7 FROM generate_series(1, 40) g, unnest(ARRAY['p', 'q']) k"
)
OTHERS = "SELECT post, tag, place FROM tags WHERE tag LIKE 'x:%' ORDER BY 1, 2"


class Shared(Posts):
    """The same stage, whose elements are seen without the others."""

    def both(self, post: int) -> tuple[object, object]:
        old = self.database.execute(f"SELECT tags FROM posts WHERE id = {post}")
        new = self.database.execute(
            f"SELECT string_agg(tag, ',' ORDER BY place, tag) FROM tags WHERE post = {post} AND tag NOT LIKE 'x:%'"
        )
        return (old[0][0] if old else None), new[0][0]


def test_the_others_are_left_alone(database: Database) -> None:
    posts = Shared(database, options=SHARED, extra=THERE)
    others = database.execute(OTHERS)
    # Rows of posts that are not there are nobody's elements, filled or not.
    database.execute(
        "INSERT INTO tags VALUES (777, 'x:alone', 1), (3, 'x:early', 1); DELETE FROM tags WHERE tag = 'x:early'"
    )
    posts.fill()
    assert posts.found() == {}
    assert posts.both(5) == ("c", "c")
    for statement, post, told in (
        (tagged(3, "e,f"), 3, "e,f"),
        (added(3, "g"), 3, "e,f,g"),
        # What is no element any more, and what becomes one.
        ("UPDATE tags SET tag = 'x:e' WHERE post = 3 AND tag = 'e'", 3, "f,g"),
        ("UPDATE tags SET tag = 'h', place = 0 WHERE post = 3 AND tag = 'x:e'", 3, "h,f,g"),
        ("UPDATE tags SET votes = 3 WHERE post = 3 AND tag = 'x:p'", 3, "h,f,g"),
        ("DELETE FROM tags WHERE post = 3 AND tag IN ('f', 'g', 'h')", 3, ""),
        (tagged(3, "z"), 3, "z"),
        ("INSERT INTO tags VALUES (888, 'x:new', 1)", 3, "z"),
    ):
        database.execute(statement)
        old, new = posts.both(post)
        assert (old, new or "") == (told, told), statement
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.execute(added(888, "new"))
    database.execute("DELETE FROM tags WHERE post = 888")
    # A list that says what is a row of something else has no form, and takes none of it.
    database.execute(tagged(4, "a,x:p"))
    assert posts.found() == {Kind.FAILED: 1}
    assert (
        database.value("SELECT count(*) FROM zdm.sync_failures AS f WHERE f::text LIKE '%elements_where%'")
        == 1
    )
    database.execute(tagged(4, "a"))
    assert database.value("SELECT count(*) FROM zdm.sync_failures") == 0
    database.execute("UPDATE posts SET id = 400 WHERE id = 4")
    assert posts.both(400) == ("a", "a")
    database.execute("DELETE FROM posts WHERE id = 400")
    # The old row's end took its elements along, and the others stay, as they would have.
    assert database.execute("SELECT tag FROM tags WHERE post = 4 ORDER BY 1") == [("x:p",), ("x:q",)]
    assert database.execute(OTHERS) == [*others, (777, "x:alone", 1)]
    for authority in (Authority.OLD, Authority.NEW):
        posts.repair(authority)
    database.execute("TRUNCATE posts")
    assert database.execute(OTHERS) == [*others, (777, "x:alone", 1)]
    assert database.value("SELECT count(*) FROM tags") == len(others) + 1


def test_repair_takes_nothing_else_away(database: Database) -> None:
    posts = Shared(database, options=SHARED, extra=THERE)
    posts.fill()
    database.execute("ALTER TABLE tags DISABLE TRIGGER USER")
    database.execute(
        added(888, "nobody")
        + "; INSERT INTO tags VALUES (888, 'x:other', 1); DELETE FROM tags WHERE post = 8 AND tag = 'a'"
    )
    for (name,) in database.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'tags'::regclass AND NOT tgisinternal"
    ):
        database.execute(f'ALTER TABLE tags ENABLE ALWAYS TRIGGER "{name}"')
    assert posts.found() == {Kind.EXTRA: 1, Kind.MISSING: 1}
    posts.repair(Authority.OLD)
    assert posts.found() == {}
    assert database.execute("SELECT tag FROM tags WHERE post = 888") == [("x:other",)]
    assert len(database.execute(OTHERS)) == 81


def test_what_it_may_say(database: Database) -> None:
    database.execute(
        "CREATE TABLE posts (id int PRIMARY KEY, tags text NOT NULL DEFAULT ''); INSERT INTO posts VALUES (1, 'a,x:b')"
    )
    database.execute(THERE)

    def planned(**options: object) -> str:
        operation = {**OPERATION, **SHARED, **options}
        sync = operation.pop("sync", "immediate")
        migration = Migration.model_validate(
            {"id": "try_it", "sync": sync, "operations": [{"explode": operation}]}
        )
        with connect(database.dsn, application_name="stage") as conn:
            try:
                return "\n".join(f.text for f in compile_plan(conn, migration, "public").findings)
            except BadInput as error:
                return str(error)

    assert "1 of 1 rows of public.posts have no form in public.tags, for example id=1" in planned()
    assert 'constraint "elements_where"' in planned()
    assert "say with `elements_where` which rows are its elements" in planned(elements_where=None)
    assert "reads place of public.tags" in planned(elements_where="place < 7")
    assert 'column "nothing" does not exist' in planned(elements_where="nothing")
    assert "is not offered with `sync: logged`" in planned(sync="logged")
    with pytest.raises(ValueError, match="`elements_where` tells elements"):
        planned(create={})
    with pytest.raises(ValueError, match="with `elements_where` no element is recorded"):
        planned(without_old_form="record")
