"""What a gate may look at: the plan, the server, and what zdm's own catalog recorded about the rollout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import psycopg

from zdm.model.mapping import Authority
from zdm.model.names import QualifiedName
from zdm.model.phases import State
from zdm.model.plan import Plan
from zdm.model.step import Phase
from zdm.operations.migration import Migration


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """The rollout as the catalog has it.

    Parameters
    ----------
    checksum: of the migration as it is registered now; an approval given for another one is void.
    registered_by: who registered it; one's own approval of one's own migration does not count.
    switched_over_at: when switchover finished; None before.
    fenced_at: since when the old version is fenced; None if it is not.
    """

    id: int
    target: str
    state: State
    checksum: str
    registered_by: str = ""
    switched_over_at: datetime | None = None
    fenced_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BackfillFact:
    """How far the backfill of one table got.

    Parameters
    ----------
    last_chunk_at: when its last chunk, or its last look over the whole table, was committed.
    pass_no: how often the table was gone over from its beginning.
    """

    finished: bool
    rows: int
    last_chunk_at: datetime | None = None
    pass_no: int = 1


@dataclass(frozen=True, slots=True)
class VerificationFact:
    """The latest finished verification of one table.

    Parameters
    ----------
    started_at: when its snapshot was taken; what was written later it did not see.
    rows: how many rows it compared.
    mismatches: by kind of deviation, only kinds that occurred.
    samples: keys of some deviating rows.
    backfill_pass: the pass of the backfill that was finished before; None if none was.
    snapshot: of the comparison; empty if it is not known.
    without_old_form: rows that are recorded as having no old form; no deviation.
    """

    started_at: datetime
    rows: int
    mismatches: Mapping[str, int] = field(default_factory=dict)
    samples: tuple[str, ...] = ()
    backfill_pass: int | None = None
    snapshot: str = ""
    without_old_form: int = 0


@dataclass(frozen=True, slots=True)
class SyncFailureFact:
    """Rows of one table whose `up` raised: how many, and for some of them key and error."""

    table: QualifiedName
    count: int
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ApprovalFact:
    """One approval: of which phase, by whom, when, and for which content of the migration."""

    phase: Phase
    by: str
    at: datetime
    checksum: str


class Facts(Protocol):
    """What the gates ask zdm's own catalog. Anything that cannot be read raises; it is never an empty answer."""

    def dependency_states(self, migrations: Sequence[str]) -> Mapping[str, State]:
        """The state of each of these migrations on this target; one that was never rolled out there is absent."""

    def finished(self) -> Collection[str]:
        """The ids of the rollout's steps that have run, and were not taken back."""

    def backfills(self) -> Mapping[QualifiedName, BackfillFact]:
        """The backfill of each table of the rollout that has begun one."""

    def verification(self, table: QualifiedName) -> VerificationFact | None:
        """The latest finished verification of one table, None if it never had one."""

    def sync_failures(self, samples: int) -> Sequence[SyncFailureFact]:
        """Per table of the rollout the rows that are recorded as failed, with up to `samples` of them named."""

    def approvals(self) -> Sequence[ApprovalFact]:
        """Every approval of the rollout that was not withdrawn, oldest first."""

    def recall(self, gate: str) -> Mapping[str, Any]:
        """What the gate remembered at an earlier evaluation of this rollout; empty if nothing."""

    def remember(self, gate: str, memory: Mapping[str, Any]) -> None:
        """Keep `memory` (plain JSON) for the gate's next evaluation."""


@dataclass(frozen=True, slots=True)
class GateContext:
    """Everything a gate may look at.

    Parameters
    ----------
    conn: a session on the target's database in autocommit mode, outside any transaction. Gates leave it so.
    phase: the phase the rollout would move into.
    plan: as it is stored. `mapping` names in it are those of before a fence.
    now: the server's clock when the evaluation began; no gate reads the clock of the machine zdm runs on.
    authority: which side wins at present.
    replicas: connection URLs of replicas from zdm's own settings; a gate's own list replaces it.
    sleep: waits between two samples; tests replace it.
    """

    conn: psycopg.Connection[Any]
    phase: Phase
    rollout: RolloutFacts
    plan: Plan
    migration: Migration
    facts: Facts
    now: datetime
    authority: Authority = Authority.OLD
    replicas: tuple[str, ...] = ()
    sleep: Callable[[float], None] | None = None
