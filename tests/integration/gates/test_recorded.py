"""Gates that judge by what zdm recorded: each passes, refuses with numbers, and says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.integration.gates.sample import (
    SETUP,
    TABLE,
    KnownFacts,
    context,
    mapping,
    migration,
    plan,
    session,
)
from tests.support.servers import Database
from zdm.gates.approvals import Approvals
from zdm.gates.backfill_complete import BackfillComplete
from zdm.gates.context import ApprovalFact, BackfillFact, GateContext, SyncFailureFact, VerificationFact
from zdm.gates.dependencies import Dependencies
from zdm.gates.soak import Soak
from zdm.gates.sync_failures import SyncFailures
from zdm.gates.verification import Verification
from zdm.model.phases import State
from zdm.model.step import Phase
from zdm.model.verdict import Answer


@pytest.fixture
def ctx(database: Database) -> Iterator[GateContext]:
    with session(database.dsn) as conn:
        yield context(conn)


def ago(ctx: GateContext, **span: float) -> datetime:
    return ctx.now - timedelta(**span)


class TestDependencies:
    def test_none_needed(self, ctx: GateContext) -> None:
        assert Dependencies().evaluate(ctx).answer is Answer.PASSED

    def test_names_each_that_is_not_completed(self, ctx: GateContext) -> None:
        facts = KnownFacts(states={"a": State.COMPLETED, "b": State.SWITCHED_OVER})
        ctx = replace(ctx, facts=facts, migration=migration(depends_on=("a", "b", "c")))
        verdict = Dependencies().evaluate(ctx)
        assert verdict.answer is Answer.REFUSED
        assert verdict.observed == "b is switched over, c is not rolled out here"
        assert "zdm advance b" in verdict.remedy

    def test_all_completed(self, ctx: GateContext) -> None:
        facts = KnownFacts(states={"a": State.COMPLETED})
        ctx = replace(ctx, facts=facts, migration=migration(depends_on=("a",)))
        assert Dependencies().evaluate(ctx).answer is Answer.PASSED


class TestBackfillComplete:
    def test_not_begun(self, ctx: GateContext) -> None:
        verdict = BackfillComplete().evaluate(ctx)
        assert verdict.answer is Answer.REFUSED
        assert verdict.observed == "public.orders has not begun"

    def test_unfinished(self, ctx: GateContext) -> None:
        ctx = replace(ctx, facts=KnownFacts(filled={TABLE: BackfillFact(False, 70)}))
        assert BackfillComplete().evaluate(ctx).observed == "public.orders is unfinished after 70 rows"

    def test_finished(self, ctx: GateContext) -> None:
        ctx = replace(ctx, facts=KnownFacts(filled={TABLE: BackfillFact(True, 100)}))
        verdict = BackfillComplete().evaluate(ctx)
        assert (verdict.answer, verdict.observed) == (Answer.PASSED, "100 rows filled in 1 table")

    def test_a_migration_that_maps_no_rows_needs_none(self, ctx: GateContext) -> None:
        ctx = replace(ctx, plan=plan(mapping().model_copy(update={"groups": ()})))
        assert BackfillComplete().evaluate(ctx).answer is Answer.PASSED


class TestVerification:
    def facts(self, ctx: GateContext, fact: VerificationFact) -> KnownFacts:
        filled = {TABLE: BackfillFact(True, 100, ago(ctx, hours=2), pass_no=1)}
        return KnownFacts(filled=filled, verified={TABLE: fact})

    def clean(self, ctx: GateContext, **age: float) -> VerificationFact:
        return VerificationFact(ago(ctx, **age), rows=100, backfill_pass=1)

    def test_fresh_and_clean(self, ctx: GateContext) -> None:
        ctx = replace(ctx, facts=self.facts(ctx, self.clean(ctx, minutes=5)))
        verdict = Verification().evaluate(ctx)
        assert (verdict.answer, verdict.observed) == (Answer.PASSED, "100 rows compared 5m ago, none differs")

    def test_never(self, ctx: GateContext) -> None:
        verdict = Verification().evaluate(ctx)
        assert (verdict.answer, verdict.observed) == (Answer.REFUSED, "public.orders was never verified")
        assert "zdm verify widen" in verdict.remedy

    def test_too_old(self, ctx: GateContext) -> None:
        ctx = replace(ctx, facts=self.facts(ctx, self.clean(ctx, hours=1, minutes=30)))
        verdict = Verification.model_validate("1h").evaluate(ctx)
        assert (verdict.answer, verdict.observed) == (Answer.REFUSED, "public.orders was verified 1h30m ago")

    def test_older_than_the_last_chunk(self, ctx: GateContext) -> None:
        ctx = replace(ctx, facts=self.facts(ctx, self.clean(ctx, hours=3)))
        assert Verification().evaluate(ctx).observed == "public.orders was backfilled after it was verified"

    def test_of_an_earlier_pass(self, ctx: GateContext) -> None:
        fact = replace(self.clean(ctx, minutes=1), backfill_pass=None)
        ctx = replace(ctx, facts=self.facts(ctx, fact))
        assert Verification().evaluate(ctx).answer is Answer.REFUSED

    def test_mismatches_are_named(self, ctx: GateContext) -> None:
        fact = replace(
            self.clean(ctx, minutes=1), mismatches={"stale_new": 2, "unsettled": 1}, samples=("{'id': 7}",)
        )
        ctx = replace(ctx, facts=self.facts(ctx, fact))
        verdict = Verification().evaluate(ctx)
        assert verdict.answer is Answer.REFUSED
        assert verdict.observed == "public.orders has 2 stale new, 1 unsettled (for example {'id': 7})"

    def test_rows_that_came_since_an_empty_table_was_verified_are_looked_at(
        self, ctx: GateContext, database: Database
    ) -> None:
        database.execute(SETUP)
        database.execute("TRUNCATE public.orders")
        fact = replace(self.clean(ctx, minutes=1), rows=0)
        ctx = replace(ctx, facts=self.facts(ctx, fact))
        assert Verification().evaluate(ctx).answer is Answer.PASSED
        database.execute("INSERT INTO public.orders VALUES (1, 10, 'n', 'g', 10, 1)")
        assert Verification().evaluate(ctx).answer is Answer.PASSED
        database.execute("INSERT INTO public.orders VALUES (2, 10, 'n', 'g', 11, 1)")
        verdict = Verification().evaluate(ctx)
        assert (verdict.answer, verdict.observed) == (
            Answer.REFUSED,
            "public.orders was empty when it was verified, and has rows that disagree since",
        )


class TestSyncFailures:
    def test_counts_and_names(self, ctx: GateContext) -> None:
        ctx = replace(
            ctx, facts=KnownFacts(failures=[SyncFailureFact(TABLE, 2, ('{"id": 1}: out of range',))])
        )
        verdict = SyncFailures().evaluate(ctx)
        assert verdict.answer is Answer.REFUSED
        assert verdict.observed == '2 rows could not be mapped (2 of public.orders: {"id": 1}: out of range)'
        assert SyncFailures.model_validate(2).evaluate(ctx).answer is Answer.PASSED

    def test_none(self, ctx: GateContext) -> None:
        assert SyncFailures().evaluate(ctx).answer is Answer.PASSED


class TestSoak:
    def test_by_the_servers_clock(self, ctx: GateContext) -> None:
        young = replace(ctx, rollout=replace(ctx.rollout, switched_over_at=ago(ctx, hours=23)))
        verdict = Soak.model_validate("24h").evaluate(young)
        assert (verdict.answer, verdict.observed) == (Answer.REFUSED, "switched over 23h ago")
        old = replace(ctx, rollout=replace(ctx.rollout, switched_over_at=ago(ctx, hours=24)))
        assert Soak.model_validate("24h").evaluate(old).answer is Answer.PASSED

    def test_not_switched_over(self, ctx: GateContext) -> None:
        assert Soak().evaluate(ctx).answer is Answer.REFUSED


class TestApprovals:
    def given(
        self, ctx: GateContext, *who: str, checksum: str = "c1", phase: Phase = Phase.CLEANUP
    ) -> GateContext:
        facts = KnownFacts(given=[ApprovalFact(phase, name, ctx.now, checksum) for name in who])
        return replace(ctx, facts=facts, migration=migration(risk="high"))

    def test_low_risk_needs_none(self, ctx: GateContext) -> None:
        assert Approvals().evaluate(ctx).answer is Answer.PASSED

    def test_high_risk_needs_one(self, ctx: GateContext) -> None:
        verdict = Approvals().evaluate(self.given(ctx))
        assert (verdict.answer, verdict.observed) == (Answer.REFUSED, "approved by nobody")
        assert "zdm approve widen cleanup" in verdict.remedy
        assert Approvals().evaluate(self.given(ctx, "bea")).answer is Answer.PASSED

    def test_ones_own_does_not_count(self, ctx: GateContext) -> None:
        assert Approvals().evaluate(self.given(ctx, "ana")).answer is Answer.REFUSED
        assert Approvals(by_others=False).evaluate(self.given(ctx, "ana")).answer is Answer.PASSED

    def test_two_of_one_person_are_one(self, ctx: GateContext) -> None:
        two = Approvals.model_validate(2)
        assert two.evaluate(self.given(ctx, "bea", "bea")).answer is Answer.REFUSED
        assert two.evaluate(self.given(ctx, "bea", "cem")).answer is Answer.PASSED

    def test_of_another_phase(self, ctx: GateContext) -> None:
        assert Approvals().evaluate(self.given(ctx, "bea", phase=Phase.SWITCHOVER)).answer is Answer.REFUSED

    def test_void_when_the_migration_changed(self, ctx: GateContext) -> None:
        verdict = Approvals().evaluate(self.given(ctx, "bea", checksum="c0"))
        assert verdict.answer is Answer.REFUSED
        assert verdict.observed == "approved by nobody; 1 approval void, because the migration changed since"
