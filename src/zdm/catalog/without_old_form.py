"""Rows of the new version that are recorded as having no old form. The triggers write and remove them; a rollback keeps those that are left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True)
class Recorded:
    """One row.

    Parameters
    ----------
    schema_name / table_name: the new version's table.
    key: its key columns and their values.
    new_row: the row, whole, as it was last written.
    old_row: what it had in the old version before it lost its form there; None if nothing.
    sqlstate / reason: what the old version's table or the mapping said to it.
    """

    schema_name: str
    table_name: str
    key: Mapping[str, Any]
    new_row: Mapping[str, Any]
    old_row: Mapping[str, Any] | None
    sqlstate: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows of one table are recorded, and some of them by key."""

    schema_name: str
    table_name: str
    rows: int
    samples: tuple[Mapping[str, Any], ...] = ()


def counts(conn: psycopg.Connection[Any], rollout: int, *, samples: int = 3) -> list[Count]:
    """Per table how many rows are recorded, with the keys of up to `samples` of them."""
    found = conn.execute(
        """
        SELECT schema_name, table_name, count(*), (array_agg(key ORDER BY at))[1:%s]
        FROM zdm.rows_without_old_form WHERE rollout = %s GROUP BY schema_name, table_name ORDER BY schema_name, table_name
        """,
        [samples, rollout],
    ).fetchall()
    return [Count(schema, table, rows, tuple(keys)) for schema, table, rows, keys in found]


def forget(conn: psycopg.Connection[Any], rollout: int) -> int:
    """Forget all rows of a rollout that is complete; returns how many there were. One write, in the caller's transaction."""
    return conn.execute("DELETE FROM zdm.rows_without_old_form WHERE rollout = %s", [rollout]).rowcount


def all_of(conn: psycopg.Connection[Any], rollout: int) -> list[Recorded]:
    """Every row that is recorded, by table and in the order in which they were written."""
    with conn.cursor(row_factory=class_row(Recorded)) as cursor:
        cursor.execute(
            """
            SELECT schema_name, table_name, key, new_row, old_row, sqlstate, reason, at
            FROM zdm.rows_without_old_form WHERE rollout = %s ORDER BY schema_name, table_name, at, key
            """,
            [rollout],
        )
        return cursor.fetchall()
