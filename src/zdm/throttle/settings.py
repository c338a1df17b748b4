"""When to slow down, as a person sets it."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from zdm.model.duration import Duration
from zdm.model.names import Value


class ThrottleSettings(Value):
    """The limits of every signal. A limit of None switches its signal off."""

    replicas: tuple[str, ...] = Field(
        default=(), description="connection URLs of replicas that are asked themselves"
    )
    max_lag: Duration | None = Field(
        default=timedelta(seconds=5), description="the most that any replica may be behind"
    )
    max_active: int | None = Field(
        default=None, ge=1, description="the most statements of others that may be running at a time"
    )
    max_archive_backlog: int | None = Field(
        default=42, ge=1, description="the most WAL segments that may wait to be archived"
    )
    nice: float = Field(
        default=0.0, ge=0, le=100, description="rest this many times as long as the last chunk took"
    )
