"""What the gates ask zdm's own catalog, read with the session that evaluates them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from zdm.catalog import approvals, backfills, events, registry, rollouts, steps, verifications
from zdm.catalog.steps import StepStatus
from zdm.gates.context import (
    ApprovalFact,
    BackfillFact,
    RolloutFacts,
    SyncFailureFact,
    VerificationFact,
)
from zdm.model.names import QualifiedName, qualified
from zdm.model.phases import State

_MEMORY = "watch"
"""The kind of event that holds what a gate remembers; the gate is its subject."""

_FAILURES = """
SELECT n.nspname, c.relname, count(DISTINCT f.key), (array_agg(f.key::text || ': ' || f.message ORDER BY f.at))[1:%s]
FROM zdm.sync_failures AS f
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = f.table_oid
LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE f.rollout = %s GROUP BY f.table_oid, n.nspname, c.relname
"""


def read_rollout(conn: psycopg.Connection[Any], rollout: int) -> RolloutFacts:
    """What the gates know of the rollout. Raises `BadInput` if there is none with that number."""
    found = rollouts.get(conn, rollout)
    registered = registry.get(conn, found.migration)
    return RolloutFacts(
        id=found.id,
        target=found.target,
        state=found.state,
        checksum=found.checksum if registered is None else registered.checksum,
        registered_by="" if registered is None else registered.registered_by,
        switched_over_at=found.switched_over_at,
        fenced_at=found.fenced_at,
    )


@dataclass(frozen=True, slots=True)
class CatalogFacts:
    """`zdm.gates.context.Facts` over zdm's catalog. Every answer is read anew."""

    conn: psycopg.Connection[Any]
    rollout: RolloutFacts

    def dependency_states(self, migrations: Sequence[str]) -> Mapping[str, State]:
        """The state of each migration's live rollout on this target, else of its latest."""
        found = {name: rollouts.find(self.conn, name, self.rollout.target) for name in migrations}
        return {name: one.state for name, one in found.items() if one is not None}

    def finished(self) -> Collection[str]:
        """The ids of the steps that have run, and were not taken back."""
        return {
            one.step for one in steps.all_of(self.conn, self.rollout.id) if one.status is StepStatus.FINISHED
        }

    def backfills(self) -> Mapping[QualifiedName, BackfillFact]:
        """The backfill of each table that has begun one."""
        return {
            state.table: BackfillFact(
                state.status is backfills.BackfillStatus.FINISHED,
                state.done_rows,
                state.finished_at,
                state.pass_no,
            )
            for state in backfills.all_of(self.conn, self.rollout.id)
        }

    def verification(self, table: QualifiedName) -> VerificationFact | None:
        """The latest verification of one table."""
        found = verifications.latest(self.conn, self.rollout.id, table)
        if found is None:
            return None
        keys = tuple(str(key) for kind in found.sample_keys.values() for key in kind)
        mismatches = {kind: count for kind, count in found.mismatches.items() if count}
        return VerificationFact(
            found.started_at,
            found.rows,
            mismatches,
            keys,
            found.backfill_pass,
            found.snapshot,
            found.without_old_form,
        )

    def sync_failures(self, samples: int) -> Sequence[SyncFailureFact]:
        """Per table the number of rows that are recorded as failed."""
        rows = self.conn.execute(_FAILURES, (samples, self.rollout.id))
        return [
            SyncFailureFact(qualified(schema or "?", table or "a dropped table"), count, tuple(keys))
            for schema, table, count, keys in rows
        ]

    def approvals(self) -> Sequence[ApprovalFact]:
        """Every approval, oldest first."""
        found = approvals.all_of(self.conn, self.rollout.id)
        return [ApprovalFact(one.phase, one.approver, one.at, one.checksum) for one in found]

    def recall(self, gate: str) -> Mapping[str, Any]:
        """What the gate remembered last; empty if nothing."""
        row = self.conn.execute(
            "SELECT detail FROM zdm.events WHERE rollout = %s AND kind = %s AND subject = %s ORDER BY id DESC LIMIT 1",
            (self.rollout.id, _MEMORY, gate),
        ).fetchone()
        return row[0] if row is not None else {}

    def remember(self, gate: str, memory: Mapping[str, Any]) -> None:
        """Keep `memory` for the gate's next evaluation."""
        events.record(self.conn, _MEMORY, rollout=self.rollout.id, subject=gate, detail=memory)
