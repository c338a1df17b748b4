"""Comparing a mapping of many to one: every row of the source with its links and their parents, in one statement of one snapshot.

What must be there follows from the rows alone: nothing of the backfill's is read, and no function of the sync is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from zdm.model.row_mapping import ParentSide, RowMapping
from zdm.sql import parent_conditions, records, row_objects
from zdm.sql.identifiers import column, comma, qualified_name
from zdm.verify.run import SAMPLES, Found
from zdm.verify.statement import in_one_statement


def verify_parents(
    connect: Callable[[], psycopg.Connection[Any]], mapping: RowMapping, rollout: int, *, workers: int = 2
) -> Found:
    """Compare every row of the source with its links, and every link with both its rows. Reads only.

    Missing: a row of the source whose values want a parent has no link. Extra: a link of a row that wants none, or that is not
    there, one without a parent, and each beyond the first of a row. Different: neither follows from the other.

    Parameters
    ----------
    workers: parallel workers that the server may use.

    Raises
    ------
    ZdmError: a table could not be read to its end.
    """
    parent = mapping.parent
    assert parent is not None
    return in_one_statement(
        connect,
        mapping,
        rollout,
        lambda known: _query(mapping, parent, rollout, known=known),
        workers=workers,
        alone=records.count(mapping, rollout) if mapping.records else None,
    )


def _query(mapping: RowMapping, parent: ParentSide, rollout: int, *, known: bool) -> sql.Composed:
    """Kind, number and some keys of what is wrong."""
    passed_over: sql.Composable = sql.SQL("false")
    if known:
        # What is recorded counts as failed; and its expression would raise here as well.
        passed_over = sql.SQL("EXISTS (SELECT {})").format(
            row_objects.failed(mapping, rollout, mapping.old, "zdm_o")
        )
    return sql.SQL(
        "WITH zdm_found AS (SELECT CASE WHEN zdm_o.zdm_there IS NULL THEN 'extra' WHEN {known} THEN NULL"
        " WHEN zdm_l.zdm_there IS NULL THEN CASE WHEN {wants} THEN 'missing' END"
        " WHEN zdm_p.zdm_there IS NULL THEN 'extra' WHEN NOT {wants} THEN 'extra'"
        " WHEN NOT {follows} THEN 'different' WHEN zdm_l.zdm_number > 1 THEN 'extra' END AS kind,"
        " pg_catalog.concat_ws(', ', {texts}) AS key"
        " FROM (SELECT *, true AS zdm_there FROM {source}) AS zdm_o"
        " FULL JOIN (SELECT *, true AS zdm_there, pg_catalog.row_number() OVER (PARTITION BY {link_key}) AS zdm_number"
        " FROM {link}) AS zdm_l ON {linked}"
        " LEFT JOIN (SELECT *, true AS zdm_there FROM {parent}) AS zdm_p ON {refers})"
        " SELECT kind, pg_catalog.count(*), (pg_catalog.array_agg(key))[1:{samples}] FROM zdm_found"
        " WHERE kind IS NOT NULL GROUP BY kind"
    ).format(
        known=passed_over,
        wants=parent_conditions.wants(mapping, parent, "zdm_o"),
        follows=parent_conditions.follows(mapping, parent, "zdm_o", "zdm_p"),
        texts=comma(
            sql.SQL("{} || COALESCE({}::text, {}::text)").format(
                sql.Literal(f"{own}="), column(own, "zdm_o"), column(link, "zdm_l")
            )
            for own, link in zip(mapping.old.key, mapping.new.key, strict=True)
        ),
        source=qualified_name(mapping.old.table),
        link=sql.SQL("{} AS zdm_a").format(records.counted(mapping, rollout)),
        parent=qualified_name(parent.table),
        link_key=comma(column(name) for name in mapping.new.key),
        linked=parent_conditions.links(mapping, "zdm_l", "zdm_o"),
        refers=parent_conditions.refers(parent, "zdm_l", "zdm_p"),
        samples=sql.Literal(SAMPLES),
    )
