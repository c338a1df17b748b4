"""Do both tables hold what either version wrote?"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from pydantic import Field

from zdm.catalog import row_changes
from zdm.gates.base import Gate, counted
from zdm.gates.context import GateContext
from zdm.model.duration import Duration, format_duration
from zdm.model.verdict import Verdict


class SyncLag(Gate):
    """Nothing that either version wrote has waited for long to be carried over to the other's table (`sync: logged`)."""

    name: ClassVar[str] = "sync_lag"
    asks: ClassVar[str] = "Do both tables hold what either version wrote?"
    scalar: ClassVar[str | None] = "max"

    max: Duration = Field(
        default=timedelta(seconds=5), description="how long the oldest change may have waited"
    )

    def evaluate(self, ctx: GateContext) -> Verdict:
        """Looks at the oldest entry of the log. What has no form on the other side is the gate sync_failures' affair."""
        threshold = f"none older than {format_duration(self.max)}"
        if not any(mapping.logged for mapping in ctx.plan.row_mappings):
            return self.passed("nothing is synced by log", threshold)
        found = row_changes.waiting(ctx.conn, ctx.rollout.id)
        if found.age is None:
            return self.passed("nothing waits", threshold)
        observed = f"{counted(found.entries, 'change')} waiting, the oldest for {format_duration(found.age)}"
        if found.age <= self.max:
            return self.passed(observed, threshold)
        return self.refused(
            observed,
            threshold,
            f"Run `zdm reconcile {ctx.migration.id}`, or keep `zdm reconcile --follow` running. If that does not help, long "
            "transactions hold the rows.",
        )
