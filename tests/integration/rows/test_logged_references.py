"""Rows that refer to a shared table, synced by log: nobody waits for a parent, and what follows is found or made by the reconciler."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.integration.rows.reference_stage import LEVELS, OPERATION, Goods, kept
from tests.integration.rows.test_parent_references import at_once
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.backfill.options import Options
from zdm.db.session import connect
from zdm.engine.compile import compile_plan
from zdm.engine.reconcile import Reconciler, Tally, reconciling
from zdm.errors import BadInput, GateRefused
from zdm.model.phases import State
from zdm.model.row_mapping import RowMapping, SyncMode
from zdm.operations.migration import Migration
from zdm.sql import row_log
from zdm.sql.rows import Kind
from zdm.verify.logged import TableLog
from zdm.verify.run import verify

RECONCILE = "SELECT zdm.rows_1_1_reconcile('{{{key}}}', NULL)"


@dataclass
class LoggedGoods(Goods):
    """The same, whose writes are noted; filled, and reconciled when that is asked."""

    rows: int = 12
    sync: SyncMode = SyncMode.LOGGED
    filled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.database.execute("DELETE FROM zdm.row_changes")
        if self.filled:
            self.fill()

    @property
    def log(self) -> RowMapping:
        (found,) = self.rollout.engine().plan(self.rollout.migration).row_mappings
        return found

    def once(self) -> Tally:
        with self.connect() as conn:
            return Reconciler(conn, self.log, self.number).once()

    def reconcile(self) -> None:
        """Afterwards nothing waits but what failed."""
        with self.connect() as conn:
            Reconciler(conn, self.log, self.number).drain()
        assert self.database.execute("SELECT * FROM zdm.row_changes WHERE NOT failed") == []

    def found(self) -> dict[Kind, int]:
        log = TableLog([self.log], self.number, self.reconcile)
        return dict(verify(self.connect, self.mapping, log=log).counts)

    def conflicts(self) -> list[tuple[Any, ...]]:
        return self.database.execute("SELECT key, won, lost, kept FROM zdm.row_conflicts ORDER BY id")


@on_all_versions
def test_everything_that_can_be_written(database: Database) -> None:
    """Either version, by whatever means, noted in any order."""
    goods = LoggedGoods(database, rows=40)
    one, two = goods.id_of("k1"), goods.id_of("k2", 0)
    database.execute(
        f"{kept(2, 'new')}; UPDATE goods SET kind = NULL WHERE id = 3; INSERT INTO goods VALUES (101, 1, 'other');"
        f" UPDATE goods SET kind_id = {two} WHERE id = 4; UPDATE goods SET kind_id = NULL WHERE id = 6;"
        f" INSERT INTO goods (id, shop, kind_id) VALUES (102, 1, {one}); INSERT INTO goods (id, shop, kind) VALUES (103, 1, NULL);"
        # A key that moves on, with a write before; one that goes, and comes again.
        f" {kept(8, 'moved')}; UPDATE goods SET id = 108 WHERE id = 8; UPDATE goods SET id = 208 WHERE id = 108;"
        f" {kept(10, 'gone')}; DELETE FROM goods WHERE id = 10; INSERT INTO goods (id, shop, kind_id) VALUES (10, 0, {two});"
        # Among those of another shop, by either version's last word.
        " UPDATE goods SET shop = 0 WHERE id = 11; UPDATE goods SET shop = 0 WHERE id = 102;"
        # A parent's name, and then a row that takes the former one; one that follows it.
        " UPDATE kinds SET name = 'renamed' WHERE shop = 1 AND name = 'k3'; UPDATE goods SET kind = 'k3' WHERE id = 29;"
        f" SET session_replication_role = replica; {kept(12, 'silent')}; SET session_replication_role = origin;"
        " INSERT INTO goods VALUES (14, 0, 'x') ON CONFLICT (id) DO UPDATE SET kind = 'upserted'"
    )
    assert goods.bad() > 0
    goods.reconcile()
    assert goods.bad() == 0
    expected = {
        2: "new",
        3: None,
        101: "other",
        4: "k2",
        6: None,
        102: "k1",
        103: None,
        208: "moved",
        10: "k2",
    }
    expected |= {11: "k1", 13: "renamed", 33: "renamed", 29: "k3", 12: "silent", 14: "upserted"}
    assert {good: goods.kind(good) for good in expected} == expected
    assert goods.found() == {}
    assert goods.conflicts() == []
    database.execute("TRUNCATE goods")
    goods.reconcile()


@on_all_versions
@pytest.mark.parametrize("level", LEVELS)
def test_nobody_waits_and_nothing_raises(database: Database, level: Isolation) -> None:
    """Immediate triggers would make the second one wait, or raise 40001: see test_parent_references."""
    goods = LoggedGoods(database, filled=False)
    # Of a table this small the server would read all, and take that for what the statement depends on.
    begin = f"BEGIN ISOLATION LEVEL {level}; SET LOCAL enable_seqscan = off;"
    with Scene(database.dsn) as scene:
        a, b, c = scene.session("a"), scene.session("b"), scene.session("c")
        a.run(f"{begin} SELECT 1")
        goods.fill()
        number = goods.id_of("k1")
        # Filled since its snapshot: what raises is the server's own word, that the row was written.
        if level != "READ COMMITTED":
            with pytest.raises(psycopg.errors.SerializationFailure):
                a.run(kept(1, "new"))
            a.run(f"ROLLBACK; {begin} SELECT 1")
        b.run(f"{begin} SELECT 1")
        a.run(kept(1, "new"))
        b.run(kept(3, "new"))
        # Three versions of what row 5 is, each with a snapshot that does not see the others.
        c.run(f"{begin} UPDATE kinds SET name = 'renamed' WHERE id = {number}")
        b.run("INSERT INTO goods (id, shop, kind) VALUES (51, 1, 'k1')")
        a.run("COMMIT")
        b.run("COMMIT")
        c.run("COMMIT")
    goods.reconcile()
    assert (goods.bad(), goods.found()) == (0, {})
    assert [goods.kind(good) for good in (1, 3, 11, 51)] == ["new", "new", "renamed", "k1"]
    assert database.execute("SELECT count(*) FROM kinds WHERE name = 'new'") == [(1,)]


SLOWLY = """
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END $$;
CREATE TRIGGER slowly BEFORE UPDATE ON goods FOR EACH ROW EXECUTE FUNCTION slowly()
"""


@on_all_versions
@pytest.mark.parametrize("without", ["", " FOR KEY SHARE"])
def test_a_parent_that_is_renamed_once_it_is_found(database: Database, without: str) -> None:
    """The rename waits, and its entry finds the row. Without the lock it has been through when the row refers to the parent, and the foreign
    key is content: the row is left behind."""
    goods = LoggedGoods(database, without=without, extra=SLOWLY)
    number = goods.id_of("k1")
    database.execute(kept(3, "k1"))
    with Scene(database.dsn) as scene:
        a, b, c = scene.session("a"), scene.session("b"), scene.session("c")
        c.run("BEGIN; SELECT pg_advisory_xact_lock(7)")
        reconciling = a.start(f"BEGIN; {RECONCILE.format(key=3)}")
        reconciling.wait_blocked()
        rename = b.start(f"UPDATE kinds SET name = 'renamed' WHERE id = {number}")
        if without:
            rename.result()
            c.run("SELECT zdm.rows_1_1_expand(id) FROM zdm.row_changes WHERE key IS NULL")
        else:
            rename.wait_blocked()
        c.run("COMMIT")
        reconciling.result()
        a.run("COMMIT")
        rename.result()
    goods.reconcile()
    assert goods.bad() == (1 if without else 0)
    assert goods.kind(3) == ("k1" if without else "renamed")


@on_all_versions
def test_a_parent_that_is_being_renamed(database: Database) -> None:
    """A row that takes it, or says what it is called, is put off."""
    goods = LoggedGoods(database)
    number = goods.id_of("k1")
    database.execute(f"UPDATE goods SET kind_id = {number} WHERE id = 3; {kept(5, 'k1')}")
    with Scene(database.dsn) as scene:
        a = scene.session("a")
        a.run(f"BEGIN; UPDATE kinds SET name = 'again' WHERE id = {number}")
        assert goods.once().busy == 2
        a.run("COMMIT")
    goods.reconcile()
    assert (goods.bad(), goods.kind(3), goods.kind(5)) == (0, "again", "k1")


@on_all_versions
@pytest.mark.parametrize("level", LEVELS)
def test_a_row_that_is_written_while_it_is_reconciled(database: Database, level: Isolation) -> None:
    """The row is locked first: whoever writes it comes before, and is read, or after, and is noted again."""
    goods = LoggedGoods(database)
    number = goods.id_of("k4")
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        database.execute(kept(3, "first"))
        b.run(f"BEGIN ISOLATION LEVEL {level}; {kept(3, 'second')}")
        assert goods.once().busy == 1
        b.run("COMMIT")
        a.run(f"BEGIN; {RECONCILE.format(key=3)}")
        waiting = b.start(f"UPDATE goods SET kind_id = {number} WHERE id = 3")
        waiting.wait_blocked()
        a.run("COMMIT")
        waiting.result()
    assert goods.bad() == 1
    goods.reconcile()
    assert (goods.bad(), goods.kind(3), goods.conflicts()) == (0, "k4", [])


def test_both_versions_write_one_row(database: Database) -> None:
    """Whoever wrote last counts, by the order of the row's own versions; what the other one held is kept."""
    goods = LoggedGoods(database)
    one, two = goods.id_of("k1"), goods.id_of("k2")
    database.execute(f"{kept(1, 'mine')}; UPDATE goods SET kind_id = {two} WHERE id = 1")
    database.execute(f"UPDATE goods SET kind_id = {two} WHERE id = 3; {kept(3, 'mine')}")
    # Both in one statement, and agreeing; and one that another version has only touched.
    database.execute(f"UPDATE goods SET kind = 'k1', kind_id = {one} WHERE id = 5")
    database.execute(f"{kept(7, 'mine')}; UPDATE goods SET price = 3 WHERE id = 7")
    before = database.execute("SELECT kind_id FROM goods WHERE id = 3")[0][0]
    goods.reconcile()
    assert goods.bad() == 0
    assert [goods.kind(good) for good in (1, 3, 5, 7)] == ["k2", "mine", "k1", "mine"]
    mine = goods.id_of("mine")
    assert goods.conflicts() == [
        (["1"], "new", {"kind": "mine"}, {"kind": "k2"}),
        (["3"], "old", {"kind_id": before}, {"kind_id": mine}),
    ]


def test_an_insert_that_meets_the_row_is_no_end_of_it(database: Database) -> None:
    """It is noted before it meets the row; what the old version has written before is not its parent's new name's."""
    goods = LoggedGoods(database)
    number = goods.id_of("k1")
    database.execute(
        f"{kept(1, 'mine')}; INSERT INTO goods (id, shop, kind_id) VALUES (1, 1, {number}) ON CONFLICT (id) DO NOTHING;"
        f" UPDATE kinds SET name = 'renamed' WHERE id = {number}"
    )
    # As where somebody holds the row for a while.
    database.execute("SELECT zdm.rows_1_1_expand(id) FROM zdm.row_changes WHERE key IS NULL")
    goods.reconcile()
    assert (goods.bad(), goods.kind(1), goods.kind(11)) == (0, "mine", "renamed")


def test_the_tables_owner_writes_the_log(database: Database) -> None:
    """An application's role needs no rights on the parent, nor on what is zdm's."""
    database.execute("CREATE ROLE seller")
    try:
        goods = LoggedGoods(database)
        database.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON goods TO seller; GRANT UPDATE, SELECT ON kinds TO seller"
        )
        database.execute(
            f"SET ROLE seller; {kept(1, 'mine')}; DELETE FROM goods WHERE id = 2; INSERT INTO goods VALUES (80, 1, 'more');"
            " UPDATE kinds SET name = 'renamed' WHERE shop = 1 AND name = 'k3'"
        )
        goods.reconcile()
        assert (goods.bad(), goods.kind(1), goods.kind(3), goods.kind(80)) == (0, "mine", "renamed", "more")
    finally:
        database.execute("DROP OWNED BY seller; DROP ROLE seller")


def test_behind_the_fence(database: Database) -> None:
    """The old columns are called otherwise; what the new version writes goes there all the same, and comes back with them."""
    goods = LoggedGoods(database)
    goods.rollout.advance_to(State.SWITCHED_OVER)
    goods.rollout.engine().fence("try_it")
    database.execute(
        f"UPDATE goods SET kind_id = {goods.id_of('k2')} WHERE id = 1; UPDATE kinds SET name = 'renamed' WHERE shop = 1 AND name = 'k3';"
        " UPDATE goods SET id = 90 WHERE id = 5"
    )
    assert goods.rollout.engine().verify("try_it").clean
    goods.rollout.engine().fence("try_it", lift=True)
    assert (goods.bad(), goods.kind(1), goods.kind(3), goods.kind(90)) == (0, "k2", "renamed", "k0")
    goods.rollout.engine().rollback("try_it")
    goods.rollout.nothing_left()


def test_what_has_no_form_over_there(database: Database) -> None:
    """Neither version's write fails; the gates refuse, a rollback does, and what it is told to leave is kept with its parent."""
    goods = LoggedGoods(database)
    elsewhere = goods.id_of("k1", 0)
    database.execute(
        f"{kept(1, 'much too long a name')}; UPDATE goods SET kind_id = {elsewhere} WHERE id = 3"
    )
    assert goods.once().failed == 2
    failures = dict(database.execute("SELECT key ->> 'id', sqlstate FROM zdm.sync_failures"))
    assert failures == {"1": "22001", "3": "23000"}
    assert goods.found() == {Kind.FAILED: 1, Kind.STALE_OLD: 1}
    # Written again, each is looked at again.
    database.execute(kept(1, "short"))
    goods.reconcile()
    assert database.execute("SELECT key ->> 'id' FROM zdm.sync_failures") == [("3",)]
    with pytest.raises(GateRefused, match="no old form"):
        goods.rollout.engine().rollback(goods.rollout.migration.id)
    goods.rollout.engine().rollback(goods.rollout.migration.id, verify=False)
    ((lost,),) = database.execute("SELECT lost FROM zdm.row_conflicts WHERE key = '{3}'")
    assert (lost["kind_id"], lost["public.kinds"]["name"]) == (elsewhere, "k1")
    assert (goods.kind(1), goods.kind(3)) == ("short", "k3")


def test_what_waits_when_the_rollback_comes(database: Database) -> None:
    """What the new version has written goes across under the lock that keeps it away, a parent's new name included."""
    goods = LoggedGoods(database)
    goods.rollout.advance_to(State.SWITCHED_OVER)
    database.execute(
        f"UPDATE goods SET kind_id = {goods.id_of('k2')} WHERE id = 1; UPDATE kinds SET name = 'renamed' WHERE shop = 1 AND name = 'k3';"
        " INSERT INTO kinds (shop, name) VALUES (1, 'mine'); INSERT INTO goods (id, shop, kind_id) SELECT 60, 1, max(id) FROM kinds"
    )
    goods.rollout.engine().rollback(goods.rollout.migration.id, verify=False)
    assert [goods.kind(good) for good in (1, 3, 60)] == ["k2", "renamed", "mine"]
    goods.rollout.nothing_left()


def test_what_waits_is_no_difference(database: Database) -> None:
    """A row that something of is noted is compared once that is carried over; one that disagrees without is found, and repaired."""
    goods = LoggedGoods(database)
    database.execute(kept(1, "waiting"))
    database.execute("UPDATE kinds SET name = 'renamed' WHERE shop = 1 AND name = 'k3'")
    assert goods.found() == {}
    assert goods.kind(3) == "renamed"
    database.execute(
        "BEGIN; ALTER TABLE goods DISABLE TRIGGER ALL; UPDATE goods SET kind = 'k4' WHERE id = 5; ALTER TABLE goods ENABLE TRIGGER ALL; COMMIT"
    )
    assert goods.found() == {Kind.STALE_NEW: 1}


def test_what_waits_when_the_old_structure_goes(database: Database) -> None:
    """What the old version has written last goes across under the lock of the swap, and nothing can be reconciled afterwards."""
    goods = LoggedGoods(database)
    database.execute(f"{kept(1, 'last')}; INSERT INTO goods VALUES (70, 1, 'more')")
    database.execute(f"BEGIN; LOCK goods; {row_log.end(goods.log, 'old', over=True)}; COMMIT")
    assert goods.bad() == 0
    assert database.execute("SELECT to_regprocedure('zdm.rows_1_1_work(int8, int4, timestamptz)')") == [
        (None,)
    ]


def test_everybody_at_once(database: Database) -> None:
    """While the backfill goes through the rows, and two reconcile. Nobody meets a deadlock, and at READ COMMITTED the old version no error."""
    goods = LoggedGoods(database, rows=3000, filled=False)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(
                reconciling(goods.connect, (goods.log,), goods.number, lock_budget=Options().lock_budget)
            )
        writers = stack.enter_context(Writers(database.dsn))
        at_once(writers, goods.rows)
        writers.wait_for(1)
        goods.fill()
        writers.wait_for(30)
    # 55000: what the new version must not do before a row is filled. 23503: what it takes, or removes, is gone, or not yet let go of.
    for error in writers.report.errors:
        allowed = {"55000", "23503"} if not error.writer.startswith("old") else set()
        assert error.sqlstate in allowed | ({"40001"} if "READ COMMITTED" not in error.writer else set()), (
            error
        )
    goods.reconcile()
    failures = database.execute("SELECT DISTINCT sqlstate FROM zdm.sync_failures")
    # What the new version gave a row of the other shop's by now has no old form.
    assert failures in ([], [("23000",)])
    lost = database.value("SELECT count(*) FROM zdm.sync_failures")
    assert (goods.found(), goods.bad()) == ({Kind.STALE_OLD: lost} if lost else {}, lost)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unused": "remove"}, "unused: remove"),
        (
            {"reference": {"columns": {"kind_id": "id"}, "on_delete": "set null"}},
            "foreign key to kinds writes",
        ),
        (
            {"reference": {"columns": {"kind_id": "id"}, "not_null": True}},
            "cannot be NOT NULL before the end",
        ),
    ],
)
def test_what_cannot_wait_is_refused(database: Database, options: dict[str, object], said: str) -> None:
    database.execute("CREATE TABLE goods (id int PRIMARY KEY, shop int NOT NULL, kind text)")
    migration = Migration.model_validate(
        {"id": "try_it", "sync": "logged", "operations": [{"normalise": {**OPERATION, **options}}]}
    )
    with connect(database.dsn, application_name="stage") as conn, pytest.raises(BadInput) as caught:
        compile_plan(conn, migration, "public")
    assert [problem.rule for problem in caught.value.problems if said in problem.what] == ["logged-sync"]
