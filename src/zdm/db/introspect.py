"""Reading what a table is from the catalogs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zdm.db.session import Connection
from zdm.model.mapping import Comparison
from zdm.model.names import QualifiedName
from zdm.model.table import Table


def read_table(conn: Connection, name: QualifiedName) -> Table | None:
    """The table, view … called `name` as it stands, or None if there is none."""
    raise NotImplementedError


def read_tables(conn: Connection, names: Iterable[QualifiedName]) -> dict[QualifiedName, Table]:
    """Those of `names` that exist, all read in one snapshot."""
    raise NotImplementedError


def columns_exist(conn: Connection, table: QualifiedName, columns: Iterable[str]) -> dict[str, bool]:
    """Whether each column exists; all False if the table does not."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ResolvedType:
    """A type as the server names it. `name` is qualified unless it is in pg_catalog, and keeps the typmod."""

    name: str
    oid: int
    typmod: int
    kind: str  # as Column.type_kind
    collatable: bool


def resolve_type(conn: Connection, text: str, target_schema: str = "public") -> ResolvedType:
    """The type written as `text`, unqualified names looked up in `target_schema`, then public. Raises BadInput if there is none."""
    raise NotImplementedError


def type_exists(conn: Connection, text: str, target_schema: str = "public") -> bool:
    """Whether `resolve_type` finds a type."""
    raise NotImplementedError


def type_comparison(conn: Connection, type_: str, collation: str | None = None) -> Comparison:
    """How values of the type (canonical text, as `resolve_type` gives it) are told apart."""
    raise NotImplementedError


def rewrite_free(conn: Connection, old_type: str, new_type: str) -> bool:
    """Whether ALTER COLUMN TYPE from old to new leaves the table's file alone whatever the session's settings are."""
    raise NotImplementedError
