"""The functions and triggers of a mapping of one row to many: a row that holds a list, and a row for each of its elements.

``settle_<many>`` makes the elements of a row say what the row says, ``settle_<one>`` makes the row say what its elements say together.
Whoever writes elements of a row holds its lock, so both look at all of them, and one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from psycopg import sql

from zdm.model.expression import Expression, Volatility
from zdm.model.row_mapping import ElementColumn, Elements, RowMapping, RowsQuery
from zdm.sql import records
from zdm.sql.identifiers import all_of, any_of, column, comma, differs, qualified_name, trusted, type_name
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
)
from zdm.sql.rows import PINNED_SETTINGS, render
from zdm.sql.sync import SCHEMA
from zdm.sql.templates import dollar_quoted, load

_MANY, _ELEMENT, _JOINED = "zdm_m", "zdm_e", "zdm_j"

Besides = Callable[[Sequence[sql.Composable]], sql.Composable]
"""A condition over the values of a key."""

_LENGTH = re.compile(r"(character varying)\(\d+\)")


def function_names(mapping: RowMapping, rollout: int, side: Side) -> list[str]:
    """The functions that are made for one side, as `ElementObjects` makes them."""
    elements = _of(mapping)
    purposes = [f"on_{side}"]
    if elements.one == "new":
        purposes += ["agree", "settle_new"] if side == "new" else []
        purposes += ["late_new"] if side == "new" and mapping.gathers else []
    elif side == "new" or mapping.one_way:
        # What either side's triggers call is made with the new one, which comes first.
        purposes += ["wanted", "agree", "settle_new"]
        purposes += ["settle_old", "enter", "gone"] if side == "new" else []
        purposes += ["hold_old"] if side == "new" and mapping.records else []
    return [name_of(mapping, rollout, purpose) for purpose in purposes]


def across(side: Side) -> Side:
    """The side across."""
    return "new" if side == "old" else "old"


def _of(mapping: RowMapping) -> Elements:
    assert mapping.elements is not None
    return mapping.elements


# --- pieces of SQL ------------------------------------------------------------------------------------------------------


def belongs(mapping: RowMapping, many: str, one: str) -> sql.Composable:
    """A condition over two aliases: the element is of this row."""
    elements = _of(mapping)
    return equal(elements.of, many, mapping.side(elements.one).key, one)


def among(mapping: RowMapping, rollout: int) -> sql.Composable:
    """A FROM item without its alias: the elements that count, all of them but those that are recorded as having no old form.

    Parameters
    ----------
    rollout: 0 before there is one, when nothing is recorded.
    """
    if mapping.records:
        return records.counted(mapping, rollout)
    return qualified_name(mapping.side(_of(mapping).many).table)


def split(mapping: RowMapping, alias: str) -> sql.Composed:
    """A SELECT of the elements of the row under this alias: the row's key as ``zdm_k<n>``, its columns as ``zdm_c<n>``."""
    query = _of(mapping).split
    assert query is not None
    return _filled(query, sql.SQL("(SELECT {})").format(_items(query, "one", alias)), None)


def elements_of(mapping: RowMapping, alias: str) -> sql.Composed:
    """The columns of `split` under this alias, in the order of `Elements.of` and `Elements.columns`."""
    elements = _of(mapping)
    names = [f"zdm_k{number}" for number, _ in enumerate(elements.of)]
    names += [f"zdm_c{number}" for number, _ in enumerate(elements.columns)]
    return comma(column(name, alias) for name in names)


def split_all(mapping: RowMapping, where: sql.Composable, alias: str) -> sql.Composed:
    """The same of all rows that meet a condition over this alias."""
    query = _of(mapping).split
    assert query is not None
    one = sql.SQL("(SELECT {} FROM {} AS {} WHERE {})").format(
        _items(query, "one", alias),
        qualified_name(mapping.side(_of(mapping).one).table),
        sql.Identifier(alias),
        where,
    )
    return _filled(query, one, None)


def join(mapping: RowMapping, alias: str, *, of: sql.Composable | None = None) -> sql.Composed:
    """A SELECT, of one row, of what the row under this alias holds by its elements: its key as ``zdm_k<n>``, the held columns as
    ``zdm_c<n>``.

    Parameters
    ----------
    of: where the elements are, if that is not the mapping's table.
    """
    elements = _of(mapping)
    query = elements.join
    assert query is not None
    many = sql.SQL("(SELECT {} FROM {} AS {} WHERE {})").format(
        _items(query, "many", _MANY),
        of or qualified_name(mapping.side(elements.many).table),
        sql.Identifier(_MANY),
        belongs(mapping, _MANY, alias),
    )
    return _filled(query, sql.SQL("(SELECT {})").format(_items(query, "one", alias)), many)


def _items(query: RowsQuery, of: str, alias: str) -> sql.Composable:
    found = dict(
        pair for part in query.parts if not isinstance(part, str) and part.of == of for pair in part.columns
    )
    return comma(
        sql.SQL("{} AS {}").format(column(physical, alias), column(name)) for name, physical in found.items()
    )


def _filled(query: RowsQuery, one: sql.Composable, many: sql.Composable | None) -> sql.Composed:
    pieces: list[sql.Composable] = []
    for part in query.parts:
        if isinstance(part, str):
            pieces.append(trusted(part))
        elif part.of == "one":
            pieces.append(one)
        else:
            assert many is not None
            pieces.append(many)
    return sql.Composed(pieces)


def same_element(mapping: RowMapping, many: str, element: str) -> sql.Composable:
    """A condition over a row of the many side and one of `split`: they are the same element of their row."""
    elements = _of(mapping)
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(c.name, many), as_stored(number, c, element))
        for number, c in enumerate(elements.columns)
        if c.name in elements.key
    )


def as_stored(number: int, c: ElementColumn, alias: str) -> sql.Composable:
    """A column of a query's, as it would be stored; what is too long stays another value."""
    return sql.SQL("CAST({} AS {})").format(
        column(f"zdm_c{number}", alias), type_name(_LENGTH.sub(r"\1", c.type))
    )


def unlike(mapping: RowMapping, many: str, element: str, *, besides: Iterable[str] = ()) -> sql.Composable:
    """A condition over the same element twice, never NULL: it holds something else, besides its key or these columns."""
    elements = _of(mapping)
    same = set(besides) or set(elements.key)
    return any_of(
        differs(column(c.name, many), as_stored(number, c, element), c.comparison, _LENGTH.sub(r"\1", c.type))
        for number, c in enumerate(elements.columns)
        if c.name not in same
    )


def held_alike(mapping: RowMapping, one: str, joined: str) -> sql.Composable:
    """A condition over a row and what its elements say of it, never NULL: it holds that."""
    return all_of(
        sql.SQL("NOT {}").format(
            differs(
                column(c.name, one), as_stored(number, c, joined), c.comparison, _LENGTH.sub(r"\1", c.type)
            )
        )
        for number, c in enumerate(_of(mapping).held)
    )


def is_split(mapping: RowMapping, alias: str, rollout: int) -> sql.Composable:
    """A condition over a row: its elements are exactly those that it says, each once."""
    nothing = sql.SQL("")
    same = same_element(mapping, _MANY, _ELEMENT)
    return _compared(mapping, alias, rollout, same, unlike(mapping, _MANY, _ELEMENT), nothing, nothing)


def is_in_order(mapping: RowMapping, alias: str, rollout: int, order: str) -> sql.Composable:
    """A condition over a row: its elements are those that it says, in the same order."""
    elements = _of(mapping)
    places = {c.name: f"zdm_c{number}" for number, c in enumerate(elements.columns)}
    # Of two in the same place the key decides.
    names = [order, *(name for name in elements.key if name != order)]

    def ranked(found: Iterable[str], of: str) -> sql.Composable:
        return sql.SQL(", pg_catalog.row_number() OVER (ORDER BY {}) AS zdm_place").format(
            comma(column(name, of) for name in found)
        )

    same = sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(
        column("zdm_place", _MANY), column("zdm_place", _ELEMENT)
    )
    unlike_ = unlike(mapping, _MANY, _ELEMENT, besides=[order])
    return _compared(
        mapping,
        alias,
        rollout,
        same,
        unlike_,
        ranked((places[n] for n in names), "zdm_q"),
        ranked(names, _MANY),
    )


def _compared(
    mapping: RowMapping,
    alias: str,
    rollout: int,
    same: sql.Composable,
    different: sql.Composable,
    of_element: sql.Composable,
    of_many: sql.Composable,
) -> sql.Composable:
    many = among(mapping, rollout)
    return sql.SQL(
        "(SELECT pg_catalog.count(*) FILTER (WHERE zdm_e.zdm_there AND zdm_m.zdm_there AND NOT {different})"
        " OPERATOR(pg_catalog.=) pg_catalog.count(*) AND pg_catalog.count(*) OPERATOR(pg_catalog.=)"
        " (SELECT pg_catalog.count(*) FROM {many} AS zdm_m WHERE {belongs})"
        " FROM (SELECT zdm_q.*, true AS zdm_there{of_element} FROM ({split}) AS zdm_q) AS zdm_e"
        " FULL JOIN (SELECT zdm_m.*, true AS zdm_there{of_many} FROM {many} AS zdm_m WHERE {belongs}) AS zdm_m ON {same})"
    ).format(
        different=different,
        many=many,
        belongs=belongs(mapping, _MANY, alias),
        split=split(mapping, alias),
        of_element=of_element,
        of_many=of_many,
        same=same,
    )


def is_joined(mapping: RowMapping, alias: str, rollout: int) -> sql.Composable:
    """A condition over a row, never NULL: it holds what its elements say together."""
    elements = _of(mapping)
    if elements.join is None or (mapping.one_way and elements.one == "old"):
        return sql.SQL("false")
    return sql.SQL("COALESCE((SELECT {} FROM ({}) AS zdm_j), false)").format(
        held_alike(mapping, alias, _JOINED), join(mapping, alias, of=among(mapping, rollout))
    )


def disagreeing(
    mapping: RowMapping, rollout: int, *, known: bool = True, besides: Besides = lambda _: sql.SQL("false")
) -> sql.Composed:
    """A SELECT of what is wrong: ``kind`` (of `zdm.sql.rows.Kind`), ``key`` as text, and the row's key as ``zdm_k<n>``.

    What must be there follows from the rows of both sides alone; no function of the sync is called.

    Parameters
    ----------
    known: pass over rows that are recorded as failed, whose elements cannot be computed.
    besides: a condition over a row's key: pass over these as well.
    """
    elements = _of(mapping)
    one = mapping.side(elements.one)
    if elements.split is None:
        return _unlike_joined(mapping, rollout, besides)
    passing = [sql.SQL("EXISTS (SELECT {})").format(failed(mapping, rollout, one, "zdm_o"))] if known else []
    passed = any_of([*passing, besides([column(name, "zdm_o") for name in one.key])])
    keys = [f"zdm_k{number}" for number, _ in enumerate(elements.of)]
    return sql.SQL(
        "SELECT zdm_p.* FROM (SELECT CASE WHEN zdm_o.zdm_there IS NULL THEN 'extra' WHEN {passed} THEN NULL WHEN {joined} THEN NULL"
        " WHEN zdm_d.zdm_m IS NULL THEN 'missing' WHEN zdm_d.zdm_e IS NULL THEN 'extra' ELSE 'different' END AS kind, zdm_d.key, {found}"
        " FROM (SELECT zdm_e.zdm_there AS zdm_e, zdm_m.zdm_there AS zdm_m, pg_catalog.concat_ws(', ', {texts}) AS key, {keys}"
        " FROM (SELECT zdm_q.*, true AS zdm_there FROM ({split}) AS zdm_q) AS zdm_e"
        " FULL JOIN (SELECT *, true AS zdm_there FROM {many}) AS zdm_m ON {same}"
        " WHERE zdm_e.zdm_there IS NULL OR zdm_m.zdm_there IS NULL OR {unlike}) AS zdm_d"
        " LEFT JOIN (SELECT *, true AS zdm_there FROM {one}) AS zdm_o ON {own}) AS zdm_p WHERE kind IS NOT NULL"
    ).format(
        passed=passed,
        joined=is_joined(mapping, "zdm_o", rollout),
        found=comma(column(name, "zdm_d") for name in keys),
        texts=comma(
            [
                sql.SQL("{} || COALESCE({}::text, {}::text)").format(
                    sql.Literal(f"{name}="), column(name, _MANY), column(element, _ELEMENT)
                )
                for name, element in [
                    *zip(elements.of, keys, strict=True),
                    *(
                        (c.name, f"zdm_c{number}")
                        for number, c in enumerate(elements.columns)
                        if c.name in elements.key
                    ),
                ]
            ]
        ),
        keys=comma(
            sql.SQL("COALESCE({}, {}) AS {}").format(column(name, _MANY), column(key, _ELEMENT), column(key))
            for name, key in zip(elements.of, keys, strict=True)
        ),
        split=split_all(mapping, sql.SQL("NOT {}").format(passed), "zdm_o"),
        many=sql.SQL("{} AS zdm_a").format(among(mapping, rollout)),
        one=qualified_name(one.table),
        same=all_of([keys_equal(mapping, _MANY, _ELEMENT), same_element(mapping, _MANY, _ELEMENT)]),
        unlike=unlike(mapping, _MANY, _ELEMENT),
        own=all_of(
            sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(own, "zdm_o"), column(key, "zdm_d"))
            for own, key in zip(one.key, keys, strict=True)
        ),
    )


def _unlike_joined(mapping: RowMapping, rollout: int, besides: Besides) -> sql.Composed:
    """The same where rows only follow from their elements."""
    one = mapping.source
    return sql.SQL(
        "SELECT 'different' AS kind, pg_catalog.concat_ws(', ', {texts}) AS key, {keys} FROM {one} AS zdm_o"
        " WHERE CASE WHEN EXISTS (SELECT {failed}) OR {besides} THEN false ELSE NOT {joined} END"
    ).format(
        texts=comma(
            sql.SQL("{} || {}::text").format(sql.Literal(f"{name}="), column(name, "zdm_o"))
            for name in one.key
        ),
        keys=comma(
            sql.SQL("{} AS {}").format(column(name, "zdm_o"), column(f"zdm_k{number}"))
            for number, name in enumerate(one.key)
        ),
        one=qualified_name(one.table),
        failed=failed(mapping, rollout, one, "zdm_o"),
        besides=besides([column(name, "zdm_o") for name in one.key]),
        joined=is_joined(mapping, "zdm_o", rollout),
    )


def comparison(mapping: RowMapping) -> sql.Composed:
    """What the verification asks, in short."""
    elements = _of(mapping)
    if elements.split is None:
        return sql.SQL("SELECT count(*) FROM {} AS zdm_o WHERE NOT {}").format(
            qualified_name(mapping.source.table), is_joined(mapping, "zdm_o", 0)
        )
    return sql.SQL(
        "SELECT count(*) FROM ({}) AS zdm_e FULL JOIN {} AS zdm_m ON {} AND {} WHERE zdm_e IS NULL OR zdm_m IS NULL OR {}"
    ).format(
        split_all(mapping, sql.SQL("<range>"), "zdm_o"),
        qualified_name(mapping.side(elements.many).table),
        keys_equal(mapping, _MANY, _ELEMENT),
        same_element(mapping, _MANY, _ELEMENT),
        unlike(mapping, _MANY, _ELEMENT),
    )


def keys_equal(mapping: RowMapping, many: str, element: str) -> sql.Composable:
    """A condition over a row of the many side and one of `split`: they are of the same row."""
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(
            column(name, many), column(f"zdm_k{number}", element)
        )
        for number, name in enumerate(_of(mapping).of)
    )


def wanted_by(mapping: RowMapping, rollout: int) -> sql.Identifier:
    """The function that says whether a row has elements by its own values; true for one that raises."""
    return sql.Identifier(SCHEMA, name_of(mapping, rollout, "wanted"))


def settling_many(mapping: RowMapping, rollout: int, alias: str, how: str) -> sql.Composed:
    """The call that makes the elements of the row under this alias say what it says."""
    elements = _of(mapping)
    return sql.SQL("{f}(ROW({a}.*)::{t}, NULL::{t}, {h})").format(
        f=sql.Identifier(SCHEMA, name_of(mapping, rollout, f"settle_{elements.many}")),
        a=sql.Identifier(alias),
        t=qualified_name(mapping.side(elements.one).table),
        h=sql.Literal(how),
    )


def settling_one(mapping: RowMapping, rollout: int, values: sql.Composable, how: str) -> sql.Composed:
    """The call that makes the row with these key values say what its elements say."""
    return sql.SQL("{}({}, {})").format(
        sql.Identifier(SCHEMA, name_of(mapping, rollout, f"settle_{_of(mapping).one}")),
        values,
        sql.Literal(how),
    )


def gathered(mapping: RowMapping, alias: str) -> sql.Composed:
    """What the elements of the row under this alias say together, as they would be stored, in one value."""
    return sql.SQL("SELECT ROW({}) FROM ({}) AS zdm_j").format(
        comma(as_stored(number, c, _JOINED) for number, c in enumerate(_of(mapping).held)),
        join(mapping, alias),
    )


def agreeing(mapping: RowMapping, rollout: int, alias: str) -> sql.Composed:
    """The call that says whether the row under this alias and its elements agree."""
    return sql.SQL("{}(ROW({}.*)::{})").format(
        sql.Identifier(SCHEMA, name_of(mapping, rollout, "agree")),
        sql.Identifier(alias),
        qualified_name(mapping.side(_of(mapping).one).table),
    )


# --- generating ---------------------------------------------------------------------------------------------------------


class ElementObjects(Objects):
    """Everything that watches one of the two sides."""

    def __init__(self, mapping: RowMapping, rollout: int, side: Side) -> None:
        super().__init__(mapping, rollout, side)
        self.elements = _of(mapping)
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
        moved = self._changed(self.elements.of)
        return (
            self._before("enter", "INSERT", self._named("enter"), self._not_backfilled),
            self._before("move", "UPDATE", self._named("enter"), all_of([self._not_backfilled, moved])),
            *self._taking_away(),
            self._trigger("insert", "INSERT", on, self._not_backfilled),
            self._trigger("update", "UPDATE", on, self._when_updated),
            self._trigger("delete", "DELETE", on),
            self._statement_trigger(on),
        )

    def _taking_away(self) -> tuple[Trigger, ...]:
        """What notes that a statement takes elements away."""
        gone = self._named("gone")
        moving = sql.SQL("UPDATE OF {}").format(comma(column(name) for name in self.elements.of))
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
        definition = dollar_quoted(template, function=self._called(purpose), **pieces)
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
        return self._made(
            "agree",
            "element_agree",
            self.tables["one"],
            one=self.tables["one"],
            up=is_split(self.mapping, "zdm_row", self.rollout),
            down=is_joined(self.mapping, "zdm_row", self.rollout),
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
                    differs(column(c.name, _MANY), column(c.name, "excluded"), c.comparison, c.type)
                    for c in others
                ),
            )
        back: sql.Composable = sql.SQL("      NULL;")
        if not mapping.one_way:
            back = sql.SQL(
                "      IF zdm_how OPERATOR(pg_catalog.<>) 'again' AND NOT {} THEN\n        PERFORM {}({}, 'again');\n      END IF;"
            ).format(self._agrees("zdm_row"), self._called(f"settle_{elements.one}"), self._key("zdm_row"))
        return self._made(
            f"settle_{elements.many}",
            "element_settle_many",
            sql.SQL("{0}, {0}, pg_catalog.text").format(self.tables["one"]),
            **self.tables,
            guard=self._guard(self._key("zdm_at")),
            all=self.others,
            own_key=same_key(self.one, "zdm_s", "zdm_at"),
            match=belongs(mapping, _MANY, "zdm_at"),
            was_match=belongs(mapping, _MANY, "zdm_was"),
            was_split=self._rows("zdm_was"),
            split=self._rows("zdm_row"),
            columns=comma(column(name) for name in columns),
            arbiter=comma(column(name) for name in self.many.key),
            agree=self._agrees("zdm_row"),
            same_element=same_element(mapping, _MANY, _ELEMENT),
            write=write,
            going=all_of(self._going(_MANY)),
            over=self._over(),
            fail=record_failure(mapping, self.rollout, self.one, "zdm_at"),
            forget=sql.SQL("  DELETE {};").format(failed(mapping, self.rollout, self.one, "zdm_at")),
            back=back,
        )

    def _going(self, alias: str) -> list[sql.Composable]:
        """Conditions over an element that its row no longer says: it goes."""
        del alias
        return []

    def _over(self) -> sql.Composable:
        """What comes before the elements that a row says are written."""
        return sql.SQL("")

    def _rows(self, alias: str) -> sql.Composed:
        """The elements of a row, as an INSERT takes them."""
        return sql.SQL("SELECT {} FROM ({}) AS zdm_q").format(
            elements_of(self.mapping, "zdm_q"), split(self.mapping, alias)
        )

    @property
    def _takes(self) -> sql.Composable:
        """The types of what such a function takes: the row's key, and how."""
        return comma([*(type_name(type_) for type_ in self.one.key_types), sql.SQL("pg_catalog.text")])

    def _of_one(self) -> dict[str, sql.Composable]:
        """What a function needs that makes a row say what its elements say; its arguments are the row's key, and how."""
        mapping, elements = self.mapping, self.elements
        types = [type_name(type_) for type_ in self.one.key_types]
        keys = [sql.Identifier(f"zdm_a{number}") for number, _ in enumerate(types)]

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
            "match": is_key(elements.of, _MANY),
            "agree": self._agrees("zdm_row"),
            # A version of the row that this transaction wrote meets every older snapshot already.
            "touch": sql.SQL(
                "UPDATE {} AS zdm_s SET {} = {} WHERE {} AND zdm_s.xmin OPERATOR(pg_catalog.<>) pg_catalog.pg_current_xact_id()::pg_catalog.xid"
            ).format(self.tables["one"], column(first), column(first, "zdm_s"), own_key),
            "assign": comma(
                sql.SQL("{} = {}").format(column(c.name), column(f"zdm_c{number}", _JOINED))
                for number, c in enumerate(elements.held)
            ),
            "join": join(mapping, "zdm_row", of=among(mapping, self.rollout)),
        }

    def _settle_one(self, purpose: str = "") -> Function:
        mapping, elements = self.mapping, self.elements
        whole: sql.Composable = sql.SQL("true")
        if not elements.lossy:
            order = elements.order
            whole = (
                is_split(mapping, "zdm_row", self.rollout)
                if order is None
                else is_in_order(mapping, "zdm_row", self.rollout, order)
            )
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
            match=equal(self.elements.of, _MANY, self.elements.of, "new"),
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
        moved = sql.SQL(
            "      PERFORM pg_catalog.set_config('zdm.row', {}, true);\n      UPDATE {} AS zdm_m SET {} WHERE {};\n"
            "      PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);"
        ).format(
            self.others,
            self.tables["many"],
            comma(
                sql.SQL("{} = {}").format(column(of), column(own, "new"))
                for of, own in zip(self.elements.of, self.one.key, strict=True)
            ),
            belongs(self.mapping, _MANY, "old"),
        )
        return {
            "inserted": sql.SQL("    PERFORM {}(NEW, NEW, 'insert');").format(settle),
            "updated": sql.SQL("    IF {} THEN\n{}\n    END IF;\n    PERFORM {}(NEW, OLD, 'update');").format(
                self._changed(self.one.key), moved, settle
            ),
            "deleted": sql.SQL("    PERFORM {}(OLD, OLD, 'delete');").format(settle),
            "truncated": sql.SQL(
                "{}\n    DELETE FROM zdm.sync_failures WHERE rollout = {} AND group_name = {};"
            ).format(
                load("row_truncate").fill(target=self.tables["many"], guard=self.others),
                sql.Literal(self.rollout),
                sql.Literal(str(self.mapping.id)),
            ),
        }

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

    def _agree(self) -> Function:
        return self._made(
            "agree",
            "element_agree",
            self.tables["one"],
            one=self.tables["one"],
            up=sql.SQL("false"),
            down=is_joined(self.mapping, "zdm_row", self.rollout),
        )

    def _gather(self) -> Function:
        pieces = self._of_one()
        return self._made(
            "settle_new",
            "element_gather",
            self._takes,
            **{name: pieces[name] for name in _GATHERING},
            fail=record_failure(self.mapping, self.rollout, self.one, "zdm_row"),
            forget=sql.SQL("  DELETE {};").format(failed(self.mapping, self.rollout, self.one, "zdm_row")),
        )

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
            type_ = _LENGTH.sub(r"\1", c.type)
            other = differs(column(c.name, "zdm_row"), as_stored(number, c, _JOINED), c.comparison, type_)
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


def trigger_before(mapping: RowMapping, purpose: str) -> str:
    """The name of a trigger that fires after the application's of the same kind."""
    return f"~zdm_rows_{mapping.number}_{purpose}"
