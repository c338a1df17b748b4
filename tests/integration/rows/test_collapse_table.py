"""Many rows, and a row of a new table for each key of theirs: both applications and the backfill at once, and what breaks a simpler way."""

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
from tests.support.versions import on_all_versions, on_all_versions_at_length
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
    "table": "payments",
    "to": "totals",
    "key": {"order_id": "id"},
    "create": {"columns": [{"name": "note", "type": "text"}]},
    "columns": [
        {"column": "last", "latest": "status", "by": ["at"]},
        {"column": "paid", "type": "numeric(6,2)", "up": "sum(amount)"},
    ],
    "one_way": True,
}
BAD = """
SELECT count(*) FROM totals AS t FULL JOIN (
  SELECT order_id, (array_agg(status ORDER BY at DESC NULLS LAST, id DESC))[1] AS last, sum(amount) AS paid
  FROM payments WHERE order_id IS NOT NULL GROUP BY order_id) AS p ON p.order_id = t.id
WHERE t.id IS NULL OR p.order_id IS NULL OR (t.last, t.paid) IS DISTINCT FROM (p.last, p.paid)
"""
"""Keys whose row is missing, left over or says something else, by a query that knows nothing of zdm's."""

#: What one writes who has not met the interleavings yet.
NAIVE = """
CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE k int := coalesce(NEW.order_id, OLD.order_id);
BEGIN
  INSERT INTO totals (id, last, paid)
    SELECT k, (array_agg(status ORDER BY at DESC, id DESC))[1], sum(amount) FROM payments WHERE order_id = k HAVING count(*) > 0
    ON CONFLICT (id) DO UPDATE SET last = EXCLUDED.last, paid = EXCLUDED.paid;
  DELETE FROM totals WHERE id = k AND NOT EXISTS (SELECT FROM payments WHERE order_id = k);
  RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER INSERT OR UPDATE OR DELETE ON payments FOR EACH ROW EXECUTE FUNCTION naive();
"""
LEVELS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


@dataclass
class Totals(MirroredElements):
    """``payments`` of orders 1 to `keys`, two each, and what makes ``totals`` of them; no engine."""

    database: Database
    keys: int = 20
    naive: bool = False
    extra: str = ""
    options: dict[str, object] = field(default_factory=dict)
    sync: str = "immediate"
    mapping: RowMapping = field(init=False)
    rollout: int = field(init=False)

    def __post_init__(self) -> None:
        self.database.execute(
            "CREATE TABLE payments (id bigserial PRIMARY KEY, order_id int, status text, at int, amount numeric(8,2) NOT NULL DEFAULT 1);"
            " CREATE INDEX ON payments (order_id);"
            f" INSERT INTO payments (order_id, status, at) SELECT g % {self.keys} + 1, 's' || g, g FROM generate_series(1, {self.keys * 2}) g"
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

    def settle(self, key: int) -> str:
        """What the backfill calls for a key."""
        return f"SELECT zdm.rows_{self.rollout}_1_settle_new({key}, 'fill')"

    def bad(self) -> int:
        """Keys that disagree."""
        return int(self.database.value(BAD))

    def of(self, key: int) -> list[tuple[Any, ...]]:
        """What the new version reads."""
        return self.database.execute(f"SELECT last, paid::int FROM totals WHERE id = {key}")


def paid(key: int, status: str, at: int = 1) -> str:
    return f"INSERT INTO payments (order_id, status, at) VALUES ({key}, '{status}', {at})"


# --- interleavings ------------------------------------------------------------------------------------------------------


@on_all_versions
@pytest.mark.parametrize("naive", [False, True])
def test_the_first_row_of_a_key_by_two_at_once(database: Database, naive: bool) -> None:
    """There is no row to wait for; what the second makes meets the first one's, and says what both say."""
    totals = Totals(database, naive=naive)
    totals.fill()
    with Scene(database.dsn) as scene:
        for key, isolation in enumerate(LEVELS, 100):
            a, b = scene.session(f"a {isolation}"), scene.session(f"b {isolation}")
            a.begin(isolation)
            b.begin(isolation)
            b.run("SELECT 1 FROM totals")
            a.run(paid(key, "later", 9))
            waiting = b.start(paid(key, "earlier", 1))
            waiting.wait_blocked(by=a)
            a.run("COMMIT")
            if naive:
                waiting.result()
                b.run("COMMIT")
                assert totals.bad() == 1
                return
            if isolation == "READ COMMITTED":
                waiting.result()
            else:
                assert waiting.error() == "40001"
                b.run("ROLLBACK")
                b.begin(isolation)
                b.run(paid(key, "earlier", 1))
            b.run("COMMIT")
            assert totals.of(key) == [("later", 2)]
        # The first one thinks better of it.
        a, b = scene.session("a"), scene.session("b")
        a.run("BEGIN; " + paid(200, "undone", 9))
        waiting = b.start(paid(200, "stays", 1))
        waiting.wait_blocked(by=a)
        a.run("ROLLBACK")
        waiting.result()
    assert totals.of(200) == [("stays", 1)]
    assert (totals.bad(), totals.found()) == (0, {})


@on_all_versions_at_length
@pytest.mark.parametrize("gone_first", [True, False])
def test_the_last_row_of_a_key_goes_while_another_one_comes(database: Database, gone_first: bool) -> None:
    """Whoever comes second finds the row gone and makes it again, or finds that there are rows again and leaves it."""
    totals = Totals(database)
    totals.fill()
    with Scene(database.dsn) as scene:
        for key, isolation in enumerate(LEVELS, 100):
            database.execute(paid(key, "only"))
            gone, comes = f"DELETE FROM payments WHERE order_id = {key} AND status = 'only'", paid(key, "new")
            first, second = (gone, comes) if gone_first else (comes, gone)
            a, b = scene.session(f"a {isolation}"), scene.session(f"b {isolation}")
            a.begin(isolation)
            b.begin(isolation)
            b.run("SELECT 1 FROM totals")
            a.run(first)
            waiting = b.start(second)
            waiting.wait_blocked(by=a)
            a.run("COMMIT")
            if isolation == "READ COMMITTED":
                waiting.result()
            else:
                assert waiting.error() == "40001"
                b.run("ROLLBACK")
                b.begin(isolation)
                b.run(second)
            b.run("COMMIT")
            assert totals.of(key) == [("new", 1)]
    assert (totals.bad(), totals.found()) == (0, {})


@on_all_versions_at_length
@pytest.mark.parametrize("again", [True, False])
def test_the_last_row_goes_while_the_backfill_waits_for_its_key(database: Database, again: bool) -> None:
    """What the backfill has computed before it waited is no longer so. Not looked at again under the lock: a zombie."""
    totals = Totals(database, extra="DELETE FROM payments WHERE order_id = 7 AND id > 20")
    if not again:
        made = database.value(f"SELECT pg_get_functiondef('zdm.rows_{totals.rollout}_1_settle_new'::regproc)")
        loose = made.replace(
            "zdm_made := FOUND;",
            "zdm_made := FOUND; IF zdm_made AND zdm_how = 'fill' THEN RETURN true; END IF;",
        )
        assert loose != made
        database.execute(loose)
    with Scene(database.dsn) as scene:
        a, filler = scene.session("a"), scene.session("filler")
        a.run("BEGIN")
        # The trigger makes the row of the key, and lets it go: so the backfill waits.
        a.run("DELETE FROM payments WHERE order_id = 7")
        waiting = filler.start(totals.settle(7))
        waiting.wait_blocked(by=a)
        a.run("COMMIT")
        waiting.result()
    assert totals.of(7) == ([] if again else [("s6", 1)])


@on_all_versions_at_length
def test_a_snapshot_older_than_the_row(database: Database) -> None:
    """The backfill, or a first row, has made it since; and a row that changed nothing is known by the touch alone."""
    totals = Totals(database, options={"columns": [OPERATION["columns"][0]]})  # type: ignore[index]
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        a.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM totals")
        totals.fill()
        for statement in (
            "DELETE FROM payments WHERE order_id = 7",
            paid(7, "late", 1000),
            "UPDATE payments SET order_id = 300 WHERE order_id = 7",
        ):
            a.run("SAVEPOINT s")
            assert a.start(statement).error() == "40001", statement
            a.run("ROLLBACK TO s")
        a.run("ROLLBACK")
        for level in ("REPEATABLE READ", "SERIALIZABLE"):
            a.run(f"BEGIN ISOLATION LEVEL {level}; SELECT 1 FROM totals")
            b.run(paid(8, "before", 0))
            assert (
                a.start("DELETE FROM payments WHERE order_id = 8 AND status <> 'before'").error() == "40001"
            )
            a.run("ROLLBACK")
            a.run(f"BEGIN ISOLATION LEVEL {level}; SELECT 1 FROM totals")
            b.run(f"DELETE FROM payments WHERE order_id = 9; {paid(9, 'again')}")
            assert a.start(paid(9, "unseen", 5000)).error() == "40001"
            a.run("ROLLBACK")
    assert totals.found() == {}


# --- what each version writes -------------------------------------------------------------------------------------------


@on_all_versions_at_length
def test_everything_that_can_be_written(database: Database) -> None:
    totals = Totals(
        database,
        extra="""
        CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF NEW.status = 'twice' THEN UPDATE payments SET amount = amount * 2, status = 'doubled' WHERE id = NEW.id; END IF;
          RETURN NULL;
        END $$;
        CREATE TRIGGER shout AFTER INSERT ON payments FOR EACH ROW EXECUTE FUNCTION shout();
        """,
    )
    # A key that is not filled yet is made by whoever writes a row of it.
    database.execute("UPDATE payments SET status = 'early' WHERE order_id = 3")
    database.execute("DELETE FROM payments WHERE order_id = 4")
    database.execute("INSERT INTO totals (id, note) VALUES (5, 'mine')")
    assert (totals.of(3), totals.of(4), totals.of(5)) == ([("early", 2)], [], [("s24", 2)])
    totals.fill()
    assert (totals.bad(), totals.found()) == (0, {})
    for statement, key, expected in (
        (paid(100, "a"), 100, [("a", 1)]),
        (paid(100, "twice", 2), 100, [("doubled", 3)]),
        ("UPDATE payments SET at = 9 WHERE order_id = 100 AND status = 'a'", 100, [("a", 3)]),
        ("UPDATE totals SET note = 'own' WHERE id = 100", 100, [("a", 3)]),
        ("UPDATE payments SET order_id = 101 WHERE status = 'a'", 101, [("a", 1)]),
        ("UPDATE payments SET order_id = NULL WHERE order_id = 101", 101, []),
        ("UPDATE payments SET order_id = 102 WHERE order_id IS NULL", 102, [("a", 1)]),
        ("BEGIN; DELETE FROM payments WHERE order_id = 102; " + paid(102, "back") + "; COMMIT", 102, [("back", 1)]),
        ("BEGIN; SAVEPOINT s; DELETE FROM payments WHERE order_id = 102; ROLLBACK TO s; " + paid(102, "b", 2) + "; COMMIT", 102, [("b", 2)]),
        ("DELETE FROM payments WHERE order_id IN (102, 1, 2)", 102, []),
        ("SET session_replication_role = replica; " + paid(103, "r"), 103, [("r", 1)]),
        ("INSERT INTO payments (id, order_id, status, at) VALUES (50, 103, 'x', 5) ON CONFLICT (id) DO UPDATE SET order_id = 103, at = 6, status = 'up'", 103, [("x", 2)]),
        # What it holds already may be said again.
        ("UPDATE totals SET last = 'x' WHERE id = 103", 103, [("x", 2)]),
        ("INSERT INTO totals (id) VALUES (103) ON CONFLICT (id) DO UPDATE SET note = 'kept'", 103, [("x", 2)]),
    ):  # fmt: skip
        database.execute(statement)
        assert totals.of(key) == expected, statement
        assert totals.bad() == 0, statement
    assert database.value("SELECT note FROM totals WHERE id = 100") == "own"
    for statement in (
        "UPDATE totals SET last = 'mine' WHERE id = 103",
        "INSERT INTO totals (id) VALUES (104)",
        "INSERT INTO totals (id, paid) VALUES (104, 1)",
        "UPDATE totals SET id = 104 WHERE id = 103",
        "DELETE FROM totals WHERE id = 103",
        "TRUNCATE totals",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match=r"follows from public\.payments"):
            database.execute(statement)
    # Both go, or get another key, by a third table; whichever goes first.
    database.execute(
        "CREATE TABLE orders AS SELECT id FROM totals; ALTER TABLE orders ADD PRIMARY KEY (id);"
        " ALTER TABLE totals ADD FOREIGN KEY (id) REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE;"
        " ALTER TABLE payments ADD FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE"
    )
    database.execute("DELETE FROM orders WHERE id = 6")
    database.execute("UPDATE orders SET id = 1000 WHERE id = 103")
    assert (totals.of(6), totals.of(1000)) == ([], [("x", 2)])
    assert database.value("SELECT note FROM totals WHERE id = 1000") == "kept"
    assert (totals.bad(), totals.found()) == (0, {})
    database.execute("TRUNCATE payments")
    assert (totals.bad(), totals.found(), totals.of(1000)) == (0, {}, [])


def test_what_cannot_be_said_together(database: Database) -> None:
    """The old application's write goes through; the key is recorded, named by the backfill, and heals when it is corrected."""
    totals = Totals(database, extra="UPDATE payments SET amount = 9999 WHERE order_id = 3")
    with pytest.raises(BadData, match="numeric field overflow"):
        totals.fill()
    assert totals.found() == {Kind.FAILED: 1}
    database.execute("UPDATE payments SET amount = 1 WHERE order_id = 3")
    totals.fill()
    assert (totals.found(), totals.bad()) == ({}, 0)
    database.execute("INSERT INTO payments (order_id, amount) VALUES (200, 9999), (200, 9999)")
    database.execute("UPDATE payments SET amount = 9999 WHERE order_id = 4")
    assert totals.found() == {Kind.FAILED: 2}
    database.execute("DELETE FROM payments WHERE order_id IN (4, 200)")
    assert (totals.found(), totals.bad()) == ({}, 0)
    database.execute(
        "ALTER TABLE totals DISABLE TRIGGER USER; UPDATE totals SET last = 'broken' WHERE id IN (5, 6);"
        " DELETE FROM totals WHERE id = 7; INSERT INTO totals (id) VALUES (300); ALTER TABLE totals ENABLE TRIGGER USER"
    )
    assert totals.found() == {Kind.DIFFERENT: 2, Kind.MISSING: 1, Kind.EXTRA: 1}
    repaired = repair_rows(
        lambda: connect(database.dsn, application_name="stage"),
        totals.mapping,
        totals.rollout,
        Authority.NEW,
        guard=lambda _: None,
    )
    assert (repaired, totals.found(), totals.bad()) == (4, {}, 0)
    # A row that the new version refers to cannot go, which does not refuse what the old one deletes; it is found, and goes later.
    database.execute("CREATE TABLE notes (total int REFERENCES totals); INSERT INTO notes VALUES (8)")
    database.execute("DELETE FROM payments WHERE order_id = 8")
    assert totals.found() == {Kind.EXTRA: 1}
    database.execute("DELETE FROM notes")
    repair_rows(
        lambda: connect(database.dsn, application_name="stage"),
        totals.mapping,
        totals.rollout,
        Authority.OLD,
        guard=lambda _: None,
    )
    assert (totals.found(), totals.bad()) == ({}, 0)


def test_only_some_rows_count(database: Database) -> None:
    """A key has a row as long as some of its rows count."""
    totals = Totals(
        database,
        options={"where": "status NOT LIKE 'void%'"},
        extra="UPDATE payments SET status = 'void' WHERE order_id = 3 OR id % 7 = 0",
    )
    bad = BAD.replace("order_id IS NOT NULL", "order_id IS NOT NULL AND status NOT LIKE 'void%'")
    totals.fill()
    for statement in (
        "UPDATE payments SET status = 'void again' WHERE order_id = 4",
        "UPDATE payments SET status = 'back' WHERE order_id IN (3, 4)",
        "INSERT INTO payments (order_id, status, at) VALUES (77, 'void', 1), (78, 'good', 1)",
        "DELETE FROM payments WHERE order_id = 78",
        "UPDATE payments SET order_id = 79 WHERE order_id = 77",
        "UPDATE payments SET status = 'good' WHERE order_id = 79",
    ):
        database.execute(statement)
        assert (database.value(bad), totals.found()) == (0, {}), statement
    # What does not count says nothing of a row that the new version removes.
    database.execute("UPDATE payments SET status = 'void' WHERE order_id = 79")
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("INSERT INTO totals (id, paid) VALUES (79, 1)")
    database.execute("TRUNCATE payments")
    assert (database.value("SELECT count(*) FROM totals"), totals.found()) == (0, {})


def test_everybody_at_once(database: Database) -> None:
    """Writers at all isolation levels on a few keys, which come and go, while the backfill goes through them."""
    totals = Totals(database, keys=1000)

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        key = rng.randrange(1, 1000) if number % 3 else rng.randrange(2000, 2004)
        # A snapshot first, so that what is committed meanwhile is not in it.
        connection.execute("SELECT 1 FROM public.totals LIMIT 1")
        statement = (
            f"INSERT INTO public.payments (order_id, status, at) VALUES ({key}, 'n{number}', {number})",
            f"UPDATE public.payments SET at = {number}, amount = 2 WHERE order_id = {key}",
            f"DELETE FROM public.payments WHERE order_id = {key}",
            f"UPDATE public.payments SET order_id = {key} WHERE id = {number}",
            f"UPDATE public.payments SET order_id = {rng.randrange(2000, 2004)} WHERE order_id = {key}",
        )[rng.randrange(5)]
        connection.execute(statement.encode())

    with Writers(database.dsn) as writers:
        for level in LEVELS:
            writers.add(f"a {level}", old, isolation=level)
            writers.add(f"b {level}", old, isolation=level)
        writers.wait_for(1)
        totals.fill()
        writers.wait_for(20)
    writers.report.assert_only("40001", "40P01")
    assert (totals.found(), totals.bad()) == ({}, 0)


def test_what_cannot_be_is_refused_all_at_once(database: Database) -> None:
    database.execute(
        "CREATE TABLE payments (id int PRIMARY KEY, order_id int, status text, at int, amount int)"
    )

    def refused(**options: object) -> str:
        migration = Migration.model_validate(
            {"id": "try_it", "operations": [{"collapse": {**OPERATION, **options}}]}
        )
        with connect(database.dsn, application_name="stage") as conn, pytest.raises(BadInput) as raised:
            compile_plan(conn, migration, "public")
        return str(raised.value)

    wrong = refused(
        columns=[
            {"column": "id", "type": "text", "up": "max(status)"},
            {"column": "c", "latest": "nothing", "by": ["at"]},
        ],
        create={"columns": [{"name": "must", "type": "int", "not_null": True}]},
    )
    for what in (
        "no index of public.payments begins with (order_id)",
        "would have two columns called id",
        "there is no column nothing",
        "must of totals is NOT NULL without a default",
    ):
        assert what in wrong
    assert "there is no column loose" in refused(key={"loose": "id"})
    database.execute("CREATE INDEX ON payments (order_id)")
    assert "must appear in the GROUP BY clause" in refused(
        columns=[{"column": "c", "type": "text", "up": "status"}]
    )
    # Its own columns are not there when what it says is computed.
    assert "note" in refused(columns=[{"column": "c", "type": "text", "up": "max(note)"}])
    assert "the name public.payments is taken" in refused(to="payments")
