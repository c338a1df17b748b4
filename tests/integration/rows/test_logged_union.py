"""Rows of several tables in one, synced by log: each mapping notes its own, and a row that changes hands goes here and comes there."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from tests.conformance.harness import Rollout
from tests.integration.rows.reference_stage import LEVELS
from tests.integration.rows.test_without_old_form_union import SETUP
from tests.integration.rows.united import BAD, migration
from tests.support.interleave import Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.backfill.options import Options
from zdm.backfill.run import backfill
from zdm.db.session import connect
from zdm.engine.reconcile import Tally, drain, reconciling
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario


class Customers:
    """Customers of two regions that become one table, prepared, and filled if that is asked."""

    def __init__(self, database: Database, *, rows: int = 9, filled: bool = True) -> None:
        self.database = database
        operations: tuple[dict[str, object], ...] = tuple(
            {"merge_tables": one.model_dump(mode="json", exclude_defaults=True, by_alias=True)}
            for one in migration().operations
        )
        setup = SETUP.replace("(1, 9)", f"(1, {rows})")
        self.rollout = Rollout(database, Scenario(setup=setup, operations=operations, sync=SyncMode.LOGGED))
        self.rollout.advance_to(State.PREPARED)
        self.mappings = self.rollout.engine().plan("try_it").row_mappings
        if filled:
            self.fill()

    def connect(self) -> Any:
        return connect(self.database.dsn, application_name="stage")

    def fill(self, **options: Any) -> None:
        for mapping in self.mappings:
            assert backfill(self.connect, 1, mapping, Options(**options)).complete

    def reconcile(self) -> Tally:
        """Afterwards nothing waits but what failed."""
        with self.connect() as conn:
            tally = drain(conn, self.mappings, 1, lock_budget=Options().lock_budget)
        assert self.database.execute("SELECT * FROM zdm.row_changes WHERE NOT failed") == []
        return tally

    def bad(self) -> int:
        return int(self.database.value(BAD))

    def held(self, region: str, number: int) -> list[Any]:
        """What the new table and the old one have of it."""
        new = self.database.execute(
            "SELECT name FROM customers WHERE region = %s AND id = %s", region, number
        )
        old = self.database.execute(f"SELECT name FROM customers_{region} WHERE id = {number}")
        return [rows[0][0] if rows else None for rows in (new, old)]


@on_all_versions
def test_everything_that_can_be_written(database: Database) -> None:
    """Either version, by whatever means, noted in any order; the other region's row of the same number is another one."""
    customers = Customers(database)
    database.execute(
        "UPDATE customers SET note = 'kept'; UPDATE customers_eu SET name = 'x' WHERE id = 1; DELETE FROM customers_us WHERE id = 1;"
        " INSERT INTO customers_eu VALUES (20, 'new'); UPDATE customers_us SET id = 102 WHERE id = 2;"
        " UPDATE customers SET name = 'y' WHERE (region, id) = ('eu', 2); DELETE FROM customers WHERE (region, id) = ('us', 3);"
        " INSERT INTO customers (region, id, name) VALUES ('us', 21, 'made'); UPDATE customers SET id = 104 WHERE (region, id) = ('eu', 4);"
        # From hand to hand: by the new version, to a number that is free and to one that was; and by the old one.
        " UPDATE customers SET region = 'us', id = 105 WHERE (region, id) = ('eu', 5);"
        " DELETE FROM customers_us WHERE id = 6; INSERT INTO customers_us SELECT 6, name FROM customers_eu WHERE id = 6; DELETE FROM customers_eu WHERE id = 6;"
        # There and back, and written on the way.
        " UPDATE customers SET region = 'us', id = 107 WHERE (region, id) = ('eu', 7); UPDATE customers SET name = 'z' WHERE id = 107;"
        " UPDATE customers SET region = 'eu', id = 7 WHERE id = 107;"
        " SET session_replication_role = replica; UPDATE customers_us SET name = 'silent' WHERE id = 8; SET session_replication_role = origin"
    )
    assert customers.bad() > 0
    customers.reconcile()
    assert customers.bad() == 0
    expected = {
        ("eu", 1): "x", ("us", 1): None, ("eu", 20): "new", ("us", 102): "u2", ("eu", 2): "y", ("us", 3): None, ("us", 21): "made",
        ("eu", 104): "e4", ("us", 105): "e5", ("us", 6): "e6", ("eu", 6): None, ("eu", 7): "z", ("us", 8): "silent",
    }  # fmt: skip
    assert {key: customers.held(*key) for key in expected} == {
        key: [name] * 2 for key, name in expected.items()
    }
    assert database.value("SELECT count(*) FROM customers WHERE id IN (102, 104) AND note = 'kept'") == 2
    assert database.execute("SELECT * FROM zdm.row_conflicts") == []
    for table, number in (("customers_eu", 1), ("customers", 61)):
        database.execute(f"TRUNCATE {table}; INSERT INTO customers_eu VALUES ({number}, 'since')")
        customers.reconcile()
        assert customers.bad() == 0
        assert database.execute("SELECT id, name FROM customers WHERE region = 'eu'") == [(number, "since")]
    assert database.value("SELECT count(*) FROM customers_us") == 0
    customers.rollout.advance_to(State.MIGRATED)


@on_all_versions
@pytest.mark.parametrize("level", LEVELS)
def test_a_row_that_both_versions_give_to_somebody(database: Database, level: str) -> None:
    """Nobody waits for the other version, and nothing raises; the later word counts, and what lost is kept."""
    customers = Customers(database)
    begin = f"BEGIN ISOLATION LEVEL {level}; SET LOCAL enable_seqscan = off; SELECT 1;"
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        a.run(
            f"{begin} UPDATE customers_eu SET name = 'old' WHERE id = 1; DELETE FROM customers_eu WHERE id = 2"
        )
        b.run(f"{begin} UPDATE customers SET region = 'us', id = 101 WHERE (region, id) = ('eu', 1)")
        b.run("UPDATE customers SET name = 'new' WHERE (region, id) = ('eu', 2)")
        a.run("COMMIT")
        b.run("COMMIT")
    customers.reconcile()
    assert customers.bad() == 0
    # A deletion wins over an update, as it would on one table; to give a row away is one.
    assert (customers.held("eu", 1), customers.held("us", 101)) == ([None] * 2, ["e1"] * 2)
    assert customers.held("eu", 2) == [None] * 2
    lost = database.execute("SELECT key, won, lost ->> 'name' FROM zdm.row_conflicts ORDER BY key")
    assert lost[-1] == (["2"], "old", "new")


@on_all_versions
def test_a_row_that_is_not_filled_yet(database: Database) -> None:
    """Whoever gives it another one's number meets the row that is there, also by an update; what is no table's is refused as ever."""
    customers = Customers(database, filled=False)
    with pytest.raises(pg.ObjectNotInPrerequisiteState):
        database.execute("INSERT INTO customers (region, id) VALUES ('eu', 1)")
    database.execute("INSERT INTO customers (region, id, name) VALUES ('eu', 50, 'new')")
    with pytest.raises(pg.ObjectNotInPrerequisiteState):
        database.execute("UPDATE customers SET region = 'us', id = 1 WHERE id = 50")
    with pytest.raises(pg.CheckViolation):
        database.execute("UPDATE customers SET region = 'asia' WHERE id = 50")
    customers.fill()
    customers.reconcile()
    assert (customers.bad(), customers.held("eu", 50)) == (0, ["new"] * 2)


def test_everybody_at_once(database: Database) -> None:
    """While the backfill goes through the rows, and two reconcile; each row is written by one of each version, which none of them notices."""
    customers = Customers(database, rows=2000, filled=False)

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        region, one = rng.choice(("eu", "us")), rng.randrange(1, 2000)
        connection.execute(
            (
                f"UPDATE public.customers_{region} SET name = 'o{number}' WHERE id = {one}",
                f"DELETE FROM public.customers_{region} WHERE id = {one}",
                f"INSERT INTO public.customers_{region} VALUES ({one}, 'o{number}') ON CONFLICT (id) DO UPDATE SET vat = 'o'",
            )[rng.randrange(3)].encode()
        )

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        region, one = rng.choice(("eu", "us")), rng.randrange(1, 2000)
        connection.execute(
            (
                f"UPDATE public.customers SET name = 'n{number}' WHERE region = '{region}' AND id = {one}",
                f"DELETE FROM public.customers WHERE region = '{region}' AND id = {one}",
                (
                    f"UPDATE public.customers SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END WHERE region = '{region}' AND id = {one}"
                    f" AND NOT EXISTS (SELECT FROM public.customers WHERE region <> '{region}' AND id = {one})"
                ),
            )[rng.randrange(3)].encode()
        )

    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(
                reconciling(customers.connect, customers.mappings, 1, lock_budget=Options().lock_budget)
            )
        writers = stack.enter_context(Writers(database.dsn))
        for level in LEVELS:
            writers.add(f"old {level}", old, isolation=level)
            writers.add(f"new {level}", new, isolation=level)
        writers.wait_for(1)
        customers.fill()
        writers.wait_for(30)
    for error in writers.report.errors:
        allowed = {"55000", "23505"} if error.writer.startswith("new") else set()
        assert error.sqlstate in allowed | ({"40001"} if "READ COMMITTED" not in error.writer else set()), (
            error
        )
    customers.reconcile()
    assert (customers.bad(), database.execute("SELECT * FROM zdm.sync_failures")) == (0, [])
    customers.rollout.advance_to(State.MIGRATED)
