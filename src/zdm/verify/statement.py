"""A comparison that is one statement in one snapshot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from zdm.db.session import transaction
from zdm.errors import ZdmError
from zdm.model.row_mapping import RowMapping
from zdm.sql.identifiers import qualified_name
from zdm.sql.rows import Kind
from zdm.verify.rows import failures, position
from zdm.verify.run import SAMPLES, Found

Counted = list[tuple[str, int, list[str]]]
"""Kinds, how many there are of each, and some keys."""


def in_one_statement(
    connect: Callable[[], psycopg.Connection[Any]],
    mapping: RowMapping,
    rollout: int,
    query: Callable[[bool], sql.Composed],
    *,
    workers: int,
    alone: sql.Composed | None = None,
    settle: Callable[[psycopg.Connection[Any], Counted], Counted] = lambda _, found: found,
) -> Found:
    """What the statement finds, what is recorded as failed, and how many rows the source has. Reads only.

    Parameters
    ----------
    query: the statement, given whether rows are recorded as failed; it selects kind, number and some keys.
    workers: parallel workers that the server may use.
    alone: what counts the rows that are recorded as having no old form.
    settle: says what becomes of what it found, after the snapshot: some of it may only be on its way.

    Raises
    ------
    ZdmError: a table could not be read to its end.
    """
    settings = {"jit": "off", "max_parallel_workers_per_gather": str(workers)}
    try:
        with connect() as conn:
            lsn = position(conn)
            with transaction(conn, isolation="repeatable read", read_only=True, settings=settings):
                row = conn.execute(
                    "SELECT pg_catalog.now(), pg_catalog.pg_current_snapshot()::text"
                ).fetchone()
                assert row is not None
                failed = failures(conn, mapping, rollout)
                found = conn.execute(query(failed is not None)).fetchall()
                total = conn.execute(
                    sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(qualified_name(mapping.source.table))
                ).fetchone()
                recorded = None if alone is None else conn.execute(alone).fetchone()
            found = settle(conn, found)
    except psycopg.Error as error:
        raise ZdmError(
            f"{mapping.id} could not be verified: {str(error).strip()}",
            remedy="Nothing was changed; run again.",
        ) from error
    counts, samples = dict[Kind, int](), dict[Kind, list[str]]()
    for name, count, keys in found:
        kind = Kind(name)
        counts[kind] = counts.get(kind, 0) + count
        samples[kind] = [*samples.get(kind, ()), *keys][:SAMPLES]
    if failed is not None:
        counts[Kind.FAILED], samples[Kind.FAILED] = failed
    assert total is not None
    return Found(
        started_at=row[0],
        snapshot=row[1],
        lsn=lsn,
        rows=total[0],
        counts=counts,
        samples=samples,
        without_old_form=recorded[0] if recorded is not None else 0,
    )
