"""A whole rollout with the rights that docs/privileges.md lists and no more; applications with table or column grants, and RLS."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conformance.harness import OPEN_GATES
from tests.support.servers import Database
from zdm.devdb.replica import replica_of
from zdm.engine.results import Outcome
from zdm.engine.rollout import Engine
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.verdict import Answer
from zdm.operations.migration import Migration

PAGE = Path(__file__).parents[2] / "docs" / "privileges.md"

MIGRATION = Migration.model_validate(
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
            {"rename_column": {"table": "account", "column": "note", "to": "remark"}},
            {"create_index": {"table": "account", "name": "account_balance", "columns": ["balance"]}},
        ],
        "gates": {**OPEN_GATES, "long_transactions": "off", "replication_lag": "off"},
    }
)


class Roles:
    """The roles of the page, and two of applications: one with grants on the table, one with grants on its columns.

    Parameters
    ----------
    secured: whether the table has row-level security; a version's views cannot keep that and grants on columns together.
    """

    def __init__(self, database: Database, *, secured: bool, column_grants: bool) -> None:
        self.database, self.secured, self.column_grants = database, secured, column_grants
        self.owner = database.create_role("app_owner", options="NOLOGIN")
        self.zdm = database.create_role("zdm")
        self.app = database.create_role("app")
        self.columns = database.create_role("columns")
        (script,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        script = script.replace("CREATE ROLE zdm LOGIN;\n", "")
        script = script.replace("DATABASE app ", f"DATABASE {database.name} ").replace(
            "TO zdm", f'TO "{self.zdm}"'
        )
        script = script.replace("app_owner", f'"{self.owner}"')
        database.execute(
            f"""
            REVOKE ALL ON DATABASE {database.name} FROM PUBLIC;
            GRANT CONNECT ON DATABASE {database.name} TO "{self.app}", "{self.columns}";
            ALTER SCHEMA public OWNER TO "{self.owner}";
            GRANT USAGE ON SCHEMA public TO "{self.app}", "{self.columns}";
            SET ROLE "{self.owner}";
            CREATE TABLE account (id integer PRIMARY KEY, balance integer NOT NULL, note text, tenant text NOT NULL DEFAULT current_user);
            INSERT INTO account SELECT g, g, 'n' || g, CASE WHEN g % 2 = 0 THEN 'nobody' ELSE '{self.app}' END
              FROM generate_series(1, 200) g;
            INSERT INTO account SELECT g, g, 'n' || g, '{self.columns}' FROM generate_series(201, 300) g;
            GRANT SELECT, INSERT, UPDATE, DELETE ON account TO "{self.app}";
            RESET ROLE;
            """
        )
        database.execute(script)
        if secured:
            database.execute(
                "ALTER TABLE account ENABLE ROW LEVEL SECURITY;"
                "CREATE POLICY own ON account USING (tenant = current_user) WITH CHECK (tenant = current_user)"
            )
        if column_grants:
            database.execute(
                "GRANT SELECT (id, balance, tenant), UPDATE (balance), INSERT (id, balance) ON account "
                f'TO "{self.columns}"'
            )

    @property
    def seen(self) -> int:
        """How many of two rows of different tenants an application sees."""
        return 1 if self.secured else 2

    def engine(self) -> Engine:
        return Engine(self.database.dsn_for(self.zdm))


@pytest.fixture
def roles(database: Database) -> Roles:
    return Roles(database, secured=True, column_grants=False)


def advance(engine: Engine, restart: bool = False) -> State:
    result = engine.advance(MIGRATION, restart=restart)
    assert [v for v in result.verdicts if not v.lets_through] == []
    return result.state


def old_application(roles: Roles, key: int) -> None:
    """Through the table: its own rows, and nobody else's."""
    with roles.database.connect(roles.app) as connection:
        assert connection.execute("SELECT FROM account WHERE id IN (1, 2)").rowcount == roles.seen
        connection.execute("INSERT INTO account (id, balance, note) VALUES (%s, 5, 'old')", [key])
        assert (
            connection.execute("UPDATE account SET balance = balance + 1 WHERE id IN (1, 2)").rowcount
            == roles.seen
        )
        assert connection.execute("DELETE FROM account WHERE id = %s", [key]).rowcount == 1
    if not roles.column_grants:
        return
    with roles.database.connect(roles.columns) as connection:
        connection.execute("INSERT INTO account (id, balance) VALUES (%s, 5)", [key + 1])
        assert (
            connection.execute("UPDATE account SET balance = balance + 1 WHERE id IN (1, 201)").rowcount == 2
        )
        assert connection.execute("SELECT balance FROM account WHERE id IN (1, 201)").rowcount == 2
        connection.commit()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT note FROM account")


def new_application(roles: Roles, key: int, *, filled: bool) -> None:
    """Through the new version's view: the same rights, the same rows."""
    path = "SET search_path = public_widen, public"
    with roles.database.connect(roles.app) as connection:
        connection.execute(path)
        assert connection.execute("SELECT FROM account WHERE id IN (1, 2)").rowcount == roles.seen
        connection.execute("INSERT INTO account (id, balance, remark) VALUES (%s, 5.25, 'new')", [key])
        if filled:
            assert (
                connection.execute("UPDATE account SET balance = balance + 1.5 WHERE id IN (1, 2)").rowcount
                == roles.seen
            )
        assert connection.execute("DELETE FROM account WHERE id = %s", [key]).rowcount == 1
    if not roles.column_grants:
        return
    with roles.database.connect(roles.columns) as connection:
        connection.execute(path)
        connection.execute("INSERT INTO account (id, balance) VALUES (%s, 5.25)", [key + 1])
        if filled:
            assert (
                connection.execute("UPDATE account SET balance = balance + 1.5 WHERE id IN (1, 201)").rowcount
                == 2
            )
        assert connection.execute("SELECT balance FROM account WHERE id IN (1, 201)").rowcount == 2
        connection.commit()
        connection.execute(path)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT remark FROM account")


def rights(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT c.relacl::text, c.relowner::regrole::text, c.relrowsecurity, array_agg((a.attname, a.attacl::text) ORDER BY a.attname) "
        "FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        "WHERE c.oid = 'public.account'::regclass GROUP BY c.oid"
    )


@pytest.mark.parametrize("secured", [True, False], ids=["row security", "column grants"])
def test_a_whole_rollout_with_the_documented_rights(database: Database, secured: bool) -> None:
    roles = Roles(database, secured=secured, column_grants=not secured)
    before = rights(roles.database)
    engine = roles.engine()
    engine.init()
    old_application(roles, 1000)
    for restart in (False, True):
        assert advance(engine, restart) is State.PREPARED
        old_application(roles, 1100 + 500 * restart)
        new_application(roles, 1200 + 500 * restart, filled=False)
        assert advance(engine) is State.MIGRATED
        old_application(roles, 1300 + 500 * restart)
        new_application(roles, 1400 + 500 * restart, filled=True)
        assert advance(engine) is State.SWITCHED_OVER
        old_application(roles, 1500 + 500 * restart)
        new_application(roles, 1590 + 500 * restart, filled=True)
        if not restart:
            result = engine.rollback("widen")
            assert (result.state, result.leftovers) == (State.ROLLED_BACK, ())
            assert rights(roles.database) == before
            old_application(roles, 1595)
    assert advance(engine) is State.COMPLETED
    new_application(roles, 3000, filled=True)
    (now,) = rights(roles.database)
    ((acl, owner, security, columns),) = before
    assert now[:3] == (acl, owner, security)
    assert (
        now[3] == columns.replace("(note,", "(remark,")
        if isinstance(columns, str)
        else len(now[3]) == len(columns)
    )


def test_a_table_that_takes_anothers_place_needs_no_more(database: Database) -> None:
    """It is made in a schema of zdm's own, given to the owner there, and analyzed; statistics themselves are the superuser's to read."""
    roles = Roles(database, secured=False, column_grants=False)
    partitioned = {"by": "hash", "columns": ["id"]}
    operation = {
        "shadow_table": {"table": "account", "partition_by": partitioned, "partitions": [{"count": 2}]}
    }
    migration = MIGRATION.model_copy(
        update={"operations": Migration.model_validate({"id": "widen", "operations": [operation]}).operations}
    )
    engine = roles.engine()
    engine.init()
    for state in (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER, State.COMPLETED):
        old_application(roles, 1000)
        assert engine.advance(migration).state is state
    old_application(roles, 1000)
    assert database.value(
        "SELECT relkind = 'p' AND pg_get_userbyid(relowner) = %s FROM pg_class WHERE oid = 'public.account'::regclass",
        roles.owner,
    )


def test_row_security_and_column_grants_together_are_refused(database: Database) -> None:
    engine = Roles(database, secured=True, column_grants=True).engine()
    engine.init()
    with pytest.raises(BadInput, match="both row security and grants on single columns"):
        engine.advance(MIGRATION)


def test_what_cannot_be_seen_refuses_and_says_what_to_grant(roles: Roles) -> None:
    """Without pg_monitor another role's transaction can be seen to exist, but not how old it is."""
    asking = MIGRATION.model_copy(update={"gates": OPEN_GATES})
    engine = roles.engine()
    engine.init()
    with roles.database.connect(roles.app) as connection:
        connection.execute("SELECT 1")
        result = engine.advance(asking)
        assert result.outcome is Outcome.REFUSED
        (verdict,) = [v for v in result.verdicts if not v.lets_through]
        assert (verdict.gate, verdict.answer) == ("long_transactions", Answer.UNREADABLE)
        assert "pg_monitor" in verdict.remedy
        assert result.state is State.PLANNED
        roles.database.execute(f'GRANT pg_monitor TO "{roles.zdm}"')
        assert engine.advance(asking).state is State.PREPARED


def test_a_standby_that_cannot_be_read(roles: Roles) -> None:
    """The same for replication, where a standby is attached."""
    dev = roles.database.server.dev
    if dev is None:
        pytest.skip("a standby can only be attached to a server of the tests' own")
    engine = roles.engine()
    engine.init()
    asking = MIGRATION.model_copy(update={"gates": {**MIGRATION.gates, "replication_lag": "30s"}})
    standby = replica_of(dev, "unseen")
    try:
        result = engine.advance(asking)
        assert result.outcome is Outcome.REFUSED
        (verdict,) = [v for v in result.verdicts if not v.lets_through]
        assert (verdict.gate, verdict.answer) == ("replication_lag", Answer.UNREADABLE)
        assert "pg_monitor" in verdict.remedy
    finally:
        standby.close()
