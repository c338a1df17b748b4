"""Has the backfill reached the end of every table?"""

from __future__ import annotations

from typing import ClassVar

from zdm.gates.base import Gate, counted, enumerated
from zdm.gates.context import GateContext
from zdm.model.verdict import Verdict


class BackfillComplete(Gate):
    """Every table whose rows are mapped has a finished backfill."""

    name: ClassVar[str] = "backfill_complete"
    asks: ClassVar[str] = "Has the backfill reached the end of every table?"

    def evaluate(self, ctx: GateContext) -> Verdict:
        """Reads what the backfill recorded; that no row was left out is for `verification` to prove."""
        tables = ctx.plan.passes
        threshold = "finished for every mapped table"
        if not tables:
            return self.passed("no rows to fill", threshold)
        facts = ctx.facts.backfills()
        left: list[str] = []
        for table in tables:
            fact = facts.get(table)
            if fact is None:
                left.append(f"{table} has not begun")
            elif not fact.finished:
                left.append(f"{table} is unfinished after {counted(fact.rows, 'row')}")
        if left:
            return self.refused(
                enumerated(left),
                threshold,
                f"Run `zdm backfill {ctx.migration.id}`; it continues where it stopped.",
            )
        rows = sum(facts[table].rows for table in tables)
        return self.passed(f"{counted(rows, 'row')} filled in {counted(len(tables), 'table')}", threshold)
