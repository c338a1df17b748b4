"""Verdicts of the gates, kept for every time they were asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row, tuple_row

from zdm.model.step import Phase
from zdm.model.verdict import Answer, Verdict


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All gates of one move, asked at one time."""

    number: int
    phase: Phase
    at: datetime
    verdicts: tuple[Verdict, ...]


def store(conn: psycopg.Connection[Any], rollout: int, phase: Phase, verdicts: Iterable[Verdict]) -> int:
    """Keep the verdicts of one evaluation; returns its number. Atomic, inside the caller's transaction or in its own."""
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT nextval('zdm.gate_evaluation')")
        row = cursor.fetchone()
        assert row is not None
        cursor.executemany(
            """
            INSERT INTO zdm.gate_verdicts (evaluation, rollout, phase, gate, answer, observed, threshold, remedy)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (row[0], rollout, phase.value, v.gate, v.answer.value, v.observed, v.threshold, v.remedy)
                for v in verdicts
            ],
        )
        return int(row[0])


def latest(conn: psycopg.Connection[Any], rollout: int) -> Evaluation | None:
    """The latest evaluation of a rollout, verdicts in the order they were given; None if the gates were never asked."""
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            SELECT evaluation, phase, gate, answer, observed, threshold, remedy, at FROM zdm.gate_verdicts
            WHERE evaluation = (SELECT max(evaluation) FROM zdm.gate_verdicts WHERE rollout = %s)
            ORDER BY at
            """,
            [rollout],
        )
        rows = cursor.fetchall()
    if not rows:
        return None
    verdicts = tuple(
        Verdict(
            gate=r["gate"],
            answer=Answer(r["answer"]),
            observed=r["observed"],
            threshold=r["threshold"],
            remedy=r["remedy"],
        )
        for r in rows
    )
    return Evaluation(rows[0]["evaluation"], Phase(rows[0]["phase"]), rows[0]["at"], verdicts)
