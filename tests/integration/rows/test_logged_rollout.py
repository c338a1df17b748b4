"""Whole rollouts with ``sync: logged``, both versions writing; the command, the gate and what rollback keeps."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from tests.conformance.harness import Rollout
from tests.support.interleave import eventually
from tests.support.servers import Database
from tests.support.writers import Work, Writers
from zdm.engine.results import Outcome
from zdm.errors import BadInput, GateRefused
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario
from zdm.operations.collapse import Collapse
from zdm.operations.explode import Explode
from zdm.operations.extract_json import ExtractJson
from zdm.operations.merge_tables import MergeTables
from zdm.operations.move_columns import MoveColumns
from zdm.operations.normalise import Normalise
from zdm.operations.shadow_table import ShadowTable
from zdm.operations.split_table import SplitTable


def logged(scenario: Scenario) -> Scenario:
    return scenario.model_copy(update={"sync": SyncMode.LOGGED})


MOVED = logged(MoveColumns.scenarios[0])


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(MOVED, id="move"),
        pytest.param(logged(SplitTable.scenarios[0]), id="split"),
        pytest.param(ShadowTable.scenarios[2], id="shadow"),
        pytest.param(MergeTables.scenarios[1], id="merge"),
        pytest.param(logged(ExtractJson.scenarios[2]), id="json"),
        pytest.param(logged(Collapse.scenarios[0]), id="collapse"),
    ],
)
def test_run_through(database: Database, scenario: Scenario) -> None:
    rollout = Rollout(database, scenario)
    with rollout.writing(new=False):
        rollout.advance_to(State.PREPARED)
    with rollout.writing() as writers:
        rollout.advance_to(State.SWITCHED_OVER)
        writers.wait_for(3)
    # No version waits for the other one's rows, so none is in a deadlock with it.
    assert not [level for level, state in rollout.retried if state == "40P01"]
    rollout.agree()
    assert rollout.engine().verify("try_it").clean
    with rollout.writing(old=False):
        rollout.advance_to(State.COMPLETED)
    rollout.finished()
    rollout.nothing_left()
    assert database.execute("SELECT * FROM zdm.row_changes") == []


def test_roll_back_with_what_nobody_has_reconciled(database: Database) -> None:
    """What the new version wrote last, and no reconciler has seen, is in the old structure afterwards."""
    rollout = Rollout(database, MOVED)
    rollout.advance_to(State.SWITCHED_OVER)
    with rollout.writing(old=False):
        pass
    database.execute("UPDATE account_stats SET statuses_count = 4711 WHERE account_id <= 200")
    assert rollout.engine().rollback("try_it").state is State.ROLLED_BACK
    rollout.nothing_left()
    assert rollout.dump() == rollout.before
    assert database.execute("SELECT DISTINCT statuses_count FROM accounts WHERE id <= 200") == [(4711,)]
    assert database.execute("SELECT * FROM zdm.row_changes") == []


def test_elements_that_nobody_has_reconciled(database: Database) -> None:
    """What the new version wrote last is in the lists after a rollback, and what the old one did in the elements after the swap."""
    rollout = Rollout(database, logged(Explode.scenarios[0]))
    engine = rollout.engine()
    rollout.advance_to(State.SWITCHED_OVER)
    database.execute("INSERT INTO product_tags (product_id, position, tag) VALUES (2, 9, 'last')")
    database.execute("INSERT INTO product_tags (product_id, position, tag) VALUES (3, 9, 'a,b')")
    with pytest.raises(GateRefused) as refused:
        engine.rollback("try_it")
    assert "3" in refused.value.problems[0].what
    assert engine.rollback("try_it", verify=False).state is State.ROLLED_BACK
    assert rollout.dump() == rollout.before
    assert database.execute("SELECT tags FROM products WHERE id IN (2, 3) ORDER BY id") == [
        ("last",),
        ("red,blue,flat",),
    ]
    ((lost, reason),) = database.execute("SELECT lost, reason FROM zdm.row_conflicts")
    assert [found["tag"] for found in lost["product_tags"]] == ["red", "blue", "flat", "a,b"]
    assert "no form" in reason
    engine.advance(rollout.migration, restart=True)
    rollout.advance_to(State.SWITCHED_OVER)
    database.execute("UPDATE products SET tags = 'x,y' WHERE id = 2; DELETE FROM products WHERE id = 3")
    rollout.advance_to(State.COMPLETED)
    assert database.execute(
        "SELECT product_id, string_agg(tag, ',' ORDER BY position) FROM product_tags WHERE product_id IN (2, 3) GROUP BY 1"
    ) == [(2, "x,y")]
    rollout.nothing_left()


@pytest.mark.parametrize(
    ("scenario", "table"),
    [
        pytest.param(ExtractJson.scenarios[2], "orders", id="json"),
        pytest.param(Explode.scenarios[0], "products", id="explode"),
        pytest.param(Collapse.scenarios[2], "payments", id="collapse"),
    ],
)
def test_an_application_without_rights_on_the_other_table(
    database: Database, scenario: Scenario, table: str
) -> None:
    """What notes its writes is the tables' owner's, who may do so; the application may not touch the log."""
    owner, old = database.create_role("owner"), database.create_role("old")
    database.execute(scenario.setup)
    database.execute(
        f"ALTER TABLE {table} OWNER TO {owner}; GRANT CREATE, USAGE ON SCHEMA public TO {owner};"
        f" GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {old}; GRANT USAGE ON SEQUENCE {table}_id_seq TO {old}"
    )
    rollout = Rollout(database, logged(scenario).model_copy(update={"setup": "SELECT 1"}))
    rollout.advance_to(State.MIGRATED)
    with psycopg.connect(database.dsn_for(old), autocommit=True) as connection:
        for number, statement in enumerate(scenario.old_writes, 1):
            connection.execute(statement.format(n=number).encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM zdm.row_changes")
    assert database.value("SELECT count(*) FROM zdm.row_changes") > 0
    rollout.agree()
    rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()


def counting(database: Database, table: str, path: str) -> Work:
    """Adds one to a row at a time, under a name that is there before the swap and after it; counts what was committed."""

    def work(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        connection.execute(f"SET LOCAL search_path = {path}")
        connection.execute(f"UPDATE {table} SET seen = seen + 1 WHERE id = {rng.randrange(20) + 1}")

    return work


def test_what_is_written_until_the_swap(database: Database) -> None:
    """The swap carries the rest over while it keeps everybody away: each write is in the table that takes the other's place."""
    rollout = Rollout(database, ShadowTable.scenarios[2])
    rollout.advance_to(State.SWITCHED_OVER)
    with Writers(database.dsn) as writers:
        for level in ("READ COMMITTED", "SERIALIZABLE"):
            writers.add(level, counting(database, "hits", "public"), isolation=level)
        rollout.advance_to(State.COMPLETED)
        writers.wait_for(3)
    writers.report.assert_only("40001")
    committed = sum(len(writer.latencies) for writer in writers.report.writers)
    assert database.value("SELECT sum(seen) FROM hits") == committed
    assert database.execute("SELECT * FROM zdm.row_conflicts") == []
    rollout.nothing_left()


def test_roll_back_a_table_that_takes_the_others_place(database: Database) -> None:
    """Rows of partitions, moved and new, that nobody has reconciled, are in the old table afterwards; behind the fence as well."""
    rollout = Rollout(database, ShadowTable.scenarios[2])
    rollout.advance_to(State.SWITCHED_OVER)
    engine = rollout.engine()
    database.execute("UPDATE hits SET seen = 41 WHERE id = 1")
    engine.fence("try_it")
    rollout.execute_new("UPDATE hits SET seen = seen + 1, at = at + 40 WHERE id = 4")
    engine.reconcile("try_it")
    assert engine.verify("try_it").clean
    engine.fence("try_it", lift=True)
    assert database.execute("SELECT id, at::text, seen FROM hits WHERE id IN (1, 4) ORDER BY id") == [
        (1, "2024-01-02", 41),
        (4, "2024-02-14", 1),
    ]
    rollout.execute_new(
        "UPDATE hits SET at = at + 40, seen = 7 WHERE id = 2; INSERT INTO hits (at, note) VALUES ('2024-04-04', 'late');"
        " DELETE FROM hits WHERE id = 3"
    )
    assert engine.rollback("try_it").state is State.ROLLED_BACK
    rollout.nothing_left()
    assert rollout.dump() == rollout.before
    assert database.execute(
        "SELECT at::text, seen, legacy FROM hits WHERE id IN (2, 3) OR note = 'late' ORDER BY id"
    ) == [
        ("2024-02-12", 7, "x"),
        ("2024-04-04", 0, "x"),
    ]


@pytest.mark.parametrize(
    ("extra", "changes", "said"),
    [
        (
            "CREATE TABLE uses (hit bigint REFERENCES hits)",
            {"partition_by": None, "partitions": []},
            "is not there yet when something refers to it",
        ),
        (
            "ALTER TABLE hits DROP CONSTRAINT hits_kind_fkey, ADD CONSTRAINT hits_kind FOREIGN KEY (kind) REFERENCES kinds ON DELETE CASCADE",
            {},
            "foreign key hits_kind of public.hits deletes or writes rows",
        ),
        ("", {"primary_key": ["at", "id"]}, "does not begin with (id)"),
    ],
)
def test_tables_that_cannot_take_anothers_place_by_log(
    database: Database, extra: str, changes: dict[str, object], said: str
) -> None:
    """By name, before anything is changed."""
    scenario = ShadowTable.scenarios[2]
    operation = {**scenario.operations[0]["shadow_table"], **changes}  # type: ignore[dict-item]
    rollout = Rollout(
        database,
        scenario.model_copy(
            update={"setup": f"{scenario.setup} {extra}", "operations": ({"shadow_table": operation},)}
        ),
    )
    with pytest.raises(BadInput) as refused:
        rollout.engine().plan(rollout.migration)
    (found,) = refused.value.problems
    assert found.rule == "logged-sync"
    assert said in found.what
    assert rollout.dump() == rollout.before


def test_the_gate_the_verification_and_the_command(database: Database) -> None:
    """Rows that an application holds keep a change waiting: no mismatch, but no switchover, until they are let go."""
    rollout = Rollout(database, MOVED)
    engine = rollout.engine()
    rollout.advance_to(State.MIGRATED)
    database.execute("UPDATE accounts SET statuses_count = 7 WHERE id = 1")
    database.execute("UPDATE zdm.row_changes SET at = at - interval '10 minutes'")
    (status,) = engine.status("try_it")
    assert status.log is not None
    assert (status.log.waiting, status.log.lag_seconds > 500) == (1, True)
    assert [v.gate for v in status.verdicts if not v.lets_through] == ["sync_lag"]
    run = subprocess.run(
        [sys.executable, "-m", "zdm", "reconcile", "try_it", "--json", "--url", database.dsn],
        check=True,
        capture_output=True,
        text=True,
    )
    answer = json.loads(run.stdout)
    assert (answer["keys"], answer["drained"], answer["exit_code"]) == (1, True, 0)
    # As a service: it carries over what comes, and SIGTERM ends it in order.
    service = subprocess.Popen(
        [sys.executable, "-m", "zdm", "reconcile", "--follow", "--json", "--url", database.dsn],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stderr is not None
        service.stderr.readline()
        database.execute("UPDATE account_stats SET followers = 99 WHERE account_id = 2")
        eventually(lambda: database.value("SELECT followers_count FROM accounts WHERE id = 2") == 99)
        os.kill(service.pid, signal.SIGTERM)
        out, _ = service.communicate(timeout=30)
    finally:
        service.kill()
    assert (service.returncode, json.loads(out)["drained"]) == (0, True)


def test_what_a_rollback_cannot_carry_back(database: Database) -> None:
    """It refuses; told to go on, it keeps the row on record."""
    scenario = MOVED.model_copy(
        update={
            "operations": (
                {
                    "move_columns": {
                        "table": "accounts",
                        "to": "account_stats",
                        "columns": ["statuses_count"],
                        "key": {"account_id": "id"},
                        "create": {"foreign_key": None},
                    }
                },
            )
        }
    )
    rollout = Rollout(database, scenario)
    rollout.advance_to(State.MIGRATED)
    database.execute("INSERT INTO account_stats (account_id, statuses_count) VALUES (9999, 3)")
    assert rollout.engine().advance("try_it").outcome is Outcome.REFUSED
    with pytest.raises(GateRefused) as refused:
        rollout.engine().rollback("try_it")
    assert "9999" in refused.value.problems[0].what
    assert rollout.engine().rollback("try_it", verify=False).state is State.ROLLED_BACK
    assert rollout.dump() == rollout.before
    (kept,) = database.execute("SELECT key, won, lost, reason FROM zdm.row_conflicts")
    assert kept[:3] == (["9999"], "old", {"statuses_count": 3})
    assert "no old form" in kept[3]


def test_refusals(database: Database) -> None:
    database.execute(
        "CREATE TABLE others (account_id bigint PRIMARY KEY, statuses_count bigint NOT NULL DEFAULT 0)"
    )
    rollout = Rollout(database, MOVED)
    database.execute("ALTER TABLE others ADD FOREIGN KEY (account_id) REFERENCES accounts")
    base = {"table": "accounts", "columns": ["statuses_count"], "key": {"account_id": "id"}}
    for operation in (
        MoveColumns.model_validate({**base, "to": "others"}),
        MoveColumns.model_validate({**base, "to": "fresh", "create": {"foreign_key": "restrict"}}),
    ):
        migration = rollout.migration.model_copy(update={"operations": (operation,)})
        with pytest.raises(BadInput) as raised:
            rollout.engine().plan(migration)
        assert [p.rule for p in raised.value.problems] == ["logged-sync"], raised.value.problems


@pytest.mark.parametrize(
    "scenario", [Normalise.scenarios[0], Collapse.scenarios[1]], ids=["normalise", "back"]
)
def test_other_mappings_are_refused_by_name(database: Database, scenario: Scenario) -> None:
    rollout = Rollout(database, scenario)
    migration = rollout.migration.model_copy(update={"sync": SyncMode.LOGGED})
    with pytest.raises(BadInput) as raised:
        rollout.engine().plan(migration)
    assert [p.rule for p in raised.value.problems] == ["logged-sync"]
    assert rollout.dump() == rollout.before


def test_the_fence_and_repair(database: Database) -> None:
    """Behind the fence the old columns have other names; what was noted before and behind it is carried over all the same."""
    rollout = Rollout(database, MOVED)
    rollout.advance_to(State.SWITCHED_OVER)
    engine = rollout.engine()
    database.execute("UPDATE accounts SET statuses_count = 41 WHERE id = 1")
    engine.fence("try_it")
    database.execute("UPDATE account_stats SET statuses_count = 42 WHERE account_id = 2")
    engine.reconcile("try_it")
    fenced = "SELECT id, _zdm_fenced_statuses_count FROM accounts WHERE id <= 2 ORDER BY id"
    assert database.execute(fenced) == [(1, 41), (2, 42)]
    assert database.value("SELECT statuses_count FROM account_stats WHERE account_id = 1") == 41
    database.execute(
        "ALTER TABLE account_stats DISABLE TRIGGER USER; UPDATE account_stats SET statuses_count = 43 WHERE account_id = 3"
    )
    names = database.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'account_stats'::regclass AND tgname ~ 'zdm'"
    )
    for (name,) in names:
        database.execute(f'ALTER TABLE account_stats ENABLE ALWAYS TRIGGER "{name}"')
    assert [t.different for t in engine.verify("try_it").tables] == [1]
    # The new side is the authority; what waits counts before it.
    assert engine.verify("try_it", repair=True).clean
    assert database.value("SELECT _zdm_fenced_statuses_count FROM accounts WHERE id = 3") == 43
    engine.fence("try_it", lift=True)
    assert engine.rollback("try_it").state is State.ROLLED_BACK
    assert rollout.dump() == rollout.before
