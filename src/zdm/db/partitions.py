"""Where the rows of a table are: in itself, in the partitions that it has at this moment, and in what inherits from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg

from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName, qualified
from zdm.sql.partitions import over_family


class Leaf(NamedTuple):
    """A table that holds rows: the table itself, a partition without partitions of its own, or a table that inherits."""

    oid: int
    name: QualifiedName


_LEAVES = """
SELECT c.oid::int8, n.nspname, c.relname
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.oid IN {family} ORDER BY c.oid
"""


def leaves(conn: psycopg.Connection[Any], oid: int) -> list[Leaf]:
    """The tables that hold the rows of the table `oid`, in the order of their numbers; itself, unless it is partitioned."""
    rows = conn.execute(over_family(_LEAVES, oid)).fetchall()
    return [Leaf(number, qualified(schema, name)) for number, schema, name in rows]


def holding(conn: psycopg.Connection[Any], mapping: TableMapping) -> list[Leaf]:
    """Where the rows of a mapped table are. A child that a table has got since the plan is none of its: the plan knew none."""
    return [leaf for leaf in leaves(conn, mapping.oid) if mapping.spread or leaf.oid == mapping.oid]
