"""The statements that link rows to a parent that is found or made."""

from __future__ import annotations

from psycopg import sql

from zdm.backfill.row_statements import ByRowStatements, rendered
from zdm.backfill.table import ALIAS
from zdm.model.row_mapping import RowMapping
from zdm.sql import (
    parent_conditions,
    parent_sync,
)


class ParentStatements(ByRowStatements):
    """The same for a mapping of many to one: row by row, since a parent may be found, made, or waited for.

    The source rows are locked against any other write: two that write different links of one row would both stay.
    """

    def __init__(self, mapping: RowMapping, rollout: int) -> None:
        super().__init__(mapping, rollout)
        self._lock = sql.SQL("FOR NO KEY UPDATE")
        absent = sql.SQL("NOT EXISTS (SELECT FROM {} AS zdm_l WHERE {})").format(
            self._target, parent_conditions.links(mapping, "zdm_l", ALIAS)
        )
        wanted = sql.SQL("{}(ROW({}.*)::{})").format(
            parent_sync.wanted_by(mapping, rollout), sql.Identifier(ALIAS), self._source
        )
        self.unsettled = rendered(
            sql.SQL("CASE WHEN {} THEN false WHEN {} THEN {} ELSE false END").format(
                self.failed, absent, wanted
            )
        )
        self._settle = rendered(parent_sync.settling(mapping, rollout, "new", ALIAS))

    def fill(self, start: int, end: int, *, careful: bool) -> sql.Composed:
        """Link what is not linked in these blocks."""
        del careful
        return super().fill(start, end, careful=True)

    def fill_meeting(self, start: int, end: int) -> sql.Composed:
        """The same: whatever others make is met by the functions."""
        return self.fill(start, end, careful=True)

    def ups_of(self, position: str) -> list[tuple[str, sql.Composed]]:
        """The search for the parent of the row at a position; it raises what finding or making it raises."""
        parent = self._mapping.parent
        assert parent is not None
        found = parent_sync.finding(self._mapping, parent, self._rollout, ALIAS)
        query = sql.SQL("SELECT {} IS NULL FROM ONLY {} AS {} WHERE ctid = {}::pg_catalog.tid").format(
            found, self._source, sql.Identifier(ALIAS), sql.Literal(position)
        )
        return [(", ".join(parent.key), query)]
