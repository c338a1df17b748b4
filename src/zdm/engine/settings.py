"""What a person may set about how the engine works; the defaults are the documented ones."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from zdm.model.duration import Duration
from zdm.model.names import Value
from zdm.throttle.settings import ThrottleSettings


class EngineSettings(Value):
    """The engine's knobs. ``zdm.toml`` and the options of the command line set them by these names."""

    lock_budget: Duration = Field(
        default=timedelta(milliseconds=100),
        description="the longest a statement of the applications may wait for anything zdm does",
    )
    lock_timeout_total: Duration = Field(
        default=timedelta(minutes=5),
        description="how long one step keeps trying to get its locks before it gives up",
    )
    workers: int = Field(default=1, ge=1, le=64, description="parallel workers of a backfill")
    replicas: tuple[str, ...] = Field(
        default=(),
        description="connection URLs of replicas whose lag is read directly, beside pg_stat_replication",
    )
    throttle: ThrottleSettings = Field(
        default_factory=ThrottleSettings,
        description="when a backfill slows down; without replicas of its own it looks at those above",
    )
    lease: Duration = Field(
        default=timedelta(seconds=15),
        description="how long a rollout stays held by a process that died, where its connection cannot tell (a pooler)",
    )
    holder: str = Field(
        default="",
        description="what others are told about who holds the rollout; host and process id if empty",
    )
