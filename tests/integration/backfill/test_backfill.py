"""The backfill of one table, from the first chunk to the proof that nothing is left."""

from __future__ import annotations

import random
import threading
from datetime import timedelta

import psycopg
import pytest

from tests.support.interleave import Scene, eventually
from tests.support.mapped import Mapped
from tests.support.servers import Connection, Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.backfill import BadData, Hooks, Options, Progress, VacuumPolicy, backfill
from zdm.backfill.options import Wait
from zdm.backfill.table import Statements
from zdm.catalog import backfills
from zdm.errors import Busy
from zdm.model.expression import ColumnRef

SMALL = Options(most_rows=500, first_rows=200)


def run(table: Mapped, options: Options = SMALL, hooks: Hooks | None = None) -> None:
    """To the end, whatever it takes."""
    assert backfill(table.connect, table.rollout, table.mapping, options, hooks).complete
    assert table.left() == 0
    assert table.disagreeing() == 0


@on_all_versions
@pytest.mark.parametrize("workers", [1, 3])
def test_fills_every_row(database: Database, workers: int) -> None:
    table = Mapped(database, rows=30_000)
    told: list[Progress] = []
    result = backfill(
        table.connect, table.rollout, table.mapping, Options(workers=workers), Hooks(progress=told.append)
    )
    assert result.complete
    assert result.rows == 30_000
    assert table.left() == 0
    assert table.disagreeing() == 0
    assert told[-1].fraction == 1
    assert told[-1].total == pytest.approx(30_000, rel=0.05)
    # Repeating it does nothing.
    assert backfill(table.connect, table.rollout, table.mapping).chunks == 0


@on_all_versions
def test_reads_only_the_blocks_of_its_chunk(database: Database) -> None:
    table = Mapped(database)
    statements = Statements(table.mapping)
    with table.connect() as conn:
        for statement in (
            statements.fill(3, 5, careful=False),
            statements.fill_unlocked(3, 4, careful=False, limit=10),
            statements.left(3, 5),
            statements.count_unsettled(3, 5),
            statements.retry_failed(3, 5),
        ):
            plan = "\n".join(row[0] for row in conn.execute(psycopg.sql.SQL("EXPLAIN ") + statement))
            assert "Tid Range Scan" in plan
            assert "Seq Scan" not in plan


def test_empty_table(database: Database) -> None:
    table = Mapped(database, rows=0)
    run(table)
    with table.connect() as conn:
        state = backfills.get(conn, table.rollout, table.mapping.table)
    assert state is not None
    assert state.status is backfills.BackfillStatus.FINISHED


def test_leaves_alone_what_the_new_application_wrote(database: Database) -> None:
    """1.25 has no old form of its own: derived again from the old side it would be 1.00."""
    table = Mapped(database, rows=2000)
    database.execute("UPDATE account SET balance_new = 1.25 WHERE id <= 100")
    run(table)
    assert database.value("SELECT count(*) FROM account WHERE balance_new = 1.25 AND balance = 1") == 100


def test_the_role_and_the_database_cannot_cut_it_short(database: Database) -> None:
    name = database.value("SELECT current_database()")
    table = Mapped(database, rows=20_000)
    for setting in (
        "statement_timeout = '1ms'",
        "default_transaction_isolation = 'serializable'",
        "lock_timeout = '1ms'",
    ):
        database.execute(f'ALTER DATABASE "{name}" SET {setting}')
    assert backfill(table.connect, table.rollout, table.mapping).complete


# --- stopping, resuming -------------------------------------------------------------------------------------------------


def test_stopped_anywhere_and_resumed_with_other_workers(database: Database) -> None:
    table = Mapped(database, rows=20_000)
    total = 0
    for turn in range(100):
        hooks, left = Hooks(stop=threading.Event()), [turn % 5 + 1]

        def stop_soon(_: float, hooks: Hooks = hooks, left: list[int] = left) -> Wait:
            left[0] -= 1
            if left[0] == 0:
                hooks.stop.set()
            return Wait(0)

        hooks = Hooks(throttle=stop_soon, stop=hooks.stop)
        options = Options(workers=turn % 4 + 1, most_rows=500, first_rows=500)
        result = backfill(table.connect, table.rollout, table.mapping, options, hooks)
        total += result.rows
        if result.complete:
            break
    else:
        pytest.fail("it never ended")
    assert turn > 3
    # Nothing was filled twice, and nothing that was counted was lost.
    assert total == 20_000
    assert table.left() == table.disagreeing() == 0


def test_paused(database: Database) -> None:
    table = Mapped(database, rows=5000)
    seen: list[int] = []
    waits: list[str] = []

    def paused(_: psycopg.Connection[object]) -> bool:
        seen.append(table.left())
        return len(seen) < 3

    hooks = Hooks(paused=paused, progress=lambda at: waits.append(at.waiting))
    assert backfill(table.connect, table.rollout, table.mapping, SMALL, hooks).complete
    assert seen[:3] == [5000, 5000, 5000]
    assert "paused by a person" in waits


def test_throttled(database: Database) -> None:
    table = Mapped(database, rows=2000)
    answers = [Wait(0.01, "too busy"), Wait(0.01, "too busy")]
    reasons: list[str] = []
    hooks = Hooks(
        throttle=lambda _: answers.pop() if answers else Wait(0),
        progress=lambda at: reasons.append(at.waiting),
    )
    result = backfill(table.connect, table.rollout, table.mapping, SMALL, hooks)
    assert reasons.count("too busy") == 2
    assert result.waited >= 0.02


@on_all_versions
def test_starts_over_when_the_file_changes(database: Database) -> None:
    """VACUUM FULL moves every row: blocks that were done then hold rows that are not."""
    table = Mapped(database, rows=10_000)
    calls = [0]

    def rewrite(_: float) -> Wait:
        calls[0] += 1
        if calls[0] == 4:
            # Rows of the end come to the beginning, which the cursor has passed.
            database.execute("DELETE FROM account WHERE id BETWEEN 1 AND 4000")
            database.execute("VACUUM FULL account")
        return Wait(0)

    notes: list[str] = []
    result = backfill(
        table.connect, table.rollout, table.mapping, SMALL, Hooks(throttle=rewrite, note=notes.append)
    )
    assert result.complete
    assert result.passes == 2
    assert "rewritten" in notes[0]
    assert table.left() == table.disagreeing() == 0


# --- locks --------------------------------------------------------------------------------------------------------------


@on_all_versions
def test_goes_around_rows_that_somebody_holds(database: Database, scene: Scene) -> None:
    table = Mapped(database, rows=10_000)
    holder = scene.session("holder")
    holder.begin()
    holder.run("UPDATE account SET touched = 1 WHERE id IN (5000, 5001, 9000)")
    seen: list[int] = []

    def let_go(at: Progress) -> None:
        if "locked" in at.waiting and not seen:
            # Everything else is done by now, and these rows (as we see them) are left.
            seen.append(table.left())
            holder.run("COMMIT")

    result = backfill(table.connect, table.rollout, table.mapping, SMALL, Hooks(progress=let_go))
    assert result.complete
    assert seen == [3]
    assert result.split > 0
    assert table.left() == table.disagreeing() == 0


def test_says_which_rows_are_held(database: Database, scene: Scene) -> None:
    table = Mapped(database, rows=3000)
    holder = scene.session("holder")
    holder.begin()
    holder.run("SELECT FROM account WHERE id = 1500 FOR UPDATE")
    options = Options(most_rows=500, lock_patience=timedelta(0))
    with pytest.raises(Busy, match=r"1 rows of public\.account .* id=1500"):
        backfill(table.connect, table.rollout, table.mapping, options)
    assert table.left() == 1
    holder.run("ROLLBACK")
    run(table)


def test_never_waits_while_holding(database: Database, scene: Scene) -> None:
    """While one row is held for long, writers of the rows before it in the same chunk must not wait for us."""
    table = Mapped(database, rows=3000)
    holder = scene.session("holder")
    holder.begin()
    holder.run("UPDATE account SET touched = 1 WHERE id = 1500")

    def write(conn: Connection, rng: random.Random, n: int) -> None:
        conn.execute("SET LOCAL lock_timeout = '3s'")
        conn.execute("UPDATE account SET touched = touched + 1 WHERE id = %s", [rng.randint(1, 1499)])

    with Writers(database.dsn) as writers:
        writers.add("application", write)

        def let_go(at: Progress) -> None:
            if "locked" in at.waiting and not holder_done.is_set():
                writers.wait_for(5)
                holder.run("COMMIT")
                holder_done.set()

        holder_done = threading.Event()
        run(table, Options(), Hooks(progress=let_go))
        report = writers.stop()
    assert holder_done.is_set()
    report.assert_only()


# --- bad data -----------------------------------------------------------------------------------------------------------


@on_all_versions
def test_names_rows_that_cannot_be_mapped(database: Database) -> None:
    table = Mapped(
        database,
        rows=3000,
        old_type="text",
        old_value="CASE WHEN g IN (700, 2500) THEN 'many' ELSE g::text END",
        up=(ColumnRef(column="balance"), "::numeric(18,2)"),
        down=(ColumnRef(column="balance_new"), "::text"),
    )
    with pytest.raises(BadData) as caught:
        backfill(table.connect, table.rollout, table.mapping, SMALL)
    text = str(caught.value)
    assert "2 rows of public.account cannot be mapped" in text
    assert "public.account id=700" in text
    assert "public.account id=2500" in text
    assert '22P02: invalid input syntax for type numeric: "many"' in text
    # Nothing else is lost.
    assert table.left() == 0
    assert database.value("SELECT count(*) FROM account WHERE balance_new = id") == 2998
    with pytest.raises(BadData):
        backfill(table.connect, table.rollout, table.mapping, SMALL)
    database.execute("ALTER TABLE account DISABLE TRIGGER USER; ")
    database.execute("UPDATE account SET balance = '1' WHERE balance = 'many'")
    database.execute("ALTER TABLE account ENABLE TRIGGER USER")
    table.always()
    assert backfill(table.connect, table.rollout, table.mapping, SMALL).complete
    assert database.value("SELECT count(*) FROM account WHERE balance_new = balance::numeric") == 3000


def test_null_where_the_new_version_promises_none(database: Database) -> None:
    table = Mapped(
        database, rows=3000, old_value="CASE WHEN g <> 1234 THEN g END", not_null=True, keyed=False
    )
    with pytest.raises(
        BadData, match="up of balance is NULL, and the new version promises NOT NULL"
    ) as caught:
        backfill(table.connect, table.rollout, table.mapping, SMALL)
    assert "ctid=(" in str(caught.value)
    assert table.left() == 0
    database.execute("UPDATE account SET balance = 7 WHERE id = 1234")
    assert backfill(table.connect, table.rollout, table.mapping, SMALL).complete
    assert database.value("SELECT balance_new::text FROM account WHERE id = 1234") == "7.00"


# --- the user's triggers ------------------------------------------------------------------------------------------------

TOUCH = """
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.touched := NEW.touched + 1; RETURN NEW; END $$
"""


def test_the_users_triggers_do_not_fire(database: Database) -> None:
    table = Mapped(database, rows=1000)
    database.execute(TOUCH)
    database.execute("CREATE TRIGGER touch BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION touch()")
    notes: list[str] = []
    run(table, hooks=Hooks(note=notes.append))
    assert database.value("SELECT sum(touched) FROM account") == 0
    assert notes == []


def test_says_which_triggers_fire_where_the_role_may_not_silence_them(database: Database) -> None:
    table = Mapped(database, rows=1000)
    role = database.create_role()
    for statement in (
        TOUCH,
        "CREATE TRIGGER touch BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION touch()",
        "CREATE TRIGGER other_column BEFORE UPDATE OF filler ON account FOR EACH ROW EXECUTE FUNCTION touch()",
        f'ALTER TABLE account OWNER TO "{role}"',
        f'GRANT USAGE ON SCHEMA zdm TO "{role}"',
        f'GRANT ALL ON ALL TABLES IN SCHEMA zdm TO "{role}"',
        f'GRANT ALL ON ALL SEQUENCES IN SCHEMA zdm TO "{role}"',
    ):
        database.execute(statement)
    notes: list[str] = []
    dsn = database.server.dsn(database.name, role)
    table.dsn = dsn
    run(table, hooks=Hooks(note=notes.append))
    assert len(notes) == 1
    assert "touch of public.account fire" in notes[0]
    assert "other_column" not in notes[0]
    assert database.value("SELECT sum(touched) FROM account") == 1000


# --- space --------------------------------------------------------------------------------------------------------------


def test_vacuums_meanwhile(database: Database) -> None:
    """The space that filled rows leave behind is used again, and the file is never cut under a strong lock."""
    table = Mapped(database, rows=40_000)
    before = database.value("SELECT pg_relation_size('account')")

    def wait_for_the_vacuum(_: float) -> Wait:
        # It runs beside the chunks; waiting for it here gives the same outcome every time.
        due = (40_000 - table.left() - 1) // 10_000
        eventually(lambda: database.value("SELECT pg_stat_get_vacuum_count('account'::regclass)") > due)
        return Wait(0)

    options = Options(most_rows=2500, first_rows=2500, vacuum=VacuumPolicy.parse("20%"))
    result = backfill(
        table.connect, table.rollout, table.mapping, options, Hooks(throttle=wait_for_the_vacuum)
    )
    assert result.vacuums >= 3
    assert table.left() == 0
    assert database.value("SELECT pg_relation_size('account')") < 1.6 * before
