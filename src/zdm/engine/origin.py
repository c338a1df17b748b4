"""Which version inserted a row: where the row itself does not tell, the new version's view marks what comes through it."""

from __future__ import annotations

from zdm.db.expressions import on_nulls
from zdm.db.session import Session
from zdm.model.mapping import ColumnGroup
from zdm.operations.shape import TableShape


def ambiguous(conn: Session, shape: TableShape, group: ColumnGroup) -> bool:
    """Whether an INSERT's origin cannot be told from the row; see docs/architecture.md, Triggers."""
    if group.copied is not None:
        # Whoever inserts the row, it has what the other table says.
        return False
    triggers = [*shape.table.triggers, *(t for part in shape.table.partitions for t in part.triggers)]
    if any(t.row and t.timing == "before" and "INSERT" in t.definition for t in triggers):
        # An application trigger may fill columns of either side before ours looks at the row.
        return True
    if not group.old:
        # An explicit NULL of the new version must not be derived again.
        return any(not n.not_null and (n.up is not None or n.fill is not None) for n in group.new)
    if not group.new:
        # Nothing of the row tells who inserted it, and only rows of the new version get `down`.
        return any(old.down is not None for old in group.old)
    if all(new.not_null for new in group.new) or group.lookup is not None:
        # NULL refers to nothing, in either version.
        return False
    shown = {column.physical for column in shape.columns}
    if any(old.name in shown for old in group.old):
        # Both versions give it a value.
        return True
    if any(old.default is not None for old in group.old):
        return True
    if any(column.identity for old in group.old if (column := shape.original(old.name)) is not None):
        return True
    types = {c.name: c.type for c in shape.table.columns} | {
        n.physical: n.type for g in shape.groups for n in g.new
    }
    expressions = [n.up for n in group.new if n.up is not None] + [
        o.down for o in group.old if o.down is not None
    ]
    # None means that it raises on NULLs; then the row's origin matters as well.
    return any(on_nulls(conn, types, expression) is not True for expression in expressions)
