"""What goes wrong in other tools that change a live schema, one test each, named after what went wrong there."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.command import Zdm, kill
from tests.support.interleave import eventually
from tests.support.servers import Database
from tests.support.writers import Writers
from zdm.engine.results import Outcome
from zdm.engine.rollout import Engine
from zdm.engine.settings import EngineSettings
from zdm.errors import BadInput, ZdmError
from zdm.model.phases import State
from zdm.operations.migration import Migration

OPEN = {"soak": "0s", "old_version_unused": False, "replication_lag": False, "approvals": 0}
RETRYABLE = ("40001", "40P01")


def migration(*operations: dict[str, Any], **more: Any) -> Migration:
    return Migration.model_validate({"id": "m", "operations": list(operations), "gates": OPEN, **more})


def change(column: str, to: str, table: str = "t", **more: Any) -> dict[str, Any]:
    return {"change_type": {"table": table, "column": column, "to": to, **more}}


def add(column: str, type_: str, **more: Any) -> dict[str, Any]:
    return {"add_column": {"table": "t", "column": column, "type": type_, **more}}


def started(database: Database, setup: str) -> Engine:
    database.execute(setup)
    engine = Engine(database.dsn)
    engine.init()
    return engine


def advance(engine: Engine, wanted: Migration, state: State) -> None:
    while (result := engine.advance(wanted)).state is not state:
        assert result.outcome is Outcome.DONE, result.verdicts


def columns(database: Database, table: str = "t") -> set[str]:
    rows = database.execute(
        f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    return {name for (name,) in rows}


TABLE = "CREATE TABLE t (id serial PRIMARY KEY, a int, b text); INSERT INTO t (a, b) SELECT g, 'b' || g FROM generate_series(1, 200) g;"


def test_killed_in_the_backfill_and_completed_with_half_of_the_values_missing(
    database: Database, tmp_path: Path
) -> None:
    engine = started(database, TABLE + "INSERT INTO t (a) SELECT g FROM generate_series(201, 20000) g")
    wanted = migration(change("a", "bigint", up="a * 10::bigint", down="a / 10"))
    advance(engine, wanted, State.PREPARED)
    zdm = Zdm(database.dsn, tmp_path)
    file = zdm.write(wanted.model_dump(mode="json", exclude_defaults=True))
    with psycopg.connect(database.dsn) as holder:
        holder.execute("SELECT FROM t WHERE id = 19000 FOR UPDATE")
        process = zdm.start("advance", file)
        eventually(
            lambda: database.value("SELECT count(_zdm_a) FROM t"),
            what="the backfill's first rows",
            seconds=60,
        )
        assert database.value("SELECT count(*) FROM t WHERE _zdm_a IS NULL") > 0
        kill(process)
    advance(engine, wanted, State.COMPLETED)
    assert database.execute("SELECT count(*), count(a), sum(a) FROM t") == [(20000, 20000, 2000100000)]


@pytest.mark.parametrize("up", ["nonsense + 1", "a +", "'x'::int + a", "unknown(a)", "count(*)"])
def test_an_invalid_up_expression_reported_as_success(database: Database, up: str) -> None:
    engine = started(database, TABLE)
    before = columns(database)
    with pytest.raises((BadInput, ZdmError)):
        engine.advance(migration(change("a", "bigint", up=up, down="1")))
    assert columns(database) == before
    assert database.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass") == 0


@pytest.mark.parametrize("path", ["public", "pg_catalog", "public, public_m", "public_m, public", "nowhere"])
def test_an_unexpected_search_path_overwrites_the_new_value_with_null(database: Database, path: str) -> None:
    engine = started(database, TABLE)
    advance(
        engine,
        migration(change("b", "varchar(90)", name="c", up="b || '!'", down="rtrim(c, '!')")),
        State.MIGRATED,
    )
    with psycopg.connect(database.dsn) as conn:
        conn.execute(f"SET search_path = {path}".encode())
        conn.execute("UPDATE public_m.t SET c = 'new!' WHERE id = 1")
        conn.execute("INSERT INTO public_m.t (a, c) VALUES (7, 'fresh!')")
        conn.execute("UPDATE public.t SET b = 'old' WHERE id = 2")
    found = database.execute("SELECT b, c FROM t WHERE id IN (1, 2) OR a = 7 AND id > 7 ORDER BY b")
    assert found == [("fresh", "fresh!"), ("new", "new!"), ("old", "old!")]


def test_six_added_columns_under_load_leave_rows_wrong_for_ever(database: Database) -> None:
    engine = started(database, TABLE)
    wanted = migration(*(add(f"c{n}", "bigint", up=f"a * {n}", not_null=True) for n in range(1, 7)))

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        if number % 3 == 0:
            connection.execute("INSERT INTO t (a) VALUES (%s)", [number])
        else:
            connection.execute("UPDATE t SET a = a + 1 WHERE id = %s", [rng.randrange(1, 201)])

    with Writers(database.dsn) as writers:
        writers.add("old", old, threads=3)
        writers.wait_for(5)
        advance(engine, wanted, State.SWITCHED_OVER)
        writers.wait_for(5)
    writers.report.assert_only(*RETRYABLE)
    wrong = " OR ".join(f"c{n} IS DISTINCT FROM a * {n}" for n in range(1, 7))
    assert database.value(f"SELECT count(*) FROM t WHERE {wrong}") == 0
    advance(engine, wanted, State.COMPLETED)
    assert {f"c{n}" for n in range(1, 7)} <= columns(database)


def test_writes_fail_while_a_not_null_column_starts_and_while_it_completes(database: Database) -> None:
    engine = started(database, TABLE)
    wanted = migration(add("c", "text", up="coalesce(b, '-')", not_null=True))

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        connection.execute(
            "INSERT INTO public.t (a, b) VALUES (1, NULLIF('x', %s))", ["x" if number % 2 else "y"]
        )
        connection.execute("UPDATE public.t SET b = 'u' WHERE id = %s", [rng.randrange(1, 201)])

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        del number
        connection.execute("INSERT INTO public_m.t (a, c) VALUES (2, 'new')")
        connection.execute("UPDATE public_m.t SET c = 'n' WHERE id = %s", [rng.randrange(1, 201)])

    with Writers(database.dsn) as olds:
        olds.add("old", old, threads=2)
        olds.wait_for(3)
        advance(engine, wanted, State.SWITCHED_OVER)
    with Writers(database.dsn) as news:
        news.add("new", new, threads=2)
        news.wait_for(3)
        advance(engine, wanted, State.COMPLETED)
        news.wait_for(3)
    olds.report.assert_only(*RETRYABLE)
    news.report.assert_only(*RETRYABLE)
    assert database.value(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'c'"
    )


def test_a_default_isolation_of_repeatable_read_rolls_everything_back(database: Database) -> None:
    database.execute(
        f"ALTER DATABASE \"{database.name}\" SET default_transaction_isolation = 'repeatable read'"
    )
    engine = started(database, TABLE)

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        del number
        connection.execute("UPDATE t SET a = a + 1 WHERE id = %s", [rng.randrange(1, 201)])

    with Writers(database.dsn) as writers:
        writers.add("old", old, threads=2)
        writers.wait_for(3)
        advance(engine, migration(change("a", "bigint")), State.SWITCHED_OVER)
    writers.report.assert_only(*RETRYABLE)
    assert database.value("SELECT count(*) FROM t WHERE a IS DISTINCT FROM _zdm_a") == 0


def test_a_view_and_a_generated_column_fail_half_way_and_leave_no_version_schema(database: Database) -> None:
    engine = started(
        database,
        TABLE + "INSERT INTO t (a, b) SELECT 1, 'x' FROM generate_series(1, 20000);"
        "ALTER TABLE t ADD g int GENERATED ALWAYS AS (a * 2) STORED; CREATE VIEW v AS SELECT id, a FROM t",
    )
    # To give the generated column another expression writes the table anew, for which this leaves no time.
    hasty = Engine(database.dsn, settings=EngineSettings(lock_budget=timedelta(milliseconds=2)))
    with pytest.raises(BadInput) as refused:
        hasty.advance(migration(change("a", "bigint")))
    assert [p.rule for p in refused.value.problems] == ["dependent-object", "stored-generated-column"]
    assert all(p.remedy for p in refused.value.problems)
    assert database.value("SELECT count(*) FROM pg_namespace WHERE nspname ~ '^public_'") == 0
    # What can be kept is: the view is made anew, with the generated column dropped on purpose.
    wanted = migration(
        {"drop_column": {"table": "t", "column": "g"}}, change("a", "bigint"), dependents="recreate"
    )
    advance(engine, wanted, State.COMPLETED)
    assert database.value("SELECT pg_typeof(a)::text FROM v LIMIT 1") == "bigint"


def test_indexes_composite_keys_statistics_grants_and_storage_are_lost(database: Database) -> None:
    reader = database.create_role("reader")
    engine = started(
        database,
        f"""
        CREATE TABLE p (x int, y text, PRIMARY KEY (x, y));
        CREATE TABLE t (id serial PRIMARY KEY, b varchar(20), x int, FOREIGN KEY (x, b) REFERENCES p MATCH FULL ON UPDATE CASCADE);
        CREATE INDEX expression ON t (lower(b) text_pattern_ops, x DESC) INCLUDE (id) WITH (fillfactor = 60) WHERE b <> 'B';
        CREATE STATISTICS s (mcv) ON b, x FROM t;
        ALTER TABLE t ALTER b SET STORAGE EXTERNAL, ALTER b SET STATISTICS 77;
        GRANT SELECT (b) ON t TO "{reader}";
        """,
    )
    facts = """
        SELECT pg_get_indexdef('expression'::regclass), pg_get_statisticsobjdef_columns(s.oid), c.conname, c.confmatchtype::text,
          c.confupdtype::text, cardinality(c.conkey), a.attstorage::text, a.attstattarget, a.attacl::text
        FROM pg_statistic_ext s, pg_constraint c, pg_attribute a
        WHERE c.conrelid = 't'::regclass AND c.contype = 'f' AND a.attrelid = 't'::regclass AND a.attname = 'b'"""
    ((definition, *before),) = database.execute(facts)
    advance(engine, migration(change("b", "text", up="b", down="b")), State.COMPLETED)
    ((after_definition, *after),) = database.execute(facts)
    assert after[1:] == before[1:]
    assert set(after[0].split(", ")) == set(before[0].split(", "))
    # Only the casts that varchar needed are gone.
    assert after_definition == definition.replace("lower((b)::text)", "lower(b)").replace(
        "((b)::text <> ", "(b <> "
    )


def test_the_new_views_have_no_grants(database: Database) -> None:
    writer = database.create_role("writer")
    engine = started(
        database,
        TABLE
        + f'GRANT SELECT, INSERT, UPDATE ON t TO "{writer}"; GRANT USAGE ON SEQUENCE t_id_seq TO "{writer}"',
    )
    advance(engine, migration(change("a", "bigint")), State.MIGRATED)
    with psycopg.connect(database.dsn_for(writer)) as conn:
        for schema in ("public_m", "public_before_m"):
            conn.execute(f"INSERT INTO {schema}.t (a) VALUES (1)".encode())
            conn.execute(f"UPDATE {schema}.t SET a = 2 WHERE a = 1".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("DELETE FROM public_m.t")


def test_column_names_are_replaced_wherever_their_letters_stand(database: Database) -> None:
    engine = started(
        database,
        """
        CREATE FUNCTION a(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
        CREATE TABLE t (id serial PRIMARY KEY, a int, aa int, b text);
        INSERT INTO t (a, aa, b) VALUES (1, 2, 'a');
        ALTER TABLE t ADD CONSTRAINT a CHECK (a(a) > 0 AND aa > 0 AND b <> 'a a' AND t.a < 1000);
        CREATE INDEX a_idx ON t ((a(a) + aa), (b || ' a')) WHERE b <> ' a ';
        """,
    )
    wanted = migration(change("a", "int", name="a_b", up="a(a) + length('a') - 1", down="a_b"))
    advance(engine, wanted, State.COMPLETED)
    definition = database.value("SELECT pg_get_indexdef('a_idx'::regclass)")
    expected = "USING btree (((a(a_b) + aa)), ((b || ' a'::text))) WHERE (b <> ' a '::text)"
    assert definition.endswith(expected), definition
    check = database.value("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'a'")
    assert check == "CHECK (((a(a_b) > 0) AND (aa > 0) AND (b <> 'a a'::text) AND (a_b < 1000)))"
    assert database.execute("SELECT a_b, aa, b FROM t") == [(1, 2, "a")]


@pytest.mark.parametrize(
    "operation",
    [
        {"set_default": {"table": "t", "column": "a", "default": 5}},
        {"rename_column": {"table": "t", "column": "a", "to": "c"}},
        change("b", "varchar(40)"),
        add("c", "int", default=7),
    ],
    ids=lambda operation: next(iter(operation)),
)
def test_any_change_rewrites_every_row(database: Database, operation: dict[str, Any]) -> None:
    engine = started(
        database,
        "CREATE TABLE t (id serial PRIMARY KEY, a int NOT NULL, b varchar(20));"
        "INSERT INTO t (a) SELECT g FROM generate_series(1, 50) g",
    )
    stored = "SELECT pg_relation_filenode('t'), array_agg(ctid::text || xmin::text ORDER BY id) FROM t"
    before = database.execute(stored)
    wanted = migration(operation)
    advance(engine, wanted, State.COMPLETED)
    assert database.execute(stored) == before


def test_complete_without_a_gate_takes_rows_that_disagree(database: Database) -> None:
    engine = started(database, TABLE)
    wanted = migration(change("a", "bigint"))
    advance(engine, wanted, State.SWITCHED_OVER)
    with psycopg.connect(database.dsn) as conn:  # somebody goes behind the triggers' back
        conn.execute("ALTER TABLE t DISABLE TRIGGER USER")
        conn.execute("UPDATE t SET _zdm_a = -1 WHERE id = 7")
        for (name,) in conn.execute(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass AND NOT tgisinternal"
        ).fetchall():
            conn.execute(f'ALTER TABLE t ENABLE ALWAYS TRIGGER "{name}"'.encode())
    engine.verify("m")
    result = engine.advance(wanted)
    assert result.outcome is Outcome.REFUSED
    assert "verification" in {v.gate for v in result.verdicts if not v.lets_through}
    assert {"a", "_zdm_a"} <= columns(database)


def test_a_dry_run_does_not_exist(database: Database, tmp_path: Path) -> None:
    started(database, TABLE)
    before = columns(database)
    zdm = Zdm(database.dsn, tmp_path)
    file = zdm.write(migration(change("a", "bigint")).model_dump(mode="json", exclude_defaults=True))
    shown = zdm("advance", file, "--dry-run").done().out
    assert "ADD COLUMN" in shown
    assert "AccessExclusive" in shown or "ACCESS EXCLUSIVE" in shown
    assert columns(database) == before


def test_a_failed_complete_resumes_one_action_too_late_and_reports_done(database: Database) -> None:
    engine = started(database, TABLE + "CREATE INDEX i ON t (a)")
    wanted = migration(change("a", "bigint"))
    advance(engine, wanted, State.SWITCHED_OVER)
    database.execute(
        "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;"
        "CREATE EVENT TRIGGER no ON sql_drop WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION no()"
    )
    with pytest.raises(ZdmError, match="not now"):
        advance(engine, wanted, State.COMPLETED)
    assert {"a", "_zdm_a"} <= columns(database)
    database.execute("DROP EVENT TRIGGER no")
    advance(engine, wanted, State.COMPLETED)
    assert columns(database) == {"id", "a", "b"}
    assert database.value("SELECT pg_typeof(a)::text FROM t LIMIT 1") == "bigint"
    assert database.value("SELECT pg_get_indexdef('i'::regclass)").endswith("USING btree (a)")
    left = "SELECT count(*) FROM pg_class WHERE relname ~ '^_zdm'"
    assert database.value(left) == 0


def test_a_table_without_a_primary_key_is_a_syntax_error(database: Database) -> None:
    engine = started(
        database,
        "CREATE TABLE t (a int, b text); INSERT INTO t SELECT g % 3, 'x' FROM generate_series(1, 50) g",
    )
    wanted = migration(change("a", "bigint", up="a + 1::bigint", down="(a - 1)::int"))
    advance(engine, wanted, State.SWITCHED_OVER)
    database.execute("UPDATE t SET a = 9 WHERE a = 0; DELETE FROM public_m.t WHERE a = 2")
    advance(engine, wanted, State.COMPLETED)
    assert database.execute("SELECT a, count(*) FROM t GROUP BY a ORDER BY a") == [(3, 17), (10, 16)]
