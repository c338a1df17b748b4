"""A row that holds a list, and a row for each of its elements: what belongs together, what is compared, and the functions that are asked about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from psycopg import sql

from zdm.model.row_mapping import ElementColumn, Elements, RowMapping, RowsQuery
from zdm.sql import records
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
    without_length,
)
from zdm.sql.row_objects import (
    equal,
    failed,
    name_of,
)
from zdm.sql.rows import render

MANY, ELEMENT, JOINED = "zdm_m", "zdm_e", "zdm_j"

Besides = Callable[[Sequence[sql.Composable]], sql.Composable]
"""A condition over the values of a key."""


def one_to_many(mapping: RowMapping) -> Elements:
    """What such a mapping says of its elements."""
    assert mapping.elements is not None
    return mapping.elements


def belongs(mapping: RowMapping, many: str, one: str) -> sql.Composable:
    """A condition over two aliases: the row of the many side is an element of this row."""
    elements = one_to_many(mapping)
    return all_of([equal(elements.of, many, mapping.side(elements.one).key, one), *is_element(mapping, many)])


def is_element(mapping: RowMapping, alias: str) -> list[sql.Composable]:
    """Conditions over a row of the many side: it is an element, and not a row of something else; none where all of them are."""
    where = one_to_many(mapping).where
    return [] if where is None else [sql.SQL("(({}) IS TRUE)").format(render(where, alias))]


def among(mapping: RowMapping, rollout: int) -> sql.Composable:
    """A FROM item without its alias: the elements that count, all of them but those that are recorded as having no old form.

    Parameters
    ----------
    rollout: 0 before there is one, when nothing is recorded.
    """
    if mapping.records:
        return records.counted(mapping, rollout)
    table = qualified_name(mapping.side(one_to_many(mapping).many).table)
    counting = is_element(mapping, "zdm_b")
    if counting:
        return sql.SQL("(SELECT zdm_b.* FROM {} AS zdm_b WHERE {})").format(table, all_of(counting))
    return table


def split(mapping: RowMapping, alias: str) -> sql.Composed:
    """A SELECT of the elements of the row under this alias: the row's key as ``zdm_k<n>``, its columns as ``zdm_c<n>``."""
    query = one_to_many(mapping).split
    assert query is not None
    return _filled(query, sql.SQL("(SELECT {})").format(_items(query, "one", alias)), None)


def elements_of(mapping: RowMapping, alias: str) -> sql.Composed:
    """The columns of `split` under this alias, in the order of `Elements.of` and `Elements.columns`."""
    elements = one_to_many(mapping)
    names = [f"zdm_k{number}" for number, _ in enumerate(elements.of)]
    names += [f"zdm_c{number}" for number, _ in enumerate(elements.columns)]
    return comma(column(name, alias) for name in names)


def split_all(mapping: RowMapping, where: sql.Composable, alias: str) -> sql.Composed:
    """The same of all rows that meet a condition over this alias."""
    query = one_to_many(mapping).split
    assert query is not None
    one = sql.SQL("(SELECT {} FROM {} AS {} WHERE {})").format(
        _items(query, "one", alias),
        qualified_name(mapping.side(one_to_many(mapping).one).table),
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
    elements = one_to_many(mapping)
    query = elements.join
    assert query is not None
    many = sql.SQL("(SELECT {} FROM {} AS {} WHERE {})").format(
        _items(query, "many", MANY),
        of or qualified_name(mapping.side(elements.many).table),
        sql.Identifier(MANY),
        belongs(mapping, MANY, alias),
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
    elements = one_to_many(mapping)
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(c.name, many), as_stored(number, c, element))
        for number, c in enumerate(elements.columns)
        if c.name in elements.key
    )


def as_stored(number: int, c: ElementColumn, alias: str) -> sql.Composable:
    """A column of a query's, as it would be stored; what is too long stays another value."""
    return sql.SQL("CAST({} AS {})").format(
        column(f"zdm_c{number}", alias), type_name(without_length(c.type))
    )


def unlike(mapping: RowMapping, many: str, element: str, *, besides: Iterable[str] = ()) -> sql.Composable:
    """A condition over the same element twice, never NULL: it holds something else, besides its key or these columns."""
    elements = one_to_many(mapping)
    same = set(besides) or set(elements.key)
    return any_of(
        differs(column(c.name, many), as_stored(number, c, element), c.comparison, without_length(c.type))
        for number, c in enumerate(elements.columns)
        if c.name not in same
    )


def held_alike(mapping: RowMapping, one: str, joined: str) -> sql.Composable:
    """A condition over a row and what its elements say of it, never NULL: it holds that."""
    return all_of(
        sql.SQL("NOT {}").format(
            differs(column(c.name, one), as_stored(number, c, joined), c.comparison, without_length(c.type))
        )
        for number, c in enumerate(one_to_many(mapping).held)
    )


def is_split(mapping: RowMapping, alias: str, rollout: int) -> sql.Composable:
    """A condition over a row: its elements are exactly those that it says, each once."""
    nothing = sql.SQL("")
    same = same_element(mapping, MANY, ELEMENT)
    return _compared(mapping, alias, rollout, same, unlike(mapping, MANY, ELEMENT), nothing, nothing)


def is_in_order(mapping: RowMapping, alias: str, rollout: int, order: str) -> sql.Composable:
    """A condition over a row: its elements are those that it says, in the same order."""
    elements = one_to_many(mapping)
    places = {c.name: f"zdm_c{number}" for number, c in enumerate(elements.columns)}
    # Of two in the same place the key decides.
    names = [order, *(name for name in elements.key if name != order)]

    def ranked(found: Iterable[str], of: str) -> sql.Composable:
        return sql.SQL(", pg_catalog.row_number() OVER (ORDER BY {}) AS zdm_place").format(
            comma(column(name, of) for name in found)
        )

    same = sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(
        column("zdm_place", MANY), column("zdm_place", ELEMENT)
    )
    unlike_ = unlike(mapping, MANY, ELEMENT, besides=[order])
    return _compared(
        mapping,
        alias,
        rollout,
        same,
        unlike_,
        ranked((places[n] for n in names), "zdm_q"),
        ranked(names, MANY),
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
        belongs=belongs(mapping, MANY, alias),
        split=split(mapping, alias),
        of_element=of_element,
        of_many=of_many,
        same=same,
    )


def is_joined(mapping: RowMapping, alias: str, rollout: int) -> sql.Composable:
    """A condition over a row, never NULL: it holds what its elements say together."""
    elements = one_to_many(mapping)
    if elements.join is None or (mapping.one_way and elements.one == "old"):
        return sql.SQL("false")
    return sql.SQL("COALESCE((SELECT {} FROM ({}) AS zdm_j), false)").format(
        held_alike(mapping, alias, JOINED), join(mapping, alias, of=among(mapping, rollout))
    )


def agreement(mapping: RowMapping, alias: str, rollout: int) -> tuple[sql.Composable, sql.Composable]:
    """Two conditions over a row, of which either says that it and its elements agree: by what it says, and by what they say.

    Of an old row the second one is needed, since the list cannot hold everything that elements say. Where the old version has the elements, they
    must be what the row says, or the next write of the new version would take some away; only a mapping that is declared lossy lets that pass.
    """
    elements = one_to_many(mapping)
    if elements.follows:
        return sql.SQL("false"), is_joined(mapping, alias, rollout)
    if elements.one == "new" and not elements.lossy:
        return is_whole(mapping, alias, rollout), sql.SQL("false")
    return is_split(mapping, alias, rollout), is_joined(mapping, alias, rollout)


def is_whole(mapping: RowMapping, alias: str, rollout: int) -> sql.Composable:
    """A condition over a row: its elements are those that it says, whatever gaps there are in what only says their order."""
    order = one_to_many(mapping).order
    if order is None:
        return is_split(mapping, alias, rollout)
    return is_in_order(mapping, alias, rollout, order)


def is_said(mapping: RowMapping, alias: str, rollout: int) -> sql.Composable:
    """A condition over a row, never NULL: it is what its elements say together, or there are none, and each column says so."""
    nothing = all_of(
        any_of(
            [
                sql.SQL("{} IS NULL").format(column(c.name, alias)),
                sql.SQL("NOT {}").format(
                    differs(
                        column(c.name, alias),
                        as_stored(number, c, JOINED),
                        c.comparison,
                        without_length(c.type),
                    )
                ),
                *(
                    [
                        sql.SQL("NOT {}").format(
                            differs(
                                column(c.name, alias),
                                sql.SQL("CAST({} AS {})").format(trusted(c.nothing), type_name(c.type)),
                                c.comparison,
                                c.type,
                            )
                        )
                    ]
                    if c.nothing is not None
                    else []
                ),
            ]
        )
        for number, c in enumerate(one_to_many(mapping).held)
    )
    of = among(mapping, rollout)
    return sql.SQL(
        "COALESCE((SELECT {alike} OR ({nothing} AND NOT EXISTS (SELECT FROM {of} AS zdm_m WHERE {belongs})) FROM ({join}) AS zdm_j), false)"
    ).format(
        alike=held_alike(mapping, alias, JOINED),
        nothing=nothing,
        of=of,
        belongs=belongs(mapping, MANY, alias),
        join=join(mapping, alias, of=of),
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
    elements = one_to_many(mapping)
    one = mapping.side(elements.one)
    if elements.follows:
        return _unlike_joined(mapping, rollout, besides)
    # What the old version has beyond the new one is missing, and the other way round extra, whichever of them has the elements.
    lone_many, lone_one = ("extra", "missing") if elements.one == "old" else ("missing", "extra")
    passing = [sql.SQL("EXISTS (SELECT {})").format(failed(mapping, rollout, one, "zdm_o"))] if known else []
    passed = any_of([*passing, besides([column(name, "zdm_o") for name in one.key])])
    keys = [f"zdm_k{number}" for number, _ in enumerate(elements.of)]
    return sql.SQL(
        "SELECT zdm_p.* FROM (SELECT CASE WHEN zdm_o.zdm_there IS NULL THEN {lone_many} WHEN {passed} THEN NULL WHEN {spared} THEN NULL"
        " WHEN zdm_d.zdm_m IS NULL THEN {lone_one} WHEN zdm_d.zdm_e IS NULL THEN {lone_many} ELSE 'different' END AS kind, zdm_d.key, {found}"
        " FROM (SELECT zdm_e.zdm_there AS zdm_e, zdm_m.zdm_there AS zdm_m, pg_catalog.concat_ws(', ', {texts}) AS key, {keys}"
        " FROM (SELECT zdm_q.*, true AS zdm_there FROM ({split}) AS zdm_q) AS zdm_e"
        " FULL JOIN (SELECT *, true AS zdm_there FROM {many}) AS zdm_m ON {same}"
        " WHERE zdm_e.zdm_there IS NULL OR zdm_m.zdm_there IS NULL OR {unlike}) AS zdm_d"
        " LEFT JOIN (SELECT *, true AS zdm_there FROM {one}) AS zdm_o ON {own}) AS zdm_p WHERE kind IS NOT NULL"
    ).format(
        passed=passed,
        spared=_spared(mapping, "zdm_o", rollout),
        lone_many=sql.Literal(lone_many),
        lone_one=sql.Literal(lone_one),
        found=comma(column(name, "zdm_d") for name in keys),
        texts=comma(
            [
                sql.SQL("{} || COALESCE({}::text, {}::text)").format(
                    sql.Literal(f"{name}="), column(name, MANY), column(element, ELEMENT)
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
            sql.SQL("COALESCE({}, {}) AS {}").format(column(name, MANY), column(key, ELEMENT), column(key))
            for name, key in zip(elements.of, keys, strict=True)
        ),
        split=split_all(mapping, sql.SQL("NOT {}").format(passed), "zdm_o"),
        many=sql.SQL("{} AS zdm_a").format(among(mapping, rollout)),
        one=qualified_name(one.table),
        same=all_of([keys_equal(mapping, MANY, ELEMENT), same_element(mapping, MANY, ELEMENT)]),
        unlike=unlike(mapping, MANY, ELEMENT),
        own=all_of(
            sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(own, "zdm_o"), column(key, "zdm_d"))
            for own, key in zip(one.key, keys, strict=True)
        ),
    )


def _spared(mapping: RowMapping, alias: str, rollout: int) -> sql.Composable:
    """A condition over a row whose elements are not exactly those that it says: they agree nevertheless."""
    elements = one_to_many(mapping)
    if elements.one == "old" or elements.lossy:
        return is_joined(mapping, alias, rollout)
    return sql.SQL("false") if elements.order is None else is_whole(mapping, alias, rollout)


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
    elements = one_to_many(mapping)
    if elements.follows:
        return sql.SQL("SELECT count(*) FROM {} AS zdm_o WHERE NOT {}").format(
            qualified_name(mapping.source.table), is_joined(mapping, "zdm_o", 0)
        )
    return sql.SQL(
        "SELECT count(*) FROM ({}) AS zdm_e FULL JOIN {} AS zdm_m ON {} AND {} WHERE zdm_e IS NULL OR zdm_m IS NULL OR {}"
    ).format(
        split_all(mapping, sql.SQL("<range>"), "zdm_o"),
        among(mapping, 0),
        keys_equal(mapping, MANY, ELEMENT),
        same_element(mapping, MANY, ELEMENT),
        unlike(mapping, MANY, ELEMENT),
    )


def keys_equal(mapping: RowMapping, many: str, element: str) -> sql.Composable:
    """A condition over a row of the many side and one of `split`: they are of the same row."""
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(
            column(name, many), column(f"zdm_k{number}", element)
        )
        for number, name in enumerate(one_to_many(mapping).of)
    )


def wanted_by(mapping: RowMapping, rollout: int) -> sql.Identifier:
    """The function that says whether a row has elements by its own values; true for one that raises."""
    return sql.Identifier(SCHEMA, name_of(mapping, rollout, "wanted"))


def settling_many(mapping: RowMapping, rollout: int, alias: str, how: str) -> sql.Composed:
    """The call that makes the elements of the row under this alias say what it says."""
    elements = one_to_many(mapping)
    return sql.SQL("{f}(ROW({a}.*)::{t}, NULL::{t}, {h})").format(
        f=sql.Identifier(SCHEMA, name_of(mapping, rollout, f"settle_{elements.many}")),
        a=sql.Identifier(alias),
        t=qualified_name(mapping.side(elements.one).table),
        h=sql.Literal(how),
    )


def settling_one(mapping: RowMapping, rollout: int, values: sql.Composable, how: str) -> sql.Composed:
    """The call that makes the row with these key values say what its elements say."""
    return sql.SQL("{}({}, {})").format(
        sql.Identifier(SCHEMA, name_of(mapping, rollout, f"settle_{one_to_many(mapping).one}")),
        values,
        sql.Literal(how),
    )


def gathered(mapping: RowMapping, alias: str) -> sql.Composed:
    """What the elements of the row under this alias say together, as they would be stored, in one value."""
    return sql.SQL("SELECT ROW({}) FROM ({}) AS zdm_j").format(
        comma(as_stored(number, c, JOINED) for number, c in enumerate(one_to_many(mapping).held)),
        join(mapping, alias),
    )


def agreeing(mapping: RowMapping, rollout: int, alias: str) -> sql.Composed:
    """The call that says whether the row under this alias and its elements agree."""
    return sql.SQL("{}(ROW({}.*)::{})").format(
        sql.Identifier(SCHEMA, name_of(mapping, rollout, "agree")),
        sql.Identifier(alias),
        qualified_name(mapping.side(one_to_many(mapping).one).table),
    )
