"""Fields of a document that become columns of another table, synced by log: each field goes by itself, and the document keeps the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.integration.rows.stage import staged
from tests.integration.rows.test_json_table import (
    COLUMN,
    DISAGREE,
    OTHER_FIELD,
    SAME_FIELD,
    both_kept,
    document,
    filled,
    migration_of,
)
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.backfill.run import backfill
from zdm.db.session import connect
from zdm.engine.reconcile import Reconciler, Tally
from zdm.model.row_mapping import RowMapping
from zdm.verify.rows import verify_rows


@dataclass
class Docs:
    """``docs`` and ``details`` with what notes the writes of both, filled."""

    database: Database
    options: dict[str, Any] = field(default_factory=dict)
    mapping: RowMapping = field(init=False)
    rollout: int = field(init=False)

    def __post_init__(self) -> None:
        filled(self.database)
        migration = migration_of("logged", create={"foreign_key": None}, **self.options)
        _, self.mapping, self.rollout = staged(self.database, migration, naive=None)
        assert backfill(self.session, self.rollout, self.mapping).complete

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
        assert verify_rows(self.session, self.mapping, self.rollout).counts.keys() <= {"failed"}

    def row(self, id_: int) -> Any:
        return self.database.execute("SELECT name, size, city FROM details WHERE doc_id = %s", id_)

    def conflicts(self) -> list[tuple[Any, ...]]:
        return self.database.execute("SELECT key, won, lost, kept FROM zdm.row_conflicts ORDER BY id")


def put(id_: int, **fields: str) -> str:
    document = "doc"
    for name, value in fields.items():
        document = f"jsonb_set({document}, '{{{name}}}', '{value}')"
    return f"UPDATE docs SET doc = {document} WHERE id = {id_};"


@on_all_versions
def test_each_field_goes_by_itself(database: Database) -> None:
    docs = Docs(database)
    whole = document(database, 1)
    database.execute(
        # Fields that nobody extracts say nothing of the others, whoever comes last.
        "UPDATE details SET size = 8 WHERE doc_id = 1;"
        + put(1, other='"old"')
        # Different fields by each version; the same field by both, beside others.
        + put(2, name='"o"')
        + "UPDATE details SET size = 9 WHERE doc_id = 2;"
        + put(3, size="5", name='"o"')
        + "UPDATE details SET size = 6, city = 'n' WHERE doc_id = 3;"
        # A document that is no object; a row that is inserted with halves of both; a key that changes.
        + put(4, name='"o"')
        + "INSERT INTO docs (id, doc) VALUES (20, '{\"other\": 1}'); INSERT INTO details (doc_id, name) VALUES (20, 'n');"
        "UPDATE details SET size = 1 WHERE doc_id = 5; UPDATE docs SET id = 30 WHERE id = 5;"
    )
    docs.reconcile()
    assert document(database, 1) == {**whole, "size": 8, "other": "old"}
    assert [docs.row(n) for n in (1, 2, 3, 4)] == [
        [("a", 8, "x")],
        [("o", 9, None)],
        [("o", 6, "n")],
        [("o", None, None)],
    ]
    assert document(database, 3) == {"size": 6, "name": "o", "address": {"city": "n"}}
    assert (document(database, 4), document(database, 20)) == (
        {"name": "o", "address": "somewhere"},
        {"other": 1, "name": "n"},
    )
    assert (document(database, 30), docs.row(30)) == ({"size": 1}, [(None, 1, None)])
    assert docs.conflicts() == [
        (
            ["3"],
            "new",
            {"doc": {"name": "o", "size": 5, "address": None}},
            {"size": 6},
        )
    ]
    # The same field, the old version later; and a field that has no form over there, until it is corrected.
    database.execute("UPDATE details SET name = 'n', city = 'n' WHERE doc_id = 1;" + put(1, name='"o"'))
    docs.reconcile()
    assert (docs.row(1), document(database, 1)["address"]["city"]) == ([("o", 8, "n")], "n")
    assert docs.conflicts()[1][:3] == (["1"], "old", {"name": "n"})
    database.execute(put(2, size='"many"'))
    docs.reconcile()
    assert database.value("SELECT count(*) FROM zdm.sync_failures") == 1
    database.execute(put(2, size="10"))
    docs.reconcile()
    assert (docs.row(2), database.value("SELECT count(*) FROM zdm.sync_failures")) == ([("o", 10, None)], 0)
    assert database.value(DISAGREE) == 0


def test_a_row_that_ends(database: Database) -> None:
    """The document loses its fields, but for what the old version has written since; the rest of it is nobody's."""
    docs = Docs(database, {"rows": "needed"})
    database.execute(
        "DELETE FROM details WHERE doc_id = 1;"
        + put(1, other='"kept"', name='"since"')
        + put(2, name='"before"')
        + "DELETE FROM details WHERE doc_id = 2; DELETE FROM docs WHERE id = 3; UPDATE details SET size = 1 WHERE doc_id = 3;"
    )
    docs.reconcile()
    assert document(database, 1) == {"name": "since", "address": {"zip": "1"}, "other": "kept"}
    assert docs.row(1) == [("since", None, None)]
    assert (document(database, 2), docs.row(2), docs.row(3)) == ({"address": {}}, [], [])
    assert [found[:3] for found in docs.conflicts()] == [
        (["2"], "new", {"doc": {"name": "before", "size": "7", "address": {}}}),
        (["3"], "old", {"name": None, "size": 1, "city": None}),
    ]
    database.execute("TRUNCATE details;" + put(1, size="3"))
    docs.reconcile()
    assert (document(database, 1), docs.row(1)) == (
        {"size": 3, "address": {"zip": "1"}, "other": "kept"},
        [(None, 3, None)],
    )
    database.execute("TRUNCATE docs")
    docs.reconcile()
    assert docs.row(1) == []


@on_all_versions
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize(("write", "name"), [(OTHER_FIELD, "other"), (SAME_FIELD, "name")])
def test_one_field_by_each_version_at_once(
    database: Database, isolation: Isolation, write: str, name: str
) -> None:
    """Nobody waits, no snapshot is too old, and nothing is lost; the reconciler leaves alone what is held."""
    docs = Docs(database)
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        old.begin(isolation)
        new.begin(isolation)
        new.run("SELECT 1 FROM docs")
        old.run(write)
        new.run(COLUMN)
        new.run("COMMIT")
        assert docs.once().busy == 1
        old.run("COMMIT")
    docs.reconcile()
    both_kept(database, name)
    assert docs.conflicts() == []


def test_a_document_that_is_made_before_its_row_is_locked(database: Database) -> None:
    """What one would do without knowing better: it writes the document back as it was."""
    docs = Docs(database)
    with Scene(database.dsn) as scene:
        old, worker = scene.session("old"), scene.session("worker")
        database.execute(COLUMN)
        worker.run("BEGIN")
        ((made,),) = worker.run("SELECT jsonb_set(doc, '{size}', '8')::text FROM docs WHERE id = 1")
        old.run(OTHER_FIELD)
        worker.run("SET LOCAL \"zdm.row\" = '1:old:(1)'")
        worker.run(f"UPDATE docs SET doc = '{made}' WHERE id = 1")
        worker.run("DELETE FROM zdm.row_changes WHERE side = 'new'; COMMIT")
    docs.reconcile()
    assert document(database, 1)["other"] == [1, {"b": None}]
