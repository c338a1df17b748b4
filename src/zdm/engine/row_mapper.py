"""From the row mappings that operations ask for to checked ones: what the server has to say to their expressions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zdm.db.expressions import CheckColumn, Request
from zdm.db.introspect import type_comparison
from zdm.engine.mapper import Mapper
from zdm.errors import Problem
from zdm.model.expression import ColumnRef, Expression, Volatility
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName, qualified
from zdm.model.row_mapping import MirroredColumn, RowMapping, RowSide
from zdm.operations.rows import DraftRows, DraftSide


def row_mappings(mapper: Mapper, tables: Iterable[TableMapping]) -> tuple[RowMapping, ...]:
    """Every row mapping of the draft, checked; problems are collected in the mapper."""
    taken = {table.table for table in tables if table.needs_sync}
    found: list[RowMapping] = []
    for number, draft in enumerate(mapper.draft.rows, 1):
        made = _one(mapper, number, draft, taken)
        if made is not None:
            taken.add(made.id)
            found.append(made)
    return tuple(found)


def _one(mapper: Mapper, number: int, draft: DraftRows, taken: set[QualifiedName]) -> RowMapping | None:
    before = len(mapper.problems)
    old = _side(mapper, draft, draft.old, draft.new)
    new = _side(mapper, draft, draft.new, draft.old)
    where = None
    if draft.where is not None:
        request = Request(draft.operation, draft.where)
        where = mapper.check(draft.old.table.name, _columns(draft.old), {"where": request}).get("where")
        if where is not None and where.type != "boolean":
            mapper.problems.append(
                Problem(f"{draft.where!r} is of type {where.type}; a condition is needed", draft.operation)
            )
    if len(mapper.problems) > before:
        return None
    id_ = new.table
    if id_ in taken:
        id_ = qualified(new.table.schema_, f"{old.table.name} to {new.table.name}")
    return RowMapping(
        id=id_,
        number=number,
        operation=draft.operation,
        old=old,
        new=new,
        where=where,
        presence=draft.presence,
        unmapped=draft.unmapped,
        one_way=draft.one_way,
    )


def _columns(side: DraftSide) -> Sequence[CheckColumn]:
    return [CheckColumn(name, name, type_, collation) for name, type_, collation in side.readable]


def _side(mapper: Mapper, draft: DraftRows, side: DraftSide, other: DraftSide) -> RowSide:
    requests = {c.name: Request(draft.operation, c.value, c.type, c.collation) for c in side.columns}
    values = mapper.check(other.table.name, _columns(other), requests)
    empties = mapper.check(
        side.table.name,
        [],
        {
            c.name: Request(draft.operation, c.empty, c.type, c.collation, allow_volatile=True)
            for c in side.columns
            if c.empty is not None
        },
    )
    types = {name: type_ for name, type_, _ in side.readable}
    columns: list[MirroredColumn] = []
    for c in side.columns:
        value = values.get(c.name)
        if value is None:
            continue
        empty = empties.get(c.name)
        columns.append(
            MirroredColumn(
                name=c.name,
                type=c.type,
                comparison=type_comparison(mapper.conn, c.type, c.collation),
                value=value,
                not_null=c.not_null,
                empty=None if empty is None else "".join(str(part) for part in empty.parts),
                known_empty=empty is None or empty.volatility is Volatility.IMMUTABLE,
            )
        )
    other_types = {name: type_ for name, type_, _ in other.readable}
    return RowSide(
        table=side.table,
        oid=side.oid,
        kind=side.kind,
        key=tuple(side.key),
        key_values=tuple(
            Expression(source=name, parts=(ColumnRef(column=name),), type=other_types[name])
            for name in other.key
        ),
        key_types=tuple(types[name] for name in side.key),
        columns=tuple(columns),
        guarded=side.guarded,
        created=side.created,
    )
