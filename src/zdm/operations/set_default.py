"""set_default: another default for the new version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from zdm.errors import Problem
from zdm.model.requests import ExpressionRequest
from zdm.model.sample import Scenario
from zdm.operations.base import Draft, Operation
from zdm.operations.params import Name, Sql, TableName, find_column, find_shape


class SetDefault(Operation):
    """Change or drop a column's default. The version views keep the two apart; cleanup puts it on the table."""

    kind: ClassVar[str] = "set_default"
    summary: ClassVar[str] = "change or drop a column's default for new rows"

    table: TableName = Field(description="the table")
    column: Name = Field(description="the column")
    default: Sql | None = Field(description="the new version's default; null for none")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE labels (id serial PRIMARY KEY, name text NOT NULL, color text NOT NULL DEFAULT 'red');"
            " INSERT INTO labels (name) SELECT 'l' || g FROM generate_series(1, 300) g;",
            operations=({"set_default": {"table": "labels", "column": "color", "default": "'grey'"}},),
            old_writes=("INSERT INTO labels (name) VALUES ('old {n}')",),
            new_writes=("INSERT INTO labels (name) VALUES ('new {n}')",),
            old_reads=("SELECT id, color FROM labels LIMIT 5",),
            new_reads=("SELECT id, color FROM labels LIMIT 5",),
            after="SELECT column_default LIKE '%grey%' FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND table_name = 'labels' AND column_name = 'color'",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        column = find_column(shape, self.column, problems) if shape else None
        if shape is None or column is None:
            return problems
        original = shape.original(column.physical)
        if not column.fresh and original is not None and (original.identity or original.generated):
            kind = "an identity column" if original.identity else "a generated column"
            return [Problem(f"column {self.column} of {shape.name} is {kind}; it has no default to change")]
        if column.fresh:
            new = shape.draft(column.physical)
            if new is None or new.replaces is None:
                return [
                    Problem(
                        f"column {self.column} of {shape.name} is new in this migration",
                        remedy="Give `default` in the operation that adds it.",
                    )
                ]
            new.default, new.inherits = self.default, False
        else:
            column.default_changed = True
        column.default = self.default
        if self.default is not None:
            draft.requests.append(
                ExpressionRequest(
                    key=f"{label}/default",
                    table=shape.name,
                    text=self.default,
                    assign_to=column.type,
                    constant=True,
                    volatile=True,
                    where=label,
                )
            )
        return []
