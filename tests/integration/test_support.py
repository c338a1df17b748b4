"""The tests' own helpers: what everything else relies on is itself tested."""

from __future__ import annotations

import random
from collections.abc import Callable

import psycopg
import pytest

from tests.support import Connection, Database, Scene, Server, Writers, on_all_versions
from tests.support.servers import url
from zdm.devdb import DevServer


@on_all_versions
def test_every_test_gets_a_database_of_its_own(database: Database, server: Server) -> None:
    assert database.value("SELECT current_database()") == database.name
    assert database.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    assert server.major in range(14, 30)


def test_dropping_removes_what_keeps_a_database_alive(server: Server) -> None:
    database = Database(server)
    # The slot first: making one waits for every transaction that is open, prepared ones too.
    database.execute("SELECT pg_create_logical_replication_slot('slot_' || current_database(), 'pgoutput')")
    connection = database.connect()
    connection.execute("CREATE TABLE t (i int)")
    connection.execute("PREPARE TRANSACTION 'left behind'")
    role = database.create_role()
    database.execute(f"GRANT USAGE ON SCHEMA public TO {role}")

    database.drop()

    with server.admin() as admin:
        assert admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database.name]).fetchall() == []
        assert admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchall() == []
        slots = admin.execute("SELECT 1 FROM pg_replication_slots WHERE database = %s", [database.name])
        assert slots.fetchall() == []


def test_a_role_connects(database: Database, connect: Callable[..., Connection]) -> None:
    role = database.create_role("reader")
    row = connect(user=role).execute("SELECT current_user").fetchone()
    assert row == (role,)


@pytest.mark.parametrize(
    "parts, expected",
    [
        (
            {"user": "u", "password": "p@ss", "host": "h", "port": "1", "dbname": "d"},
            "postgresql://u:p%40ss@h:1/d",
        ),
        (
            {"user": "u", "host": "/run/pg", "port": "1", "dbname": "d"},
            "postgresql://u@/d?host=/run/pg&port=1",
        ),
        (
            {"user": "u", "host": "h", "dbname": "d", "sslmode": "require"},
            "postgresql://u@h/d?sslmode=require",
        ),
    ],
)
def test_urls(parts: dict[str, str], expected: str) -> None:
    assert url(parts) == expected
    assert {k: str(v) for k, v in psycopg.conninfo.conninfo_to_dict(expected).items()} == parts


class TestScene:
    def test_a_blocked_statement_is_seen_and_goes_on(self, database: Database, scene: Scene) -> None:
        database.execute("CREATE TABLE t (id int PRIMARY KEY, x int); INSERT INTO t VALUES (1, 0)")
        a, b = scene.session("a"), scene.session("b")
        a.begin()
        a.run("UPDATE t SET x = x + 1 WHERE id = 1")
        waiting = b.start("UPDATE t SET x = x + 10 WHERE id = 1 RETURNING x")

        assert waiting.wait_blocked(by=a) == [a.pid]
        assert not waiting.done
        a.run("COMMIT")

        assert waiting.result() == [(11,)]

    def test_a_statement_that_is_not_blocked_fails_the_script(self, scene: Scene) -> None:
        quick = scene.session("quick").start("SELECT 1")
        with pytest.raises(AssertionError, match="was not blocked"):
            quick.wait_blocked()

    def test_errors_carry_their_sqlstate(self, database: Database, scene: Scene) -> None:
        database.execute("CREATE TABLE t (id int PRIMARY KEY)")
        session = scene.session("a")
        assert session.start("INSERT INTO t VALUES (1), (1)").error() == "23505"
        assert session.start("INSERT INTO t VALUES (%s)", 2).error() is None

    def test_a_script_that_ends_early_leaves_nobody_waiting(self, database: Database) -> None:
        database.execute("CREATE TABLE t (id int)")
        with Scene(database.dsn) as stage:
            a, b = stage.session("a"), stage.session("b")
            a.begin()
            a.run("LOCK TABLE t")
            waiting = b.start("SELECT * FROM t")
            waiting.wait_blocked()
        assert waiting.error() == "57014"
        assert database.execute("SELECT 1 FROM pg_locks WHERE NOT granted") == []


class TestWriters:
    @staticmethod
    def add_one(connection: Connection, rng: random.Random, n: int) -> None:
        connection.execute("UPDATE t SET x = x + 1 WHERE id = %s", [rng.randrange(4)])

    @pytest.fixture(autouse=True)
    def table(self, database: Database) -> None:
        database.execute(
            "CREATE TABLE t (id int PRIMARY KEY, x int); INSERT INTO t SELECT i, 0 FROM generate_series(0, 3) i"
        )

    def test_every_committed_write_is_counted(self, database: Database) -> None:
        with Writers(database.dsn, seed=1) as writers:
            writers.add("old", self.add_one, threads=2)
            writers.add("new", self.add_one, isolation="SERIALIZABLE")
            writers.wait_for(10)
        report = writers.report
        assert database.value("SELECT sum(x) FROM t") == report.count >= 30
        report.assert_only("40001", "40P01")
        report.of("old").assert_only()
        assert 0 < report.percentile(50) <= report.percentile(99) <= report.slowest()

    def test_while_paused_nobody_writes(self, database: Database) -> None:
        with Writers(database.dsn) as writers:
            writers.add("old", self.add_one, threads=3)
            for _ in range(5):
                writers.wait_for(2)
                with writers.paused():
                    before = database.value("SELECT sum(x) FROM t")
                    assert before == writers.report.count
                    open_ = database.value(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'old' AND xact_start IS NOT NULL"
                    )
                    assert open_ == 0

    def test_errors_are_recorded_with_their_code(self, database: Database) -> None:
        def divide(connection: Connection, rng: random.Random, n: int) -> None:
            connection.execute("SELECT 1 / %s", [n % 2])

        with Writers(database.dsn) as writers:
            writers.add("half", divide)
            writers.wait_for(5)
        assert set(writers.report.by_sqlstate) == {"22012"}
        with pytest.raises(AssertionError, match="22012"):
            writers.report.assert_only("40001")

    def test_a_mistake_in_the_work_fails_the_test(self, database: Database) -> None:
        def broken(connection: Connection, rng: random.Random, n: int) -> None:
            raise KeyError("nonsense")

        writers = Writers(database.dsn)
        writers.add("broken", broken)
        with pytest.raises(AssertionError, match="nonsense"):
            writers.wait_for(1)
        with pytest.raises(AssertionError, match="nonsense"):
            writers.stop()

    def test_the_same_seed_draws_the_same_numbers(self, database: Database) -> None:
        def draw(seed: int) -> list[int]:
            drawn: list[int] = []

            def work(connection: Connection, rng: random.Random, n: int) -> None:
                drawn.append(rng.randrange(1000))

            with Writers(database.dsn, seed=seed) as writers:
                writers.add("old", work)
                writers.wait_for(5)
            return drawn[:5]

        assert draw(3) == draw(3) != draw(4)

    def test_they_outlive_a_crash_of_the_server(self, own_server: DevServer) -> None:
        own_server.create_database("shop")
        with own_server.connect("shop") as connection:
            connection.execute("CREATE TABLE t (id int PRIMARY KEY, x int)")
            connection.execute("INSERT INTO t SELECT i, 0 FROM generate_series(0, 3) i")
        with Writers(own_server.dsn("shop")) as writers:
            writers.add("old", self.add_one, threads=2)
            writers.wait_for(5)
            own_server.crash()
            own_server.start()
            writers.wait_for(5)
        with own_server.connect("shop") as connection:
            row = connection.execute("SELECT sum(x) FROM t").fetchone()
        # A commit whose confirmation was lost may have happened; none that was confirmed is lost.
        assert row is not None
        assert writers.report.count <= row[0] <= writers.report.count + 2
        writers.report.assert_only("08006", "57P01", "57P03")
