"""Have enough people agreed to this phase of exactly this migration?"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from zdm.gates.base import Gate, counted
from zdm.gates.context import GateContext
from zdm.model.verdict import Verdict
from zdm.operations.migration import Risk

_BY_RISK = {Risk.LOW: 0, Risk.MEDIUM: 0, Risk.HIGH: 1}


class Approvals(Gate):
    """Enough different people approved this phase. An approval is void when the migration's content has changed since."""

    name: ClassVar[str] = "approvals"
    asks: ClassVar[str] = "Have enough people agreed to this phase of exactly this migration?"
    scalar: ClassVar[str | None] = "required"

    required: int | None = Field(
        default=None, ge=0, strict=True, description="how many; by default 1 for risk high, else 0"
    )
    by_others: bool = Field(
        default=True,
        description="whether the approval of the person who registered the migration does not count",
    )

    def evaluate(self, ctx: GateContext) -> Verdict:
        """Counts people, not approvals."""
        required = _BY_RISK[ctx.migration.risk] if self.required is None else self.required
        threshold = f"{counted(required, 'approval')} of {ctx.phase.value}" + (
            " by others than who registered it" if required and self.by_others else ""
        )
        if not required:
            return self.passed(f"none needed for risk {ctx.migration.risk.value}", threshold)
        void, own, valid = 0, False, dict[str, str]()
        for approval in ctx.facts.approvals():
            if approval.phase is not ctx.phase:
                continue
            if approval.checksum != ctx.rollout.checksum:
                void += 1
            elif self.by_others and approval.by == ctx.rollout.registered_by:
                own = True
            else:
                valid[approval.by] = f"{approval.by} at {approval.at:%Y-%m-%d %H:%M} UTC"
        observed = f"approved by {', '.join(valid.values())}" if valid else "approved by nobody"
        if void:
            observed += f"; {counted(void, 'approval')} void, because the migration changed since"
        if own:
            observed += f"; {ctx.rollout.registered_by} registered it"
        if len(valid) >= required:
            return self.passed(observed, threshold)
        missing = required - len(valid)
        return self.refused(
            observed,
            threshold,
            f"{counted(missing, 'more person', 'more people')} must run `zdm approve {ctx.migration.id} {ctx.phase.value}`.",
        )
