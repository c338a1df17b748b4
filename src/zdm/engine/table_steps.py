"""The steps that a table's operations share, compiled once per table from its mapping: columns, sync, pass, swap."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from zdm.engine.closing import closable, closed
from zdm.model.mapping import Authority, NewColumn, TableMapping
from zdm.model.names import QualifiedName, fit, split_name
from zdm.model.row_mapping import RowMapping
from zdm.model.step import (
    Backfill,
    Lock,
    Phase,
    Scan,
    Stage,
    Step,
    Sync,
    TableLock,
    Transaction,
    Verify,
)
from zdm.operations.ddl import filling
from zdm.sql import children, copies, pairs, row_sync
from zdm.sql.closed import open_columns


def text(template: str, **names: sql.Composable) -> str:
    """Compose SQL from a literal template and composed names, and return it as text."""
    return sql.SQL(template).format(**names).as_string(None)


def table(name: QualifiedName) -> sql.Identifier:
    """A table's qualified identifier."""
    return sql.Identifier(name.schema_, name.name)


def brief(name: QualifiedName) -> TableLock:
    """ACCESS EXCLUSIVE for a change of the catalogs only."""
    return TableLock(table=name, mode=Lock.ACCESS_EXCLUSIVE)


def fresh_columns(mapping: TableMapping) -> tuple[NewColumn, ...]:
    """Every column that preparation adds, in the order of the groups."""
    return tuple(new for group in mapping.groups for new in group.new)


def _column_definition(new: NewColumn) -> sql.Composed:
    # The type was spelled by the server (format_type), so it is SQL by construction. No default and no NOT NULL here:
    # a value that is there must have come from the new application, and the old one must not fail.
    collation = (
        sql.SQL(" COLLATE {}").format(sql.Identifier(*_split_collation(new.collation)))
        if new.collation
        else sql.SQL("")
    )
    # A domain may bring a default of its own. Elsewhere DEFAULT NULL would stay: with a length or precision the server stores it.
    default = sql.SQL(" DEFAULT NULL") if new.domain else sql.SQL("")
    return sql.SQL("{} {}{}{}").format(sql.Identifier(new.name), sql.SQL(new.type), collation, default)


def _split_collation(name: str) -> list[str]:
    if "." not in name:
        return [name.strip('"')]
    found = split_name(name, "pg_catalog")
    return [found.schema_, found.name]


def _add_columns(mapping: TableMapping, rows: Sequence[RowMapping]) -> Step:
    pieces = [sql.SQL("ADD COLUMN {}").format(_column_definition(new)) for new in fresh_columns(mapping)]
    pieces.append(sql.SQL("ADD COLUMN {} integer").format(sql.Identifier(mapping.marker)))
    before: tuple[str, ...] = ()
    if mapping.has_children:
        own = children.add_columns(
            mapping, {new.name: _column_definition(new) for new in fresh_columns(mapping)}
        )
        before = (own,) if own is not None else ()
        pieces.append(
            sql.SQL("ADD CONSTRAINT {} CHECK ({}) NOT VALID").format(
                sql.Identifier(children.guard(mapping)), children.in_step(mapping)
            )
        )
    return Step(
        id=f"preparation.{mapping.table}.columns",
        title=f"add the new columns and the marker beside the old ones of {mapping.table}",
        phase=Phase.PREPARATION,
        stage=Stage.STRUCTURE,
        action=Transaction(
            statements=(
                *before,
                text("ALTER TABLE {t} {actions}", t=table(mapping.table), actions=sql.SQL(", ").join(pieces)),
            ),
            locks=(brief(mapping.table),),
        ),
        undo=(_drop_columns(mapping, rows),),
        naive="add-column-with-default",
    )


def _drop_columns(mapping: TableMapping, rows: Sequence[RowMapping]) -> Transaction:
    added = [*(new.name for new in fresh_columns(mapping)), mapping.marker]
    may_be_closed = any(copies.copied_groups(mapping)) or mapping.table in closable(rows)
    drops = sql.SQL(", ").join(
        sql.SQL("DROP COLUMN IF EXISTS {}").format(sql.Identifier(name)) for name in added
    )
    return Transaction(
        first=(pairs.drop_view(mapping.pairs),) if mapping.pairs is not None else (),
        statements=(
            *(open_columns(mapping.table, added) if may_be_closed else ()),
            text("ALTER TABLE IF EXISTS {t} {actions}", t=table(mapping.table), actions=drops),
            *((children.drop_columns(mapping.oid, added),) if mapping.has_children else ()),
        ),
        locks=(brief(mapping.table),),
    )


def _sync(mapping: TableMapping, rows: Sequence[RowMapping], unprepared: Sequence[str]) -> Step:
    watches = tuple(dict.fromkeys(copied.table for _, copied in copies.copied_groups(mapping)))
    columns = _drop_columns(mapping, rows)
    parents = [found for found in rows if found.in_place and found.old.table == mapping.table]
    others = tuple(drop for found in parents for drop in row_sync.drop_triggers(found, "old"))
    ending = columns.model_copy(update={"statements": (*others, *unprepared, *columns.statements)})
    return Step(
        id=f"preparation.{mapping.table}.sync",
        title=f"install the sync triggers of {mapping.table}, the old side being the authority",
        phase=Phase.PREPARATION,
        stage=Stage.SYNC,
        action=Sync(table=mapping.table, authority=Authority.OLD, watches=watches),
        undo=(
            # What writes these columns from the tables that they refer to goes before them; what the triggers call, after them.
            *(closed(found, "parent") for found in parents),
            # The triggers go with the columns: what the new version writes between the two would go, and nobody would know.
            Sync(table=mapping.table, remove=True, watches=watches, ending=ending),
        ),
    )


def _fill(mapping: TableMapping) -> Step:
    return Step(
        id=f"migration.{mapping.table}.backfill",
        title=f"fill the new columns of {mapping.table} from the old ones",
        phase=Phase.MIGRATION,
        stage=Stage.BACKFILL,
        # Somebody may have had it filled, by `zdm backfill`, before all rows that are referred to had their keys.
        action=Backfill(table=mapping.table, again=mapping.depth > 0),
        naive="update-whole-table",
        turn=filling(mapping.depth),
    )


def _verify(mapping: TableMapping, *, promised: bool) -> Step:
    title = f"compare every row of {mapping.table}"
    if not mapping.needs_sync:
        title = f"count the rows of {mapping.table} that break what the new version demands"
    elif promised:
        title += ", and count those that break what the new version demands"
    return Step(
        id=f"migration.{mapping.table}.verify",
        title=title,
        phase=Phase.MIGRATION,
        stage=Stage.VERIFY,
        action=Verify(table=mapping.table),
    )


def _authority(mapping: TableMapping) -> Step:
    return Step(
        id=f"switchover.{mapping.table}.authority",
        title=f"make the new side the authority of {mapping.table}",
        phase=Phase.SWITCHOVER,
        stage=Stage.AUTHORITY,
        action=Sync(table=mapping.table, authority=Authority.NEW),
        undo=(Sync(table=mapping.table, authority=Authority.OLD),),
    )


def not_null_proof(mapping: TableMapping, new: NewColumn) -> str:
    """The name of the check that proves NOT NULL of a new column before the swap."""
    return fit(f"_zdm_{mapping.oid}_{new.final}_not_null")


def _tighten(mapping: TableMapping, new: NewColumn) -> list[Step]:
    name, column = sql.Identifier(not_null_proof(mapping, new)), sql.Identifier(new.name)
    t = table(mapping.table)
    drop = Transaction(
        statements=(text("ALTER TABLE IF EXISTS {t} DROP CONSTRAINT IF EXISTS {name}", t=t, name=name),),
        locks=(brief(mapping.table),),
    )
    validated = text(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = {oid} AND conname = {name} AND convalidated)",
        oid=sql.Literal(mapping.oid),
        name=sql.Literal(not_null_proof(mapping, new)),
    )
    return [
        Step(
            id=f"cleanup.{mapping.table}.{new.final}.promise",
            title=f"refuse new NULLs in {new.final} of {mapping.table}",
            phase=Phase.CLEANUP,
            stage=Stage.TIGHTEN,
            action=Transaction(
                statements=(
                    text("ALTER TABLE {t} DROP CONSTRAINT IF EXISTS {name}", t=t, name=name),
                    text(
                        "ALTER TABLE {t} ADD CONSTRAINT {name} CHECK ({c} IS NOT NULL) NOT VALID",
                        t=t,
                        name=name,
                        c=column,
                    ),
                ),
                locks=(brief(mapping.table),),
            ),
            undo=(drop,),
            naive="set-not-null",
        ),
        Step(
            id=f"cleanup.{mapping.table}.{new.final}.prove",
            title=f"prove that no row of {mapping.table} has NULL in {new.final}",
            phase=Phase.CLEANUP,
            stage=Stage.TIGHTEN,
            action=Scan(
                statement=text("ALTER TABLE {t} VALIDATE CONSTRAINT {name}", t=t, name=name),
                done_when=validated,
                locks=(TableLock(table=mapping.table, mode=Lock.SHARE_UPDATE_EXCLUSIVE, hold="scan"),),
            ),
            naive="set-not-null",
        ),
    ]


def table_steps(
    mapping: TableMapping,
    *,
    promised: bool,
    rows: Sequence[RowMapping] = (),
    unprepared: Sequence[str] = (),
) -> list[Step]:
    """Every shared step of a table's mapping but the swap and the views, which need the other tables as well.

    Parameters
    ----------
    rows: the row mappings of the plan.
    unprepared: what must be done before the new columns can go.
    promised: the new version demands something of rows that are there already.
    """
    if not mapping.needs_sync:
        return [_verify(mapping, promised=promised)] if promised else []
    steps = [
        _add_columns(mapping, rows),
        _sync(mapping, rows, unprepared),
        _fill(mapping),
        _verify(mapping, promised=promised),
        _authority(mapping),
    ]
    for new in fresh_columns(mapping):
        if new.not_null:
            steps += _tighten(mapping, new)
    return steps
