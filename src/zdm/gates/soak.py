"""Has the new version been the authority for long enough?"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from pydantic import Field

from zdm.gates.base import Gate
from zdm.gates.context import GateContext
from zdm.model.duration import Duration, format_duration
from zdm.model.verdict import Verdict


class Soak(Gate):
    """A stated time has passed since switchover; until cleanup, and not after it, the way back is one command."""

    name: ClassVar[str] = "soak"
    asks: ClassVar[str] = "Has the new version been the authority for long enough?"
    scalar: ClassVar[str | None] = "min"

    min: Duration = Field(default=timedelta(hours=24), description="the least time since switchover")

    def evaluate(self, ctx: GateContext) -> Verdict:
        """By the server's clock."""
        threshold = f"at least {format_duration(self.min)} since switchover"
        since = ctx.rollout.switched_over_at
        if since is None:
            return self.refused("not switched over yet", threshold, f"Run `zdm advance {ctx.migration.id}`.")
        passed = ctx.now - since
        observed = f"switched over {format_duration(timedelta(seconds=int(passed.total_seconds())))} ago"
        if passed >= self.min:
            return self.passed(observed, threshold)
        # The server's clock was set back, or the catalog came from a restore: never less than nothing.
        left = timedelta(seconds=int((self.min - passed).total_seconds()) + 1)
        return self.refused(
            observed, threshold, f"Try again in {format_duration(left)}, or wait with `zdm advance --wait`."
        )
