"""Many rows, one parent: what both applications and the backfill do at once, each of which breaks a simpler way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from tests.integration.rows.mirrored import Repaired
from tests.integration.rows.stage import staged
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions, on_all_versions_at_length
from tests.support.writers import Writers
from zdm.backfill.by_kind import statements_of
from zdm.backfill.sweep import BadData
from zdm.db.session import connect
from zdm.engine.compile import compile_plan
from zdm.errors import BadInput
from zdm.model.mapping import Authority
from zdm.model.plan import Plan
from zdm.model.row_mapping import RowMapping
from zdm.operations.migration import Migration
from zdm.sql.rows import Kind
from zdm.verify.parents import verify_parents

OPERATION: dict[str, object] = {
    "table": "talks",
    "columns": [
        {
            "column": "data",
            "keep": True,
            "down": "jsonb_set(coalesce(data, '{}'), '{tag}', to_jsonb(name))",
            "empty": "data - 'tag'",
        }
    ],
    "where": "data ? 'tag'",
    "parent": "tags",
    "values": {
        "owner": "owner",
        "name": "CASE WHEN jsonb_typeof(data -> 'tag') = 'string' THEN data ->> 'tag' END",
    },
    "create": {
        "columns": [
            {"name": "id", "type": "bigint", "identity": "by default"},
            {"name": "owner", "type": "int"},
            {"name": "name", "type": "varchar(10)"},
        ],
        "primary_key": ["id"],
    },
    "link": {"table": "talk_tags", "source": {"talk": "id"}, "parent": {"tag": "id"}},
}

BAD = """
SELECT count(*) FILTER (WHERE t.data ->> 'tag' IS DISTINCT FROM g.name OR g.owner <> t.owner OR t.id IS NULL)
  + (SELECT count(*) FROM (SELECT FROM talk_tags GROUP BY talk HAVING count(*) > 1) AS several)
  + (SELECT count(*) FROM talk_tags WHERE tag NOT IN (SELECT id FROM tags))
FROM talks AS t FULL JOIN (talk_tags AS l JOIN tags AS g ON g.id = l.tag) ON l.talk = t.id
"""
"""Rows that disagree, by a query that knows nothing of zdm's."""

#: What one writes who has not met the interleavings yet.
NAIVE = """
CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE found bigint;
BEGIN
  DELETE FROM talk_tags WHERE talk = OLD.id;
  IF TG_OP <> 'DELETE' AND NEW.data ? 'tag' THEN
    SELECT id INTO found FROM tags WHERE owner = NEW.owner AND name = NEW.data ->> 'tag';
    IF found IS NULL THEN
      INSERT INTO tags (owner, name) VALUES (NEW.owner, NEW.data ->> 'tag') RETURNING id INTO found;
    END IF;
    INSERT INTO talk_tags (talk, tag) VALUES (NEW.id, found);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER UPDATE OR DELETE ON talks FOR EACH ROW EXECUTE FUNCTION naive();
"""


@dataclass
class Talks(Repaired):
    """``talks`` whose documents name a tag, empty ``tags`` and ``talk_tags``, and what mirrors them; no engine."""

    database: Database
    rows: int = 30
    naive: bool = False
    options: dict[str, object] = field(default_factory=dict)
    extra: str = ""
    plan: Plan = field(init=False)
    mapping: RowMapping = field(init=False)
    rollout: int = field(init=False)

    def __post_init__(self) -> None:
        self.database.execute("CREATE TABLE talks (id int PRIMARY KEY, owner int NOT NULL, data jsonb)")
        self.database.execute(
            "INSERT INTO talks SELECT g, g % 2, jsonb_build_object('tag', 't' || g % 5)"
            f" FROM generate_series(1, {self.rows}) g"
        )
        if self.extra:
            self.database.execute(self.extra)
        migration = Migration.model_validate(
            {"id": "try_it", "operations": [{"normalise": {**OPERATION, **self.options}}]}
        )
        self.plan, self.mapping, self.rollout = staged(
            self.database, migration, naive=NAIVE if self.naive else None, new_first=True
        )

    def found(self) -> dict[Kind, int]:
        """What the verification finds."""
        return dict(
            verify_parents(
                lambda: connect(self.database.dsn, application_name="stage"), self.mapping, self.rollout
            ).counts
        )

    def bad(self) -> int:
        """Rows that disagree."""
        return int(self.database.execute(BAD)[0][0])

    def tag(self, talk: int) -> object:
        """What the old version reads."""
        return self.database.execute(f"SELECT data ->> 'tag' FROM talks WHERE id = {talk}")[0][0]


def tagged(talk: int, name: str) -> str:
    return f"UPDATE talks SET data = jsonb_set(data, '{{tag}}', '\"{name}\"') WHERE id = {talk}"


@on_all_versions
@pytest.mark.parametrize("naive", [False, True])
def test_two_that_make_one_parent_at_once(database: Database, naive: bool) -> None:
    """The second one waits, and takes the first one's; at REPEATABLE READ it is told to try again."""
    talks = Talks(database, naive=naive)
    if not naive:
        talks.fill()
    with Scene(database.dsn) as scene:
        for isolation in (
            ("READ COMMITTED",) if naive else ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
        ):
            a, b = scene.session(f"a {isolation}"), scene.session(f"b {isolation}")
            name = f"x {isolation[:6]}"
            a.run(f"BEGIN ISOLATION LEVEL {isolation}")
            b.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT 1 FROM talks")
            a.run(tagged(2, name))
            waiting = b.start(tagged(4, name))
            waiting.wait_blocked()
            a.run("COMMIT")
            if naive:
                with pytest.raises(psycopg.errors.UniqueViolation):
                    waiting.result()
                return
            if isolation == "READ COMMITTED":
                waiting.result()
                b.run("COMMIT")
            else:
                with pytest.raises(psycopg.errors.SerializationFailure):
                    waiting.result()
                b.run("ROLLBACK")
                b.run(f"BEGIN ISOLATION LEVEL {isolation}; {tagged(4, name)}; COMMIT")
            assert database.execute(f"SELECT count(*) FROM tags WHERE name = '{name}'") == [(1,)]
            assert talks.bad() == 0
    assert talks.found() == {}


@on_all_versions_at_length
@pytest.mark.parametrize("naive", [False, True])
def test_a_snapshot_older_than_the_backfill(database: Database, naive: bool) -> None:
    """Neither the parent nor the link that the backfill has made is seen: 40001, or both links would stay."""
    talks = Talks(database, naive=naive)
    with Scene(database.dsn) as scene:
        a = scene.session("a")
        a.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
        a.run("SELECT count(*) FROM talks")
        talks.fill()
        if naive:
            a.run(tagged(7, "other"))
            a.run("COMMIT")
            assert talks.bad() > 0
            return
        for statement in (
            tagged(7, "other"),
            tagged(7, "t3"),
            "UPDATE talks SET data = data - 'tag' WHERE id = 7",
            "UPDATE talks SET id = 700 WHERE id = 7",
            "DELETE FROM talks WHERE id = 7",
        ):
            a.run("SAVEPOINT s")
            with pytest.raises(psycopg.errors.SerializationFailure):
                a.run(statement)
            a.run("ROLLBACK TO s")
        a.run("ROLLBACK")
        a.run(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {tagged(7, 'other')}; COMMIT")
    assert talks.bad() == 0
    assert talks.found() == {}


@on_all_versions_at_length
def test_a_parent_that_is_renamed_or_removed_while_it_is_taken(database: Database) -> None:
    """Whoever refers to a parent holds it; whoever comes second finds it changed, or gone, and acts on that."""
    talks = Talks(database, options={"unused": "remove"})
    talks.fill()
    database.execute(tagged(1, "rare"))
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        # Taken, then renamed: the rename waits, and the row that took it follows.
        a.run(f"BEGIN; {tagged(3, 'rare')}")
        waiting = b.start("UPDATE tags SET name = 'seldom' WHERE name = 'rare'")
        waiting.wait_blocked()
        a.run("COMMIT")
        waiting.result()
        assert (talks.tag(1), talks.tag(3)) == ("seldom", "seldom")
        assert talks.bad() == 0
        # Renamed, then taken by its old name: another one.
        a.run("BEGIN; UPDATE tags SET name = 'scarce' WHERE name = 'seldom'")
        waiting = b.start(tagged(5, "seldom"))
        waiting.wait_blocked()
        a.run("COMMIT")
        waiting.result()
        assert (talks.tag(1), talks.tag(5)) == ("scarce", "seldom")
        assert talks.bad() == 0
        # Let go of by the last row, and so removed, while another one takes it.
        a.run(f"BEGIN; {tagged(5, 't0')}")
        waiting = b.start(tagged(7, "seldom"))
        waiting.wait_blocked()
        a.run("COMMIT")
        waiting.result()
        assert talks.bad() == 0
        # Taken by another one, while the last row lets go of it: it stays.
        a.run(f"BEGIN; {tagged(9, 'seldom')}")
        b.run(tagged(7, "t0"))
        a.run("COMMIT")
        assert talks.bad() == 0
        # Removed by the new version while a row takes it.
        a.run("BEGIN; DELETE FROM tags WHERE name = 'seldom'")
        waiting = b.start(tagged(11, "seldom"))
        waiting.wait_blocked()
        a.run("COMMIT")
        waiting.result()
    assert (talks.tag(9), talks.tag(11)) == (None, "seldom")
    assert talks.bad() == 0
    database.execute(tagged(11, "t0"))
    assert database.execute("SELECT name FROM tags WHERE name = 'seldom'") == []
    assert talks.found() == {}


@on_all_versions_at_length
@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_an_unused_parent_stays_where_its_end_would_take_others_along(
    database: Database, action: str
) -> None:
    """A foreign key that somebody made after the plan."""
    talks = Talks(database, options={"unused": "remove"})
    talks.fill()
    database.execute(f"CREATE TABLE uses (tag bigint REFERENCES tags ON DELETE {action})")
    database.execute(tagged(1, "rare"))
    database.execute("INSERT INTO uses SELECT id FROM tags WHERE name = 'rare'")
    database.execute(tagged(1, "t1"))
    assert database.execute("SELECT name FROM uses JOIN tags ON id = tag") == [("rare",)]
    database.execute("DROP TABLE uses")
    database.execute(tagged(1, "rare"))
    database.execute(tagged(1, "t1"))
    assert database.execute("SELECT count(*) FROM tags WHERE name = 'rare'") == [(0,)]
    assert (talks.bad(), talks.found()) == (0, {})


@on_all_versions_at_length
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_rename_that_does_not_see_who_took_the_parent(database: Database, level: Isolation) -> None:
    """Taking it only locked it: nothing but the foreign key sees the link, and raises."""
    talks = Talks(database)
    talks.fill()
    rename = "UPDATE tags SET name = 'renamed' WHERE owner = 1 AND name = 't1'"
    with Scene(database.dsn) as scene:
        a = scene.session("a")
        a.run(f"BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM talks")
        database.execute(tagged(3, "t1"))
        with pytest.raises(psycopg.errors.SerializationFailure):
            a.run(rename)
        a.run(f"ROLLBACK; BEGIN ISOLATION LEVEL {level}; {rename}; COMMIT")
    assert (talks.tag(1), talks.tag(3), talks.bad(), talks.found()) == ("renamed", "renamed", 0, {})


@on_all_versions_at_length
@pytest.mark.parametrize("writer_first", [True, False])
def test_a_row_written_while_it_is_filled(database: Database, writer_first: bool) -> None:
    """The backfill reads the row, and somebody writes it before the link is there: both would link it."""
    talks = Talks(database, rows=3)
    with Scene(database.dsn) as scene:
        writer, filling = scene.session("writer"), scene.session("filling")
        chunk, write = row_settling(talks), tagged(2, "newer")
        sessions = (writer, filling) if writer_first else (filling, writer)
        statements = (write, chunk) if writer_first else (chunk, write)
        sessions[0].run("BEGIN")
        sessions[0].run(statements[0])
        waiting = sessions[1].start(statements[1])
        waiting.wait_blocked()
        sessions[0].run("COMMIT")
        waiting.result()
    assert (talks.bad(), talks.tag(2)) == (0, "newer")


def row_settling(talks: Talks) -> str:
    """One chunk of the backfill over the whole table."""
    return statements_of(talks.mapping, talks.rollout).fill(0, 10, careful=False).as_string(None)


@on_all_versions_at_length
def test_everything_that_can_be_written(database: Database) -> None:
    talks = Talks(database)
    talks.fill()
    keys = database.execute("SELECT owner, name, id FROM tags ORDER BY id")
    talks.fill()
    assert database.execute("SELECT owner, name, id FROM tags ORDER BY id") == keys
    for statement, talk, expected in (
        ('INSERT INTO talks VALUES (100, 1, \'{"tag": "a"}\')', 100, "a"),
        ("INSERT INTO talks VALUES (101, 1, NULL)", 101, None),
        ("UPDATE talks SET data = data || '{\"x\": 1}' WHERE id = 100", 100, "a"),
        ("UPDATE talks SET owner = 0 WHERE id = 100", 100, "a"),
        ("UPDATE talks SET owner = 1 WHERE id = 100", 100, "a"),
        ("UPDATE talks SET id = 200 WHERE id = 100", 200, "a"),
        (
            'INSERT INTO talks VALUES (200, 1, \'{"tag": "b"}\') ON CONFLICT (id) DO UPDATE SET data = EXCLUDED.data',
            200,
            "b",
        ),
        ("UPDATE tags SET name = 'renamed' WHERE owner = 0 AND name = 't2'", 2, "renamed"),
        ("UPDATE tags SET id = 5000 WHERE name = 'renamed'", 2, "renamed"),
        (
            "UPDATE talk_tags SET tag = (SELECT id FROM tags WHERE owner = 0 AND name = 't0') WHERE talk = 2",
            2,
            "t0",
        ),
        ("DELETE FROM talk_tags WHERE talk = 4", 4, None),
        ("INSERT INTO talk_tags SELECT 101, id FROM tags WHERE owner = 1 AND name = 't1'", 101, "t1"),
        # All in one statement, after which the triggers run: what the row says is as old as it was.
        (
            (
                "WITH t AS (INSERT INTO talks VALUES (300, 1, '{\"x\": 1}') RETURNING id), g AS (INSERT INTO tags (owner, name) VALUES (1, 'one')"
                " RETURNING id) INSERT INTO talk_tags SELECT t.id, g.id FROM t, g"
            ),
            300,
            "one",
        ),
        (
            (
                "WITH t AS (UPDATE talks SET data = data || '{\"x\": 2}' WHERE id = 300), g AS (DELETE FROM talk_tags WHERE talk = 300)"
                " INSERT INTO talk_tags SELECT 300, id FROM tags WHERE owner = 1 AND name = 't1'"
            ),
            300,
            "t1",
        ),
        (
            "WITH t AS (UPDATE talks SET data = data || '{\"x\": 3}' WHERE id = 300) DELETE FROM talk_tags WHERE talk = 300",
            300,
            None,
        ),
        # One after the other in one transaction, in either order.
        (
            "DELETE FROM talk_tags WHERE talk = 6; INSERT INTO talk_tags SELECT 6, id FROM tags WHERE owner = 0 AND name = 't0'",
            6,
            "t0",
        ),
        (
            (
                "BEGIN; INSERT INTO talk_tags SELECT 8, id FROM tags WHERE owner = 0 AND name = 't0';"
                " DELETE FROM talk_tags USING tags WHERE talk = 8 AND id = tag AND name <> 't0'; COMMIT"
            ),
            8,
            "t0",
        ),
        ("DELETE FROM tags WHERE owner = 1 AND name = 't3'", 13, None),
        ("SET session_replication_role = replica; " + tagged(10, "r"), 10, "r"),
        ("DELETE FROM talks WHERE id = 12", 14, "t4"),
    ):
        database.execute(statement)
        assert talks.tag(talk) == expected, statement
        assert talks.bad() == 0, statement
    with pytest.raises(psycopg.errors.CardinalityViolation, match="would have several rows"):
        database.execute("INSERT INTO talk_tags SELECT 14, id FROM tags WHERE name = 't1'")
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="do not belong together"):
        database.execute(
            "UPDATE talk_tags SET tag = (SELECT id FROM tags WHERE owner = 1 AND name = 't1') WHERE talk = 14"
        )
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.execute("INSERT INTO talk_tags SELECT 99999, id FROM tags LIMIT 1")
    database.execute("TRUNCATE talk_tags")
    assert (talks.bad(), talks.tag(14)) == (0, None)
    database.execute(tagged(14, "again") + "; TRUNCATE talks")
    assert database.execute("SELECT count(*) FROM talk_tags") == [(0,)]
    assert talks.found() == {}


@on_all_versions_at_length
def test_a_value_that_no_parent_can_hold(database: Database) -> None:
    """The old application's write goes through; the row is recorded, named by the backfill, and heals when it is corrected."""
    talks = Talks(database)
    database.execute(tagged(3, "much too long a tag"))
    database.execute("UPDATE talks SET data = '{\"tag\": 7}' WHERE id = 5")
    with pytest.raises(BadData, match="2 rows") as raised:
        talks.fill()
    assert "too long" in str(raised.value)
    assert talks.found() == {Kind.FAILED: 2}
    # The new version sees no tag there, and would overwrite what the old one holds.
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="no new form"):
        database.execute("INSERT INTO talk_tags SELECT 3, id FROM tags WHERE name = 't1' AND owner = 1")
    database.execute(tagged(3, "short"))
    database.execute("DELETE FROM talks WHERE id = 5")
    talks.fill()
    assert (talks.found(), talks.bad()) == ({}, 0)
    database.execute(tagged(4, "once more too long"))
    assert talks.found() == {Kind.FAILED: 1}
    database.execute(tagged(4, "good"))
    assert (talks.found(), talks.bad()) == ({}, 0)


@on_all_versions_at_length
def test_a_row_that_is_not_filled_yet_is_written_at_repeatable_read(database: Database) -> None:
    """Nothing is there that its snapshot could miss: trying again would not help."""
    talks = Talks(database)
    for number, statement in enumerate(
        (
            "DELETE FROM talks WHERE id = 1",
            "UPDATE talks SET id = 200 WHERE id = 2",
            tagged(3, "other"),
            "UPDATE talks SET data = data - 'tag' WHERE id = 4",
        )
    ):
        level = ("REPEATABLE READ", "SERIALIZABLE")[number % 2]
        database.execute(f"BEGIN ISOLATION LEVEL {level}; {statement}; COMMIT")
    talks.fill()
    assert (talks.found(), talks.bad(), talks.tag(3), talks.tag(4)) == ({}, 0, "other", None)


@on_all_versions_at_length
@pytest.mark.parametrize("filled", [True, False])
def test_a_key_taken_over_from_a_row_that_the_snapshot_still_sees(database: Database, filled: bool) -> None:
    """Two rows of one key are seen then, one of them gone; the one that is gone got the link."""
    talks = Talks(database)
    if filled:
        talks.fill()
    taken_over = 'INSERT INTO talks VALUES (7, 1, \'{"tag": "again"}\')'
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        a.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM talks")
        b.run("UPDATE talks SET id = 1007 WHERE id = 7")
        with pytest.raises(psycopg.errors.SerializationFailure):
            a.run(taken_over)
        a.run(f"ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; {taken_over}; COMMIT")
    talks.fill()
    assert talks.bad() == 0


@on_all_versions_at_length
def test_a_row_that_is_not_filled_yet_is_not_overwritten(database: Database) -> None:
    talks = Talks(database)
    database.execute("INSERT INTO tags (owner, name) VALUES (1, 'mine')")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not filled yet"):
        database.execute("INSERT INTO talk_tags SELECT 7, id FROM tags WHERE name = 'mine'")
    talks.fill()
    assert (talks.bad(), talks.tag(7)) == (0, "t2")


@on_all_versions_at_length
@pytest.mark.parametrize("authority", list(Authority))
def test_what_somebody_broke_is_found_and_repaired(database: Database, authority: Authority) -> None:
    talks = Talks(database)
    talks.fill()
    database.execute("ALTER TABLE talks DISABLE TRIGGER USER; ALTER TABLE talk_tags DISABLE TRIGGER USER")
    database.execute(tagged(1, "wrong"))
    database.execute("UPDATE talks SET data = data - 'tag' WHERE id = 2")
    database.execute("INSERT INTO talk_tags SELECT 888, max(id) FROM tags")
    for table in ("talks", "talk_tags"):
        for (name,) in database.execute(
            f"SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal"
        ):
            database.execute(f'ALTER TABLE {table} ENABLE ALWAYS TRIGGER "{name}"')
    assert talks.found() == {Kind.DIFFERENT: 1, Kind.EXTRA: 2}
    if authority is Authority.NEW:
        database.execute("DELETE FROM talk_tags WHERE talk = 888")
    talks.repair(authority)
    assert (talks.found(), talks.bad()) == ({}, 0)
    assert talks.tag(1) == ("wrong" if authority is Authority.OLD else "t1")
    assert talks.tag(2) == (None if authority is Authority.OLD else "t2")


@on_all_versions_at_length
def test_a_parent_that_exists(database: Database) -> None:
    """Its rows are found and keep what they are; what has no form in it is counted before anything changes."""
    talks = Talks(
        database,
        options={"create": None},
        extra="""
        CREATE TABLE tags (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner int NOT NULL, name varchar(10) NOT NULL,
          color text DEFAULT 'grey', UNIQUE (name, owner));
        INSERT INTO tags (owner, name, color) VALUES (1, 't1', 'red'), (7, 'other', 'blue');
        UPDATE talks SET data = '{"tag": "much too long a tag"}' WHERE id = 3;
        """,
    )
    (found,) = [finding.text for finding in talks.plan.findings if finding.rule == "up-raises"]
    assert "1 of 30 rows of public.talks have no form in public.tags, for example id=3" in found
    assert "too long" in found
    database.execute(tagged(3, "short"))
    talks.fill()
    assert (talks.found(), talks.bad()) == ({}, 0)
    assert database.execute("SELECT count(*), min(color) FROM tags WHERE owner = 1 AND name = 't1'") == [
        (1, "red")
    ]
    assert database.execute("SELECT name FROM tags WHERE owner = 7") == [("other",)]


@pytest.mark.parametrize("unused", ["keep", "remove"])
def test_everybody_at_once(database: Database, unused: str) -> None:
    """Both versions at all isolation levels on a few parents of many rows, while the backfill goes through them."""
    talks = Talks(database, rows=3000, options={"unused": unused})

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        talk = rng.randrange(1, 3000)
        # A snapshot first, so that what the backfill commits meanwhile is not in it.
        connection.execute("SELECT 1 FROM public.talks LIMIT 1")
        statement = (
            tagged(talk, f"n{rng.randrange(12)}"),
            f"UPDATE talks SET data = data - 'tag' WHERE id = {talk}",
            f"UPDATE talks SET data = data || '{{\"x\": {number}}}' WHERE id = {talk}",
            f'INSERT INTO talks VALUES ({talk}, 1, \'{{"tag": "t1"}}\') ON CONFLICT (id) DO UPDATE SET owner = 1 - talks.owner',
            f"DELETE FROM talks WHERE id = {talk}",
        )[rng.randrange(5)]
        connection.execute(statement.replace(" talks ", " public.talks ").encode())

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        talk = rng.randrange(1, 3000)
        statement = (
            (
                f"INSERT INTO public.talk_tags SELECT t.id, g.id FROM public.talks t JOIN public.tags g USING (owner) WHERE t.id = {talk}"
                " AND NOT t.data ? 'tag' LIMIT 1 ON CONFLICT DO NOTHING"
            ),
            f"DELETE FROM public.talk_tags WHERE talk = {talk}",
            f"DELETE FROM public.tags WHERE name = 'n{rng.randrange(12)}' AND owner = 1",
        )[rng.randrange(3)]
        connection.execute(statement.encode())

    def rename(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        connection.execute(
            f"UPDATE public.tags SET name = 'r{number % 90}' WHERE name = 'n{rng.randrange(12)}' AND owner = 0"
            f" AND NOT EXISTS (SELECT FROM public.tags WHERE owner = 0 AND name = 'r{number % 90}')".encode()
        )

    levels: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    with Writers(database.dsn) as writers:
        for level in levels:
            writers.add(f"old {level}", old, isolation=level)
            writers.add(f"new {level}", new, isolation=level)
        writers.add("rename", rename, isolation="READ COMMITTED")
        writers.wait_for(1)
        talks.fill()
        writers.wait_for(30)
    # 55000 and 21000: what the new version must not do before a row is filled, or to a row that somebody else has linked.
    writers.report.assert_only("40001", "40P01", "55000", "21000", "23503")
    assert (talks.found(), talks.bad()) == ({}, 0)


def test_what_cannot_be_is_refused_by_name(database: Database) -> None:
    database.execute(
        "CREATE TABLE talks (id int PRIMARY KEY, owner int NOT NULL, data jsonb, kind text NOT NULL);"
        " CREATE TABLE tags (id int PRIMARY KEY, owner int, name text, more text NOT NULL);"
        " INSERT INTO talks VALUES (1, 1, '{\"tag\": \"Work\"}', 'x')"
    )

    def refused(**options: object) -> str:
        operation = {**OPERATION, **options}
        migration = Migration.model_validate({"id": "try_it", "operations": [{"normalise": operation}]})
        with connect(database.dsn, application_name="stage") as conn, pytest.raises(BadInput) as raised:
            compile_plan(conn, migration, "public")
        return str(raised.value)

    parent = {
        "columns": [
            {"name": "id", "type": "int", "identity": "always"},
            {"name": "owner", "type": "int"},
            {"name": "name", "type": "text"},
        ],
        "primary_key": ["id"],
    }
    existing = refused(create=None)
    assert "(owner, name), the natural key, is no unique key of public.tags" in existing
    kind = refused(columns=["kind"], parent="kinds", create=parent)
    assert "column kind is mapped in one direction only" in kind
    assert "column kind of public.talks is NOT NULL without a default" in kind
    lower = {"owner": "owner", "name": "lower(data ->> 'tag')"}
    assert "differs in 1 of 1 rows of public.talks (for example id=1)" in refused(
        parent="kinds", create=parent, values=lower
    )
    assert "is no unique key of public.talks" in refused(
        parent="kinds",
        create=parent,
        link={"table": "l", "source": {"talk": "owner"}, "parent": {"tag": "id"}},
    )
    assert "whose primary key is id" in refused(
        parent="kinds",
        create=parent,
        link={"table": "l", "source": {"talk": "id"}, "parent": {"tag": "name"}},
    )
