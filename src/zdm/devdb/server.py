"""A PostgreSQL server of our own: started from its programs, gone without a trace.

::

    with DevServer() as server:
        server.create_database("shop")
        psycopg.connect(server.dsn("shop"))
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import signal
import subprocess
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from zdm.devdb.account import server_account
from zdm.devdb.binaries import Binaries, find_binaries
from zdm.devdb.endpoint import SUPERUSER, Endpoint
from zdm.devdb.process import (
    Home,
    free_port,
    kill_tree,
    release_shared_memory,
    shared_memory,
    wait_until,
)
from zdm.errors import ZdmError

#: A value of postgresql.conf.
Setting = str | int | float | bool

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0

_DEFAULTS: Final[Mapping[str, Setting]] = {
    "listen_addresses": "127.0.0.1",
    "max_connections": 100,
    "shared_buffers": "128MB",
    # Streaming and logical replicas can be attached at any time.
    "wal_level": "logical",
    "max_wal_senders": 10,
    "max_replication_slots": 10,
    "max_prepared_transactions": 10,
    # A standby whose primary was away comes back at once.
    "wal_retrieve_retry_interval": "200ms",
    "max_wal_size": "4GB",
    "shared_preload_libraries": "pg_stat_statements",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d/%a ",
}

# Survives kill -9 of every process (the kernel keeps what was written), but not a crash of the machine.
# synchronous_commit stays on: without it a killed server forgets commits that it has confirmed.
_NOT_DURABLE: Final[Mapping[str, Setting]] = {"fsync": False, "full_page_writes": False}

_open: weakref.WeakSet[DevServer] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for server in list(_open):
        server.close()


class DevServer(Endpoint):
    """One PostgreSQL server, in a fresh directory of its own, reachable only from this machine.

    Local users get in by the Unix socket without a password, but the socket lies in a directory that only the
    server's account may enter; by TCP (127.0.0.1) they need one: a superuser open to everybody on the machine
    would let any of its users run programs as the server's account.

    Starting costs about a second. As root, the server runs as ``nobody``. When the process that started it
    ends, in whatever way, so does the server, and its directory goes.

    Parameters
    ----------
    binaries: the installation to use; by default the embedded one, else the system's newest.
    settings: entries of ``postgresql.conf`` on top of the defaults.
    durable: False turns fsync off, for tests: several times faster, and safe against everything but a crash
        of the whole machine.
    place: where its directory is made; where temporary files are, if that is not given or cannot be.

    Raises
    ------
    ZdmError: no PostgreSQL is installed, or it does not start; the message has the end of its log.
    """

    def __init__(
        self,
        binaries: Binaries | None = None,
        *,
        settings: Mapping[str, Setting] | None = None,
        durable: bool = True,
        place: Path | None = None,
    ) -> None:
        super().__init__(binaries or find_binaries(), secrets.token_urlsafe(24))
        self._settings: dict[str, Setting] = {
            **_DEFAULTS,
            **({} if durable else _NOT_DURABLE),
            **(settings or {}),
        }
        self._durable = durable
        self._place = place
        self._creator = os.getpid()
        self._home: Home | None = None
        self._programs = self.binaries
        self._process: subprocess.Popen[bytes] | None = None
        self.attached: list[DevServer] = []
        """Servers that are closed before this one."""
        self._shared_memory: set[Path] = set()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, settings: Mapping[str, Setting] | None = None) -> Self:
        """Start the server, creating its data directory the first time, and wait until it accepts connections.

        Parameters
        ----------
        settings: entries of ``postgresql.conf`` to change from now on.

        Raises
        ------
        ZdmError: it runs already, or does not start.
        """
        if self.is_running:
            raise ZdmError("the server runs already")
        # It may have died by another hand than ours.
        self._forget_process()
        self._settings.update(settings or {})
        if self._home is None:
            self._home = Home(server_account(), self._place)
            _open.add(self)
            try:
                self._programs = self._stage()
                self._initialize()
            except BaseException:
                self.close()
                raise
        if self._port:
            self._launch()
            return self
        for attempts_left in (4, 3, 2, 1, 0):
            self._port = free_port()
            try:
                self._launch()
            except ZdmError as error:
                # Somebody took the port after we had looked.
                if not attempts_left or "could not bind" not in str(error):
                    raise
            else:
                break
        return self

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server; :meth:`start` starts it again on the same data and port. No-op if it is stopped.

        Parameters
        ----------
        immediate: do not let it write a checkpoint; the next start recovers.
        """
        process = self._process
        if process is None:
            return
        signals = [signal.SIGQUIT] if immediate else [signal.SIGINT, signal.SIGQUIT]
        for sign in signals:
            if process.poll() is None:
                process.send_signal(sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_SECONDS)
        if process.poll() is None:
            self.crash()
        self._forget_process()

    def crash(self) -> None:
        """``kill -9`` the server and all its backends at one instant. :meth:`start` recovers.

        Raises
        ------
        ZdmError: it does not run.
        """
        process = self._process
        if process is None or process.poll() is not None:
            raise ZdmError("the server does not run, so it cannot crash")
        self._shared_memory = shared_memory(process.pid)
        kill_tree(process)
        self._forget_process()

    def restart(self, settings: Mapping[str, Setting] | None = None) -> None:
        """Stop the server, if it runs, and start it again on the same port."""
        self.stop()
        self.start(settings)

    def close(self) -> None:
        """Stop the server and its replicas, and remove every trace. Safe to call again."""
        if self._home is None or os.getpid() != self._creator:
            # After a fork the server belongs to the parent process.
            return
        for server in self.attached:
            server.close()
        self.stop()
        release_shared_memory(self._shared_memory, self.data_directory / "postmaster.pid")
        self._home.remove()
        self._home = None
        _open.discard(self)

    @property
    def is_running(self) -> bool:
        """Whether the server's main process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the postmaster.

        Raises
        ------
        ZdmError: the server does not run.
        """
        if self._process is None:
            raise ZdmError("the server does not run")
        return self._process.pid

    @property
    def socket_directory(self) -> Path:
        """The directory of the Unix socket: what libpq calls ``host``."""
        return self._directory

    @property
    def data_directory(self) -> Path:
        """Where the server keeps its data."""
        return self._directory / "data"

    @property
    def log_file(self) -> Path:
        """The server's log, of all its starts."""
        return self._directory / "log"

    def log(self, *, lines: int | None = None) -> str:
        """The server's log, or its last `lines` lines."""
        try:
            text = self.log_file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return text if lines is None else "\n".join(text.splitlines()[-lines:])

    @property
    def _running_home(self) -> Home:
        if self._home is None:
            raise ZdmError("the server was never started, or is closed")
        return self._home

    @property
    def _directory(self) -> Path:
        return self._running_home.directory

    def _stage(self) -> Binaries:
        """The programs where the server's account can run them."""
        home = self._running_home
        return self.binaries.staged(home.account, home.directory)

    def _initialize(self) -> None:
        """Fill the data directory."""
        home = self._running_home
        password = self._directory / "password"
        home.write(password, self._password)
        # The same bytes sort the same everywhere, and upper() knows more than ASCII.
        locales = (
            [["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]]
            if self._programs.major >= 17
            else [["--locale=C.UTF-8"], ["--locale=C"]]
        )
        for index, locale in enumerate(locales):
            command: list[str | Path] = [
                self._programs.path("initdb"),
                f"--pgdata={self.data_directory}",
                f"--username={SUPERUSER}",
                f"--pwfile={password}",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--encoding=UTF8",
                *locale,
                "--no-instructions",
                # What initdb writes is worth nothing after a crash of the machine.
                "--no-sync",
            ]
            try:
                home.run(command, seconds=120)
            except ZdmError:
                # Not every system has C.UTF-8; plain C everywhere.
                if index == len(locales) - 1:
                    raise
            else:
                break
        password.unlink()

    def _launch(self) -> None:
        """Write the configuration, start the server, wait until it is ready."""
        home = self._running_home
        values = {
            **self._settings,
            "port": self._port,
            "unix_socket_directories": str(self.socket_directory),
        }
        lines = [f"{name} = {_configured(value)}\n" for name, value in values.items()]
        home.write(self.data_directory / "postgresql.conf", "".join(lines))
        if not self.log_file.exists():
            home.write(self.log_file, "")
        with self.log_file.open("ab") as log:
            begin = log.tell()
            self._process = home.spawn(
                [self._programs.path("postgres"), "-D", str(self.data_directory)], output=log
            )
        try:
            wait_until(self._settled, seconds=_START_SECONDS, what="PostgreSQL to start")
        except ZdmError as error:
            self.stop(immediate=True)
            raise ZdmError(f"{error}; its log ends with:\n{self.log(lines=20)}") from None
        if self._process.poll() is not None:
            code = self._process.returncode
            self._forget_process()
            said = self.log_file.read_bytes()[begin:].decode(errors="replace").strip()
            raise ZdmError(f"PostgreSQL did not start (exit code {code}); it said:\n{said}")
        # Recovery has cleared up after the crash before it.
        self._shared_memory = set()

    def _settled(self) -> bool:
        """Whether the server is ready, or has given up."""
        assert self._process is not None
        if self._process.poll() is not None:
            return True
        try:
            lock = (self.data_directory / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        # Its eighth line is the state; the first says whether the file is of this start or of a crashed one.
        return (
            len(lock) >= 8 and lock[0] == str(self._process.pid) and lock[7].strip() in ("ready", "standby")
        )

    def _forget_process(self) -> None:
        if self._process is not None:
            self._running_home.ended(self._process)
        self._process = None


def _configured(value: Setting) -> str:
    """A value as postgresql.conf writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
