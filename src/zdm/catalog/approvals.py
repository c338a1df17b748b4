"""Who agreed to a phase of a rollout. Each person counts once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from zdm.model.step import Phase


@dataclass(frozen=True, slots=True)
class Approval:
    """One approval; `checksum` is the content that was agreed to, `role` the database role that wrote it."""

    phase: Phase
    approver: str
    checksum: str
    comment: str
    role: str
    at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "phase", Phase(self.phase))


def add(conn: psycopg.Connection[Any], rollout: int, phase: Phase, approver: str, comment: str = "") -> bool:
    """Record an approval of the rollout as it is planned now; False if this person had given it already. One write, in the caller's transaction."""
    cursor = conn.execute(
        """
        INSERT INTO zdm.approvals (rollout, phase, approver, checksum, comment)
        SELECT r.id, %s, %s, r.checksum, %s FROM zdm.module_migrations AS r WHERE r.id = %s
        ON CONFLICT DO NOTHING
        """,
        [phase.value, approver, comment, rollout],
    )
    return cursor.rowcount >= 1


def revoke(conn: psycopg.Connection[Any], rollout: int, phase: Phase, approver: str) -> bool:
    """Take an approval back; False if there was none. One write, in the caller's transaction."""
    cursor = conn.execute(
        "DELETE FROM zdm.approvals WHERE rollout = %s AND phase = %s AND approver = %s",
        [rollout, phase.value, approver],
    )
    return cursor.rowcount >= 1


def all_of(conn: psycopg.Connection[Any], rollout: int, phase: Phase | None = None) -> list[Approval]:
    """Approvals of a rollout, of one phase or all, oldest first."""
    with conn.cursor(row_factory=class_row(Approval)) as cursor:
        cursor.execute(
            """
            SELECT phase, approver, checksum, comment, role, at FROM zdm.approvals
            WHERE rollout = %(rollout)s AND (%(phase)s::text IS NULL OR phase = %(phase)s)
            ORDER BY id
            """,
            {"rollout": rollout, "phase": None if phase is None else phase.value},
        )
        return cursor.fetchall()
