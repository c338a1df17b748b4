"""What hangs on a replaced column works for both versions while both exist, and as before afterwards."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import ServerFactory
from tests.support.interleave import eventually
from tests.support.servers import Database, Server
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.db.introspect import read_table
from zdm.db.session import connect
from zdm.engine.rollout import Engine
from zdm.errors import BadInput, Drift
from zdm.model.names import qualified
from zdm.model.phases import State
from zdm.model.requests import Dependents
from zdm.model.step import Phase
from zdm.operations.migration import Migration

OPEN = {"soak": "0s", "old_version_unused": False, "replication_lag": False, "approvals": 0}


def widen(**more: Any) -> Migration:
    change = {"table": "items", "column": "amount", "to": "bigint", **more}
    return Migration.model_validate({"id": "widen", "operations": [{"change_type": change}], "gates": OPEN})


def advance(engine: Engine, migration: Migration, state: State) -> None:
    while engine.advance(migration).state is not state:
        pass


TRIGGERS = """
CREATE TABLE log (what text, amount text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.log VALUES (TG_NAME, CASE WHEN TG_LEVEL = 'ROW' THEN NEW.amount END); RETURN NEW; END $$;
CREATE TABLE items (id serial PRIMARY KEY, amount int NOT NULL, label text);
INSERT INTO items (amount) SELECT g FROM generate_series(1, 100) g;
CREATE TRIGGER a_of AFTER UPDATE OF amount ON items FOR EACH ROW WHEN (NEW.amount > 0) EXECUTE FUNCTION note();
CREATE TRIGGER b_when AFTER UPDATE ON items FOR EACH ROW WHEN (OLD.amount IS DISTINCT FROM NEW.amount) EXECUTE FUNCTION note();
CREATE TRIGGER c_before BEFORE UPDATE OF amount ON items FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER d_statement AFTER UPDATE OF amount ON items FOR EACH STATEMENT EXECUTE FUNCTION note();
CREATE CONSTRAINT TRIGGER e_late AFTER UPDATE OF amount ON items DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER f_asleep AFTER UPDATE OF amount ON items FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER g_always AFTER UPDATE OF amount ON items FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE items DISABLE TRIGGER f_asleep;
ALTER TABLE items ENABLE ALWAYS TRIGGER g_always;
"""
ALL = ["a_of", "b_when", "c_before", "d_statement", "e_late", "g_always"]


@on_all_versions
@pytest.mark.parametrize("silent", [True, False], ids=["triggers off in the backfill", "triggers on"])
def test_a_trigger_on_the_column_fires_once_for_either_version_and_never_for_zdm(
    server: Server, database: Database, silent: bool
) -> None:
    """`UPDATE OF amount` does not see the new version's writes; a second trigger would see a write of both columns twice."""
    dsn = database.dsn
    if not silent:  # a role that may not set session_replication_role
        owner = database.create_role("owner")
        # It makes the catalog itself, and has the rights to it from that.
        database.execute("DROP SCHEMA zdm CASCADE")
        database.execute(
            f'GRANT CREATE ON DATABASE "{database.name}" TO "{owner}"; ALTER SCHEMA public OWNER TO "{owner}"'
        )
        dsn = database.dsn_for(owner)
    with psycopg.connect(dsn) as conn:
        conn.execute(TRIGGERS.encode())
    engine, migration = Engine(dsn), widen()
    engine.init()

    def fired(statement: str) -> list[str]:
        database.execute("TRUNCATE log")
        with psycopg.connect(dsn) as conn:
            conn.execute(statement.encode())
        return sorted(name for (name,) in database.execute("SELECT what FROM log"))

    advance(engine, migration, State.PREPARED)
    new = "UPDATE public_widen.items SET amount = amount + 1000 WHERE id = 1"
    assert fired("UPDATE items SET amount = 50 WHERE id = 1") == ALL  # settles the row
    for state in (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER):
        if state is not State.PREPARED:
            database.execute("TRUNCATE log")
            advance(engine, migration, state)
            assert database.execute("SELECT * FROM log") == [], state
        assert fired("UPDATE items SET amount = amount + 1 WHERE id = 1") == ALL, state
        assert fired(new) == ALL, state
        assert fired("UPDATE items SET amount = 5, _zdm_amount = 5 WHERE id = 1") == ALL, state
        assert fired("UPDATE items SET label = 'x' WHERE id = 1") == [], state
        # The old column says what the new version wrote: an AFTER trigger sees both sides settled.
        fired(new)
        assert set(database.execute("SELECT amount FROM log WHERE what IN ('a_of', 'b_when', 'e_late')")) == {
            ("1005",)
        }
    database.execute("UPDATE items SET _zdm_amount = _zdm_amount WHERE id = 2")
    advance(engine, migration, State.COMPLETED)
    assert fired("UPDATE items SET amount = amount + 1 WHERE id = 1") == ALL
    assert fired("UPDATE items SET label = 'y' WHERE id = 1") == []


def test_a_before_trigger_that_asks_about_the_column_is_refused(database: Database) -> None:
    """It is asked before the old column follows the new version's write, so it would not fire: nobody can keep that."""
    database.execute(TRIGGERS)
    database.execute(
        "CREATE TRIGGER h_before BEFORE UPDATE OF amount ON items FOR EACH ROW WHEN (NEW.amount > 5) EXECUTE FUNCTION note()"
    )
    engine = Engine(database.dsn)
    engine.init()
    with pytest.raises(BadInput) as refused:
        engine.plan(widen())
    (problem,) = refused.value.problems
    assert "the trigger h_before of public.items cannot follow" in problem.what
    assert problem.remedy


@pytest.mark.since(15)
@on_all_versions
def test_a_policy_protects_both_versions_all_the_time(server: Server, database: Database) -> None:
    reader = database.create_role("reader")
    database.execute(
        "CREATE TABLE limits (amount int); INSERT INTO limits VALUES (10);"
        "CREATE TABLE items (id serial PRIMARY KEY, amount int NOT NULL);"
        "INSERT INTO items (amount) SELECT g FROM generate_series(1, 20) g;"
        "ALTER TABLE items ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY low ON items USING (amount <= (SELECT max(l.amount) FROM limits l));"
        f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{reader}"; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO "{reader}"'
    )
    engine, migration = Engine(database.dsn), widen()
    engine.init()

    def protected(*relations: str) -> None:
        for relation in relations:
            with psycopg.connect(database.dsn_for(reader)) as conn:
                assert conn.execute(f"SELECT max(amount) FROM {relation}".encode()).fetchone() == (10,), (
                    relation
                )
                for statement in (
                    "INSERT INTO {} (amount) VALUES (11)",
                    "UPDATE {} SET amount = 11 WHERE id = 1",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
                        conn.execute(sql.SQL(statement).format(sql.SQL(relation)))
                assert (
                    conn.execute(f"UPDATE {relation} SET amount = 3 WHERE id IN (3, 15)".encode()).rowcount
                    == 1
                )

    for state in (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER):
        advance(engine, migration, state)
        protected("items", *(() if state is State.PREPARED else ("public_widen.items",)))
    advance(engine, migration, State.COMPLETED)
    protected("items", "public_widen.items")


@pytest.mark.since(15)
def test_a_subscriber_gets_one_stream_without_a_break(make_server: ServerFactory) -> None:
    """The list changes in the swap, from the old column to its successor under the same name."""
    dev = make_server(settings={"wal_level": "logical"})
    server = Server(dev.dsn(), dev)
    publisher, subscriber = Database(server), Database(server)
    try:
        publisher.execute(
            "CREATE TABLE items (id int PRIMARY KEY, amount int NOT NULL, secret text);"
            "CREATE PUBLICATION p FOR TABLE items (id, amount) WHERE (amount > 0);"
            "CREATE UNIQUE INDEX pair ON items (id, amount); ALTER TABLE items REPLICA IDENTITY USING INDEX pair"
        )
        publisher.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        # Ready for the wider type before cleanup: that is all a subscriber needs.
        subscriber.execute("CREATE TABLE items (id int PRIMARY KEY, amount bigint NOT NULL)")
        text = sql.SQL(
            "CREATE SUBSCRIPTION s CONNECTION {} PUBLICATION p WITH (create_slot = false, copy_data = false)"
        ).format(sql.Literal(publisher.dsn))
        subscriber.execute(text.as_string(None))
        with connect(subscriber.dsn, application_name="test") as conn:
            table = read_table(conn, qualified("public", "items"))
        assert table is not None
        assert [d.name for d in table.dependents if d.kind == "subscription"] == ["s"]
        engine, migration = Engine(publisher.dsn), widen()
        engine.init()
        expected: dict[int, int] = {}
        states = (None, State.PREPARED, State.MIGRATED, State.SWITCHED_OVER, State.COMPLETED)
        for number, state in enumerate(states):
            if state is not None:
                advance(engine, migration, state)
            publisher.execute(
                f"INSERT INTO items (id, amount, secret) VALUES ({number}, {number + 1}, 's'), ({number + 50}, -1, 's')"
            )
            publisher.execute(f"UPDATE items SET amount = amount + 100 WHERE id = {number}")
            expected[number] = number + 101
            if state in {State.MIGRATED, State.SWITCHED_OVER, State.COMPLETED}:
                publisher.execute(f"INSERT INTO public_widen.items (id, amount) VALUES ({number + 100}, 7)")
                expected[number + 100] = 7
            publisher.execute("UPDATE items SET secret = 't' WHERE id = 0")
            eventually(
                lambda: dict(subscriber.execute("SELECT id, amount FROM items")) == expected,
                what=f"what was published when {state} has arrived",
            )
    finally:
        subscriber.drop()
        publisher.drop()


def test_the_plan_names_what_goes_with_a_table_and_the_functions_that_would_miss_it(
    database: Database,
) -> None:
    database.execute(
        "CREATE TABLE items (id int PRIMARY KEY); CREATE TABLE counts (item_id int PRIMARY KEY, n int DEFAULT 0 CHECK (n >= 0), at int);"
        "CREATE INDEX by_n ON counts (n); CREATE INDEX by_at ON counts (at); CREATE TABLE counts_else (id int);"
        "CREATE FUNCTION counts_items() RETURNS trigger LANGUAGE plpgsql AS"
        "  $$ BEGIN INSERT INTO COUNTS (item_id) VALUES (NEW.id) ON CONFLICT DO NOTHING; RETURN NULL; END $$;"
        "CREATE FUNCTION others() RETURNS int LANGUAGE sql AS 'SELECT id FROM counts_else';"
        "CREATE TRIGGER makes_counts AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION counts_items();"
        "CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER touched BEFORE UPDATE ON counts FOR EACH ROW EXECUTE FUNCTION fires()"
    )
    engine = Engine(database.dsn)
    engine.init()
    merge = {"table": "counts", "to": "items", "key": {"id": "item_id"}, "columns": ["n"], "discard": ["at"]}
    contract = {"name": "triggers", "contract": ["DROP TRIGGER makes_counts ON items"]}
    migration = Migration.model_validate(
        {"id": "merged", "operations": [{"sql": contract}, {"merge_tables": merge}], "gates": OPEN}
    )
    plan = engine.plan(migration)
    (named,) = [f.text for f in plan.findings if f.rule == "function-names-table"]
    assert named.startswith(
        "the bodies of public.counts_items() seem to name public.counts, which cleanup drops"
    )
    assert named.endswith("Triggers that call them: makes_counts of public.items.")
    (left,) = [f.text for f in plan.findings if "goes with it" in f.text]
    assert left.startswith(
        "what is on public.counts goes with it: check constraint counts_n_check, index by_n, trigger touched; give public.items"
    )
    cleanup = [step.id for step in plan.steps if step.phase is Phase.CLEANUP]
    assert cleanup.index("cleanup.public.counts.drop_table") > next(
        number for number, step in enumerate(cleanup) if "triggers" in step
    )
    rename = {
        "id": "renamed",
        "operations": [{"rename_table": {"table": "counts", "to": "tallies"}}],
        "gates": OPEN,
    }
    (named,) = [
        f.text
        for f in engine.plan(Migration.model_validate(rename)).findings
        if f.rule == "function-names-table"
    ]
    assert "which is called tallies after cleanup" in named


def test_the_plan_names_functions_that_seem_to_name_the_column_and_a_promise_that_cannot_be_kept(
    database: Database,
) -> None:
    database.execute(
        "CREATE TABLE items (id serial PRIMARY KEY, amount int NOT NULL); INSERT INTO items (amount) VALUES (0), (1);"
        "CREATE TABLE others (amounts int);"
        "CREATE FUNCTION reads() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT sum(AMOUNT) FROM items); END';"
        "CREATE FUNCTION knows() RETURNS bigint LANGUAGE sql AS 'SELECT sum(amounts) FROM others';"
        "CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.amount := 1; RETURN NEW; END';"
        "CREATE TRIGGER fires BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION fires()"
    )
    engine = Engine(database.dsn)
    engine.init()
    nullable = {"up": "nullif(amount, 0)::bigint", "down": "coalesce(amount, 0)::int"}
    findings = engine.plan(widen(**nullable)).findings
    (named,) = [f.text for f in findings if f.rule == "function-names-column"]
    assert named.startswith(
        "the bodies of public.fires(), public.reads() seem to name amount of public.items"
    )
    (raises,) = [f.text for f in findings if f.rule == "up-raises"]
    assert "gives NULL for amount, which is NOT NULL" in raises
    assert "add drop_not_null" in raises
    both = widen(**nullable).model_dump(mode="json")["operations"] + [
        {"drop_not_null": {"table": "items", "column": "amount"}}
    ]
    loosened = Migration.model_validate({"id": "loosen", "operations": both, "gates": OPEN})
    assert [f.rule for f in engine.plan(loosened).findings if f.rule == "up-raises"] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("CREATE INDEX late ON items (amount)", "index late was made after the plan"),
        ("CREATE VIEW late AS SELECT amount FROM items", "view public.late was made after the plan"),
        ("DROP INDEX sorted", "index sorted of public.items is not there any more"),
        (
            "ALTER POLICY low ON items USING (amount < 5)",
            "policy low on public.items of public.items was changed after the plan",
        ),
        (
            "CREATE OR REPLACE VIEW seen AS SELECT id, amount FROM items WHERE id > 1",
            "view public.seen of public.items was changed",
        ),
        (
            "CREATE OR REPLACE FUNCTION one() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT max(amount) FROM items; END",
            "function public.one() of public.items was changed",
        ),
    ],
)
def test_what_hangs_on_the_column_is_looked_at_again_before_every_move(
    database: Database, change: str, said: str
) -> None:
    """An index made meanwhile on the old column would go with it; what is made anew would undo what was changed meanwhile."""
    database.execute(
        "CREATE TABLE items (id serial PRIMARY KEY, amount int NOT NULL); INSERT INTO items (amount) VALUES (0), (1);"
        "CREATE INDEX sorted ON items (amount); CREATE POLICY low ON items USING (amount < 10);"
        "CREATE VIEW seen AS SELECT id, amount FROM items;"
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT amount FROM items LIMIT 1; END"
    )
    engine = Engine(database.dsn)
    engine.init()
    migration = widen().model_copy(update={"dependents": Dependents.RECREATE})
    advance(engine, migration, State.SWITCHED_OVER)
    database.execute(change)
    with pytest.raises(Drift) as drift:
        engine.advance(migration)
    assert said in str(drift.value)
    engine.rollback("widen")


def test_readers_of_a_view_never_meet_an_error_while_it_is_made_anew(database: Database) -> None:
    database.execute(
        "CREATE TABLE items (id serial PRIMARY KEY, amount int NOT NULL, label text);"
        "INSERT INTO items (amount) SELECT g FROM generate_series(1, 100) g;"
        "CREATE VIEW seen AS SELECT id, amount FROM items; CREATE VIEW total AS SELECT count(amount) AS n FROM seen;"
        "CREATE MATERIALIZED VIEW frozen AS SELECT n FROM total"
    )
    engine = Engine(database.dsn)
    engine.init()
    migration = widen().model_copy(update={"dependents": Dependents.RECREATE})
    advance(engine, migration, State.SWITCHED_OVER)

    def reads(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        # Short transactions: such as take the views one by one, without a pause, leave no room for whoever needs all of them.
        connection.execute("SELECT n FROM total")
        connection.commit()
        connection.execute("UPDATE seen SET amount = amount + 1 WHERE id = %s", [rng.randrange(1, 101)])
        connection.commit()
        row = connection.execute("SELECT n FROM frozen").fetchone()
        assert row == (100,), number

    with Writers(database.dsn) as writers, psycopg.connect(database.dsn) as holder:
        writers.add("reads", reads, threads=2)
        writers.wait_for(5)
        holder.execute(
            "SELECT FROM total"
        )  # somebody who reads for long: he is waited for, and nobody waits behind
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(advance, Engine(database.dsn), migration, State.COMPLETED)
            eventually(
                lambda: database.value(
                    "SELECT count(*) FROM pg_class WHERE relname = '_zdm_frozen' AND relispopulated"
                ),
                what="the new views beside the old ones",
                seconds=60,
            )
            writers.wait_for(20)
            holder.rollback()
            done.result()
        writers.wait_for(5)
    writers.report.assert_only("40001", "40P01")
    assert database.value("SELECT pg_typeof(amount)::text FROM seen LIMIT 1") == "bigint"


@on_all_versions
def test_a_stored_generated_column_of_a_small_table_follows_in_the_swap(database: Database) -> None:
    """It is generated from the old column while both exist, and from the successor afterwards; its index stays where it can."""
    in_place = database.server.major >= 17
    database.execute(
        "CREATE TABLE items (id serial PRIMARY KEY, amount int NOT NULL, n int NOT NULL DEFAULT 2,"
        " total int GENERATED ALWAYS AS (amount * n) STORED NOT NULL);"
        "COMMENT ON COLUMN items.total IS 'to pay'; GRANT SELECT (total) ON items TO PUBLIC;"
        "INSERT INTO items (amount) SELECT g FROM generate_series(1, 100) g"
        + ("; CREATE INDEX items_total ON items (total) WHERE total > 5" if in_place else "")
    )
    engine, migration = Engine(database.dsn), widen()
    engine.init()
    right = "SELECT count(*) FILTER (WHERE total <> amount * n) FROM {}.items"
    for state in (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER):
        advance(engine, migration, state)
        written = database.value("UPDATE public_widen.items SET amount = 50 WHERE id = 1 RETURNING total")
        assert (written, database.value(right.format("public"))) == (100, 0), state
        assert database.value("UPDATE items SET amount = amount + 1 WHERE id = 1 RETURNING total") == 102
        assert database.value("SELECT total FROM public_widen.items WHERE id = 1") == 102
    with Writers(database.dsn) as writers:
        writers.add(
            "new",
            lambda conn, rng, n: conn.execute(
                "UPDATE public_widen.items SET amount = %s WHERE id = %s", [n, rng.randrange(100)]
            ),
        )
        writers.wait_for(3)
        advance(engine, migration, State.COMPLETED)
        writers.wait_for(3)
    writers.report.assert_only()
    assert database.value(right.format("public")) == 0
    assert database.value("INSERT INTO items (amount) VALUES (7) RETURNING total") == 14
    assert database.execute(
        "SELECT attgenerated, attnotnull, format_type(atttypid, -1), col_description(attrelid, attnum), attacl IS NOT NULL"
        " FROM pg_attribute WHERE attrelid = 'items'::regclass AND attname = 'total'"
    ) == [("s", True, "integer", "to pay", True)]
    expression = "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = adrelid AND a.attnum = adnum WHERE attgenerated = 's'"
    assert database.value(expression) == "(amount * n)"
    if in_place:
        assert database.value("SELECT pg_get_indexdef('items_total'::regclass)").endswith(
            "(total) WHERE (total > 5)"
        )


@on_all_versions
def test_a_function_whose_body_the_server_keeps_parsed_reads_the_successor_afterwards(
    database: Database,
) -> None:
    role = database.create_role("reader")
    database.execute(
        "CREATE TABLE items (id serial PRIMARY KEY, amount int NOT NULL, label text);"
        "INSERT INTO items (amount) SELECT g FROM generate_series(1, 50) g;"
        "CREATE FUNCTION total(above int DEFAULT 0) RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER COST 7 BEGIN ATOMIC"
        " SELECT sum(i.amount) FROM items AS i WHERE i.amount > above; END;"
        "CREATE PROCEDURE raise_all() BEGIN ATOMIC UPDATE items SET amount = amount + 1; END;"
        f"COMMENT ON FUNCTION total IS 'of all'; REVOKE ALL ON FUNCTION total FROM PUBLIC; GRANT EXECUTE ON FUNCTION total TO \"{role}\""
    )
    facts = "SELECT oid, proacl::text, obj_description(oid), procost, prosecdef, provolatile FROM pg_proc WHERE proname = 'total'"
    before, definition = (
        database.execute(facts),
        database.value("SELECT pg_get_functiondef('total'::regproc)"),
    )
    engine, migration = Engine(database.dsn), widen()
    engine.init()
    for state in (State.SWITCHED_OVER, State.COMPLETED):
        advance(engine, migration, state)
        database.execute("UPDATE public_widen.items SET amount = 1000 WHERE id = 1; CALL raise_all()")
        found = (
            database.value("SELECT total(50)"),
            database.value("SELECT sum(amount) FROM public_widen.items WHERE amount > 50"),
        )
        assert found[0] == found[1] > 1000
    assert database.execute(facts) == before
    assert database.value("SELECT pg_get_functiondef('total'::regproc)") == definition
