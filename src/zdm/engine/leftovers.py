"""Finds what a rollout left behind: after a clean rollback or cleanup there is nothing."""

from __future__ import annotations

import json

from psycopg import sql

from zdm.db.session import Connection
from zdm.model.plan import Plan

_LEFTOVERS = r"""
SELECT a.attname::text, 'column ' || a.attname || ' of ' || a.attrelid::pg_catalog.regclass::text
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = ANY (%(tables)s::oid[]) AND NOT a.attisdropped AND a.attname LIKE '\_zdm%%'
  AND a.attname <> ALL (%(own)s::text[])
UNION ALL
SELECT NULL, 'trigger ' || t.tgname || ' of ' || t.tgrelid::pg_catalog.regclass::text
FROM pg_catalog.pg_trigger AS t
WHERE (t.tgrelid = ANY (%(tables)s::oid[]) OR t.tgrelid = ANY (SELECT pg_catalog.to_regclass(n) FROM pg_catalog.unnest(%(names)s::text[]) AS n))
  AND NOT t.tgisinternal AND (t.tgname LIKE '~zdm\_%%' OR t.tgname LIKE '!zdm\_%%')
  AND (coalesce(pg_catalog.obj_description(t.oid, 'pg_trigger'), '') LIKE 'zdm rollout %%'
       OR t.tgfoid IN (SELECT p.oid FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
                       WHERE n.nspname = 'zdm'))
UNION ALL
SELECT c.conname::text, 'constraint ' || c.conname || ' of ' || c.conrelid::pg_catalog.regclass::text
FROM pg_catalog.pg_constraint AS c
WHERE c.conrelid = ANY (%(tables)s::oid[]) AND c.conname LIKE '\_zdm%%'
UNION ALL
SELECT k.relname::text, 'index ' || i.indexrelid::pg_catalog.regclass::text
FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS k ON k.oid = i.indexrelid
WHERE i.indrelid = ANY (%(tables)s::oid[]) AND (k.relname LIKE '\_zdm%%' OR NOT i.indisvalid)
UNION ALL
SELECT NULL, 'view ' || v.oid::pg_catalog.regclass::text
FROM pg_catalog.unnest(%(tables)s::oid[]) AS t JOIN pg_catalog.pg_class AS v ON v.relname = 'pairs_' || t::text AND v.relkind = 'v'
JOIN pg_catalog.pg_namespace AS n ON n.oid = v.relnamespace AND n.nspname = 'zdm'
UNION ALL
SELECT NULL, 'schema ' || n.nspname FROM pg_catalog.pg_namespace AS n WHERE n.nspname = ANY (%(schemas)s)
"""


def leftovers(conn: Connection, plan: Plan, *, schemas: bool = True) -> list[str]:
    """Objects of zdm's that still stand on the plan's tables, by kind and name.

    Parameters
    ----------
    schemas: count the version schemas as well; after cleanup the new version's is there on purpose.
    """
    names = [name for name in (plan.old_schema, plan.new_schema) if name] if schemas else []
    tables = [mapping.oid for mapping in plan.mappings]
    # The table may have had such a column before.
    own = [column.physical for mapping in plan.mappings for column in mapping.old_columns]
    others = [
        sql.Identifier(table.schema_, table.name).as_string(None)
        for rows in plan.row_mappings
        for table in rows.tables
    ]
    found = conn.execute(
        _LEFTOVERS, {"tables": tables, "schemas": names, "own": own, "names": others}
    ).fetchall()
    # An index or constraint of the application's may be called so as well, or be invalid: ours are those that the plan makes.
    planned = plan.model_dump_json(include={"steps", "mappings"})
    return [what for name, what in found if name is None or json.dumps(name)[1:-1] in planned]
