"""Kinds of tables, and of columns: what works does so through all phases and back, the rest is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.conformance.harness import Rollout
from tests.support import eventually
from tests.support.servers import Connection, Database, Server
from tests.support.versions import on_all_versions
from zdm.devdb import DevServer
from zdm.engine.rollout import Engine
from zdm.engine.settings import EngineSettings
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Transaction
from zdm.operations.migration import Migration

WIDEN: dict[str, object] = {"change_type": {"table": "t", "column": "a", "to": "bigint"}}
ADD: dict[str, object] = {"add_column": {"table": "t", "column": "c", "type": "text", "up": "b || '!'"}}
KINDS = {
    # No key at all, rows that are equal, and nothing is logged.
    "unlogged, no key": "CREATE UNLOGGED TABLE t (a int, b text); INSERT INTO t SELECT g % 7, 'x' FROM generate_series(1, 400) g",
    "composite, nullable key": "CREATE TABLE t (x int, y int, a int, b text, UNIQUE (x, y));"
    "INSERT INTO t SELECT nullif(g % 5, 0), nullif(g, 3), g, 'x' FROM generate_series(1, 400) g",
    "names": "CREATE TYPE \"Mood {x}\" AS ENUM ('ok', 'so \"so\"');"
    'CREATE TABLE t (a int, b text, "Ünïcode %s" "Mood {x}" DEFAULT \'ok\', "'
    + "n"
    * 63
    + '" int, "select" int[]);'
    "INSERT INTO t (a, b) SELECT g, 'x' FROM generate_series(1, 400) g",
    "rich types": "CREATE DOMAIN pos AS int CHECK (VALUE > -5); CREATE TYPE pair AS (l int, r text);"
    "CREATE TABLE t (a pos DEFAULT 3, b text, p pair, r int4range, m int[], EXCLUDE USING gist (r WITH &&));"
    "INSERT INTO t SELECT g, 'x', ROW(g, 'y'::text)::pair, int4range(g * 10, g * 10 + 5), ARRAY[g] FROM generate_series(1, 400) g",
    "partitioned by hash, no key": "CREATE TABLE t (a int, b text, k uuid DEFAULT gen_random_uuid()) PARTITION BY HASH (k);"
    "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
    "CREATE UNLOGGED TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
    "INSERT INTO t SELECT g, 'x' FROM generate_series(1, 400) g",
}


def migration(*operations: object) -> Migration:
    return Migration.model_validate({"id": "try_it", "operations": list(operations)})


@pytest.mark.parametrize("kind", KINDS)
def test_through_all_phases_and_back(database: Database, kind: str) -> None:
    scenario = Scenario(
        setup=KINDS[kind],
        operations=(WIDEN, ADD),
        old_writes=(
            "INSERT INTO t (a, b) VALUES ({n} % 9, 'o')",
            "UPDATE t SET a = a + 1 WHERE a % 50 = {n} % 50",
        ),
        new_writes=(
            "INSERT INTO t (a, b) VALUES ({n} % 9, 'n')",
            "UPDATE t SET a = a + 1 WHERE a % 50 = {n} % 50",
        ),
        agree="SELECT (SELECT array_agg(a ORDER BY a) FROM t) = (SELECT array_agg(a::bigint ORDER BY a) FROM public.t)",
    )
    rollout = Rollout(database, scenario)
    with rollout.writing(new=False):
        rollout.advance_to(State.PREPARED)
        with rollout.writing(old=False):
            rollout.advance_to(State.SWITCHED_OVER)
        assert rollout.engine().rollback("try_it").state is State.ROLLED_BACK
    rollout.nothing_left()
    assert rollout.dump() == rollout.before
    rollout.engine().advance(rollout.migration, until=Phase.PREPARATION, restart=True)
    with rollout.writing():
        rollout.advance_to(State.SWITCHED_OVER)
    rollout.agree()
    rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    # What the new version inserted without c has none: its omission counts.
    wrong = "SELECT count(*) FROM t WHERE b <> 'n' AND c IS DISTINCT FROM b || '!' OR pg_typeof(a)::text <> 'bigint'"
    assert database.value(wrong) == 0


def test_wide_values_are_not_written_again(database: Database) -> None:
    """A value of a megabyte, stored out of line, stays where it is while another column is filled, synced and swapped."""
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b text); ALTER TABLE t ALTER b SET STORAGE EXTERNAL;"
        "INSERT INTO t SELECT g, g, repeat(md5(g::text), 30000) FROM generate_series(1, 20) g"
    )
    toast = "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 't'::regclass"
    rollout = Rollout(database, Scenario(setup="SELECT 1", operations=(WIDEN,)))
    before = database.value(toast)
    rollout.advance_to(State.PREPARED)
    database.execute("UPDATE t SET a = a + 1 WHERE id <= 10")
    rollout.advance_to(State.SWITCHED_OVER)
    rollout.execute_new("UPDATE t SET a = a + 1")
    rollout.advance_to(State.COMPLETED)
    assert database.value(toast) == before
    assert database.value("SELECT sum(length(b)) FROM t") == 20 * 32 * 30000


@on_all_versions  # the embedded server has no ICU, and the system's usually has
def test_a_nondeterministic_collation(database: Database) -> None:
    """Equal is not identical there: a change of case alone is a change."""
    try:
        database.execute(
            "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except psycopg.Error as error:
        pytest.skip(f"this server has no ICU: {error}")
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, b text COLLATE ci, UNIQUE (b)); INSERT INTO t VALUES (1, 'Abc'), (2, 'def')"
    )
    engine = Engine(database.dsn)
    engine.init()
    engine.advance(
        migration(
            {"change_type": {"table": "t", "column": "b", "to": "varchar(40)", "up": "b", "down": "b"}}
        ),
        until=Phase.MIGRATION,
    )
    database.execute("UPDATE t SET b = 'ABC' WHERE id = 1")
    database.execute("UPDATE public_try_it.t SET b = 'DEF' WHERE id = 2")
    assert database.execute("SELECT id, b FROM public_try_it.t ORDER BY id") == [(1, "ABC"), (2, "DEF")]
    assert database.execute("SELECT id, b FROM t ORDER BY id") == [(1, "ABC"), (2, "DEF")]


@pytest.mark.since(15)
def test_row_security_that_binds_the_owner_as_well(database: Database) -> None:
    """FORCE ROW LEVEL SECURITY hides rows from the owner; a role that zdm runs as must see all, or is told so."""
    owner = database.create_role("owner")
    database.execute(
        f'GRANT ALL ON SCHEMA public TO "{owner}"; GRANT CREATE ON DATABASE "{database.name}" TO "{owner}";'
        f'SET ROLE "{owner}"; CREATE TABLE t (id int PRIMARY KEY, who text DEFAULT current_user, a int, b text);'
        "INSERT INTO t SELECT g, 'u' || g % 2, g, 'x' FROM generate_series(1, 300) g;"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY mine ON t USING (who = 'u1') WITH CHECK (true); RESET ROLE"
    )
    rollout = Rollout(database, Scenario(setup="SELECT 1", operations=(WIDEN, ADD)))
    rollout.advance_to(State.SWITCHED_OVER)
    with psycopg.connect(database.dsn) as conn:
        conn.execute(f'SET ROLE "{owner}"'.encode())
        assert conn.execute("SELECT count(*) FROM public_try_it.t").fetchone() == (150,)
        conn.execute("UPDATE public_try_it.t SET a = a + 1")
        conn.execute("UPDATE t SET a = a + 1")
    assert database.value("SELECT count(*) FROM public_try_it.t WHERE a = id + 2 AND c = 'x!'") == 150
    rollout.advance_to(State.COMPLETED)
    assert database.execute(
        "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 't'::regclass"
    ) == [(True, True)]


REFUSED = {
    "temporary table": "CREATE TEMPORARY TABLE t (a int, b text)",
    "foreign table": "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
    "CREATE FOREIGN TABLE t (a int, b text) SERVER s",
    "view": "CREATE VIEW t AS SELECT 1 AS a, 'b'::text AS b",
    "materialized view": "CREATE MATERIALIZED VIEW t AS SELECT 1 AS a, 'b'::text AS b",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(database: Database, connect: Callable[..., Connection], kind: str) -> None:
    conn = connect(autocommit=True)
    conn.execute(REFUSED[kind].encode())
    row = conn.execute(
        "SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = 't'::regclass"
    )
    ((schema,),) = row.fetchall()
    engine = Engine(database.dsn)
    engine.init()
    with pytest.raises(BadInput) as refused:
        engine.advance(migration({"rename_column": {"table": f"{schema}.t", "column": "a", "to": "z"}}))
    (problem,) = refused.value.problems
    assert problem.rule == "not-an-ordinary-table"
    assert f"{schema}.t is a {kind};" in problem.what
    assert conn.execute(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0"
    ).fetchone() == (2,)


@pytest.mark.parametrize("table", ["pg_catalog.pg_enum", "information_schema.sql_features", "zdm.targets"])
def test_system_tables_are_refused(database: Database, table: str) -> None:
    engine = Engine(database.dsn)
    engine.init()
    with pytest.raises(BadInput) as refused:
        engine.advance(
            migration({"add_column": {"table": table, "column": "c", "type": "text", "up": "'x'"}})
        )
    (problem,) = refused.value.problems
    assert (problem.rule, f"{table} is a system table" in problem.what) == ("not-an-ordinary-table", True)


@pytest.mark.parametrize("partitioned", [False, True], ids=["table", "partition"])
def test_the_limit_of_columns_is_met_before_anything_changes(database: Database, partitioned: bool) -> None:
    """Dropped columns count, and a partition may have had more of them than its table."""
    many = ", ".join(f"d{n} int" for n in range(1596))
    drops = ", ".join(f"DROP d{n}" for n in range(1596))
    if partitioned:
        database.execute(
            f"CREATE TABLE t (a int, b text) PARTITION BY LIST (b); CREATE TABLE p (a int, b text, {many}); ALTER TABLE p {drops};"
            "ALTER TABLE t ATTACH PARTITION p DEFAULT"
        )
    else:
        database.execute(f"CREATE TABLE t (a int, b text, {many}); ALTER TABLE t {drops}")
    engine = Engine(database.dsn, settings=EngineSettings(lock_budget=timedelta(seconds=2)))
    engine.init()
    with pytest.raises(BadInput) as refused:
        engine.advance(migration(WIDEN, {**ADD}))
    (problem,) = refused.value.problems
    assert problem.rule == "too-many-columns"
    assert (
        f"{'p' if partitioned else 't'} has 1598 columns, 1596 dropped ones included, and would need 3 more"
        in problem.what
    )
    # Two more fit.
    assert engine.advance(migration(WIDEN), until=Phase.PREPARATION).state is State.PREPARED


@pytest.mark.parametrize("server", [pytest.param("pg15", marks=pytest.mark.pg15)], indirect=True)
def test_not_null_is_proved_without_reading_the_table_under_lock(database: Database) -> None:
    """The server says itself whether it reads the table."""
    database.execute("CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 100)")
    engine = Engine(database.dsn)
    engine.init()
    plan = engine.plan(migration({"set_not_null": {"table": "t", "column": "a"}}))
    said: list[str] = []
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        conn.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
        steps = [s for s in plan.of(Phase.CLEANUP) if ".set_not_null." in s.id]
        for number, step in enumerate(steps, 1):
            conn.execute(
                f"SET client_min_messages = {'debug1' if number == len(steps) else 'notice'}".encode()
            )
            action = step.action
            for statement in action.statements if isinstance(action, Transaction) else (action.statement,):  # type: ignore[union-attr]
                conn.execute(statement.encode())
    assert any("sufficient to prove" in text for text in said), said
    assert not [text for text in said if text.startswith("verifying table")]


# --- logical replication ----------------------------------------------------------------------------------------------


@pytest.fixture
def pair(make_server: Callable[..., DevServer]) -> Iterator[tuple[Database, Database]]:
    """Two databases of one server, the second one subscribed to the first one's table ``t``."""
    dev = make_server(settings={"wal_level": "logical"})
    server = Server(dev.dsn(), dev)
    publisher, subscriber = Database(server), Database(server)
    where = conninfo_to_dict(publisher.dsn)
    source = " ".join(f"{name}={where[name]}" for name in ("host", "port", "user", "dbname"))
    try:
        publisher.execute("CREATE TABLE t (id int PRIMARY KEY, a int, b text)")
        publisher.execute("INSERT INTO t SELECT g, g, 'x' FROM generate_series(1, 200) g")
        publisher.execute("CREATE PUBLICATION p FOR TABLE t (id, a, b)")
        publisher.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        subscriber.execute("CREATE TABLE t (id int PRIMARY KEY, a int, b text)")
        subscriber.execute(
            f"CREATE SUBSCRIPTION s CONNECTION '{source}' PUBLICATION p WITH (create_slot = false, slot_name = 's')"
        )
        eventually(lambda: subscriber.value("SELECT count(*) FROM t") == 200, what="the first copy")
        yield publisher, subscriber
    finally:
        subscriber.drop()
        publisher.drop()


def caught_up(publisher: Database, subscriber: Database) -> None:
    """Wait until the subscriber has everything that is committed."""
    end = publisher.value("SELECT pg_current_wal_lsn()")
    behind = (
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 's' AND confirmed_flush_lsn < %s::pg_lsn"
    )
    publisher.execute("SELECT pg_logical_emit_message(true, 'zdm', 'wake up')")
    eventually(lambda: publisher.value(behind, end) == 0, what="the subscriber")
    del subscriber


@pytest.mark.since(15)
def test_the_subscribers_side(pair: tuple[Database, Database]) -> None:
    """What is applied fires the sync, which is ENABLE ALWAYS: before, while and after rows are filled."""
    publisher, subscriber = pair
    rollout = Rollout(subscriber, Scenario(setup="SELECT 1", operations=(WIDEN, ADD)))
    rollout.advance_to(State.PREPARED)
    publisher.execute(
        "INSERT INTO t VALUES (201, 5, 'y'); UPDATE t SET a = -1, b = 'z' WHERE id = 1; DELETE FROM t WHERE id = 2"
    )
    caught_up(publisher, subscriber)
    rows = "SELECT a, pg_typeof(a)::text, c FROM public_try_it.t WHERE id IN (1, 2, 201) ORDER BY id"
    assert subscriber.execute(rows) == [(-1, "bigint", "z!"), (5, "bigint", "y!")]
    rollout.advance_to(State.SWITCHED_OVER)
    publisher.execute("UPDATE t SET a = a + 10")
    caught_up(publisher, subscriber)
    rollout.execute_new("INSERT INTO t (id, a, b) VALUES (900, 7, 'here')")
    agree = "SELECT count(*) FROM t JOIN public_try_it.t n USING (id) WHERE t.a = n.a AND (n.c = t.b || '!' OR id = 900)"
    assert subscriber.value(agree) == 201
    rollout.advance_to(State.COMPLETED)
    publisher.execute("UPDATE t SET a = 2 WHERE id = 3")
    caught_up(publisher, subscriber)
    assert subscriber.value("SELECT a FROM t WHERE id = 3") == 2


@pytest.mark.since(15)
def test_the_publishers_side(pair: tuple[Database, Database]) -> None:
    """A publication with a column list goes on through a rollout: subscribers see neither new column nor marker."""
    publisher, subscriber = pair
    rollout = Rollout(publisher, Scenario(setup="SELECT 1", operations=(ADD,)))
    for state in (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER, State.COMPLETED):
        rollout.advance_to(state)
        publisher.execute("UPDATE t SET a = a + 1; INSERT INTO t (id, a) SELECT max(id) + 1, 0 FROM t")
        caught_up(publisher, subscriber)
        everything = "SELECT array_agg((id, a, b)::text ORDER BY id) FROM t"
        assert subscriber.value(everything) == publisher.value(everything)
