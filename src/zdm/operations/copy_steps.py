"""The steps of copy_columns: what keeps copies right while both versions live, and its end."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from zdm.model.mapping import Copied
from zdm.model.names import qualified
from zdm.model.step import (
    Concurrent,
    PartitionedForeignKey,
    PartitionedIndex,
    Phase,
    Stage,
    Step,
    Transaction,
)
from zdm.operations import ddl
from zdm.operations.base import Context, Operation
from zdm.operations.shape import DraftGroup, TableShape
from zdm.sql import copies


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What `apply` found out.

    Parameters
    ----------
    number: of the group.
    tail: what the foreign key does when a row goes, and when it is checked: as the application's own.
    more: operations that give the new columns indexes and foreign keys, with their labels.
    """

    shape: TableShape
    group: DraftGroup
    copied: Copied
    number: int
    tail: str
    more: tuple[tuple[str, Operation], ...]


def prepare(found: CopyPlan, context: Context) -> list[Step]:
    """Before any row has copies, all that keeps them right stands."""
    child, parent = found.shape.name, found.copied.table
    build, drop = _index(found, context)
    mapping = context.mappings[child]
    return [
        Step(
            id=f"preparation.{child}.copies.{found.number}.notes",
            title=f"make a table of zdm's in which it is noted that rows of {child} got copies",
            phase=Phase.PREPARATION,
            stage=Stage.SYNC,
            operation=context.label,
            action=Transaction(statements=(copies.make_notes(mapping, found.number),)),
            undo=(Transaction(statements=(copies.drop_notes(mapping, found.number),)),),
        ),
        Step(
            id=f"preparation.{child}.copies.{found.number}.index",
            title=f"build an index of {parent} that makes who changes {', '.join(found.copied.columns)} wait for who refers to the row",
            phase=Phase.PREPARATION,
            stage=Stage.SYNC,
            operation=context.label,
            action=build,
            undo=(drop,),
            naive="create-index-blocks-writes",
        ),
        *ddl.checked_constraint(
            step_id=f"preparation.{child}.copies.{found.number}.key",
            phase=Phase.PREPARATION,
            stage=Stage.SYNC,
            operation=context.label,
            on=child,
            name=copies.key_name(mapping, found.number),
            body=_key_body(found),
            references=parent,
            naive="add-foreign-key-scan",
            partitioned=found.shape.table.partitioned,
        ),
    ]


def clean_up(found: CopyPlan, context: Context) -> list[Step]:
    """Before the columns take their final names, nothing goes by the present ones any more."""
    child, parent = found.shape.name, found.copied.table
    mapping = context.mappings[child]
    name = copies.key_name(mapping, found.number)
    _, drop = _index(found, context)
    release: Transaction | PartitionedForeignKey = ddl.drop_constraint(name, child, parent)
    if found.shape.table.partitioned:
        release = PartitionedForeignKey(
            table=child,
            name=name,
            body=_key_body(found).as_string(None),
            references=parent,
            remove=True,
        )
    group = mapping.groups[found.number]
    unwatch = [s for _, n, s in copies.unwatch(mapping) if n.startswith(copies.trigger_name(mapping, group))]
    return [
        Step(
            id=f"cleanup.{child}.copies.{found.number}.key",
            title=f"drop the foreign key of zdm's over the copies in {child}",
            phase=Phase.CLEANUP,
            stage=Stage.RELEASE,
            operation=context.label,
            action=release,
            naive="drop-foreign-key-locks-both",
        ),
        Step(
            id=f"cleanup.{child}.copies.{found.number}.follow",
            title=f"stop carrying changes of {parent} to {child}",
            phase=Phase.CLEANUP,
            stage=Stage.APART,
            operation=context.label,
            action=Transaction(statements=tuple(unwatch), locks=(ddl.lock(parent),)),
        ),
        Step(
            id=f"cleanup.{child}.copies.{found.number}.index",
            title=f"drop the index of {parent} that only the rollout needed",
            phase=Phase.CLEANUP,
            stage=Stage.FINISH,
            operation=context.label,
            action=drop,
        ),
        Step(
            id=f"cleanup.{child}.copies.{found.number}.notes",
            title=f"drop the table in which it was noted that rows of {child} got copies",
            phase=Phase.CLEANUP,
            stage=Stage.FINISH,
            operation=context.label,
            action=Transaction(statements=(copies.drop_notes(mapping, found.number),)),
        ),
    ]


def _index(
    found: CopyPlan, context: Context
) -> tuple[Concurrent | PartitionedIndex, Concurrent | PartitionedIndex]:
    parent = found.copied.table
    index = qualified(parent.schema_, copies.index_name(context.mappings[found.shape.name], found.number))
    columns = [*(key for _, key in found.copied.by), *found.copied.columns]
    tail = sql.SQL("USING btree ({})").format(ddl.idents(columns))
    return ddl.create_index(index, parent, tail, unique=True), ddl.drop_index(index, parent)


def _key_body(found: CopyPlan) -> sql.Composed:
    copied = found.copied
    return sql.SQL("FOREIGN KEY ({}) REFERENCES {} ({}) ON UPDATE CASCADE{}").format(
        ddl.idents([*(own for own, _ in copied.by), *(new.physical for new in found.group.new)]),
        ddl.table(copied.table),
        ddl.idents([*(key for _, key in copied.by), *copied.columns]),
        ddl.raw(found.tail),
    )
