"""Names and settings that nobody should have, and somebody does: a whole rollout works with them, and the way back does."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.acceptance.command import Command
from tests.conformance.harness import OPEN_GATES
from tests.support.servers import Database
from zdm.engine.rollout import Engine
from zdm.model.phases import State
from zdm.operations.migration import Migration

NAMES = (
    'it\'s "quoted"; -- /* and */ a.b',
    "select",
    "Grün 表 🐘",
    "100% {x} %s %(n)s {0} {}",
    "x" * 63,
    "表" * 21,
    "$$dollar$$ back\\slash",
)

TARGET = 'The "Target" % {x}'
ELSEWHERE = "else.Where"

#: In a string of an expression; what is cut off again on the way back.
TAIL = " 100% {x} %s %(n)s {0}"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def tables() -> Iterator[tuple[str, str, str]]:
    """Schema, table, column; the table and the column of the same name, and one table outside the target."""
    for name in NAMES:
        yield TARGET, name, name
    yield ELSEWHERE, NAMES[3] + "!", NAMES[0]


def set_up(database: Database) -> None:
    for schema in (TARGET, ELSEWHERE):
        database.execute(f"CREATE SCHEMA {quoted(schema)}")
    for schema, table, column in tables():
        t = f"{quoted(schema)}.{quoted(table)}"
        database.execute(
            f"CREATE TABLE {t} (id integer PRIMARY KEY, {quoted(column)} text NOT NULL);"
            f"INSERT INTO {t} SELECT g, 'v' || g FROM generate_series(1, 20) g"
        )


def migration() -> Migration:
    operations: list[dict[str, Any]] = []
    for number, (schema, table, column) in enumerate(tables()):
        written = quoted(table) if schema == TARGET else f"{quoted(schema)}.{quoted(table)}"
        operations += [
            {
                "change_type": {
                    "table": written,
                    "column": column,
                    "to": "varchar(90)",
                    "up": f"{quoted(column)} || {literal(TAIL)}",
                    "down": f"replace({quoted(column)}, {literal(TAIL)}, '')",
                }
            },
            {
                "add_check": {
                    "table": written,
                    "name": f'{number}% {{x}} "check"',
                    "check": f"{quoted(column)} <> '%s {{x}} 100%'",
                }
            },
        ]
        if number % 2:
            operations.append(
                {
                    "create_index": {
                        "table": written,
                        "name": f'{number}% {{x}} "index"',
                        "columns": [column],
                        "where": f"{quoted(column)} <> '%s {{x}} 100%'",
                    }
                }
            )
    return Migration.model_validate({"id": "odd", "operations": operations, "gates": OPEN_GATES})


def to(engine: Engine, wanted: State, migration: Migration, *, restart: bool = False) -> None:
    while True:
        result = engine.advance(migration, restart=restart)
        assert [v for v in result.verdicts if not v.lets_through] == []
        if result.state is wanted:
            return


def dump(database: Database, *schemas: str) -> str:
    """These schemas as pg_dump writes them."""
    if database.server.dev is None:
        pytest.skip("the programs of the server are elsewhere")
    wanted = [f"--schema={quoted(schema)}" for schema in schemas]
    text = subprocess.run(
        [database.server.dev.bin("pg_dump"), "--schema-only", *wanted, f"--dbname={database.dsn}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return re.sub(r"(?m)^\\.*$", "", text)


def read(database: Database, schema: str, table: str, column: str, key: int) -> Any:
    return database.value(f"SELECT {quoted(column)} FROM {quoted(schema)}.{quoted(table)} WHERE id = {key}")


def write(database: Database, schema: str, table: str, column: str, key: int, value: str) -> None:
    database.execute(
        f"INSERT INTO {quoted(schema)}.{quoted(table)} (id, {quoted(column)}) VALUES ({key}, {literal(value)}) "
        f"ON CONFLICT (id) DO UPDATE SET {quoted(column)} = excluded.{quoted(column)}"
    )


def test_odd_names_everywhere(database: Database) -> None:
    set_up(database)
    before = dump(database, TARGET, ELSEWHERE)
    engine = Engine(database.dsn, TARGET)
    engine.init()
    made = migration()
    new_schema = engine.plan(made).new_schema

    to(engine, State.SWITCHED_OVER, made)
    for schema, table, column in tables():
        write(database, new_schema, table, column, 1, "new" + TAIL)
        write(database, schema, table, column, 2, "old")
    assert engine.rollback("odd").leftovers == ()
    for schema, table, column in tables():
        assert [read(database, schema, table, column, key) for key in (1, 2, 3)] == ["new", "old", "v3"]
    assert dump(database, TARGET, ELSEWHERE) == before

    to(engine, State.PREPARED, made, restart=True)
    for schema, table, column in tables():
        write(database, schema, table, column, 4, "old")
        write(database, new_schema, table, column, 30, "new" + TAIL)
    to(engine, State.COMPLETED, made)
    for schema, table, column in tables():
        values = [read(database, schema, table, column, key) for key in (1, 4, 30)]
        assert values == ["new" + TAIL, "old" + TAIL, "new" + TAIL]
        assert read(database, new_schema, table, column, 4) == "old" + TAIL
    assert engine.status("odd")[0].state is State.COMPLETED


def test_a_schema_is_told_as_it_is_quoted(database: Database, tmp_path: Path) -> None:
    """In every text, so that it can be copied into SQL; values in JSON are the names themselves."""
    target = 'Odd "Schema'
    database.execute(
        f"CREATE SCHEMA {quoted(target)}; CREATE TABLE {quoted(target)}.t (id int PRIMARY KEY, c int);"
        f"INSERT INTO {quoted(target)}.t SELECT g, g FROM generate_series(1, 3) g"
    )
    zdm = Command(database.dsn, tmp_path, target=target)
    to_text = {"table": "t", "column": "c", "to": "text", "up": "c::text", "down": "c::int"}
    gates = {"soak": "0s", "old_version_unused": "off"}
    file = zdm.write({"id": "odd", "operations": [{"change_type": to_text}], "gates": gates})
    said = [zdm(*words).text for words in (("status", "odd"), ("init",), ("plan", file))]
    said += [zdm(*words).done().text for words in (("advance", file), ("status", "odd"), ("advance", "odd"))]
    said += [zdm(*words).done().text for words in (("advance", "odd"), ("fence", "odd"), ("rollback", "odd"))]
    bad = zdm.write({"id": "bad", "operations": [{"drop_column": {"table": "t", "column": "x"}}]}, "bad.yaml")
    said += [zdm("plan", bad).text, zdm("advance", file).text, zdm("status").done().text]
    for text in said:
        on_one_line = re.sub(r"\s+", " ", text)
        assert "Odd" not in on_one_line.replace(quoted(target)[:-1], ""), text
    assert zdm("status", "--json").done().json["rollouts"][0]["target"] == target


ACCOUNT = """
CREATE TABLE public.account (id integer PRIMARY KEY, balance integer NOT NULL, at timestamp NOT NULL, note text);
INSERT INTO public.account SELECT g, g, timestamp '2024-01-01' + g * interval '1 hour', 'it''s \\ ' || g FROM generate_series(1, 3000) g
"""

WIDEN = Migration.model_validate(
    {
        "id": "widen",
        "operations": [
            {
                "change_type": {
                    "table": "account",
                    "column": "balance",
                    "to": "numeric(18,2)",
                    "up": "balance::numeric(18,2)",
                    "down": "round(balance)::int",
                }
            },
            {
                "change_type": {
                    "table": "account",
                    "column": "at",
                    "to": "timestamptz",
                    "up": "at AT TIME ZONE 'UTC'",
                    "down": "at AT TIME ZONE 'UTC'",
                }
            },
            {"rename_column": {"table": "account", "column": "note", "to": "remark"}},
            {"create_index": {"table": "account", "name": "account_balance", "columns": ["balance"]}},
        ],
        "gates": OPEN_GATES,
    }
)

#: Everything an expression, a catalog query or a trigger may call, taken by somebody else. Each says so when it is called.
SHADOWS = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.round(numeric) RETURNS numeric LANGUAGE plpgsql AS $$BEGIN RAISE 'evil round'; END$$;
CREATE FUNCTION evil.round(double precision) RETURNS double precision LANGUAGE plpgsql AS $$BEGIN RAISE 'evil round'; END$$;
CREATE FUNCTION evil.timezone(text, timestamp) RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE 'evil timezone'; END$$;
CREATE FUNCTION evil.timezone(text, timestamptz) RETURNS timestamp LANGUAGE plpgsql AS $$BEGIN RAISE 'evil timezone'; END$$;
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE 'evil now'; END$$;
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE 'evil clock'; END$$;
CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'evil format'; END$$;
CREATE FUNCTION evil.pg_backend_pid() RETURNS integer LANGUAGE plpgsql AS $$BEGIN RAISE 'evil pid'; END$$;
CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'evil setting'; END$$;
CREATE FUNCTION evil.eq(integer, integer) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'evil ='; END$$;
CREATE FUNCTION evil.eqt(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'evil = of text'; END$$;
CREATE FUNCTION evil.band(integer, integer) RETURNS integer LANGUAGE plpgsql AS $$BEGIN RAISE 'evil &'; END$$;
CREATE FUNCTION evil.catt(text, text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'evil ||'; END$$;
CREATE OPERATOR evil.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.eq);
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eqt);
CREATE OPERATOR evil.& (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.band);
CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.catt);
CREATE DOMAIN evil.int4 AS integer CHECK (VALUE IS NULL);
CREATE DOMAIN evil."numeric" AS numeric CHECK (VALUE IS NULL);
CREATE DOMAIN evil.timestamptz AS timestamptz CHECK (VALUE IS NULL);
CREATE VIEW evil.pg_class AS SELECT 1 AS oid WHERE 1 / 0 > 0;
CREATE VIEW evil.pg_attribute AS SELECT 1 AS attnum WHERE 1 / 0 > 0;
CREATE TABLE evil.account (id integer);
"""

HOSTILE = "evil, pg_catalog, public"


def through(database: Database, dsn: str) -> None:
    """Forward, back, forward to the end, with an application of each version under the same settings."""
    engine = Engine(dsn)
    before = dump(database, "public")
    engine.init()
    to(engine, State.PREPARED, WIDEN)
    change(dsn, "public.account", "balance", 1, "41")
    to(engine, State.SWITCHED_OVER, WIDEN)
    change(dsn, "public.account", "balance", 2, "42")
    change(dsn, "public_widen.account", "balance", 3, "43.4")
    change(dsn, "public_widen.account", "at", 3, "2024-06-01 02:00+02")
    assert engine.rollback("widen").leftovers == ()
    assert dump(database, "public") == before
    assert plainly(database, "SELECT balance, at::text FROM public.account WHERE id < 4 ORDER BY id") == [
        (41, "2024-01-01 01:00:00"),
        (42, "2024-01-01 02:00:00"),
        (43, "2024-06-01 00:00:00"),
    ]
    to(engine, State.SWITCHED_OVER, WIDEN, restart=True)
    engine.fence("widen")
    engine.fence("widen", lift=True)
    to(engine, State.COMPLETED, WIDEN)
    change(dsn, "public.account", "balance", 3, "43.4")
    assert plainly(
        database, "SELECT balance::text, at = '2024-06-01 00:00+00', remark FROM public.account WHERE id = 3"
    ) == [("43.40", True, "it's \\ 3")]


def plainly(database: Database, statement: str) -> list[tuple[Any, ...]]:
    """The rows of a query, whatever the defaults are."""
    with psycopg.connect(database.dsn) as connection:
        connection.execute("SET search_path = pg_catalog; SET DateStyle = 'ISO'; SET TimeZone = 'UTC'")
        return connection.execute(statement.encode()).fetchall()


def change(dsn: str, table: str, column: str, key: int, value: str) -> None:
    """As an application that knows what it lives with: names its operators and its transactions."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE")
        statement = sql.SQL("UPDATE {} SET {} = {} WHERE id OPERATOR(pg_catalog.=) {}").format(
            sql.Identifier(*table.split(".")), sql.Identifier(column), sql.Literal(value), sql.Literal(key)
        )
        connection.execute(statement)


@pytest.mark.parametrize("where", ["database", "role", "connection"])
def test_a_hostile_search_path(database: Database, where: str) -> None:
    database.execute(ACCOUNT)
    database.execute(SHADOWS)
    dsn = database.dsn
    if where == "connection":
        dsn += ("&" if "?" in dsn else "?") + "options=-csearch_path%3Devil,pg_catalog,public"
    elif where == "role":
        role = database.create_role("hostile", options="LOGIN SUPERUSER")
        database.execute(f'ALTER ROLE "{role}" SET search_path = {HOSTILE}')
        dsn = database.dsn_for(role)
    else:
        database.execute(f"ALTER DATABASE {database.name} SET search_path = {HOSTILE}")
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.RaiseException, match="evil"):
        connection.execute("SELECT 1 = 1")  # the trap is set
    through(database, dsn)


DEFAULTS = {
    "repeatable read": {"default_transaction_isolation": "repeatable read"},
    "serializable, read only": {
        "default_transaction_isolation": "serializable",
        "default_transaction_read_only": "on",
        "default_transaction_deferrable": "on",
    },
    "impatient": {
        "statement_timeout": "250ms",
        "lock_timeout": "20ms",
        "idle_in_transaction_session_timeout": "100ms",
        "idle_session_timeout": "1500ms",
        "transaction_timeout": "400ms",
    },
    "of another age": {
        "standard_conforming_strings": "off",
        "backslash_quote": "on",
        "TimeZone": "America/New_York",
        "DateStyle": "SQL, DMY",
        "IntervalStyle": "sql_standard",
        "bytea_output": "escape",
        "extra_float_digits": "-15",
        "quote_all_identifiers": "on",
        "transform_null_equals": "on",
        "lc_monetary": "C",
        "check_function_bodies": "off",
        "jit": "off",
        "enable_seqscan": "off",
        "synchronous_commit": "off",
        "default_toast_compression": "pglz",
        "client_encoding": "LATIN1",
    },
}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_of_the_database(database: Database, kind: str) -> None:
    database.execute(ACCOUNT)
    role = database.create_role("app", options="LOGIN SUPERUSER")
    with database.server.admin() as admin:
        for name, value in DEFAULTS[kind].items():
            if name == "transaction_timeout" and database.server.major < 17:
                continue
            for whose in (f"DATABASE {database.name}", f'ROLE "{role}"'):
                admin.execute(f"ALTER {whose} SET {name} = '{value}'".encode())
    through(database, database.dsn_for(role))
