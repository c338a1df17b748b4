"""Probes answer with typed values; what a role may not see is unreadable, never zero."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.integration.db.support import lock, public
from tests.support import Database, Scene, eventually, on_all_versions
from zdm.db.probes.autovacuum import vacuums
from zdm.db.probes.blockers import blockers
from zdm.db.probes.long_transactions import long_transactions
from zdm.db.probes.replication_lag import StandbyLag, replication_lag
from zdm.db.probes.server import server
from zdm.db.probes.slots import slots
from zdm.db.session import Session, connect
from zdm.devdb import DevServer
from zdm.devdb.replica import replica_of
from zdm.model.step import Lock


@on_all_versions
def test_server(conn: Session, database: Database) -> None:
    found = server(conn)
    assert (found.version, found.superuser, found.in_recovery, found.pooled) == (
        conn.info.server_version,
        True,
        False,
        False,
    )
    assert found.may_set_replication_role
    role = database.create_role()
    with connect(database.dsn_for(role), application_name="zdm test") as other:
        plain = server(other)
    assert not any(
        (
            plain.superuser,
            plain.may_monitor,
            plain.may_signal,
            plain.may_set_replication_role,
            plain.may_set_deadlock_timeout,
            plain.may_create_schema,
        )
    )


@on_all_versions
def test_long_transactions(conn: Session, database: Database, scene: Scene) -> None:
    old = scene.session("old")
    old.begin("REPEATABLE READ")
    old.run("SELECT 'a secret'")
    found = long_transactions(conn, timedelta())
    assert [t.pid for t in found.found] == [old.pid]
    assert found.found[0].holds_xmin
    assert found.unreadable == ""
    assert long_transactions(conn, timedelta(hours=1)).found == ()
    role = database.create_role()
    with connect(database.dsn_for(role), application_name="zdm test") as other:
        assert "pg_monitor" in long_transactions(other, timedelta()).unreadable


@on_all_versions
def test_blockers_of_a_role_that_sees_little(database: Database, scene: Scene) -> None:
    database.execute("CREATE TABLE t (a int)")
    old = scene.session("old")
    old.begin()
    old.run("SELECT * FROM t")
    role = database.create_role()
    with connect(database.dsn_for(role), application_name="zdm test") as other:
        (found,) = blockers(other, [lock("t")])
        assert blockers(other, [lock("t", Lock.SHARE_UPDATE_EXCLUSIVE)]) == ()
    assert (found.pid, found.state, found.transaction_age) == (old.pid, "unknown", None)


@on_all_versions
def test_blockers_on_partitions_count_for_the_parent(database: Database, conn: Session, scene: Scene) -> None:
    database.execute(
        "CREATE TABLE t (a int) PARTITION BY RANGE (a); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (2)"
    )
    old = scene.session("old")
    old.begin()
    old.run("SELECT * FROM t1")
    assert [found.relation for found in blockers(conn, [lock("t")])] == ["public.t1"]


@on_all_versions
def test_vacuums(database: Database, conn: Session, scene: Scene) -> None:
    database.execute("CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 50000); DELETE FROM t")
    assert vacuums(conn, public("t")) == ()
    session = scene.session("vacuum")
    session.run("SET vacuum_cost_delay = 100")
    session.run("SET vacuum_cost_limit = 1")
    pending = session.start("VACUUM t")
    eventually(
        lambda: database.value("SELECT count(*) FROM pg_stat_progress_vacuum WHERE heap_blks_scanned > 0")
    )
    (found,) = vacuums(conn, public("t"))
    assert (found.pid, found.automatic, found.wraparound) == (session.pid, False, False)
    assert found.done is not None
    session.cancel()
    pending.error()


@on_all_versions
def test_slots(database: Database, conn: Session) -> None:
    name = f"zdm_test_{database.name[-8:]}"
    if database.value("SHOW wal_level") != "logical":
        pytest.skip("the server has no logical decoding")
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", name)
    (found,) = (slot for slot in slots(conn) if slot.name == name)
    assert (found.kind, found.plugin, found.database, found.active) == (
        "logical",
        "pgoutput",
        database.name,
        False,
    )
    assert found.retained_bytes is not None


@on_all_versions
def test_configured_standbys_that_are_none(database: Database, conn: Session) -> None:
    gone, primary = replication_lag(conn, ["postgresql://u:s3cr3t@127.0.0.1:1/d", database.dsn])[-2:]
    assert "cannot connect" in gone.unreadable
    assert "s3cr3t" not in repr(gone)
    assert "not a standby" in primary.unreadable
    assert gone.bytes is None
    assert gone.behind is None


def test_standbys(own_server: DevServer) -> None:
    standby = replica_of(own_server, "standby_a")
    role_sql = "CREATE ROLE plain LOGIN; CREATE DATABASE app"
    with connect(own_server.dsn(), application_name="zdm test") as primary:
        for statement in role_sql.split(";"):
            primary.execute(statement.encode())
        primary.execute("CREATE TABLE public.t (a int)")
        standby.catch_up()

        def lag() -> tuple[StandbyLag, ...]:
            return replication_lag(primary, [standby.dsn()])

        def caught_up() -> bool:
            return all(one.bytes == 0 and one.behind == timedelta() and not one.unreadable for one in lag())

        eventually(caught_up, what="both views of the standby to say that it is caught up")
        seen, asked = lag()
        assert (seen.name, seen.state, asked.state) == ("standby_a", "streaming", "asked itself")

        with standby.connect(autocommit=True) as inside:
            inside.execute("SELECT pg_wal_replay_pause()")
            primary.execute("INSERT INTO public.t SELECT generate_series(1, 1000)")
            eventually(lambda: all((one.bytes or 0) > 0 for one in lag()))
            assert all(one.behind is None or one.behind > timedelta() for one in lag())
            inside.execute("SELECT pg_wal_replay_resume()")
        eventually(caught_up)

        primary.execute("SET ROLE plain")
        assert [bool(one.unreadable) for one in lag()] == [True, False]
        assert lag()[0].bytes is None
        primary.execute("RESET ROLE")

        standby.stop()
        eventually(lambda: len(lag()) == 1)
        assert "cannot connect" in lag()[0].unreadable
