"""How far the standbys are behind.

The primary sees every standby that is connected, but not one that should be and is not: those are configured by URL and
asked themselves. Only the difference in WAL decides that a standby is behind; a time alone does not, since on an idle
primary the last replayed commit is as old as the last commit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg

from zdm.db.session import connect, fetch_value, mask_url
from zdm.errors import ZdmError

_PATIENCE: Final = 0.25
_PAUSE: Final = 0.02


@dataclass(frozen=True, slots=True)
class StandbyLag:
    """One standby.

    Parameters
    ----------
    name: its application_name, or its masked URL if it was asked itself.
    state: `pg_stat_replication.state`, or "asked itself".
    behind: the age of what it has not replayed; zero if nothing is outstanding; None if unreadable.
    bytes: WAL written by the primary and not replayed there; None if unreadable.
    unreadable: why it could not be read; empty if it could.
    """

    name: str
    state: str
    behind: timedelta | None
    bytes: int | None
    unreadable: str = ""


# What is written but not flushed is never sent, so it cannot be behind.
# replay_lag is NULL where nothing is outstanding for a while, but also where nothing was ever replayed. Logical
# subscribers are walsenders too; they replay nothing and report what they have confirmed.
_STANDBYS = """
SELECT application_name, state,
  CASE WHEN pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), replay_lsn) <= 0 THEN interval '0'
       ELSE replay_lag END,
  greatest(0, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), replay_lsn))::int8
FROM pg_catalog.pg_stat_replication
WHERE state IS DISTINCT FROM 'backup'
ORDER BY application_name, pid
"""


def replication_lag(conn: psycopg.Connection[Any], replicas: Sequence[str] = ()) -> tuple[StandbyLag, ...]:
    """Every standby the primary knows (one entry each), then every configured one, asked itself.

    Parameters
    ----------
    conn: the primary.
    replicas: URLs of standbys that must exist; one that cannot be reached is an entry with `unreadable` set.
    """
    found = [_seen(*row) for row in conn.execute(_STANDBYS).fetchall()]
    return (*found, *(_asked(conn, url) for url in replicas))


def _seen(name: str | None, state: str | None, behind: timedelta | None, missing: int | None) -> StandbyLag:
    if state is None:
        why = "the role may not see it; grant it pg_monitor"
        return StandbyLag(name or "a standby", "unknown", None, None, why)
    if missing is None:
        return StandbyLag(name or "a standby", state, None, None, "it has not reported what it replayed")
    if behind is None and missing == 0:
        behind = timedelta()
    # Outstanding bytes without a time: the server has no sample yet. The bytes are known, the time is not.
    why = "" if behind is not None else "the server has no measurement of its delay yet"
    return StandbyLag(name or "a standby", state, behind, missing, why)


def _asked(conn: psycopg.Connection[Any], url: str) -> StandbyLag:
    name = mask_url(url)
    try:
        with connect(url, application_name="zdm lag probe", timeout=5) as standby:
            recovering = fetch_value(standby, "SELECT pg_catalog.pg_is_in_recovery()")
            if not recovering:
                return StandbyLag(name, "asked itself", None, None, "it is not a standby")
            mine = fetch_value(conn, "SELECT system_identifier FROM pg_catalog.pg_control_system()")
            theirs = fetch_value(standby, "SELECT system_identifier FROM pg_catalog.pg_control_system()")
            if mine != theirs:
                return StandbyLag(name, "asked itself", None, None, "it is not a standby of this server")
            # The primary first: what it writes while we ask the other must not look replayed.
            written = fetch_value(conn, "SELECT pg_catalog.pg_current_wal_flush_lsn()")
            row = _replayed(standby, str(written))
    except ZdmError as error:
        return StandbyLag(name, "asked itself", None, None, error.message)
    except psycopg.Error as error:
        why = (error.diag.message_primary or "the connection was lost").strip()
        return StandbyLag(name, "asked itself", None, None, why)
    missing, age = row
    if missing is None:
        return StandbyLag(name, "asked itself", None, None, "it has replayed nothing yet")
    why = "" if age is not None else "it has replayed no transaction yet"
    return StandbyLag(name, "asked itself", None if age is None else max(age, timedelta()), missing, why)


def _replayed(standby: psycopg.Connection[Any], target: str) -> tuple[int | None, timedelta | None]:
    """What the standby misses up to `target`, and since when.

    On a primary that was idle, the commit replayed last is old although nothing is late: so the standby gets a moment to
    reach the target, and if it does, that moment is its delay.
    """
    begun = time.monotonic()
    while True:
        row = standby.execute(
            "SELECT greatest(0, pg_catalog.pg_wal_lsn_diff(%s::pg_catalog.pg_lsn, pg_catalog.pg_last_wal_replay_lsn()))::int8,"
            " pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()",
            (target,),
        ).fetchone()
        assert row is not None
        missing, age = row
        waited = time.monotonic() - begun
        if missing == 0:
            return 0, timedelta(seconds=waited) if waited > _PAUSE else timedelta()
        if missing is None or waited >= _PATIENCE:
            return missing, age
        time.sleep(_PAUSE)
