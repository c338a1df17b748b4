"""Replication slots: WAL and xmin that they hold back, and logical consumers that see our rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot. `retained_bytes` is WAL kept for it; None if it keeps none yet, or that cannot be read."""

    name: str
    kind: str  # "physical" or "logical"
    plugin: str
    database: str
    active: bool
    retained_bytes: int | None
    wal_status: str


_SLOTS = """
SELECT slot_name::text, slot_type, coalesce(plugin::text, ''), coalesce(database::text, ''), active,
  pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                                  ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)::int8,
  coalesce(wal_status, '')
FROM pg_catalog.pg_replication_slots ORDER BY slot_name
"""


def slots(conn: psycopg.Connection[Any]) -> tuple[Slot, ...]:
    """Every replication slot of the server, by name. Everybody may read them."""
    return tuple(Slot(*row) for row in conn.execute(_SLOTS).fetchall())
