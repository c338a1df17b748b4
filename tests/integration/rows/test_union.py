"""Rows of several tables in one: whose a row is, where it goes, and what is no table's."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.rows.united import KEYS, United
from tests.support.interleave import Isolation
from tests.support.servers import Database
from zdm.sql.rows import Kind

LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


@pytest.mark.parametrize("isolation", LEVELS)
@pytest.mark.parametrize("keys", KEYS)
def test_rows_follow_each_other(database: Database, keys: str, isolation: Isolation) -> None:
    united = United(database, keys)
    united.fill()
    database.execute("UPDATE customers SET note = 'kept'")

    def run(statement: str) -> None:
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
        assert united.bad() == 0, statement

    us = 101 if keys == "contested" else 1
    run("INSERT INTO customers_eu (name) VALUES ('old')")
    run("UPDATE customers_eu SET name = 'changed' WHERE id = 1")
    assert database.value("SELECT note FROM customers WHERE name = 'changed'") == "kept"
    run("UPDATE customers_eu SET id = 77 WHERE id = 1")
    assert database.value("SELECT note FROM customers WHERE id = 77") == "kept"
    run("DELETE FROM customers_eu WHERE id = 2")
    run("INSERT INTO customers (region, name, vat) VALUES ('us', 'new', 'n'), ('eu', 'new', 'n')")
    assert (
        database.execute(
            "SELECT name FROM customers_us WHERE id > 150 UNION ALL SELECT name FROM customers_eu WHERE name = 'new'"
        )
        != []
    )
    run("UPDATE customers SET name = 'by new' WHERE region = 'us'")
    # To the other table, both ways, alone and with another key.
    run("UPDATE customers SET region = 'us' WHERE region = 'eu' AND id = 77")
    assert database.execute("SELECT name FROM customers_us WHERE id = 77") == [("changed",)]
    assert database.execute("SELECT name FROM customers_eu WHERE id = 77") == []
    run(f"UPDATE customers SET region = 'eu', id = 78 WHERE region = 'us' AND id = {us}")
    assert database.execute("SELECT name FROM customers_eu WHERE id = 78") == [("by new",)]
    run("UPDATE customers SET id = 79 WHERE id = 78")
    run("DELETE FROM customers WHERE id = 79")
    if keys == "contested":
        run("UPDATE customers SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END")
    with pytest.raises(psycopg.errors.CheckViolation, match="none of region = 'eu'; region = 'us'"):
        run("INSERT INTO customers (region, name, vat) VALUES ('asia', 'x', '')")
    with pytest.raises(psycopg.errors.CheckViolation, match="has no old form"):
        run("UPDATE customers SET region = 'asia' WHERE region = 'eu'")
    united.agreed()
    if isolation == "READ COMMITTED":
        run("TRUNCATE customers_us")
        assert database.execute("SELECT DISTINCT region FROM customers") == [("eu",)]
    run("TRUNCATE customers")
    assert database.value("SELECT count(*) FROM customers_eu") == 0


@pytest.mark.parametrize("isolation", LEVELS)
def test_a_row_that_goes_from_one_old_table_to_another(database: Database, isolation: Isolation) -> None:
    """As a job that archives does it, in any order; the new row stays the same one, with what only the new version knows."""
    united = United(database, "contested")
    united.fill()
    database.execute(
        "UPDATE customers SET note = 'kept'; CREATE TABLE seen (id bigint REFERENCES customers); INSERT INTO seen VALUES (1), (2), (102)"
    )
    copied = "INSERT INTO customers_us SELECT * FROM customers_eu WHERE id = 1"
    for number, statement in enumerate(
        (
            f"{copied}; DELETE FROM customers_eu WHERE id = 1",
            "WITH gone AS (DELETE FROM customers_eu WHERE id = 2 RETURNING *) INSERT INTO customers_us SELECT * FROM gone",
            "WITH gone AS (DELETE FROM customers_us WHERE id = 102 RETURNING *) INSERT INTO customers_eu SELECT * FROM gone",
        )
    ):
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
        assert united.bad() == 0, statement
        assert united.failures() == [], number
    assert database.execute("SELECT id, region, note FROM customers WHERE id IN (1, 2, 102) ORDER BY id") == [
        (1, "us", "kept"),
        (2, "us", "kept"),
        (102, "eu", "kept"),
    ]
    # In two transactions the second one claims a key that is taken: it is recorded, not merged, until the first one goes.
    database.execute("INSERT INTO customers_us SELECT * FROM customers_eu WHERE id = 3")
    assert united.failures() == [("customers_us", "3", "23505")]
    assert database.value("SELECT region FROM customers WHERE id = 3") == "eu"
    assert united.found() == {Kind.FAILED: 1}
    database.execute("UPDATE customers_us SET name = 'another' WHERE id = 3")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        database.execute("UPDATE customers SET region = 'us' WHERE id = 3")
    database.execute("DELETE FROM customers_eu WHERE id = 3")
    united.agreed()
    assert (united.failures(), database.value("SELECT region FROM customers WHERE id = 3")) == ([], "us")
    # The new version lets it go: the other one's row takes its place.
    database.execute(
        "INSERT INTO customers_eu SELECT * FROM customers_us WHERE id = 3; DELETE FROM customers WHERE id = 3"
    )
    united.agreed()
    assert (united.failures(), database.value("SELECT region FROM customers WHERE id = 3")) == ([], "eu")
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.execute("INSERT INTO customers (id, region, name, vat) VALUES (3, 'us', 'x', '')")


@pytest.mark.parametrize("keys", KEYS)
def test_a_row_that_is_not_filled_yet(database: Database, keys: str) -> None:
    """The new version must not make it, in whichever region; whoever has seen the old structure would not."""
    united = United(database, keys)
    own = "INSERT INTO customers (region, id, name, vat) VALUES ('eu', 1, 'x', '')"
    other = own.replace("eu", "us")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        database.execute(own)
    if keys == "contested":
        with pytest.raises(
            psycopg.errors.ObjectNotInPrerequisiteState, match=r"has a row of it in public\.customers_eu"
        ):
            database.execute(other)
    else:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            database.execute(other)
    database.execute(own.replace("1,", "999,"))
    assert database.execute("SELECT name FROM customers_eu WHERE id = 999") == [("x",)]
    united.fill()
    united.agreed()
