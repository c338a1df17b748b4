"""``zdm advance``"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from zdm.cli.command import DURATION, PHASES
from zdm.cli.command import command as declare
from zdm.cli.run import Run
from zdm.errors import BadInput, GateRefused

if TYPE_CHECKING:
    from zdm.engine.rollout import Engine
    from zdm.operations.migration import Migration


@declare(
    click.argument("migration", metavar="MIGRATION"),
    click.option(
        "--wait", type=DURATION, metavar="TIME", help="Wait so long for gates that refuse, e.g. 30m."
    ),
    click.option("--until", type=click.Choice(PHASES), help="Run every phase up to and including this one."),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Print the exact SQL, the locks and the estimated time; change nothing.",
    ),
    click.option("--restart", is_flag=True, help="Begin again after a rollback."),
    click.option("--workers", type=click.IntRange(1, 64), help="Parallel workers of a backfill."),
    click.option(
        "-y", "--yes", is_flag=True, help="Do not ask before cleanup, after which there is no way back."
    ),
    example="""
    zdm advance migrations/widen_balance.yaml            # runs the next phase
    zdm advance widen_balance --wait 30m --until switchover
    zdm advance widen_balance --dry-run
    """,
)
def advance(
    run: Run,
    migration: str,
    wait: timedelta | None,
    until: str | None,
    dry_run: bool,
    restart: bool,
    workers: int | None,
    yes: bool,
) -> None:
    """Run the next phase of a migration: preparation, migration, switchover, cleanup.

    MIGRATION is a file, or the id of a file in the migrations directory or of a rollout that has begun. An
    interrupted or failed phase is continued where it stopped. If a gate refuses, all gates are shown, nothing is
    changed, and the exit code is 3.
    """
    from zdm.cli.render.moves import advance_text, preview_text, verdict_table
    from zdm.model.step import Phase

    loaded = run.find(migration)
    engine = run.engine(workers=workers)
    with run.locating(loaded) as subject:
        if dry_run:
            steps = engine.preview(subject)
            name = subject if isinstance(subject, str) else subject.id
            values = {"rollout": name, "steps": [step.model_dump(mode="json") for step in steps]}
            run.answer(values, lambda: preview_text(name, steps))
            return
        _confirm(run, engine, subject, until, yes=yes)
        run.left = lambda: _left(run, migration)
        try:
            result = engine.advance(
                subject,
                until=Phase(until) if until else None,
                wait=wait,
                restart=restart,
                source="" if isinstance(loaded, str) else loaded.source.text,
                file="" if isinstance(loaded, str) else loaded.source.name,
            )
        except GateRefused as refused:
            verdicts = getattr(refused, "verdicts", ())
            run.partial = {"verdicts": [v.model_dump(mode="json") for v in verdicts]}
            raise
        finally:
            run.reporter.close()
    if result.outcome.value == "refused":
        run.partial = result.model_dump(mode="json")
        against = [v for v in result.verdicts if not v.lets_through]
        if run.quiet:
            run.say(verdict_table(against))
        run.say(advance_text(result))
        names = ", ".join(v.gate for v in against)
        raise GateRefused(
            f"{result.phase.value} was refused by {names}",
            remedy="Do what the gates say, or wait for them with --wait.",
        )
    run.answer(result.model_dump(mode="json"), lambda: advance_text(result))


def _confirm(run: Run, engine: Engine, subject: Migration | str, until: str | None, *, yes: bool) -> None:
    """Ask before cleanup, where a person is there to ask."""
    if yes or not run.interactive:
        return
    identifier = subject if isinstance(subject, str) else subject.id
    if until != "cleanup":
        try:
            found = engine.status(identifier)
        except BadInput:  # not registered yet, so far from cleanup
            return
        if not any(one.next_phase is not None and one.next_phase.value == "cleanup" for one in found):
            return
    run.confirm(
        f"Cleanup of {identifier} removes the old structure; there is no way back from it. Go on?", yes=yes
    )


def _left(run: Run, migration: str) -> str:
    told = run.reporter.left()
    return f"{told} See `zdm status {run.find_id(migration)}`." if told else ""


command = advance
