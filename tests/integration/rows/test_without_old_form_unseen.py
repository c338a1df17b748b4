"""A row without an old form, where nothing but a note can tell that a row of the old version is there and not seen."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.rows.stage import Rows
from tests.integration.rows.test_interleaved import fill
from tests.integration.rows.test_without_old_form import RECORDED, found
from tests.support.interleave import Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.sql.row_record import RecordObjects

ALONE = "INSERT INTO account_stats (account_id, statuses, followers) VALUES (77, 1, 2)"
SILENT = "INSERT INTO accounts (id, name, must) VALUES (77, 'somebody', 'x')"
ABOVE = ["REPEATABLE READ", "SERIALIZABLE"]

TRIGGER = (
    "CREATE FUNCTION asks() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN IF NEW.name IS NULL THEN {} END IF; RETURN NEW; END $$;"
    " CREATE TRIGGER asks BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION asks()"
)
IN_THE_WAY = {
    "raises": TRIGGER.format("RAISE 'nobody is called that';"),
    "skips": TRIGGER.format("RETURN NULL;"),
    "check": "ALTER TABLE accounts ADD CHECK (name IS NOT NULL)",
    "empty": "TRUNCATE accounts",
}


def staged(database: Database, way: str) -> Rows:
    """Rows of the new version are recorded; an INSERT that asks for the key of an old one does not get as far as its index."""
    must = "ALTER TABLE accounts ADD COLUMN must text NOT NULL DEFAULT 'x'; ALTER TABLE accounts ALTER must DROP DEFAULT; "
    made = Rows(
        database,
        rows=3,
        extra=must + IN_THE_WAY[way],
        options={"without_old_form": "record", "rows": "needed"},
    )
    fill(made)
    return made


def met(rows: Rows) -> None:
    """The old row has what the new one says, and nothing is recorded."""
    assert rows.database.execute(RECORDED) == []
    assert rows.database.execute("SELECT statuses, followers FROM accounts WHERE id = 77") == [(1, 2)]
    assert rows.bad() == (0, 0, 0)
    assert found(rows).clean


@on_all_versions
@pytest.mark.parametrize("way", list(IN_THE_WAY))
def test_nobody_is_there(database: Database, way: str) -> None:
    """It is recorded, and written again, at every level: to try again would change nothing."""
    rows = staged(database, way)
    for number, isolation in enumerate(ABOVE):
        for statement in (
            f"INSERT INTO account_stats (account_id, statuses, followers) VALUES (7{number}, 1, 2)",
            f"UPDATE account_stats SET followers = 9 WHERE account_id = 7{number}",
        ):
            database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
    assert database.execute("SELECT key, new_row ->> 'followers' FROM zdm.rows_without_old_form") == [
        ({"account_id": 70}, "9"),
        ({"account_id": 71}, "9"),
    ]
    assert found(rows).clean


@on_all_versions
@pytest.mark.parametrize("isolation", ABOVE)
@pytest.mark.parametrize("way", ["raises", "skips"])
def test_the_old_row_came_since_the_snapshot(database: Database, isolation: str, way: str) -> None:
    """It is there and not seen, and says nothing that could be met: trying again helps, and is asked for."""
    rows = staged(database, way)
    with Scene(database.dsn) as scene:
        new = scene.session("new")
        new.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM accounts")
        database.execute(SILENT)
        with pytest.raises(psycopg.errors.SerializationFailure):
            new.run(f"{ALONE}; COMMIT")
        new.run(f"ROLLBACK; BEGIN ISOLATION LEVEL {isolation}; {ALONE}; COMMIT")
    met(rows)


def test_the_old_row_was_left_alone_since_the_snapshot(database: Database) -> None:
    """It came with values and a row of the new version, which went: as if it had come and said nothing."""
    rows = staged(database, "raises")
    with Scene(database.dsn) as scene:
        new = scene.session("new")
        new.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM accounts")
        database.execute("INSERT INTO accounts VALUES (77, 'somebody', 5, 5, 'x')")
        database.execute("DELETE FROM account_stats WHERE account_id = 77")
        with pytest.raises(psycopg.errors.SerializationFailure):
            new.run(f"{ALONE}; COMMIT")
        new.run(f"ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; {ALONE}; COMMIT")
    met(rows)


@pytest.mark.parametrize("isolation", ABOVE)
def test_the_record_came_since_the_snapshot(database: Database, isolation: str) -> None:
    """The old row's writer is told to try again, and then gets what is recorded."""
    rows = staged(database, "raises")
    with Scene(database.dsn) as scene:
        old = scene.session("old")
        old.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM accounts")
        database.execute(ALONE)
        with pytest.raises(psycopg.errors.SerializationFailure):
            old.run(f"{SILENT}; COMMIT")
        old.run(f"ROLLBACK; BEGIN ISOLATION LEVEL {isolation}; {SILENT}; COMMIT")
    met(rows)


@on_all_versions
@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("first", ["old", "new"])
def test_both_come_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, first: str, naive: bool
) -> None:
    """Who comes second waits for the other's note, or for its record."""
    if naive:
        monkeypatch.setattr(RecordObjects, "_meets", False)
    rows = staged(database, "raises")
    mine, yours = (SILENT, ALONE) if first == "old" else (ALONE, SILENT)
    with Scene(database.dsn) as scene:
        one, two = scene.session("one"), scene.session("two")
        one.run("BEGIN")
        one.run(mine)
        waiting = two.start(yours)
        if naive:
            waiting.result()
            one.run("COMMIT")
            assert rows.bad() == (0, 0, 1)
            return
        waiting.wait_blocked()
        one.run("COMMIT")
        waiting.result()
    met(rows)
