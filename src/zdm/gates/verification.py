"""Do both sides agree, as a fresh look at every row found?"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from psycopg import sql
from pydantic import Field

from zdm.db.session import fetch_value, transaction
from zdm.gates.base import Gate, counted, enumerated
from zdm.gates.context import BackfillFact, GateContext, VerificationFact
from zdm.model.duration import Duration, format_duration
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName, qualified
from zdm.model.verdict import Verdict
from zdm.sql.fence import effective
from zdm.sql.partitions import came_after, disagrees, part_of
from zdm.sql.rows import Kind, describe

_PATIENCE = timedelta(seconds=30)
"""How long a partition that came since is looked through; one that takes longer has to be verified."""


class Verification(Gate):
    """The latest verification of every mapped table read the whole table, found nothing, and is fresh."""

    name: ClassVar[str] = "verification"
    asks: ClassVar[str] = "Did a fresh look at every row find both sides in agreement?"
    scalar: ClassVar[str | None] = "max_age"

    max_age: Duration = Field(
        default=timedelta(hours=24), description="the oldest verification that still counts"
    )

    def evaluate(self, ctx: GateContext) -> Verdict:
        """Fresh means: its snapshot is younger than `max_age`, the last backfill chunk, and the switchover."""
        tables = ctx.plan.verified
        promised = ", none breaks a constraint" if ctx.plan.promises else ""
        threshold = f"every row compared, none differs{promised}, at most {format_duration(self.max_age)} old, newer than the backfill"
        if not tables:
            return self.passed("no rows to compare", threshold)
        backfills = ctx.facts.backfills()
        found = {table: ctx.facts.verification(table) for table in tables}
        facts = {table: fact for table, fact in found.items() if fact is not None}
        wrong = [
            text
            for table in tables
            for text in self._wrong(ctx, table, facts.get(table), backfills.get(table))
        ]
        if wrong:
            kinds = {kind for fact in facts.values() for kind in fact.mismatches}
            remedy = f"Run `zdm verify {ctx.migration.id}`"
            if kinds & set(Kind):
                remedy += (
                    "; with --repair it derives rows that differ again, from the side that last wrote them"
                )
            if kinds - set(Kind):
                remedy = f"Correct the rows that break a constraint, through either version. {remedy}"
            return self.refused(enumerated(wrong), threshold, f"{remedy}.")
        rows = sum(fact.rows for fact in facts.values())
        age = max(ctx.now - fact.started_at for fact in facts.values())
        alone = sum(fact.without_old_form for fact in facts.values())
        recorded = f"; {counted(alone, 'row')} without an old form, recorded" if alone else ""
        return self.passed(f"{counted(rows, 'row')} compared {_ago(age)}, none differs{recorded}", threshold)

    def _wrong(
        self,
        ctx: GateContext,
        table: QualifiedName,
        fact: VerificationFact | None,
        backfill: BackfillFact | None,
    ) -> list[str]:
        if fact is None:
            return [f"{table} was never verified"]
        found: list[str] = []
        if fact.mismatches:
            names = f" (for example {fact.samples[0]})" if fact.samples else ""
            found.append(f"{table} has {describe(fact.mismatches)}{names}")
        elif not fact.rows and self._disagree_since(ctx, table):
            found.append(f"{table} was empty when it was verified, and has rows that disagree since")
        age = ctx.now - fact.started_at
        if age > self.max_age:
            found.append(f"{table} was verified {_ago(age)}")
        if backfill is not None and self._backfilled_since(fact, backfill):
            found.append(f"{table} was backfilled after it was verified")
        return found + self._unverified(ctx, table, fact)

    def _unverified(self, ctx: GateContext, table: QualifiedName, fact: VerificationFact) -> list[str]:
        """Partitions or children that came since then with rows in which the sides disagree; mostly such that nobody has filled."""
        mapping = self._mapping(ctx, table)
        if mapping is None or not mapping.spread or not fact.snapshot:
            return []
        snapshot = sql.SQL("{}::pg_catalog.pg_snapshot").format(sql.Literal(fact.snapshot))
        found: list[str] = []
        with transaction(
            ctx.conn,
            read_only=True,
            rollback=True,
            lock_timeout=timedelta(seconds=1),
            statement_timeout=_PATIENCE,
        ):
            for schema, name in ctx.conn.execute(came_after(mapping, snapshot)).fetchall():
                wrong = sql.SQL("SELECT EXISTS (SELECT FROM ONLY {} WHERE {})").format(
                    sql.Identifier(schema, name), disagrees(mapping)
                )
                if fetch_value(ctx.conn, wrong):
                    found.append(
                        f"{qualified(schema, name)} became a {part_of(mapping)} {table} after that was verified, and has rows that are "
                        "not filled (`--repair` fills them)"
                    )
        return found

    def _backfilled_since(self, fact: VerificationFact, backfill: BackfillFact) -> bool:
        if fact.backfill_pass != backfill.pass_no:
            return True
        return backfill.last_chunk_at is not None and backfill.last_chunk_at > fact.started_at

    @staticmethod
    def _mapping(ctx: GateContext, table: QualifiedName) -> TableMapping | None:
        """The table under the names of the moment; None where rows of two tables are compared."""
        planned = next((mapping for mapping in ctx.plan.mappings if mapping.table == table), None)
        return None if planned is None else effective(planned, fenced=ctx.rollout.fenced_at is not None)

    def _disagree_since(self, ctx: GateContext, table: QualifiedName) -> bool:
        """Whether rows of a table that had none disagree: nothing was compared, so rows that came since are looked at here."""
        mapping = self._mapping(ctx, table)
        if mapping is None or not mapping.groups:
            return False
        wrong = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(
            sql.Identifier(mapping.table.schema_, mapping.table.name), disagrees(mapping)
        )
        with transaction(
            ctx.conn,
            read_only=True,
            rollback=True,
            lock_timeout=timedelta(seconds=1),
            statement_timeout=_PATIENCE,
        ):
            return bool(fetch_value(ctx.conn, wrong))


def _ago(age: timedelta) -> str:
    # Whole seconds, and no more than two units: an age is read, not computed with.
    seconds = max(0, int(age.total_seconds()))
    if seconds >= 3600:
        seconds -= seconds % 60
    return f"{format_duration(timedelta(seconds=seconds))} ago"
