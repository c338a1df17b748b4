"""The steps of a table that takes another one's place, but those that its row mapping has."""

from __future__ import annotations

import json

from psycopg import sql

from zdm.model.names import qualified, sql_name
from zdm.model.step import Lock, Phase, Scan, Stage, Step, TableLock, Transaction
from zdm.model.table import Constraint, Table
from zdm.operations import ddl
from zdm.operations.base import Context
from zdm.operations.fidelity.columns import attribute_statements
from zdm.operations.fidelity.indexes import attributes_of
from zdm.operations.fidelity.review import constraint_comment, own_timing, succeed_key, temporary
from zdm.operations.shadows import Shadow, ShadowIndex, literal
from zdm.sql import views
from zdm.sql.templates import dollar_quoted


def shadow_steps(phase: Phase, context: Context, shadow: Shadow) -> list[Step]:
    """The steps of one phase."""
    if phase is Phase.PREPARATION:
        return _prepare(context, shadow)
    if phase is Phase.MIGRATION:
        return [
            *(step for index in shadow.indexes for step in _index(context, shadow, index)),
            _analyze(shadow),
        ]
    if phase is Phase.SWITCHOVER:
        return [step for child, key in _keys(shadow) for step in _add_key(context, shadow, child, key)]
    return [
        *(_release(shadow, child, key) for child, key in shadow.others),
        # What nobody has carried over yet stands in the old table alone, whose keys hold until it goes.
        *(_let_go(shadow, key) for key in shadow.own if not shadow.logged),
        *_finish(context, shadow),
    ]


def swap_statements(shadow: Shadow) -> list[str]:
    """What the swap's transaction does once the triggers are gone: the old table goes, the new one takes its name."""
    old, new = literal(shadow.old.name), literal(shadow.name)
    found = [_undress(shadow)] if shadow.numbered else []
    for number, column in enumerate(shadow.numbered):
        found += [
            dollar_quoted(
                "swap_identity_before",
                table=old,
                column=sql.Literal(column.name),
                memory=sql.Literal(f"zdm.identity_{number}"),
                aside=sql.Literal(f"_zdm_{shadow.old.oid}_{column.number}"),
            ).as_string(None),
            ddl.text(
                "ALTER TABLE {t} ALTER COLUMN {c} DROP DEFAULT",
                t=ddl.table(shadow.name),
                c=ddl.ident(column.name),
            ),
        ]
    found.append(
        dollar_quoted(
            "shadow_swap",
            old=sql.SQL("{}::pg_catalog.regclass").format(old),
            new=sql.SQL("{}::pg_catalog.regclass").format(new),
            schema=sql.Literal(shadow.old.name.schema_),
            final=old,
        ).as_string(None)
    )
    found += [
        dollar_quoted(
            "swap_identity_after",
            table=old,
            column=sql.Literal(column.name),
            memory=sql.Literal(f"zdm.identity_{number}"),
        ).as_string(None)
        for number, column in enumerate(shadow.numbered)
    ]
    return found


def _undress(shadow: Shadow) -> str:
    kept = {column.name: list(column.numbered_for) for column in shadow.numbered}
    return dollar_quoted(
        "shadow_undress", old=literal(shadow.old.name), kept=sql.Literal(json.dumps(kept))
    ).as_string(None)


def _prepare(context: Context, shadow: Shadow) -> list[Step]:
    old, name, label = shadow.old, shadow.name, context.label
    attributes = [
        statement
        for column in shadow.columns
        if column.source is not None
        for statement in attribute_statements(name, column.source, column.name, column.type)
    ]
    undo = [ddl.text("DROP TABLE IF EXISTS {t}", t=ddl.table(name)), *views.drop_schema(shadow.schema)]
    if shadow.numbered:
        undo.append(_undress(shadow))
    steps = [
        Step(
            id=f"preparation.{old.name}.shadow",
            title=f"make the new {old.name} in schema {sql_name(shadow.schema)}"
            + (f", with {len(shadow.partitions)} partitions" if shadow.partitioned else ""),
            phase=Phase.PREPARATION,
            stage=Stage.TABLES,
            operation=label,
            action=Transaction(
                statements=(
                    *views.create_schema(shadow.schema, context.draft.target),
                    *shadow.create,
                    *attributes,
                )
            ),
            undo=(Transaction(statements=tuple(undo), locks=(ddl.lock(name),)),),
        )
    ]
    if shadow.extra_index is not None:
        index = qualified(old.name.schema_, shadow.extra_index)
        steps.append(
            Step(
                id=f"preparation.{old.name}.shadow.key",
                title=f"build a unique index of {old.name} over the new key, by which rows of both tables are matched",
                phase=Phase.PREPARATION,
                stage=Stage.STRUCTURE,
                operation=label,
                action=ddl.create_index(
                    index, old.name, sql.SQL("USING btree ({})").format(ddl.idents(shadow.key)), unique=True
                ),
                undo=(ddl.drop_index(index, old.name),),
                naive="create-index-blocks-writes",
            )
        )
    return steps


def _index(context: Context, shadow: Shadow, index: ShadowIndex) -> list[Step]:
    """Build one index after the rows; a constraint gets its index first, unless it goes from partition to partition."""
    base = f"migration.{shadow.old.name}.shadow.{index.name}"
    body = index.body or context.carried[index.carry]
    title = f"build the index {index.name} of the new {shadow.old.name}"
    if shadow.partitioned and index.constraint:
        return [
            ddl.partitioned_unique(
                step_id=base,
                phase=Phase.MIGRATION,
                stage=Stage.INDEXES,
                operation=context.label,
                on=shadow.name,
                name=index.name,
                body=body,
            )
        ]
    name = qualified(shadow.schema, index.name)
    steps = [
        Step(
            id=base,
            title=title,
            phase=Phase.MIGRATION,
            stage=Stage.INDEXES,
            operation=context.label,
            action=ddl.create_index(
                name, shadow.name, ddl.raw(body), unique=index.unique, partitioned=shadow.partitioned
            ),
            undo=(ddl.drop_index(name, shadow.name, partitioned=shadow.partitioned),),
            naive="create-index-blocks-writes",
        )
    ]
    if index.constraint:
        steps.append(
            Step(
                id=f"{base}.constraint",
                title=f"make it a unique constraint of the new {shadow.old.name}",
                phase=Phase.MIGRATION,
                stage=Stage.INDEXES,
                operation=context.label,
                action=ddl.alter(
                    shadow.name,
                    "ADD CONSTRAINT {name} UNIQUE USING INDEX {name}{timing}",
                    name=ddl.ident(index.name),
                    timing=ddl.raw(index.timing),
                ),
                undo=(ddl.drop_constraint(index.name, shadow.name),),
                naive="add-unique-builds-index",
            )
        )
    return steps


def _analyze(shadow: Shadow) -> Step:
    """Nobody else analyzes a partitioned table, and the new version's first statements come at switchover."""
    table = ddl.table(shadow.name)
    return Step(
        id=f"migration.{shadow.old.name}.shadow.analyze",
        title=f"analyze the new {shadow.old.name}",
        phase=Phase.MIGRATION,
        stage=Stage.INDEXES,
        operation=shadow.label,
        action=Scan(
            statement=ddl.text("ANALYZE {t}", t=table),
            done_when=ddl.text(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_stats WHERE schemaname = {schema} AND tablename = {name})"
                " OR NOT EXISTS (SELECT FROM {table})",
                schema=sql.Literal(shadow.name.schema_),
                name=sql.Literal(shadow.name.name),
                table=table,
            ),
            locks=(TableLock(table=shadow.name, mode=Lock.SHARE_UPDATE_EXCLUSIVE, hold="scan"),),
        ),
    )


def _keys(shadow: Shadow) -> list[tuple[Table | None, Constraint]]:
    """The foreign keys of the table (by None), and those of others that point at it."""
    return [*((None, key) for key in shadow.own), *shadow.others]


def _add_key(context: Context, shadow: Shadow, child: Table | None, key: Constraint) -> list[Step]:
    on = shadow.name if child is None else child.name
    request = next(
        r
        for r in shadow.carries
        if r.kind == "foreign key" and r.name == key.name and r.table == (child or shadow.old).name
    )
    assert key.references is not None
    return ddl.checked_constraint(
        step_id=f"switchover.{on}.shadow.{key.name}",
        phase=Phase.SWITCHOVER,
        stage=Stage.CONSTRAINTS,
        operation=context.label,
        on=on,
        name=key.name if child is None else temporary(key.name),
        body=ddl.raw(context.carried[request.key]),
        references=key.references if child is None else shadow.name,
        naive="add-foreign-key-scan",
        partitioned=child is None and shadow.partitioned,
    )


def _release(shadow: Shadow, child: Table, key: Constraint) -> Step:
    """Another table's key points at the new table alone; dropping one locks both tables, so each has its own transaction."""
    return Step(
        id=f"cleanup.{child.name}.shadow.{key.name}",
        title=f"let the foreign key {key.name} of {child.name} point at the new {shadow.old.name} alone",
        phase=Phase.CLEANUP,
        stage=Stage.RELEASE,
        operation=shadow.label,
        action=Transaction(
            statements=tuple(succeed_key(key, child.name)),
            locks=ddl.locks((child.name, shadow.old.name), Lock.ACCESS_EXCLUSIVE),
        ),
        naive="drop-foreign-key-locks-both",
    )


def _let_go(shadow: Shadow, key: Constraint) -> Step:
    """The old table's own key goes before the table, since dropping it locks the other table as well."""
    assert key.references is not None
    return Step(
        id=f"cleanup.{shadow.old.name}.shadow.{key.name}",
        title=f"drop the foreign key {key.name} of the old {shadow.old.name}",
        phase=Phase.CLEANUP,
        stage=Stage.RELEASE,
        operation=shadow.label,
        action=ddl.drop_constraint(key.name, shadow.old.name, key.references),
        naive="drop-foreign-key-locks-both",
    )


def _finish(context: Context, shadow: Shadow) -> list[Step]:
    """Comments and settings of what took the old names, and the end of the schema that held the new table."""
    del context
    final = shadow.old.name
    statements = [s for key in shadow.own for s in (*own_timing(key, final), *constraint_comment(key, final))]
    built = {index.name for index in shadow.indexes}
    for constraint in shadow.old.constraints:
        if constraint.kind in {"check", "exclusion", "primary key", "unique"} and (
            constraint.kind != "unique" or constraint.name in built
        ):
            statements += constraint_comment(constraint, final)
    for index in shadow.old.indexes:
        if index.name in built and index.constraint is None:
            statements += attributes_of(index, final)
    steps = []
    if statements:
        steps.append(
            Step(
                id=f"cleanup.{final}.shadow.attributes",
                title=f"give constraints and indexes of {final} the comments and settings of the old ones",
                phase=Phase.CLEANUP,
                stage=Stage.FINISH,
                operation=shadow.label,
                action=Transaction(statements=tuple(statements), locks=(ddl.lock(final),)),
            )
        )
    steps.append(
        Step(
            id=f"cleanup.{final}.shadow.schema",
            title=f"drop the schema {sql_name(shadow.schema)}, which held the new {final}",
            phase=Phase.CLEANUP,
            stage=Stage.FINISH,
            operation=shadow.label,
            action=Transaction(statements=views.drop_schema(shadow.schema)),
        )
    )
    return steps
