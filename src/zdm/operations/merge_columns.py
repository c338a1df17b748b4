"""merge_columns: several columns become one."""

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
    find_columns,
    find_original,
    find_shape,
)
from zdm.operations.shape import DraftGroup, ShapeColumn, TableShape
from zdm.operations.split_column import added


class MergeColumns(Operation):
    """Merge several columns into one. `down` takes each of them out again."""

    kind: ClassVar[str] = "merge_columns"
    summary: ClassVar[str] = "merge several columns into one"

    table: TableName = Field(description="the table")
    columns: tuple[Name, ...] = Field(min_length=2, description="the columns to merge")
    into: NewColumnSpec = Field(description="the column they become")
    down: dict[Name, Sql] = Field(description="each old column's value, over the new version's columns")
    lossy: bool = Field(default=False, description="accept that down(up(x)) is not x for some rows")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE phones (id serial PRIMARY KEY, area text NOT NULL, number text NOT NULL);"
            " INSERT INTO phones (area, number) SELECT '0' || g % 90, lpad(g::text, 7, '0') FROM generate_series(1, 300) g;",
            operations=(
                {
                    "merge_columns": {
                        "table": "phones",
                        "columns": ["area", "number"],
                        "into": {
                            "name": "phone",
                            "type": "text",
                            "up": "area || '-' || number",
                            "not_null": True,
                        },
                        "down": {"area": "split_part(phone, '-', 1)", "number": "split_part(phone, '-', 2)"},
                    }
                },
            ),
            old_writes=(
                "INSERT INTO phones (area, number) VALUES ('030', '{n}')",
                "UPDATE phones SET number = '9{n}' WHERE id = {n} % 300 + 1",
            ),
            new_writes=(
                "INSERT INTO phones (phone) VALUES ('040-{n}')",
                "UPDATE phones SET phone = '050-{n}' WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, area, number FROM phones LIMIT 5",),
            new_reads=("SELECT id, phone FROM phones LIMIT 5",),
            agree="SELECT bool_and(phone IS NOT NULL) FROM phones",
            after="SELECT bool_and(phone LIKE '%-%') FROM phones",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def types(self) -> Sequence[str]:
        return (self.into.type,)

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        if shape is None:
            return problems
        columns = find_columns(shape, self.columns, problems)
        check_new_column(shape, self.into.name, problems, instead_of=self.columns)
        problems.extend(
            Problem(f"`down` names {name}, which is not one of the merged columns")
            for name in self.down
            if name not in self.columns
        )
        for column in columns:
            self._check(shape, column, problems)
        if problems:
            return problems
        group = DraftGroup(
            name=self.into.name,
            operation=label,
            old={column.physical: self.down.get(column.name) for column in columns},
            lossy=self.lossy,
        )
        shape.groups.append(group)
        at = min(shape.columns.index(column) for column in columns)
        for column in columns:
            shape.columns.remove(column)
        new, shown = added(draft, shape, self.into)
        group.new.append(new)
        shape.columns.insert(at, shown)
        return []

    def _check(self, shape: TableShape, column: ShapeColumn, problems: list[Problem]) -> None:
        original = find_original(shape, column, problems)
        if original is None or column.name in self.down:
            return
        if not self.lossy:
            problems.append(
                Problem(
                    f"nothing says how column {column.name} is taken out of {self.into.name} again",
                    remedy=f"Give `down` for {column.name}, or declare `lossy: true` and let the old version see its default.",
                    rule="missing-down",
                )
            )
        elif original.not_null and original.default is None:
            problems.append(
                Problem(
                    f"column {column.name} is NOT NULL without a default: rows that the new version inserts have no value for it",
                    remedy=f"Give `down` for {column.name}.",
                    rule="missing-down",
                )
            )
