"""How far each step of a rollout got.

The executor commits `mark_started` before it begins; a transactional step's `mark_finished` goes into the step's own
transaction, so a lost connection at COMMIT is settled by reading the mark. Other steps are probed (`done_when`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row, tuple_row

from zdm.errors import Drift
from zdm.model.step import Phase


class StepStatus(StrEnum):
    """How far a step got."""

    PENDING = "pending"
    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step's record. What the step does is in the rollout's plan, under the same id."""

    step: str
    position: int
    phase: Phase
    title: str
    status: StepStatus
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "phase", Phase(self.phase))
        object.__setattr__(self, "status", StepStatus(self.status))


def all_of(conn: psycopg.Connection[Any], rollout: int, phase: Phase | None = None) -> list[StepRecord]:
    """The steps in their order, of one phase or all."""
    with conn.cursor(row_factory=class_row(StepRecord)) as cursor:
        cursor.execute(
            """
            SELECT step, position, phase, title, status, attempts, started_at, finished_at, error
            FROM zdm.migration_steps
            WHERE rollout = %(rollout)s AND (%(phase)s::text IS NULL OR phase = %(phase)s)
            ORDER BY position
            """,
            {"rollout": rollout, "phase": None if phase is None else phase.value},
        )
        return cursor.fetchall()


def status(conn: psycopg.Connection[Any], rollout: int, step: str) -> StepStatus:
    """How far one step got. Raises `Drift` if the catalog has no such step."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT status FROM zdm.migration_steps WHERE rollout = %s AND step = %s", [rollout, step]
        )
        row = cursor.fetchone()
    if row is None:
        raise Drift(
            f"The catalog has no step {step} of rollout {rollout}.",
            remedy="Somebody has changed the catalog by hand. `zdm history` shows what happened.",
        )
    return StepStatus(row[0])


def mark_started(conn: psycopg.Connection[Any], rollout: int, step: str) -> int:
    """Begin an attempt, from any status but finished; returns its number. The caller commits it *before* the step begins."""
    return _mark(
        conn,
        rollout,
        step,
        "started",
        """
        UPDATE zdm.migration_steps
        SET status = 'started', attempts = attempts + 1, started_at = clock_timestamp(), finished_at = NULL, error = NULL
        WHERE rollout = %s AND step = %s AND status <> 'finished'
        RETURNING attempts
        """,
    )


def mark_finished(conn: psycopg.Connection[Any], rollout: int, step: str) -> None:
    """The started step is done. One write, inside the transaction that did the work (or after a probe said it is done)."""
    _mark(
        conn,
        rollout,
        step,
        "finished",
        """
        UPDATE zdm.migration_steps SET status = 'finished', finished_at = clock_timestamp(), error = NULL
        WHERE rollout = %s AND step = %s AND status IN ('started', 'failed')
        RETURNING attempts
        """,
    )


def mark_failed(conn: psycopg.Connection[Any], rollout: int, step: str, error: str) -> None:
    """The started step reported an error. One write, in a transaction after the one that failed."""
    _mark(
        conn,
        rollout,
        step,
        "failed",
        """
        UPDATE zdm.migration_steps SET status = 'failed', error = %s
        WHERE rollout = %s AND step = %s AND status IN ('started', 'failed')
        RETURNING attempts
        """,
        error,
    )


def mark_undone(conn: psycopg.Connection[Any], rollout: int, step: str) -> None:
    """The step was taken back. One write, inside the transaction of the undo's last action."""
    _mark(
        conn,
        rollout,
        step,
        "undone",
        """
        UPDATE zdm.migration_steps SET status = 'undone', finished_at = NULL, error = NULL
        WHERE rollout = %s AND step = %s AND status <> 'pending'
        RETURNING attempts
        """,
    )


def _mark(
    conn: psycopg.Connection[Any],
    rollout: int,
    step: str,
    status: str,
    statement: LiteralString,
    *before: object,
) -> int:
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(statement, [*before, rollout, step])
        row = cursor.fetchone()
        if row is not None:
            return int(row[0])
        cursor.execute(
            "SELECT status FROM zdm.migration_steps WHERE rollout = %s AND step = %s", [rollout, step]
        )
        found = cursor.fetchone()
    raise Drift(
        f"Step {step} of rollout {rollout} cannot be marked {status}: "
        + (f"it is {found[0]}." if found else "the catalog has no such step."),
        remedy="Another zdm, or somebody by hand, has changed the catalog. `zdm history` shows what happened.",
    )
