"""The new version of a table while the operations of a migration are applied to it, one after the other.

A `TableShape` starts as the table is. Each operation edits it, in the order of the migration file, so several operations
on one table compose: the result is one set of new columns, one trigger, one backfill, one pair of views. Expressions are
still the user's text here; the engine has the server check them and turns the shape into a `TableMapping`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zdm.model.mapping import Conflict, Expose
from zdm.model.names import QualifiedName, fit
from zdm.model.table import Column, Table


@dataclass(slots=True)
class DraftNew:
    """A column that preparation adds. `up` is over the *old* version's columns, None if nothing fills it.

    `replaces` is the physical name of the one old column this succeeds (`change_type` …), so that what hangs on that
    column can follow; None for added, split and merged columns.
    """

    physical: str
    final: str
    type: str
    up: str | None = None
    default: str | None = None
    not_null: bool = False
    collation: str | None = None
    replaces: str | None = None


@dataclass(slots=True)
class DraftGroup:
    """Columns mapped together. `old` maps each replaced physical column to its `down` over the *new* version's columns."""

    name: str
    operation: str
    old: dict[str, str | None] = field(default_factory=dict)
    new: list[DraftNew] = field(default_factory=list)
    lossy: bool = False
    conflict: Conflict = Conflict.REFUSE


@dataclass(slots=True)
class ShapeColumn:
    """One column as the new version shows it.

    `fresh`: added by this migration (a `DraftNew` exists). `default` is the new version's default; `default_changed` tells
    that an operation set it, so that the view and, at cleanup, the table get it.
    """

    name: str
    physical: str
    type: str
    not_null: bool
    default: str | None
    fresh: bool = False
    default_changed: bool = False


@dataclass(slots=True)
class TableShape:
    """The evolving new version of one existing table."""

    table: Table
    expose: Expose
    final_name: str
    columns: list[ShapeColumn]
    groups: list[DraftGroup] = field(default_factory=list)
    dropped: bool = False

    @classmethod
    def of(cls, table: Table, expose: Expose) -> TableShape:
        """The shape of a table that no operation has touched yet."""
        columns = [ShapeColumn(c.name, c.name, c.type, c.not_null, c.default) for c in table.columns]
        return cls(table, expose, table.name.name, columns)

    @property
    def name(self) -> QualifiedName:
        """The table's present name."""
        return self.table.name

    def column(self, name: str) -> ShapeColumn | None:
        """The new version's column called `name`, or None."""
        return next((c for c in self.columns if c.name == name), None)

    def original(self, name: str) -> Column | None:
        """The table's own column called `name`, as introspected."""
        return self.table.column(name)

    def draft(self, physical: str) -> DraftNew | None:
        """The added column with that physical name, or None."""
        return next((n for g in self.groups for n in g.new if n.physical == physical), None)

    def group_of(self, physical: str) -> DraftGroup | None:
        """The group that replaces or adds the physical column, or None."""
        for group in self.groups:
            if physical in group.old or any(n.physical == physical for n in group.new):
                return group
        return None

    def physical_name(self, final: str) -> str:
        """A free physical name for a new column called `final`: itself if the columns are exposed or the name is free,
        else ``_zdm_<final>``, cut to 63 bytes and kept apart from every existing column."""
        taken = {c.name for c in self.table.columns} | {n.physical for g in self.groups for n in g.new}
        if self.expose is Expose.COLUMNS:
            return final
        candidate, count = fit(f"_zdm_{final}"), 1
        while candidate in taken:
            count += 1
            candidate = fit(f"_zdm{count}_{final}")
        return candidate
