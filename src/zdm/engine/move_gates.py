"""Asks the gates of a move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from zdm.db.session import fetch_value
from zdm.engine.work import Work
from zdm.errors import Drift, Problem
from zdm.gates.context import GateContext
from zdm.gates.facts import CatalogFacts, read_rollout
from zdm.gates.registry import evaluate_all
from zdm.model.phases import PhaseDefinition
from zdm.model.verdict import Answer, Verdict


def evaluate_gates(work: Work, definition: PhaseDefinition, *, only: Sequence[str] = ()) -> list[Verdict]:
    """Ask every gate of the move into a phase, or only those named. Nothing is stored."""
    if only:
        definition = replace(definition, gates={name: definition.gates[name] for name in only})
    now: datetime = fetch_value(work.session, "SELECT pg_catalog.clock_timestamp()")
    facts = read_rollout(work.session, work.rollout.id)
    context = GateContext(
        conn=work.session,
        phase=definition.phase,
        rollout=facts,
        plan=work.plan,
        migration=work.migration,
        facts=CatalogFacts(work.session, facts),
        now=now,
        authority=work.rollout.authority,
        replicas=work.settings.replicas,
    )
    return evaluate_all(context, definition)


def refuse_drift(verdicts: Sequence[Verdict]) -> None:
    """Raise `Drift` if the drift gate is among the verdicts and found something."""
    for verdict in verdicts:
        if verdict.gate == "drift" and verdict.answer is Answer.REFUSED:
            raise Drift(
                "The database is not what zdm left behind.",
                problems=[Problem(verdict.observed)],
                remedy=verdict.remedy,
                changed="Nothing was changed.",
            )
