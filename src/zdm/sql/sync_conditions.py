"""Conditions and assignments over NEW and OLD, of which the sync functions and triggers of one table are composed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from psycopg import sql

from zdm.model.expression import Expression
from zdm.model.mapping import (
    ColumnGroup,
    Comparison,
    NewColumn,
    OldColumn,
    SharedParent,
    TableMapping,
)
from zdm.sql.identifiers import any_of, differs, trusted
from zdm.sql.rows import filled_once
from zdm.sql.templates import load

_CONSTANT = re.compile(r"\(*(-?\d+(\.\d+)?|'([^']|'')*'|true|false|NULL)\)*(::[\w \".(),\[\]]+)*")
_IDENTITY_TYPES = ("smallint", "integer", "bigint")

EMPTY = sql.SQL("")
LINES = sql.SQL("\n")


def part(template: str, **pieces: sql.Composable) -> sql.Composed:
    return load(template).fill(**pieces)


def comment(name: str) -> sql.SQL:
    """A line comment that names a group; nothing in the name may end it."""
    return trusted("-- " + " ".join(name.split()))


def variable(kind: str, group: ColumnGroup) -> sql.SQL:
    return trusted(f"zdm_{kind}{group.number}")


def own(group: ColumnGroup) -> sql.SQL:
    """The new side of the group wrote last."""
    return trusted(f"zdm_bits := zdm_bits OPERATOR(pg_catalog.|) {group.bit};")


def equals(variable: sql.Composable, value: int) -> sql.Composed:
    return sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(variable, sql.Literal(value))


def has(marker: sql.Composable, bits: int) -> sql.Composed:
    return sql.SQL("(({} OPERATOR(pg_catalog.&) {}) OPERATOR(pg_catalog.<>) 0)").format(
        marker, sql.Literal(bits)
    )


def was(bits: int) -> sql.Composed:
    return has(sql.SQL("zdm_was"), bits)


def over_new(expression: Expression | None) -> sql.Composed:
    assert expression is not None
    return expression.render(lambda name: sql.SQL("NEW.{}").format(sql.Identifier(name)))


def tries_new(columns: Iterable[NewColumn]) -> sql.Composed:
    made: list[sql.Composable] = []
    for new in columns:
        value = over_new(new.up) if new.up is not None else filled_once(new)
        if value is not None:
            made.append(sql.SQL("      zdm_try.{} := {};").format(sql.Identifier(new.name), value))
    return LINES.join(made)


def changed(name: str, comparison: Comparison, type_: str) -> sql.Composable:
    old, new = (sql.SQL("{}.{}").format(sql.SQL(row), sql.Identifier(name)) for row in ("OLD", "NEW"))
    return differs(new, old, comparison, type_)


def old_changed(group: ColumnGroup) -> sql.Composable:
    return any_of(changed(o.name, o.comparison, o.type) for o in group.old)


def reads_beside_up(group: ColumnGroup) -> list[str]:
    """What `up` reads besides the group's own old side."""
    own = {o.name for o in group.old}
    return [name for name in group.reads_of_up if name not in own]


def reads_beside_down(group: ColumnGroup) -> list[str]:
    """What `down` reads besides the group's own columns; it may write a part of an old one, and read the rest."""
    own = {n.name for n in group.new} | {o.name for o in group.old}
    return [name for name in group.reads_of_down if name not in own]


def new_changed(group: ColumnGroup) -> sql.Composable:
    return any_of(changed(n.name, n.comparison, n.type) for n in group.new)


def tried(columns: Sequence[NewColumn] | Sequence[OldColumn]) -> sql.Composable:
    """Sets zdm_agree: what derives the columns gives what the row holds."""
    made = [(column, column.up if isinstance(column, NewColumn) else column.down) for column in columns]
    assign = LINES.join(
        sql.SQL("      zdm_try.{} := {};").format(sql.Identifier(column.name), over_new(expression))
        for column, expression in made
    )
    result = same([(column.name, column.comparison, column.type) for column in columns])
    return part("part_try", assign=assign, result=result)


def same(columns: Iterable[tuple[str, Comparison, str]]) -> sql.Composable:
    """Whether what was tried is what the row holds."""
    make: Callable[[str, str], sql.Composable] = lambda row, name: sql.SQL("{}.{}").format(  # noqa: E731
        trusted(row), sql.Identifier(name)
    )
    return sql.SQL("NOT {}").format(
        any_of(differs(make("NEW", name), make("zdm_try", name), how, type_) for name, how, type_ in columns)
    )


def raising(
    mapping: TableMapping, *, code: str, message: str, detail: str, hint: str, column: str
) -> sql.Composed:
    """Refuses the statement, in words for a person."""
    return load("part_raise").fill(
        code=sql.Literal(code),
        message=sql.Literal(message),
        detail=sql.Literal(detail),
        hint=sql.Literal(hint),
        schema=sql.Literal(mapping.table.schema_),
        table=sql.Literal(mapping.table.name),
        column=sql.Literal(column),
    )


def calls_of(parent: SharedParent, rollout: int, purpose: str) -> sql.Identifier:
    """A function of the row mapping that goes from one side of a row to the other by its parent."""
    return sql.Identifier("zdm", f"rows_{rollout}_{parent.number}_{purpose}")


def supplied(old: OldColumn) -> sql.Composable:
    """Whether an INSERT certainly gave the old column its value: it is neither a default nor an identity's number."""
    column = sql.SQL("NEW.{}").format(sql.Identifier(old.name))
    if old.default is None:
        if old.not_null and old.type in _IDENTITY_TYPES:
            return sql.SQL("false")
        return sql.SQL("{} IS NOT NULL").format(column)
    if not _CONSTANT.fullmatch(old.default):
        return sql.SQL("false")
    # What the server deparses leaves out the cast that the assignment makes.
    default = sql.SQL("CAST(({}) AS {})").format(trusted(old.default), trusted(old.type))
    return differs(column, default, old.comparison, old.type)


def human(name: str) -> str:
    return f'"{name}"'


def changed_in(mapping: TableMapping, name: str) -> sql.Composable:
    """Whether a column changed: compared as its group says, a column of none by its image."""
    for group in mapping.groups:
        sides: list[OldColumn | NewColumn] = [*group.old, *group.new]
        for column in sides:
            if column.name == name:
                return changed(column.name, column.comparison, column.type)
    return changed(name, Comparison.IMAGE, "")


def two_sided(mapping: TableMapping) -> list[ColumnGroup]:
    """The groups that have an old and a new side."""
    return [group for group in mapping.groups if group.new and group.old]
