"""Many rows, and what they say together in another table, synced by log: hot keys without a lock on their row, and nothing that is missed."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.integration.rows.test_collapse import Orders, happened
from tests.integration.rows.test_collapse_table import LEVELS, Totals, paid
from tests.support.interleave import Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.backfill.options import Options
from zdm.db.session import connect
from zdm.engine.reconcile import Reconciler, reconciling
from zdm.model.mapping import Authority
from zdm.sql.rows import Kind
from zdm.verify.elements import verify_elements
from zdm.verify.repair_rows import repair_rows

RECONCILE = "SELECT zdm.rows_1_1_reconcile('{{{key}}}', NULL)"


class Log:
    """What both kinds have in common."""

    database: Database
    rollout: int
    mapping: Any

    def session(self) -> Any:
        return connect(self.database.dsn, application_name="zdm")

    def reconcile(self) -> None:
        """Afterwards nothing waits."""
        with self.session() as conn:
            Reconciler(conn, self.mapping, self.rollout).drain()
        assert self.database.execute("SELECT * FROM zdm.row_changes WHERE NOT failed") == []

    def repair(self) -> None:
        repair_rows(self.session, self.mapping, self.rollout, Authority.NEW, guard=lambda _: None)


@dataclass
class LoggedOrders(Log, Orders):
    sync: str = "logged"

    def agree(self) -> None:
        self.reconcile()
        assert (self.bad(), self.found()) == (0, {})


@dataclass
class LoggedTotals(Log, Totals):
    sync: str = "logged"

    def agree(self) -> None:
        self.reconcile()
        assert (self.bad(), self.found()) == (0, {})


@on_all_versions
def test_columns_of_a_row_that_is_there(database: Database) -> None:
    orders = LoggedOrders(database)
    database.execute(happened(3, "early", 500))
    orders.fill()
    orders.agree()
    for statement, order, expected in (
        ("INSERT INTO orders (id) VALUES (100)", 100, (None, 0)),
        (happened(100, "a", 1) + "; " + happened(100, "b", 2), 100, ("b", 2)),
        ("UPDATE events SET at = 9 WHERE order_id = 100 AND status = 'a'", 100, ("a", 2)),
        ("INSERT INTO orders (id) VALUES (101); UPDATE events SET order_id = 101 WHERE status = 'a'", 101, ("a", 1)),
        ("UPDATE orders SET id = 102 WHERE id = 101", 102, ("a", 1)),
        ("UPDATE events SET order_id = NULL WHERE order_id = 102", 102, (None, 0)),
        ("DELETE FROM events WHERE order_id = 100", 100, (None, 0)),
        ("SET session_replication_role = replica; " + happened(100, "four", 4), 100, ("four", 1)),
        ("DELETE FROM orders WHERE id = 7", 100, ("four", 1)),
        # What it holds already may be said again, and what a row without any would.
        ("UPDATE orders SET last = 'four', note = 'x' WHERE id = 100", 100, ("four", 1)),
        ("INSERT INTO orders (id, total) VALUES (104, 0)", 104, (None, 0)),
    ):  # fmt: skip
        database.execute(statement)
        orders.agree()
        assert orders.of(order) == expected, statement
    for statement in (
        "UPDATE orders SET last = 'mine' WHERE id = 100",
        "INSERT INTO orders (id, last) VALUES (105, 'mine')",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match=r"follows from public\.events"):
            database.execute(statement)
    # What cannot be said together is recorded, and nobody's write fails; a column that somebody broke is found, what waits is not.
    database.execute("UPDATE events SET amount = 99999 WHERE order_id = 4; " + happened(5, "waits", 900))
    database.execute("SET zdm.row = '1:row:(9)'; UPDATE orders SET last = 'broken' WHERE id = 9")
    # What waits is looked at again once it is carried over.
    found = verify_elements(orders.session, orders.mapping, orders.rollout, carry_over=orders.reconcile)
    assert found.counts == {Kind.DIFFERENT: 1}
    assert orders.found() == {Kind.DIFFERENT: 1, Kind.FAILED: 1}
    orders.repair()
    database.execute("UPDATE events SET amount = 1 WHERE order_id = 4")
    orders.agree()
    database.execute("TRUNCATE events; " + happened(8, "since", 1))
    orders.agree()
    assert (orders.of(8), orders.of(9)) == (("since", 1), (None, 0))


@on_all_versions
def test_a_row_for_each_key(database: Database) -> None:
    totals = LoggedTotals(database)
    database.execute(paid(3, "early", 500) + "; DELETE FROM payments WHERE order_id = 2")
    totals.fill()
    totals.agree()
    for statement, key, expected in (
        (paid(100, "a") + "; " + paid(100, "b", 2), 100, [("b", 2)]),
        ("UPDATE totals SET note = 'own' WHERE id = 100; " + paid(100, "c", 3), 100, [("c", 3)]),
        ("UPDATE payments SET order_id = 101 WHERE order_id = 100 AND status = 'a'", 101, [("a", 1)]),
        ("DELETE FROM payments WHERE order_id = 101", 101, []),
        ("UPDATE payments SET order_id = NULL WHERE order_id = 5", 5, []),
        ("BEGIN; " + paid(103, "x") + "; INSERT INTO totals (id, note) VALUES (103, 'first'); COMMIT", 103, [("x", 1)]),
        ("DELETE FROM payments WHERE order_id = 6; " + paid(6, "again"), 6, [("again", 1)]),
    ):  # fmt: skip
        database.execute(statement)
        totals.agree()
        assert totals.of(key) == expected, statement
    assert database.execute("SELECT id, note FROM totals WHERE note IS NOT NULL ORDER BY id") == [
        (100, "own"),
        (103, "first"),
    ]
    for statement in (
        "UPDATE totals SET last = 'mine' WHERE id = 103",
        "INSERT INTO totals (id) VALUES (104)",
        "UPDATE totals SET id = 104 WHERE id = 103",
        "DELETE FROM totals WHERE id = 103",
        "TRUNCATE totals",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match=r"follows from public\.payments"):
            database.execute(statement)
    # Both go, or get another key, by a third table.
    database.execute(
        "CREATE TABLE orders AS SELECT id FROM totals; ALTER TABLE orders ADD PRIMARY KEY (id);"
        " ALTER TABLE totals ADD FOREIGN KEY (id) REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE;"
        " ALTER TABLE payments ADD FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE"
    )
    database.execute("DELETE FROM orders WHERE id = 6; UPDATE orders SET id = 1000 WHERE id = 103")
    totals.agree()
    assert (totals.of(6), totals.of(1000)) == ([], [("x", 1)])
    assert database.value("SELECT note FROM totals WHERE id = 1000") == "first"
    database.execute(
        "UPDATE payments SET amount = 9999 WHERE order_id = 4; INSERT INTO payments (order_id, amount) VALUES (7, 9999)"
    )
    totals.reconcile()
    assert totals.found() == {Kind.FAILED: 2}
    database.execute("DELETE FROM payments WHERE amount = 9999")
    totals.agree()
    database.execute(
        "SET zdm.row = '1:row:(8)'; DELETE FROM totals WHERE id = 8; INSERT INTO orders VALUES (8), (300) ON CONFLICT DO NOTHING;"
        " SET zdm.row = '1:row:(300)'; INSERT INTO totals (id) VALUES (300)"
    )
    database.execute("UPDATE payments SET at = 99 WHERE order_id = 9")
    assert totals.found() == {Kind.MISSING: 1, Kind.EXTRA: 1}
    totals.repair()
    totals.agree()
    database.execute("TRUNCATE payments; INSERT INTO payments (order_id, status, at) VALUES (9, 'since', 1)")
    totals.agree()
    assert database.execute("SELECT id FROM totals") == [(9,)]


def test_writers_of_one_key_wait_for_nobody(database: Database) -> None:
    """Neither for each other nor for who makes the row first; a snapshot from before the backfill is no matter."""
    totals = LoggedTotals(database)
    with Scene(database.dsn) as scene:
        sessions: list[Any] = []
        for level in (*LEVELS, *LEVELS[:2]):
            session = scene.session(f"{len(sessions)}")
            session.run(f"BEGIN ISOLATION LEVEL {level}; SELECT 1 FROM payments")
            sessions.append(session)
        totals.fill()
        for number, session in enumerate(sessions):
            session.run(paid(500, f"n{number}", number))
            session.run(f"DELETE FROM payments WHERE order_id = {number + 3}")
        for session in sessions:
            session.run("COMMIT")
    totals.agree()
    assert totals.of(500) == [("n4", 5)]
    assert database.value("SELECT count(*) FROM totals WHERE id BETWEEN 3 AND 7") == 0


@pytest.mark.parametrize("naive", [False, True])
def test_a_row_that_comes_while_its_key_is_gathered(database: Database, naive: bool) -> None:
    """Nobody waits for it: whoever strikes out what was noted of the key without another look loses it."""
    orders = LoggedOrders(database)
    orders.fill()
    database.execute(happened(3, "first", 900))
    with Scene(database.dsn) as scene:
        worker, new = scene.session("worker"), scene.session("new")
        worker.run("BEGIN")
        worker.run("SELECT zdm.rows_1_1_settle_new(3, 'naive')" if naive else RECONCILE.format(key=3))
        new.run(happened(3, "second", 901))
        worker.run("DELETE FROM zdm.row_changes WHERE key = '{3}'" if naive else "SELECT 1")
        worker.run("COMMIT")
    orders.reconcile()
    assert orders.bad() == int(naive)


def test_a_key_that_is_written_without_pause(database: Database) -> None:
    """Something always waits of it, which is no mismatch; what somebody broke of another one is."""
    totals = LoggedTotals(database)
    totals.fill()
    database.execute("SET zdm.row = '1:row:(9)'; UPDATE totals SET last = 'broken' WHERE id = 9")

    def writes(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        connection.execute(f"UPDATE public.payments SET amount = {rng.randrange(9)} WHERE id = 1".encode())

    with Writers(database.dsn) as writers:
        writers.add("one", writes, isolation="READ COMMITTED")
        writers.wait_for(20)
        assert totals.found() == {Kind.DIFFERENT: 1}
    writers.report.assert_only()
    totals.repair()
    totals.agree()


@contextmanager
def naively(orders: LoggedOrders) -> Iterator[None]:
    """As one would without knowing better: gather the keys that are noted, and strike out what was noted of them."""
    stop = threading.Event()

    def work() -> None:
        with psycopg.connect(orders.database.dsn, autocommit=True) as conn:
            while not stop.is_set():
                keys = [key for (key,) in conn.execute("SELECT DISTINCT key FROM zdm.row_changes LIMIT 200")]
                for key in keys:
                    conn.execute("SELECT zdm.rows_1_1_settle_new(%s, 'naive')", [int(key[0])])
                conn.execute(
                    "DELETE FROM zdm.row_changes WHERE key[1] = ANY (%s)", [[key[0] for key in keys]]
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
    """Writers at all isolation levels on a few keys, while the backfill goes through them and two reconcile: nobody meets an error."""
    orders = LoggedOrders(database, rows=600)

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        order = rng.randrange(1, 600) if number % 3 else rng.randrange(1, 12)
        connection.execute("SELECT 1 FROM public.events LIMIT 1")
        connection.execute(
            (
                f"INSERT INTO public.events (order_id, status, at) SELECT id, 'n{number}', {number} FROM public.orders WHERE id = {order}",
                f"INSERT INTO public.events (order_id, status, at) VALUES ({order}, 'n{number}', {number})",
                f"DELETE FROM public.events WHERE order_id = {order} AND id = (SELECT max(id) FROM public.events WHERE order_id = {order})",
            )[rng.randrange(3)].encode()
        )

    with ExitStack() as stack:
        if naive:
            stack.enter_context(naively(orders))
        for _ in range(0 if naive else 2):
            stack.enter_context(
                reconciling(
                    orders.session, (orders.mapping,), orders.rollout, lock_budget=Options().lock_budget
                )
            )
        with Writers(database.dsn) as writers:
            for level in LEVELS:
                writers.add(f"a {level}", old, isolation=level)
                writers.add(f"b {level}", old, isolation=level)
            writers.wait_for(1)
            orders.fill()
            writers.wait_for(10)
    for error in writers.report.errors:
        # Two that delete the same row, as without zdm.
        assert error.sqlstate == "40001", error
        assert "READ COMMITTED" not in error.writer
    orders.reconcile()
    if naive:
        assert orders.bad() > 0
    else:
        orders.agree()
