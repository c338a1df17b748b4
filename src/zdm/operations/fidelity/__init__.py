"""What hangs on a column that is replaced or dropped: carried over to its successor, or refused by name. Never lost silently.

Runs once, when every operation of a migration is applied: only then is it known which columns have a successor and what
the migration drops on purpose. What is carried is asked of the server (`CarryRequest`), so no definition is rewritten here.
"""

from __future__ import annotations

from zdm.errors import Problem
from zdm.model.step import Phase, Step
from zdm.operations.base import Context, Draft
from zdm.operations.fidelity.children import review_children, review_inherited, review_routes
from zdm.operations.fidelity.columns import attribute_steps, review_columns
from zdm.operations.fidelity.constraints import constraint_steps, review_constraints
from zdm.operations.fidelity.dependents import BLOCKING, review_dependents
from zdm.operations.fidelity.following import InSwap, follow_steps, in_swap, unprepared
from zdm.operations.fidelity.functions import gone_tables, mentioned, mentioned_tables, replaced_columns
from zdm.operations.fidelity.guards import guarded
from zdm.operations.fidelity.indexes import (
    between_backfills,
    index_column_steps,
    index_steps,
    kept_casts,
    review_indexes,
)
from zdm.operations.fidelity.logical import review_added, review_subscriptions
from zdm.operations.fidelity.naming import naming_step
from zdm.operations.fidelity.partitioned_keys import exchanged_key, key_part_steps, key_parts, stands_in
from zdm.operations.fidelity.partitions import (
    exchange_steps,
    partition_naming_steps,
    review_altered,
    review_partitions,
)
from zdm.operations.fidelity.parts import not_null_steps, review_part_shapes, shape_parts
from zdm.operations.fidelity.promises import carried_in, promises
from zdm.operations.fidelity.references import reference_steps, review_references, swap_turn
from zdm.operations.fidelity.review import Review, carry_key, primary_key, temporary
from zdm.operations.fidelity.rules import review_rules
from zdm.operations.fidelity.triggers import review_triggers
from zdm.operations.fidelity.under_lock import only_in_swap
from zdm.operations.fidelity.views import told, view_steps

__all__ = [
    "BLOCKING",
    "InSwap",
    "carry_key",
    "exchanged_key",
    "gone_tables",
    "guarded",
    "in_swap",
    "kept_casts",
    "key_parts",
    "mentioned",
    "mentioned_tables",
    "only_in_swap",
    "plan",
    "primary_key",
    "promises",
    "replaced_columns",
    "settle",
    "stands_in",
    "swap_turn",
    "temporary",
    "told",
    "unprepared",
]


def settle(draft: Draft) -> list[Problem]:
    """Look at everything that hangs on replaced columns: fill `draft.carries`, and return what cannot be carried.

    Call it once, after every operation is applied without a problem. `where` of a problem is the operation's label.
    """
    draft.carries.clear()
    draft.follows.clear()
    draft.parts.clear()
    draft.recreate = None
    problems: list[Problem] = []
    shapes = [shape for shape in draft.shapes.values() if not shape.dropped]
    for shape in shapes:
        shape_parts(draft, shape)
    for shape in shapes:
        review = Review(draft, shape, shape.replaced())
        if review.replaced:
            review_columns(review)
            _review_hanging(review)
            review_subscriptions(review)
            review_partitions(review)
            review_part_shapes(review)
        review_inherited(review)
        review_children(review)
        review_added(review)
        problems += review.problems + review_altered(shape) + review_routes(shape)
    for part in draft.parts.values():
        review = Review(draft, part, part.replaced())
        _review_hanging(review)
        problems += review.problems
    return problems + review_rules(draft)


def _review_hanging(review: Review) -> None:
    review_constraints(review)
    review_references(review)
    review_indexes(review)
    review_dependents(review)
    review_triggers(review)


def plan(phase: Phase, context: Context) -> list[Step]:
    """The steps that carry things over, for every table. In one stage they come after the operations' own steps."""
    found: list[Step] = view_steps(phase, context)
    for shape in context.draft.carriers():
        if phase is Phase.PREPARATION:
            found += attribute_steps(shape)
        found += follow_steps(phase, shape, context)
        carries = context.draft.carries
        mine = [r for r in carries if r.table == shape.name]
        requests = [r for r in mine if r.kind not in {"foreign key", "unique"} and not r.in_swap]
        for request in requests:
            if phase is carried_in(shape, request, context):
                carry = index_steps if request.kind == "index" else constraint_steps
                # The unique constraint of a partitioned table cannot be made of an index, so it was asked for as well.
                whole = carry_key(shape.name, "unique", request.name)
                body = context.carried.get(whole, context.carried[request.key])
                made = carry(shape, request, body, phase)
                found += between_backfills(made, shape, request, context.draft.depth(shape.mapped_as))
        if phase is Phase.CLEANUP:
            found += not_null_steps(shape)
            found += key_part_steps(shape, context)
            found += exchange_steps(shape, [r for r in requests if r.kind == "index"])
            naming = naming_step(shape, requests)
            if naming is not None:
                found.append(naming)
            if requests or shape.uses or any(r.in_swap for r in mine):
                found += index_column_steps(shape)
            found += partition_naming_steps(shape)
    return found + reference_steps(phase, context)
