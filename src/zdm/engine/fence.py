"""Raises and lifts the fence around the old version: the statements are `zdm.sql.fence`'s, the recording is done here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zdm.catalog import rollouts
from zdm.db.locks import run_locked
from zdm.db.session import fetch_value, transaction
from zdm.engine.executor import Executor
from zdm.engine.leased import leased
from zdm.engine.move_gates import evaluate_gates, refuse_drift
from zdm.engine.results import FenceResult
from zdm.engine.work import Work
from zdm.errors import BadInput, IllegalMove, Problem
from zdm.model.mapping import Authority, TableMapping
from zdm.model.names import sql_name
from zdm.model.phases import State, machine
from zdm.model.plan import Plan
from zdm.model.step import Phase
from zdm.sql import fence, row_objects, row_sync, sync
from zdm.sql.fence import FencePart


def _installer(work: Work, *, fenced: bool) -> Callable[[TableMapping, Authority], Sequence[str]]:
    def install(mapping: TableMapping, authority: Authority) -> Sequence[str]:
        # The triggers' definitions follow the renames, so their comments must as well.
        made = sync.install(mapping, work.rollout.id, authority)
        # On each partition or child of a table they would take too long to make again, and need not be.
        statements = list(made.functions + (() if mapping.spread else made.triggers) + made.comments)
        for planned in work.plan.row_mappings:
            if planned.old.oid == mapping.oid:
                rows = fence.effective_rows(planned, work.plan, fenced=fenced)
                for side in row_objects.sides(rows):
                    # The new side's triggers stay as they are; what they call writes the renamed columns.
                    added = row_sync.install(rows, work.rollout.id, side)
                    statements += added.functions + added.triggers if side == "old" else added.functions
                    statements += added.comments
        return statements

    return install


def raise_parts(work: Work) -> tuple[FencePart, ...]:
    """What raising the fence does."""
    return fence.raise_fence(work.plan, work.rollout.authority, _installer(work, fenced=True))


def lift_parts(work: Work) -> tuple[FencePart, ...]:
    """What lifting it does."""
    return fence.lift_fence(work.plan, work.rollout.authority, _installer(work, fenced=False))


def set_fence(work: Work, *, up: bool) -> FenceResult:
    """Raise or lift the fence.

    Raises
    ------
    IllegalMove: the new version is not the authority yet, so the old one cannot be taken away.
    BadInput: the old version has no name of its own, so there is nothing to fence; or something else uses its names.
    """
    if work.rollout.state in (State.COMPLETED, State.ROLLED_BACK):
        raise IllegalMove(
            f"The rollout is {work.rollout.state.words}: there are no two versions any more.",
            changed="Nothing was changed.",
        )
    allowed = (State.SWITCHED_OVER, State.CLEANUP_FAILED) if up else tuple(State)
    if work.rollout.state not in allowed:
        raise IllegalMove(
            f"The fence can be raised only after switchover; the rollout is {work.rollout.state.words}.",
            remedy=f"`zdm advance {work.rollout.migration}` until it is switched over.",
            changed="Nothing was changed.",
        )
    if up and work.rollout.fenced_at is None:
        _check(work.plan, work)
    with leased(work, "fence") as executor:
        work.refresh()
        if up:
            lift_interrupted(work, executor)
        was = work.rollout.fenced_at is not None
        if up and not was:
            # Raising it makes the sync anew, which would hide what somebody changed.
            refuse_drift(evaluate_gates(work, machine().definition(Phase.CLEANUP), only=("drift",)))
        parts = raise_parts(work) if up else lift_parts(work)
        if up and not was:
            while not _raised(work, executor, parts):
                work.reporter.note(
                    "another rollout brought a shared schema back meanwhile; setting it aside again"
                )
        elif not up:
            lift_fence(work, executor)
        work.refresh()
    return FenceResult(
        rollout=work.rollout.migration,
        target=work.rollout.target,
        fenced=up,
        changed=was is not up,
        statements=tuple(s for part in parts for s in part.action.statements),
    )


def lift_fence(work: Work, executor: Executor) -> None:
    """Bring the old names back, whether all of the fence or only a part of it stands, and record it."""
    for part in lift_parts(work):
        if part.schema in work.plan.previous_schemas:
            _bring_back(work, executor, part)
        else:
            _do(work, executor, part)
    with transaction(executor.session):
        executor.guard(executor.session)
        rollouts.set_fenced(executor.session, work.rollout.id, fenced=False)
    work.refresh()


def lift_interrupted(work: Work, executor: Executor) -> None:
    """Lift what stands of a fence whose raising or lifting was cut off, so that the names are again as they are recorded."""
    fenced = work.rollout.fenced_at is not None
    query = fence.standing(work.plan) if fenced else fence.touched(work.plan)
    if fetch_value(executor.session, query.encode()) is not fenced:  # type: ignore[arg-type]
        work.reporter.note("the fence was raised or lifted only in part; lifting it")
        lift_fence(work, executor)


def _raised(work: Work, executor: Executor, parts: Sequence[FencePart]) -> bool:
    """Raise the fence and record it; False if another rollout undid a part of it before it was recorded."""
    for part in parts:
        _do(work, executor, part)
    with transaction(executor.session):
        executor.guard(executor.session)
        executor.session.execute(_ALONE)
        if not fetch_value(executor.session, fence.standing(work.plan).encode()):  # type: ignore[arg-type]
            return False
        rollouts.set_fenced(executor.session, work.rollout.id, fenced=True)
    return True


def _bring_back(work: Work, executor: Executor, part: FencePart) -> None:
    """Bring the schema of an earlier version back, unless it is behind the fence of another rollout as well."""
    with transaction(executor.session, lock_timeout=work.budget.timeout):
        executor.guard(executor.session)
        executor.session.execute(_ALONE)
        if fetch_value(executor.session, part.done_when.encode()):  # type: ignore[arg-type]
            return
        holders = [
            other
            for other in rollouts.all_of(executor.session, active=True)
            if other.id != work.rollout.id
            and other.fenced_at is not None
            and part.schema in fence.old_schemas(rollouts.plan(executor.session, other.id))
        ]
        if not holders:
            for statement in part.action.statements:
                executor.session.execute(statement.encode())
            return
    names = ", ".join(f"{other.migration} on {sql_name(other.target)}" for other in holders)
    work.reporter.note(
        f"version schema {sql_name(part.schema)} stays aside, because it is behind the fence of {names} as well; lifting that brings it back"
    )


_ALONE = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('zdm.fence', 0))"
"""Whether a shared schema may come back is decided by one at a time, and not between another's renames and their record."""


def _do(work: Work, executor: Executor, part: FencePart) -> None:
    if fetch_value(executor.session, part.done_when.encode()):  # type: ignore[arg-type]
        return
    run_locked(
        executor.session,
        part.action.statements,
        part.action.locks,
        work.budget,
        executor.guard,
        lambda report: work.reporter.waiting(str(report)),
    )


def _check(plan: Plan, work: Work) -> None:
    if not fence.is_fenceable(plan):
        raise BadInput(
            "The old version has no name of its own: its statements mean the same in the new one, so there is nothing to fence.",
            remedy="Switch the gate off in the migration file: `gates: {old_version_unused: off}`.",
            changed="Nothing was changed.",
        )
    found = work.session.execute(fence.obstacles(plan).encode()).fetchall()
    if found:
        raise BadInput(
            "Something other than the old application uses names that the fence would take away.",
            remedy="Change it to the new version first.",
            changed="Nothing was changed.",
            problems=[_obstacle(kind, name, column) for kind, name, column in found],
        )


def _obstacle(kind: str, name: str, column: str | None) -> Problem:
    return Problem(f"{kind} {name}" + (f" mentions column {column}" if column else " contains the table"))
