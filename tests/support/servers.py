"""The PostgreSQL server that the tests run against, whoever provides it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from zdm.devdb import Binaries, DevServer, Setting, find_binaries
from zdm.errors import ZdmError

Connection = psycopg.Connection[tuple[Any, ...]]

#: Settings of every server that the tests start themselves.
TEST_SETTINGS: Mapping[str, Setting] = {
    # Found sooner than by default, so that a test of a deadlock does not wait.
    "deadlock_timeout": "200ms",
    "max_connections": 120,
    # It may lie in memory.
    "max_wal_size": "512MB",
}


@dataclass(frozen=True)
class Server:
    """A server that tests create databases on.

    Parameters
    ----------
    admin_dsn: a superuser's connection to some database that is not a test's.
    dev: the server itself where the tests started it; None where it was given to them.
    passwords: those of the roles that tests made.
    """

    admin_dsn: str
    dev: DevServer | None = None
    version: int = field(init=False)
    passwords: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        with psycopg.connect(self.admin_dsn) as connection:
            object.__setattr__(self, "version", connection.info.server_version)

    @property
    def major(self) -> int:
        return self.version // 10_000

    def dsn(self, dbname: str, user: str | None = None) -> str:
        """A URL for another database, and another user, of this server."""
        parts = {
            key: str(value) for key, value in conninfo_to_dict(self.admin_dsn).items() if value is not None
        }
        parts["dbname"] = dbname
        if user is not None:
            parts["user"] = user
            # A server that asks the superuser for a password asks everybody; others are not shown one.
            if parts.pop("password", None) is not None and user in self.passwords:
                parts["password"] = self.passwords[user]
        return url(parts)

    def admin(self) -> contextlib.closing[Connection]:
        """A superuser's connection in autocommit mode, closed at the end of the ``with``."""
        return contextlib.closing(psycopg.connect(self.admin_dsn, autocommit=True))


def url(parts: Mapping[str, str]) -> str:
    """libpq's keywords as one URL, with a Unix socket's directory in the query."""
    rest = dict(parts)
    user = quote(rest.pop("user", ""), safe="")
    password = rest.pop("password", None)
    dbname = quote(rest.pop("dbname", ""), safe="")
    where = ""
    if not rest.get("host", "/").startswith("/"):
        where = rest.pop("host")
        where += f":{rest.pop('port')}" if "port" in rest else ""
    who = user + (f":{quote(password, safe='')}" if password is not None else "")
    query = urlencode(rest, safe="/")
    return f"postgresql://{who}@{where}/{dbname}" + (f"?{query}" if query else "")


@contextlib.contextmanager
def default_server() -> Iterator[Server]:
    """The server for all tests that do not ask for another.

    ``ZDM_TEST_DSN`` names one (a superuser's connection); else ``ZDM_TEST_PG`` may name what to start
    (:func:`asked_for`), by default the embedded one; without any PostgreSQL, a container where a Docker engine
    answers.

    Raises
    ------
    ZdmError: none of these is to be had.
    """
    given = os.environ.get("ZDM_TEST_DSN")
    if given:
        yield Server(given)
        return
    try:
        binaries = asked_for()
    except ZdmError:
        wanted = os.environ.get("ZDM_TEST_PG", "18")
        if not wanted.isdecimal() or not docker_answers():
            raise
        with container(wanted) as dsn:
            yield Server(dsn)
        return
    with started(binaries) as server:
        yield server


def asked_for() -> Binaries:
    """The programs that ``ZDM_TEST_PG`` names, by a major version or by the directory they lie in.

    Raises
    ------
    ZdmError: they are not here.
    """
    wanted = os.environ.get("ZDM_TEST_PG")
    if not wanted:
        return find_binaries()
    return find_binaries(int(wanted)) if wanted.isdecimal() else find_binaries(directory=wanted)


def in_memory() -> Path | None:
    """A directory that lies in memory and has room, for servers that need not be durable: a database is made there in a fifth of the time."""
    place = Path("/dev/shm")
    try:
        found = os.statvfs(place)
        memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    roomy = min(found.f_bavail * found.f_frsize, memory) >= 8 << 30
    # Where the server's programs are out of its account's reach, they are copied beside its data, and started there.
    return place if roomy and not found.f_flag & os.ST_NOEXEC else None


@contextlib.contextmanager
def started(binaries: Binaries) -> Iterator[Server]:
    """A server started from these programs, fast rather than durable."""
    with DevServer(binaries, settings=TEST_SETTINGS, durable=False, place=in_memory()) as dev:
        yield Server(dev.dsn(), dev)


def installed(major: int) -> Binaries | None:
    """The programs of one major version, or None."""
    try:
        return find_binaries(major)
    except ZdmError:
        return None


def docker_answers() -> bool:
    """Whether a Docker engine can be talked to. The client alone, without an engine, says nothing."""
    import docker
    from docker.errors import DockerException

    try:
        with contextlib.closing(docker.from_env(timeout=5)) as client:
            return bool(client.ping())
    except DockerException:
        return False


@contextlib.contextmanager
def container(major: str) -> Iterator[str]:
    """A PostgreSQL in a container; yields a superuser's URL."""
    from testcontainers.postgres import PostgresContainer

    image = PostgresContainer(f"postgres:{major}", driver=None).with_command(
        ["postgres", "-c", "wal_level=logical", "-c", "max_prepared_transactions=10", "-c", "fsync=off"]
    )
    with image as running:
        yield running.get_connection_url()


class Database:
    """A fresh database of one test.

    Parameters
    ----------
    template: the name of a database that it begins as a copy of.

    Attributes
    ----------
    dsn: a superuser's URL of it.
    name: its name.
    server: where it lies.
    """

    def __init__(self, server: Server, template: str | None = None) -> None:
        self.server = server
        self.name = f"zdm_test_{secrets.token_hex(6)}"
        self._opened: list[Connection] = []
        self._roles: list[str] = []
        with server.admin() as admin:
            like = (
                sql.SQL("") if template is None else sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
            )
            admin.execute(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(self.name), like))
        self.dsn = server.dsn(self.name)

    def dsn_for(self, user: str) -> str:
        """The URL of this database for another role (one of :meth:`create_role`)."""
        return self.server.dsn(self.name, user)

    def connect(self, user: str | None = None, *, autocommit: bool = False) -> Connection:
        """A new connection, closed at the end of the test. The superuser's, or that of a role."""
        connection = psycopg.connect(self.dsn if user is None else self.dsn_for(user), autocommit=autocommit)
        self._opened.append(connection)
        return connection

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own, commit, and return its rows.

        Without parameters, several statements may be given, separated by semicolons; the rows are the last's.
        """
        with contextlib.closing(psycopg.connect(self.dsn, autocommit=True)) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, *parameters: object) -> Any:
        """The single value that a statement returns."""
        ((value,),) = self.execute(statement, *parameters)
        return value

    def create_role(self, stem: str = "app", *, options: str = "LOGIN") -> str:
        """A role with a name of its own (roles belong to the whole server), dropped after the test."""
        name = f"{stem}_{secrets.token_hex(4)}"
        password = secrets.token_hex(12)
        self.execute(f"CREATE ROLE \"{name}\" {options} PASSWORD '{password}'")
        self.server.passwords[name] = password
        self._roles.append(name)
        return name

    def drop(self) -> None:
        """Close the test's connections, and drop the database and its roles."""
        for connection in self._opened:
            connection.close()
        with self.server.admin() as admin:
            self._release(admin)
            admin.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self.name))
            )
            for role in self._roles:
                admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))

    def _release(self, admin: Connection) -> None:
        """Remove what FORCE does not: prepared transactions, subscriptions and logical replication slots."""
        prepared = admin.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = %s", [self.name]
        ).fetchall()
        subscriptions = admin.execute(
            "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE datname = %s",
            [self.name],
        ).fetchall()
        if prepared or subscriptions:
            with contextlib.closing(psycopg.connect(self.dsn, autocommit=True)) as connection:
                for (gid,) in prepared:
                    connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
                for (name,) in subscriptions:
                    one = sql.Identifier(name)
                    connection.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(one))
                    connection.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(one))
                    connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(one))
        # A slot in use cannot be dropped: its reader goes first.
        admin.execute(
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots "
            "WHERE database = %s AND active_pid IS NOT NULL",
            [self.name],
        )
        admin.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s",
            [self.name],
        )
