"""Rows that get the reference to their parent: what writes meanwhile, what fails, and what is found and repaired afterwards."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.integration.rows.reference_stage import Goods, chunk_of, kept
from tests.support.interleave import Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions_at_length
from zdm.backfill.options import Options
from zdm.backfill.run import backfill
from zdm.backfill.sweep import BadData
from zdm.model.mapping import Authority
from zdm.sql.rows import Kind


@on_all_versions_at_length
@pytest.mark.parametrize("writer_first", [True, False])
@pytest.mark.parametrize(
    "statement",
    [kept(2, "newer"), "UPDATE goods SET price = 3 WHERE id = 2", "DELETE FROM goods WHERE id = 2"],
)
def test_a_row_written_while_it_is_filled(database: Database, writer_first: bool, statement: str) -> None:
    goods = Goods(database, rows=3)
    makes, fill, rest = chunk_of(goods)
    with Scene(database.dsn) as scene:
        writer, filling = scene.session("writer"), scene.session("filling")
        chunk = "; ".join([*makes, fill, rest])
        first, second = (writer, filling) if writer_first else (filling, writer)
        first.run("BEGIN; " + (statement if writer_first else chunk))
        waiting = second.start(chunk if writer_first else statement)
        waiting.wait_blocked()
        first.run("COMMIT")
        waiting.result()
    assert goods.bad() == 0
    assert goods.found() == {}


@on_all_versions_at_length
def test_a_parent_that_is_renamed_between_two_statements_of_a_chunk(database: Database) -> None:
    """It was there when what is missing was made, and is called otherwise when rows are filled: they are not taken for rows without one."""
    goods = Goods(database, rows=4)
    database.execute("INSERT INTO kinds (shop, name, note) SELECT shop, kind, 'mine' FROM goods")
    makes, fill, rest = chunk_of(goods)
    with Scene(database.dsn) as scene:
        filling = scene.session("filling")
        filling.run("BEGIN; " + "; ".join(makes))
        database.execute("UPDATE kinds SET name = 'else' WHERE name = 'k3'")
        filling.run(fill)
        assert filling.run("SELECT count(*) FROM goods WHERE _zdm_state IS NULL") == [(1,)]
        filling.run(f"{rest}; COMMIT")
    assert (goods.bad(), goods.found(), goods.kind(3)) == (0, {}, "k3")
    assert database.execute("SELECT name, note FROM kinds WHERE name IN ('k3', 'else') ORDER BY 1") == [
        ("else", "mine"),
        ("k3", "plain"),
    ]


@on_all_versions_at_length
def test_a_row_that_is_not_filled_yet(database: Database) -> None:
    """Any write of the old version fills it; the new version may give it a parent, but not take away what it does not see."""
    goods = Goods(database)
    database.execute("INSERT INTO kinds (shop, name) VALUES (1, 'mine')")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not filled"):
        database.execute("UPDATE public_try_it.goods SET kind_id = NULL WHERE id = 7")
    assert database.execute("SELECT count(*) FROM kinds") == [(1,)]
    database.execute(f"UPDATE public_try_it.goods SET kind_id = {goods.id_of('mine')} WHERE id = 7")
    for number, statement in enumerate(
        (
            "DELETE FROM goods WHERE id = 1",
            kept(3, "other"),
            "UPDATE goods SET kind = NULL WHERE id = 4",
            "UPDATE goods SET price = 2 WHERE id = 5",
        )
    ):
        level = ("REPEATABLE READ", "SERIALIZABLE")[number % 2]
        database.execute(f"BEGIN ISOLATION LEVEL {level}; {statement}; COMMIT")
    assert database.execute("SELECT count(*) FROM goods WHERE _zdm_state IS NOT NULL") == [(4,)]
    assert goods.found() == {Kind.UNSETTLED: 25}
    goods.fill()
    assert (goods.bad(), goods.found()) == (0, {})
    assert [goods.kind(n) for n in (3, 4, 5, 7)] == ["other", None, "k0", "mine"]


def test_a_parent_that_rows_which_are_not_filled_may_have_is_not_removed(database: Database) -> None:
    """What the new version knows of it would go; and who takes one that others have does not wait for who lets go of it."""
    goods = Goods(
        database,
        options={"create": None, "unused": "remove"},
        extra="CREATE TABLE kinds (id bigserial PRIMARY KEY, shop int NOT NULL, name varchar(10) NOT NULL, note text, UNIQUE (shop, name));"
        "INSERT INTO kinds (shop, name, note) SELECT shop, kind, 'mine' FROM goods GROUP BY 1, 2;",
    )
    database.execute("UPDATE goods SET price = 2 WHERE id = 1")
    database.execute(kept(1, "k2"))
    assert database.execute("SELECT note FROM kinds WHERE shop = 1 AND name = 'k1'") == [("mine",)]
    goods.fill()
    assert database.execute("SELECT DISTINCT note FROM kinds") == [("mine",)]
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        a.run(f"BEGIN; {kept(11, 'k3')}")
        b.run(kept(13, "k1"))
        a.run("COMMIT")
    assert (goods.bad(), goods.found()) == (0, {})


@on_all_versions_at_length
@pytest.mark.parametrize("authority", list(Authority))
def test_what_somebody_broke_is_found_and_repaired(database: Database, authority: Authority) -> None:
    goods = Goods(database)
    goods.fill()
    triggers = [
        name
        for (name,) in database.execute(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'goods'::regclass AND NOT tgisinternal"
        )
    ]
    database.execute("ALTER TABLE goods DISABLE TRIGGER USER")
    database.execute(kept(1, "wrong"))
    database.execute("UPDATE goods SET kind = NULL WHERE id = 2")
    database.execute("UPDATE goods SET kind_id = NULL WHERE id = 3")
    database.execute(f"UPDATE goods SET kind_id = {goods.id_of('k1', 0)} WHERE id = 4")
    for name in triggers:
        database.execute(f'ALTER TABLE goods ENABLE ALWAYS TRIGGER "{name}"')
    assert goods.found() == {Kind.STALE_NEW: 4}
    assert goods.repair(authority) == 4
    assert (goods.found(), goods.bad()) == ({}, 0)
    old = authority is Authority.OLD
    assert [goods.kind(n) for n in (1, 2, 3, 4)] == (
        ["wrong", None, "k3", "k4"] if old else ["k1", "k2", None, "k1"]
    )
    assert goods.repair(authority) == 0


def test_what_cannot_be_repaired_is_a_failure_that_is_recorded(database: Database) -> None:
    """One value that no parent can hold keeps no other row from being repaired, and is named at the end."""
    goods = Goods(database)
    goods.fill()
    database.execute(
        "ALTER TABLE goods DISABLE TRIGGER USER; UPDATE goods SET kind = 'k2' WHERE id IN (1, 6, 11);"
        "UPDATE goods SET kind = 'much too long' WHERE id = 5"
    )
    for (name,) in database.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'goods'::regclass AND NOT tgisinternal"
    ):
        database.execute(f'ALTER TABLE goods ENABLE ALWAYS TRIGGER "{name}"')
    assert goods.found() == {Kind.STALE_NEW: 4}
    assert goods.repair(Authority.OLD) == 3
    assert goods.found() == {Kind.FAILED: 1}
    assert database.execute("SELECT key, sqlstate FROM zdm.sync_failures") == [({"id": 5}, "22001")]
    assert goods.repair(Authority.OLD) == 0
    database.execute("UPDATE goods SET kind = 'k3' WHERE id = 5")
    assert (goods.found(), goods.bad()) == ({}, 0)


@on_all_versions_at_length
def test_rows_whose_parent_somebody_holds_are_left_and_not_failed(database: Database) -> None:
    goods = Goods(database, rows=4)
    database.execute("INSERT INTO kinds (shop, name) VALUES (1, 'k3')")
    makes, fill, rest = chunk_of(goods)
    with Scene(database.dsn) as scene:
        holding, filling = scene.session("holding"), scene.session("filling")
        holding.run("BEGIN; SELECT FROM kinds FOR UPDATE")
        filling.run("BEGIN; SET LOCAL lock_timeout = '20ms'; " + "; ".join([*makes, fill]))
        with pytest.raises(psycopg.errors.LockNotAvailable):
            filling.run("SAVEPOINT s; " + rest)
        filling.run("ROLLBACK TO s; COMMIT")
        holding.run("COMMIT")
    assert goods.found() == {Kind.UNSETTLED: 1}
    goods.fill()
    assert (goods.bad(), goods.found()) == (0, {})


def test_a_chunk_stays_in_its_time_although_it_is_several_statements(database: Database) -> None:
    """Whoever wants a parent that it made waits for all of them."""
    goods = Goods(
        database,
        rows=6,
        options={"create": None},
        extra="CREATE TABLE kinds (id bigserial PRIMARY KEY, shop int NOT NULL, name text NOT NULL, UNIQUE (shop, name));"
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END';"
        "CREATE TRIGGER slow BEFORE INSERT ON kinds FOR EACH ROW EXECUTE FUNCTION slow();"
        "ALTER TABLE goods ADD COLUMN given interval;"
        "CREATE FUNCTION given() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN"
        " NEW.given := current_setting(''statement_timeout'')::interval; RETURN NEW; END';"
        "CREATE TRIGGER given BEFORE UPDATE ON goods FOR EACH ROW EXECUTE FUNCTION given();"
        "ALTER TABLE goods ENABLE ALWAYS TRIGGER given;",
    )
    options = Options(lock_budget=timedelta(seconds=10))
    assert backfill(goods.connect, goods.number, goods.mapping, options).complete
    ((fewest, most),) = database.execute("SELECT min(given), max(given) FROM goods")
    assert timedelta(0) < fewest <= most <= options.statement_timeout - 6 * timedelta(seconds=0.05)


@on_all_versions_at_length
def test_a_value_that_no_parent_can_hold_leaves_other_rows_to_the_silent_backfill(database: Database) -> None:
    """The application's triggers do not fire for rows that only share a chunk with it, which nobody wrote."""
    goods = Goods(
        database,
        extra="ALTER TABLE goods ADD COLUMN touched int NOT NULL DEFAULT 0;"
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.touched := OLD.touched + 1; RETURN NEW; END';"
        "UPDATE goods SET kind = 'much too long' WHERE id = 5;"
        "CREATE TRIGGER touch BEFORE UPDATE ON goods FOR EACH ROW EXECUTE FUNCTION touch();",
    )
    with pytest.raises(BadData, match="1 row"):
        goods.fill()
    assert goods.found() == {Kind.FAILED: 1}
    assert database.execute("SELECT id FROM goods WHERE touched > 0") == [(5,)]
    assert database.execute("SELECT count(*) FROM goods WHERE kind_id IS NOT NULL") == [(29,)]
