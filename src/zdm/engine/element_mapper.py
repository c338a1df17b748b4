"""From a mapping of one row to many that an operation asks for to a checked one, tried on real rows."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from psycopg import sql

from zdm.db.expressions import CheckColumn, Request
from zdm.db.introspect import type_comparison
from zdm.db.queries import QueryChecker, Rows
from zdm.engine.collapsed_measure import empty_says_nothing, invertible
from zdm.engine.element_measure import of_nothing
from zdm.engine.mapper import Mapper
from zdm.errors import Problem
from zdm.model.expression import Expression
from zdm.model.names import QualifiedName, qualified
from zdm.model.row_mapping import (
    ElementColumn,
    Elements,
    RowMapping,
    RowSide,
    RowsQuery,
    SideKind,
    SyncMode,
)
from zdm.operations.rows import DraftElements, DraftMirrored, DraftRows, DraftSide


def element_mapping(
    mapper: Mapper, number: int, draft: DraftRows, taken: set[QualifiedName]
) -> RowMapping | None:
    """The checked mapping; problems are collected in the mapper."""
    asked = draft.elements
    assert asked is not None
    one, many = (draft.old, draft.new) if asked.one == "old" else (draft.new, draft.old)
    checker = QueryChecker(mapper.conn, [mapper.target, "public"])
    single = Rows(one.table.name, one.readable, one.key)
    columns = [(c.name, c.type, c.collation) for c in asked.columns]
    held = [(c.name, c.type, c.collation) for c in asked.held]
    split = join = None
    if asked.split is not None:
        split = checker.split(single, asked.split, columns, draft.operation)
    if asked.join:
        several = Rows(many.table.name, many.readable)
        join = checker.join(single, several, asked.join, held, draft.operation)
    problems = [found for found in (split, join) if isinstance(found, Problem)]
    if asked.one == "new" and isinstance(split, RowsQuery) and isinstance(join, RowsQuery):
        problems += invertible(mapper, draft, split, join)
    mapper.problems += problems
    if problems or isinstance(split, Problem) or isinstance(join, Problem):
        return None
    types = {name: (type_, collation) for name, type_, collation in many.readable}
    before = len(mapper.problems)
    append = mapper.check(
        one.table.name,
        [CheckColumn(*column_) for column_ in asked.over],
        {
            name: Request(draft.operation, text, *types[name], allow_volatile=True)
            for name, text in asked.append.items()
        },
    )
    if len(mapper.problems) > before:
        return None
    where = _told_apart(mapper, draft, asked, many)
    empty = mapper.check(
        one.table.name,
        [],
        {
            c.name: Request(draft.operation, asked.empty[c.name], c.type, c.collation, allow_volatile=True)
            for c in asked.held
            if c.name in asked.empty
        },
    )
    nothing = mapper.check(
        one.table.name,
        [],
        {
            c.name: Request(draft.operation, asked.nothing[c.name], c.type, c.collation)
            for c in asked.held
            if c.name in asked.nothing
        },
    )
    if len(mapper.problems) > before:
        return None
    id_ = many.table
    if asked.one == "new" and draft.new.kind is SideKind.ROWS:
        id_ = draft.new.table
    elif asked.one == "new":
        id_ = qualified(many.table.schema_, f"{draft.old.table.name} to {draft.new.table.name}")
    if id_ in taken:
        id_ = qualified(many.table.schema_, f"{draft.old.table.name} to {draft.new.table.name}")
    mapping = RowMapping(
        id=id_,
        number=number,
        operation=draft.operation,
        old=_side(draft.old),
        new=_side(draft.new),
        one_way=draft.one_way,
        without_old_form=draft.without_old_form,
        logged=mapper.draft.sync is SyncMode.LOGGED,
        elements=Elements(
            one=asked.one,
            of=tuple(asked.of),
            key=tuple(asked.key),
            columns=_columns(mapper, asked.columns),
            held=_columns(mapper, asked.held, nothing),
            split=split,
            join=join,
            order=asked.order,
            where=where,
            lossy=draft.lossy,
            written=tuple(asked.written),
            append=tuple(append.items()),
        ),
    )
    if split is not None:
        (of_nothing if asked.one == "old" else empty_says_nothing)(mapper, mapping, empty)
    return mapping


def _told_apart(mapper: Mapper, draft: DraftRows, asked: DraftElements, many: DraftSide) -> Expression | None:
    """What tells the elements of a table from its other rows. Only the key may say it, since by that an element finds its place."""
    if asked.where is None:
        return None
    found = mapper.check(
        many.table.name,
        [CheckColumn(name, name, type_, collation) for name, type_, collation in many.readable],
        {"where": Request(draft.operation, asked.where, "boolean")},
    ).get("where")
    others = [] if found is None else [name for name in found.columns if name not in many.key]
    if others and asked.split is not None:
        said = "elements_where" if asked.one == "old" else "where"
        mapper.problems.append(
            Problem(
                f"`{said}` reads {', '.join(others)} of {many.table}, by which a row that is there already may be another one's",
                draft.operation,
                f"Let it read columns of the key only: {', '.join(many.key)}.",
            )
        )
    return found


def _columns(
    mapper: Mapper, found: list[DraftMirrored], nothing: Mapping[str, Expression] = MappingProxyType({})
) -> tuple[ElementColumn, ...]:
    return tuple(
        ElementColumn(
            name=c.name,
            type=c.type,
            comparison=type_comparison(mapper.conn, c.type, c.collation),
            not_null=c.not_null,
            nothing=nothing[c.name].render(sql.Identifier).as_string(None) if c.name in nothing else None,
        )
        for c in found
    )


def _side(side: DraftSide) -> RowSide:
    types = {name: type_ for name, type_, _ in side.readable}
    return RowSide(
        table=side.table,
        oid=side.oid,
        kind=side.kind,
        key=tuple(side.key),
        key_values=(),
        key_types=tuple(types[name] for name in side.key),
        columns=(),
        guarded=side.guarded,
        created=side.created,
    )
