"""Rows of several old tables in one, synced by log: each mapping notes its own rows, which what tells them apart says, as part of the key.

A row that the new version gives to another table is one that goes, for the one mapping, and one that comes, for the other. The log has the key that the
old table's rows have; the rest is as in `zdm.sql.row_log` and `zdm.sql.row_union`.
"""

from __future__ import annotations

from psycopg import sql

from zdm.model.row_mapping import RowMapping
from zdm.sql import row_conditions, row_log
from zdm.sql.identifiers import all_of, any_of
from zdm.sql.row_log import LogObjects
from zdm.sql.row_objects import Function, Side, Trigger, name_of
from zdm.sql.row_union import UnionObjects


def function_names(mapping: RowMapping, rollout: int, side: Side) -> list[str]:
    """The functions that are made for one side, as `UnionLogObjects` makes them."""
    found = row_log.function_names(mapping, rollout, side)
    more = ("outside_new", "number_new") if side == "new" else ()
    return [*found, *(name_of(mapping, rollout, purpose) for purpose in more)]


class UnionLogObjects(LogObjects, UnionObjects):
    """Everything that notes the writes of one side; with the old side's, what brings both to agree."""

    @property
    def functions(self) -> tuple[Function, ...]:
        made = super().functions
        if self.side == "old":
            return made
        outside = (self._no_form(),) if self.mapping.foremost else ()
        return (*made, *outside, *((self._number(),) if self.mapping.numbers else ()))

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        if self.side == "old":
            return super().triggers
        log, first = self._function_name("log"), self._function_name("first")
        was, now = (row_conditions.theirs(self.mine, alias) for alias in ("old", "new"))
        inserted = all_of([*self._backfilled, now])
        made = [
            self._trigger("first", "INSERT", first, inserted),
            self._trigger("first_update", "UPDATE", first, self._came),
            self._trigger("insert", "INSERT", log, inserted),
            self._trigger("update", "UPDATE", log, any_of([was, now])),
            self._trigger("delete", "DELETE", log, was),
            self._statement_trigger(log),
            *self._refusing(),
        ]
        if self.mapping.numbers:
            unnumbered = all_of([any_of(self._unnumbered), now])
            made.append(self._before("number", self._function_name("number"), unnumbered))
        return tuple(made)

    @property
    def _came(self) -> sql.Composable:
        return self._is_theirs("new", not_in="old")

    @property
    def _went(self) -> sql.Composable:
        return self._is_theirs("old", not_in="new")

    def _is_theirs(self, alias: str, *, not_in: str) -> sql.Composable:
        """An update's row is this mapping's in one of its versions alone; never for the old side."""
        if self.side == "old":
            return sql.SQL("false")
        return sql.SQL("(COALESCE({}, false) AND NOT COALESCE({}, false))").format(
            row_conditions.theirs(self.mine, alias), row_conditions.theirs(self.mine, not_in)
        )

    def _unfilled_yet(self) -> sql.Composable:
        # One that comes from another table is looked at as one that is inserted.
        return sql.SQL("    NULL;")
