"""Runs one phase of a rollout: its gates, its steps, its states."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta

import psycopg

from zdm.catalog import gates as gate_store
from zdm.catalog import rollouts, without_old_form
from zdm.db.session import transaction
from zdm.engine.executor import Executor
from zdm.engine.fence import lift_fence, lift_interrupted
from zdm.engine.leased import leased
from zdm.engine.move_gates import evaluate_gates, refuse_drift
from zdm.engine.reconcile import carry_over
from zdm.engine.results import AdvanceResult, Outcome, StepOutcome, StepRun
from zdm.engine.work import Work
from zdm.errors import GateRefused, Interrupted, ZdmError
from zdm.model.phases import PhaseDefinition, PhaseMachine, State, machine
from zdm.model.step import Phase
from zdm.model.verdict import Verdict

GATE_POLL = timedelta(seconds=2)
"""How often `--wait` asks the gates again: each answer costs the server a few catalog queries."""
SAY_AGAIN = timedelta(seconds=30)
"""How often a wait says again what it waits for, as long as it is for the same gates."""


def run_phase(work: Work, *, wait: timedelta | None = None) -> AdvanceResult:
    """Run the phase that follows the rollout's state, or go on with the one that was interrupted.

    Parameters
    ----------
    wait: how long to wait for gates that refuse; None means not at all.

    Raises
    ------
    IllegalMove: nothing follows.
    Busy: somebody else holds the rollout.
    Drift: the drift gate found that the database is not what zdm left.
    ZdmError: a step failed; the rollout is in the phase's failure state, and re-running continues.
    """
    moves = machine()
    definition = moves.next(work.rollout.state)
    begun = time.monotonic()
    with leased(work, f"advance {work.rollout.migration}") as executor:
        work.refresh()  # somebody may have moved it before the lease was ours
        definition = moves.next(work.rollout.state)
        before = work.rollout.state
        resumed = moves.resumes(before)
        if work.rollout.paused:
            raise GateRefused(
                f"The rollout of {work.rollout.migration} is paused.",
                remedy=f"`zdm resume {work.rollout.migration}` lets it go on.",
                changed="Nothing was changed.",
            )
        if definition.phase is not Phase.PREPARATION:
            carry_over(work, executor.connect)
        verdicts: list[Verdict] = []
        waited = 0.0
        if not resumed:
            if definition.phase is Phase.CLEANUP:
                lift_interrupted(work, executor)
            verdicts, waited = _pass_gates(work, executor, definition, wait)
            if not moves.decide(before, verdicts).allowed:
                refuse_drift(verdicts)
                return _result(work, moves, definition, before, Outcome.REFUSED, verdicts, (), begun, waited)
        runs = _run_steps(work, executor, definition, resumed=resumed)
        _finish(work, executor, definition)
        return _result(
            work, moves, definition, before, Outcome.DONE, verdicts, runs, begun, waited, resumed=resumed
        )


def _pass_gates(
    work: Work, executor: Executor, definition: PhaseDefinition, wait: timedelta | None
) -> tuple[list[Verdict], float]:
    begun = time.monotonic()
    deadline = begun + (wait.total_seconds() if wait else 0.0)
    shown: tuple[str, ...] = ()
    said = begun
    while True:
        executor.lease.check()
        verdicts = evaluate_gates(work, definition)
        refused = [v for v in verdicts if not v.lets_through]
        left = deadline - time.monotonic()
        if not refused or left <= 0 or any(v.gate == "drift" for v in refused):
            break
        gates, now = tuple(v.gate for v in refused), time.monotonic()
        # What a gate found changes with every look; a line for each would bury the log.
        if gates != shown or now - said >= SAY_AGAIN.total_seconds():
            work.reporter.waiting(
                "waiting for " + "; ".join(f"{v.gate}: {v.observed} ({v.threshold})" for v in refused)
            )
            shown, said = gates, now
        time.sleep(min(GATE_POLL.total_seconds(), left))
    gate_store.store(work.session, work.rollout.id, definition.phase, verdicts)
    work.reporter.gates(definition.phase, verdicts)
    return verdicts, time.monotonic() - begun


def _run_steps(
    work: Work, executor: Executor, definition: PhaseDefinition, *, resumed: bool
) -> tuple[StepRun, ...]:
    steps = work.plan.of(definition.phase)
    if work.rollout.state is not definition.running:
        _move(work, executor, definition.running)
    work.reporter.phase_started(definition.phase, len(steps), resumed=resumed)
    runs: list[StepRun] = []
    try:
        if definition.phase is Phase.CLEANUP and work.rollout.fenced_at is not None:
            # Cleanup's statements speak of the names as planned. Between here and the swap the old version works again,
            # and is synced as ever; nothing is lost either way.
            lift_fence(work, executor)
        for number, step in enumerate(steps, 1):
            work.reporter.step_started(step, number, len(steps))
            run = executor.run(step)
            work.reporter.step_finished(step, number, len(steps), run)
            runs.append(run)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"Interrupted in {definition.title.lower()}.",
            remedy=f"Run `zdm advance {work.rollout.migration}` to go on, or `zdm rollback {work.rollout.migration}`.",
            changed=f"{len(runs)} of {len(steps)} steps are done and stay.",
        ) from error
    except (ZdmError, psycopg.Error) as error:
        _fail(work, executor, definition.failed, error)
        raise _explained(
            work, definition, steps[len(runs)].title if len(runs) < len(steps) else "", error
        ) from error
    return tuple(runs)


def _explained(work: Work, definition: PhaseDefinition, title: str, error: Exception) -> ZdmError:
    """The error with what was being done, what is left behind, and the way on. Keeps the class, so also the exit code."""
    back = f", or `zdm rollback {work.rollout.migration}` to return" if definition.reversible else ""
    changed = (
        f"The rollout is {definition.failed} and both versions of the application go on working. Correct the cause and run "
        f"`zdm advance {work.rollout.migration}` to continue{back}."
    )
    where = f"{definition.title}, {title}: " if title else f"{definition.title}: "
    if isinstance(error, ZdmError):
        error.changed = changed
        error.message = where + error.message
        return error
    remedy = ""
    if isinstance(error, psycopg.IntegrityError) and work.plan.promises:
        remedy = f"`zdm verify {work.rollout.migration}` counts and names the rows that break a constraint."
    return ZdmError(f"{where}{str(error).strip()}", remedy=remedy, changed=changed)


def _fail(work: Work, executor: Executor, state: State, error: Exception) -> None:
    """Record the failure. If even that is impossible the state stays as it is, from which a re-run continues as well."""
    with suppress(psycopg.Error, ZdmError):
        with nullcontext(work.session) if not work.session.closed else executor.connect() as session:
            work.rollout = rollouts.move(session, work.rollout.id, state, failure=str(error).strip())
        return
    work.reporter.note(
        "the failure could not be recorded; the state stays as it was, and re-running continues"
    )


def _move(work: Work, executor: Executor, state: State, then: Callable[[], None] | None = None) -> None:
    with transaction(executor.session):
        executor.guard(executor.session)
        work.rollout = rollouts.move(executor.session, work.rollout.id, state)
        if then is not None:
            then()


def _finish(work: Work, executor: Executor, definition: PhaseDefinition) -> None:
    def decide() -> None:
        if work.rollout.authority is not definition.authority:
            rollouts.set_authority(executor.session, work.rollout.id, definition.authority)
        if definition.done is State.COMPLETED:
            # There is no old form any more that a row could be without.
            without_old_form.forget(executor.session, work.rollout.id)

    _move(work, executor, definition.done, decide)
    work.refresh()


def _result(
    work: Work,
    moves: PhaseMachine,
    definition: PhaseDefinition,
    before: State,
    outcome: Outcome,
    verdicts: Sequence[Verdict],
    runs: Sequence[StepRun],
    begun: float,
    waited: float,
    *,
    resumed: bool = False,
) -> AdvanceResult:
    state = work.rollout.state
    return AdvanceResult(
        rollout=work.rollout.migration,
        target=work.rollout.target,
        phase=definition.phase,
        before=before,
        state=state,
        outcome=outcome,
        resumed=resumed,
        verdicts=tuple(verdicts),
        steps=tuple(r for r in runs if r.outcome is not StepOutcome.PENDING),
        seconds=time.monotonic() - begun - waited,
        waited_seconds=waited,
        next_phase=next_phase(moves, state),
        can_return=moves.can_roll_back(state),
        old_schema=work.rollout.old_schema,
        new_schema=work.rollout.new_schema,
    )


def next_phase(moves: PhaseMachine, state: State) -> Phase | None:
    """The phase that `advance` would run from `state`; None if nothing follows."""
    return None if not moves.follows(state) else moves.next(state).phase
