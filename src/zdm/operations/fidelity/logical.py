"""Logical replication on either side of a table with replaced columns."""

from __future__ import annotations

from zdm.model.plan import Finding, Severity
from zdm.operations.fidelity.review import Review
from zdm.operations.succession import cast


def review_added(review: Review) -> None:
    """A table that is published without a column list sends every column: subscribers must have it first."""
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


def review_subscriptions(review: Review) -> None:
    """After cleanup the publisher's values go into the successor by its name, and no mapping is asked any more."""
    shape = review.shape
    names = [d.name for d in shape.table.dependents if d.kind == "subscription"]
    for name in names:
        for column in review.replaced:
            new = review.successors.get(column)
            if new is not None and (new.final != column or new.up != cast(column, new.type)):
                review.refuse(
                    column,
                    f"the subscription {name} writes into {shape.name}, after cleanup without the mapping: what the publisher "
                    f"sends for {column} would not arrive as {new.final} says",
                    "Change the publisher first and let the column come with its new name and values; or take the table out of "
                    "the publication for the rollout. A column that keeps its name and is only cast may stay.",
                    "subscribed-column",
                )
            else:
                review.draft.findings.append(
                    Finding(
                        severity=Severity.WARNING,
                        text=f"the subscription {name} writes {column} of {shape.name}: the publisher's values must suit the new "
                        "version from cleanup on, and a column that is dropped must not be sent any more",
                        where=review.replaced[column],
                        rule="subscribed-column",
                    )
                )
