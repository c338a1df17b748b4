"""extract_json into a table: what a document says and what a row of another table says, whoever writes which field of it."""

from __future__ import annotations

import json
import random
from typing import Any

import psycopg
import pytest

from tests.conformance.harness import Rollout
from tests.integration.rows.stage import staged
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.backfill.run import backfill
from zdm.db.session import connect
from zdm.engine.rollout import Engine
from zdm.errors import BadInput
from zdm.model.mapping import Authority
from zdm.model.phases import State
from zdm.model.row_mapping import RowMapping
from zdm.model.sample import Scenario
from zdm.model.step import Phase
from zdm.operations.extract_json import ExtractJson
from zdm.operations.migration import Migration
from zdm.verify.repair_rows import repair_rows
from zdm.verify.rows import verify_rows

FIELDS: list[dict[str, Any]] = [
    {"path": "name", "type": "varchar(10)"},
    {"path": "size", "type": "int"},
    {"path": ["address", "city"], "type": "text"},
]
GATES = {"replication_lag": False, "soak": "0s", "old_version_unused": False}
DOCUMENTS: tuple[Any, ...] = (
    {"name": "a", "size": 7, "address": {"city": "x", "zip": "1"}, "other": [1, {"b": None}]},
    {"name": None, "size": "7", "address": {}},
    {"size": 75, "address": None},
    {"address": "somewhere"},
    {},
    [1, 2],
    None,
)
DISAGREE = """
SELECT count(*) FROM public.docs d FULL JOIN public.details t ON t.doc_id = d.id
WHERE d.id IS NULL OR t.doc_id IS NULL OR (d.doc ->> 'name', d.doc ->> 'size', d.doc -> 'address' ->> 'city')
  IS DISTINCT FROM (t.name::text, t.size::text, t.city)
"""
"""Rows without the other one, or that say something else: by a query that knows nothing of zdm's."""


def migration_of(sync: str = "immediate", **options: Any) -> Migration:
    operation = {
        "table": "docs",
        "column": "doc",
        "to": "details",
        "key": {"doc_id": "id"},
        "create": {},
        "fields": FIELDS,
        **options,
    }
    return Migration.model_validate(
        {"id": "split", "sync": sync, "operations": [{"extract_json": operation}], "gates": GATES}
    )


def filled(database: Database, type_: str = "jsonb") -> None:
    """One row for each document (the last two hold a JSON null, and nothing)."""
    database.execute(f"CREATE TABLE docs (id serial PRIMARY KEY, doc {type_})")
    with psycopg.connect(database.dsn) as connection:
        for document in DOCUMENTS:
            connection.execute("INSERT INTO docs (doc) VALUES (%s)", [json.dumps(document)])
        connection.execute("INSERT INTO docs (doc) VALUES (NULL)")


def mirrored(database: Database, **options: Any) -> tuple[RowMapping, int]:
    """Both tables in the middle of a rollout, filled."""
    filled(database)
    _, mapping, rollout = staged(database, migration_of(**options), naive=None)
    assert backfill(lambda: connect(database.dsn, application_name="backfill"), rollout, mapping).complete
    if options.get("rows") == "needed":
        assert database.execute("SELECT doc_id FROM details ORDER BY doc_id") == [(1,), (2,), (3,)]
    else:
        assert database.value(DISAGREE) == 0
    return mapping, rollout


def document(database: Database, id_: int) -> Any:
    return json.loads(database.value("SELECT doc::text FROM docs WHERE id = %s", id_))


# --- interleavings ------------------------------------------------------------------------------------------------------

OTHER_FIELD = "UPDATE docs SET doc = jsonb_set(doc, '{other}', '\"old\"') WHERE id = 1"
SAME_FIELD = "UPDATE docs SET doc = jsonb_set(doc, '{name}', '\"old\"') WHERE id = 1"
COLUMN = "UPDATE details SET size = 8 WHERE doc_id = 1"


def both_kept(database: Database, field: str) -> None:
    found = document(database, 1)
    assert (found[field], found["size"], found["address"]) == ("old", 8, {"city": "x", "zip": "1"})
    assert database.value(DISAGREE) == 0


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize(("write", "field"), [(OTHER_FIELD, "other"), (SAME_FIELD, "name")])
@pytest.mark.parametrize("new_first", [False, True])
def test_one_field_by_each_version(
    database: Database, isolation: Isolation, write: str, field: str, new_first: bool
) -> None:
    """A field that is not extracted, or another one that is, and a column: neither write is lost, whoever comes first."""
    mirrored(database)
    first, second = (COLUMN, write) if new_first else (write, COLUMN)
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        a.begin(isolation)
        b.begin(isolation)
        b.run("SELECT 1 FROM docs")
        a.run(first)
        waiting = b.start(second)
        waiting.wait_blocked(by=a)
        a.run("COMMIT")
        if isolation == "READ COMMITTED":
            waiting.result()
        else:
            assert waiting.error() == "40001"
            b.run("ROLLBACK")
            b.begin(isolation)
            b.run(second)
        b.run("COMMIT")
    both_kept(database, field)


@pytest.mark.parametrize("locked", [True, False])
def test_the_document_is_read_under_its_lock(database: Database, locked: bool) -> None:
    """Read before, it is written back as it was, and what the old version has put into it meanwhile is lost."""
    _, rollout = mirrored(database)
    if not locked:
        name = f"zdm.rows_{rollout}_1_settle_old"
        made = database.value(f"SELECT pg_get_functiondef('{name}'::regproc)")
        read = made.index('INTO "zdm_own"')
        loose = made[:read] + made[read:].replace(" FOR NO KEY UPDATE", "", 1)
        assert loose != made
        database.execute(loose)
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        old.run("BEGIN")
        old.run(OTHER_FIELD)
        waiting = new.start(COLUMN)
        waiting.wait_blocked(by=old)
        old.run("COMMIT")
        waiting.result()
    if locked:
        both_kept(database, "other")
    else:
        assert document(database, 1)["other"] == [1, {"b": None}]


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_that_does_not_see_what_the_old_version_wrote(
    database: Database, isolation: Isolation
) -> None:
    """The field came after the snapshot and is committed; the column is written by it nevertheless."""
    mirrored(database)
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        new.begin(isolation)
        new.run("SELECT 1 FROM details")
        old.run(OTHER_FIELD)
        if isolation == "READ COMMITTED":
            new.run(COLUMN)
        else:
            assert new.start(COLUMN).error() == "40001"
            new.run("ROLLBACK")
            new.begin(isolation)
            new.run(COLUMN)
        new.run("COMMIT")
    both_kept(database, "other")


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_row_ends_while_its_document_gets_another_field(database: Database, isolation: Isolation) -> None:
    """The new version lets the row go: the document loses its fields, and keeps what has just been put in."""
    mirrored(database, rows="needed")
    delete = "DELETE FROM details WHERE doc_id = 1"
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        new.begin(isolation)
        new.run("SELECT 1 FROM docs")
        old.run("BEGIN")
        old.run(OTHER_FIELD)
        waiting = new.start(delete)
        waiting.wait_blocked(by=old)
        old.run("COMMIT")
        if isolation == "READ COMMITTED":
            waiting.result()
        else:
            assert waiting.error() == "40001"
            new.run("ROLLBACK; BEGIN")
            new.run(delete)
        new.run("COMMIT")
    assert document(database, 1) == {"address": {"zip": "1"}, "other": "old"}


def test_both_versions_count(database: Database) -> None:
    """Fields that are extracted, and fields that are not, counted up in the same documents by whole-document writes and by columns."""
    mirrored(database)
    database.execute('UPDATE docs SET doc = \'{"size": 0, "seen": 0}\' WHERE id IN (1, 2, 3)')

    def document_of(name: str) -> Any:
        def work(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
            del number
            connection.execute(
                f"UPDATE public.docs SET doc = jsonb_set(doc, '{{{name}}}', to_jsonb((doc ->> '{name}')::int + 1)) WHERE id = {rng.randrange(1, 4)}".encode()
            )

        return work

    def column(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        del number
        connection.execute(
            f"UPDATE public.details SET size = size + 1 WHERE doc_id = {rng.randrange(1, 4)}".encode()
        )

    levels: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    with Writers(database.dsn) as writers:
        for level in levels:
            writers.add("seen", document_of("seen"), isolation=level)
            writers.add("size", document_of("size"), isolation=level)
            writers.add("size", column, isolation=level)
        writers.wait_for(25)
    writers.report.assert_only("40001", "40P01")
    counted = database.execute(
        "SELECT sum((doc ->> 'seen')::int), sum((doc ->> 'size')::int) FROM docs WHERE id IN (1, 2, 3)"
    )
    assert counted == [(writers.report.of("seen").count, writers.report.of("size").count)]
    assert database.value(DISAGREE) == 0


# --- what each version writes -------------------------------------------------------------------------------------------


@on_all_versions
def test_everything_that_can_be_written(database: Database) -> None:
    """Either side, by keys, upserts and triggers of the application; other rows of the same statement are mirrored as well."""
    mirrored(database)
    database.execute(
        """
        CREATE FUNCTION next_one() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF NEW.size = 100 THEN
            UPDATE public.docs SET doc = jsonb_set(doc, '{seen}', 'true') WHERE id = NEW.doc_id;
            UPDATE public.details SET size = 101 WHERE doc_id = NEW.doc_id + 1;
          END IF;
          RETURN NULL;
        END $$;
        CREATE TRIGGER next_one AFTER UPDATE ON details FOR EACH ROW EXECUTE FUNCTION next_one();
        """
    )
    other = [1, {"b": None}]
    for statement, id_, expected in (
        ("UPDATE details SET name = 'n', city = NULL WHERE doc_id = 1", 1, {"name": "n", "size": 7, "address": {"zip": "1"}, "other": other}),
        ("UPDATE details SET city = 'c' WHERE doc_id = 2", 2, {"name": None, "size": "7", "address": {"city": "c"}}),
        ("UPDATE details SET size = 100 WHERE doc_id = 2", 2, {"name": None, "size": 100, "address": {"city": "c"}, "seen": True}),
        ("SELECT 1", 3, {"size": 101, "address": None}),
        ("UPDATE details SET size = 1 WHERE doc_id IN (4, 5, 7, 8)", 4, {"size": 1, "address": "somewhere"}),
        ("SELECT 1", 8, {"size": 1}),
        ("UPDATE docs SET id = 1000 WHERE id = 5", 1000, {"size": 1}),
        ("UPDATE details SET doc_id = 1001 WHERE false", 7, {"size": 1}),
        ("DELETE FROM details WHERE doc_id = 1", 1, {"address": {"zip": "1"}, "other": other}),
        ("INSERT INTO details (doc_id, name) VALUES (1, 'again') ON CONFLICT (doc_id) DO UPDATE SET name = EXCLUDED.name", 1,
         {"name": "again", "address": {"zip": "1"}, "other": other}),
        ("WITH made AS (INSERT INTO docs (id, doc) VALUES (2000, '{\"b\": 1}') RETURNING id) INSERT INTO details (doc_id, name) SELECT id, 'new' FROM made",
         2000, {"b": 1, "name": "new"}),
        ("INSERT INTO docs (id, doc) VALUES (2001, '{\"b\": 1}')", 2001, {"b": 1}),
        ("SET session_replication_role = replica; UPDATE details SET name = 'r' WHERE doc_id = 2001", 2001, {"b": 1, "name": "r"}),
    ):  # fmt: skip
        database.execute(statement)
        assert document(database, id_) == expected, statement
        assert database.value(DISAGREE) == 0, statement
    # What has no place in the document is refused, and so is a row that no document has.
    with pytest.raises(psycopg.errors.DataError):
        database.execute("UPDATE details SET city = 'z' WHERE doc_id = 4")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.execute("INSERT INTO details (doc_id) VALUES (99999)")
    # An unrelated field of the old version's touches no row.
    version = "SELECT xmin FROM details WHERE doc_id = 1"
    before = database.value(version)
    database.execute("UPDATE docs SET doc = doc || '{\"unrelated\": 1}' WHERE id = 1")
    assert database.value(version) == before
    database.execute("DELETE FROM docs WHERE id = 2000")
    assert database.value(DISAGREE) == 0
    database.execute("TRUNCATE details")
    assert document(database, 1) == {"address": {"zip": "1"}, "other": other, "unrelated": 1}
    database.execute("TRUNCATE docs CASCADE")
    assert database.value(DISAGREE) == 0
    assert database.execute("SELECT count(*) FROM zdm.sync_failures") == [(0,)]


@on_all_versions
def test_what_is_no_such_value_or_has_no_old_form_is_recorded(database: Database) -> None:
    """A field that is no number does not stop the old version; a column without a place in the document stands alone, by policy."""
    mapping, rollout = mirrored(database, without_old_form="record")

    def stage() -> psycopg.Connection[Any]:
        return connect(database.dsn, application_name="stage")

    database.execute('UPDATE docs SET doc = \'{"size": "many"}\' WHERE id = 1')
    database.execute('UPDATE docs SET doc = \'{"name": "longer than ten"}\' WHERE id = 2')
    failures = database.execute("SELECT key ->> 'id', sqlstate FROM zdm.sync_failures ORDER BY 1")
    assert failures == [("1", "22P02"), ("2", "22001")]
    database.execute('UPDATE docs SET doc = \'{"size": "3"}\' WHERE id = 1')
    database.execute("UPDATE details SET name = 'short', size = 1 WHERE doc_id = 2")
    assert document(database, 2)["name"] == "short"
    assert database.execute("SELECT count(*) FROM zdm.sync_failures") == [(0,)]
    database.execute("UPDATE details SET city = 'z' WHERE doc_id = 4")
    assert database.execute("SELECT key, sqlstate FROM zdm.rows_without_old_form") == [
        ({"doc_id": 4}, "22023")
    ]
    assert document(database, 4) == {"address": "somewhere"}
    # What it would be there raises, and is not asked.
    found = verify_rows(stage, mapping, rollout)
    assert (found.clean, found.without_old_form) == (True, 1)
    assert repair_rows(stage, mapping, rollout, Authority.NEW, guard=lambda _: None) == 0
    database.execute('UPDATE docs SET doc = \'{"name": "o"}\' WHERE id = 4')
    assert database.execute("SELECT count(*) FROM zdm.rows_without_old_form") == [(0,)]
    assert database.value(DISAGREE) == 0


@pytest.mark.parametrize(
    ("type_", "remove"), [("jsonb", "nothing"), ("jsonb", "keys"), ("jsonb", "column"), ("json", "column")]
)
def test_no_document_changes_by_itself_and_each_side_writes_its_own(
    database: Database, type_: str, remove: str
) -> None:
    """Missing keys, nulls, numbers as text, scalars and arrays: exact without being declared lossy, through all phases."""
    filled(database, type_)
    query = "SELECT id, doc::text FROM docs ORDER BY id"
    before = database.execute(query)
    engine, migration = Engine(database.dsn), migration_of(remove=remove)
    engine.init()
    assert {(found.lost, found.failed) for found in engine.plan(migration).roundtrips} == {(0, 0)}
    engine.advance(migration, until=Phase.MIGRATION)
    assert database.execute(query) == before
    assert database.execute("SELECT name, size, city FROM public_split.details ORDER BY doc_id LIMIT 3") == [
        ("a", 7, "x"),
        (None, 7, None),
        (None, 75, None),
    ]
    database.execute("UPDATE public_split.details SET size = 8, city = NULL WHERE doc_id = 1")
    written = {"name": "a", "size": 8, "address": {"zip": "1"}, "other": [1, {"b": None}]}
    assert document(database, 1) == written
    if remove == "keys":
        shown = json.loads(database.value("SELECT doc::text FROM public_split.docs WHERE id = 1"))
        assert shown == {"address": {"zip": "1"}, "other": [1, {"b": None}]}
        database.execute("UPDATE public_split.docs SET doc = '{\"mine\": 1}' WHERE id IN (1, 3)")
        written = {"name": "a", "size": 8, "mine": 1}
        assert (document(database, 1), document(database, 3)) == (written, {"size": 75, "mine": 1})
    engine.advance(migration, until=Phase.SWITCHOVER)
    database.execute('UPDATE docs SET doc = \'{"name": "old", "mine": 2}\' WHERE id = 3')
    database.execute("UPDATE public_split.details SET name = 'last' WHERE doc_id = 1")
    assert database.execute("SELECT name, size FROM details WHERE doc_id = 3") == [("old", None)]
    assert engine.verify("split").clean
    engine.advance(migration, until=Phase.CLEANUP)
    assert database.execute("SELECT name, size, city FROM details WHERE doc_id = 1") == [("last", 8, None)]
    columns = "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attnum > 0 AND NOT attisdropped"
    assert database.value(columns) == ("id" if remove == "column" else "id,doc")
    if remove == "keys":
        assert document(database, 1) == {"mine": 1}


@on_all_versions
def test_a_rollback_has_what_the_new_version_wrote(database: Database) -> None:
    """The document that the new version does not have is NOT NULL, and yet its rows have one."""
    filled(database)
    database.execute("UPDATE docs SET doc = '{}' WHERE doc IS NULL; ALTER TABLE docs ALTER doc SET NOT NULL")
    engine, migration = Engine(database.dsn), migration_of(remove="column")
    engine.init()
    engine.advance(migration, until=Phase.SWITCHOVER)
    database.execute("UPDATE public_split.details SET name = 'mine' WHERE doc_id = 2")
    database.execute("INSERT INTO public_split.docs DEFAULT VALUES")
    database.execute("UPDATE public_split.details SET size = 4 WHERE doc_id = 9")
    assert engine.rollback("split").leftovers == ()
    assert document(database, 2) == {"name": "mine", "size": "7", "address": {}}
    assert document(database, 9) == {"size": 4}
    assert database.value("SELECT to_regclass('details')") is None


@pytest.mark.parametrize("scenario", ExtractJson.scenarios[3:5], ids=["immediate", "logged"])
def test_both_ways_while_the_fence_is_up(database: Database, scenario: Scenario) -> None:
    """The document goes by another name then, in the expression that reads it as well as in what writes it."""
    rollout = Rollout(database, scenario)
    rollout.advance_to(State.SWITCHED_OVER)
    engine = rollout.engine()
    engine.fence(rollout.migration.id)
    rollout.execute_new("UPDATE preferences SET theme = 'fenced' WHERE user_id = 1")
    rollout.execute_new("DELETE FROM preferences WHERE user_id = 2")
    rollout.execute_new("UPDATE users SET data = '{\"fenced\": 1}' WHERE id = 1")
    assert engine.verify(rollout.migration.id).clean
    engine.fence(rollout.migration.id, lift=True)
    assert database.execute("SELECT data FROM users WHERE id IN (1, 2) ORDER BY id") == [
        ({"theme": "fenced", "fenced": 1},),
        ({"other": 2},),
    ]
    rollout.agree()


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_extracted_is_refused_all_at_once(database: Database) -> None:
    filled(database)
    engine = Engine(database.dsn)
    engine.init()

    def problems(migration: Migration) -> str:
        with pytest.raises(BadInput) as error:
            engine.plan(migration)
        return str([problem.what for problem in error.value.problems])

    database.execute("ALTER TABLE docs ADD COLUMN loose int")
    wrong = [*FIELDS, {"path": "doc_id", "type": "int"}, {"path": ["name", "first"], "type": "text"}]
    found = problems(migration_of(key={"doc_id": "loose"}, fields=wrong))
    for what in ("a part of another one", "no unique key", "would have two columns called doc_id"):
        assert what in found
    lossy = [{"path": "size", "type": "text", "up": "upper(doc ->> 'nothing')"}]
    assert "differs from x" in problems(migration_of(fields=lossy))
    # The document may not be another operation's at the same time, whichever comes first.
    more = {"extract_json": {"table": "docs", "column": "doc", "fields": [{"path": "more", "type": "int"}]}}
    (mine,) = migration_of().operations
    for both in ([{"extract_json": mine.model_dump()}, more], [more, {"extract_json": mine.model_dump()}]):
        assert "is written by" in problems(Migration.model_validate({"id": "two", "operations": both}))
    apart: tuple[dict[str, Any], ...] = ({"to": None}, {"key": {}})
    for beside in apart:
        with pytest.raises(ValueError, match="`to`"):
            migration_of(**beside)
