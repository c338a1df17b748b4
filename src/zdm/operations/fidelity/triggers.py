"""Triggers of the user's that name a replaced column follow it; those that do not are warned about."""

from __future__ import annotations

from zdm.model.plan import Finding, Severity
from zdm.operations.fidelity.review import Review


def review_triggers(review: Review) -> None:
    """Request the triggers that follow a replaced column, and say what no catalog tells about their functions."""
    triggers = review.shape.table.triggers
    for trigger in triggers:
        hit = review.hit(trigger.columns)
        if not hit:
            continue
        if set(hit) <= set(review.successors):
            review.follow("trigger", trigger.name, trigger.oid, hit[0])
        else:
            review.refuse(
                hit[0],
                f"the trigger {trigger.name} names {', '.join(hit)} in UPDATE OF or WHEN",
                "Create the trigger again without naming the column, and let its function decide.",
                "trigger-names-column",
            )
    if triggers:
        names = ", ".join(t.name for t in triggers)
        text = (
            f"the functions of the triggers {names} on {review.shape.name} must not need {', '.join(review.replaced)}"
            " after cleanup; no catalog tells which columns a function body names"
        )
        before = [t.name for t in triggers if t.row and t.timing == "before"]
        if before:
            text += (
                f". Before cleanup {', '.join(before)} fire before the sync, so a function that reads"
                f" {', '.join(review.replaced)} sees the former value where the new version writes"
            )
        review.draft.findings.append(
            Finding(severity=Severity.WARNING, text=text, where=next(iter(review.replaced.values())))
        )
