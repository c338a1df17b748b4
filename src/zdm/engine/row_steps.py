"""The steps of a row mapping: sync of both sides, the pass, and their end."""

from __future__ import annotations

from zdm.engine.table_steps import brief
from zdm.model.row_mapping import RowMapping
from zdm.model.step import Backfill, Phase, Stage, Step, Sync, Transaction, Verify
from zdm.sql import row_sync
from zdm.sql.row_objects import Side


def row_steps(mapping: RowMapping) -> list[Step]:
    """Every step of one mapping but the end of the old side's triggers, which the swap of its table drops."""
    return [
        # The new side first: from the moment in which the old one makes rows there, both directions stand.
        *(_sync(mapping, side) for side in reversed(row_sync.sides(mapping))),
        Step(
            id=f"migration.{mapping.id}.backfill",
            title=f"fill the columns of {mapping.new.table} from the rows of {mapping.old.table}"
            if mapping.joins
            else f"make the rows of {mapping.new.table} from those of {mapping.old.table}",
            phase=Phase.MIGRATION,
            stage=Stage.BACKFILL,
            operation=mapping.operation,
            action=Backfill(table=mapping.id, over=mapping.source.table),
            naive="insert-select",
        ),
        Step(
            id=f"migration.{mapping.id}.verify",
            title=f"compare every row of {mapping.new.table} with {mapping.old.table}",
            phase=Phase.MIGRATION,
            stage=Stage.VERIFY,
            operation=mapping.operation,
            action=Verify(table=mapping.id, over=mapping.source.table),
        ),
        *_end(mapping),
    ]


def _sync(mapping: RowMapping, side: Side) -> Step:
    table, other = mapping.side(side).table, mapping.other(side).table
    return Step(
        id=f"preparation.{mapping.id}.mirror.{side}",
        title=f"mirror what is written to {table} in {other}",
        phase=Phase.PREPARATION,
        stage=Stage.SYNC,
        operation=mapping.operation,
        action=Sync(table=mapping.id, side=side, on=table),
        undo=(Sync(table=mapping.id, side=side, on=table, remove=True),),
    )


def _end(mapping: RowMapping) -> list[Step]:
    steps: list[Step] = []
    steps += [
        Step(
            id=f"cleanup.{mapping.id}.mirror.{side}",
            title=f"stop mirroring {mapping.side(side).table} in {mapping.old.table}",
            phase=Phase.CLEANUP,
            stage=Stage.CONTRACT,
            operation=mapping.operation,
            action=Transaction(
                statements=row_sync.drop_triggers(mapping, side), locks=(brief(mapping.side(side).table),)
            ),
        )
        for side in row_sync.sides(mapping)
        if side != "old"
    ]
    steps += [
        Step(
            id=f"cleanup.{mapping.id}.functions.{side}",
            title=f"drop the functions that mirrored {mapping.side(side).table}",
            phase=Phase.CLEANUP,
            stage=Stage.FINISH,
            operation=mapping.operation,
            action=Sync(table=mapping.id, side=side, on=mapping.side(side).table, remove=True),
        )
        for side in row_sync.sides(mapping)
    ]
    return steps
