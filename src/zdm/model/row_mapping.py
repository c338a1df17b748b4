"""How rows of one table relate to rows of another: the value that triggers, backfill, verification and repair share.

A `RowMapping` has two sides, the old version's and the new one's. Each side says how it is made from a row of the other,
so forward and back are the same thing in two directions. A side is one of two kinds:

* ROWS: the rows themselves are the mapping's. A row of the other side makes one, its end ends it.
* COLUMNS: the row stands on its own, and the mapping only fills some of its columns. Where the other side has no row, they
  hold what `MirroredColumn.empty` says.

Everything is compiled into one question, asked under a lock on one key: *does this row hold what the other side's row says?*
The function that answers it, and makes it so, is called by the triggers, the careful backfill and the repair alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from zdm.model.expression import ColumnRef, Expression, Volatility
from zdm.model.mapping import Comparison
from zdm.model.names import QualifiedName, Value


class SideKind(StrEnum):
    """Whether the mapping makes a side's rows, or only fills columns of rows that stand on their own."""

    ROWS = "rows"
    COLUMNS = "columns"


class Presence(StrEnum):
    """Which rows of COLUMNS have a row on the other side.

    EVERY: each one, also where all columns hold what they are empty with. NEEDED: those that hold anything else.
    """

    EVERY = "every"
    NEEDED = "needed"


class SyncMode(StrEnum):
    """How two tables are kept in step while both versions live.

    IMMEDIATE: by triggers, in the application's own transaction. LOGGED: the triggers only note which row was written, and a
    reconciler brings both sides to agree afterwards.
    """

    IMMEDIATE = "immediate"
    LOGGED = "logged"


class WithoutOldForm(StrEnum):
    """What becomes of a row of the new version that the old one cannot hold.

    REFUSE: the write that would make it is refused. RECORD: it stands in the new table alone, and is recorded; a rollback keeps it there.
    """

    REFUSE = "refuse"
    RECORD = "record"


class MirroredColumn(Value):
    """One column that the mapping fills.

    Parameters
    ----------
    value: over the other side's row; and over what its own row, locked, holds at that moment, for a column of COLUMNS of which the other
        side says only a part (a document).
    empty: for a side of COLUMNS: what it holds where the other side has no row, as SQL; None means NULL.
    known_empty: whether `empty` can be compared with; a volatile default cannot.
    cleared: the same over its own row, where it is no constant (one field of a document).
    reference: it is the new version's own column of the old side, and says which row of the other side there is; NULL for none.
    apart: of a value over both rows: each column of the other side puts a field of its own into it, and is read from that alone.
    """

    name: str
    type: str
    comparison: Comparison
    value: Expression
    not_null: bool = False
    empty: str | None = None
    known_empty: bool = True
    cleared: Expression | None = None
    reference: bool = False
    apart: bool = False

    @property
    def once(self) -> bool:
        """Whether the value reads nothing of the other side: a row is given it when it is made, and keeps what it is given later."""
        return not self.value.columns

    @property
    def plain(self) -> bool:
        """Whether it is the other side's column as it is, which cannot raise."""
        parts = [part for part in self.value.parts if part != ""]
        return len(parts) == 1 and isinstance(parts[0], ColumnRef) and self.value.type == self.type


class Told(Value):
    """A column of the new side that tells rows of several old tables apart.

    Parameters
    ----------
    value: what it holds in the rows of one of them; reads nothing.
    """

    name: str
    type: str
    value: Expression


class RowSide(Value):
    """One side of a mapping.

    Parameters
    ----------
    key: the columns that name a row of this side; they carry a unique index.
    key_values: what they are, over the other side's row, in the same order.
    columns: what the mapping fills, without the key.
    guarded: a row may be refused for reasons that the mapping does not show (checks, other keys, triggers), so each write is
        tried in a subtransaction, lest the application's own write should fail.
    created: the migration makes the table, so `oid` is 0.
    gone: of the old side's ROWS: columns, and their values as SQL, that a row is given instead of being deleted when its row of
        the new side is; the mapping's filter must then leave it out.
    fixed: key columns that no UPDATE may write (GENERATED ALWAYS AS IDENTITY).
    within: of a partitioned side: those key columns that name a row by themselves, in whatever partition it is.
    required: columns besides the key that an INSERT must name.
    loose: of a side that is synced by log: no index of its table keeps the key unique, since that names rows of the other side.
    told: of a new side that several old tables make rows of: what those of this mapping hold. All others are none of its rows.
    """

    table: QualifiedName
    oid: int
    kind: SideKind
    key: tuple[str, ...]
    key_values: tuple[Expression, ...]
    key_types: tuple[str, ...]
    columns: tuple[MirroredColumn, ...]
    guarded: bool = False
    created: bool = False
    gone: tuple[tuple[str, str], ...] = ()
    fixed: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    loose: bool = False
    told: tuple[Told, ...] = ()

    @property
    def shared(self) -> tuple[tuple[str, str], ...]:
        """The key columns that the other side has as well, with their types: all but those that only tell rows apart."""
        told = {t.name for t in self.told}
        return tuple(
            (name, type_) for name, type_ in zip(self.key, self.key_types, strict=True) if name not in told
        )

    @property
    def given(self) -> tuple[Told, ...]:
        """What its rows hold besides the key and the mapped columns."""
        return tuple(t for t in self.told if t.name not in self.key)

    @property
    def followed(self) -> tuple[MirroredColumn, ...]:
        """The columns that are written again whenever the other side's row changes, and compared."""
        return tuple(c for c in self.columns if not c.once)

    @property
    def mapped(self) -> tuple[MirroredColumn, ...]:
        """Those of them that both versions know."""
        return tuple(c for c in self.followed if not c.reference)

    @property
    def references(self) -> tuple[MirroredColumn, ...]:
        """Those that only the new version knows, since they name its rows."""
        return tuple(c for c in self.columns if c.reference)

    @property
    def raises(self) -> bool:
        """Whether computing a row of this side may raise, or give NULL where none may be."""
        return any(not c.plain or c.not_null for c in self.columns) or any(
            len(value.parts) > 1 for value in self.key_values
        )


PARENT = "parent."
"""How a reference to the parent's column begins in an expression that also reads its own row."""


class UnusedParents(StrEnum):
    """What becomes of a parent when the old version lets go of the last row that refers to it."""

    KEEP = "keep"
    REMOVE = "remove"


class ParentSide(RowSide):
    """The shared table of a mapping of many to one: rows that are found, or made, by their natural key (`key`).

    The mapping's old side then has the values, its new side the links: rows of the source's key and the parent's. Where the
    source's row refers to the parent itself, the new side is the source, and its own triggers keep both sides of a row in step.
    `key_values` are over the source's row; `value` and `cleared` of the old side's columns over the source's row and, as
    `PARENT` marks them, the parent's.

    Parameters
    ----------
    identity: what links refer to: its primary key, as a rule generated.
    reference: the links' columns that equal it, in the same order.
    foreign_key: the name of the reference's constraint.
    marker / bit: of a reference in the source's own row: the column and its bit that say that the new version wrote it last.
    """

    identity: tuple[str, ...]
    identity_types: tuple[str, ...]
    reference: tuple[str, ...]
    unused: UnusedParents = UnusedParents.KEEP
    comparisons: tuple[Comparison, ...] = ()
    """How the natural key's columns are compared."""
    foreign_key: str = ""
    marker: str = ""
    bit: int = 0


class RowsRef(Value):
    """Where a query reads rows of one side.

    Parameters
    ----------
    of: the side that has one row, or the one that has many.
    columns: what it reads of them: the name in the query, and the physical column.
    """

    of: Literal["one", "many"]
    columns: tuple[tuple[str, str], ...]


class RowsQuery(Value):
    """A query over rows of either side, as the server understands it: its own text, cut where it reads rows.

    It gives the key of the one side's row as ``zdm_k<n>``, and then ``zdm_c<n>``, of these types.

    Parameters
    ----------
    source: the text the user wrote, for people.
    """

    source: str
    parts: tuple[str | RowsRef, ...]
    types: tuple[str, ...]
    volatility: Volatility = Volatility.IMMUTABLE

    def reads(self, of: Literal["one", "many"]) -> tuple[str, ...]:
        """The physical columns of that side that it reads."""
        found = [
            physical for p in self.parts if isinstance(p, RowsRef) and p.of == of for _, physical in p.columns
        ]
        return tuple(dict.fromkeys(found))


class ElementColumn(Value):
    """A column that one of an `Elements`' queries fills.

    Parameters
    ----------
    nothing: of a held column: another value than NULL and what `join` gives that says that there are no elements, as SQL.
    """

    name: str
    type: str
    comparison: Comparison
    not_null: bool = False
    nothing: str | None = None


class Elements(Value):
    """One row of a side says the same as many rows of the other, its *elements*.

    Parameters
    ----------
    one: the side that has one row; it is of kind COLUMNS, or, if it is the new one, of ROWS that are there as long as there are any of the many.
    of: the columns of the many rows that hold the one row's key, in its order.
    key: those that tell the elements of one row apart. Both together carry a unique index.
    columns: everything that `split` fills of an element, its key included.
    held: the one row's columns that `join` fills.
    split: the elements of a row: `columns`, over the one side's rows; None where that is not mirrored.
    join: `held`, over the many rows of one row, and that row itself; always one row.
    order: a column that only says in which order elements come; gaps in it have no form in the one row.
    where: over the columns of the many side's key, or any of them where nothing goes back: the rows that are elements, others being left alone; all
        of them, if None.
    lossy: elements that do not come back as they were are accepted.
    written: where the one row only follows: those of `held` that the new version may write nevertheless; that makes a row of the many.
    append: its columns besides `of`, and what they hold, over the one row.
    """

    one: Literal["old", "new"]
    of: tuple[str, ...]
    key: tuple[str, ...]
    columns: tuple[ElementColumn, ...]
    held: tuple[ElementColumn, ...]
    split: RowsQuery | None
    join: RowsQuery | None
    order: str | None = None
    where: Expression | None = None
    lossy: bool = False
    written: tuple[str, ...] = ()
    append: tuple[tuple[str, Expression], ...] = ()

    @property
    def many(self) -> Literal["old", "new"]:
        """The side that has many rows."""
        return "new" if self.one == "old" else "old"

    @property
    def follows(self) -> bool:
        """Whether the one row only follows from the many, so that nothing of it is carried back."""
        return self.split is None

    def is_old(self, of: Literal["one", "many"]) -> bool:
        """Whether that side is the old version's."""
        return (of == "one") == (self.one == "old")


class Beside(Value):
    """Another table whose rows go to the same new one.

    Parameters
    ----------
    number: of its mapping.
    key: its key columns, in the order of the mapping's own.
    told: what its rows hold in the new table.
    """

    number: int
    table: QualifiedName
    key: tuple[str, ...]
    told: tuple[Told, ...]


class RowMapping(Value):
    """Rows of `old` and rows of `new`, kept in step while both versions live.

    Parameters
    ----------
    id: what catalog, status and metrics call it; the new side's table, or the old one's of several that fill it, unless that is taken.
    number: unique in the plan; names of triggers and functions hold it.
    where: over the old side's row: only rows that meet it have a new form.
    one_way: writes of the new version do not flow back.
    parent: of a mapping of many to one.
    elements: of a mapping of one to many.
    logged: writes are noted, and carried over by a reconciler.
    without_old_form: what becomes of rows of the new side that the old one cannot hold.
    replaces: the new side's table takes the old one's name at cleanup.
    beside: the other tables whose rows the new side's table has.
    numbers: columns of the new side's key, and the SQL that gives each the next number where the new version names none.
    path: the schemas in which names are looked up while zdm writes rows of either table, as of `TableMapping`.
    """

    id: QualifiedName
    number: int
    operation: str
    old: RowSide
    new: RowSide
    where: Expression | None = None
    presence: Presence = Presence.EVERY
    one_way: bool = False
    parent: ParentSide | None = None
    elements: Elements | None = None
    logged: bool = False
    without_old_form: WithoutOldForm = WithoutOldForm.REFUSE
    replaces: bool = False
    beside: tuple[Beside, ...] = ()
    numbers: tuple[tuple[str, str], ...] = ()
    path: tuple[str, ...] = ()

    @property
    def unites(self) -> bool:
        """Whether the new side's table has rows of other mappings as well."""
        return bool(self.new.told)

    @property
    def contested(self) -> bool:
        """Whether rows of two old tables may claim one key of the new one."""
        return bool(self.beside) and not any(t.name in self.new.key for t in self.new.told)

    @property
    def foremost(self) -> bool:
        """Whether it answers, of those that fill one table, for rows that are none of theirs."""
        return self.unites and all(self.number < other.number for other in self.beside)

    @property
    def records(self) -> bool:
        """Whether rows of the new side that the old one cannot hold are recorded."""
        return self.without_old_form is WithoutOldForm.RECORD

    @property
    def tables(self) -> tuple[QualifiedName, ...]:
        """Every table that carries its triggers."""
        found = (self.old.table, *(() if self.in_place else (self.new.table,)))
        return found if self.parent is None else (*found, self.parent.table)

    @property
    def in_place(self) -> bool:
        """Whether the source's rows refer to the parent themselves: they are settled, filled and compared with their table."""
        return self.parent is not None and bool(self.parent.marker)

    @property
    def joins(self) -> bool:
        """Whether rows of the old side become columns of rows that the new side has already, and so are not made but filled."""
        return self.parent is None and self.elements is None and self.new.kind is SideKind.COLUMNS

    @property
    def source(self) -> RowSide:
        """The side whose rows are gone through, and recorded where they have no form on the other one."""
        return self.old if self.elements is None or self.gathers else self.side(self.elements.one)

    @property
    def gathers(self) -> bool:
        """Whether a row of the new side is made for all rows of the old one that have its key, and goes with the last of them."""
        return self.elements is not None and self.elements.one == "new" and self.new.kind is SideKind.ROWS

    @property
    def selective(self) -> bool:
        """Whether a row of the old side may come to have none on the new one by a write that leaves its key alone."""
        return self.where is not None or self.presence is Presence.NEEDED

    @property
    def countable(self) -> bool:
        """Whether rows of the old side can be counted instead of locked while they are copied.

        Whatever takes a row's copy away must be a write of that row after which the triggers look for the copy: its deletion, another
        key, or that it leaves the filter. A row that comes to hold nothing (`Presence.NEEDED`) is not looked for.
        """
        return (
            self.parent is None
            and self.elements is None
            and self.new.kind is SideKind.ROWS
            and not self.new.loose
            and not self.old.references
            and self.presence is Presence.EVERY
            and not (self.logged or self.unites or self.records or self.one_way)
        )

    def side(self, name: str) -> RowSide:
        """The side called ``old`` or ``new``, or the ``parent``."""
        if name == "parent":
            assert self.parent is not None
            return self.parent
        return self.old if name == "old" else self.new

    def other(self, name: str) -> RowSide:
        """The side across from `name`."""
        return self.new if name == "old" else self.old


@dataclass(frozen=True, slots=True)
class Part:
    """Columns of both sides that depend on each other, and on nothing else.

    Parameters
    ----------
    old / new: mapped columns.
    old_reads / new_reads: those, and what the other side's expressions read besides.
    field: of the old side it is one field of a document, which other parts share.
    """

    old: tuple[MirroredColumn, ...]
    new: tuple[MirroredColumn, ...]
    old_reads: tuple[str, ...]
    new_reads: tuple[str, ...]
    field: bool = False


def parts_by_field(mapping: RowMapping) -> list[Part]:
    """The same, where each field of a document is a part of its own."""
    found: list[Part] = []
    for part in parts(mapping):
        if len(part.old) == 1 and part.old[0].apart:
            found += [
                Part(
                    old=part.old,
                    new=(c,),
                    old_reads=tuple(sorted({*c.value.columns, part.old[0].name})),
                    new_reads=(c.name,),
                    field=True,
                )
                for c in part.new
            ]
        else:
            found.append(part)
    return found


def parts(mapping: RowMapping) -> list[Part]:
    """The parts of a mapping, in the order of its columns. Keys belong to none."""
    groups: list[set[tuple[str, str]]] = []
    for side, other in (("new", "old"), ("old", "new")):
        mine, yours = mapping.side(side), mapping.side(other)
        for c in mine.followed:
            found = {(side, c.name), *((other, name) for name in c.value.columns if name not in yours.key)}
            for group in [g for g in groups if g & found]:
                groups.remove(group)
                found |= group
            groups.append(found)
    names = [("new", c.name) for c in mapping.new.followed] + [("old", c.name) for c in mapping.old.followed]
    groups.sort(key=lambda group: min(names.index(item) for item in group if item in names))
    return [
        Part(
            old=tuple(c for c in mapping.old.followed if ("old", c.name) in group),
            new=tuple(c for c in mapping.new.followed if ("new", c.name) in group),
            old_reads=tuple(sorted(name for side, name in group if side == "old")),
            new_reads=tuple(sorted(name for side, name in group if side == "new")),
        )
        for group in groups
    ]


def derived(mapping: RowMapping, side: str) -> tuple[MirroredColumn, ...]:
    """The columns of a side that follow from the other one's and from which nothing over there follows."""
    return tuple(
        c
        for part in parts(mapping)
        for mine, yours in ((part.old, part.new) if side == "old" else (part.new, part.old),)
        if not yours
        for c in mine
    )
