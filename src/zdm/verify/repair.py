"""Deriving again what disagrees, the authority's side being the truth."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from zdm.db.session import fetch_value, transaction
from zdm.errors import Busy
from zdm.model.mapping import Authority, ColumnGroup, TableMapping
from zdm.sql.identifiers import any_of, qualified_name
from zdm.sql.rows import Kind, mismatch_kinds, repair_assignments
from zdm.verify.statements import between

BLOCKS = 512
ROWS = 200
PATIENCE = 60.0


def _ignore(_: psycopg.Cursor[Any]) -> None:
    return None


def repair(
    connect: Callable[[], psycopg.Connection[Any]],
    mapping: TableMapping,
    authority: Authority,
    *,
    guard: Callable[[psycopg.Cursor[Any]], None] = _ignore,
    lock_budget: timedelta = timedelta(milliseconds=100),
) -> int:
    """Make every settled row agree again, in small transactions over locked rows. Returns how many rows were repaired.

    Each row is looked at again once it is locked: one that an application has put right meanwhile is left alone. Rows that
    nobody has settled are the backfill's; those whose `up` raises stay failed. Verify again afterwards.

    Raises
    ------
    Busy: rows stayed locked by somebody.
    psycopg.Error: an expression raised for a row; rows before it are repaired.
    """
    if not mapping.needs_sync:
        return 0
    conn = connect()
    try:
        return sum(_group(conn, mapping, group, authority, guard, lock_budget) for group in mapping.groups)
    finally:
        conn.close()


def _group(
    conn: psycopg.Connection[Any],
    mapping: TableMapping,
    group: ColumnGroup,
    authority: Authority,
    guard: Callable[[psycopg.Cursor[Any]], None],
    lock_budget: timedelta,
) -> int:
    assignments = repair_assignments(mapping, group, authority)
    stale = [
        m.predicate
        for m in mismatch_kinds(mapping)
        if m.group == group.name and m.kind in (Kind.STALE_NEW, Kind.STALE_OLD, Kind.NULL_NEW)
    ]
    if assignments is None or not stale:
        return 0
    wrong, table = any_of(stale), qualified_name(mapping.table)
    blocks = int(
        fetch_value(
            conn,
            "SELECT pg_catalog.pg_relation_size(%s::oid) / pg_catalog.current_setting('block_size')::bigint",
            [mapping.oid],
        )
        or 0
    )
    total = 0
    for block in range(0, blocks, BLOCKS):
        within = between((block, 0), (min(blocks, block + BLOCKS), 0))
        statement = sql.SQL(
            "UPDATE ONLY {table} SET {assignments} WHERE ctid = ANY (ARRAY("
            "SELECT ctid FROM ONLY {table} WHERE {within} AND {wrong} LIMIT {rows} FOR NO KEY UPDATE)) AND {wrong}"
        ).format(table=table, assignments=assignments, within=within, wrong=wrong, rows=sql.Literal(ROWS))
        # A row can stay wrong whatever is derived (an `up` that gives NULL): never more rounds than there were rows.
        count = sql.SQL("SELECT pg_catalog.count(*) FROM ONLY {} WHERE {} AND {}").format(
            table, within, wrong
        )
        with transaction(conn, read_only=True):
            row = conn.execute(count).fetchone()
        left = int(row[0]) if row else 0
        while left > 0:
            total += _some(conn, mapping, statement, guard, lock_budget)
            left -= ROWS
    return total


def _some(
    conn: psycopg.Connection[Any],
    mapping: TableMapping,
    statement: sql.Composed,
    guard: Callable[[psycopg.Cursor[Any]], None],
    lock_budget: timedelta,
) -> int:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with transaction(conn, lock_timeout=lock_budget / 2):
                guard(conn.cursor())
                return conn.execute(statement).rowcount
        except (pg.LockNotAvailable, pg.DeadlockDetected, pg.SerializationFailure) as error:
            if time.monotonic() >= deadline:
                raise Busy(
                    f"rows of {mapping.table} that need repair have been locked for {PATIENCE:.0f} s",
                    remedy="Let the transaction that holds them end, and run again.",
                ) from error
        time.sleep(random.uniform(0.005, 0.1))  # noqa: S311  # jitter
