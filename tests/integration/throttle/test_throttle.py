"""Signals read from a real server, and the governor over them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

import psycopg
import pytest

from tests.support.interleave import Scene, eventually
from tests.support.servers import Database
from zdm.db.session import connect
from zdm.devdb import DevServer
from zdm.throttle import governor
from zdm.throttle.base import Reading, Signal, signals, unreadable
from zdm.throttle.governor import Governor
from zdm.throttle.load import Load
from zdm.throttle.replica_lag import ReplicaLag
from zdm.throttle.settings import ThrottleSettings
from zdm.throttle.wal_archive import WalArchive


def opener(database: Database, user: str | None = None) -> Any:
    dsn = database.server.dsn(database.name, user)
    return lambda: connect(dsn, application_name="zdm test")


def test_finds_the_signals() -> None:
    assert [signal.name for signal in signals()] == ["load", "replica_lag", "wal_archive"]


def test_load_counts_running_statements_of_others(database: Database, scene: Scene) -> None:
    with connect(database.dsn, application_name="zdm test") as conn:
        before = Load(1000).read(conn).value
        assert before is not None
        lock = scene.session("lock")
        lock.run("SELECT pg_advisory_lock(1)")
        waiting = scene.session("waiting").start("SELECT pg_advisory_lock(1)")
        waiting.wait_blocked()
        reading = Load(1000).read(conn)
        assert reading.value == before + 1
        assert reading.ok
        assert not Load(int(before)).read(conn).ok
        lock.run("SELECT pg_advisory_unlock(1)")
        waiting.result()


def test_load_that_is_hidden_throttles(database: Database, scene: Scene) -> None:
    scene.session("somebody else's")
    role = database.create_role()
    with connect(database.server.dsn(database.name, role), application_name="zdm test") as conn:
        reading = Load(1000).look(conn)
    assert not reading.ok
    assert "hidden from this role" in reading.text


def test_archive_backlog(make_server: Any) -> None:
    server: DevServer = make_server(
        settings={"archive_mode": "on", "archive_command": "true", "archive_timeout": "0"}
    )
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        assert WalArchive(1).read(conn).ok  # nothing was archived yet

        def switch() -> None:
            conn.execute("SELECT pg_logical_emit_message(false, 'x', 'x')")
            conn.execute("SELECT pg_switch_wal()")

        def archived() -> int:
            row = conn.execute("SELECT archived_count FROM pg_stat_archiver").fetchone()
            assert row is not None
            return int(row[0])

        switch()
        eventually(lambda: archived() >= 1)
        conn.execute("ALTER SYSTEM SET archive_command = 'false'")
        conn.execute("SELECT pg_reload_conf()")
        eventually(lambda: conn.execute("SHOW archive_command").fetchone() == ("false",))
        for _ in range(3):
            switch()
        reading = WalArchive(1).read(conn)
        assert reading.value is not None
        assert reading.value >= 2
        assert not reading.ok
        assert WalArchive(42).read(conn).ok


def test_a_replica_that_cannot_be_read_throttles(database: Database) -> None:
    with connect(database.dsn, application_name="zdm test") as conn:
        assert ReplicaLag(timedelta(seconds=5)).look(conn).ok
        nobody = "host=127.0.0.1 port=1 dbname=nowhere"
        reading = ReplicaLag(timedelta(seconds=5), (nobody,)).look(conn)
    assert not reading.ok
    assert "cannot be read" in reading.text


class Scripted(Signal):
    """Says what a test wants."""

    name: ClassVar[str] = "scripted"
    answer: ClassVar[Reading] = Reading(0, 1, ok=True, text="")
    reads: ClassVar[int] = 0

    @classmethod
    def configured(cls, settings: ThrottleSettings) -> Scripted:
        del settings
        return cls()

    def read(self, conn: psycopg.Connection[Any]) -> Reading:
        type(self).reads += 1
        conn.execute("SELECT 1")
        return self.answer


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    monkeypatch.setattr(governor, "signals", lambda: (Scripted,))
    monkeypatch.setattr(Scripted, "answer", Reading(0, 1, ok=True, text=""))
    monkeypatch.setattr(Scripted, "reads", 0)
    return Scripted


def test_governor(database: Database, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(governor, "READ_EVERY", 0.0)
    with Governor(opener(database), ThrottleSettings(nice=2)) as asked:
        assert asked.pause(0.0).seconds == 0
        assert asked.pause(0.1).seconds == pytest.approx(0.2)
        monkeypatch.setattr(Scripted, "answer", unreadable(1, "nobody knows"))
        pause = asked.pause(0.1)
        assert pause.seconds > 0
        assert pause.reason == "nobody knows"
        # The connection breaks: the next look makes a new one.
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'zdm test'"
        )
        assert "cannot be read" in asked.pause(0.0).reason
        monkeypatch.setattr(Scripted, "answer", Reading(0, 1, ok=True, text=""))
        assert asked.pause(0.0).seconds == 0


def test_governor_reads_once_a_second(database: Database, scripted: type[Scripted]) -> None:
    with Governor(opener(database), ThrottleSettings()) as asked:
        for _ in range(50):
            asked.pause(0.01)
    assert scripted.reads <= 2


def test_governor_without_a_server(database: Database) -> None:
    def nobody() -> Any:
        return connect("host=127.0.0.1 port=1 dbname=nowhere", application_name="zdm test")

    with Governor(nobody, ThrottleSettings()) as asked:
        pause = asked.pause(0.0)
    assert pause.seconds > 0
    assert "does not answer" in pause.reason
