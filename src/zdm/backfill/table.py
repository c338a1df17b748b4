"""What a backfill has to know about the table, and the statements that settle its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from zdm.catalog.backfills import Part
from zdm.db.partitions import holding
from zdm.db.session import fetch_value, transaction
from zdm.errors import BadInput, Drift
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName
from zdm.sql import children
from zdm.sql.identifiers import any_of, column, comma, qualified_name, trusted, type_name
from zdm.sql.partitions import over_family
from zdm.sql.rows import failed, fill_assignments, render, settle_assignments, unsettled

ALIAS = "zdm_s"
"""Of the table that is gone through, in statements that read another one as well."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One table that holds rows, itself or a partition, and its file at one moment.

    `rows` is the server's estimate, None if it never looked.
    """

    relation: int
    name: QualifiedName
    relfilenode: int
    blocks: int
    rows: float | None
    bytes: int

    @property
    def density(self) -> float:
        """Estimated rows in a block; a middling guess where there is no estimate."""
        return self.rows / self.blocks if self.rows and self.blocks else 60.0

    @property
    def part(self) -> Part:
        """As the catalog keeps it."""
        return Part(self.relation, self.relfilenode, self.blocks)


def shapes(conn: psycopg.Connection[Any], mapping: TableMapping) -> list[Shape]:
    """Everything that holds rows of the table, as it stands: the table itself, or its partitions.

    Raises
    ------
    Drift: it is not there any more.
    BadInput: it is of another kind than it was.
    """
    found = {leaf.oid: leaf.name for leaf in holding(conn, mapping)}
    if mapping.has_children:
        # What is filled must be kept in step from then on; a child that came without triggers is left until it has them.
        with transaction(conn, read_only=True):
            bare = {number for number, *_ in conn.execute(children.lacking(mapping)).fetchall()}
        found = {oid: name for oid, name in found.items() if oid not in bare}
    rows = conn.execute(
        """
        SELECT c.oid::int8, pg_catalog.pg_relation_filenode(c.oid)::int8,
               pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint,
               nullif(c.reltuples, -1)::float8, c.relpages, pg_catalog.pg_relation_size(c.oid), c.relkind::text
        FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s::oid[]) ORDER BY c.oid
        """,
        [sorted({mapping.oid, *found})],
    ).fetchall()
    kinds = {oid: kind for oid, *_, kind in rows}
    if mapping.oid not in kinds:
        raise Drift(f"table {mapping.table} is gone", remedy="Roll back, or restore the table.")
    if kinds[mapping.oid] != ("p" if mapping.partitioned else "r"):
        raise BadInput(
            f"{mapping.table} is not the kind of table that it was, so its rows cannot be gone through block by block"
        )
    return [
        Shape(
            relation=oid,
            name=found[oid],
            relfilenode=relfilenode,
            blocks=blocks,
            # As the planner does: the density of the last look, at the size of today.
            rows=estimate / pages * blocks if estimate and pages else None,
            bytes=size,
        )
        for oid, relfilenode, blocks, estimate, pages, size, _ in rows
        # One that was dropped between the two looks has neither file nor size.
        if oid in found and relfilenode is not None and blocks is not None
    ]


def same_parts(conn: psycopg.Connection[Any], mapping: TableMapping, found: Sequence[Shape]) -> bool:
    """Whether what holds rows of the table is what it was: the same tables, names and files."""
    now = shapes(conn, mapping)
    return {(s.relation, s.relfilenode, s.name) for s in now} == {
        (s.relation, s.relfilenode, s.name) for s in found
    }


def estimated_rows(found: Sequence[Shape]) -> float | None:
    """The server's estimate of all rows; None where it never looked at any part that has some."""
    known = [one.rows for one in found if one.rows is not None]
    return sum(known) if known else None


def may_silence(conn: psycopg.Connection[Any]) -> bool:
    """Whether our role may set session_replication_role, so that the user's triggers do not fire for us."""
    try:
        with transaction(conn, rollback=True, settings={"session_replication_role": "replica"}):
            return True
    except psycopg.errors.InsufficientPrivilege:
        return False


_FIRING = r"""
SELECT t.tgname FROM pg_catalog.pg_trigger t
WHERE t.tgparentid = 0 AND t.tgrelid IN {family} AND NOT t.tgisinternal AND t.tgname NOT LIKE '~zdm\_%'
  AND t.tgtype & 16 <> 0 AND t.tgenabled = ANY ({enabled}::"char"[])
  AND (t.tgattr = '' OR EXISTS (
    SELECT FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr) AND a.attname = ANY ({touched}::text[])))
ORDER BY t.tgname
"""


def triggers_that_fire(conn: psycopg.Connection[Any], mapping: TableMapping, *, silenced: bool) -> list[str]:
    """The user's triggers that an UPDATE of the new columns and the marker fires, by name."""
    touched = [new.name for group in mapping.groups for new in group.new] + [mapping.marker]
    rows = conn.execute(
        over_family(
            _FIRING,
            mapping.oid,
            touched=sql.Literal(touched),
            enabled=sql.Literal(["A", "R"] if silenced else ["O", "A"]),
        )
    ).fetchall()
    return [row[0] for row in rows]


_REWRITING = """
SELECT pg_catalog.format('%I on %I.%I', r.rulename, n.nspname, c.relname)
FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE r.ev_class IN {family} AND r.ev_type = '2' AND r.ev_enabled = ANY ({enabled}::"char"[]) ORDER BY 1
"""


def rules_that_apply(conn: psycopg.Connection[Any], mapping: TableMapping, *, silenced: bool) -> list[str]:
    """The user's rules that rewrite an UPDATE of ours."""
    enabled = sql.Literal(["A", "R"] if silenced else ["O", "A"])
    return [row[0] for row in conn.execute(over_family(_REWRITING, mapping.oid, enabled=enabled)).fetchall()]


def relfilenode(conn: psycopg.Connection[Any], relation: int) -> int:
    """The file of a table. Once the transaction has written to it, it cannot change before the transaction's end."""
    return int(fetch_value(conn, "SELECT pg_catalog.pg_relation_filenode(%s::oid)", [relation]) or 0)


def within(start: int, end: int, alias: str | None = None) -> sql.Composed:
    """The rows of the blocks from `start` to before `end`; PostgreSQL 14 and later read only these blocks."""
    return sql.SQL(
        "({ctid} OPERATOR(pg_catalog.>=) {start}::pg_catalog.tid AND {ctid} OPERATOR(pg_catalog.<) {end}::pg_catalog.tid)"
    ).format(ctid=column("ctid", alias), start=sql.Literal(f"({start},0)"), end=sql.Literal(f"({end},0)"))


class Statements:
    """The statements that settle rows, composed once for one mapping.

    Parameters
    ----------
    table: whose rows they settle: the table itself, or a partition of it.
    """

    def __init__(self, mapping: TableMapping, table: QualifiedName | None = None) -> None:
        self._mapping = mapping
        self._table = qualified_name(table or mapping.table)
        self._key = [column(name) for name in mapping.key]
        self.promised = {
            new.final: f"{group.old[0].name} refers to no row of {group.lookup.table}"
            if group.lookup is not None
            else f"{new.final} would be NULL, and the new version promises NOT NULL: so is {', '.join(group.copied.columns)} of its row of "
            f"{group.copied.table}, or it refers to none"
            if group.copied is not None
            else f"up of {new.final} is NULL, and the new version promises NOT NULL"
            for group in mapping.groups
            for new in group.new
            if new.not_null or group.lookup is not None
        }
        # Rendered once: composing a long SET list again for each chunk costs the client as much as a hundred rows the server.
        self._fill = _rendered(fill_assignments(mapping))
        self._settle = _rendered(settle_assignments(mapping))
        self.unsettled = _rendered(unsettled(mapping))
        self.failed = _rendered(failed(mapping))

    def _assignments(self, careful: bool) -> sql.SQL:
        # The values themselves, or nothing but a wake-up call for the triggers.
        return self._settle if careful else self._fill

    def fill(self, start: int, end: int, *, careful: bool) -> sql.Composed:
        """Settle what is unsettled in these blocks. The values are computed over each row as it is when it is locked."""
        return sql.SQL("UPDATE ONLY {} SET {} WHERE {} AND {}").format(
            self._table, self._assignments(careful), within(start, end), self.unsettled
        )

    def fill_unlocked(self, start: int, end: int, *, careful: bool, limit: int) -> sql.Composed:
        """The same for at most `limit` rows that nobody else has locked."""
        return sql.SQL(
            "UPDATE ONLY {table} SET {assignments} WHERE ctid = ANY (ARRAY("
            "SELECT ctid FROM ONLY {table} WHERE {within} AND {unsettled} LIMIT {limit} FOR NO KEY UPDATE SKIP LOCKED)) "
            "AND {unsettled}"
        ).format(
            table=self._table,
            assignments=self._assignments(careful),
            within=within(start, end),
            unsettled=self.unsettled,
            limit=sql.Literal(limit),
        )

    def retry_failed(self, start: int, end: int) -> sql.Composed:
        """Let the triggers try the failed rows of these blocks again. Returns one row: how many, how many still fail."""
        return sql.SQL(
            "WITH tried AS MATERIALIZED (UPDATE ONLY {table} SET {settle} WHERE ctid = ANY (ARRAY("
            "SELECT ctid FROM ONLY {table} WHERE {within} AND {failed} FOR NO KEY UPDATE SKIP LOCKED)) AND {failed} "
            "RETURNING {failed} AS bad) "
            "SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE bad) FROM tried"
        ).format(table=self._table, settle=self._settle, within=within(start, end), failed=self.failed)

    def left(self, start: int, end: int) -> sql.Composed:
        """The first of these blocks that is met in which some row is unsettled or failed; no row if there is none."""
        # A tid has no function that tells its block; its text is "(block,offset)", which a point reads as well.
        return sql.SQL(
            "SELECT ((ctid::text::pg_catalog.point)[0])::bigint FROM ONLY {} WHERE {} AND {} LIMIT 1"
        ).format(self._table, within(start, end), any_of([self.unsettled, self.failed]))

    def count_unsettled(self, start: int, end: int) -> sql.Composed:
        """How many rows of these blocks nobody has settled."""
        return sql.SQL("SELECT pg_catalog.count(*) FROM ONLY {} WHERE {} AND {}").format(
            self._table, within(start, end), self.unsettled
        )

    def samples(self, condition: sql.Composable, limit: int) -> sql.Composed:
        """Position and key of some rows that meet a condition."""
        key = comma([column_text(part) for part in self._key] or [sql.SQL("ctid::text")])
        return sql.SQL("SELECT ctid::text, ARRAY[{}] FROM ONLY {} WHERE {} LIMIT {}").format(
            key, self._table, condition, sql.Literal(limit)
        )

    def ups_of(self, position: str) -> list[tuple[str, sql.Composed]]:
        """For each derived new column, by its final name, a query whether the row at a position has no value for it.

        A reference to nothing is none that is missing.
        """
        return [
            (
                new.final,
                sql.SQL(
                    "SELECT CAST({} AS {}) IS NULL AND {} FROM ONLY {} WHERE ctid = {}::pg_catalog.tid"
                ).format(
                    render(new.up),
                    type_name(new.type),
                    sql.SQL("true")
                    if group.lookup is None
                    else sql.SQL("{} IS NOT NULL").format(column(group.old[0].name)),
                    self._table,
                    sql.Literal(position),
                ),
            )
            for group in self._mapping.groups
            for new in group.new
            if new.up is not None
        ]


def _rendered(part: sql.Composable) -> sql.SQL:
    return trusted(part.as_string(None))


def column_text(part: sql.Composable) -> sql.Composable:
    """A column's value as people read it."""
    return sql.SQL("{}::text").format(part)
