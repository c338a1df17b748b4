"""A mapping tried on rows as they are, one after the other: those on which it raises, or loses a value, are counted and named."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from zdm.sql.identifiers import column, comma

_NAMED = 3
"""How many rows are named of each kind."""


def trial(
    source: sql.Composable,
    key: Sequence[str],
    body: sql.Composable,
    *,
    row: sql.Composable,
    declare: sql.Composable = sql.SQL(""),  # noqa: B008 - a frozen value
    begin: sql.Composable = sql.SQL(""),  # noqa: B008 - a frozen value
    told: sql.Composable = sql.NULL,
) -> sql.Composed:
    """What creates ``pg_temp._zdm_tried()``, a function that goes over the rows of `source` as ``zdm_row``, of the type `row`.

    Parameters
    ----------
    key: the columns that name a row.
    body: statements that set ``zdm_lost`` to whether the row loses a value. What raises in them is counted.
    declare / begin: further variables, and what comes before the first row.
    told: what is said of a row besides its key, where it loses a value.
    """
    names = comma(
        sql.SQL("{} || COALESCE(zdm_row.{}::text, 'NULL')").format(sql.Literal(f"{name}="), column(name))
        for name in key
    )
    code = sql.SQL(
        "DECLARE zdm_row {row}; zdm_key text; zdm_lost bool; {declare}"
        " BEGIN rows := 0; failed := 0; lost := 0; failed_keys := '{{}}'; lost_keys := '{{}}'; {begin}"
        " FOR zdm_row IN SELECT * FROM {source} LOOP rows := rows + 1; zdm_key := {key}; BEGIN {body}"
        " IF zdm_lost THEN lost := lost + 1; IF lost <= {most} THEN lost_keys := lost_keys || pg_catalog.concat(zdm_key, {told});"
        " END IF; END IF;"
        " EXCEPTION WHEN query_canceled THEN RAISE; WHEN OTHERS THEN failed := failed + 1; message := SQLERRM;"
        " IF failed <= {most} THEN failed_keys := failed_keys || zdm_key; END IF; END; END LOOP; END"
    ).format(
        row=row,
        declare=declare,
        begin=begin,
        source=source,
        key=sql.SQL("pg_catalog.concat_ws(', ', {})").format(names)
        if key
        else sql.Literal("a row without a key"),
        body=body,
        told=told,
        most=sql.Literal(_NAMED),
    )
    return sql.SQL(
        "CREATE FUNCTION pg_temp._zdm_tried(OUT rows int8, OUT failed int8, OUT failed_keys text[], OUT message text,"
        " OUT lost int8, OUT lost_keys text[]) LANGUAGE plpgsql AS {}"
    ).format(sql.Literal(code.as_string(None)))
