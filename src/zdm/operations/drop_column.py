"""drop_column: a column that the new version does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from zdm.errors import Problem
from zdm.model.sample import Scenario
from zdm.operations.base import Draft, Operation
from zdm.operations.params import Name, Sql, TableName, find_column, find_original, find_shape
from zdm.operations.shape import DraftGroup


class DropColumn(Operation):
    """Drop a column. Until cleanup the old version keeps it; `down` fills it for rows that the new version inserts."""

    kind: ClassVar[str] = "drop_column"
    summary: ClassVar[str] = "drop a column; the old version keeps it until cleanup"

    table: TableName = Field(description="the table")
    column: Name = Field(description="the column to drop")
    down: Sql | None = Field(
        default=None,
        description="its value for rows that the new version inserts, over the new version's columns; its default or NULL if not given",
    )

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE items (id serial PRIMARY KEY, name text NOT NULL, slug text NOT NULL, legacy int);"
            " INSERT INTO items (name, slug, legacy) SELECT 'Item ' || g, 'item-' || g, g FROM generate_series(1, 300) g;",
            operations=(
                {
                    "drop_column": {
                        "table": "items",
                        "column": "slug",
                        "down": "lower(replace(name, ' ', '-'))",
                    }
                },
                {"drop_column": {"table": "items", "column": "legacy"}},
            ),
            old_writes=(
                "INSERT INTO items (name, slug, legacy) VALUES ('Old {n}', 'old-{n}', {n})",
                "UPDATE items SET slug = 'changed-{n}' WHERE id = {n} % 300 + 1",
            ),
            new_writes=(
                "INSERT INTO items (name) VALUES ('New {n}')",
                "UPDATE items SET name = 'N {n}' WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, name, slug, legacy FROM items LIMIT 5",),
            new_reads=("SELECT id, name FROM items LIMIT 5",),
            after="SELECT count(*) = 0 FROM information_schema.columns WHERE table_schema = current_schema()"
            " AND table_name = 'items' AND column_name IN ('slug', 'legacy')",
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
        original = find_original(shape, column, problems)
        if original is None:
            return problems
        supplied = original.default is not None or bool(original.identity) or bool(original.generated)
        if self.down is None and original.not_null and not supplied:
            problems.append(
                Problem(
                    f"column {self.column} is NOT NULL without a default: rows that the new version inserts have no value for it",
                    remedy="Give `down`, an expression over the new version's columns.",
                    rule="missing-down",
                )
            )
        if len(shape.columns) == 1:
            problems.append(
                Problem(f"{self.column} is the last column of {shape.name}", remedy="Use drop_table.")
            )
        if problems:
            return problems
        shape.columns.remove(column)
        if self.down is None:
            shape.removed.append(column.physical)
        else:
            shape.groups.append(
                DraftGroup(name=self.column, operation=label, old={column.physical: self.down})
            )
        return []
