"""Behind a transaction pooler: recognised, every setting still holds, and nothing leaks to the pool's other clients."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.integration.db.support import lock
from tests.support import Database, eventually
from zdm.db.locks import run_concurrently, run_locked
from zdm.db.session import PINNED, connect, fetch_value, transaction
from zdm.errors import ZdmError

PGBOUNCER = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that an unprivileged account can reach; pytest's own is closed to others."""
    with tempfile.TemporaryDirectory(prefix="zdm-pgbouncer-") as name:
        yield Path(name)


@pytest.fixture
def pooled(database: Database, folder: Path) -> Iterator[str]:
    """The URL of a pgbouncer in transaction mode, with one server connection for everybody."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    server = conninfo_to_dict(database.dsn)
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = str(server["user"])
    password = str(server.get("password") or "")
    place = f"host={server['host']} port={server.get('port', 5432)} user={user}"
    secret = f" password={password}" if password else ""
    (folder / "users").write_text(f'"{user}" "{password}"\n')
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{database.name} = {place}{secret}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = trust\nauth_file = {folder / 'users'}\npool_mode = transaction\n"
        "default_pool_size = 1\n"
    )
    account = None
    if os.geteuid() == 0:
        # pgbouncer refuses to run as root.
        account = "nobody"
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, account)
    process = subprocess.Popen(
        [PGBOUNCER, str(config)], user=account, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"postgresql://{user}@127.0.0.1:{port}/{database.name}"

    def answers() -> bool:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, prepare_threshold=None):
            return True
        return False

    try:
        eventually(answers, what="pgbouncer")
        yield url
    finally:
        process.terminate()
        process.wait(20)


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
