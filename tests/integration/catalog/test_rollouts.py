"""Rollouts, steps, and the rules the database itself enforces."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import psycopg
import pytest

from tests.integration.catalog.conftest import NewRollout
from tests.support import Connection, Database, Scene, eventually, on_all_versions
from tests.support.catalog import FakeMigration, make_plan
from zdm.catalog import registry, rollouts, steps
from zdm.catalog.rollouts import Rollout
from zdm.catalog.steps import StepStatus
from zdm.errors import BadInput, Busy, Drift, IllegalMove
from zdm.model.mapping import Authority
from zdm.model.phases import State, machine
from zdm.model.step import Phase

FORWARD = (
    State.PREPARING,
    State.PREPARED,
    State.MIGRATING,
    State.MIGRATED,
    State.SWITCHING_OVER,
    State.SWITCHED_OVER,
    State.CLEANING_UP,
    State.COMPLETED,
)


def go(conn: Connection, rollout: Rollout, *states: State) -> Rollout:
    for state in states:
        rollout = rollouts.move(conn, rollout.id, state)
    return rollout


def test_create_and_read_back(conn: Connection) -> None:
    migration = FakeMigration("m")
    registry.register(conn, migration, "")
    plan = make_plan("m")
    made = rollouts.create(conn, plan)
    assert (made.migration, made.target, made.state, made.phase) == ("m", "public", State.PLANNED, None)
    assert (made.authority, made.paused, made.checksum) == (Authority.OLD, False, migration.checksum)
    assert rollouts.plan(conn, made.id) == plan
    assert rollouts.get(conn, made.id) == made == rollouts.find(conn, "m", "public")
    assert rollouts.find(conn, "m", "tenant_2") is None
    assert [(s.step, s.status) for s in steps.all_of(conn, made.id)] == [
        ("preparation.t.columns", StepStatus.PENDING),
        ("cleanup.t.swap", StepStatus.PENDING),
    ]
    assert [s.step for s in steps.all_of(conn, made.id, Phase.CLEANUP)] == ["cleanup.t.swap"]


def test_unknown_rollouts_and_migrations(conn: Connection) -> None:
    for ask in (rollouts.get, rollouts.plan):
        with pytest.raises(BadInput, match="There is no rollout 77"):
            ask(conn, 77)
    with pytest.raises(BadInput, match="There is no rollout 77"):
        rollouts.move(conn, 77, State.PREPARING)
    with pytest.raises(BadInput, match="Migration 'm' is not registered"):
        rollouts.create(conn, make_plan("m"))


def test_one_live_rollout_per_migration_and_target(conn: Connection, new_rollout: NewRollout) -> None:
    first = new_rollout()
    with pytest.raises(BadInput, match=rf"already has a rollout on public: number {first.id}, planned\."):
        rollouts.create(conn, make_plan())
    assert rollouts.create(conn, make_plan(target="tenant_2")).target == "tenant_2"
    go(conn, first, State.PREPARING, State.ROLLING_BACK, State.ROLLED_BACK)
    second = rollouts.create(conn, make_plan())
    assert rollouts.find(conn, "m", "public") == second
    assert [r.id for r in rollouts.all_of(conn, target="public")] == [first.id, second.id]


def test_times_and_phases_of_the_whole_way(conn: Connection, new_rollout: NewRollout) -> None:
    rollout = go(conn, new_rollout(), *FORWARD)
    times = [
        rollout.created_at,
        rollout.preparation_started_at,
        rollout.preparation_finished_at,
        rollout.migration_started_at,
        rollout.migration_finished_at,
        rollout.switchover_started_at,
        rollout.switched_over_at,
        rollout.cleanup_started_at,
        rollout.completed_at,
    ]
    assert all(times)
    assert times == sorted(times, key=lambda t: t or rollout.created_at)
    assert rollout.phase is Phase.CLEANUP
    assert rollout.rollback_started_at is None


def test_a_failed_phase_keeps_its_start_and_says_why(conn: Connection, new_rollout: NewRollout) -> None:
    started = go(conn, new_rollout(), State.PREPARING)
    failed = rollouts.move(conn, started.id, State.PREPARATION_FAILED, failure="no luck")
    assert failed.failure == "no luck"
    again = go(conn, failed, State.PREPARING)
    assert again.failure is None
    assert again.preparation_started_at == started.preparation_started_at
    assert go(conn, again, State.PREPARING) == again, "a resumed phase may say again where it is"
    back = go(conn, again, State.ROLLING_BACK)
    assert back.phase is Phase.PREPARATION, "the way back remembers how far it had come"


def test_every_move_outside_the_machine_is_refused(conn: Connection, new_rollout: NewRollout) -> None:
    rollout = new_rollout()
    legal = set(machine().moves())
    conn.execute("ALTER TABLE zdm.module_migrations DISABLE TRIGGER legal_move")
    for source, target in product(State, State):
        if source is target:
            continue
        with conn.transaction(force_rollback=True):
            conn.execute(
                "UPDATE zdm.module_migrations SET state = %s WHERE id = %s", [source.value, rollout.id]
            )
            conn.execute("ALTER TABLE zdm.module_migrations ENABLE ALWAYS TRIGGER legal_move")
            if (source, target) in legal:
                assert rollouts.move(conn, rollout.id, target).state is target
            else:
                with pytest.raises(IllegalMove, match=f"cannot go from {source} to {target}"):
                    rollouts.move(conn, rollout.id, target)


def test_the_rules_hold_for_hand_written_sql_and_replica_role(
    conn: Connection, new_rollout: NewRollout
) -> None:
    rollout = new_rollout()
    conn.execute("SET session_replication_role = replica")
    with (
        pytest.raises(psycopg.errors.CheckViolation, match="cannot go from planned to completed"),
        conn.transaction(),
    ):
        conn.execute("UPDATE zdm.module_migrations SET state = 'completed' WHERE id = %s", [rollout.id])
    with pytest.raises(psycopg.errors.CheckViolation, match="begins as planned"), conn.transaction():
        conn.execute(
            "INSERT INTO zdm.module_migrations (migration, checksum, target, state, plan) "
            "VALUES ('m', 'x', 'public', 'migrated', '{}')"
        )


def test_a_refused_move_leaves_the_callers_transaction_usable(
    conn: Connection, new_rollout: NewRollout
) -> None:
    rollout = new_rollout()
    with pytest.raises(IllegalMove) as refused:
        rollouts.move(conn, rollout.id, State.COMPLETED)
    assert "From planned it can go to: preparing." in str(refused.value)
    assert rollouts.get(conn, rollout.id).state is State.PLANNED


def test_two_rollouts_never_change_one_table(conn: Connection, new_rollout: NewRollout) -> None:
    first, second, other = new_rollout("a"), new_rollout("b"), new_rollout("c", table="elsewhere")
    go(conn, first, State.PREPARING, State.PREPARED)
    with pytest.raises(Busy) as refused:
        rollouts.move(conn, second.id, State.PREPARING)
    assert refused.value.message == (
        f"Refused: rollout {second.id} of b cannot start: public.t is being changed by "
        f"rollout {first.id} of a on public, which is prepared."
    )
    assert refused.value.remedy == "Complete that rollout, or roll it back."
    go(conn, other, State.PREPARING)
    mapped = rollouts.plan(conn, second.id).mappings[0].table
    assert [(str(table), found.id) for table, found in rollouts.conflicts(conn, [mapped])] == [
        ("public.t", first.id)
    ]
    assert [r.id for r in rollouts.all_of(conn, active=True)] == [first.id, other.id]
    go(conn, first, State.ROLLING_BACK, State.ROLLED_BACK)
    go(conn, second, State.PREPARING)


def test_a_new_name_counts_like_an_old_one(conn: Connection, new_rollout: NewRollout) -> None:
    registry.register(conn, FakeMigration("renaming"), "")
    renaming = rollouts.create(conn, make_plan("renaming", table="before", final_name="t"))
    go(conn, renaming, State.PREPARING)
    with pytest.raises(Busy, match=r"public\.t is being changed by rollout"):
        go(conn, new_rollout("m"), State.PREPARING)


@on_all_versions
def test_two_that_start_at_once_on_one_table(
    database: Database, conn: Connection, new_rollout: NewRollout, scene: Scene
) -> None:
    first, second = new_rollout("a"), new_rollout("b")
    late = database.connect()
    conn.execute("BEGIN")  # else the move would be a transaction of its own
    go(conn, first, State.PREPARING)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(rollouts.move, late, second.id, State.PREPARING)
        eventually(lambda: scene.blockers(late.info.backend_pid), what="the second waiting for the first")
        conn.commit()
        with pytest.raises(Busy, match=f"by rollout {first.id} of a"):
            waiting.result(20)


def test_starting_over_forgets_the_first_attempt(conn: Connection, new_rollout: NewRollout) -> None:
    rollout = go(conn, new_rollout(), State.PREPARING)
    steps.mark_started(conn, rollout.id, "preparation.t.columns")
    rollouts.set_authority(conn, rollout.id, Authority.NEW)
    rollouts.set_fenced(conn, rollout.id, True)
    again = go(conn, rollout, State.ROLLING_BACK, State.ROLLED_BACK, State.PLANNED)
    assert (again.phase, again.authority, again.fenced_at) == (None, Authority.OLD, None)
    assert again.preparation_started_at is again.rolled_back_at is None
    assert {s.status for s in steps.all_of(conn, again.id)} == {StepStatus.PENDING}


def test_replan_only_before_it_starts(conn: Connection, new_rollout: NewRollout) -> None:
    rollout = new_rollout()
    plan = make_plan(table="other")
    rollouts.replan(conn, rollout.id, plan)
    assert rollouts.plan(conn, rollout.id) == plan
    assert [s.step for s in steps.all_of(conn, rollout.id)] == [
        "preparation.other.columns",
        "cleanup.other.swap",
    ]
    go(conn, rollout, State.PREPARING)
    with pytest.raises(IllegalMove, match="it has started"):
        rollouts.replan(conn, rollout.id, plan)


def test_pause_authority_and_fence(conn: Connection, new_rollout: NewRollout) -> None:
    rollout = new_rollout()
    assert not rollouts.is_paused(conn, rollout.id)
    rollouts.set_paused(conn, rollout.id, True)
    assert rollouts.is_paused(conn, rollout.id)
    rollouts.set_authority(conn, rollout.id, Authority.NEW)
    rollouts.set_fenced(conn, rollout.id, True)
    found = rollouts.get(conn, rollout.id)
    assert found.authority is Authority.NEW
    assert found.fenced_at is not None
    rollouts.set_fenced(conn, rollout.id, False)
    assert rollouts.get(conn, rollout.id).fenced_at is None


def test_marks_of_a_step(conn: Connection, new_rollout: NewRollout) -> None:
    rollout, step = new_rollout().id, "preparation.t.columns"
    with pytest.raises(Drift, match="cannot be marked finished: it is pending"):
        steps.mark_finished(conn, rollout, step)
    assert steps.mark_started(conn, rollout, step) == 1
    steps.mark_failed(conn, rollout, step, "lock timeout")
    assert steps.all_of(conn, rollout)[0].error == "lock timeout"
    assert steps.mark_started(conn, rollout, step) == 2
    steps.mark_finished(conn, rollout, step)
    record = steps.all_of(conn, rollout)[0]
    assert (record.status, record.attempts, record.error) == (StepStatus.FINISHED, 2, None)
    assert record.finished_at is not None
    with pytest.raises(Drift, match="cannot be marked started: it is finished"):
        steps.mark_started(conn, rollout, step)
    steps.mark_undone(conn, rollout, step)
    assert steps.status(conn, rollout, step) is StepStatus.UNDONE
    assert steps.mark_started(conn, rollout, step) == 3
    with pytest.raises(Drift, match="no such step"):
        steps.mark_started(conn, rollout, "no.such")


def test_the_finished_mark_commits_or_goes_with_the_work(
    database: Database, conn: Connection, new_rollout: NewRollout
) -> None:
    rollout, step = new_rollout().id, "preparation.t.columns"
    steps.mark_started(conn, rollout, step)
    conn.commit()
    conn.execute("CREATE TABLE t ()")
    steps.mark_finished(conn, rollout, step)
    conn.rollback()
    assert steps.status(conn, rollout, step) is StepStatus.STARTED
    assert database.value("SELECT to_regclass('t')::text") is None
