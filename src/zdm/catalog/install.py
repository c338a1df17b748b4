"""Creating, upgrading and looking at the catalog itself."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from zdm.db.session import fetch_value, takes_no_writes
from zdm.errors import BadInput, ZdmError
from zdm.resources import migrations

OLDEST_SERVER: Final = 140000
"""`server_version_num` of the oldest PostgreSQL that zdm works with."""


@dataclass(frozen=True, slots=True)
class CatalogStatus:
    """What is installed.

    Parameters
    ----------
    revision: the installed catalog's revision; None if there is no catalog.
    head: the revision that this zdm brings.
    known: whether this zdm knows the installed revision; False for a catalog of a newer zdm.
    server_version: `server_version_num`.
    """

    revision: str | None
    head: str
    known: bool
    server_version: int

    @property
    def current(self) -> bool:
        """Whether the catalog is there and is the one this zdm needs."""
        return self.revision == self.head


def status(conn: psycopg.Connection[Any]) -> CatalogStatus:
    """Look at the catalog without changing anything. Works in and outside a transaction, and without any catalog."""
    revisions, head = _revisions()
    found = _installed(conn)
    return CatalogStatus(found, head, found is None or found in revisions, conn.info.server_version)


def require(conn: psycopg.Connection[Any]) -> None:
    """Raise `BadInput`, saying what to do, unless the catalog is there and current."""
    found = status(conn)
    if found.revision is None:
        raise BadInput(f"There is no zdm catalog in database {conn.info.dbname!r}.", remedy="Run `zdm init`.")
    _refuse_newer(found)
    if not found.current:
        raise BadInput(
            f"The zdm catalog in database {conn.info.dbname!r} is at revision {found.revision}, this zdm needs {found.head}.",
            remedy="Run `zdm init`; it upgrades the catalog.",
        )


def install(conn: psycopg.Connection[Any]) -> CatalogStatus:
    """Create the catalog, or upgrade it. Safe to repeat, and when several do it at once.

    Needs a connection without an open transaction: it runs in one of its own, all or nothing.

    Raises
    ------
    BadInput: the server is too old, the catalog belongs to a newer zdm, or schema ``zdm`` belongs to somebody else.
    """
    if conn.info.transaction_status is not TransactionStatus.IDLE:
        raise ZdmError(
            "The catalog is installed in a transaction of its own, and one is open on this connection."
        )
    if conn.info.server_version < OLDEST_SERVER:
        raise BadInput(
            f"PostgreSQL {OLDEST_SERVER // 10000} or newer is needed; this server is {_version(conn.info.server_version)}.",
            remedy="Upgrade the server first.",
        )
    standby = fetch_value(conn, "SELECT pg_catalog.pg_is_in_recovery()")
    conn.rollback()
    if standby:
        raise takes_no_writes()
    before = conn.autocommit, conn.isolation_level, conn.read_only
    # Whatever the database's defaults say: the second of two installers must see what the first one committed.
    conn.autocommit, conn.isolation_level, conn.read_only = (
        False,
        psycopg.IsolationLevel.READ_COMMITTED,
        False,
    )
    try:
        _upgrade(conn)
        return status(conn)
    finally:
        if not conn.closed:
            conn.rollback()
            conn.autocommit, conn.isolation_level, conn.read_only = before


def _upgrade(conn: psycopg.Connection[Any]) -> None:
    from alembic import command
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    from zdm.catalog.revision import before_upgrade

    # The engine borrows the connection: it neither resets nor closes it.
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: conn, poolclass=StaticPool, pool_reset_on_return=None
    )
    with engine.connect() as borrowed, borrowed.begin():
        _refuse_foreign_schema(conn)
        try:
            before_upgrade(conn)
        except psycopg.errors.InsufficientPrivilege as error:
            raise BadInput(
                f"The role {conn.info.user!r} may not create schema zdm in database {conn.info.dbname!r}.",
                remedy="Grant it: GRANT CREATE ON DATABASE … TO …; docs/privileges.md lists all that zdm needs.",
            ) from error
        # Under the lock: another installer may have just finished.
        _refuse_newer(status(conn))
        config = _config()
        config.attributes["connection"] = borrowed
        command.upgrade(config, "head")


def _config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@cache
def _revisions() -> tuple[frozenset[str], str]:
    """All revisions, and the head, read from the files. Alembic would say the same, but to import it takes every command longer
    than all else that it does."""
    before: dict[str, object] = {}
    for script in sorted((migrations() / "versions").glob("*.py")):
        said = {
            target.id: ast.literal_eval(statement.value)
            for statement in ast.parse(script.read_text(encoding="utf-8")).body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name) and target.id in {"revision", "down_revision"}
        }
        before[said["revision"]] = said["down_revision"]
    (head,) = before.keys() - before.values()
    return frozenset(before), head


def _installed(conn: psycopg.Connection[Any]) -> str | None:
    with conn.cursor(row_factory=tuple_row) as cursor:
        try:
            with conn.transaction():
                # Refused as well where the schema may not be used.
                cursor.execute("SELECT pg_catalog.to_regclass('zdm.alembic_version') IS NOT NULL")
                if cursor.fetchone() != (True,):
                    return None
                cursor.execute("SELECT version_num FROM zdm.alembic_version")
                row = cursor.fetchone()
        except psycopg.errors.InsufficientPrivilege as error:
            raise BadInput(
                f"The role {conn.info.user!r} may not read the zdm catalog in database {conn.info.dbname!r}.",
                remedy="Connect as the role that ran `zdm init`, or as a member of it.",
            ) from error
    return None if row is None else str(row[0])


def _refuse_newer(found: CatalogStatus) -> None:
    if not found.known:
        raise BadInput(
            f"The zdm catalog is at revision {found.revision}, which this zdm does not know; it knows up to {found.head}. "
            "A newer zdm has upgraded it.",
            remedy="Upgrade zdm on this machine.",
        )


def _refuse_foreign_schema(conn: psycopg.Connection[Any]) -> None:
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            """
            SELECT pg_catalog.pg_get_userbyid(nspowner)
            FROM pg_catalog.pg_namespace
            WHERE nspname = 'zdm' AND NOT pg_catalog.pg_has_role(nspowner, 'USAGE')
            """
        )
        row = cursor.fetchone()
    if row is not None:
        raise BadInput(
            f"Schema zdm belongs to role {row[0]!r}, of which {conn.info.user!r} is not a member.",
            remedy="Connect as the role that ran `zdm init`; if the schema is not zdm's, rename it.",
        )


def _version(number: int) -> str:
    return (
        f"{number // 10000}.{number % 10000}"
        if number >= 100000
        else f"{number // 10000}.{number // 100 % 100}"
    )
