"""What single partitions, and children of inheritance, have of their own on replaced columns.

The columns are the table's, and so is what they are mapped by; what stands on them in one part alone follows there alone. So a
part gets a shape of its own: the table's columns and their successors, and of what hangs on them only what the table has not.
"""

from __future__ import annotations

from typing import Final

from psycopg import sql

from zdm.model.names import fit
from zdm.model.promise import Demand, Promise
from zdm.model.step import Phase, Stage, Step
from zdm.model.table import Column, Partition, Table
from zdm.operations import ddl
from zdm.operations.base import Context, Draft
from zdm.operations.fidelity.review import Review
from zdm.operations.shape import DraftNew, ShapeColumn, TableShape

_RULE: Final = "partition-of-its-own"

_REFUSED: Final = {
    "default": "Give {column} of {part} the default that {table} has (ALTER COLUMN … SET DEFAULT).",
    "setting": "Give {column} of {part} the storage, compression, statistics target and options that it has in {table}.",
    "index setting": "Give {name} the storage parameters, statistics targets and tablespace of the index of {table}, and no comment; or "
    "drop it.",
}
"""What does not follow."""

_DEPENDENTS: Final = {
    "view": "view or rule",
    "materialized view": "view or rule",
    "view rule": "view or rule",
    "rule": "view or rule",
    "view that groups by the key": "primary key",
    "policy": "policy",
    "statistics": "statistics",
    "function": "function",
    "publication": "publication",
    "replica identity": "replica identity",
    "sequence": "default",
}
"""Kinds of `Dependent` that a part may have of its own, and what they are called there."""


def shape_parts(draft: Draft, shape: TableShape) -> None:
    """Give each part that has anything of its own on a replaced column a shape, in `draft.parts`."""
    replaced = set(shape.replaced())
    for part in shape.table.partitions:
        table = draft.part_tables.get(part.name)
        named = draft.shapes.get(part.name)
        used = [*(own.columns for own in part.own), *(trigger.columns for trigger in part.triggers)]
        hit = any(replaced.intersection(columns) for columns in used)
        if not hit or table is None or (named is not None and _by_itself(named)):
            continue
        draft.parts[part.name] = _shape(shape, part, table, named)


def _by_itself(named: TableShape) -> bool:
    """Whether the migration changes a part otherwise than with the table: its swap would not know of the other one's."""
    columns = any(
        c.name != c.physical or c.alter_type is not None or c.default_changed for c in named.columns
    )
    return named.changed or named.dropped or columns


def _shape(shape: TableShape, part: Partition, table: Table, named: TableShape | None) -> TableShape:
    own = _own(shape, table, part)
    shared = {column.name for column in shape.table.columns}
    others = [c for c in table.columns if c.name not in shared]
    return TableShape(
        table=own,
        expose=shape.expose,
        final_name=table.name.name,
        columns=[
            *shape.columns,
            *(ShapeColumn(c.name, c.name, c.type, c.not_null, c.default) for c in others),
        ],
        groups=shape.groups,
        added=shape.added,
        removed=shape.removed,
        gone_indexes=named.gone_indexes if named is not None else set(),
        gone_constraints=named.gone_constraints if named is not None else set(),
        part_of=shape.name,
        required={own.name for own in part.own if own.kind == "NOT NULL"},
    )


def _own(shape: TableShape, table: Table, part: Partition) -> Table:
    """The part with what its own columns have of their own, and with what stands on them in it alone."""
    kept = {(own.kind, own.name) for own in part.own}
    constraints = tuple(c for c in table.constraints if (c.kind, c.name) in kept)
    backing = {c.index for c in constraints if c.index is not None}
    return table.model_copy(
        update={
            "columns": tuple(_column(shape, column, kept) for column in table.columns),
            "constraints": constraints,
            "indexes": tuple(i for i in table.indexes if ("index", i.name) in kept or i.name in backing),
            "triggers": tuple(t for t in table.triggers if t.name in {own.name for own in part.triggers}),
            "dependents": tuple(
                d
                for d in table.dependents
                if d.kind in _DEPENDENTS and d.columns and _DEPENDENTS[d.kind] in {k for k, _ in kept}
            ),
            "partitions": (),
            "parents": (),
            "routes": (),
        }
    )


def _column(shape: TableShape, column: Column, kept: set[tuple[str, str]]) -> Column:
    """What it has like the table's comes with the table's successor, or is no part's at all."""
    update: dict[str, object] = {"storage": "", "compression": "", "statistics": None, "options": ()}
    if ("comment", column.name) not in kept:
        update["comment"] = None
    if ("column grant", column.name) not in kept:
        update["acl"] = ()
    if shape.table.partitioned:
        # The numbering is the table's, and partitions get its identity with it.
        update["identity"] = ""
    return column.model_copy(update=update)


def review_part_shapes(review: Review) -> None:
    """Refuse what a part has of its own that does not follow, and parts that the migration changes in another way as well."""
    shape = review.shape
    for part in shape.table.partitions:
        named = review.draft.shapes.get(part.name)
        if named is not None and named.dropped:
            continue
        for own in part.own:
            hit = review.hit(own.columns)
            if not hit:
                continue
            what = f"{part.name} has of its own the {own.kind} {own.name} on {', '.join(hit)}"
            if own.kind in _REFUSED:
                remedy = _REFUSED[own.kind].format(
                    column=hit[0], part=part.name, table=shape.name, name=own.name
                )
                review.refuse(hit[0], what, remedy, _RULE)
            elif named is not None and _by_itself(named):
                review.refuse(
                    hit[0],
                    f"{what}, and this migration changes {part.name} by itself as well",
                    f"Put the operations that name {part.name} into a migration of their own.",
                    _RULE,
                )


def not_null_steps(shape: TableShape) -> list[Step]:
    """At cleanup, before the swap: what is NOT NULL in a part alone is proved, so that the swap does not scan."""
    found: list[Step] = []
    for new in _required(shape):
        found += ddl.checked_constraint(
            step_id=f"cleanup.{shape.name}.{new.final}.promise",
            phase=Phase.CLEANUP,
            stage=Stage.TIGHTEN,
            operation=shape.replaced().get(new.replaces or "", ""),
            on=shape.name,
            name=_proof(shape, new),
            body=sql.SQL("CHECK ({} IS NOT NULL)").format(sql.Identifier(new.physical)),
            naive="set-not-null",
        )
    return found


def not_null_in_swap(shape: TableShape) -> list[str]:
    """The statements for which that was proved."""
    found: list[str] = []
    for new in _required(shape):
        t = ddl.table(shape.name)
        found += [
            ddl.text("ALTER TABLE {t} ALTER COLUMN {c} SET NOT NULL", t=t, c=ddl.ident(new.final)),
            ddl.text("ALTER TABLE {t} DROP CONSTRAINT {c}", t=t, c=ddl.ident(_proof(shape, new))),
        ]
    return found


def promised_not_null(context: Context) -> list[Promise]:
    """What `up` must not give in the rows of a part that has no NULL there."""
    return [
        Promise(
            demand=Demand.NOT_NULL,
            name=new.final,
            table=shape.name,
            part_of=shape.part_of,
            operation=shape.replaced().get(new.replaces or "", ""),
            keys=(ddl.ident(new.physical).as_string(None),),
            reads=(new.physical,),
        )
        for shape in context.draft.parts.values()
        for new in _required(shape)
    ]


def _required(shape: TableShape) -> list[DraftNew]:
    """The successors that are NOT NULL in a part, and not in the table that it is a part of."""
    return [new for new in shape.all_new() if new.replaces in shape.required and not new.not_null]


def _proof(shape: TableShape, new: DraftNew) -> str:
    return fit(f"_zdm_{shape.table.oid}_{new.final}_not_null")
