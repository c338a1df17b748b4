"""Row mappings while the operations of a migration are applied: still the user's text, checked by the server afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zdm.model.names import QualifiedName
from zdm.model.row_mapping import Presence, SideKind, UnusedParents, WithoutOldForm


@dataclass(slots=True)
class DraftMirrored:
    """A column that the mapping fills; `value` is over the other side's row. `empty` and `cleared` as in `MirroredColumn`.

    Parameters
    ----------
    over_both: `value` reads its own row as well, whose columns `BEFORE` marks: it says what becomes of what the column holds.
    apart: as in `MirroredColumn`.
    """

    name: str
    type: str
    value: str
    collation: str | None = None
    not_null: bool = False
    empty: str | None = None
    cleared: str | None = None
    over_both: bool = False
    apart: bool = False
    reference: bool = False


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key of a table that is made: its columns, and what they point at."""

    name: str
    columns: tuple[str, ...]
    table: QualifiedName
    referenced: tuple[str, ...]


@dataclass(slots=True)
class DraftSide:
    """One side of a mapping.

    Parameters
    ----------
    key: its key columns.
    readable: name, type and collation of each column that the other side's expressions may read.
    fixed / within / required / loose: as `RowSide` has them.
    told: of a new side that several old tables make rows of: what those of this mapping hold, a column and a constant. Columns of the
        key that are among them have no part in the other side's key.
    refers: of a table that is made: its foreign keys to other tables.
    reactions: of a table that is made: its foreign keys that delete or write rows, and the tables that they point at.
    """

    table: QualifiedName
    oid: int
    kind: SideKind
    key: list[str]
    columns: list[DraftMirrored]
    readable: list[tuple[str, str, str | None]]
    guarded: bool = False
    created: bool = False
    gone: dict[str, str] = field(default_factory=dict)
    fixed: list[str] = field(default_factory=list)
    within: list[str] = field(default_factory=list)
    required: list[str] = field(default_factory=list)
    loose: bool = False
    told: dict[str, str] = field(default_factory=dict)
    refers: list[Reference] = field(default_factory=list)
    reactions: list[tuple[str, str]] = field(default_factory=list)

    @property
    def shared(self) -> list[str]:
        """The key columns that the other side has as well."""
        return [name for name in self.key if name not in self.told]


@dataclass(slots=True)
class DraftParent:
    """The shared table of a mapping of many to one.

    Parameters
    ----------
    side: its table, with the natural key.
    values: what that is, over the source's row, in the same order.
    identity / reference: what links refer to, and their columns that do.
    foreign_key: the name of their constraint.
    lossy: a value that does not come back as it was is declared.
    """

    side: DraftSide
    values: list[str]
    identity: list[str]
    reference: list[str]
    foreign_key: str
    unused: UnusedParents = UnusedParents.KEEP
    lossy: bool = False


@dataclass(slots=True)
class DraftElements:
    """A mapping of one row to many; the parts as in `Elements`.

    Parameters
    ----------
    one: the side that has one row.
    split: a SELECT over the one row's columns, whose columns are `columns` in their order; None where that is not mirrored.
    join: for each of `held`, an aggregate over the elements' columns and, where they have none of that name, the row's own.
    empty: what held columns get in rows of the new version that have no elements yet, a column and an expression over no column.
    nothing: what held columns may hold besides, where there are no elements: a column and an expression over no column.
    written / append: as in `Elements`; the expressions are over the columns of `over`, by name and physical name.
    """

    one: Literal["old", "new"]
    of: list[str]
    key: list[str]
    columns: list[DraftMirrored]
    held: list[DraftMirrored]
    split: str | None
    join: list[str]
    order: str | None = None
    where: str | None = None
    empty: dict[str, str] = field(default_factory=dict)
    nothing: dict[str, str] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    append: dict[str, str] = field(default_factory=dict)
    over: list[tuple[str, str, str, str | None]] = field(default_factory=list)


@dataclass(slots=True)
class DraftRows:
    """One mapping. The keys of both sides correspond by position, and are copied as they are.

    Parameters
    ----------
    loggable: it may be synced by log.
    without_old_form: what becomes of rows that the new version writes and the old one cannot hold.
    replaces: the new table takes the old one's name at cleanup.
    numbers: as `RowMapping` has them.
    """

    operation: str
    old: DraftSide
    new: DraftSide
    where: str | None = None
    presence: Presence = Presence.EVERY
    one_way: bool = False
    lossy: bool = False
    parent: DraftParent | None = None
    elements: DraftElements | None = None
    loggable: bool = False
    without_old_form: WithoutOldForm = WithoutOldForm.REFUSE
    replaces: bool = False
    numbers: dict[str, str] = field(default_factory=dict)
