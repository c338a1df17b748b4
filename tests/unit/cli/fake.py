"""An engine that answers from a script, and values to answer with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from zdm.engine.estimates import estimate_plan
from zdm.engine.results import (
    AdvanceResult,
    Approval,
    BackfillResult,
    Check,
    FailureCount,
    FenceResult,
    Health,
    HistoryEntry,
    InitResult,
    LeaseInfo,
    Outcome,
    PauseResult,
    PreviewStep,
    Reconciled,
    ReconcileResult,
    RollbackResult,
    RolloutStatus,
    StepOutcome,
    StepRun,
    TableBackfill,
    TableProgress,
    TableVerification,
    VerifyResult,
)
from zdm.model.estimate import TableRates
from zdm.model.expression import ColumnRef, Expression
from zdm.model.mapping import ColumnGroup, Comparison, NewColumn, OldColumn, TableMapping, ViewColumn
from zdm.model.names import qualified
from zdm.model.phases import State
from zdm.model.plan import Finding, Plan, Roundtrip, Severity, TableFacts
from zdm.model.step import Backfill, Lock, Phase, Stage, Step, Sync, TableLock, Transaction, Verify
from zdm.model.verdict import Answer, Verdict

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ACCOUNTS = qualified("public", "accounts")

MIGRATION = """\
id: widen_balance
description: balances need more than an int
operations:
  - change_type:
      table: accounts
      column: balance
      to: numeric(18,2)
      up: balance::numeric(18,2)
      down: round(balance)::int
validations:
  - {name: no negative limit, sql: "SELECT count(*) FROM accounts WHERE balance < 0", expect: 0}
gates: {replication_lag: 5s, soak: off}
"""

PASSED = Verdict(
    gate="drift", answer=Answer.PASSED, observed="nothing was changed", threshold="as zdm left it"
)
REFUSED = Verdict(
    gate="replication_lag",
    answer=Answer.REFUSED,
    observed="42 s behind on replica_a",
    threshold="at most 5 s",
    remedy="Wait until replica_a has caught up, or find out what holds it back.",
)
UNREADABLE = Verdict(
    gate="sync_failures",
    answer=Answer.UNREADABLE,
    observed="could not be read: permission denied",
    threshold="must be readable",
    remedy="Mend what it names and try again. What cannot be read refuses.",
)
SKIPPED = Verdict(
    gate="soak", answer=Answer.SKIPPED, observed="not asked", threshold="switched off in the migration file"
)


def plan() -> Plan:
    """A small plan with a step of every kind."""
    old, new = "balance", "_zdm_balance"
    up = Expression(
        source="balance::numeric(18,2)", parts=(ColumnRef(column=old), "::numeric(18,2)"), type="numeric"
    )
    down = Expression(
        source="round(balance)::int", parts=("round(", ColumnRef(column=new), ")::int"), type="integer"
    )
    group = ColumnGroup(
        name="balance",
        number=0,
        old=(OldColumn(name=old, type="integer", comparison=Comparison.NATIVE, down=down),),
        new=(NewColumn(name=new, final=old, type="numeric(18,2)", comparison=Comparison.NATIVE, up=up),),
    )
    mapping = TableMapping(
        table=ACCOUNTS,
        final_name="accounts",
        oid=1,
        key=("id",),
        groups=(group,),
        old_columns=(ViewColumn(physical=old, name=old),),
        new_columns=(ViewColumn(physical=new, name=old),),
    )
    lock = TableLock(table=ACCOUNTS, mode=Lock.ACCESS_EXCLUSIVE)
    made = Plan(
        migration="widen_balance",
        target="public",
        server_version=180006,
        old_schema="public_before_widen_balance",
        new_schema="public_widen_balance",
        mappings=(mapping,),
        steps=(
            Step(
                id="preparation.accounts.columns",
                title="add the new columns beside the old ones",
                phase=Phase.PREPARATION,
                stage=Stage.STRUCTURE,
                action=Transaction(
                    statements=("ALTER TABLE public.accounts ADD COLUMN _zdm_balance numeric(18,2)",),
                    locks=(lock,),
                ),
                undo=(
                    Transaction(
                        statements=("ALTER TABLE public.accounts DROP COLUMN IF EXISTS _zdm_balance",)
                    ),
                ),
                naive="add-column-with-default",
            ),
            Step(
                id="preparation.accounts.sync",
                title="keep both sides of accounts in step",
                phase=Phase.PREPARATION,
                stage=Stage.SYNC,
                action=Sync(table=ACCOUNTS),
                undo=(Sync(table=ACCOUNTS, remove=True),),
            ),
            Step(
                id="migration.accounts.backfill",
                title="fill the new columns of accounts",
                phase=Phase.MIGRATION,
                stage=Stage.BACKFILL,
                action=Backfill(table=ACCOUNTS),
            ),
            Step(
                id="migration.accounts.verify",
                title="compare every row of accounts",
                phase=Phase.MIGRATION,
                stage=Stage.VERIFY,
                action=Verify(table=ACCOUNTS),
            ),
            Step(
                id="cleanup.accounts.swap",
                title="put the new columns in the place of the old",
                phase=Phase.CLEANUP,
                stage=Stage.CONTRACT,
                action=Transaction(
                    statements=("ALTER TABLE public.accounts DROP COLUMN balance",), locks=(lock,)
                ),
            ),
        ),
        findings=(
            Finding(severity=Severity.WARNING, text="the view report reads balance", where="1:change_type"),
            Finding(severity=Severity.NOTE, text="2 indexes are built on the new column"),
        ),
        facts=(TableFacts(table=ACCOUNTS, rows=1_200_000, bytes=98_765_432),),
        roundtrips=(Roundtrip(table=ACCOUNTS, group="balance", rows=10_000, lost=0, failed=0),),
    )
    rates = TableRates(
        table=ACCOUNTS,
        rows=1_200_000,
        bytes=98_765_432,
        index_bytes=26_000_000,
        indexes=1,
        scan_bytes_per_second=400e6,
        fill_rows_per_second=200e3,
        sample=10_000,
    )
    return made.model_copy(update={"estimates": estimate_plan(None, made, measured=[rates])})


def verification(**values: Any) -> TableVerification:
    """The verification of one table, clean unless told otherwise."""
    return TableVerification(table=ACCOUNTS, rows=1_200_000, seconds=1.5, at=AT, **values)


def advanced(**values: Any) -> AdvanceResult:
    """A finished preparation, unless told otherwise."""
    defaults: dict[str, Any] = {
        "rollout": "widen_balance",
        "target": "public",
        "phase": Phase.PREPARATION,
        "before": State.PLANNED,
        "state": State.PREPARED,
        "verdicts": (PASSED, SKIPPED),
        "steps": (
            StepRun(
                id="preparation.accounts.columns",
                title="add the new columns beside the old ones",
                phase=Phase.PREPARATION,
                outcome=StepOutcome.DONE,
                seconds=0.03,
            ),
        ),
        "seconds": 0.25,
        "next_phase": Phase.MIGRATION,
        "old_schema": "public_before_widen_balance",
        "new_schema": "public_widen_balance",
    }
    return AdvanceResult(**{**defaults, **values})


def refused(**values: Any) -> AdvanceResult:
    """A switchover that gates refused."""
    return advanced(
        phase=Phase.SWITCHOVER,
        before=State.MIGRATED,
        state=State.MIGRATED,
        outcome=Outcome.REFUSED,
        verdicts=(PASSED, REFUSED, UNREADABLE, SKIPPED),
        steps=(),
        next_phase=Phase.SWITCHOVER,
        **values,
    )


def rollout(**values: Any) -> RolloutStatus:
    """A rollout in the middle of its migration phase."""
    defaults: dict[str, Any] = {
        "rollout": "widen_balance",
        "target": "public",
        "state": State.MIGRATING,
        "description": "balances need more than an int",
        "phase": Phase.MIGRATION,
        "next_phase": Phase.MIGRATION,
        "can_return": True,
        "paused": True,
        "old_schema": "public_before_widen_balance",
        "new_schema": "public_widen_balance",
        "risk": "medium",
        "registered_at": AT,
        "state_since": AT,
        "verdicts": (PASSED, REFUSED),
        "steps": (
            StepRun(
                id="migration.accounts.backfill",
                title="fill the new columns of accounts",
                phase=Phase.MIGRATION,
                outcome=StepOutcome.RUNNING,
            ),
        ),
        "progress": (
            TableProgress(
                table=ACCOUNTS,
                done=4200,
                total=10_000,
                rows=504_000,
                rows_per_second=51_234.5,
                eta_seconds=13.6,
                throttled_by="replica_a is 12 s behind",
            ),
        ),
        "verification": (verification(unsettled=3),),
        "failures": (FailureCount(table=ACCOUNTS, rows=2, message="numeric field overflow"),),
        "approvals": (
            Approval(
                rollout="widen_balance",
                target="public",
                phase=Phase.SWITCHOVER,
                by="ada",
                at=AT,
                comment="looks good",
            ),
        ),
        "lease": LeaseInfo(holder="ci-7 (process 42)", since=AT, renewed=AT, expires=AT),
        "last_error": "",
    }
    return RolloutStatus(**{**defaults, **values})


ANSWERS: Mapping[str, Any] = {
    "registered": None,
    "init": InitResult(database="shop", role="migrator", server_version=180006, version="0001"),
    "plan": plan(),
    "advance": advanced(),
    "preview": [
        PreviewStep(
            id="preparation.accounts.columns",
            title="add the new columns beside the old ones",
            phase=Phase.PREPARATION,
            kind="transaction",
            statements=("ALTER TABLE public.accounts ADD COLUMN _zdm_balance numeric(18,2)",),
            locks=(TableLock(table=ACCOUNTS, mode=Lock.ACCESS_EXCLUSIVE),),
            seconds=0.02,
            done=True,
        ),
        PreviewStep(
            id="preparation.types",
            title="create the types",
            phase=Phase.PREPARATION,
            kind="transaction",
            statements=("CREATE TYPE public.a AS ENUM ('x')", "COMMENT ON TYPE public.a IS 'y';"),
            rows=1_200_000,
            bytes=98_765_432,
        ),
    ],
    "preview_rollback": [
        PreviewStep(
            id="preparation.accounts.sync",
            title="install the sync triggers of public.accounts, the old side being the authority",
            phase=Phase.PREPARATION,
            kind="undo",
            locks=(TableLock(table=ACCOUNTS, mode=Lock.ACCESS_EXCLUSIVE),),
            undo=(
                'DROP TRIGGER IF EXISTS "~zdm_1_insert" ON public.accounts',
                "ALTER TABLE IF EXISTS public.accounts DROP COLUMN IF EXISTS _zdm_balance",
            ),
        ),
        PreviewStep(
            id="migration.accounts.verify", title="compare every row", phase=Phase.MIGRATION, kind="undo"
        ),
    ],
    "rollback": RollbackResult(
        rollout="widen_balance",
        target="public",
        before=State.SWITCHED_OVER,
        state=State.ROLLED_BACK,
        steps=(
            StepRun(id="a", title="a", phase=Phase.PREPARATION, outcome=StepOutcome.UNDONE),
            StepRun(id="b", title="b", phase=Phase.PREPARATION, outcome=StepOutcome.UNDONE),
        ),
        verification=VerifyResult(
            rollout="widen_balance", target="public", tables=(verification(),), seconds=1.5
        ),
        seconds=0.4,
    ),
    "status": [rollout()],
    "verify": VerifyResult(rollout="widen_balance", target="public", tables=(verification(),), seconds=1.5),
    "reconcile": ReconcileResult(
        rollouts=(
            Reconciled(
                rollout="widen_balance",
                target="public",
                keys=1200,
                waiting=3,
                lag_seconds=0.4,
                without_form=1,
                conflicts=2,
            ),
        ),
        seconds=1.5,
    ),
    "backfill": BackfillResult(
        rollout="widen_balance",
        target="public",
        tables=(
            TableBackfill(
                table=ACCOUNTS, rows=1_200_000, total=1_200_000, chunks=120, failed=2, seconds=24.0
            ),
        ),
        seconds=24.0,
    ),
    "pause": PauseResult(rollout="widen_balance", target="public", paused=True),
    "resume": PauseResult(rollout="widen_balance", target="public", paused=False),
    "approve": Approval(rollout="widen_balance", target="public", phase=Phase.SWITCHOVER, by="ada", at=AT),
    "fence": FenceResult(rollout="widen_balance", target="public", fenced=True),
    "history": [
        HistoryEntry(
            at=AT,
            event="state",
            text="",
            before=State.PLANNED,
            state=State.PREPARING,
            by="ci-7",
            phase=Phase.PREPARATION,
        ),
        HistoryEntry(at=AT, event="approval", text="switchover approved", by="ada"),
    ],
    "doctor": [
        Check(name="server version", health=Health.OK, found="PostgreSQL 18.6"),
        Check(
            name="pg_stat_statements",
            health=Health.WARNING,
            found="not installed",
            needed="1.8 or newer",
            remedy="Install it, so that the gate old_version_unused can see who uses the old version.",
        ),
    ],
}


class FakeEngine:
    """Answers every method of the facade, remembers how it was called, and raises what it is told to.

    A function among the answers is called with the engine and the arguments.
    """

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers: dict[str, Any] = {**ANSWERS, **answers}
        self.reporter: Any = None
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or name not in self.answers:
            raise AttributeError(name)

        def method(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            answer = self.answers[name]
            if isinstance(answer, BaseException):
                raise answer
            return answer(self, *args, **kwargs) if callable(answer) else answer

        return method
