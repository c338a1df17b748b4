"""DDL against holders of every kind: nobody else is stalled for longer than the budget, and nothing is left half done."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from tests.integration.db.support import lock
from tests.support import Database, Scene, eventually, on_all_versions
from tests.support.proxy import BreakingWire
from zdm.db.locks import LockBudget, OutcomeUnknown, WaitReport, run_locked, run_scan
from zdm.db.probes.blockers import blockers
from zdm.db.session import Connection, Session, connect, fetch_value
from zdm.errors import Busy
from zdm.model.step import Lock

pytestmark = on_all_versions

#: Two cores shared by many processes: what is measured may be late by this much.
TOLERANCE = 0.25


@pytest.fixture(autouse=True)
def table(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1); CREATE TABLE u (a int)"
    )


@contextmanager
def foreground(dsn: str) -> Iterator[list[float]]:
    """Somebody who reads the table all the time; yields how long each read took."""
    stalls: list[float] = []
    stop, ready = threading.Event(), threading.Event()

    def read() -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            while not stop.is_set():
                begun = time.monotonic()
                conn.execute("SELECT a FROM public.t WHERE id = 1")
                stalls.append(time.monotonic() - begun)
                ready.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert ready.wait(10)
    try:
        yield stalls
    finally:
        stop.set()
        thread.join(30)


def columns(database: Database) -> int:
    count: int = database.value(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    return count


def test_free_table(database: Database, conn: Session) -> None:
    marks: list[str] = []
    run_locked(
        conn,
        ["ALTER TABLE public.t ADD b int", "ALTER TABLE public.t ADD c int"],
        [lock("t")],
        before_commit=lambda c: marks.append(fetch_value(c, "SHOW transaction_isolation")),
    )
    assert marks == ["read committed"]
    assert columns(database) == 4


def test_old_reader_is_waited_for_without_stalling_anybody(
    database: Database, conn: Session, scene: Scene
) -> None:
    reader = scene.session("reader")
    reader.begin()
    reader.run("SELECT * FROM t, (SELECT 'a secret') s")
    old = "SELECT coalesce(max(clock_timestamp() - xact_start) > interval '300 ms', false) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    eventually(lambda: database.value(old))
    reports: list[WaitReport] = []
    enough = threading.Event()

    def told(report: WaitReport) -> None:
        reports.append(report)
        if len(reports) == 2:
            enough.set()

    with foreground(database.dsn) as stalls:
        worker = threading.Thread(
            target=run_locked,
            args=(conn, ["ALTER TABLE public.t ADD b int"], [lock("t")]),
            kwargs={"on_wait": told},
        )
        worker.start()
        assert enough.wait(20)
        reader.run("COMMIT")
        worker.join(20)
        assert not worker.is_alive()
    assert columns(database) == 3
    # Not one attempt was made while the reader was there, so the longest stall is that of the DDL itself.
    assert {(report.reason, report.attempt) for report in reports[:2]} == {("older transaction", 0)}
    (blocker,) = [found for found in reports[0].blockers if found.pid == reader.pid]
    assert (blocker.mode, blocker.granted, blocker.state) == ("AccessShare", True, "idle in transaction")
    assert "secret" not in str(blocker)
    assert max(stalls) < 0.1 + TOLERANCE


def test_young_holders_cost_at_most_the_budget(database: Database, conn: Session, scene: Scene) -> None:
    reader = scene.session("reader")
    reader.begin()
    reader.run("SELECT * FROM t")
    budget = LockBudget(attempts=2, holder_age=timedelta(hours=1))
    reports: list[WaitReport] = []
    with foreground(database.dsn) as stalls, pytest.raises(Busy, match=f"pid {reader.pid}") as caught:
        run_locked(conn, ["ALTER TABLE public.t ADD b int"], [lock("t")], budget, on_wait=reports.append)
    # A foreground transaction that is just ending is seen without its age, and looked at once more.
    reasons = [report.reason for report in reports if report.reason != "older transaction"]
    assert reasons == ["lock timeout"]
    assert "nothing was changed" in str(caught.value)
    assert columns(database) == 2
    assert max(stalls) < 0.1 + TOLERANCE


def test_many_tables_share_one_budget(conn: Session, scene: Scene) -> None:
    holder = scene.session("holder")
    holder.begin()
    holder.run("SELECT * FROM u")
    budget = LockBudget(attempts=1, holder_age=timedelta(hours=1))
    begun = time.monotonic()
    with pytest.raises(Busy):
        run_locked(conn, ["SELECT 1"], [lock("t"), lock("u")], budget)
    assert time.monotonic() - begun < 0.2 + TOLERANCE


def test_prepared_transaction_is_named(database: Database, conn: Session) -> None:
    with psycopg.connect(database.dsn) as other:
        other.execute("INSERT INTO t VALUES (2, 2)")
        try:
            other.execute("PREPARE TRANSACTION 'forgotten'")
        except psycopg.errors.ObjectNotInPrerequisiteState:
            pytest.skip("the server allows no prepared transactions")
    budget = LockBudget(max_wait=timedelta(seconds=0.5), holder_age=timedelta())
    with pytest.raises(Busy, match="prepared transaction 'forgotten'"):
        run_locked(conn, ["ALTER TABLE public.t ADD b int"], [lock("t")], budget)
    database.execute("ROLLBACK PREPARED 'forgotten'")


def test_statements_that_hold_too_long_are_undone(database: Database, conn: Session) -> None:
    reports: list[WaitReport] = []
    with pytest.raises(Busy, match="longer than the 100 ms"):
        run_locked(
            conn,
            ["ALTER TABLE public.t ADD b int", "SELECT pg_catalog.pg_sleep(30)"],
            [lock("t")],
            LockBudget(attempts=2),
            on_wait=reports.append,
        )
    assert [report.reason for report in reports] == ["too long under lock"]
    assert columns(database) == 2


def test_a_slow_mark_keeps_nobody_waiting(database: Database, conn: Session) -> None:
    """The client's part comes before the locks; from the lock to COMMIT nothing waits for the client."""
    held: list[int] = []

    def mark(c: Connection) -> None:
        query = "SELECT count(*) FROM pg_locks WHERE pid = %s AND relation = 't'::regclass"
        held.append(database.value(query, c.info.backend_pid))
        c.execute("CREATE TABLE public.marked ()")
        time.sleep(0.2)

    run_locked(
        conn, ["ALTER TABLE public.t ADD b int"], [lock("t")], LockBudget(attempts=1), before_commit=mark
    )
    assert held == [0]
    assert columns(database) == 3
    assert conn.info.transaction_status == TransactionStatus.IDLE
    with pytest.raises(psycopg.errors.DuplicateColumn):
        run_locked(
            conn,
            ["ALTER TABLE public.t ADD b int"],
            [lock("t")],
            before_commit=lambda c: c.execute("CREATE TABLE public.unmarked ()"),  # type: ignore[arg-type]
        )
    assert database.value("SELECT to_regclass('marked') IS NOT NULL AND to_regclass('unmarked') IS NULL")


def test_waiting_and_holding_share_the_budget(database: Database, conn: Session, scene: Scene) -> None:
    """Whoever comes while we wait in the queue waits for what comes after as well."""
    holder = scene.session("holder")
    holder.begin()
    holder.run("SELECT FROM t")
    budget = LockBudget(timeout=timedelta(seconds=2), holder_age=timedelta(minutes=1), attempts=1)
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        # Longer than what waiting leaves of the budget, shorter than the budget.
        ours = pool.submit(run_locked, conn, ["SELECT pg_catalog.pg_sleep(1.5)"], [lock("t")], budget)
        eventually(lambda: scene.blockers(conn.info.backend_pid) == [holder.pid])
        time.sleep(max(0.0, begun + 1 - time.monotonic()))
        holder.run("COMMIT")
        with pytest.raises(Busy, match="longer than"):
            ours.result()
    assert time.monotonic() - begun < 2 + 3 * TOLERANCE


def test_the_sum_of_statements_is_limited(conn: Session) -> None:
    begun = time.monotonic()
    with pytest.raises(Busy):
        run_locked(conn, ["SELECT pg_catalog.pg_sleep(0.08)"] * 20, [lock("t")], LockBudget(attempts=1))
    assert time.monotonic() - begun < 0.1 + 3 * TOLERANCE


def test_a_failing_statement_is_the_callers(database: Database, conn: Session) -> None:
    with pytest.raises(psycopg.errors.DuplicateColumn):
        run_locked(conn, ["ALTER TABLE public.t ADD b int", "ALTER TABLE public.t ADD b int"], [lock("t")])
    assert columns(database) == 2


@pytest.mark.parametrize("mode", [Lock.SHARE_UPDATE_EXCLUSIVE, Lock.ACCESS_EXCLUSIVE])
def test_connection_lost_at_commit(database: Database, mode: Lock) -> None:
    with (
        BreakingWire(database.dsn, share=1, seed=1) as wire,
        connect(wire.dsn, application_name="zdm test") as conn,
        pytest.raises(OutcomeUnknown),
    ):
        run_locked(conn, ["SELECT 1"], [lock("t", mode)])


def test_killed_midway_leaves_nothing(database: Database, conn: Session) -> None:
    pid = conn.info.backend_pid
    failed: list[BaseException] = []

    def work() -> None:
        try:
            run_locked(
                conn,
                ["ALTER TABLE public.t ADD b int", "SELECT pg_catalog.pg_sleep(30)"],
                [lock("t")],
                LockBudget(hold=timedelta(seconds=60)),
            )
        except OutcomeUnknown as error:
            failed.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    eventually(lambda: database.value(asleep, pid))
    database.execute("SELECT pg_terminate_backend(%s, 5000)", pid)
    worker.join(20)
    assert failed
    assert columns(database) == 2


def test_missing_tables_are_left_to_the_statements(database: Database, conn: Session) -> None:
    database.execute("CREATE VIEW v AS SELECT * FROM t")
    run_locked(conn, ["DROP VIEW public.v", "DROP TABLE IF EXISTS public.gone"], [lock("v"), lock("gone")])


@pytest.mark.parametrize("clash", [False, True], ids=["view first", "table first"])
def test_dropping_a_view_under_writes_through_it(
    database: Database, conn: Session, scene: Scene, *, clash: bool
) -> None:
    """A statement through a view locks the view, then the table. Whoever locks the table first deadlocks with it."""
    database.execute("CREATE VIEW v AS SELECT * FROM t")
    holder, writer = scene.session("holder"), scene.session("writer")
    holder.begin()
    holder.run("UPDATE t SET id = id")
    reports: list[WaitReport] = []
    drop = "DROP VIEW public.v"
    patient = LockBudget(
        timeout=timedelta(seconds=20),
        hold=timedelta(seconds=20),
        holder_age=timedelta(seconds=60),
        attempts=3,
        backoff=timedelta(milliseconds=1),
    )
    worker = threading.Thread(
        target=run_locked,
        args=(conn, [drop] if clash else [], [lock("t")], patient, None, reports.append),
        kwargs={"first": [] if clash else [drop]},
    )
    worker.start()
    ours = conn.info.backend_pid
    eventually(lambda: scene.blockers(ours), what="the drop to wait for the holder")
    write = writer.start("UPDATE v SET id = id")
    write.wait_blocked()
    holder.run("COMMIT")
    outcome = write.error()
    worker.join(20)
    assert not worker.is_alive()
    # Whichever side the server chooses as the victim.
    assert (outcome == "40P01" or "deadlock" in [report.reason for report in reports]) is clash


def test_manual_vacuum_is_waited_for(database: Database, conn: Session, scene: Scene) -> None:
    database.execute("INSERT INTO t SELECT g, g FROM generate_series(2, 50000) g; DELETE FROM t")
    vacuum = scene.session("vacuum")
    vacuum.run("SET vacuum_cost_delay = 100")
    vacuum.run("SET vacuum_cost_limit = 1")
    pending = vacuum.start("VACUUM t")
    eventually(
        lambda: database.value("SELECT count(*) FROM pg_stat_progress_vacuum WHERE heap_blks_scanned > 0")
    )
    with pytest.raises(Busy, match=f"pid {vacuum.pid}"):
        run_locked(conn, ["SELECT 1"], [lock("t")], LockBudget(max_wait=timedelta(seconds=0.5), attempts=1))
    vacuum.cancel()
    assert pending.error() == "57014"


@pytest.mark.slow
def test_autovacuum_gives_way(database: Database, conn: Session) -> None:
    database.execute(
        "INSERT INTO t SELECT g, g FROM generate_series(2, 100000) g; DELETE FROM t WHERE id % 2 = 0"
    )
    database.execute(
        "ALTER TABLE t SET (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,"
        " autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)"
    )
    admin = conn
    admin.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    admin.execute("SELECT pg_catalog.pg_reload_conf()")
    try:
        running = (
            "SELECT count(*) FROM pg_stat_progress_vacuum p JOIN pg_stat_activity a USING (pid)"
            " WHERE a.backend_type = 'autovacuum worker' AND p.relid = 't'::regclass AND p.heap_blks_scanned > 0"
        )
        eventually(lambda: database.value(running), seconds=40, what="an autovacuum of t")
        kinds = {blocker.kind for blocker in blockers(conn, [lock("t")])}
        assert kinds == {"autovacuum"}
        with pytest.raises(Busy):
            run_locked(
                conn,
                ["ALTER TABLE public.t ADD b int"],
                [lock("t")],
                LockBudget(autovacuum="wait", max_wait=timedelta(seconds=0.5)),
            )
        begun = time.monotonic()
        run_locked(conn, ["ALTER TABLE public.t ADD b int"], [lock("t")])
        assert time.monotonic() - begun < 5
    finally:
        admin.execute("ALTER SYSTEM RESET autovacuum_naptime")
        admin.execute("SELECT pg_catalog.pg_reload_conf()")
    assert columns(database) == 3


def test_scan(database: Database, conn: Session) -> None:
    database.execute("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID")
    done = "SELECT convalidated FROM pg_catalog.pg_constraint WHERE conname = 'c'"
    locks = [lock("t", Lock.SHARE_UPDATE_EXCLUSIVE)]
    marks: list[int] = []
    for expected in (True, False):
        ran = run_scan(
            conn,
            "ALTER TABLE public.t VALIDATE CONSTRAINT c",
            done,
            locks,
            before_commit=lambda c: marks.append(c.info.backend_pid),
        )
        assert ran is expected
    assert len(marks) == 2
    assert database.value(done)
