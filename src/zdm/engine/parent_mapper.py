"""From a mapping of many to one that an operation asks for to a checked one, tried on real rows."""

from __future__ import annotations

from zdm.db.expressions import CheckColumn, Derived, Request
from zdm.db.introspect import type_comparison
from zdm.engine.mapper import Mapper
from zdm.engine.sync_limits import reads_generated
from zdm.engine.trial import no_form, sample, tell_failed, tried
from zdm.errors import Problem
from zdm.model.expression import ColumnRef, Expression
from zdm.model.names import QualifiedName, qualified
from zdm.model.row_mapping import PARENT, MirroredColumn, ParentSide, RowMapping, RowSide, SyncMode
from zdm.operations.rows import DraftRows, DraftSide
from zdm.sql.parent_trial import parent_trial

_SAMPLE = 100_000


def parent_mapping(
    mapper: Mapper, number: int, draft: DraftRows, taken: set[QualifiedName]
) -> RowMapping | None:
    """The checked mapping; problems are collected in the mapper."""
    parent = draft.parent
    assert parent is not None
    in_place = draft.new.table == draft.old.table
    before = len(mapper.problems)
    old, label = draft.old, draft.operation
    own = [CheckColumn(name, name, type_, collation) for name, type_, collation in old.readable]
    theirs = [CheckColumn(n, f"{PARENT}{n}", t, c) for n, t, c in parent.side.readable]
    # A name means the parent's column, where it has one of that name.
    inner = {column.shown_name for column in theirs}
    both = [*theirs, *(column for column in own if column.shown_name not in inner and not in_place)]
    types = {name: (type_, collation) for name, type_, collation in parent.side.readable}
    natural = mapper.check(
        old.table.name,
        own,
        {
            name: Request(label, value, *types[name], derived=Derived.ALWAYS)
            for name, value in zip(parent.side.key, parent.values, strict=True)
        },
    )
    backwards = mapper.check(
        parent.side.table.name,
        both,
        {c.name: Request(label, c.value, c.type, c.collation, derived=Derived.ALWAYS) for c in old.columns},
    )
    empties = mapper.check(
        old.table.name,
        own,
        {c.name: Request(label, c.empty, c.type, c.collation) for c in old.columns if c.empty is not None},
    )
    where = None
    if draft.where is not None:
        where = mapper.check(
            old.table.name, own, {"where": Request(label, draft.where, derived=Derived.ALWAYS)}
        ).get("where")
        if where is not None and where.type != "boolean":
            mapper.problems.append(
                Problem(f"{draft.where!r} is of type {where.type}; a condition is needed", label)
            )
    if in_place:
        mapper.problems += [
            Problem(
                f"what {name} of {old.table} is empty with reads {', '.join(empty.columns)}; with `reference` it is the same for every row",
                label,
                "Give a constant, or NULL.",
            )
            for name, empty in empties.items()
            if empty.columns
        ]
        read = [*natural.values(), *([where] if where is not None else [])]
        mapper.problems += reads_generated(
            mapper.draft.shapes[old.table], [(old.columns[0].name, expression) for expression in read]
        )
    if len(mapper.problems) > before:
        return None
    id_ = draft.new.table
    if in_place:
        id_ = qualified(id_.schema_, f"{id_.name} by {', '.join(parent.reference)}")
        if id_ in taken:
            id_ = qualified(id_.schema_, f"{id_.name} ({number})")
    comparisons = tuple(type_comparison(mapper.conn, *types[name]) for name in parent.side.key)
    return RowMapping(
        id=id_,
        number=number,
        operation=label,
        old=_side(
            old,
            columns=tuple(
                MirroredColumn(
                    name=c.name,
                    type=c.type,
                    comparison=type_comparison(mapper.conn, c.type, c.collation),
                    value=backwards[c.name],
                    not_null=c.not_null,
                    cleared=empties.get(c.name),
                )
                for c in old.columns
            ),
        ),
        new=_side(draft.new, key_values=tuple(_plain(old, name) for name in old.key)),
        parent=ParentSide(
            table=parent.side.table,
            oid=parent.side.oid,
            kind=parent.side.kind,
            key=tuple(parent.side.key),
            key_values=tuple(natural[name] for name in parent.side.key),
            key_types=tuple(types[name][0] for name in parent.side.key),
            columns=(),
            created=parent.side.created,
            comparisons=comparisons,
            identity=tuple(parent.identity),
            identity_types=tuple(types[name][0] for name in parent.identity),
            reference=tuple(parent.reference),
            foreign_key=parent.foreign_key,
            unused=parent.unused,
        ),
        where=where,
        logged=mapper.draft.sync is SyncMode.LOGGED,
        without_old_form=draft.without_old_form,
    )


def _plain(side: DraftSide, name: str) -> Expression:
    types = {column: type_ for column, type_, _ in side.readable}
    return Expression(source=name, parts=(ColumnRef(column=name),), type=types[name])


def _side(
    side: DraftSide, *, columns: tuple[MirroredColumn, ...] = (), key_values: tuple[Expression, ...] = ()
) -> RowSide:
    types = {name: type_ for name, type_, _ in side.readable}
    return RowSide(
        table=side.table,
        oid=side.oid,
        kind=side.kind,
        key=tuple(side.key),
        key_values=key_values,
        key_types=tuple(types[name] for name in side.key),
        columns=columns,
        guarded=side.guarded,
        created=side.created,
    )


# --- trying it ----------------------------------------------------------------------------------------------------------


def measure_parents(mapper: Mapper, mapping: RowMapping) -> None:
    """Find rows that have no form in the new version, and values that would not come back as they were.

    All rows of a table of up to about 100,000, else pages taken at random. The table is only read.
    """
    draft = next(d for d in mapper.draft.rows if d.operation == mapping.operation).parent
    assert mapping.parent is not None
    assert draft is not None
    table = mapper.draft.tables[mapping.old.table]
    shape = mapper.draft.shapes[mapping.old.table]
    gone = {c.name for c in mapping.old.columns} - {c.physical for c in shape.columns}
    required = [
        new.final for new in shape.all_new() if new.not_null and new.physical in mapping.parent.reference
    ]
    source = sample(table, _SAMPLE)
    found = tried(mapper, parent_trial(mapping, mapping.parent, source, gone=gone, required=required))
    tell_failed(mapper, mapping, found, no_form(found, mapping.old.table, mapping.parent.table))
    if found.lost and not draft.lossy:
        mapper.problems.append(
            Problem(
                f"{', '.join(c.name for c in mapping.old.columns)}: what comes back from {mapping.parent.table} differs in "
                f"{found.lost} of {found.rows} rows of {mapping.old.table} (for example {'; '.join(found.lost_keys)})",
                mapping.operation,
                "Correct `values` or `down`, or declare the loss with `lossy: true`.",
                "lossy-mapping",
            )
        )
