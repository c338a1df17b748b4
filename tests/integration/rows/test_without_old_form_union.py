"""Rows of a table that has those of several old ones: in its own old table a row has no form, or in none of them, and is recorded by policy."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import errors as pg

from tests.conformance.harness import Rollout
from tests.integration.rows.reference_stage import LEVELS
from tests.integration.rows.test_without_old_form_merge import one_after_the_other
from tests.integration.rows.united import migration
from tests.support.servers import Database
from tests.support.versions import on_all_versions, on_all_versions_at_length
from zdm.db.session import connect
from zdm.engine.compile import compile_plan
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario

SETUP = """
CREATE TABLE customers_eu (id int PRIMARY KEY, name text CHECK (name <> 'none'), vat text NOT NULL DEFAULT '');
CREATE TABLE customers_us (id int PRIMARY KEY, name text, vat text NOT NULL DEFAULT '');
INSERT INTO customers_eu SELECT g, 'e' || g FROM generate_series(1, 9) g;
INSERT INTO customers_us SELECT g, 'u' || g FROM generate_series(1, 9) g;
"""
RECORDED = "SELECT key ->> 'region', (key ->> 'id')::int, new_row ->> 'name', old_row ->> 'name', sqlstate FROM zdm.rows_without_old_form ORDER BY 1, 2"
WRONG = """
SELECT count(*) FROM (SELECT 'eu' AS region, id, name, vat FROM customers_eu UNION ALL SELECT 'us', id, name, vat FROM customers_us) o
FULL JOIN customers n ON (n.region, n.id) = (o.region, o.id) WHERE (o.id IS NULL OR n.id IS NULL OR (n.name, n.vat) IS DISTINCT FROM (o.name, o.vat))
AND NOT EXISTS (SELECT FROM zdm.rows_without_old_form WHERE key = jsonb_build_object('region', n.region, 'id', n.id) AND o.id IS NULL)
"""


def recording(database: Database, state: State = State.MIGRATED, **options: Any) -> Rollout:
    asked = migration(**{"without_old_form": "record", **options}).operations
    operations: tuple[dict[str, object], ...] = tuple(
        {"merge_tables": one.model_dump(mode="json", exclude_defaults=True, by_alias=True)} for one in asked
    )
    rollout = Rollout(database, Scenario(setup=SETUP, operations=operations))
    rollout.advance_to(state)
    return rollout


@on_all_versions
@pytest.mark.parametrize("level", LEVELS)
def test_in_its_own_table_or_in_none(database: Database, level: str) -> None:
    """A row changes hands by what tells it apart: it is recorded where it is, and nowhere else; and ends with it, or with a form."""
    rollout = recording(database)

    def run(statement: str) -> None:
        database.execute(f"BEGIN ISOLATION LEVEL {level}; {statement}; COMMIT")

    run("UPDATE customers SET name = 'none' WHERE (region, id) = ('eu', 1)")
    run(
        "INSERT INTO customers (region, id, name) VALUES ('asia', 1, 'a1'), ('asia', 2, 'a2'), ('eu', 30, 'none')"
    )
    assert database.execute(RECORDED) == [
        ("asia", 1, "a1", None, "23514"),
        ("asia", 2, "a2", None, "23514"),
        ("eu", 1, "none", "e1", "23514"),
        ("eu", 30, "none", None, "23514"),
    ]
    assert database.execute("SELECT FROM customers_eu WHERE id IN (1, 30)") == []
    verified = rollout.engine().verify("try_it")
    assert (verified.clean, sum(table.without_old_form for table in verified.tables)) == (True, 4)
    # Elsewhere it has a form, or still none; under another key the record goes along.
    run("UPDATE customers SET region = 'us', id = 31 WHERE (region, id) = ('eu', 30)")
    run("UPDATE customers SET region = 'us' WHERE (region, id) = ('asia', 1) AND false")
    run("UPDATE customers SET region = 'africa', name = 'more' WHERE (region, id) = ('asia', 1)")
    run("UPDATE customers SET region = 'eu', id = 40 WHERE (region, id) = ('asia', 2)")
    run("UPDATE customers SET region = 'oceania' WHERE (region, id) = ('us', 5)")
    run("UPDATE customers SET id = 41 WHERE (region, id) = ('eu', 1)")
    assert database.execute(RECORDED) == [
        ("africa", 1, "more", None, "23514"),
        ("eu", 41, "none", "e1", "23514"),
        ("oceania", 5, "u5", None, "23514"),
    ]
    assert database.execute("SELECT name FROM customers_us WHERE id = 31") == [("none",)]
    assert database.execute("SELECT name FROM customers_eu WHERE id = 40") == [("a2",)]
    run(
        "UPDATE customers SET name = 'some' WHERE (region, id) = ('eu', 41); DELETE FROM customers WHERE region = 'oceania'"
    )
    assert database.execute(RECORDED) == [("africa", 1, "more", None, "23514")]
    # The old version's word.
    run("UPDATE customers SET name = 'none' WHERE (region, id) = ('eu', 2)")
    run("INSERT INTO customers_eu VALUES (2, 'mine')")
    ((lost,),) = database.execute("SELECT lost FROM zdm.row_conflicts WHERE won = 'old'")
    assert (lost["region"], lost["name"]) == ("eu", "none")
    run(
        "UPDATE customers SET name = 'none' WHERE (region, id) = ('eu', 3); DELETE FROM customers_eu WHERE id = 4"
    )
    if level == "READ COMMITTED":
        run("TRUNCATE customers_eu")
    assert database.execute("SELECT region, id FROM customers WHERE name = 'none' AND region = 'eu'") == [
        ("eu", 3)
    ]
    assert database.execute(WRONG) == [(0,)]
    assert rollout.engine().verify("try_it").clean
    if level == "READ COMMITTED":
        run("TRUNCATE customers")
        assert database.execute(RECORDED) == []


@on_all_versions_at_length
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("first", ["old", "new"])
def test_both_versions_make_one_row(database: Database, level: str, first: str) -> None:
    """The old one has its word in either order, and what it writes over is kept."""
    rollout = recording(database)
    old = "INSERT INTO customers_eu VALUES (50, 'mine')"
    new = "INSERT INTO customers (region, id, name) VALUES ('eu', 50, 'none')"
    late: tuple[type[pg.Error], ...] = () if level == "READ COMMITTED" else (pg.SerializationFailure,)
    if first == "old":
        # It is there already, as it would be without zdm.
        one_after_the_other(
            database, level, old, new, met=(pg.UniqueViolation, pg.SerializationFailure), again=False
        )
    else:
        one_after_the_other(database, level, new, old, met=late)
    assert database.execute(WRONG) == [(0,)]
    assert database.execute(RECORDED) == []
    lost = database.execute("SELECT lost ->> 'name' FROM zdm.row_conflicts")
    assert lost == ([] if first == "old" else [("none",)])
    assert rollout.engine().verify("try_it").clean


def test_a_rollback_keeps_them_all(database: Database) -> None:
    rollout = recording(database, State.SWITCHED_OVER)
    database.execute(
        "INSERT INTO customers (region, id, name, note) VALUES ('asia', 1, 'a1', 'n'); UPDATE customers SET name = 'none' WHERE (region, id) = ('eu', 1)"
    )
    result = rollout.engine().rollback("try_it")
    assert [
        (row.key, row.new_row["note"], row.old_row and row.old_row["name"]) for row in result.without_old_form
    ] == [
        ({"region": "asia", "id": 1}, "n", None),
        ({"region": "eu", "id": 1}, None, "e1"),
    ]
    rollout.nothing_left()


def test_where_the_key_does_not_say_whose_a_row_is_nothing_is_recorded(database: Database) -> None:
    """Nor is it synced by log."""
    database.execute(
        SETUP.replace("INSERT INTO customers_us SELECT g", "INSERT INTO customers_us SELECT 100 + g")
    )
    more = [
        {
            "table": f"customers_{region}",
            "values": {"region": f"'{region}'", "kind": "'firm'"},
            "columns": ["name", "vat"],
        }
        for region in ("eu", "us")
    ]
    record: dict[str, Any] = {"without_old_form": "record"}
    for asked in (migration("contested", **record), migration("apart", tables=more, **record)):
        with connect(database.dsn, application_name="stage") as conn, pytest.raises(BadInput) as caught:
            compile_plan(conn, asked, "public")
        assert ["in the key of customers" in problem.what for problem in caught.value.problems] == [True]
    for asked in (migration("contested"), migration("apart", tables=more)):
        with connect(database.dsn, application_name="stage") as conn, pytest.raises(BadInput) as caught:
            compile_plan(conn, asked.model_copy(update={"sync": SyncMode.LOGGED}), "public")
        assert {problem.rule for problem in caught.value.problems} == {"logged-sync"}
