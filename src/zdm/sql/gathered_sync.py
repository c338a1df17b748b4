"""The functions and triggers of a mapping of many rows to one: what they say together is held by a row of the new side."""

from __future__ import annotations

from psycopg import sql

from zdm.model.row_mapping import ElementColumn
from zdm.sql.element_rows import (
    JOINED,
    agreeing,
    as_stored,
)
from zdm.sql.element_sync import ElementObjects
from zdm.sql.identifiers import all_of, any_of, column, comma, differs, without_length
from zdm.sql.row_objects import (
    Function,
    Trigger,
    failed,
    record_failure,
    same_key,
)
from zdm.sql.rows import render
from zdm.sql.templates import load


class GatheredObjects(ElementObjects):
    """The same where the new version's row follows from rows of the old one, and nothing goes back."""

    @property
    def functions(self) -> tuple[Function, ...]:
        if self.side == "new":
            return (self._agree(), self._gather(), self._follow())
        return (self._on(self._on_many()),)

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        on = self._named(f"on_{self.side}")
        if self.side == "new":
            return (
                self._trigger("insert", "INSERT", on),
                self._trigger("update", "UPDATE", on, self._changed(self._reads)),
            )
        return (
            self._trigger("insert", "INSERT", on),
            self._trigger("update", "UPDATE", on, self._changed(self._reads)),
            self._trigger("delete", "DELETE", on),
            self._statement_trigger(on),
        )

    def _gather(self) -> Function:
        pieces = self._of_one()
        return self._made(
            "settle_new",
            "element_gather",
            self._takes,
            **{name: pieces[name] for name in _GATHERING},
            all=self.others,
            whole=self._whole(),
            fail=record_failure(self.mapping, self.rollout, self.one, "zdm_row"),
            forget=sql.SQL("  DELETE {};").format(failed(self.mapping, self.rollout, self.one, "zdm_row")),
            ended=sql.SQL("    DELETE {};").format(
                failed(self.mapping, self.rollout, self.one, "", self._arguments)
            ),
        )

    def _whole(self) -> sql.Composable:
        """What comes once the row is written."""
        return sql.SQL("")

    def _follow(self) -> Function:
        held = [c.name for c in self.elements.held]
        return self._made(
            "on_new",
            "element_follow",
            sql.SQL(""),
            settings=self._settings,
            one=self.tables["one"],
            guard=self._guard(self._key("new")),
            empty=all_of(sql.SQL("({} IS NULL)").format(column(name, "new")) for name in held),
            settle=self._called("settle_new"),
            keys=self._key("new"),
            changed=self._changed(held),
            own_key=same_key(self.one, "zdm_s", "new"),
            agree=self._agrees("zdm_row"),
            append=self._append(),
            message=sql.Literal(
                f"{', '.join(held)} of %s follows from {self.many.table}, which has no row that would say so"
            ),
            hint=self._hint,
        )

    @property
    def _hint(self) -> sql.Literal:
        """What to do instead of writing what follows."""
        if self.elements.append:
            return sql.Literal(
                f"A row of {self.many.table} was made of it, which must come last and say all of it; what several rows say together is not written."
            )
        return sql.Literal(
            f"Until cleanup write rows of {self.many.table}, or a rollback would lose it; `write_back` in the migration does so."
        )

    def _append(self) -> sql.Composable:
        """What makes a row of the old version of what the new one has written, if that is wanted."""
        elements = self.elements
        if not elements.append:
            return sql.SQL("")
        pieces = self._of_one()
        return load("element_append").fill(
            wanted=any_of(self._said(c) for c in elements.held if c.name in elements.written),
            many=self.tables["many"],
            columns=comma(column(name) for name in (*elements.of, *(name for name, _ in elements.append))),
            values=comma(
                [
                    *(column(name, "zdm_row") for name in self.one.key),
                    *(render(value, "zdm_row") for _, value in elements.append),
                ]
            ),
            one=self.tables["one"],
            own_key=same_key(self.one, "zdm_s", "new"),
            join=pieces["join"],
            kept=self._kept(),
            assign=pieces["assign"],
        )

    @staticmethod
    def _said(c: ElementColumn) -> sql.Composable:
        """A condition over the rows of a trigger: the statement has written the column."""
        old, new = column(c.name, "old"), column(c.name, "new")
        return sql.SQL("(CASE TG_OP WHEN 'INSERT' THEN {} IS NOT NULL ELSE {} END)").format(
            new, differs(old, new, c.comparison, c.type)
        )

    def _kept(self) -> sql.Composable:
        """A condition over the row and what all rows say of it: of what the statement has written they say the same."""
        found: list[sql.Composable] = []
        for number, c in enumerate(self.elements.held):
            type_ = without_length(c.type)
            other = differs(column(c.name, "zdm_row"), as_stored(number, c, JOINED), c.comparison, type_)
            written = c.name in self.elements.written
            found.append(sql.SQL("NOT {}").format(other if written else all_of([self._said(c), other])))
        return all_of(found)

    def _on_many(self) -> dict[str, sql.Composable]:
        return {
            **super()._on_many(),
            "truncated": sql.SQL("    PERFORM {}({}, 'follow') FROM {} AS zdm_s WHERE NOT {};").format(
                self._called("settle_new"),
                self._key("zdm_s"),
                self.tables["one"],
                agreeing(self.mapping, self.rollout, "zdm_s"),
            ),
        }


_GATHERING = ("one", "many", "arguments", "guard", "own_key", "match", "agree", "touch", "assign", "join")
