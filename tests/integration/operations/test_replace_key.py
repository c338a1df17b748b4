"""A key of another kind: who may write what when, at every isolation level, and what is found at the end."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.operations.key_stage import (
    SETUP,
    Advance,
    failures,
    in_every_state,
    in_every_state_at_every_level,
    replace,
    rollout,
    versions,
)
from tests.support.interleave import Isolation, eventually
from tests.support.servers import Database
from zdm.backfill.sweep import BadData
from zdm.model.phases import State

# --- while the new keys are given ---------------------------------------------------------------------------------------


def test_a_row_that_refers_to_one_without_a_new_key_waits_for_the_backfill(database: Database) -> None:
    """It is no failure, and the application notices nothing."""
    r = rollout(database)
    r.advance_to(State.PREPARED)
    database.execute("INSERT INTO items (order_id, what) VALUES (7, 'waits')")
    database.execute("UPDATE refunds SET order_id = 8 WHERE id = 1")
    assert database.value("SELECT count(*) FROM items WHERE what = 'waits' AND _zdm_state IS NULL") == 1
    assert failures(database) == 0
    r.advance_to(State.MIGRATED)
    r.agree()
    assert (
        database.value("SELECT count(*) FROM items WHERE what = 'waits' AND _zdm_order_id IS NOT NULL") == 1
    )


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_from_before_the_keys_were_given_is_waited_for(
    database: Database, level: Isolation
) -> None:
    """What it writes shows rows without a new key, so nothing that refers to them may be filled before it has ended."""
    r = rollout(database)
    r.advance_to(State.PREPARED)
    begun: list[str] = []
    with versions(database) as (scene, old, _):
        old.begin(level)
        old.run("SELECT count(*) FROM orders")
        advance = Advance(r, lambda step: begun.append(step.id))
        eventually(
            lambda: scene.waits_for_us("zdm"), what="the index of the new keys waiting for the snapshot"
        )
        old.run("INSERT INTO items (order_id, what) VALUES (7, 'old snapshot')")
        assert "migration.public.items.backfill" not in begun
        old.run("COMMIT")
        advance.end()
    r.agree()
    assert (
        database.value("SELECT count(*) FROM items WHERE what = 'old snapshot' AND _zdm_state IS NULL") == 0
    )


def test_a_writer_who_saw_no_new_key_is_waited_for(database: Database) -> None:
    """It has no snapshot any more, but a row that nobody else sees, and that the backfill would go by."""
    r = rollout(database)
    r.advance_to(State.PREPARED)
    begun: list[str] = []
    with versions(database) as (_, old, _):
        old.begin()
        old.run("INSERT INTO items (order_id, what) VALUES (7, 'open')")
        advance = Advance(r, lambda step: begun.append(step.id))
        eventually(lambda: "migration.public.items.pairs.public.orders" in begun, what="the wait for writers")
        assert "migration.public.items.backfill" not in begun
        assert advance.running
        old.run("COMMIT")
        advance.end()
    r.agree()


def test_a_backfill_by_hand_is_not_the_last_word(database: Database) -> None:
    """It may be asked for before the phase, when rows may still be written that wait for others."""
    r = rollout(database)
    r.advance_to(State.PREPARED)
    begun: list[str] = []
    with versions(database) as (_, old, _):
        old.begin()
        old.run("INSERT INTO items (order_id, what) VALUES (7, 'open')")
        r.engine().backfill(r.migration.id)
        advance = Advance(r, lambda step: begun.append(step.id))
        eventually(lambda: "migration.public.items.pairs.public.orders" in begun, what="the wait for writers")
        old.run("COMMIT")
        advance.end()
    r.agree()


def test_a_row_gets_its_new_key_while_others_refer_to_it(database: Database) -> None:
    """The new key is none to the server before every row has one: whoever updates a row waits for nobody who refers to it."""
    r = rollout(database)
    r.advance_to(State.PREPARED)
    with versions(database) as (_, old, new):
        old.begin()
        old.run("INSERT INTO items (order_id, what) VALUES (7, 'refers')")
        new.run("UPDATE orders SET customer = 'renamed' WHERE customer = 'c7'", seconds=5)
        old.run("COMMIT")
    assert database.value("SELECT _zdm_id IS NOT NULL FROM orders WHERE id = 7") is True


def test_filling_a_row_waits_for_nobody_who_holds_what_it_refers_to(database: Database) -> None:
    """Only a reference that is written locks the row, as its foreign key would; otherwise whoever removes that row, and then
    comes for this one, would deadlock with whoever updates this one."""
    r = rollout(database)
    r.advance_to(State.PREPARED)
    with versions(database) as (_, old, new):
        old.begin()
        old.run("SELECT FROM orders WHERE id = 7 FOR UPDATE")
        new.run("UPDATE refunds SET cents = 1 WHERE id = 7", seconds=5)
        old.run("DELETE FROM orders WHERE id = 7", seconds=5)
        old.run("COMMIT")
    r.advance_to(State.MIGRATED)
    r.agree()


def test_a_reference_to_nothing_that_no_foreign_key_saw_is_named(database: Database) -> None:
    """Nobody's `up` is to blame. A row may refer to one thing that is there, to nothing, and to what is not there."""
    r = rollout(database, SETUP.replace("cents int", "cents int, first_id int REFERENCES orders"))
    with psycopg.connect(database.dsn) as silent:
        silent.execute("SET session_replication_role = replica")
        silent.execute("UPDATE refunds SET first_id = 9")
        silent.execute("UPDATE refunds SET order_id = 9001 WHERE id = 5")
        silent.execute("UPDATE refunds SET order_id = NULL, first_id = 9001 WHERE id = 6")
    r.advance_to(State.PREPARED)
    with pytest.raises(BadData) as caught:
        r.advance_to(State.MIGRATED)
    assert [(problem.where, problem.what) for problem in caught.value.problems] == [
        ("public.refunds id=5", "order_id refers to no row of public.orders"),
        ("public.refunds id=6", "first_id refers to no row of public.orders"),
    ]
    r.engine().rollback(r.migration.id)
    r.nothing_left()


# --- both versions at once ----------------------------------------------------------------------------------------------


@in_every_state_at_every_level
def test_a_row_and_what_refers_to_it_in_one_transaction(
    database: Database, level: Isolation, state: State
) -> None:
    r = rollout(database)
    r.advance_to(state)
    with versions(database) as (_, old, new):
        old.begin(level)
        ((id_,),) = old.run("INSERT INTO orders (customer) VALUES ('old') RETURNING id")
        old.run("INSERT INTO items (order_id, what) VALUES (%s, 'a')", id_)
        old.run("COMMIT")
        new.begin(level)
        ((key,),) = new.run("INSERT INTO orders (customer) VALUES ('new') RETURNING id")
        new.run("INSERT INTO items (order_id, what) VALUES (%s, 'b')", key)
        new.run("INSERT INTO refunds (order_id, cents) VALUES (%s, -1)", key)
        new.run("COMMIT")
        found = old.run(
            "SELECT o.customer, i.what FROM orders o JOIN items i ON i.order_id = o.id WHERE i.what IN ('a', 'b') ORDER BY 1"
        )
        assert found == [("new", "b"), ("old", "a")]
        shown = new.run(
            "SELECT o.customer, i.what FROM orders o JOIN items i ON i.order_id = o.id WHERE i.what IN ('a', 'b') ORDER BY 1"
        )
        assert shown == found
    r.sides_agree(complete=state is not State.PREPARED)


@in_every_state
def test_one_statement_writes_a_row_and_what_refers_to_it(database: Database, state: State) -> None:
    """In either order, where the foreign key is asked at the end of the statement."""
    r = rollout(database)
    r.advance_to(state)
    with versions(database) as (_, old, new):
        old.run(
            "WITH o AS (INSERT INTO orders (customer) VALUES ('x') RETURNING id) INSERT INTO items (order_id, what) SELECT id, 'p' FROM o"
        )
        new.run(
            "WITH o AS (INSERT INTO orders (customer) VALUES ('x') RETURNING id) INSERT INTO items (order_id, what) SELECT id, 'p' FROM o"
        )
        # What nothing reads is run last: the item is there before its order.
        old.run(
            "WITH o AS (INSERT INTO orders (id) VALUES (9001)) INSERT INTO items (order_id, what) VALUES (9001, 'q')"
        )
        assert old.run("SELECT _zdm_order_id IS NOT NULL FROM items WHERE what = 'q'") == [(True,)]
    assert failures(database) == 0
    r.sides_agree(complete=state is not State.PREPARED)


@in_every_state_at_every_level
def test_a_deferred_reference_may_come_first(database: Database, level: Isolation, state: State) -> None:
    """The old version's, which is looked up again at the end; of the new one's the old key could not be known."""
    r = rollout(database)
    r.advance_to(state)
    with versions(database) as (_, old, new):
        old.begin(level)
        old.run("INSERT INTO refunds (order_id, cents) VALUES (9001, -7)")
        old.run("UPDATE refunds SET order_id = 9002 WHERE id = 3")
        old.run("UPDATE refunds SET id = id + 5000 WHERE order_id = 9001")
        old.run("INSERT INTO orders (id, customer) VALUES (9001, 'late'), (9002, 'late')")
        old.run("COMMIT")
        assert old.run(
            "SELECT count(*) FROM refunds WHERE order_id IN (9001, 9002) AND _zdm_order_id IS NOT NULL"
        ) == [(2,)]
        assert failures(database) == 0
        new.begin(level)
        waiting = new.start(
            "INSERT INTO refunds (order_id, cents) VALUES ('00000000-0000-0000-0000-000000000001', -8)"
        )
        assert waiting.error() == "23503"
        new.run("ROLLBACK")
    r.sides_agree(complete=state is not State.PREPARED)


@in_every_state
def test_a_reference_to_nothing_is_refused_as_always(database: Database, state: State) -> None:
    r = rollout(database)
    r.advance_to(state)
    with versions(database) as (_, old, _):
        assert old.start("INSERT INTO items (order_id, what) VALUES (9001, 'x')").error() == "23503"
        assert old.start("INSERT INTO refunds (order_id, cents) VALUES (9001, -1)").error() == "23503"
    assert failures(database) == 0


@in_every_state_at_every_level
@pytest.mark.parametrize("version", ["old", "new"])
def test_the_row_is_removed_meanwhile(
    database: Database, level: Isolation, state: State, version: str
) -> None:
    """Whoever refers to it waits, and is told what it would be told without zdm."""
    r = rollout(database)
    r.advance_to(state)
    with versions(database) as (_, old, new):
        ((id_, key),) = old.run("INSERT INTO orders (customer) VALUES ('goes') RETURNING id, _zdm_id")
        writer, value = (old, id_) if version == "old" else (new, key)
        with psycopg.connect(database.dsn) as other:
            other.execute("DELETE FROM orders WHERE id = %s", [id_])
            writer.begin(level)
            waiting = writer.start("INSERT INTO items (order_id, what) VALUES (%s, 'x')", value)
            waiting.wait_blocked()
            other.commit()
        assert waiting.error() == ("23503" if level == "READ COMMITTED" else "40001")
        writer.run("ROLLBACK")
    r.sides_agree(complete=state is not State.PREPARED)


@in_every_state_at_every_level
def test_the_old_key_changes_meanwhile(database: Database, level: Isolation, state: State) -> None:
    r = rollout(database)
    r.advance_to(state)
    with versions(database) as (_, old, new):
        ((id_, key),) = old.run("INSERT INTO orders (customer) VALUES ('moves') RETURNING id, _zdm_id")
        old.run("INSERT INTO items (order_id, what) VALUES (%s, 'moves')", id_)
        old.begin()
        old.run("UPDATE orders SET id = 9001 WHERE id = %s", id_)
        new.begin(level)
        waiting = new.start("INSERT INTO items (order_id, what) VALUES (%s, 'moves')", key)
        waiting.wait_blocked()
        old.run("COMMIT")
        assert waiting.error() == (None if level == "READ COMMITTED" else "40001")
        new.run("COMMIT" if level == "READ COMMITTED" else "ROLLBACK")
        found = old.run("SELECT DISTINCT order_id, _zdm_order_id = %s FROM items WHERE what = 'moves'", key)
        assert found == [(9001, True)]
    r.sides_agree(complete=state is not State.PREPARED)


@in_every_state
def test_a_row_that_is_copied_whole_is_another_row(database: Database, state: State) -> None:
    """SELECT * of the table copies the new key and the marker as well; only where the old key is another one, the new one is too."""
    r = rollout(database)
    r.advance_to(state)
    with versions(database) as (_, old, new):
        new.run("INSERT INTO orders (customer) VALUES ('copied')")
        old.run("UPDATE orders SET customer = 'copied' WHERE id = 7")
        old.run("CREATE TEMP TABLE copy AS SELECT * FROM orders WHERE customer = 'copied'")
        old.run("INSERT INTO orders SELECT * FROM copy ON CONFLICT (id) DO UPDATE SET customer = 'there'")
        old.run("DELETE FROM orders WHERE customer = 'there' AND id <> 7")
        old.run("INSERT INTO orders SELECT * FROM copy WHERE id <> 7")
        assert old.run("SELECT count(*) FROM copy JOIN orders USING (id, _zdm_id)") == [(2,)]
        old.run("UPDATE copy SET id = nextval('orders_id_seq')")
        old.run("INSERT INTO orders SELECT * FROM copy")
        assert old.run("SELECT count(*), count(DISTINCT _zdm_id) FROM orders WHERE customer = 'copied'") == [
            (3, 3)
        ]
    r.sides_agree(complete=state is not State.PREPARED)


@in_every_state
def test_a_row_goes_with_what_refers_to_it(database: Database, state: State) -> None:
    r = rollout(database)
    r.advance_to(state)
    with versions(database) as (_, old, new):
        old.run("DELETE FROM orders WHERE id = 5")
        new.run("DELETE FROM orders WHERE customer = 'c6'")
        assert old.run("SELECT count(*) FROM items WHERE order_id IN (5, 6)") == [(0,)]
        gone = "SELECT count(*) FROM refunds WHERE order_id IS NULL AND _zdm_order_id IS NULL AND id IN (5, 6, 45, 46)"
        assert old.run(gone) == [(4,)]
    r.sides_agree(complete=state is not State.PREPARED)


@in_every_state
def test_either_version_lets_a_row_refer_to_another_one_or_to_nothing(
    database: Database, state: State
) -> None:
    r = rollout(database)
    r.advance_to(state)
    with versions(database) as (_, old, new):
        ((first, one),) = old.run("INSERT INTO orders (customer) VALUES ('one') RETURNING id, _zdm_id")
        ((second, two),) = old.run("INSERT INTO orders (customer) VALUES ('two') RETURNING id, _zdm_id")
        old.run("INSERT INTO refunds (order_id, cents) VALUES (%s, -5)", first)
        both = "SELECT order_id, _zdm_order_id FROM refunds WHERE cents = -5"
        assert old.run(both) == [(first, one)]
        new.run("UPDATE refunds SET order_id = %s WHERE cents = -5", two)
        assert old.run(both) == [(second, two)]
        old.run("UPDATE refunds SET order_id = NULL WHERE cents = -5")
        assert old.run(both) == [(None, None)]
        new.run("UPDATE refunds SET order_id = %s WHERE cents = -5", one)
        assert old.run(both) == [(first, one)]
        new.run("UPDATE refunds SET order_id = NULL WHERE cents = -5")
        assert old.run(both) == [(None, None)]
        conflict = old.start(
            "UPDATE refunds SET order_id = %s, _zdm_order_id = %s WHERE cents = -5", first, two
        )
        assert conflict.error() == "23000"
    r.sides_agree(complete=state is not State.PREPARED)


def test_a_new_key_changes_only_once_foreign_keys_watch_over_it(database: Database) -> None:
    r = rollout(database)
    r.advance_to(State.MIGRATED)
    change = "UPDATE orders SET id = '00000000-0000-0000-0000-000000000007' WHERE customer = 'c7'"
    with versions(database) as (_, old, new):
        assert new.start(change).error() == "55000"
        assert new.start("UPDATE orders SET id = NULL WHERE customer = 'c7'").error() == "23502"
        r.advance_to(State.SWITCHED_OVER)
        assert new.start("UPDATE orders SET id = NULL WHERE customer = 'c7'").error() == "23502"
        new.run(change)
        same = "SELECT DISTINCT order_id, _zdm_order_id::text FROM items WHERE order_id = 7"
        assert old.run(same) == [(7, "00000000-0000-0000-0000-000000000007")]
    r.agree()
    r.engine().rollback(r.migration.id)
    r.nothing_left()
    assert r.dump() == r.before


def test_an_unfilled_row_that_is_told_to_refer_to_nothing_keeps_what_it_refers_to(database: Database) -> None:
    r = rollout(database)
    r.advance_to(State.PREPARED)
    with versions(database) as (_, old, new):
        assert new.start("UPDATE refunds SET order_id = NULL WHERE id = 7").error() == "55000"
        new.run("UPDATE refunds SET cents = 3 WHERE id = 7")
        assert old.run("SELECT order_id FROM refunds WHERE id = 7") == [(7,)]


@in_every_state
def test_an_application_needs_no_rights_on_what_it_refers_to(database: Database, state: State) -> None:
    role = f"app_{database.name}"[:60]
    r = rollout(
        database,
        f"{SETUP} CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE ON items, refunds TO {role};"
        f" GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role};",
    )
    r.advance_to(state)
    ((id_, key),) = database.execute("INSERT INTO orders (customer) VALUES ('c') RETURNING id, _zdm_id")
    oid = database.value("SELECT 'orders'::regclass::oid")
    with versions(database) as (_, old, new):
        old.run(f"SET ROLE {role}")
        new.run(f"SET ROLE {role}")
        old.run("INSERT INTO items (order_id, what) VALUES (%s, 'x')", id_)
        new.run("INSERT INTO items (order_id, what) VALUES (%s, 'y')", key)
        new.run("UPDATE refunds SET order_id = %s WHERE id = 1", key) if state is not State.PREPARED else None
        assert old.start(f"SELECT FROM zdm.pairs_{oid}").error() == "42501"
    r.sides_agree(complete=state is not State.PREPARED)


def test_a_row_that_waits_keeps_what_the_new_version_wrote_elsewhere_in_it(database: Database) -> None:
    """A lossy mapping of another column is not derived again when the reference can be filled at last."""
    setup = SETUP + "ALTER TABLE items ADD weight int NOT NULL DEFAULT 0;"
    lossy = {
        "change_type": {
            "table": "items",
            "column": "weight",
            "to": "numeric(9,2)",
            "up": "weight",
            "down": "round(weight)::int",
            "lossy": True,
        }
    }
    r = rollout(database, setup, lossy, replace())
    r.advance_to(State.PREPARED)
    with versions(database) as (_, old, new):
        new.run("UPDATE items SET weight = 7.4 WHERE id = 7")
        old.run("INSERT INTO items (order_id, what, weight) VALUES (9, 'waits', 3)")
        new.run("UPDATE items SET weight = 3.3 WHERE what = 'waits'")
        old.run("UPDATE items SET order_id = 10 WHERE id = 7")
        old.run("UPDATE items SET what = 'x' WHERE id = 8")
    r.advance_to(State.MIGRATED)
    r.sides_agree()
    assert failures(database) == 0
    with versions(database) as (_, _, new):
        found = new.run(
            "SELECT weight::text, order_id IS NOT NULL FROM items WHERE id = 7 OR what = 'waits' ORDER BY 1"
        )
        assert found == [("3.30", True), ("7.40", True)]


def test_with_tables_and_columns_that_get_other_names(database: Database) -> None:
    """The fence sets the tables' old names aside as well."""
    operations = [
        {"rename_table": {"table": "orders", "to": "purchases"}},
        replace("purchases", name="uid"),
        {"rename_table": {"table": "items", "to": "parts"}},
        {"rename_column": {"table": "parts", "column": "order_id", "to": "purchase"}},
    ]
    r = rollout(database, SETUP, *operations)
    r.advance_to(State.SWITCHED_OVER)
    both = (
        "WITH o AS (INSERT INTO purchases (customer) VALUES ('s') RETURNING uid)"
        " INSERT INTO parts (purchase, what) SELECT uid, 's' FROM o"
    )
    with versions(database) as (_, old, new):
        new.run(both)
        r.engine().fence(r.migration.id)
        new.run(both)
        r.engine().fence(r.migration.id, lift=True)
        old.run("INSERT INTO items (order_id, what) VALUES (7, 's')")
        r.agree()
        r.engine().fence(r.migration.id)
        r.advance_to(State.COMPLETED)
        new.run(both)
    assert database.value("SELECT count(*) FROM parts JOIN purchases ON uid = purchase WHERE what = 's'") == 4
    r.nothing_left()


def test_what_is_done_for_the_application_is_done_as_the_owner_of_its_table(database: Database) -> None:
    """Triggers that fire when a reference is looked up again have the owner's rights, not zdm's; nor has the owner others than before."""
    role = f"clerk_{database.name}"[:60]
    setup = SETUP + (
        f" SET CONSTRAINTS ALL IMMEDIATE; CREATE ROLE {role}; ALTER TABLE refunds OWNER TO {role}; GRANT CREATE, USAGE ON SCHEMA public TO {role};"
        f" GRANT REFERENCES, SELECT, UPDATE ON orders TO {role};"
        " ALTER TABLE refunds ADD said text; CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.said := current_user; RETURN NEW; END $$;"
        " CREATE TRIGGER says BEFORE UPDATE ON refunds FOR EACH ROW EXECUTE FUNCTION say();"
    )
    r = rollout(database, setup)
    r.advance_to(State.MIGRATED)
    oid = database.value("SELECT 'orders'::regclass::oid")
    with versions(database) as (_, old, new):
        old.run("BEGIN")
        old.run("INSERT INTO refunds (order_id, cents) VALUES (9001, -7)")
        old.run("INSERT INTO orders (id, customer) VALUES (9001, 'late')")
        old.run("COMMIT")
        assert old.run("SELECT said, _zdm_order_id IS NOT NULL FROM refunds WHERE order_id = 9001") == [
            (role, True)
        ]
        new.run("UPDATE refunds SET order_id = (SELECT id FROM orders WHERE customer = 'c9') WHERE id = 3")
        old.run(f"SET ROLE {role}")
        old.run(f"UPDATE zdm.pairs_{oid} SET zdm_new = gen_random_uuid()")
    r.advance_to(State.SWITCHED_OVER)
    r.agree()
    r.engine().rollback(r.migration.id)
    r.nothing_left()
    assert r.dump() == r.before


# --- what is found -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.MIGRATED, State.SWITCHED_OVER], ids=["migrated", "switched over"])
def test_the_verification_finds_a_reference_that_says_two_things(database: Database, state: State) -> None:
    r = rollout(database)
    r.advance_to(state)
    with psycopg.connect(database.dsn) as conn:
        conn.execute("ALTER TABLE items DISABLE TRIGGER USER")
        conn.execute("UPDATE items SET order_id = 9 WHERE id = 3")
        conn.execute("ALTER TABLE items ENABLE TRIGGER USER")
        for (name,) in conn.execute(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'items'::regclass AND tgname ~ '^~zdm'"
        ).fetchall():
            conn.execute(f'ALTER TABLE items ENABLE ALWAYS TRIGGER "{name}"'.encode())
    result = r.engine().verify(r.migration.id)
    assert not result.clean
    result = r.engine().verify(r.migration.id, repair=True)
    r.agree()
