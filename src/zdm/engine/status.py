"""Everything there is to say about a rollout, read from the catalog and asked of the gates; and its history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from zdm.catalog import (
    approvals,
    backfills,
    events,
    lease,
    registry,
    sync_failures,
    verifications,
    without_old_form,
)
from zdm.catalog import steps as step_store
from zdm.catalog.backfills import BackfillStatus
from zdm.catalog.steps import StepRecord, StepStatus
from zdm.db.session import Session
from zdm.engine.move_gates import evaluate_gates
from zdm.engine.phase_run import next_phase
from zdm.engine.reconcile import logged, of_rollout
from zdm.engine.results import (
    Approval,
    FailureCount,
    HistoryEntry,
    LeaseInfo,
    RolloutStatus,
    StepOutcome,
    StepRun,
    TableProgress,
    TableVerification,
    WithoutOldForm,
)
from zdm.engine.rows import table_verification
from zdm.engine.work import Work
from zdm.model.names import qualified
from zdm.model.phases import State, machine
from zdm.model.step import Phase

_OUTCOMES = {
    StepStatus.PENDING: StepOutcome.PENDING,
    StepStatus.STARTED: StepOutcome.RUNNING,
    StepStatus.FINISHED: StepOutcome.DONE,
    StepStatus.FAILED: StepOutcome.FAILED,
    StepStatus.UNDONE: StepOutcome.UNDONE,
}


def status_of(work: Work) -> RolloutStatus:
    """The whole picture of one rollout, the gates of its next move asked now. Changes nothing."""
    moves, rollout = machine(), work.rollout
    known = registry.get(work.session, rollout.migration)
    held = lease.holder(work.session, rollout.id)
    following = next_phase(moves, rollout.state)
    asks = following is not None and not moves.resumes(rollout.state)
    verdicts = evaluate_gates(work, moves.next(rollout.state)) if asks else []
    stamps = [
        at
        for at in (
            rollout.created_at,
            rollout.preparation_started_at,
            rollout.preparation_finished_at,
            rollout.migration_started_at,
            rollout.migration_finished_at,
            rollout.switchover_started_at,
            rollout.switched_over_at,
            rollout.cleanup_started_at,
            rollout.completed_at,
            rollout.rollback_started_at,
            rollout.rolled_back_at,
        )
        if at is not None
    ]
    return RolloutStatus(
        rollout=rollout.migration,
        target=rollout.target,
        state=rollout.state,
        description=known.description if known else "",
        phase=rollout.phase,
        authority=rollout.authority,
        next_phase=following,
        can_return=moves.can_roll_back(rollout.state),
        paused=rollout.paused,
        fenced=rollout.fenced_at is not None,
        old_schema=rollout.old_schema,
        new_schema=rollout.new_schema,
        risk=known.risk if known else "low",
        registered_at=known.registered_at if known else None,
        state_since=max(stamps),
        verdicts=tuple(verdicts),
        steps=tuple(_step(record) for record in step_store.all_of(work.session, rollout.id)),
        progress=tuple(_progress(work)),
        verification=tuple(_verifications(work)),
        failures=tuple(_failures(work)),
        without_old_form=without_old_form_of(work.session, work.rollout.id),
        log=of_rollout(work.session, rollout) if logged(work.plan.row_mappings) else None,
        approvals=tuple(
            Approval(
                rollout=rollout.migration,
                target=rollout.target,
                phase=a.phase,
                by=a.approver,
                at=a.at,
                comment=a.comment,
            )
            for a in approvals.all_of(work.session, rollout.id)
        ),
        lease=None
        if held is None
        else LeaseInfo(
            holder=f"{held.holder} (host {held.host}, process {held.os_pid})",
            since=held.acquired_at,
            renewed=held.beat_at,
            expires=held.beat_at + lease.EXPIRY,
            expired=held.free(),
        ),
        last_error=rollout.failure or "",
    )


def _step(record: StepRecord) -> StepRun:
    seconds = 0.0
    if record.started_at is not None and record.finished_at is not None:
        seconds = (record.finished_at - record.started_at).total_seconds()
    return StepRun(
        id=record.step,
        title=record.title,
        phase=record.phase,
        outcome=_OUTCOMES[record.status],
        seconds=seconds,
        attempts=record.attempts,
        error=record.error or "",
    )


def _progress(work: Work) -> Iterable[TableProgress]:
    for state in backfills.all_of(work.session, work.rollout.id):
        complete = state.status is BackfillStatus.FINISHED
        yield TableProgress(
            table=state.table,
            done=float(state.done_blocks),
            total=float(state.total_blocks),
            rows=state.done_rows,
            complete=complete,
        )


def _verifications(work: Work) -> Iterable[TableVerification]:
    for table in work.plan.verified:
        found = verifications.latest(work.session, work.rollout.id, table)
        if found is not None:
            yield table_verification(found)


def _failures(work: Work) -> Iterable[FailureCount]:
    found = sync_failures.all_of(work.session, work.rollout.id, limit=1000)
    for mapping in work.plan.mappings:
        mine = [failure for failure in found if failure.table_oid == mapping.oid]
        if mine:
            message = Counter(failure.message for failure in mine).most_common(1)[0][0]
            keys = tuple(dict.fromkeys(key_words(f.key) for f in mine))
            count = sync_failures.count(work.session, work.rollout.id, mapping.oid)
            yield FailureCount(table=mapping.table, rows=count, message=message, sample_keys=keys[:10])


def without_old_form_of(session: Session, rollout: int) -> tuple[WithoutOldForm, ...]:
    """The rows of the new version that are recorded as having no old form, by table."""
    return tuple(
        WithoutOldForm(
            table=qualified(one.schema_name, one.table_name),
            rows=one.rows,
            sample_keys=tuple(key_words(key) for key in one.samples),
        )
        for one in without_old_form.counts(session, rollout, samples=10)
    )


def key_words(key: Mapping[str, object]) -> str:
    """A key as people read it."""
    return ", ".join(f"{name}={value}" for name, value in key.items())


def history_of(found: Iterable[events.Event]) -> list[HistoryEntry]:
    """Events of the catalog as people read them, in their order."""
    return [_entry(event) for event in found]


def _entry(event: events.Event) -> HistoryEntry:
    states = {state.value for state in State}
    phases = {phase.value for phase in Phase}
    before = State(event.from_state) if event.from_state in states else None
    after = State(event.to_state) if event.to_state in states else None
    arrow = f"{event.from_state} → {event.to_state}" if event.from_state else (event.to_state or "")
    # A rollout's subject is its migration and its target already.
    about = f"{event.subject}.".startswith(f"{event.migration}.")
    text = " ".join(part for part in ("" if about else event.migration, event.subject, arrow) if part)
    phase = event.detail.get("phase")
    return HistoryEntry(
        at=event.at,
        event=event.kind,
        text=text,
        phase=Phase(phase) if phase in phases else None,
        before=before,
        state=after,
        by=event.actor,
        details=dict(event.detail),
    )
