"""The functions and triggers that mirror rows of one side of a row mapping to the other, in the application's own transaction.

``settle_new`` makes the new side's row hold what the old side's row says, ``settle_old`` the other way round. Both read the row
anew: a trigger's ``NEW`` may be out of date by the time it runs, if an application's trigger wrote the row again.
"""

from __future__ import annotations

from collections.abc import Collection

from psycopg import sql

from zdm.model.expression import Expression
from zdm.model.row_mapping import (
    MirroredColumn,
    Presence,
    RowMapping,
    RowSide,
    SideKind,
    derived,
    parts,
)
from zdm.sql import row_conditions
from zdm.sql.identifiers import all_of, any_of, column, comma, differs, qualified_name, trusted, type_name
from zdm.sql.row_objects import (
    RAISED,
    Function,
    Objects,
    Side,
    Trigger,
    equal,
    failed,
    name_of,
    record_failure,
    referring,
    same_key,
    text_of,
)
from zdm.sql.rows import render
from zdm.sql.sync import SCHEMA
from zdm.sql.templates import dollar_quoted, load


def settle(mapping: RowMapping, rollout: int, side: Side) -> sql.Identifier:
    """The function that makes `side` hold what the other side's row says; called as ``f(row, false, false)``."""
    return sql.Identifier(SCHEMA, name_of(mapping, rollout, f"settle_{side}"))


def stale(mapping: RowMapping, rollout: int) -> sql.Identifier:
    """Of a mapping that joins: the function that says whether a row of the old side is not in the new side's columns."""
    return sql.Identifier(SCHEMA, name_of(mapping, rollout, "stale_old"))


class Generator(Objects):
    """Everything that mirrors the writes of one side (`mine`) to the other (`yours`)."""

    def __init__(self, mapping: RowMapping, rollout: int, side: Side) -> None:
        super().__init__(mapping, rollout, side)
        self.yours = mapping.other(side)
        self.target = qualified_name(self.yours.table)

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
        inserted = self._when_inserted
        made = [
            self._trigger(
                "insert", "INSERT", on, all_of([*self._backfilled, inserted, *self._others("new")])
            ),
            self._trigger("update", "UPDATE", on, all_of([self._when_updated, *self._others("old", "new")])),
            self._trigger("delete", "DELETE", on),
            self._statement_trigger(on),
        ]
        if "INSERT" in self._late_events:
            made.append(self._trigger("late", "INSERT", late, sql.SQL("NOT {}").format(inserted), late=True))
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
    def _direct(self) -> bool:
        """Whether what writes a row knows what the row holds then, so that the trigger over there need not look."""
        return not (
            self.mapping.logged
            or self.mapping.records
            or self.mapping.joins
            or self.mapping.one_way
            or self.mapping.where is not None
            or any(side.references or side.gone for side in (self.mapping.old, self.mapping.new))
        )

    def _others(self, *aliases: str) -> list[sql.Composable]:
        """A condition: it is not this mapping that writes this very row here; what triggers of the application write meanwhile, they write deeper."""
        if not self._direct:
            return []
        written = sql.SQL(
            "(pg_catalog.current_setting('zdm.row', true) IS DISTINCT FROM pg_catalog.concat({}, '@', pg_catalog.pg_trigger_depth()))"
        ).format(self._guard(self.side, self.mine, "new"))
        return [written if len(aliases) == 1 else any_of([written, self._changed(self.mine.key)])]

    @property
    def _backfilled(self) -> list[sql.Composable]:
        """What the backfill inserts follows from the other side already."""
        if self.side == "old":
            return []
        return [
            sql.SQL("(pg_catalog.current_setting('zdm.row', true) IS DISTINCT FROM {})").format(
                sql.Literal(row_conditions.backfilling(self.mapping))
            )
        ]

    @property
    def _adopts(self) -> bool:
        """Whether rows of this side are the new version's, and their columns come from rows of the other one."""
        return self.mapping.joins and self.side == "new"

    @property
    def _lazy(self) -> bool:
        """Whether a row of this side need not have one over there while it holds nothing."""
        return self.mine.kind is SideKind.COLUMNS and self.yours.kind is SideKind.ROWS

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

    @property
    def _over_both(self) -> bool:
        """Whether what is written over there depends on what that row holds already."""
        return any(c.value.own for c in self.yours.columns)

    @property
    def _values(self) -> list[sql.Composable]:
        """What the columns over there are computed into, in their order."""
        return [_value(number) for number, _ in enumerate(self.yours.columns)]

    # --- functions ------------------------------------------------------------------------------------------------------

    def _on(self) -> Function:
        name = self._function_name("on")
        lazy = self._lazy and self.mapping.presence is Presence.NEEDED
        definition = dollar_quoted(
            "row_trigger",
            function=sql.Identifier(SCHEMA, name),
            settings=self._settings,
            settle=self._settle_name,
            key_changed=self._changed(self.mine.key),
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
        definition = dollar_quoted(
            "row_late",
            function=sql.Identifier(SCHEMA, name),
            settings=self._settings,
            settle=settled,
            source=source,
            match=match,
        )
        return Function(name, sql.SQL(""), definition, self._label("row_late", definition))

    @property
    def _settle_name(self) -> sql.Identifier:
        return settle(self.mapping, self.rollout, row_conditions.across(self.side))

    def _settle(self) -> Function:
        if self.yours.kind is SideKind.ROWS:
            return self._settling(
                "row_settle_rows",
                lazy=self._lazily(),
                write=sql.SQL("{}\n{}\n{}").format(self._keep(), self._upsert(), self._back()),
                go=self._go(),
                settled=self._settled(),
                first=self._first(),
            )
        return self._settling(
            "row_settle_columns",
            holds=self._emptied_where(),
            write=sql.SQL("{}\n{}").format(self._keep(), self._fill()),
            clear=self._emptied(),
            unmapped=self._unmapped(),
            back=self._back(),
            forget=self._settled(),
            first=self._first(),
        )

    def _settling(self, template: str, **pieces: sql.Composable) -> Function:
        """The function that settles the other side, by a template that is filled with these pieces besides those that all have."""
        name = name_of(self.mapping, self.rollout, f"settle_{row_conditions.across(self.side)}")
        pieces = {
            "function": sql.Identifier(SCHEMA, name),
            "source": self.table,
            "declare": sql.SQL("\n").join(
                [
                    *(
                        sql.SQL("  {} {};").format(_value(number), type_name(c.type))
                        for number, c in enumerate(self.yours.columns)
                    ),
                    *([sql.SQL("  {} {};").format(_OWN, self.target)] if self._over_both else []),
                ]
            ),
            "own_key": same_key(self.mine, "zdm_s", "zdm_at"),
            "target": self.target,
            "match": row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            "compute": self._compute(),
            "agree": self._agree(),
            "mine": self._guard(self.side, self.mine, "zdm_at"),
            "all": sql.Literal(f"{self.mapping.number}:{self.side}:*"),
            "there": self._guard_across("zdm_at"),
        } | pieces
        if not self.mapping.records:
            pieces |= {"quick": self._quickly(), "depth": self._depth()}
        definition = dollar_quoted(template, **pieces)
        arguments = sql.SQL("{}, pg_catalog.bool, pg_catalog.bool").format(self.table)
        return Function(name, arguments, definition, self._label(template, definition))

    def _depth(self) -> sql.Composable:
        """What the guard says besides of a row that the trigger over there need not look at."""
        if not self._direct:
            return sql.SQL("")
        return sql.SQL(
            "  ELSE\n    zdm_next := pg_catalog.concat(zdm_next, '@', pg_catalog.pg_trigger_depth());\n"
        )

    def _quickly(self) -> sql.Composable:
        """An UPDATE that finds the other row, and finds that it does not agree, has asked all that there is to ask."""
        if (
            not self._direct
            or not self.yours.followed
            or self._repeating
            or not row_conditions.mirror_images(self.mapping)
        ):
            return sql.SQL("")
        statement = sql.SQL("      UPDATE {} AS zdm_t SET {} WHERE {} AND NOT ({}){};").format(
            self.target,
            comma(
                sql.SQL("{} = {}").format(column(c.name), _value(number))
                for number, c in enumerate(self.yours.columns)
                if not c.once
            ),
            row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            self._follows,
            self._stored,
        )
        recorded = self.yours.guarded and self.side == "old"
        return load("row_quick").fill(
            write=self._recorded(statement) if recorded else statement,
            back=self._back(),
            settled=self._settled(),
        )

    @property
    def _stored(self) -> sql.Composable:
        """Of a statement that writes the other row: whether it holds then what it was given."""
        return sql.SQL(" RETURNING {} INTO zdm_stored").format(self._follows) if self._direct else sql.SQL("")

    def _back(self) -> sql.Composable:
        """What a trigger of the application made of the other row, instead, is mirrored here."""
        if not self._direct:
            return sql.SQL("")
        return load("row_back").fill(
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            settle=settle(self.mapping, self.rollout, self.side),
            signature=sql.Literal(
                text_of(
                    sql.SQL("{}({}, pg_catalog.bool, pg_catalog.bool)").format(
                        settle(self.mapping, self.rollout, self.side), self.target
                    )
                )
            ),
        )

    def _settled(self) -> sql.Composable:
        """The failure that is recorded of the row, if one is, is over."""
        if self.side == "old" or not self._direct or not self._may_fail:
            return self._forget_failure()
        # The trigger over there would say so, and does not look.
        values = [render(value, "zdm_at") for value in self.yours.key_values]
        return sql.SQL("  DELETE {};").format(
            failed(self.mapping, self.rollout, self.yours, "zdm_at", values)
        )

    def _stale(self) -> Function:
        name = name_of(self.mapping, self.rollout, "stale_old")
        definition = dollar_quoted(
            "row_stale",
            function=sql.Identifier(SCHEMA, name),
            source=self.table,
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "zdm_row"),
            agree=sql.SQL("NOT {}").format(row_conditions.disagree(self.mapping, "zdm_row", "zdm_t")),
        )
        return Function(name, self.table, definition, self._label("row_stale", definition))

    def _keep(self) -> sql.Composable:
        """A part of the row that agrees stays as it is; derived anew, it would lose what only its own side can express."""
        if self.mapping.one_way or row_conditions.mirror_images(self.mapping):
            return sql.SQL("")
        kept: dict[str, sql.Composable] = {}
        for part in parts(self.mapping):
            mine, yours = (part.old, part.new) if self.side == "old" else (part.new, part.old)
            if not mine or all(c.plain for c in (*mine, *yours)):
                continue
            agrees = sql.SQL("NOT {}").format(row_conditions.any_differs(mine, "zdm_row", "zdm_t"))
            for c in yours:
                kept[c.name] = agrees
        numbered = [(number, c) for number, c in enumerate(self.yours.columns) if c.name in kept]
        # Where all is one part, it does not agree, or nothing would be written.
        if not numbered or len(parts(self.mapping)) == 1:
            return sql.SQL("")
        return load("row_keep").fill(
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            kept=comma(
                sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(
                    kept[c.name], column(c.name, "zdm_t"), _value(number)
                )
                for number, c in numbered
            ),
            values=comma(_value(number) for number, _ in numbered),
            raised=RAISED,
        )

    def _fill(self) -> sql.Composable:
        statement = sql.SQL("    UPDATE {} AS zdm_t SET {} WHERE {}{};").format(
            self.target,
            comma(
                sql.SQL("{} = {}").format(column(c.name), _value(number))
                for number, c in enumerate(self.yours.columns)
            ),
            row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            self._stored,
        )
        if self.side == "old":
            return self._recorded(statement) if self.yours.guarded else statement
        checks: list[sql.Composable] = []
        if self._filter is not None:
            checks.append(self._within_filter(self._filter))
        if self._repeating:
            checks.append(self._belonging())
        if not checks:
            return statement
        return sql.SQL("{}\n    IF FOUND THEN\n{}\n    END IF;").format(statement, sql.SQL("\n").join(checks))

    @property
    def _repeating(self) -> tuple[MirroredColumn, ...]:
        """The columns of the new side that say what stays in the old one, and is not written from here."""
        if self.side == "old":
            return ()
        written = {c.name for c in self.yours.followed}
        return tuple(c for c in self.mine.followed if not written.issuperset(c.value.columns))

    def _repeats_well(self) -> list[sql.Composable]:
        """Conditions over the row over there: what only repeats it does."""
        only = derived(self.mapping, "new") if self.side == "new" and not self.mapping.one_way else ()
        return (
            [sql.SQL("NOT {}").format(row_conditions.any_differs(only, "zdm_row", "zdm_t"))] if only else []
        )

    def _belonging(self) -> sql.Composable:
        """What repeats a column that stays cannot be written back, and must be what that is."""
        return sql.SQL(
            "    IF EXISTS (SELECT FROM {} AS zdm_t WHERE {} AND {}) THEN\n"
            "      RAISE integrity_constraint_violation USING MESSAGE = pg_catalog.concat('the row ', ROW({})::pg_catalog.text, {}),\n"
            "        HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';\n    END IF;"
        ).format(
            self.target,
            row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            row_conditions.any_differs(self._repeating, "zdm_row", "zdm_t"),
            comma(column(name, "zdm_at") for name in self.mine.key),
            sql.Literal(
                f" of {self.mine.table} repeats columns of its row of {self.yours.table}, and they differ: "
                + ", ".join(c.name for c in self._repeating)
            ),
        )

    def _recorded(self, statement: sql.Composable) -> sql.Composable:
        """What another table refuses is noted, and does not refuse the application's write."""
        return sql.SQL(
            "    BEGIN\n{body}\n    EXCEPTION\n{raised}      WHEN OTHERS THEN\n{failed}\n    END;"
        ).format(body=statement, raised=RAISED, failed=self._failed())

    def _emptied(self) -> sql.Composable:
        """The SET list that empties the row over there; what the filter leaves out is none of the mapping's."""
        where = self._filter
        if where is None:
            return row_conditions.cleared(self.yours, "zdm_t")
        return comma(
            sql.SQL("{} = {}").format(column(c.name), row_conditions.empty(c, "zdm_t"))
            if c.reference
            else sql.SQL("{} = CASE WHEN {} THEN {} ELSE {} END").format(
                column(c.name),
                render(where, "zdm_t"),
                row_conditions.empty(c, "zdm_t"),
                column(c.name, "zdm_t"),
            )
            for c in self.yours.columns
        )

    def _emptied_where(self) -> sql.Composable:
        parts = [row_conditions.holds(self.yours, "zdm_t")]
        if self._filter is not None:
            parts.append(sql.SQL("({} IS TRUE)").format(render(self._filter, "zdm_t")))
        return any_of([all_of(parts), *row_conditions.refers(self.yours, "zdm_t")])

    def _still(self, condition: sql.Composable) -> sql.Composable:
        """The condition, where what is seen is what is there; above READ COMMITTED all rows, so that one changed since is met."""
        if not self.mapping.joins:
            return condition
        return sql.SQL(
            "({} OR pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed')"
        ).format(condition)

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

    def _guard(self, side: Side, of: RowSide, alias: str) -> sql.Composable:
        key = comma(column(name, alias) for name in of.key)
        return sql.SQL("pg_catalog.concat_ws(':', {}, ROW({})::pg_catalog.text)").format(
            sql.Literal(f"{self.mapping.number}:{side}"), key
        )

    def _guard_across(self, alias: str) -> sql.Composable:
        key = comma(render(value, alias) for value in self.yours.key_values)
        return sql.SQL("pg_catalog.concat_ws(':', {}, ROW({})::pg_catalog.text)").format(
            sql.Literal(f"{self.mapping.number}:{row_conditions.across(self.side)}"), key
        )

    def _compute(self) -> sql.Composable:
        """Whether the row is wanted over there, and what it holds there; nothing is written."""
        lines: list[sql.Composable] = []
        if self._over_both:
            # Locked before it is read: whoever is writing the rest of what it holds is waited for, and nothing of it is lost.
            lines.append(
                sql.SQL("    SELECT zdm_t.* INTO {} FROM {} AS zdm_t WHERE {} FOR NO KEY UPDATE;").format(
                    _OWN, self.target, row_conditions.match(self.yours, "zdm_t", "zdm_at")
                )
            )
        where = self.mapping.where if self.side == "old" else None
        if where is not None:
            lines.append(
                sql.SQL("    zdm_wanted := COALESCE({}, false);\n    IF zdm_wanted THEN").format(
                    render(where, "zdm_row")
                )
            )
        else:
            lines.append(sql.SQL("    zdm_wanted := true;"))
        lines += [
            sql.SQL("    {} := {};").format(_value(number), render(c.value, "zdm_row", "zdm_own"))
            for number, c in enumerate(self.yours.columns)
        ]
        lines += [
            sql.SQL(
                "    IF {value} IS NULL THEN\n      RAISE not_null_violation USING MESSAGE = {message};\n    END IF;"
            ).format(
                value=_value(number),
                message=sql.Literal(f"{c.name} of {self.yours.table} would be NULL, and must not be"),
            )
            for number, c in enumerate(self.yours.columns)
            if c.not_null
        ]
        if where is not None:
            lines.append(sql.SQL("    END IF;"))
        body = sql.SQL("\n").join(lines)
        if self.side == "new" or not (self.yours.raises or where is not None):
            return body
        return self._recorded(body)

    def _agree(self) -> sql.Composable:
        match = row_conditions.match(self.yours, "zdm_t", "zdm_at")
        if self._filter is not None:
            match = all_of([match, sql.SQL("({} IS TRUE)").format(render(self._filter, "zdm_t"))])
        up = all_of([*self._computed, self._follows, *self._repeats_well()])
        out = sql.SQL("    IF FOUND THEN\n{}\n      RETURN true;\n    END IF;").format(self._forget_failure())
        if self.mapping.one_way or row_conditions.mirror_images(self.mapping):
            return sql.SQL("    PERFORM FROM {} AS zdm_t WHERE {} AND {};\n{}").format(
                self.target, match, up, out
            )
        # What follows only from here is never what something over here was written from.
        only = {c.name for c in derived(self.mapping, row_conditions.across(self.side))}
        down = all_of(
            [
                sql.SQL("NOT {}").format(row_conditions.differ(self.mine, "zdm_row", "zdm_t")),
                *([*self._computed, self._holds(only)] if only else []),
            ]
        )
        if self.yours.references:
            match = all_of(
                [
                    match,
                    *(
                        sql.SQL("NOT {}").format(part)
                        for part in row_conditions.astray(self.yours, "zdm_t", "zdm_row")
                    ),
                ]
            )
        return sql.SQL(
            "    BEGIN\n      PERFORM FROM {} AS zdm_t WHERE {} AND ({} OR {});\n    EXCEPTION\n{}"
            "      WHEN OTHERS THEN PERFORM WHERE false;\n    END;\n{}"
        ).format(self.target, match, up, down, RAISED, out)

    @property
    def _follows(self) -> sql.Composable:
        """A condition over the row over there: it holds what was computed."""
        return self._holds({c.name for c in self.yours.followed})

    def _holds(self, names: Collection[str]) -> sql.Composable:
        """The same of these columns alone."""
        return all_of(
            sql.SQL("NOT {}").format(differs(column(c.name, "zdm_t"), _value(number), c.comparison, c.type))
            for number, c in enumerate(self.yours.columns)
            if c.name in names
        )

    @property
    def _computed(self) -> list[sql.Composable]:
        """Conditions: there are values to compare with."""
        return []

    @property
    def _filter(self) -> Expression | None:
        """What the old side's row must meet, where that is the side across."""
        return self.mapping.where if self.side == "new" else None

    def _first(self) -> sql.Composable:
        if self.side == "old":
            return sql.SQL("")
        return load("row_first").fill(
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            claimed=self._claimed,
            mine=self._guard(self.side, self.mine, "zdm_at"),
            names=sql.Literal(", ".join(c.name for c in self.yours.columns)),
        )

    @property
    def _claimed(self) -> sql.Composable:
        """A condition over the row over there: one that is inserted here has met it before it was filled."""
        claimed = row_conditions.holds(self.yours, "zdm_t")
        if not all(c.known_empty for c in self.yours.columns):
            # Nothing tells a row that is not filled yet from one of this transaction, until there are none of the former.
            claimed = any_of(
                [
                    row_conditions.given(self.yours, "zdm_t"),
                    sql.SQL("NOT EXISTS (SELECT {})").format(self._filled(self.mapping.id)),
                ]
            )
        if self._filter is None:
            return claimed
        met = sql.SQL("({} IS TRUE)").format(render(self._filter, "zdm_t"))
        # A row that stands on its own has none over here where the filter leaves it out; one that is made has another life.
        if self.yours.kind is SideKind.ROWS:
            return any_of([claimed, sql.SQL("(NOT {})").format(met)])
        return all_of([claimed, met])

    @property
    def _going(self) -> list[sql.Composable]:
        """Conditions over the row over there: it goes when this one does."""
        # A row that has left the filter by itself is why the new one goes, and stays as it is.
        return [] if self._filter is None else [sql.SQL("({} IS TRUE)").format(render(self._filter, "zdm_t"))]

    def _go(self) -> sql.Composable:
        match = all_of([row_conditions.match(self.yours, "zdm_t", "zdm_at"), *self._going])
        if self.yours.gone:
            assign = comma(
                sql.SQL("{} = {}").format(column(name), trusted(value)) for name, value in self.yours.gone
            )
            return sql.SQL("    UPDATE {} AS zdm_t SET {} WHERE {};").format(self.target, assign, match)
        passing: sql.Composable = sql.SQL("      NULL;")
        if self.side == "old" and self.mapping.countable:
            passing = load("row_pass").fill(
                target=self.target,
                match=match,
                filled=self._filled(self.mapping.id),
                closing=row_conditions.closing(self.mapping, self.rollout),
            )
        return load("row_go").fill(
            target=self.target,
            match=match,
            passing=passing,
            probe_columns=row_conditions.insert_columns(self.yours),
            probe_values=row_conditions.insert_values(self.yours, "zdm_at"),
            silent=sql.SQL("({} OPERATOR(pg_catalog.||) '!')").format(self._guard_across("zdm_at")),
        )

    def _lazily(self) -> sql.Composable:
        if not self._lazy:
            return sql.SQL("")
        adopt: sql.Composable = sql.SQL("")
        if self._adopts:
            adopt = load("row_adopt").fill(
                holds=row_conditions.holds(self.mine, "zdm_row"),
                guard=sql.Literal(f"{self.mapping.number}:{self.side}:*"),
                table=self.table,
                assign=row_conditions.assigned(self.mine, "zdm_t"),
                target=self.target,
                match=row_conditions.match(self.yours, "zdm_t", "zdm_at"),
                own_key=same_key(self.mine, "zdm_s", "zdm_at"),
                failure=failed(
                    self.mapping,
                    self.rollout,
                    self.yours,
                    "zdm_at",
                    [render(value, "zdm_at") for value in self.yours.key_values],
                ),
            )
        return sql.SQL("{}\n{}").format(adopt, self._nothing_to_mirror())

    def _nothing_to_mirror(self) -> sql.Composable:
        return sql.SQL(
            "    IF (zdm_mirrored OR zdm_lazy AND (zdm_first\n"
            "      OR pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.=) 'read committed')) AND NOT {} AND NOT EXISTS (SELECT FROM {} AS zdm_t WHERE {}) THEN\n"
            "      RETURN true;\n    END IF;"
        ).format(
            row_conditions.holds(self.mine, "zdm_row"),
            self.target,
            row_conditions.match(self.yours, "zdm_t", "zdm_at"),
        )

    def _upsert(self) -> sql.Composable:
        side = self.yours
        values: list[sql.Composable] = [render(value, "zdm_row") for value in side.key_values]
        values += [_value(number) for number, _ in enumerate(side.columns)]
        action: sql.Composable = sql.SQL("NOTHING")
        if side.followed:
            action = sql.SQL("UPDATE SET {}").format(
                comma(
                    sql.SQL("{} = EXCLUDED.{}").format(column(c.name), column(c.name)) for c in side.followed
                )
            )
        statement = sql.SQL(
            "    INSERT INTO {} AS zdm_t ({}) OVERRIDING SYSTEM VALUE VALUES ({}) ON CONFLICT ({}) DO {}{};"
        ).format(
            self.target,
            row_conditions.insert_columns(side),
            comma(values),
            comma(column(name) for name in side.key),
            action,
            self._stored,
        )
        if self._filter is not None:
            statement = sql.SQL("{}\n{}").format(statement, self._within_filter(self._filter))
        if self._repeating:
            statement = sql.SQL("{}\n{}").format(statement, self._belonging())
        return self._recorded(statement) if side.guarded and self.side == "old" else statement

    def _within_filter(self, where: Expression) -> sql.Composable:
        """The old row that was made must be one that the mapping takes; else the next look would let the new row go."""
        return sql.SQL(
            "    IF NOT EXISTS (SELECT FROM {} AS zdm_t WHERE {} AND ({}) IS TRUE) THEN\n"
            "      RAISE check_violation USING MESSAGE = pg_catalog.format({}, ROW({})::pg_catalog.text),\n"
            "        HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';\n    END IF;"
        ).format(
            self.target,
            row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            render(where, "zdm_t"),
            sql.Literal(
                f"the row %s of {self.mine.table} has no old form: in {self.yours.table} it would not meet {where.source!r}".replace(
                    "%s", "\0"
                )
                .replace("%", "%%")
                .replace("\0", "%s")
            ),
            comma(column(name, "zdm_at") for name in self.mine.key),
        )

    def _failed(self) -> sql.Composable:
        """Record that this row has no form over there at present; the application's write goes through."""
        return sql.SQL(
            "        PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);\n{}\n        RETURN false;"
        ).format(record_failure(self.mapping, self.rollout, self.mine, "zdm_at"))

    @property
    def _may_fail(self) -> bool:
        """Whether rows of the old side may be recorded as having no new form."""
        new, mapping = self.mapping.new, self.mapping
        return new.raises or new.guarded or mapping.where is not None or mapping.joins

    def _forget_failure(self) -> sql.Composable:
        if self.side == "new" or not self._may_fail:
            return sql.SQL("")
        return sql.SQL("  DELETE {};").format(failed(self.mapping, self.rollout, self.mine, "zdm_at"))

    def _unmapped(self) -> sql.Composable:
        if self.side == "old":
            # There may be one later, which then takes it; until then it has no new form.
            return sql.SQL(
                "      BEGIN\n        RAISE foreign_key_violation USING MESSAGE = {};\n"
                "      EXCEPTION WHEN foreign_key_violation THEN\n{}\n      END;"
            ).format(
                sql.Literal(f"there is no such row in {self.yours.table}, whose columns it would fill"),
                self._failed(),
            )
        return sql.SQL(
            "      IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed'\n"
            "        AND NOT EXISTS ({}) THEN\n"
            "        RAISE serialization_failure USING MESSAGE = 'could not serialize access: the row it belongs to is not seen';\n"
            "      END IF;\n"
            "      RAISE foreign_key_violation USING MESSAGE = pg_catalog.format({}, ROW({})::pg_catalog.text),\n"
            "        HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';"
        ).format(
            referring(self.mine, self.yours),
            sql.Literal(
                f"the row %s of {self.mine.table} has no old form: there is no such row in {self.yours.table}"
            ),
            comma(column(name, "zdm_at") for name in self.mine.key),
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
            "      BEGIN\n        PERFORM pg_catalog.set_config('zdm.row', {} OPERATOR(pg_catalog.||) '!', true);\n"
            "        UPDATE {} AS zdm_t SET {} WHERE {};\n      EXCEPTION\n"
            "        WHEN integrity_constraint_violation THEN NULL;\n      END;\n"
            "{}"
            "      PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);"
        ).format(
            self._guard_across(row),
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
        return load("row_truncate").fill(
            target=self.target,
            guard=sql.Literal(f"{self.mapping.number}:{row_conditions.across(self.side)}:*"),
        )


_OWN = sql.Identifier("zdm_own")


def _value(number: int) -> sql.Identifier:
    return sql.Identifier(f"zdm_v{number}")
