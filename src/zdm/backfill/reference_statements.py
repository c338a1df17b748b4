"""The statements that settle rows which refer to a shared table: the parents of a chunk at once, then its rows."""

from __future__ import annotations

from psycopg import sql

from zdm.backfill.table import Statements, within
from zdm.model.mapping import ColumnGroup, SharedParent, TableMapping
from zdm.model.names import QualifiedName
from zdm.sql.identifiers import all_of, column, comma, qualified_name
from zdm.sql.rows import fill_assignments, has_parent, natural_key, unsettled

_ROW, _WANTED = "zdm_t", "zdm_w"


class ReferenceStatements(Statements):
    """A chunk is three statements of one transaction, each of a snapshot of its own.

    1. `makes` inserts the parents that are not there. It locks no row of the table, so that whoever waits for one of them is never
       waited for.
    2. `fill` locks the parents, so that none is renamed or removed before the commit, then writes the rows that have theirs. Rows of
       one that somebody has renamed between the two, or is about to, are left.
    3. `rest` lets the triggers settle what is left, row by row; what they would have to wait for is left for the sweep.
    """

    def __init__(self, mapping: TableMapping, table: QualifiedName | None = None) -> None:
        super().__init__(mapping, table)
        self._groups = [(g, g.parent) for g in mapping.groups if g.parent is not None]
        given = {
            new.name: column(name, _held(group))
            for group, parent in self._groups
            for new, name in zip(group.new, parent.identity, strict=True)
        }
        self._fill = sql.SQL(fill_assignments(mapping, given).as_string(None))

    def makes(self, start: int, end: int) -> list[sql.Composed]:
        """What makes the parents that rows of these blocks want, and that are not there."""
        return [self._make(parent, start, end) for _, parent in self._groups]

    def _make(self, parent: SharedParent, start: int, end: int) -> sql.Composed:
        names = [column(name) for name in parent.key]
        return sql.SQL(
            "INSERT INTO {parent} ({names}) SELECT DISTINCT {keys} FROM (SELECT {values} FROM ONLY {table} AS {row}"
            " WHERE {within} AND {unsettled} AND {wanted}) AS {w} WHERE NOT EXISTS (SELECT FROM {parent} AS zdm_p WHERE {alike})"
            " ORDER BY {numbers} ON CONFLICT ({names}) DO NOTHING"
        ).format(
            parent=qualified_name(parent.table),
            names=comma(names),
            keys=comma(column(f"zdm_{n}", _WANTED) for n, _ in enumerate(names)),
            values=self._named(parent),
            table=self._table,
            row=sql.Identifier(_ROW),
            within=within(start, end, _ROW),
            unsettled=unsettled(self._mapping, _ROW),
            wanted=has_parent(parent.where, parent.key_values, _ROW),
            w=sql.Identifier(_WANTED),
            alike=_alike(parent, "zdm_p", _WANTED),
            numbers=comma(sql.SQL(str(n + 1)) for n, _ in enumerate(names)),
        )

    @staticmethod
    def _named(parent: SharedParent, prefix: str = "zdm_") -> sql.Composed:
        return comma(
            sql.SQL("{} AS {}").format(value, column(f"{prefix}{n}"))
            for n, value in enumerate(natural_key(parent, _ROW))
        )

    def fill(self, start: int, end: int, *, careful: bool) -> sql.Composed:
        """Settle what is unsettled in these blocks and has its parents."""
        if careful:
            return super().fill(start, end, careful=True)
        wanted: list[sql.Composable] = [sql.SQL("{} AS zdm_at").format(column("ctid", _ROW))]
        held, joins, found = [], [], []
        for group, parent in self._groups:
            mine = f"zdm_{group.number}_"
            has = has_parent(parent.where, parent.key_values, _ROW)
            wanted.append(sql.SQL("{} AS {}").format(has, column(f"{mine}has")))
            # Of rows that have no parent nothing is computed, which might raise.
            wanted += [
                sql.SQL("CASE WHEN {} THEN {} END AS {}").format(has, value, column(f"{mine}{n}"))
                for n, value in enumerate(natural_key(parent, _ROW))
            ]
            held.append(
                sql.SQL(
                    "{held} AS MATERIALIZED (SELECT {columns} FROM {parent} AS zdm_p WHERE ({key}) IN (SELECT {values} FROM {w}"
                    " WHERE {has}) FOR KEY SHARE SKIP LOCKED)"
                ).format(
                    held=sql.Identifier(_held(group)),
                    columns=comma(column(n, "zdm_p") for n in dict.fromkeys([*parent.identity, *parent.key])),
                    parent=qualified_name(parent.table),
                    key=comma(column(name, "zdm_p") for name in parent.key),
                    values=comma(column(f"{mine}{n}") for n, _ in enumerate(parent.key)),
                    w=sql.Identifier(_WANTED),
                    has=column(f"{mine}has"),
                )
            )
            joins.append(
                sql.SQL(" LEFT JOIN {} ON {}").format(
                    sql.Identifier(_held(group)), _alike(parent, _held(group), _WANTED, mine)
                )
            )
            found.append(
                sql.SQL("(NOT {} OR {} IS NOT NULL)").format(
                    column(f"{mine}has", _WANTED), column(parent.identity[0], _held(group))
                )
            )
        return sql.SQL(
            "WITH {w} AS MATERIALIZED (SELECT {wanted} FROM ONLY {table} AS {row} WHERE {within} AND {unsettled}), {held}"
            " UPDATE ONLY {table} AS {row} SET {fill} FROM {w}{joins}"
            " WHERE {ctid} = {at} AND {within} AND {unsettled} AND {found}"
        ).format(
            w=sql.Identifier(_WANTED),
            wanted=comma(wanted),
            table=self._table,
            row=sql.Identifier(_ROW),
            within=within(start, end, _ROW),
            unsettled=unsettled(self._mapping, _ROW),
            held=comma(held),
            fill=self._fill,
            joins=sql.Composed(joins),
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
                " WHERE {ctid} = {position}::pg_catalog.tid AND {wanted} ON CONFLICT ({names}) DO NOTHING RETURNING true)"
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
            )
            found.append((", ".join(new.final for new in group.new), query))
        return [*found, *super().ups_of(position)]


def _held(group: ColumnGroup) -> str:
    return f"zdm_h{group.number}"


def _alike(parent: SharedParent, mine: str, wanted: str, prefix: str = "zdm_") -> sql.Composable:
    """The parent under one alias has the natural key that is wanted under the other."""
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(name, mine), column(f"{prefix}{n}", wanted))
        for n, name in enumerate(parent.key)
    )


def statements_for(mapping: TableMapping, table: QualifiedName) -> Statements:
    """The statements of a table, or of a partition of it, by what its rows refer to."""
    refers = any(group.parent is not None for group in mapping.groups)
    return (ReferenceStatements if refers else Statements)(mapping, table)
