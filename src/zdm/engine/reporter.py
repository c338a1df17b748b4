"""How the engine tells a person what it is doing. It never prints: the command line and the tests each bring a reporter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from zdm.engine.results import StepRun
from zdm.model.step import Phase, Step
from zdm.model.verdict import Verdict


class Reporter(Protocol):
    """Called from the engine's own thread, in the order things happen. A reporter must not raise and must not block."""

    def gates(self, phase: Phase, verdicts: Sequence[Verdict]) -> None:
        """All gates of the move into `phase` were evaluated; not called when an interrupted phase is continued."""

    def phase_started(self, phase: Phase, total: int, *, resumed: bool = False) -> None:
        """The phase begins (or goes on), with `total` steps in all."""

    def step_started(self, step: Step, number: int, total: int) -> None:
        """Step `number` of `total` (from 1) begins."""

    def step_finished(self, step: Step, number: int, total: int, run: StepRun) -> None:
        """It ended: done, skipped, failed or undone, as `run` tells."""

    def waiting(self, text: str) -> None:
        """Nothing moves at present, and why: a gate, a lock, a throttle. Called again when the reason changes or every few seconds."""

    def progress(
        self, done: float, total: float | None, rate: float | None, eta: float | None, unit: str
    ) -> None:
        """How far the running step is: `done` of `total` `unit`s, `rate` a second, `eta` seconds; None where unknown."""

    def note(self, text: str) -> None:
        """Something worth a line of its own."""


class Silent:
    """A reporter that says nothing: the default where zdm is used as a library."""

    def gates(self, phase: Phase, verdicts: Sequence[Verdict]) -> None:
        del phase, verdicts

    def phase_started(self, phase: Phase, total: int, *, resumed: bool = False) -> None:
        del phase, total, resumed

    def step_started(self, step: Step, number: int, total: int) -> None:
        del step, number, total

    def step_finished(self, step: Step, number: int, total: int, run: StepRun) -> None:
        del step, number, total, run

    def waiting(self, text: str) -> None:
        del text

    def progress(
        self, done: float, total: float | None, rate: float | None, eta: float | None, unit: str
    ) -> None:
        del done, total, rate, eta, unit

    def note(self, text: str) -> None:
        del text
