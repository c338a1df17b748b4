"""A key of another kind, from the plan to the swap: what is told, what stands at the end, tables that refer to each other or to themselves, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from tests.integration.operations.key_stage import (
    SETUP,
    Advance,
    at_every_level,
    failures,
    replace,
    rollout,
    versions,
)
from tests.support.interleave import Isolation, eventually
from tests.support.servers import Database
from zdm.engine.rollout import Engine
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.step import Lock, Phase, Step


def test_the_plan_says_how_rows_get_their_keys_and_when_what_refers_to_them_is_filled(
    database: Database,
) -> None:
    r = rollout(database)
    plan = r.engine().plan(r.migration)
    order = [step.id.removeprefix("migration.public.") for step in plan.of(Phase.MIGRATION)]
    assert order.index("orders.backfill") < order.index("orders.carry.orders_pkey")
    assert order.index("orders.carry.orders_pkey") < order.index("items.pairs.public.orders")
    assert order.index("items.pairs.public.orders") < order.index("items.backfill")
    (wait,) = [step for step in plan.of(Phase.MIGRATION) if step.id.endswith("items.pairs.public.orders")]
    assert [(str(lock.table), lock.mode) for lock in wait.locks] == [("public.items", Lock.SHARE)]
    swaps = [step.id for step in plan.of(Phase.CLEANUP) if step.id.endswith(".swap")]
    assert swaps[-1] == "cleanup.public.orders.swap"
    assert not [finding for finding in plan.findings if finding.rule]


def test_what_stands_at_the_end(database: Database) -> None:
    """Keys, foreign keys with their actions and timing, indexes and names are what they were, over other columns."""
    wanted = """SELECT conrelid::regclass::text, conname, contype::text, confdeltype::text, confupdtype::text, condeferrable,
                condeferred, convalidated FROM pg_constraint WHERE conrelid IN ('orders'::regclass, 'items'::regclass,
                'refunds'::regclass) AND contype <> 'n' ORDER BY 1, 2"""
    setup = (
        SETUP
        + "CREATE INDEX items_of ON items (order_id, what); COMMENT ON COLUMN items.order_id IS 'whose';"
    )
    r = rollout(database, setup)
    before = database.execute(wanted)
    r.advance_to(State.COMPLETED)
    assert database.execute(wanted) == before
    columns = """SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
                 WHERE attrelid IN ('orders'::regclass, 'items'::regclass, 'refunds'::regclass) AND attnum > 0 AND NOT attisdropped
                 AND atttypid = 'uuid'::regtype ORDER BY 1"""
    assert database.execute(columns) == [
        ("items", "order_id", "uuid", True),
        ("orders", "id", "uuid", True),
        ("refunds", "order_id", "uuid", False),
    ]
    assert database.value("SELECT pg_get_indexdef('items_of'::regclass)").endswith("(order_id, what)")
    assert database.value("SELECT count(*) FROM orders o JOIN items i ON i.order_id = o.id") == 200
    assert database.value("SELECT to_regclass('orders_id_seq')") is None
    database.execute("INSERT INTO orders (customer) VALUES ('after')")
    r.nothing_left()


def test_pooled_sessions_survive_the_swap(database: Database) -> None:
    """They have used every function before, and write on with the plans that they keep."""
    r = rollout(database)
    r.advance_to(State.SWITCHED_OVER)
    with versions(database) as (_, old, new):
        both = (
            "WITH o AS (INSERT INTO orders (customer) VALUES ('s') RETURNING id)"
            " INSERT INTO items (order_id, what) SELECT id, 's' FROM o"
        )
        for _ in range(7):
            new.run(both)
            new.run("UPDATE refunds SET cents = cents + 1 WHERE id < 9")
            old.run("UPDATE items SET what = what WHERE id < 5")
        during: list[str] = []

        def writes(step: Step) -> None:
            if step.stage.name in {"CONTRACT", "RELEASE", "FINISH"}:
                new.run(both)
                during.append(step.id)

        Advance(r, writes).end()
        assert len(during) > 5
        new.run(both)
        new.run("UPDATE refunds SET cents = cents + 1 WHERE id < 9")
    r.nothing_left()


def test_the_fence_lets_the_new_version_write(database: Database) -> None:
    """The old names are aside; what refers to rows is looked up all the same, while one table after the other is fenced."""
    r = rollout(database)
    r.advance_to(State.SWITCHED_OVER)
    both = (
        "WITH o AS (INSERT INTO orders (customer) VALUES ('s') RETURNING id)"
        " INSERT INTO items (order_id, what) SELECT id, 's' FROM o"
    )
    with versions(database) as (_, old, new):
        new.run(both)
        r.engine().fence(r.migration.id)
        new.run(both)
        assert old.start("SELECT order_id FROM items").error() == "42703"
        r.engine().fence(r.migration.id, lift=True)
        new.run(both)
        assert old.run(
            "SELECT count(*) FROM orders o JOIN items i ON i.order_id = o.id WHERE what = 's'"
        ) == [(3,)]
    r.agree()


def test_keys_of_two_tables_one_of_which_refers_to_the_other(database: Database) -> None:
    """Each is filled once what it refers to is; the swap goes the other way."""
    setup = SETUP + (
        " CREATE TABLE notes (id serial PRIMARY KEY, item_id int REFERENCES items ON DELETE CASCADE, body text);"
        " INSERT INTO notes (item_id, body) SELECT g, 'n' FROM generate_series(1, 200) g;"
    )
    r = rollout(database, setup, replace("items"), replace("orders"))
    r.advance_to(State.PREPARED)
    with versions(database) as (_, old, new):
        old.run("INSERT INTO items (order_id, what) VALUES (3, 'w')")
        old.run("INSERT INTO notes (item_id, body) SELECT max(id), 'of a row that waits' FROM items")
        old.run("INSERT INTO notes (item_id, body) VALUES (5, 'waits')")
        r.advance_to(State.MIGRATED)
        r.agree()
        new.run(
            "WITH o AS (INSERT INTO orders (customer) VALUES ('n') RETURNING id),"
            " i AS (INSERT INTO items (order_id, what) SELECT id, 'n' FROM o RETURNING id)"
            " INSERT INTO notes (item_id, body) SELECT id, 'n' FROM i"
        )
        r.agree()
        r.advance_to(State.COMPLETED)
        assert new.run(
            "SELECT count(*) FROM notes n JOIN items i ON i.id = n.item_id JOIN orders o ON o.id = i.order_id"
        ) == [(203,)]
    r.nothing_left()


TREE = """
CREATE TABLE orders (id serial PRIMARY KEY, parent int REFERENCES orders ON DELETE CASCADE, name text);
CREATE TABLE notes (id serial PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE, body text);
INSERT INTO orders (parent, name) SELECT CASE WHEN g % 9 = 0 THEN g ELSE 301 - g END, 'n' FROM generate_series(1, 300) g;
INSERT INTO notes (order_id, body) SELECT g, 'n' FROM generate_series(1, 300) g;
"""


@at_every_level
def test_a_table_that_refers_to_itself(database: Database, level: Isolation) -> None:
    """Rows refer to later ones, to earlier ones, and to themselves; every row gets a key before the last reference is filled."""
    r = rollout(database, TREE)
    r.advance_to(State.PREPARED)
    with versions(database) as (_, old, new):
        for number, state in enumerate((None, State.MIGRATED, State.SWITCHED_OVER), 1):
            if state is not None:
                r.advance_to(state)
                r.agree()
            at = number * 1000
            old.begin(level)
            old.run("INSERT INTO orders (parent, name) VALUES (7, 'old')")
            old.run("INSERT INTO orders (id, parent, name) VALUES (%s, %s, 'itself')", at, at)
            old.run(
                "INSERT INTO orders (id, parent, name) VALUES (%s, %s, 'first'), (%s, NULL, 'then')",
                at + 1,
                at + 2,
                at + 2,
            )
            old.run("COMMIT")
            new.begin(level)
            ((key,),) = new.run("INSERT INTO orders (name) VALUES ('root') RETURNING id")
            new.run("INSERT INTO orders (parent, name) VALUES (%s, 'new')", key)
            new.run("INSERT INTO notes (order_id, body) VALUES (%s, 'new')", key)
            new.run(
                "WITH k AS (SELECT gen_random_uuid() AS k) INSERT INTO orders (id, parent, name) SELECT k, k, 'itself' FROM k"
            )
            new.run("UPDATE orders SET parent = id WHERE name = 'new' AND parent = %s", key)
            new.run("COMMIT")
            old.run("UPDATE orders SET parent = id WHERE id = 17")
            old.run("DELETE FROM orders WHERE name = 'root'")
            assert failures(database) == 0
            r.sides_agree(complete=state is not None)
        r.advance_to(State.COMPLETED)
    assert (
        database.value(
            "SELECT count(*) FROM orders c JOIN orders p ON p.id = c.parent WHERE c.name = 'itself' AND c.id = c.parent"
        )
        == 6
    )
    r.nothing_left()


def test_a_snapshot_from_before_the_keys_were_given_in_a_table_that_refers_to_itself(
    database: Database,
) -> None:
    """What it leaves unfilled is filled by the look that comes when it has ended."""
    r = rollout(database, TREE)
    r.advance_to(State.PREPARED)
    with versions(database) as (scene, old, _):
        old.begin("REPEATABLE READ")
        old.run("SELECT count(*) FROM orders")
        advance = Advance(r)
        eventually(
            lambda: scene.waits_for_us("zdm"), what="the index of the new keys waiting for the snapshot"
        )
        old.run("INSERT INTO orders (parent, name) VALUES (7, 'old snapshot')")
        old.run("COMMIT")
        advance.end()
    r.agree()
    r.engine().rollback(r.migration.id)
    r.nothing_left()
    assert r.dump() == r.before


# --- what is refused -----------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a key of several columns": (
        "CREATE TABLE orders (id int, part int, PRIMARY KEY (id, part))",
        replace(),
        "primary key orders_pkey of several columns",
    ),
    "no key": ("CREATE TABLE orders (id int)", replace(column="id"), "is no key by itself"),
    "no default": (
        "CREATE TABLE orders (id int PRIMARY KEY)",
        replace(),
        "nothing gives the new version's rows an old key",
    ),
    "a type of an extension": (
        "CREATE TABLE orders (id numeric PRIMARY KEY DEFAULT random())",
        replace(),
        "is of type numeric",
    ),
    "two keys of one table": (
        "CREATE TABLE orders (id serial PRIMARY KEY, code int NOT NULL UNIQUE DEFAULT (random() * 1e9)::int)",
        replace(column="code"),
        "two keys of public.orders would be replaced, id and code",
    ),
    "a new type of an extension": (
        "CREATE EXTENSION IF NOT EXISTS citext; CREATE TABLE orders (id serial PRIMARY KEY)",
        {"replace_key": {"table": "orders", "to": "citext", "generate": "gen_random_uuid()::text::citext"}},
        "cannot be looked up by a key of type public.citext",
    ),
    "the same value for every row": (
        "CREATE TABLE orders (id serial PRIMARY KEY)",
        {"replace_key": {"table": "orders", "to": "text", "generate": "'x'"}},
        "gives every row the same value",
    ),
    "a reference of several columns": (
        (
            "CREATE TABLE orders (id serial PRIMARY KEY, part int, UNIQUE (id, part));"
            " CREATE TABLE items (o int, p int, FOREIGN KEY (o, p) REFERENCES orders (id, part))"
        ),
        replace(),
        "together with other columns",
    ),
    "a partitioned table that refers": (
        "CREATE TABLE orders (id serial PRIMARY KEY); CREATE TABLE items (o int REFERENCES orders) PARTITION BY LIST (o)",
        replace(),
        "items is a partitioned table",
    ),
    "a reference that is not proved": (
        (
            "CREATE TABLE orders (id serial PRIMARY KEY); CREATE TABLE items (o int);"
            " ALTER TABLE items ADD CONSTRAINT k FOREIGN KEY (o) REFERENCES orders NOT VALID"
        ),
        replace(),
        "is NOT VALID",
    ),
    "a reference with a default": (
        "CREATE TABLE orders (id serial PRIMARY KEY); CREATE TABLE items (o int DEFAULT 1 REFERENCES orders)",
        replace(),
        "has a default",
    ),
    "a reference that is a key in turn": (
        (
            "CREATE TABLE orders (id serial PRIMARY KEY); CREATE TABLE details (o int PRIMARY KEY REFERENCES orders);"
            " CREATE TABLE more (o int REFERENCES details)"
        ),
        replace(),
        "is a key in turn",
    ),
    "a reference to two tables": (
        (
            "CREATE TABLE orders (id serial PRIMARY KEY); CREATE TABLE old (id int PRIMARY KEY);"
            " CREATE TABLE items (o int REFERENCES orders CONSTRAINT other REFERENCES old)"
        ),
        replace(),
        "is part of other as well",
    ),
    "a sequence that another table uses": (
        (
            "CREATE TABLE orders (id serial PRIMARY KEY);"
            " CREATE TABLE others (id int PRIMARY KEY DEFAULT nextval('orders_id_seq'))"
        ),
        replace(),
        "is used by default value for column id of table public.others",
    ),
    "tables that refer to each other": (
        (
            "CREATE TABLE orders (id serial PRIMARY KEY, item int); CREATE TABLE items (id serial PRIMARY KEY, o int REFERENCES orders);"
            " ALTER TABLE orders ADD CONSTRAINT k FOREIGN KEY (item) REFERENCES items"
        ),
        replace(),
        "neither could be filled first",
    ),
    "a name for what does not refer": (
        "CREATE TABLE orders (id serial PRIMARY KEY)",
        replace(references=[{"table": "items", "column": "o", "name": "p"}]),
        "no foreign key of o of public.items refers to the key",
    ),
}


def test_row_security_that_holds_for_the_owner_is_refused(database: Database) -> None:
    """What it hides from the owner, as whom keys are looked up, a foreign key's check sees: whoever plans. Nothing is hidden from a superuser."""
    role = f"owner_{database.name}"[:60]
    setup = (
        "CREATE TABLE orders (id serial PRIMARY KEY); CREATE TABLE items (id serial PRIMARY KEY, o int REFERENCES orders);"
        " ALTER TABLE orders ENABLE ROW LEVEL SECURITY; ALTER TABLE orders FORCE ROW LEVEL SECURITY"
    )
    r = rollout(database, setup)
    assert r.engine().preview(r.migration)
    database.execute(
        f"CREATE ROLE {role} LOGIN; ALTER TABLE orders OWNER TO {role}; ALTER TABLE items OWNER TO {role};"
        f" GRANT USAGE ON SCHEMA zdm TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA zdm TO {role}"
    )
    for engine in (r.engine(), Engine(make_conninfo(database.dsn, user=role), "public")):
        with pytest.raises(BadInput) as caught:
            engine.preview(r.migration)
        (problem,) = caught.value.problems
        assert "holds for its owner as well" in problem.what


def test_exposed_columns(database: Database) -> None:
    """Without version schemas both keys are columns of the table, under names of their own."""
    named = [
        {"table": "items", "column": "order_id", "name": "order_uid"},
        {"table": "refunds", "column": "order_id", "name": "o"},
    ]
    r = rollout(database, SETUP, replace(name="uid", references=named), expose="columns")
    r.advance_to(State.PREPARED)
    both = (
        "WITH o AS (INSERT INTO orders (customer) VALUES ('x') RETURNING uid)"
        " INSERT INTO items (order_uid, what) SELECT uid, 'x' FROM o"
    )
    for state in (State.MIGRATED, State.SWITCHED_OVER):
        database.execute(both)
        database.execute("INSERT INTO items (order_id, what) VALUES (7, 'old')")
        r.advance_to(state)
        r.agree()
    r.advance_to(State.COMPLETED)
    database.execute(both)
    assert database.value("SELECT count(*) FROM orders JOIN items ON order_uid = uid WHERE what = 'x'") == 3
    r.nothing_left()


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_follow_is_refused_by_name(database: Database, what: str) -> None:
    setup, operation, text = REFUSED[what]
    more = [replace("items")] if "each other" in what else [replace()] if what.startswith("two keys") else []
    r = rollout(database, setup, *more, operation)
    with pytest.raises(BadInput) as caught:
        r.engine().preview(r.migration)
    told = "\n".join(problem.what for problem in caught.value.problems)
    assert text in told, told
    assert r.dump() == r.before
