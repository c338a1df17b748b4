"""A row mapping whose new side has the rows of other old tables as well.

What rows of one old table hold in the new one tells whose a row is (`RowSide.told`), so each mapping looks at its own rows only. What is left is
where mappings meet:

* A row that the new version gives to another table goes there and comes here, by the triggers of both mappings.
* Where what tells rows apart is no part of the key, two old tables may claim one row. Who comes second is recorded, and tried
  again when the transaction ends and when the first one goes. A row that goes while another old table has its key becomes that one's.
* A row that is no table's has no old form, which the first of the mappings sees to.
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from zdm.model.expression import Expression
from zdm.sql import row_conditions, row_generator
from zdm.sql.element_sync import trigger_before
from zdm.sql.identifiers import SCHEMA, all_of, any_of, column, comma, trusted, type_name
from zdm.sql.row_objects import Function, Trigger, failed, name_of, same_key
from zdm.sql.rows import render
from zdm.sql.templates import dollar_quoted, load


class UnionObjects(row_generator.Generator):
    """Everything that mirrors the writes of one side (`mine`) to the other (`yours`)."""

    # --- what there is --------------------------------------------------------------------------------------------------

    @property
    def functions(self) -> tuple[Function, ...]:
        made = [self._settle(), self._on()]
        if self.side == "old":
            return (self._claiming(), *made, self._again()) if self.mapping.contested else tuple(made)
        if self.mapping.foremost:
            made.append(self._no_form())
        if self.mapping.numbers:
            made.append(self._number())
        return tuple(made)

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        on = self._function_name("on")
        if self.side == "old":
            made = [
                self._trigger("insert", "INSERT", on),
                self._trigger("update", "UPDATE", on),
                self._trigger("delete", "DELETE", on),
                self._statement_trigger(on),
            ]
            if self.mapping.contested:
                late, renamed = self._function_name("late"), self._changed(self.mine.key)
                made.append(self._trigger("late", "INSERT", late, late=True))
                made.append(self._trigger("late_key", "UPDATE", late, renamed, late=True))
            return tuple(made)
        was, now = (row_conditions.theirs(self.mine, alias) for alias in ("old", "new"))
        made = [
            self._trigger("insert", "INSERT", on, all_of([*self._backfilled, now])),
            self._trigger("update", "UPDATE", on, any_of([was, now])),
            self._trigger("delete", "DELETE", on, was),
            self._statement_trigger(on),
        ]
        made += self._refusing()
        if self.mapping.numbers:
            made.append(
                self._before("number", self._function_name("number"), all_of([any_of(self._unnumbered), now]))
            )
        return tuple(made)

    def _refusing(self) -> tuple[Trigger, ...]:
        """What meets a row that is no table's."""
        if not self.mapping.foremost:
            return ()
        nobodys, outside = row_conditions.nobodys(self.mapping, "new"), self._function_name("outside")
        refused = self._trigger("outside", "INSERT OR UPDATE", outside, nobodys)
        if not self.mapping.numbers:
            return (refused,)
        # Without a number it would be refused for that, which tells nothing.
        return (refused, self._before("outside", outside, all_of([any_of(self._unnumbered), nobodys])))

    def _before(self, purpose: str, function: str, when: sql.Composable) -> Trigger:
        name = trigger_before(self.mapping, f"{self.side}_{purpose}")
        definition = load("row_trigger_before").fill(
            trigger=sql.Identifier(name),
            event=sql.SQL("INSERT"),
            table=self.table,
            level=sql.SQL("ROW"),
            condition=sql.SQL("WHEN ({})").format(when),
            function=sql.Identifier(SCHEMA, function),
        )
        return Trigger(name, definition, self._label("row_trigger_before", definition))

    @property
    def _unnumbered(self) -> list[sql.Composable]:
        return [sql.SQL("({} IS NULL)").format(column(name, "new")) for name, _ in self.mapping.numbers]

    @property
    def _shared(self) -> bool:
        # Each old table has one mapping.
        return False

    @property
    def _reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*super()._reads, *(t.name for t in self.mine.told)]))

    @property
    def _expressions(self) -> list[Expression]:
        return [*super()._expressions, *(t.value for t in self.mapping.new.told)]

    # --- pieces ---------------------------------------------------------------------------------------------------------

    @property
    def _foremost(self) -> int:
        return min([self.mapping.number, *(other.number for other in self.mapping.beside)])

    def _handover(self, key: sql.Composable) -> sql.Composable:
        """What `zdm.row` says while a row of the new side becomes another table's."""
        return sql.SQL("pg_catalog.concat_ws(':', {}, ROW({})::pg_catalog.text)").format(
            sql.Literal(f"{self._foremost}:over"), key
        )

    def _claims(self, number: int) -> str:
        """The function that says whether the old table of the mapping with that number has a key."""
        return name_of(self.mapping.model_copy(update={"number": number}), self.rollout, "claims_old")

    def _settling(self, template: str, **pieces: sql.Composable) -> Function:
        if self.side == "new":
            own = same_key(self.mine, "zdm_s", "zdm_at")
            pieces["own_key"] = all_of([own, row_conditions.theirs(self.mine, "zdm_s")])
        return super()._settling(template, **pieces)

    @property
    def _claimed(self) -> sql.Composable:
        # It is a row of the old version's, whatever it holds.
        return sql.SQL("true")

    def _upsert(self) -> sql.Composable:
        side = self.yours
        if not side.given:
            return super()._upsert()
        assigned = comma(
            sql.SQL("{0} = EXCLUDED.{0}").format(column(name))
            for name in (*(t.name for t in side.given), *(c.name for c in side.followed))
        )
        statement = load("union_write").fill(
            target=self.target,
            columns=row_conditions.insert_columns(side),
            values=comma([*row_conditions.row_values(side, "zdm_row"), *self._values]),
            key=comma(column(name) for name in side.key),
            assign=assigned,
            theirs=row_conditions.theirs(side, "zdm_t"),
            stored=self._stored,
            message=_message(f"two source rows claim one target row: \0 of {side.table} is another table's"),
            row=comma(render(value, "zdm_row") for value in side.key_values),
        )
        return self._recorded(statement)

    def _forget_failure(self) -> sql.Composable:
        if self.side == "old" or not self.mapping.contested:
            return super()._forget_failure()
        values = [render(value, "zdm_at") for value in self.yours.key_values]
        return sql.SQL("  DELETE {};").format(
            failed(self.mapping, self.rollout, self.yours, "zdm_at", values)
        )

    def _go(self) -> sql.Composable:
        if self.side == "new" or not self.mapping.contested:
            return super()._go()
        handovers = [
            load("union_handover").fill(
                schema=sql.Literal(SCHEMA),
                name=sql.Literal(self._claims(other.number)),
                claims=sql.Identifier(SCHEMA, self._claims(other.number)),
                key=comma(column(name, "zdm_at") for name in self.mine.key),
            )
            for other in self.mapping.beside
        ]
        return load("union_go").fill(
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            met=row_conditions.met(self.yours, "zdm_t", "zdm_at"),
            handovers=sql.SQL("\n").join(handovers),
            go=super()._go(),
        )

    def _truncate(self) -> sql.Composable:
        if self.side == "new":
            return super()._truncate()
        number = self.mapping.number
        return load("union_truncate").fill(
            mirrored=sql.Literal(f"{number}:old:*"),
            target=self.target,
            theirs=row_conditions.theirs(self.yours, "zdm_t"),
            guard=sql.Literal(f"{number}:new:*"),
        )

    # --- functions ------------------------------------------------------------------------------------------------------

    def _on(self) -> Function:
        if self.side == "old":
            return super()._on()
        name = self._function_name("on")
        definition = self._definition(
            "union_trigger",
            function=sql.Identifier(SCHEMA, name),
            settings=self._settings,
            settle=self._settle_name,
            along=self._along,
            taken_over=self._taken_over,
            handover=self._handover(comma(column(name, "new") for name in self.mine.key)),
            elsewhere=self._elsewhere(),
            theirs_before=row_conditions.theirs(self.mine, "old"),
            theirs_now=row_conditions.theirs(self.mine, "new"),
            key_changed=self._changed(self.mine.key),
            move=self._move("new"),
            truncate=self._truncate(),
        )
        return Function(name, sql.SQL(""), definition, self._label("union_trigger", definition))

    def _elsewhere(self) -> sql.Composable:
        if not self.mapping.contested:
            return sql.SQL("")
        return sql.SQL("\n").join(
            load("union_elsewhere").fill(
                mine=self._guard("new", self.mine, "new"),
                claims=sql.Identifier(SCHEMA, self._claims(other.number)),
                key=comma(render(value, "new") for value in self.yours.key_values),
                row=sql.SQL("ROW({})::pg_catalog.text").format(
                    comma(column(name, "new") for name in self.mine.key)
                ),
                table=sql.Literal(str(other.table)),
            )
            for other in self.mapping.beside
        )

    def _claiming(self) -> Function:
        name = self._claims(self.mapping.number)
        arguments = comma(type_name(type_) for type_ in self.mine.key_types)
        given = {name: trusted(f"${number}") for number, name in enumerate(self.mine.key, 1)}
        values = [value.render(lambda name: given[name]) for value in self.yours.key_values]
        definition = dollar_quoted(
            "union_claims",
            function=sql.Identifier(SCHEMA, name),
            arguments=arguments,
            source=self.table,
            own_key=_equal(given.items(), "zdm_s"),
            handover=self._handover(comma(values)),
            target=self.target,
            assign=comma(sql.SQL("{} = {}").format(column(t.name), render(t.value)) for t in self.yours.told),
            met=_equal(zip(self.yours.key, values, strict=True), "zdm_t"),
            settle=self._settle_name,
        )
        taking = sql.SQL("{}, pg_catalog.bool").format(arguments)
        return Function(name, taking, definition, self._label("union_claims", definition))

    def _again(self) -> Function:
        name = self._function_name("late")
        definition = self._definition(
            "union_late",
            function=sql.Identifier(SCHEMA, name),
            settings=self._settings,
            settle=self._settle_name,
            source=self.table,
            own_key=same_key(self.mine, "zdm_s", "new"),
            failed=failed(self.mapping, self.rollout, self.mine, "new"),
            target=self.target,
            met=row_conditions.met(self.yours, "zdm_t", "zdm_at"),
            touch=comma(sql.SQL("{0} = zdm_t.{0}").format(column(t.name)) for t in self.yours.given),
        )
        return Function(name, sql.SQL(""), definition, self._label("union_late", definition))

    def _no_form(self) -> Function:
        name = self._function_name("outside")
        definition = dollar_quoted(
            "union_outside",
            function=sql.Identifier(SCHEMA, name),
            message=self._outside_said(),
            row=comma(column(name, "new") for name in self.mine.key),
        )
        return Function(name, sql.SQL(""), definition, self._label("union_outside", definition))

    def _outside_said(self) -> sql.Composable:
        sources = [self.mine.told, *(other.told for other in self.mapping.beside)]
        known = "; ".join(" and ".join(f"{t.name} = {t.value.source}" for t in told) for told in sources)
        return _message(f"the row \0 of {self.mine.table} has no old form: it is none of {known}")

    def _number(self) -> Function:
        name = self._function_name("number")
        assign = sql.SQL("\n").join(
            sql.SQL("  IF {0} IS NULL THEN\n    {0} := {1};\n  END IF;").format(
                column(key, "new"), trusted(number)
            )
            for key, number in self.mapping.numbers
        )
        definition = dollar_quoted("union_number", function=sql.Identifier(SCHEMA, name), assign=assign)
        return Function(name, sql.SQL(""), definition, self._label("union_number", definition))


def _equal(pairs: Iterable[tuple[str, sql.Composable]], alias: str) -> sql.Composable:
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(name, alias), value) for name, value in pairs
    )


def _message(text: str) -> sql.Literal:
    """A format for one argument, whose place is marked by NUL, which no name holds."""
    return sql.Literal(text.replace("%", "%%").replace("\0", "%s"))
