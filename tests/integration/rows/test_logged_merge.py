"""Rows of one table that become columns of another while both are synced by log: what is emptied, what is not filled yet, and who wins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from tests.integration.rows.stage import staged
from tests.support.interleave import Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.backfill.join_statements import JoinStatements
from zdm.backfill.options import Options
from zdm.backfill.run import backfill
from zdm.db.session import connect
from zdm.engine.reconcile import Reconciler
from zdm.model.row_mapping import RowMapping
from zdm.operations.migration import Migration

SETUP = """
CREATE TABLE accounts (id bigint PRIMARY KEY, name text);
CREATE TABLE stats (account_id bigint PRIMARY KEY {reference}, statuses bigint NOT NULL DEFAULT 0, note text, made text DEFAULT 'm');
INSERT INTO accounts SELECT g, 'a' || g FROM generate_series(1, {rows}) g;
INSERT INTO stats SELECT g, g, 'n' || g, 'made' FROM generate_series(1, {rows}) g WHERE g % 4 <> 0;
"""
BAD = """
SELECT count(*) FILTER (WHERE s.account_id IS NULL AND (a.statuses, a.note) IS DISTINCT FROM (0, NULL)), count(*) FILTER (WHERE a.id IS NULL),
       count(*) FILTER (WHERE a.id = s.account_id AND (a.statuses, a.note) IS DISTINCT FROM (s.statuses, s.note))
FROM public.accounts a FULL JOIN public.stats s ON s.account_id = a.id
"""
"""Filled without a row, rows of nobody, and stale ones."""


@dataclass
class Merged:
    """``accounts`` that take over what ``stats`` holds, with what notes the writes of both, and nothing else."""

    database: Database
    rows: int = 20
    filled: bool = True
    reference: str = "REFERENCES accounts ON DELETE CASCADE ON UPDATE CASCADE"
    mapping: RowMapping = field(init=False)
    rollout: int = field(init=False)

    def __post_init__(self) -> None:
        self.database.execute(SETUP.format(rows=self.rows, reference=self.reference))
        merge = {
            "table": "stats",
            "to": "accounts",
            "key": {"id": "account_id"},
            "columns": ["statuses", "note"],
            "discard": ["made"],
        }
        migration = Migration.model_validate(
            {"id": "try_it", "sync": "logged", "operations": [{"merge_tables": merge}]}
        )
        _, self.mapping, self.rollout = staged(self.database, migration, naive=None)
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
        ((alone, lost, stale),) = self.database.execute(BAD)
        return alone, lost, stale

    def held(self, *ids: int) -> list[tuple[Any, ...]]:
        return self.database.execute(
            "SELECT id, a.statuses, a.note, s.made FROM accounts a LEFT JOIN stats s ON s.account_id = id WHERE id = ANY (%s) ORDER BY id",
            list(ids),
        )


@on_all_versions
@pytest.mark.parametrize("reference", [Merged.reference, ""])
def test_everything_that_can_be_written(database: Database, reference: str) -> None:
    merged = Merged(database, reference=reference)
    assert merged.bad() == (0, 0, 0)
    database.execute(
        # By the old version: written, made, gone, gone and made again; an account goes, another takes another key.
        "UPDATE stats SET statuses = 101 WHERE account_id = 1; INSERT INTO stats VALUES (4, 104, 'o4'); DELETE FROM stats WHERE account_id = 2;"
        " DELETE FROM stats WHERE account_id = 3; INSERT INTO stats VALUES (3, 103, NULL); INSERT INTO stats (account_id) VALUES (8);"
        # By the new one: written, filled where there was nothing, emptied, made.
        " UPDATE accounts SET statuses = 205 WHERE id = 5; UPDATE accounts SET note = 'n12' WHERE id = 12;"
        " UPDATE accounts SET statuses = 0, note = NULL WHERE id = 6; INSERT INTO accounts VALUES (30, 'x', 230, 'n30'), (31, 'y', 0, NULL);"
        " UPDATE accounts SET name = 'only that' WHERE id = 16; DELETE FROM accounts WHERE id = 7; UPDATE accounts SET id = 109 WHERE id = 9;"
        # Both: different columns; one that goes while the other one writes some of it.
        " UPDATE stats SET statuses = 110 WHERE account_id = 10; UPDATE accounts SET note = 'n10' WHERE id = 10;"
        " UPDATE accounts SET note = 'before' WHERE id = 11; DELETE FROM stats WHERE account_id = 11;"
        " DELETE FROM stats WHERE account_id = 13; UPDATE accounts SET note = 'after' WHERE id = 13"
    )
    merged.reconcile()
    assert merged.bad() == (0, 0, 0)
    assert merged.held(1, 2, 3, 4, 8) == [
        (1, 101, "n1", "made"),
        (2, 0, None, None),
        (3, 103, None, "m"),
        (4, 104, "o4", "m"),
        (8, 0, None, "m"),
    ]
    assert merged.held(5, 6, 7, 9, 12, 16, 30, 31, 109) == [
        (5, 205, "n5", "made"),
        (6, 0, None, "made"),
        (12, 0, "n12", "m"),
        (16, 0, None, None),
        (30, 230, "n30", "m"),
        (31, 0, None, None),
        (109, 9, "n9", "made"),
    ]
    assert merged.held(10, 11, 13) == [(10, 110, "n10", "made"), (11, 0, None, None), (13, 0, "after", "m")]
    assert database.execute("SELECT key[1], won, lost FROM zdm.row_conflicts") == [
        ("11", "old", {"note": "before"})
    ]
    # TRUNCATE of the old table empties the columns; what was made since stays.
    database.execute("TRUNCATE stats; INSERT INTO stats VALUES (1, 7, 'again')")
    merged.reconcile()
    assert merged.bad() == (0, 0, 0)
    assert database.execute("SELECT id, statuses FROM accounts WHERE statuses <> 0") == [(1, 7)]


def test_what_is_not_filled_yet_is_not_written_over(database: Database) -> None:
    """Until the backfill has been there, the new version must read the old structure; what is only on its way is no such case."""
    merged = Merged(database, filled=False)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        database.execute("UPDATE accounts SET note = 'x' WHERE id = 1")
    database.execute("UPDATE stats SET statuses = 9 WHERE account_id = 2")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        database.execute("UPDATE accounts SET note = 'x' WHERE id = 2")
    database.execute("UPDATE accounts SET note = 'nobody had one' WHERE id = 4")
    database.execute("INSERT INTO stats VALUES (8, 8, 'o8'); UPDATE accounts SET note = 'n8' WHERE id = 8")
    merged.fill()
    merged.reconcile()
    assert merged.bad() == (0, 0, 0)
    assert merged.held(2, 4, 8) == [(2, 9, "n2", "made"), (4, 0, "nobody had one", "m"), (8, 8, "n8", "m")]
    # Once all is filled, a value that is only on its way refuses nothing.
    database.execute("INSERT INTO stats (account_id) VALUES (12)")
    merged.reconcile()
    database.execute(
        "UPDATE stats SET statuses = 5 WHERE account_id = 12; UPDATE accounts SET note = 'n12' WHERE id = 12"
    )
    merged.reconcile()
    assert merged.held(12) == [(12, 5, "n12", "m")]


@pytest.mark.parametrize("naive", [False, True])
def test_a_row_that_the_new_version_writes_while_the_backfill_fills_it(
    database: Database, naive: bool
) -> None:
    """Nobody waits for the old row who writes the new one, so that what a chunk has seen says nothing about what it writes over."""
    merged = Merged(database, rows=3, filled=False)
    mapping = merged.mapping.model_copy(update={"logged": False}) if naive else merged.mapping
    fill = JoinStatements(mapping, merged.rollout).fill(0, 100, careful=False).as_string(None)
    with Scene(database.dsn) as scene:
        held, chunk = scene.session("held"), scene.session("chunk")
        held.run("BEGIN; SELECT FROM stats WHERE account_id = 1 FOR UPDATE")
        chunk.run("BEGIN; SET LOCAL \"zdm.row\" = '1:new:*'")
        waiting = chunk.start(fill)
        waiting.wait_blocked()
        database.execute("UPDATE stats SET statuses = 5 WHERE account_id = 2")
        with merged.session() as conn:
            assert Reconciler(conn, merged.mapping, merged.rollout).once().done == 1
        database.execute("UPDATE accounts SET statuses = 77 WHERE id = 2")
        held.run("COMMIT")
        waiting.result()
        chunk.run("COMMIT")
    merged.reconcile()
    assert merged.held(2) == [(2, 5 if naive else 77, "n2", "made")]
    assert merged.bad() == (0, 0, 0)
