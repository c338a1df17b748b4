"""The functions and triggers of a mapping of many rows of the old version to one of the new, of which either version writes its own.

It is the mapping of one row to many (`zdm.sql.element_sync`) with the sides exchanged. What each version may expect stays where it was: the
old one's writes never fail, so that elements which have no form in their row are recorded, and the row is left as it is; what the new
version writes to the row and no elements can hold is refused.
"""

from __future__ import annotations

from psycopg import sql

from zdm.sql.element_rows import (
    belongs,
    elements_of,
    is_said,
    same_element,
    split,
    unlike,
)
from zdm.sql.gathered_sync import GatheredObjects
from zdm.sql.identifiers import all_of, column
from zdm.sql.row_objects import Function, Trigger, equal, failed, same_key
from zdm.sql.templates import load


class CollapsedObjects(GatheredObjects):
    """Everything that watches one of the two sides."""

    @property
    def functions(self) -> tuple[Function, ...]:
        if self.side == "new":
            # What either side's triggers call is made with the new one, which comes first.
            return (self._agree(), self._gather(), self._settle_many(), self._on(self._on_one()))
        return (self._enter(), self._on(self._on_many()))

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        # As where both sides are written.
        return super(GatheredObjects, self).triggers

    def _taking_away(self) -> tuple[Trigger, ...]:
        # What is not filled is the row, and never its elements.
        return ()

    # --- the row says what its elements say -----------------------------------------------------------------------------

    def _whole(self) -> sql.Composable:
        return sql.SQL(
            "      SELECT zdm_s.* INTO zdm_row FROM {one} AS zdm_s WHERE {own_key};\n"
            "      IF NOT {agree} THEN\n"
            "        RAISE check_violation USING MESSAGE = pg_catalog.format({message}, zdm_mine);\n"
            "      END IF;"
        ).format(
            one=self.tables["one"],
            own_key=self._of_one()["own_key"],
            agree=self._agrees("zdm_row"),
            message=sql.Literal(
                f"the rows of {self._many} that belong to %s have no form in {self._one}: others would come back"
            ),
        )

    def _enter(self) -> Function:
        return self._made(
            "enter",
            "element_lock",
            sql.SQL(""),
            settings=self._settings,
            one=self.tables["one"],
            guard=self._guard(self._of_element("new")),
            own_key=equal(self.one.key, "zdm_s", self.elements.of, "new"),
        )

    # --- the elements are what the row says -----------------------------------------------------------------------------

    def _on_one(self) -> dict[str, sql.Composable]:
        held = [c.name for c in self.elements.held]
        return {
            **super()._on_one(),
            # Only what the elements say together is written by the new version; all else follows from them.
            "updated": sql.SQL(
                "    IF {} THEN\n{}\n    END IF;\n    IF {} THEN\n      PERFORM {}(NEW, OLD, 'update');\n"
                "    ELSE\n      PERFORM {}({}, 'follow');\n    END IF;"
            ).format(
                self._changed(self.one.key),
                self._moving(),
                self._changed(held),
                self._called(f"settle_{self.elements.many}"),
                self._called(f"settle_{self.elements.one}"),
                self._key("new"),
            ),
            # What becomes of the elements their foreign key says, which the old version counts on, be it that it refuses.
            "deleted": sql.SQL("    DELETE {};").format(failed(self.mapping, self.rollout, self.one, "old")),
        }

    def _added(self, alias: str) -> sql.Composed:
        there = all_of(
            [
                belongs(self.mapping, "zdm_t", alias),
                same_element(self.mapping, "zdm_t", "zdm_q"),
                sql.SQL("NOT {}").format(unlike(self.mapping, "zdm_t", "zdm_q")),
            ]
        )
        return sql.SQL(
            "SELECT {} FROM ({}) AS zdm_q WHERE NOT EXISTS (SELECT FROM {} AS zdm_t WHERE {})"
        ).format(elements_of(self.mapping, "zdm_q"), split(self.mapping, alias), self.tables["many"], there)

    def _over(self) -> sql.Composable:
        unsaid = load("element_unsaid").fill(
            keys=sql.SQL("\n").join(
                sql.SQL("          {} := {};").format(column(name, "zdm_was"), column(name, "zdm_at"))
                for name in self.one.key
            ),
            filled=self._filled(self.mapping.id),
            failure=failed(self.mapping, self.rollout, self.one, "zdm_at"),
            agree=self._agrees("zdm_was"),
            not_filled=sql.Literal(
                f"the row %s is not filled yet: {self._many} has rows of it that say otherwise, which would be overwritten"
            ),
            no_form=sql.Literal(
                f"the row %s belongs to rows of {self._many} that have no form in {self._one}"
            ),
        )
        return sql.Composed([unsaid, sql.SQL("\n"), super()._over()])

    def _fail(self) -> sql.Composable:
        return sql.SQL("          RAISE;")

    def _back(self) -> sql.Composable:
        said = sql.SQL("true") if self.elements.lossy else is_said(self.mapping, "zdm_row", self.rollout)
        return load("element_said").fill(
            agree=self._agrees("zdm_row"),
            settle_one=self._called(f"settle_{self.elements.one}"),
            keys=self._key("zdm_row"),
            one=self.tables["one"],
            own_key=same_key(self.one, "zdm_s", "zdm_at"),
            said=said,
            no_form=sql.Literal(
                f"the row %s of {self._one} has no form in {self._many}, whose rows would say something else of it"
            ),
        )

    # --- for messages ---------------------------------------------------------------------------------------------------

    @property
    def _many(self) -> str:
        return str(self.many.table).replace("%", "%%")

    @property
    def _one(self) -> str:
        return str(self.one.table).replace("%", "%%")
