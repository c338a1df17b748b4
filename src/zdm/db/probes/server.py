"""What the server is, and what our role may do there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg


@dataclass(frozen=True, slots=True)
class Server:
    """Facts about the server and the connected role."""

    version: int  # server_version_num
    version_text: str
    in_recovery: bool
    pooled: bool
    database: str
    user: str
    superuser: bool
    may_monitor: bool  # pg_monitor, or pg_read_all_stats: others' activity is visible
    may_signal: bool  # pg_signal_backend
    may_set_replication_role: bool
    may_set_deadlock_timeout: bool
    may_create_schema: bool


def server(conn: psycopg.Connection[Any]) -> Server:
    """Ask everything once; experiments are rolled back."""
    raise NotImplementedError
