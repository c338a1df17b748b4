"""Rows of several old tables in one, where the new version may write some that no old table can hold: in its own, or in any.

What tells rows apart is part of the key, so that each row is one mapping's, and a row that is given to another table is another one there. A row that
is no table's is recorded by the first of the mappings. The rest is as in `zdm.sql.row_record` and `zdm.sql.row_union`.
"""

from __future__ import annotations

from psycopg import sql

from zdm.sql import row_conditions
from zdm.sql.identifiers import all_of, any_of, column, comma, key_type
from zdm.sql.records import RECORDS, entry, recorded
from zdm.sql.row_objects import Function, Trigger, failure_key
from zdm.sql.row_record import RecordObjects
from zdm.sql.row_union import UnionObjects
from zdm.sql.rows import render
from zdm.sql.templates import dollar_quoted, load


class RecordedUnion(RecordObjects, UnionObjects):
    """Everything that mirrors the writes of one side, and keeps the record."""

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        made = super().triggers
        if self.side == "old" or not self.mapping.foremost:
            return made
        outside = self._function_name("outside")
        was, now = (row_conditions.nobodys(self.mapping, alias) for alias in ("old", "new"))
        return (
            *made,
            self._trigger("outside", "INSERT", outside, now),
            self._trigger(
                "outside_update", "UPDATE", outside, all_of([any_of([was, now]), self._when_updated])
            ),
            self._trigger("outside_delete", "DELETE", outside, was),
        )

    def _refusing(self) -> tuple[Trigger, ...]:
        # Without a number it is refused for that.
        return ()

    def _key(self, alias: str) -> sql.Composable:
        if self.side == "new":
            return super()._key(alias)
        # As a column of the new side has them: what tells rows apart is written as a constant.
        pairs = [
            part
            for name, value, type_ in zip(
                self.yours.key, self.yours.key_values, self.yours.key_types, strict=True
            )
            for part in (
                sql.Literal(name),
                sql.SQL("CAST({} AS {})").format(render(value, alias), key_type(type_)),
            )
        ]
        return sql.SQL("pg_catalog.jsonb_build_object({})").format(comma(pairs))

    def _truncate(self) -> sql.Composable:
        if self.side == "new":
            return super()._truncate()
        kept = sql.SQL("NOT {}").format(recorded(self.mapping, self.rollout, "zdm_t"))
        return load("union_truncate").fill(
            mirrored=sql.Literal(f"{self.mapping.number}:old:*"),
            target=self.target,
            theirs=all_of([row_conditions.theirs(self.yours, "zdm_t"), kept]),
            guard=sql.Literal(f"{self.mapping.number}:new:*"),
        )

    def _no_form(self) -> Function:
        name = self._function_name("outside")
        rollout, schema, table = self._named
        definition = dollar_quoted(
            "record_outside",
            function=sql.Identifier("zdm", name),
            settings=self._settings,
            records=RECORDS,
            before=entry(self.mapping, self.rollout, failure_key(self.mine, "old")),
            nobodys=row_conditions.nobodys(self.mapping, "new"),
            rollout=rollout,
            number=sql.Literal(self.mapping.number),
            schema=schema,
            table=table,
            key=failure_key(self.mine, "new"),
            message=self._outside_said(),
            row=comma(column(name, "new") for name in self.mine.key),
        )
        return Function(name, sql.SQL(""), definition, self._label("record_outside", definition))
