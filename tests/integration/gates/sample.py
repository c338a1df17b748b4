"""A small rollout to ask gates about: one table whose column changes its type, one column dropped, one renamed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg

from zdm.db.session import Session, connect
from zdm.gates.context import (
    ApprovalFact,
    BackfillFact,
    GateContext,
    RolloutFacts,
    SyncFailureFact,
    VerificationFact,
)
from zdm.model.expression import ColumnRef, Expression
from zdm.model.mapping import ColumnGroup, Comparison, NewColumn, OldColumn, TableMapping, ViewColumn
from zdm.model.names import QualifiedName, qualified
from zdm.model.phases import State
from zdm.model.plan import Plan
from zdm.model.step import Phase
from zdm.operations.base import Operation
from zdm.operations.migration import Migration
from zdm.operations.registry import operations

TABLE = qualified("public", "orders")

SETUP = """
CREATE TABLE public.orders (
    id int PRIMARY KEY, amount int NOT NULL, note text, gone text,
    _zdm_amount numeric(18,2), _zdm_state integer
);
INSERT INTO public.orders SELECT n, n * 10, 'n' || n, 'g', n * 10, 1 FROM generate_series(1, 100) AS n;
CREATE SCHEMA public_before_widen;
CREATE VIEW public_before_widen.orders AS SELECT id, amount, note, gone FROM public.orders;
CREATE SCHEMA public_widen;
CREATE VIEW public_widen.orders AS SELECT id, _zdm_amount AS amount, note AS remark FROM public.orders;
"""


def mapping(oid: int = 1) -> TableMapping:
    """``amount`` becomes numeric, ``note`` is renamed to ``remark``, ``gone`` is dropped."""
    up = Expression(
        source="amount::numeric", parts=("(", ColumnRef(column="amount"), ")::numeric"), type="numeric"
    )
    down = Expression(
        source="round(amount)::int",
        parts=("(round(", ColumnRef(column="_zdm_amount"), "))::integer"),
        type="integer",
    )
    group = ColumnGroup(
        name="amount",
        number=0,
        old=(
            OldColumn(name="amount", type="integer", comparison=Comparison.NATIVE, not_null=True, down=down),
        ),
        new=(
            NewColumn(
                name="_zdm_amount", final="amount", type="numeric(18,2)", comparison=Comparison.NATIVE, up=up
            ),
        ),
    )
    return TableMapping(
        table=TABLE,
        final_name="orders",
        oid=oid,
        key=("id",),
        groups=(group,),
        old_columns=tuple(ViewColumn(physical=c, name=c) for c in ("id", "amount", "note", "gone")),
        new_columns=(
            ViewColumn(physical="id", name="id"),
            ViewColumn(physical="_zdm_amount", name="amount"),
            ViewColumn(physical="note", name="remark"),
        ),
    )


def plan(*mappings: TableMapping, old_schema: str = "public_before_widen") -> Plan:
    """A plan of these mappings, or of the sample's."""
    return Plan(
        migration="widen",
        target="public",
        server_version=180000,
        old_schema=old_schema,
        new_schema="public_widen",
        mappings=mappings or (mapping(),),
    )


def migration(**fields: Any) -> Migration:
    """A migration with these fields beside its id and one operation."""
    kind: type[Operation] = operations()["drop_column"]
    operation = kind.model_validate({"table": "orders", "column": "gone"})
    return Migration.model_validate({"id": "widen", "operations": [operation], **fields})


@dataclass
class KnownFacts:
    """Facts that a test states; everything it leaves out is empty."""

    states: dict[str, State] = field(default_factory=dict)
    filled: dict[QualifiedName, BackfillFact] = field(default_factory=dict)
    verified: dict[QualifiedName, VerificationFact] = field(default_factory=dict)
    failures: list[SyncFailureFact] = field(default_factory=list)
    given: list[ApprovalFact] = field(default_factory=list)
    memory: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def finished(self) -> Collection[str]:
        return ()

    def dependency_states(self, migrations: Sequence[str]) -> Mapping[str, State]:
        return {name: state for name, state in self.states.items() if name in migrations}

    def backfills(self) -> Mapping[QualifiedName, BackfillFact]:
        return self.filled

    def verification(self, table: QualifiedName) -> VerificationFact | None:
        return self.verified.get(table)

    def sync_failures(self, samples: int) -> Sequence[SyncFailureFact]:
        return self.failures

    def approvals(self) -> Sequence[ApprovalFact]:
        return self.given

    def recall(self, gate: str) -> Mapping[str, Any]:
        return self.memory.get(gate, {})

    def remember(self, gate: str, memory: Mapping[str, Any]) -> None:
        self.memory[gate] = memory


def session(dsn: str) -> Session:
    """A session as zdm opens it."""
    return connect(dsn, application_name="zdm test")


def server_now(conn: psycopg.Connection[Any]) -> datetime:
    """The server's clock."""
    row = conn.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


def context(conn: psycopg.Connection[Any], **fields: Any) -> GateContext:
    """A context on `conn`, with the sample's plan and no facts unless given."""
    values: dict[str, Any] = {
        "conn": conn,
        "phase": Phase.CLEANUP,
        "rollout": RolloutFacts(1, "public", State.SWITCHED_OVER, "c1", "ana"),
        "plan": plan(),
        "migration": migration(),
        "facts": KnownFacts(),
        "now": server_now(conn),
        **fields,
    }
    return GateContext(**values)
