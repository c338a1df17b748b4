"""Rows that get an old form, or lose it, from both sides at the same moment: at the end one row, or one entry in the record."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from tests.integration.rows.stage import Rows, staged
from tests.integration.rows.test_without_old_form import RECORDED, found, recording
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions, on_all_versions_at_length
from tests.support.writers import Writers
from zdm.backfill.run import backfill
from zdm.db.session import connect
from zdm.model.row_mapping import RowMapping
from zdm.operations.migration import Migration
from zdm.sql.row_record import RecordObjects
from zdm.verify.rows import verify_rows

ALONE = "INSERT INTO account_stats (account_id, statuses, followers) VALUES (77, 1, 2)"
EMPTY = "INSERT INTO accounts (id) VALUES (77)"
LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
ABOVE = LEVELS[1:]


def one_row(rows: Rows, statuses: int = 1, followers: int = 2) -> None:
    """Both tables have the row, and nothing is recorded of it."""
    assert rows.database.execute(RECORDED) == []
    assert rows.database.execute("SELECT statuses, followers FROM accounts WHERE id = 77") == [
        (statuses, followers)
    ]
    assert rows.bad() == (0, 0, 0)
    assert found(rows).clean


@on_all_versions
@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("first", ["old", "new"])
def test_both_rows_of_a_key_come_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, first: str, naive: bool
) -> None:
    """Neither sees the other. Who comes second waits for the first by its key; else both stay, and neither knows of the other."""
    if naive:
        monkeypatch.setattr(RecordObjects, "_meets", False)
    rows = recording(database, rows="needed")
    with Scene(database.dsn) as scene:
        one, two = scene.session("one"), scene.session("two")
        mine, yours = (EMPTY, ALONE) if first == "old" else (ALONE, EMPTY)
        one.run("BEGIN")
        one.run(mine)
        if naive:
            two.run(yours)
            one.run("COMMIT")
            assert database.execute("SELECT key FROM zdm.rows_without_old_form") == [({"account_id": 77},)]
            assert rows.bad() == (0, 0, 1)
            return
        waiting = two.start(yours)
        waiting.wait_blocked()
        one.run("COMMIT")
        waiting.result()
    one_row(rows)


@pytest.mark.parametrize("first", ["old", "new"])
def test_one_that_comes_is_rolled_back(database: Database, first: str) -> None:
    """Who waited for it goes on as if it had never been there."""
    rows = recording(database, rows="needed")
    with Scene(database.dsn) as scene:
        one, two = scene.session("one"), scene.session("two")
        mine, yours = (EMPTY, ALONE) if first == "old" else (ALONE, EMPTY)
        one.run("BEGIN")
        one.run(mine)
        waiting = two.start(yours)
        waiting.wait_blocked()
        one.run("ROLLBACK")
        waiting.result()
    assert found(rows).clean
    assert found(rows).without_old_form == int(first == "old")
    assert database.value("SELECT count(*) FROM zdm.rows_without_old_form") == int(first == "old")


@on_all_versions_at_length
@pytest.mark.parametrize("isolation", ABOVE)
@pytest.mark.parametrize("second", ["old", "new"])
@pytest.mark.parametrize("presence", ["every", "needed"])
def test_a_snapshot_older_than_the_other_row(
    database: Database, isolation: str, second: str, presence: str
) -> None:
    """The other one is there and not seen; whoever comes second is told to try again."""
    rows = recording(database, rows=presence)
    mine, yours = (ALONE, EMPTY) if second == "old" else (EMPTY, ALONE)
    with Scene(database.dsn) as scene:
        two = scene.session("two")
        two.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM accounts")
        database.execute(mine)
        with pytest.raises((psycopg.errors.SerializationFailure, psycopg.errors.UniqueViolation)):
            two.run(f"{yours}; COMMIT")
        two.run("ROLLBACK")
        again = yours
        if presence == "every" and second == "new":
            # The old row's other half is there by now.
            again = "UPDATE account_stats SET statuses = 1, followers = 2 WHERE account_id = 77"
        two.run(f"BEGIN ISOLATION LEVEL {isolation}; {again}; COMMIT")
    one_row(rows)


@on_all_versions_at_length
def test_the_old_row_comes_first_and_says_nothing_until_its_end(database: Database) -> None:
    """With `rows: every` it makes its other half when it commits, and meets the recorded one then."""
    rows = recording(database, rows="every")
    with Scene(database.dsn) as scene:
        old = scene.session("old")
        old.run("BEGIN")
        old.run(EMPTY)
        database.execute(ALONE)
        assert database.value("SELECT count(*) FROM zdm.rows_without_old_form") == 1
        old.run("COMMIT")
    one_row(rows)


@pytest.mark.parametrize("isolation", LEVELS)
@pytest.mark.parametrize("says", ["", "5"])
def test_a_recorded_row_is_written_while_its_old_one_comes(
    database: Database, isolation: str, says: str
) -> None:
    """The old row takes what is in the new one once that is committed, or what it says itself; nothing in between."""
    rows = recording(database, rows="needed")
    database.execute(ALONE)
    inserted = f"INSERT INTO accounts (id, statuses) VALUES (77, {says or 0})"
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        old.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM accounts")
        new.run("BEGIN")
        new.run("UPDATE account_stats SET followers = 9 WHERE account_id = 77")
        waiting = old.start(inserted)
        waiting.wait_blocked()
        new.run("COMMIT")
        if isolation == "READ COMMITTED":
            waiting.result()
            old.run("COMMIT")
        else:
            with pytest.raises(psycopg.errors.SerializationFailure):
                waiting.result()
            old.run("ROLLBACK")
            old.run(f"BEGIN ISOLATION LEVEL {isolation}; {inserted}; COMMIT")
    one_row(rows, *((5, 0) if says else (1, 9)))
    lost = database.execute("SELECT lost ->> 'followers' FROM zdm.row_conflicts")
    assert lost == ([("9",)] if says else [])


@on_all_versions_at_length
@pytest.mark.parametrize("isolation", LEVELS)
def test_the_old_row_comes_while_a_recorded_one_is_about_to_be_written(
    database: Database, isolation: str
) -> None:
    """The writer waits for it, and then writes both; an older snapshot is told to try again."""
    rows = recording(database, rows="needed")
    database.execute(ALONE)
    written = "UPDATE account_stats SET followers = 9 WHERE account_id = 77"
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        new.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM account_stats")
        old.run("BEGIN")
        old.run(EMPTY)
        waiting = new.start(written)
        waiting.wait_blocked()
        old.run("COMMIT")
        if isolation == "READ COMMITTED":
            waiting.result()
            new.run("COMMIT")
        else:
            with pytest.raises(psycopg.errors.SerializationFailure):
                waiting.result()
            new.run("ROLLBACK")
            new.run(f"BEGIN ISOLATION LEVEL {isolation}; {written}; COMMIT")
    one_row(rows, 1, 9)


# --- rows that lose their old form ------------------------------------------------------------------------------------------

PART = {
    "to": "reports",
    "key": {"id": "id"},
    "where": "status = 'active'",
    "columns": [{"column": "value", "up": "amount"}, {"column": "state", "up": "status"}],
    "down": {"amount": "value", "status": "state"},
    "create": {},
    "without_old_form": "record",
}


@dataclass
class Ledger:
    """Entries of which the active ones are reports as well, and reports which may be drafts."""

    database: Database
    options: dict[str, object] = field(default_factory=dict)
    rows: int = 3
    mapping: RowMapping = field(init=False)
    rollout: int = field(init=False)

    def __post_init__(self) -> None:
        self.database.execute(
            "CREATE TABLE ledger (id int PRIMARY KEY, amount int, status text NOT NULL, note text DEFAULT 'none');"
            f"INSERT INTO ledger SELECT g, g * 10, 'active', 'mine' FROM generate_series(1, {self.rows}) AS g"
        )
        part = {**PART, **self.options}
        migration = Migration.model_validate(
            {
                "id": "split",
                "operations": [{"split_table": {"table": "ledger", "keep": True, "into": [part]}}],
            }
        )
        _, self.mapping, self.rollout = staged(self.database, migration, naive=None)
        assert backfill(
            lambda: connect(self.database.dsn, application_name="backfill"), self.rollout, self.mapping
        ).complete

    def agree(self) -> None:
        """Each report has its entry or is in the record, each active entry has its report; by SQL of the test's own."""
        wrong = self.database.execute(
            "SELECT l, r FROM ledger AS l FULL JOIN reports AS r ON r.id = l.id AND l.status = 'active'"
            " LEFT JOIN zdm.rows_without_old_form AS f ON f.key = jsonb_build_object('id', r.id)"
            " WHERE CASE WHEN r IS NULL THEN l.status = 'active' WHEN l IS NULL THEN f.key IS NULL"
            " ELSE f.key IS NOT NULL OR (l.amount, l.status) IS DISTINCT FROM (r.value, r.state) END"
        )
        assert wrong == []
        stale = self.database.execute(
            "SELECT f.key FROM zdm.rows_without_old_form AS f WHERE new_row IS DISTINCT FROM"
            " (SELECT to_jsonb(r) FROM reports AS r WHERE jsonb_build_object('id', r.id) = f.key)"
        )
        assert stale == []
        looked = verify_rows(
            lambda: connect(self.database.dsn, application_name="verify"), self.mapping, self.rollout
        )
        assert looked.clean
        assert looked.without_old_form == self.database.value(
            "SELECT count(*) FROM zdm.rows_without_old_form"
        )

    def recorded(self) -> list[tuple[int, str, object]]:
        """Key, state, and the note of the entry that went, of each report without an entry."""
        return self.database.execute(
            "SELECT (key ->> 'id')::int, new_row ->> 'state', old_row ->> 'note' FROM zdm.rows_without_old_form ORDER BY 1"
        )


GONE: dict[str, object] = {"gone": {"status": "'inactive'"}}


@on_all_versions_at_length
@pytest.mark.parametrize("isolation", LEVELS)
def test_a_report_that_becomes_a_draft_and_is_one_no_more(database: Database, isolation: str) -> None:
    """Its entry goes, and is kept whole; when it has a form again, a new one is made, and what only the old one knew is on record."""
    ledger = Ledger(database)

    def run(statement: str) -> None:
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
        ledger.agree()

    run("INSERT INTO reports (id, value, state) VALUES (9, 90, 'draft')")
    run("UPDATE reports SET state = 'draft' WHERE id = 1")
    assert ledger.recorded() == [(1, "draft", "mine"), (9, "draft", None)]
    assert database.execute("SELECT id FROM ledger ORDER BY id") == [(2,), (3,)]
    run("UPDATE reports SET value = 11 WHERE id = 1")
    assert ledger.recorded() == [(1, "draft", "mine"), (9, "draft", None)]
    run("UPDATE reports SET state = 'active'")
    assert ledger.recorded() == []
    assert database.execute("SELECT id, amount, note FROM ledger ORDER BY id") == [
        (1, 11, "none"),
        (2, 20, "mine"),
        (3, 30, "mine"),
        (9, 90, "none"),
    ]
    assert database.execute("SELECT key, won, lost ->> 'note' FROM zdm.row_conflicts") == [
        (["1"], "new", "mine")
    ]
    run("UPDATE reports SET state = 'draft'")
    run("DELETE FROM reports WHERE id = 2")
    assert [key for key, _, _ in ledger.recorded()] == [1, 3, 9]


@pytest.mark.parametrize("isolation", LEVELS[:2])
def test_an_entry_that_stays_when_its_report_becomes_a_draft(database: Database, isolation: str) -> None:
    """Set aside by `gone` it is the old version's own, until either version makes it one of a report again."""
    ledger = Ledger(database, GONE)

    def run(statement: str) -> None:
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
        ledger.agree()

    run("UPDATE reports SET state = 'draft' WHERE id < 4")
    assert ledger.recorded() == [(n, "draft", "mine") for n in (1, 2, 3)]
    run("UPDATE ledger SET amount = 0, note = 'still' WHERE id = 1")
    run("UPDATE reports SET state = 'active' WHERE id = 1")
    run("DELETE FROM ledger WHERE id = 2")
    run("UPDATE ledger SET status = 'active' WHERE id = 3")
    assert ledger.recorded() == [(2, "draft", "mine")]
    assert database.execute("SELECT * FROM ledger ORDER BY id") == [
        (1, 10, "active", "still"),
        (3, 30, "active", "mine"),
    ]
    assert database.execute("SELECT key, won, lost ->> 'state' FROM zdm.row_conflicts") == [
        (["3"], "old", "draft")
    ]


DRAFT = "UPDATE reports SET state = 'draft' WHERE id = 1"


@pytest.mark.parametrize("isolation", LEVELS[:2])
@pytest.mark.parametrize(
    ("statement", "left"),
    [
        ("UPDATE ledger SET amount = 5 WHERE id = 1", [(1, "draft", "mine")]),
        ("UPDATE ledger SET status = 'archived' WHERE id = 1", []),
        ("DELETE FROM ledger WHERE id = 1", []),
        ("UPDATE ledger SET id = 7 WHERE id = 1", []),
    ],
)
def test_a_report_becomes_a_draft_after_its_entry_was_written(
    database: Database, isolation: str, statement: str, left: list[tuple[int, str, str]]
) -> None:
    """It waits for its entry: what is left of that decides."""
    ledger = Ledger(database)
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        new.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM reports")
        old.run("BEGIN")
        old.run(statement)
        waiting = new.start(DRAFT)
        waiting.wait_blocked()
        old.run("COMMIT")
        if isolation == "READ COMMITTED":
            waiting.result()
            new.run("COMMIT")
        else:
            with pytest.raises(psycopg.errors.SerializationFailure):
                waiting.result()
            new.run(f"ROLLBACK; BEGIN ISOLATION LEVEL {isolation}; {DRAFT}; COMMIT")
    assert ledger.recorded() == left
    ledger.agree()


@pytest.mark.parametrize("isolation", LEVELS[:2])
@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET amount = 5 WHERE id = 1",
        "UPDATE ledger SET status = 'active', amount = 5 WHERE id = 1",
        "DELETE FROM ledger WHERE id = 1",
        "INSERT INTO ledger VALUES (1, 5, 'active') ON CONFLICT (id) DO UPDATE SET amount = 5, status = 'active'",
    ],
)
def test_an_entry_is_written_while_its_report_becomes_a_draft(
    database: Database, isolation: str, gone: bool, statement: str
) -> None:
    """The entry's writer waits, and finds it gone or set aside; only one that makes it active takes the report over, on record."""
    ledger = Ledger(database, GONE if gone else {})
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        old.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM ledger")
        new.run("BEGIN")
        new.run(DRAFT)
        waiting = old.start(statement)
        waiting.wait_blocked()
        new.run("COMMIT")
        if isolation == "READ COMMITTED":
            waiting.result()
            old.run("COMMIT")
        else:
            with pytest.raises(psycopg.errors.SerializationFailure):
                waiting.result()
            old.run(f"ROLLBACK; BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
    ledger.agree()
    taken_over = statement.startswith("INSERT") or (gone and "status" in statement)
    assert ledger.recorded() == ([] if taken_over else [(1, "draft", "mine")])
    assert database.value("SELECT count(*) FROM zdm.row_conflicts WHERE lost ->> 'state' = 'draft'") == int(
        taken_over
    )


def test_all_entries_go_at_once(database: Database) -> None:
    """TRUNCATE of the old table takes the reports that it makes; of the new one, the entries and the record."""
    ledger = Ledger(database)
    database.execute("INSERT INTO reports (id, value, state) VALUES (9, 90, 'draft')")
    with pytest.raises(psycopg.errors.SerializationFailure):
        database.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; TRUNCATE ledger; COMMIT")
    database.execute("TRUNCATE ledger")
    ledger.agree()
    assert database.execute("SELECT id FROM reports") == [(9,)]
    assert ledger.recorded() == [(9, "draft", None)]
    database.execute("INSERT INTO ledger VALUES (5, 50, 'active'); TRUNCATE reports")
    ledger.agree()
    assert ledger.recorded() == []
    assert database.execute("SELECT * FROM ledger") == []


def test_an_entry_of_another_life_is_not_written_over(database: Database) -> None:
    """The old table has the key in another shape: refused as ever, since that row is not the report's."""
    ledger = Ledger(database)
    database.execute("INSERT INTO ledger VALUES (9, 90, 'archived')")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        database.execute("INSERT INTO reports (id, value, state) VALUES (9, 1, 'draft')")
    ledger.agree()


LEVELS_OF_WRITERS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


@pytest.mark.parametrize("options", [{}, GONE])
def test_both_versions_write_a_few_rows(database: Database, options: dict[str, object]) -> None:
    """All that gets a form and loses it, on a handful of keys, at all levels: at the end each row is there once, or is on record."""
    ledger = Ledger(database, options, rows=8)

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        del number
        key = rng.randrange(1, 12)
        connection.execute(
            rng.choice(
                [
                    b"UPDATE public.ledger SET amount = amount + 1 WHERE id = %s",
                    b"UPDATE public.ledger SET status = 'archived' WHERE id = %s",
                    b"UPDATE public.ledger SET status = 'active' WHERE id = %s",
                    b"DELETE FROM public.ledger WHERE id = %s",
                    b"INSERT INTO public.ledger VALUES (%s, 1, 'active') ON CONFLICT (id) DO UPDATE SET amount = 2",
                    b"INSERT INTO public.ledger VALUES (%s, 1, 'archived') ON CONFLICT (id) DO UPDATE SET note = 'x'",
                ]
            ),
            [key],
        )

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        del number
        key = rng.randrange(1, 12)
        connection.execute(
            rng.choice(
                [
                    b"UPDATE public.reports SET value = value + 1 WHERE id = %s",
                    b"UPDATE public.reports SET state = 'draft' WHERE id = %s",
                    b"UPDATE public.reports SET state = 'active' WHERE id = %s",
                    b"DELETE FROM public.reports WHERE id = %s",
                    b"INSERT INTO public.reports VALUES (%s, 1, 'draft') ON CONFLICT (id) DO UPDATE SET value = 3",
                    b"INSERT INTO public.reports VALUES (%s, 1, 'active') ON CONFLICT (id) DO UPDATE SET state = 'draft'",
                ]
            ),
            [key],
        )

    with Writers(database.dsn) as writers:
        for level in LEVELS_OF_WRITERS:
            writers.add(f"old {level}", old, isolation=level)
            writers.add(f"new {level}", new, isolation=level)
        writers.wait_for(150)
    # 55000: an entry of the same key that is archived, and not the report's.
    writers.report.assert_only("40001", "40P01", "55000")
    ledger.agree()


@pytest.mark.parametrize("presence", ["every", "needed"])
def test_both_versions_write_a_few_halves(database: Database, presence: str) -> None:
    """Rows that stand on their own come and go, as do their other halves, in one statement or in two."""
    rows = recording(database, rows=presence)

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        del number
        connection.execute(
            rng.choice(
                [
                    b"UPDATE public.accounts SET statuses = statuses + 1 WHERE id = %s",
                    b"UPDATE public.accounts SET statuses = 0, followers = 0 WHERE id = %s",
                    b"DELETE FROM public.accounts WHERE id = %s",
                    b"INSERT INTO public.accounts (id) VALUES (%s) ON CONFLICT DO NOTHING",
                    b"INSERT INTO public.accounts VALUES (%s, 'x', 7, 8) ON CONFLICT (id) DO UPDATE SET statuses = 9",
                ]
            ),
            [rng.randrange(1, 9)],
        )

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        del number
        key = rng.randrange(1, 9)
        connection.execute(
            rng.choice(
                [
                    b"UPDATE public.account_stats SET followers = followers + 1 WHERE account_id = %(key)s",
                    b"DELETE FROM public.account_stats WHERE account_id = %(key)s",
                    (
                        b"INSERT INTO public.account_stats (account_id, statuses, followers) VALUES (%(key)s, 1, 2)"
                        b" ON CONFLICT (account_id) DO UPDATE SET statuses = account_stats.statuses + 1"
                    ),
                    (
                        b"WITH a AS (INSERT INTO public.accounts (id) VALUES (%(key)s) ON CONFLICT DO NOTHING RETURNING id)"
                        b" INSERT INTO public.account_stats (account_id, statuses, followers) SELECT id, 3, 4 FROM a"
                        b" ON CONFLICT (account_id) DO NOTHING"
                    ),
                ]
            ),
            {"key": key},
        )

    with Writers(database.dsn) as writers:
        for level in LEVELS_OF_WRITERS:
            writers.add(f"old {level}", old, isolation=level)
            writers.add(f"new {level}", new, isolation=level)
        writers.wait_for(150)
    # 55000: the old version's row is there, and holds what the new one's would overwrite.
    writers.report.assert_only("40001", "40P01", "55000")
    looked = found(rows)
    recorded = dict(
        database.execute(
            "SELECT (key ->> 'account_id')::int, new_row - 'serial' FROM zdm.rows_without_old_form"
        )
    )
    alone = dict(
        database.execute(
            "SELECT account_id::int, to_jsonb(s) - 'serial' FROM account_stats AS s"
            " WHERE NOT EXISTS (SELECT FROM accounts WHERE id = account_id)"
        )
    )
    assert recorded == alone
    assert (looked.clean, looked.without_old_form) == (True, len(recorded))
    _, missing, stale = rows.bad()
    assert (missing, stale) == (0, 0)
