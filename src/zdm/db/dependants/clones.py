"""Empty temporary copies of tables, on which the server itself rewrites what mentions their columns.

A copy has its table's name, and the successors' types under the old names. Temporary tables are found first, so what the
server deparsed with unqualified names can be created on the copies as it stands; then the copies' columns get the
successors' names, and what the server deparses now reads the successors. No SQL is searched and replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from zdm.db.session import Connection, fetch_value, search_path_of
from zdm.model.names import QualifiedName
from zdm.model.requests import CarriedColumn, ReplacedTable

_PINNED = ("pg_catalog", "pg_temp")


class CannotFollowError(Exception):
    """The definition cannot be spelled for the new column; the text says why."""


@dataclass(slots=True)
class Clones:
    """The copies in one transaction that is rolled back.

    Parameters
    ----------
    schemas: of everything that must be found unqualified, the copies' originals first.
    """

    conn: Connection
    schemas: tuple[str, ...]

    @classmethod
    def of(
        cls,
        conn: Connection,
        replaced: Sequence[ReplacedTable],
        *,
        others: Iterable[QualifiedName] = (),
        schemas: Iterable[str] = (),
    ) -> Clones:
        """Make the copies.

        Parameters
        ----------
        others: further tables that are needed as copies, with their columns as they are.
        schemas: further schemas whose names must be found unqualified.
        """
        names = list(dict.fromkeys([r.table for r in replaced] + list(others)))
        bare = [n.name for n in names]
        for twice in (b for b in bare if bare.count(b) > 1):
            raise CannotFollowError(f"two tables called {twice} take part, in different schemas")
        made = cls(conn, tuple(dict.fromkeys([n.schema_ for n in names] + list(schemas))))
        made.reading_originals()
        columns = {r.table: r.columns for r in replaced}
        for name in names:
            made._copy(name, columns.get(name, ()))
        return made

    def _copy(self, name: QualifiedName, columns: Sequence[CarriedColumn]) -> None:
        copy = sql.Identifier("pg_temp", name.name)
        self.conn.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP").format(
                sql.Identifier(name.name), sql.Identifier(name.schema_, name.name)
            )
        )
        for column in columns:
            retype(self.conn, copy, column)
        # A view may group by the key alone.
        key = fetch_value(
            self.conn,
            "SELECT pg_get_constraintdef(c.oid) FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid"
            " JOIN pg_namespace n ON n.oid = t.relnamespace WHERE n.nspname = %s AND t.relname = %s AND c.contype = 'p'",
            (name.schema_, name.name),
        )
        if key is not None:
            self.conn.execute(sql.SQL("ALTER TABLE {} ADD {}").format(copy, sql.SQL(key)))

    def reading_originals(self) -> None:
        """Let the server spell names of the originals: unqualified."""
        self.conn.execute(search_path_of([*self.schemas, "pg_temp"]))

    def reading_copies(self) -> None:
        """Let unqualified names mean the copies, both ways."""
        self.conn.execute(search_path_of(["pg_temp", *self.schemas]))

    def rename(self, replaced: Sequence[ReplacedTable]) -> None:
        """Give every replaced column of the copies its successor's physical name."""
        for each in replaced:
            rename(self.conn, sql.Identifier("pg_temp", each.table.name), each.columns)

    def under_path(self, *statements: str) -> tuple[str, ...]:
        """The statements, run so that their unqualified names mean the originals, as they were when this was spelled."""
        path = search_path_of([*self.schemas, "pg_temp"]).as_string(None)
        back = search_path_of(_PINNED).as_string(None)
        return (path, *statements, back)


def retype(conn: Connection, copy: sql.Identifier, column: CarriedColumn) -> None:
    """Give a column of an empty copy its successor's type and collation. Both were spelled by the server."""
    collation = sql.SQL(" COLLATE {}").format(sql.SQL(column.collation)) if column.collation else sql.SQL("")
    conn.execute(
        sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {}{} USING NULL").format(
            copy, sql.Identifier(column.old), sql.SQL(column.type), collation
        )
    )


def rename(conn: Connection, copy: sql.Identifier, columns: Sequence[CarriedColumn]) -> None:
    """Give every replaced column of a copy its successor's physical name; one may take the old name of another."""
    rename_columns(conn, copy, [(column.old, column.new) for column in columns])


def rename_columns(conn: Connection, copy: sql.Identifier, names: Sequence[tuple[str, str]]) -> None:
    """Give columns of a copy other names, all at once."""
    for number, (old, _) in enumerate(names):
        _rename(conn, copy, old, f"_zdm_between_{number}")
    for number, (_, new) in enumerate(names):
        _rename(conn, copy, f"_zdm_between_{number}", new)


def _rename(conn: Connection, copy: sql.Identifier, old: str, new: str) -> None:
    conn.execute(
        sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
            copy, sql.Identifier(old), sql.Identifier(new)
        )
    )
