"""Writers of all isolation levels chase the backfill's edge while a log is reconciled; a naive reconciler loses some rows."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from tests.integration.rows.stage import Rows
from tests.integration.rows.test_logged_merge import Merged
from tests.integration.rows.test_logged_shadow import NEW, Events
from tests.integration.rows.test_stress import LEVELS, ROWS, Edge
from tests.support.servers import Database
from tests.support.writers import Writers
from zdm.backfill.options import Hooks, Options
from zdm.backfill.run import backfill
from zdm.db.session import connect
from zdm.engine.reconcile import Reconciler, reconciling

Work = Callable[[psycopg.Connection[Any], random.Random, int], None]


def old_writer(edge: Edge, slot: int) -> Work:
    def work(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        """A snapshot first, so that what is committed meanwhile is not in it; then writes at the edge."""
        connection.execute("SELECT 1 FROM public.accounts LIMIT 1")
        for _ in range(3):
            account = edge.near(rng) // 6 * 6 + slot
            kind = rng.randrange(5)
            if kind == 0:
                connection.execute("DELETE FROM public.accounts WHERE id = %s", [account])
            elif kind == 1:
                connection.execute(
                    "INSERT INTO public.accounts VALUES (%s, 'again', 1, 2) ON CONFLICT (id) DO UPDATE SET statuses = 5",
                    [account],
                )
            elif kind == 2:
                connection.execute(
                    "UPDATE public.accounts SET id = -nextval('public.moved') WHERE id = %s", [account]
                )
            else:
                connection.execute(
                    "UPDATE public.accounts SET statuses = statuses + 1 WHERE id = %s", [account]
                )

    return work


def new_writer(edge: Edge, slot: int) -> Work:
    def work(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        account = max(0, edge.near(rng) - 1000) // 6 * 6 + slot
        if number % 5:
            connection.execute(
                "UPDATE public.account_stats SET followers = followers + 1 WHERE account_id = %s", [account]
            )
        else:
            connection.execute("DELETE FROM public.account_stats WHERE account_id = %s", [account])

    return work


@contextmanager
def naively(rows: Rows) -> Iterator[None]:
    """As one would without knowing better: look what the rows hold, make the others so, and strike out what was noted of them."""
    stop = threading.Event()

    def work() -> None:
        with psycopg.connect(rows.database.dsn) as conn:
            while not stop.is_set():
                keys = [
                    key
                    for (key,) in conn.execute(
                        "SELECT DISTINCT key[1]::bigint FROM zdm.row_changes WHERE side = 'old' LIMIT 200"
                    )
                ]
                found = {
                    row[0]: row
                    for row in conn.execute(
                        "SELECT id, statuses, followers FROM public.accounts WHERE id = ANY (%s)", [keys]
                    )
                }
                for key in keys:
                    conn.execute("SELECT set_config('zdm.row', %s, true)", [f"1:new:({key})"])
                    if key in found:
                        conn.execute(
                            "INSERT INTO public.account_stats (account_id, statuses, followers) VALUES (%s, %s, %s)"
                            " ON CONFLICT (account_id) DO UPDATE SET statuses = excluded.statuses",
                            found[key],
                        )
                    else:
                        conn.execute("DELETE FROM public.account_stats WHERE account_id = %s", [key])
                conn.execute("DELETE FROM zdm.row_changes WHERE key[1]::bigint = ANY (%s)", [keys])
                conn.commit()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("naive", [False, True])
def test_chasing_the_edge(database: Database, naive: bool) -> None:
    """No application meets an error: each writes rows of its own, but for two at READ COMMITTED, one of either version, who share theirs."""
    rows = Rows(database, rows=ROWS, sync="logged")
    edge = Edge()

    def session() -> Any:
        return connect(database.dsn, application_name="zdm")

    with ExitStack() as stack:
        if naive:
            stack.enter_context(naively(rows))
        else:
            for _ in range(2):
                stack.enter_context(
                    reconciling(session, (rows.mapping,), rows.rollout, lock_budget=Options().lock_budget)
                )
        with Writers(database.dsn) as writers:
            for number, level in enumerate(LEVELS):
                writers.add(f"old {level}", old_writer(edge, number), isolation=level)
                slot = number + 3 if number else 0
                made = old_writer(edge, number + 3) if naive else new_writer(edge, slot)
                writers.add(f"new {level}", made, isolation=level)
            writers.wait_for(1)
            assert backfill(
                session,
                rows.rollout,
                rows.mapping,
                Options(workers=2, first_rows=100, most_rows=200),
                Hooks(progress=edge.progress),
            ).complete
            writers.wait_for(5)
        # Where all write one table, those at SERIALIZABLE meet each other, whoever reconciles.
        writers.report.assert_only(*(["40001"] if naive else []))
    with session() as conn:
        Reconciler(conn, rows.mapping, rows.rollout).drain()
    assert database.execute("SELECT count(*) FROM zdm.row_changes") == [(0,)]
    assert database.execute("SELECT count(*) FROM zdm.sync_failures") == [(0,)]
    zombies, missing, stale = rows.bad()
    if naive:
        assert zombies + missing + stale > 0
    else:
        assert (zombies, missing, stale) == (0, 0, 0)


def hits_old(edge: Edge, slot: int) -> Work:
    def work(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        # An application thinks; what must keep up with it shares the processors.
        time.sleep(rng.uniform(0, 0.02))
        connection.execute("SELECT 1 FROM public.events LIMIT 1")
        for _ in range(3):
            event = edge.near(rng) // 6 * 6 + slot
            kind = rng.randrange(6 if slot else 4)
            if kind == 0:
                connection.execute("DELETE FROM public.events WHERE id = %s", [event])
            elif kind == 1:
                connection.execute(
                    "INSERT INTO public.events (id, kind) VALUES (%s, 'again') ON CONFLICT (id) DO UPDATE SET kind = 'met'",
                    [event],
                )
            elif kind == 2:
                connection.execute(
                    "UPDATE public.events SET id = -nextval('public.moved') WHERE id = %s", [event]
                )
            elif kind == 3:
                connection.execute("UPDATE public.events SET kind = kind || 'o' WHERE id = %s", [event])
            else:
                connection.execute(
                    "UPDATE public.events SET at = timestamptz '2024-01-01' + %s * interval '1 day' WHERE id = %s",
                    [rng.randrange(90), event],
                )

    return work


def hits_new(edge: Edge, slot: int) -> Work:
    def work(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        time.sleep(rng.uniform(0, 0.01))
        event = max(0, edge.near(rng) - rng.choice([0, 1000])) // 6 * 6 + slot
        if number % 5 == 0:
            connection.execute(f"DELETE FROM {NEW} WHERE id = %s", [event])
        elif number % 5 < 3:
            connection.execute(f"UPDATE {NEW} SET kind = kind || 'n' WHERE id = %s", [event])
        else:
            connection.execute(
                f"UPDATE {NEW} SET at = timestamptz '2024-01-01' + %s * interval '1 day' WHERE id = %s",
                [rng.randrange(90), event],
            )

    return work


def test_chasing_the_edge_from_partition_to_partition(database: Database) -> None:
    """The same where the other table has its rows in partitions, and no index that would tell two of one old key apart.

    Where both versions write one row, the old one does not move it: the server refuses whoever waits for a row that goes to another
    partition.
    """
    events = Events(database, rows=ROWS // 5, filled=False)
    edge = Edge(ROWS // 5)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(
                reconciling(
                    events.session, (events.mapping,), events.rollout, lock_budget=Options().lock_budget
                )
            )
        with Writers(database.dsn) as writers:
            for number, level in enumerate(LEVELS):
                writers.add(f"old {level}", hits_old(edge, number), isolation=level)
                writers.add(f"new {level}", hits_new(edge, number + 3 if number else 0), isolation=level)
            writers.wait_for(1)
            assert backfill(
                events.session,
                events.rollout,
                events.mapping,
                Options(workers=2, first_rows=100, most_rows=200),
                Hooks(progress=edge.progress),
            ).complete
            writers.wait_for(5)
        writers.report.assert_only()
    events.reconcile()
    assert database.execute("SELECT count(*) FROM zdm.row_changes") == [(0,)]
    assert database.execute("SELECT count(*) FROM zdm.sync_failures") == [(0,)]
    assert events.bad() == (0, 0, 0)
    assert database.value(f"SELECT count(*) FROM {NEW}") == database.value("SELECT count(*) FROM events")


def stats_old(edge: Edge, slot: int) -> Work:
    def work(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        time.sleep(rng.uniform(0, 0.02))
        connection.execute("SELECT 1 FROM public.stats LIMIT 1")
        for _ in range(3):
            account = edge.near(rng) // 6 * 6 + slot
            kind = rng.randrange(4)
            if kind == 0:
                connection.execute("DELETE FROM public.stats WHERE account_id = %s", [account])
            elif kind == 1:
                connection.execute(
                    "INSERT INTO public.stats SELECT id, 1, 'again' FROM public.accounts WHERE id = %s"
                    " ON CONFLICT (account_id) DO UPDATE SET statuses = 5",
                    [account],
                )
            else:
                connection.execute(
                    "UPDATE public.stats SET statuses = statuses + 1 WHERE account_id = %s", [account]
                )

    return work


def stats_new(edge: Edge, slot: int) -> Work:
    def work(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        time.sleep(rng.uniform(0, 0.01))
        account = max(0, edge.near(rng) - rng.choice([0, 1000])) // 6 * 6 + slot
        if number % 6 == 0:
            connection.execute("DELETE FROM public.accounts WHERE id = %s", [account])
        elif number % 6 == 1:
            connection.execute(
                "UPDATE public.accounts SET statuses = 0, note = NULL WHERE id = %s", [account]
            )
        else:
            connection.execute(
                "UPDATE public.accounts SET note = coalesce(note, '') || 'n' WHERE id = %s", [account]
            )

    return work


def test_chasing_the_edge_of_columns_that_are_filled(database: Database) -> None:
    """What is not filled yet is refused by name, and nothing of it is lost; nobody else meets an error at READ COMMITTED."""
    merged = Merged(database, rows=ROWS // 5, filled=False)
    edge = Edge(ROWS // 5)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(
                reconciling(
                    merged.session, (merged.mapping,), merged.rollout, lock_budget=Options().lock_budget
                )
            )
        with Writers(database.dsn) as writers:
            for number, level in enumerate(LEVELS):
                writers.add(f"old {level}", stats_old(edge, number), isolation=level)
                writers.add(f"new {level}", stats_new(edge, number + 3 if number else 0), isolation=level)
            writers.wait_for(1)
            assert backfill(
                merged.session,
                merged.rollout,
                merged.mapping,
                Options(workers=2, first_rows=100, most_rows=200),
                Hooks(progress=edge.progress),
            ).complete
            writers.wait_for(5)
        allowed = {"READ COMMITTED": {"55000"}}
        for error in writers.report.errors:
            isolation = error.writer.split(" ", 1)[1]
            assert error.sqlstate in allowed.get(isolation, {"55000", "40001"}), error
    merged.reconcile()
    assert database.execute("SELECT count(*) FROM zdm.row_changes") == [(0,)]
    assert database.execute("SELECT count(*) FROM zdm.sync_failures") == [(0,)]
    assert merged.bad() == (0, 0, 0)
