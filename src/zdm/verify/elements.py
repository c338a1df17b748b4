"""Comparing a mapping of one row to many: every row's elements with those that it says, in one statement of one snapshot."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg import sql

from zdm.db.session import transaction
from zdm.model.row_mapping import RowMapping
from zdm.sql import element_rows, group_sync, log_comparison, records
from zdm.sql.rows import Kind
from zdm.verify.rows import AGAIN
from zdm.verify.run import SAMPLES, Found
from zdm.verify.settled import settled
from zdm.verify.statement import Counted, in_one_statement


def verify_elements(
    connect: Callable[[], psycopg.Connection[Any]],
    mapping: RowMapping,
    rollout: int,
    *,
    workers: int = 2,
    carry_over: Callable[[], None] = lambda: None,
) -> Found:
    """Compare every row with its elements, by what the mapping says of either. Reads only.

    Missing: an element that the row says is not there. Extra: one that it does not say, or of no row. Different: one that says
    something else. None of them where the row is what its elements say together.

    Where the mapping is synced by log, a key of which something waits in that snapshot is looked at again once that was carried over; one of
    which something always waits is carried over here, and compared at once.

    Parameters
    ----------
    workers: parallel workers that the server may use.
    carry_over: brings to agree what waits at the moment.

    Raises
    ------
    ZdmError: a table could not be read to its end.
    """
    if mapping.logged:
        return in_one_statement(
            connect,
            mapping,
            rollout,
            lambda known: log_comparison.wrong_or_waiting(mapping, rollout, SAMPLES, known=known),
            workers=workers,
            settle=lambda conn, found: _looked_at_again(conn, mapping, rollout, found, carry_over),
        )
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
            else element_rows.disagreeing(mapping, rollout, known=known),
        ),
        workers=workers,
        alone=records.count(mapping, rollout) if mapping.records else None,
    )


def _looked_at_again(
    conn: psycopg.Connection[Any],
    mapping: RowMapping,
    rollout: int,
    found: Counted,
    carry_over: Callable[[], None],
) -> Counted:
    """Keys of which something was waiting, compared anew until each is found without; at last one by one."""
    wrong: Counted = []
    for attempt in range(1, AGAIN + 1):
        wrong += [part for part in found if part[0] != log_comparison.WAITING]
        keys = [json.loads(key) for part in found if part[0] == log_comparison.WAITING for key in part[2]]
        if not keys:
            break
        if attempt == AGAIN:
            for key in keys:
                wrong += settled(
                    conn,
                    mapping,
                    rollout,
                    key,
                    partial(_wrong_at_last, conn, mapping, rollout, key),
                    unknown=[(Kind.DIFFERENT.value, 1, [", ".join(key)])],
                )
            break
        carry_over()
        with transaction(conn, isolation="repeatable read", read_only=True):
            found = conn.execute(log_comparison.wrong_of(mapping, rollout, keys, SAMPLES)).fetchall()
    return wrong


def _wrong_at_last(
    conn: psycopg.Connection[Any], mapping: RowMapping, rollout: int, key: Sequence[str]
) -> Counted:
    return conn.execute(log_comparison.wrong_of(mapping, rollout, [key], SAMPLES, last=True)).fetchall()
