"""What the gates ask zdm's own catalog, read with the session that evaluates them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from zdm.catalog import backfills, events, rollouts, verifications
from zdm.gates.context import (
    ApprovalFact,
    BackfillFact,
    GateContext,
    RolloutFacts,
    SyncFailureFact,
    VerificationFact,
)
from zdm.model.names import QualifiedName, qualified
from zdm.model.phases import State
from zdm.model.step import Phase
from zdm.operations.migration import Migration

_MEMORY = "watch"
"""The kind of event that holds what a gate remembers; the gate is its subject."""

# The row's JSON, because an older catalog has no such column: absent is NULL.
_ROLLOUT = """
SELECT r.target, r.state, coalesce(m.checksum, r.checksum), coalesce(m.registered_by, ''), r.switched_over_at,
       (to_jsonb(r) ->> 'fenced_at')::timestamptz, pg_catalog.clock_timestamp()
FROM zdm.module_migrations AS r LEFT JOIN zdm.schema_migrations AS m ON m.id = r.migration
WHERE r.id = %s
"""

_FAILURES = """
SELECT n.nspname, c.relname, count(DISTINCT f.key), (array_agg(f.key::text || ': ' || f.message ORDER BY f.at))[1:%s]
FROM zdm.sync_failures AS f
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = f.table_oid
LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE f.rollout = %s GROUP BY f.table_oid, n.nspname, c.relname
"""

_APPROVALS = """
SELECT a.phase, a.approver, a.at, coalesce(to_jsonb(a) ->> 'checksum', r.checksum)
FROM zdm.approvals AS a JOIN zdm.module_migrations AS r ON r.id = a.rollout
WHERE a.rollout = %s ORDER BY a.at, a.id
"""


def context(
    conn: psycopg.Connection[Any],
    rollout: int,
    phase: Phase,
    migration: Migration,
    *,
    replicas: Sequence[str] = (),
) -> GateContext:
    """Everything the gates of a move into `phase` look at, read now.

    Raises
    ------
    BadInput: there is no rollout with that number.
    """
    record = rollouts.get(conn, rollout)
    plan = rollouts.plan(conn, rollout)
    row = conn.execute(_ROLLOUT, (rollout,)).fetchone()
    assert row is not None
    target, state, checksum, registered_by, switched_over_at, fenced_at, now = row
    facts = RolloutFacts(rollout, target, State(state), checksum, registered_by, switched_over_at, fenced_at)
    return GateContext(
        conn=conn,
        phase=phase,
        rollout=facts,
        plan=plan,
        migration=migration,
        facts=CatalogFacts(conn, rollout, target),
        now=now,
        authority=record.authority,
        replicas=tuple(replicas),
    )


@dataclass(frozen=True, slots=True)
class CatalogFacts:
    """`zdm.gates.context.Facts` over zdm's catalog. Every answer is read anew."""

    conn: psycopg.Connection[Any]
    rollout: int
    target: str

    def dependency_states(self, migrations: Sequence[str]) -> Mapping[str, State]:
        """The state of each migration's live rollout on this target, else of its latest."""
        found = {name: rollouts.find(self.conn, name, self.target) for name in migrations}
        return {name: rollout.state for name, rollout in found.items() if rollout is not None}

    def backfills(self) -> Mapping[QualifiedName, BackfillFact]:
        """The backfill of each table that has begun one."""
        return {
            state.table: BackfillFact(
                state.status is backfills.BackfillStatus.FINISHED,
                state.done_rows,
                state.finished_at,
                state.pass_no,
            )
            for state in backfills.all_of(self.conn, self.rollout)
        }

    def verification(self, table: QualifiedName) -> VerificationFact | None:
        """The latest verification of one table."""
        found = verifications.latest(self.conn, self.rollout, table)
        if found is None:
            return None
        keys = tuple(str(key) for kind in found.sample_keys.values() for key in kind)
        mismatches = {kind: count for kind, count in found.mismatches.items() if count}
        return VerificationFact(found.started_at, found.rows, mismatches, keys, found.backfill_pass)

    def sync_failures(self, samples: int) -> Sequence[SyncFailureFact]:
        """Per table the number of rows that are recorded as failed."""
        rows = self.conn.execute(_FAILURES, (samples, self.rollout))
        return [
            SyncFailureFact(qualified(schema or "?", table or "a dropped table"), count, tuple(keys))
            for schema, table, count, keys in rows
        ]

    def approvals(self) -> Sequence[ApprovalFact]:
        """Every approval, oldest first."""
        rows = self.conn.execute(_APPROVALS, (self.rollout,))
        return [ApprovalFact(Phase(phase), by, at, checksum) for phase, by, at, checksum in rows]

    def recall(self, gate: str) -> Mapping[str, Any]:
        """What the gate remembered last; empty if nothing."""
        row = self.conn.execute(
            "SELECT detail FROM zdm.events WHERE rollout = %s AND kind = %s AND subject = %s ORDER BY id DESC LIMIT 1",
            (self.rollout, _MEMORY, gate),
        ).fetchone()
        return row[0] if row is not None else {}

    def remember(self, gate: str, memory: Mapping[str, Any]) -> None:
        """Keep `memory` for the gate's next evaluation."""
        events.record(self.conn, _MEMORY, rollout=self.rollout, subject=gate, detail=memory)
