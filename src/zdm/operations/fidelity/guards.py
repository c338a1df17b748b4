"""Which unique keys stand twice until cleanup, so that INSERT … ON CONFLICT has to be guarded; see triggers/part_guard.sql."""

from __future__ import annotations

import re

from zdm.operations.base import Draft
from zdm.operations.shape import TableShape

_COMPARED = re.compile(
    r"smallint|integer|bigint|numeric(\(.*\))?|uuid|text|character varying(\(\d+\))?|date|boolean"
    r"|timestamp(\(\d\))? with(out)? time zone|bytea"
)
"""Types whose ``=`` is pg_catalog's own."""


def guarded(draft: Draft, shape: TableShape) -> tuple[tuple[str, ...], ...]:
    """The columns of each such key of the table, or of a part of it, by the physical names of the new side. Indexes over expressions or a
    part of the rows are not guarded, nor are types of extensions."""
    parts = [part for part in draft.parts.values() if part.part_of == shape.name]
    return tuple(dict.fromkeys(key for found in (shape, *parts) for key in _keys(found)))


def _keys(shape: TableShape) -> list[tuple[str, ...]]:
    successors = {n.replaces: n for n in shape.all_new() if n.replaces is not None}
    found: list[tuple[str, ...]] = []
    keys = [
        constraint.columns
        for constraint in shape.table.constraints
        if constraint.kind in {"primary key", "unique"}
        and constraint.name not in shape.gone_constraints
        and " DEFERRABLE" not in constraint.definition
    ]
    keys += [
        index.columns
        for index in shape.table.indexes
        if index.unique
        and index.constraint is None
        and index.name not in shape.gone_indexes
        and index.definition.count("(") == 1
        and " WHERE " not in index.definition
    ]
    for columns in keys:
        types = [
            successors[c].type if c in successors else column.type
            for c in columns
            if (column := shape.original(c)) is not None
        ]
        # Two rows that are given their new keys have different ones.
        twice = any(c in successors and not shape.paired(c) for c in columns)
        if twice and all(map(_COMPARED.fullmatch, types)):
            found.append(tuple(successors[c].physical if c in successors else c for c in columns))
    return found
