"""split_column: one column becomes several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from zdm.errors import Problem
from zdm.model.sample import Scenario
from zdm.operations.base import Draft, Operation
from zdm.operations.params import (
    Name,
    NewColumnSpec,
    Sql,
    TableName,
    check_new_column,
    find_column,
    find_original,
    find_shape,
)
from zdm.operations.shape import DraftGroup, DraftNew, ShapeColumn, TableShape


def added(draft: Draft, shape: TableShape, spec: NewColumnSpec) -> tuple[DraftNew, ShapeColumn]:
    """The column that a split or merge makes, as preparation adds it and as the new version shows it."""
    new = DraftNew(
        physical=shape.physical_name(spec.name),
        final=spec.name,
        type=draft.type(spec.type),
        up=spec.up,
        default=spec.default,
        not_null=spec.not_null,
        collation=spec.collation,
    )
    return new, ShapeColumn(new.final, new.physical, new.type, new.not_null, new.default, fresh=True)


class SplitColumn(Operation):
    """Split a column into several. `down` puts the old one together again."""

    kind: ClassVar[str] = "split_column"
    summary: ClassVar[str] = "split one column into several"

    table: TableName = Field(description="the table")
    column: Name = Field(description="the column to split")
    into: tuple[NewColumnSpec, ...] = Field(min_length=1, description="the columns it becomes")
    down: Sql | None = Field(default=None, description="the old value, over the new version's columns")
    lossy: bool = Field(default=False, description="accept that down(up(x)) is not x for some rows")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE people (id serial PRIMARY KEY, name text NOT NULL, age int);"
            " INSERT INTO people (name, age) SELECT 'First' || g || ' Last' || g, g FROM generate_series(1, 300) g;",
            operations=(
                {
                    "split_column": {
                        "table": "people",
                        "column": "name",
                        "into": [
                            {
                                "name": "first_name",
                                "type": "text",
                                "up": "split_part(name, ' ', 1)",
                                "not_null": True,
                            },
                            {
                                "name": "last_name",
                                "type": "text",
                                "up": "CASE WHEN strpos(name, ' ') > 0 THEN substr(name, strpos(name, ' ') + 1) END",
                            },
                        ],
                        "down": "concat_ws(' ', first_name, last_name)",
                    }
                },
            ),
            old_writes=(
                "INSERT INTO people (name, age) VALUES ('Old Person {n}', {n})",
                "UPDATE people SET name = 'Changed Name{n}' WHERE id = {n} % 300 + 1",
                "UPDATE people SET age = age + 1 WHERE id = {n} % 300 + 1",
            ),
            new_writes=(
                "INSERT INTO people (first_name, last_name) VALUES ('New', 'Person {n}')",
                "UPDATE people SET last_name = 'L{n}' WHERE id = {n} % 300 + 1 AND first_name IS NOT NULL",
            ),
            old_reads=("SELECT id, name, age FROM people LIMIT 5",),
            new_reads=("SELECT id, first_name, last_name, age FROM people LIMIT 5",),
            agree="SELECT bool_and(first_name IS NOT NULL) FROM people",
            after="SELECT bool_and(first_name IS NOT NULL) FROM people",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def types(self) -> Sequence[str]:
        return tuple(spec.type for spec in self.into)

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        column = find_column(shape, self.column, problems) if shape else None
        if shape is None or column is None:
            return problems
        original = find_original(shape, column, problems)
        names = [spec.name for spec in self.into]
        problems.extend(
            Problem(f"column {name} is named more than once in `into`")
            for name in dict.fromkeys(names)
            if names.count(name) > 1
        )
        for name in dict.fromkeys(names):
            check_new_column(shape, name, problems, instead_of=(self.column,))
        if original is None or problems:
            return problems
        if self.down is None:
            if not self.lossy:
                problems.append(
                    Problem(
                        f"nothing says how column {self.column} is put together again",
                        remedy="Give `down`, or declare `lossy: true` and let the old version see its default.",
                        rule="missing-down",
                    )
                )
            elif original.not_null and original.default is None:
                problems.append(
                    Problem(
                        f"column {self.column} is NOT NULL without a default: rows that the new version inserts have no value for it",
                        remedy="Give `down`.",
                        rule="missing-down",
                    )
                )
        if problems:
            return problems
        group = DraftGroup(
            name=self.column, operation=label, old={column.physical: self.down}, lossy=self.lossy
        )
        shape.groups.append(group)
        at = shape.columns.index(column)
        shape.columns.remove(column)
        for offset, spec in enumerate(self.into):
            new, shown = added(draft, shape, spec)
            group.new.append(new)
            shape.columns.insert(at + offset, shown)
        return []
