"""rename_column: the same values under another name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from zdm.errors import Problem
from zdm.model.mapping import Expose
from zdm.model.sample import Scenario
from zdm.operations import ddl
from zdm.operations.base import Draft, Operation
from zdm.operations.params import Name, TableName, check_new_column, find_column, find_original, find_shape
from zdm.operations.shape import ShapeColumn, TableShape
from zdm.operations.succession import cast_back, succeed


class RenameColumn(Operation):
    """Rename a column. The new version sees it under its new name at once; cleanup renames it on the table."""

    kind: ClassVar[str] = "rename_column"
    summary: ClassVar[str] = "rename a column without moving data"

    table: TableName = Field(description="the table")
    column: Name = Field(description="the column's present name")
    to: Name = Field(description="its name in the new version")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE payments (id serial PRIMARY KEY, type text NOT NULL, reference text UNIQUE);"
            " INSERT INTO payments (type, reference) SELECT 'card', 'r' || g FROM generate_series(1, 300) g;",
            operations=(
                {"rename_column": {"table": "payments", "column": "type", "to": "name"}},
                {"rename_column": {"table": "payments", "column": "reference", "to": "psp_reference"}},
            ),
            old_writes=(
                "INSERT INTO payments (type, reference) VALUES ('old', 'old{n}')",
                "UPDATE payments SET type = 'o{n}' WHERE id = {n} % 300 + 1",
            ),
            new_writes=(
                "INSERT INTO payments (name, psp_reference) VALUES ('new', 'new{n}') ON CONFLICT (psp_reference) DO NOTHING",
                "UPDATE payments SET name = 'n{n}' WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, type, reference FROM payments LIMIT 5",),
            new_reads=("SELECT id, name, psp_reference FROM payments LIMIT 5",),
            after="SELECT count(*) = 2 FROM information_schema.columns WHERE table_schema = current_schema()"
            " AND table_name = 'payments' AND column_name IN ('name', 'psp_reference')",
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
        if self.to == self.column:
            return [Problem(f"column {self.column} already has that name")]
        check_new_column(shape, self.to, problems)
        if problems:
            return problems
        if column.fresh:
            return self._rename_fresh(shape, column)
        if shape.expose is Expose.COLUMNS:
            original = find_original(shape, column, problems)
            if original is not None:
                new = succeed(shape, column, original, label=label, final=self.to, problems=problems)
                new.up = ddl.ident(column.physical).as_string(None)
                cast_back(shape, column.physical, new, None)
            return problems
        column.name = self.to
        return []

    def _rename_fresh(self, shape: TableShape, column: ShapeColumn) -> list[Problem]:
        new, group = shape.draft(column.physical), shape.group_of(column.physical)
        if new is None:
            return [Problem(f"column {column.name} of {shape.name} cannot be renamed here")]
        if group is not None and any(
            down is not None and old not in group.casts for old, down in group.old.items()
        ):
            return [
                Problem(
                    f"column {column.name} is new in this migration, and a `down` names it",
                    remedy=f"Put this operation before {group.operation.partition(':')[2]}, whose `down` then names {self.to}."
                    if new.replaces is not None
                    else "Give it its name in the operation that adds it.",
                )
            ]
        new.final = column.name = self.to
        for old in group.casts if group is not None else {}:
            cast_back(shape, old, new, group.casts[old][1] if group else None)
        return []
