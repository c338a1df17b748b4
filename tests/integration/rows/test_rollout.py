"""Whole rollouts between two tables: rights, the fence, repair, and what planning refuses."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from zdm.engine.reporter import Silent
from zdm.engine.results import Outcome
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.model.step import Step, Transaction
from zdm.operations.base import Operation
from zdm.operations.explode import Explode
from zdm.operations.merge_tables import MergeTables
from zdm.operations.move_columns import MoveColumns
from zdm.operations.split_table import SplitTable

SCENARIO = MoveColumns.scenarios[0]
AGREE = (
    "SELECT count(*) FROM public.accounts a FULL JOIN public.account_stats s ON s.account_id = a.id"
    " WHERE (a.{c}, a.id) IS DISTINCT FROM (s.statuses_count, s.account_id)"
)


@pytest.mark.parametrize("operation", [MoveColumns, SplitTable, MergeTables, Explode])
def test_nothing_is_mirrored_any_more_when_the_old_columns_go(
    database: Database, operation: type[Operation]
) -> None:
    """Triggers of the new table that outlived the swap would fail the new application's writes."""
    rollout = Rollout(database, operation.scenarios[0])
    plan = rollout.engine().plan(rollout.migration)
    old = plan.row_mappings[0].old.table
    (swap,) = [step.action for step in plan.steps if step.id == f"cleanup.{old}.swap"]
    assert isinstance(swap, Transaction)
    on = {
        str(statement).split(" ON ")[1]
        for statement in swap.statements
        if statement.startswith("DROP TRIGGER")
    }
    assert {f'"{t.schema_}"."{t.name}"' for t in plan.row_mappings[0].tables} <= on
    assert set(plan.row_mappings[0].tables) <= {lock.table for lock in swap.locks}


@pytest.mark.parametrize("sync", ["immediate", "logged"])
def test_what_the_new_version_writes_during_a_rollback_is_kept_or_refused(
    database: Database, sync: str
) -> None:
    """Between the end of the triggers and that of the table it would be taken, and go with it."""
    scenario = SplitTable.scenarios[1].model_copy(update={"sync": SyncMode(sync)})
    rollout = Rollout(database, scenario)
    rollout.advance_to(State.PREPARED)
    taken: list[str] = []
    refused: list[str] = []

    class Late(Silent):
        """A new application that is still at work."""

        def step_started(self, step: Step, number: int, total: int) -> None:
            del number, total
            for table, column in (("logins", "email"), ("addresses", "town")):
                email = f"{step.id} {table}"
                try:
                    database.execute(f"INSERT INTO {table} ({column}) VALUES (%s)", email)
                    taken.append(email)
                except psycopg.errors.CheckViolation as error:
                    refused.append(str(error))
                except psycopg.errors.UndefinedTable:
                    refused.append("gone")

    rollout.engine(Late()).rollback("try_it")
    kept = database.execute("SELECT email FROM customers UNION ALL SELECT city FROM customers")
    assert set(taken) <= {value for (value,) in kept}
    assert taken
    closed = [
        text for text in refused if "is closed for the new version: the migration is rolled back" in text
    ]
    assert len(closed) >= 2


def test_the_fence_and_repair(database: Database) -> None:
    """Behind the fence the old columns have other names: rows are mirrored, compared and repaired all the same."""
    rollout = Rollout(database, SCENARIO)
    rollout.advance_to(State.SWITCHED_OVER)
    engine = rollout.engine()
    engine.fence("try_it")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        database.execute("UPDATE accounts SET statuses_count = 1 WHERE id = 1")
    database.execute("UPDATE account_stats SET statuses_count = 4711 WHERE account_id = 1")
    fenced = AGREE.format(c="_zdm_fenced_statuses_count")
    assert database.execute(fenced) == [(0,)]
    database.execute(
        "SET session_replication_role = replica;"
        " ALTER TABLE account_stats DISABLE TRIGGER USER; ALTER TABLE accounts DISABLE TRIGGER USER;"
        " UPDATE account_stats SET statuses_count = 5000 WHERE account_id = 2;"
        " DELETE FROM account_stats WHERE account_id = 3;"
        " INSERT INTO accounts (id, username) VALUES (9000, 'no half')"
    )
    for table in ("account_stats", "accounts"):
        rows = database.execute(
            f"SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND tgname ~ 'zdm'"
        )
        for (name,) in rows:
            database.execute(
                sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}")
                .format(sql.Identifier(table), sql.Identifier(name))
                .as_string(None)
            )
    found = engine.verify("try_it").tables
    assert [(t.missing, t.extra, t.different) for t in found] == [(2, 0, 1)]
    repaired = engine.verify("try_it", repair=True)
    assert repaired.clean
    # The new side is the authority: what it says stays.
    assert database.execute("SELECT statuses_count FROM account_stats WHERE account_id = 2") == [(5000,)]
    assert database.execute(fenced) == [(0,)]
    engine.fence("try_it", lift=True)
    database.execute("UPDATE accounts SET statuses_count = 17 WHERE id = 4")
    assert database.execute(AGREE.format(c="statuses_count")) == [(0,)]
    assert engine.rollback("try_it").state is State.ROLLED_BACK
    rollout.nothing_left()
    assert rollout.dump() == rollout.before


def test_an_application_without_rights_on_the_other_table(database: Database) -> None:
    """The functions are the tables' owner's, neither the application's nor of whoever runs zdm."""
    owner, old = database.create_role("owner"), database.create_role("old")
    database.execute(SCENARIO.setup)
    for table in ("TABLE accounts",):
        database.execute(f"ALTER {table} OWNER TO {owner}")
    database.execute(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON accounts TO {old}; GRANT USAGE ON SEQUENCE accounts_id_seq TO {old}"
    )
    database.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {owner}")
    given = SCENARIO.model_copy(update={"setup": "SELECT 1"})
    rollout = Rollout(database, given)
    rollout.advance_to(State.MIGRATED)
    owners = database.execute(
        "SELECT DISTINCT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'zdm'::regnamespace AND proname ~ '^rows_'"
    )
    assert owners == [(owner,)]
    with psycopg.connect(database.dsn_for(old), autocommit=True) as connection:
        connection.execute("UPDATE accounts SET statuses_count = 99 WHERE id = 5")
        connection.execute("INSERT INTO accounts (username, followers_count) VALUES ('by old', 3)")
        connection.execute("DELETE FROM accounts WHERE id = 6")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM account_stats")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT zdm.rows_1_1_settle_new(a, false, false) FROM accounts a")
    assert database.execute(AGREE.format(c="statuses_count")) == [(0,)]
    assert database.execute(f"SELECT has_schema_privilege('{owner}', 'zdm', 'CREATE')") == [(False,)]
    rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()


def test_rows_that_the_new_table_refuses(database: Database) -> None:
    """The old application's write goes through; the row is recorded, refuses the gates, and clears itself once it fits."""
    operation = {
        "move_columns": {
            "table": "accounts",
            "to": "account_stats",
            "columns": ["statuses_count"],
            "key": {"account_id": "id"},
            "create": {"checks": [{"name": "few", "check": "statuses_count < 1000"}]},
        }
    }
    rollout = Rollout(database, SCENARIO.model_copy(update={"operations": (operation,)}))
    rollout.advance_to(State.MIGRATED)
    database.execute("UPDATE accounts SET statuses_count = 1000 WHERE id = 7")
    database.execute("INSERT INTO accounts (username, statuses_count) VALUES ('many', 2000)")
    assert database.execute("SELECT count(*), min(sqlstate) FROM zdm.sync_failures") == [(2, "23514")]
    refused = rollout.engine().advance(rollout.migration)
    assert refused.outcome is Outcome.REFUSED
    assert "sync_failures" in {v.gate for v in refused.verdicts if not v.lets_through}
    assert [t.failed for t in rollout.engine().verify("try_it").tables] == [2]
    database.execute("UPDATE accounts SET statuses_count = 5 WHERE statuses_count >= 1000")
    assert database.execute("SELECT count(*) FROM zdm.sync_failures") == [(0,)]
    assert rollout.engine().verify("try_it").clean
    rollout.advance_to(State.SWITCHED_OVER)


def test_refusals(database: Database) -> None:
    database.execute(
        "CREATE TABLE other (account_id bigint, statuses_count int, must text NOT NULL);"
        " CREATE TABLE taken (account_id bigint PRIMARY KEY, statuses_count bigint NOT NULL DEFAULT 0)"
    )
    rollout = Rollout(database, SCENARIO)
    database.execute("INSERT INTO taken VALUES (1, 99), (2, 2), (77777, 1)")
    base = {"table": "accounts", "columns": ["statuses_count"], "key": {"account_id": "id"}}
    for given, expected in (
        ({**base, "to": "other"}, ["no-key", ""]),
        ({**base, "to": "taken"}, ["rows-disagree"]),
        ({**base, "to": "fresh", "create": {}, "key": {"account_id": "username"}}, ["no-key"]),
        ({**base, "to": "fresh", "create": {}, "columns": ["username"]}, ["missing-down"]),
        ({**base, "to": "fresh", "create": {}, "columns": ["id"]}, [""]),
    ):
        migration = rollout.migration.model_copy(update={"operations": (MoveColumns.model_validate(given),)})
        with pytest.raises(BadInput) as raised:
            rollout.engine().plan(migration)
        assert [p.rule for p in raised.value.problems] == expected, [p.what for p in raised.value.problems]
    assert rollout.dump() == rollout.before
