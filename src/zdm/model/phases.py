"""The phase machine: pure. It reads phases/*.toml and decides; the database refuses the same moves by a trigger."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from zdm.errors import IllegalMove
from zdm.model.mapping import Authority
from zdm.model.step import Phase
from zdm.model.verdict import Verdict
from zdm.resources import phases as phase_files


class State(StrEnum):
    """Where a rollout stands. Every phase has a running, a done and a failed state."""

    PLANNED = "planned"
    PREPARING = "preparing"
    PREPARED = "prepared"
    PREPARATION_FAILED = "preparation_failed"
    MIGRATING = "migrating"
    MIGRATED = "migrated"
    MIGRATION_FAILED = "migration_failed"
    SWITCHING_OVER = "switching_over"
    SWITCHED_OVER = "switched_over"
    SWITCHOVER_FAILED = "switchover_failed"
    CLEANING_UP = "cleaning_up"
    CLEANUP_FAILED = "cleanup_failed"
    COMPLETED = "completed"
    ROLLING_BACK = "rolling_back"
    ROLLBACK_FAILED = "rollback_failed"
    ROLLED_BACK = "rolled_back"

    @property
    def words(self) -> str:
        """As people say it."""
        return self.replace("_", " ")


@dataclass(frozen=True, slots=True)
class PhaseDefinition:
    """One file of phases/: the states a phase moves through, its gates with their defaults, and whether it can be undone."""

    phase: Phase
    title: str
    description: str
    sources: frozenset[State]
    running: State
    done: State
    failed: State
    reversible: bool
    authority: Authority
    gates: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the machine says about a move: go, or the verdicts that stand against it."""

    definition: PhaseDefinition
    refused: tuple[Verdict, ...]

    @property
    def allowed(self) -> bool:
        """Whether every gate let the move through."""
        return not self.refused


@dataclass(frozen=True, slots=True)
class PhaseMachine:
    """The four definitions in order, and every question about states."""

    definitions: tuple[PhaseDefinition, ...]

    def definition(self, phase: Phase) -> PhaseDefinition:
        """The definition of `phase`."""
        return next(d for d in self.definitions if d.phase is phase)

    def next(self, state: State) -> PhaseDefinition:
        """The phase that `advance` runs from `state`: the one that was interrupted or failed, or the one after a done one.

        Raises
        ------
        IllegalMove: nothing follows `state` (completed, rolled back, or on the way back).
        """
        for definition in self.definitions:
            if state in definition.sources or state in (definition.running, definition.failed):
                return definition
        reasons = {
            State.COMPLETED: (
                "the rollout is complete; there is no phase after cleanup",
                "Nothing is left to do.",
            ),
            State.ROLLED_BACK: (
                "the rollout was rolled back",
                "Start it again with `zdm advance --restart`, or register a new migration.",
            ),
        }
        found, remedy = reasons.get(
            state,
            ("a rollback is under way", "Finish it with `zdm rollback`; it continues where it stopped."),
        )
        raise IllegalMove(f"Cannot advance: {found}.", remedy=remedy)

    def follows(self, state: State) -> bool:
        """Whether `advance` has anything to do from `state`."""
        return any(state in d.sources or state in (d.running, d.failed) for d in self.definitions)

    def is_past(self, state: State, phase: Phase) -> bool:
        """Whether `phase` is done in `state`."""
        reached = self.phase_of(state)
        if reached is None:
            return False
        return reached.number > phase.number or state is self.definition(phase).done

    def resumes(self, state: State) -> bool:
        """Whether `advance` from `state` continues an interrupted or failed phase (its gates have been passed already)."""
        return any(state in (d.running, d.failed) for d in self.definitions)

    def can_roll_back(self, state: State) -> bool:
        """Whether `rollback` is allowed from `state`: everywhere but after the point of no return and at both ends."""
        if state in (State.PLANNED, State.ROLLED_BACK, State.COMPLETED):
            return False
        return not any(not d.reversible and state in (d.running, d.failed, d.done) for d in self.definitions)

    def phase_of(self, state: State) -> Phase | None:
        """The phase a state belongs to; None before the first and on the way back."""
        for definition in self.definitions:
            if state in (definition.running, definition.done, definition.failed):
                return definition.phase
        return None

    def decide(self, state: State, verdicts: Iterable[Verdict]) -> Decision:
        """`(state, verdicts) -> decision`: the phase that would run, and the verdicts that forbid it."""
        return Decision(self.next(state), tuple(v for v in verdicts if not v.lets_through))

    def moves(self) -> Sequence[tuple[State, State]]:
        """Every legal move, for the database's own check and for the diagram in the docs."""
        found: list[tuple[State, State]] = []
        for d in self.definitions:
            found += [(source, d.running) for source in sorted(d.sources)]
            found += [(d.running, d.done), (d.running, d.failed), (d.failed, d.running)]
        back = (State.ROLLING_BACK, State.ROLLED_BACK, State.ROLLBACK_FAILED)
        found += [(state, back[0]) for state in State if self.can_roll_back(state) and state not in back]
        found += [(back[0], back[1]), (back[0], back[2]), (back[2], back[0])]
        found += [(State.ROLLED_BACK, State.PLANNED)]
        return tuple(found)


def parse_definition(text: str) -> PhaseDefinition:
    """Read one phases/*.toml. Raises `ValueError` or `KeyError` on a malformed file (a defect of the installation)."""
    raw = tomllib.loads(text)
    return PhaseDefinition(
        phase=Phase(raw["phase"]),
        title=raw["title"],
        description=raw["description"],
        sources=frozenset(State(s) for s in raw["from"]),
        running=State(raw["running"]),
        done=State(raw["done"]),
        failed=State(raw["failed"]),
        reversible=raw["reversible"],
        authority=Authority(raw["authority"]),
        gates=raw.get("gates", {}),
    )


@cache
def machine() -> PhaseMachine:
    """The machine of the installed phases/*.toml, in the order of their file names."""
    files = sorted(phase_files().glob("*.toml"))
    return PhaseMachine(tuple(parse_definition(f.read_text(encoding="utf-8")) for f in files))
