"""A draft over tables made by hand, and what a migration's operations make of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zdm.errors import Problem
from zdm.model.expression import ColumnRef, Expression
from zdm.model.mapping import Expose
from zdm.model.names import QualifiedName, qualified
from zdm.model.requests import Dependents, Follow
from zdm.model.step import Concurrent, Phase, Scan, Step, Transaction
from zdm.model.table import Column, Constraint, Dependent, Index, Table, TableKind, Trigger
from zdm.operations import fidelity
from zdm.operations.base import Context, Draft
from zdm.operations.migration import Migration

PG15, PG18 = 150018, 180006


def table(
    name: str,
    *columns: Column,
    constraints: tuple[Constraint, ...] = (),
    indexes: tuple[Index, ...] = (),
    triggers: tuple[Trigger, ...] = (),
    dependents: tuple[Dependent, ...] = (),
    referenced_by: tuple[Constraint, ...] = (),
    kind: TableKind = TableKind.TABLE,
    may_alter: bool = True,
    schema: str = "public",
    size: int = 0,
) -> Table:
    """A table with numbered columns, of `size` bytes."""
    return Table(
        name=qualified(schema, name),
        oid=16384,
        kind=kind,
        owner="owner",
        may_alter=may_alter,
        columns=tuple(c.model_copy(update={"number": n}) for n, c in enumerate(columns, 1)),
        constraints=constraints,
        indexes=indexes,
        bytes=size,
        triggers=triggers,
        dependents=dependents,
        referenced_by=referenced_by,
    )


def column(name: str, type_: str = "integer", **more: Any) -> Column:
    """A column, nullable unless `not_null` is given."""
    return Column(name=name, number=0, type=type_, not_null=more.pop("not_null", False), **more)


@dataclass
class Outcome:
    """What came of a migration: what is wrong, or the draft and the operations' own steps."""

    problems: list[Problem]
    draft: Draft
    steps: list[Step] = field(default_factory=list)

    def sql(self) -> str:
        """Every step as people would read it in a golden file."""
        return "\n".join(show(step) for step in self.steps)

    def texts(self) -> list[str]:
        """What is wrong, in words."""
        return [problem.what for problem in self.problems]


def show(step: Step) -> str:
    """One step: where it runs, its locks, its SQL, its undo."""
    lines = [f"[{step.phase.value}/{step.stage.name}] {step.id}"]
    lines += [f"  lock {lock.table} {lock.mode.value} {lock.hold}" for lock in step.locks]
    for mark, actions in (("  ", (step.action,)), ("  undo ", step.undo)):
        for action in actions:
            if isinstance(action, Transaction):
                lines += [f"{mark}{statement}" for statement in action.statements]
            elif isinstance(action, Concurrent | Scan):
                lines.append(f"{mark}{action.statement}")
    return "\n".join(lines)


def expression(text: str, draft: Draft, name: QualifiedName) -> Expression:
    """A stand-in for the server's answer: words that are shown columns become references to physical ones."""
    import re

    shape = draft.shapes[name]
    shown = {c.name: c.physical for c in shape.columns}
    parts: list[str | ColumnRef] = [
        ColumnRef(column=shown[piece]) if piece in shown else piece
        for piece in re.split(r"(\b\w+\b)", text)
        if piece
    ]
    return Expression(source=text, parts=tuple(parts), type="unknown")


def run(
    tables: list[Table],
    *operations: dict[str, Any],
    version: int = PG18,
    expose: Expose = Expose.VIEWS,
    rewrite_free: set[tuple[str, str]] | None = None,
    instant: set[tuple[str, str | None]] | None = None,
    taken: set[QualifiedName] | None = None,
    carried: dict[str, str] | None = None,
    dependents: Dependents = Dependents.REFUSE,
) -> Outcome:
    """Apply and plan the operations as the engine does, with answers of the server made up."""
    migration = Migration.model_validate({"id": "m", "operations": list(operations)})
    assert Migration.model_validate_json(migration.canonical()) == migration
    draft = Draft("public", "m", version, expose, {t.name: t for t in tables})
    draft.rewrite_free = rewrite_free or set()
    draft.instant_columns = instant or set()
    draft.taken = taken or set()
    draft.dependents = dependents
    problems: list[Problem] = []
    labels = [f"{position}:{op.kind}" for position, op in enumerate(migration.operations, 1)]
    for label, op in zip(labels, migration.operations, strict=True):
        problems += op.apply(draft, label)
    if not problems:
        problems += fidelity.settle(draft)
    if problems:
        return Outcome(problems, draft)
    followed = {f.key: Follow(on=f.table, swap=(f"<{f.kind} {f.name}>",)) for f in draft.follows}
    expressions = {r.key: expression(r.text, draft, r.table) for r in draft.requests}
    answers = {c.key: (carried or {}).get(c.name, f"<{c.name}>") for c in draft.carries}
    steps: list[Step] = []
    for phase in Phase:
        found: list[Step] = []
        for label, op in zip(labels, migration.operations, strict=True):
            found += op.plan(phase, Context(draft, {}, label, expressions, answers, followed))
        found += fidelity.plan(phase, Context(draft, {}, "", expressions, answers, followed))
        steps += sorted(found, key=lambda step: step.stage)
    ids = [step.id for step in steps]
    assert len(ids) == len(set(ids)), ids
    return Outcome([], draft, steps)
