"""How a row mapping ends on the way back: what the new version writes is carried over to the last, and refused from then on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zdm.model.names import QualifiedName
from zdm.model.row_mapping import RowMapping
from zdm.model.step import Lock, Sync, TableLock, Transaction
from zdm.sql import row_objects
from zdm.sql.closed import close_columns, close_table
from zdm.sql.row_objects import Side


def closable(mappings: Iterable[RowMapping]) -> frozenset[QualifiedName]:
    """The tables that stay, whose new columns a rollback may close before it drops them."""
    return frozenset(
        mapping.new.table for mapping in mappings if not mapping.in_place and not mapping.new.created
    )


def closing(mapping: RowMapping, added: Sequence[str]) -> list[Sync]:
    """What ends the mirroring of the new version's writes, where they would go with the new structure.

    Parameters
    ----------
    added: columns that the migration adds to the new side's table.
    """
    sides = row_objects.sides(mapping)
    found = [closed(mapping, "parent")] if "parent" in sides else []
    if "new" in sides and (mapping.new.created or added):
        found.append(closed(mapping, "new", added))
    return found


def closed(mapping: RowMapping, side: Side, added: Sequence[str] = ()) -> Sync:
    """Drop the triggers of one side, and close its table if the migration made it, or else those columns that it added.

    The functions stay, since the other side's triggers may call them.
    """
    on = mapping.side(side).table
    created = mapping.new.created if side == "new" else mapping.parent is not None and mapping.parent.created
    statements = close_table(on) if created else close_columns(on, added) if added else ()
    locks = (TableLock(table=on, mode=Lock.ACCESS_EXCLUSIVE),)
    return Sync(
        table=mapping.id,
        side=side,
        on=on,
        remove=True,
        ending=Transaction(statements=statements, locks=locks),
    )
