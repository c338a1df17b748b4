"""The way back: the steps that ran, undone last first, from any phase before cleanup."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import psycopg

from zdm.catalog import rollouts, row_changes, sync_failures, without_old_form
from zdm.catalog import steps as step_store
from zdm.catalog.steps import StepStatus
from zdm.db.session import Connection, fetch_value, transaction
from zdm.engine.executor import Executor
from zdm.engine.fence import lift_fence, lift_interrupted
from zdm.engine.leased import leased
from zdm.engine.leftovers import leftovers
from zdm.engine.reconcile import carry_over
from zdm.engine.results import RollbackResult, RowWithoutOldForm, StepRun, VerifyResult
from zdm.engine.rows import verify_all
from zdm.engine.status import without_old_form_of
from zdm.engine.work import Work
from zdm.errors import GateRefused, IllegalMove, Interrupted, Problem, ZdmError
from zdm.model.mapping import Authority
from zdm.model.names import QualifiedName, qualified
from zdm.model.phases import State, machine
from zdm.model.plan import Plan
from zdm.model.row_mapping import RowMapping
from zdm.model.step import Step
from zdm.sql import records
from zdm.sql.closed import forget
from zdm.sql.identifiers import qualified_name


def roll_back(work: Work, *, verify: bool = True) -> RollbackResult:
    """Return to the old version, keeping every row and everything the new application wrote.

    Parameters
    ----------
    verify: after switchover, compare every row first, and refuse while the old side is not what the new one says. Where an
        interrupted way back has undone a step already, it goes on without.

    Raises
    ------
    IllegalMove: there is nothing to take back, or cleanup has begun.
    GateRefused: the verification found rows whose old side does not hold what the new application wrote.
    ZdmError: an undo failed; the rollout is `rollback_failed`, and re-running continues.
    """
    refuse_no_way_back(work)
    begun = time.monotonic()
    with leased(work, f"rollback {work.rollout.migration}") as executor:
        work.refresh()
        refuse_no_way_back(work)
        before = work.rollout.state
        lift_interrupted(work, executor)
        carry_over(work, executor.connect, again=True)
        # On the rest of a way back there is nothing to compare any more: it was done before the first step was undone.
        verify = verify and not _interrupted(work, executor)
        if verify:
            _refuse_what_failed(work, executor)
        found = _verified(work, executor) if verify else None
        if work.rollout.state is not State.ROLLING_BACK:
            with transaction(executor.session):
                executor.guard(executor.session)
                work.rollout = rollouts.move(executor.session, work.rollout.id, State.ROLLING_BACK)
        if not _interrupted(work, executor):
            _keep_lone_parents(work, executor)
        _tell_without_old_form(work, executor)
        runs = _undo(work, executor)
        with transaction(executor.session):
            executor.guard(executor.session)
            sync_failures.clear(executor.session, work.rollout.id)
            closed = [mapping.table for mapping in work.plan.mappings]
            closed += [table for mapping in work.plan.row_mappings for table in mapping.tables]
            for table in dict.fromkeys(closed):
                executor.session.execute(forget(table).encode())
            rollouts.set_authority(executor.session, work.rollout.id, Authority.OLD)
            rollouts.set_paused(executor.session, work.rollout.id, False)
            work.rollout = rollouts.move(executor.session, work.rollout.id, State.ROLLED_BACK)
        return RollbackResult(
            rollout=work.rollout.migration,
            target=work.rollout.target,
            before=before,
            state=work.rollout.state,
            steps=tuple(runs),
            verification=found,
            without_old_form=tuple(_kept(work, executor)),
            leftovers=tuple(leftovers(executor.session, work.plan)),
            seconds=time.monotonic() - begun,
        )


def refuse_no_way_back(work: Work) -> None:
    """Raise IllegalMove where there is nothing to take back, or cleanup has begun."""
    state = work.rollout.state
    if not machine().can_roll_back(state):
        raise IllegalMove(_why_not(state), changed="Nothing was changed.")


def _why_not(state: State) -> str:
    reasons = {
        State.PLANNED: "Nothing has been done yet, so there is nothing to roll back.",
        State.ROLLED_BACK: "The rollout is rolled back already.",
        State.COMPLETED: "The rollout is complete: the old structure is gone, and there is no way back.",
    }
    return reasons.get(
        state,
        f"The rollout is {state.words}: cleanup has begun, and there is no way back. `zdm advance` finishes it.",
    )


def _interrupted(work: Work, executor: Executor) -> bool:
    """Whether a step is undone already: the columns, tables and triggers that a comparison reads may be gone."""
    return any(
        record.status is StepStatus.UNDONE for record in step_store.all_of(executor.session, work.rollout.id)
    )


def _verified(work: Work, executor: Executor) -> VerifyResult | None:
    """Compare before leaving the new side's authority; before switchover the old side is the truth by definition."""
    if work.rollout.authority is not Authority.NEW:
        return None
    found = verify_all(work, executor)
    lost = [t for t in found.tables if t.new_disagrees or t.extra or t.different]
    if lost:
        raise GateRefused(
            "Rows of the new version are not carried over to the old one yet.",
            problems=[
                Problem(
                    f"{t.table}: {t.new_disagrees + t.extra + t.different} rows, for example {'; '.join(t.sample_keys)}"
                )
                for t in lost
            ],
            remedy=f"Run `zdm verify {work.rollout.migration} --repair`, then roll back; or `zdm rollback --no-verify` to "
            "go back without them.",
            changed="Nothing was changed.",
        )
    return found


def _refuse_what_failed(work: Work, executor: Executor) -> None:
    """What the new version wrote and the old one cannot hold would go with the new structure."""
    failed = row_changes.without_form(executor.session, work.rollout.id, side="new")
    if failed:
        raise GateRefused(
            "The new version wrote rows that have no old form.",
            problems=[Problem(f"{one.table}: key {', '.join(one.key)}: {one.reason}") for one in failed],
            remedy=f"Correct them through the new version; or `zdm rollback {work.rollout.migration} --no-verify`, which keeps "
            "them in zdm.row_conflicts.",
            changed="Nothing was changed.",
        )


def _keep_lone_parents(work: Work, executor: Executor) -> None:
    """Rows of a shared table that goes, and that no row has, are in no value of the old version."""
    sharing: dict[QualifiedName, list[RowMapping]] = {}
    for mapping in work.plan.row_mappings:
        parent = mapping.parent
        if parent is None or not parent.created:
            continue
        # Preparation may have been interrupted before anybody could write either.
        wanted = ((parent.table, parent.identity), (mapping.new.table, parent.reference))
        if all(_is_there(executor, table, columns) for table, columns in wanted):
            sharing.setdefault(parent.table, []).append(mapping)
    for mappings in sharing.values():
        with transaction(executor.session):
            executor.guard(executor.session)
            for statement in records.lone_parents(mappings, work.rollout.id):
                executor.session.execute(statement)


def _is_there(executor: Executor, table: QualifiedName, columns: Sequence[str]) -> bool:
    found = fetch_value(
        executor.session,
        "SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass(%s) AND attname = ANY (%s)"
        " AND NOT attisdropped",
        [qualified_name(table).as_string(None), list(columns)],
    )
    return bool(found == len(columns))


def _tell_without_old_form(work: Work, executor: Executor) -> None:
    """Which rows will not be in the old version, said before anything goes."""
    for one in without_old_form_of(executor.session, work.rollout.id):
        work.reporter.note(
            f"{one.table}: {one.rows} row{'' if one.rows == 1 else 's'} without an old form, for example {'; '.join(one.sample_keys[:3])}; "
            "kept in zdm.rows_without_old_form"
        )


def _kept(work: Work, executor: Executor) -> list[RowWithoutOldForm]:
    return [
        RowWithoutOldForm(
            table=qualified(row.schema_name, row.table_name),
            key=dict(row.key),
            new_row=dict(row.new_row),
            old_row=None if row.old_row is None else dict(row.old_row),
            sqlstate=row.sqlstate,
            reason=row.reason,
            at=row.at,
        )
        for row in without_old_form.all_of(executor.session, work.rollout.id)
    ]


def to_undo(session: Connection, plan: Plan, rollout: int) -> list[Step]:
    """The steps that ran, or began to, and are not taken back yet, the last first."""
    steps = {step.id: step for step in plan.steps}
    return [
        steps[record.step]
        for record in reversed(step_store.all_of(session, rollout))
        if record.status not in (StepStatus.PENDING, StepStatus.UNDONE)
    ]


def _undo(work: Work, executor: Executor) -> list[StepRun]:
    open_steps = to_undo(executor.session, work.plan, work.rollout.id)
    runs: list[StepRun] = []
    try:
        if work.rollout.fenced_at is not None:
            lift_fence(work, executor)
        for number, step in enumerate(open_steps, 1):
            work.reporter.step_started(step, number, len(open_steps))
            run = executor.undo(step)
            work.reporter.step_finished(step, number, len(open_steps), run)
            runs.append(run)
    except KeyboardInterrupt as error:
        raise Interrupted(
            "Interrupted on the way back.",
            remedy=f"Run `zdm rollback {work.rollout.migration}` to go on.",
            changed=f"{len(runs)} of {len(open_steps)} steps are undone.",
        ) from error
    except (ZdmError, psycopg.Error) as error:
        with suppress(psycopg.Error, ZdmError):
            rollouts.move(work.session, work.rollout.id, State.ROLLBACK_FAILED, failure=str(error).strip())
        text = error.message if isinstance(error, ZdmError) else str(error).strip()
        failure = error if isinstance(error, ZdmError) else ZdmError(text)
        failure.message = f"On the way back: {text}"
        failure.changed = (
            f"{len(runs)} of {len(open_steps)} steps are undone; the old application goes on working. "
            f"Run `zdm rollback {work.rollout.migration}` to continue."
        )
        raise failure from error
    return runs
