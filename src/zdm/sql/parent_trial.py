"""A mapping of many to one, tried on rows of the source without writing."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from psycopg import sql

from zdm.model.row_mapping import PARENT, ParentSide, RowMapping
from zdm.sql.identifiers import (
    any_of,
    column,
    differs,
    qualified_name,
    type_name,
)
from zdm.sql.parent_conditions import (
    compared_as,
    empty_with,
    variable,
    wants,
)
from zdm.sql.rows import render
from zdm.sql.trial import trial


def parent_trial(
    mapping: RowMapping,
    parent: ParentSide,
    source: sql.Composable,
    *,
    gone: Collection[str],
    required: Sequence[str] = (),
) -> sql.Composed:
    """What creates a function (`sql.trial`) that tries the mapping on rows of the source, without writing.

    Values are assigned to variables of the parent's types, as the sync will: what is too long raises. Whether they come back is asked
    where that depends on the natural key alone; of a row that has no parent, whether a column that goes holds what it is empty with.

    Parameters
    ----------
    gone: the held columns that go.
    required: columns that refer to the parent, and may not be NULL.
    """
    variables = {f"{PARENT}{name}": variable(number) for number, name in enumerate(parent.key)}
    known = all(
        name in variables for c in mapping.old.columns for name in c.value.columns if name.startswith(PARENT)
    )
    lost: sql.Composable = sql.SQL("false")
    if known:
        lost = any_of(
            differs(
                column(c.name, "zdm_row"),
                compared_as(
                    c.value.render(lambda name: variables.get(name, column(name, "zdm_row"))), c.type
                ),
                c.comparison,
                c.type,
            )
            for c in mapping.old.columns
        )
    left = any_of(
        differs(
            column(c.name, "zdm_row"), compared_as(empty_with(c, "zdm_row"), c.type), c.comparison, c.type
        )
        for c in mapping.old.columns
        if c.name in gone
    )
    lines = [
        sql.SQL(
            "{v} := {e}; IF {v} IS NULL THEN RAISE not_null_violation USING MESSAGE = {m}; END IF;"
        ).format(v=variable(number), e=render(value, "zdm_row"), m=sql.Literal(f"{name} would be NULL"))
        for number, (name, value) in enumerate(zip(parent.key, parent.key_values, strict=True))
    ]
    none: sql.Composable = sql.SQL("zdm_lost := {};").format(left)
    if required:
        message = f"the row has none, and {', '.join(required)} is NOT NULL"
        none = sql.SQL("RAISE not_null_violation USING MESSAGE = {};").format(sql.Literal(message))
    return trial(
        source,
        mapping.old.key,
        sql.SQL("IF {} THEN {} zdm_lost := {}; ELSE {} END IF;").format(
            wants(mapping, parent, "zdm_row"), sql.SQL(" ").join(lines), lost, none
        ),
        row=qualified_name(mapping.old.table),
        declare=sql.SQL(" ").join(
            sql.SQL("{} {};").format(variable(number), type_name(type_))
            for number, type_ in enumerate(parent.key_types)
        ),
    )
