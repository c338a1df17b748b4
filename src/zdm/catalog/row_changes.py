"""What waits to be carried over between two tables that are synced by log, and what lost there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import class_row, tuple_row


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in the log.

    Parameters
    ----------
    entries: how many changes wait; without those of rows that have no form on the other side at present.
    failed: how many of those there are.
    last: the latest entry that waits; 0 if none does.
    age: how long the oldest one has waited; None if none does.
    """

    entries: int
    failed: int
    last: int
    age: timedelta | None


@dataclass(frozen=True, slots=True)
class Conflict:
    """A write that lost.

    Parameters
    ----------
    won: the side whose write stayed.
    lost / kept: what the columns in question held on the side that lost, and hold now; None for a deletion.
    reason: why the row could not be carried over; empty where both versions wrote it.
    """

    table: str
    key: tuple[str, ...]
    won: str
    lost: Mapping[str, Any] | None
    kept: Mapping[str, Any] | None
    reason: str
    at: datetime


def waiting(conn: psycopg.Connection[Any], rollout: int, mapping: int | None = None) -> Waiting:
    """What waits of one mapping, by its number, or of the whole rollout."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            """
            SELECT count(*) FILTER (WHERE NOT failed), count(*) FILTER (WHERE failed),
                   coalesce(max(id) FILTER (WHERE NOT failed), 0), clock_timestamp() - min(at) FILTER (WHERE NOT failed)
            FROM zdm.row_changes WHERE rollout = %(rollout)s AND (%(mapping)s::int IS NULL OR mapping = %(mapping)s)
            """,
            {"rollout": rollout, "mapping": mapping},
        )
        row = cursor.fetchone()
    assert row is not None
    return Waiting(*row)


def before(conn: psycopg.Connection[Any], rollout: int, mapping: int, last: int) -> bool:
    """Whether anything waits up to the entry `last`, or of what a TRUNCATE up to there took away."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM zdm.row_changes WHERE rollout = %s AND mapping = %s AND coalesce(origin, id) <= %s AND NOT failed)",
        [rollout, mapping, last],
    ).fetchone()
    assert row is not None
    return bool(row[0])


def next_after(conn: psycopg.Connection[Any], rollout: int, mapping: int, after: int) -> int | None:
    """The first entry that waits after this one."""
    row = conn.execute(
        "SELECT min(id) FROM zdm.row_changes WHERE rollout = %s AND mapping = %s AND id > %s AND NOT failed",
        [rollout, mapping, after],
    ).fetchone()
    assert row is not None
    return None if row[0] is None else int(row[0])


@dataclass(frozen=True, slots=True)
class WithoutForm:
    """A row that cannot be carried over at present: of which mapping, by its number, and why."""

    table: str
    key: tuple[str, ...]
    reason: str


def without_form(
    conn: psycopg.Connection[Any], rollout: int, *, side: str, limit: int = 10
) -> list[WithoutForm]:
    """Rows that were written on `side` and that the other side cannot hold."""
    rows = conn.execute(
        """
        SELECT DISTINCT ON (c.mapping, c.key) coalesce(f.group_name, c.mapping::text), c.key, coalesce(f.message, '')
        FROM zdm.row_changes AS c
        LEFT JOIN zdm.sync_failures AS f ON f.rollout = c.rollout
            AND c.key <@ (SELECT array_agg(v.value) FROM jsonb_each_text(f.key) AS v)
        WHERE c.rollout = %s AND c.side = %s AND c.failed LIMIT %s
        """,
        [rollout, side, limit],
    ).fetchall()
    return [WithoutForm(table, tuple(key), reason) for table, key, reason in rows]


def retry(conn: psycopg.Connection[Any], rollout: int) -> int:
    """Let what failed be tried again; returns how many entries. One write, in the caller's transaction."""
    return conn.execute(
        "UPDATE zdm.row_changes SET failed = false WHERE rollout = %s AND failed", [rollout]
    ).rowcount


def count_conflicts(conn: psycopg.Connection[Any], rollout: int) -> int:
    """How many writes lost."""
    row = conn.execute("SELECT count(*) FROM zdm.row_conflicts WHERE rollout = %s", [rollout]).fetchone()
    assert row is not None
    return int(row[0])


def conflicts(conn: psycopg.Connection[Any], rollout: int, *, limit: int = 100) -> list[Conflict]:
    """The latest writes that lost."""
    with conn.cursor(row_factory=class_row(Conflict)) as cursor:
        cursor.execute(
            """
            SELECT schema_name || '.' || table_name AS "table", key, won, lost, kept, reason, at
            FROM zdm.row_conflicts WHERE rollout = %s ORDER BY id DESC LIMIT %s
            """,
            [rollout, limit],
        )
        return cursor.fetchall()
