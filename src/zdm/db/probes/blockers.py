"""Who holds, or waits for, a lock on a table that conflicts with one we want."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb

from zdm.model.step import Lock, TableLock

_ORDER: Final = (
    Lock.ACCESS_SHARE,
    Lock.ROW_SHARE,
    Lock.ROW_EXCLUSIVE,
    Lock.SHARE_UPDATE_EXCLUSIVE,
    Lock.SHARE,
    Lock.SHARE_ROW_EXCLUSIVE,
    Lock.EXCLUSIVE,
    Lock.ACCESS_EXCLUSIVE,
)

CONFLICTS: Final[Mapping[Lock, frozenset[Lock]]] = {
    Lock.NONE: frozenset(),
    Lock.ACCESS_SHARE: frozenset(_ORDER[7:]),
    Lock.ROW_SHARE: frozenset(_ORDER[6:]),
    Lock.ROW_EXCLUSIVE: frozenset(_ORDER[4:]),
    Lock.SHARE_UPDATE_EXCLUSIVE: frozenset(_ORDER[3:]),
    Lock.SHARE: frozenset((*_ORDER[2:4], *_ORDER[5:])),
    Lock.SHARE_ROW_EXCLUSIVE: frozenset(_ORDER[2:]),
    Lock.EXCLUSIVE: frozenset(_ORDER[1:]),
    Lock.ACCESS_EXCLUSIVE: frozenset(_ORDER),
}
"""Which modes a mode conflicts with, as in the manual's table of table-level locks."""


@dataclass(frozen=True, slots=True)
class Blocker:
    """One transaction in the way. Never carries query text: its literals may be secret.

    Parameters
    ----------
    pid: its backend, or None for a prepared transaction (then `application` is its gid).
    transaction: identifies the transaction among the blockers of different moments.
    relation: the table it is in the way on; empty if it is in the way by its mere age.
    mode: its lock mode, as `pg_locks` names it without 'Lock'; empty as above.
    granted: it holds the lock; otherwise it waits for it, in the queue before us.
    kind: "client", "autovacuum", "wraparound vacuum", "prepared transaction", or the server's other backend types.
    state: "active", "idle in transaction" …; "unknown" where our role may not see it.
    transaction_age / query_age: how long its transaction is open, its present (or last) query runs; None if not visible.
    """

    pid: int | None
    transaction: str
    application: str
    user: str
    relation: str
    mode: str
    granted: bool
    kind: str
    state: str
    transaction_age: timedelta | None
    query_age: timedelta | None

    def __str__(self) -> str:
        if self.pid is None:
            what = f"prepared transaction '{self.application}'"
        else:
            what = f"pid {self.pid}" + ("" if self.kind == "client" else f" ({self.kind})")
            what += f" {self.application}" if self.application and self.kind == "client" else ""
        what += f" of {self.user}" if self.user else ""
        if self.mode:
            what += f" {'holds' if self.granted else 'waits for'} {self.mode} on {self.relation}"
        facts = [self.state] if self.pid is not None else []
        if self.transaction_age is not None:
            facts.append(f"transaction open for {_seconds(self.transaction_age)}")
        if self.query_age is not None and self.state == "active":
            facts.append(f"statement running for {_seconds(self.query_age)}")
        return f"{what} ({', '.join(facts)})" if facts else what


def _seconds(age: timedelta) -> str:
    seconds = age.total_seconds()
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


# A relation's children count too: DDL on a partitioned table or an inheritance parent locks them all, unless told not to.
_RELATIONS = """
WITH RECURSIVE wanted (schema_name, table_name, modes, alone) AS (
  SELECT * FROM ROWS FROM (pg_catalog.jsonb_to_recordset(%(wanted)s::pg_catalog.jsonb)
    AS (schema_name text, table_name text, modes text[], alone boolean))
), family (oid, modes, alone) AS (
  SELECT c.oid, w.modes, w.alone FROM wanted w
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema_name
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.table_name
  UNION ALL
  SELECT i.inhrelid, f.modes, f.alone FROM family f JOIN pg_catalog.pg_inherits i ON i.inhparent = f.oid WHERE NOT f.alone
)
"""

_WHO = """
  coalesce(a.application_name, p.gid, '') AS application, coalesce(a.usename, p.owner, '') AS "user",
"""

_WHAT = """
  CASE WHEN l.pid IS NULL THEN 'prepared transaction'
       WHEN a.backend_type = 'autovacuum worker' AND a.query LIKE '%%(to prevent wraparound)%%' THEN 'wraparound vacuum'
       WHEN a.backend_type = 'autovacuum worker' THEN 'autovacuum'
       WHEN a.backend_type = 'client backend' THEN 'client'
       WHEN a.backend_type IS NULL AND a.usesysid IS NULL AND v.pid IS NOT NULL THEN 'hidden vacuum'
       ELSE coalesce(a.backend_type, 'client') END AS kind,
  CASE WHEN l.pid IS NULL THEN 'prepared' ELSE coalesce(a.state, 'unknown') END AS state,
  pg_catalog.clock_timestamp() - coalesce(a.xact_start, p.prepared) AS transaction_age,
  pg_catalog.clock_timestamp() - a.query_start AS query_age
"""

_BLOCKERS = f"""{_RELATIONS}
SELECT l.pid, l.virtualtransaction AS transaction, {_WHO} l.relation::pg_catalog.regclass::text AS relation,
  pg_catalog.replace(l.mode, 'Lock', '') AS mode, l.granted, {_WHAT}
FROM family f
JOIN pg_catalog.pg_locks l ON l.locktype = 'relation' AND l.relation = f.oid AND l.mode = ANY (f.modes)
 AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_catalog.pg_stat_progress_vacuum v ON v.pid = l.pid
LEFT JOIN pg_catalog.pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'
 AND x.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() AND a.backend_type IS DISTINCT FROM 'parallel worker'
ORDER BY transaction_age DESC NULLS LAST, l.pid, l.virtualtransaction, l.relation, l.mode
"""  # noqa: S608 - put together from constants

_BLOCKING = f"""
SELECT l.pid, coalesce(a.backend_xid::text, a.pid::text, '') AS transaction, {_WHO}
  '' AS relation, '' AS mode, true AS granted, {_WHAT}
FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(%(pid)s)) WITH ORDINALITY AS b (blocking, n)
CROSS JOIN LATERAL (SELECT nullif(b.blocking, 0) AS pid) l
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_catalog.pg_stat_progress_vacuum v ON v.pid = l.pid
LEFT JOIN pg_catalog.pg_prepared_xacts p ON l.pid IS NULL AND p.database = pg_catalog.current_database()
ORDER BY transaction_age DESC NULLS LAST
"""  # noqa: S608 - put together from constants


def blockers(conn: psycopg.Connection[Any], locks: Sequence[TableLock]) -> tuple[Blocker, ...]:
    """Everybody whose lock conflicts with one of `locks`, oldest transaction first. Takes no lock on the tables."""
    wanted = [
        {
            "schema_name": lock.table.schema_,
            "table_name": lock.table.name,
            "modes": [f"{mode}Lock" for mode in CONFLICTS[lock.mode]],
            "alone": lock.only,
        }
        for lock in locks
        if lock.mode is not Lock.NONE
    ]
    if not wanted:
        return ()
    return _rows(conn.execute(_BLOCKERS, {"wanted": Jsonb(wanted)}))


def blocking(conn: psycopg.Connection[Any], pid: int) -> tuple[Blocker, ...]:
    """Whom the backend `pid` waits for at this moment, whatever it waits for: a table, a snapshot, a row."""
    return _rows(conn.execute(_BLOCKING, {"pid": pid}))


def _rows(rows: Iterable[tuple[Any, ...]]) -> tuple[Blocker, ...]:
    return tuple(Blocker(*row) for row in rows)
