"""add_check: a condition that every row of the new version meets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from psycopg import sql
from pydantic import Field

from zdm.errors import Problem
from zdm.model.promise import Demand, Promise
from zdm.model.requests import ExpressionRequest
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Stage, Step
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import Name, Sql, TableName, check_free, find_shape
from zdm.operations.shape import TableShape


class AddCheck(Operation):
    """Add a CHECK constraint over the new version's columns. Switchover adds and proves it."""

    kind: ClassVar[str] = "add_check"
    summary: ClassVar[str] = "add a CHECK constraint without a scan under lock"

    table: TableName = Field(description="the table")
    name: Name = Field(description="the constraint's name")
    check: Sql = Field(description="the condition, over the new version's columns")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE stock (id serial PRIMARY KEY, amount int NOT NULL);"
            " INSERT INTO stock (amount) SELECT g FROM generate_series(1, 300) g;",
            operations=(
                {
                    "add_check": {
                        "table": "stock",
                        "name": "stock_amount_not_negative",
                        "check": "amount >= 0",
                    }
                },
            ),
            old_writes=("INSERT INTO stock (amount) VALUES ({n})",),
            new_writes=(
                "INSERT INTO stock (amount) VALUES ({n})",
                "UPDATE stock SET amount = {n} WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, amount FROM stock LIMIT 5",),
            new_reads=("SELECT id, amount FROM stock LIMIT 5",),
            after="SELECT convalidated FROM pg_constraint WHERE conrelid = 'stock'::regclass"
            " AND conname = 'stock_amount_not_negative'",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        if shape is None:
            return problems
        check_free(draft, shape, self.name, "check", problems, shape.name.schema_)
        draft.requests.append(
            ExpressionRequest(
                key=f"{label}/check", table=shape.name, text=self.check, boolean=True, where=label
            )
        )
        draft.memo[label] = shape
        return problems

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        if phase is not Phase.SWITCHOVER:
            return []
        shape: TableShape = context.draft.memo[context.label]
        condition = context.expressions[f"{context.label}/check"].render(sql.Identifier)
        return ddl.checked_constraint(
            step_id=f"switchover.{shape.name}.add_check.{self.name}",
            phase=phase,
            stage=Stage.CONSTRAINTS,
            operation=context.label,
            on=shape.name,
            name=self.name,
            body=sql.SQL("CHECK {}").format(condition),
            naive="add-check-scan",
        )

    def promises(self, context: Context) -> list[Promise]:
        shape: TableShape = context.draft.memo[context.label]
        condition = context.expressions[f"{context.label}/check"]
        return [
            Promise(
                demand=Demand.CHECK,
                name=self.name,
                table=shape.name,
                operation=context.label,
                condition=condition.render(sql.Identifier).as_string(None),
                reads=condition.columns,
            )
        ]
