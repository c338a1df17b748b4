"""Autovacuum (and manual VACUUM and ANALYZE) at work on a table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from zdm.model.names import QualifiedName


@dataclass(frozen=True, slots=True)
class Vacuum:
    """One running vacuum or analyze.

    Parameters
    ----------
    wraparound: it prevents transaction id wraparound and must not be cancelled; None if our role may not see that.
    phase: what it is doing; "waiting or analyzing" where the server does not say.
    running: how long; None if our role may not see it.
    done: share of the table's blocks scanned; None if unknown.
    """

    pid: int
    automatic: bool
    wraparound: bool | None
    phase: str
    running: timedelta | None
    done: float | None


# A vacuum is found by its lock, which everybody may see: SHARE UPDATE EXCLUSIVE on the table or its TOAST table.
_VACUUMS = """
SELECT DISTINCT ON (l.pid) l.pid,
  coalesce(a.backend_type = 'autovacuum worker', a.usesysid IS NULL),
  CASE WHEN a.backend_type = 'autovacuum worker' THEN a.query LIKE '%%(to prevent wraparound)%%'
       WHEN a.backend_type IS NOT NULL THEN false END,
  coalesce(v.phase, 'waiting or analyzing'),
  pg_catalog.clock_timestamp() - a.xact_start,
  CASE WHEN v.heap_blks_total > 0 THEN v.heap_blks_scanned::float8 / v.heap_blks_total END
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_locks l ON l.locktype = 'relation' AND l.relation IN (c.oid, nullif(c.reltoastrelid, 0))
 AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
 AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_catalog.pg_stat_progress_vacuum v ON v.pid = l.pid
WHERE n.nspname = %s AND c.relname = %s
  AND (v.pid IS NOT NULL OR a.backend_type = 'autovacuum worker' OR a.query ~* '^\\s*(vacuum|analyze)')
ORDER BY l.pid, v.pid NULLS LAST
"""


def vacuums(conn: psycopg.Connection[Any], table: QualifiedName) -> tuple[Vacuum, ...]:
    """What vacuums the table (or its TOAST table) right now."""
    return tuple(Vacuum(*row) for row in conn.execute(_VACUUMS, (table.schema_, table.name)).fetchall())
