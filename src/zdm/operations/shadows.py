"""A table that stands in for another one until it takes its name: what the operation found out, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from psycopg import sql

from zdm.model.names import QualifiedName
from zdm.model.requests import CarryRequest
from zdm.model.table import Column, Constraint, Table
from zdm.operations import ddl


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition to make: its name, and what CREATE TABLE says of its bounds."""

    name: QualifiedName
    bounds: sql.Composed | sql.SQL

    def create(self, of: QualifiedName) -> str:
        """The statement that makes it."""
        return ddl.text(
            "CREATE TABLE {p} PARTITION OF {t} {bounds}",
            p=ddl.table(self.name),
            t=ddl.table(of),
            bounds=self.bounds,
        )


@dataclass(frozen=True, slots=True)
class ShadowColumn:
    """One column of the new table.

    Parameters
    ----------
    source: the old table's column that it goes on from; None for one that is added.
    value / back: its value over the old row, and the old column's over the new one; None where nothing is mapped.
    """

    name: str
    type: str
    not_null: bool
    default: str | None = None
    collation: str | None = None
    source: Column | None = None
    value: str | None = None
    back: str | None = None


@dataclass(frozen=True, slots=True)
class ShadowIndex:
    """An index to build once the rows are there: one that is carried over, or a unique constraint's.

    Parameters
    ----------
    carry: the key of the request for what follows ``ON table``; or `body`, if nothing has to be asked.
    constraint: it belongs to a unique constraint of its name, whose timing is `timing`.
    """

    name: str
    carry: str = ""
    body: str = ""
    unique: bool = False
    constraint: bool = False
    timing: str = ""


@dataclass(slots=True)
class Shadow:
    """One old table and the one that follows it, which has the same name in a schema of its own until cleanup.

    Parameters
    ----------
    key: the new table's primary key.
    named: the columns by which rows belong together; unique on both sides, or, of rows that are synced by log, on the old one.
    logged: its rows are synced by log.
    extra_index: the name of the unique index over them that the old table gets; None if it has one.
    create: the statements that make the table and its partitions.
    carries: what the server is asked to spell; the answers come with `Context.carried`.
    own / others: foreign keys of the table, and of other tables (by whose they are) that point at it.
    dressed: statements that give it what is not in its definition.
    """

    old: Table
    name: QualifiedName
    label: str
    key: tuple[str, ...]
    named: tuple[str, ...]
    columns: tuple[ShadowColumn, ...]
    logged: bool = False
    create: list[str] = field(default_factory=list)
    partitioned: bool = False
    partitions: tuple[Partition, ...] = ()
    complete: bool = True
    extra_index: str | None = None
    indexes: list[ShadowIndex] = field(default_factory=list)
    carries: list[CarryRequest] = field(default_factory=list)
    own: list[Constraint] = field(default_factory=list)
    others: list[tuple[Table, Constraint]] = field(default_factory=list)

    @property
    def schema(self) -> str:
        """The schema that holds it until cleanup."""
        return self.name.schema_

    @property
    def numbered(self) -> tuple[Column, ...]:
        """The old table's identity columns that the new one goes on with."""
        return tuple(c.source for c in self.columns if c.source is not None and c.source.identity)


def carry_key(table: QualifiedName, what: str) -> str:
    """The key of a request for a shadow of `table`; no other operation's looks like it."""
    return f"shadow/{table}/{what}"


def literal(name: QualifiedName) -> sql.Literal:
    """A qualified name as a string that is cast to regclass."""
    return sql.Literal(ddl.table(name).as_string(None))
