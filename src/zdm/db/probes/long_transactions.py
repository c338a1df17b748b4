"""Transactions that are open for long: they hold back vacuum, and CREATE INDEX CONCURRENTLY waits for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg


@dataclass(frozen=True, slots=True)
class LongTransaction:
    """One open (or prepared) transaction. `pid` is None for a prepared one, whose `name` is its gid."""

    pid: int | None
    name: str
    user: str
    state: str
    age: timedelta
    holds_xmin: bool


@dataclass(frozen=True, slots=True)
class LongTransactions:
    """What was found. `unreadable` says why not everybody's transactions could be seen; empty if they could."""

    found: tuple[LongTransaction, ...]
    unreadable: str = ""


# Walsenders hold xmin for standbys and slots, not for transactions of their own: that is what `slots` and
# `replication_lag` are about. A vacuum's own xmin holds back nobody.
_OPEN = """
SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.usename, ''), coalesce(a.state, 'unknown'),
  pg_catalog.clock_timestamp() - a.xact_start AS age, a.backend_xmin IS NOT NULL
FROM pg_catalog.pg_stat_activity a
WHERE a.xact_start IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid() AND a.datname = pg_catalog.current_database()
  AND a.backend_type NOT IN ('walsender', 'autovacuum worker', 'parallel worker')
  AND pg_catalog.clock_timestamp() - a.xact_start > %(limit)s
UNION ALL
SELECT NULL, p.gid, p.owner, 'prepared', pg_catalog.clock_timestamp() - p.prepared, true
FROM pg_catalog.pg_prepared_xacts p
WHERE p.database = pg_catalog.current_database() AND pg_catalog.clock_timestamp() - p.prepared > %(limit)s
ORDER BY age DESC
"""

# Of a session of another role an unprivileged role sees neither state nor start; its xmin and pid, it does.
_HIDDEN = """
SELECT count(*) FROM pg_catalog.pg_stat_activity a
WHERE a.datname = pg_catalog.current_database() AND a.backend_type IS NULL AND a.usesysid IS NOT NULL
  AND a.pid <> pg_catalog.pg_backend_pid()
"""


def long_transactions(conn: psycopg.Connection[Any], older_than: timedelta) -> LongTransactions:
    """Transactions older than `older_than` in this database, oldest first; zdm's own session excluded."""
    rows = conn.execute(_OPEN, {"limit": older_than}).fetchall()
    row = conn.execute(_HIDDEN).fetchone()
    hidden = row[0] if row is not None else 0
    why = f"{hidden} sessions of other roles cannot be seen; grant the role pg_monitor" if hidden else ""
    return LongTransactions(tuple(LongTransaction(*found) for found in rows), why)
