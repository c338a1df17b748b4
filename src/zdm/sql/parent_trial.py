"""A mapping of many to one, tried on rows of the source without writing."""

from __future__ import annotations

from collections.abc import Collection

from psycopg import sql

from zdm.model.row_mapping import PARENT, ParentSide, RowMapping
from zdm.sql.identifiers import (
    any_of,
    column,
    comma,
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


def trial(
    mapping: RowMapping, parent: ParentSide, source: sql.Composable, *, gone: Collection[str], limit: int
) -> sql.Composed:
    """The body of a function that tries the mapping on rows of the source, without writing.

    Values are assigned to variables of the parent's types, as the sync will: what is too long raises. Whether they come back is asked
    where that depends on the natural key alone; of a row that has no parent, whether a column that goes holds what it is empty with.

    Parameters
    ----------
    gone: the held columns that go.
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
    return sql.SQL(
        "DECLARE zdm_row {table}; {declare} zdm_key text; zdm_lost bool; BEGIN rows := 0; failed := 0; lost := 0; failed_keys := '{{}}'; lost_keys := '{{}}';"
        " FOR zdm_row IN SELECT * FROM {source} LIMIT {limit} LOOP rows := rows + 1; zdm_key := pg_catalog.concat_ws(', ', {key});"
        " BEGIN IF {wants} THEN {compute} zdm_lost := {lost}; ELSE zdm_lost := {left}; END IF;"
        " IF zdm_lost THEN lost := lost + 1; IF lost <= 3 THEN lost_keys := lost_keys || zdm_key; END IF; END IF;"
        " EXCEPTION WHEN query_canceled THEN RAISE; WHEN OTHERS THEN failed := failed + 1; message := SQLERRM;"
        " IF failed <= 3 THEN failed_keys := failed_keys || zdm_key; END IF; END; END LOOP; END"
    ).format(
        table=qualified_name(mapping.old.table),
        declare=sql.SQL(" ").join(
            sql.SQL("{} {};").format(variable(number), type_name(type_))
            for number, type_ in enumerate(parent.key_types)
        ),
        source=source,
        limit=sql.Literal(limit),
        key=comma(
            sql.SQL("{} || zdm_row.{}::text").format(sql.Literal(f"{name}="), column(name))
            for name in mapping.old.key
        )
        if mapping.old.key
        else sql.Literal("a row without a key"),
        wants=wants(mapping, parent, "zdm_row"),
        compute=sql.SQL(" ").join(lines),
        lost=lost,
        left=left,
    )
