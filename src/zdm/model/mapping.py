"""How the two versions of one table relate, row by row: the value that trigger, backfill and verification share.

One `TableMapping` per table and rollout. Everything that touches rows (the sync triggers, the backfill, the
verification, the repair, both version views) is generated from it, so they cannot disagree.

The marker
----------
A table with at least one group gets one hidden integer column, the *marker*:

* ``NULL``: nobody has settled this row yet; the old side is the truth, the new side is not filled.
* bit 0 (`TOGGLE`): flipped whenever the triggers or the backfill settle the row. Inside one row operation, a marker
  that differs from the stored one means "already settled", which is how the triggers and the backfill tell each other.
* bit 1 (`FAILED`): ``up`` raised for this row. The application's write went through; the row is recorded and blocks
  the gates until it is settled.
* bit 2 + n: group n was last written by the *new* side (so ``old = down(new)`` holds), else by the old side
  (so ``new = up(old)`` holds).
"""

from __future__ import annotations

from enum import StrEnum

from zdm.model.expression import Expression
from zdm.model.names import QualifiedName, Value

TOGGLE = 1
FAILED = 2
FIRST_GROUP_BIT = 2
MAX_GROUPS = 28
"""A signed 32-bit marker has 31 usable bits: two flags, one spare, and one for each group."""
NEW_ORIGIN = -1
"""The marker's default in the new version's view, where a view shows it: 'this INSERT came through the new version'."""


class Authority(StrEnum):
    """Which side wins while both exist: old until switchover, then new."""

    OLD = "old"
    NEW = "new"


class Conflict(StrEnum):
    """What a statement gets that writes both sides of a group and makes them disagree."""

    REFUSE = "refuse"
    OLD = "old"
    NEW = "new"
    AUTHORITY = "authority"


class Comparison(StrEnum):
    """How two values of a column are told apart.

    NATIVE: ``IS DISTINCT FROM``, for types where equal means identical. IMAGE: ``ROW(a) *<> ROW(b)``, bytewise, for
    types where it does not (citext, float, jsonb, numeric without scale, nondeterministic collations) or that have no
    ``=`` at all (json, point, xml).
    """

    NATIVE = "native"
    IMAGE = "image"


class OldColumn(Value):
    """A column of the old version that the new one replaces or drops.

    `down` re-derives it from the new version's columns; None if the mapping has no way back (then the column keeps
    what it had, and rows of the new application get its default).
    """

    name: str
    type: str
    comparison: Comparison
    not_null: bool = False
    default: str | None = None
    down: Expression | None = None


class NewColumn(Value):
    """A column of the new version that preparation adds beside the old ones.

    Parameters
    ----------
    name: its physical name until cleanup.
    final: its name in the new version, and on the table after cleanup.
    type: as `format_type` writes it, with typmod.
    default: the new version's default as SQL, or None. It lives on the version view until cleanup puts it on the table
        (with ``expose: columns`` it is on the table from the start).
    not_null: whether the new version promises NOT NULL.
    up: derives it from the old version's columns; None if nothing fills it (then only its default does).
    fill: reads no column and may be volatile, such as ``gen_random_uuid()``; gives a row of the old version its value once,
        when the backfill or the old application's INSERT settles it. Never derived again, never compared. Excludes `up`.
    collation: qualified collation name if it differs from the type's, else None.
    domain: whether the type is a domain, which may bring a default of its own.
    numbered: the old column's sequence gives rows of both versions their number until cleanup. The new version's view has
        no default for it then: a row that it inserts without the column gets the old column's number, through `up`.
    """

    name: str
    final: str
    type: str
    comparison: Comparison
    default: str | None = None
    not_null: bool = False
    up: Expression | None = None
    fill: Expression | None = None
    collation: str | None = None
    domain: bool = False
    numbered: bool = False


class Lookup(Value):
    """Where the two columns of a group follow from each other by a row of another table: the one that both refer to.

    Parameters
    ----------
    table: that table, by its name before the rollout.
    pairs: zdm's view of its rows, with both keys of each; see `zdm.sql.pairs`.
    depth: how many tables have to be filled before this one can be, that one included if it is another one.
    """

    table: QualifiedName
    pairs: QualifiedName
    depth: int = 1


class SharedParent(Value):
    """The row of a shared table that a group's new columns refer to: what the old side says is its natural key.

    `up` and `down` of the group's columns only read that table. Whoever writes a row calls the functions of a row mapping instead,
    which make the parent where there is none, and lock it.

    Parameters
    ----------
    number: the row mapping's.
    key: the natural key.
    key_types / key_values: its types, and what it is over the old version's row.
    where: over the same: which rows have a parent; those for which no value is NULL, if not given.
    identity: what the new columns equal, in their order.
    exact: what a parent says leads back to that parent, whatever it says.
    logged: who writes a row only notes it, and a reconciler finds or makes the parent.
    plain: the text of the row's own key is the same whoever writes it.
    """

    number: int
    table: QualifiedName
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    key_values: tuple[Expression, ...]
    where: Expression | None = None
    identity: tuple[str, ...]
    exact: bool = False
    logged: bool = False
    plain: bool = True


class Copied(Value):
    """The row of another table whose columns a group's new columns are copies of: the one that the row refers to.

    That row alone decides. Who changes it writes its rows; who refers to it looks it up, and holds it FOR KEY SHARE.

    Parameters
    ----------
    oid: that table's.
    by: by what a row refers to it: each column of the row, and the column of that table that it equals.
    columns: what the new columns are copies of, in their order.
    cascades: a changed key takes the rows along (ON UPDATE CASCADE), so that what refuses it elsewhere need not be asked.
    deferrable: the foreign key may be checked late, so that a row may go and another one come by its key.
    """

    table: QualifiedName
    oid: int
    by: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    cascades: bool = False
    deferrable: bool = False


class ColumnGroup(Value):
    """Columns that are mapped together: `change_type` has one on each side, `split_column` one old and several new.

    Parameters
    ----------
    pairs: the group is a key that gets a value of its own in each version, and this view of zdm's shows both.
    lookup: the group refers to a row by such a key.
    parent: the new columns refer to a row of a shared table.
    copied: the new columns are copies of another table's, whatever is written to them; there is no old side.
    """

    name: str
    number: int
    old: tuple[OldColumn, ...] = ()
    new: tuple[NewColumn, ...] = ()
    lossy: bool = False
    conflict: Conflict = Conflict.REFUSE
    pairs: QualifiedName | None = None
    lookup: Lookup | None = None
    parent: SharedParent | None = None
    copied: Copied | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether both ways go by another table, which may not be there, or hold other rows, before preparation."""
        return self.lookup is not None or self.parent is not None

    @property
    def noted(self) -> SharedParent | None:
        """The parent, where what follows from a write is left to a reconciler."""
        return self.parent if self.parent is not None and self.parent.logged else None

    @property
    def bit(self) -> int:
        """The marker's bit that says the new side wrote last."""
        return 1 << (FIRST_GROUP_BIT + self.number)

    @property
    def two_way(self) -> bool:
        """Whether the new side's writes flow back: every old column has a `down`, and there is one."""
        return bool(self.old) and all(column.down is not None for column in self.old)

    @property
    def reads_of_up(self) -> tuple[str, ...]:
        """Physical columns that any `up` of the group reads."""
        return tuple(dict.fromkeys(c for n in self.new if n.up is not None for c in n.up.columns))

    @property
    def reads_of_down(self) -> tuple[str, ...]:
        """Physical columns that any `down` of the group reads."""
        return tuple(dict.fromkeys(c for o in self.old if o.down is not None for c in o.down.columns))


class ViewColumn(Value):
    """One column of a version view: the physical column it shows, the name it shows it under, the default it carries."""

    physical: str
    name: str
    default: str | None = None


class Expose(StrEnum):
    """How the new application sees the new structure: through version schemas, or by the new columns' own names."""

    VIEWS = "views"
    COLUMNS = "columns"


class TableMapping(Value):
    """Everything about one existing table that a rollout changes, both versions side by side.

    Parameters
    ----------
    table: the table under its old name.
    final_name: its name in the new version (equal unless renamed).
    key: columns of the primary key, or of the best unique key; empty if there is none. Only used to name rows to people.
    guarded: the columns of each unique key that stands on replaced columns as well as on their successors until cleanup;
        physical names of the new side.
    groups: the mapped groups; empty if the migration needs no data (then there is no marker, trigger or backfill).
    marker: physical name of the marker column.
    marker_in_view: whether the new view must show the marker, as its last column, to tell the origin of an INSERT
        (needed where an explicit NULL of the new application could not be told from an untouched column).
    old_columns / new_columns: what the old and the new version's views show, in order.
    dropped_in_new: True if the new version has no such table (`drop_table`).
    partitioned: whether its rows are in partitions; which there are is looked up whenever rows are gone through.
    has_children: the same of tables that inherit from it. The server hands columns and checks down to them, but no triggers.
    path: the schemas in which names are looked up while zdm writes its rows, after the server's own: its triggers may not qualify them.
    """

    table: QualifiedName
    final_name: str
    oid: int
    key: tuple[str, ...] = ()
    guarded: tuple[tuple[str, ...], ...] = ()
    groups: tuple[ColumnGroup, ...] = ()
    marker: str = "_zdm_state"
    marker_in_view: bool = False
    expose: Expose = Expose.VIEWS
    old_columns: tuple[ViewColumn, ...] = ()
    new_columns: tuple[ViewColumn, ...] = ()
    dropped_in_new: bool = False
    partitioned: bool = False
    has_children: bool = False
    path: tuple[str, ...] = ()

    @property
    def spread(self) -> bool:
        """Whether its rows are in more tables than itself."""
        return self.partitioned or self.has_children

    @property
    def needs_sync(self) -> bool:
        """Whether rows are mapped at all: marker, triggers, backfill and verification exist only then."""
        return bool(self.groups)

    @property
    def pairs(self) -> QualifiedName | None:
        """The view of both keys of its rows, where its key is one that each version has a value of its own for."""
        return next((group.pairs for group in self.groups if group.pairs is not None), None)

    @property
    def depth(self) -> int:
        """How many tables have to be filled before this one can be, since its rows refer to theirs."""
        return max((group.lookup.depth for group in self.groups if group.lookup is not None), default=0)

    @property
    def looks_up(self) -> bool:
        """Whether some columns follow from a row of another table that the row refers to."""
        return any(group.lookup is not None or group.copied is not None for group in self.groups)

    @property
    def refers_to_itself(self) -> bool:
        """Whether such a row may be one of the same table: then all need their keys before the first of them is filled."""
        return any(group.lookup is not None and group.lookup.table == self.table for group in self.groups)

    @property
    def settled_bits(self) -> int:
        """The marker of a row the backfill has just filled: settled, every group last written by the old side."""
        return TOGGLE
