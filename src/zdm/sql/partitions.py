"""A table with its partitions, or with what inherits from it; and those that came after a look at every row.

What that look says is not true of the rows of those.
"""

from __future__ import annotations

from typing import Final, LiteralString

from psycopg import sql

from zdm.model.mapping import TableMapping
from zdm.sql.identifiers import any_of, qualified_name
from zdm.sql.rows import mismatch_kinds
from zdm.sql.templates import dollar_quoted

_FAMILY: Final[LiteralString] = """(
  WITH RECURSIVE family (relid) AS (
    SELECT {oid}::pg_catalog.oid
    UNION SELECT h.inhrelid FROM family AS f JOIN pg_catalog.pg_inherits AS h ON h.inhparent = f.relid WHERE NOT h.inhdetachpending
  ) SELECT relid FROM family)"""


def over_family(query: LiteralString, oid: int, **pieces: sql.Composable) -> sql.Composed:
    """A query in which ``IN {family}`` means the table of that number and all its descendants, partitions or children."""
    family = sql.SQL(_FAMILY).format(oid=sql.Literal(oid))
    return sql.SQL(query).format(family=family, **pieces)


# The catalog row that ties a partition to its table tells by its xmin when that was, as 32 bits; the snapshot has 64.
_CAME_AFTER = """
WITH RECURSIVE tree (relid, fresh) AS (
  SELECT {oid}::pg_catalog.oid, false
  UNION ALL
  SELECT h.inhrelid, t.fresh OR CASE WHEN x.xid < 3 OR f.xid < 3 THEN false
    ELSE NOT pg_catalog.pg_visible_in_snapshot(f.xid::text::pg_catalog.xid8, {snapshot}) END
  FROM tree AS t JOIN pg_catalog.pg_inherits AS h ON h.inhparent = t.relid
  CROSS JOIN LATERAL (SELECT h.xmin::text::bigint AS xid, pg_catalog.pg_snapshot_xmax({snapshot})::text::bigint AS top) AS x
  CROSS JOIN LATERAL (SELECT x.top - x.top % 4294967296 + x.xid AS xid) AS g
  CROSS JOIN LATERAL (SELECT g.xid + CASE WHEN g.xid > x.top + 2147483648 THEN -4294967296
    WHEN g.xid < x.top - 2147483648 THEN 4294967296 ELSE 0 END AS xid) AS f
)
SELECT n.nspname::text, c.relname::text FROM tree AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.relid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE t.fresh AND c.relkind = 'r' ORDER BY c.oid
"""


def came_after(mapping: TableMapping, snapshot: sql.Composable) -> sql.Composed:
    """A query of (schema, name): the partitions that were not, or not yet again, the table's own when the snapshot was taken."""
    return sql.SQL(_CAME_AFTER).format(oid=sql.Literal(mapping.oid), snapshot=snapshot)


def part_of(mapping: TableMapping) -> str:
    """What a table that holds some of its rows is to it, in words."""
    return "partition of" if mapping.partitioned else "child of"


def disagrees(mapping: TableMapping) -> sql.Composable:
    """Anything is wrong with a row; never NULL."""
    return any_of(found.predicate for found in mismatch_kinds(mapping))


def refuse_unverified(mapping: TableMapping) -> str:
    """A statement that raises if a partition came after the latest verification with rows that are not filled.

    For the swap, which holds every lock: no partition can come any more. Without a verification there is nothing to be newer than.
    """
    return dollar_quoted(
        "refuse_unverified",
        schema=sql.Literal(mapping.table.schema_),
        table=sql.Literal(mapping.table.name),
        oid=sql.Literal(mapping.oid),
        partitions=came_after(mapping, sql.SQL("zdm_seen")),
        wrong=sql.Literal(disagrees(mapping).as_string(None)),
        called=sql.Literal(f"a {part_of(mapping)} {qualified_name(mapping.table).as_string(None)}"),
    ).as_string(None)
