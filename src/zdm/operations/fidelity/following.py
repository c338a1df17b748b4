"""The steps of what follows by statements of its own: before, around and after the swap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from zdm.model.names import QualifiedName
from zdm.model.requests import Follow, FollowRequest
from zdm.model.step import Lock, Phase, Stage, Step, Transaction
from zdm.operations import ddl
from zdm.operations.base import Context, Draft
from zdm.operations.fidelity.columns import attribute_statements
from zdm.operations.fidelity.dependents import replica_identity_index
from zdm.operations.fidelity.partitioned_keys import exchanged_key, pointing_at_exchanged
from zdm.operations.fidelity.parts import not_null_in_swap
from zdm.operations.fidelity.references import late_references, references_in_swap, released_in_swap
from zdm.operations.fidelity.review import find_index, temporary
from zdm.operations.fidelity.under_lock import built_in_swap
from zdm.operations.shape import TableShape


@dataclass(slots=True)
class InSwap:
    """What belongs into the swap of one table.

    Parameters
    ----------
    before: statements that let dependants read the successors, before the old columns go.
    after: statements that need the final names, and NOT NULL proven.
    remake_view: whether the new version's view stands in the way and must be made anew.
    also_locked: further tables that those statements lock.
    """

    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    remake_view: bool = False
    also_locked: list[QualifiedName] = field(default_factory=list)

    def add(self, other: InSwap) -> None:
        """What another table's dependants need in the same transaction."""
        self.before += other.before
        self.after += other.after
        self.remake_view |= other.remake_view
        self.also_locked += other.also_locked


def follow_steps(phase: Phase, shape: TableShape, context: Context) -> list[Step]:
    """The steps of every dependant of the table in `phase`, outside the swap."""
    found: list[Step] = []
    for request in context.draft.follows:
        if request.table != shape.name:
            continue
        answer = context.followed[request.key]
        if phase is Phase.PREPARATION and answer.prepare:
            found.append(_prepare(request, answer))
        if phase is Phase.MIGRATION and answer.build:
            found.append(
                _step(
                    request,
                    phase,
                    Stage.INDEXES,
                    f"make the {request.kind} {request.name} for the new column",
                    answer.build,
                    Lock.SHARE_UPDATE_EXCLUSIVE,
                    undo=answer.unbuild,
                )
            )
        if phase is Phase.CLEANUP and answer.tighten:
            title = f"let the {request.kind} {request.name} read the new column"
            step = _step(request, phase, Stage.TIGHTEN, title, answer.tighten, Lock.ACCESS_EXCLUSIVE)
            action = Transaction(
                statements=answer.tighten, locks=(ddl.lock(answer.on, Lock.ACCESS_EXCLUSIVE),)
            )
            found.append(step.model_copy(update={"action": action}))
        if phase is Phase.CLEANUP and answer.finish:
            title = f"give the {request.kind} {request.name} its name again"
            action = Transaction(statements=answer.finish)
            step = _step(request, phase, Stage.FINISH, title, answer.finish, Lock.NONE)
            found.append(step.model_copy(update={"id": f"{step.id}.name", "action": action}))
    return found


def unprepared(table: QualifiedName, context: Context) -> tuple[str, ...]:
    """What takes back what the dependants of a table, and of its parts, were prepared for: together with the columns that they read."""
    parts = context.draft.parts
    return tuple(
        statement
        for request in context.draft.follows
        if table in (request.table, parts[request.table].part_of if request.table in parts else None)
        for statement in context.followed[request.key].unprepare
    )


def _prepare(request: FollowRequest, answer: Follow) -> Step:
    return _step(
        request,
        Phase.PREPARATION,
        Stage.SYNC,
        f"let the {request.kind} {request.name} of {request.table} fire for either version's column",
        answer.prepare,
        Lock.ACCESS_EXCLUSIVE if answer.strong else Lock.SHARE_ROW_EXCLUSIVE,
        undo=answer.unprepare,
    )


def _step(
    request: FollowRequest,
    phase: Phase,
    stage: Stage,
    title: str,
    statements: Sequence[str],
    mode: Lock,
    *,
    undo: Sequence[str] = (),
) -> Step:
    locks = (ddl.lock(request.table, mode),)
    return Step(
        id=f"{phase.value}.{request.table}.carry.{request.kind.replace(' ', '_')}.{request.name}",
        title=title,
        phase=phase,
        stage=stage,
        operation=request.where,
        action=Transaction(statements=tuple(statements), locks=locks),
        undo=(Transaction(statements=tuple(undo), locks=locks),) if undo else (),
    )


def in_swap(shape: TableShape, context: Context) -> InSwap:
    """What the table's dependants need in the transaction of its swap."""
    found = InSwap()
    for request in context.draft.follows:
        answer = context.followed.get(request.key)
        if request.table != shape.name or answer is None:
            continue
        found.before += answer.swap
        if answer.remade:
            column = shape.original(request.name)
            assert column is not None
            found.remake_view = True
            found.before += attribute_statements(shape.name, column, request.name, column.type)
    found.before += released_in_swap(shape, context)
    found.after += not_null_in_swap(shape)
    replaced = {new.replaces for new in shape.all_new() if new.replaces is not None}
    index = replica_identity_index(shape.table.dependents, replaced)
    if index is not None:
        found.after += _replica_identity(shape, index, context.draft)
    found.after += built_in_swap(shape, context) + references_in_swap(shape, context)
    found.also_locked += [r.references for r in late_references(shape, context) if r.references is not None]
    found.also_locked += pointing_at_exchanged(context.draft, shape)
    return found


def _replica_identity(shape: TableShape, index: str, draft: Draft) -> list[str]:
    """Let the index that was carried be it again; a key that the swap exchanges is it by then."""
    table = draft.existing(shape.name)
    mine = find_index(shape, index) is not None
    keys = [c.index or c.name for c in (table or shape.table).constraints if c.kind == "primary key"]
    if index in keys and (not mine or exchanged_key(shape) is not None):
        return []
    # A partition's part of the whole table's index has its name by then.
    return [
        ddl.text(
            "ALTER TABLE ONLY {t} REPLICA IDENTITY USING INDEX {i}",
            t=ddl.table(shape.name),
            i=ddl.ident(temporary(index) if mine else index),
        )
    ]
