"""Comparing a mapping of one row to many: every row's elements with those that it says, in one statement of one snapshot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from zdm.model.row_mapping import RowMapping
from zdm.sql import element_record, element_sync, group_sync
from zdm.verify.run import SAMPLES, Found
from zdm.verify.statement import in_one_statement


def verify_elements(
    connect: Callable[[], psycopg.Connection[Any]], mapping: RowMapping, rollout: int, *, workers: int = 2
) -> Found:
    """Compare every row with its elements, by what the mapping says of either. Reads only.

    Missing: an element that the row says is not there. Extra: one that it does not say, or of no row. Different: one that says
    something else. None of them where the row is what its elements say together.

    Parameters
    ----------
    workers: parallel workers that the server may use.

    Raises
    ------
    ZdmError: a table could not be read to its end.
    """
    return in_one_statement(
        connect,
        mapping,
        rollout,
        lambda known: sql.SQL(
            "SELECT kind, pg_catalog.count(*), (pg_catalog.array_agg(key))[1:{}] FROM ({}) AS zdm_found GROUP BY kind"
        ).format(
            sql.Literal(SAMPLES),
            group_sync.disagreeing(mapping, rollout, known=known)
            if mapping.gathers
            else element_sync.disagreeing(mapping, rollout, known=known),
        ),
        workers=workers,
        alone=element_record.recorded_elements(mapping, rollout) if mapping.records else None,
    )
