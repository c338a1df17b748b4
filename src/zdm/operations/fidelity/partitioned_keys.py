"""The primary key of a partitioned table on a replaced column: it gets its index twice.

The server makes no primary key of a partitioned table from an index (`USING INDEX`), and one that is made of the partitions' keys
takes only what is attached to nothing. Until the swap the new version wants a unique index of the table itself, for ON CONFLICT
and for foreign keys, so that one's parts are attached. It stands in for the key until the swap exchanges it for the partitions'
second indexes, which cleanup builds shortly before, each by itself.
"""

from __future__ import annotations

from zdm.model.names import QualifiedName
from zdm.model.step import PartitionedIndex, Phase, Stage, Step
from zdm.model.table import Constraint
from zdm.operations.base import Context, Draft
from zdm.operations.fidelity.review import carry_key, primary_key, temporary
from zdm.operations.shape import TableShape


def exchanged_key(shape: TableShape) -> Constraint | None:
    """The primary key of a partitioned table that stands on a replaced column, or None."""
    key = primary_key(shape)
    if key is None or not shape.table.partitioned or key.name in shape.gone_constraints:
        return None
    replaced = shape.replaced()
    return key if any(column in replaced for column in key.columns) else None


def stands_in(key: Constraint) -> str:
    """The name of the table's own index that the new version has for its key until the swap."""
    return temporary(key.index or key.name)


def key_parts(shape: TableShape, context: Context) -> list[PartitionedIndex]:
    """The partitions' indexes that become their keys in the swap."""
    key = exchanged_key(shape)
    if key is None:
        return []
    body = context.carried[carry_key(shape.name, "index", key.index or key.name)]
    return [PartitionedIndex(table=shape.name, name=key.name, body=body, unique=True, apart=True)]


def key_part_steps(shape: TableShape, context: Context) -> list[Step]:
    """At cleanup, shortly before the swap: each partition gets the index that becomes its key."""
    return [
        Step(
            id=f"cleanup.{shape.name}.carry.{parts.name}.parts",
            title=f"build the index of the primary key on each partition of {shape.name}",
            phase=Phase.CLEANUP,
            stage=Stage.TIGHTEN,
            action=parts,
            naive="create-index-blocks-writes",
        )
        for parts in key_parts(shape, context)
    ]


def points_at_exchanged(draft: Draft, child: QualifiedName, key: Constraint) -> bool:
    """Whether a foreign key points at such a primary key, or a partition's part of one: the swap makes it anew."""
    parent = draft.following(key.references) if key.references is not None else None
    if parent is None:
        return False
    exchanged = exchanged_key(parent) or exchanged_key(draft.shapes[parent.mapped_as])
    if exchanged is None:
        return False
    return any(
        pointing.name == key.name
        and pointing.references == child
        and set(pointing.columns) == set(exchanged.columns)
        for pointing in parent.table.referenced_by
    )


def pointing_at_exchanged(draft: Draft, shape: TableShape) -> list[QualifiedName]:
    """The tables whose foreign keys the swap of this one makes anew, which it has to lock as well."""
    found = [
        request.table
        for request in draft.carries
        if request.kind == "foreign key"
        and request.references is not None
        and (parent := draft.following(request.references)) is not None
        and parent.mapped_as == shape.mapped_as
        and (child := draft.existing(request.table)) is not None
        and any(
            c.name == request.name and points_at_exchanged(draft, child.name, c) for c in child.constraints
        )
    ]
    return [table for table in dict.fromkeys(found) if table != shape.name]
