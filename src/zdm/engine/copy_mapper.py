"""Columns that are copies of another table's: what stands in their way on the server, and what is looked up."""

from __future__ import annotations

from collections.abc import Iterator

from zdm.db.session import Session
from zdm.engine.key_mapper import forced
from zdm.errors import Problem
from zdm.model.mapping import ColumnGroup, Copied
from zdm.operations.base import Draft
from zdm.operations.shape import TableShape
from zdm.sql.copies import looked_up


def refused_copies(conn: Session, draft: Draft, shape: TableShape) -> Iterator[Problem]:
    """What is wrong with copies that a table gets, once all operations are applied."""
    for group in shape.groups:
        copied = group.copied
        if copied is None:
            continue
        parent = draft.shapes[copied.table]
        if parent.changed or parent.dropped:
            yield Problem(
                f"table {parent.name} is changed by this migration, and columns of it are copied by it",
                group.operation,
                "Change it in one migration, and copy from it in the next.",
            )
        shown = {column.physical for column in shape.columns}
        for own, _ in copied.by:
            if own not in shown or shape.group_of(own) is not None:
                yield Problem(
                    f"column {own} of {shape.name}, by which rows refer to {parent.name}, is replaced by this migration",
                    group.operation,
                    "Replace it in a migration of its own.",
                )
        # Rows that the owner does not see would be left out.
        for name, oid in ((shape.name, shape.table.oid), (copied.table, copied.oid)):
            if forced(conn, oid):
                yield Problem(
                    f"{name} has row security that holds for its owner as well, so not every row could be looked up, or follow",
                    group.operation,
                    f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY until cleanup.",
                    "row-security-views",
                )


def copying(group: ColumnGroup, copied: Copied) -> ColumnGroup:
    """The group with its columns looked up in the table that they are copies of."""
    new = tuple(
        new.model_copy(update={"up": looked_up(copied, name, new.type)})
        for new, name in zip(group.new, copied.columns, strict=True)
    )
    return group.model_copy(update={"new": new, "copied": copied})
