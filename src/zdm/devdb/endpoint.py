"""The client's side of a server: how to reach it, and running client programs against it."""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

from zdm.devdb.binaries import Binaries
from zdm.errors import ZdmError

#: The bootstrap role of every server.
SUPERUSER: Final = "postgres"


class Endpoint(ABC):
    """Something to connect to, by a Unix socket or by TCP.

    Parameters
    ----------
    binaries: the installation whose client programs are run.
    password: the superuser's.
    """

    def __init__(self, binaries: Binaries, password: str) -> None:
        #: The installation as it was found; clients run from here, as whoever calls.
        self.binaries = binaries
        self._password = password
        self._port = 0

    @property
    @abstractmethod
    def socket_directory(self) -> Path:
        """The directory of the Unix socket: what libpq calls ``host``."""

    @property
    def version(self) -> tuple[int, int]:
        """(major, minor)."""
        return self.binaries.version

    @property
    def port(self) -> int:
        """The port of the TCP listener and in the name of the Unix socket."""
        return self._port

    def dsn(
        self,
        dbname: str = SUPERUSER,
        user: str = SUPERUSER,
        *,
        password: str | None = None,
        tcp: bool = False,
    ) -> str:
        """A connection URL that libpq, psycopg and SQLAlchemy (``postgresql+psycopg``) understand.

        Parameters
        ----------
        password: the password of `user`; needed by TCP only. The superuser's own is filled in.
        tcp: by 127.0.0.1 instead of the Unix socket.
        """
        if tcp and password is None and user == SUPERUSER:
            password = self._password
        who = quote(user, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
        database = quote(dbname, safe="")
        if tcp:
            return f"postgresql://{who}@127.0.0.1:{self.port}/{database}"
        # A slash needs no escape in a query, and unescaped the path can be read.
        where = urlencode({"host": self.socket_directory, "port": self.port}, safe="/")
        return f"postgresql://{who}@/{database}?{where}"

    def connect(
        self, dbname: str = SUPERUSER, user: str = SUPERUSER, *, autocommit: bool = False
    ) -> psycopg.Connection[tuple[Any, ...]]:
        """A new connection by the Unix socket."""
        return psycopg.connect(self.dsn(dbname, user), autocommit=autocommit)

    def create_database(self, name: str, *, template: str | None = None, owner: str | None = None) -> str:
        """Create a database and return its DSN.

        Parameters
        ----------
        template: the database to copy, which nobody may be connected to; by default ``template1``.
        owner: the role that shall own it; by default the superuser.
        """
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        if owner is not None:
            statement += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
        with self.connect(autocommit=True) as connection:
            connection.execute(statement)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, ending the sessions in it."""
        with self.connect(autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def bin(self, program: str) -> Path:
        """The path of a client program, such as ``pgbench`` or ``pg_dump``, of the server's own version."""
        return self.binaries.path(program)

    def client_environment(self, dbname: str = SUPERUSER, user: str = SUPERUSER) -> dict[str, str]:
        """Our environment with libpq's variables pointing at this server, and no others of libpq's."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return ours | {
            "PGHOST": str(self.socket_directory),
            "PGPORT": str(self.port),
            "PGUSER": user,
            "PGDATABASE": dbname,
        }

    def run_client(
        self,
        argv: Sequence[str | Path],
        *,
        dbname: str = SUPERUSER,
        user: str = SUPERUSER,
        stdin: str | None = None,
        check: bool = True,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a client program to its end, as ourselves, connected by its environment.

        Parameters
        ----------
        argv: the program's name (``"pgbench"``) and its arguments.
        stdin: what it reads on standard input.
        timeout: seconds.

        Raises
        ------
        ZdmError: with `check`, it failed; the message has what it wrote to standard error.
        subprocess.TimeoutExpired: it took longer than `timeout`.
        """
        program, *arguments = argv
        done = subprocess.run(
            [self.bin(str(program)), *arguments],
            env=self.client_environment(dbname, user),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise ZdmError(f"{program} failed with exit code {done.returncode}:\n{done.stderr.strip()}")
        return done

    def start_client(
        self, argv: Sequence[str | Path], *, dbname: str = SUPERUSER, user: str = SUPERUSER
    ) -> subprocess.Popen[str]:
        """Start a client program in the background, such as a pgbench that makes load; ending it is the caller's task.

        Standard output and error are pipes: read them with ``communicate()``.
        """
        program, *arguments = argv
        return subprocess.Popen(
            [self.bin(str(program)), *arguments],
            env=self.client_environment(dbname, user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
