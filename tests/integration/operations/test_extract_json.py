"""extract_json: what a document says and what its columns say, in both directions, for documents that are not uniform."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.engine.rollout import Engine
from zdm.errors import BadInput
from zdm.model.step import Phase
from zdm.operations.migration import Migration

DOCUMENTS: tuple[Any, ...] = (
    {"name": "a", "size": 7, "address": {"city": "x", "zip": "1"}, "other": [1, {"b": None}]},
    {"name": None, "size": "7", "address": {}},
    {"size": 75, "address": None},
    {"address": "somewhere"},
    {"address": ["a", "b"]},
    {},
    [1, 2],
    "text",
    5,
    None,
)
FIELDS: list[dict[str, Any]] = [
    {"path": "name", "type": "varchar(10)"},
    {"path": "size", "type": "int"},
    {"path": ["address", "city"], "type": "text"},
    {"path": ["address", "zip"], "to": "postcode", "type": "text"},
]
GATES = {"replication_lag": False, "soak": "0s", "old_version_unused": False}


def prepared(database: Database, type_: str = "jsonb", **options: Any) -> tuple[Engine, Migration]:
    """One row for each document (the last two are a JSON null and no document), and what extracts its fields."""
    database.execute(f"CREATE TABLE docs (id serial PRIMARY KEY, doc {type_})")
    with psycopg.connect(database.dsn) as connection:
        for document in DOCUMENTS:
            connection.execute("INSERT INTO docs (doc) VALUES (%s)", [json.dumps(document)])
        connection.execute("INSERT INTO docs (doc) VALUES (NULL)")
    engine = Engine(database.dsn)
    engine.init()
    operation = {"table": "docs", "column": "doc", "fields": FIELDS, **options}
    return engine, Migration.model_validate(
        {"id": "plain", "operations": [{"extract_json": operation}], "gates": GATES}
    )


def documents(database: Database, table: str = "docs") -> list[tuple[Any, ...]]:
    return database.execute(f"SELECT id, doc::text FROM {table} ORDER BY id")


@on_all_versions
@pytest.mark.parametrize("remove", ["nothing", "keys", "column"])
def test_no_document_changes_by_itself_and_each_side_writes_its_own(database: Database, remove: str) -> None:
    """Missing keys, nulls, numbers as text, scalars and arrays: the mapping is exact without being declared lossy."""
    engine, migration = prepared(database, remove=remove)
    before = documents(database)
    (measured,) = engine.plan(migration).roundtrips
    assert (measured.rows, measured.lost, measured.failed) == (len(before), 0, 0)
    engine.advance(migration, until=Phase.MIGRATION)
    assert documents(database) == before
    found = database.execute("SELECT name, size, city, postcode FROM public_plain.docs ORDER BY id LIMIT 3")
    assert found == [("a", 7, "x", "1"), (None, 7, None, None), (None, 75, None, None)]
    if remove == "keys":
        shown = documents(database, "public_plain.docs")
        assert shown[0] == (1, '{"other": [1, {"b": null}], "address": {}}')
        assert shown[1:] == [(2, '{"name": null, "address": {}}'), (3, '{"address": null}'), *before[3:]]

    # The old application's other keys stay, whatever the new one writes, and the other way round.
    database.execute("UPDATE docs SET doc = doc || '{\"seen\": true}' WHERE id = 1")
    database.execute("UPDATE public_plain.docs SET name = 'n', city = NULL WHERE id = 1")
    database.execute("UPDATE public_plain.docs SET postcode = '9' WHERE id IN (3, 6, 11)")
    if remove != "column":
        database.execute(
            "UPDATE public_plain.docs SET doc = doc || '{\"new\": 1}', size = 8 WHERE id IN (1, 2)"
        )
    got = {row: json.loads(text) for row, text in documents(database) if row in {1, 2, 3, 6, 11}}
    added = {} if remove == "column" else {"new": 1}
    size = 7 if remove == "column" else 8
    assert got[1] == {
        "name": "n",
        "size": size,
        "address": {"zip": "1"},
        "other": [1, {"b": None}],
        "seen": True,
        **added,
    }
    assert got[2] == {"name": None, "size": "7" if remove == "column" else 8, "address": {}, **added}
    assert got[3] == {"size": 75, "address": {"zip": "9"}}
    assert got[6] == got[11] == {"address": {"zip": "9"}}
    # What has no place in the document is refused, not lost.
    for row in (4, 5, 7, 8):
        with pytest.raises(psycopg.errors.DataError):
            database.execute(f"UPDATE public_plain.docs SET city = 'z' WHERE id = {row}")
    database.execute('UPDATE docs SET doc = \'{"size": 3, "name": "o"}\' WHERE id = 5')
    assert database.execute("SELECT name, size, city FROM public_plain.docs WHERE id = 5") == [("o", 3, None)]
    assert engine.verify("plain").clean

    engine.advance(migration, until=Phase.SWITCHOVER)
    engine.advance(migration, until=Phase.CLEANUP)
    columns = "SELECT string_agg(attname, ',' ORDER BY attname) FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attnum > 0 AND NOT attisdropped"
    left = "city,id,name,postcode,size" if remove == "column" else "city,doc,id,name,postcode,size"
    assert database.execute(columns) == [(left,)]
    if remove != "column":
        kept = json.loads(database.execute("SELECT doc::text FROM docs WHERE id = 1")[0][0])
        assert ("name" in kept, kept["new"]) == (remove == "nothing", 1)


@on_all_versions
def test_a_rollback_has_what_the_new_version_wrote(database: Database) -> None:
    engine, migration = prepared(database, "json", remove="column")
    engine.advance(migration, until=Phase.SWITCHOVER)
    (untouched,) = database.execute("SELECT doc::text FROM docs WHERE id = 2")
    database.execute("UPDATE public_plain.docs SET name = 'mine' WHERE id = 1")
    database.execute("INSERT INTO public_plain.docs (size) VALUES (4)")
    assert engine.rollback("plain").leftovers == ()
    assert database.execute("SELECT doc ->> 'name', doc -> 'other' -> 0 #>> '{}' FROM docs WHERE id = 1") == [
        ("mine", "1")
    ]
    # A json document that nobody wrote keeps every blank.
    assert database.execute("SELECT doc::text FROM docs WHERE id = 2") == [untouched]
    assert documents(database)[-1][1] == '{"size": 4}'


@on_all_versions
def test_a_field_that_is_no_such_value_is_recorded_and_refuses_no_write(database: Database) -> None:
    """Also what is too long for the column: it is neither cut nor does it stop the old application."""
    engine, migration = prepared(database)
    engine.advance(migration, until=Phase.MIGRATION)
    database.execute('UPDATE docs SET doc = \'{"size": "many"}\' WHERE id = 1')
    database.execute('UPDATE docs SET doc = \'{"name": "longer than ten"}\' WHERE id = 2')
    failures = database.execute("SELECT key ->> 'id', sqlstate FROM zdm.sync_failures ORDER BY 1")
    assert failures == [("1", "22P02"), ("2", "22001")]
    refused = engine.advance(migration).verdicts
    assert "sync_failures" in {v.gate for v in refused if not v.lets_through}
    # Either application corrects it.
    database.execute('UPDATE docs SET doc = \'{"size": "3"}\' WHERE id = 1')
    database.execute(
        "UPDATE public_plain.docs SET name = 'short', size = 1, city = 'c', postcode = 'p' WHERE id = 2"
    )
    assert database.execute("SELECT count(*) FROM zdm.sync_failures") == [(0,)]
    assert database.execute("SELECT doc ->> 'name' FROM docs WHERE id = 2") == [("short",)]
    assert engine.verify("plain").clean


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"column": "id"}, "not a JSON document"),
        (
            {"fields": [{"path": "a", "type": "int"}, {"path": ["b", "a"], "type": "int"}]},
            "named more than once",
        ),
        (
            {"fields": [{"path": "a", "type": "int"}, {"path": ["a", "b"], "type": "int"}]},
            "a part of another one",
        ),
        ({"fields": [{"path": "id", "type": "int"}]}, "already has a column id"),
        ({"fields": [{"path": "size", "type": "text", "up": "upper(doc ->> 'nothing')"}]}, "differs from x"),
    ],
)
def test_what_cannot_be_extracted_is_refused(database: Database, change: dict[str, Any], what: str) -> None:
    engine, migration = prepared(database, **change)
    with pytest.raises(BadInput) as error:
        engine.plan(migration)
    assert what in str([problem.what for problem in error.value.problems])


def test_two_operations_do_not_write_one_document(database: Database) -> None:
    engine, migration = prepared(database)
    (first,) = migration.operations
    other = {"table": "docs", "column": "doc", "fields": [{"path": "more", "type": "int"}]}
    both = Migration.model_validate(
        {"id": "plain", "operations": [{"extract_json": first.model_dump()}, {"extract_json": other}]}
    )
    with pytest.raises(BadInput) as error:
        engine.plan(both)
    assert "is written by an earlier operation" in str([problem.what for problem in error.value.problems])
