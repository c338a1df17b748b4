"""Is the database still what zdm left?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from psycopg import sql

from zdm.db.introspect import read_table
from zdm.db.session import transaction
from zdm.gates.base import Gate, counted
from zdm.gates.context import GateContext
from zdm.model.hanging import going, hanging_on
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName, qualified
from zdm.model.row_mapping import RowMapping, SideKind
from zdm.model.step import Concurrent, Phase, Scan
from zdm.model.verdict import Verdict
from zdm.sql import children, row_objects, row_sync, sync, sync_generator, views
from zdm.sql.fence import aside, effective, effective_rows, fences_table
from zdm.sql.partitions import over_family

_COLUMNS = """
SELECT c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), n.nspname
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.oid = coalesce(nullif(%s, 0)::pg_catalog.oid, pg_catalog.to_regclass(%s)::pg_catalog.oid)
"""

_OWN_VIEWS = """
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind = 'v' AND n.nspname = ANY (%s)
"""

# 1: for each row; 2: before. Names sort bytewise.
_LATER_TRIGGERS = """
SELECT t.tgname FROM pg_catalog.pg_trigger AS t
WHERE t.tgparentid = 0 AND t.tgrelid IN {family} AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 3 = 3
  AND t.tgname COLLATE "C" > {prefix} AND NOT pg_catalog.starts_with(t.tgname, {prefix})
ORDER BY t.tgname COLLATE "C"
"""


_PARTITION_TRIGGERS = """
SELECT w.name, p.relid::pg_catalog.regclass::text,
  CASE WHEN t.oid IS NULL THEN 'missing' ELSE 'not enabled ALWAYS' END
FROM pg_catalog.pg_partition_tree(%s::pg_catalog.oid::pg_catalog.regclass) AS p CROSS JOIN pg_catalog.unnest(%s::text[]) AS w (name)
LEFT JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = p.relid AND t.tgname = w.name
WHERE p.level > 0 AND t.tgenabled IS DISTINCT FROM 'A'
ORDER BY 2, 1
"""


_CHILDREN = """
SELECT h.inhrelid::pg_catalog.regclass::text FROM pg_catalog.pg_inherits AS h JOIN pg_catalog.pg_class AS p ON p.oid = h.inhparent
WHERE h.inhparent = coalesce(nullif(%s, 0)::pg_catalog.oid, pg_catalog.to_regclass(%s)::pg_catalog.oid) AND p.relkind = 'r' ORDER BY 1
"""


_UNIQUE = """
SELECT EXISTS (
  SELECT FROM pg_catalog.pg_index AS i CROSS JOIN LATERAL (
    SELECT pg_catalog.array_agg(a.attname::text) AS names
    FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number WHERE k.place <= i.indnkeyatts
  ) AS c
  WHERE i.indrelid = pg_catalog.to_regclass(%(table)s) AND i.indisunique AND i.indisvalid AND i.indimmediate
    AND i.indpred IS NULL AND i.indexprs IS NULL AND c.names <@ %(key)s::text[] AND (c.names @> %(key)s::text[] OR NOT %(whole)s)
)
"""


class Drift(Gate):
    """Columns, sync functions, sync triggers and version views are as zdm left them, and no trigger comes after ours."""

    name: ClassVar[str] = "drift"
    asks: ClassVar[str] = "Is the database still what zdm left?"

    def evaluate(self, ctx: GateContext) -> Verdict:
        """Names every deviation; only reads catalogs, in one snapshot, under an empty search_path."""
        threshold = "nothing missing, edited, disabled or added"
        with transaction(ctx.conn, isolation="repeatable read", read_only=True, rollback=True):
            # The definitions were hashed as the server spells them under an empty path.
            ctx.conn.execute("SELECT pg_catalog.set_config('search_path', '', true)")
            fenced = ctx.rollout.fenced_at is not None
            found = [
                text
                for mapping in ctx.plan.mappings
                for text in _look(ctx, effective(mapping, fenced=fenced))
            ]
            found += [
                text
                for rows in ctx.plan.row_mappings
                for text in _rows(ctx, effective_rows(rows, ctx.plan, fenced=fenced))
            ]
            found += _views(ctx, fenced=fenced)
            found += _hanging(ctx, fenced=fenced)
            found += _made(ctx, fenced=fenced)
        if not found:
            return self.passed(f"{counted(len(ctx.plan.mappings), 'table')} as zdm left it", threshold)
        return self.refused(
            "; ".join(found),
            threshold,
            f"Undo what somebody changed, then run `zdm verify {ctx.migration.id}`: rows may have been written meanwhile. "
            f"Or go back with `zdm rollback {ctx.migration.id}`.",
        )


def _look(ctx: GateContext, mapping: TableMapping) -> list[str]:
    columns = _columns(ctx, mapping)
    if columns is None:
        return [f"table {mapping.table} is gone"]
    if isinstance(columns, str):
        return [columns]
    return [
        *_missing_columns(mapping, columns),
        *_sync_objects(ctx, mapping),
        *_later_triggers(ctx, mapping),
        *_children(ctx, mapping),
    ]


def _columns(ctx: GateContext, mapping: TableMapping) -> dict[str, str] | str | None:
    """Type by column; or what is wrong with the table itself; None if there is none."""
    # A table that the migration itself creates has no number in the plan.
    rows = ctx.conn.execute(_COLUMNS, (mapping.oid, _written(mapping.table))).fetchall()
    if not rows:
        return None
    found = qualified(rows[0][3], rows[0][0])
    if found != mapping.table:
        return f"table {mapping.table} is called {found} now"
    return {column: type_ for _, column, type_, _ in rows if column is not None}


def _missing_columns(mapping: TableMapping, columns: Mapping[str, str]) -> list[str]:
    wanted = {new.name: new.type for group in mapping.groups for new in group.new}
    wanted |= {old.name: old.type for group in mapping.groups for old in group.old}
    if mapping.needs_sync:
        wanted[mapping.marker] = "integer"
    found: list[str] = []
    for column in dict.fromkeys(
        [*wanted, *(c.physical for c in (*mapping.old_columns, *mapping.new_columns))]
    ):
        type_ = columns.get(column)
        if type_ is None:
            found.append(f"column {column} of {mapping.table} is missing")
        elif type_ != wanted.get(column, type_):
            found.append(f"column {column} of {mapping.table} is {type_}, not {wanted[column]}")
    return found


def _sync_objects(ctx: GateContext, mapping: TableMapping) -> list[str]:
    expected = sync.expected_objects(mapping, ctx.rollout.id, ctx.authority)
    if not expected:
        return []
    # The query is composed of literals by the module that names the objects.
    there = ctx.conn.execute(sql.SQL(sync.state_query(mapping, ctx.rollout.id))).fetchall()
    found = [f"{text} (on {mapping.table})" for text in sync.findings(expected, there)]
    if mapping.partitioned:
        # Partitions have the row triggers; the one for TRUNCATE is the table's own.
        names = [
            item.name
            for item in expected
            if item.kind == "trigger"
            and item.name.startswith(sync_generator.PREFIX)
            and "truncate" not in item.name
        ]
        found += [
            f"trigger {name} of the partition {partition} is {what}"
            for name, partition, what in ctx.conn.execute(_PARTITION_TRIGGERS, (mapping.oid, names))
        ]
    return found


def _children(ctx: GateContext, mapping: TableMapping) -> list[str]:
    """What inherits from the table and is not kept in step with it, or would not go the way that the plan says."""
    if not mapping.needs_sync:
        return []
    if not mapping.has_children:
        return _came(ctx, mapping.oid, mapping.table)
    found = [
        f"{child} inherits from {mapping.table} since the plan, and {why}: take it out until cleanup (ALTER TABLE {child} NO INHERIT …)"
        for child, why in ctx.conn.execute(children.unfit(mapping))
    ]
    bare: dict[str, list[str]] = {}
    for _, schema, name, trigger, what in ctx.conn.execute(children.lacking(mapping)):
        bare.setdefault(str(qualified(schema, name)), []).append(f"{trigger} {what}")
    return found + [
        f"{child}, which inherits from {mapping.table}, {_bare(triggers)}: `zdm backfill {ctx.migration.id}` gives it them"
        for child, triggers in bare.items()
    ]


def _bare(triggers: list[str]) -> str:
    if all(text.endswith(" missing") for text in triggers):
        return "has no sync triggers, since it came after they were made"
    return f"has not the sync triggers that it needs ({', '.join(triggers)})"


def _came(ctx: GateContext, oid: int, table: QualifiedName) -> list[str]:
    rows = ctx.conn.execute(_CHILDREN, (oid, _written(table)))
    return [
        f"{child} inherits from {table} since the plan, which does not know its rows; take it out until cleanup "
        f"(ALTER TABLE {child} NO INHERIT {table})"
        for (child,) in rows
    ]


def _rows(ctx: GateContext, mapping: RowMapping) -> list[str]:
    problems: list[str] = []
    for side in row_objects.sides(mapping):
        there = ctx.conn.execute(sql.SQL(row_sync.state_query(mapping, ctx.rollout.id, side))).fetchall()
        expected = row_sync.expected_objects(mapping, ctx.rollout.id, side)
        table = mapping.side(side).table
        problems += [f"{text} (on {table})" for text in sync.findings(expected, there)]
        columns = mapping.side(side)
        problems += _came(ctx, columns.oid, table)
        known = ctx.conn.execute(_COLUMNS, (columns.oid, _written(table))).fetchall()
        types = {column: type_ for _, column, type_, _ in known}
        for name, type_ in (
            *zip(columns.key, columns.key_types, strict=True),
            *((c.name, c.type) for c in columns.columns),
        ):
            if types.get(name) != type_:
                problems.append(f"column {name} of {table} is {types.get(name, 'missing')}, not {type_}")
    return [*problems, *_keys(ctx, mapping)]


def _keys(ctx: GateContext, mapping: RowMapping) -> list[str]:
    """Keys by which rows are found, or made, that no index keeps unique any more: an index may go without anybody's asking."""
    found: list[tuple[QualifiedName, tuple[str, ...], bool]] = []
    elements, parent = mapping.elements, mapping.parent
    for name in ("old", "new"):
        side = mapping.side(name)
        if elements is not None and elements.many == name:
            if elements.split is not None:
                found.append((side.table, (*elements.of, *elements.key), True))
        elif not side.loose and (parent is None or name == "old"):
            found.append((side.table, side.key, side.kind is SideKind.ROWS))
    if parent is not None:
        found.append((parent.table, parent.key, True))
    return [
        f"no unique index over ({', '.join(key)}) of {table} is there any more, by which its rows are found"
        for table, key, whole in found
        if not _is_unique(ctx, table, key, whole=whole)
    ]


def _is_unique(ctx: GateContext, table: QualifiedName, key: tuple[str, ...], *, whole: bool) -> bool:
    """Whether an index that can be named by ON CONFLICT keeps the key unique; part of it is enough, unless `whole` is said."""
    row = ctx.conn.execute(_UNIQUE, {"table": _written(table), "key": list(key), "whole": whole}).fetchone()
    return row is not None and bool(row[0])


def _written(table: QualifiedName) -> str:
    return sql.Identifier(table.schema_, table.name).as_string(None)


def _later_triggers(ctx: GateContext, mapping: TableMapping) -> list[str]:
    if not mapping.needs_sync:
        return []
    rows = ctx.conn.execute(
        over_family(_LATER_TRIGGERS, mapping.oid, prefix=sql.Literal(sync_generator.PREFIX))
    )
    return [
        f"trigger {name} of {mapping.table} fires after the sync and may undo it; rename it"
        for (name,) in rows
    ]


def _views(ctx: GateContext, *, fenced: bool) -> list[str]:
    plan = ctx.plan
    expected: dict[QualifiedName, str] = {}
    for schema, old in (
        (aside(plan.old_schema) if fenced and plan.old_schema else plan.old_schema, True),
        (plan.new_schema, False),
    ):
        for mapping in plan.mappings:
            # By the mapping as planned: views keep their names behind the fence.
            if schema and views.has_view(mapping, old=old):
                expected[views.view_name(mapping, schema, old=old)] = views.view_label(mapping, old=old)
    schemas = {name.schema_ for name in expected}
    there = ctx.conn.execute(sql.SQL(views.state_query(schemas))).fetchall()
    return views.findings(expected, there)


def _made(ctx: GateContext, *, fenced: bool) -> list[str]:
    """Indexes and constraints that steps before cleanup have made, and that are not there, or not valid, any more.

    What a step asks before it is run again tells. Cleanup gives things other names, and so does the fence a table that goes.
    """
    if fenced and any(fences_table(mapping) for mapping in ctx.plan.mappings):
        return []
    done = ctx.facts.finished()
    steps = {step.id: step for step in ctx.plan.steps}
    if any(steps[name].phase is Phase.CLEANUP for name in done if name in steps):
        return []
    found: list[str] = []
    ran = [step for step in ctx.plan.steps if step.id in done]
    for number, step in enumerate(ran):
        probe = step.action.done_when if isinstance(step.action, Concurrent | Scan) else ""
        # What only a part of the rollout needed is taken back by a step of its own.
        served = any(later.action in step.undo for later in ran[number + 1 :])
        if probe and not served:
            row = ctx.conn.execute(sql.SQL(probe)).fetchone()
            if row is None or not row[0]:
                found.append(f"what this step made is not there any more, or not valid: {step.title}")
    return found


def _hanging(ctx: GateContext, *, fenced: bool) -> list[str]:
    """What was made on a column that goes, dropped from it or changed since the plan: cleanup would lose it, or bring it back."""
    plan = ctx.plan
    if plan.hanging is None:
        return []
    schemas = [s for s in (plan.old_schema, plan.new_schema, *plan.previous_schemas) if s]
    own = {name for (name,) in ctx.conn.execute(_OWN_VIEWS, ([*schemas, *map(aside, schemas)],))}
    found: list[str] = []
    # A foreign key is called after its table, which may be behind the fence.
    planned = {effective(mapping, fenced=fenced).table: mapping.table for mapping in plan.mappings}
    for mapping in plan.mappings:
        columns = going(effective(mapping, fenced=fenced))
        table = read_table(ctx.conn, effective(mapping, fenced=fenced).table) if columns else None
        if table is None:
            continue
        pointing = [
            key.model_copy(update={"references": planned.get(key.references, key.references)})
            for key in table.referenced_by
            if key.references is not None
        ]
        table = table.model_copy(update={"referenced_by": tuple(pointing)})
        before = {h.what: h.digest for h in plan.hanging if h.table == mapping.table}
        now = hanging_on(table, columns, own)
        found += [
            f"{what} was made after the plan, on a column of {mapping.table} that goes at cleanup"
            for what in now.keys() - before.keys()
        ]
        found += [f"{what} of {mapping.table} is not there any more" for what in before.keys() - now.keys()]
        if not fenced:  # the fence renames columns, so the definitions differ
            found += [
                f"{what} of {mapping.table} was changed after the plan, which would make it anew as it was"
                for what in before.keys() & now.keys()
                if before[what] != now[what]
            ]
    return sorted(found)
