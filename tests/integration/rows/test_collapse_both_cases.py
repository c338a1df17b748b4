"""Rows that become columns of one, one case after the other: what has no form, what is repaired, what is refused, and how lists are held."""

from __future__ import annotations

import psycopg
import pytest

from tests.conformance.harness import Rollout
from tests.integration.rows.collapsed_stage import COLUMNS, DOCUMENT, Users, said
from tests.support.servers import Database
from zdm.backfill.sweep import BadData
from zdm.catalog import install, registry, rollouts
from zdm.db.session import connect, transaction
from zdm.engine.compile import compile_plan
from zdm.errors import BadInput
from zdm.model.mapping import Authority
from zdm.model.phases import State
from zdm.model.step import Phase, Stage, Transaction
from zdm.operations.collapse import Collapse
from zdm.operations.migration import Migration
from zdm.sql import row_objects, row_sync
from zdm.sql.rows import Kind


def test_rows_that_have_no_column(database: Database) -> None:
    """The old application's write goes through; the row is recorded, and the new version cannot write over it until that is corrected."""
    users = Users(database)
    # As if nobody had watched them yet; the columns of the second one hold what they would anyhow.
    database.execute(
        "SET session_replication_role = replica; ALTER TABLE settings DISABLE TRIGGER USER; "
        + said(7, "font", "serif")
        + "; "
        + said(4, "font", "serif")
    )
    for (name,) in database.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'settings'::regclass AND NOT tgisinternal"
    ):
        database.execute(f'ALTER TABLE settings ENABLE ALWAYS TRIGGER "{name}"')
    with pytest.raises(BadData, match="2 rows") as raised:
        users.fill()
    assert "the rows of public.settings that belong to" in str(raised.value)
    database.execute("DELETE FROM settings WHERE name = 'font'")
    users.fill()
    assert (users.found(), users.bad()) == ({}, 0)
    database.execute(said(1, "font", "serif"))
    assert users.both(1)[1] == "size=1 theme=light"
    database.execute(said(3, "size", "many"))
    assert users.found() == {Kind.FAILED: 2}
    reasons = database.execute("SELECT key ->> 'id', sqlstate FROM zdm.sync_failures ORDER BY 1")
    assert reasons == [("1", "23514"), ("3", "22P02")]
    for user in (1, 3):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="have no form in"):
            database.execute(f"UPDATE users SET theme = 'dark' WHERE id = {user}")
    database.execute("UPDATE settings SET name = 'locale' WHERE name = 'font'; " + said(3, "size", "4"))
    assert (users.found(), users.bad()) == ({}, 0)
    assert users.both(1) == ("locale=serif size=1 theme=light",) * 2
    # Their end is corrected as well.
    database.execute(
        said(5, "font", "x") + "; UPDATE users SET id = 500 WHERE id = 5; DELETE FROM users WHERE id = 500"
    )
    users.fill()
    assert users.found() == {}


def test_rows_that_the_backfill_meets(database: Database) -> None:
    """The plan names them, and refuses; what has come since stops the backfill, also where its columns hold what they would anyhow."""
    with pytest.raises(BadInput) as raised:
        Users(database, extra=said(1, "font", "serif") + ";" + said(4, "font", "serif"))
    (problem,) = raised.value.problems
    assert "would not come back from theme, locale, size as they are, for 2 of 30 rows" in problem.what
    assert "id=1 (name=font); id=4 (name=font)" in problem.what
    assert problem.rule == "lossy-mapping"


def test_lossy_rows_are_accepted(database: Database) -> None:
    """They stay until the new version writes the row that they belong to."""
    users = Users(
        database,
        options={"lossy": True},
        extra=said(1, "font", "serif") + ";" + said(4, "font", "serif") + ";" + said(3, "size", " 03"),
    )
    users.fill()
    assert users.found() == {}
    assert users.both(3) == ("size= 03 theme=light", "size=3 theme=light")
    database.execute(
        "UPDATE users SET name = 'x' WHERE id IN (1, 3, 4); UPDATE users SET theme = 'dark' WHERE id IN (1, 4)"
    )
    assert [users.both(user) for user in (1, 4)] == [("size=1 theme=dark",) * 2, ("theme=dark",) * 2]
    assert users.found() == {}


def test_rows_beside_those_that_count(database: Database) -> None:
    """They are never read, written, counted or taken away; and go with the table, which the plan says."""
    others = "SELECT user_id, name, value FROM settings WHERE name LIKE 'x:%' ORDER BY 1, 2"
    users = Users(
        database,
        options={"where": "name NOT LIKE 'x:%'", "drop": True},
        extra="INSERT INTO settings (user_id, name, value) SELECT g, 'x:' || k, 'o' FROM generate_series(1, 30, 3) g, unnest(ARRAY['p', 'q']) k",
    )
    (warned,) = [f.text for f in users.plan.findings if "do not meet `where`" in f.text]
    assert (
        "20 rows of public.settings do not meet `where`, and go with the table at cleanup (for example name=x:p; name=x:q)"
        in warned
    )
    before = database.execute(others)
    users.fill()
    for statement, user, told in (
        (said(1, "x:r", "new"), 1, "size=1 theme=light"),
        ("UPDATE users SET theme = 'dark', size = NULL WHERE id = 1", 1, "theme=dark"),
        ("UPDATE settings SET name = 'x:theme' WHERE user_id = 1 AND name = 'theme'", 1, ""),
        ("UPDATE settings SET name = 'theme' WHERE user_id = 1 AND name = 'x:theme'", 1, "theme=dark"),
        ("DELETE FROM settings WHERE name = 'x:r'", 1, "theme=dark"),
    ):
        database.execute(statement)
        assert users.both(user)[1] == told, statement
        assert users.found() == {}
    assert database.execute(others) == before
    for authority in Authority:
        assert users.repair(authority) == 0
    # A row that others hold by the foreign key stays what it was to the old version.
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.execute("UPDATE users SET id = 400 WHERE id = 4")
    database.execute("UPDATE users SET id = 300 WHERE id = 3; DELETE FROM users WHERE id = 4")
    assert users.both(300)[1] == "size=3 theme=light"
    assert users.found() == {}


@pytest.mark.parametrize("action", ["NO ACTION", "RESTRICT"])
def test_a_foreign_key_that_refuses_goes_on_refusing(database: Database, action: str) -> None:
    """The old version counts on it; who lets go of the settings first, by either side, may delete the user."""
    users = Users(
        database,
        extra="ALTER TABLE settings DROP CONSTRAINT settings_user_id_fkey;"
        f" ALTER TABLE settings ADD FOREIGN KEY (user_id) REFERENCES users ON DELETE {action} ON UPDATE {action}",
    )
    assert [f.text for f in users.plan.findings if "is not deleted by either version" in f.text]
    users.fill()
    with pytest.raises(psycopg.errors.IntegrityError):
        database.execute("DELETE FROM users WHERE id = 1")
    assert users.both(1) == ("size=1 theme=light",) * 2
    database.execute(
        "UPDATE users SET theme = NULL, size = NULL WHERE id = 1; DELETE FROM users WHERE id = 1"
    )
    database.execute("DELETE FROM settings WHERE user_id = 2; DELETE FROM users WHERE id = 2")
    database.execute("DELETE FROM users WHERE id = 4; UPDATE users SET id = 300 WHERE id = 3")
    assert users.both(300) == ("size=3 theme=light",) * 2
    assert (users.found(), users.bad()) == ({}, 0)


@pytest.mark.parametrize("authority", list(Authority))
def test_what_somebody_broke_is_found_and_repaired(database: Database, authority: Authority) -> None:
    users = Users(database)
    users.fill()
    names = [
        (table, name)
        for table in ("users", "settings")
        for (name,) in database.execute(
            f"SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal"
        )
    ]
    database.execute("ALTER TABLE users DISABLE TRIGGER USER; ALTER TABLE settings DISABLE TRIGGER USER")
    database.execute("UPDATE users SET theme = 'wrong' WHERE id = 1; UPDATE users SET size = 8 WHERE id = 2")
    database.execute(
        "UPDATE settings SET value = 'lost' WHERE user_id = 3 AND name = 'theme'; " + said(6, "locale", "de")
    )
    for table, name in names:
        database.execute(f'ALTER TABLE {table} ENABLE ALWAYS TRIGGER "{name}"')
    assert users.found() == {Kind.DIFFERENT: 2, Kind.EXTRA: 1, Kind.MISSING: 1}
    users.repair(authority)
    assert (users.found(), users.bad()) == ({}, 0)
    old = ("size=1 theme=light", "theme=light", "size=3 theme=lost", "locale=de theme=light")
    new = ("size=1 theme=wrong", "size=8 theme=light", "size=3 theme=light", "theme=light")
    assert tuple(users.both(user)[0] for user in (1, 2, 3, 6)) == (old if authority is Authority.OLD else new)


def test_what_a_document_cannot_say(database: Database) -> None:
    """Refused, unless it only says nothing in another way."""
    users = Users(database, operation=DOCUMENT)
    users.fill()
    for written in ('{"size": 5}', '{"theme": {"dark": true}}', "[1]", '"x"'):
        with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.DataError)):
            database.execute(f"UPDATE users SET settings = '{written}' WHERE id = 1")
    with pytest.raises(psycopg.errors.StringDataRightTruncation):
        database.execute("""UPDATE users SET settings = '{"a name that is too long": "x"}' WHERE id = 1""")
    for value in ("{}", None):
        database.execute(said(1, "theme", "light"))
        database.execute("UPDATE users SET settings = %s WHERE id = 1", value)
        assert users.both(1) == ("", "")
    database.execute("""UPDATE users SET settings = '{"theme": null}' WHERE id = 1""")
    assert database.execute("SELECT name, value FROM settings WHERE user_id = 1") == [("theme", None)]
    database.execute(said(1, "theme", "back"))
    assert users.both(1) == ("theme=back", "theme=back")
    assert users.found() == {}


FORMS: tuple[tuple[str, dict[str, object], list[str], str, str], ...] = (
    # The columns of the rows, and how these are held; then rows as the old version has them, and the column.
    ("place int, item text", {"json_array": "list"}, ["place", "item"], "(1, 'b'), (2, NULL), (3, 'a')", '["b", null, "a"]'),
    ("place int, item jsonb", {"json_array": "list"}, ["place", "item"], "(1, '2'::jsonb), (2, '{\"x\": 1}')", '[2, {"x": 1}]'),
    ("item int", {"json_array": "list"}, ["item"], "(3), (1)", "[1, 3]"),
    ("name text, item text", {"json_object": "list"}, ["name", "item"], "('b', '2'), ('a', NULL)", '{"a": null, "b": "2"}'),
    ("name text, item jsonb", {"json_object": "list"}, ["name", "item"], "('b', '2'::jsonb)", '{"b": 2}'),
    ("place int, item text", {"array": "list"}, ["place", "item"], "(1, 'b'), (2, 'a'), (3, 'b')", "{b,a,b}"),
    ("place int, item text", {"delimited": "list", "separator": "; "}, ["place", "item"], "(1, 'b'), (2, 'a')", "b; a"),
    ("place int, item int", {"columns": ["list"]}, ["place", "item"], "(1, 7)", "7"),
)  # fmt: skip


def test_the_forms(database: Database) -> None:
    """Each goes there and back as it was, through the triggers."""
    operations: list[dict[str, object]] = []
    for number, (columns, form, elements, _, _) in enumerate(FORMS):
        database.execute(
            f"CREATE TABLE things{number} (id int PRIMARY KEY); CREATE TABLE items{number} (thing int REFERENCES things{number},"
            f" {columns}, PRIMARY KEY (thing, {elements[0]}))"
        )
        operations.append(
            {
                "collapse": {
                    "table": f"items{number}",
                    "to": f"things{number}",
                    "key": {"thing": "id"},
                    "into": form,
                    "elements": elements,
                }
            }
        )
    migration = Migration.model_validate({"id": "try_it", "operations": operations})
    with connect(database.dsn, application_name="stage") as conn:
        install.install(conn)
        plan = compile_plan(conn, migration, "public")
        registry.register(conn, migration, migration.canonical())
        with transaction(conn):
            rollout = rollouts.create(conn, plan).id
        for step in plan.of(Phase.PREPARATION):
            if step.stage is Stage.STRUCTURE and isinstance(step.action, Transaction):
                for statement in step.action.statements:
                    conn.execute(statement.encode())
        for mapping in plan.row_mappings:
            for side in reversed(row_objects.sides(mapping)):
                for statement in row_sync.install(mapping, rollout, side).statements:
                    conn.execute(statement.encode())
    for number, (_, _, elements, rows, held) in enumerate(FORMS):
        things, items = f"things{number}", f"items{number}"
        names = ", ".join(elements)
        read = f"SELECT list::text FROM {things} ORDER BY id"
        database.execute(
            f"INSERT INTO {things} VALUES (1), (2); INSERT INTO {items} (thing, {names}) SELECT 1, v.* FROM (VALUES {rows}) AS v"
        )
        assert database.execute(read) == [(held,), (None,)], number
        before = database.execute(f"SELECT * FROM {items} ORDER BY 1, 2")
        database.execute(f"UPDATE {things} SET list = NULL")
        assert database.execute(f"SELECT count(*) FROM {items}") == [(0,)], number
        database.execute(f"UPDATE {things} SET list = '{held}' WHERE id = 1")
        assert database.execute(f"SELECT * FROM {items} ORDER BY 1, 2") == before, number


def test_a_document_that_is_said_in_sql(database: Database) -> None:
    """Of elements with several columns; nothing is an object without any, and never NULL."""
    users = Users(
        database,
        operation={
            **COLUMNS,
            "elements": ["name", "value", "seen"],
            "into": None,
            "columns": [
                {
                    "column": "settings",
                    "type": "jsonb",
                    "empty": "'{}'",
                    "not_null": True,
                    "up": "coalesce(jsonb_object_agg(name, jsonb_build_object('v', value, 's', seen)), '{}')",
                }
            ],
            "down": "SELECT k, d ->> 'v', (d ->> 's')::int FROM jsonb_each(settings) AS e (k, d)",
            "discard": ["id"],
        },
    )
    users.fill()
    read = "SELECT settings::text FROM users WHERE id = 1"
    for statement, told in (
        (
            "UPDATE settings SET seen = 4 WHERE user_id = 1",
            '{"size": {"s": 4, "v": "1"}, "theme": {"s": 4, "v": "light"}}',
        ),
        (
            "UPDATE users SET settings = jsonb_set(settings - 'size', '{theme,s}', '5') WHERE id = 1",
            '{"theme": {"s": 5, "v": "light"}}',
        ),
        ("DELETE FROM settings WHERE user_id = 1", "{}"),
    ):
        database.execute(statement)
        assert database.value(read) == told
        assert users.found() == {}
    with pytest.raises(psycopg.errors.CheckViolation, match="has no form in"):
        database.execute(
            """UPDATE users SET settings = '{"a": {"v": "1", "s": 2, "more": 3}}' WHERE id = 1"""
        )
    database.execute("INSERT INTO users (id) VALUES (99)")
    assert database.value("SELECT settings::text FROM users WHERE id = 99") == "{}"


def test_what_cannot_be_is_refused_by_name(database: Database) -> None:
    database.execute(
        "CREATE TABLE users (id int PRIMARY KEY, note text); INSERT INTO users SELECT generate_series(1, 3);"
        " CREATE TABLE settings (user_id int NOT NULL REFERENCES users, name text NOT NULL, value text, must int NOT NULL, more int);"
        " CREATE INDEX ON settings (user_id); INSERT INTO settings VALUES (1, 'a', 'x', 1), (1, 'a', 'y', 1), (2, 'b', 'x', 1)"
    )

    def refused(**options: object) -> str:
        operation = {**COLUMNS, "columns": [], "discard": ["must", "more"], **options}
        sync = operation.pop("sync", "immediate")
        migration = Migration.model_validate(
            {"id": "try_it", "sync": sync, "operations": [{"collapse": operation}]}
        )
        with connect(database.dsn, application_name="stage") as conn, pytest.raises(BadInput) as raised:
            compile_plan(conn, migration, "public")
        return str(raised.value)

    bare = refused(discard=[])
    assert "column more of public.settings is neither part of `key` or `elements` nor discarded" in bare
    assert "column must of public.settings is NOT NULL without a default" in bare
    assert "there is no column nothing in public.settings" in refused(elements=["name", "nothing"])
    assert "are not offered with `sync: logged`" in refused(sync="logged")
    database.execute("ALTER TABLE settings ALTER must SET DEFAULT 1")
    twice = refused()
    assert "(user_id, name) is no unique key of public.settings" in twice
    assert "1 of its keys are there more than once, for example user_id=1, name=a" in twice
    database.execute(
        "DELETE FROM settings WHERE value = 'y'; ALTER TABLE settings ADD UNIQUE (user_id, name)"
    )
    by_hand: dict[str, object] = {
        "into": None,
        "columns": [{"column": "theme", "type": "text", "up": "max(value) FILTER (WHERE name = 'theme')"}],
        "down": "SELECT 'theme', theme WHERE theme IS NOT NULL",
        "where": "name = 'theme'",
    }
    assert "`up` reads more of public.settings" in refused(
        **{
            **by_hand,
            "columns": [{"column": "theme", "type": "text", "up": "max(value) FILTER (WHERE more > 1)"}],
        }
    )
    assert "`down` does not read column theme" in refused(**{**by_hand, "down": "SELECT 'theme', note"})
    assert "`down` makes rows of theme = NULL" in refused(**{**by_hand, "down": "SELECT 'theme', theme"})
    assert "reads value of public.settings" in refused(**{**by_hand, "where": "value > ''"})
    assert "would be json, of which two texts may say the same" in refused(
        into={"json_object": "doc"}, columns=[{"column": "doc", "type": "json"}]
    )
    assert "which is another value each time" in refused(
        columns=[{"column": "theme", "empty": "random()::text"}]
    )
    assert "none of the columns that `into` fills" in refused(columns=[{"column": "other"}])
    assert "already has a column note" in refused(into={"columns": {"theme": "note"}})
    for options, match in (
        ({"one_way": True}, "one of three"),
        ({"down": "SELECT 1, 2"}, "either `into`, or `down`"),
        ({"create": {}}, "without `create`"),
        ({"order": "name"}, "`into` knows it"),
        ({"columns": [{"column": "theme", "up": "max(value)", "type": "text"}]}, "`up` goes with `down`"),
        (
            {"elements": [], "one_way": True, "into": None, "discard": ["more"]},
            "`discard` goes with `elements`",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            refused(**options)


@pytest.mark.parametrize("number", [5, 6])
def test_both_ways_while_the_fence_is_up(database: Database, number: int) -> None:
    """The table, or nothing, goes by another name then, and follows nevertheless; lifted, the old version reads what was written."""
    rollout = Rollout(database, Collapse.scenarios[number])
    rollout.advance_to(State.SWITCHED_OVER)
    engine = rollout.engine()
    engine.fence(rollout.migration.id)
    written = (
        "UPDATE users SET theme = 'fenced' WHERE id = 1"
        if number == 5
        else "UPDATE posts SET tags = '{x,y}' WHERE id = 1"
    )
    rollout.execute_new(written)
    assert engine.verify(rollout.migration.id).clean
    engine.fence(rollout.migration.id, lift=True)
    if number == 5:
        assert (
            database.value("SELECT value FROM preferences WHERE user_id = 1 AND name = 'theme'") == "fenced"
        )
        database.execute("DELETE FROM preferences WHERE user_id = 1 AND name = 'theme'")
    else:
        assert (
            database.value("SELECT string_agg(tag, ',' ORDER BY place) FROM tags WHERE post_id = 1") == "x,y"
        )
        database.execute("DELETE FROM tags WHERE post_id = 1 AND tag = 'x'")
    rollout.agree()
