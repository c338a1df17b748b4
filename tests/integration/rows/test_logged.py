"""Rows that are synced by log: what is noted, and the interleavings of applications, backfill and several reconcilers."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.integration.rows.stage import Rows
from tests.integration.rows.test_interleaved import fill
from tests.support.interleave import Scene, eventually
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.db.session import Session, connect
from zdm.engine.reconcile import Reconciler, Tally, reconciling
from zdm.errors import ZdmError
from zdm.sql import row_log, row_sync
from zdm.sql.rows import Kind
from zdm.verify.rows import verify_rows

RECONCILE = "SELECT zdm.rows_1_1_reconcile('{{{key}}}', NULL)"


def logged(database: Database, rows: int = 3, *, filled: bool = True, extra: str = "") -> Rows:
    made = Rows(database, rows=rows, sync="logged", extra=extra)
    if filled:
        fill(made)
    return made


def once(rows: Rows) -> Tally:
    with connect(rows.database.dsn, application_name="reconciler") as conn:
        return Reconciler(conn, rows.mapping, rows.rollout).once()


def reconcile(rows: Rows) -> None:
    """Afterwards nothing waits."""
    with connect(rows.database.dsn, application_name="reconciler") as conn:
        Reconciler(conn, rows.mapping, rows.rollout).drain()
    assert rows.database.execute("SELECT * FROM zdm.row_changes WHERE NOT failed") == []


def counters(rows: Rows, account: int) -> list[tuple[object, ...]]:
    """The counters of one account, which are the same in both tables."""
    old = rows.database.execute("SELECT statuses, followers FROM accounts WHERE id = %s", account)
    new = rows.database.execute(
        "SELECT statuses, followers FROM account_stats WHERE account_id = %s", account
    )
    assert old == new
    return old


@on_all_versions
def test_everything_that_can_be_written(database: Database) -> None:
    """Either side, by whatever means, noted in any order; the row over there keeps what only it knows."""
    rows = logged(database, rows=20)
    database.execute(
        "UPDATE accounts SET statuses = 99 WHERE id = 2; DELETE FROM accounts WHERE id = 3;"
        " UPDATE accounts SET id = 1004 WHERE id = 4; INSERT INTO accounts VALUES (50, 'x', 7, 8);"
        " UPDATE account_stats SET followers = 77 WHERE account_id = 5; DELETE FROM account_stats WHERE account_id = 6;"
        " INSERT INTO accounts (id) VALUES (51); INSERT INTO account_stats (account_id, statuses, followers) VALUES (51, 5, 6);"
        # Different parts of one row by both versions; a key that moves on, with a write before and after, and one over there.
        " UPDATE accounts SET statuses = 11 WHERE id = 7; UPDATE account_stats SET followers = 12 WHERE account_id = 7;"
        " UPDATE accounts SET statuses = 21 WHERE id = 8; UPDATE account_stats SET followers = 22 WHERE account_id = 8;"
        " UPDATE accounts SET id = 1008 WHERE id = 8; UPDATE accounts SET id = 2008 WHERE id = 1008;"
        # Gone and come again, on either side; two that exchange their keys.
        " DELETE FROM accounts WHERE id = 9; INSERT INTO accounts VALUES (9, 'again', 31, 32);"
        " DELETE FROM account_stats WHERE account_id = 10;"
        " INSERT INTO account_stats (account_id, statuses, followers) VALUES (10, 41, 42);"
        " UPDATE accounts SET id = -1 WHERE id = 11; UPDATE accounts SET id = 11 WHERE id = 12; UPDATE accounts SET id = 12 WHERE id = -1;"
        " SET session_replication_role = replica; UPDATE accounts SET statuses = 51 WHERE id = 13;"
        " INSERT INTO accounts VALUES (14, 'x', 61, 62) ON CONFLICT (id) DO UPDATE SET statuses = 61"
    )
    serial = dict(database.execute("SELECT account_id, serial FROM account_stats"))
    reconcile(rows)
    assert rows.bad() == (0, 0, 0)
    assert {key: counters(rows, key) for key in (2, 5, 6, 7, 9, 10, 11, 12, 13, 14, 51, 2008)} == {
        2: [(99, 2)],
        5: [(5, 77)],
        6: [(0, 0)],
        7: [(11, 12)],
        9: [(31, 32)],
        10: [(41, 42)],
        11: [(12, 12)],
        12: [(11, 11)],
        13: [(51, 13)],
        14: [(61, 14)],
        51: [(5, 6)],
        2008: [(21, 22)],
    }
    now = dict(database.execute("SELECT account_id, serial FROM account_stats"))
    assert (now[1004], now[2008]) == (serial[4], serial[8])
    assert database.execute("SELECT * FROM zdm.row_conflicts") == []


@pytest.mark.parametrize("side", ["old", "new"])
def test_truncate(database: Database, side: str) -> None:
    """All rows go but those that came since, and what is not filled yet is not brought back."""
    rows = logged(database, rows=20)
    table, key = ("accounts", "id") if side == "old" else ("account_stats", "account_id")
    database.execute(
        f"UPDATE {table} SET statuses = 5 WHERE {key} = 1; TRUNCATE {table};"
        f" INSERT INTO {table} ({key}, statuses) OVERRIDING SYSTEM VALUE VALUES (2, 7)"
        if side == "old"
        else f"TRUNCATE {table}; INSERT INTO {table} ({key}, statuses, followers) VALUES (2, 7, 0)"
    )
    fill(rows)
    reconcile(rows)
    assert rows.bad() == (0, 0, 0)
    assert counters(rows, 2) == [(7, 0)]
    expected = [(1, 7)] if side == "old" else [(20, 7)]
    assert database.execute("SELECT count(*), sum(statuses)::int FROM accounts") == expected


@on_all_versions
@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_older_than_the_backfill_raises_nothing(database: Database, isolation: str) -> None:
    """The immediate triggers would raise 40001 here, and naive ones leave a zombie: see test_interleaved."""
    rows = logged(database, rows=10, filled=False)
    with Scene(database.dsn) as scene:
        a = scene.session("a")
        a.run(f"BEGIN ISOLATION LEVEL {isolation}")
        a.run("SELECT count(*) FROM accounts")
        fill(rows)
        a.run("DELETE FROM accounts WHERE id = 7")
        a.run("UPDATE accounts SET id = 1008 WHERE id = 8")
        a.run("UPDATE accounts SET statuses = 1 WHERE id = 9")
        a.run("COMMIT")
    assert rows.bad() == (2, 1, 1)
    reconcile(rows)
    assert rows.bad() == (0, 0, 0)


def test_both_versions_write_one_row(database: Database) -> None:
    """Nobody waits, and nobody deadlocks. What both wrote is the later one's, and the other's is on record; the rest goes both ways."""
    rows = logged(database)
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        old.run("BEGIN")
        new.run("BEGIN")
        old.run("UPDATE accounts SET statuses = 10 WHERE id = 2")
        new.run("UPDATE account_stats SET statuses = 20, followers = 30 WHERE account_id = 2")
        old.run("UPDATE accounts SET statuses = 11 WHERE id = 3")
        new.run("COMMIT")
        old.run("COMMIT")
    database.execute("UPDATE account_stats SET statuses = 12 WHERE account_id = 1")
    database.execute("UPDATE accounts SET statuses = 13 WHERE id = 1")
    reconcile(rows)
    assert rows.bad() == (0, 0, 0)
    assert [counters(rows, n) for n in (1, 2, 3)] == [[(13, 1)], [(20, 30)], [(11, 3)]]
    assert database.execute("SELECT key, won, lost, kept FROM zdm.row_conflicts ORDER BY key") == [
        (["1"], "old", {"statuses": 12}, {"statuses": 13}),
        (["2"], "new", {"statuses": 10}, {"statuses": 20}),
    ]


@pytest.mark.parametrize("naive", [False, True])
def test_a_row_written_while_it_is_reconciled(database: Database, naive: bool) -> None:
    """Whoever reads a row without a lock, and then removes what was noted of it, loses what was noted in between."""
    rows = logged(database)
    database.execute("UPDATE accounts SET statuses = 10 WHERE id = 2")
    with Scene(database.dsn) as scene:
        worker, a = scene.session("worker"), scene.session("a")
        worker.run("BEGIN")
        if naive:
            worker.run("SET LOCAL \"zdm.row\" = '1:new:(2)'")
            worker.run(
                "UPDATE account_stats AS s SET statuses = a.statuses FROM accounts AS a WHERE a.id = 2 AND s.account_id = 2"
            )
            a.run("UPDATE accounts SET statuses = 20 WHERE id = 2")
            worker.run("DELETE FROM zdm.row_changes WHERE key = '{2}'")
            worker.run("COMMIT")
            reconcile(rows)
            assert rows.bad() == (0, 0, 1)
            return
        worker.run(RECONCILE.format(key=2))
        waiting = a.start("UPDATE accounts SET statuses = 20 WHERE id = 2")
        waiting.wait_blocked()
        worker.run("COMMIT")
        waiting.result()
    reconcile(rows)
    assert counters(rows, 2) == [(20, 2)]


@on_all_versions
@pytest.mark.parametrize("naive", [False, True])
def test_a_row_inserted_while_it_is_reconciled(database: Database, naive: bool) -> None:
    """What is not there cannot be locked: a row that comes meanwhile is met by the upsert, and written over unless looked for."""
    rows = logged(database)
    database.execute("INSERT INTO accounts (id) VALUES (9)")
    with Scene(database.dsn) as scene:
        worker, new = scene.session("worker"), scene.session("new")
        new.run("BEGIN")
        new.run("INSERT INTO account_stats (account_id, statuses, followers) VALUES (9, 5, 6)")
        worker.run("BEGIN")
        naively = "SELECT zdm.rows_1_1_settle_new(a, false, false) FROM accounts AS a WHERE id = 9"
        waiting = worker.start(naively if naive else RECONCILE.format(key=9))
        waiting.wait_blocked()
        new.run("COMMIT")
        waiting.result()
        worker.run("DELETE FROM zdm.row_changes WHERE side = 'old'" if naive else "SELECT 1")
        worker.run("COMMIT")
    reconcile(rows)
    assert counters(rows, 9) == ([(0, 0)] if naive else [(5, 6)])


@pytest.mark.parametrize("naive", [False, True])
def test_a_row_that_goes_and_comes_while_it_is_reconciled(database: Database, naive: bool) -> None:
    """DELETE … WHERE NOT EXISTS takes away what was inserted again, if nobody looks for it afterwards."""
    rows = logged(database)
    database.execute("DELETE FROM accounts WHERE id = 2")
    with Scene(database.dsn) as scene:
        worker, a = scene.session("worker"), scene.session("a")
        a.run("BEGIN")
        a.run("INSERT INTO accounts VALUES (2, 'again', 7, 8)")
        worker.run("BEGIN")
        if naive:
            worker.run(
                "DELETE FROM account_stats AS s WHERE NOT EXISTS (SELECT FROM accounts AS a WHERE a.id = s.account_id)"
            )
            a.run("COMMIT")
            worker.run("DELETE FROM zdm.row_changes WHERE key = '{2}'")
        else:
            worker.run(RECONCILE.format(key=2))
            a.run("COMMIT")
        worker.run("COMMIT")
    reconcile(rows)
    assert rows.bad() == ((0, 1, 0) if naive else (0, 0, 0))


def test_the_application_goes_first(database: Database) -> None:
    """A row that somebody holds is put off at once, so that who takes the two locks in the other order does not deadlock."""
    rows = logged(database)
    database.execute("UPDATE accounts SET statuses = 10 WHERE id IN (1, 2)")
    with Scene(database.dsn) as scene:
        new = scene.session("new")
        new.run("BEGIN")
        new.run("UPDATE account_stats SET followers = 9 WHERE account_id = 2")
        tally = once(rows)
        assert (tally.done, tally.busy) == (1, 1)
        new.run("UPDATE accounts SET name = 'x' WHERE id = 2")
        new.run("COMMIT")
    reconcile(rows)
    assert [counters(rows, 1), counters(rows, 2)] == [[(10, 1)], [(10, 9)]]


def test_killed_before_it_commits(database: Database) -> None:
    """What is noted is removed in the transaction that carries it over."""
    rows = logged(database)
    database.execute("UPDATE accounts SET statuses = 10 WHERE id = 2")
    with Scene(database.dsn) as scene:
        worker = scene.session("worker")
        worker.run("BEGIN")
        worker.run(RECONCILE.format(key=2))
        database.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'worker'"
        )
        with pytest.raises(psycopg.OperationalError):
            worker.run("COMMIT")
    assert rows.bad() == (0, 0, 1)
    reconcile(rows)
    assert counters(rows, 2) == [(10, 2)]


def test_a_server_that_refuses_for_a_while_is_asked_again(database: Database) -> None:
    """One that recovers from a crash: who reconciles in the background outlives that."""
    rows = logged(database)
    refused = iter([1, 2])

    def again() -> Session:
        if next(refused, None):
            raise ZdmError("cannot connect: the database system is not yet accepting connections")
        return connect(database.dsn, application_name="reconciler")

    database.execute("UPDATE accounts SET statuses = 7 WHERE id = 1")
    with reconciling(again, [rows.mapping], rows.rollout, lock_budget=timedelta(milliseconds=100)):
        eventually(
            lambda: database.execute("SELECT * FROM zdm.row_changes") == [],
            what="the entry to be carried over",
        )
    assert database.execute("SELECT statuses FROM account_stats WHERE account_id = 1") == [(7,)]


def test_several_reconcilers(database: Database) -> None:
    rows = logged(database, rows=300)
    database.execute(
        "UPDATE accounts SET statuses = statuses + 1000; UPDATE account_stats SET followers = followers + 1000;"
        " UPDATE accounts SET id = id + 1000 WHERE id % 3 = 0; DELETE FROM accounts WHERE id % 7 = 0"
    )
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: reconcile(rows), range(3)))
    assert rows.bad() == (0, 0, 0)
    assert database.execute("SELECT bool_and(statuses > 1000 AND followers > 1000) FROM accounts") == [
        (True,)
    ]


def test_what_has_no_form_on_the_other_side(database: Database) -> None:
    """It is recorded, and looked at again when anything of the row is written."""
    rows = logged(database)
    database.execute("INSERT INTO account_stats (account_id, statuses, followers) VALUES (77, 1, 2)")
    reconcile(rows)
    assert database.execute("SELECT key, sqlstate FROM zdm.sync_failures") == [({"account_id": 77}, "23503")]
    assert database.execute("SELECT key, failed FROM zdm.row_changes") == [(["77"], True)]
    database.execute("INSERT INTO accounts (id) VALUES (77)")
    reconcile(rows)
    assert database.execute("SELECT count(*) FROM zdm.sync_failures") == [(0,)]
    assert database.execute("SELECT count(*) FROM zdm.row_changes") == [(0,)]
    assert counters(rows, 77) == [(1, 2)]


def test_what_mends_a_failure_is_noted_while_that_is_recorded(database: Database) -> None:
    """It was not among what failed, and is looked at. If it is taken for a part of it: nobody looks again until somebody writes the row once more."""
    rows = logged(database)
    database.execute("INSERT INTO account_stats (account_id, statuses, followers) VALUES (77, 1, 2)")
    with Scene(database.dsn) as scene:
        holder, reconciler, a = scene.session("holder"), scene.session("reconciler"), scene.session("a")
        holder.run("BEGIN")
        holder.run(
            "INSERT INTO zdm.sync_failures (rollout, table_oid, key, group_name, sqlstate, message)"
            f" VALUES ({rows.rollout}, 'account_stats'::regclass, '{{\"account_id\": 77}}', '{rows.mapping.id}', '', '')"
        )
        # Nobody waits for long; what is noted besides goes on.
        database.execute("UPDATE accounts SET statuses = 7 WHERE id = 1")
        tally = once(rows)
        assert (tally.done, tally.busy, tally.failed) == (1, 1, 0)
        waiting = reconciler.start(RECONCILE.format(key=77))
        waiting.wait_blocked(by=holder)
        a.run("INSERT INTO accounts (id) VALUES (77)")
        holder.run("ROLLBACK")
        assert waiting.result() == [("failed",)]
    reconcile(rows)
    assert database.execute("SELECT count(*) FROM zdm.row_changes") == [(0,)]
    assert counters(rows, 77) == [(1, 2)]


def test_a_row_that_is_not_filled_yet_is_not_written_over(database: Database) -> None:
    """It is only looked at; whoever's snapshot is older than the row meets it when it is reconciled, and loses on record."""
    rows = logged(database, filled=False)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        database.execute("INSERT INTO account_stats (account_id, statuses, followers) VALUES (2, 0, 0)")
    with Scene(database.dsn) as scene:
        new = scene.session("new")
        new.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
        new.run("SELECT count(*) FROM account_stats")
        database.execute("INSERT INTO accounts VALUES (50, 'x', 7, 8)")
        new.run("INSERT INTO account_stats (account_id, statuses, followers) VALUES (50, 0, 8)")
        new.run("COMMIT")
    fill(rows)
    reconcile(rows)
    assert rows.bad() == (0, 0, 0)
    assert counters(rows, 50) == [(0, 8)]
    assert database.execute("SELECT won, lost FROM zdm.row_conflicts") == [("new", {"statuses": 7})]


def test_a_row_that_went_on_the_new_side_is_not_filled_again(database: Database) -> None:
    """The old side does not know it yet when the backfill comes by."""
    rows = logged(database)
    database.execute("DELETE FROM account_stats WHERE account_id = 2")
    fill(rows)
    reconcile(rows)
    assert counters(rows, 2) == [(0, 0)]


@on_all_versions
@pytest.mark.parametrize("naive", [False, True])
def test_the_rest_is_carried_over_before_the_triggers_go(database: Database, naive: bool) -> None:
    """What is written between the last look at the log and the end of the triggers would go with the new structure."""
    rows = logged(database)
    reconcile(rows)
    drop = row_sync.drop_triggers(rows.mapping, "new")
    with Scene(database.dsn) as scene:
        zdm, new = scene.session("zdm"), scene.session("new")
        new.run("BEGIN")
        new.run("UPDATE account_stats SET statuses = 10 WHERE account_id = 2")
        zdm.run("BEGIN")
        locking = zdm.start("LOCK TABLE account_stats IN ACCESS EXCLUSIVE MODE")
        locking.wait_blocked()
        new.run("COMMIT")
        locking.result()
        for statement in drop if naive else (row_log.end(rows.mapping, "new", over=False), *drop):
            zdm.run(statement)
        zdm.run(row_log.forget(rows.mapping, rows.rollout))
        zdm.run("COMMIT")
    assert database.execute("SELECT * FROM zdm.row_changes") == []
    assert rows.bad() == (0, 0, int(naive))


def test_a_row_that_is_written_without_pause(database: Database) -> None:
    """Something always waits of it, which is no mismatch; what somebody broke of another one is."""
    rows = logged(database, rows=9)
    database.execute("SET zdm.row = '1:new:*'; UPDATE account_stats SET followers = 99 WHERE account_id = 7")
    opened = partial(connect, database.dsn, application_name="verify")

    def writes(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        connection.execute("UPDATE public.accounts SET followers = followers + 1 WHERE id = 1")

    with Writers(database.dsn) as writers:
        writers.add("one", writes, isolation="READ COMMITTED")
        writers.wait_for(20)
        found = verify_rows(opened, rows.mapping, rows.rollout)
    writers.report.assert_only()
    assert (found.counts, found.samples) == ({Kind.DIFFERENT: 1}, {Kind.DIFFERENT: ["account_id=7"]})
    reconcile(rows)
    assert rows.bad() == (0, 0, 1)
