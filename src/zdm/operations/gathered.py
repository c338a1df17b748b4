"""collapse: what a column holds that rows say together, and what becomes of what the new version writes to it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pydantic import Field, model_validator

from zdm.errors import Problem
from zdm.model.names import Value
from zdm.model.table import Column, Table
from zdm.operations.params import Name, Sql, find_column
from zdm.operations.shape import TableShape
from zdm.operations.target import required


class Gathered(Value):
    """A column to make, and what it holds."""

    column: Name = Field(description="its name")
    type: Sql | None = Field(
        default=None, description="its type; with `latest` that of the column, if not given"
    )
    up: Sql | None = Field(
        default=None,
        description="its value: an aggregate over the columns of `table` and, where that has none of the name, the row's own",
    )
    latest: Name | None = Field(
        default=None, description="instead of `up`: a column of `table`, of the row that comes last by `by`"
    )
    by: tuple[Name, ...] = Field(default=(), description="the columns of `table` that say which comes last")
    empty: Sql | None = Field(
        default=None,
        description="with `elements`: what it holds where there are no rows, and its default; NULL, if not given",
    )
    not_null: bool = Field(default=False, description="with `elements`: whether it is NOT NULL")
    comment: str | None = Field(default=None, description="its comment")

    @model_validator(mode="after")
    def _one_of_them(self) -> Gathered:
        if self.up is not None and self.latest is not None:
            raise ValueError(f"column {self.column}: either `up` or `latest` says what it holds")
        if (self.latest is None) == bool(self.by):
            raise ValueError(f"column {self.column}: `latest` goes with `by`")
        if self.up is not None and self.type is None:
            raise ValueError(f"column {self.column}: `up` needs a `type`")
        return self


class WriteBack(Value):
    """What becomes of what the new version writes to columns with `latest`: a row of `table`, which comes last."""

    insert: dict[Name, Sql] = Field(
        min_length=1,
        description="the row's columns besides the key, each an expression over the new version's row; it may be another value each time",
    )


def check_back(
    shape: TableShape,
    key: Collection[str],
    columns: Sequence[Gathered],
    back: WriteBack,
    problems: list[Problem],
) -> None:
    """Append what stands in the way of a row of the table for each write of the new version."""
    given = back.insert
    if not any(c.latest for c in columns):
        problems.append(
            Problem(
                "`write_back` is for columns with `latest`: what an aggregate of several rows becomes, no single row says",
                remedy="Use `latest`, or `one_way: true`.",
            )
        )
    for name in given:
        column = find_column(shape, name, problems)
        if name in key or (column is not None and _computed(shape.table, name)):
            problems.append(
                Problem(
                    f"column {name} of {shape.name} is given by the key, or computed by the server, so `insert` cannot say it",
                    remedy="Leave it out.",
                )
            )
    problems += [
        Problem(
            f"column {c.name} of {shape.name} is NOT NULL without a default, and `insert` does not give it a value",
            remedy="Name it in `insert`.",
            rule="missing-down",
        )
        for c in shape.table.columns
        if required(c) and c.name not in given and c.name not in key
    ]
    problems += [
        Problem(
            f"column {c.name} of {shape.name} says which row is the latest, or what it says, and `insert` does not give it a value",
            remedy="Name it in `insert`; a time that orders rows is clock_timestamp(), since now() is when the transaction began.",
            rule="missing-down",
        )
        for c in shape.table.columns
        if not required(c)
        and c.name not in given
        and c.name not in key
        and any(c.name == g.latest or (c.name in g.by and _lacks(c)) for g in columns)
    ]


def _lacks(column: Column) -> bool:
    """Whether a new row has no value of its own for the column."""
    return column.default is None and not column.identity and not column.generated


def _computed(table: Table, name: str) -> bool:
    column = table.column(name)
    return column is not None and (bool(column.generated) or column.identity == "always")
