"""Whatever else hangs on a replaced column."""

from __future__ import annotations

from zdm.model.plan import Finding, Severity
from zdm.operations.fidelity.review import Review

BLOCKING = frozenset(
    {
        "view",
        "materialized view",
        "rule",
        "policy",
        "statistics",
        "generated column",
        "function",
        "publication",
        "replica identity",
    }
)
"""Kinds of `Dependent` that cannot follow a replaced column."""


_REMEDIES = {
    "view": "Drop the view, or let it not mention the column, before the rollout; create it again after cleanup.",
    "materialized view": "Drop it before the rollout; create it again after cleanup.",
    "rule": "Drop the rule, and use a trigger instead.",
    "policy": "Write the policy without the column, or change it by hand around the rollout.",
    "statistics": "DROP STATISTICS before the rollout; create them again on the new column after cleanup.",
    "generated column": "Drop the generated column in an earlier migration; add it again after cleanup.",
    "function": "Let the function not mention the column in an SQL-standard body.",
    "publication": "Take the column out of the publication's column list or row filter.",
    "replica identity": "Choose a replica identity that does not use the column.",
}


def review_dependents(review: Review) -> None:
    """Refuse by name whatever cannot follow a replaced column."""
    shape = review.shape
    for dependent in shape.table.dependents:
        hit = review.hit(dependent.columns)
        if not hit or dependent.name in review.draft.own_views:
            continue
        if dependent.kind in BLOCKING:
            review.refuse(
                hit[0],
                f"the {dependent.kind} {dependent.name} uses {', '.join(hit)}",
                _REMEDIES[dependent.kind],
                "dependent-object",
            )
        elif "sequence" in dependent.kind and any(c in review.successors for c in hit):
            review.refuse(
                hit[0],
                f"{hit[0]} owns the {dependent.kind} {dependent.name}, which would go with the old column",
                f"ALTER SEQUENCE {dependent.name} OWNED BY NONE first.",
                "owned-sequence",
            )
    for trigger in shape.table.triggers:
        hit = review.hit(trigger.columns)
        if hit:
            review.refuse(
                hit[0],
                f"the trigger {trigger.name} names {', '.join(hit)} in UPDATE OF or WHEN",
                "Create the trigger again without naming the column, and let its function decide.",
                "trigger-names-column",
            )
    if shape.table.triggers:
        names = ", ".join(t.name for t in shape.table.triggers)
        review.draft.findings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"the functions of the triggers {names} on {shape.name} must not need {', '.join(review.replaced)}"
                " after cleanup; no catalog tells which columns a function body names",
                where=next(iter(review.replaced.values())),
            )
        )


def review_added(review: Review) -> None:
    """A published table sends every column: subscribers must have it first."""
    shape = review.shape
    published = [d.name for d in shape.table.dependents if d.kind == "publication" and not d.columns]
    new = [n.physical for n in shape.all_new()]
    if published and new:
        review.draft.findings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"{shape.name} is published by {', '.join(published)}: subscribers need the columns {', '.join(new)}"
                " before preparation, or their apply workers stop",
                where=next((g.operation for g in shape.groups), ""),
            )
        )
