"""What hangs on the columns that cleanup takes away: noted with the plan, looked at again before every move."""

from __future__ import annotations

from collections.abc import Collection

from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName, Value
from zdm.model.table import Table

_OURS = ("_zdm_", "~zdm_", "!zdm_", "zdm.pairs_")
"""How the names of zdm's own columns, constraints, indexes, triggers and views begin."""


_COPIED = {"comment", "setting", "index setting"}
"""What a partition or child that is made with LIKE brings along, and can do without."""


class Hanging(Value):
    """One thing that stands on a column that goes, as people call it; `digest` tells its definitions apart, where it is known."""

    table: QualifiedName
    what: str
    digest: str = ""


def going(mapping: TableMapping) -> frozenset[str]:
    """The physical columns that only the old version shows, so that cleanup takes them away; none if the table itself goes."""
    if mapping.dropped_in_new:
        return frozenset()
    kept = {column.physical for column in mapping.new_columns}
    return frozenset(c.physical for c in mapping.old_columns if c.physical not in kept)


def hanging_on(table: Table, columns: Collection[str], own: Collection[str]) -> dict[str, str]:
    """What stands on any of `columns`, and its digest. zdm's own objects do not count; `own` are its views' names."""
    named = [
        *((f"{c.kind} {c.name}", c.name, c.columns, "") for c in table.constraints if c.kind != "not null"),
        *((f"index {i.name}", i.name, i.columns, "") for i in table.indexes if i.constraint is None),
        *((f"trigger {t.name}", t.name, t.columns, "") for t in table.triggers),
        *((f"foreign key {k.name} of {k.references}", k.name, k.columns, "") for k in table.referenced_by),
        *((f"{d.kind} {d.name}", d.name, d.columns, d.digest) for d in table.dependents),
    ]
    for part in table.partitions:
        named += [
            (f"{own.kind} {own.name} of {part.name}", own.name, own.columns, "")
            for own in part.own
            if own.kind not in _COPIED
        ]
        named += [(f"trigger {t.name} of {part.name}", t.name, t.columns, "") for t in part.triggers]
    return {
        what: digest
        for what, name, used, digest in named
        if not name.startswith(_OURS) and name not in own and set(columns).intersection(used)
    }
