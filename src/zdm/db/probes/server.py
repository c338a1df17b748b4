"""What the server is, and what our role may do there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from zdm.db.session import transaction


@dataclass(frozen=True, slots=True)
class Server:
    """Facts about the server and the role that statements run as."""

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
    may_create_temporary: bool


_FACTS = """
SELECT pg_catalog.version(), pg_catalog.pg_is_in_recovery(), pg_catalog.pg_backend_pid(),
  pg_catalog.current_database(), current_user, r.rolsuper,
  pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'), pg_catalog.pg_has_role('pg_signal_backend', 'USAGE'),
  pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
  pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
"""


def server(conn: psycopg.Connection[Any]) -> Server:
    """Ask everything once; experiments are rolled back."""
    with transaction(conn, rollback=True):
        row = conn.execute(_FACTS).fetchone()
        assert row is not None
        version, recovering, pid, database, user, superuser, monitor, signal, create, temporary = row
        return Server(
            version=conn.info.server_version,
            version_text=version,
            in_recovery=recovering,
            pooled=getattr(conn, "pooled", pid != conn.info.backend_pid),
            database=database,
            user=user,
            superuser=superuser,
            may_monitor=monitor,
            may_signal=signal,
            may_set_replication_role=_may_set(conn, "SET LOCAL session_replication_role = replica"),
            may_set_deadlock_timeout=_may_set(conn, "SET LOCAL deadlock_timeout = '1s'"),
            may_create_schema=create,
            may_create_temporary=temporary,
        )


def _may_set(conn: psycopg.Connection[Any], statement: str) -> bool:
    """Whether the statement is allowed, by trying it: managed services change the rules."""
    conn.execute("SAVEPOINT _zdm_try")
    try:
        conn.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        return False
    else:
        return True
    finally:
        conn.execute("ROLLBACK TO SAVEPOINT _zdm_try")
