"""What only partitions have: the columns that decide in which one a row is, and their parts of indexes and keys."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from zdm.errors import Problem
from zdm.model.names import QualifiedName, qualified
from zdm.model.requests import CarryRequest
from zdm.model.step import Lock, Phase, Stage, Step, Transaction
from zdm.operations import ddl
from zdm.operations.fidelity.partitioned_keys import exchanged_key
from zdm.operations.fidelity.review import Review, temporary
from zdm.operations.shape import TableShape


def review_partitions(review: Review) -> None:
    """Refuse to replace what decides where rows are, and what the server would not let a partitioned table have."""
    shape = review.shape
    key = set(shape.table.partition_key)
    for name in review.replaced:
        if name in key:
            review.refuse(
                name,
                f"{shape.name} is partitioned by {name}",
                "Make a new table that is partitioned as you want it, and move the rows there.",
                "partition-key-column",
            )


def review_altered(shape: TableShape) -> list[Problem]:
    """Refuse a type change in place of a column that decides where rows are: the server does."""
    return [
        Problem(
            f"{shape.name} is partitioned by {column.physical}, whose type cannot change",
            remedy="Make a new table that is partitioned as you want it, and move the rows there.",
            rule="partition-key-column",
        )
        for column in shape.columns
        if column.alter_type is not None and column.physical in shape.table.partition_key
    ]


_EXCHANGE = """
DECLARE one record;
BEGIN
  FOR one IN
    SELECT o.oid, o.oid::pg_catalog.regclass AS old, n.oid::pg_catalog.regclass AS new, o.relname
    FROM (VALUES {pairs}) AS m (old, new)
    CROSS JOIN LATERAL pg_catalog.pg_partition_tree(m.old::pg_catalog.regclass) AS p
    CROSS JOIN LATERAL pg_catalog.pg_partition_tree(m.new::pg_catalog.regclass) AS q
    JOIN pg_catalog.pg_index AS i ON i.indexrelid = p.relid JOIN pg_catalog.pg_class AS o ON o.oid = p.relid
    JOIN pg_catalog.pg_index AS j ON j.indexrelid = q.relid AND j.indrelid = i.indrelid
    JOIN pg_catalog.pg_class AS n ON n.oid = q.relid
    WHERE p.level > 0 AND q.level > 0
  LOOP
    EXECUTE pg_catalog.format('ALTER INDEX %s RENAME TO %I', one.old, '_zdm_gone_' || one.oid);
    EXECUTE pg_catalog.format('ALTER INDEX %s RENAME TO %I', one.new, one.relname);
  END LOOP;
END
"""


def exchange_steps(shape: TableShape, requests: Sequence[CarryRequest]) -> list[Step]:
    """Before the swap the partitions' parts of carried indexes take the names of those that it is about to drop.

    Those could not be told apart afterwards: which part had which name is known only while both are there.
    """
    key = exchanged_key(shape)
    # The parts of a key get the names of the old ones' when they become keys, in the swap.
    requests = [r for r in requests if key is None or r.name != (key.index or key.name)]
    if not shape.table.partitioned or not requests:
        return []
    schema = shape.name.schema_
    pairs = [
        sql.SQL("({}, {})").format(
            *(
                sql.Literal(ddl.table(qualified(schema, name)).as_string(None))
                for name in (request.name, temporary(request.name))
            )
        )
        for request in requests
    ]
    body = ddl.text(_EXCHANGE, pairs=sql.SQL(", ").join(pairs))
    return [
        Step(
            id=f"cleanup.{shape.name}.partitions.exchange",
            title=f"give the indexes of the partitions of {shape.name} on the new columns the names of the old ones",
            phase=Phase.CLEANUP,
            stage=Stage.TIGHTEN,
            operation=requests[0].where,
            action=Transaction(
                statements=(ddl.text("DO {body}", body=sql.Literal(body)),),
                locks=(ddl.lock(shape.name, Lock.SHARE_UPDATE_EXCLUSIVE),),
            ),
        )
    ]


_NAMES = """
DECLARE
  one record;
  wanted text;
BEGIN
  FOR one IN
    SELECT x.oid::pg_catalog.regclass AS index, n.nspname, l.relname || '_' || r.relname AS name
    FROM pg_catalog.pg_partition_tree({t}::pg_catalog.regclass) AS p
    JOIN pg_catalog.pg_class AS l ON l.oid = p.relid JOIN pg_catalog.pg_namespace AS n ON n.oid = l.relnamespace
    JOIN pg_catalog.pg_index AS i ON i.indrelid = p.relid
    JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid AND pg_catalog.strpos(x.relname, '_zdm') > 0
    JOIN pg_catalog.pg_class AS r ON r.oid = pg_catalog.pg_partition_root(x.oid)
    WHERE p.level > 0 AND pg_catalog.strpos(r.relname, '_zdm') = 0
  LOOP
    wanted := pg_catalog.left(one.name, 55);
    FOR attempt IN 1..1000 LOOP
      EXIT WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
        WHERE s.nspname = one.nspname AND c.relname = wanted);
      wanted := pg_catalog.left(one.name, 55) || attempt;
    END LOOP;
    EXECUTE pg_catalog.format('ALTER INDEX %s RENAME TO %I', one.index, wanted);
  END LOOP;
  FOR one IN
    WITH RECURSIVE keys (oid, name) AS (
      SELECT k.oid, k.conname FROM pg_catalog.pg_constraint AS k
      WHERE k.conrelid = {t}::pg_catalog.regclass AND k.contype = 'f' AND k.conparentid = 0
      UNION ALL
      SELECT k.oid, keys.name FROM keys JOIN pg_catalog.pg_constraint AS k ON k.conparentid = keys.oid
      JOIN pg_catalog.pg_partition_tree({t}::pg_catalog.regclass) AS p ON p.relid = k.conrelid AND p.level > 0
    )
    SELECT k.conrelid::pg_catalog.regclass AS partition, k.conname, keys.name
    FROM keys JOIN pg_catalog.pg_constraint AS k ON k.oid = keys.oid
    WHERE pg_catalog.strpos(k.conname, '_zdm_') = 1 AND k.conname <> keys.name
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', one.partition, one.conname, one.name);
  END LOOP;
END
"""


def partition_naming_steps(shape: TableShape) -> list[Step]:
    """Indexes that the server gave to partitions that came meanwhile are called after the new columns' physical names."""
    if not shape.table.partitioned or not (shape.all_new() or shape.new_names):
        return []
    return [names_of_parts(qualified(shape.name.schema_, shape.final_name), shape.name)]


def names_of_parts(final: QualifiedName, table: QualifiedName) -> Step:
    """What partitions have of carried indexes and foreign keys is called after what the table has; `table`: its old name."""
    body = ddl.text(_NAMES, t=sql.Literal(ddl.table(final).as_string(None)))
    return Step(
        id=f"cleanup.{table}.partitions.names",
        title=f"give the indexes of the partitions of {final} names of their own",
        phase=Phase.CLEANUP,
        stage=Stage.FINISH,
        action=Transaction(
            statements=(ddl.text("DO {body}", body=sql.Literal(body)),), locks=(ddl.lock(final),)
        ),
    )
