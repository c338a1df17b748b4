"""Rows whose new side could not be derived. The sync triggers write and clear them; what they cannot see going is forgotten here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


Stamp = tuple[str, str, datetime]
"""A failure as it was recorded: the key as text, the group, and when."""


def stamps(
    conn: psycopg.Connection[Any], rollout: int, table_oid: int, *, limit: int = 10_000
) -> list[Stamp]:
    """The oldest failures of one table, for `forget`."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            """
            SELECT key::text, group_name, at FROM zdm.sync_failures
            WHERE rollout = %s AND table_oid = %s ORDER BY at LIMIT %s
            """,
            [rollout, table_oid, limit],
        )
        return cursor.fetchall()


def forget(conn: psycopg.Connection[Any], rollout: int, table_oid: int, found: Sequence[Stamp]) -> int:
    """Forget failures whose rows are gone, unless they were recorded anew since. One write, in the caller's transaction.

    Rows go without a trigger of ours when their partition is dropped, detached or truncated.
    """
    keys, groups, times = zip(*found, strict=True) if found else ((), (), ())
    return conn.execute(
        """
        DELETE FROM zdm.sync_failures AS f
        USING ROWS FROM (unnest(%s::text[]), unnest(%s::text[]), unnest(%s::timestamptz[])) AS g (key, group_name, at)
        WHERE f.rollout = %s AND f.table_oid = %s AND f.key = g.key::jsonb AND f.group_name = g.group_name AND f.at = g.at
        """,
        [list(keys), list(groups), list(times), rollout, table_oid],
    ).rowcount


def clear(conn: psycopg.Connection[Any], rollout: int) -> int:
    """Forget the failures of a rollout that ended; returns how many there were. One write, in the caller's transaction."""
    return conn.execute("DELETE FROM zdm.sync_failures WHERE rollout = %s", [rollout]).rowcount
