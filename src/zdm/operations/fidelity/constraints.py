"""Checks, unique constraints and foreign keys of the replaced column follow; what cannot is refused by name."""

from __future__ import annotations

from zdm.model.requests import CarryRequest
from zdm.model.step import Phase, Stage, Step
from zdm.operations import ddl
from zdm.operations.fidelity.review import Review, drops_only, find_constraint, goes_too, temporary
from zdm.operations.shape import TableShape


def review_constraints(review: Review) -> None:
    """Request what follows a replaced column, and refuse the rest by name."""
    for constraint in review.shape.table.constraints:
        hit = review.hit(constraint.columns)
        if not hit or constraint.kind == "not null" or constraint.name in review.shape.gone_constraints:
            continue
        what = f"the {constraint.kind} {constraint.name} stands on {', '.join(constraint.columns)}"
        if constraint.kind == "primary key":
            review.refuse(
                hit[0],
                what,
                "This version of zdm does not replace primary key columns.",
                "primary-key-column",
            )
        elif drops_only(review, constraint.columns):
            goes_too(review, f"the {constraint.kind} {constraint.name}", hit[0])
        elif constraint.kind == "exclusion":
            review.refuse(
                hit[0],
                what,
                f"Add drop_constraint {constraint.name} to this migration if it may go; it can only be made again under lock, or on "
                "a new table.",
                "exclusion-constraint",
            )
        elif not set(hit) <= set(review.successors):
            review.refuse(
                hit[0],
                what,
                f"Add drop_constraint {constraint.name} to this migration, and add the new one you want.",
            )
        elif constraint.kind == "unique":
            if not any(set(k.columns) == set(constraint.columns) for k in review.shape.table.referenced_by):
                review.request("index", constraint.index or constraint.name, hit[0])
        else:
            review.request(constraint.kind, constraint.name, hit[0])


def review_references(review: Review) -> None:
    """Refuse the foreign keys of other tables, and of the table itself, that point at a replaced column."""
    for key in review.shape.table.referenced_by:
        hit = review.hit(key.columns)
        child = key.references
        other = review.draft.shapes.get(child) if child is not None else None
        if not hit or (other is not None and (key.name in other.gone_constraints or other.dropped)):
            continue
        review.refuse(
            hit[0],
            f"the foreign key {key.name} of {child} points at {', '.join(key.columns)}",
            f"Drop {key.name} in an earlier migration, and add it again after this one.",
            "referenced-by-foreign-key",
        )


def constraint_steps(shape: TableShape, request: CarryRequest, body: str, phase: Phase) -> list[Step]:
    """Add the carried constraint under its temporary name, and prove it if the old one is proven."""
    constraint = find_constraint(shape, request.name)
    assert constraint is not None
    steps = ddl.checked_constraint(
        step_id=f"{phase.value}.{shape.name}.carry.{request.name}",
        phase=phase,
        stage=Stage.CONSTRAINTS,
        operation=request.where,
        on=shape.name,
        name=temporary(request.name),
        body=ddl.raw(body),
        references=constraint.references,
        naive="add-foreign-key-scan" if constraint.references else "add-check-scan",
    )
    return steps if constraint.validated else steps[:1]
