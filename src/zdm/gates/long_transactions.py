"""Is any transaction open for so long that the move would wait for it?"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from pydantic import Field

from zdm.db.probes.long_transactions import LongTransaction, long_transactions
from zdm.gates.base import Gate, enumerated
from zdm.gates.context import GateContext
from zdm.model.duration import Duration, format_duration
from zdm.model.verdict import Verdict


class LongTransactions(Gate):
    """No transaction in this database is older than a limit: it would hold locks the move needs, and hold back vacuum."""

    name: ClassVar[str] = "long_transactions"
    asks: ClassVar[str] = "Is any transaction open for so long that the move would wait for it?"
    scalar: ClassVar[str | None] = "max_age"

    max_age: Duration = Field(
        default=timedelta(minutes=5), description="the oldest transaction that is accepted"
    )

    def evaluate(self, ctx: GateContext) -> Verdict:
        """Prepared transactions count as well; others' that our role may not see make it unreadable."""
        threshold = f"none older than {format_duration(self.max_age)}"
        answer = long_transactions(ctx.conn, self.max_age)
        if answer.unreadable:
            return self.unreadable(answer.unreadable, threshold, "GRANT pg_monitor to zdm's role.")
        if not answer.found:
            return self.passed("none", threshold)
        worst = answer.found[0]
        how = (
            f"SELECT pg_terminate_backend({worst.pid})"
            if worst.pid is not None
            else f"ROLLBACK PREPARED '{worst.name}'"
        )
        return self.refused(
            enumerated([_words(t) for t in answer.found]),
            threshold,
            f"Wait for the oldest to end, or end it: {how}.",
        )


def _words(found: LongTransaction) -> str:
    age = format_duration(timedelta(seconds=int(found.age.total_seconds())))
    if found.pid is None:
        return f"prepared transaction {found.name} of {found.user}, open for {age}"
    who = f" {found.name}" if found.name else ""
    return f"process {found.pid}{who} of {found.user} ({found.state}), open for {age}"
