"""What introspection found of a schema: plain facts, all definitions in the server's own words (`pg_get_*def`)."""

from __future__ import annotations

from enum import StrEnum

from zdm.model.mapping import Comparison
from zdm.model.names import QualifiedName, Value


class TableKind(StrEnum):
    """`pg_class.relkind` (and persistence, and inheritance) in words."""

    TABLE = "table"
    PARTITIONED = "partitioned table"
    PARTITION = "partition"
    CHILD = "child table"
    FOREIGN = "foreign table"
    VIEW = "view"
    MATERIALIZED_VIEW = "materialized view"
    TEMPORARY = "temporary table"
    INHERITED = "inheritance parent or child"


class Column(Value):
    """One live column. `default` is the deparsed expression, also of a generated column (then `generated` is set)."""

    name: str
    number: int
    type: str
    not_null: bool
    default: str | None = None
    identity: str = ""  # "", "always" or "by default"
    generated: str = ""  # "", "stored" or "virtual"
    collation: str | None = None
    comparison: Comparison = Comparison.NATIVE
    type_kind: str = "base"  # base, domain, enum, composite, range, multirange, array, pseudo
    comment: str | None = None
    acl: tuple[str, ...] = ()
    storage: str = ""
    compression: str = ""
    statistics: int | None = None
    options: tuple[str, ...] = ()
    """What ALTER COLUMN … SET (…) stored, as ``name=value``: n_distinct and n_distinct_inherited."""
    numbered_for: tuple[str, ...] = ()
    """Of an identity column, the roles that may use its sequence by a grant, as SQL names them."""
    inherited: bool = False
    """Whether a parent of the table has it too, so that it changes with the parent's alone."""


class Constraint(Value):
    """One constraint; `definition` is `pg_get_constraintdef`. kind: primary key, unique, check, foreign key, exclusion, not null."""

    name: str
    kind: str
    columns: tuple[str, ...]
    definition: str
    validated: bool = True
    index: str | None = None
    references: QualifiedName | None = None
    comment: str | None = None
    inherited: bool = False


class Index(Value):
    """One index; `definition` is `pg_get_indexdef`. `columns` are all columns it mentions, in key, INCLUDE, expression or predicate.

    `statistics`: the targets of its own columns (expressions have some), by their number. `clustered`: CLUSTER goes by it.
    `options`: its storage parameters, as ``name=value``. `tablespace`: where it lies, empty for the database's own.
    `key`: the columns that no two rows share, whatever else is in the row; None where it does not say so of plain columns.
    """

    name: str
    columns: tuple[str, ...]
    definition: str
    unique: bool = False
    primary: bool = False
    key: tuple[str, ...] | None = None
    valid: bool = True
    constraint: str | None = None
    method: str = "btree"
    comment: str | None = None
    clustered: bool = False
    statistics: tuple[tuple[int, int], ...] = ()
    options: tuple[str, ...] = ()
    tablespace: str = ""


class Trigger(Value):
    """One trigger of the user's; `columns` are those it names in UPDATE OF (or mentions in WHEN)."""

    name: str
    definition: str
    timing: str  # before, after, instead of
    row: bool
    columns: tuple[str, ...] = ()
    oid: int = 0


class Rule(Value):
    """A rule that rewrites statements on the table, or on a partition of it.

    Parameters
    ----------
    event: insert, update or delete.
    instead: in the statement's place, not in addition to it.
    silent: it is not applied to what a session says that replicates.
    new: the columns that it reads of NEW, which is what the statement says, and not what triggers make of it.
    """

    name: str
    event: str
    instead: bool = False
    silent: bool = True
    new: tuple[str, ...] = ()


class Dependent(Value):
    """Something else that hangs on a column: a view, materialized view, policy, rule, publication, statistics, function …

    `digest`: a hash of its definition, for views, policies and publications.
    """

    kind: str
    name: str
    columns: tuple[str, ...] = ()
    oid: int | None = None
    digest: str = ""


class Partition(Value):
    """One descendant of a partitioned table, or of one that others inherit from.

    Parameters
    ----------
    kind: "partition" (it holds rows), "partitioned table" (it has partitions of its own), "child table" or "foreign table".
    own: what it has of its own on its columns: indexes, constraints, defaults … that the table above it has not.
    triggers: those that it has of its own.
    columns: its live columns, in order.
    parents: the tables that it inherits from directly.
    """

    name: QualifiedName
    oid: int
    kind: TableKind
    owner: str
    may_alter: bool
    own: tuple[Dependent, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    columns: tuple[str, ...] = ()
    parents: tuple[QualifiedName, ...] = ()


class Route(Value):
    """A trigger of a parent of inheritance that inserts rows elsewhere.

    listed: the tables of the tree into which its function inserts by a list of columns, as far as its words tell.
    """

    trigger: str
    function: str
    listed: str = ""


class Table(Value):
    """One table as it stands."""

    name: QualifiedName
    oid: int
    kind: TableKind
    owner: str
    may_alter: bool  # whether the connected role is, or is a member of, the owner
    columns: tuple[Column, ...]
    constraints: tuple[Constraint, ...] = ()
    indexes: tuple[Index, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    rules: tuple[Rule, ...] = ()
    dependents: tuple[Dependent, ...] = ()
    referenced_by: tuple[Constraint, ...] = ()
    rows: float = 0  # reltuples, -1 if never analysed
    bytes: int = 0  # pg_table_size
    row_security: bool = False
    granted: tuple[str, ...] = ()
    """The roles besides the owner that may read or write it, or a column of it, and have no such right on each new table of ours; PUBLIC is everybody."""
    comment: str | None = None
    partitions: tuple[Partition, ...] = ()
    """Every descendant of a partitioned table, or of one that others inherit from, in the server's order of their numbers."""
    partition_key: tuple[str, ...] = ()
    """Columns that decide in which partition a row is, at any level."""
    partition_expressions: bool = False
    """Whether some level decides by an expression, so that no unique index can be had."""

    parents: tuple[QualifiedName, ...] = ()
    """The tables that it inherits from directly."""
    routes: tuple[Route, ...] = ()
    """Of a table that others inherit from."""

    @property
    def partitioned(self) -> bool:
        """Whether its rows are in partitions."""
        return self.kind is TableKind.PARTITIONED

    @property
    def has_children(self) -> bool:
        """Whether other tables inherit from it, so that some of its rows are theirs."""
        return self.kind is TableKind.INHERITED and bool(self.partitions)

    def column(self, name: str) -> Column | None:
        """The column called `name`, or None."""
        return next((c for c in self.columns if c.name == name), None)

    @property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns, else those of the first valid NOT NULL unique constraint or index, else nothing."""
        primary = next((c.columns for c in self.constraints if c.kind == "primary key"), None)
        if primary:
            return primary
        required = {c.name for c in self.columns if c.not_null}
        unique = [
            c.columns for c in self.constraints if c.kind == "unique" and required.issuperset(c.columns)
        ]
        return min(unique, key=len, default=())
