"""Where the rows of a table are: in itself, or in the partitions that it has at this moment."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg

from zdm.model.names import QualifiedName, qualified


class Leaf(NamedTuple):
    """A table that holds rows: the table itself, or a partition without partitions of its own."""

    oid: int
    name: QualifiedName


_LEAVES = """
SELECT c.oid::int8, n.nspname, c.relname
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND (c.oid = %(oid)s
  OR c.oid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(%(oid)s::pg_catalog.oid::pg_catalog.regclass) AS p WHERE p.isleaf))
ORDER BY c.oid
"""


def leaves(conn: psycopg.Connection[Any], oid: int) -> list[Leaf]:
    """The tables that hold the rows of the table `oid`, in the order of their numbers; itself if it is not partitioned."""
    rows = conn.execute(_LEAVES, {"oid": oid}).fetchall()
    return [Leaf(number, qualified(schema, name)) for number, schema, name in rows]
