"""The new version of a table while the operations of a migration are applied to it, one after the other.

A `TableShape` starts as the table is. Each operation edits it, in the order of the migration file, so several operations
on one table compose: the result is one set of new columns, one trigger, one backfill, one pair of views. Expressions are
still the user's text here; the engine has the server check them and turns the shape into a `TableMapping`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zdm.model.mapping import Conflict, Copied, Expose
from zdm.model.names import QualifiedName, fit
from zdm.model.requests import ColumnType
from zdm.model.table import Column, Table

BEFORE = "old."
"""How a column of the old version begins in a `down` that also reads what it is about to write."""


def is_sequence_default(default: str | None) -> bool:
    """Whether a default, as the server spells it, takes the next number of a sequence."""
    return default is not None and default.startswith("nextval(")


@dataclass(slots=True)
class DraftNew:
    """A column that preparation adds. `up` is over the *old* version's columns, None if nothing fills it.

    `replaces` is the physical name of the one old column this succeeds (`change_type` …), so that what hangs on that
    column can follow; None for added, split and merged columns.

    `default_before` is the old version's default where `default` only casts it: spelled plainly if the server takes it so.
    `default_by_up`: the old version's default where `up` is the user's own, so that the new one is `up` of it.
    `inherits`: its default is the old column's (or, of an identity column, its numbering), not one that an operation gave.

    `fill` is the one expression that may be volatile: it gives rows of the old version their value exactly once, when the
    backfill or the old application's INSERT settles them, and is never derived again nor compared. A column has `up` or
    `fill`, not both. `domain` tells whether its type is one; found when the type is resolved.
    """

    physical: str
    final: str
    type: str
    up: str | None = None
    default: str | None = None
    not_null: bool = False
    collation: str | None = None
    replaces: str | None = None
    default_before: str | None = None
    default_by_up: str | None = None
    fill: str | None = None
    domain: bool = False
    inherits: bool = False


@dataclass(slots=True)
class DraftGroup:
    """Columns mapped together. `old` maps each replaced physical column to its `down` over the *new* version's columns.

    `casts` tells which `down` was derived rather than written, so that it can follow a later rename: physical old column
    to the physical column it is cast back from, and the type (None: taken as it is).

    `reads_before`: its `down` reads the old columns as well, as `BEFORE` marks them: it writes a part of their values.

    `paired`: the columns are a key that each version gives a value of its own. `refers_to`: they refer to a row of that table
    by such a key, so that neither has an expression.

    `parent`: its new columns refer to the parent of that mapping of `Draft.rows`, counted from 1; both ways are the mapping's.

    `copied`: its new columns are copies of what the row that this one refers to has, so that they have no expression either.
    """

    name: str
    operation: str
    old: dict[str, str | None] = field(default_factory=dict)
    new: list[DraftNew] = field(default_factory=list)
    lossy: bool = False
    conflict: Conflict = Conflict.REFUSE
    casts: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    reads_before: bool = False
    paired: bool = False
    refers_to: QualifiedName | None = None
    parent: int = 0
    copied: Copied | None = None


@dataclass(slots=True)
class ShapeColumn:
    """One column as the new version shows it.

    `fresh`: added by this migration (a `DraftNew` exists, in a group or in `TableShape.added`). `default` is the new
    version's default; `default_changed` tells that an operation set it, so that the view and, at cleanup, the table get
    it. `alter_type`: the type that cleanup gives the physical column in place, because the server needs no rewrite for
    it; the views over the column must make way for that, so it belongs into the swap's transaction.
    """

    name: str
    physical: str
    type: str
    not_null: bool
    default: str | None
    fresh: bool = False
    default_changed: bool = False
    alter_type: str | None = None


@dataclass(slots=True)
class TableShape:
    """The evolving new version of one existing table.

    Parameters
    ----------
    added: columns that need no mapping because adding them is instant and complete (nullable, or with a default that the
        server stores once for all rows). `add_column` adds them itself; they are in no group.
    removed: physical columns that the new version does not show and nothing derives; cleanup drops them.
    gone_indexes / gone_constraints: what this migration drops on purpose at cleanup, so nothing needs to be carried.
    new_names: names of indexes and constraints that this migration creates on the table.
    uses: physical columns that such an index or constraint stands on, and what it is called.
    part_of: the table whose partition or child it is, if that is why it changes; `table` then has what is its own only.
    required: physical columns that are NOT NULL in that part alone.
    """

    table: Table
    expose: Expose
    final_name: str
    columns: list[ShapeColumn]
    groups: list[DraftGroup] = field(default_factory=list)
    dropped: bool = False
    added: list[DraftNew] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    gone_indexes: set[str] = field(default_factory=set)
    gone_constraints: set[str] = field(default_factory=set)
    new_names: set[str] = field(default_factory=set)
    uses: dict[str, str] = field(default_factory=dict)
    part_of: QualifiedName | None = None
    required: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, table: Table, expose: Expose) -> TableShape:
        """The shape of a table that no operation has touched yet."""
        columns = [ShapeColumn(c.name, c.name, c.type, c.not_null, c.default) for c in table.columns]
        return cls(table, expose, table.name.name, columns)

    @property
    def name(self) -> QualifiedName:
        """The table's present name."""
        return self.table.name

    @property
    def mapped_as(self) -> QualifiedName:
        """The table by whose mapping its rows are mapped: itself, or the one that it is a part of."""
        return self.part_of or self.name

    @property
    def changed(self) -> bool:
        """Whether an operation of the migration gives the table other columns, or another name."""
        return bool(self.groups or self.removed or self.added or self.final_name != self.name.name)

    def column(self, name: str) -> ShapeColumn | None:
        """The new version's column called `name`, or None."""
        return next((c for c in self.columns if c.name == name), None)

    def original(self, name: str) -> Column | None:
        """The table's own column called `name`, as introspected."""
        return self.table.column(name)

    def collation(self, physical: str) -> str | None:
        """The collation of one of its columns, if it is not the type's."""
        draft = self.draft(physical)
        if draft is not None:
            return draft.collation
        original = self.original(physical)
        return original.collation if original is not None else None

    def types(self) -> dict[str, ColumnType]:
        """The new version's columns by their physical names."""
        return {
            c.physical: ColumnType(type=c.type, collation=self.collation(c.physical)) for c in self.columns
        }

    def draft(self, physical: str) -> DraftNew | None:
        """The added column with that physical name, or None."""
        return next((n for n in self.all_new() if n.physical == physical), None)

    def all_new(self) -> list[DraftNew]:
        """Every column that preparation adds, mapped or not."""
        return [n for g in self.groups for n in g.new] + self.added

    def successor(self, physical: str) -> DraftNew | None:
        """The column that succeeds the old physical column one to one, or None."""
        return next((n for g in self.groups for n in g.new if n.replaces == physical), None)

    def requires(self, new: DraftNew) -> bool:
        """Whether a successor is NOT NULL in the new version of this table."""
        return new.not_null or new.replaces in self.required

    def identity(self, new: DraftNew) -> str:
        """The identity that a successor takes over at cleanup: ``always``, ``by default``, or nothing."""
        original = self.original(new.replaces) if new.replaces is not None else None
        return original.identity if original is not None and new.inherits else ""

    def numbered(self, new: DraftNew) -> bool:
        """Whether the old column's sequence numbers the rows of both versions until cleanup; see `NewColumn`."""
        original = self.original(new.replaces) if new.replaces is not None else None
        if original is None or not new.inherits or not new.not_null:
            return False
        return bool(original.identity) or is_sequence_default(original.default)

    def paired(self, physical: str) -> bool:
        """Whether the column, or the one that it succeeds, is a key that each version gives a value of its own."""
        group = self.group_of(physical)
        return group is not None and group.paired

    def replaced(self) -> dict[str, str]:
        """Every old physical column that cleanup drops, and the operation that is the reason."""
        shown = {column.physical for column in self.columns}
        found = {old: group.operation for group in self.groups for old in group.old if old not in shown}
        found.update({old: found.get(old, "drop_column") for old in self.removed})
        return found

    def group_of(self, physical: str) -> DraftGroup | None:
        """The group that replaces or adds the physical column, or None."""
        for group in self.groups:
            if physical in group.old or any(n.physical == physical for n in group.new):
                return group
        return None

    def physical_names(self) -> set[str]:
        """Every column that the table, or a partition or child of it, has or is to get."""
        below = {name for part in self.table.partitions for name in part.columns}
        return {c.name for c in self.table.columns} | {n.physical for n in self.all_new()} | below

    def physical_name(self, final: str) -> str:
        """A free physical name for a new column called `final`: itself if no column of the table has it, else
        ``_zdm_<final>``, cut to 63 bytes and kept apart from every existing column."""
        taken = self.physical_names()
        if final not in taken:
            return final
        candidate, count = fit(f"_zdm_{final}"), 1
        while candidate in taken:
            count += 1
            candidate = fit(f"_zdm{count}_{final}")
        return candidate
