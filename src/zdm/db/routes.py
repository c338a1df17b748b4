"""Triggers by which a parent of inheritance passes its rows on to children: found by the words of their functions, so a hint and no more."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zdm.db.session import Connection
from zdm.model.table import Route
from zdm.sql.partitions import over_family

# 1: for each row; 2: before; 4: INSERT. Only what has children itself passes rows on.
_TRIGGERS = """
SELECT t.tgname::text, p.oid::regprocedure::text, p.prosrc
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid IN {family} AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = t.tgrelid)
  AND NOT t.tgisinternal AND t.tgname !~ '^[~!]zdm_' AND t.tgtype & 7 = 7 AND p.prosrc ~* '\\minsert\\M'
ORDER BY t.tgname
"""

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_NAME = r'(?:"(?:[^"]|"")+"|[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*)'
# Only the words ignore case: to fold the million characters of a name's class takes a tenth of a second.
_LISTED = re.compile(
    rf"\b(?i:insert\s+into)\s+(?:{_NAME}\s*\.\s*)?({_NAME})\s*\((?!(?i:\s*(?:select|values|with)\b))"
)


def routes(conn: Connection, oid: int, names: Sequence[str]) -> tuple[Route, ...]:
    """The triggers of the table and its children that insert rows somewhere; `names`: those tables', without their schemas."""
    found = []
    for trigger, function, body in conn.execute(over_family(_TRIGGERS, oid)).fetchall():
        listed = [name for name in map(_folded, _LISTED.findall(_COMMENT.sub(" ", body))) if name in names]
        found.append(Route(trigger=trigger, function=function, listed=", ".join(dict.fromkeys(listed))))
    return tuple(found)


def _folded(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
