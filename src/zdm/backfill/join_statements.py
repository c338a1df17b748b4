"""The statements that fill columns of rows that are there."""

from __future__ import annotations

from psycopg import sql

from zdm.backfill.row_statements import ByRowStatements, rendered
from zdm.backfill.table import ALIAS
from zdm.model.row_mapping import RowMapping
from zdm.sql import (
    row_conditions,
    row_write,
)


class JoinStatements(ByRowStatements):
    """The same where rows that are there are filled. A row is unsettled if the new side's columns do not hold what it says.

    The source rows are locked against any other write, as the triggers have them: what is filled is what they say at the commit.
    """

    def __init__(self, mapping: RowMapping, rollout: int) -> None:
        super().__init__(mapping, rollout)
        self._lock = sql.SQL("FOR NO KEY UPDATE")
        stale: sql.Composable = sql.SQL("CASE WHEN {} THEN false ELSE {}(ROW({}.*)::{}) END").format(
            self.failed, row_write.stale(mapping, rollout), sql.Identifier(ALIAS), self._source
        )
        self.unsettled = rendered(stale)
        self._leave_to_log("old")

    def fill(self, start: int, end: int, *, careful: bool) -> sql.Composed:
        """Fill the rows of these blocks: all at once, or row by row by the triggers' own function."""
        # By log nobody waits for the source's row who writes what is filled: that is looked at under its own lock.
        if careful or self._mapping.logged:
            return super().fill(start, end, careful=True)
        return sql.SQL(
            "UPDATE {target} AS zdm_t SET {assign} FROM (SELECT {alias}.* FROM ONLY {source} AS {alias} WHERE {within}"
            " AND {unsettled} {lock}) AS {alias} WHERE {joined}"
        ).format(
            target=self._target,
            assign=row_conditions.assigned(self._mapping.new, ALIAS),
            alias=sql.Identifier(ALIAS),
            source=self._source,
            within=self._within(start, end),
            unsettled=self.unsettled,
            lock=self._lock,
            joined=row_conditions.joined(self._mapping, ALIAS, "zdm_t"),
        )

    def fill_meeting(self, start: int, end: int) -> sql.Composed:
        """The same: nothing is made that others could make."""
        return self.fill(start, end, careful=False)
