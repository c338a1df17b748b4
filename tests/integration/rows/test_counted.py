"""Rows that are copied without a lock on each: what goes meanwhile is noticed by the chunk, or finds the copy. Each fails without one part of that."""

from __future__ import annotations

from functools import partial

import psycopg
import pytest

from tests.integration.rows.stage import Rows, staged
from tests.support.interleave import Isolation, Scene, Session
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.backfill import Options, counted
from zdm.backfill.counted import MOVED, Count, Counting, tells
from zdm.backfill.options import Result
from zdm.backfill.row_statements import RowStatements
from zdm.backfill.run import backfill
from zdm.backfill.worker import Worker
from zdm.db.session import connect
from zdm.operations.migration import Migration

GOES = (
    "DELETE FROM accounts WHERE id = 2",
    "UPDATE accounts SET id = 1002 WHERE id = 2",
    "UPDATE accounts SET name = 'closed' WHERE id = 2",
)
SPLIT = {
    "to": "account_stats",
    "key": {"account_id": "id"},
    "where": "name <> 'closed'",
    "columns": ["statuses", "followers"],
    "down": {"name": "'new'"},
    "create": {},
}


class Filtered:
    """Three ``accounts``, an empty ``account_stats`` for those that are not closed, and what mirrors them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        database.execute(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, name text NOT NULL, statuses int, followers int);"
            " INSERT INTO accounts SELECT g, 'a' || g, g, g FROM generate_series(1, 3) g"
        )
        operation = {"split_table": {"table": "accounts", "keep": True, "into": [SPLIT]}}
        migration = Migration.model_validate({"id": "try_it", "operations": [operation]})
        _, self.mapping, self.rollout = staged(database, migration, naive=None)

    @property
    def wrong(self) -> int:
        """Rows on either side that are not what the other one says, by a query that knows nothing of zdm's."""
        ((count,),) = self.database.execute(WRONG)
        return int(count)


WRONG = """
SELECT count(*) FROM public.accounts a FULL JOIN public.account_stats s ON s.account_id = a.id
WHERE (a.id IS NOT NULL AND a.name <> 'closed') IS DISTINCT FROM (s.account_id IS NOT NULL)
   OR (a.statuses, a.followers) IS DISTINCT FROM (s.statuses, s.followers) AND s.account_id IS NOT NULL
"""


class Chunk:
    """The steps of a chunk over all rows, one by one."""

    def __init__(self, rows: Rows | Filtered, session: Session) -> None:
        counting = RowStatements(rows.mapping, rows.rollout).counting
        assert counting is not None
        self._counting: Counting = counting
        self._session = session
        self.kept = 0
        with connect(rows.database.dsn, application_name="count") as conn:
            self.count: Count = counting.count(conn, 0, 10)

    def copy(self) -> None:
        self._session.run("BEGIN; SET LOCAL \"zdm.row\" = '1:new:*'")
        self._session.run(self._counting.fill(0, 10, self.count, None).as_string(None))

    @property
    def hold(self) -> str:
        """What locks the rows that carried a mark."""
        return self._counting.hold(0, 10, self.count).as_string(None)

    @property
    def closing(self) -> str:
        """The last look, without the COMMIT that follows it in the same message."""
        return (
            self._counting.close(0, 10, self.count, self.kept)
            .as_string(None)
            .removesuffix("\n;\nCOMMIT")
            .removesuffix(";\nCOMMIT")
        )


def moved(chunk: Chunk, copier: Session) -> bool:
    """Whether the last look says so; the chunk is committed if not."""
    try:
        copier.run(chunk.closing)
    except psycopg.DatabaseError as error:
        copier.run("ROLLBACK")
        return error.sqlstate == MOVED
    copier.run("COMMIT")
    return False


def fill(rows: Rows | Filtered, options: Options | None = None) -> Result:
    result = backfill(
        partial(connect, rows.database.dsn, application_name="backfill"), rows.rollout, rows.mapping, options
    )
    assert result.complete
    return result


@pytest.mark.parametrize("statement", GOES)
@pytest.mark.parametrize("looks", [True, False])
def test_a_row_went_since_it_was_counted(database: Database, statement: str, looks: bool) -> None:
    """What is copied is what the chunk's snapshot held. Without the second look: a zombie."""
    rows = Filtered(database)
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        chunk = Chunk(rows, copier)
        chunk.copy()
        # Its trigger finds no copy, since that is not committed, and nobody holds the lock yet.
        a.run(statement)
        if not looks:
            copier.run("COMMIT")
            assert rows.wrong
            return
        assert moved(chunk, copier)
    fill(rows)
    assert not rows.wrong


@on_all_versions
@pytest.mark.parametrize("statement", GOES)
@pytest.mark.parametrize(
    ("level", "marked"),
    [("READ COMMITTED", True), ("REPEATABLE READ", True), ("SERIALIZABLE", True), ("READ COMMITTED", False)],
)
def test_a_row_is_about_to_go(database: Database, statement: str, level: Isolation, marked: bool) -> None:
    """Its deletion is not committed when the chunk looks for the last time: only the mark on the row tells. A look that does not see that: a zombie."""
    rows = Filtered(database)
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        chunk = Chunk(rows, copier)
        a.run(f"BEGIN ISOLATION LEVEL {level}")
        a.run(statement)
        chunk.copy()
        if not marked:
            copier.run("COMMIT")
            a.run("COMMIT")
            assert rows.wrong
            return
        assert moved(chunk, copier)
        a.run("COMMIT")
    fill(rows)
    assert not rows.wrong


@on_all_versions
@pytest.mark.parametrize("statement", GOES)
def test_a_row_is_about_to_go_before_it_is_counted(database: Database, statement: str) -> None:
    """It has its mark when the chunk counts, and keeps it to the last look: the chunk waits for who has marked it. A lock that an update leaves alone: a zombie."""
    rows = Filtered(database)
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        a.run("BEGIN")
        a.run(statement)
        chunk = Chunk(rows, copier)
        assert chunk.count.held == 1
        chunk.copy()
        waiting = copier.start(chunk.hold)
        waiting.wait_blocked(by=a)
        a.run("COMMIT")
        assert len(waiting.result()) == 0
        assert moved(chunk, copier)
    fill(rows)
    assert not rows.wrong


def test_an_old_mark_is_taken_away(database: Database) -> None:
    """VACUUM takes the mark of an ended lock away before the chunk looks for it, and another row is marked: as many are, and not the same."""
    rows = Filtered(database)
    database.execute("BEGIN; SELECT FROM accounts WHERE id = 1 FOR KEY SHARE; COMMIT")
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        chunk = Chunk(rows, copier)
        assert chunk.count.held == 1
        chunk.copy()
        database.execute("VACUUM (FREEZE) accounts")
        chunk.kept = len(copier.run(chunk.hold))
        a.run("BEGIN; DELETE FROM accounts WHERE id = 2")
        assert moved(chunk, copier)
        a.run("COMMIT")
    fill(rows)
    assert not rows.wrong


@on_all_versions
@pytest.mark.parametrize("statement", GOES)
@pytest.mark.parametrize("passes", [True, False])
def test_a_row_goes_between_the_last_look_and_the_commit(
    database: Database, statement: str, passes: bool
) -> None:
    """It waits for the commit, and finds the copy. A trigger that does not: a zombie."""
    rows = Filtered(database)
    if not passes:
        ((source,),) = database.execute(
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname ~ 'settle_new' AND pronamespace = 'zdm'::regnamespace"
        )
        without = source.replace("PERFORM pg_catalog.pg_advisory_xact_lock(", "PERFORM (")
        assert without != source
        database.execute(without)
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        chunk = Chunk(rows, copier)
        chunk.copy()
        copier.run(chunk.closing)
        if not passes:
            a.run("BEGIN")
            a.run(statement)
            copier.run("COMMIT")
            a.run("COMMIT")
            assert rows.wrong
            return
        waiting = a.start(statement)
        waiting.wait_blocked(by=copier)
        copier.run("COMMIT")
        waiting.result()
    assert not rows.wrong


@pytest.mark.parametrize("statement", GOES)
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_that_cannot_see_the_copy(database: Database, statement: str, level: Isolation) -> None:
    """It waits for the copy's key, and is told to try again."""
    rows = Filtered(database)
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        chunk = Chunk(rows, copier)
        chunk.copy()
        copier.run(chunk.closing)
        a.run(f"BEGIN ISOLATION LEVEL {level}")
        waiting = a.start(statement)
        waiting.wait_blocked(by=copier)
        copier.run("COMMIT")
        with pytest.raises(psycopg.errors.SerializationFailure):
            waiting.result()
        a.run(f"ROLLBACK; BEGIN ISOLATION LEVEL {level}; {statement}; COMMIT")
    assert not rows.wrong


@on_all_versions
def test_rows_that_somebody_has_locked_before(database: Database) -> None:
    """Rows that others refer to carry the mark of that lock for long: they are locked, all others are not."""
    rows = Rows(database, rows=3000)
    database.execute("UPDATE accounts SET name = 'x' WHERE id % 7 = 0")
    database.execute("BEGIN; SELECT FROM accounts WHERE id % 100 = 1 FOR KEY SHARE; COMMIT")
    result = fill(rows, Options(first_rows=500))
    assert (result.rows, result.retried) == (3000, 0)
    assert rows.bad() == (0, 0, 0)
    ((locked,),) = database.execute("SELECT count(*) FROM accounts WHERE xmax <> '0'")
    assert locked == 30


def test_the_worker_goes_on_with_locks(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk from which a row went is repeated, its rows locked; the next one counts again."""
    rows = Rows(database, rows=3000)
    close, filled = Counting.close, []
    steps: list[str] = []

    def closing(self: Counting, start: int, end: int, count: Count, kept: int) -> object:
        steps.append(f"close {start}")
        if len(steps) == 2:
            # Of the rows that this chunk has copied.
            database.execute(f"DELETE FROM accounts WHERE ctid = '({start},2)'")
        return close(self, start, end, count, kept)

    fill_locked = RowStatements.fill

    def locking(self: RowStatements, start: int, end: int, *, careful: bool) -> object:
        filled.append(start)
        return fill_locked(self, start, end, careful=careful)

    monkeypatch.setattr(Counting, "close", closing)
    monkeypatch.setattr(RowStatements, "fill", locking)
    result = fill(rows, Options(first_rows=200, most_rows=200))
    assert result.retried == 1
    assert len(filled) == 1
    assert len(steps) > 5
    assert rows.bad() == (0, 0, 0)


def test_where_others_make_rows_as_well(database: Database) -> None:
    """After a row was met that is there already, chunks look for such rows first."""
    rows = Rows(database, rows=3000)
    database.execute("UPDATE accounts SET statuses = statuses + 1 WHERE id % 50 = 0")
    database.execute("VACUUM FREEZE accounts")
    result = fill(rows, Options(first_rows=200, most_rows=200))
    assert result.rows == 3000 - 60
    assert result.retried == 1
    assert rows.bad() == (0, 0, 0)


@on_all_versions
def test_a_row_that_moves_behind_the_backfill_unseen(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update of a column that is not mapped does not settle the row, and may take it to blocks that are done. The last look finds it by its writer."""
    rows = Rows(database, rows=3000)
    database.execute("ALTER TABLE accounts SET (autovacuum_enabled = off), ALTER name SET STORAGE PLAIN")
    step = Worker._step
    done: list[int] = []

    def stepping(self: Worker, position: int, end: int, record: object) -> int:
        found = step(self, position, end, record)  # type: ignore[arg-type]
        if not done:
            # Each needs a page for itself, and at most one of them is there.
            done.append(position)
            database.execute("UPDATE accounts SET name = repeat('x', 7000) WHERE id IN (2998, 2999)")
        return found

    monkeypatch.setattr(Worker, "_step", stepping)
    looks: list[str | None] = []
    left = RowStatements.left

    def looking(self: RowStatements, start: int, end: int, since: str | None = None) -> object:
        looks.append(since)
        return left(self, start, end, since)

    monkeypatch.setattr(RowStatements, "left", looking)
    result = fill(rows, Options(first_rows=200, most_rows=200))
    assert looks[0] is not None
    assert result.swept >= 1
    assert rows.bad() == (0, 0, 0)


def test_a_pass_so_long_that_numbers_of_transactions_come_round(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row written lately would seem older than the beginning of the pass, and be passed over by the last look: that looks at all rows then."""
    assert tells("700", "700")
    assert not tells("700", str(700 + 2**31))  # from here on, compared as the server does
    assert not tells("700", "600")  # restored from a dump, on another server
    rows = Rows(database, rows=3)
    monkeypatch.setattr(counted, "FAR", 0)
    left, looks = RowStatements.left, []

    def looking(self: RowStatements, start: int, end: int, since: str | None = None) -> object:
        looks.append(since)
        return left(self, start, end, since)

    monkeypatch.setattr(RowStatements, "left", looking)
    fill(rows)
    assert looks == [None]
