"""Are all replicas near enough?"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from psycopg import conninfo
from pydantic import Field, field_validator

from zdm.db.probes.replication_lag import StandbyLag, replication_lag
from zdm.gates.base import Gate, counted, enumerated
from zdm.gates.context import GateContext
from zdm.model.duration import Duration, format_duration
from zdm.model.verdict import Verdict


class ReplicationLag(Gate):
    """The replica that is furthest behind is within the limit, and there are as many as there should be."""

    name: ClassVar[str] = "replication_lag"
    asks: ClassVar[str] = "Are all replicas near enough?"
    scalar: ClassVar[str | None] = "max"

    max: Duration = Field(default=timedelta(seconds=5), description="how far behind the worst replica may be")
    replicas: tuple[str, ...] = Field(
        default=(),
        description="connection URLs of replicas that are asked themselves, beside those that the primary knows; no passwords",
    )
    require: int = Field(default=0, ge=0, description="how many replicas there must be at least")

    @field_validator("replicas")
    @classmethod
    def _no_passwords(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            try:
                secret = conninfo.conninfo_to_dict(url).get("password")
            except Exception:  # noqa: BLE001  # the text may hold a password, so it must not be quoted
                raise ValueError("a replica is neither a PostgreSQL URL nor a conninfo string") from None
            if secret:
                raise ValueError(
                    "a replica's URL holds a password, and this file is stored in the catalog; use a password file, "
                    "a service, or zdm's settings"
                )
        return value

    def evaluate(self, ctx: GateContext) -> Verdict:
        """No replicas pass, and the verdict says so; one that cannot be read refuses."""
        threshold = f"at most {format_duration(self.max)}" + (
            f" on at least {counted(self.require, 'replica')}" if self.require else ""
        )
        found = replication_lag(ctx.conn, self.replicas or ctx.replicas)
        unreadable = [standby for standby in found if standby.behind is None]
        if unreadable:
            return self.unreadable(
                enumerated([f"{s.name}: {s.unreadable or 'its lag cannot be read'}" for s in unreadable]),
                threshold,
                "Grant pg_monitor to zdm's role, or mend the replica's connection; what cannot be read refuses.",
            )
        if len(found) < self.require:
            return self.refused(
                f"{counted(len(found), 'replica')} seen", threshold, "Bring the missing replicas back."
            )
        if not found:
            return self.passed("there are no replicas", threshold)
        worst = max(found, key=_behind)
        observed = f"{_seconds(_behind(worst))} behind on {worst.name}" + (
            f", the worst of {len(found)}" if len(found) > 1 else ""
        )
        if _behind(worst) <= self.max:
            return self.passed(observed, threshold)
        return self.refused(
            observed,
            threshold,
            f"Wait until {worst.name} has caught up (`zdm advance --wait`), and look for what holds it back.",
        )


def _behind(standby: StandbyLag) -> timedelta:
    return standby.behind or timedelta()


def _seconds(lag: timedelta) -> str:
    return f"{lag.total_seconds():.1f} s"
