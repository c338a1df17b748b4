"""Rows whose new side could not be derived. The sync triggers write and clear them; this only reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row, tuple_row


@dataclass(frozen=True, slots=True)
class SyncFailure:
    """One group of one row that `up` could not derive."""

    table_oid: int
    key: Mapping[str, Any]
    group_name: str
    sqlstate: str
    message: str
    at: datetime


def count(conn: psycopg.Connection[Any], rollout: int, table_oid: int | None = None) -> int:
    """How many are left, of one table or all."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            """
            SELECT count(*) FROM zdm.sync_failures
            WHERE rollout = %(rollout)s AND (%(oid)s::oid IS NULL OR table_oid = %(oid)s)
            """,
            {"rollout": rollout, "oid": table_oid},
        )
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def all_of(conn: psycopg.Connection[Any], rollout: int, *, limit: int = 100) -> list[SyncFailure]:
    """The oldest failures that are left."""
    with conn.cursor(row_factory=class_row(SyncFailure)) as cursor:
        cursor.execute(
            """
            SELECT table_oid, key, group_name, sqlstate, message, at FROM zdm.sync_failures
            WHERE rollout = %s ORDER BY at LIMIT %s
            """,
            [rollout, limit],
        )
        return cursor.fetchall()


def clear(conn: psycopg.Connection[Any], rollout: int) -> int:
    """Forget the failures of a rollout that ended; returns how many there were. One write, in the caller's transaction."""
    return conn.execute("DELETE FROM zdm.sync_failures WHERE rollout = %s", [rollout]).rowcount
