"""Settings are pinned whatever the database says, and the end of a transaction is never guessed."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import psycopg
import pytest

from tests.support import Database, on_all_versions
from zdm.db.session import (
    PINNED,
    WORK_MEM,
    OutcomeUnknown,
    Session,
    connect,
    execute_one,
    fetch_value,
    transaction,
)
from zdm.errors import BadInput, ZdmError

pytestmark = on_all_versions


@pytest.fixture
def odd(database: Database) -> Database:
    """A database whose defaults are as unlike the pinned settings as can be."""
    for setting in (
        "default_transaction_isolation = 'serializable'",
        "statement_timeout = '10min'",
        "lock_timeout = '1min'",
        "timezone = 'Asia/Kolkata'",
        "datestyle = 'German'",
        "search_path = public",
        "default_transaction_read_only = on",
    ):
        database.execute(f'ALTER DATABASE "{database.name}" SET {setting}')
    return database


def test_session_settings(odd: Database) -> None:
    with connect(odd.dsn, application_name="zdm test") as conn:
        for name, value in PINNED.items():
            assert fetch_value(conn, "SELECT pg_catalog.current_setting(%s)", (name,)) == value
        assert fetch_value(conn, "SHOW default_transaction_isolation") == "read committed"
        assert fetch_value(conn, "SHOW statement_timeout") == "0"
        assert fetch_value(conn, "SHOW default_transaction_read_only") == "off"
        assert conn.autocommit
        assert not conn.pooled


def test_transaction_settings_do_not_need_the_session(odd: Database) -> None:
    with psycopg.connect(odd.dsn, autocommit=True) as conn:
        with transaction(conn, lock_timeout=timedelta(seconds=2), settings={"synchronous_commit": "off"}):
            for name, value in PINNED.items():
                assert fetch_value(conn, "SELECT pg_catalog.current_setting(%s)", (name,)) == value
            assert fetch_value(conn, "SHOW transaction_isolation") == "read committed"
            assert fetch_value(conn, "SHOW transaction_read_only") == "off"
            assert fetch_value(conn, "SHOW lock_timeout") == "2s"
            assert fetch_value(conn, "SHOW synchronous_commit") == "off"
        assert fetch_value(conn, "SHOW timezone") == "Asia/Kolkata"


def test_work_mem_is_the_least_of_it(database: Database) -> None:
    """Where the server gives more, it knows better."""
    for given, held in (("4MB", "64MB"), ("256MB", "256MB")):
        database.execute(f"ALTER DATABASE \"{database.name}\" SET work_mem = '{given}'")
        with connect(database.dsn, application_name="zdm test") as conn:
            with transaction(conn, settings={"work_mem": WORK_MEM}):
                assert fetch_value(conn, "SHOW work_mem") == held
            assert fetch_value(conn, "SHOW work_mem") == given


def test_commit_and_rollback(conn: Session) -> None:
    with transaction(conn):
        conn.execute("CREATE TABLE public.t (a int)")
    with transaction(conn, rollback=True):
        conn.execute("INSERT INTO public.t VALUES (1)")
    with pytest.raises(psycopg.errors.DivisionByZero):
        _failing(conn)
    assert fetch_value(conn, "SELECT count(*) FROM public.t") == 0


def _failing(conn: Session) -> None:
    with transaction(conn):
        conn.execute("INSERT INTO public.t VALUES (1)")
        conn.execute("SELECT 1/0")


def test_commit_that_became_a_rollback_is_an_error(conn: Session) -> None:
    with pytest.raises(ZdmError, match="rolled it back"):
        _swallowing(conn)


def _swallowing(conn: Session) -> None:
    with transaction(conn), suppress(psycopg.errors.DivisionByZero):
        conn.execute("SELECT 1/0")


def test_connection_lost_at_commit(database: Database, conn: Session) -> None:
    with pytest.raises(OutcomeUnknown):
        _dying(database, conn)


def _dying(database: Database, conn: Session) -> None:
    with transaction(conn):
        conn.execute("CREATE TABLE public.t (a int)")
        database.execute("SELECT pg_terminate_backend(%s, 5000)", conn.info.backend_pid)


def test_one_statement_only(conn: Session) -> None:
    with pytest.raises(psycopg.errors.SyntaxError):
        execute_one(conn, "SELECT 1; SELECT 2")


def test_role(database: Database) -> None:
    role = database.create_role("owner", options="NOLOGIN")
    with connect(database.dsn, application_name="zdm test", role=role) as conn:
        assert fetch_value(conn, "SELECT current_user") == role
    with pytest.raises(BadInput, match="does not exist"):
        connect(database.dsn, application_name="zdm test", role="nobody_here")
