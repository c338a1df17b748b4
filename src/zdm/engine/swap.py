"""The swap: the one transaction of cleanup in which a table's old structure goes and the new one takes its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psycopg import sql

from zdm.engine.key_swap import after_columns_stand, before_columns_go
from zdm.engine.table_steps import brief, fresh_columns, not_null_proof, table, text
from zdm.engine.version_views import created_view
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName, qualified, sql_name
from zdm.model.plan import Plan
from zdm.model.row_mapping import RowMapping
from zdm.model.step import Phase, Stage, Step, Sync, Transaction
from zdm.operations import fidelity
from zdm.operations.base import Context
from zdm.operations.shadow_steps import swap_statements
from zdm.operations.shadows import Shadow
from zdm.operations.shape import ShapeColumn, TableShape
from zdm.sql import children, pairs, row_log, row_objects, row_sync, sync, views
from zdm.sql.closed import close_table
from zdm.sql.fence import aside
from zdm.sql.identifiers import SCHEMA
from zdm.sql.partitions import refuse_unverified
from zdm.sql.row_objects import Side
from zdm.sql.templates import dollar_quoted


def swap_steps(plan: Plan, context: Context, previous_schemas: Sequence[str]) -> list[Step]:
    """The swap of every table, and the removal of what only the rollout needed.

    Parameters
    ----------
    previous_schemas: version schemas of earlier, completed rollouts; their applications are the old version now.
    """
    steps = [
        step
        for mapping in plan.mappings
        if (step := _swap(plan, mapping, context, previous_schemas)) is not None
    ]
    steps += [
        Step(
            id=f"cleanup.{mapping.table}.sync",
            title=f"drop the sync functions of {mapping.table}",
            phase=Phase.CLEANUP,
            stage=Stage.FINISH,
            action=Sync(table=mapping.table, remove=True),
        )
        for mapping in plan.mappings
        if mapping.needs_sync
    ]
    for schema in (*((plan.old_schema,) if plan.old_schema else ()), *previous_schemas):
        # Of a schema that an earlier rollout left, other tables' views may serve the old version of another one.
        earlier = schema in previous_schemas
        needed = views.needed_by_others(schema, plan.migration, plan.target) if earlier else None
        fenced = views.drop_schema(aside(schema), needed) if earlier else ()
        steps.append(
            Step(
                id=f"cleanup.schema.{schema}",
                title=f"drop version schema {sql_name(schema)}",
                phase=Phase.CLEANUP,
                stage=Stage.FINISH,
                action=Transaction(
                    statements=(*views.drop_schema(schema, needed), *fenced),
                ),
            )
        )
    return steps


def _swap(
    plan: Plan, mapping: TableMapping, context: Context, previous_schemas: Sequence[str]
) -> Step | None:
    shape = context.draft.shapes[mapping.table]
    following = _following(shape, context)
    olds = (*((plan.old_schema,) if plan.old_schema else ()), *previous_schemas)
    # An earlier version's schema may be behind the fence of another rollout that has it for its old version too.
    named = (*olds, *(aside(schema) for schema in previous_schemas))
    drops = [statement for schema in named for statement in views.drop_view(mapping, schema, old=True)]
    if mapping.pairs is not None:
        drops.append(pairs.drop_view(mapping.pairs))
    altered = following.remake_view or any(column.alter_type for column in shape.columns)
    remake: list[str] = []
    # Statements through a view lock the view and then the table; in the other order they and the swap would deadlock.
    views_first = [views.view_name(mapping, schema, old=True) for schema in olds]
    if plan.new_schema and not mapping.dropped_in_new:
        made = after_swap(mapping)
        if mapping.marker_in_view or altered:
            views_first.append(views.view_name(mapping, plan.new_schema))
            drops += views.drop_view(mapping, plan.new_schema)
            remake += views.create_view(made, plan.new_schema, plan.server_version)
        else:
            remake.append(views.stamp_view(made, plan.new_schema))
    # The triggers' names do not depend on the rollout; the functions, whose names do, go in a step of their own.
    triggers = sync.drop_triggers(mapping)
    if mapping.has_children and mapping.needs_sync:
        # A function's name has the rollout's number, which is not known yet; the table's is enough.
        triggers.append(children.drop_triggers(mapping, "sync_"))
    shadow = context.draft.shadows.get(mapping.table)
    triggers = _rows_end(plan, mapping, triggers, goes=shape.dropped and shadow is None)
    if shadow is not None:
        shown = created_view(shadow.name, context.draft.created[shadow.name])
        remake = [*swap_statements(shadow), views.stamp_view(shown, plan.new_schema)]
    statements = contract_statements(mapping, shape, following, drop_triggers=triggers, recreate_views=remake)
    if mapping.spread and mapping.needs_sync:
        statements.insert(0, refuse_unverified(mapping))
    elif mapping.needs_sync:
        statements.insert(0, children.refuse(mapping))
    if not drops and not statements:
        return None
    if mapping.needs_sync and not mapping.dropped_in_new:
        statements.append(forget_plans(plan.new_schema or SCHEMA))
    return Step(
        id=f"cleanup.{mapping.table}.swap",
        title=f"swap {mapping.table}: the old structure goes, the new one takes its place",
        phase=Phase.CLEANUP,
        stage=Stage.CONTRACT,
        action=Transaction(
            first=tuple(drops),
            statements=tuple(statements),
            locks=tuple(
                brief(name)
                for name in dict.fromkeys(
                    (
                        *views_first,
                        # It is the new version that writes now, the new table first and the old one by its triggers.
                        *_mirrored(plan, mapping),
                        mapping.table,
                        *((shadow.name,) if shadow else ()),
                        *(_referred_to(shadow) if shadow and shadow.logged else ()),
                        *following.also_locked,
                    )
                )
            ),
            parts=tuple(
                parts
                for one in (shape, *(p for p in context.draft.parts.values() if p.part_of == shape.name))
                for parts in fidelity.key_parts(one, context)
            ),
        ),
        naive="drop-column",
        # The triggers of what refers to a table read its old key, and foreign keys its old column, so they go first.
        turn=fidelity.swap_turn(context.draft, mapping.table),
    )


def _rows_end(plan: Plan, mapping: TableMapping, triggers: Sequence[str], *, goes: bool) -> list[str]:
    """What ends the triggers of a table, those that carry its rows to other tables included.

    Parameters
    ----------
    triggers: what drops those of its own.
    goes: the table is dropped by a later step.
    """
    statements = list(triggers)
    found = [rows for rows in plan.row_mappings if rows.old.table == mapping.table]
    for rows in found:
        if rows.logged:
            # A log is carried over to its end first, while nobody can write the old side.
            statements.insert(0, row_log.end(rows, "old", over=True))
        for side in _ending(rows):
            statements += row_sync.drop_triggers(rows, side)
    if goes and found:
        # It stays until foreign keys have let go of it. Nothing carries over any more what is written meanwhile.
        statements += close_table(mapping.table, cleanup=True)
    return statements


def _mirrored(plan: Plan, mapping: TableMapping) -> list[QualifiedName]:
    """The other tables that carry triggers which go together with those of this one."""
    found = [rows for rows in plan.row_mappings if rows.old.table == mapping.table]
    return [rows.side(side).table for rows in found for side in _ending(rows)]


def _ending(rows: RowMapping) -> tuple[Side, ...]:
    """The sides whose triggers go with the old structure.

    All of them at once: what only one side's carry over is written over as soon as the other side's look at the row; what they call
    writes the columns that go; and the application's own triggers, where the whole table goes, are on the old one until then.
    """
    if rows.logged and not rows.replaces:
        return ("old",)
    return row_objects.sides(rows)


def _following(shape: TableShape, context: Context) -> fidelity.InSwap:
    """What hangs on the table's columns, and what hangs on them in parts of it alone, keys and numbering included."""
    following = fidelity.in_swap(shape, context)
    for part in context.draft.parts.values():
        if part.part_of == shape.name:
            following.add(fidelity.in_swap(part, context))
            following.before += before_columns_go(part)
            following.after += after_columns_stand(part)
    return following


def _referred_to(shadow: Shadow) -> list[QualifiedName]:
    """The tables that the old one refers to, which its end locks as well."""
    found = [key.references for key in shadow.old.constraints if key.references is not None]
    return [name for name in dict.fromkeys(found) if name != shadow.old.name]


def forget_plans(schema: str) -> str:
    """What makes every session plan anew. `schema` is one of zdm's own."""
    return dollar_quoted("swap_plans", schema=sql.Literal(schema)).as_string(None)


def after_swap(mapping: TableMapping) -> TableMapping:
    """The mapping as it is once the table has its final names: nothing is mapped any more."""
    return mapping.model_copy(
        update={
            "table": qualified(mapping.table.schema_, mapping.final_name),
            "groups": (),
            "marker_in_view": False,
            "new_columns": tuple(c.model_copy(update={"physical": c.name}) for c in mapping.new_columns),
        }
    )


def contract_statements(
    mapping: TableMapping,
    shape: TableShape,
    following: fidelity.InSwap,
    *,
    drop_triggers: Sequence[str],
    recreate_views: Sequence[str],
) -> list[str]:
    """What goes, goes; what stays takes its final name. All of it changes catalogs only.

    Parameters
    ----------
    following: what dependants need in the same transaction.
    drop_triggers: statements that drop the sync triggers.
    recreate_views: statements that make the new version's view anew, where it showed the marker or a type changes.
    """
    statements = [*drop_triggers]
    if shape.dropped:
        return [*statements, *recreate_views]
    statements += following.before
    t = table(mapping.table)
    statements += before_columns_go(shape)
    shown = {column.physical for column in shape.columns}
    replaced = [old.name for group in mapping.groups for old in group.old if old.name not in shown]
    gone = list(dict.fromkeys(replaced + shape.removed))
    # A generated column goes before the columns that it is generated from.
    gone.sort(key=lambda name: not _generated(shape, name))
    if mapping.needs_sync:
        gone.append(mapping.marker)
    inherited = mapping.has_children and any(column.fresh for column in shape.columns)
    if inherited:
        statements.append(children.remember(mapping))
    statements += _alter(t, (sql.SQL("DROP COLUMN {}").format(sql.Identifier(name)) for name in gone))
    if mapping.has_children and gone:
        statements.append(children.drop_columns(mapping.oid, gone))
    statements += _renames(t, shape.columns)
    fresh = {new.final: new for new in fresh_columns(mapping)}
    changes: list[sql.Composable] = []
    proofs: list[sql.Composable] = []
    for column in shape.columns:
        name, new = sql.Identifier(column.name), fresh.get(column.name)
        if column.alter_type is not None:
            kind = sql.SQL(column.alter_type)  # spelled by the server
            changes.append(sql.SQL("ALTER COLUMN {} TYPE {}").format(name, kind))
        if new is not None and new.not_null:
            # The validated check proves it, so nothing is scanned; it goes in a statement of its own, afterwards.
            changes.append(sql.SQL("ALTER COLUMN {} SET NOT NULL").format(name))
            proofs.append(sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(not_null_proof(mapping, new))))
        if new is not None or column.default_changed:
            if column.default is not None:
                default = sql.SQL(column.default)  # deparsed by the server
                changes.append(sql.SQL("ALTER COLUMN {} SET DEFAULT {}").format(name, default))
            elif new is None:
                changes.append(sql.SQL("ALTER COLUMN {} DROP DEFAULT").format(name))
    if inherited and proofs:
        statements.append(children.make_required(mapping))
    statements += _alter(t, changes)
    statements += _alter(t, proofs)
    # The replica identity is given to an index that still has its temporary name; the key gives it the final one.
    statements += following.after
    statements += after_columns_stand(shape)
    if inherited:
        statements.append(children.make_own(mapping))
    if shape.final_name != mapping.table.name:
        statements.append(text("ALTER TABLE {t} RENAME TO {n}", t=t, n=sql.Identifier(shape.final_name)))
    return [*statements, *recreate_views]


def _generated(shape: TableShape, name: str) -> bool:
    column = shape.original(name)
    return column is not None and bool(column.generated)


def _alter(t: sql.Identifier, actions: Iterable[sql.Composable]) -> list[str]:
    listed = list(actions)
    return [text("ALTER TABLE {t} {actions}", t=t, actions=sql.SQL(", ").join(listed))] if listed else []


def _renames(t: sql.Identifier, columns: Sequence[ShapeColumn]) -> list[str]:
    """Physical names to final ones; columns that exchange names go through a name of their own first."""
    wanted = [(c.physical, c.name) for c in columns if c.physical != c.name]
    physical = {old for old, _ in wanted}
    first = [(old, f"_zdm_swap_{n}") for n, (old, new) in enumerate(wanted) if new in physical]
    moved = dict(first)
    pairs = first + [(moved.get(old, old), new) for old, new in wanted]
    return [
        text("ALTER TABLE {t} RENAME COLUMN {a} TO {b}", t=t, a=sql.Identifier(a), b=sql.Identifier(b))
        for a, b in pairs
    ]
