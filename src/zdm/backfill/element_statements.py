"""The statements that make the elements of a row, and those that make a row for all rows of a key."""

from __future__ import annotations

from psycopg import sql

from zdm.backfill.row_statements import ByRowStatements, failure_of, rendered
from zdm.backfill.table import ALIAS
from zdm.model.row_mapping import RowMapping
from zdm.sql import (
    element_rows,
    group_sync,
    row_conditions,
)
from zdm.sql.identifiers import all_of, column, comma, qualified_name


class ElementStatements(ByRowStatements):
    """The same for a mapping of one row to many: row by row, since elements of a row may come while its lock is waited for.

    Rows are *unsettled* if they have elements by their own values, and none are there, unless none say what they hold as well (an
    empty text that was a column's default). They are locked against any other write, as all do who write elements of them.
    """

    def __init__(self, mapping: RowMapping, rollout: int) -> None:
        self._mapping = mapping
        self._source, self._target = qualified_name(mapping.source.table), qualified_name(mapping.new.table)
        self._key = [column(name, ALIAS) for name in mapping.source.key]
        self.promised = {}
        self.failed = failure_of(mapping, rollout)
        self._rollout = rollout
        self._lock = sql.SQL("FOR NO KEY UPDATE")
        if mapping.elements is not None and mapping.elements.one == "new":
            agree = element_rows.agreeing(mapping, rollout, ALIAS)
            self.unsettled = rendered(
                sql.SQL("CASE WHEN {} THEN false ELSE NOT {} END").format(self.failed, agree)
            )
            keys = comma(column(name, ALIAS) for name in mapping.source.key)
            self._settle = rendered(element_rows.settling_one(mapping, rollout, keys, "fill"))
            self._leave_to_log("new")
            return
        absent = sql.SQL("NOT EXISTS (SELECT FROM {} AS zdm_m WHERE {})").format(
            self._target, element_rows.belongs(mapping, "zdm_m", ALIAS)
        )
        wanted = sql.SQL("{}(ROW({}.*)::{})").format(
            element_rows.wanted_by(mapping, rollout), sql.Identifier(ALIAS), self._source
        )
        self.unsettled = rendered(
            sql.SQL("CASE WHEN {} THEN false WHEN {} THEN {} AND NOT {} ELSE false END").format(
                self.failed, absent, wanted, element_rows.agreeing(mapping, rollout, ALIAS)
            )
        )
        self._settle = rendered(element_rows.settling_many(mapping, rollout, ALIAS, "fill"))
        self._leave_to_log("old")

    def fill(self, start: int, end: int, *, careful: bool) -> sql.Composed:
        """Make the elements of the rows in these blocks that have none."""
        del careful
        return super().fill(start, end, careful=True)

    def fill_meeting(self, start: int, end: int) -> sql.Composed:
        """The same: whatever others make is met by the functions."""
        return self.fill(start, end, careful=True)

    def ups_of(self, position: str) -> list[tuple[str, sql.Composed]]:
        """What makes the elements of the row at a position; it raises what that raises. To be rolled back."""
        mapping, elements = self._mapping, self._mapping.elements
        assert elements is not None
        if elements.one == "new":
            query = sql.SQL("SELECT ({}) IS NULL FROM ONLY {} AS {} WHERE ctid = {}::pg_catalog.tid").format(
                element_rows.gathered(mapping, ALIAS),
                self._source,
                sql.Identifier(ALIAS),
                sql.Literal(position),
            )
            return [(", ".join(c.name for c in elements.held), query)]
        query = sql.SQL(
            "WITH zdm_made AS (INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {source} AS {alias}"
            " CROSS JOIN LATERAL ({split}) AS zdm_q"
            " CROSS JOIN (SELECT pg_catalog.set_config('zdm.row', {silent}, true) OFFSET 0) AS zdm_silent"
            " WHERE {alias}.ctid = {position}::pg_catalog.tid RETURNING true) SELECT pg_catalog.count(*) < 0 FROM zdm_made"
        ).format(
            target=self._target,
            columns=comma(column(name) for name in (*elements.of, *(c.name for c in elements.columns))),
            names=element_rows.elements_of(mapping, "zdm_q"),
            source=self._source,
            alias=sql.Identifier(ALIAS),
            split=element_rows.split(mapping, ALIAS),
            silent=sql.Literal(row_conditions.backfilling(mapping)),
            position=sql.Literal(position),
        )
        return [(", ".join(c.name for c in elements.columns), query)]


class GroupStatements(ByRowStatements):
    """The same where one row is made for all rows of a key. A row is *unsettled* if it has a key of which there is no row yet.

    No row of the source is locked: the row that is made is the lock of its key, and what it says is looked at once more under it.
    """

    def __init__(self, mapping: RowMapping, rollout: int) -> None:
        self._mapping = mapping
        self._source, self._target = qualified_name(mapping.old.table), qualified_name(mapping.new.table)
        self._key = [column(name, ALIAS) for name in mapping.old.key]
        self.promised = {}
        self._rollout = rollout
        self.failed = failure_of(mapping, rollout)
        absent = sql.SQL("NOT EXISTS (SELECT FROM {} AS zdm_t WHERE {})").format(
            self._target, element_rows.belongs(mapping, ALIAS, "zdm_t")
        )
        self.unsettled = rendered(
            sql.SQL("CASE WHEN {} THEN false ELSE {} END").format(
                self.failed, all_of([group_sync.keyed(mapping, ALIAS), absent])
            )
        )
        self._keys = group_sync.key_of(mapping, ALIAS)
        self._settle = rendered(element_rows.settling_one(mapping, rollout, self._keys, "fill"))
        self._leave_to_log("old")

    def fill(self, start: int, end: int, *, careful: bool) -> sql.Composed:
        """Make the rows of the keys in these blocks that have none."""
        del careful
        return self._settled(sql.SQL("{} AND {}").format(self._within(start, end), self.unsettled))

    def fill_meeting(self, start: int, end: int) -> sql.Composed:
        """The same: whatever others make is met by the function."""
        return self.fill(start, end, careful=True)

    def fill_unlocked(self, start: int, end: int, *, careful: bool, limit: int) -> sql.Composed:
        """The same for at most `limit` keys: what is locked is not the rows of these blocks."""
        del careful
        return sql.SQL("{} LIMIT {}").format(self.fill(start, end, careful=True), sql.Literal(limit))

    def _settled(self, condition: sql.Composable) -> sql.Composed:
        return sql.SQL("SELECT {} FROM ({}) AS {}").format(
            self._settle, self._distinct(condition), sql.Identifier(ALIAS)
        )

    def _distinct(self, condition: sql.Composable) -> sql.Composed:
        # In one order, so that two workers do not wait for each other.
        return sql.SQL("SELECT DISTINCT {} FROM ONLY {} AS {} WHERE {} ORDER BY {}").format(
            self._keys, self._source, sql.Identifier(ALIAS), condition, self._keys
        )

    def retry_failed(self, start: int, end: int) -> sql.Composed:
        """Try the failed keys of these blocks again."""
        return sql.SQL(
            "WITH tried AS MATERIALIZED (SELECT {} AS good FROM ({}) AS {})"
            " SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE NOT good) FROM tried"
        ).format(
            self._settle,
            self._distinct(sql.SQL("{} AND {}").format(self._within(start, end), self.failed)),
            sql.Identifier(ALIAS),
        )

    def ups_of(self, position: str) -> list[tuple[str, sql.Composed]]:
        """What makes the row of the key of the row at a position; it raises what that raises. To be rolled back."""
        mapping = self._mapping
        assert mapping.elements is not None
        named = comma(
            sql.SQL("{} AS {}").format(column(of, ALIAS), column(own))
            for of, own in zip(mapping.elements.of, mapping.new.key, strict=True)
        )
        query = sql.SQL(
            "SELECT ({}) IS NULL FROM (SELECT {} FROM ONLY {} AS {} WHERE ctid = {}::pg_catalog.tid) AS zdm_o"
        ).format(
            element_rows.gathered(mapping, "zdm_o"),
            named,
            self._source,
            sql.Identifier(ALIAS),
            sql.Literal(position),
        )
        return [(", ".join(c.name for c in mapping.elements.held), query)]
