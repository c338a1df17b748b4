"""The statements that settle rows which refer to a shared table: the parents of a chunk at once, then its rows."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from zdm.backfill.table import Statements, within
from zdm.model.mapping import SharedParent, TableMapping
from zdm.model.names import QualifiedName
from zdm.sql.identifiers import all_of, column, comma, qualified_name
from zdm.sql.rows import fill_assignments, has_parent, natural_key, unsettled
from zdm.sql.templates import dollar_quoted

_ROW, _WANTED = "zdm_t", "zdm_w"


class ReferenceStatements(Statements):
    """A chunk is three statements of one transaction, each of a snapshot of its own.

    1. `makes` inserts the parents that are not there. It locks no row of the table, so that whoever waits for one of them is never
       waited for. Where one of them raises they are made one by one.
    2. `fill` locks the parents, so that none is renamed or removed before the commit, then writes the rows that have theirs. Rows of
       one that somebody has renamed between the two, or is about to, are left.
    3. `rest` lets the triggers settle what is left, row by row; what they would have to wait for is left for the sweep.
    """

    def __init__(self, mapping: TableMapping, table: QualifiedName | None = None) -> None:
        super().__init__(mapping, table)
        self._groups = [(g, g.parent) for g in mapping.groups if g.parent is not None]
        given = {
            new.name: column(f"zdm_{group.number}_{n}", _WANTED)
            for group, parent in self._groups
            for n, (new, _) in enumerate(zip(group.new, parent.identity, strict=True))
        }
        self._fill = sql.SQL(fill_assignments(mapping, given).as_string(None))

    def makes(self, start: int, end: int, *, singly: bool = False) -> list[sql.Composed]:
        """What makes the parents that rows of these blocks want, and that are not there.

        Parameters
        ----------
        singly: one by one, and none for a value that raises; its rows are left.
        """
        make = self._make_singly if singly else self._make
        return [make(parent, start, end) for _, parent in self._groups]

    def _make(self, parent: SharedParent, start: int, end: int) -> sql.Composed:
        return sql.SQL("INSERT INTO {parent} ({names}) {wanted} ON CONFLICT ({names}) DO NOTHING").format(
            parent=qualified_name(parent.table),
            names=comma(column(name) for name in parent.key),
            wanted=self._missing(parent, start, end),
        )

    def _make_singly(self, parent: SharedParent, start: int, end: int) -> sql.Composed:
        return dollar_quoted(
            "reference_makes",
            wanted=self._missing(parent, start, end),
            parent=qualified_name(parent.table),
            names=comma(column(name) for name in parent.key),
            values=comma(column(f"zdm_{n}", "zdm_wanted") for n, _ in enumerate(parent.key)),
        )

    def _missing(self, parent: SharedParent, start: int, end: int) -> sql.Composed:
        """The natural keys that are wanted and not there, in an order that all workers keep."""
        names = [column(name) for name in parent.key]
        return sql.SQL(
            "SELECT DISTINCT {keys} FROM (SELECT {values} FROM ONLY {table} AS {row}"
            " WHERE {within} AND {unsettled} AND {wanted}) AS {w} WHERE NOT EXISTS (SELECT FROM {parent} AS zdm_p WHERE {alike})"
            " ORDER BY {numbers}"
        ).format(
            parent=qualified_name(parent.table),
            keys=comma(column(f"zdm_{n}", _WANTED) for n, _ in enumerate(names)),
            values=self._named(parent),
            table=self._table,
            row=sql.Identifier(_ROW),
            within=within(start, end, _ROW),
            unsettled=unsettled(self._mapping, _ROW),
            wanted=has_parent(parent.where, parent.key_values, _ROW),
            w=sql.Identifier(_WANTED),
            alike=_called(parent, "zdm_p", [column(f"zdm_{n}", _WANTED) for n, _ in enumerate(names)]),
            numbers=comma(sql.SQL(str(n + 1)) for n, _ in enumerate(names)),
        )

    @staticmethod
    def _named(parent: SharedParent) -> sql.Composed:
        return comma(
            sql.SQL("{} AS {}").format(value, column(f"zdm_{n}"))
            for n, value in enumerate(natural_key(parent, _ROW))
        )

    def fill(self, start: int, end: int, *, careful: bool) -> sql.Composed:
        """Settle what is unsettled in these blocks and has its parents."""
        if careful:
            return super().fill(start, end, careful=True)
        wanted: list[sql.Composable] = [sql.SQL("{} AS zdm_at").format(column("ctid", _ROW))]
        found: list[sql.Composable] = []
        for group, parent in self._groups:
            has = column(f"zdm_{group.number}_has")
            wants = has_parent(parent.where, parent.key_values, _ROW)
            wanted.append(sql.SQL("{} AS {}").format(wants, has))
            # One by one, by the index of the natural key: a join of what a chunk wants with the parents would go by how many rows the
            # server expects of a marker of which it has no statistics. Of rows that have no parent nothing is computed, which might raise.
            wanted += [
                sql.SQL(
                    "CASE WHEN {} THEN (SELECT {} FROM {} AS zdm_p WHERE {} FOR KEY SHARE SKIP LOCKED) END AS {}"
                ).format(
                    wants,
                    column(name, "zdm_p"),
                    qualified_name(parent.table),
                    _called(parent, "zdm_p", natural_key(parent, _ROW)),
                    column(f"zdm_{group.number}_{n}"),
                )
                for n, name in enumerate(parent.identity)
            ]
            found.append(
                sql.SQL("(NOT {} OR {} IS NOT NULL)").format(
                    column(f"zdm_{group.number}_has", _WANTED), column(f"zdm_{group.number}_0", _WANTED)
                )
            )
        return sql.SQL(
            "WITH {w} AS MATERIALIZED (SELECT {wanted} FROM ONLY {table} AS {row} WHERE {within} AND {unsettled})"
            " UPDATE ONLY {table} AS {row} SET {fill} FROM {w}"
            " WHERE {ctid} = {at} AND {within} AND {unsettled} AND {found}"
        ).format(
            w=sql.Identifier(_WANTED),
            wanted=comma(wanted),
            table=self._table,
            row=sql.Identifier(_ROW),
            within=within(start, end, _ROW),
            unsettled=unsettled(self._mapping, _ROW),
            fill=self._fill,
            ctid=column("ctid", _ROW),
            at=column("zdm_at", _WANTED),
            found=all_of(found),
        )

    def rest(self, start: int, end: int) -> sql.Composed:
        """Let the triggers settle what is left in these blocks."""
        return super().fill(start, end, careful=True)

    def ups_of(self, position: str) -> list[tuple[str, sql.Composed]]:
        """What makes the parents of the row at a position, which raises what that raises; to be rolled back. Then as ever."""
        found: list[tuple[str, sql.Composed]] = []
        for group, parent in self._groups:
            query = sql.SQL(
                "WITH zdm_made AS (INSERT INTO {parent} AS zdm_p ({names}) SELECT {values} FROM ONLY {table} AS {row}"
                " WHERE {ctid} = {position}::pg_catalog.tid AND {wanted}"
                " AND NOT EXISTS (SELECT FROM {parent} AS zdm_p WHERE {there}) RETURNING true)"
                " SELECT pg_catalog.count(*) < 0 FROM zdm_made"
            ).format(
                parent=qualified_name(parent.table),
                names=comma(column(name) for name in parent.key),
                values=self._named(parent),
                table=self._table,
                row=sql.Identifier(_ROW),
                ctid=column("ctid", _ROW),
                position=sql.Literal(position),
                wanted=has_parent(parent.where, parent.key_values, _ROW),
                there=all_of(
                    sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(name, "zdm_p"), value)
                    for name, value in zip(parent.key, natural_key(parent, _ROW), strict=True)
                ),
            )
            found.append((", ".join(new.final for new in group.new), query))
        return [*found, *super().ups_of(position)]


def _called(parent: SharedParent, alias: str, values: Sequence[sql.Composable]) -> sql.Composable:
    """The parent under this alias has this natural key."""
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(name, alias), value)
        for name, value in zip(parent.key, values, strict=True)
    )


def statements_for(mapping: TableMapping, table: QualifiedName) -> Statements:
    """The statements of a table, or of a partition of it, by what its rows refer to."""
    refers = any(group.parent is not None for group in mapping.groups)
    return (ReferenceStatements if refers else Statements)(mapping, table)
