"""Where names are looked up while zdm writes rows of a table: the application's triggers fire then, and may not qualify what they name.

What zdm itself says is qualified, and an expression's own names are the server's, which come first. But a trigger function without
a ``search_path`` of its own looks its tables and functions up in that of whoever writes. Functions of ours that write run as
the tables' owner, so the path is the one that the owner would have: a caller's might lead to what the caller made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from zdm.db.session import Connection

_NAME: Final = re.compile(r'"((?:[^"]|"")*)"|([^\s",]+)')

_CONFIGURED: Final = """
SELECT pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1)
FROM pg_catalog.pg_db_role_setting AS s, pg_catalog.unnest(s.setconfig) AS c
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
  AND s.setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = %s)) AND c LIKE 'search\\_path=%%'
ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1
"""

_THERE: Final = "SELECT nspname::text FROM pg_catalog.pg_namespace WHERE nspname = ANY (%s)"


def write_path(conn: Connection, owner: str, schemas: Iterable[str]) -> tuple[str, ...]:
    """The schemas, after the server's own: the owner's ``search_path`` in this database, then those of the tables.

    Parameters
    ----------
    owner: of the tables.
    schemas: in which they are, and which the migration's own names mean.
    """
    row = conn.execute(_CONFIGURED, (owner,)).fetchone()
    configured = split_path(str(row[0])) if row is not None else ["$user", "public"]
    wanted = [owner if name == "$user" else name for name in configured]
    found = dict.fromkeys(
        name for name in (*wanted, *schemas) if name not in {"pg_catalog", "pg_temp", "zdm"}
    )
    there = {name for (name,) in conn.execute(_THERE, (list(found),)).fetchall()}
    return tuple(name for name in found if name in there)


def open_to_all(conn: Connection, path: Iterable[str]) -> list[str]:
    """Those schemas in which every role may create functions. One that takes exactly what is given goes before the server's own that takes more."""
    rows = conn.execute(
        "SELECT s FROM pg_catalog.unnest(%s::text[]) AS s WHERE pg_catalog.has_schema_privilege('public', s, 'CREATE')",
        (list(path),),
    )
    return [str(name) for (name,) in rows.fetchall()]


def split_path(text: str) -> list[str]:
    """The names in a ``search_path`` as the server keeps it; those that are not quoted are folded, as in SQL."""
    return [
        match[1].replace('""', '"') if match[1] is not None else match[2].lower()
        for match in _NAME.finditer(text)
        if match[1] != ""
    ]
