"""Many rows that one row follows from, synced by log: triggers that note of which key any was written, and what gathers a key.

Names as in `zdm.sql.element_log`; nothing goes back, so there is no conflict, and a row that changes its key is two keys to look at.
"""

from __future__ import annotations

from psycopg import sql

from zdm.model.row_mapping import RowMapping
from zdm.sql.element_rows import is_joined
from zdm.sql.gathered_sync import GatheredObjects
from zdm.sql.group_sync import GroupObjects, keyed
from zdm.sql.identifiers import all_of, column, comma, type_name
from zdm.sql.log_objects import CHANGES, Logged, function_of
from zdm.sql.log_objects import keyed as has_key
from zdm.sql.row_objects import Function, Side, Trigger, equal, failed, key_text, name_of, pinned, plain_keys
from zdm.sql.templates import load


def function_names(mapping: RowMapping, rollout: int, side: Side) -> list[str]:
    """The functions that are made for one side, as `GatheredLogObjects` makes them."""
    purposes = [f"log_{side}"]
    if side == "old":
        purposes += ["agree", "settle_new", "reconcile", "expand", "work", "last"]
    elif mapping.gathers:
        purposes += ["late_new"]
    return [name_of(mapping, rollout, purpose) for purpose in purposes]


class GatheredLogObjects(Logged, GatheredObjects):
    """Everything that notes the writes of one side; with the old side's, what makes the row say what the many say."""

    @property
    def functions(self) -> tuple[Function, ...]:
        if self.side == "new":
            return (self._log_one(),)
        reconcile = (self._agree(), self._gather(), self._reconcile(), self._expand())
        return (*reconcile, self._work(), self._last(), self._log_many())

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        log = self._named(f"log_{self.side}")
        made = (
            self._trigger("insert", "INSERT", log),
            self._trigger("update", "UPDATE", log, self._changed(self._reads)),
        )
        if self.side == "new":
            return made
        return (*made, self._trigger("delete", "DELETE", log), self._statement_trigger(log))

    # --- what triggers call -------------------------------------------------------------------------------------------

    @property
    def _key_settings(self) -> sql.Composable:
        """A key's text is the same whoever writes it, and whoever reads it."""
        return self._settings if plain_keys(self.one.key_types) else pinned()

    def _many_key(self, alias: str) -> sql.Composable:
        names = (sql.SQL("{}::pg_catalog.text").format(column(name, alias)) for name in self.elements.of)
        return sql.SQL("ARRAY[{}]").format(comma(names))

    def _log_many(self) -> Function:
        return self._logged(
            "log_old",
            "log_gathered",
            "",
            settings=self._key_settings,
            changes=CHANGES,
            here=self._whose,
            keyed=keyed(self.mapping, "new"),
            keyed_before=keyed(self.mapping, "old"),
            key=self._many_key("new"),
            key_before=self._many_key("old"),
            moved=self._changed(self.elements.of),
        )

    def _log_one(self) -> Function:
        held = [c.name for c in self.elements.held]
        return self._logged(
            "log_new",
            "log_following",
            "",
            settings=self._key_settings,
            one=self.tables["one"],
            mine=self._guard(self._key("new")),
            mine_before=self._guard(self._key("old")),
            empty=self._unsaid(),
            changed=self._changed(held),
            moved=self._changed(self.one.key),
            agree=self._agrees("zdm_row"),
            message=sql.Literal(
                f"{', '.join(held)} of %s follows from {self.many.table}, which has no row that would say so"
            ),
            hint=self._hint,
            changes=CHANGES,
            here=self._whose,
            key=key_text(self.one, "new"),
            key_before=key_text(self.one, "old"),
        )

    def _unsaid(self) -> sql.Composable:
        """A condition over a new row: it says nothing of its own."""
        return all_of(sql.SQL("({} IS NULL)").format(column(c.name, "new")) for c in self.elements.held)

    # --- what gathers a key ---------------------------------------------------------------------------------------------

    def _agree(self) -> Function:
        return self._logged(
            "agree",
            "log_agree",
            self.tables["one"].as_string(None),
            one=self.tables["one"],
            joined=self._joined(),
        )

    def _joined(self) -> sql.Composable:
        return is_joined(self.mapping, "zdm_row", self.rollout)

    @property
    def _needed(self) -> sql.Composable:
        """A condition over the row, if there is one: something is to be done."""
        return sql.SQL("(zdm_has AND NOT {})").format(self._agrees("zdm_row"))

    def _failure(self, keys: list[sql.Composable]) -> sql.Composable:
        """What is recorded of the key."""
        del keys
        return failed(self.mapping, self.rollout, self.one, "zdm_row")

    def _reconcile(self) -> Function:
        keys: list[sql.Composable] = [
            sql.SQL("CAST(zdm_key[{}] AS {})").format(sql.Literal(number), type_name(type_))
            for number, type_ in enumerate(self.one.key_types, 1)
        ]
        return self._keyed(
            declare="  zdm_row {one};\n  zdm_has pg_catalog.bool;",
            one=self.tables["one"],
            read=load("log_gather_read").fill(
                one=self.tables["one"],
                one_key=has_key(self.one, "zdm_s", "zdm_key"),
                named=sql.SQL("\n").join(
                    sql.SQL("        {} := {};").format(column(name, "zdm_row"), key)
                    for name, key in zip(self.one.key, keys, strict=True)
                ),
                changes=CHANGES,
                filter=self._here,
            ),
            bring=load("log_gather").fill(
                needed=self._needed,
                settle=sql.SQL("{}({}, 'reconcile')").format(self._called("settle_new"), comma(keys)),
                failure=self._failure(keys),
                changes=CHANGES,
                filter=self._here,
            ),
            failure=sql.SQL("        RAISE;"),
            forget=sql.SQL("      DELETE {};").format(self._failure(keys)),
        )

    def _expand(self) -> Function:
        return self._expanding(
            old_gone=self._noting(
                sql.SQL("SELECT {} FROM {} AS zdm_o WHERE NOT {}").format(
                    key_text(self.one, "zdm_o"), self.tables["one"], self._agrees("zdm_o")
                )
            ),
            new_gone=self._noting(self._emptied()),
        )

    def _emptied(self) -> sql.Composable | None:
        """The keys to look at once the new side was emptied; a row that is gone has taken along those that refer to it."""
        return None

    def _noting(self, keys: sql.Composable | None) -> sql.Composable:
        if keys is None:
            return sql.SQL("    NULL;")
        return sql.SQL(
            "    INSERT INTO {} (rollout, mapping, side, event, key, origin)\n"
            "    SELECT {}, {}, 'old', 'delete', zdm_k.key, zdm_id FROM ({}) AS zdm_k (key);"
        ).format(CHANGES, sql.Literal(self.rollout), sql.Literal(self.mapping.number), keys)

    def _moving(self) -> sql.Identifier:
        # No entry says that a row took another key: there is nothing to take along.
        return function_of(self.mapping, self.rollout, "expand")

    def _lost(self, side: Side) -> None:
        """Nothing is lost of one row: what it follows from is there in many."""
        del side


class GroupLogObjects(GatheredLogObjects, GroupObjects):
    """The same where the new version's row is there as long as there is any of the many."""

    @property
    def functions(self) -> tuple[Function, ...]:
        made = super().functions
        return (*made, self._late()) if self.side == "new" else made

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        made = super().triggers
        if self.side == "old":
            return made
        log, late = self._named("log_new"), self._named("late_new")
        ours = sql.SQL("(pg_catalog.current_setting('zdm.row', true) IS DISTINCT FROM {})").format(
            self._guard(self._key("old"))
        )
        moved = all_of([self._changed(self.one.key), ours])
        return (
            *made,
            self._trigger("delete", "DELETE", log),
            self._trigger("late_update", "UPDATE", late, moved, late=True),
            self._trigger("late_delete", "DELETE", late, ours, late=True),
            self._statement_trigger(late),
        )

    def _joined(self) -> sql.Composable:
        there = sql.SQL("EXISTS (SELECT FROM {} AS zdm_m WHERE {})").format(
            self.tables["many"], equal(self.elements.of, "zdm_m", self.one.key, "zdm_row")
        )
        return all_of([there, super()._joined()])

    def _unsaid(self) -> sql.Composable:
        there = sql.SQL("EXISTS (SELECT FROM {} AS zdm_m WHERE {})").format(
            self.tables["many"], equal(self.elements.of, "zdm_m", self.one.key, "new")
        )
        return all_of([super()._unsaid(), there])

    @property
    def _needed(self) -> sql.Composable:
        return sql.SQL(
            "(CASE WHEN zdm_has THEN NOT {} ELSE EXISTS (SELECT FROM {} AS zdm_m WHERE {}) END)"
        ).format(
            self._agrees("zdm_row"),
            self.tables["many"],
            has_key(self.many.model_copy(update={"key_types": self.one.key_types}), "zdm_m", "zdm_key"),
        )

    def _failure(self, keys: list[sql.Composable]) -> sql.Composable:
        return failed(self.mapping, self.rollout, self.many, "zdm_row", keys)

    def _emptied(self) -> sql.Composable:
        return sql.SQL("SELECT DISTINCT {} FROM {} AS zdm_m WHERE {}").format(
            self._many_key("zdm_m"), self.tables["many"], keyed(self.mapping, "zdm_m")
        )
