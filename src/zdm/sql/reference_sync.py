"""The functions and triggers of a mapping of many to one where the source's row itself refers to the parent.

The table's own triggers keep both sides of a row in step (`zdm.sql.sync`); what is here is what they call to go from one side to the
other, and what carries a parent's change to the rows that have it. All take the whole row of the source:

* ``take``: the parent by the old version's values, found or made;
* ``held``: whether the row refers to that one;
* ``back``: the row with the old version's values as its reference says.

Each locks the parent FOR KEY SHARE, as the foreign key does afterwards.
"""

from __future__ import annotations

from psycopg import sql

from zdm.model.mapping import TOGGLE, ColumnGroup, SharedParent, TableMapping
from zdm.model.row_mapping import RowMapping, UnusedParents
from zdm.sql.identifiers import all_of, any_of, column, comma, qualified_name
from zdm.sql.parent_conditions import PARENT_ALIAS, back, empty_with, refers, same_natural, wants
from zdm.sql.parent_sync import ParentObjects
from zdm.sql.row_objects import Function, Side, Trigger, name_of
from zdm.sql.rows import REPAIR
from zdm.sql.sync_conditions import calls_of
from zdm.sql.templates import load

_NO_OLD_FORM = "Until cleanup every row must have an old form, or a rollback would lose it."


def function_names(mapping: RowMapping, rollout: int, side: Side) -> list[str]:
    """The functions that are made for one side."""
    purposes = ("find", "wanted", "take", "held", "back", "on_old") if side == "old" else ("on_parent",)
    return [name_of(mapping, rollout, purpose) for purpose in purposes]


def taken(
    mapping: TableMapping, group: ColumnGroup, parent: SharedParent, rollout: int, alias: str
) -> dict[str, sql.Composable]:
    """What the new columns of a row get, by their names, over a table's alias; a parent that is not there is made."""
    row = sql.SQL("ROW({}.*)::{}").format(sql.Identifier(alias), qualified_name(mapping.table))
    call = sql.SQL("{}({})").format(calls_of(parent, rollout, "take"), row)
    return {
        new.name: sql.SQL("({}).{}").format(call, sql.Identifier(name))
        for new, name in zip(group.new, parent.identity, strict=True)
    }


class ReferenceObjects(ParentObjects):
    """Everything that watches the parents (`parent`), and what the source's own triggers call (`old`)."""

    @property
    def functions(self) -> tuple[Function, ...]:
        if self.side == "parent":
            return (self._on(),)
        made = (self._find(), self._wanted(), self._take(), self._held(), self._back())
        return (*made, self._on()) if self._releases else made

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        on = self._named(f"on_{self.side}")
        if self.side == "parent":
            return (self._trigger("update", "UPDATE", on, self._changed(self._reads)),)
        if not self._releases:
            return ()
        had = sql.SQL("NOT {}").format(self._none("old"))
        marker = column(self.parent.marker, "new")
        let_go = all_of(
            [
                had,
                self._changed(self.parent.reference),
                sql.SQL("(({} OPERATOR(pg_catalog.&) {}) OPERATOR(pg_catalog.=) 0)").format(
                    marker, sql.Literal(self.parent.bit)
                ),
            ]
        )
        return (self._trigger("update", "UPDATE", on, let_go), self._trigger("delete", "DELETE", on, had))

    @property
    def _releases(self) -> bool:
        return self.parent.unused is UnusedParents.REMOVE

    def _none(self, row: str) -> sql.Composable:
        """The row refers to no parent."""
        return any_of(sql.SQL("({} IS NULL)").format(column(name, row)) for name in self.parent.reference)

    def _referred(self, row: str) -> sql.Composable:
        """A condition over a row of the source and the parent: the one refers to the other."""
        return refers(self.parent, row, PARENT_ALIAS)

    def _take(self) -> Function:
        return self._made(
            "take",
            "reference_take",
            self.names["source"],
            source=self.names["source"],
            parent=self.names["parent"],
            declare=self._variables,
            wanted=wants(self.mapping, self.parent, "zdm_row"),
            compute=self._compute("zdm_row"),
            find=self._found,
        )

    def _held(self) -> Function:
        return self._made(
            "held",
            "reference_held",
            self.names["source"],
            source=self.names["source"],
            parent=self.names["parent"],
            declare=self._variables,
            wanted=wants(self.mapping, self.parent, "zdm_row"),
            compute=self._compute("zdm_row"),
            none=self._none("zdm_row"),
            is_named=all_of([self._referred("zdm_row"), self._is_called]),
        )

    def _back(self) -> Function:
        mapping, parent = self.mapping, self.parent
        return self._made(
            "back",
            "reference_back",
            self.names["source"],
            source=self.names["source"],
            parent=self.names["parent"],
            none=self._none("zdm_row"),
            clear=sql.SQL("\n").join(
                sql.SQL("    zdm_row.{} := {};").format(column(c.name), empty_with(c, "zdm_row"))
                for c in mapping.old.columns
            ),
            referred=self._referred("zdm_row"),
            no_parent=sql.Literal(f"there is no such row in {parent.table}"),
            belongs=same_natural(mapping, parent, "zdm_row", "zdm_parent", held=False),
            stranger=sql.Literal(self._stranger),
            assign=sql.SQL("\n").join(
                sql.SQL("  zdm_row.{} := {};").format(column(c.name), back(c.value, "zdm_row", "zdm_parent"))
                for c in mapping.old.columns
            ),
        )

    def _on_source(self) -> dict[str, sql.Composable]:
        nothing = sql.SQL("    NULL;")
        released = load("reference_released").fill(
            parent=self.names["parent"],
            source=self.names["source"],
            referred=self._referred("old"),
            users=refers(self.parent, "zdm_s", PARENT_ALIAS),
            # The plan's name of the table, also while that is set aside.
            filled=self._filled(self.mapping.new.table),
            kept=self._spreading(self.mapping.old.table),
        )
        return {"inserted": nothing, "updated": released, "deleted": released, "truncated": nothing}

    def _on_parent(self) -> dict[str, sql.Composable]:
        nothing = sql.SQL("    NULL;")
        # Their own triggers find that they say what their parent says.
        follow = sql.SQL("    UPDATE {} AS zdm_s SET {} WHERE {};").format(
            self.names["source"],
            comma(
                sql.SQL("{} = {}").format(column(c.name), back(c.value, "zdm_s", "new"))
                for c in self.mapping.old.columns
            ),
            refers(self.parent, "zdm_s", "new"),
        )
        # As the repair does it, without the table's own triggers.
        let_go = sql.SQL("        UPDATE {} AS zdm_s SET {}, {} WHERE {};").format(
            self.names["source"],
            comma(sql.SQL("{} = NULL").format(column(name)) for name in self.parent.reference),
            sql.SQL("{0} = COALESCE({0}, {1}) OPERATOR(pg_catalog.|) {2}").format(
                column(self.parent.marker), sql.Literal(TOGGLE), sql.Literal(REPAIR)
            ),
            refers(self.parent, "zdm_s", "new"),
        )
        updated = sql.SQL("\n").join([self._left_behind(), follow, self._unseen(let_go)])
        return {"inserted": nothing, "updated": updated, "deleted": nothing, "truncated": nothing}

    def _left_behind(self) -> sql.Composable:
        """What of the natural key reads no held column cannot follow: rows that have the parent would not belong to it any more."""
        belongs = same_natural(self.mapping, self.parent, "zdm_s", "new", held=False)
        return sql.SQL(
            "    IF EXISTS (SELECT FROM {} AS zdm_s WHERE {} AND NOT {}) THEN\n"
            "      RAISE integrity_constraint_violation USING MESSAGE = {}, HINT = {};\n    END IF;"
        ).format(
            self.names["source"],
            refers(self.parent, "zdm_s", "new"),
            belongs,
            sql.Literal(self._stranger),
            sql.Literal(_NO_OLD_FORM),
        )

    @property
    def _stranger(self) -> str:
        """What is wrong where a row has a parent of another one's."""
        mapping, parent = self.mapping, self.parent
        return (
            f"a row of {mapping.old.table} and its row of {parent.table} do not belong together: they differ in "
            f"{', '.join(parent.key)}, which the old version could not hold"
        )
