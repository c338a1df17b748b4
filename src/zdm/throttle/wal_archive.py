"""WAL that waits to be archived fills the disk of the primary."""

from __future__ import annotations

from typing import Any, ClassVar

import psycopg

from zdm.throttle.base import Reading, Signal, unreadable
from zdm.throttle.settings import ThrottleSettings

_ARCHIVER = """
SELECT pg_catalog.current_setting('archive_mode') = 'off' OR pg_catalog.pg_is_in_recovery() AS idle,
       a.last_archived_wal, a.failed_count,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END,
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))
FROM pg_catalog.pg_stat_archiver a
"""


class WalArchive(Signal):
    """Segments between the one that is written and the one that was archived last."""

    name: ClassVar[str] = "wal_archive"

    def __init__(self, limit: int) -> None:
        self._limit = limit

    @classmethod
    def configured(cls, settings: ThrottleSettings) -> WalArchive | None:
        return None if settings.max_archive_backlog is None else cls(settings.max_archive_backlog)

    def read(self, conn: psycopg.Connection[Any]) -> Reading:
        row = conn.execute(_ARCHIVER).fetchone()
        assert row is not None
        idle, archived, failures, current, segment_size = row
        if idle:
            return Reading(0, self._limit, ok=True, text="WAL is not archived")
        last = _number(archived or "", segment_size)
        if last is None:
            # Nothing was ever archived: fine on a new server, and not fine if it was tried in vain.
            if failures:
                return unreadable(
                    self._limit, f"archiving WAL has failed {failures} times, and never succeeded"
                )
            return Reading(0, self._limit, ok=True, text="no WAL has been archived yet")
        behind = max(0, (_number(current, segment_size) or last) - last - 1)
        text = f"{behind} WAL segments wait to be archived (at most {self._limit})"
        return Reading(behind, self._limit, ok=behind <= self._limit, text=text)


def _number(name: str, segment_size: int) -> int | None:
    """The number of a segment by its file's name; None for anything else (a history file, for example)."""
    try:
        high, low = int(name[8:16], 16), int(name[16:24], 16)
    except ValueError:
        return None
    return high * ((1 << 32) // segment_size) + low
