"""A pgbouncer in transaction mode before a test's database."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support import Database, eventually

PGBOUNCER = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")


@dataclass(frozen=True)
class Pool:
    """Where it listens."""

    port: int
    database: str
    user: str

    def url(self, user: str | None = None) -> str:
        """The URL for the superuser, or for one of the roles that the pool knows."""
        return f"postgresql://{user or self.user}@127.0.0.1:{self.port}/{self.database}"


@contextlib.contextmanager
def pgbouncer(database: Database, *, size: int, roles: Sequence[str] = ()) -> Iterator[Pool]:
    """Start one, with `size` server connections for each role. Skips the test where pgbouncer is not installed."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    server = conninfo_to_dict(database.dsn)
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user, password = str(server["user"]), str(server.get("password") or "")
    secrets = {user: password, **{role: database.server.passwords[role] for role in roles}}
    pool = Pool(port, database.name, user)
    # A directory that an unprivileged account can reach; pytest's own is closed to others.
    with tempfile.TemporaryDirectory(prefix="zdm-pgbouncer-") as name:
        folder = Path(name)
        (folder / "users").write_text("".join(f'"{who}" "{secret}"\n' for who, secret in secrets.items()))
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n{database.name} = host={server['host']} port={server.get('port', 5432)}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
            f"auth_file = {folder / 'users'}\npool_mode = transaction\ndefault_pool_size = {size}\n"
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

        def answers() -> bool:
            with (
                contextlib.suppress(psycopg.OperationalError),
                psycopg.connect(pool.url(), prepare_threshold=None),
            ):
                return True
            return False

        try:
            eventually(answers, what="pgbouncer")
            yield pool
        finally:
            process.terminate()
            process.wait(20)
