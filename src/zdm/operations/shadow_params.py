"""What a migration file says to shadow_table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from zdm.model.names import QualifiedName, Value, fit, qualified
from zdm.model.row_mapping import WithoutOldForm
from zdm.operations.base import Draft, Operation
from zdm.operations.create_table import Check, UniqueKey
from zdm.operations.params import Dotted, Name, Sql, TableName
from zdm.operations.partitioning import PartitionBy, PartitionSpec, partitions_of


class ColumnChange(Value):
    """A column of the new table that is not as it was, or that was not there."""

    column: Name = Field(description="its name")
    type: Sql | None = Field(default=None, description="its type; required for a column that is added")
    up: Sql | None = Field(
        default=None,
        description="its value, over the old table's columns; a cast of the column of that name if not given",
    )
    down: Sql | None = Field(
        default=None,
        description="the old column's value, over the new table's columns; a cast back if not given",
    )
    not_null: bool | None = Field(default=None, description="whether it is NOT NULL; as it was if not given")
    default: Sql | None = Field(default=None, description="its default; as it was if not given")
    collation: Dotted | None = Field(default=None, description="its collation; as it was if not given")


class Exclusion(Value):
    """An exclusion constraint of the new table."""

    name: Name = Field(description="its name")
    exclude: Sql = Field(
        description="what stands behind EXCLUDE, such as USING gist (room WITH =, during WITH &&)"
    )


class ShadowParams(Operation):
    """The parameters, and what can be told by them alone."""

    table: TableName = Field(description="the table that is replaced")
    primary_key: tuple[Name, ...] = Field(
        default=(),
        description="the new table's primary key; as it was, and with the columns of `partition_by`, if not given",
    )
    partition_by: PartitionBy | None = Field(default=None, description="partition the new table")
    partitions: tuple[PartitionSpec, ...] = Field(default=(), description="its partitions")
    columns: tuple[ColumnChange, ...] = Field(default=(), description="columns that change, or are added")
    drop: tuple[Name, ...] = Field(default=(), description="columns that the new table has not")
    down: dict[Name, Sql] = Field(
        default_factory=dict,
        description="values of dropped columns for rows of the new version, over its columns",
    )
    order: tuple[Name, ...] = Field(default=(), description="the columns that come first, in this order")
    unique: tuple[UniqueKey, ...] = Field(default=(), description="further unique constraints")
    checks: tuple[Check, ...] = Field(default=(), description="further check constraints")
    exclusion: tuple[Exclusion, ...] = Field(default=(), description="further exclusion constraints")
    without: tuple[Name, ...] = Field(
        default=(), description="indexes and constraints of the old table that the new one has not"
    )
    storage: dict[Name, Sql] = Field(
        default_factory=dict,
        description="storage parameters, such as fillfactor; the others are as they were",
    )
    using: Name | None = Field(default=None, description="its table access method")
    tablespace: Name | None = Field(default=None, description="its tablespace")
    without_old_form: WithoutOldForm = Field(
        default=WithoutOldForm.REFUSE,
        description="a row of the new table that the old one has no form for: refuse to write it, or record it, so that a rollback keeps it",
    )
    lossy: bool = Field(default=False, description="accept that down(up(x)) is not x for some rows")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.partitions and self.partition_by is None:
            raise ValueError("`partitions` needs `partition_by`")
        return self

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def types(self) -> Sequence[str]:
        return tuple(c.type for c in self.columns if c.type is not None)

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        try:
            name = draft.name(self.table)
        except ValueError:
            return ()
        found = [qualified(schema_of(draft), name.name)]
        if self.partition_by is not None:
            found += [p.name for p in partitions_of(name, self.partition_by, self.partitions, [])]
        return found


def schema_of(draft: Draft) -> str:
    """Where the new tables of a migration are until cleanup: under their final names, as are their indexes."""
    return fit(f"zdm_{draft.target}_{draft.migration}")
