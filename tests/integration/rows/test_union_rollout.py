"""Whole rollouts of several tables into one: the fence, repair, rights, numbers that go on, and what planning refuses."""

from __future__ import annotations

import copy
from typing import Any

import psycopg
import pytest

from tests.conformance.harness import Rollout
from tests.integration.rows.united import migration
from tests.support.servers import Database
from zdm.engine.results import Outcome
from zdm.engine.rollout import Engine
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.operations.merge_tables import MergeTables
from zdm.operations.union_scenarios import SCENARIOS

CUSTOMERS, ORDERS, COMMENTS = SCENARIOS[:3]


def _unwatched(database: Database, tables: tuple[str, ...], statements: str) -> None:
    """Write past the triggers, as only a superuser can."""
    off = "; ".join(f"ALTER TABLE {table} DISABLE TRIGGER USER" for table in tables)
    on = "".join(
        f"DO $$ DECLARE t record; BEGIN FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal"
        f" LOOP EXECUTE format('ALTER TABLE {table} ENABLE ALWAYS TRIGGER %I', t.tgname); END LOOP; END $$;"
        for table in tables
    )
    database.execute(f"SET session_replication_role = replica; {off}; {statements}; {on}")


def test_tables_that_hold_nothing_but_their_key(database: Database) -> None:
    """Links of two kinds become links of one; the names of their key differ."""
    rollout = Rollout(
        database,
        Scenario(
            setup="CREATE TABLE watched_issues (issue int, watcher int, PRIMARY KEY (issue, watcher));"
            " CREATE TABLE watched_tasks (id serial UNIQUE, task int, watcher int, PRIMARY KEY (task, watcher));"
            " INSERT INTO watched_issues VALUES (1, 1), (2, 1); INSERT INTO watched_tasks (task, watcher) VALUES (1, 1), (1, 2)",
            operations=(
                {
                    "merge_tables": {
                        "tables": [
                            {
                                "table": "watched_issues",
                                "values": {"kind": "'issue'"},
                                "key": {"thing": "issue"},
                            },
                            {
                                "table": "watched_tasks",
                                "values": {"kind": "'task'"},
                                "key": {"thing": "task"},
                                "discard": ["id"],
                            },
                        ],
                        "to": "watched",
                        "key": ["kind", "thing", "watcher"],
                        "create": {},
                    }
                },
            ),
        ),
    )
    rollout.advance_to(State.MIGRATED)
    database.execute("INSERT INTO watched VALUES ('task', 3, 3); DELETE FROM watched WHERE thing = 2")
    database.execute("UPDATE watched_issues SET issue = 7; INSERT INTO watched_issues VALUES (1, 9)")
    rollout.agree()
    expected = [("issue", 1, 9), ("issue", 7, 1), ("task", 1, 1), ("task", 1, 2), ("task", 3, 3)]
    assert database.execute("TABLE watched ORDER BY 1, 2, 3") == expected
    assert rollout.engine().verify("try_it").clean
    rollout.advance_to(State.COMPLETED)
    assert database.execute("TABLE watched ORDER BY 1, 2, 3") == expected


def test_the_fence_and_repair(database: Database) -> None:
    """Behind the fence the old tables have other names: rows are mirrored, handed over, compared and repaired all the same."""
    rollout = Rollout(database, ORDERS)
    rollout.advance_to(State.SWITCHED_OVER)
    engine = rollout.engine()
    engine.fence("try_it")
    with pytest.raises(psycopg.errors.UndefinedTable):
        database.execute("SELECT FROM orders")
    database.execute("UPDATE all_orders SET archived = NOT archived, total = 7 WHERE id IN (1, 4)")
    old, archived = "_zdm_fenced_orders", "_zdm_fenced_archived_orders"
    assert database.execute(f"SELECT id, total FROM {archived} WHERE id IN (1, 4)") == [(1, 7)]
    assert database.execute(f"SELECT id, total FROM {old} WHERE id IN (1, 4)") == [(4, 7)]
    # A straggler of the old version's that knows the table still.
    database.execute(
        f"WITH gone AS (DELETE FROM {old} WHERE id = 5 RETURNING id, total) INSERT INTO {archived} SELECT * FROM gone"
    )
    assert database.execute("SELECT archived FROM all_orders WHERE id = 5") == [(True,)]
    database.execute("INSERT INTO all_orders (total) VALUES (4711)")
    assert database.value(f"SELECT count(*) FROM {old} WHERE total = 4711") == 1
    _unwatched(
        database,
        ("all_orders", old, archived),
        f"ALTER TABLE all_orders ALTER archived DROP NOT NULL; UPDATE all_orders SET total = 5000 WHERE id = 2;"
        f" DELETE FROM all_orders WHERE id = 8; DELETE FROM {old} WHERE id = 3;"
        " INSERT INTO all_orders (id, archived, total) VALUES (9000, NULL, 1)",
    )
    found = {str(t.table): (t.missing, t.extra, t.different) for t in engine.verify("try_it").tables}
    assert found == {"public.orders": (0, 2, 1), "public.archived_orders": (1, 0, 0)}
    repaired = engine.verify("try_it", repair=True)
    # The new side is the authority: what it says stays. What is no table's nobody can repair.
    assert [(str(t.table), t.extra) for t in repaired.tables if t.extra] == [("public.orders", 1)]
    assert database.execute(f"SELECT id, total FROM {old} WHERE id IN (2, 3) ORDER BY id") == [
        (2, 5000),
        (3, 3),
    ]
    database.execute(
        "DELETE FROM all_orders WHERE id = 9000; ALTER TABLE all_orders ALTER archived SET NOT NULL"
    )
    assert engine.verify("try_it").clean
    engine.fence("try_it", lift=True)
    assert engine.rollback("try_it").state is State.ROLLED_BACK
    rollout.nothing_left()
    assert rollout.dump() == rollout.before


def test_an_application_without_rights_on_the_other_table(database: Database) -> None:
    """Numbers and rows of the old tables are made by functions of their owner's; each version needs no rights but on what it knows."""
    owner, old, new = database.create_role("owner"), database.create_role("old"), database.create_role("new")
    database.execute(COMMENTS.setup)
    database.execute(
        f"ALTER TABLE post_comments OWNER TO {owner}; ALTER TABLE photo_comments OWNER TO {owner};"
        f" GRANT SELECT, INSERT, UPDATE, DELETE ON post_comments TO {old}; GRANT CREATE, USAGE ON SCHEMA public TO {owner}"
    )
    operation: Any = copy.deepcopy(COMMENTS.operations[0]["merge_tables"])
    operation["create"] = {**operation["create"], "grants": {new: ["select", "insert", "update", "delete"]}}
    rollout = Rollout(
        database,
        COMMENTS.model_copy(update={"setup": "SELECT 1", "operations": ({"merge_tables": operation},)}),
    )
    rollout.advance_to(State.MIGRATED)
    with psycopg.connect(database.dsn_for(old), autocommit=True) as connection:
        connection.execute("INSERT INTO post_comments (post_id, body) VALUES (1, 'by old')")
        connection.execute("DELETE FROM post_comments WHERE id = 7")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT FROM comments")
    with psycopg.connect(database.dsn_for(new), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO comments (subject, subject_id, body) VALUES ('post', 1, 'by new'), ('photo', 1, 'by new')"
        )
        connection.execute(
            "UPDATE comments SET subject = 'photo', number = 9000 WHERE subject = 'post' AND number = 8"
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT FROM photo_comments")
    # Each where its own table is.
    assert database.execute(
        "SELECT body, subject, number FROM comments WHERE body LIKE 'by %' ORDER BY body DESC, subject"
    ) == [("by old", "post", 151), ("by new", "photo", 151), ("by new", "post", 152)]
    rollout.advance_to(State.COMPLETED)
    database.execute("INSERT INTO comments (subject, subject_id, body) VALUES ('photo', 1, 'after')")
    assert database.execute("SELECT number FROM comments WHERE body = 'after'") == [(153,)]
    rollout.nothing_left()


def test_a_row_that_the_old_version_makes_under_a_key_of_another_table(database: Database) -> None:
    """Its write goes through; it is recorded, and refuses the gates, until one of the two has another key."""
    rollout = Rollout(database, ORDERS)
    rollout.advance_to(State.MIGRATED)
    database.execute("INSERT INTO archived_orders VALUES (1, 99)")
    refused = rollout.engine().advance(rollout.migration)
    assert refused.outcome is Outcome.REFUSED
    assert "sync_failures" in {v.gate for v in refused.verdicts if not v.lets_through}
    assert database.execute("SELECT archived, total FROM all_orders WHERE id = 1") == [(False, 1)]
    database.execute("UPDATE archived_orders SET id = 10001 WHERE id = 1")
    rollout.advance_to(State.SWITCHED_OVER)
    database.execute("INSERT INTO archived_orders VALUES (1, 99); DELETE FROM orders WHERE id = 1")
    assert database.execute("SELECT archived, total FROM all_orders WHERE id = 1") == [(True, 99)]
    rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()


def test_a_table_that_is_there(database: Database) -> None:
    """It keeps what it has of its own; what its constraints refuse of the old tables' rows is recorded. A rollback leaves it, and its rows."""
    database.execute(
        "CREATE TYPE area AS ENUM ('eu', 'us');"
        "CREATE TABLE customers_eu (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text); "
        "CREATE TABLE customers_us (code uuid PRIMARY KEY DEFAULT gen_random_uuid(), mail varchar(40));"
        "CREATE TABLE customers (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), area area, note text DEFAULT 'none', email text UNIQUE);"
        "INSERT INTO customers_eu (email) SELECT 'e' || g FROM generate_series(1, 40) g;"
        "INSERT INTO customers_us (mail) SELECT 'u' || g FROM generate_series(1, 40) g;"
        "INSERT INTO customers SELECT id, 'eu', 'there', email FROM customers_eu LIMIT 3"
    )
    operation = {
        "tables": [
            {"table": "customers_eu", "values": {"area": "'eu'"}, "columns": ["email"]},
            {
                "table": "customers_us",
                "values": {"area": "'us'"},
                "key": {"id": "code"},
                "columns": [{"column": "email", "up": "mail"}],
            },
        ],
        "to": "customers",
        "key": ["id"],
    }
    scenario = CUSTOMERS.model_copy(
        update={"setup": "SELECT 1", "operations": ({"merge_tables": operation},)}
    )
    rollout = Rollout(database, scenario)
    rollout.advance_to(State.SWITCHED_OVER)
    assert database.execute("SELECT note, count(*) FROM customers GROUP BY note ORDER BY 2") == [
        ("there", 3),
        ("none", 77),
    ]
    # An address that the other table has: no write of the old version's fails for it.
    database.execute("INSERT INTO customers_us (mail) VALUES ('e1')")
    assert database.execute("SELECT sqlstate FROM zdm.sync_failures") == [("23505",)]
    assert rollout.engine().advance(rollout.migration).outcome is Outcome.REFUSED
    database.execute("UPDATE customers_us SET mail = 'u99' WHERE mail = 'e1'")
    database.execute(
        "UPDATE customers SET area = 'eu' WHERE email = 'u99'; INSERT INTO customers (area, email) VALUES ('us', 'n')"
    )
    assert database.execute("SELECT email FROM customers_eu WHERE email > 'n'") == [("u99",)]
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("INSERT INTO customers (email) VALUES ('nowhere')")
    with pytest.raises(psycopg.errors.StringDataRightTruncation):
        database.execute("UPDATE customers SET email = repeat('x', 41) WHERE email = 'n'")
    assert rollout.engine().rollback("try_it").state is State.ROLLED_BACK
    rollout.nothing_left()
    assert database.execute("SELECT count(*) FROM customers_us") == [(41,)]
    rollout.advance_to(State.COMPLETED, restart=True)
    assert database.execute("SELECT area, count(*) FROM customers GROUP BY 1 ORDER BY 1") == [
        ("eu", 41),
        ("us", 41),
    ]
    assert database.execute("SELECT to_regclass('customers_eu'), to_regclass('customers_us')") == [
        (None, None)
    ]


def _tables(*, us: dict[str, Any] | None = None, **eu: Any) -> list[dict[str, Any]]:
    """Two tables to merge, and what is otherwise in either."""
    return [
        {"table": "customers_eu", "values": {"region": "'eu'"}, "columns": ["name"], **eu},
        {"table": "customers_us", "values": {"region": "'us'"}, "columns": ["name"], **(us or {})},
    ]


def test_refusals(database: Database) -> None:
    database.execute(
        "CREATE TABLE customers_eu (id bigserial PRIMARY KEY, name text, must text NOT NULL DEFAULT '');"
        " CREATE TABLE customers_us (id bigint PRIMARY KEY DEFAULT nextval('customers_eu_id_seq'), name varchar(9));"
        " CREATE TABLE customers_as (id int GENERATED ALWAYS AS IDENTITY, name text, n int NOT NULL);"
        " CREATE TABLE keyed (id int PRIMARY KEY, n int NOT NULL, name text);"
        " CREATE TABLE one (id bigint PRIMARY KEY, region text NOT NULL, name text);"
        " CREATE TABLE numbered (id bigserial PRIMARY KEY, region text NOT NULL, name text);"
        " CREATE TABLE loose (id bigint, region text, name text);"
        " INSERT INTO customers_eu VALUES (1, 'a'), (2, 'b'); INSERT INTO customers_us VALUES (2, 'b');"
        " INSERT INTO one VALUES (1, 'eu', 'a'), (7, 'asia', 'x'), (8, 'us', 'y')"
    )
    eu: dict[str, Any] = {"discard": ["must"]}
    typed = [{"column": "name", "type": "text"}]
    good = {"to": "customers", "key": ["region", "id"], "create": {}}
    numbers = _tables(**eu, us={"table": "keyed", "columns": ["name"], "discard": ["n"]})
    cases: list[tuple[dict[str, Any], list[str]]] = [
        # Two rows that claim one, and two sequences that would come to it.
        ({**good, "key": ["id"], "tables": _tables(**eu, us={"columns": typed})}, ["two-rows-one-key"]),
        (
            {
                **good,
                "key": ["id"],
                "tables": _tables(**eu, us={"table": "customers_as", "down": {"n": "0"}}),
            },
            ["no-key"],
        ),
        ({**good, "tables": _tables(**eu, us={"values": {"region": "'eu'"}, "columns": typed})}, [""]),
        ({**good, "tables": _tables(**eu, us={"values": {"region": "'e' || 'u'"}, "columns": typed})}, [""]),
        ({**good, "tables": _tables(**eu, us={"values": {"area": "'us'"}})}, [""]),
        ({**good, "tables": _tables(**eu, us={"values": {"region": "upper(name)"}, "columns": typed})}, [""]),
        ({**good, "tables": _tables(**eu, us={"columns": [*typed, "region"]})}, [""]),
        ({**good, "to": "customers_us", "create": None, "tables": _tables(**eu)}, [""]),
        ({**good, "key": ["region"], "tables": _tables(**eu)}, ["no-key"]),
        (
            {**good, "key": ["region", "name"], "tables": _tables(**eu)},
            ["", ""],
        ),
        ({**good, "tables": numbers}, ["no-key", "missing-down"]),
        # What comes over, and what does not.
        ({**good, "tables": _tables(us={"columns": typed})}, [""]),
        ({**good, "tables": _tables(**eu)}, [""]),
        ({**good, "tables": _tables(**eu, us={"columns": ["nothing"]})}, ["", "unknown-column"]),
        # A table that is there.
        (
            {"to": "one", "key": ["id"], "tables": _tables(**eu)},
            ["two-rows-one-key", "rows-disagree", "rows-disagree"],
        ),
        ({"to": "one", "key": ["region", "id"], "tables": _tables(**eu)}, ["no-key"]),
        ({"to": "loose", "key": ["id"], "tables": _tables(**eu)}, ["no-key"]),
        ({"to": "numbered", "key": ["id"], "tables": _tables(**eu)}, ["two-rows-one-key"]),
    ]
    migrated = migration()
    engine = Engine(database.dsn)
    engine.init()
    for given, expected in cases:
        asked = migrated.model_copy(update={"operations": (MergeTables.model_validate(given),)})
        with pytest.raises(BadInput) as raised:
            engine.plan(asked)
        assert [p.rule for p in raised.value.problems] == expected, (
            given,
            [str(p) for p in raised.value.problems],
        )
    asked = migrated.model_copy(
        update={
            "operations": (
                MergeTables.model_validate({**good, "tables": _tables(**eu, us={"columns": typed})}),
            )
        }
    )
    database.execute("CREATE TABLE bills (id int PRIMARY KEY, customer bigint REFERENCES customers_us)")
    with pytest.raises(BadInput, match=r"bills points at public.customers_us, which goes"):
        engine.plan(asked)
    for wrong, what in (
        ({"table": "a", **good, "tables": _tables()}, "either `table`"),
        ({**good, "columns": ["x"], "tables": _tables()}, "`columns` belongs to each of `tables`"),
        (
            {"table": "a", "to": "b", "key": {"id": "id"}, "columns": ["x"], "create": {}},
            "`create` belongs to `tables`",
        ),
        ({**good, "tables": _tables()[:1]}, "two at least"),
        ({"table": "a", "to": "b", "key": {"id": "id"}}, "`columns` are needed"),
    ):
        with pytest.raises(ValueError, match=what):
            MergeTables.model_validate(wrong)
