"""The functions and triggers of a mapping of one row to many: a row that holds a list, and a row for each of its elements.

``settle_<many>`` makes the elements of a row say what the row says, ``settle_<one>`` makes the row say what its elements say together.
Whoever writes elements of a row holds its lock, so both look at all of them, and one after the other.
"""

from __future__ import annotations

from psycopg import sql

from zdm.model.expression import Expression, Volatility
from zdm.model.row_mapping import RowMapping
from zdm.sql.element_rows import (
    ELEMENT,
    JOINED,
    MANY,
    agreement,
    among,
    belongs,
    elements_of,
    is_element,
    is_whole,
    join,
    one_to_many,
    same_element,
    split,
    wanted_by,
)
from zdm.sql.identifiers import (
    SCHEMA,
    all_of,
    any_of,
    column,
    comma,
    differs,
    qualified_name,
    trusted,
    type_name,
)
from zdm.sql.row_objects import (
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
    truncated,
)
from zdm.sql.rows import PINNED_SETTINGS
from zdm.sql.templates import load


def function_names(mapping: RowMapping, rollout: int, side: Side) -> list[str]:
    """The functions that are made for one side, as `ElementObjects` makes them."""
    elements = one_to_many(mapping)
    purposes = [f"on_{side}"]
    if elements.one == "new":
        purposes += ["agree", "settle_new"] if side == "new" else []
        purposes += ["late_new"] if side == "new" and mapping.gathers else []
        if not elements.follows:
            purposes += ["settle_old"] if side == "new" else ["enter"]
    elif side == "new" or mapping.one_way:
        # What either side's triggers call is made with the new one, which comes first.
        purposes += ["wanted", "agree", "settle_new"]
        purposes += ["settle_old", "enter", "gone"] if side == "new" else []
        purposes += ["hold_old"] if side == "new" and mapping.records else []
    return [name_of(mapping, rollout, purpose) for purpose in purposes]


def across(side: Side) -> Side:
    """The side across."""
    return "new" if side == "old" else "old"


class ElementObjects(Objects):
    """Everything that watches one of the two sides."""

    def __init__(self, mapping: RowMapping, rollout: int, side: Side) -> None:
        super().__init__(mapping, rollout, side)
        self.elements = one_to_many(mapping)
        one, many = mapping.side(self.elements.one), mapping.side(self.elements.many)
        self.one, self.many = one, many
        self.tables = {"one": qualified_name(one.table), "many": qualified_name(many.table)}
        self.others = sql.Literal(f"{mapping.number}:new:*")

    @property
    def functions(self) -> tuple[Function, ...]:
        shared: tuple[Function, ...] = ()
        if self.side == "new" or self.mapping.one_way:
            shared = (self._wanted(), self._agree(), self._settle_many())
        if self.side == self.elements.one:
            return (*shared, self._on(self._on_one()))
        return (*shared, self._settle_one(), self._gone(), self._enter(), self._on(self._on_many()))

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        on = self._named(f"on_{self.side}")
        if self.side == self.elements.one:
            return (
                self._trigger("insert", "INSERT", on),
                self._trigger("update", "UPDATE", on, self._changed(self._reads)),
                self._trigger("delete", "DELETE", on),
                self._statement_trigger(on),
            )
        moved, was, now = self._changed(self.elements.of), self._counting("old"), self._counting("new")
        if was:
            # What becomes an element comes as one that is inserted does.
            moved = any_of([moved, sql.SQL("NOT {}").format(all_of(was))])
        updated = [self._when_updated, *([any_of([*was, *now])] if was else [])]
        return (
            self._before("enter", "INSERT", self._named("enter"), all_of([self._not_backfilled, *now])),
            self._before("move", "UPDATE", self._named("enter"), all_of([self._not_backfilled, *now, moved])),
            *self._taking_away(),
            self._trigger("insert", "INSERT", on, all_of([self._not_backfilled, *now])),
            self._trigger("update", "UPDATE", on, all_of(updated)),
            self._trigger("delete", "DELETE", on, all_of(was)),
            self._statement_trigger(on),
        )

    def _counting(self, alias: str) -> list[sql.Composable]:
        """Conditions over a row of the many side: it is an element; none where every row is."""
        return is_element(self.mapping, alias)

    def _taking_away(self) -> tuple[Trigger, ...]:
        """What notes that a statement takes elements away."""
        gone = self._named("gone")
        told = self.elements.where.columns if self.elements.where is not None else ()
        moving = sql.SQL("UPDATE OF {}").format(
            comma(column(name) for name in dict.fromkeys((*self.elements.of, *told)))
        )
        return (
            self._before("gone", "DELETE", gone, None, level="STATEMENT"),
            self._before("going", moving.as_string(None), gone, None, level="STATEMENT"),
        )

    @property
    def _when_updated(self) -> sql.Composable:
        """Which updates of elements are mirrored."""
        return self._changed(self._reads)

    @property
    def _not_backfilled(self) -> sql.Composable:
        return sql.SQL("(pg_catalog.current_setting('zdm.row', true) IS DISTINCT FROM {})").format(
            self.others
        )

    @property
    def _reads(self) -> tuple[str, ...]:
        elements = self.elements
        if self.side == elements.one:
            found = [*self.one.key, *(c.name for c in elements.held)]
            found += elements.split.reads("one") if elements.split is not None else ()
            found += elements.join.reads("one") if elements.join is not None else ()
        else:
            found = [*elements.of, *(c.name for c in elements.columns)]
            found += elements.join.reads("many") if elements.join is not None else ()
            found += elements.where.columns if elements.where is not None else ()
        return tuple(dict.fromkeys(found))

    @property
    def _expressions(self) -> list[Expression]:
        return []

    @property
    def _settings(self) -> sql.Composable:
        queries = [q for q in (self.elements.split, self.elements.join) if q is not None]
        if all(q.volatility is Volatility.IMMUTABLE for q in queries) and not any(
            "\\" in part for q in queries for part in q.parts if isinstance(part, str)
        ):
            return sql.SQL("")
        return sql.Composed(
            [
                sql.SQL("\n  SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
                for name, value in PINNED_SETTINGS.items()
            ]
        )

    def _before(
        self, purpose: str, event: str, function: str, when: sql.Composable | None, *, level: str = "ROW"
    ) -> Trigger:
        # After what the application's triggers do to the row.
        name = trigger_before(self.mapping, f"{self.side}_{purpose}")
        definition = load("row_trigger_before").fill(
            trigger=sql.Identifier(name),
            event=trusted(event),
            table=self.table,
            level=trusted(level),
            condition=sql.SQL("WHEN ({})").format(when) if when is not None else sql.SQL(""),
            function=sql.Identifier(SCHEMA, function),
        )
        return Trigger(name, definition, self._label("row_trigger_before", definition))

    # --- functions ------------------------------------------------------------------------------------------------------

    def _named(self, purpose: str) -> str:
        return name_of(self.mapping, self.rollout, purpose)

    def _called(self, purpose: str) -> sql.Identifier:
        return sql.Identifier(SCHEMA, self._named(purpose))

    def _made(
        self, purpose: str, template: str, takes: sql.Composable, /, **pieces: sql.Composable
    ) -> Function:
        definition = self._definition(template, function=self._called(purpose), **pieces)
        return Function(self._named(purpose), takes, definition, self._label(template, definition))

    def _guard(self, values: sql.Composable) -> sql.Composable:
        """The row, as `zdm.row` names it while it or its elements are written."""
        return sql.SQL("pg_catalog.concat_ws(':', {}, ROW({})::pg_catalog.text)").format(
            sql.Literal(f"{self.mapping.number}:row"), values
        )

    def _key(self, alias: str) -> sql.Composed:
        return comma(column(name, alias) for name in self.one.key)

    def _of_element(self, alias: str) -> sql.Composed:
        return comma(column(name, alias) for name in self.elements.of)

    def _agrees(self, alias: str) -> sql.Composable:
        return sql.SQL("{}({})").format(self._called("agree"), sql.Identifier(alias))

    def _wanted(self) -> Function:
        return self._made(
            "wanted",
            "element_wanted",
            self.tables["one"],
            one=self.tables["one"],
            split=split(self.mapping, "zdm_row"),
        )

    def _agree(self) -> Function:
        up, down = agreement(self.mapping, "zdm_row", self.rollout)
        return self._agreeing(up, down, stable=self.elements.one == "new")

    def _agreeing(self, up: sql.Composable, down: sql.Composable, *, stable: bool = False) -> Function:
        """The function that says whether a row and its elements agree.

        Parameters
        ----------
        stable: a statement that asks it of many rows gets the answer as of the moment at which it sees the rows. Otherwise each whose elements
            are written between the two would seem to disagree, and a backfill that looks for what is left would come to no end.
        """
        return self._made(
            "agree",
            "element_agree",
            self.tables["one"],
            one=self.tables["one"],
            volatility=sql.SQL("STABLE" if stable else "VOLATILE"),
            up=up,
            down=down,
        )

    def _settle_many(self) -> Function:
        mapping, elements = self.mapping, self.elements
        columns = [*elements.of, *(c.name for c in elements.columns)]
        others = [c for c in elements.columns if c.name not in elements.key]
        write: sql.Composable = sql.SQL("DO NOTHING")
        if others:
            write = sql.SQL("DO UPDATE SET {} WHERE {}").format(
                comma(sql.SQL("{0} = EXCLUDED.{0}").format(column(c.name)) for c in others),
                any_of(
                    differs(column(c.name, MANY), column(c.name, "excluded"), c.comparison, c.type)
                    for c in others
                ),
            )
        return self._made(
            f"settle_{elements.many}",
            "element_settle_many",
            sql.SQL("{0}, {0}, pg_catalog.text").format(self.tables["one"]),
            **self.tables,
            guard=self._guard(self._key("zdm_at")),
            all=self.others,
            own_key=same_key(self.one, "zdm_s", "zdm_at"),
            match=belongs(mapping, MANY, "zdm_at"),
            was_match=belongs(mapping, MANY, "zdm_was"),
            was_split=self._rows("zdm_was"),
            split=self._rows("zdm_row"),
            added=self._added("zdm_row"),
            columns=comma(column(name) for name in columns),
            arbiter=comma(column(name) for name in self.many.key),
            agree=self._agrees("zdm_row"),
            same_element=same_element(mapping, MANY, ELEMENT),
            write=write,
            going=all_of(self._going(MANY)),
            over=self._over(),
            fail=self._fail(),
            forget=sql.SQL("  DELETE {};").format(failed(mapping, self.rollout, self.one, "zdm_at")),
            back=self._back(),
        )

    def _fail(self) -> sql.Composable:
        """What becomes of a row of which no elements can be made."""
        return record_failure(self.mapping, self.rollout, self.one, "zdm_at")

    def _back(self) -> sql.Composable:
        """What comes once the elements of a row are written, which may not have stayed what it says."""
        if self.mapping.one_way:
            return sql.SQL("      NULL;")
        return sql.SQL(
            "      IF zdm_how OPERATOR(pg_catalog.<>) 'again' AND NOT {} THEN\n        PERFORM {}({}, 'again');\n      END IF;"
        ).format(self._agrees("zdm_row"), self._called(f"settle_{self.elements.one}"), self._key("zdm_row"))

    def _going(self, alias: str) -> list[sql.Composable]:
        """Conditions over an element that its row no longer says: it goes."""
        del alias
        return []

    def _over(self) -> sql.Composable:
        """What comes before the elements that a row says are written: nothing that would be a row of something else is one."""
        counting = self._counting(MANY)
        if not counting:
            return sql.SQL("")
        names = (*self.elements.of, *(c.name for c in self.elements.columns))
        return sql.SQL(
            "        IF EXISTS (SELECT FROM ({}) AS zdm_m ({}) WHERE NOT {}) THEN\n"
            "          RAISE check_violation USING MESSAGE = {};\n        END IF;"
        ).format(
            self._rows("zdm_row"),
            comma(column(name) for name in names),
            all_of(counting),
            sql.Literal(
                f"`up` makes a row of {self.many.table} of it that `elements_where` does not take for an element"
            ),
        )

    def _rows(self, alias: str) -> sql.Composed:
        """The elements of a row, as an INSERT takes them."""
        return sql.SQL("SELECT {} FROM ({}) AS zdm_q").format(
            elements_of(self.mapping, "zdm_q"), split(self.mapping, alias)
        )

    def _added(self, alias: str) -> sql.Composed:
        """Those of them that are written. What is there already need not be locked, since whoever changes it waits for the row."""
        return self._rows(alias)

    @property
    def _takes(self) -> sql.Composable:
        """The types of what such a function takes: the row's key, and how."""
        return comma([*(type_name(type_) for type_ in self.one.key_types), sql.SQL("pg_catalog.text")])

    @property
    def _arguments(self) -> list[sql.Composable]:
        """The row's key, as such a function takes it."""
        return [sql.Identifier(f"zdm_a{number}") for number, _ in enumerate(self.one.key)]

    def _of_one(self) -> dict[str, sql.Composable]:
        """What a function needs that makes a row say what its elements say; its arguments are the row's key, and how."""
        mapping, elements = self.mapping, self.elements
        types = [type_name(type_) for type_ in self.one.key_types]
        keys = self._arguments

        def is_key(names: tuple[str, ...], alias: str) -> sql.Composable:
            return all_of(
                sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(name, alias), key)
                for name, key in zip(names, keys, strict=True)
            )

        own_key = is_key(self.one.key, "zdm_s")
        first = self.one.key[0]
        return {
            **self.tables,
            "arguments": comma(
                [
                    *(sql.SQL("{} {}").format(name, type_) for name, type_ in zip(keys, types, strict=True)),
                    sql.SQL("zdm_how pg_catalog.text"),
                ]
            ),
            "guard": self._guard(comma(keys)),
            "own_key": own_key,
            "match": all_of([is_key(elements.of, MANY), *self._counting(MANY)]),
            "agree": self._agrees("zdm_row"),
            # A version of the row that this transaction wrote meets every older snapshot already.
            "touch": sql.SQL(
                "UPDATE {} AS zdm_s SET {} = {} WHERE {} AND zdm_s.xmin OPERATOR(pg_catalog.<>) pg_catalog.pg_current_xact_id()::pg_catalog.xid"
            ).format(self.tables["one"], column(first), column(first, "zdm_s"), own_key),
            "assign": comma(
                sql.SQL("{} = {}").format(column(c.name), column(f"zdm_c{number}", JOINED))
                for number, c in enumerate(elements.held)
            ),
            "join": join(mapping, "zdm_row", of=among(mapping, self.rollout)),
        }

    def _settle_one(self, purpose: str = "") -> Function:
        mapping, elements = self.mapping, self.elements
        whole = sql.SQL("true") if elements.lossy else is_whole(mapping, "zdm_row", self.rollout)
        return self._made(
            purpose or f"settle_{elements.one}",
            "element_settle_one",
            self._takes,
            **self._of_one(),
            all=self.others,
            failure=failed(mapping, self.rollout, self.one, "zdm_row"),
            referring=referring(self.many, self.one),
            whole=whole,
            settle_many=self._called(f"settle_{elements.many}"),
            names=sql.Literal(", ".join(c.name for c in elements.held)),
            one_text=sql.Literal("the row %s holds a value of the old version that has no new form, in %s"),
            orphan=sql.Literal(
                f"rows of {self.many.table} belong to %s of {self.one.table}, which is not there"
            ),
            no_form=sql.Literal(
                f"the rows of {self.many.table} that belong to %s have no form in {self.one.table}: other elements would come back"
            ),
        )

    def _gone(self) -> Function:
        return self._made(
            "gone",
            "element_gone",
            sql.SQL(""),
            number=sql.Literal(str(self.mapping.number)),
            mirrored=sql.Literal(f"{self.mapping.number}:"),
        )

    def _enter(self) -> Function:
        mapping = self.mapping
        return self._made(
            "enter",
            "element_enter",
            sql.SQL(""),
            settings=self._settings,
            **self.tables,
            guard=self._guard(self._of_element("new")),
            own_key=equal(self.one.key, "zdm_s", self.elements.of, "new"),
            match=all_of([equal(self.elements.of, MANY, self.elements.of, "new"), *self._counting(MANY)]),
            filled=self._filled(self.mapping.id),
            wanted=wanted_by(mapping, self.rollout),
            settle_many=self._called(f"settle_{self.elements.many}"),
            number=sql.Literal(str(mapping.number)),
            not_filled=sql.Literal(f"the elements of the row %s are not filled yet in {self.many.table}"),
            no_form=sql.Literal(
                f"the row %s holds a value of the old version that has no form in {self.many.table}"
            ),
        )

    def _on(self, lines: dict[str, sql.Composable]) -> Function:
        return self._made(f"on_{self.side}", "element_trigger", sql.SQL(""), settings=self._settings, **lines)

    def _on_one(self) -> dict[str, sql.Composable]:
        settle = self._called(f"settle_{self.elements.many}")
        return {
            "inserted": sql.SQL("    PERFORM {}(NEW, NEW, 'insert');").format(settle),
            "updated": sql.SQL("    IF {} THEN\n{}\n    END IF;\n    PERFORM {}(NEW, OLD, 'update');").format(
                self._changed(self.one.key), self._moving(), settle
            ),
            "deleted": sql.SQL("    PERFORM {}(OLD, OLD, 'delete');").format(settle),
            "truncated": sql.SQL(
                "{}\n    DELETE FROM zdm.sync_failures WHERE rollout = {} AND group_name = {};"
            ).format(
                self._taking_all(),
                sql.Literal(self.rollout),
                sql.Literal(str(self.mapping.id)),
            ),
        }

    def _moving(self) -> sql.Composable:
        """What takes the elements along to another key of their row."""
        return sql.SQL(
            "      PERFORM pg_catalog.set_config('zdm.row', {}, true);\n      UPDATE {} AS zdm_m SET {} WHERE {};\n"
            "      PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);\n"
            # What is wrong with the row is told of its other key.
            "      DELETE {};"
        ).format(
            self.others,
            self.tables["many"],
            comma(
                sql.SQL("{} = {}").format(column(of), column(own, "new"))
                for of, own in zip(self.elements.of, self.one.key, strict=True)
            ),
            belongs(self.mapping, MANY, "old"),
            failed(self.mapping, self.rollout, self.one, "old"),
        )

    def _taking_all(self) -> sql.Composable:
        """What makes all elements go."""
        many = self.tables["many"]
        if counting := self._counting(MANY):
            return load("element_truncate").fill(target=many, guard=self.others, element=all_of(counting))
        return truncated(many, self.others)

    def _on_many(self) -> dict[str, sql.Composable]:
        settle = self._called(f"settle_{self.elements.one}")
        new, old = self._of_element("new"), self._of_element("old")
        return {
            "inserted": sql.SQL("    PERFORM {}({}, 'insert');").format(settle, new),
            "updated": sql.SQL(
                "    IF {} THEN\n      PERFORM {}({}, 'follow');\n    END IF;\n    PERFORM {}({}, 'update');"
            ).format(self._changed(self.elements.of), settle, old, settle, new),
            "deleted": sql.SQL("    PERFORM {}({}, 'follow');").format(settle, old),
            "truncated": sql.SQL("    PERFORM {}({}, 'follow') FROM {} AS zdm_s WHERE {}(zdm_s);").format(
                settle, self._key("zdm_s"), self.tables["one"], wanted_by(self.mapping, self.rollout)
            ),
        }


def trigger_before(mapping: RowMapping, purpose: str) -> str:
    """The name of a trigger that fires after the application's of the same kind."""
    return f"~zdm_rows_{mapping.number}_{purpose}"
