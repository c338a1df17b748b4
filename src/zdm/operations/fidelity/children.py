"""What only inheritance has: columns that are a parent's, what children have otherwise, and triggers that route rows to them."""

from __future__ import annotations

from zdm.errors import Problem
from zdm.model.plan import Finding, Severity
from zdm.operations.fidelity.review import Review
from zdm.operations.shape import TableShape

_RULE = "not-an-ordinary-table"
_GENERATED = (
    "Drop the generated column in an earlier migration and add it again after this one; "
    "each child would have to get it anew with what it has of its own on it."
)


def review_inherited(review: Review) -> None:
    """Refuse to change by itself what a table has from a parent."""
    shape = review.shape
    if not shape.table.parents:
        return
    above = " and ".join(map(str, shape.table.parents))
    for name, how in _changed(shape).items():
        column = shape.original(name)
        if column is not None and column.inherited:
            review.problems.append(
                Problem(
                    f"{shape.name} inherits the column {name} from {above}, so it cannot be {how} in {shape.name} alone",
                    where=_where(shape, name),
                    remedy=f"Name {above}: what is done to it is done to all that inherits from it.",
                    rule=_RULE,
                )
            )
    for name in sorted(shape.gone_constraints):
        constraint = next((c for c in shape.table.constraints if c.name == name), None)
        if constraint is not None and constraint.inherited:
            review.problems.append(
                Problem(
                    f"{shape.name} inherits the constraint {name} from {above}, so it cannot be dropped from {shape.name} alone",
                    remedy=f"Name {above}.",
                    rule=_RULE,
                )
            )


def review_children(review: Review) -> None:
    """Refuse what the server would not hand down as it is, or would merge with what a child has by itself."""
    shape = review.shape
    if not shape.table.has_children:
        return
    own_names = {column.name for column in shape.table.columns}
    wanted = {c.name for c in shape.columns if c.name not in own_names}
    for child in shape.table.partitions:
        for name in sorted(wanted & set(child.columns)):
            review.problems.append(
                Problem(
                    f"{child.name}, which inherits from {shape.name}, has a column {name} of its own, which the server would take "
                    "for the same",
                    where=_where(shape, name),
                    remedy="Give one of the two another name.",
                    rule=_RULE,
                )
            )
        for own in child.own:
            if own.kind == "default" and any(_sets_default(shape, name) for name in own.columns):
                review.problems.append(
                    Problem(
                        f"{child.name}, which inherits from {shape.name}, has another default of {own.name}, which would be lost",
                        where=_where(shape, own.name),
                        remedy=f"Give {child.name}'s column the default of {shape.name}.",
                        rule="partition-of-its-own",
                    )
                )
    for name in review.replaced:
        column = shape.original(name)
        if column is not None and column.identity:
            review.refuse(
                name,
                f"{name} is an identity column, which its children have without the identity",
                "Turn it into a plain column with a default from a sequence of its own first.",
                "identity-column",
            )
    for dependent in shape.table.dependents:
        hit = review.hit(dependent.columns)
        if dependent.kind == "generated column" and hit:
            what = f"the generated column {dependent.name} is computed from {', '.join(hit)} in {shape.name} and its children"
            review.refuse(hit[0], what, _GENERATED, "dependent-object")
    if shape.uses:
        what = ", ".join(dict.fromkeys(shape.uses.values()))
        review.draft.findings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"{what} covers the rows of {shape.name} itself only, as the server has it; what inherits from it is named by itself",
            )
        )


def review_routes(shape: TableShape) -> list[Problem]:
    """Refuse triggers and rules of a parent that would leave behind what the new version writes, as far as their words tell."""
    if not (shape.table.has_children and (shape.groups or shape.added)):
        return []
    where = shape.groups[0].operation if shape.groups else ""
    found = [
        Problem(
            f"the rule {rule.name} routes rows by the columns that {shape.name} had when it was made",
            where=where,
            remedy="Use a BEFORE INSERT trigger instead, whose function says INSERT INTO … VALUES (NEW.*).",
            rule="table-rule",
        )
        for rule in shape.table.rules
        if rule.event == "insert"
    ]
    routes = shape.table.routes
    found += [
        Problem(
            f"the trigger {route.trigger} passes rows of {shape.name} on to {route.listed} by a list of columns, which leaves behind "
            "what the new version writes",
            where=where,
            remedy=f"Let {route.function} pass whole rows, by VALUES (NEW.*).",
            rule=_RULE,
        )
        for route in routes
        if route.listed
    ]
    columns = tuple(column.name for column in shape.table.columns)
    found += [
        Problem(
            f"the trigger {routes[0].trigger} passes rows of {shape.name} on, and {child.name} has other columns or has them in "
            "another order, so that added ones would come into the wrong places",
            where=where,
            remedy=f"Make {child.name} anew with the columns of {shape.name}, or change it when it inherits no more.",
            rule=_RULE,
        )
        for child in shape.table.partitions
        if routes and child.columns != columns
    ]
    return found


def _changed(shape: TableShape) -> dict[str, str]:
    """The table's own columns that this migration changes, and how."""
    found = dict.fromkeys(shape.replaced(), "replaced or dropped")
    for column in shape.columns:
        original = None if column.fresh else shape.original(column.physical)
        if original is None:
            continue
        if column.name != column.physical:
            found.setdefault(column.physical, "renamed")
        elif column.alter_type is not None:
            found.setdefault(column.physical, "given another type")
        elif original.not_null and not column.not_null:
            found.setdefault(column.physical, "let be NULL")
    return found


def _sets_default(shape: TableShape, name: str) -> bool:
    return any(column.physical == name and column.default_changed for column in shape.columns)


def _where(shape: TableShape, name: str) -> str:
    group = shape.group_of(name)
    if group is None:
        named = next((c.physical for c in shape.columns if c.name == name), name)
        group = shape.group_of(named)
    return group.operation if group is not None else ""
