"""The statements that make the rows of a row mapping, by blocks of the old side's table; as `zdm.backfill.table.Statements`."""

from __future__ import annotations

from typing import Literal

from psycopg import sql

from zdm.backfill.counted import Counting, before
from zdm.backfill.table import ALIAS, column_text, within
from zdm.model.names import QualifiedName
from zdm.model.row_mapping import RowMapping
from zdm.sql import (
    row_conditions,
    row_log,
    row_objects,
    row_write,
)
from zdm.sql.identifiers import all_of, any_of, column, comma, qualified_name, trusted
from zdm.sql.rows import render

MOST_LEFT = 1000
"""Blocks with rows that are left which are told at a time."""


class RowStatements:
    """Rows are *unsettled* if they must have a row on the new side and have none, and *failed* if their mapping raised.

    Where they are not counted (`zdm.backfill.counted`) the source rows are locked FOR KEY SHARE: a row that is deleted or changes its key at the same time would leave a zombie
    otherwise; FOR SHARE where any update can take a row out of the mapping. An INSERT that meets a row which a trigger has made meanwhile is repeated with ON CONFLICT DO NOTHING: a row
    that is there is newer than the snapshot of the chunk.
    """

    locks_first = False

    def __init__(self, mapping: RowMapping, rollout: int) -> None:
        self._mapping = mapping
        self._source = qualified_name(mapping.old.table)
        self._target = qualified_name(mapping.new.table)
        self._key = [column(name, ALIAS) for name in mapping.old.key]
        self.promised: dict[str, str] = {}
        self._absent: sql.Composable = sql.SQL("NOT EXISTS (SELECT FROM {} AS zdm_t WHERE {})").format(
            self._target, row_conditions.joined(mapping, ALIAS, "zdm_t")
        )
        # A row that failed may raise again wherever it is asked about, so that is looked up first.
        self.failed = failure_of(mapping, rollout)
        self._rollout = rollout
        self._wanted = row_conditions.wanted(mapping, ALIAS)
        if mapping.logged:
            # Its row may have gone on the new side, which the old one does not know yet.
            noted = row_log.noted(mapping, rollout, mapping.old, ALIAS)
            self._wanted = all_of([self._wanted, sql.SQL("NOT {}").format(noted)])
        self.unsettled = rendered(
            sql.SQL("CASE WHEN {} THEN false ELSE {} END").format(
                self.failed, all_of([self._absent, self._wanted])
            )
        )
        # Where no index keeps a key unique, a row that others make meanwhile is not met: nobody may make one.
        self.locks_first = mapping.new.loose
        self._lock = sql.SQL("FOR SHARE" if mapping.selective or self.locks_first else "FOR KEY SHARE")
        # The triggers write the reference to what is made.
        self._one_by_one = bool(mapping.old.references)
        if self._one_by_one:
            self._lock = sql.SQL("FOR NO KEY UPDATE")
        self._values = rendered(row_conditions.insert_values(mapping.new, ALIAS))
        self._columns = rendered(row_conditions.insert_columns(mapping.new))
        self._into = rendered(
            sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {}").format(
                self._target, self._columns, self._values
            )
        )
        settle = row_write.settle(mapping, rollout, "new")
        self._settle = rendered(
            sql.SQL("{}(ROW({}.*)::{}, false, false)").format(settle, sql.Identifier(ALIAS), self._source)
        )
        if mapping.logged:
            self._settle = self._reconciled("old")

    @property
    def source(self) -> QualifiedName:
        """The table whose rows are gone through."""
        return self._mapping.source.table

    def _leave_to_log(self, side: Literal["old", "new"]) -> None:
        """Of a mapping that is synced by log: what is noted of the rows of that side is on its way, in either direction, and the rest is reconciled."""
        if not self._mapping.logged:
            return
        noted = row_log.noted(self._mapping, self._rollout, self._mapping.side(side), ALIAS)
        self.unsettled = rendered(sql.SQL("(NOT {} AND {})").format(noted, self.unsettled))
        self._settle = self._reconciled(side)

    def _reconciled(self, side: Literal["old", "new"]) -> sql.SQL:
        """Whether the row under `ALIAS`, of that side, could be brought to agree."""
        found = row_log.reconcile(self._mapping, self._rollout, side, ALIAS)
        return rendered(sql.SQL("({} OPERATOR(pg_catalog.<>) 'failed')").format(found))

    def fill(self, start: int, end: int, *, careful: bool) -> sql.Composed:
        """Make what is missing for these blocks: all at once, or row by row by the triggers' own function."""
        if careful or self._one_by_one:
            return self._settled(sql.SQL("{} AND {}").format(self._within(start, end), self.unsettled))
        return self._insert(self._within(start, end), self.absent_between(start, end))

    @property
    def counting(self) -> Counting | None:
        """How chunks are copied without locks, if the mapping allows that."""
        return (
            Counting(self._mapping, self._rollout, self._into, self._wanted)
            if self._mapping.countable
            else None
        )

    def lock(self, start: int, end: int) -> sql.Composed:
        """Lock the rows of these blocks that have none over there, before another statement looks for those."""
        return sql.SQL("SELECT FROM ONLY {} AS {} WHERE {} AND {} {}").format(
            self._source,
            sql.Identifier(ALIAS),
            self._within(start, end),
            self.absent_between(start, end),
            self._lock,
        )

    def fill_meeting(self, start: int, end: int) -> sql.Composed:
        """The same where rows may be made by others at this moment."""
        if self._one_by_one or self.locks_first or self._mapping.contested:
            # A key that another table's row has is recorded, row by row.
            return self.fill(start, end, careful=True)
        # Only where the key is met: what another constraint refuses is recorded row by row.
        return sql.SQL("{} ON CONFLICT ({}) DO NOTHING").format(
            self.fill(start, end, careful=False), comma(column(name) for name in self._mapping.new.key)
        )

    def fill_unlocked(self, start: int, end: int, *, careful: bool, limit: int) -> sql.Composed:
        """The same for at most `limit` rows that nobody else has locked."""
        del careful
        condition = sql.SQL(
            "{alias}.ctid = ANY (ARRAY(SELECT {alias}.ctid FROM ONLY {source} AS {alias} WHERE {within} AND {unsettled}"
            " LIMIT {limit} {lock} SKIP LOCKED)) AND {unsettled}"
        ).format(
            lock=self._lock,
            alias=sql.Identifier(ALIAS),
            source=self._source,
            within=self._within(start, end),
            unsettled=self.unsettled,
            limit=sql.Literal(limit),
        )
        return self._settled(condition)

    def _insert(self, condition: sql.Composable, absent: sql.Composable) -> sql.Composed:
        # The lock is taken in a subquery of its own, so that what is inserted is computed over the row as it is locked. Sorted,
        # since a join may give the rows in any order, which scatters them over the new table and its key's index.
        return sql.SQL(
            "{into} FROM ("
            "SELECT {alias}.* FROM ONLY {source} AS {alias} WHERE {condition} AND {absent} ORDER BY {key} {lock}) AS {alias}"
        ).format(
            into=self._into,
            alias=sql.Identifier(ALIAS),
            source=self._source,
            condition=condition,
            absent=absent,
            key=comma(render(value, ALIAS) for value in self._mapping.new.key_values if value.columns),
            lock=self._lock,
        )

    def absent_between(self, start: int, end: int) -> sql.Composable:
        """As `_absent`, looking no further in the other table than the keys of these blocks go.

        Otherwise the server reads all that is there already, again for each chunk. The ends are found by sorting, since not
        every type that can be a key has min() and max(); OFFSET keeps the server from going through an index of the whole table for them.
        """
        new = self._mapping.new
        key, value = next(
            (key, value) for key, value in zip(new.key, new.key_values, strict=True) if value.columns
        )
        least, greatest = (
            sql.SQL(
                "(SELECT zdm_k FROM (SELECT {value} AS zdm_k FROM ONLY {source} AS zdm_b WHERE {within} OFFSET 0) AS zdm_b ORDER BY 1 {way} LIMIT 1)"
            ).format(
                value=render(value, "zdm_b"),
                source=self._source,
                within=within(start, end, "zdm_b"),
                way=sql.SQL(way),
            )
            for way in ("ASC", "DESC")
        )
        absent = sql.SQL(
            "NOT EXISTS (SELECT FROM {} AS zdm_t WHERE {} AND {key} >= {} AND {key} <= {})"
        ).format(
            self._target,
            row_conditions.joined(self._mapping, ALIAS, "zdm_t"),
            least,
            greatest,
            key=column(key, "zdm_t"),
        )
        return all_of([absent, self._wanted])

    def _settled(self, condition: sql.Composable) -> sql.Composed:
        # Materialised, so that a row is locked before the function reads it again.
        return sql.SQL(
            "WITH {alias} AS MATERIALIZED (SELECT {alias}.* FROM ONLY {source} AS {alias} WHERE {condition} {lock})"
            " SELECT {settle} FROM {alias}"
        ).format(
            alias=sql.Identifier(ALIAS),
            source=self._source,
            condition=condition,
            settle=self._settle,
            lock=self._lock,
        )

    def retry_failed(self, start: int, end: int) -> sql.Composed:
        """Try the failed rows of these blocks again. Returns one row: how many, how many still fail."""
        return sql.SQL(
            "WITH {alias} AS MATERIALIZED (SELECT {alias}.* FROM ONLY {source} AS {alias} WHERE {within} AND {failed} {lock}"
            " SKIP LOCKED), tried AS MATERIALIZED (SELECT {settle} AS good FROM {alias})"
            " SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE NOT good) FROM tried"
        ).format(
            lock=self._lock,
            alias=sql.Identifier(ALIAS),
            source=self._source,
            within=self._within(start, end),
            failed=self.failed,
            settle=self._settle,
        )

    def left(self, start: int, end: int, since: str | None = None) -> sql.Composed:
        """Blocks of these in which some row is unsettled or failed, in order, at most `MOST_LEFT`.

        Parameters
        ----------
        since: look only at rows that a transaction has written which had not ended before this one began to be the oldest.
        """
        return sql.SQL(
            "SELECT DISTINCT (({alias}.ctid::text::pg_catalog.point)[0])::bigint FROM {found} ORDER BY 1 LIMIT {most}"
        ).format(
            alias=sql.Identifier(ALIAS),
            found=self._left_rows(self._within(start, end))
            if since is None
            else self._left_since(self._within(start, end), since),
            most=sql.Literal(MOST_LEFT),
        )

    def _left_rows(self, within: sql.Composable) -> sql.Composable:
        """Their positions, as a part of FROM: a join of both tables, and whatever is recorded as failed."""
        return sql.SQL(
            "(SELECT {ctid} FROM ONLY {source} AS {alias} WHERE {within} AND {absent} AND CASE WHEN {failed} THEN true ELSE {wanted} END"
            " UNION ALL SELECT {ctid} FROM ONLY {source} AS {alias} WHERE {within} AND {failed}) AS {alias}"
        ).format(
            ctid=column("ctid", ALIAS),
            source=self._source,
            alias=sql.Identifier(ALIAS),
            within=within,
            absent=self._absent,
            failed=self.failed,
            wanted=self._wanted,
        )

    def _left_since(self, within: sql.Composable, since: str) -> sql.Composable:
        """The same of few rows: the other table is asked for each, instead of being read in whole for a join."""
        return sql.SQL(
            "ONLY {source} AS {alias} WHERE {within}"
            " AND CASE WHEN {before} THEN false WHEN {failed} THEN true ELSE {absent} AND {wanted} END"
        ).format(
            source=self._source,
            alias=sql.Identifier(ALIAS),
            within=within,
            before=before(since),
            absent=self._absent,
            failed=self.failed,
            wanted=self._wanted,
        )

    def count_unsettled(self, start: int, end: int) -> sql.Composed:
        """How many rows of these blocks nobody has settled."""
        return sql.SQL("SELECT pg_catalog.count(*) FROM ONLY {} AS {} WHERE {} AND {}").format(
            self._source, sql.Identifier(ALIAS), self._within(start, end), self.unsettled
        )

    def samples(self, condition: sql.Composable, limit: int) -> sql.Composed:
        """Position and key of some rows that meet a condition."""
        return sql.SQL(
            "SELECT {alias}.ctid::text, ARRAY[{key}] FROM ONLY {source} AS {alias} WHERE {c} LIMIT {limit}"
        ).format(
            alias=sql.Identifier(ALIAS),
            key=comma(column_text(part) for part in self._key),
            source=self._source,
            c=condition,
            limit=sql.Literal(limit),
        )

    def ups_of(self, position: str) -> list[tuple[str, sql.Composed]]:
        """Queries of each derived column of the row at a position; they raise what its mapping raises."""
        return [
            (
                c.name,
                sql.SQL("SELECT {} IS NULL FROM ONLY {} AS {} WHERE ctid = {}::pg_catalog.tid").format(
                    render(c.value, ALIAS),
                    self._source,
                    sql.Identifier(ALIAS),
                    sql.Literal(position),
                ),
            )
            for c in self._mapping.new.columns
        ]

    def recorded(self, position: str) -> sql.Composed:
        """What was recorded of the row at a position: SQLSTATE and message, or no row."""
        failed = row_objects.failed(self._mapping, self._rollout, self._mapping.source, ALIAS)
        return sql.SQL(
            "SELECT zdm_r.sqlstate, zdm_r.message FROM ONLY {} AS {} CROSS JOIN LATERAL (SELECT zdm_f.* {}) AS zdm_r"
            " WHERE {} = {}::pg_catalog.tid"
        ).format(self._source, sql.Identifier(ALIAS), failed, column("ctid", ALIAS), sql.Literal(position))

    @staticmethod
    def _within(start: int, end: int) -> sql.Composable:
        return within(start, end, ALIAS)


class ByRowStatements(RowStatements):
    """The same where it takes a function of each row to tell whether it is settled."""

    def _left_rows(self, within: sql.Composable) -> sql.Composable:
        return sql.SQL("ONLY {} AS {} WHERE {} AND {}").format(
            self._source, sql.Identifier(ALIAS), within, any_of([self.failed, self.unsettled])
        )


def failure_of(mapping: RowMapping, rollout: int) -> sql.SQL:
    """A condition: it is recorded that the row has no form in the new version."""
    # Whether any failed is asked once: to make the key of every row to look it up would take longer than all the rest.
    return rendered(
        sql.SQL(
            "CASE WHEN (SELECT EXISTS (SELECT {failed})) THEN EXISTS (SELECT {failed} AND zdm_f.key = {key}) ELSE false END"
        ).format(
            failed=sql.SQL(
                "FROM zdm.sync_failures AS zdm_f WHERE zdm_f.rollout = {} AND zdm_f.table_oid = {}::pg_catalog.oid"
                " AND zdm_f.group_name = {}"
            ).format(sql.Literal(rollout), sql.Literal(mapping.source.oid), sql.Literal(str(mapping.id))),
            key=row_objects.failure_key(mapping.source, ALIAS),
        )
    )


def rendered(part: sql.Composable) -> sql.SQL:
    """The same as text, so that it is not composed again for each chunk."""
    return trusted(part.as_string(None))
