"""Has every row got its new side?"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from zdm.gates.base import Gate, counted
from zdm.gates.context import GateContext
from zdm.model.verdict import Verdict


class SyncFailures(Gate):
    """No row is recorded for which `up` raised. The application's write went through; its new side is missing."""

    name: ClassVar[str] = "sync_failures"
    asks: ClassVar[str] = "Has every row got its new side?"
    scalar: ClassVar[str | None] = "max"

    max: int = Field(default=0, ge=0, description="how many failed rows are accepted")

    def evaluate(self, ctx: GateContext) -> Verdict:
        """Counts the recorded rows and names some."""
        threshold = f"at most {counted(self.max, 'row')} failed"
        facts = [fact for fact in ctx.facts.sync_failures(samples=3) if fact.count]
        count = sum(fact.count for fact in facts)
        if count <= self.max:
            return self.passed(counted(count, "failed row"), threshold)
        named = " and ".join(f"{fact.count} of {fact.table}: {'; '.join(fact.samples)}" for fact in facts)
        return self.refused(
            f"{counted(count, 'row')} could not be mapped ({named})",
            threshold,
            "Correct the rows through the old version, or roll back and correct `up`; a row that maps again clears itself.",
        )
