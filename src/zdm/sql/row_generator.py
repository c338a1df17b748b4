"""The triggers that mirror rows of one side of a row mapping to the other, in the application's own transaction."""

from __future__ import annotations

from psycopg import sql

from zdm.model.expression import Expression
from zdm.model.row_mapping import (
    Presence,
    SideKind,
)
from zdm.sql import row_conditions
from zdm.sql.identifiers import SCHEMA, all_of, any_of, column, comma, is_true, trusted
from zdm.sql.row_objects import (
    RAISED,
    Function,
    Trigger,
    equal,
    same_key,
    truncated,
)
from zdm.sql.row_settle import Settling
from zdm.sql.row_write import settle
from zdm.sql.rows import render
from zdm.sql.templates import load


class Generator(Settling):
    """Everything that mirrors the writes of one side (`mine`) to the other (`yours`)."""

    # --- what there is --------------------------------------------------------------------------------------------------

    @property
    def functions(self) -> tuple[Function, ...]:
        made = [self._settle(), self._on()]
        if self.mapping.joins and self.side == "old":
            made.append(self._stale())
        if self._late_events:
            made.append(self._late())
        return tuple(made)

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        on, late = self._function_name("on"), self._function_name("late")
        made = [
            self._trigger("insert", "INSERT", on, all_of(self._backfilled)),
            self._trigger("update", "UPDATE", on),
            self._trigger("delete", "DELETE", on),
            self._statement_trigger(on),
        ]
        if "INSERT" in self._late_events:
            later = self._foreign if self._shared else sql.SQL("NOT {}").format(self._when_inserted)
            made.append(self._trigger("late", "INSERT", late, later, late=True))
        if "DELETE" in self._late_events:
            made.append(self._trigger("late", "DELETE", late, late=True))
        return tuple(made)

    @property
    def _when_inserted(self) -> sql.Composable:
        """Which new rows are mirrored at once."""
        if self._shared:
            return self._genuine
        # Where it adopts, the old version may have made the row's other half before the row itself.
        return row_conditions.given(self.mine, "new") if self._lazy and not self._adopts else sql.SQL("true")

    @property
    def _when_updated(self) -> sql.Composable:
        """Which updates are mirrored."""
        return self._changed(self._reads)

    @property
    def _backfilled(self) -> list[sql.Composable]:
        """What the backfill inserts follows from the other side already; of so many rows the function is not even told."""
        if self.side == "old":
            return []
        return [
            sql.SQL("(pg_catalog.current_setting('zdm.row', true) IS DISTINCT FROM {})").format(
                sql.Literal(row_conditions.backfilling(self.mapping))
            )
        ]

    @property
    def _unsure(self) -> bool:
        """Whether a row may hold what nobody gave it: a default that is another value each time."""
        return self._lazy and not all(c.known_empty for c in self.mine.columns)

    @property
    def _shared(self) -> bool:
        """Whether rows of this side may be made by another mapping, whose new side the application writes first."""
        return self.side == "old" and self.mine.kind is SideKind.ROWS

    @property
    def _genuine(self) -> sql.Composable:
        """Nobody mirrors anything at this moment, or it is this mapping that does."""
        guard = sql.SQL("COALESCE(pg_catalog.current_setting('zdm.row', true), '')")
        return sql.SQL("({0} OPERATOR(pg_catalog.=) '' OR pg_catalog.starts_with({0}, {1}))").format(
            guard, sql.Literal(f"{self.mapping.number}:")
        )

    @property
    def _foreign(self) -> sql.Composable:
        """The contrary, in few words: the server reads a trigger's condition anew in each statement."""
        return sql.SQL(
            "(pg_catalog.split_part(pg_catalog.current_setting('zdm.row', true), ':', 1) OPERATOR(pg_catalog.<>) ALL (ARRAY['', {}]))"
        ).format(sql.Literal(str(self.mapping.number)))

    @property
    def _late_events(self) -> tuple[str, ...]:
        """The events after which a row must be made at the end of the transaction, if nobody makes it."""
        if self._shared or self._unsure:
            return ("INSERT",)
        if self.mapping.presence is not Presence.EVERY:
            return ()
        if self._lazy:
            return ("INSERT",)
        return ("DELETE",) if self.yours.kind is SideKind.COLUMNS and self.side == "new" else ()

    @property
    def _reads(self) -> tuple[str, ...]:
        """The columns of this side that the other one's depend on, or that depend on it alone."""
        found = [name for value in self.yours.key_values for name in value.columns] + list(self.mine.key)
        found += [name for c in self.yours.columns for name in c.value.columns]
        if self.side == "old" and self.mapping.where is not None:
            found += self.mapping.where.columns
        # What repeats the other side's is asked about when it is written, though nothing follows from it.
        found += [c.name for c in self._repeating]
        return tuple(dict.fromkeys(found))

    @property
    def _expressions(self) -> list[Expression]:
        columns = [c for side in (self.mine, self.yours) for c in side.columns]
        found = [c.value for c in columns] + [c.cleared for c in columns if c.cleared is not None]
        return [*found, *((self.mapping.where,) if self.mapping.where is not None else ())]

    # --- functions ------------------------------------------------------------------------------------------------------

    def _on(self) -> Function:
        name = self._function_name("on")
        lazy = self._lazy and self.mapping.presence is Presence.NEEDED
        definition = self._definition(
            "row_trigger",
            function=sql.Identifier(SCHEMA, name),
            settings=self._settings,
            settle=self._settle_name,
            along=self._along,
            inserted=self._passed(self._when_inserted),
            updated=self._passed(self._when_updated),
            written=self._own_write(),
            key_changed=self._changed(self.mine.key),
            taken_over=self._taken_over,
            declare=sql.SQL("  zdm_moved {};").format(self.table) if self.mine.within else sql.SQL(""),
            inserted_outside=self._outside(["new"]),
            updated_outside=self._outside(["old", "new"]),
            unfilled=self._unfilled(),
            move=self._move("new"),
            left=self._left(),
            lazy=sql.Literal(lazy),
            truncate=self._truncate(),
        )
        return Function(name, sql.SQL(""), definition, self._label("row_trigger", definition))

    @staticmethod
    def _passed(condition: sql.Composable) -> sql.Composable:
        """The end of a trigger on a row of which this does not hold."""
        if is_true(condition):
            return sql.SQL("")
        return sql.SQL("    IF NOT {} THEN\n      RETURN NULL;\n    END IF;").format(condition)

    def _own_write(self) -> sql.Composable:
        """The end of a trigger on a row that this mapping writes from the other side at this moment."""
        if not self._direct:
            return sql.SQL("")
        return load("row_written").fill(
            key=self._guard(self.side, self.mine, "new"), key_changed=self._changed(self.mine.key)
        )

    def _outside(self, aliases: list[str]) -> sql.Composable:
        """A row that the filter leaves out, as it did before, has nothing to mirror: one over there comes of the same statement."""
        where = self.mapping.where
        if self.side == "new" or where is None:
            return sql.SQL("      NULL;")
        left_out = [sql.SQL("({} IS NOT TRUE)").format(render(where, alias)) for alias in aliases]
        return sql.SQL(
            "      BEGIN\n        IF {} THEN\n          RETURN NULL;\n        END IF;\n      EXCEPTION\n{}        WHEN OTHERS THEN NULL;\n      END;"
        ).format(all_of([*left_out, *self._unknown]), RAISED)

    @property
    def _unknown(self) -> list[sql.Composable]:
        """Conditions over the row that was written: nothing else is known of it that would have to be looked at."""
        return []

    def _late(self) -> Function:
        name = self._function_name("late")
        if self.side == "old":
            # The row itself, by its key.
            source, settled = self.table, settle(self.mapping, self.rollout, "new")
            match = same_key(self.mine, "zdm_s", "new")
        else:
            source, settled = self.target, settle(self.mapping, self.rollout, "new")
            match = row_conditions.match(self.yours, "zdm_s", "old")
        definition = self._definition(
            "row_late",
            function=sql.Identifier(SCHEMA, name),
            settings=self._settings,
            settle=settled,
            source=source,
            match=match,
            there=self._there() if self._shared else sql.SQL(""),
        )
        return Function(name, sql.SQL(""), definition, self._label("row_late", definition))

    def _there(self) -> sql.Composable:
        """Of a row that another mapping made: what its row over there says counts, if it has one."""
        return load("row_late_there").fill(
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            settle=settle(self.mapping, self.rollout, self.side),
            signature=self._signature,
        )

    def _unfilled(self) -> sql.Composable:
        if not self._adopts:
            return sql.SQL("")
        return load("row_unfilled").fill(
            number=sql.Literal(f"{self.mapping.number}:"),
            written=self._changed([c.name for c in self.mine.columns]),
            holds=row_conditions.holds(self.mine, "old"),
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "old"),
            disagree=row_conditions.disagree(self.mapping, "zdm_t", "old"),
            row=self._guard(self.side, self.mine, "old"),
            names=sql.Literal(", ".join(c.name for c in self.yours.columns)),
        )

    @property
    def _along(self) -> sql.Composable:
        """The end of a trigger on a row that is taken along to another key by what was written on the other side."""
        return sql.SQL(
            "    IF zdm_guard OPERATOR(pg_catalog.=) pg_catalog.concat({}, pg_catalog.pg_trigger_depth()) THEN\n      RETURN NULL;\n    END IF;"
        ).format(sql.Literal(f"{self.mapping.number}:{self.side}:along@"))

    @property
    def _taken_over(self) -> sql.Composable:
        """A condition: the statement that gave the row its new key gave the old one to another row, whose trigger is still to come, since the key had to be free.

        That brings its own row along, and finds the key free over there as well. A row that its trigger might leave alone is no such row.
        """
        if self._lazy and self.mapping.presence is Presence.NEEDED:
            return sql.SQL("false")
        found = [same_key(self.mine, "zdm_s", "old"), same_key(self.mine, "zdm_x", "new")]
        if self.side == "old" and self.mapping.where is not None:
            found.append(sql.SQL("({} IS TRUE)").format(render(self.mapping.where, "zdm_s")))
        return sql.SQL(
            "(NOT EXISTS (SELECT FROM {} AS zdm_t WHERE {}) AND EXISTS (SELECT FROM {} AS zdm_s JOIN {} AS zdm_x"
            " ON zdm_x.xmin OPERATOR(pg_catalog.=) zdm_s.xmin AND zdm_x.cmin OPERATOR(pg_catalog.=) zdm_s.cmin WHERE {}))"
        ).format(
            self.target,
            row_conditions.match(self.yours, "zdm_t", "old"),
            self.table,
            self.table,
            all_of(found),
        )

    def _move(self, row: str) -> sql.Composable:
        """Take the row over there along from ``old`` to the key of `row`, before the old key is settled."""
        assigned = [
            sql.SQL("{} = {}").format(column(name), render(value, row))
            for name, value in zip(self.yours.key, self.yours.key_values, strict=True)
            if name not in self.yours.fixed
        ]
        if self.yours.kind is not SideKind.ROWS or not assigned:
            return sql.SQL("      NULL;")
        # Where a column that no UPDATE may write changes as well, it would be half of another row.
        stays = [
            sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(name, "zdm_t"), render(value, row))
            for name, value in zip(self.yours.key, self.yours.key_values, strict=True)
            if name in self.yours.fixed
        ]
        return sql.SQL(
            "      BEGIN\n        PERFORM pg_catalog.set_config('zdm.row', pg_catalog.concat({}, pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.+) 1), true);\n"
            "        UPDATE {} AS zdm_t SET {} WHERE {};\n      EXCEPTION\n"
            "        WHEN integrity_constraint_violation THEN NULL;\n      END;\n"
            "{}"
            "      PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);"
        ).format(
            sql.Literal(f"{self.mapping.number}:{row_conditions.across(self.side)}:along@"),
            self.target,
            comma(assigned),
            all_of([row_conditions.match(self.yours, "zdm_t", "old"), *stays]),
            self._renamed(row),
        )

    def _renamed(self, row: str) -> sql.Composable:
        """What names the other row names it by its new key."""
        found = self.mine.references
        if self.side != "old" or not found:
            return sql.SQL("")
        return sql.SQL("      UPDATE {} AS zdm_s SET {} WHERE {} AND {};\n").format(
            self.table,
            comma(
                sql.SQL("{} = {}").format(column(c.name), render(value, row))
                for c, value in zip(found, self.yours.key_values, strict=True)
            ),
            same_key(self.mine, "zdm_s", row),
            any_of(row_conditions.refers(self.mine, "zdm_s")),
        )

    def _left(self) -> sql.Composable:
        """A deleted row that is in another partition now."""
        if not self.mine.within:
            return sql.SQL("")
        return load("row_left").fill(
            source=self.table,
            match=equal(self.mine.within, "zdm_s", self.mine.within, "old"),
            move=self._move("zdm_moved"),
            settle=self._settle_name,
        )

    def _truncate(self) -> sql.Composable:
        if self.yours.kind is SideKind.COLUMNS:
            return sql.SQL(
                "    PERFORM pg_catalog.set_config('zdm.row', {}, true);\n    UPDATE {} AS zdm_t SET {} WHERE {};\n"
                "    PERFORM pg_catalog.set_config('zdm.row', '', true);"
            ).format(
                sql.Literal(f"{self.mapping.number}:{row_conditions.across(self.side)}:*"),
                self.target,
                self._emptied(),
                self._still(self._emptied_where()),
            )
        if self.side == "new" and (self.mapping.where is not None or self.yours.gone):
            where = self.mapping.where
            taken: sql.Composable = (
                sql.SQL("true") if where is None else sql.SQL("({} IS TRUE)").format(render(where, "zdm_t"))
            )
            what = sql.SQL("DELETE FROM {} AS zdm_t WHERE {};").format(self.target, taken)
            if self.yours.gone:
                what = sql.SQL("UPDATE {} AS zdm_t SET {} WHERE {};").format(
                    self.target,
                    comma(sql.SQL("{} = {}").format(column(n), trusted(v)) for n, v in self.yours.gone),
                    taken,
                )
            return sql.SQL(
                "    PERFORM pg_catalog.set_config('zdm.row', {}, true);\n    {}\n"
                "    PERFORM pg_catalog.set_config('zdm.row', '', true);"
            ).format(sql.Literal(f"{self.mapping.number}:{row_conditions.across(self.side)}:*"), what)
        return truncated(
            self.target, sql.Literal(f"{self.mapping.number}:{row_conditions.across(self.side)}:*")
        )
