"""A table in the middle of a rollout, both versions side by side, without an engine: for backfill and verification."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.support.servers import Database
from zdm.catalog import install, registry, rollouts
from zdm.db.session import connect, transaction
from zdm.model.expression import ColumnRef, Expression
from zdm.model.mapping import Authority, ColumnGroup, Comparison, NewColumn, OldColumn, TableMapping
from zdm.model.names import qualified
from zdm.model.plan import Plan
from zdm.operations.migration import Migration
from zdm.sql import sync

_MIGRATION = {
    "id": "try_it",
    "operations": [
        {
            "change_type": {
                "table": "account",
                "column": "balance",
                "to": "numeric(18,2)",
                "up": "balance::numeric(18,2)",
                "down": "round(balance)::int",
            }
        }
    ],
}


@dataclass
class Mapped:
    """A table ``account (id, balance, filler)`` with ``balance_new``, marker and triggers, and a rollout for it.

    Parameters
    ----------
    rows: how many rows of the old version there are.
    up / down: the mapping; both over the columns' own names.
    not_null: whether the new version promises NOT NULL.
    triggers: False leaves them out.
    """

    database: Database
    rows: int = 20_000
    up: tuple[str | ColumnRef, ...] = (ColumnRef(column="balance"), "::numeric(18,2)")
    down: tuple[str | ColumnRef, ...] = ("pg_catalog.round(", ColumnRef(column="balance_new"), ")::integer")
    old_type: str = "integer"
    new_type: str = "numeric(18,2)"
    old_value: str = "g % 1000"
    not_null: bool = False
    keyed: bool = True
    filler: int = 40
    fillfactor: int = 100
    triggers: bool = True
    mapping: TableMapping = field(init=False)
    rollout: int = field(init=False)
    dsn: str = field(init=False)

    def __post_init__(self) -> None:
        self.dsn = self.database.dsn
        self._create()
        oid = self.database.value("SELECT 'account'::regclass::oid")
        self.mapping = TableMapping(
            table=qualified("public", "account"),
            final_name="account",
            oid=oid,
            key=("id",) if self.keyed else (),
            groups=(
                ColumnGroup(
                    name="balance",
                    number=0,
                    old=(
                        OldColumn(
                            name="balance",
                            type=self.old_type,
                            comparison=Comparison.NATIVE,
                            down=Expression(source="down", parts=self.down, type=self.old_type),
                        ),
                    ),
                    new=(
                        NewColumn(
                            name="balance_new",
                            final="balance",
                            type=self.new_type,
                            comparison=Comparison.NATIVE,
                            not_null=self.not_null,
                            up=Expression(source="up", parts=self.up, type=self.new_type),
                        ),
                    ),
                ),
            ),
        )
        with connect(self.database.dsn, application_name="set up") as conn:
            install.install(conn)
            plan = Plan(
                migration="try_it",
                target="public",
                server_version=conn.info.server_version,
                mappings=(self.mapping,),
            )
            registry.register(conn, Migration.model_validate(_MIGRATION), "")
            self.rollout = rollouts.create(conn, plan).id
            if self.triggers:
                with transaction(conn):
                    for statement in sync.install(self.mapping, self.rollout, Authority.OLD).statements:
                        conn.execute(statement.encode())

    def _create(self) -> None:
        run = self.database.execute
        key = "PRIMARY KEY" if self.keyed else "NOT NULL"
        run(
            f"CREATE TABLE account (id integer {key}, balance {self.old_type}, touched integer NOT NULL DEFAULT 0, "
            f"filler text) WITH (fillfactor = {self.fillfactor}, autovacuum_enabled = false)"
        )
        run(
            f"INSERT INTO account (id, balance, filler) SELECT g, {self.old_value}, repeat('x', {self.filler}) "
            f"FROM generate_series(1, {self.rows}) g"
        )
        run("VACUUM ANALYZE account")
        run(f"ALTER TABLE account ADD COLUMN balance_new {self.new_type}, ADD COLUMN _zdm_state integer")

    def connect(self) -> psycopg.Connection[Any]:
        """A working connection, as the engine opens it."""
        return connect(self.dsn, application_name="zdm test")

    def always(self) -> None:
        """Enable our triggers as they are installed, after all were switched off and on again."""
        for (name,) in self.database.execute("SELECT tgname FROM pg_trigger WHERE tgname LIKE '~zdm%'"):
            self.database.execute(f'ALTER TABLE account ENABLE ALWAYS TRIGGER "{name}"')

    def left(self) -> int:
        """Rows that nobody has settled."""
        return int(self.database.value("SELECT count(*) FROM account WHERE _zdm_state IS NULL"))

    def disagreeing(self) -> int:
        """Rows whose sides disagree, asked in words of this table's own: an oracle that shares nothing with zdm."""
        return int(
            self.database.value(
                "SELECT count(*) FROM account WHERE balance_new IS DISTINCT FROM balance::numeric(18,2) "
                "AND balance IS DISTINCT FROM round(balance_new)::integer OR balance_new IS NULL AND balance IS NOT NULL"
            )
        )
