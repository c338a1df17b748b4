"""Foreign keys and indexes of a table that an operation makes: there from the start, and acting beside those of the old table."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from tests.conformance.harness import OPEN_GATES, Rollout
from tests.support.servers import Database
from zdm.backfill.sweep import BadData
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario
from zdm.operations.migration import Migration

SETUP = """
CREATE TABLE boards (id int PRIMARY KEY); INSERT INTO boards SELECT generate_series(1, 9);
CREATE TABLE cards (id int PRIMARY KEY, title text, board int REFERENCES boards ON DELETE SET NULL, color text);
INSERT INTO cards SELECT g, 'c' || g, g % 9 + 1, 'red' FROM generate_series(1, 90) g;
"""

MOVE: dict[str, Any] = {
    "table": "cards",
    "to": "tiles",
    "key": {"card": "id"},
    "columns": ["board", "color"],
    "create": {
        "foreign_keys": [{"columns": ["board"], "references": {"table": "boards"}, "on_delete": "set null"}],
        "indexes": [["board"], ["color", "board"]],
    },
}

HERE = """
SELECT array(SELECT conname || convalidated::text FROM pg_constraint WHERE conrelid = 'tiles'::regclass AND contype = 'f' ORDER BY 1)::text[],
       array(SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = 'tiles'::regclass ORDER BY 1)::text[]
"""


def rollout(database: Database, **options: Any) -> Rollout:
    operation: dict[str, object] = {"move_columns": {**MOVE, **options}}
    return Rollout(database, Scenario(setup=SETUP, operations=(operation,)))


def test_they_stand_from_the_start_and_act_on_both_sides(database: Database) -> None:
    tried = rollout(database)
    tried.advance_to(State.PREPARED)
    indexes = ["tiles_board_idx", "tiles_color_board_idx", "tiles_pkey"]
    assert database.execute(HERE) == [(["tiles_board_fkeytrue"], indexes)]
    database.execute("DELETE FROM boards WHERE id = 1")
    tried.advance_to(State.MIGRATED)
    database.execute("DELETE FROM boards WHERE id = 2")
    for level in ("READ COMMITTED", "SERIALIZABLE"):
        with pytest.raises(pg.ForeignKeyViolation):
            database.execute(
                f"BEGIN ISOLATION LEVEL {level}; UPDATE tiles SET board = 99 WHERE card = 4; COMMIT"
            )
    agreeing = "SELECT count(*), count(t.board) FROM cards c JOIN tiles t ON t.card = c.id AND (t.board, t.color) IS NOT DISTINCT FROM (c.board, c.color)"
    assert database.execute(agreeing) == [(90, 70)]
    tried.advance_to(State.COMPLETED)
    assert database.execute(HERE) == [(["tiles_board_fkeytrue", "tiles_card_fkeytrue"], indexes)]
    database.execute("DELETE FROM boards WHERE id = 3")
    assert database.value("SELECT count(board) FROM tiles") == 60


def test_a_rollback_leaves_nothing(database: Database) -> None:
    tried = rollout(database)
    tried.advance_to(State.SWITCHED_OVER)
    tried.engine().rollback("try_it")
    assert tried.dump() == tried.before
    tried.nothing_left()


def test_what_only_the_new_one_refuses_is_recorded_and_named(database: Database) -> None:
    tried = Rollout(
        database,
        Scenario(
            setup=SETUP
            + "ALTER TABLE cards DROP CONSTRAINT cards_board_fkey; UPDATE cards SET board = 77 WHERE id = 5",
            operations=({"move_columns": MOVE},),
        ),
    )
    tried.advance_to(State.PREPARED)
    with pytest.raises(BadData, match=r"id=5: .*tiles_board_fkey"):
        tried.advance_to(State.MIGRATED)
    database.execute("UPDATE cards SET board = 78 WHERE id = 6")
    assert database.execute("SELECT key ->> 'id', sqlstate FROM zdm.sync_failures ORDER BY 1") == [
        ("5", "23503"),
        ("6", "23503"),
    ]
    database.execute("UPDATE cards SET board = 1 WHERE id IN (5, 6)")
    tried.advance_to(State.MIGRATED)
    assert tried.engine().verify("try_it").clean


@pytest.mark.parametrize("sync", list(SyncMode))
def test_everything_that_is_wrong_with_them_is_told_at_once(database: Database, sync: SyncMode) -> None:
    create = {
        "foreign_keys": [
            {"columns": ["bord"], "references": {"table": "boards"}},
            {"columns": ["color"], "references": {"table": "nowhere"}},
            {"columns": ["card"], "references": {"table": "boards"}},
        ],
        "indexes": [["colour"]],
    }
    wrong = rollout(database, create=create)
    with pytest.raises(BadInput) as refused:
        wrong.engine().plan(wrong.migration)
    told = str(refused.value)
    for part in (
        "no column bord in public.tiles",
        "public.nowhere",
        "no column colour in public.tiles",
        "`foreign_key` makes",
    ):
        assert part in told
    migration = Migration.model_validate(
        {"id": "try_it", "operations": [{"move_columns": MOVE}], "gates": OPEN_GATES, "sync": sync}
    )
    if sync is SyncMode.LOGGED:
        with pytest.raises(BadInput, match=r"tiles_board_fkey of public.tiles deletes or writes rows"):
            wrong.engine().plan(migration)
    else:
        wrong.engine().plan(migration)
    with psycopg.connect(database.dsn) as connection:
        assert connection.execute("SELECT to_regclass('tiles')").fetchone() == (None,)
