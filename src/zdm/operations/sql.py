"""sql: statements of one's own, each looked at for the locks it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, field_validator

from zdm.errors import Problem
from zdm.model.plan import Finding as PlanFinding
from zdm.model.plan import Severity
from zdm.model.sample import Scenario
from zdm.model.step import Lock, Phase, Stage, Step, TableLock, Transaction
from zdm.operations import ddl, lint
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import Name

_NEVER = frozenset(
    {
        "transaction-control",
        "session-setting",
        "not-in-transaction",
        "vacuum-full",
        "create-index-concurrently-in-sql",
        "copy",
    }
)
"""Rules that `safe: true` does not lift: such statements cannot run as a step at all."""


class Sql(Operation):
    """Run your own statements: `expand` in preparation, `contract` at cleanup, `undo` when the rollout is rolled back."""

    kind: ClassVar[str] = "sql"
    summary: ClassVar[str] = "run your own statements, checked for their locks"

    name: Name = Field(description="what the steps are called; letters, digits and underscores serve best")
    expand: tuple[str, ...] = Field(
        default=(), description="statements of preparation, one each; additive ones only"
    )
    contract: tuple[str, ...] = Field(default=(), description="statements of cleanup, one each")
    undo: tuple[str, ...] = Field(
        default=(), description="statements that take `expand` back, whether or not it ran: with IF EXISTS"
    )
    safe: bool = Field(default=False, description="run statements that the check refuses; needs a `reason`")
    reason: str = Field(default="", description="why they are safe here, for the reviewers")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE prices (id serial PRIMARY KEY, net int NOT NULL);"
            " INSERT INTO prices (net) SELECT g FROM generate_series(1, 300) g;"
            " CREATE FUNCTION old_tax(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 5';",
            operations=(
                {
                    "sql": {
                        "name": "tax",
                        "expand": [
                            "CREATE FUNCTION gross(net int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT net * 12 / 10 $$"
                        ],
                        "undo": ["DROP FUNCTION IF EXISTS gross(int)"],
                        "contract": ["DROP FUNCTION IF EXISTS old_tax(int)"],
                    }
                },
            ),
            old_writes=("INSERT INTO prices (net) VALUES (old_tax({n}))",),
            new_writes=("INSERT INTO prices (net) VALUES (gross({n}))",),
            old_reads=("SELECT old_tax(net) FROM prices LIMIT 5",),
            new_reads=("SELECT gross(net) FROM prices LIMIT 5",),
            after="SELECT to_regprocedure('old_tax(int)') IS NULL AND to_regprocedure('gross(int)') IS NOT NULL",
        ),
    )

    @field_validator("expand", "contract", "undo", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def tables(self) -> Sequence[str]:
        return ()

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        if not self.expand and not self.contract:
            problems.append(Problem("there is nothing to run", remedy="Give `expand` or `contract`."))
        if self.safe and not self.reason.strip():
            problems.append(
                Problem("`safe: true` needs a `reason`", remedy="Say why, for the people who review it.")
            )
        if self.expand and not self.undo:
            problems.append(
                Problem(
                    "`expand` without `undo` leaves something behind when the rollout is rolled back",
                    remedy="Give `undo`, with IF EXISTS so that it works whether or not `expand` ran.",
                    rule="missing-undo",
                )
            )
        for part, statements in (("expand", self.expand), ("contract", self.contract), ("undo", self.undo)):
            for statement in statements:
                problems += self._judge(draft, part, statement, label)
        return problems

    def _judge(self, draft: Draft, part: str, statement: str, label: str) -> list[Problem]:
        try:
            found = lint.judge(statement)
        except ValueError as error:
            return [Problem(str(error))]
        words = statement.upper().split()
        problems = []
        if part == "undo" and words[:1] == ["DROP"] and "EXISTS" not in words:
            problems.append(
                Problem(f"undo {statement!r} fails if there is nothing to drop", remedy="Add IF EXISTS.")
            )
        # What undo and cleanup may remove is what the migration's own authors name.
        removes = found.rule.slug in {"drop-column", "drop-table"} and part != "expand"
        if found.safe or removes:
            return problems
        if self.safe and found.rule.slug not in _NEVER:
            draft.findings.append(
                PlanFinding(
                    severity=Severity.WARNING,
                    text=f"{statement!r}: {found.rule.refusal}; declared safe: {self.reason}",
                    where=label,
                    rule=found.rule.slug,
                )
            )
            return problems
        remedy = found.rule.recipe
        if found.rule.slug not in _NEVER:
            remedy += " If it is safe here, declare `safe: true` with a `reason`."
        problems.append(Problem(f"{statement!r}: {found.rule.refusal}", remedy=remedy, rule=found.rule.slug))
        return problems

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        if phase is Phase.PREPARATION:
            return self._steps(phase, Stage.TABLES, self.expand, context, "expand")
        if phase is Phase.CLEANUP:
            return self._steps(phase, Stage.FINISH, self.contract, context, "contract")
        return []

    def _steps(
        self, phase: Phase, stage: Stage, statements: Sequence[str], context: Context, part: str
    ) -> list[Step]:
        undo = tuple(self._action(context.draft, one) for one in self.undo) if part == "expand" else ()
        return [
            Step(
                id=f"{phase.value}.{self.name}.sql.{part}.{number}",
                title=f"run statement {number} of {self.name} ({part})",
                phase=phase,
                stage=stage,
                operation=context.label,
                action=self._action(context.draft, statement),
                undo=undo if number == 1 else (),
            )
            for number, statement in enumerate(statements, 1)
        ]

    def _action(self, draft: Draft, statement: str) -> Transaction:
        found = lint.judge(statement)
        return Transaction(
            statements=ddl.in_target(draft.target, found.statement),
            locks=_locks(draft, found),
        )


def _locks(draft: Draft, found: lint.Finding) -> tuple[TableLock, ...]:
    if found.rule.lock is Lock.NONE:
        return ()
    names = []
    for written in found.tables:
        try:
            names.append(draft.name(written))
        except ValueError:
            continue
    return tuple(TableLock(table=name, mode=found.rule.lock, hold=found.rule.hold) for name in names)
