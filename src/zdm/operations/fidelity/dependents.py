"""Statistics, policies, publications, generated columns, rules and functions that use a replaced column."""

from __future__ import annotations

from zdm.model.plan import Finding, Severity
from zdm.model.table import Dependent
from zdm.operations.fidelity.review import Review, drops_only, goes_too
from zdm.operations.fidelity.rules import reads_what_is_replaced
from zdm.operations.fidelity.views import KINDS, recreates

BLOCKING = frozenset(
    {
        "view",
        "materialized view",
        "view rule",
        "rule",
        "policy",
        "statistics",
        "generated column",
        "function",
        "publication",
        "replica identity",
        "user of the identity sequence",
        "view that groups by the key",
    }
)
"""Kinds of `Dependent` that stand in the way of ALTER COLUMN TYPE."""


_VIEW = (
    "Declare `dependents: recreate` in the migration, and cleanup makes it anew over the new column; or let it not mention the "
    "column before the rollout."
)
_NO_SUCCESSOR = (
    "No single column takes the place of {columns}, so cleanup cannot make it anew. Let it not mention {columns} before the rollout, or "
    "drop it and create it over the new columns afterwards."
)
_REMEDIES = {
    "view": _VIEW,
    "materialized view": _VIEW,
    "view rule": _VIEW,
    "rule": "Drop the rule, and use a trigger instead: a rule sees the statement and not the row, so it does not see what the other "
    "version writes.",
    "policy": "Let the policy not mention the column before the rollout (ALTER POLICY), since nothing takes its place.",
    "statistics": "DROP STATISTICS before the rollout, and create the ones you want on the new columns after cleanup.",
    "function": "Let the function not mention the column in an SQL-standard body (BEGIN ATOMIC); a body in quotes is parsed when "
    "it runs.",
    "publication": "Set the publication's column list or row filter for the new columns yourself: subscribers must not lose "
    "values silently.",
    "replica identity": "Choose a replica identity that does not use the column (ALTER TABLE … REPLICA IDENTITY).",
    "generated column": "Add drop_column for the generated column to this migration, or drop it in an earlier one; add it again "
    "afterwards.",
    "view that groups by the key": "Let it name every column that it shows in GROUP BY, as no successor is a key before cleanup.",
    "user of the identity sequence": "The sequence cannot move, so let it take its numbers from another one.",
}
_SET_EXPRESSION = 170000
"""The first version that gives a stored generated column another expression in place, with all that hangs on it."""


def review_dependents(review: Review) -> None:
    """Request what follows a replaced column, and refuse the rest by name."""
    for dependent in review.shape.table.dependents:
        hit = review.hit(dependent.columns)
        if not hit or dependent.name in review.draft.own_views or recreates(review, dependent, hit):
            continue
        match dependent.kind:
            case "statistics" if drops_only(review, dependent.columns):
                goes_too(review, f"the statistics {dependent.name}", hit[0])
            case "statistics" | "policy" | "function":
                review.follows_or_refuse(
                    dependent.kind,
                    dependent.name,
                    dependent.oid,
                    dependent.columns,
                    _REMEDIES[dependent.kind],
                )
            case "rule" if not _rewrites(review, dependent):
                review.follows_or_refuse(
                    "rule", dependent.name, dependent.oid, dependent.columns, _REMEDIES["rule"]
                )
            case "publication":
                _publication(review, dependent, hit)
            case "generated column":
                _generated(review, dependent, hit)
            case "replica identity":
                _replica_identity(review, dependent, hit)
            case "sequence" if not any(c in review.successors for c in hit):
                goes_too(review, f"the sequence {dependent.name}", hit[0])
            case kind if kind in BLOCKING:
                _refuse(review, dependent, hit)
            case _:
                pass


def _refuse(review: Review, dependent: Dependent, hit: list[str]) -> None:
    remedy = _REMEDIES[dependent.kind]
    alone = [column for column in hit if column not in review.successors]
    if alone and dependent.kind in KINDS:
        # Declared or not, it could not be made anew.
        remedy = _NO_SUCCESSOR.format(columns=" and ".join(alone))
    review.refuse(
        (alone or hit)[0],
        f"the {dependent.kind} {dependent.name} uses {', '.join(hit)}",
        remedy,
        "dependent-object",
    )


def _rewrites(review: Review, dependent: Dependent) -> bool:
    """Whether it is a rule of the table that is refused anyhow: it does not see what a version writes."""
    rules = {rule.name: rule for rule in review.shape.table.rules}
    rule = rules.get(dependent.name)
    return rule is not None and reads_what_is_replaced(rule, review.replaced)


def _publication(review: Review, dependent: Dependent, hit: list[str]) -> None:
    """A column that is dropped leaves the list; one that several succeed would leave subscribers without a value."""
    dropped = [c for c in hit if drops_only(review, [c])]
    if not set(hit) <= {*review.successors, *dropped}:
        _refuse(review, dependent, hit)
        return
    review.follow("publication", dependent.name, dependent.oid, hit[0], dropped)
    names = [review.successors[c].final for c in hit if c in review.successors]
    text = f"the publication {dependent.name} of {review.shape.name} sends {', '.join(hit)} as before until cleanup"
    text += f", then {', '.join(names)} of the new type" if names else ", then no more"
    if names:
        text += ": subscribers need such a column before cleanup, or their apply workers stop"
    review.draft.findings.append(
        Finding(severity=Severity.WARNING, text=text, where=review.replaced[hit[0]], rule="published-column")
    )


def _generated(review: Review, dependent: Dependent, hit: list[str]) -> None:
    """It gets its expression over the successors in the swap; one that goes as well needs nothing."""
    table, name = review.shape.table, dependent.name
    if name in review.replaced:
        return
    column = table.column(name)
    what = f"the generated column {name} uses {', '.join(hit)}"
    stored = column is not None and column.generated == "stored"
    if stored and not _rewritten(review, what, name, hit):
        return
    hanging = [f"the {c.kind} {c.name}" for c in table.constraints if name in c.columns]
    hanging += [f"the index {i.name}" for i in table.indexes if name in i.columns and i.constraint is None]
    hanging += [f"the trigger {t.name}" for t in table.triggers if name in t.columns]
    hanging += [
        f"the {d.kind} {d.name}"
        for d in table.dependents
        if name in d.columns and d.name not in review.draft.own_views
    ]
    if stored and review.draft.server_version >= _SET_EXPRESSION:
        hanging = []
    if hanging or not set(hit) <= set(review.successors):
        because = f", and {', '.join(hanging)} would go with it" if hanging else ""
        review.refuse(hit[0], what + because, _REMEDIES["generated column"], "dependent-object")
        return
    review.follow("generated column", name, dependent.oid, hit[0])


def _rewritten(review: Review, what: str, name: str, hit: list[str]) -> bool:
    """Whether the swap may write the table anew; where it can, the server is asked whether that fits into the lock budget."""
    table = review.shape.table
    if table.partitioned:
        review.refuse(
            hit[0],
            f"{what}, {table.name} is partitioned",
            "A stored generated column gets another expression only by rewriting the table under lock. Drop it in an earlier "
            "migration and add it again after this one, or make it a plain column that a trigger fills.",
            "stored-generated-column",
        )
        return False
    review.draft.findings.append(
        Finding(
            severity=Severity.NOTE,
            text=f"the swap writes {table.name} anew ({table.bytes // 1024} KiB), since the stored generated column {name} gets "
            "another expression; if that takes longer than the lock budget, it changes nothing and says so",
            where=review.replaced[hit[0]],
            rule="stored-generated-column",
        )
    )
    return True


def _replica_identity(review: Review, dependent: Dependent, hit: list[str]) -> None:
    """The carried index becomes the identity in the swap; it must be one that may."""
    successors = review.successors
    gone = dependent.name in review.shape.gone_indexes or any(
        c.index == dependent.name and c.name in review.shape.gone_constraints
        for c in review.shape.table.constraints
    )
    nullable = [
        successors[c].final for c in hit if c in successors and not review.shape.requires(successors[c])
    ]
    if gone or not set(hit) <= set(successors) or nullable:
        _refuse(review, dependent, hit)


def replica_identity_index(review_table_dependents: tuple[Dependent, ...], replaced: set[str]) -> str | None:
    """The index that is the replica identity and stands on a replaced column, or None."""
    return next(
        (
            d.name
            for d in review_table_dependents
            if d.kind == "replica identity" and replaced.intersection(d.columns)
        ),
        None,
    )
