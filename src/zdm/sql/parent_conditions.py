"""What holds between a row, its links and their shared parents: conditions over aliases, and what each side says of the other."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from zdm.model.expression import Expression
from zdm.model.row_mapping import PARENT, MirroredColumn, ParentSide, RowMapping, RowSide
from zdm.sql.identifiers import (
    all_of,
    any_of,
    column,
    comma,
    differs,
    key_type,
    qualified_name,
    trusted,
    without_length,
)
from zdm.sql.row_objects import (
    equal,
)
from zdm.sql.rows import has_parent, render

PARENT_ALIAS = "zdm_p"


def links(mapping: RowMapping, link: str, source: str) -> sql.Composable:
    """A condition over two aliases: the link is of this row of the source."""
    return equal(mapping.new.key, link, mapping.old.key, source)


def refers(parent: ParentSide, link: str, alias: str) -> sql.Composable:
    """A condition over two aliases: the link refers to this parent."""
    return equal(parent.reference, link, parent.identity, alias)


def wants(mapping: RowMapping, parent: ParentSide, alias: str) -> sql.Composable:
    """A condition over a row of the source, never NULL: by the old version's values it has a parent."""
    return has_parent(mapping.where, parent.key_values, alias)


def follows(mapping: RowMapping, parent: ParentSide, source: str, alias: str) -> sql.Composable:
    """A condition over a row of the source and a parent, never NULL: either follows from the other.

    What of the natural key does not read the held columns (whose the row is) cannot be written back, so it must be the same.
    """
    held = any_of(
        [same_natural(mapping, parent, source, alias, held=True), _goes_back(mapping, source, alias)]
    )
    return all_of([same_natural(mapping, parent, source, alias, held=False), held])


def same_natural(
    mapping: RowMapping, parent: ParentSide, source: str, alias: str, *, held: bool
) -> sql.Composable:
    """A condition, never NULL: the parent has the natural key that the row says, as far as that reads held columns, or does not."""
    columns = {c.name for c in mapping.old.columns}
    return all_of(
        sql.SQL("NOT {}").format(
            differs(
                column(name, alias),
                compared_as(render(value, source), type_),
                comparison,
                without_length(type_),
            )
        )
        for name, type_, value, comparison in zip(
            parent.key, parent.key_types, parent.key_values, parent.comparisons, strict=True
        )
        if held != columns.isdisjoint(value.columns)
    )


def _goes_back(mapping: RowMapping, source: str, alias: str) -> sql.Composable:
    return all_of(
        sql.SQL("NOT {}").format(
            differs(
                column(c.name, source),
                compared_as(back(c.value, source, alias), c.type),
                c.comparison,
                c.type,
            )
        )
        for c in mapping.old.columns
    )


def back(value: Expression, source: str, parent: str) -> sql.Composed:
    """An expression over the source's row and the parent's."""
    return value.render(
        lambda name: (
            column(name.removeprefix(PARENT), parent) if name.startswith(PARENT) else column(name, source)
        )
    )


def compared_as(value: sql.Composable, type_: str) -> sql.Composable:
    # A cast to a length cuts what is longer; such a value is another one.
    return sql.SQL("CAST({} AS {})").format(value, key_type(type_))


def clearing(side: RowSide, alias: str) -> sql.Composed:
    """The SET list that empties a row of the source."""
    return comma(sql.SQL("{} = {}").format(column(c.name), empty_with(c, alias)) for c in side.columns)


def empty_with(found: MirroredColumn, alias: str) -> sql.Composable:
    """What a column of the source holds where its row has no parent."""
    if found.cleared is not None:
        return render(found.cleared, alias)
    return sql.SQL("NULL") if found.empty is None else sql.SQL("({})").format(trusted(found.empty))


def is_called(
    parent: ParentSide, values: Sequence[sql.Composable], alias: str = PARENT_ALIAS
) -> sql.Composable:
    """A condition over the parent: its natural key is this."""
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(name, alias), value)
        for name, value in zip(parent.key, values, strict=True)
    )


def comparison(mapping: RowMapping, parent: ParentSide) -> sql.Composed:
    """What the verification asks, in short: rows of the source and their links, where they disagree."""
    return sql.SQL(
        "SELECT count(*) FROM {} AS o FULL JOIN ({} AS l JOIN {} AS p ON {}) ON {} WHERE o IS NULL OR (l IS NULL AND {}) OR NOT {}"
    ).format(
        qualified_name(mapping.old.table),
        qualified_name(mapping.new.table),
        qualified_name(parent.table),
        refers(parent, "l", "p"),
        links(mapping, "l", "o"),
        wants(mapping, parent, "o"),
        follows(mapping, parent, "o", "p"),
    )


def variable(number: int) -> sql.Identifier:
    return sql.Identifier(f"zdm_v{number}")
