"""Behind a transaction pooler: recognised, every setting still holds, and nothing leaks to the pool's other clients."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.integration.db.support import lock
from tests.support import Database, eventually
from tests.support.pooler import pgbouncer
from zdm.db.locks import run_concurrently, run_locked
from zdm.db.session import PINNED, connect, fetch_value, transaction
from zdm.errors import ZdmError


@pytest.fixture
def pooled(database: Database) -> Iterator[str]:
    """The URL of a pgbouncer in transaction mode, with one server connection for everybody."""
    with pgbouncer(database, size=1) as pool:
        yield pool.url()


def test_pinned_in_transactions_and_nothing_leaks(pooled: str, database: Database) -> None:
    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as application:
        before = application.execute("SHOW search_path").fetchone()
        with connect(pooled, application_name="zdm test") as conn:
            assert conn.pooled
            with transaction(conn):
                for name, value in PINNED.items():
                    assert fetch_value(conn, "SELECT pg_catalog.current_setting(%s)", (name,)) == value
            database.execute("CREATE TABLE t (a int)")
            run_locked(conn, ["ALTER TABLE public.t ADD b int"], [lock("t")])
            done = "SELECT pg_catalog.to_regclass('public.i') IS NOT NULL"
            assert run_concurrently(
                conn, "CREATE INDEX CONCURRENTLY i ON public.t (a)", done, (), [lock("t")]
            )
        for name in ("search_path", "row_security", "lock_timeout"):
            assert fetch_value(
                application, "SELECT pg_catalog.current_setting(%s)", (name,)
            ) == database.value("SELECT current_setting(%s)", name)
        assert application.execute("SHOW search_path").fetchone() == before


def test_role_is_local_to_transactions(pooled: str, database: Database) -> None:
    role = database.create_role("owner", options="NOLOGIN")
    with connect(pooled, application_name="zdm test", role=role) as conn:
        with transaction(conn):
            assert fetch_value(conn, "SELECT current_user") == role
        assert fetch_value(conn, "SELECT current_user") != role
        with pytest.raises(ZdmError, match="direct connection"):
            run_concurrently(conn, "SELECT 1", "SELECT false")


def test_limits_that_cannot_be_lifted_are_refused(pooled: str, database: Database) -> None:
    database.execute(f"ALTER DATABASE \"{database.name}\" SET lock_timeout = '1s'")
    with connect(pooled, application_name="zdm test") as conn:
        # The server connection that the pool had before is still in use; a new one has the new default.
        eventually(lambda: _reconnected(database))
        with pytest.raises(ZdmError, match="lock_timeout"):
            run_concurrently(conn, "SELECT 1", "SELECT false")


def _reconnected(database: Database) -> bool:
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    return True
