"""The engine's reporter for people: steps as they go, a bar on a terminal, plain and rarer lines anywhere else."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

import click

from zdm.cli.render.moves import verdict_table
from zdm.cli.render.text import bad, faint, good, heading, number, plural, seconds

if TYPE_CHECKING:
    from zdm.engine.results import StepRun
    from zdm.model.step import Phase, Step
    from zdm.model.verdict import Verdict

PLAIN_INTERVAL = 10.0
"""Seconds between two plain lines about the same thing: a log of an hour stays readable."""
TERMINAL_INTERVAL = 0.1
LONGEST = 240
"""Characters of a reason to wait: a dozen lock holders would fill the screen. With -v all of them are told."""


class ConsoleReporter:
    """Writes to one stream. On a terminal the last line is redrawn; elsewhere nothing is ever taken back.

    Parameters
    ----------
    quiet: say nothing at all.
    verbose: also say what was skipped.
    clean: applied to every text, to keep passwords out.
    clock: monotonic seconds; a test brings its own.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        quiet: bool = False,
        verbose: bool = False,
        clean: Callable[[str], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._quiet = quiet
        self._verbose = verbose
        self._clean = clean
        self._clock = clock
        self._terminal = stream.isatty()
        self._drawn = False
        self._said = 0.0
        self._waiting = ""
        self._announced = False
        self._current: tuple[str, int, int] | None = None
        self.finished = 0
        """Steps that ended well in this run."""

    # ------------------------------------------------------------------------------------------- the protocol

    def gates(self, phase: Phase, verdicts: Sequence[Verdict]) -> None:
        """The gates' table, before the phase begins (or does not)."""
        self._line(heading(f"Gates of {phase.value}"))
        self._line(verdict_table(verdicts) or "  none")

    def phase_started(self, phase: Phase, total: int, *, resumed: bool = False) -> None:
        """A heading with the number of steps."""
        verb = "continues" if resumed else "begins"
        self._line(heading(f"Phase {phase.number} of 4, {phase.value}, {verb}: {plural(total, 'step')}"))

    def step_started(self, step: Step, number: int, total: int) -> None:
        """On a terminal the step is shown at once; elsewhere when it ends, or when it turns out to take its time."""
        self._current = (step.title, number, total)
        self._waiting, self._announced, self._said = "", False, self._clock()
        if self._terminal:
            self._draw(f"{self._position()} {step.title} …")

    def step_finished(self, step: Step, number: int, total: int, run: StepRun) -> None:
        """One line that stays."""
        self._current = (step.title, number, total)
        outcome = run.outcome.value
        if outcome == "skipped":
            if self._verbose or self._terminal:
                self._line(f"{self._position()} {step.title}: {faint('done before')}")
            self._current = None
            return
        facts = [seconds(run.seconds)]
        if run.rows is not None:
            facts.append(plural(run.rows, "row"))
        if run.attempts > 1:
            facts.append(f"{run.attempts} attempts to get the lock")
        word = bad("FAILED") if outcome == "failed" else good(outcome)
        text = f"{self._position()} {step.title}: {word} in {', '.join(facts)}"
        self._line(f"{text}\n      {run.error}" if run.error else text)
        self.finished += outcome in ("done", "undone")
        if outcome != "failed":
            self._current = None

    def waiting(self, text: str) -> None:
        """Said when the reason changes, and now and then while it does not."""
        if text == self._waiting and not self._due():
            return
        self._waiting, self._said = text, self._clock()
        shown = text if text.startswith("waiting") else f"waiting: {text}"
        if len(shown) > LONGEST and not self._verbose:
            shown = f"{shown[: LONGEST - 1]}…"
        if self._terminal:
            self._draw(f"{self._position()} {shown}".lstrip())
        else:
            self._announce()
            self._line(f"      {shown}" if self._current else shown)

    def progress(
        self, done: float, total: float | None, rate: float | None, eta: float | None, unit: str
    ) -> None:
        """A bar on a terminal, a line every few seconds elsewhere."""
        if not self._due():
            return
        self._said, self._waiting = self._clock(), ""
        text = progress_text(done, total, rate, eta, unit)
        if self._terminal:
            room = shutil.get_terminal_size().columns - len(text) - len(self._position()) - 5
            self._draw(f"{self._position()} {bar(done, total, min(room, 40))}{text}")
        else:
            self._announce()
            self._line(f"      {text}")

    def note(self, text: str) -> None:
        """A line of its own."""
        self._line(text)

    # ------------------------------------------------------------------------------------------- for an interruption

    def left(self) -> str:
        """What an interruption now leaves behind, in words; empty if no step has begun."""
        if self._current is None and not self.finished:
            return ""
        done = f"{plural(self.finished, 'step')} of this run finished and stay" if self.finished else ""
        if self.finished == 1:
            done = "1 step of this run finished and stays"
        if self._current is None:
            return f"{done}."
        title, position, total = self._current
        stopped = f"Stopped in step {position} of {total}, {title}"
        return f"{stopped}; {done}." if done else f"{stopped}; no step of this run was finished."

    def close(self) -> None:
        """Leave the terminal with the cursor on a line of its own."""
        self._erase()

    # ------------------------------------------------------------------------------------------- drawing

    def _position(self) -> str:
        if self._current is None:
            return ""
        _, position, total = self._current
        width = len(str(total))
        return f"[{position:>{width}}/{total}]"

    def _due(self) -> bool:
        interval = TERMINAL_INTERVAL if self._terminal else PLAIN_INTERVAL
        return self._clock() - self._said >= interval

    def _announce(self) -> None:
        if self._current is not None and not self._announced:
            self._announced = True
            self._line(f"{self._position()} {self._current[0]} …")

    def _line(self, text: str) -> None:
        if self._quiet:
            return
        self._erase()
        click.echo(self._clean(text), file=self._stream)

    def _draw(self, text: str) -> None:
        if self._quiet:
            return
        self._erase()
        width = shutil.get_terminal_size().columns - 1
        click.echo(self._clean(text)[:width], file=self._stream, nl=False)
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            click.echo("\r\x1b[2K", file=self._stream, nl=False)
            self._drawn = False


def progress_text(done: float, total: float | None, rate: float | None, eta: float | None, unit: str) -> str:
    """``42 %, 420,000 of 1,000,000 rows, 51,000 rows/s, 11 s left``; what is unknown is left out."""
    parts: list[str] = []
    if total:
        # An estimate may be too low; a hundred per cent is said only by the step's own end.
        parts.append(f"{min(99, int(done / total * 100))} %")
        parts.append(f"{number(done)} of {number(max(total, done))} {unit}")
    else:
        parts.append(f"{number(done)} {unit}")
    if rate is not None:
        parts.append(f"{number(rate)} {unit}/s")
    if eta is not None:
        parts.append(f"{seconds(eta)} left")
    return ", ".join(parts)


def bar(done: float, total: float | None, width: int) -> str:
    """``[####----] `` of `width` signs; empty if there is no room, or nothing to measure against."""
    if not total or width < 8:
        return ""
    filled = min(width, int(done / total * width))
    return f"[{'#' * filled}{'-' * (width - filled)}] "
