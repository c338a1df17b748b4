"""What is said while the engine works, on a terminal and anywhere else."""

from __future__ import annotations

import io

import click
import pytest

from tests.unit.cli.fake import plan
from zdm.cli.progress import PLAIN_INTERVAL, ConsoleReporter, bar, progress_text
from zdm.engine.reporter import Reporter
from zdm.engine.results import StepOutcome, StepRun
from zdm.model.step import Phase

FIRST, SECOND, *_ = plan().steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ended(outcome: StepOutcome, **values: object) -> StepRun:
    return StepRun.model_validate(
        {
            "id": FIRST.id,
            "title": FIRST.title,
            "phase": FIRST.phase,
            "outcome": outcome,
            "seconds": 0.03,
            **values,
        }
    )


def test_plain_lines() -> None:
    stream, clock = io.StringIO(), Clock()
    reporter: Reporter = ConsoleReporter(stream, clock=clock)
    reporter.phase_started(Phase.PREPARATION, 3)
    reporter.step_started(FIRST, 1, 3)
    reporter.step_finished(FIRST, 1, 3, ended(StepOutcome.DONE, attempts=3))
    reporter.step_started(FIRST, 2, 3)
    reporter.step_finished(FIRST, 2, 3, ended(StepOutcome.SKIPPED))
    reporter.step_started(SECOND, 3, 3)
    for _ in range(25):
        clock.now += 1
        reporter.progress(clock.now * 10, 10_000, 1234.5, 12.5, "rows")
    reporter.waiting("the lock on public.accounts is held by process 7")
    reporter.waiting("the lock on public.accounts is held by process 7")
    clock.now += PLAIN_INTERVAL
    reporter.waiting("the lock on public.accounts is held by process 7")
    reporter.step_finished(SECOND, 3, 3, ended(StepOutcome.FAILED, error="deadlock detected"))
    assert click.unstyle(stream.getvalue()) == (
        "Phase 1 of 4, preparation, begins: 3 steps\n"
        "[1/3] add the new columns beside the old ones: done in 30 ms, 3 attempts to get the lock\n"
        "[3/3] keep both sides of accounts in step …\n"
        "      11 %, 1,100 of 10,000 rows, 1,234 rows/s, 12 s left\n"
        "      12 %, 1,200 of 10,000 rows, 1,234 rows/s, 12 s left\n"
        "      waiting: the lock on public.accounts is held by process 7\n"
        "      waiting: the lock on public.accounts is held by process 7\n"
        "[3/3] keep both sides of accounts in step: FAILED in 30 ms\n"
        "      deadlock detected\n"
    )


def test_a_terminal_redraws_its_last_line() -> None:
    stream, clock = Terminal(), Clock()
    reporter = ConsoleReporter(stream, clock=clock)
    reporter.step_started(FIRST, 1, 1)
    clock.now += 1
    reporter.progress(5, 10, None, None, "blocks")
    reporter.step_finished(FIRST, 1, 1, ended(StepOutcome.DONE, rows=7))
    text = click.unstyle(stream.getvalue())
    assert text.endswith("[1/1] add the new columns beside the old ones: done in 30 ms, 7 rows\n")
    assert text.count("\n") == 1
    assert "50 %, 5 of 10 blocks" in text
    assert "[####" in text


def test_quiet_says_nothing() -> None:
    stream = Terminal()
    reporter = ConsoleReporter(stream, quiet=True)
    reporter.phase_started(Phase.PREPARATION, 1)
    reporter.step_started(FIRST, 1, 1)
    reporter.progress(5, 10, None, None, "blocks")
    reporter.note("a note")
    reporter.close()
    assert stream.getvalue() == ""


def test_what_an_interruption_leaves() -> None:
    reporter = ConsoleReporter(io.StringIO(), quiet=True)
    assert reporter.left() == ""
    reporter.step_started(FIRST, 1, 3)
    assert reporter.left() == (
        "Stopped in step 1 of 3, add the new columns beside the old ones; no step of this run was finished."
    )
    reporter.step_finished(FIRST, 1, 3, ended(StepOutcome.DONE))
    assert reporter.left() == "1 step of this run finished and stays."
    reporter.step_started(SECOND, 2, 3)
    assert reporter.left() == (
        "Stopped in step 2 of 3, keep both sides of accounts in step; 1 step of this run finished and stays."
    )


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((5, 10, 2.0, 2.5, "rows"), "50 %, 5 of 10 rows, 2 rows/s, 2.5 s left"),
        ((5, None, None, None, "rows"), "5 rows"),
        # An estimate that was too low never says that it is done.
        ((12, 10, None, None, "blocks"), "99 %, 12 of 12 blocks"),
        ((0, 0, None, None, "rows"), "0 rows"),
    ],
)
def test_progress_in_words(
    arguments: tuple[float, float | None, float | None, float | None, str], expected: str
) -> None:
    assert progress_text(*arguments) == expected


def test_a_bar_needs_room_and_a_total() -> None:
    assert bar(5, 10, 10) == "[#####-----] "
    assert bar(50, 10, 10) == "[##########] "
    assert bar(5, None, 10) == ""
    assert bar(5, 10, 3) == ""


def test_a_long_reason_to_wait_is_cut_unless_more_is_wanted() -> None:
    for verbose in (False, True):
        stream = io.StringIO()
        ConsoleReporter(stream, verbose=verbose).waiting("waiting (lock): " + "process 7, " * 100)
        assert stream.getvalue().count("waiting") == 1
        assert (len(stream.getvalue()) > 1000) is verbose
