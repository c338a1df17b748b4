"""Replicas that fall behind: whoever reads from them reads the past."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

import psycopg

from zdm.db.probes.replication_lag import replication_lag
from zdm.throttle.base import Reading, Signal, unreadable
from zdm.throttle.settings import ThrottleSettings


class ReplicaLag(Signal):
    """The replica that is furthest behind."""

    name: ClassVar[str] = "replica_lag"

    def __init__(self, limit: timedelta, replicas: tuple[str, ...] = ()) -> None:
        self._limit = limit.total_seconds()
        self._replicas = replicas

    @classmethod
    def configured(cls, settings: ThrottleSettings) -> ReplicaLag | None:
        return None if settings.max_lag is None else cls(settings.max_lag, settings.replicas)

    def read(self, conn: psycopg.Connection[Any]) -> Reading:
        standbys = replication_lag(conn, self._replicas)
        for standby in standbys:
            if standby.unreadable or standby.behind is None:
                why = standby.unreadable or "how far it is behind is not shown to this role"
                return unreadable(self._limit, f"replica {standby.name} cannot be read: {why}")
        worst = max(standbys, key=lambda s: s.behind or timedelta(), default=None)
        if worst is None or worst.behind is None:
            return Reading(0.0, self._limit, ok=True, text="no replicas")
        behind = worst.behind.total_seconds()
        text = f"replica {worst.name} is {behind:.1f} s behind (at most {self._limit:g} s)"
        return Reading(behind, self._limit, ok=behind <= self._limit, text=text)
