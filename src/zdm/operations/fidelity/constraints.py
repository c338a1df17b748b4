"""Checks, primary keys and unique constraints of the replaced column follow; what cannot is refused by name."""

from __future__ import annotations

from zdm.model.requests import CarryRequest
from zdm.model.step import Phase, Stage, Step
from zdm.model.table import Constraint
from zdm.operations import ddl
from zdm.operations.fidelity.references import NOT_VALID, request_reference, validate_first
from zdm.operations.fidelity.review import (
    Review,
    drops_only,
    find_constraint,
    find_index,
    goes_too,
    temporary,
)
from zdm.operations.fidelity.under_lock import only_in_swap, request_in_swap
from zdm.operations.shape import TableShape


def review_constraints(review: Review) -> None:
    """Request what follows a replaced column, and refuse the rest by name."""
    for constraint in review.shape.table.constraints:
        hit = review.hit(constraint.columns)
        if not hit or constraint.kind == "not null" or constraint.name in review.shape.gone_constraints:
            continue
        what = f"the {constraint.kind} {constraint.name} stands on {', '.join(constraint.columns)}"
        if constraint.kind == "primary key":
            _review_primary_key(review, constraint, hit)
        elif drops_only(review, constraint.columns):
            goes_too(review, f"the {constraint.kind} {constraint.name}", hit[0])
        elif not set(hit) <= set(review.successors):
            review.refuse(
                hit[0],
                what,
                f"Add drop_constraint {constraint.name} to this migration, and add the new one you want.",
            )
        elif only_in_swap(constraint):
            request_in_swap(review, constraint, hit[0])
        elif review.shape.table.partitioned and constraint.kind == "foreign key" and not constraint.validated:
            review.refuse(
                hit[0],
                f"{what} and {NOT_VALID}",
                validate_first(constraint),
            )
        elif constraint.kind == "unique":
            review.request("index", constraint.index or constraint.name, hit[0])
            if review.shape.table.partitioned:
                review.request("unique", constraint.name, hit[0])
        elif constraint.kind == "foreign key":
            request_reference(review.draft, review.shape.table, constraint, review.replaced[hit[0]])
        else:
            review.request(constraint.kind, constraint.name, hit[0])


def _review_primary_key(review: Review, key: Constraint, hit: list[str]) -> None:
    """Request the index of the successor's primary key, or say what keeps the key from following."""
    what = f"the primary key {key.name} stands on {', '.join(key.columns)}"
    index = find_index(review.shape, key.index or key.name)
    lost = [c for c in hit if c not in review.successors]
    optional = [c for c in hit if c in review.successors and not review.shape.requires(review.successors[c])]
    if lost:
        review.refuse(
            lost[0],
            what,
            f"Keep {lost[0]}, or add drop_constraint {key.name} to this migration.",
            "primary-key-column",
        )
    elif optional:
        review.refuse(
            optional[0],
            f"{what}, which cannot be NULL",
            "Leave out drop_not_null.",
            "primary-key-column",
        )
    elif only_in_swap(key):
        request_in_swap(review, key, hit[0])
    elif index is None or index.method != "btree":
        review.refuse(
            hit[0],
            f"{what}, and is no btree",
            "A key WITHOUT OVERLAPS cannot be built without blocking; change it by hand.",
            "primary-key-column",
        )
    else:
        review.request("index", index.name, hit[0])


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
        naive="add-check-scan",
    )
    return steps if constraint.validated else steps[:1]
