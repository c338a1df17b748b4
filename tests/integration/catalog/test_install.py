"""Creating and upgrading the catalog."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from alembic.script import ScriptDirectory

from tests.support import Connection, Database, Scene, eventually, on_all_versions
from zdm.catalog import install
from zdm.errors import BadInput, ZdmError
from zdm.model.phases import State, machine
from zdm.resources import migrations


def public_objects(conn: Connection) -> list[tuple[Any, ...]]:
    return conn.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace").fetchall()


@on_all_versions
def test_creates_everything_and_repeating_changes_nothing(database: Database) -> None:
    conn = database.connect()
    assert install.status(conn).revision is None
    conn.rollback()
    first = install.install(conn)
    assert first.current
    assert first.known
    assert conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
    assert install.install(conn) == first == install.status(conn)
    install.require(conn)
    assert public_objects(conn) == []


def test_leaves_the_applications_own_alembic_version_alone(database: Database) -> None:
    database.execute(
        "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('theirs')"
    )
    install.install(database.connect())
    assert database.execute("SELECT * FROM alembic_version") == [("theirs",)]
    assert database.execute("SELECT * FROM zdm.alembic_version") == [("0006",)]


def test_the_database_knows_the_phase_machine(conn: Connection) -> None:
    assert {(State(a), State(b)) for a, b in conn.execute("SELECT * FROM zdm.phase_moves")} == set(
        machine().moves()
    )
    phases: dict[str, str | None] = dict(conn.execute("SELECT state, phase FROM zdm.phase_states").fetchall())
    assert phases == {state.value: machine().phase_of(state) for state in State}
    resting = conn.execute("SELECT state FROM zdm.phase_states WHERE NOT active ORDER BY state").fetchall()
    assert resting == [("completed",), ("planned",), ("rolled_back",)]


def test_an_upgrade_brings_the_phase_machine_up_to_date(conn: Connection) -> None:
    conn.execute("DELETE FROM zdm.phase_moves")
    conn.execute("INSERT INTO zdm.phase_states VALUES ('of_an_older_zdm', NULL, true)")
    conn.commit()
    install.install(conn)
    assert conn.execute("SELECT count(*) FROM zdm.phase_moves").fetchone() == (len(set(machine().moves())),)
    assert conn.execute("SELECT count(*) FROM zdm.phase_states").fetchone() == (len(State),)


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_two_at_once_both_succeed(database: Database, scene: Scene, isolation: str) -> None:
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_isolation = '{isolation}'")
    first, second = database.connect(), database.connect()
    holder = scene.session("holder")
    holder.run("BEGIN")
    holder.run("SELECT pg_advisory_xact_lock(hashtextextended('zdm.catalog', 0))")
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(install.install, conn) for conn in (first, second)]
        for conn in (first, second):
            eventually(lambda pid=conn.info.backend_pid: scene.blockers(pid), what="waiting for the lock")  # type: ignore[misc]
        holder.run("COMMIT")
        assert all(future.result(20).current for future in running)


def test_a_role_that_may_create_schemas_is_enough(database: Database) -> None:
    role = database.create_role("migrator")
    database.execute(f'GRANT CREATE ON DATABASE {database.name} TO "{role}"')
    assert install.install(database.connect(role)).current
    owners = database.execute(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'zdm'::regnamespace"
    )
    assert owners == [(role,)]


def test_a_schema_that_a_dba_made_needs_no_right_to_create_schemas(database: Database) -> None:
    role = database.create_role("migrator")
    database.execute(f'CREATE SCHEMA zdm AUTHORIZATION "{role}"')
    assert install.install(database.connect(role)).current


def test_refuses_a_role_without_rights(database: Database) -> None:
    role = database.create_role("nobody")
    conn = database.connect(role)
    with pytest.raises(BadInput, match=r"may not create schema zdm") as refused:
        install.install(conn)
    assert "GRANT CREATE ON DATABASE" in refused.value.remedy
    assert conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE


def test_refuses_a_schema_of_somebody_else(database: Database) -> None:
    owner, other = database.create_role("owner"), database.create_role("other")
    database.execute(f'CREATE SCHEMA zdm AUTHORIZATION "{owner}"')
    with pytest.raises(BadInput, match=f"belongs to role '{owner}', of which '{other}' is not a member"):
        install.install(database.connect(other))


def test_refuses_a_catalog_of_a_newer_zdm(conn: Connection) -> None:
    conn.execute("UPDATE zdm.alembic_version SET version_num = '9999'")
    conn.commit()
    with pytest.raises(BadInput, match="at revision 9999, which this zdm does not know; it knows up to 0006"):
        install.install(conn)
    with pytest.raises(BadInput, match="A newer zdm has upgraded it"):
        install.require(conn)
    assert not install.status(conn).known


def test_require_says_when_there_is_none(database: Database) -> None:
    with pytest.raises(BadInput, match="There is no zdm catalog"):
        install.require(database.connect())


def test_refuses_an_old_server() -> None:
    info = SimpleNamespace(transaction_status=psycopg.pq.TransactionStatus.IDLE, server_version=130011)
    with pytest.raises(BadInput, match=r"PostgreSQL 14 or newer is needed; this server is 13\.11"):
        install.install(cast("Connection", SimpleNamespace(info=info)))


def test_refuses_a_connection_with_an_open_transaction(database: Database) -> None:
    conn = database.connect()
    conn.execute("SELECT 1")
    with pytest.raises(ZdmError, match="one is open on this connection"):
        install.install(conn)


def test_gives_the_connection_back_as_it_was(database: Database) -> None:
    conn = database.connect(autocommit=True)
    conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    install.install(conn)
    assert (conn.autocommit, conn.isolation_level, conn.read_only) == (
        True,
        psycopg.IsolationLevel.SERIALIZABLE,
        None,
    )
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_nothing_stays_of_an_upgrade_that_fails(database: Database) -> None:
    conn = database.connect()
    database.execute("CREATE SCHEMA zdm; CREATE TABLE zdm.events (in_the_way int)")
    with pytest.raises(psycopg.errors.DuplicateTable):
        install.install(conn)
    assert database.execute("SELECT relname FROM pg_class WHERE relnamespace = 'zdm'::regnamespace") == [
        ("events",)
    ]
    assert install.status(conn).revision is None


def alembic(database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from alembic.config import CommandLine; from alembic.config import Config\n"
        "from alembic import command\n"
        "c = Config(); c.set_main_option('script_location', sys.argv[1]); c.set_main_option('path_separator', 'os')\n"
        "getattr(command, sys.argv[2])(c, sys.argv[3])"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(migrations()), *arguments],
        env={**os.environ, "ZDM_DATABASE_URL": database.dsn},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_plain_alembic_does_the_same_and_can_take_it_away(database: Database) -> None:
    done = alembic(database, "upgrade", "head")
    assert done.returncode == 0, done.stderr
    conn = database.connect()
    assert install.status(conn).current
    assert conn.execute("SELECT count(*) > 0 FROM zdm.phase_moves").fetchone() == (True,)
    conn.rollback()
    done = alembic(database, "downgrade", "base")
    assert done.returncode == 0, done.stderr
    left = conn.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'zdm'::regnamespace AND relkind IN ('r', 'S')"
    ).fetchall()
    assert left == [("alembic_version",)]
    assert conn.execute(
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'zdm'::regnamespace"
    ).fetchone() == (0,)


def test_it_is_not_taken_away_under_a_rollout(database: Database, conn: Connection, new_rollout: Any) -> None:
    rollout = new_rollout()
    conn.execute("UPDATE zdm.module_migrations SET state = 'preparing' WHERE id = %s", [rollout.id])
    conn.commit()
    done = alembic(database, "downgrade", "base")
    assert done.returncode != 0
    assert "while rollouts are under way: m on public (preparing)" in done.stderr


def test_every_table_is_commented_and_nobody_else_may_do_anything(conn: Connection) -> None:
    bare = conn.execute(
        """
        SELECT relname FROM pg_class
        WHERE relnamespace = 'zdm'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
          AND obj_description(oid) IS NULL
        """
    ).fetchall()
    assert bare == []
    open_to_all = conn.execute(
        """
        SELECT proname FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS a
        WHERE pronamespace = 'zdm'::regnamespace AND a.grantee = 0
        UNION ALL
        SELECT nspname FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) AS a
        WHERE nspname = 'zdm' AND a.grantee = 0
        """
    ).fetchall()
    assert open_to_all == []


def test_the_revisions_are_those_that_alembic_finds() -> None:
    scripts = ScriptDirectory.from_config(install._config())
    known, head = install._revisions()
    assert known == {script.revision for script in scripts.walk_revisions()}
    assert head == scripts.get_current_head()
