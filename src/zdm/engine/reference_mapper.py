"""Groups of columns whose new side refers to a row of a shared table: what reads of it stands in the table's own mapping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zdm.db.expressions import on_nulls
from zdm.engine.mapper import Mapper
from zdm.errors import Problem
from zdm.model.expression import ColumnRef, Expression, Volatility
from zdm.model.mapping import ColumnGroup, Expose, NewColumn, OldColumn, SharedParent, TableMapping
from zdm.model.names import QualifiedName
from zdm.model.row_mapping import PARENT, MirroredColumn, ParentSide, RowMapping
from zdm.sql.identifiers import column, key_type, qualified_name, without_length
from zdm.sql.row_objects import plain_keys

_Parts = tuple[str | ColumnRef, ...]


def refer(
    mapper: Mapper, tables: Mapping[QualifiedName, TableMapping], rows: tuple[RowMapping, ...]
) -> tuple[dict[QualifiedName, TableMapping], tuple[RowMapping, ...]]:
    """Both kinds of mappings, each knowing of the other what it has to."""
    done = dict(tables)
    found = list(rows)
    for name, shape in mapper.draft.shapes.items():
        mapping = done[name]
        for drafted, group in zip(shape.groups, mapping.groups, strict=False):
            if not drafted.parent:
                continue
            position = next(n for n, one in enumerate(found) if one.number == drafted.parent)
            made = _group(group, found[position])
            groups = tuple(made if g.number == group.number else g for g in mapping.groups)
            shown = mapping.marker_in_view or (
                mapping.expose is Expose.VIEWS and _ambiguous(mapper, made, found[position])
            )
            mapping = mapping.model_copy(update={"groups": groups, "marker_in_view": shown})
            parent = found[position].parent
            assert parent is not None
            marked = parent.model_copy(update={"marker": mapping.marker, "bit": group.bit})
            found[position] = found[position].model_copy(update={"parent": marked})
        _refuse_readers(mapper, mapping, found)
        done[name] = mapping
    return done, tuple(found)


def _refuse_readers(mapper: Mapper, mapping: TableMapping, rows: list[RowMapping]) -> None:
    """What the reconciler writes later, the table's triggers do not carry on to what else follows from it."""
    for group in mapping.groups:
        if group.noted is None:
            continue
        written = {old.name for old in group.old} | {new.name for new in group.new}
        reading = [
            g.name for g in mapping.groups if g is not group and written & {*g.reads_of_up, *g.reads_of_down}
        ]
        table = mapper.draft.tables.get(mapping.table)
        meddling = [t.name for t in table.triggers if t.row and t.timing == "before"] if table else []
        if not reading and meddling and len(mapping.groups) > 1:
            others = ", ".join(g.name for g in mapping.groups if g is not group)
            operation = next(r.operation for r in rows if r.number == group.noted.number)
            mapper.problems.append(
                Problem(
                    f"trigger {', '.join(meddling)} of {mapping.table} may write {others} when `sync: logged` writes what follows from {group.name}, "
                    "which nothing would carry on",
                    operation,
                    "Put the operations into migrations of their own, or use `sync: immediate`.",
                    "logged-sync",
                )
            )
        if reading:
            operation = next(r.operation for r in rows if r.number == group.noted.number)
            mapper.problems.append(
                Problem(
                    f"{', '.join(reading)} of {mapping.table} follows from {group.name}, which `sync: logged` writes later",
                    operation,
                    "Put one of the two into a later migration, or use `sync: immediate`.",
                    "logged-sync",
                )
            )


def _group(group: ColumnGroup, rows: RowMapping) -> ColumnGroup:
    parent = rows.parent
    assert parent is not None
    shared = SharedParent(
        number=rows.number,
        table=parent.table,
        key=parent.key,
        key_types=parent.key_types,
        key_values=parent.key_values,
        where=rows.where,
        identity=parent.identity,
        exact=_exact(rows, parent),
        logged=rows.logged,
        plain=plain_keys(rows.old.key_types),
    )
    mapped = {c.name: c for c in rows.old.columns}
    return group.model_copy(
        update={
            "parent": shared,
            "new": tuple(
                new.model_copy(update={"up": _up(new, name, parent, rows.where)})
                for new, name in zip(group.new, parent.identity, strict=True)
            ),
            "old": tuple(
                old.model_copy(update={"down": _down(old, mapped[old.name], group, parent)})
                for old in group.old
            ),
        }
    )


def _exact(rows: RowMapping, parent: ParentSide) -> bool:
    """Whether each column is a value of the natural key as it is, and the other way round."""
    held = {c.name: c for c in rows.old.columns}
    pairs = [
        (value.columns[0], name, type_)
        for name, type_, value in zip(parent.key, parent.key_types, parent.key_values, strict=True)
        if not held.keys().isdisjoint(value.columns)
    ]
    whole = rows.where is None and all(
        len([part for part in value.parts if part != ""]) == 1 for value in parent.key_values
    )
    return (
        whole
        and {column for column, _, _ in pairs} == held.keys()
        and all(
            held[column].value.columns == (f"{PARENT}{name}",)
            and len([part for part in held[column].value.parts if part != ""]) == 1
            and _plain_type(held[column].type) == _plain_type(type_)
            for column, name, type_ in pairs
        )
    )


def _plain_type(type_: str) -> str:
    return "text" if without_length(type_) in {"text", "character varying"} else type_


def _up(new: NewColumn, identity: str, parent: ParentSide, where: Expression | None) -> Expression:
    """What a row refers to, of the parents that are there."""
    wanted: _Parts = ("(", *where.parts, ") IS TRUE") if where is not None else ()
    for number, value in enumerate(parent.key_values if where is None else ()):
        wanted += (" AND " if number else "", "(", *value.parts, ") IS NOT NULL")
    values: _Parts = ()
    for number, (value, type_) in enumerate(zip(parent.key_values, parent.key_types, strict=True)):
        values += (
            ", " if number else "",
            "CAST((",
            *value.parts,
            f") AS {_text(key_type(type_))}) AS zdm_{number}",
        )
    alike = " AND ".join(
        f"({_text(column(name, 'zdm_p'))} OPERATOR(pg_catalog.=) zdm_q.zdm_{number})"
        for number, name in enumerate(parent.key)
    )
    return Expression(
        source=_said(
            f"p.{_text(column(identity))}",
            [value.source for value in parent.key_values],
            parent.key,
            parent,
            where.source if where is not None else "",
        ),
        parts=(
            "CASE WHEN ",
            *wanted,
            # Composed of what the server deparsed, and of identifiers.
            f" THEN (SELECT {_text(column(identity, 'zdm_p'))} FROM (SELECT ",  # noqa: S608
            *values,
            f") AS zdm_q JOIN {_text(qualified_name(parent.table))} AS zdm_p ON {alike}) END",
        ),
        type=new.type,
        volatility=_worst([*parent.key_values, *([where] if where is not None else [])]),
    )


def _down(old: OldColumn, mapped: MirroredColumn, group: ColumnGroup, parent: ParentSide) -> Expression:
    """What a row's parent says, or what the column is empty with."""
    none: _Parts = ()
    named: _Parts = ()
    for number, new in enumerate(group.new):
        none += (" OR " if number else "", ColumnRef(column=new.name), " IS NULL")
        named += (", " if number else "", ColumnRef(column=new.name), f" AS zdm_{number}")
    alike = " AND ".join(
        f"({_text(column(name, 'zdm_p'))} OPERATOR(pg_catalog.=) zdm_q.zdm_{number})"
        for number, name in enumerate(parent.identity)
    )
    value = tuple(
        part if isinstance(part, str) else _text(column(part.column.removeprefix(PARENT), "zdm_p"))
        for part in mapped.value.parts
    )
    cleared: _Parts = mapped.cleared.parts if mapped.cleared is not None else ("NULL",)
    return Expression(
        source=_said(
            mapped.value.source,
            [_text(column(new.final)) for new in group.new],
            parent.identity,
            parent,
            " AND ".join(f"{_text(column(new.final))} IS NOT NULL" for new in group.new)
            if mapped.cleared is not None
            else "",
            mapped.cleared.source if mapped.cleared is not None else "",
        ),
        parts=(
            "CASE WHEN ",
            *none,
            " THEN (",
            *cleared,
            ") ELSE (SELECT (",
            *value,
            ") FROM (SELECT ",
            *named,
            f") AS zdm_q JOIN {_text(qualified_name(parent.table))} AS zdm_p ON {alike}) END",
        ),
        type=old.type,
        volatility=_worst([mapped.value, *([mapped.cleared] if mapped.cleared is not None else [])]),
    )


def _said(
    value: str, of: Iterable[str], named: Iterable[str], parent: ParentSide, when: str, otherwise: str = ""
) -> str:
    """The same for people, in SQL over the columns of one version."""
    names = ", ".join(_text(column(name)) for name in named)
    query = (
        f"(SELECT {value} FROM (SELECT {', '.join(of)}) AS v ({names})"  # noqa: S608  # shown, and composed of what was checked
        f" JOIN {_text(qualified_name(parent.table))} AS p USING ({names}))"
    )
    if not when:
        return query
    return f"CASE WHEN {when} THEN {query}{f' ELSE {otherwise}' if otherwise else ''} END"


def _ambiguous(mapper: Mapper, group: ColumnGroup, rows: RowMapping) -> bool:
    """Whether it matters who inserted a row in which neither side was given; as `Mapper` asks of other groups."""
    if all(new.not_null for new in group.new):
        return False
    parent = rows.parent
    assert parent is not None
    types = {c.name: c.type for c in mapper.draft.tables[rows.old.table].columns}
    held = {old.name for old in group.old}
    nothing = (
        [value for value in parent.key_values if not held.isdisjoint(value.columns)]
        if rows.where is None
        else [rows.where]
    )
    emptied = [c.cleared for c in rows.old.columns if c.cleared is not None]
    return not (
        any(on_nulls(mapper.conn, types, value) is True for value in nothing)
        and all(on_nulls(mapper.conn, types, value) is True for value in emptied)
    )


def _worst(expressions: Iterable[Expression]) -> Volatility:
    order = list(Volatility)
    return max((e.volatility for e in expressions), key=order.index, default=Volatility.IMMUTABLE)


def _text(part: object) -> str:
    return part.as_string(None)  # type: ignore[attr-defined,no-any-return]
