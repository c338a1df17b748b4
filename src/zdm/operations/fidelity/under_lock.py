"""Constraints that only the swap can build: exclusion constraints, and unique or primary keys that are checked late.

An exclusion constraint is made of no index that is there already, nor NOT VALID. A key that is checked at the end of the
statement or of the transaction could be: but its index, until the constraint stands, checks at once, and would refuse
statements that exchange keys, which the old key lets through. So both are built in the swap's transaction, where nobody
writes, if the table is so small that this takes no longer than the lock budget; the server tells (`zdm.db.dependants.under_lock`).
Until then the old one, over columns that are kept in step, binds both versions.
"""

from __future__ import annotations

from psycopg import sql

from zdm.model.names import QualifiedName, qualified
from zdm.model.plan import Finding, Severity
from zdm.model.requests import CarryRequest
from zdm.model.table import Constraint
from zdm.operations import ddl
from zdm.operations.base import Context
from zdm.operations.fidelity.indexes import attributes_of
from zdm.operations.fidelity.review import (
    Review,
    carried_columns,
    carry_key,
    constraint_comment,
    final_names,
    find_constraint,
    find_index,
)
from zdm.operations.shape import TableShape


def only_in_swap(constraint: Constraint) -> bool:
    """Whether there is no way to have the constraint on other columns but to build it under lock."""
    late = constraint.kind in {"primary key", "unique"} and " DEFERRABLE" in constraint.definition
    return late or constraint.kind == "exclusion"


def request_in_swap(review: Review, constraint: Constraint, column: str) -> None:
    """Have the server asked whether the swap can build it; refuse it where it cannot be asked."""
    shape = review.shape
    called = "exclusion constraint" if constraint.kind == "exclusion" else f"deferrable {constraint.kind}"
    if shape.table.partitioned:
        review.refuse(
            column,
            f"the {called} {constraint.name} stands on {', '.join(constraint.columns)}, and {shape.name} is partitioned",
            f"Add drop_constraint {constraint.name} to this migration if it may go, or make a new table with shadow_table.",
            "built-in-the-swap",
        )
        return
    review.draft.carries.append(
        CarryRequest.model_validate(
            {
                "key": carry_key(shape.name, constraint.kind, constraint.name),
                "table": shape.name,
                "kind": constraint.kind,
                "name": constraint.name,
                "columns": carried_columns(shape),
                "in_swap": True,
                "finals": final_names(shape),
                "where": review.replaced[column],
            }
        )
    )
    review.draft.findings.append(
        Finding(
            severity=Severity.NOTE,
            text=f"the swap builds the {called} {constraint.name} of {shape.name} on the new columns under its lock; if that takes "
            "longer than the lock budget, it changes nothing and says so",
            where=review.replaced[column],
            rule="built-in-the-swap",
        )
    )


def built_in_swap(shape: TableShape, context: Context) -> list[str]:
    """The statements that build such constraints, once the columns have their final names and cannot be NULL."""
    found: list[str] = []
    for request in context.draft.carries:
        body = context.carried.get(request.final_key)
        if request.table != shape.name or not request.in_swap or body is None:
            continue
        constraint = find_constraint(shape, request.name)
        assert constraint is not None
        found.append(
            ddl.text(
                "ALTER TABLE {t} ADD CONSTRAINT {c} {body}",
                t=ddl.table(shape.name),
                c=ddl.ident(constraint.name),
                body=ddl.raw(body),
            )
        )
        found += constraint_comment(constraint, shape.name) + _of_its_index(shape, constraint)
    return found


def _of_its_index(shape: TableShape, constraint: Constraint) -> list[str]:
    """What a constraint's definition does not say of its index."""
    index = find_index(shape, constraint.index or constraint.name)
    if index is None:
        return []
    name: QualifiedName = qualified(shape.name.schema_, index.name)
    found: list[str] = []
    for option in index.options:
        key, _, value = option.partition("=")
        found.append(
            ddl.text(
                "ALTER INDEX {i} SET ({key} = {value})",
                i=ddl.table(name),
                key=ddl.ident(key),
                value=sql.Literal(value),
            )
        )
    if index.tablespace:
        found.append(
            ddl.text("ALTER INDEX {i} SET TABLESPACE {s}", i=ddl.table(name), s=ddl.ident(index.tablespace))
        )
    return found + attributes_of(index, shape.name)
