"""Fixtures for every test that needs a PostgreSQL server. None is started for tests that do not ask."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager

import psycopg
import pytest
from hypothesis import settings

from tests.support.interleave import Scene
from tests.support.servers import (
    TEST_SETTINGS,
    Connection,
    Database,
    Server,
    asked_for,
    default_server,
    in_memory,
    installed,
    started,
)
from tests.support.versions import OLD
from zdm.catalog import install
from zdm.devdb import DevServer, Setting, find_binaries
from zdm.errors import ZdmError

ServerFactory = Callable[..., DevServer]

# A machine that is busy must not fail a property; and a pipeline must not fail by chance over what it tries.
settings.register_profile("here", deadline=None)
settings.register_profile("pipeline", deadline=None, derandomize=True)
settings.load_profile("pipeline" if os.environ.get("CI") else "here")


def pytest_collection_finish() -> None:
    """What is collected stays to the end; to look through it again and again for garbage takes a twentieth of the time of all."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def default_pg() -> Iterator[Server]:
    """The server for most tests: one in each worker process, so that workers share nothing."""
    with default_server() as server:
        yield server


@pytest.fixture(scope="session")
def pg15() -> Iterator[Server]:
    """A server of PostgreSQL 15; skips the test where that is not installed."""
    binaries = installed(OLD)
    if binaries is None:
        pytest.skip(f"PostgreSQL {OLD} is not installed")
    with started(binaries) as server:
        yield server


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """The server under test: the default one, or what :data:`tests.support.on_all_versions` asks for."""
    wanted = getattr(request, "param", "default")
    name = {"default": "default_pg", "pg15": "pg15"}[wanted]
    chosen: Server = request.getfixturevalue(name)
    return chosen


def _wanted(test: pytest.Function) -> str:
    """Which server the test asks for, as `server` has it."""
    return str(test.callspec.params.get("server", "default")) if hasattr(test, "callspec") else "default"


def _skip_before(request: pytest.FixtureRequest, major: int) -> None:
    """Skip a test that is about what a later version brought: ``@pytest.mark.since(major)``."""
    marker = request.node.get_closest_marker("since")
    if marker is not None and major < marker.args[0]:
        pytest.skip(f"what it is about came with PostgreSQL {marker.args[0]}")


#: Tests of what stands on the catalog find it in their database; to make it takes longer than many of them.
WITH_CATALOG = tuple(
    f"tests/{name}/"
    for name in (
        "conformance",
        "integration/backfill",
        "integration/engine",
        "integration/gates",
        "integration/operations",
        "integration/rows",
        "integration/sync",
        "integration/verify",
    )
)


@contextmanager
def _catalog(server: Server) -> Iterator[Database]:
    """A database with nothing but zdm's catalog."""
    template = Database(server)
    try:
        with closing(psycopg.connect(template.dsn, autocommit=True)) as connection:
            install.install(connection)
        yield template
    finally:
        template.drop()


# One for each server, not one that uses `server`: pytest makes that anew whenever the next test asks for another one, or for none.


@pytest.fixture(scope="session")
def default_catalog(default_pg: Server) -> Iterator[Database]:
    """What databases on the default server begin with."""
    with _catalog(default_pg) as template:
        yield template


@pytest.fixture(scope="session")
def pg15_catalog(pg15: Server) -> Iterator[Database]:
    """What databases on PostgreSQL 15 begin with."""
    with _catalog(pg15) as template:
        yield template


@pytest.fixture
def database(request: pytest.FixtureRequest, server: Server) -> Iterator[Database]:
    """A fresh database of the test's own: empty, or with the catalog where :data:`WITH_CATALOG` says so."""
    _skip_before(request, server.major)
    begins: Database | None = None
    if request.node.nodeid.startswith(WITH_CATALOG):
        begins = request.getfixturevalue(f"{_wanted(request.node)}_catalog")
    fresh = Database(server, template=None if begins is None else begins.name)
    try:
        yield fresh
    finally:
        fresh.drop()


@pytest.fixture
def dsn(database: Database) -> str:
    """A superuser's URL of the test's own database."""
    return database.dsn


@pytest.fixture
def connect(database: Database) -> Callable[..., Connection]:
    """``connect(user=None, autocommit=False)``: a new connection, closed at the end of the test."""
    return database.connect


@pytest.fixture
def scene(database: Database) -> Iterator[Scene]:
    """For scripting several sessions on the test's own database."""
    with Scene(database.dsn) as stage:
        yield stage


@pytest.fixture
def make_server(request: pytest.FixtureRequest) -> Iterator[ServerFactory]:
    """``make_server(settings=…, major=…, durable=False)``: a server of the test's own, to crash and to stop.

    Skips the test where PostgreSQL cannot be started here (but only be reached elsewhere).
    """
    with ExitStack() as stack:

        def make(
            *, settings: Mapping[str, Setting] | None = None, major: int | None = None, durable: bool = False
        ) -> DevServer:
            try:
                binaries = asked_for() if major is None else find_binaries(major)
            except ZdmError as error:
                pytest.skip(str(error))
            _skip_before(request, binaries.major)
            return stack.enter_context(
                DevServer(
                    binaries,
                    settings={**TEST_SETTINGS, **(settings or {})},
                    durable=durable,
                    place=None if durable else in_memory(),
                )
            )

        yield make


@pytest.fixture
def own_server(make_server: ServerFactory) -> DevServer:
    """A server of the test's own, with default settings."""
    return make_server()
