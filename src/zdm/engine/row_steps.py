"""The steps of a row mapping: sync of both sides, the pass, and their end."""

from __future__ import annotations

from collections.abc import Sequence

from zdm.engine.closing import closing
from zdm.engine.table_steps import brief
from zdm.model.row_mapping import RowMapping
from zdm.model.step import Backfill, Phase, Stage, Step, Sync, Transaction, Verify
from zdm.sql import row_log, row_objects, row_sync


def row_steps(mapping: RowMapping, added: Sequence[str] = ()) -> list[Step]:
    """Every step of one mapping but the end of its triggers, which the swap of the old side's table drops.

    Parameters
    ----------
    added: columns that the migration adds to the new side's table.
    """
    installed = _installed(mapping)
    if mapping.in_place:
        # The rows are their table's to fill and to compare.
        return [*installed, *_end(mapping)]
    # Undone last first: what the new version writes is carried over, or refused, before anything else of the mapping goes.
    last = installed[-1]
    installed[-1] = last.model_copy(update={"undo": (*closing(mapping, added), *last.undo)})
    return [
        *installed,
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


def _installed(mapping: RowMapping) -> list[Step]:
    """What mirrors the writes of each side, in the order in which it is made."""
    if not mapping.logged and not mapping.in_place:
        # In one moment: what one side's triggers alone carry over writes over what the other side's have not seen.
        sides = row_objects.sides(mapping)
        tables = tuple(dict.fromkeys(mapping.side(side).table for side in sides))
        title = f"mirror what is written to {mapping.old.table} in {mapping.new.table}"
        if "new" in sides:
            title = f"mirror what is written to {mapping.old.table} and {mapping.new.table} in each other"
        return [
            _sync(mapping, Sync(table=mapping.id, side="old", on=mapping.old.table, together=tables), title)
        ]
    steps: list[Step] = []
    # What the new version wrote is carried over while the old version's writes are still noted.
    for side in ("old", "parent") if mapping.in_place else row_objects.sides(mapping):
        on, other = mapping.side(side).table, mapping.other(side).table
        title = f"mirror what is written to {on} in {other}"
        if mapping.in_place and side == "old" and mapping.parent is not None:
            title = f"make what finds the rows of {mapping.parent.table} that rows of {on} refer to"
        steps.append(_sync(mapping, Sync(table=mapping.id, side=side, on=on), title))
    return steps


def _sync(mapping: RowMapping, action: Sync, title: str) -> Step:
    return Step(
        id=f"preparation.{mapping.id}.mirror" + ("" if action.together else f".{action.side}"),
        title=title,
        phase=Phase.PREPARATION,
        stage=Stage.SYNC,
        operation=mapping.operation,
        action=action,
        # Undone before the columns of either table, which go with the triggers of their own.
        turn=0 if mapping.in_place else 1,
        undo=(action.model_copy(update={"remove": True}),),
    )


def _end(mapping: RowMapping) -> list[Step]:
    steps = _end_of_log(mapping) if mapping.logged else []
    steps += [
        Step(
            id=f"cleanup.{mapping.id}.functions.{side}",
            title=f"drop the functions that mirrored {mapping.side(side).table}",
            phase=Phase.CLEANUP,
            stage=Stage.FINISH,
            operation=mapping.operation,
            action=Sync(table=mapping.id, side=side, on=mapping.side(side).table, remove=True),
        )
        for side in row_objects.sides(mapping)
    ]
    return steps


def _only_follows(mapping: RowMapping) -> bool:
    """Whether the new side's rows follow from the old one's, so that nothing of theirs is carried over."""
    return mapping.elements is not None and mapping.elements.follows


def _end_of_log(mapping: RowMapping) -> list[Step]:
    """The swap of the old side's table carries the rest over; until then both sides note what is written."""
    table = mapping.new.table
    if _only_follows(mapping):
        # Nothing of its rows is carried over, and the new version may write them from here on.
        return [
            Step(
                id=f"cleanup.{mapping.id}.mirror.new",
                title=f"let the new version write what follows from {mapping.old.table} in {table}",
                phase=Phase.CLEANUP,
                stage=Stage.APART,
                operation=mapping.operation,
                action=Transaction(statements=row_sync.drop_triggers(mapping, "new"), locks=(brief(table),)),
            )
        ]
    if mapping.one_way or mapping.in_place:
        return []
    steps: list[Step] = []
    if mapping.elements is None:
        steps.append(
            Step(
                id=f"cleanup.{mapping.id}.first.new",
                title=f"stop comparing what is inserted into {table} with {mapping.old.table}",
                phase=Phase.CLEANUP,
                stage=Stage.TIGHTEN,
                operation=mapping.operation,
                action=Transaction(statements=row_log.drop_first(mapping), locks=(brief(table),)),
            )
        )
    if not mapping.replaces:
        # A table that takes the other's place loses its triggers in the swap.
        steps.append(
            Step(
                id=f"cleanup.{mapping.id}.mirror.new",
                title=f"stop noting what is written to {table}",
                phase=Phase.CLEANUP,
                stage=Stage.FINISH,
                operation=mapping.operation,
                action=Transaction(statements=row_sync.drop_triggers(mapping, "new"), locks=(brief(table),)),
            )
        )
    return steps
