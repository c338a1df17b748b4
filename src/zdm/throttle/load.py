"""A server that is busy with others' work."""

from __future__ import annotations

from typing import Any, ClassVar

import psycopg

from zdm.throttle.base import Reading, Signal, unreadable
from zdm.throttle.settings import ThrottleSettings

_ACTIVE = """
SELECT pg_catalog.count(*) FILTER (WHERE state = 'active'),
       pg_catalog.count(*) FILTER (WHERE state IS NULL)
FROM pg_catalog.pg_stat_activity
WHERE backend_type IS NOT DISTINCT FROM 'client backend' AND pid <> pg_catalog.pg_backend_pid()
  AND application_name NOT LIKE 'zdm%' OR backend_type IS NULL AND usesysid IS NOT NULL
"""
# What our role may not see has neither type nor state, but its user is shown.


class Load(Signal):
    """Statements of others that run at this moment."""

    name: ClassVar[str] = "load"

    def __init__(self, limit: int) -> None:
        self._limit = limit

    @classmethod
    def configured(cls, settings: ThrottleSettings) -> Load | None:
        return None if settings.max_active is None else cls(settings.max_active)

    def read(self, conn: psycopg.Connection[Any]) -> Reading:
        row = conn.execute(_ACTIVE).fetchone()
        assert row is not None
        active, hidden = row
        if hidden:
            return unreadable(
                self._limit,
                f"{hidden} sessions are hidden from this role, so the load is not known (GRANT pg_read_all_stats)",
            )
        text = f"{active} statements are running (at most {self._limit})"
        return Reading(active, self._limit, ok=active <= self._limit, text=text)
