"""The history: every change of state lands there by trigger; what else matters is recorded here. It is append-only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Parameters
    ----------
    kind: rollout, step, backfill, verification, gate, approval, migration, lease …, or an explicit kind.
    subject: which one: the step's id, the table's name, the gate.
    from_state / to_state: for changes of state.
    actor / application: the database role and the application_name of the session that did it.
    """

    id: int
    at: datetime
    kind: str
    rollout: int | None
    migration: str | None
    subject: str
    from_state: str | None
    to_state: str | None
    detail: Mapping[str, Any]
    actor: str
    application: str


def record(
    conn: psycopg.Connection[Any],
    kind: str,
    *,
    rollout: int | None = None,
    migration: str | None = None,
    subject: str = "",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Record what no trigger sees (a lock retried, a gate waited for). One write, in the caller's transaction."""
    conn.execute(
        "INSERT INTO zdm.events (kind, rollout, migration, subject, detail) VALUES (%s, %s, %s, %s, %s)",
        [kind, rollout, migration, subject, Jsonb(dict(detail or {}))],
    )


def all_of(
    conn: psycopg.Connection[Any],
    *,
    rollout: int | None = None,
    migration: str | None = None,
    kind: str | None = None,
    after: int = 0,
    limit: int | None = None,
) -> list[Event]:
    """Events in their order.

    Parameters
    ----------
    after: only those with a greater id, to follow along.
    limit: only the latest so many of them.
    """
    with conn.cursor(row_factory=class_row(Event)) as cursor:
        cursor.execute(
            """
            SELECT * FROM (
                SELECT id, at, kind, rollout, migration, subject, from_state, to_state, detail, actor, application
                FROM zdm.events
                WHERE id > %(after)s
                  AND (%(rollout)s::bigint IS NULL OR rollout = %(rollout)s)
                  AND (%(migration)s::text IS NULL OR migration = %(migration)s)
                  AND (%(kind)s::text IS NULL OR kind = %(kind)s)
                ORDER BY id DESC LIMIT %(limit)s
            ) AS latest
            ORDER BY id
            """,
            {"after": after, "rollout": rollout, "migration": migration, "kind": kind, "limit": limit},
        )
        return cursor.fetchall()
