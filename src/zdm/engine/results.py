"""What the engine answers: values without behaviour, so that a person's text, ``--json`` and the metrics agree.

Every value dumps with ``.model_dump(mode="json")``; properties that scripts need are computed fields, so they are in
the dump. Times are timezone-aware; durations are seconds as floats, because that is what scripts compare.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field, computed_field

from zdm.model.mapping import Authority
from zdm.model.names import QualifiedName, Value
from zdm.model.phases import State
from zdm.model.step import Phase, TableLock
from zdm.model.verdict import Verdict

# ------------------------------------------------------------------------------------------------ init, doctor


class InitResult(Value):
    """What `init` found and did. `previous` and `version` are revisions of the catalog; `previous` is None if it was absent."""

    database: str
    role: str
    server_version: int
    version: str
    previous: str | None = None
    applied: tuple[str, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def changed(self) -> bool:
        """Whether anything was installed or upgraded."""
        return self.previous != self.version


class Health(StrEnum):
    """How one check of `doctor` came out. UNKNOWN is what could not be read: never silently taken for good."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


class Check(Value):
    """One check: its name (``server version``, ``rights``, ``catalog``, ``replicas``, ``pg_stat_statements``, ``pooler``,
    ``leftovers`` …), what was found, what is needed where that differs, and what to do."""

    name: str
    health: Health
    found: str
    needed: str = ""
    remedy: str = ""


# ------------------------------------------------------------------------------------------------ steps


class StepOutcome(StrEnum):
    """What became of a step in one run."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"  # an earlier run, or the probe, shows that it is done
    FAILED = "failed"
    UNDONE = "undone"


class StepRun(Value):
    """One step as it ran, or as the catalog remembers it."""

    id: str
    title: str
    phase: Phase
    outcome: StepOutcome
    seconds: float = 0.0
    attempts: int = 1
    """Tries that it took to get the locks within their budget; 1 if it worked at once, 0 if it did not run."""
    rows: int | None = None
    error: str = ""


class PreviewStep(Value):
    """One step of ``--dry-run``: exactly what would be sent, and what it would cost.

    Parameters
    ----------
    kind: the action's kind (``transaction``, ``concurrent``, ``scan``, ``sync``, ``backfill``, ``verify``).
    statements: the exact SQL, in order; for a backfill or a verification the statement of one chunk or table.
    seconds: the estimate of the whole step, None if there is nothing to estimate from.
    done: an earlier run has finished it, so it would be skipped.
    """

    id: str
    title: str
    phase: Phase
    kind: str
    statements: tuple[str, ...] = ()
    locks: tuple[TableLock, ...] = ()
    seconds: float | None = None
    rows: float | None = None
    bytes: int | None = None
    done: bool = False
    undo: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------ moving


class Outcome(StrEnum):
    """How an `advance` ended."""

    DONE = "done"  # the phase ran to its end
    REFUSED = "refused"  # at least one gate said no; nothing was changed
    NOTHING = "nothing"  # the rollout already stands where `until` asked it to be, or is complete


class AdvanceResult(Value):
    """One move. With ``until``, `earlier` holds the moves that the same call finished before this one.

    Parameters
    ----------
    rollout: the migration's id.
    phase: the phase that ran, or would have run if no gate had refused.
    before / state: where the rollout stood and where it stands now.
    resumed: an interrupted or failed phase was continued (its gates had been passed already).
    verdicts: every gate of the move, those that passed as well.
    next_phase: what `advance` runs next, None if nothing follows.
    can_return: whether `rollback` is possible from `state`.
    """

    rollout: str
    target: str
    phase: Phase
    before: State
    state: State
    outcome: Outcome = Outcome.DONE
    resumed: bool = False
    verdicts: tuple[Verdict, ...] = ()
    steps: tuple[StepRun, ...] = ()
    seconds: float = 0.0
    waited_seconds: float = 0.0
    next_phase: Phase | None = None
    can_return: bool = True
    old_schema: str = ""
    new_schema: str = ""
    earlier: tuple[AdvanceResult, ...] = ()


class RowWithoutOldForm(Value):
    """A row of the new version that a rollback could not carry back, whole, as ``zdm.rows_without_old_form`` keeps it.

    Parameters
    ----------
    old_row: what it had in the old version before it lost its form there; None if nothing.
    reason: what the old version's table or the mapping said to it, with its `sqlstate`.
    at: when the row was last written.
    """

    table: QualifiedName
    key: dict[str, Any]
    new_row: dict[str, Any]
    old_row: dict[str, Any] | None = None
    sqlstate: str = ""
    reason: str = ""
    at: datetime | None = None


class RollbackResult(Value):
    """The way back: the steps undone (last first), what the verification before it found, if there was one, and what it kept."""

    rollout: str
    target: str
    before: State
    state: State
    steps: tuple[StepRun, ...] = ()
    verification: VerifyResult | None = None
    without_old_form: tuple[RowWithoutOldForm, ...] = ()
    leftovers: tuple[str, ...] = ()
    """Objects of zdm's that could not be removed, by name; empty after a clean rollback."""
    seconds: float = 0.0


# ------------------------------------------------------------------------------------------------ rows


class Violation(Value):
    """Rows that break a constraint of the new version, such as ``unique members_email_key``.

    samples: some of them by key, ``id=4``; rows that collide together, ``id=4 and id=9``.
    """

    constraint: str
    rows: int
    samples: tuple[str, ...] = ()


class TableVerification(Value):
    """What one statement over one snapshot of one table found. Everything but `rows` and `without_old_form` must be zero.

    Parameters
    ----------
    unsettled: rows that nobody has filled.
    failed: rows for which ``up`` raised.
    old_disagrees: rows last written by the old side whose new side is not ``up(old)``.
    new_disagrees: rows last written by the new side whose old side is not ``down(new)``.
    nulls: rows with NULL where the new version promises none.
    violations: constraints of the new version that rows break; no repair can correct those.
    missing / extra / different: of a row mapping: rows of the old version without one in the new version, rows of the new version
        that no row of the old one makes, and pairs of which neither follows from the other.
    without_old_form: of a row mapping: rows of the new version that are recorded as having no old form; they are no difference.
    repaired: rows that ``--repair`` derived again, the finding of this run being what was left afterwards.
    sample_keys: keys of some of the rows found, as ``id=42``.
    """

    table: QualifiedName
    rows: int
    unsettled: int = 0
    failed: int = 0
    old_disagrees: int = 0
    new_disagrees: int = 0
    nulls: int = 0
    violations: tuple[Violation, ...] = ()
    missing: int = 0
    extra: int = 0
    different: int = 0
    without_old_form: int = 0
    repaired: int = 0
    sample_keys: tuple[str, ...] = ()
    seconds: float = 0.0
    at: datetime | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def differences(self) -> int:
        """All findings together."""
        return self.disagreements + self.broken

    @computed_field  # type: ignore[prop-decorator]
    @property
    def disagreements(self) -> int:
        """Findings about the two sides of single rows, or about rows of two tables."""
        kinds = (self.unsettled, self.failed, self.old_disagrees, self.new_disagrees, self.nulls)
        return sum(kinds) + self.missing + self.extra + self.different

    @computed_field  # type: ignore[prop-decorator]
    @property
    def broken(self) -> int:
        """Rows that break a constraint of the new version."""
        return sum(violation.rows for violation in self.violations)


class VerifyResult(Value):
    """A verification of every mapped table. A table that no row mapping needs is not in it."""

    rollout: str
    target: str
    tables: tuple[TableVerification, ...] = ()
    repaired: bool = False
    seconds: float = 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def clean(self) -> bool:
        """Whether every table was found without a difference."""
        return all(table.differences == 0 for table in self.tables)


class TableBackfill(Value):
    """The backfill of one table. `rows` were filled by this run, `total` is the estimate of all; None if never analysed."""

    table: QualifiedName
    rows: int
    total: float | None = None
    chunks: int = 0
    failed: int = 0
    complete: bool = True
    seconds: float = 0.0
    throttled_seconds: float = 0.0


class BackfillResult(Value):
    """A backfill of every mapped table."""

    rollout: str
    target: str
    tables: tuple[TableBackfill, ...] = ()
    workers: int = 1
    seconds: float = 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def complete(self) -> bool:
        """Whether no row of any table is left."""
        return all(table.complete for table in self.tables)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def rows(self) -> int:
        """Rows filled by this run, all tables together."""
        return sum(table.rows for table in self.tables)


class Reconciled(Value):
    """What was done with the log of one rollout, and what waits there now.

    Parameters
    ----------
    keys: how often both sides of a key were brought to agree; failed: how often that could not be done.
    waiting: changes that still wait; lag_seconds: how long the oldest of them has.
    without_form: changes of rows that have no form on the other side at present.
    conflicts: writes that lost against the other version's, since the rollout began.
    """

    rollout: str
    target: str
    keys: int = 0
    failed: int = 0
    waiting: int = 0
    lag_seconds: float = 0.0
    without_form: int = 0
    conflicts: int = 0


class ReconcileResult(Value):
    """What a run of the reconciler did, of every rollout that is synced by log.

    Parameters
    ----------
    interrupted: why the database cannot be reached at present; empty if it can.
    """

    rollouts: tuple[Reconciled, ...] = ()
    seconds: float = 0.0
    interrupted: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def keys(self) -> int:
        """Keys brought to agree, all rollouts together."""
        return sum(one.keys for one in self.rollouts)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def drained(self) -> bool:
        """Whether nothing waits any more."""
        return not any(one.waiting for one in self.rollouts)


# ------------------------------------------------------------------------------------------------ status


class TableProgress(Value):
    """How far the backfill of one table is. `done` and `total` are of the same `unit` (blocks, or rows).

    A value is None where it is not known yet: never zero instead.
    """

    table: QualifiedName
    done: float
    total: float | None = None
    unit: str = "blocks"
    rows: int | None = None
    rows_per_second: float | None = None
    eta_seconds: float | None = None
    complete: bool = False
    throttled_by: str = ""
    """The signal that slows it down at present, in words; empty if none does."""


class LeaseInfo(Value):
    """Who holds the rollout. `expired` leases can be taken over."""

    holder: str
    since: datetime
    renewed: datetime
    expires: datetime
    expired: bool = False


class FailureCount(Value):
    """Rows of one table for which ``up`` raised, and the most frequent message."""

    table: QualifiedName
    rows: int
    message: str = ""
    sample_keys: tuple[str, ...] = ()


class WithoutOldForm(Value):
    """Rows of one table of the new version that are recorded as having no old form."""

    table: QualifiedName
    rows: int
    sample_keys: tuple[str, ...] = ()


class Approval(Value):
    """Somebody's yes to one phase."""

    rollout: str
    target: str
    phase: Phase
    by: str
    at: datetime
    comment: str = ""


class RolloutStatus(Value):
    """Everything about one rollout. `verdicts` are the gates of the next move, evaluated now; `log` only where it is synced by log."""

    rollout: str
    target: str
    state: State
    description: str = ""
    phase: Phase | None = None
    authority: Authority = Authority.OLD
    next_phase: Phase | None = None
    can_return: bool = False
    paused: bool = False
    fenced: bool = False
    old_schema: str = ""
    new_schema: str = ""
    risk: str = "low"
    registered_at: datetime | None = None
    state_since: datetime | None = None
    verdicts: tuple[Verdict, ...] = ()
    steps: tuple[StepRun, ...] = ()
    progress: tuple[TableProgress, ...] = ()
    verification: tuple[TableVerification, ...] = ()
    failures: tuple[FailureCount, ...] = ()
    without_old_form: tuple[WithoutOldForm, ...] = ()
    log: Reconciled | None = None
    approvals: tuple[Approval, ...] = ()
    lease: LeaseInfo | None = None
    last_error: str = ""


class PauseResult(Value):
    """A rollout was paused or resumed; `changed` is False if it already was."""

    rollout: str
    target: str
    paused: bool
    changed: bool = True


class FenceResult(Value):
    """The old version's schema was closed to the applications, or opened again; `changed` is False if it already was."""

    rollout: str
    target: str
    fenced: bool
    changed: bool = True
    statements: tuple[str, ...] = ()


class HistoryEntry(Value):
    """One recorded event of a rollout: a change of state, a step, a gate's refusal, an approval …"""

    at: datetime
    event: str
    text: str
    phase: Phase | None = None
    before: State | None = None
    state: State | None = None
    by: str = ""
    details: dict[str, Any] = Field(default_factory=dict)


RollbackResult.model_rebuild()
