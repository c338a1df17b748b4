"""Every statement and every form of a list, one after the other: what elements follow, what is repaired, what is refused."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.integration.rows.explode_stage import COLUMNS, OPERATION, Posts, added, tagged
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.backfill.options import Options
from zdm.backfill.run import backfill
from zdm.backfill.sweep import BadData
from zdm.catalog import install, registry, rollouts
from zdm.db.session import connect, transaction
from zdm.engine.compile import compile_plan
from zdm.errors import BadInput
from zdm.model.mapping import Authority
from zdm.model.step import Phase, Stage, Transaction
from zdm.operations.migration import Migration
from zdm.sql import row_objects, row_sync
from zdm.sql.rows import Kind


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
    # Of a row that goes by another key nothing is left of what was wrong with it.
    database.execute("UPDATE posts SET id = 112 WHERE id = 12")
    assert database.execute("SELECT key ->> 'id' FROM zdm.sync_failures") == [("112",)]
    database.execute(tagged(112, "good"))
    assert (posts.found(), posts.bad()) == ({}, 0)


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
        "what comes back from public.labels differs in 1 of 1 rows of public.posts (for example id=1 (tags 'a, b' as 'A, B'))"
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
