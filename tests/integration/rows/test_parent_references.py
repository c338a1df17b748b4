"""Many rows, one parent, and the row itself refers to it: what both applications and the backfill do at once."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest

from tests.integration.rows.reference_stage import LEVELS, Goods, kept
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions, on_all_versions_at_length
from tests.support.writers import Writers
from zdm.model.phases import State


@on_all_versions
@pytest.mark.parametrize("level", LEVELS)
def test_two_that_make_one_parent_at_once(database: Database, level: Isolation) -> None:
    """The second one waits, and takes the first one's; at REPEATABLE READ it is told to try again."""
    goods = Goods(database)
    goods.fill()
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        a.run(f"BEGIN ISOLATION LEVEL {level}")
        b.run(f"BEGIN ISOLATION LEVEL {level}; SELECT 1 FROM goods")
        a.run(kept(2, "new"))
        waiting = b.start(kept(4, "new"))
        waiting.wait_blocked()
        a.run("COMMIT")
        if level == "READ COMMITTED":
            waiting.result()
            b.run("COMMIT")
        else:
            with pytest.raises(psycopg.errors.SerializationFailure):
                waiting.result()
            b.run(f"ROLLBACK; BEGIN ISOLATION LEVEL {level}; {kept(4, 'new')}; COMMIT")
    assert database.execute("SELECT count(*) FROM kinds WHERE name = 'new'") == [(1,)]
    assert (goods.bad(), goods.found()) == (0, {})


@on_all_versions_at_length
def test_a_snapshot_older_than_the_backfill(database: Database) -> None:
    """It does not see what the backfill has filled and made: 40001, whatever it writes there."""
    goods = Goods(database)
    with Scene(database.dsn) as scene:
        a = scene.session("a")
        a.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM goods")
        goods.fill()
        for statement in (
            kept(7, "other"),
            kept(7, "k3"),
            "UPDATE goods SET kind = NULL WHERE id = 7",
            "UPDATE goods SET price = 2 WHERE id = 7",
            "UPDATE goods SET kind_id = NULL WHERE id = 7",
            "INSERT INTO goods VALUES (100, 1, 'k3')",
            "DELETE FROM goods WHERE id = 7",
        ):
            a.run("SAVEPOINT s")
            with pytest.raises(psycopg.errors.SerializationFailure):
                a.run(statement)
            a.run("ROLLBACK TO s")
        a.run(f"ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; {kept(7, 'other')}; COMMIT")
    assert (goods.bad(), goods.found(), goods.kind(7)) == (0, {}, "other")


@on_all_versions_at_length
@pytest.mark.parametrize("how", ["old", "new", "insert"])
@pytest.mark.parametrize("without", ["", " FOR KEY SHARE"])
def test_a_parent_that_is_renamed_while_it_is_taken(database: Database, how: str, without: str) -> None:
    """Whoever comes second finds the other's row, or the other's name. Without the lock one of them does not."""
    goods = Goods(database, without=without)
    goods.fill()
    database.execute(kept(1, "rare"))

    def taking(good: int, name: str, number: int) -> str:
        return {
            "old": kept(good, name),
            "new": f"UPDATE goods SET kind_id = {number} WHERE id = {good}",
            "insert": f"INSERT INTO goods (id, shop, kind_id) VALUES ({good + 1000}, 1, {number})",
        }[how]

    number = goods.id_of("rare")
    bad = 0
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        # Taken, then renamed: the rename waits, and the row that took it follows.
        a.run("BEGIN; " + taking(3, "rare", number))
        waiting = b.start("UPDATE kinds SET name = 'seldom' WHERE name = 'rare'")
        waiting.wait_blocked()
        a.run("COMMIT")
        waiting.result()
        bad += goods.bad()
        # Renamed, then taken: by its old name it is another one, by its number it has the new name.
        a.run("BEGIN; UPDATE kinds SET name = 'scarce' WHERE name = 'seldom'")
        waiting = b.start(taking(5, "seldom", number))
        waiting.wait_blocked()
        a.run("COMMIT")
        waiting.result()
        bad += goods.bad()
    if without:
        assert bad > 0
        return
    assert bad == 0
    assert goods.kind(5 if how != "insert" else 1005) == ("seldom" if how == "old" else "scarce")
    assert goods.found() == {}


@on_all_versions_at_length
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("action", ["no action", "cascade", "set null"])
@pytest.mark.parametrize("how", ["old", "new"])
def test_a_rename_that_does_not_see_who_took_the_parent(
    database: Database, level: Isolation, action: str, how: str
) -> None:
    """Taking it only locked it: nothing but the foreign key sees the row, and raises."""
    goods = Goods(database, options={"reference": {"columns": {"kind_id": "id"}, "on_delete": action}})
    goods.fill()
    take = kept(3, "k1") if how == "old" else f"UPDATE goods SET kind_id = {goods.id_of('k1')} WHERE id = 3"
    rename = "UPDATE kinds SET name = 'renamed' WHERE shop = 1 AND name = 'k1'"
    with Scene(database.dsn) as scene:
        a = scene.session("a")
        a.run(f"BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM goods")
        database.execute(take)
        if level == "READ COMMITTED":
            a.run(f"{rename}; COMMIT")
        else:
            with pytest.raises(psycopg.errors.SerializationFailure):
                a.run(rename)
            a.run(f"ROLLBACK; BEGIN ISOLATION LEVEL {level}; {rename}; COMMIT")
    assert (goods.kind(1), goods.kind(3)) == ("renamed", "renamed")
    assert database.execute("SELECT count(*) FROM kinds") == [(10,)]
    assert (goods.bad(), goods.found()) == (0, {})


@on_all_versions_at_length
@pytest.mark.parametrize("level", LEVELS)
def test_a_parent_that_is_removed_while_it_is_taken(database: Database, level: Isolation) -> None:
    goods = Goods(
        database,
        options={"reference": {"columns": {"kind_id": "id"}, "on_delete": "set null"}, "unused": "remove"},
    )
    goods.fill()
    goods.rollout.advance_to(State.MIGRATED)
    begin = f"BEGIN ISOLATION LEVEL {level};"
    for first in ("take", "remove"):
        database.execute(kept(1, "rare"))
        with Scene(database.dsn) as scene:
            a, b = scene.session("a"), scene.session("b")
            take, remove = kept(3, "rare"), "DELETE FROM kinds WHERE name = 'rare'"
            b.run(begin + "SELECT count(*) FROM goods, kinds")
            a.run(begin + (take if first == "take" else remove))
            waiting = b.start(remove if first == "take" else take)
            waiting.wait_blocked()
            a.run("COMMIT")
            if level == "READ COMMITTED":
                waiting.result()
                b.run("COMMIT")
                assert goods.kind(1) is None
                assert goods.kind(3) == (None if first == "take" else "rare")
            else:
                with pytest.raises(psycopg.errors.SerializationFailure):
                    waiting.result()
                b.run("ROLLBACK")
        assert (goods.bad(), goods.found()) == (0, {})
    # Let go of by the last row, and so removed, while another one takes it; and the other way round.
    database.execute("UPDATE goods SET kind = 'k0' WHERE kind = 'rare'")
    database.execute(kept(1, "rare"))
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        a.run(f"BEGIN; {kept(1, 'k0')}")
        waiting = b.start(kept(3, "rare"))
        waiting.wait_blocked()
        a.run("COMMIT")
        waiting.result()
        assert (goods.bad(), goods.kind(3)) == (0, "rare")
        a.run(f"BEGIN; {kept(5, 'rare')}")
        b.run(kept(3, "k0"))
        a.run("COMMIT")
        assert (goods.bad(), goods.kind(5)) == (0, "rare")
    database.execute(kept(5, "k0"))
    assert database.execute("SELECT FROM kinds WHERE name = 'rare'") == []
    assert goods.found() == {}


def at_once(writers: Writers, rows: int) -> None:
    """Both versions at all isolation levels on a few parents of many rows, one that renames them besides."""

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        good = rng.randrange(1, rows)
        # A snapshot first, so that what the backfill commits meanwhile is not in it.
        connection.execute("SELECT 1 FROM public.goods LIMIT 1")
        statement = (
            kept(good, f"n{rng.randrange(12)}"),
            f"UPDATE goods SET kind = NULL WHERE id = {good}",
            f"UPDATE goods SET price = {number} WHERE id = {good}",
            f"INSERT INTO goods VALUES ({good}, 1, 'k1') ON CONFLICT (id) DO UPDATE SET shop = 1 - goods.shop",
            f"DELETE FROM goods WHERE id = {good}",
        )[rng.randrange(5)]
        connection.execute(statement.replace(" goods ", " public.goods ").encode())

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        good = rng.randrange(1, rows)
        table = "public_try_it.goods"
        statement = (
            f"UPDATE {table} AS g SET kind_id = k.id FROM public.kinds k WHERE g.id = {good} AND k.shop = g.shop AND k.name = 'n{rng.randrange(12)}'",
            f"UPDATE {table} SET kind_id = NULL WHERE id = {good}",
            f"DELETE FROM public.kinds WHERE name = 'n{rng.randrange(12)}' AND shop = 1",
            f"INSERT INTO {table} (id, shop, kind_id) SELECT {good}, shop, id FROM public.kinds ORDER BY random() LIMIT 1 ON CONFLICT DO NOTHING",
        )[rng.randrange(4)]
        connection.execute(statement.encode())

    def rename(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        connection.execute(
            f"UPDATE public.kinds SET name = 'r{number % 90}' WHERE name = 'n{rng.randrange(12)}' AND shop = 0"
            f" AND NOT EXISTS (SELECT FROM public.kinds WHERE shop = 0 AND name = 'r{number % 90}')".encode()
        )

    for level in LEVELS:
        writers.add(f"old {level}", old, isolation=level)
        writers.add(f"new {level}", new, isolation=level)
    writers.add("rename", rename, isolation="READ COMMITTED")


@pytest.mark.parametrize("unused", ["keep", "remove"])
def test_everybody_at_once(database: Database, unused: str) -> None:
    """While the backfill goes through them."""
    goods = Goods(
        database,
        rows=3000,
        options={"unused": unused, "reference": {"columns": {"kind_id": "id"}, "on_delete": "set null"}},
    )
    with Writers(database.dsn) as writers:
        at_once(writers, goods.rows)
        writers.wait_for(1)
        goods.fill()
        writers.wait_for(30)
    # 55000: what the new version must not do before a row is filled. 23503, 23000: what it takes is gone, or is the other shop's by now.
    writers.report.assert_only("40001", "40P01", "55000", "23503", "23000")
    assert (goods.found(), goods.bad()) == ({}, 0)


def test_a_parent_that_goes_to_somebody_else_while_rows_have_it(database: Database) -> None:
    """Whose parent it is cannot be written back to its rows, so it stays as long as there are any."""
    goods = Goods(database, rows=4)
    goods.fill()
    mine = goods.id_of("k1")
    for statement in (f"shop = 7 WHERE id = {mine}", f"shop = 7, name = 'other' WHERE id = {mine}"):
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="do not belong together"):
            database.execute(f"UPDATE kinds SET {statement}")
    database.execute("UPDATE goods SET kind = NULL WHERE kind = 'k1'")
    database.execute(f"UPDATE kinds SET shop = 7 WHERE id = {mine}")
    assert goods.bad() == 0


@on_all_versions_at_length
def test_whoever_waits_for_a_parent_at_most_so_long_is_told(database: Database) -> None:
    """An application that sets a lock timeout tries again; the row is not taken for one whose value has no parent."""
    goods = Goods(database)
    goods.fill()
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        a.run("BEGIN; SELECT FROM kinds WHERE shop = 0 AND name = 'k2' FOR UPDATE")
        b.run("SET lock_timeout = '20ms'")
        for statement in (kept(4, "k2"), "INSERT INTO goods VALUES (100, 0, 'k2')"):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                b.run(statement)
        b.run("UPDATE goods SET price = 2 WHERE id = 4")
        a.run("COMMIT")
        b.run(kept(4, "k2"))
    assert (goods.bad(), goods.found()) == (0, {})
    assert database.execute("SELECT count(*) FROM zdm.sync_failures") == [(0,)]
