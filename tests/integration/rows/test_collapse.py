"""Many rows, and what they say together: both applications and the backfill at once, each of which breaks a simpler way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from tests.integration.rows.mirrored import MirroredElements
from tests.integration.rows.stage import staged
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.backfill.sweep import BadData
from zdm.db.session import connect
from zdm.engine.compile import compile_plan
from zdm.errors import BadInput
from zdm.model.mapping import Authority
from zdm.model.row_mapping import RowMapping
from zdm.operations.migration import Migration
from zdm.sql.rows import Kind
from zdm.verify.repair_rows import repair_rows

OPERATION: dict[str, object] = {
    "table": "events",
    "to": "orders",
    "key": {"order_id": "id"},
    "columns": [
        {"column": "last", "latest": "status", "by": ["at"]},
        {"column": "total", "type": "numeric(6,2)", "up": "coalesce(sum(amount), 0)"},
    ],
    "one_way": True,
}

BAD = """
SELECT count(*) FROM orders AS o WHERE (o.last, o.total) IS DISTINCT FROM (
  (SELECT e.status FROM events AS e WHERE e.order_id = o.id ORDER BY e.at DESC NULLS LAST, e.id DESC LIMIT 1),
  (SELECT coalesce(sum(e.amount), 0) FROM events AS e WHERE e.order_id = o.id))
"""
"""Rows that disagree, by a query that knows nothing of zdm's."""

#: What one writes who has not met the interleavings yet.
NAIVE = """
CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE orders AS o SET
    last = (SELECT status FROM events WHERE order_id = o.id ORDER BY at DESC, id DESC LIMIT 1),
    total = (SELECT coalesce(sum(amount), 0) FROM events WHERE order_id = o.id)
  WHERE o.id = coalesce(NEW.order_id, OLD.order_id);
  RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER INSERT OR UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION naive();
"""


@dataclass
class Orders(MirroredElements):
    """``orders`` and their ``events``, and what makes columns of them; no engine."""

    database: Database
    rows: int = 40
    naive: bool = False
    extra: str = ""
    options: dict[str, object] = field(default_factory=dict)
    sync: str = "immediate"
    mapping: RowMapping = field(init=False)
    rollout: int = field(init=False)

    def __post_init__(self) -> None:
        self.database.execute(
            "CREATE TABLE orders (id int PRIMARY KEY, note text);"
            " CREATE TABLE events (id bigserial PRIMARY KEY, order_id int REFERENCES orders ON UPDATE CASCADE ON DELETE CASCADE,"
            " status text, at int, amount numeric(8,2) NOT NULL DEFAULT 1); CREATE INDEX ON events (order_id);"
            f" INSERT INTO orders SELECT g, 'o' FROM generate_series(1, {self.rows}) g;"
            f" INSERT INTO events (order_id, status, at) SELECT g % {self.rows} + 1, 's' || g, g FROM generate_series(1, {self.rows * 2}) g"
            f" WHERE g % 5 > 0"
        )
        if self.extra:
            self.database.execute(self.extra)
        migration = Migration.model_validate(
            {
                "id": "try_it",
                "sync": self.sync,
                "operations": [{"collapse": {**OPERATION, **self.options}}],
            }
        )
        _, self.mapping, self.rollout = staged(
            self.database, migration, naive=NAIVE if self.naive else None, new_first=True
        )

    def bad(self) -> int:
        """Rows that disagree."""
        return int(self.database.execute(BAD)[0][0])

    def of(self, order: int) -> tuple[Any, ...]:
        """What the new version reads."""
        return self.database.execute(f"SELECT last, total::int FROM orders WHERE id = {order}")[0]


def happened(order: int, status: str, at: int) -> str:
    return f"INSERT INTO events (order_id, status, at) VALUES ({order}, '{status}', {at})"


@on_all_versions
@pytest.mark.parametrize("naive", [False, True])
def test_two_that_write_rows_of_one_key_at_once(database: Database, naive: bool) -> None:
    """The second waits for the first, and counts its row in; or is told to try again."""
    orders = Orders(database, naive=naive)
    orders.fill()
    levels: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    with Scene(database.dsn) as scene:
        for number, isolation in enumerate(levels):
            order = number + 3
            a, b = scene.session(f"a {isolation}"), scene.session(f"b {isolation}")
            a.run(f"BEGIN ISOLATION LEVEL {isolation}")
            b.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT 1 FROM orders")
            a.run(happened(order, "later", 1000))
            waiting = b.start(happened(order, "earlier", 900))
            waiting.wait_blocked()
            a.run("COMMIT")
            if naive:
                waiting.result()
                b.run("COMMIT")
                assert orders.bad() == 1
                return
            if isolation == "READ COMMITTED":
                waiting.result()
                b.run("COMMIT")
            else:
                with pytest.raises(psycopg.errors.SerializationFailure):
                    waiting.result()
                b.run("ROLLBACK")
                b.run(f"BEGIN ISOLATION LEVEL {isolation}; {happened(order, 'earlier', 900)}; COMMIT")
            assert orders.of(order)[0] == "later"
    assert (orders.bad(), orders.found()) == (0, {})


@on_all_versions
def test_a_snapshot_that_misses_what_changed_nothing(database: Database) -> None:
    """A row that leaves the columns as they were is only known to older snapshots because the one row is touched."""
    orders = Orders(database, options={"columns": [OPERATION["columns"][0]]})  # type: ignore[index]
    database.execute(happened(5, "last", 1000))
    orders.fill()
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        for level in ("REPEATABLE READ", "SERIALIZABLE"):
            b.run(f"BEGIN ISOLATION LEVEL {level}; SELECT 1 FROM orders")
            a.run(happened(5, "before", 990))
            with pytest.raises(psycopg.errors.SerializationFailure):
                b.run("DELETE FROM events WHERE order_id = 5 AND at = 1000")
            b.run("ROLLBACK")
        b.run(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; DELETE FROM events WHERE order_id = 5 AND at = 1000; COMMIT"
        )
        assert database.execute("SELECT last FROM orders WHERE id = 5") == [("before",)]
        # A row that the snapshot does not see at all, or that is not there: the foreign key's error, which trying again does not mend.
        b.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM orders")
        a.run("INSERT INTO orders (id) VALUES (500)")
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            b.run(happened(500, "new", 1))
        b.run("ROLLBACK")
        b.run(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {happened(500, 'new', 1)}; COMMIT")
    assert database.execute("SELECT last FROM orders WHERE id = 500") == [("new",)]
    assert orders.found() == {}


@on_all_versions
def test_everything_that_can_be_written(database: Database) -> None:
    orders = Orders(
        database,
        extra="""
        CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF NEW.status = 'twice' THEN UPDATE events SET amount = amount * 2, status = 'doubled' WHERE id = NEW.id; END IF;
          RETURN NULL;
        END $$;
        CREATE TRIGGER shout AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION shout();
        """,
    )
    orders.fill()
    assert (orders.bad(), orders.found()) == (0, {})
    for statement, order, expected in (
        ("INSERT INTO orders (id) VALUES (100)", 100, (None, 0)),
        (happened(100, "a", 1), 100, ("a", 1)),
        (happened(100, "twice", 2), 100, ("doubled", 3)),
        ("UPDATE events SET at = 9 WHERE order_id = 100 AND status = 'a'", 100, ("a", 3)),
        ("UPDATE events SET order_id = 101 WHERE false", 100, ("a", 3)),
        ("INSERT INTO orders (id) VALUES (101); UPDATE events SET order_id = 101 WHERE status = 'a'", 101, ("a", 1)),
        ("UPDATE orders SET id = 102 WHERE id = 101", 102, ("a", 1)),
        ("UPDATE events SET order_id = NULL WHERE order_id = 102", 102, (None, 0)),
        ("UPDATE orders SET note = 'x' WHERE id = 100", 100, ("doubled", 2)),
        ("DELETE FROM events WHERE order_id = 100", 100, (None, 0)),
        (
            "WITH o AS (INSERT INTO orders (id) VALUES (103) RETURNING id) INSERT INTO events (order_id, status, at) SELECT id, 'one', 1 FROM o",
            103,
            ("one", 1),
        ),
        ("BEGIN; " + happened(103, "two", 2) + "; " + happened(103, "three", 3) + "; COMMIT", 103, ("three", 3)),
        ("SET session_replication_role = replica; " + happened(103, "four", 4), 103, ("four", 4)),
        ("INSERT INTO events (id, order_id, status, at) VALUES (1, 103, 'x', 5) ON CONFLICT (id) DO UPDATE SET order_id = 103, at = 6, status = 'up'", 103, ("up", 5)),
        ("DELETE FROM orders WHERE id = 7", 103, ("up", 5)),
        # What it holds already may be said again.
        ("UPDATE orders SET last = 'up' WHERE id = 103", 103, ("up", 5)),
    ):  # fmt: skip
        database.execute(statement)
        assert orders.of(order) == expected, statement
        assert orders.bad() == 0, statement
    for statement in (
        "UPDATE orders SET last = 'mine' WHERE id = 103",
        "UPDATE orders SET total = total + 1 WHERE id = 9",
        "INSERT INTO orders (id, last) VALUES (104, 'mine')",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match=r"follows from public\.events"):
            database.execute(statement)
    database.execute("TRUNCATE events")
    assert (orders.bad(), orders.found(), orders.of(103)) == (0, {}, (None, 0))


def test_what_cannot_be_said_together(database: Database) -> None:
    """The old application's write goes through; the row is recorded, named by the backfill, and heals when it is corrected."""
    orders = Orders(database, extra="UPDATE events SET amount = 99999 WHERE order_id = 3")
    with pytest.raises(BadData, match="numeric field overflow"):
        orders.fill()
    assert orders.found() == {Kind.FAILED: 1}
    database.execute("UPDATE events SET amount = 1 WHERE order_id = 3")
    orders.fill()
    assert (orders.found(), orders.bad()) == ({}, 0)
    database.execute("UPDATE events SET amount = 88888 WHERE order_id = 4")
    assert orders.found() == {Kind.FAILED: 1}
    database.execute("DELETE FROM events WHERE order_id = 4")
    assert (orders.found(), orders.bad()) == ({}, 0)
    # Nothing is left of what was wrong with a row that goes by another key, or goes.
    database.execute("UPDATE events SET amount = 88888 WHERE order_id IN (8, 9)")
    database.execute("UPDATE orders SET id = 800 WHERE id = 8; DELETE FROM orders WHERE id = 9")
    assert database.execute("SELECT key ->> 'id' FROM zdm.sync_failures") == [("800",)]
    database.execute("UPDATE events SET amount = 1 WHERE order_id = 800")
    database.execute(
        "ALTER TABLE orders DISABLE TRIGGER USER; UPDATE orders SET last = 'broken' WHERE id IN (5, 6)"
    )
    assert orders.found() == {Kind.DIFFERENT: 2}
    repaired = repair_rows(
        lambda: connect(database.dsn, application_name="stage"),
        orders.mapping,
        orders.rollout,
        Authority.NEW,
        guard=lambda _: None,
    )
    assert (repaired, orders.found(), orders.bad()) == (2, {}, 0)


def test_only_some_rows_count(database: Database) -> None:
    """By a column that they may change: what leaves them, or comes to them, counts at once."""
    orders = Orders(
        database,
        options={"where": "at > 5 AND status <> 'void'"},
        extra="UPDATE events SET status = 'void' WHERE id % 3 = 0",
    )
    bad = BAD.replace("= o.id", "= o.id AND e.at > 5 AND e.status <> 'void'")
    orders.fill()
    for statement in (
        "UPDATE events SET status = 'void' WHERE order_id = 7",
        "UPDATE events SET at = 3 WHERE order_id = 8",
        "UPDATE events SET status = 'back', at = 60 WHERE order_id = 7",
        happened(9, "void", 100),
        "DELETE FROM events WHERE status = 'void'",
        "TRUNCATE events",
    ):
        database.execute(statement)
        assert (database.value(bad), orders.found()) == (0, {}), statement


def test_everybody_at_once(database: Database) -> None:
    """Writers at all isolation levels on a few keys, while the backfill goes through them."""
    orders = Orders(database, rows=1500)

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        order = rng.randrange(1, 1500) if number % 3 else rng.randrange(1, 12)
        # A snapshot first, so that what is committed meanwhile is not in it.
        connection.execute("SELECT 1 FROM public.orders LIMIT 1")
        statement = (
            f"INSERT INTO public.events (order_id, status, at) SELECT id, 'n{number}', {number} FROM public.orders WHERE id = {order}",
            f"UPDATE public.events SET at = {number}, amount = 2 WHERE order_id = {order}",
            f"DELETE FROM public.events WHERE order_id = {order} AND id % 2 = {number % 2}",
            f"UPDATE public.events SET order_id = {order} WHERE id = {number}",
            f"INSERT INTO public.orders VALUES ({order}, 'again') ON CONFLICT (id) DO UPDATE SET note = 'x'",
            f"DELETE FROM public.orders WHERE id = {order}",
        )[rng.randrange(6)]
        connection.execute(statement.encode())

    levels: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    with Writers(database.dsn) as writers:
        for level in levels:
            writers.add(f"a {level}", old, isolation=level)
            writers.add(f"b {level}", old, isolation=level)
        writers.wait_for(1)
        orders.fill()
        writers.wait_for(20)
    writers.report.assert_only("40001", "40P01", "23503")
    assert (orders.found(), orders.bad()) == ({}, 0)


def test_what_cannot_be_is_refused_by_name(database: Database) -> None:
    database.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, n int); CREATE TABLE events (id int PRIMARY KEY, order_id int, status text, at int,"
        " amount int)"
    )

    def refused(**options: object) -> str:
        migration = Migration.model_validate(
            {"id": "try_it", "operations": [{"collapse": {**OPERATION, **options}}]}
        )
        with connect(database.dsn, application_name="stage") as conn, pytest.raises(BadInput) as raised:
            compile_plan(conn, migration, "public")
        return str(raised.value)

    bare = refused()
    assert "(order_id) of public.events has no valid foreign key to public.orders" in bare
    assert "no index of public.events begins with (order_id)" in bare
    assert "is no unique key of public.orders" in refused(key={"order_id": "n"})
    database.execute(
        "ALTER TABLE events ADD FOREIGN KEY (order_id) REFERENCES orders; CREATE INDEX ON events (order_id)"
    )
    assert "must appear in the GROUP BY clause" in refused(
        columns=[{"column": "c", "type": "text", "up": "status"}]
    )
    assert "there is no column nothing in public.events" in refused(
        columns=[{"column": "c", "latest": "status", "by": ["nothing"]}]
    )
    with pytest.raises(ValueError, match="either `up` or `latest`"):
        refused(columns=[{"column": "c"}])
    with pytest.raises(ValueError, match="one_way"):
        refused(one_way=False)
