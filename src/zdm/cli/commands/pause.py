"""``zdm pause``"""

from __future__ import annotations

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run


@declare(
    click.argument("migration", metavar="MIGRATION"),
    example="""
    zdm pause widen_balance
    """,
)
def pause(run: Run, migration: str) -> None:
    """Hold a rollout: a running backfill stops after its present chunk, and no further phase begins.

    The sync triggers stay: applications of both versions go on as before.
    """
    result = run.engine().pause(run.find_id(migration))
    run.answer(
        result.model_dump(mode="json"),
        lambda: (
            f"{result.rollout} {'is paused' if result.changed else 'was paused already'}. Go on with `zdm resume {result.rollout}`."
        ),
    )


command = pause
