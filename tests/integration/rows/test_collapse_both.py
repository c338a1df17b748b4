"""Many rows that become columns of one, written by either version: what both applications and the backfill do at once."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest

from tests.integration.rows.collapsed_stage import COLUMNS, DOCUMENT, Users, said
from tests.support.interleave import Isolation, Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers

LEVELS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


def merged(user: int, name: str, value: str) -> str:
    """What the new version does with a document."""
    return f"""UPDATE users SET settings = coalesce(settings, '{{}}') || '{{"{name}": "{value}"}}' WHERE id = {user}"""


@on_all_versions
@pytest.mark.parametrize(("first", "naive"), [("old", False), ("new", False), ("new", True)])
def test_a_row_and_its_document_written_at_once(database: Database, first: str, naive: bool) -> None:
    """Whoever comes second waits for the row, and acts on what the first one left; or is told to try again."""
    users = Users(database, operation=DOCUMENT, naive=naive)
    if naive:
        database.execute(
            "UPDATE users u SET settings = (SELECT jsonb_object_agg(name, value) FROM settings WHERE user_id = u.id)"
        )
    else:
        users.fill()
    with Scene(database.dsn) as scene:
        for number, isolation in enumerate(LEVELS):
            user = 4 * number + 1
            a, b = scene.session(f"a {isolation}"), scene.session(f"b {isolation}")
            writes = said(user, "locale", "de"), merged(user, "tz", "utc")
            if first == "new":
                writes = (writes[1], writes[0])
            a.run(f"BEGIN ISOLATION LEVEL {isolation}")
            b.run(f"BEGIN ISOLATION LEVEL {isolation}; SELECT 1 FROM users")
            a.run(writes[0])
            waiting = b.start(writes[1])
            waiting.wait_blocked()
            a.run("COMMIT")
            if naive:
                waiting.result()
                b.run("COMMIT")
                # What the second one computed before it waited does not hold what the first one wrote.
                assert users.bad() == 1
                return
            if isolation == "READ COMMITTED":
                waiting.result()
                b.run("COMMIT")
            else:
                with pytest.raises(psycopg.errors.SerializationFailure):
                    waiting.result()
                b.run(f"ROLLBACK; BEGIN ISOLATION LEVEL {isolation}; {writes[1]}; COMMIT")
            told = f"locale=de size={user} theme=light tz=utc"
            assert users.both(user) == (told, told)
    assert (users.bad(), users.found()) == (0, {})


@on_all_versions
def test_snapshots_that_miss_what_the_other_side_wrote(database: Database) -> None:
    """Whatever is written on either side leaves a new version of the row, which older snapshots meet."""
    users = Users(database)
    steps = (
        # What is done behind the snapshot, and what is then done by what it sees.
        (said(1, "locale", "de"), "UPDATE users SET theme = 'dark' WHERE id = 1"),
        ("DELETE FROM settings WHERE user_id = 1 AND name = 'size'", "DELETE FROM users WHERE id = 1"),
        ("UPDATE users SET locale = 'fr' WHERE id = 3", "DELETE FROM settings WHERE user_id = 3 AND name = 'theme'"),
        ("UPDATE users SET theme = 'x' WHERE id = 5", "UPDATE settings SET value = '6' WHERE user_id = 5 AND name = 'size'"),
        ("UPDATE users SET locale = 'it' WHERE id = 7", said(7, "locale", "es")),
        ("UPDATE users SET locale = 'it' WHERE id = 9", "UPDATE settings SET user_id = 9 WHERE user_id = 11 AND name = 'theme'"),
        ("UPDATE users SET locale = 'it' WHERE id = 13", "UPDATE users SET id = 1300 WHERE id = 13"),
        # It says what it said before, in another row of the table.
        ("DELETE FROM settings WHERE user_id = 15 AND name = 'theme'; " + said(15, "theme", "light"), "UPDATE users SET theme = NULL WHERE id = 15"),
    )  # fmt: skip
    with Scene(database.dsn) as scene:
        a = scene.session("a")
        a.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM users")
        users.fill()
        with pytest.raises(psycopg.errors.SerializationFailure):
            # It does not see that the row is filled.
            a.run(said(1, "locale", "x"))
        a.run("ROLLBACK")
        for number, (behind, then) in enumerate(steps):
            a.run(f"BEGIN ISOLATION LEVEL {LEVELS[1 + number % 2]}; SELECT 1 FROM users")
            database.execute(behind)
            with pytest.raises(psycopg.errors.SerializationFailure):
                a.run(then)
            a.run("ROLLBACK")
            database.execute(then if "user_id = 9" not in then else "SELECT")
            assert users.bad() == 0, then
    assert users.found() == {}


def test_a_snapshot_from_before_the_triggers(database: Database) -> None:
    """It may miss rows of which nothing tells it, and adds to them nevertheless; a row that both claim is met."""
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        for session in (a, b):
            session.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM pg_class")
        users = Users(database, extra=said(4, "locale", "de") + ";" + said(8, "locale", "de"))
        for session in (a, b):
            session.run("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM pg_class")
        # As if it had been written by somebody whom no trigger watched yet.
        database.execute("ALTER TABLE settings DISABLE TRIGGER USER")
        database.execute(said(4, "tz", "utc") + ";" + said(8, "size", "9") + ";" + said(12, "size", "9"))
        for (name,) in database.execute(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'settings'::regclass AND NOT tgisinternal"
        ):
            database.execute(f'ALTER TABLE settings ENABLE ALWAYS TRIGGER "{name}"')
        # Nothing is seen of user 12 that would forbid it; of what both say one is met.
        b.run("SAVEPOINT s")
        with pytest.raises(psycopg.errors.SerializationFailure):
            b.run("UPDATE users SET size = 3 WHERE id = 12")
        b.run("ROLLBACK TO s; UPDATE users SET theme = 'dark' WHERE id = 12; COMMIT")
        a.run("ROLLBACK")
    database.execute("DELETE FROM settings WHERE name = 'tz'")
    users.fill()
    assert (users.bad(), users.found()) == (0, {})
    assert users.both(12) == ("size=9 theme=dark", "size=9 theme=dark")


@on_all_versions
def test_rows_that_are_not_filled_yet(database: Database) -> None:
    """The old version's writes fill them, or leave them alone; what the new one would write over is refused until then."""
    users = Users(database)
    for statement in (
        "UPDATE users SET theme = 'dark' WHERE id = 1",
        "BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE users SET locale = 'de' WHERE id = 1; COMMIT",
        "UPDATE users SET id = 1000, theme = 'dark' WHERE id = 1",
    ):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not filled yet"):
            database.execute(statement)
    for statement, user, told in (
        # Nothing is there to be filled with.
        ("UPDATE users SET theme = 'dark' WHERE id = 4", 4, "theme=dark"),
        (said(1, "locale", "de"), 1, "locale=de size=1 theme=light"),
        ("UPDATE users SET theme = 'dark' WHERE id = 1", 1, "locale=de size=1 theme=dark"),
        ("DELETE FROM settings WHERE user_id = 3 AND name = 'size'", 3, "theme=light"),
        ("UPDATE users SET id = 500 WHERE id = 5", 500, "size=5 theme=light"),
        ("UPDATE settings SET user_id = 4 WHERE user_id = 7 AND name = 'size'", 7, "theme=light"),
        # What the old version does to a row itself says nothing of its settings.
        ("UPDATE users SET name = 'x' WHERE id = 9", 9, ""),
        ("DELETE FROM users WHERE id = 11", 11, ""),
        # New code that writes both, the old side first.
        (f"BEGIN; {said(13, 'theme', 'both')}; UPDATE users SET theme = 'both' WHERE id = 13; COMMIT", 13, "size=13 theme=both"),
    ):  # fmt: skip
        database.execute(statement)
        assert users.both(user)[1] == told, statement
    users.fill()
    assert (users.bad(), users.found()) == (0, {})


@on_all_versions
def test_everything_that_can_be_written(database: Database) -> None:
    users = Users(
        database,
        extra="""
        CREATE FUNCTION lower_value() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.value := lower(NEW.value); RETURN NEW; END $$;
        CREATE TRIGGER lower_value BEFORE INSERT OR UPDATE ON settings FOR EACH ROW EXECUTE FUNCTION lower_value();
        CREATE FUNCTION born() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF NEW.name = 'born' THEN INSERT INTO settings (user_id, name, value) VALUES (NEW.id, 'locale', 'xx'); END IF;
          RETURN NULL;
        END $$;
        CREATE TRIGGER born AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION born();
        CREATE TABLE teams (id int PRIMARY KEY); INSERT INTO teams VALUES (1);
        ALTER TABLE users ADD COLUMN team int REFERENCES teams ON DELETE CASCADE; UPDATE users SET team = 1 WHERE id = 22;
        """,
    )
    assert users.found() != {}
    users.fill()
    assert (users.bad(), users.found()) == (0, {})
    kept = database.execute("UPDATE settings SET seen = 7 WHERE user_id = 1 AND name = 'theme' RETURNING id")
    for statement, user, told in (
        (said(1, "theme", "dark"), 1, "size=1 theme=dark"),
        (said(1, "theme", "Big"), 1, "size=1 theme=big"),
        ("UPDATE users SET theme = 'blue', locale = 'de' WHERE id = 1", 1, "locale=de size=1 theme=blue"),
        # The row that stays is the one that was there, whatever it says.
        ("UPDATE users SET theme = 'Loud' WHERE id = 1", 1, "locale=de size=1 theme=loud"),
        ("UPDATE users SET size = size + 1 WHERE id = 1", 1, "locale=de size=2 theme=loud"),
        ("UPDATE users SET locale = NULL WHERE id = 1", 1, "size=2 theme=loud"),
        ("INSERT INTO users (id, theme, size) VALUES (100, 'x', 5)", 100, "size=5 theme=x"),
        ("INSERT INTO users (id) VALUES (101)", 101, ""),
        ("INSERT INTO users (id, name) VALUES (102, 'born')", 102, "locale=xx"),
        ("INSERT INTO users (id, theme) VALUES (101, 'u') ON CONFLICT (id) DO UPDATE SET theme = EXCLUDED.theme", 101, "theme=u"),
        (
            ("WITH u AS (INSERT INTO users (id) VALUES (103) RETURNING id) INSERT INTO settings (user_id, name, value)"
            " SELECT id, k, '4' FROM u, unnest(ARRAY['size', 'theme']) k"),
            103,
            "size=4 theme=4",
        ),
        # New code that writes both sides in one statement.
        (
            "WITH u AS (UPDATE users SET theme = 'two' WHERE id = 103) UPDATE settings SET value = 'two' WHERE user_id = 103 AND name = 'theme'",
            103,
            "size=4 theme=two",
        ),
        ("UPDATE settings SET user_id = 101 WHERE user_id = 103 AND name = 'size'", 101, "size=4 theme=u"),
        ("UPDATE settings SET name = 'locale' WHERE user_id = 101 AND name = 'theme'", 101, "locale=u size=4"),
        ("UPDATE users SET id = 201 WHERE id = 101", 201, "locale=u size=4"),
        ("UPDATE users SET id = 202, theme = 'moved' WHERE id = 201", 202, "locale=u size=4 theme=moved"),
        ("UPDATE settings SET seen = seen + 1 WHERE user_id = 202", 202, "locale=u size=4 theme=moved"),
        ("DELETE FROM settings WHERE user_id = 202 AND name <> 'size'", 202, "size=4"),
        ("SET session_replication_role = replica; " + said(3, "locale", "r"), 3, "locale=r size=3 theme=light"),
        ("SET session_replication_role = replica; UPDATE users SET locale = 's' WHERE id = 3", 3, "locale=s size=3 theme=light"),
        ("MERGE INTO settings s USING (VALUES (5, 'theme')) v (u, n) ON s.user_id = u AND s.name = n WHEN MATCHED THEN DELETE", 5, "size=5"),
        ("BEGIN; DELETE FROM settings WHERE user_id = 5; UPDATE users SET theme = 'only' WHERE id = 5; COMMIT", 5, "theme=only"),
        ("BEGIN; UPDATE users SET theme = 'a' WHERE id = 5; " + said(5, "theme", "b") + "; COMMIT", 5, "theme=b"),
        ("DELETE FROM teams WHERE id = 1", 22, ""),
        ("DELETE FROM users WHERE id = 202", 202, ""),
    ):  # fmt: skip
        database.execute(statement)
        assert users.both(user) == (told, told), statement
        assert users.bad() == 0, statement
    assert database.execute("SELECT id, seen FROM settings WHERE user_id = 1 AND name = 'theme'") == [
        (kept[0][0], 7)
    ]
    for statement, error, match in (
        (
            "UPDATE users SET theme = 'never' WHERE id = 1",
            psycopg.errors.CheckViolation,
            "settings_value_check",
        ),
        (
            "INSERT INTO users (id, theme) VALUES (301, 'never')",
            psycopg.errors.CheckViolation,
            "settings_value_check",
        ),
        (said(999, "theme", "x"), psycopg.errors.ForeignKeyViolation, "not present"),
    ):
        with pytest.raises(error, match=match):
            database.execute(statement)
    database.execute("TRUNCATE settings")
    assert (users.bad(), users.both(1), users.found()) == (0, ("", ""), {})
    database.execute(said(1, "theme", "again") + "; TRUNCATE users CASCADE")
    assert (database.value("SELECT count(*) FROM settings"), users.found()) == (0, {})


def test_everybody_at_once(database: Database) -> None:
    """Both versions at all isolation levels on a few rows, while the backfill goes through them."""
    users = Users(database, rows=2000, operation=DOCUMENT)

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        user = rng.randrange(1, 2000) if number % 3 else rng.randrange(1, 20)
        connection.execute("SELECT 1 FROM public.users LIMIT 1")
        statement = (
            (
                f"INSERT INTO settings (user_id, name, value) SELECT id, 'n{rng.randrange(5)}', '{number}' FROM users WHERE id = {user}"
                " ON CONFLICT (user_id, name) DO UPDATE SET value = EXCLUDED.value"
            ),
            f"UPDATE settings SET value = 'u{number}' WHERE user_id = {user} AND name = 'theme'",
            f"DELETE FROM settings WHERE user_id = {user} AND name <> 'n{number % 5}'",
            (
                f"UPDATE settings SET user_id = u.id FROM users AS u WHERE u.id = {rng.randrange(1, 20)} AND user_id = {user} AND settings.name = 'n1'"
                f" AND NOT EXISTS (SELECT FROM settings AS o WHERE o.user_id = u.id AND o.name = 'n1')"
            ),
            f"INSERT INTO users (id) VALUES ({user}) ON CONFLICT DO NOTHING",
            f"DELETE FROM users WHERE id = {user}",
        )[rng.randrange(6)]
        connection.execute(statement.encode())

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        user = rng.randrange(1, 2000) if number % 3 else rng.randrange(1, 20)
        if number % 5 == 0:
            connection.execute("SELECT 1 FROM public.users LIMIT 1")
        # One that holds nothing may not be filled yet.
        statement = (
            f"""UPDATE users SET settings = settings || '{{"w{rng.randrange(5)}": "{number}"}}' WHERE id = {user} AND settings IS NOT NULL""",
            f"UPDATE users SET settings = settings - 'theme' WHERE id = {user} AND settings IS NOT NULL",
            f"UPDATE users SET settings = '{{}}' WHERE id = {user} AND settings IS NOT NULL",
            f"""INSERT INTO users (id, settings) VALUES ({user}, '{{"born": "{number}"}}') ON CONFLICT DO NOTHING""",
        )[rng.randrange(4)]
        connection.execute(statement.encode())

    with Writers(database.dsn) as writers:
        for level in LEVELS:
            writers.add(f"old {level}", old, isolation=level)
            writers.add(f"new {level}", new, isolation=level)
        writers.wait_for(1)
        users.fill()
        writers.wait_for(30)
    writers.report.assert_only("40001", "40P01", "23503", "23505")
    assert (users.found(), users.bad()) == ({}, 0)


def test_a_list_in_its_order(database: Database) -> None:
    """Places have gaps that a list cannot hold; what stays keeps its row."""
    users = Users(
        database,
        operation={
            **COLUMNS,
            "elements": ["seen", "name"],
            "element_key": ["name"],
            "into": {"delimited": "names"},
            "columns": [{"column": "names", "empty": "''", "not_null": True}],
            "discard": ["id", "value"],
        },
        extra="UPDATE settings SET seen = 10 WHERE name = 'size'",
    )
    users.fill()
    assert users.found() == {}

    def read(user: int) -> tuple[str, str]:
        ((new,),) = database.execute(f"SELECT names FROM users WHERE id = {user}")
        old = database.value(
            f"SELECT coalesce(string_agg(name, ',' ORDER BY seen, name), '') FROM settings WHERE user_id = {user}"
        )
        return str(old), str(new)

    ids = "SELECT string_agg(id::text, ',' ORDER BY name) FROM settings WHERE user_id = 1 AND name IN ('size', 'theme')"
    kept = database.value(ids)
    for statement, told in (
        ("UPDATE settings SET seen = -5 WHERE user_id = 1 AND name = 'size'", "size,theme"),
        ("UPDATE users SET names = 'theme,new,size' WHERE id = 1", "theme,new,size"),
        ("UPDATE settings SET seen = 77 WHERE user_id = 1 AND name = 'theme'", "new,size,theme"),
        ("INSERT INTO settings (user_id, name, seen) VALUES (1, 'first', -1)", "first,new,size,theme"),
        ("UPDATE users SET names = 'size,theme' WHERE id = 1", "size,theme"),
    ):
        database.execute(statement)
        assert read(1) == (told, told), statement
    assert database.value(ids) == kept
    database.execute("UPDATE users SET names = '' WHERE id = 3; DELETE FROM settings WHERE user_id = 5")
    assert (read(3), read(5), users.found()) == (("", ""), ("", ""), {})
    # A list in which one is twice, or one that cannot be told from two.
    with pytest.raises(psycopg.errors.CardinalityViolation):
        database.execute("UPDATE users SET names = 'a,a' WHERE id = 1")
    database.execute("INSERT INTO settings (user_id, name) VALUES (7, 'a,b')")
    assert database.value("SELECT count(*) FROM zdm.sync_failures") == 1
    database.execute("DELETE FROM settings WHERE user_id = 7 AND name = 'a,b'")
    assert (users.found(), database.value("SELECT count(*) FROM zdm.sync_failures")) == ({}, 0)


def test_rows_and_elements_are_seen_at_one_moment(database: Database) -> None:
    """Or each row whose elements are written without pause would seem to be left, whenever the backfill looks for such rows."""
    users = Users(database)
    users.fill()
    asked = (
        f"SELECT zdm.rows_{users.rollout}_1_agree(ROW(u.id, u.name, u.theme, u.locale, u.size)::users) FROM"
        " (SELECT *, pg_advisory_xact_lock(7) FROM users WHERE id = 1 OFFSET 0) AS u"
    )
    with Scene(database.dsn) as scene:
        a, b = scene.session("a"), scene.session("b")
        b.run("SELECT pg_advisory_lock(7)")
        waiting = a.start(asked)
        waiting.wait_blocked()
        b.run(said(1, "theme", "dark"))
        b.run("SELECT pg_advisory_unlock(7)")
        assert waiting.result() == [(True,)]
