"""The lease: who holds it, who may take it over, and that whoever lost it cannot commit."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.integration.catalog.conftest import NewRollout
from tests.support import Connection, Database, Scene, eventually, on_all_versions
from zdm.catalog import events, lease
from zdm.catalog.lease import Lease
from zdm.errors import BadInput, Busy, ZdmError

NOW = timedelta(0)
NEVER = timedelta(days=1)


@pytest.fixture
def rollout(new_rollout: NewRollout) -> int:
    return new_rollout().id


@pytest.fixture
def take(database: Database) -> Iterator[Callable[..., Lease]]:
    """``take(rollout, "ana", …)``: acquire without patience; released at the end of the test."""
    with ExitStack() as stack:

        def acquire(rollout: int, who: str = "zdm advance by ana", **options: Any) -> Lease:
            connect = options.pop("connect", lambda: psycopg.connect(database.dsn))
            return stack.enter_context(lease.acquire(connect, rollout, who, **{"patience": NOW, **options}))

        yield acquire


def heartbeat_pid(conn: Connection, rollout: int) -> int:
    row = conn.execute(
        "SELECT backend_pid FROM zdm.lease_heartbeats WHERE rollout = %s", [rollout]
    ).fetchone()
    conn.commit()
    assert row is not None
    pid: int = row[0]
    return pid


def silence(conn: Connection, rollout: int) -> None:
    """As if the last beat had been long ago."""
    conn.execute(
        "UPDATE zdm.lease_heartbeats SET beat_at = beat_at - interval '1 h' WHERE rollout = %s", [rollout]
    )
    conn.commit()


@on_all_versions
def test_a_second_one_is_told_who_holds_it(
    conn: Connection, rollout: int, take: Callable[..., Lease]
) -> None:
    held = take(rollout, "zdm advance by ana")
    with pytest.raises(
        Busy, match=rf"^Rollout {rollout} is held by zdm advance by ana \(host .+, process \d+\) since "
    ) as busy:
        take(rollout, "zdm advance by ben")
    assert "last heard of 0." in busy.value.message
    found = lease.holder(conn, rollout)
    assert found is not None
    assert found.token == held.token
    assert not found.free()
    held.check()


def test_released_and_free_again(conn: Connection, rollout: int, take: Callable[..., Lease]) -> None:
    first = take(rollout)
    first.release()
    first.release()
    assert lease.holder(conn, rollout) is None
    take(rollout, "ben")
    told = [(e.from_state, e.to_state) for e in events.all_of(conn, rollout=rollout, kind="lease")]
    assert told == [(None, "zdm advance by ana"), ("zdm advance by ana", None), (None, "ben")]


def test_releasing_does_not_wait_for_a_transaction_that_is_still_open(
    database: Database, rollout: int, take: Callable[..., Lease]
) -> None:
    held = take(rollout)
    work = database.connect()
    held.guard(work.cursor())
    held.release()
    work.rollback()
    take(rollout, "ben", patience=timedelta(seconds=5)).check()


def test_rollouts_are_independent(new_rollout: NewRollout, take: Callable[..., Lease]) -> None:
    take(new_rollout("a").id)
    take(new_rollout("b").id)


def test_no_such_rollout(conn: Connection, take: Callable[..., Lease]) -> None:
    with pytest.raises(BadInput, match="There is no rollout 77"):
        take(77)


HOLD = """
import sys, psycopg
from zdm.catalog import lease
held = lease.acquire(lambda: psycopg.connect(sys.argv[1]), int(sys.argv[2]), "the killed one")
work = psycopg.connect(sys.argv[1], application_name=held.application_name)
held.guard(work.cursor())
print("held", flush=True)
work.execute("SELECT pg_sleep(600)")
"""


@on_all_versions
def test_kill_9_and_run_again(
    database: Database, conn: Connection, rollout: int, scene: Scene, take: Callable[..., Lease]
) -> None:
    """Although a transaction of the killed one is still running in the server, guarded and deep in a statement."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, database.dsn, str(rollout)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(Busy, match="the killed one"):
                take(rollout)
        finally:
            process.send_signal(signal.SIGKILL)
    again = take(rollout, "the next one", patience=timedelta(seconds=5))
    again.check()
    found = lease.holder(conn, rollout)
    assert found is not None
    assert found.holder == "the next one"


def test_a_silent_holder_expires_and_cannot_commit(
    database: Database, conn: Connection, rollout: int, take: Callable[..., Lease]
) -> None:
    zombie = take(rollout, "paused", beat=NEVER)
    silence(conn, rollout)
    take(rollout, "taker")
    work = database.connect()
    with pytest.raises(Busy, match="was taken over by somebody else"):
        zombie.guard(work.cursor())
    assert zombie.lost
    with pytest.raises(Busy, match="was taken over"):
        zombie.check()


def test_a_takeover_waits_for_a_guarded_transaction(
    database: Database, conn: Connection, rollout: int, scene: Scene, take: Callable[..., Lease]
) -> None:
    zombie = take(rollout, "paused", beat=NEVER)
    work = database.connect()
    work.execute("CREATE TABLE chunk ()")
    zombie.guard(work.cursor())
    silence(conn, rollout)
    taker = database.connect()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(take, rollout, "taker", connect=lambda: taker)
        eventually(
            lambda: work.info.backend_pid in scene.blockers(taker.info.backend_pid), what="the taker waiting"
        )
        work.commit()
        waiting.result(20).check()
    assert database.value("SELECT to_regclass('chunk')::text") == "chunk"
    with pytest.raises(Busy, match="was taken over"):
        zombie.guard(work.cursor())


def test_a_takeover_does_not_wait_for_ever(
    database: Database, conn: Connection, rollout: int, take: Callable[..., Lease]
) -> None:
    zombie = take(rollout, "paused", beat=NEVER)
    work = database.connect()
    zombie.guard(work.cursor())
    silence(conn, rollout)
    with pytest.raises(Busy, match=r"who is gone, but a transaction of theirs is still running") as busy:
        take(rollout, "taker", takeover_wait=timedelta(milliseconds=20))
    assert zombie.application_name in busy.value.remedy


def test_a_guard_waits_for_a_takeover_and_then_fails(
    database: Database, conn: Connection, rollout: int, scene: Scene, take: Callable[..., Lease]
) -> None:
    zombie = take(rollout, "paused", beat=NEVER)
    taker = scene.session("taker")
    taker.run("BEGIN")
    taker.run("UPDATE zdm.leases SET token = %s WHERE rollout = %s", uuid.uuid4(), rollout)
    work = database.connect()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(zombie.guard, work.cursor())
        eventually(lambda: taker.pid in scene.blockers(work.info.backend_pid), what="the guard waiting")
        taker.run("COMMIT")
        with pytest.raises(Busy, match="was taken over"):
            waiting.result(20)


def test_only_one_of_two_takers_wins(
    database: Database, conn: Connection, rollout: int, scene: Scene, take: Callable[..., Lease]
) -> None:
    dead = take(rollout, "dead", beat=NEVER)
    silence(conn, rollout)
    gate = scene.session("gate")
    gate.run("BEGIN")
    gate.run("SELECT FROM zdm.leases WHERE rollout = %s FOR SHARE", rollout)
    takers = [database.connect(), database.connect()]
    with ThreadPoolExecutor(2) as pool:
        racing = [
            pool.submit(take, rollout, f"taker {n}", connect=lambda c=c: c) for n, c in enumerate(takers)
        ]
        for taker in takers:
            eventually(lambda pid=taker.info.backend_pid: scene.blockers(pid), what="both waiting")  # type: ignore[misc]
        gate.run("COMMIT")
        outcomes = [future.exception(20) for future in racing]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Busy", "NoneType"]
    assert next(str(o) for o in outcomes if o).startswith(f"Rollout {rollout} is held by taker ")
    assert dead.token != next(f.result().token for f in racing if f.exception() is None)


def test_only_one_of_two_first_comers_wins(
    database: Database, rollout: int, scene: Scene, take: Callable[..., Lease]
) -> None:
    first = scene.session("first")
    first.run("BEGIN")
    first.run(
        "INSERT INTO zdm.leases (rollout, token, holder, host, os_pid) VALUES (%s, gen_random_uuid(), 'first', 'h', 1)",
        rollout,
    )
    first.run("INSERT INTO zdm.lease_heartbeats (rollout) VALUES (%s)", rollout)
    late = database.connect()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(take, rollout, "late", connect=lambda: late)
        eventually(lambda: first.pid in scene.blockers(late.info.backend_pid), what="the second waiting")
        first.run("COMMIT")
        assert str(waiting.exception(20)).startswith(
            f"Rollout {rollout} is held by first (host h, process 1)"
        )


def test_beats_go_on_while_a_transaction_is_guarded(
    database: Database, conn: Connection, rollout: int, take: Callable[..., Lease]
) -> None:
    held = take(rollout, beat=timedelta(milliseconds=10))
    work = database.connect()
    work.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    held.guard(work.cursor())
    start = database.value("SELECT clock_timestamp()")
    eventually(
        lambda: database.value("SELECT beat_at > %s FROM zdm.lease_heartbeats", start),
        what="a beat beside a guard",
    )
    held.guard(work.cursor())
    work.commit()
    held.check()


def test_a_holder_whose_heartbeat_connection_ends_comes_back(
    conn: Connection, rollout: int, scene: Scene, take: Callable[..., Lease]
) -> None:
    held = take(rollout, beat=NEVER)
    before = heartbeat_pid(conn, rollout)
    scene.terminate(before)
    eventually(
        lambda: heartbeat_pid(conn, rollout) != before, what="a new connection, long before the next beat"
    )
    held.check()
    with pytest.raises(Busy):
        take(rollout, "ben")


def test_a_holder_that_comes_back_too_late_notices(
    database: Database, conn: Connection, rollout: int, scene: Scene, take: Callable[..., Lease]
) -> None:
    reachable = False

    def connect() -> Connection:
        if not reachable:
            raise psycopg.OperationalError("no route to host")
        return psycopg.connect(database.dsn)

    first = psycopg.connect(database.dsn)
    given = iter([first])
    held = take(rollout, beat=NEVER, connect=lambda: next(given, None) or connect())
    scene.terminate(first.info.backend_pid)
    taker = take(rollout, "taker", patience=timedelta(seconds=5))
    reachable = True
    eventually(lambda: held.lost, what="the old holder noticing")
    with pytest.raises(Busy, match="was taken over"):
        held.check()
    held.release()
    found = lease.holder(conn, rollout)
    assert found is not None
    assert found.token == taker.token, "releasing a lost lease leaves the new holder's alone"


def test_behind_a_pooler_only_time_tells(
    database: Database,
    conn: Connection,
    rollout: int,
    take: Callable[..., Lease],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Pooled(psycopg.Connection[Any]):
        """Its server process is not the one that the login answered with."""

        @property
        def info(self) -> Any:
            real = super().info

            class Info:
                backend_pid = 1

                def __getattr__(self, name: str) -> Any:
                    return getattr(real, name)

            return Info()

    held = take(rollout, "pooled", connect=lambda: Pooled.connect(database.dsn))
    assert heartbeat_pid(conn, rollout) is None
    with pytest.raises(Busy, match="held by pooled"):
        take(rollout, "ben")
    silence(conn, rollout)
    take(rollout, "ben").check()
    held.release()


def test_a_process_of_another_role_counts_although_its_start_is_hidden(
    database: Database, conn: Connection, rollout: int, take: Callable[..., Lease], scene: Scene
) -> None:
    role = database.create_role("second")
    database.execute(
        f'GRANT USAGE ON SCHEMA zdm TO "{role}"; GRANT ALL ON ALL TABLES IN SCHEMA zdm TO "{role}"; '
        f'GRANT ALL ON ALL SEQUENCES IN SCHEMA zdm TO "{role}"'
    )
    held = take(rollout, "of the superuser", beat=NEVER)
    other = database.connect(role)
    hidden = other.execute(
        "SELECT backend_start FROM pg_stat_activity WHERE pid = %s", [heartbeat_pid(conn, rollout)]
    ).fetchall()
    assert hidden == [(None,)], "this is what the server shows to another role"
    other.rollback()
    with pytest.raises(Busy, match="of the superuser"):
        take(rollout, "the other role", connect=lambda: psycopg.connect(database.dsn_for(role)))
    held.release()


def test_a_reused_process_id_is_not_the_holder(
    conn: Connection, rollout: int, take: Callable[..., Lease]
) -> None:
    take(rollout, "dead", beat=NEVER)
    conn.execute("UPDATE zdm.lease_heartbeats SET backend_start = backend_start - interval '1 day'")
    conn.commit()
    take(rollout, "next").check()


def test_a_guard_without_a_transaction_is_a_mistake(
    database: Database, rollout: int, take: Callable[..., Lease]
) -> None:
    held = take(rollout)
    work = database.connect(autocommit=True)
    with pytest.raises(ZdmError, match="none is open"):
        held.guard(work.cursor())
    with work.transaction():
        held.guard(work.cursor())


def test_defaults_of_the_database_do_not_matter(
    database: Database, conn: Connection, rollout: int, take: Callable[..., Lease]
) -> None:
    database.execute(
        f"ALTER DATABASE {database.name} SET default_transaction_isolation = 'serializable'; "
        f"ALTER DATABASE {database.name} SET default_transaction_read_only = on"
    )
    held = take(rollout, beat=timedelta(milliseconds=10))
    start = conn.execute("SELECT clock_timestamp()").fetchone()
    assert start is not None
    conn.commit()

    def beaten() -> object:
        rows = conn.execute("SELECT FROM zdm.lease_heartbeats WHERE beat_at > %s", start).fetchall()
        conn.commit()
        return rows

    eventually(beaten, what="a beat")
    held.check()
