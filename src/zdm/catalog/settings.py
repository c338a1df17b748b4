"""Settings that every zdm process on this database shares."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb


def get(conn: psycopg.Connection[Any], name: str, default: Any = None) -> Any:
    """The setting's value, or `default`."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT value FROM zdm.settings WHERE name = %s", [name])
        row = cursor.fetchone()
    return default if row is None else row[0]


def put(conn: psycopg.Connection[Any], name: str, value: Any) -> None:
    """Set a value that JSON can hold. One write, in the caller's transaction. Never a secret: the history keeps it."""
    conn.execute(
        """
        INSERT INTO zdm.settings (name, value) VALUES (%s, %s)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value, set_at = clock_timestamp(), set_by = session_user
        """,
        [name, Jsonb(value)],
    )
