"""Rows that are copied without a lock on each: what goes meanwhile is noticed by the chunk, or finds the copy. Each fails without one part of that."""

from __future__ import annotations

from functools import partial

import psycopg
import pytest

from tests.integration.rows.stage import Rows, staged
from tests.support.interleave import Isolation, Scene, Session
from tests.support.servers import Database
from tests.support.versions import on_all_versions, on_all_versions_at_length
from zdm.backfill import Options, counted
from zdm.backfill.counted import MOVED, Count, Counting, tells
from zdm.backfill.options import Result
from zdm.backfill.row_statements import RowStatements
from zdm.backfill.run import backfill
from zdm.backfill.worker import FEWEST_COUNTING, Worker
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
    """The steps of a chunk over all three rows, one by one; without the first count where nobody seems to write."""

    def __init__(self, rows: Filtered, session: Session, *, counted: bool = True) -> None:
        counting = RowStatements(rows.mapping, rows.rollout).counting
        assert counting is not None
        self._counting: Counting = counting
        self._session = session
        self.kept = 0
        with connect(rows.database.dsn, application_name="count") as conn:
            self._since = counting.oldest(conn)
            self._count = counting.count(conn, 0, 10) if counted else None

    def copy(self) -> None:
        self._session.run("BEGIN; SET LOCAL \"zdm.row\" = '1:new:*'")
        self._session.run(self._counting.fill(0, 10, self._since, None).as_string(None))

    @property
    def marked(self) -> int:
        """Rows that carried a mark when they were counted."""
        assert self._count is not None
        return self._count.held

    @property
    def hold(self) -> str:
        """What locks the rows that carried a mark."""
        assert self._count is not None
        return self._counting.hold(0, 10, self._count).as_string(None)

    @property
    def closing(self) -> str:
        """The last look, without the COMMIT that follows it in the same message."""
        if self._count is None:
            closing = self._counting.close_quiet(0, 10, self._since, 3)
        else:
            closing = self._counting.close(0, 10, self._count, self.kept)
        return closing.as_string(None).removesuffix("\n;\nCOMMIT").removesuffix(";\nCOMMIT")


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
@pytest.mark.parametrize(("counted", "looks"), [(True, True), (False, True), (True, False)])
def test_a_row_went_since_it_was_counted(
    database: Database, statement: str, counted: bool, looks: bool
) -> None:
    """What is copied is what the chunk's snapshot held. Without the second look: a zombie."""
    rows = Filtered(database)
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        chunk = Chunk(rows, copier, counted=counted)
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
    ("level", "counted", "marked"),
    [
        ("READ COMMITTED", True, True),
        ("REPEATABLE READ", True, True),
        ("SERIALIZABLE", True, True),
        ("READ COMMITTED", False, True),
        ("READ COMMITTED", True, False),
    ],
)
def test_a_row_is_about_to_go(
    database: Database, statement: str, level: Isolation, counted: bool, marked: bool
) -> None:
    """Its deletion is not committed when the chunk looks for the last time: only the mark on the row tells. A look that does not see that: a zombie."""
    rows = Filtered(database)
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        chunk = Chunk(rows, copier, counted=counted)
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


@on_all_versions_at_length
@pytest.mark.parametrize("statement", GOES)
def test_a_row_is_about_to_go_before_it_is_counted(database: Database, statement: str) -> None:
    """It has its mark when the chunk counts, and keeps it to the last look: the chunk waits for who has marked it. A lock that an update leaves alone: a zombie."""
    rows = Filtered(database)
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        a.run("BEGIN")
        a.run(statement)
        chunk = Chunk(rows, copier)
        assert chunk.marked == 1
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
        assert chunk.marked == 1
        chunk.copy()
        database.execute("VACUUM (FREEZE) accounts")
        chunk.kept = len(copier.run(chunk.hold))
        a.run("BEGIN; DELETE FROM accounts WHERE id = 2")
        assert moved(chunk, copier)
        a.run("COMMIT")
    fill(rows)
    assert not rows.wrong


@on_all_versions_at_length
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


@on_all_versions_at_length
def test_rows_that_somebody_has_locked_before(database: Database) -> None:
    """Rows that others refer to carry the mark of that lock for long: they are locked, all others are not."""
    rows = Rows(database, rows=3000)
    database.execute("UPDATE accounts SET name = 'x' WHERE id % 7 = 0")
    database.execute("BEGIN; SELECT FROM accounts WHERE id % 100 = 1 FOR KEY SHARE; COMMIT")
    result = fill(rows, Options(first_rows=500))
    assert (result.rows, result.retried) == (3000, 1)  # the first chunk did not count
    assert rows.bad() == (0, 0, 0)
    ((locked,),) = database.execute("SELECT count(*) FROM accounts WHERE xmax <> '0'")
    assert locked == 30


@pytest.mark.parametrize("held", [False, True])
def test_a_chunk_that_is_not_quiet(database: Database, held: bool) -> None:
    """A row that was written lately, or that somebody has locked, is not for a chunk that has not counted: it would be passed over."""
    rows = Filtered(database)
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        if held:
            a.run("BEGIN; SELECT FROM accounts WHERE id = 2 FOR KEY SHARE")
            a.run("COMMIT")
        else:
            # Somebody's transaction is older than the row; its writer has settled nothing, since no column is mapped that changed.
            a.run("BEGIN; SELECT pg_current_xact_id()")
            database.execute("UPDATE accounts SET name = name WHERE id = 2")
        chunk = Chunk(rows, copier, counted=False)
        chunk.copy()
        assert moved(chunk, copier)
    fill(rows)
    assert not rows.wrong


def test_the_worker_counts_and_then_locks(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk from which a row went is repeated with a count, and if a row goes again, its rows locked; the next one counts again."""
    rows = Rows(database, rows=3000)
    close, close_quiet, fill_locked = Counting.close, Counting.close_quiet, RowStatements.fill
    steps: list[str] = []

    def gone(start: int, row: int) -> None:
        database.execute(f"DELETE FROM accounts WHERE ctid = '({start},{row})'")

    def closing_quiet(self: Counting, start: int, end: int, since: str, rows: int) -> object:
        steps.append("quiet")
        if len(steps) == 2:
            gone(start, 2)
        return close_quiet(self, start, end, since, rows)

    def closing(self: Counting, start: int, end: int, count: Count, kept: int) -> object:
        steps.append("counted")
        if len(steps) == 3:
            gone(start, 3)
        return close(self, start, end, count, kept)

    def locking(self: RowStatements, start: int, end: int, *, careful: bool) -> object:
        steps.append("locked")
        return fill_locked(self, start, end, careful=careful)

    monkeypatch.setattr(Counting, "close_quiet", closing_quiet)
    monkeypatch.setattr(Counting, "close", closing)
    monkeypatch.setattr(RowStatements, "fill", locking)
    result = fill(rows, Options(first_rows=200, most_rows=200))
    assert result.retried == 2
    assert steps[:4] == ["quiet", "quiet", "counted", "locked"]
    assert steps[4:] == ["counted"] * FEWEST_COUNTING + ["quiet"] * (len(steps) - 4 - FEWEST_COUNTING)
    assert steps[-1] == "quiet"
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


@on_all_versions_at_length
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
