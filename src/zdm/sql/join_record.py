"""Columns that hold what a table of their own held, where the new version may say what that table cannot hold.

The row stands in a table that both versions write, so it is the columns that are recorded, with the row's key: what the old version has not seen of it.
While they are, the other table has no row for it. The rest is as in `zdm.sql.row_record`.
"""

from __future__ import annotations

from psycopg import sql

from zdm.sql import row_conditions
from zdm.sql.identifiers import column, comma
from zdm.sql.records import CONFLICTS, recorded
from zdm.sql.row_objects import key_text
from zdm.sql.row_record import RecordObjects
from zdm.sql.templates import load


class RecordedColumns(RecordObjects):
    """Everything that mirrors the writes of one side, and keeps the record of columns that were filled."""

    @property
    def _when_updated(self) -> sql.Composable:
        return super(RecordObjects, self)._when_updated

    def _held_whole(self, alias: str) -> sql.Composable:
        """What is recorded of the new side's row."""
        names = (*self.mapping.new.key, *(c.name for c in self.mapping.new.columns))
        pairs = (part for name in names for part in (sql.Literal(name), column(name, alias)))
        return sql.SQL("pg_catalog.jsonb_build_object({})").format(comma(pairs))

    @property
    def _nothing_over(self) -> sql.Composable:
        # Emptied, it says what the old version says without a row.
        return self._forget() if self.side == "new" else sql.SQL("")

    @property
    def _recorded_there(self) -> sql.Composable:
        return recorded(self.mapping, self.rollout, "zdm_t")

    def _upsert(self) -> sql.Composable:
        if self.side == "new":
            return super()._upsert()
        return load("record_join").fill(
            target=self.target,
            match=self._match,
            recorded=self._recorded_by("zdm_at"),
            conflict=self._lost(),
            forget=self._forget(),
            keep=super()._keep(),
            fill=self._fill(),
            unmapped=super(RecordObjects, self)._unmapped(),
        )

    def _keep(self) -> sql.Composable:
        # Looked at under the lock.
        return super()._keep() if self.side == "new" else sql.SQL("")

    def _go(self) -> sql.Composable:
        if self.side == "new":
            return super()._go()
        return load("record_join_go").fill(
            target=self.target,
            match=self._match,
            clear=self._emptied(),
            holds=self._emptied_where(),
            recorded=self._recorded_there,
        )

    def _lost(self) -> sql.Composable:
        kept = comma(
            part
            for c, value in zip(self.yours.columns, self._values, strict=True)
            for part in (sql.Literal(c.name), value)
        )
        return sql.SQL(
            "      INSERT INTO {} (rollout, schema_name, table_name, key, won, lost, kept, reason)\n"
            "      SELECT {}, {}, {}, {}, 'old', {}, pg_catalog.jsonb_build_object({}),\n"
            "        'the row had no old form, until the old version made one of the same key' FROM {} AS zdm_t WHERE {};"
        ).format(
            CONFLICTS,
            *self._named,
            key_text(self.yours, "zdm_t"),
            self._held_whole("zdm_t"),
            kept,
            self.target,
            self._match,
        )

    def _truncate(self) -> sql.Composable:
        if self.side == "new":
            return super()._truncate()
        return load("record_join_truncate").fill(
            target=self.target,
            guard=sql.Literal(f"{self.mapping.number}:new:*"),
            clear=row_conditions.cleared(self.yours, "zdm_t"),
            holds=row_conditions.holds(self.yours, "zdm_t"),
            recorded=self._recorded_there,
        )
