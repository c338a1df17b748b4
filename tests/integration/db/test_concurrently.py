"""Index builds outside a transaction: repeatable, cleaned up, and telling whom they wait for."""

from __future__ import annotations

import threading

import psycopg
import pytest

from tests.integration.db.support import lock
from tests.support import Database, Scene, eventually, on_all_versions
from zdm.db.locks import WaitReport, run_concurrently
from zdm.db.session import Session
from zdm.model.step import Lock

pytestmark = on_all_versions

CREATE = "CREATE UNIQUE INDEX CONCURRENTLY i ON public.t (a)"
DONE = "SELECT EXISTS (SELECT FROM pg_catalog.pg_index WHERE indexrelid = pg_catalog.to_regclass('public.i') AND indisvalid)"
CLEAN = ["DROP INDEX CONCURRENTLY IF EXISTS public.i"]
LOCKS = [lock("t", Lock.SHARE_UPDATE_EXCLUSIVE)]


@pytest.fixture(autouse=True)
def table(database: Database) -> None:
    database.execute("CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 100)")


def test_once(conn: Session) -> None:
    assert run_concurrently(conn, CREATE, DONE, CLEAN, LOCKS)
    assert not run_concurrently(conn, CREATE, DONE, CLEAN, LOCKS)


def test_failure_leaves_no_invalid_index_and_the_repeat_works(database: Database, conn: Session) -> None:
    database.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        run_concurrently(conn, CREATE, DONE, CLEAN, LOCKS)
    assert database.value("SELECT to_regclass('public.i')") is None
    database.execute("DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t WHERE a = 1)")
    assert run_concurrently(conn, CREATE, DONE, CLEAN, LOCKS)


def test_invalid_leftover_is_replaced(database: Database, conn: Session) -> None:
    database.execute("INSERT INTO t VALUES (1)")
    with (
        psycopg.connect(database.dsn, autocommit=True) as other,
        pytest.raises(psycopg.errors.UniqueViolation),
    ):
        other.execute(CREATE)
    assert database.value("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = 'public.i'::regclass")
    database.execute("DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t WHERE a = 1)")
    assert run_concurrently(conn, CREATE, DONE, CLEAN, LOCKS)


def test_older_snapshots_are_named(database: Database, conn: Session, scene: Scene) -> None:
    old = scene.session("old")
    old.begin("REPEATABLE READ")
    old.run("SELECT count(*) FROM t")
    told = threading.Event()
    reports: list[WaitReport] = []

    def on_wait(report: WaitReport) -> None:
        reports.append(report)
        told.set()

    worker = threading.Thread(target=run_concurrently, args=(conn, CREATE, DONE, CLEAN, LOCKS, on_wait))
    worker.start()
    assert told.wait(20)
    old.run("COMMIT")
    worker.join(20)
    assert not worker.is_alive()
    assert reports[0].reason == "older snapshots"
    assert [blocker.pid for blocker in reports[0].blockers] == [old.pid]
    assert database.value(DONE)


def test_a_build_that_still_runs_is_waited_for(database: Database, conn: Session, scene: Scene) -> None:
    old, builder = scene.session("old"), scene.session("builder")
    old.begin("REPEATABLE READ")
    old.run("SELECT count(*) FROM t")
    building = builder.start(CREATE)
    eventually(
        lambda: database.value(
            "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"
        )
    )
    told = threading.Event()
    answers: list[bool] = []
    worker = threading.Thread(
        target=lambda: answers.append(
            run_concurrently(conn, CREATE, DONE, CLEAN, LOCKS, lambda _: told.set())
        )
    )
    worker.start()
    assert told.wait(20)
    old.run("COMMIT")
    building.result()
    worker.join(20)
    assert answers == [False]
    assert database.value(DONE)


def test_cancelled(database: Database, conn: Session, scene: Scene) -> None:
    old = scene.session("old")
    old.begin("REPEATABLE READ")
    old.run("SELECT count(*) FROM t")
    failed: list[str | None] = []

    def work() -> None:
        try:
            run_concurrently(conn, CREATE, DONE, CLEAN, LOCKS)
        except psycopg.errors.QueryCanceled as error:
            failed.append(error.sqlstate)

    worker = threading.Thread(target=work)
    worker.start()
    eventually(
        lambda: database.value(
            "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"
        )
    )
    database.execute("SELECT pg_cancel_backend(%s)", conn.info.backend_pid)
    eventually(lambda: database.value("SELECT count(*) = 0 FROM pg_stat_progress_create_index"))
    old.run("COMMIT")
    worker.join(20)
    assert failed == ["57014"]
    assert database.value("SELECT to_regclass('public.i')") is None
