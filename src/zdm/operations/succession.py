"""Letting a new column take the place of an old one, value by value."""

from __future__ import annotations

import re

from psycopg import sql

from zdm.errors import Problem
from zdm.model.table import Column
from zdm.operations import ddl
from zdm.operations.params import check_new_column, replace_column
from zdm.operations.shape import DraftGroup, DraftNew, ShapeColumn, TableShape

_LITERAL = re.compile(r"(?P<value>E?'(?:[^']|'')*')::[\w\s.()\"]+")
"""One literal as the server writes it."""
_TEXT = re.compile(r"(text|varchar|character varying|char|character|bpchar|citext|name)\b", re.IGNORECASE)


def succeed(
    shape: TableShape,
    column: ShapeColumn,
    original: Column,
    *,
    label: str,
    problems: list[Problem],
    final: str | None = None,
    type_: str | None = None,
    collation: str | None = None,
) -> DraftNew:
    """Add a successor of an old column in a group of its own. It takes over name, type, default and NOT NULL unless given."""
    final = final or column.name
    check_new_column(shape, final, problems, instead_of=(column.name,))
    type_ = type_ or column.type
    if collation is None and original.collation is not None and _TEXT.match(type_):
        collation = original.collation
    new = DraftNew(
        physical=shape.physical_name(final),
        final=final,
        type=type_,
        default=column.default,
        not_null=column.not_null,
        collation=collation,
        replaces=column.physical,
        inherits=True,
    )
    shape.groups.append(DraftGroup(name=final, operation=label, old={column.physical: None}, new=[new]))
    replace_column(shape, column, new)
    return new


def cast_back(shape: TableShape, old: str, new: DraftNew, type_: str | None) -> None:
    """Let `down` of the old physical column be the new one, cast to `type_` if given; it follows a later rename."""
    group = shape.group_of(old)
    assert group is not None
    group.casts[old] = (new.physical, type_)
    group.old[old] = cast(new.final, type_)


def cast(column: str, type_: str | None) -> str:
    """The column cast to a type, as SQL; itself if the type is None."""
    if type_ is None:
        return ddl.ident(column).as_string(None)
    return ddl.text("CAST({c} AS {t})", c=ddl.ident(column), t=ddl.raw(type_))


def cast_text(expression: str, type_: str) -> str:
    """An expression cast to a type, as SQL."""
    return ddl.text("CAST(({e}) AS {t})", e=ddl.raw(expression), t=ddl.raw(type_))


def is_text(type_: str) -> bool:
    """Whether text is assigned to the type as it is."""
    return _TEXT.match(type_) is not None


def plain_default(before: str, old_type: str, new_type: str) -> str:
    """An old default for a new type that says less than a cast: as people would have written it."""
    literal = _LITERAL.fullmatch(before)
    if literal is not None and _TEXT.match(old_type) and _TEXT.match(new_type):
        # The length belongs to the column, not to the literal.
        return ddl.text(
            "CAST({v} AS {t})", v=ddl.raw(literal["value"]), t=ddl.raw(new_type.partition("(")[0])
        )
    return before


def coalesce(column: str, expression: str) -> str:
    """The column, or the expression where it is NULL, as SQL."""
    return ddl.text("COALESCE({c}, ({e}))", c=sql.Identifier(column), e=ddl.raw(expression))
