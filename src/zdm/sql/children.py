"""What inherits from a table: the server hands columns and checks down to it, and nothing else.

So each child has sync triggers of its own, on the table's functions. One that comes while a rollout runs has none until it is
looked for; till then it inherits a check that refuses what nobody would keep in step, which is whatever the new version writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from psycopg import sql

from zdm.model.mapping import TableMapping
from zdm.model.names import fit
from zdm.sql.identifiers import all_of, any_of
from zdm.sql.templates import dollar_quoted

ROUTE: Final = "!zdm_0_route"
"""The trigger that notes what is under way from a parent to a child; it fires before any of the application's."""
ROUTED: Final = "~zdm_7_routed"
"""The one that notes that nothing is any more; only what has children needs it."""
TRUNCATED: Final = "~zdm_5_failed_truncate"
"""The one that is the table's own: failures are recorded by the table, whichever child their rows are in."""

_BELOW = """
WITH RECURSIVE below (relid) AS (
  SELECT h.inhrelid FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = {oid}::pg_catalog.oid
  UNION SELECT h.inhrelid FROM below AS b JOIN pg_catalog.pg_inherits AS h ON h.inhparent = b.relid
)
"""

# A trigger of a child is right if the server spells it as the table's own of that name.
_LACKING = """{family}
SELECT c.oid::int8, n.nspname::text, c.relname::text, r.tgname::text,
  CASE WHEN t.oid IS NULL THEN 'missing' WHEN t.tgenabled <> 'A' THEN 'not enabled ALWAYS' ELSE 'edited' END
FROM below AS b JOIN pg_catalog.pg_class AS c ON c.oid = b.relid AND c.relkind = 'r'
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_trigger AS r ON r.tgrelid = {oid}::pg_catalog.oid AND NOT r.tgisinternal
  AND (pg_catalog.starts_with(r.tgname, '~zdm_') OR r.tgname = {route}) AND r.tgname <> {truncated}
  AND (r.tgname <> {routed} OR EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = c.oid))
LEFT JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = c.oid AND t.tgname = r.tgname
WHERE t.tgenabled IS DISTINCT FROM 'A' OR t.tgfoid <> r.tgfoid OR r.tgname <> {route}
  AND pg_catalog.replace(pg_catalog.pg_get_triggerdef(t.oid), ' ON ' || c.oid::pg_catalog.regclass || ' ', ' ON ' || {oid}::pg_catalog.regclass || ' ')
    <> pg_catalog.pg_get_triggerdef(r.oid)
ORDER BY c.oid, r.tgname
"""

# What could not go, or not wholly, with the table's own columns; and what no trigger of ours can keep in step.
_UNFIT = """{family}
SELECT c.oid::pg_catalog.regclass::text, CASE
  WHEN c.relkind <> 'r' THEN 'is no ordinary table'
  WHEN (SELECT count(*) FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = c.oid) > 1 THEN 'inherits from more than one table'
  ELSE 'has by itself as well a column that is replaced, but not what replaces it' END
FROM below AS b JOIN pg_catalog.pg_class AS c ON c.oid = b.relid
WHERE c.relkind <> 'r' OR (SELECT count(*) FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = c.oid) > 1{half}
ORDER BY 1
"""

_SUCCESSOR = """ OR EXISTS (SELECT FROM (VALUES {pairs}) AS m (old, new)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = m.old
    JOIN pg_catalog.pg_attribute AS b ON b.attrelid = c.oid AND b.attname = m.new
    WHERE a.attinhcount > 0 AND a.attislocal AND NOT b.attislocal)
  AND NOT (SELECT pg_catalog.bool_and(a.attislocal) FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount > 0 AND a.attname <> ALL ({fresh}::text[]))"""


def _below(mapping: TableMapping) -> sql.Composed:
    return sql.SQL(_BELOW).format(oid=sql.Literal(mapping.oid))


def lacking(mapping: TableMapping) -> sql.Composed:
    """A query of (number, schema, table, trigger, what is wrong with it) of children that are not kept in step; empty search_path."""
    return sql.SQL(_LACKING).format(
        family=_below(mapping),
        oid=sql.Literal(mapping.oid),
        route=sql.Literal(ROUTE),
        routed=sql.Literal(ROUTED),
        truncated=sql.Literal(TRUNCATED),
    )


def unfit(mapping: TableMapping) -> sql.Composed:
    """A query of (table, why) of children that came since the plan and that a plan would have refused."""
    pairs = [(old, new) for new, olds in replacing(mapping).items() for old in olds]
    half: sql.Composable = sql.SQL("")
    if pairs:
        listed = sql.SQL(", ").join(
            sql.SQL("({}, {})").format(sql.Literal(o), sql.Literal(n)) for o, n in pairs
        )
        half = sql.SQL(_SUCCESSOR).format(pairs=listed, fresh=sql.Literal([*_added(mapping)]))
    return sql.SQL(_UNFIT).format(family=_below(mapping), half=half)


def fresh(mapping: TableMapping) -> tuple[str, ...]:
    """The physical columns that only the sync fills, the marker included."""
    return (*(new.name for group in mapping.groups for new in group.new), mapping.marker)


def _added(mapping: TableMapping) -> tuple[str, ...]:
    """Every physical column that the table has not had, mapped or not."""
    before = {column.physical for column in mapping.old_columns}
    return (*(c.physical for c in mapping.new_columns if c.physical not in before), *fresh(mapping))


def replacing(mapping: TableMapping) -> dict[str, tuple[str, ...]]:
    """The physical columns that take the place of others, and those that go for them."""
    kept = {column.physical for column in mapping.new_columns}
    found: dict[str, tuple[str, ...]] = {}
    for group in mapping.groups:
        gone = tuple(old.name for old in group.old if old.name not in kept)
        if gone:
            found |= {new.name: gone for new in group.new}
    return found


def guard(mapping: TableMapping) -> str:
    """The name of the check that a child inherits from the start."""
    return fit(f"_zdm_{mapping.oid}_in_step")


def in_step(mapping: TableMapping) -> sql.Composable:
    """Nobody but the sync settles a row; one that it has not settled holds nothing of the new version's."""
    marker = sql.Identifier(mapping.marker)
    untouched = [sql.SQL("{} IS NULL").format(sql.Identifier(name)) for name in fresh(mapping)]
    # Where nothing is known, a check holds.
    return any_of([sql.SQL("COALESCE({}, -1) >= 0").format(marker), all_of(untouched)])


def written(mapping: TableMapping) -> sql.Composable:
    """Whether a row that is inserted comes with anything that only the new version writes."""
    given = [
        sql.SQL("COALESCE(NEW.{} OPERATOR(pg_catalog.=) -1, false)").format(sql.Identifier(mapping.marker))
    ]
    given += [
        sql.SQL("NEW.{} IS NOT NULL").format(sql.Identifier(new.name))
        for g in mapping.groups
        for new in g.new
    ]
    return any_of(given)


def drop_triggers(mapping: TableMapping, functions: str) -> str:
    """A statement that drops the sync triggers of all children; `functions`: how the names of the sync functions begin."""
    return dollar_quoted(
        "children_drop_triggers", oid=sql.Literal(mapping.oid), functions=sql.Literal(functions)
    ).as_string(None)


def refuse(mapping: TableMapping) -> str:
    """A statement that raises if anything inherits from a table of which the plan knew no children."""
    return dollar_quoted(
        "refuse_children",
        oid=sql.Literal(mapping.oid),
        called=sql.Literal(str(mapping.table)),
    ).as_string(None)


def drop_columns(oid: int, columns: Sequence[str]) -> str:
    """A statement that drops what children have kept of columns that were dropped from the table of that number."""
    return dollar_quoted(
        "children_drop_columns", oid=sql.Literal(oid), columns=sql.Literal([*columns])
    ).as_string(None)


def add_columns(mapping: TableMapping, definitions: Mapping[str, sql.Composable]) -> str | None:
    """A statement that gives children, before their parent, what replaces a column that they have by themselves as well."""
    rows = [
        sql.SQL("({}, {}, {}::pg_catalog.text[])").format(
            sql.Literal(number), sql.Literal(definitions[new].as_string(None)), sql.Literal([*gone])
        )
        for number, (new, gone) in enumerate(replacing(mapping).items())
    ]
    if not rows:
        return None
    return dollar_quoted(
        "children_columns", oid=sql.Literal(mapping.oid), columns=sql.SQL(", ").join(rows)
    ).as_string(None)


def remember(mapping: TableMapping) -> str:
    """A statement that notes, while the old columns are there, what `make_own` and `make_required` need."""
    finals = {new.name: new.final for group in mapping.groups for new in group.new if new.not_null}
    required = [
        {"old": gone[0], "final": finals[new]}
        for new, gone in replacing(mapping).items()
        if new in finals and len(gone) == 1
    ]
    return dollar_quoted(
        "children_remember",
        oid=sql.Literal(mapping.oid),
        fresh=sql.Literal([*_added(mapping)]),
        required=sql.Literal(json.dumps(required)),
        memory=_memory(mapping),
    ).as_string(None)


def make_own(mapping: TableMapping) -> str:
    """A statement that gives children which have all columns by themselves the added ones so too."""
    return dollar_quoted("children_own", memory=_memory(mapping)).as_string(None)


def make_required(mapping: TableMapping) -> str:
    """A statement that gives children their own NOT NULL, once the columns have their final names and before the parent has it."""
    return dollar_quoted("children_required", memory=_memory(mapping)).as_string(None)


def _memory(mapping: TableMapping) -> sql.Literal:
    return sql.Literal(f"zdm.children_{mapping.oid}")
