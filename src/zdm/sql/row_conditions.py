"""Pieces of SQL over rows of both sides of a row mapping, which triggers, backfill, verification and repair share."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from zdm.model.row_mapping import (
    MirroredColumn,
    Presence,
    RowMapping,
    RowSide,
    SideKind,
    Told,
    derived,
)
from zdm.sql.identifiers import all_of, any_of, column, comma, differs, equals, trusted, type_name
from zdm.sql.row_objects import Side
from zdm.sql.rows import render


def assigned(side: RowSide, other: str) -> sql.Composed:
    """The SET list that fills a side's columns from the other side's row, under its alias."""
    return comma(sql.SQL("{} = {}").format(column(c.name), render(c.value, other)) for c in side.columns)


def cleared(side: RowSide, alias: str) -> sql.Composed:
    """The SET list that empties a side's columns, under its own row's alias."""
    return comma(sql.SQL("{} = {}").format(column(c.name), empty(c, alias)) for c in side.columns)


def joined(mapping: RowMapping, old: str, new: str) -> sql.Composable:
    """A condition over two aliases: the rows belong together."""
    return match(mapping.new, new, old)


def wanted(mapping: RowMapping, old: str) -> sql.Composable:
    """A condition over the old side's row, never NULL: it must have a row of the new side."""
    found: list[sql.Composable] = []
    if mapping.where is not None:
        found.append(sql.SQL("({} IS TRUE)").format(render(mapping.where, old)))
    if mapping.old.kind is SideKind.COLUMNS and mapping.presence is Presence.NEEDED:
        found.append(holds(mapping.old, old))
    return all_of(found)


def holds(side: RowSide, alias: str) -> sql.Composable:
    """A condition over a row of COLUMNS: some column holds anything but what it is empty with."""
    return any_of(
        differs(column(c.name, alias), empty(c, alias), c.comparison, c.type)
        if c.known_empty
        else sql.SQL("true")
        for c in side.mapped
    )


def given(side: RowSide, alias: str) -> sql.Composable:
    """A condition over a new row of COLUMNS: somebody certainly gave it something, so that it is the old version's."""
    return any_of(
        differs(column(c.name, alias), empty(c, alias), c.comparison, c.type)
        for c in side.mapped
        if c.known_empty
    )


def disagree(
    mapping: RowMapping, old: str, new: str, *, known: sql.Composable | None = None
) -> sql.Composable:
    """A condition over two rows that belong together: neither follows from the other, or the new one does not in what only follows.

    Parameters
    ----------
    known: a condition over both: the new one has no old form, so that what it would be there must not be asked, which may raise.
    """
    found = [differ(mapping.new, new, old)]
    if not mapping.one_way and not mirror_images(mapping):
        back = differ(mapping.old, old, new)
        if known is None:
            found.append(back)
        else:
            found = [
                sql.SQL("(CASE WHEN {} THEN CASE WHEN {} THEN true ELSE {} END ELSE false END)").format(
                    *found, known, back
                )
            ]
    apart = [all_of(found), *astray(mapping.old, old, new)]
    if not mapping.one_way and (only := derived(mapping, "new")):
        apart.append(any_differs(only, new, old))
    return any_of(apart)


def changed(mapping: RowMapping, old: str, new: str) -> sql.Composable:
    """A condition over two rows that belong together: the old one is not what the new one says of it."""
    return differ(mapping.old, old, new)


def insert_columns(side: RowSide) -> sql.Composed:
    """What an INSERT of a mapped row names: the key, what tells it apart, then what is filled."""
    names = (*side.key, *(t.name for t in side.given), *(c.name for c in side.columns))
    return comma(column(name) for name in names)


def insert_values(side: RowSide, alias: str) -> sql.Composed:
    """The values of these, over the other side's row."""
    return comma([*row_values(side, alias), *(render(c.value, alias) for c in side.columns)])


def row_values(side: RowSide, alias: str) -> list[sql.Composable]:
    """Those of the key and of what tells the row apart."""
    keys: list[sql.Composable] = [render(value, alias) for value in side.key_values]
    return [*keys, *(render(t.value) for t in side.given)]


def astray(side: RowSide, mine: str, other: str) -> list[sql.Composable]:
    """Conditions: a reference does not name the other row."""
    return [
        differs(column(c.name, mine), render(c.value, other), c.comparison, c.type) for c in side.references
    ]


def refers(side: RowSide, alias: str) -> list[sql.Composable]:
    """Conditions over a row: a reference names some row."""
    return [sql.SQL("({} IS NOT NULL)").format(column(c.name, alias)) for c in side.references]


def differ(side: RowSide, mine: str, other: str) -> sql.Composable:
    """A condition over two rows that belong together: some column of the side's is not what the other row says."""
    return any_differs(side.mapped, mine, other)


def any_differs(columns: Iterable[MirroredColumn], mine: str, other: str) -> sql.Composable:
    """The same of these columns alone."""
    return any_of(
        differs(
            column(c.name, mine),
            sql.SQL("CAST({} AS {})").format(render(c.value, other, mine), type_name(c.type)),
            c.comparison,
            c.type,
        )
        for c in columns
    )


def copies(mapping: RowMapping, old: str, new: str) -> sql.Composable | None:
    """A condition over two rows, not true if one of them is not there: they hold the same, nothing of it NULL. None where values are not copied as they are."""
    if not mirror_images(mapping) or mapping.where is not None or mapping.unites or mapping.old.references:
        return None
    found = [
        equals(column(c.name, new), render(c.value, old), c.comparison, c.type) for c in mapping.new.mapped
    ]
    same = [condition for condition in found if condition is not None]
    return all_of(same) if same and len(same) == len(found) else None


def match(side: RowSide, mine: str, other: str) -> sql.Composable:
    """A condition over a side's row and a row of the other one: they belong together."""
    return all_of([met(side, mine, other), *([_held(side.given, mine)] if side.given else [])])


def met(side: RowSide, mine: str, other: str) -> sql.Composable:
    """A condition over a side's row: it has the key of a row of the other one, whosever it is."""
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(name, mine), render(value, other))
        for name, value in zip(side.key, side.key_values, strict=True)
    )


def paired(mapping: RowMapping, old: str, new: str) -> sql.Composable:
    """As `joined`, over rows of the new side that are known to be the mapping's; nothing but columns of both."""
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(name, new), render(value, old))
        for name, value in zip(mapping.new.key, mapping.new.key_values, strict=True)
        if value.columns
    )


def theirs(side: RowSide, alias: str) -> sql.Composable:
    """A condition over a row of a table that several fill: it is one of this mapping's; NULL may stand for false."""
    return _held(side.told, alias)


def nobodys(mapping: RowMapping, alias: str) -> sql.Composable:
    """A condition over such a row, never NULL: it is no mapping's."""
    told = (mapping.new.told, *(other.told for other in mapping.beside))
    return sql.SQL("(NOT {})").format(any_of(sql.SQL("({} IS TRUE)").format(_held(t, alias)) for t in told))


def answered(mapping: RowMapping, alias: str) -> sql.Composable:
    """A condition over a row of the new side, or over its bare columns: this mapping says whether it may be there."""
    if not mapping.unites:
        return sql.SQL("true")
    if not mapping.foremost:
        return theirs(mapping.new, alias)
    return any_of([theirs(mapping.new, alias), nobodys(mapping, alias)])


def _held(told: Iterable[Told], alias: str) -> sql.Composable:
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(t.name, alias), render(t.value)) for t in told
    )


def mirror_images(mapping: RowMapping) -> bool:
    """Both directions copy values as they are, so that following in one means following in the other."""
    return all(c.plain for side in (mapping.old, mapping.new) for c in side.mapped)


def empty(found: MirroredColumn, alias: str) -> sql.Composable:
    """What a column holds where the other side has no row, under its own row's alias."""
    if found.cleared is not None:
        return sql.SQL("CAST({} AS {})").format(render(found.cleared, alias), type_name(found.type))
    value = sql.SQL("NULL") if found.empty is None else trusted(found.empty)
    return sql.SQL("CAST({} AS {})").format(value, type_name(found.type))


def backfilling(mapping: RowMapping) -> str:
    """What `zdm.row` says while the backfill inserts rows of the new side."""
    return f"{mapping.number}:new:*"


def silencing(mapping: RowMapping) -> str:
    """What `zdm.row` says while zdm writes columns of the old side that are none of the new side's business."""
    return f"{mapping.number}:old:*"


def closing(mapping: RowMapping, rollout: int) -> sql.Composable:
    """The advisory lock that a chunk of the backfill keeps from its last look at the old side's rows to its commit."""
    return sql.SQL("pg_catalog.hashtextextended({}, 0)").format(
        sql.Literal(f"zdm.rows {rollout} {mapping.number}")
    )


def across(side: Side) -> Side:
    """The other side's name."""
    return "new" if side == "old" else "old"
