"""Functions whose bodies name a column, or a table. No catalog tells; words are looked for, so it is a hint and no more."""

from __future__ import annotations

import re
from collections.abc import Iterable

from zdm.db.session import Connection, transaction
from zdm.model.names import QualifiedName
from zdm.model.requests import Mention, TableMention

# A trigger's function names the row, not the table. Bodies that the catalog knows (BEGIN ATOMIC) are dependants.
_QUERY = """
SELECT f.oid::regprocedure::text, w.number
FROM ROWS FROM (unnest(%(tables)s::oid[]), unnest(%(names)s::text[]), unnest(%(columns)s::text[]), unnest(%(numbers)s::int[]))
  AS w (relation, name, field, number)
JOIN pg_proc f ON f.prosqlbody IS NULL AND f.prosrc ~* w.field
  AND (f.prosrc ~* w.name OR EXISTS (SELECT FROM pg_trigger g WHERE g.tgfoid = f.oid AND g.tgrelid = w.relation))
JOIN pg_language l ON l.oid = f.prolang AND l.lanname NOT IN ('c', 'internal')
JOIN pg_namespace n ON n.oid = f.pronamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'zdm')
WHERE NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = f.oid AND e.deptype = 'e')
ORDER BY 1, 2
"""

_TABLES = """
SELECT f.oid::regprocedure::text, w.number,
  (SELECT coalesce(array_agg(g.tgname || ' of ' || g.tgrelid::regclass ORDER BY g.tgname, g.tgrelid::regclass::text), '{}')
   FROM pg_trigger g WHERE g.tgfoid = f.oid AND NOT g.tgisinternal AND g.tgparentid = 0 AND g.tgrelid <> w.relation)
FROM ROWS FROM (unnest(%(tables)s::oid[]), unnest(%(names)s::text[]), unnest(%(numbers)s::int[])) AS w (relation, name, number)
JOIN pg_proc f ON f.prosqlbody IS NULL AND f.prosrc ~* w.name
JOIN pg_language l ON l.oid = f.prolang AND l.lanname NOT IN ('c', 'internal')
JOIN pg_namespace n ON n.oid = f.pronamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'zdm')
WHERE NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = f.oid AND e.deptype = 'e')
ORDER BY 2, 1
"""


def functions_that_mention(
    conn: Connection, columns: Iterable[tuple[QualifiedName, int, str]]
) -> list[Mention]:
    """The functions whose bodies seem to name one of the columns, given with their tables' names and numbers."""
    asked = list(columns)
    if not asked:
        return []
    with transaction(conn, rollback=True):
        rows = conn.execute(
            _QUERY,
            {
                "tables": [oid for _, oid, _ in asked],
                "names": [_word(table.name) for table, _, _ in asked],
                "columns": [_word(column) for _, _, column in asked],
                "numbers": list(range(len(asked))),
            },
        ).fetchall()
    return [
        Mention(function=function, table=asked[number][0], column=asked[number][2])
        for function, number in rows
    ]


def functions_that_mention_table(
    conn: Connection, tables: Iterable[tuple[QualifiedName, int]]
) -> list[TableMention]:
    """The functions whose bodies seem to name one of the tables, with the triggers of other tables that call them."""
    asked = list(tables)
    if not asked:
        return []
    with transaction(conn, rollback=True):
        rows = conn.execute(
            _TABLES,
            {
                "tables": [oid for _, oid in asked],
                "names": [_word(table.name) for table, _ in asked],
                "numbers": list(range(len(asked))),
            },
        ).fetchall()
    return [
        TableMention(function=function, table=asked[number][0], triggers=tuple(triggers))
        for function, number, triggers in rows
    ]


def _word(name: str) -> str:
    return rf"\m{re.escape(name)}\M"
