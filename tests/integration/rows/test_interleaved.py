"""Interleavings of both applications and the backfill, each of which breaks a simpler way of keeping two tables in step."""

from __future__ import annotations

from decimal import Decimal

import psycopg
import pytest

from tests.integration.rows.stage import Rows
from tests.support.interleave import Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.backfill.row_statements import RowStatements
from zdm.backfill.run import backfill
from zdm.db.session import connect


def fill(rows: Rows) -> None:
    assert backfill(
        lambda: connect(rows.database.dsn, application_name="backfill"), rows.rollout, rows.mapping
    ).complete


@on_all_versions
@pytest.mark.parametrize("naive", [False, True])
def test_a_snapshot_older_than_the_backfill_does_not_leave_a_zombie(database: Database, naive: bool) -> None:
    """At REPEATABLE READ the mirrored row is not seen; the application is told to try again, or the row would stay."""
    rows = Rows(database, naive=naive)
    with Scene(database.dsn) as scene:
        a = scene.session("a")
        a.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
        a.run("SELECT count(*) FROM accounts")
        fill(rows)
        if naive:
            a.run("DELETE FROM accounts WHERE id = 7")
            a.run("COMMIT")
            assert rows.bad() == (1, 0, 0)
            return
        for statement in (
            "DELETE FROM accounts WHERE id = 7",
            "UPDATE accounts SET id = 1007 WHERE id = 7",
            "UPDATE accounts SET statuses = 1 WHERE id = 7",
        ):
            a.run("SAVEPOINT s")
            with pytest.raises(psycopg.errors.SerializationFailure):
                a.run(statement)
            a.run("ROLLBACK TO s")
        a.run("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; DELETE FROM accounts WHERE id = 7; COMMIT")
    assert rows.bad() == (0, 0, 0)


@on_all_versions
@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_row_that_is_not_filled_yet_goes(database: Database, isolation: str) -> None:
    """To look whether the mirrored row is only not seen is no reason to ask, over there, where its original is."""
    rows = Rows(database, rows=3)
    for statement in ("DELETE FROM accounts WHERE id = 1", "UPDATE accounts SET id = 1002 WHERE id = 2"):
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
    fill(rows)
    assert rows.bad() == (0, 0, 0)


@on_all_versions
@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_key_taken_over_from_a_row_that_the_snapshot_still_sees(
    database: Database, isolation: str, filled: bool
) -> None:
    """Two rows of one key are seen then, one of them gone; no unique index helps. The one that is gone was mirrored."""
    rows = Rows(database, rows=9)
    if filled:
        fill(rows)
    taken_over = "INSERT INTO accounts VALUES (7, 'again', 1, 2)"
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        a.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM accounts")
        b.run("UPDATE accounts SET id = 1007 WHERE id = 7")
        with pytest.raises(psycopg.errors.SerializationFailure):
            a.run(taken_over)
        a.run(f"ROLLBACK; BEGIN ISOLATION LEVEL {isolation}; {taken_over}; COMMIT")
    fill(rows)
    assert rows.bad() == (0, 0, 0)


@on_all_versions
def test_a_write_of_one_column_leaves_others_that_agree_alone(database: Database) -> None:
    """Half a status has no old form. It is not rounded away because somebody followed the account, on whichever side."""
    half = {
        "column": "statuses",
        "type": "numeric",
        "up": "statuses::numeric",
        "down": "round(statuses)::bigint",
    }
    rows = Rows(database, rows=3, options={"columns": [half, "followers"], "lossy": True})
    fill(rows)
    old, new = "SELECT statuses, followers FROM accounts", "SELECT statuses, followers FROM account_stats"
    database.execute("UPDATE account_stats SET statuses = 1.4 WHERE account_id = 1")
    database.execute("UPDATE accounts SET followers = 7 WHERE id = 1")
    assert database.execute(f"{new} WHERE account_id = 1") == [(Decimal("1.4"), 7)]
    database.execute("UPDATE account_stats SET followers = 8 WHERE account_id = 1")
    assert database.execute(f"{old} WHERE id = 1") == [(1, 8)]
    database.execute("UPDATE accounts SET statuses = 3, followers = 9 WHERE id = 1")
    assert database.execute(f"{new} WHERE account_id = 1") == [(3, 9)]


@pytest.mark.parametrize("locked", [True, False])
def test_a_row_deleted_while_it_is_copied(database: Database, locked: bool) -> None:
    """The backfill has read a row that is deleted before the backfill commits. Without its row lock: a zombie."""
    rows = Rows(database, rows=3)
    statement = RowStatements(rows.mapping, rows.rollout).fill(0, 10, careful=False).as_string(None)
    if not locked:
        statement = statement.replace(" FOR KEY SHARE", "")
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        copier.run("BEGIN; SET LOCAL \"zdm.row\" = '1:new:*'")
        copier.run(statement)
        if not locked:
            a.run("DELETE FROM accounts WHERE id = 2")
            copier.run("COMMIT")
            assert rows.bad() == (1, 0, 0)
            return
        waiting = a.start("DELETE FROM accounts WHERE id = 2")
        waiting.wait_blocked()
        copier.run("COMMIT")
        waiting.result()
    assert rows.bad() == (0, 0, 0)


def test_a_row_written_while_it_is_copied(database: Database) -> None:
    """The copy of an older version meets the trigger's newer row: the chunk is repeated, and the newer one stays."""
    rows = Rows(database, rows=3)
    statements = RowStatements(rows.mapping, rows.rollout)
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        a.run("BEGIN")
        a.run("UPDATE accounts SET statuses = 99 WHERE id = 2")
        copier.run("BEGIN; SET LOCAL \"zdm.row\" = '1:new:*'")
        waiting = copier.start(statements.fill(0, 10, careful=False).as_string(None))
        waiting.wait_blocked()
        a.run("COMMIT")
        with pytest.raises(psycopg.errors.UniqueViolation):
            waiting.result()
        copier.run("ROLLBACK; BEGIN; SET LOCAL \"zdm.row\" = '1:new:*'")
        copier.run(statements.fill_meeting(0, 10).as_string(None))
        copier.run("COMMIT")
    assert rows.bad() == (0, 0, 0)
    assert database.execute("SELECT statuses FROM account_stats WHERE account_id = 2") == [(99,)]


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SERIALIZABLE"])
def test_rows_that_take_over_each_others_keys(database: Database, isolation: str) -> None:
    """Each row comes with its other half, and with what only that side knows of it; the key that it leaves is another row's by then, which is none that has gone."""
    rows = Rows(database, rows=4)
    fill(rows)
    database.execute("DELETE FROM accounts WHERE id = 1")
    database.execute(f"BEGIN ISOLATION LEVEL {isolation}; UPDATE accounts SET id = id - 1; COMMIT")
    assert rows.bad() == (0, 0, 0)
    found = "SELECT id, name, a.statuses, serial FROM accounts a JOIN account_stats s ON account_id = id ORDER BY id"
    assert database.execute(found) == [(1, "a2", 2, 2), (2, "a3", 3, 3), (3, "a4", 4, 4)]


def test_counters_incremented_on_either_side(database: Database) -> None:
    """Whoever comes second sees what the first one wrote, on whichever side."""
    rows = Rows(database, rows=3)
    fill(rows)
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        old.run("BEGIN")
        old.run("UPDATE accounts SET statuses = statuses + 10 WHERE id = 2")
        waiting = new.start("UPDATE account_stats SET statuses = statuses + 100 WHERE account_id = 2")
        waiting.wait_blocked()
        old.run("COMMIT")
        waiting.result()
    assert rows.bad() == (0, 0, 0)
    assert database.execute("SELECT statuses FROM accounts WHERE id = 2") == [(112,)]


@on_all_versions
def test_everything_that_can_be_written(database: Database) -> None:
    """Either side, by whatever means: keys, upserts, MERGE's parts, triggers of the application, replication."""
    rows = Rows(
        database,
        extra="""
        CREATE TABLE posts (id bigserial PRIMARY KEY, account_id bigint REFERENCES accounts ON DELETE CASCADE);
        CREATE FUNCTION count_post() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN UPDATE public.accounts SET statuses = statuses + 1 WHERE id = NEW.account_id; RETURN NULL; END $$;
        CREATE TRIGGER count_post AFTER INSERT ON posts FOR EACH ROW EXECUTE FUNCTION count_post();
        CREATE FUNCTION touch_next() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF NEW.name = 'chain' THEN
            UPDATE public.accounts SET followers = followers + 5 WHERE id IN (NEW.id, NEW.id + 1);
          END IF;
          RETURN NULL;
        END $$;
        CREATE TRIGGER a_touch_next AFTER UPDATE OF name ON accounts FOR EACH ROW EXECUTE FUNCTION touch_next();
        """,
    )
    fill(rows)
    serial = database.execute("SELECT serial FROM account_stats WHERE account_id = 5")
    database.execute(
        """
        CREATE FUNCTION neighbour() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF NEW.followers = 777 THEN
            UPDATE public.account_stats SET followers = 778 WHERE account_id IN (NEW.account_id, NEW.account_id + 1);
          END IF;
          RETURN NULL;
        END $$;
        CREATE TRIGGER neighbour AFTER UPDATE ON account_stats FOR EACH ROW EXECUTE FUNCTION neighbour();
        CREATE FUNCTION even() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.followers := NEW.followers / 2 * 2; RETURN NEW; END $$;
        """
    )
    for statement, query, expected in (
        ("INSERT INTO posts (account_id) SELECT 3 FROM generate_series(1, 4)", "statuses, 3", 7),
        ("UPDATE accounts SET name = 'chain' WHERE id = 4", "followers, 5", 10),
        ("UPDATE accounts SET statuses = 1, name = 'chain' WHERE id = 6", "followers, 6", 11),
        ("UPDATE accounts SET id = 5000 WHERE id = 5", "statuses, 5000", 5),
        ("UPDATE account_stats SET account_id = 10 WHERE account_id = 10", "statuses, 10", 10),
        # A trigger of the application on the mirrored table writes the same row and another one.
        ("UPDATE accounts SET followers = 777 WHERE id = 20", "followers, 20", 778),
        ("UPDATE account_stats SET followers = 777 WHERE account_id = 30", "followers, 31", 778),
        (
            "INSERT INTO accounts (id, statuses) VALUES (40, 1) ON CONFLICT (id) DO UPDATE SET statuses = 1000",
            "statuses, 40",
            1000,
        ),
        (
            (
                "INSERT INTO account_stats (account_id, statuses) VALUES (41, 1)"
                " ON CONFLICT (account_id) DO UPDATE SET statuses = account_stats.statuses + 1"
            ),
            "statuses, 41",
            42,
        ),
        ("INSERT INTO accounts (id) VALUES (6000)", "statuses, 6000", 0),
        (
            (
                "WITH a AS (INSERT INTO accounts (id) VALUES (6001) RETURNING id)"
                " INSERT INTO account_stats (account_id, statuses) SELECT id, 8 FROM a"
            ),
            "statuses, 6001",
            8,
        ),
        ("DELETE FROM account_stats WHERE account_id = 50", "statuses, 50", 0),
        (
            "SET session_replication_role = replica; UPDATE accounts SET statuses = 4 WHERE id = 60",
            "statuses, 60",
            4,
        ),
        (
            (
                "CREATE TRIGGER even BEFORE INSERT OR UPDATE ON account_stats FOR EACH ROW EXECUTE FUNCTION even();"
                " UPDATE accounts SET followers = 101 WHERE id = 70"
            ),
            "followers, 70",
            100,
        ),
    ):
        database.execute(statement)
        column, key = query.split(", ")
        assert database.execute(f"SELECT {column} FROM accounts WHERE id = {key}") == [(expected,)], statement
        assert rows.bad() == (0, 0, 0), statement
    assert database.execute("SELECT serial FROM account_stats WHERE account_id = 5000") == serial
    database.execute("DELETE FROM accounts WHERE id < 100")
    assert rows.bad() == (0, 0, 0)
    database.execute("TRUNCATE accounts CASCADE")
    assert database.execute("SELECT count(*) FROM account_stats") == [(0,)]
    assert database.execute("SELECT count(*) FROM zdm.sync_failures") == [(0,)]


def test_a_truncate_that_cascades_to_the_other_side(database: Database) -> None:
    """The other table is being truncated by the same statement, so no second TRUNCATE of it is possible; whether anything is left there is seen
    whatever the snapshot. Above READ COMMITTED it was refused each time that it was tried."""
    fill(Rows(database, rows=10))
    database.execute(
        "ALTER TABLE account_stats ADD FOREIGN KEY (account_id) REFERENCES accounts ON DELETE CASCADE"
    )
    for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        database.execute("INSERT INTO accounts (id, statuses) VALUES (1, 7) ON CONFLICT DO NOTHING")
        database.execute(f"BEGIN ISOLATION LEVEL {level}; TRUNCATE accounts CASCADE; COMMIT")
        assert database.execute("SELECT (SELECT count(*) FROM accounts) + count(*) FROM account_stats") == [
            (0,)
        ], level


@on_all_versions
def test_what_a_mapping_mirrors_itself_it_does_not_look_at_again(database: Database) -> None:
    """One function on the side that was written, one that writes the other; nothing is settled back, until a trigger of the application writes there."""
    rows = Rows(database, rows=10)
    fill(rows)
    with psycopg.connect(database.dsn) as conn:

        def counts() -> dict[str, int]:
            return dict(
                conn.execute(
                    "SELECT replace(funcname, 'rows_1_1_', ''), calls FROM pg_stat_xact_user_functions WHERE schemaname = 'zdm'"
                ).fetchall()
            )

        def calls(statement: str) -> set[str]:
            conn.execute("SET LOCAL track_functions = 'all'")
            before = counts()
            conn.execute(statement.encode())
            after = counts()
            conn.rollback()
            return {name for name, number in after.items() if number != before.get(name)}

        forth, back = {"on_old", "settle_new", "on_new"}, {"on_new", "settle_old", "on_old"}
        assert calls("UPDATE accounts SET statuses = 70 WHERE id = 7") == forth
        assert calls("UPDATE account_stats SET statuses = 70 WHERE account_id = 7") == back
        assert calls("INSERT INTO accounts (id, statuses) VALUES (11, 3)") == forth
        assert calls("UPDATE accounts SET name = 'of one side' WHERE id = 7") == {"on_old"}
        conn.execute(
            "CREATE FUNCTION rise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " UPDATE public.account_stats SET followers = followers + 1 WHERE account_id = NEW.account_id; RETURN NULL; END $$;"
            " CREATE TRIGGER rise AFTER UPDATE OF statuses ON account_stats FOR EACH ROW EXECUTE FUNCTION rise()"
        )
        conn.commit()
        assert calls("UPDATE accounts SET statuses = 70 WHERE id = 7") == forth | back
    database.execute("UPDATE accounts SET statuses = 70 WHERE id = 7")
    assert database.execute("SELECT statuses, followers FROM accounts WHERE id = 7") == [(70, 8)]
    assert rows.bad() == (0, 0, 0)


def test_a_row_that_is_not_filled_yet_is_not_overwritten(database: Database) -> None:
    """The new version inserts what it does not find: the old version's counters would become its zeros."""
    rows = Rows(database)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not filled yet"):
        database.execute("INSERT INTO account_stats (account_id) VALUES (7)")
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="no old form"):
        database.execute("INSERT INTO account_stats (account_id) VALUES (99999)")
    database.execute("INSERT INTO account_stats (account_id, statuses, followers) VALUES (8, 8, 8)")
    fill(rows)
    assert rows.bad() == (0, 0, 0)


def test_rows_only_where_there_is_something(database: Database) -> None:
    """`needed`: a row that holds nothing has none; one whose only second column holds something is not forgotten."""
    rows = Rows(
        database,
        options={"rows": "needed"},
        extra="UPDATE accounts SET statuses = 0 WHERE id % 2 = 0; UPDATE accounts SET followers = 0 WHERE id % 3 = 0;",
    )
    fill(rows)
    assert database.execute("SELECT count(*) FROM account_stats") == [(250,)]
    database.execute("INSERT INTO accounts (id) VALUES (1000)")
    database.execute("INSERT INTO account_stats (account_id, followers) VALUES (1000, 3)")
    assert database.execute("SELECT followers FROM accounts WHERE id = 1000") == [(3,)]
    database.execute("UPDATE accounts SET followers = 0 WHERE id = 1000")
    database.execute("DELETE FROM account_stats WHERE account_id = 2")
    assert database.execute("SELECT followers FROM accounts WHERE id = 2") == [(0,)]
    assert rows.bad() == (0, 0, 0)
    assert database.execute("SELECT count(*) FROM account_stats") == [(250,)]


@pytest.mark.parametrize("locked", [True, False])
def test_a_row_emptied_while_it_is_copied(database: Database, locked: bool) -> None:
    """An update that leaves the key alone takes a row out of the mapping: FOR KEY SHARE would not hold it up."""
    rows = Rows(database, rows=3, options={"rows": "needed"})
    statement = RowStatements(rows.mapping, rows.rollout).fill(0, 10, careful=False).as_string(None)
    if not locked:
        statement = statement.replace(" FOR SHARE", " FOR KEY SHARE")
    with Scene(database.dsn) as scene:
        copier, a = scene.session("copier"), scene.session("a")
        copier.run("BEGIN; SET LOCAL \"zdm.row\" = '1:new:*'")
        copier.run(statement)
        update = "UPDATE accounts SET statuses = 0, followers = 0 WHERE id = 2"
        if not locked:
            a.run(update)
            copier.run("COMMIT")
            assert rows.bad() == (0, 0, 1)
            return
        waiting = a.start(update)
        waiting.wait_blocked()
        copier.run("COMMIT")
        waiting.result()
    assert rows.bad() == (0, 0, 0)


@on_all_versions
def test_what_a_cascade_makes_of_the_row_that_is_being_mirrored_is_mirrored_back(database: Database) -> None:
    """The trigger over there leaves the mirrored write alone, and only that: the same row is written again before the statement ends."""
    rows = Rows(database, rows=0)
    database.execute("INSERT INTO accounts VALUES (5, 'five', 50, 50), (6, 'six', 60, 50)")
    database.execute(
        "ALTER TABLE account_stats ADD UNIQUE (statuses), ADD FOREIGN KEY (followers) REFERENCES account_stats (statuses) ON UPDATE CASCADE"
    )
    database.execute("UPDATE accounts SET statuses = 70 WHERE id = 5")
    assert rows.bad() == (0, 0, 0)
    assert database.execute("SELECT id, statuses, followers FROM accounts ORDER BY id") == [
        (5, 70, 70),
        (6, 60, 70),
    ]
