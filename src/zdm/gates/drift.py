"""Is the database still what zdm left?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from psycopg import sql

from zdm.db.session import transaction
from zdm.gates.base import Gate, counted
from zdm.gates.context import GateContext
from zdm.model.mapping import TableMapping
from zdm.model.verdict import Verdict
from zdm.sql import sync
from zdm.sql.fence import aside, effective

_COLUMNS = """
SELECT c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), n.nspname
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.oid = %s
"""

# 1: for each row; 2: before. Names sort bytewise.
_LATER_TRIGGERS = """
SELECT t.tgname FROM pg_catalog.pg_trigger AS t
WHERE t.tgrelid = %s AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 3 = 3
  AND t.tgname COLLATE "C" > %s AND NOT pg_catalog.starts_with(t.tgname, %s)
ORDER BY t.tgname COLLATE "C"
"""

_VIEW = """
SELECT c.relkind, coalesce(pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attnum > 0), '{}'),
       EXISTS (
           SELECT FROM pg_catalog.pg_rewrite AS w
           JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
           WHERE w.ev_class = c.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = %s)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND NOT a.attisdropped
WHERE n.nspname = %s AND c.relname = %s
GROUP BY c.oid, c.relkind
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
            found = [
                text
                for mapping in ctx.plan.mappings
                if not mapping.dropped_in_new
                for text in _look(ctx, mapping)
            ]
        if not found:
            return self.passed(f"{counted(len(ctx.plan.mappings), 'table')} as zdm left it", threshold)
        return self.refused(
            "; ".join(found),
            threshold,
            f"Undo what somebody changed, then run `zdm verify {ctx.migration.id}`: rows may have been written meanwhile. "
            f"Or go back with `zdm rollback {ctx.migration.id}`.",
        )


def _look(ctx: GateContext, planned: TableMapping) -> list[str]:
    fenced = ctx.rollout.fenced_at is not None
    mapping = effective(planned, fenced=fenced)
    columns = _columns(ctx, mapping)
    if columns is None:
        return [f"table {mapping.table} is gone"]
    if isinstance(columns, str):
        return [columns]
    return [
        *_missing_columns(mapping, columns),
        *_sync_objects(ctx, mapping),
        *_later_triggers(ctx, mapping),
        *_views(ctx, planned, mapping, fenced=fenced),
    ]


def _columns(ctx: GateContext, mapping: TableMapping) -> dict[str, str] | str | None:
    """Type by column; or what is wrong with the table itself; None if there is none."""
    rows = ctx.conn.execute(_COLUMNS, (mapping.oid,)).fetchall()
    if not rows:
        return None
    name, schema = rows[0][0], rows[0][3]
    if (schema, name) != (mapping.table.schema_, mapping.table.name):
        return f"table {mapping.table} is called {schema}.{name} now"
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
    return [f"{text} (on {mapping.table})" for text in sync.findings(expected, there)]


def _later_triggers(ctx: GateContext, mapping: TableMapping) -> list[str]:
    if not mapping.needs_sync:
        return []
    rows = ctx.conn.execute(_LATER_TRIGGERS, (mapping.oid, sync.PREFIX, sync.PREFIX))
    return [
        f"trigger {name} of {mapping.table} fires after the sync and may undo it; rename it"
        for (name,) in rows
    ]


def _views(ctx: GateContext, planned: TableMapping, mapping: TableMapping, *, fenced: bool) -> list[str]:
    old, new = ctx.plan.old_schema, ctx.plan.new_schema
    found: list[str] = []
    if old:
        # The view has the table's name as planned, also while the fence keeps the table under another one.
        names = [column.name for column in mapping.old_columns]
        found += _view(ctx, mapping, aside(old) if fenced else old, planned.table.name, names)
    if new:
        names = [column.name for column in mapping.new_columns]
        found += _view(
            ctx,
            mapping,
            new,
            mapping.final_name,
            names + ([mapping.marker] if mapping.marker_in_view else []),
        )
    return found


def _view(ctx: GateContext, mapping: TableMapping, schema: str, name: str, columns: list[str]) -> list[str]:
    row = ctx.conn.execute(_VIEW, (mapping.oid, schema, name)).fetchone()
    if row is None:
        return [f"view {schema}.{name} is missing"]
    kind, there, stands = row
    if kind != "v":
        return [f"{schema}.{name} is not a view"]
    found: list[str] = []
    if there != columns:
        found.append(f"view {schema}.{name} shows {', '.join(there)} instead of {', '.join(columns)}")
    if not stands:
        found.append(f"view {schema}.{name} does not show {mapping.table}")
    return found
