"""Two old tables and the new version at one row at the same moment: nothing is lost, and nothing is merged that is not one."""

from __future__ import annotations

import pytest

from tests.integration.rows.united import REGIONS, United
from tests.support.interleave import Isolation, Scene, Session
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.backfill.options import Options
from zdm.backfill.run import backfill
from zdm.backfill.sweep import BadData
from zdm.db.session import connect
from zdm.sql.rows import Kind

LEVELS: list[Isolation] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
SEEN = "SELECT count(*) FROM customers, customers_eu, customers_us"
"""Takes the snapshot of those that keep one."""


def test_a_naive_trigger_merges_rows_of_two_tables(database: Database) -> None:
    """What comes to mind, and what all of this is for: the second row takes the first one's place, and its end is the end of both."""
    united = United(database, "contested", naive=True)
    united.database.execute("UPDATE customers_eu SET name = 'eu'; INSERT INTO customers_us VALUES (1, 'us')")
    assert database.execute("SELECT region, name FROM customers WHERE id = 1") == [("us", "us")]
    database.execute("DELETE FROM customers_us WHERE id = 1")
    assert database.execute("SELECT region FROM customers WHERE id = 1") == []
    assert database.execute("SELECT name FROM customers_eu WHERE id = 1") == [("eu",)]


def _again(session: Session, isolation: Isolation, statement: str, error: str | None) -> None:
    """End a transaction that failed as such applications expect, and do it again."""
    assert error in ("40001", None) if isolation != "READ COMMITTED" else error is None
    if error:
        session.run("ROLLBACK")
        session.begin(isolation)
        session.run(statement)
    session.run("COMMIT")


@on_all_versions
@pytest.mark.parametrize("isolation", LEVELS)
def test_a_key_that_is_let_go_while_another_table_claims_it(database: Database, isolation: Isolation) -> None:
    united = United(database, "contested", rows=6)
    united.fill()
    claim, gone = "INSERT INTO customers_us VALUES ({}, 'us')", "DELETE FROM customers_eu WHERE id = {}"
    with Scene(database.dsn) as scene:
        one, two = scene.session("one"), scene.session("two")
        # It goes between the claim and its end, which looks again.
        one.begin(isolation)
        one.run(claim.format(1))
        assert one.run("SELECT count(*) FROM zdm.sync_failures") == [(1,)]
        two.run(gone.format(1))
        ended = one.start("COMMIT")
        _ended(ended.error(), one, isolation, claim.format(1))
        # It goes after that look: who lets it go waits, and sees the other one.
        one.begin(isolation)
        one.run(claim.format(2))
        one.run("SET CONSTRAINTS ALL IMMEDIATE")
        two.begin(isolation)
        two.run(SEEN)
        waiting = two.start(gone.format(2))
        waiting.wait_blocked(by=one)
        one.run("COMMIT")
        _again(two, isolation, gone.format(2), waiting.error())
        # It is going while it is claimed.
        two.begin(isolation)
        two.run(gone.format(3))
        one.begin(isolation)
        one.run(SEEN)
        waiting = one.start(claim.format(3))
        waiting.wait_blocked(by=two)
        two.run("COMMIT")
        _again(one, isolation, claim.format(3), waiting.error())
        # It does not go after all.
        two.begin(isolation)
        two.run(gone.format(4))
        waiting = one.start(claim.format(4))
        waiting.wait_blocked(by=two)
        two.run("ROLLBACK")
        waiting.result()
        assert united.failures() == [("customers_us", "4", "23505")]
        assert united.found() == {Kind.FAILED: 1}
        database.execute("DELETE FROM customers_us WHERE id = 4")
    assert united.failures() == []
    united.agreed()
    assert database.execute("SELECT id, region FROM customers WHERE id < 7 ORDER BY id") == [
        *((number, "us") for number in (1, 2, 3)),
        *((number, "eu") for number in (4, 5, 6)),
    ]


def _ended(error: str | None, session: Session, isolation: Isolation, statement: str) -> None:
    if error:
        assert (error, isolation != "READ COMMITTED") == ("40001", True)
        session.begin(isolation)
        session.run(statement)
        session.run("COMMIT")


@pytest.mark.parametrize("isolation", LEVELS)
@pytest.mark.parametrize("keys", ["apart", "contested"])
def test_the_new_version_moves_a_row_that_the_old_one_writes(
    database: Database, keys: str, isolation: Isolation
) -> None:
    united = United(database, keys, rows=6)
    united.fill()
    move, write = (
        "UPDATE customers SET region = 'us', id = 70 + id WHERE region = 'eu' AND id = {}",
        "UPDATE customers_eu SET name = 'old' WHERE id = {}",
    )
    back = "UPDATE customers SET region = 'eu' WHERE region = 'us' AND id = {}"
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        new.begin(isolation)
        new.run(move.format(1))
        old.begin(isolation)
        old.run(SEEN)
        waiting = old.start(write.format(1))
        waiting.wait_blocked(by=new)
        new.run("COMMIT")
        _again(old, isolation, write.format(1), waiting.error())
        assert database.execute("SELECT name FROM customers_us WHERE id = 71") == [("eu1",)]
        # The other way round: what the old version wrote moves.
        old.begin(isolation)
        old.run(write.format(2))
        new.begin(isolation)
        new.run(SEEN)
        waiting = new.start(move.format(2))
        waiting.wait_blocked(by=old)
        old.run("COMMIT")
        _again(new, isolation, move.format(2), waiting.error())
        assert database.execute("SELECT name FROM customers_us WHERE id = 72") == [("old",)]
        # There and back in one transaction, with a write between.
        new.begin(isolation)
        new.run(move.format(3))
        new.run("UPDATE customers SET name = 'moved' WHERE id = 73")
        new.run(back.format(73))
        new.run("COMMIT")
        assert database.execute("SELECT name FROM customers_eu WHERE id = 73") == [("moved",)]
        # The old version removes it.
        new.begin(isolation)
        new.run(move.format(4))
        old.begin(isolation)
        waiting = old.start("DELETE FROM customers_eu WHERE id = 4")
        waiting.wait_blocked(by=new)
        new.run("ROLLBACK")
        waiting.result()
        old.run("COMMIT")
        united.agreed()
        assert database.value("SELECT count(*) FROM customers WHERE name = 'eu4'") == 0


@pytest.mark.parametrize("isolation", LEVELS)
def test_both_versions_insert_one_key(database: Database, isolation: Isolation) -> None:
    united = United(database, "contested")
    united.fill()
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        new.begin(isolation)
        new.run("INSERT INTO customers (id, region, name, vat) VALUES (500, 'us', 'new', '')")
        old.begin(isolation)
        old.run(SEEN)
        waiting = old.start("INSERT INTO customers_eu VALUES (500, 'old')")
        waiting.wait_blocked(by=new)
        new.run("COMMIT")
        _again(old, isolation, "INSERT INTO customers_eu VALUES (500, 'old')", waiting.error())
        assert united.failures() == [("customers_eu", "500", "23505")]
        assert database.execute("SELECT region, name FROM customers WHERE id = 500") == [("us", "new")]
        assert database.execute("SELECT name FROM customers_us WHERE id = 500") == [("new",)]
        old.begin(isolation)
        old.run("INSERT INTO customers_eu VALUES (501, 'old')")
        new.begin(isolation)
        waiting = new.start("INSERT INTO customers (id, region, name, vat) VALUES (501, 'us', 'new', '')")
        waiting.wait_blocked(by=old)
        old.run("COMMIT")
        assert waiting.error() in ("23505", "40001")
    database.execute("DELETE FROM customers WHERE id = 500")
    united.agreed()
    assert database.execute("SELECT region, name FROM customers WHERE id >= 500 ORDER BY id") == [
        ("eu", "old"),
        ("eu", "old"),
    ]


@pytest.mark.parametrize("isolation", LEVELS[1:])
def test_a_snapshot_from_before_the_fill(database: Database, isolation: Isolation) -> None:
    """What was filled since is not seen, and yet met."""
    united = United(database, "contested")
    with Scene(database.dsn) as scene:
        one = scene.session("one")
        for statement in (
            "DELETE FROM customers_eu WHERE id = 1",
            "UPDATE customers_eu SET name = 'old' WHERE id = 1",
            "TRUNCATE customers_us",
        ):
            one.begin(isolation)
            one.run(SEEN)
            _filled(united)
            assert one.start(statement).error() == "40001", statement
            one.run("ROLLBACK")
            database.execute(
                "SET session_replication_role = replica; ALTER TABLE customers DISABLE TRIGGER USER; DELETE FROM customers"
            )
            database.execute(_ENABLED)
    _filled(united)
    united.agreed()


_ENABLED = """
DO $$ DECLARE t record; BEGIN
  FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'customers'::regclass AND NOT tgisinternal LOOP
    EXECUTE format('ALTER TABLE customers ENABLE ALWAYS TRIGGER %I', t.tgname);
  END LOOP; END $$
"""


def _filled(united: United) -> None:
    for mapping in united.plan.row_mappings:
        backfill(
            lambda: connect(united.database.dsn, application_name="fill"),
            united.rollout,
            mapping,
            Options(again=True),
        )


def test_the_backfill_meets_a_key_that_another_table_has(database: Database) -> None:
    """It came between the plan and the triggers: the first one stays, the second is recorded; and nothing takes its place."""
    united = United(database, "contested", rows=50)
    database.execute(
        "SET session_replication_role = replica; ALTER TABLE customers_us DISABLE TRIGGER USER;"
        " INSERT INTO customers_us VALUES (7, 'us')"
    )
    database.execute(_ENABLED.replace("customers", "customers_us"))
    with pytest.raises(
        BadData,
        match=r"id=7: two source rows claim one target row: \(7\) of public.customers is another table's",
    ):
        _filled(united)
    assert united.failures() == [("customers_us", "7", "23505")]
    assert united.found() == {Kind.FAILED: 1}
    assert database.execute("SELECT region, name FROM customers WHERE id = 7") == [("eu", "eu7")]
    database.execute("UPDATE customers_us SET id = 777 WHERE id = 7")
    assert united.failures() == []
    united.agreed()
    assert database.value("SELECT count(*) FROM customers") == 50 * len(REGIONS) + 1
