"""A database with the catalog in it, and small values to fill it with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import Connection, Database
from tests.support.catalog import FakeMigration, make_plan
from zdm.catalog import install, registry, rollouts
from zdm.catalog.rollouts import Rollout

NewRollout = Callable[..., Rollout]


@pytest.fixture
def conn(database: Database) -> Connection:
    """A superuser's connection, not in autocommit mode, to a database with the catalog."""
    connection = database.connect()
    install.install(connection)
    return connection


@pytest.fixture
def new_rollout(conn: Connection) -> NewRollout:
    """``new_rollout("m", table="public.t", target="public")``: a planned, committed rollout."""

    def make(migration: str = "m", *, table: str = "t", target: str = "public") -> Rollout:
        registry.register(conn, FakeMigration(migration), f"id: {migration}")
        made = rollouts.create(conn, make_plan(migration, table=table, target=target))
        conn.commit()
        return made

    return make
