"""Events, verdicts, approvals, failures, settings."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.catalog.conftest import NewRollout
from tests.support import Connection, Database, on_all_versions
from tests.support.catalog import FakeMigration
from zdm.catalog import (
    approvals,
    backfills,
    events,
    gates,
    registry,
    rollouts,
    settings,
    steps,
    sync_failures,
)
from zdm.model.names import qualified
from zdm.model.phases import State
from zdm.model.step import Phase
from zdm.model.verdict import Answer, Verdict


@on_all_versions
def test_every_change_of_state_is_recorded(conn: Connection, new_rollout: NewRollout) -> None:
    rollout = new_rollout().id
    table = qualified("public", "t")
    rollouts.move(conn, rollout, State.PREPARING)
    steps.mark_started(conn, rollout, "preparation.t.columns")
    steps.mark_failed(conn, rollout, "preparation.t.columns", "no luck")
    backfills.open(conn, rollout, table, [backfills.Part(1, 1, 1)], 1)
    backfills.advance(conn, rollout, table, 0, 1, 10)
    backfills.finish(conn, rollout, table)
    rollouts.set_paused(conn, rollout, True)
    approvals.add(conn, rollout, Phase.SWITCHOVER, "ana", "looks good")
    told = [(e.kind, e.subject, e.from_state, e.to_state) for e in events.all_of(conn, rollout=rollout)]
    assert told == [
        ("rollout", "m.public", None, "planned"),
        ("rollout", "m.public", "planned", "preparing"),
        ("step", "preparation.t.columns", "pending", "started"),
        ("step", "preparation.t.columns", "started", "failed"),
        ("backfill", "public.t", None, "running"),
        ("backfill", "public.t", "running", "finished"),
        ("rollout", "m.public", "preparing", "preparing"),
        ("approval", "switchover", None, "ana"),
    ]
    found = events.all_of(conn, rollout=rollout)
    assert found[0].migration == "m"
    assert found[3].detail["error"] == "no luck"
    assert found[6].detail["paused"] is True
    assert "plan" not in found[0].detail
    assert events.all_of(conn, migration="m", kind="migration")[0].to_state == FakeMigration("m").checksum


def test_explicit_events_and_following_along(conn: Connection) -> None:
    for n in range(3):
        events.record(conn, "lock_retry", rollout=7, subject=f"s{n}", detail={"n": n})
    first, second, third = events.all_of(conn, rollout=7)
    assert (first.kind, first.subject, first.detail, first.actor) == (
        "lock_retry",
        "s0",
        {"n": 0},
        conn.info.user,
    )
    assert events.all_of(conn, after=first.id) == [second, third]
    assert events.all_of(conn, rollout=7, limit=2) == [second, third]


@pytest.mark.parametrize(
    "statement", ["UPDATE zdm.events SET kind = 'x'", "DELETE FROM zdm.events", "TRUNCATE zdm.events"]
)
@pytest.mark.parametrize("role", ["origin", "replica"])
def test_the_history_cannot_be_changed(conn: Connection, statement: str, role: str) -> None:
    conn.execute(f"SET session_replication_role = {role}".encode())
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"zdm\.events is append-only"):
        conn.execute(statement.encode())


def test_the_history_outlives_what_it_tells_of(conn: Connection, new_rollout: NewRollout) -> None:
    rollout = new_rollout().id
    conn.execute("DELETE FROM zdm.module_migrations WHERE id = %s", [rollout])
    last = events.all_of(conn, rollout=rollout, kind="rollout")[-1]
    assert (last.from_state, last.to_state, last.detail["op"]) == ("planned", None, "delete")


def test_verdicts(conn: Connection, new_rollout: NewRollout) -> None:
    rollout = new_rollout().id
    assert gates.latest(conn, rollout) is None
    passed = Verdict(gate="soak", answer=Answer.PASSED, observed="25 h", threshold="24 h")
    refused = Verdict(
        gate="drift", answer=Answer.REFUSED, observed="1 object", threshold="none", remedy="look"
    )
    gates.store(conn, rollout, Phase.CLEANUP, [refused])
    number = gates.store(conn, rollout, Phase.CLEANUP, [passed, refused])
    found = gates.latest(conn, rollout)
    assert found is not None
    assert (found.number, found.phase, found.verdicts) == (number, Phase.CLEANUP, (passed, refused))
    assert [e.to_state for e in events.all_of(conn, rollout=rollout, kind="gate")] == [
        "refused",
        "passed",
        "refused",
    ]


def test_each_person_approves_once(conn: Connection, new_rollout: NewRollout) -> None:
    rollout = new_rollout().id
    assert approvals.add(conn, rollout, Phase.CLEANUP, "ana", "go")
    assert not approvals.add(conn, rollout, Phase.CLEANUP, "ana")
    assert approvals.add(conn, rollout, Phase.SWITCHOVER, "ben")
    assert [(a.phase, a.approver, a.comment) for a in approvals.all_of(conn, rollout)] == [
        (Phase.CLEANUP, "ana", "go"),
        (Phase.SWITCHOVER, "ben", ""),
    ]
    assert approvals.all_of(conn, rollout, Phase.CLEANUP)[0].checksum == FakeMigration("m").checksum
    assert approvals.revoke(conn, rollout, Phase.CLEANUP, "ana")
    assert not approvals.revoke(conn, rollout, Phase.CLEANUP, "ana")
    assert approvals.all_of(conn, rollout, Phase.CLEANUP) == []


def test_failures_of_the_sync_triggers(conn: Connection) -> None:
    for key in ("1", "2"):
        conn.execute(
            "INSERT INTO zdm.sync_failures (rollout, table_oid, key, group_name, sqlstate, message) "
            "VALUES (7, 4711, jsonb_build_object('id', %s::text), 'g', '22003', 'out of range')",
            [key],
        )
    assert sync_failures.count(conn, 7) == sync_failures.count(conn, 7, 4711) == 2
    assert sync_failures.count(conn, 7, 1) == sync_failures.count(conn, 8) == 0
    assert [f.key for f in sync_failures.all_of(conn, 7)] == [{"id": "1"}, {"id": "2"}]
    assert sync_failures.clear(conn, 7) == 2


def test_settings(conn: Connection) -> None:
    assert settings.get(conn, "budget", 100) == 100
    settings.put(conn, "budget", 50)
    settings.put(conn, "budget", {"ms": 60})
    assert settings.get(conn, "budget") == {"ms": 60}


def test_a_failed_up_needs_no_right_on_the_catalog(database: Database, conn: Connection) -> None:
    """What the sync triggers rely on: a SECURITY DEFINER function of the catalog's owner, for a role without any grant."""
    role = database.create_role("app")
    conn.execute(
        f"""
        CREATE TABLE t (id int);
        GRANT INSERT ON t TO "{role}";
        CREATE FUNCTION zdm.failed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
        BEGIN
            INSERT INTO zdm.sync_failures (rollout, table_oid, key, group_name, sqlstate, message)
            VALUES (1, TG_RELID, pg_catalog.jsonb_build_object('id', NEW.id), 'g', '22003', 'x');
            RETURN NULL;
        END $$;
        REVOKE ALL ON FUNCTION zdm.failed() FROM PUBLIC;
        CREATE TRIGGER failed AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION zdm.failed();
        """.encode()
    )
    conn.commit()
    app = database.connect(role, autocommit=True)
    app.execute("INSERT INTO t VALUES (5)")
    assert sync_failures.count(conn, 1) == 1
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute("SELECT * FROM zdm.sync_failures")


def test_registering_again_by_another_role_is_told(conn: Connection) -> None:
    registry.register(conn, FakeMigration("m"), "")
    registry.register(conn, FakeMigration("m", description="x"), "", replace=True)
    first, second = events.all_of(conn, migration="m")
    assert (first.detail["op"], second.detail["op"], second.from_state) == (
        "insert",
        "update",
        first.to_state,
    )
