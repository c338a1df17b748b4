"""The steps of a row mapping: sync of both sides, the pass, and their end."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from zdm.engine.table_steps import brief, table, text
from zdm.model.names import QualifiedName
from zdm.model.row_mapping import RowMapping
from zdm.model.step import Backfill, Phase, Stage, Step, Sync, Transaction, Verify
from zdm.sql import row_log, row_objects, row_sync
from zdm.sql.row_objects import Side

ROLLED_BACK = "zdm: the migration is rolled back"
"""The name of the constraint that refuses what the new version writes where nothing of it would be kept; the error shows it."""


def row_steps(mapping: RowMapping, earlier: Sequence[RowMapping] = ()) -> list[Step]:
    """Every step of one mapping but the end of the old side's triggers, which the swap of its table drops.

    Parameters
    ----------
    earlier: the mappings whose steps come before, and are taken back after this one's.
    """
    installed = [_sync(mapping, side, earlier) for side in _installed(mapping)]
    if mapping.in_place:
        # The rows are their table's to fill and to compare.
        return [*installed, *_end(mapping)]
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


def _installed(mapping: RowMapping) -> tuple[Side, ...]:
    """The sides in the order in which their triggers are made; a rollback drops the last first."""
    if mapping.logged and not mapping.in_place:
        # What the new version wrote is carried over before anything else goes, while the old version's writes are still noted.
        return row_objects.sides(mapping)
    # The new side first: from the moment in which the old one makes rows there, both directions stand.
    return tuple(reversed(row_objects.sides(mapping)))


def _sync(mapping: RowMapping, side: Side, earlier: Sequence[RowMapping]) -> Step:
    on, other = mapping.side(side).table, mapping.other(side).table
    title = f"mirror what is written to {on} in {other}"
    if mapping.in_place and side == "old" and mapping.parent is not None:
        title = f"make what finds the rows of {mapping.parent.table} that rows of {on} refer to"
    # What a log says is carried over when the new side's triggers go, and the old one's are not asked any more.
    last = "new" if mapping.logged else "old"
    return Step(
        id=f"preparation.{mapping.id}.mirror.{side}",
        title=title,
        phase=Phase.PREPARATION,
        stage=Stage.SYNC,
        operation=mapping.operation,
        action=Sync(table=mapping.id, side=side, on=on),
        undo=(
            Sync(table=mapping.id, side=side, on=on, remove=True),
            *(_shut(name) for name in _going(mapping, earlier) if side == last),
        ),
    )


def _going(mapping: RowMapping, earlier: Sequence[RowMapping]) -> list[QualifiedName]:
    """The tables that a rollback takes away, and into which nothing has to be mirrored once the triggers of this mapping go."""
    if mapping.in_place or mapping.one_way:
        return []
    made = [mapping.new.table] if mapping.new.created else []
    if mapping.parent is not None and mapping.parent.created:
        made.append(mapping.parent.table)
    written = {
        name
        for one in earlier
        for name in (one.new.table, one.parent.table if one.parent is not None else None)
    }
    return [name for name in made if name not in written]


def _shut(name: QualifiedName) -> Transaction:
    """Between the end of the triggers and that of the table the new version's writes would go with it, and nobody would know."""
    return Transaction(
        statements=(
            text(
                # What a foreign key does for the old version has to pass.
                "ALTER TABLE IF EXISTS {t} DROP CONSTRAINT IF EXISTS {c}, ADD CONSTRAINT {c}"
                " CHECK (pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.>) 0) NOT VALID",
                t=table(name),
                c=sql.Identifier(ROLLED_BACK),
            ),
        ),
        locks=(brief(name),),
    )


def _end(mapping: RowMapping) -> list[Step]:
    steps: list[Step] = []
    if mapping.logged:
        steps += _end_of_log(mapping)
    steps += [
        Step(
            id=f"cleanup.{mapping.id}.mirror.{side}",
            title=f"stop mirroring {mapping.side(side).table} in {mapping.old.table}",
            phase=Phase.CLEANUP,
            stage=Stage.APART,
            operation=mapping.operation,
            action=Transaction(
                statements=row_sync.drop_triggers(mapping, side), locks=(brief(mapping.side(side).table),)
            ),
        )
        for side in row_objects.sides(mapping)
        if side != "old" and (not mapping.logged or _only_follows(mapping))
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
        for side in row_objects.sides(mapping)
    ]
    return steps


def _only_follows(mapping: RowMapping) -> bool:
    """Whether the new side's rows follow from the old one's, so that nothing of theirs is carried over."""
    return mapping.elements is not None and mapping.elements.follows


def _end_of_log(mapping: RowMapping) -> list[Step]:
    """The swap of the old side's table carries the rest over; until then both sides note what is written."""
    if mapping.one_way or _only_follows(mapping) or mapping.in_place:
        return []
    table = mapping.new.table
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
