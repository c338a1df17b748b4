"""The function that makes one side's row hold what the other side's row says: ``settle_new`` by the old side's, ``settle_old`` the other way round.

It reads the row anew: a trigger's ``NEW`` may be out of date by the time it runs, if an application's trigger wrote the row again.
"""

from __future__ import annotations

from psycopg import sql

from zdm.model.row_mapping import (
    SideKind,
    derived,
)
from zdm.sql import row_conditions
from zdm.sql.identifiers import SCHEMA, all_of, any_of, column, comma, type_name
from zdm.sql.row_objects import (
    RAISED,
    Function,
    failed,
    name_of,
    referring,
    same_key,
)
from zdm.sql.row_write import OWN, Writing, variable
from zdm.sql.rows import render
from zdm.sql.templates import dollar_quoted, load


class Settling(Writing):
    """That function, in parts that kinds of mappings replace."""

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
                        sql.SQL("  {} {};").format(variable(number), type_name(c.type))
                        for number, c in enumerate(self.yours.columns)
                    ),
                    *([sql.SQL("  {} {};").format(OWN, self.target)] if self._over_both else []),
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
                sql.SQL("{} = {}").format(column(c.name), variable(number))
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

    def _settled(self) -> sql.Composable:
        """The failure that is recorded of the row, if one is, is over."""
        if self.side == "old" or not self._direct or not self._may_fail:
            return self._forget_failure()
        # The trigger over there would say so, and does not look.
        values = [render(value, "zdm_at") for value in self.yours.key_values]
        return sql.SQL("  DELETE {};").format(
            failed(self.mapping, self.rollout, self.yours, "zdm_at", values)
        )

    def _compute(self) -> sql.Composable:
        """Whether the row is wanted over there, and what it holds there; nothing is written."""
        lines: list[sql.Composable] = []
        if self._over_both:
            # Locked before it is read: whoever is writing the rest of what it holds is waited for, and nothing of it is lost.
            lines.append(
                sql.SQL("    SELECT zdm_t.* INTO {} FROM {} AS zdm_t WHERE {} FOR NO KEY UPDATE;").format(
                    OWN, self.target, row_conditions.match(self.yours, "zdm_t", "zdm_at")
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
            sql.SQL("    {} := {};").format(variable(number), render(c.value, "zdm_row", "zdm_own"))
            for number, c in enumerate(self.yours.columns)
        ]
        lines += [
            sql.SQL(
                "    IF {value} IS NULL THEN\n      RAISE not_null_violation USING MESSAGE = {message};\n    END IF;"
            ).format(
                value=variable(number),
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
    def _computed(self) -> list[sql.Composable]:
        """Conditions: there are values to compare with."""
        return []

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
            "      OR pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.=) 'read committed')) AND NOT {} AND NOT EXISTS (SELECT FROM {} AS zdm_t WHERE {}) THEN\n{}\n"
            "      RETURN true;\n    END IF;"
        ).format(
            row_conditions.holds(self.mine, "zdm_row"),
            self.target,
            row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            self._nothing_over,
        )

    @property
    def _nothing_over(self) -> sql.Composable:
        """What else ends where there is nothing to mirror."""
        return sql.SQL("")

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
