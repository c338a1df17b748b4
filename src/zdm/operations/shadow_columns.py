"""The columns of a table that takes another one's place: those it keeps, changes and adds."""

from __future__ import annotations

from zdm.errors import Problem
from zdm.model.table import Column, Table
from zdm.operations.base import Draft
from zdm.operations.shadow_params import ColumnChange, ShadowParams
from zdm.operations.shadows import ShadowColumn
from zdm.operations.target import quoted, required


def columns_of(
    asked: ShadowParams, draft: Draft, table: Table, problems: list[Problem]
) -> tuple[ShadowColumn, ...]:
    """The columns of the new table, in their order."""
    changes = {c.column: c for c in asked.columns}
    there = {c.name for c in table.columns}
    problems += [
        Problem(f"there is no column {name} in {table.name}", rule="unknown-column")
        for name in dict.fromkeys([*asked.drop, *asked.down])
        if name not in there
    ]
    found = [
        _kept(asked, draft, table, c, changes.get(c.name), problems)
        for c in table.columns
        if c.name not in asked.drop
    ]
    for change in asked.columns:
        if change.column in there and change.column not in asked.drop:
            continue
        if change.type is None:
            problems.append(
                Problem(
                    f"column {change.column} is new in {table.name} and has no type",
                    remedy="Give it a `type`, or correct its name.",
                    rule="unknown-column",
                )
            )
            continue
        found.append(
            ShadowColumn(
                name=change.column,
                type=draft.type(change.type),
                not_null=bool(change.not_null),
                default=change.default,
                collation=change.collation,
                value=change.up,
            )
        )
        if change.not_null and change.up is None and change.default is None:
            problems.append(
                Problem(
                    f"column {change.column} is new in {table.name}, NOT NULL and without a value for the rows that are there",
                    remedy="Give it `up` or a `default`.",
                )
            )
    known = [c.name for c in found]
    problems += [
        Problem(f"there is no column {name} in the new {table.name}", rule="unknown-column")
        for name in dict.fromkeys(
            [*asked.order, *asked.primary_key, *(asked.partition_by.columns if asked.partition_by else ())]
        )
        if name not in known
    ]
    first = [c for name in asked.order for c in found if c.name == name]
    columns = tuple(first + [c for c in found if c not in first])
    back = {c.name for c in columns if c.back is not None} | asked.down.keys()
    problems += [
        Problem(
            f"column {c.name} of {table.name} is NOT NULL without a default: rows that the new version inserts have no value for it",
            remedy="Give it one in `down`.",
            rule="missing-down",
        )
        for c in table.columns
        if c.name not in back and required(c)
    ]
    return columns


def _kept(
    asked: ShadowParams,
    draft: Draft,
    table: Table,
    column: Column,
    change: ColumnChange | None,
    problems: list[Problem],
) -> ShadowColumn:
    type_ = draft.type(change.type) if change is not None and change.type is not None else column.type
    name, same = quoted(column.name), type_ == column.type
    value, back = name, name
    if not same:
        value, back = f"CAST({name} AS {type_})", f"CAST({name} AS {column.type})"
    if change is not None:
        value, back = change.up or value, change.down or back
        if column.generated or column.identity:
            problems.append(
                Problem(
                    f"{column.name} of {table.name} is {'a generated' if column.generated else 'an identity'} column, and changes",
                    remedy="Change it in a migration of its own.",
                )
            )
    return ShadowColumn(
        name=column.name,
        type=type_,
        not_null=column.not_null if change is None or change.not_null is None else change.not_null,
        default=column.default if change is None or change.default is None else change.default,
        collation=(change.collation if change is not None and change.collation else None)
        or (column.collation if same else None),
        source=column,
        value=None if column.generated else value,
        back=None if column.generated else asked.down.get(column.name, back),
    )
