"""Alembic's environment for zdm's own catalog: everything lives in the schema ``zdm``, the version table too.

The connection is the one in ``config.attributes["connection"]`` (that is how `zdm.catalog.install` calls it), or a new one
from the environment's ``ZDM_DATABASE_URL``, so that plain ``alembic upgrade head`` works in a checkout. There is no ini
file. The application's own ``alembic_version`` is never read or written.
"""

from __future__ import annotations

import os

import psycopg
from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

from zdm.catalog.revision import SCHEMA, after_upgrade, before_upgrade
from zdm.errors import BadInput


def _migrate(connection: Connection) -> None:
    """Run the revisions in the transaction that `connection` has open; nobody else upgrades until it ends."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    before_upgrade(driver)
    context.configure(connection=connection, version_table="alembic_version", version_table_schema=SCHEMA)
    context.run_migrations()
    after_upgrade(driver)


def _connect() -> psycopg.Connection:
    url = os.environ.get("ZDM_DATABASE_URL")
    if not url:
        raise BadInput(
            "There is no database to migrate.",
            remedy="Run `zdm init`, or set ZDM_DATABASE_URL for plain Alembic.",
        )
    return psycopg.connect(url)


if context.is_offline_mode():
    raise BadInput("The catalog cannot be written as a script.", remedy="Run `zdm init`.")

given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    _migrate(given)
else:
    with create_engine("postgresql+psycopg://", creator=_connect, poolclass=NullPool).begin() as own:
        _migrate(own)
