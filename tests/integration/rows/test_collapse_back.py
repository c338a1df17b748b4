"""What the new version writes to a column that is the latest of many rows becomes a row of them: no write of either version is lost."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.integration.rows.stage import staged
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.backfill.run import backfill
from zdm.db.session import connect
from zdm.engine.compile import compile_plan
from zdm.errors import BadInput
from zdm.operations.migration import Migration
from zdm.verify.elements import verify_elements

OPERATION: dict[str, Any] = {
    "table": "events",
    "to": "orders",
    "key": {"order_id": "id"},
    "columns": [
        {"column": "last", "latest": "status", "by": ["at"]},
        {"column": "n", "type": "bigint", "up": "count(*)"},
    ],
    "write_back": {"insert": {"status": "last", "at": "clock_timestamp()"}},
}
BAD = """
SELECT count(*) FROM orders AS o FULL JOIN (
  SELECT order_id, (array_agg(status ORDER BY at DESC, id DESC))[1] AS last, count(*) AS n FROM events GROUP BY order_id) AS e
  ON e.order_id = o.id WHERE (o.last, o.n) IS DISTINCT FROM (e.last, e.n) AND (o.n <> 0 OR e.n IS NOT NULL)
"""
"""Rows that disagree, by a query that knows nothing of zdm's."""


class Orders:
    """``orders`` and the ``events`` of them, filled; no engine."""

    def __init__(self, database: Database, *, created: bool, extra: str = "", filled: bool = True) -> None:
        self.database = database
        parent = "" if created else " REFERENCES orders"
        if not created:
            database.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
            database.execute("INSERT INTO orders SELECT g FROM generate_series(1, 9) g")
        database.execute(
            f"CREATE TABLE events (id bigserial PRIMARY KEY, order_id int NOT NULL{parent}, status text NOT NULL,"
            " at timestamptz NOT NULL DEFAULT clock_timestamp()); CREATE INDEX ON events (order_id);"
            f" INSERT INTO events (order_id, status) SELECT g % 7 + 1, 's' || g FROM generate_series(1, 20) g; {extra}"
        )
        create = {"create": {"columns": [{"name": "note", "type": "text"}]}} if created else {}
        migration = Migration.model_validate(
            {"id": "try_it", "operations": [{"collapse": {**OPERATION, **create}}]}
        )
        _, self.mapping, self.rollout = staged(database, migration, naive=None, new_first=True)
        if filled:
            self.fill()

    def fill(self) -> None:
        """Run the backfill to its end."""
        assert backfill(
            lambda: connect(self.database.dsn, application_name="backfill"), self.rollout, self.mapping
        ).complete

    def clean(self) -> bool:
        """Whether everything agrees, by a query of our own and by the verification."""
        found = verify_elements(
            lambda: connect(self.database.dsn, application_name="stage"), self.mapping, self.rollout
        )
        return found.clean and self.database.value(BAD) == 0

    def history(self, order: int) -> list[str]:
        """What the old version reads."""
        rows = self.database.execute(f"SELECT status FROM events WHERE order_id = {order} ORDER BY at, id")
        return [status for (status,) in rows]


@on_all_versions
@pytest.mark.parametrize("created", [False, True])
def test_each_write_is_appended(database: Database, created: bool) -> None:
    orders = Orders(database, created=created)
    before = orders.history(3)
    database.execute("UPDATE orders SET last = 'one' WHERE id = 3")
    database.execute(
        "BEGIN; UPDATE orders SET last = 'two' WHERE id = 3; UPDATE orders SET last = 'three', note = 'x' WHERE id = 3; COMMIT"
    )
    assert orders.history(3) == [*before, "one", "two", "three"]
    # The same again is no event, nor is another column.
    database.execute(
        "UPDATE orders SET last = 'three', note = 'y' WHERE id = 3; UPDATE orders SET note = 'z' WHERE id = 3"
    )
    assert orders.history(3) == [*before, "one", "two", "three"]
    assert database.execute("SELECT last, n FROM orders WHERE id = 3") == [("three", len(before) + 3)]
    database.execute("UPDATE orders SET last = 'all' WHERE id IN (1, 2)")
    database.execute("INSERT INTO orders (id, last) VALUES (50, 'born')")
    database.execute(
        "INSERT INTO orders (id, last) VALUES (50, 'again') ON CONFLICT (id) DO UPDATE SET last = EXCLUDED.last"
    )
    assert orders.history(50) == ["born", "again"]
    database.execute("INSERT INTO events (order_id, status) VALUES (50, 'old')")
    assert database.execute("SELECT last, n FROM orders WHERE id = 50") == [("old", 3)]
    # What no row can say is refused, and what the rows themselves refuse.
    for statement, error in (
        ("UPDATE orders SET n = 7 WHERE id = 3", psycopg.errors.CheckViolation),
        ("UPDATE orders SET last = 'x', n = 70 WHERE id = 3", psycopg.errors.CheckViolation),
        ("UPDATE orders SET last = NULL WHERE id = 3", psycopg.errors.NotNullViolation),
    ):
        with pytest.raises(error):
            database.execute(statement)
    database.execute("INSERT INTO events (order_id, status, at) VALUES (4, 'tomorrow', 'infinity')")
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("UPDATE orders SET last = 'today' WHERE id = 4")
    assert orders.clean()


@on_all_versions
@pytest.mark.parametrize("new_first", [False, True])
def test_both_versions_at_once(database: Database, new_first: bool) -> None:
    """Both are in the history, and the later one is what the new version reads; an older snapshot tries again."""
    orders = Orders(database, created=False)
    levels: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    new, old = (
        "UPDATE orders SET last = 'new' WHERE id = {}",
        "INSERT INTO events (order_id, status) VALUES ({}, 'old')",
    )
    first, second = (new, old) if new_first else (old, new)
    with Scene(database.dsn) as scene:
        for order, isolation in enumerate(levels, 1):
            before = orders.history(order)
            a, b = scene.session(f"a {isolation}"), scene.session(f"b {isolation}")
            a.begin(isolation)
            b.begin(isolation)
            b.run("SELECT 1 FROM orders")
            a.run(first.format(order))
            waiting = b.start(second.format(order))
            waiting.wait_blocked(by=a)
            a.run("COMMIT")
            if isolation == "READ COMMITTED":
                waiting.result()
            else:
                assert waiting.error() == "40001"
                b.run("ROLLBACK")
                b.begin(isolation)
                b.run(second.format(order))
            b.run("COMMIT")
            said = orders.history(order)
            assert sorted(said[len(before) :]) == ["new", "old"]
            assert database.value(f"SELECT last FROM orders WHERE id = {order}") == said[-1]
    assert orders.clean()


def test_rows_that_are_not_filled_yet(database: Database) -> None:
    """The new version writes what it has not read: its row is one more, and what was there before stays."""
    orders = Orders(database, created=False, filled=False)
    before = orders.history(3)
    database.execute("UPDATE orders SET last = 'early' WHERE id = 3")
    assert orders.history(3) == [*before, "early"]
    orders.fill()
    assert database.execute("SELECT last, n FROM orders WHERE id = 3") == [("early", len(before) + 1)]
    assert orders.clean()


def test_triggers_of_the_application(database: Database) -> None:
    """They see the appended row as any other: what they add follows, and what they make of it otherwise is refused."""
    orders = Orders(
        database,
        created=False,
        extra="""
        CREATE FUNCTION heard() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF NEW.status = 'loud' THEN NEW.status := 'LOUD'; END IF;
          RETURN NEW;
        END $$;
        CREATE TRIGGER heard BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION heard();
        CREATE FUNCTION echoed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF NEW.status = 'twice' THEN
            INSERT INTO public.events (order_id, status, at) VALUES (NEW.order_id, 'before', NEW.at - interval '1 day'), (NEW.order_id + 1, 'next', NEW.at);
          END IF;
          RETURN NULL;
        END $$;
        CREATE TRIGGER echoed AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION echoed();
        """,
    )
    n = database.value("SELECT n FROM orders WHERE id = 1")
    database.execute("UPDATE orders SET last = 'twice' WHERE id = 1")
    assert database.execute("SELECT last, n FROM orders WHERE id IN (1, 2) ORDER BY id") == [
        ("twice", n + 2),
        ("next", database.value("SELECT count(*) FROM events WHERE order_id = 2")),
    ]
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("UPDATE orders SET last = 'loud' WHERE id = 1")
    assert orders.clean()


def test_what_cannot_be_is_refused_all_at_once(database: Database) -> None:
    database.execute(
        "CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id int NOT NULL, status text, at int, must int NOT NULL);"
        " CREATE INDEX ON events (order_id)"
    )

    def refused(**options: object) -> str:
        migration = Migration.model_validate(
            {"id": "try_it", "operations": [{"collapse": {**OPERATION, "create": {}, **options}}]}
        )
        with connect(database.dsn, application_name="stage") as conn, pytest.raises(BadInput) as raised:
            compile_plan(conn, migration, "public")
        return str(raised.value)

    wrong = refused(write_back={"insert": {"status": "last", "id": "1", "nothing": "2"}})
    for what in (
        "column id of public.events is given by the key, or computed by the server",
        "there is no column nothing in",
        "column must of public.events is NOT NULL without a default",
        "column at of public.events says which row is the latest",
    ):
        assert what in wrong
    assert "for columns with `latest`" in refused(columns=[OPERATION["columns"][1]])
    assert "unknown" in refused(write_back={"insert": {"status": "unknown", "at": "1", "must": "1"}})
    for both in ({"one_way": True}, {"write_back": None}):
        with pytest.raises(ValueError, match="`write_back` says which row"):
            refused(**both)
