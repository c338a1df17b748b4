"""A table that is replaced by a partitioned one while both are synced by log: keys that name a row in one table and not in the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from psycopg import sql

from tests.integration.rows.stage import staged
from tests.support.interleave import Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.backfill.options import Options
from zdm.backfill.row_statements import RowStatements
from zdm.backfill.run import backfill
from zdm.db.session import connect
from zdm.engine.reconcile import Reconciler
from zdm.model.plan import Plan
from zdm.model.row_mapping import RowMapping
from zdm.operations.migration import Migration

SETUP = """
CREATE TABLE events (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT '2024-02-10', kind text NOT NULL DEFAULT 'k',
  code int UNIQUE, legacy text);
INSERT INTO events (at, kind, code, legacy) SELECT timestamptz '2024-01-01' + g % 300 * interval '7 hours', 'k' || g, g, 'l' || g
FROM generate_series(1, {rows}) g;
CREATE SEQUENCE moved;
"""
OPERATION = {
    "table": "events",
    "partition_by": {"by": "range", "columns": ["at"]},
    "partitions": [{"every": "month", "start": "2024-01", "end": "2024-04"}],
    "drop": ["legacy"],
    "without": ["events_code_key"],
}
NEW = "zdm_public_try_it.events"
BAD = f"""
SELECT count(*) FILTER (WHERE o.id IS NULL), count(*) FILTER (WHERE n.id IS NULL),
       count(*) FILTER (WHERE o.id = n.id AND (o.at, o.kind, o.code) IS DISTINCT FROM (n.at, n.kind, n.code))
FROM public.events o FULL JOIN {NEW} n ON n.id = o.id
"""
"""Zombies, missing and stale rows."""


@dataclass
class Events:
    """``events`` and the partitioned table that takes its place, with what notes their writes, and nothing else."""

    database: Database
    rows: int = 20
    filled: bool = True
    options: dict[str, object] = field(default_factory=dict)
    extra: str = ""
    plan: Plan = field(init=False)
    mapping: RowMapping = field(init=False)
    rollout: int = field(init=False)

    def __post_init__(self) -> None:
        self.database.execute(SETUP.format(rows=self.rows) + self.extra)
        migration = Migration.model_validate(
            {
                "id": "try_it",
                "sync": "logged",
                "operations": [{"shadow_table": {**OPERATION, **self.options}}],
            }
        )
        self.plan, self.mapping, self.rollout = staged(self.database, migration, naive=None)
        if self.filled:
            self.fill()

    def session(self) -> Any:
        return connect(self.database.dsn, application_name="zdm")

    def fill(self) -> None:
        assert backfill(self.session, self.rollout, self.mapping, Options(workers=1)).complete

    def reconcile(self) -> None:
        """Afterwards nothing waits."""
        with self.session() as conn:
            Reconciler(conn, self.mapping, self.rollout).drain()
        assert self.database.execute("SELECT * FROM zdm.row_changes WHERE NOT failed") == []

    def bad(self) -> tuple[int, ...]:
        ((zombies, missing, stale),) = self.database.execute(BAD)
        return zombies, missing, stale

    def rows_of(self, *ids: int) -> list[tuple[Any, ...]]:
        """Month, kind, code and what only the old table knows; the first are the same in the new one."""
        old = self.database.execute(
            "SELECT id, extract(month FROM at)::int, kind, code, legacy FROM events WHERE id = ANY (%s) ORDER BY id",
            list(ids),
        )
        new = self.database.execute(
            f"SELECT id, extract(month FROM at)::int, kind, code FROM {NEW} WHERE id = ANY (%s) ORDER BY id",
            list(ids),
        )
        assert [row[:4] for row in old] == new
        return [row[1:] for row in old]


@on_all_versions
def test_everything_that_can_be_written(database: Database) -> None:
    """Rows move from partition to partition by either version's hand, and stay the rows they are."""
    events = Events(database)
    database.execute(
        "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German';"
        # By the old version: in place, over there, back and forth, another key, gone.
        " UPDATE events SET kind = 'o1' WHERE id = 1; UPDATE events SET at = at + interval '40 days' WHERE id = 2;"
        " UPDATE events SET at = at + interval '40 days' WHERE id = 3; UPDATE events SET at = at - interval '40 days', kind = 'o3' WHERE id = 3;"
        " UPDATE events SET id = 104 WHERE id = 4; DELETE FROM events WHERE id = 5; INSERT INTO events (id, kind, legacy) VALUES (50, 'o', 'l50');"
        # By the new one.
        f" UPDATE {NEW} SET kind = 'n6' WHERE id = 6; UPDATE {NEW} SET at = at + interval '40 days', kind = 'n7' WHERE id = 7;"
        f" UPDATE {NEW} SET at = at + interval '40 days' WHERE id = 8; UPDATE {NEW} SET at = at + interval '20 days', kind = 'n8' WHERE id = 8;"
        f" UPDATE {NEW} SET id = 109, at = at + interval '40 days' WHERE id = 9; DELETE FROM {NEW} WHERE id = 10;"
        f" INSERT INTO {NEW} (id, at, kind) VALUES (51, '2024-03-03', 'n51'); UPDATE {NEW} SET id = 111 WHERE id = 11;"
        # Both, different columns: each goes across, wherever the row is by then.
        f" UPDATE events SET kind = 'o12' WHERE id = 12; UPDATE {NEW} SET at = at + interval '40 days' WHERE id = 12;"
        f" UPDATE events SET at = at + interval '40 days' WHERE id = 13; UPDATE {NEW} SET kind = 'n13' WHERE id = 13;"
        # Gone and come again; moved, and gone.
        f" DELETE FROM {NEW} WHERE id = 14; INSERT INTO {NEW} (id, at, kind) VALUES (14, '2024-03-14', 'n14');"
        f" UPDATE {NEW} SET at = at + interval '40 days' WHERE id = 15; DELETE FROM {NEW} WHERE id = 15"
    )
    events.reconcile()
    assert events.bad() == (0, 0, 0)
    assert events.rows_of(1, 2, 3, 104, 50) == [
        (1, "o1", 1, "l1"),
        (2, "k2", 2, "l2"),
        (1, "o3", 3, "l3"),
        (2, "o", None, "l50"),
        (1, "k4", 4, "l4"),
    ]
    assert events.rows_of(6, 7, 8, 51, 111) == [
        (1, "n6", 6, "l6"),
        (2, "n7", 7, "l7"),
        (3, "n8", 8, "l8"),
        (3, "n51", None, None),
        (1, "k11", 11, "l11"),
    ]
    assert events.rows_of(12, 13, 14) == [
        (2, "o12", 12, "l12"),
        (2, "n13", 13, "l13"),
        (3, "n14", None, "l14"),
    ]
    assert events.rows_of(5, 9, 10, 15) == []
    assert len(events.rows_of(109)) == 1
    assert database.execute("SELECT * FROM zdm.row_conflicts") == []


@pytest.mark.parametrize("naive", [False, True])
def test_a_row_that_moves_while_the_backfill_makes_it(database: Database, naive: bool) -> None:
    """No key is met in another partition, so nobody may carry over a row that a chunk is about to make."""
    events = Events(database, rows=3, filled=False)
    statements = RowStatements(events.mapping, events.rollout)
    if naive:
        statements._lock = sql.SQL("FOR KEY SHARE")
        statements.locks_first = False
    with Scene(database.dsn) as scene:
        chunk, old = scene.session("chunk"), scene.session("old")
        chunk.run("BEGIN; SET LOCAL \"zdm.row\" = '1:new:*'")
        if statements.locks_first:
            chunk.run(statements.lock(0, 100).as_string(None))
        chunk.run(statements.fill(0, 100, careful=False).as_string(None))
        move = "UPDATE events SET at = at + interval '40 days' WHERE id = 2"
        if naive:
            old.run(move)
            events.reconcile()
            chunk.run("COMMIT")
        else:
            waiting = old.start(move)
            waiting.wait_blocked()
            chunk.run("COMMIT")
            waiting.result()
            events.reconcile()
    assert database.value(f"SELECT count(*) FROM {NEW}") == (4 if naive else 3)
    assert events.bad() == (0, 0, 1 if naive else 0)


@pytest.mark.parametrize("naive", [False, True])
def test_a_row_that_was_carried_over_and_moved_before_the_backfill_comes_to_it(
    database: Database, naive: bool
) -> None:
    """The snapshot in which it has no row over there is older than the lock, unless the lock is taken first."""
    events = Events(database, rows=3, filled=False)
    statements = RowStatements(events.mapping, events.rollout)
    with Scene(database.dsn) as scene:
        chunk, held = scene.session("chunk"), scene.session("held")
        held.run("BEGIN; SELECT FROM events WHERE id = 1 FOR UPDATE")
        chunk.run("BEGIN; SET LOCAL \"zdm.row\" = '1:new:*'")
        fill = statements.fill(0, 100, careful=False).as_string(None)
        waiting = chunk.start(fill if naive else statements.lock(0, 100).as_string(None))
        waiting.wait_blocked()
        database.execute("UPDATE events SET kind = 'o' WHERE id = 2")
        with events.session() as conn:
            assert Reconciler(conn, events.mapping, events.rollout).once().done == 1
        database.execute(f"UPDATE {NEW} SET at = at + interval '40 days' WHERE id = 2")
        held.run("COMMIT")
        waiting.result()
        if not naive:
            chunk.run(fill)
        chunk.run("COMMIT")
    events.reconcile()
    assert database.value(f"SELECT count(*) FROM {NEW}") == (4 if naive else 3)
    if not naive:
        assert events.bad() == (0, 0, 0)
        assert events.rows_of(2) == [(2, "o", 2, "l2")]


def test_both_versions_move_a_row(database: Database) -> None:
    """It is one row for the old version, so the later one decides where it is; and a deletion ends it, wherever it went."""
    events = Events(database)
    database.execute(
        f"UPDATE events SET at = at + interval '40 days' WHERE id IN (1, 3); UPDATE {NEW} SET at = at + interval '70 days' WHERE id IN (1, 2);"
        f" UPDATE events SET at = at + interval '40 days', kind = 'o' WHERE id = 2; DELETE FROM events WHERE id = 4;"
        f" UPDATE {NEW} SET at = at + interval '40 days' WHERE id = 4; DELETE FROM {NEW} WHERE id = 3"
    )
    events.reconcile()
    assert events.bad() == (0, 0, 0)
    assert events.rows_of(1, 2, 3, 4) == [(3, "k1", 1, "l1"), (2, "o", 2, "l2")]
    lost = database.execute("SELECT key[1], won, lost ->> 'at' IS NOT NULL FROM zdm.row_conflicts ORDER BY 1")
    assert lost == [("1", "new", True), ("2", "old", True), ("4", "old", True)]


def test_rows_that_the_old_table_cannot_hold(database: Database) -> None:
    """Two of one old key; no partition: each is on record, refuses the gates, and is tried again when something of it is written."""
    events = Events(database)
    database.execute(
        f'ALTER TABLE {NEW} DISABLE TRIGGER "!zdm_rows_1_new_first";'
        f" INSERT INTO {NEW} (id, at, kind) VALUES (1, '2024-03-01', 'twice'); UPDATE events SET kind = 'o' WHERE id = 1;"
        " UPDATE events SET at = '2025-01-01' WHERE id = 2"
    )
    events.reconcile()
    recorded = "SELECT key, sqlstate FROM zdm.sync_failures ORDER BY key ->> 'id'"
    assert database.execute(recorded) == [({"id": 1}, "21000"), ({"id": 2}, "23514")]
    assert database.execute("SELECT DISTINCT key[1] FROM zdm.row_changes WHERE failed ORDER BY 1") == [
        ("1",),
        ("2",),
    ]
    assert database.execute(f"SELECT kind FROM {NEW} WHERE id = 1 ORDER BY at") == [("k1",), ("twice",)]
    database.execute(
        f"DELETE FROM {NEW} WHERE id = 1 AND kind = 'twice'; UPDATE events SET at = '2024-02-02' WHERE id = 2"
    )
    events.reconcile()
    assert database.execute(recorded) == []
    assert events.rows_of(1, 2) == [(1, "o", 1, "l1"), (2, "k2", 2, "l2")]


def test_a_value_that_another_row_still_has(database: Database) -> None:
    """A unique value goes from row to row: who takes it waits for who has let it go, in whatever order they are noted and held."""
    events = Events(
        database,
        options={
            "partition_by": None,
            "partitions": [],
            "without": [],
            "columns": [{"column": "kind", "type": "varchar"}],
        },
    )
    database.execute(f"CREATE UNIQUE INDEX codes ON {NEW} (code)")
    database.execute(
        "UPDATE events SET kind = 'first' WHERE id = 2; UPDATE events SET code = 100 WHERE id = 1; UPDATE events SET code = 1 WHERE id = 2"
    )
    events.reconcile()
    assert [row[2] for row in events.rows_of(1, 2)] == [100, 1]
    database.execute("UPDATE events SET code = 300 WHERE id = 3; UPDATE events SET code = 3 WHERE id = 4")
    with Scene(database.dsn) as scene, events.session() as conn:
        held = scene.session("held")
        held.run(f"BEGIN; SELECT FROM {NEW} WHERE id = 3 FOR UPDATE")
        tally = Reconciler(conn, events.mapping, events.rollout).once()
        assert (tally.done, tally.busy, tally.failed) == (0, 2, 0)
        held.run("COMMIT")
    events.reconcile()
    assert [row[2] for row in events.rows_of(3, 4)] == [300, 3]
    assert database.execute("SELECT * FROM zdm.sync_failures") == []
    # Two that exchange theirs wait for each other, until one is given another for a moment.
    exchange = "UPDATE events SET code = {} WHERE id = {}"
    for code, id_ in ((-1, 5), (5, 6), (6, 5)):
        database.execute(exchange.format(code, id_))
    with events.session() as conn:
        assert Reconciler(conn, events.mapping, events.rollout).once().busy == 2
        assert database.execute("SELECT sqlstate FROM zdm.sync_failures") == [("23505",), ("23505",)]
        database.execute(exchange.format(-1, 5))
        assert Reconciler(conn, events.mapping, events.rollout).once().busy == 0
    database.execute(exchange.format(6, 5))
    events.reconcile()
    assert [row[2] for row in events.rows_of(5, 6)] == [6, 5]


def test_a_constraint_that_waits_for_the_commit(database: Database) -> None:
    """What the old table refuses only then is one row's failure, and does not stop the others."""
    database.execute(
        "CREATE TABLE kinds (name text PRIMARY KEY); INSERT INTO kinds SELECT 'k' || g FROM generate_series(1, 20) g"
    )
    events = Events(
        database,
        extra="ALTER TABLE events ADD FOREIGN KEY (kind) REFERENCES kinds DEFERRABLE INITIALLY DEFERRED",
    )
    database.execute(
        f"UPDATE {NEW} SET kind = 'none' WHERE id = 1; UPDATE {NEW} SET kind = 'k9' WHERE id = 2"
    )
    events.reconcile()
    assert database.execute("SELECT key, sqlstate FROM zdm.sync_failures") == [({"id": 1}, "23503")]
    assert events.rows_of(2) == [(1, "k9", 2, "l2")]
