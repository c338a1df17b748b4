"""Many rows, one parent, and the row itself refers to it: what both applications and the backfill do at once."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.conformance.harness import Rollout
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions, on_all_versions_at_length
from tests.support.writers import Writers
from zdm.backfill.options import Options
from zdm.backfill.reference_statements import ReferenceStatements
from zdm.backfill.run import backfill
from zdm.backfill.sweep import BadData
from zdm.db.session import connect
from zdm.engine.compile import compile_plan
from zdm.errors import BadInput
from zdm.model.mapping import Authority, TableMapping
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario
from zdm.operations.migration import Migration
from zdm.sql.rows import Kind
from zdm.verify.repair import repair
from zdm.verify.run import verify

OPERATION: dict[str, object] = {
    "table": "goods",
    "columns": ["kind"],
    "parent": "kinds",
    "values": {"shop": "shop", "name": "kind"},
    "create": {
        "columns": [
            {"name": "id", "type": "bigint", "identity": "by default"},
            {"name": "shop", "type": "int"},
            {"name": "name", "type": "varchar(10)"},
            {"name": "note", "type": "text", "default": "'plain'"},
        ],
        "primary_key": ["id"],
    },
    "reference": {"kind_id": "id"},
}

LEVELS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

BAD = """
SELECT count(*) FROM goods AS g LEFT JOIN kinds AS k ON k.id = g.kind_id
WHERE g.kind IS DISTINCT FROM k.name OR g.shop <> k.shop OR (g.kind_id IS NOT NULL AND k.id IS NULL)
"""
"""Rows that disagree, by a query that knows nothing of zdm's."""


@dataclass
class Goods:
    """``goods`` that name their kind, prepared to refer to ``kinds``: everything of phase 1 is there, and nothing is filled.

    Parameters
    ----------
    rows: how many goods there are; five kinds in two shops.
    options: further parameters of the operation.
    extra: SQL that is run before the plan is made.
    without: what is taken out of every function that goes from one side to the other.
    """

    database: Database
    rows: int = 30
    options: dict[str, object] = field(default_factory=dict)
    extra: str = ""
    without: str = ""
    sync: SyncMode = SyncMode.IMMEDIATE
    number: int = 1
    rollout: Rollout = field(init=False)
    mapping: TableMapping = field(init=False)

    def __post_init__(self) -> None:
        setup = (
            "CREATE TABLE goods (id int PRIMARY KEY, shop int NOT NULL, kind text, price int NOT NULL DEFAULT 1);"
            f"INSERT INTO goods SELECT g, g % 2, 'k' || g % 5 FROM generate_series(1, {self.rows}) g;"
            + self.extra
        )
        operation: dict[str, object] = {"normalise": {**OPERATION, **self.options}}
        self.rollout = Rollout(self.database, Scenario(setup=setup, operations=(operation,), sync=self.sync))
        self.rollout.advance_to(State.PREPARED)
        self.mapping = next(
            m for m in self.rollout.engine().plan(self.rollout.migration).mappings if m.groups
        )
        if self.without:
            changed = 0
            for (definition,) in self.database.execute(
                "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'zdm'::regnamespace AND proname ~ '^rows_'"
            ):
                changed += self.without in definition
                self.database.execute(definition.replace(self.without, ""))
            assert changed

    def connect(self) -> Any:
        return connect(self.database.dsn, application_name="stage")

    def fill(self) -> None:
        """Run the backfill to its end."""
        assert backfill(self.connect, self.number, self.mapping).complete

    def found(self) -> dict[Kind, int]:
        """What the verification finds."""
        return dict(verify(self.connect, self.mapping).counts)

    def repair(self, authority: Authority) -> int:
        """Make both sides agree, by one of them."""
        return repair(self.connect, self.mapping, authority, rollout=self.number)

    def bad(self) -> int:
        """Rows that disagree."""
        return int(self.database.execute(BAD)[0][0])

    def kind(self, good: int) -> object:
        """What the old version reads."""
        found = self.database.execute(f"SELECT kind FROM goods WHERE id = {good}")
        return found[0][0] if found else "no row"

    def id_of(self, name: str, shop: int = 1) -> int:
        """A kind's key."""
        return int(
            self.database.execute(f"SELECT id FROM kinds WHERE shop = {shop} AND name = '{name}'")[0][0]
        )


def kept(good: int, name: str) -> str:
    return f"UPDATE goods SET kind = '{name}' WHERE id = {good}"


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


def chunk_of(goods: Goods) -> tuple[list[str], str, str]:
    """The statements of one chunk of the backfill over the whole table."""
    statements = ReferenceStatements(goods.mapping)
    made = [one.as_string(None) for one in statements.makes(0, 10)]
    return made, statements.fill(0, 10, careful=False).as_string(None), statements.rest(0, 10).as_string(None)


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
def test_everything_that_can_be_written(database: Database) -> None:
    goods = Goods(
        database,
        options={
            "reference": {"columns": {"kind_id": "id"}, "on_delete": "set null", "on_update": "cascade"}
        },
    )
    goods.fill()
    keys = database.execute("SELECT shop, name, id FROM kinds ORDER BY id")
    goods.fill()
    assert database.execute("SELECT shop, name, id FROM kinds ORDER BY id") == keys
    in_shop = "(SELECT id FROM kinds WHERE shop = {} AND name = '{}')"
    for statement, good, expected in (
        ("INSERT INTO goods VALUES (100, 1, 'a')", 100, "a"),
        ("INSERT INTO goods VALUES (101, 1, NULL)", 101, None),
        ("UPDATE goods SET kind = 'a' WHERE id = 100", 100, "a"),
        ("UPDATE goods SET price = 5 WHERE id = 100", 100, "a"),
        ("UPDATE goods SET shop = 0 WHERE id = 100", 100, "a"),
        ("UPDATE goods SET shop = 1 WHERE id = 100", 100, "a"),
        ("UPDATE goods SET id = 200 WHERE id = 100", 200, "a"),
        (
            "INSERT INTO goods VALUES (200, 1, 'b') ON CONFLICT (id) DO UPDATE SET kind = EXCLUDED.kind",
            200,
            "b",
        ),
        ("INSERT INTO goods VALUES (200, 1, 'c') ON CONFLICT DO NOTHING", 200, "b"),
        ("UPDATE kinds SET name = 'renamed' WHERE shop = 0 AND name = 'k2'", 2, "renamed"),
        ("UPDATE kinds SET id = 5000 WHERE name = 'renamed'", 2, "renamed"),
        ("UPDATE kinds SET id = 5001, name = 'again' WHERE name = 'renamed'", 2, "again"),
        (f"UPDATE goods SET kind_id = {in_shop.format(0, 'k0')} WHERE id = 2", 2, "k0"),
        # After the new version wrote it the row follows its parent, and another shop's when it goes there.
        ("UPDATE kinds SET name = 'k00' WHERE shop = 0 AND name = 'k0'", 2, "k00"),
        ("UPDATE goods SET shop = 1 WHERE id = 2", 2, "k00"),
        (f"INSERT INTO goods (id, shop, kind_id) VALUES (102, 1, {in_shop.format(1, 'k1')})", 102, "k1"),
        ("INSERT INTO public_try_it.goods (id, shop, kind_id) VALUES (103, 1, NULL)", 103, None),
        ("UPDATE public_try_it.goods SET kind_id = NULL WHERE id = 4", 4, None),
        (f"UPDATE goods SET kind = 'k1', kind_id = {in_shop.format(1, 'k1')} WHERE id = 101", 101, "k1"),
        (
            (
                "WITH k AS (INSERT INTO kinds (shop, name) VALUES (1, 'one') RETURNING id)"
                " INSERT INTO goods (id, shop, kind_id) SELECT 300, 1, id FROM k"
            ),
            300,
            "one",
        ),
        (
            "WITH k AS (UPDATE kinds SET name = 'two' WHERE name = 'one') UPDATE goods SET price = 9 WHERE id = 300",
            300,
            "two",
        ),
        ("DELETE FROM kinds WHERE shop = 1 AND name = 'k3'", 13, None),
        ("SET session_replication_role = replica; " + kept(10, "r"), 10, "r"),
        ("SET session_replication_role = replica; UPDATE kinds SET name = 'rr' WHERE name = 'r'", 10, "rr"),
        ("DELETE FROM goods WHERE id = 12", 14, "k4"),
        (
            "BEGIN; INSERT INTO goods VALUES (400, 1, 'x'); UPDATE kinds SET name = 'y' WHERE name = 'x'; COMMIT",
            400,
            "y",
        ),
    ):
        database.execute(statement)
        assert goods.kind(good) == expected, statement
        assert goods.bad() == 0, statement
        assert goods.found() == {}, statement
    with (
        psycopg.connect(database.dsn, autocommit=True) as connection,
        connection.cursor().copy("COPY goods (id, shop, kind) FROM STDIN") as copy,
    ):
        copy.write("500\t1\tcopied\n501\t1\t\\N\n502\t1\tcopied\n")
    assert (goods.kind(502), goods.bad()) == ("copied", 0)
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="do not belong together"):
        database.execute(f"UPDATE goods SET kind_id = {in_shop.format(1, 'k1')} WHERE id = 6")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.execute("UPDATE goods SET kind_id = 99999 WHERE id = 6")
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="they disagree"):
        database.execute(f"UPDATE goods SET kind = 'z', kind_id = {in_shop.format(1, 'k2')} WHERE id = 102")
    assert database.execute("SELECT FROM kinds WHERE name = 'z'") == []
    database.execute("TRUNCATE goods")
    assert goods.found() == {}


@on_all_versions_at_length
@pytest.mark.parametrize("action", ["no action", "restrict", "cascade", "set null"])
def test_what_the_end_of_a_parent_does(database: Database, action: str) -> None:
    """What the new version declares; rows that are not filled yet, or have failed, have no parent that could go."""
    reference = {"columns": {"kind_id": "id"}, "on_delete": action}
    goods = Goods(database, options={"reference": reference})
    database.execute("INSERT INTO kinds (shop, name) VALUES (1, 'k1')")
    database.execute("DELETE FROM kinds WHERE name = 'k1'")
    goods.fill()
    database.execute(kept(11, "too long for it"))
    remove = "DELETE FROM kinds WHERE shop = 1 AND name = 'k1'"
    if action in ("no action", "restrict"):
        with pytest.raises((psycopg.errors.ForeignKeyViolation, psycopg.errors.RestrictViolation)):
            database.execute(remove)
        assert goods.kind(1) == "k1"
    else:
        database.execute(remove)
        assert goods.kind(1) == (None if action == "set null" else "no row")
    assert goods.kind(11) == "too long for it"
    assert goods.found() == {Kind.FAILED: 1}
    database.execute(kept(11, "k2"))
    assert (goods.bad(), goods.found()) == (0, {})


@on_all_versions_at_length
def test_a_value_that_no_parent_can_hold(database: Database) -> None:
    """The old application's write goes through; the row is recorded, named by the backfill, and heals when it is corrected."""
    goods = Goods(database, extra="UPDATE goods SET kind = 'much too long' WHERE id = 3;")
    with pytest.raises(BadData, match="1 row") as raised:
        goods.fill()
    assert "too long" in str(raised.value)
    assert goods.found() == {Kind.FAILED: 1}
    database.execute(kept(3, "short"))
    goods.fill()
    assert (goods.found(), goods.bad()) == ({}, 0)
    database.execute(kept(4, "once more too long"))
    assert goods.found() == {Kind.FAILED: 1}
    assert database.execute("SELECT kind_id FROM goods WHERE id = 4") == [(None,)]
    ((said,),) = database.execute("SELECT message FROM zdm.sync_failures")
    assert "too long" in said
    database.execute(kept(4, "good"))
    assert (goods.found(), goods.bad()) == ({}, 0)


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
def test_a_parent_that_exists(database: Database) -> None:
    """Its rows are found and keep what they are; what has no form in it is counted before anything changes."""
    goods = Goods(
        database,
        options={"create": None},
        extra="""
        CREATE TABLE kinds (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, shop int NOT NULL, name varchar(10) NOT NULL,
          note text DEFAULT 'grey', UNIQUE (name, shop));
        INSERT INTO kinds (shop, name, note) VALUES (1, 'k1', 'red'), (7, 'other', 'blue');
        UPDATE goods SET kind = 'much too long a kind' WHERE id = 3;
        """,
    )
    plan = goods.rollout.engine().plan(goods.rollout.migration)
    (found,) = [finding.text for finding in plan.findings if finding.rule == "up-raises"]
    assert "1 of 30 rows of public.goods have no form in public.kinds, for example id=3" in found
    database.execute(kept(3, "short"))
    goods.fill()
    assert (goods.found(), goods.bad()) == ({}, 0)
    assert database.execute("SELECT count(*), min(note) FROM kinds WHERE shop = 1 AND name = 'k1'") == [
        (1, "red")
    ]
    assert database.execute("SELECT name FROM kinds WHERE shop = 7") == [("other",)]


@on_all_versions_at_length
def test_a_lossy_mapping_keeps_rows_with_the_parent_that_the_new_version_renames(database: Database) -> None:
    """`up` of what the parent is called now would be another one."""
    goods = Goods(
        database,
        options={
            "values": {"shop": "shop", "name": "lower(kind)"},
            "columns": [{"column": "kind", "down": "name"}],
            "lossy": True,
        },
    )
    database.execute("UPDATE goods SET kind = upper(kind) WHERE id < 10")
    goods.fill()
    assert goods.found() == {}
    assert goods.kind(1) == "K1"
    number = goods.id_of("k1")
    database.execute("UPDATE kinds SET name = 'Named' WHERE shop = 1 AND name = 'k1'")
    assert database.execute("SELECT DISTINCT kind, kind_id FROM goods WHERE shop = 1 AND id % 5 = 1") == [
        ("Named", number)
    ]
    assert goods.found() == {}
    database.execute("UPDATE goods SET price = 4 WHERE id = 1")
    database.execute("UPDATE kinds SET name = 'Again' WHERE name = 'Named'")
    assert (goods.kind(1), goods.kind(11), goods.found()) == ("Again", "Again", {})
    goods.fill()
    assert (goods.kind(1), goods.found()) == ("Again", {})


def test_an_applications_role_has_no_rights_on_the_parent(database: Database) -> None:
    goods = Goods(database, options={"unused": "remove"})
    database.execute("CREATE ROLE seller; GRANT SELECT, INSERT, UPDATE, DELETE ON goods TO seller")
    try:
        as_seller = "SET ROLE seller; "
        for statement in (
            "INSERT INTO goods VALUES (900, 1, 'sold')",
            kept(1, "sold"),
            kept(2, "far too long for it"),
            "DELETE FROM goods WHERE id = 900",
        ):
            database.execute(as_seller + statement)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.execute(as_seller + "SELECT FROM kinds")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.execute(as_seller + f"SELECT zdm.rows_{goods.number}_1_take(g) FROM goods g")
        database.execute(kept(2, "k2"))
        goods.fill()
        assert (goods.bad(), goods.found()) == (0, {})
    finally:
        database.execute("DROP OWNED BY seller; DROP ROLE seller")


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


def test_what_cannot_be_is_refused_by_name(database: Database) -> None:
    database.execute(
        "CREATE TABLE goods (id int PRIMARY KEY, shop int NOT NULL, kind text, sort text NOT NULL, kind_id int);"
        " CREATE TABLE kinds (id int PRIMARY KEY, shop int NOT NULL, name text NOT NULL, UNIQUE (shop, name));"
        " CREATE TABLE uses (kind int REFERENCES kinds ON DELETE CASCADE);"
        " INSERT INTO goods VALUES (1, 1, 'Work', 'x')"
    )

    def refused(**options: object) -> str:
        operation = {key: value for key, value in {**OPERATION, **options}.items() if value is not None}
        migration = Migration.model_validate({"id": "try_it", "operations": [{"normalise": operation}]})
        with connect(database.dsn, application_name="stage") as conn, pytest.raises(BadInput) as raised:
            compile_plan(conn, migration, "public")
        return str(raised.value)

    create = OPERATION["create"]
    link = {"table": "l", "source": {"good": "id"}, "parent": {"kind": "id"}}
    with pytest.raises(ValueError, match="neither is given"):
        Migration.model_validate({"id": "t", "operations": [{"normalise": {**OPERATION, "reference": None}}]})
    with pytest.raises(ValueError, match="both are given"):
        Migration.model_validate({"id": "t", "operations": [{"normalise": {**OPERATION, "link": link}}]})
    with pytest.raises(ValueError, match="beside not_null the columns are named in `columns`"):
        Migration.model_validate(
            {
                "id": "t",
                "operations": [
                    {"normalise": {**OPERATION, "reference": {"kind_id": "id", "not_null": True}}}
                ],
            }
        )
    assert "already has a column kind_id" in refused(parent="sorts")
    other = {"parent": "sorts", "reference": {"sort_id": "id"}}
    assert "Say with `empty` what it holds" in refused(
        **other, columns=["sort"], values={"shop": "shop", "name": "sort"}
    )
    assert "is kept, and would say the same" in refused(**other, columns=[{"column": "kind", "keep": True}])
    assert "reads price" not in refused(**other, columns=[{"column": "kind", "empty": "sort"}])
    assert "is the same for every row" in refused(**other, columns=[{"column": "kind", "empty": "sort"}])
    never = {"columns": {"sort_id": "id"}, "not_null": True, "on_delete": "set null"}
    assert "would become so when a row" in refused(parent="sorts", reference=never)
    assert "whose primary key is id" in refused(parent="sorts", reference={"sort_id": "name"})
    existing = refused(create=None, reference={"sort_id": "id"}, unused="remove")
    assert "uses_kind_fkey of public.uses does (ON DELETE CASCADE)" in existing
    lower = {"shop": "shop", "name": "lower(kind)"}
    assert "differs in 1 of 1 rows of public.goods (for example id=1)" in refused(
        **other, values=lower, columns=[{"column": "kind", "down": "name"}]
    )
    database.execute("ALTER TABLE goods ADD COLUMN twice int GENERATED ALWAYS AS (shop * 2) STORED")
    assert "'twice' reads the generated column twice" in refused(
        **other, values={"shop": "twice", "name": "kind"}
    )
    assert create


@on_all_versions_at_length
def test_a_parent_that_its_table_makes_otherwise_is_not_taken(database: Database) -> None:
    """A trigger gives it another name, under which nobody would find it again: no row may refer to it."""
    goods = Goods(
        database,
        rows=6,
        options={"create": None},
        extra="CREATE TABLE kinds (id bigserial PRIMARY KEY, shop int NOT NULL, name text NOT NULL, UNIQUE (shop, name));"
        "CREATE FUNCTION low() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.name := lower(NEW.name); RETURN NEW; END';"
        "CREATE TRIGGER low BEFORE INSERT ON kinds FOR EACH ROW EXECUTE FUNCTION low();"
        "UPDATE goods SET kind = 'K2' WHERE id = 2; UPDATE goods SET shop = 0, kind = 'k2' WHERE id = 3;",
    )
    with pytest.raises(BadData, match="1 row") as raised:
        goods.fill()
    assert "duplicate key" in str(raised.value)
    database.execute("INSERT INTO goods VALUES (100, 1, 'ABC'), (102, 1, 'ABC')")
    database.execute("INSERT INTO goods VALUES (101, 1, 'abc')")
    assert database.execute("SELECT id FROM goods WHERE kind_id IS NULL ORDER BY id") == [
        (2,),
        (100,),
        (102,),
    ]
    assert goods.found() == {Kind.FAILED: 3}
    said = database.execute("SELECT message FROM zdm.sync_failures WHERE key->>'id' = '100'")
    assert said == [
        ("shop, name of a new row of public.kinds would be another value: a trigger or its type changes it",)
    ]
    database.execute("UPDATE goods SET kind = lower(kind)")
    assert (goods.bad(), goods.found()) == (0, {})


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


SHARED = (
    "CREATE TABLE kinds (id bigserial PRIMARY KEY, name text NOT NULL UNIQUE, note text);"
    "CREATE TABLE goods (id int PRIMARY KEY, one text, two text);"
    "INSERT INTO goods SELECT g, 'k' || g % 5, 'k' || g % 3 FROM generate_series(1, 30) g;"
)


def by(column: str, **options: object) -> dict[str, object]:
    """A reference to a kind that exists."""
    reference = {"columns": {f"{column}_id": "id"}, "on_delete": "set null"}
    operation = {"table": "goods", "columns": [column], "parent": "kinds", "values": {"name": column}}
    return {"normalise": {**operation, "reference": reference, **options}}


@on_all_versions_at_length
def test_two_references_to_one_table(database: Database) -> None:
    """Both follow; but neither removes what the other may have."""
    link = {"table": "pairs", "source": {"good": "id"}, "parent": {"kind": "id"}}
    database.execute(SHARED)
    with connect(database.dsn, application_name="stage") as conn:
        for first, second in (
            (by("one", unused="remove"), by("two")),
            (by("one"), by("two", unused="remove")),
            (by("one", unused="remove"), by("two", reference=None, link=link)),
        ):
            migration = Migration.model_validate({"id": "no", "operations": [first, second]})
            with pytest.raises(BadInput, match="parents of another operation of this migration as well"):
                compile_plan(conn, migration, "public")
    rollout = Rollout(database, Scenario(setup="", operations=(by("one"), by("two"))))
    rollout.advance_to(State.MIGRATED)
    database.execute("UPDATE goods SET one = 'new', two = 'newer' WHERE id = 1")
    database.execute("UPDATE goods SET two = 'new' WHERE id = 2")
    database.execute("UPDATE kinds SET name = 'renamed' WHERE name = 'new'")
    database.execute("DELETE FROM kinds WHERE name = 'newer'")
    assert database.execute("SELECT one, two FROM goods WHERE id < 3 ORDER BY id") == [
        ("renamed", None),
        ("k2", "renamed"),
    ]
    mapping = next(m for m in rollout.engine().plan(rollout.migration).mappings if m.groups)
    found = verify(lambda: connect(database.dsn, application_name="stage"), mapping)
    assert dict(found.counts) == {}


@on_all_versions_at_length
@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_an_unused_parent_stays_where_its_end_would_take_others_along(
    database: Database, action: str
) -> None:
    """A foreign key that somebody made after the plan."""
    goods = Goods(database, options={"unused": "remove"})
    goods.fill()
    database.execute(f"CREATE TABLE uses (kind bigint REFERENCES kinds ON DELETE {action})")
    database.execute(kept(1, "rare"))
    database.execute("INSERT INTO uses SELECT id FROM kinds WHERE name = 'rare'")
    database.execute(kept(1, "k1"))
    assert database.execute("SELECT name FROM uses JOIN kinds ON id = kind") == [("rare",)]
    database.execute("DROP TABLE uses")
    database.execute(kept(1, "rare"))
    database.execute(kept(1, "k1"))
    assert (goods.bad(), goods.found()) == (0, {})
    assert database.execute("SELECT count(*) FROM kinds WHERE name = 'rare'") == [(0,)]


@on_all_versions_at_length
@pytest.mark.parametrize("first", ["normalise", "change_type"])
def test_a_column_of_the_natural_key_that_the_same_migration_changes(database: Database, first: str) -> None:
    """It is written by its new name, and is there in time for what refers to the parent by it."""
    change = {
        "table": "goods",
        "column": "shop",
        "to": "bigint",
        "up": "shop::bigint",
        "down": "shop::int",
    }
    operations: list[dict[str, object]] = [{"normalise": OPERATION}, {"change_type": change}]
    setup = (
        "CREATE TABLE goods (id int PRIMARY KEY, shop int NOT NULL, kind text, price int NOT NULL DEFAULT 1);"
        "INSERT INTO goods SELECT g, g % 2, 'k' || g % 5 FROM generate_series(1, 30) g;"
    )
    ordered = operations if first == "normalise" else operations[::-1]
    rollout = Rollout(database, Scenario(setup=setup, operations=tuple(ordered)))
    rollout.advance_to(State.MIGRATED)
    mapping = next(m for m in rollout.engine().plan(rollout.migration).mappings if m.groups)
    view = "public_try_it.goods"
    in_shop = "(SELECT id FROM kinds WHERE shop = {} AND name = '{}')"
    for statement, good, expected in (
        (
            f"INSERT INTO {view} (id, shop, kind_id) VALUES (100, 1, {in_shop.format(1, 'k1')})",
            100,
            (1, "k1"),
        ),
        (f"INSERT INTO {view} (id, shop, kind_id) VALUES (101, 1, NULL)", 101, (1, None)),
        (f"UPDATE {view} SET shop = 0, kind_id = {in_shop.format(0, 'k2')} WHERE id = 1", 1, (0, "k2")),
        (f"UPDATE {view} SET shop = 1 WHERE id = 2", 2, (1, "k2")),
        (f"UPDATE {view} SET shop = 7 WHERE id = 4", 4, (7, "k4")),
        ("UPDATE goods SET shop = 9 WHERE id = 5", 5, (9, "k0")),
        ("UPDATE goods SET shop = 9, kind = 'z' WHERE id = 6", 6, (9, "z")),
        ("INSERT INTO goods VALUES (102, 3, 'new')", 102, (3, "new")),
    ):
        database.execute(statement)
        assert database.execute(f"SELECT shop, kind FROM goods WHERE id = {good}") == [expected], statement
        assert database.execute(BAD) == [(0,)], statement
        found = verify(lambda: connect(database.dsn, application_name="stage"), mapping)
        assert dict(found.counts) == {}, statement


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


@on_all_versions_at_length
@pytest.mark.parametrize(
    ("options", "row"),
    [
        ({}, "NULL, 'b'"),
        ({"where": "kind <> ''"}, "1, ''"),
        (
            {"reference": None, "link": {"table": "l", "source": {"good": "id"}, "parent": {"kind": "id"}}},
            "NULL, 'b'",
        ),
    ],
)
def test_a_value_that_has_no_parent_is_a_loss(
    database: Database, options: dict[str, object], row: str
) -> None:
    """The column goes, and a row without a parent says that it was empty."""
    database.execute(
        "CREATE TABLE goods (id int PRIMARY KEY, shop int, kind text);"
        "INSERT INTO goods VALUES (1, 1, 'a'), (2, 1, NULL), (3, NULL, NULL)"
    )
    operation = {k: v for k, v in {**OPERATION, **options}.items() if v is not None}
    migration = Migration.model_validate({"id": "try_it", "operations": [{"normalise": operation}]})
    lossy = Migration.model_validate(
        {"id": "try_it", "operations": [{"normalise": {**operation, "lossy": True}}]}
    )
    with connect(database.dsn, application_name="stage") as conn:
        compile_plan(conn, migration, "public")
        database.execute(f"INSERT INTO goods VALUES (4, {row})")
        with pytest.raises(BadInput, match=r"differs in 1 of 4 rows of public.goods .for example id=4"):
            compile_plan(conn, migration, "public")
        compile_plan(conn, lossy, "public")
