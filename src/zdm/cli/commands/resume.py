"""``zdm resume``"""

from __future__ import annotations

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run


@declare(
    click.argument("migration", metavar="MIGRATION"),
    example="""
    zdm resume widen_balance
    """,
)
def resume(run: Run, migration: str) -> None:
    """Let a paused rollout go on.

    It does not start anything by itself: `zdm advance` or `zdm backfill` does.
    """
    result = run.engine().resume(run.find_id(migration))
    run.answer(
        result.model_dump(mode="json"),
        lambda: (
            f"{result.rollout} {'may go on' if result.changed else 'was not paused'}. Continue with `zdm advance {result.rollout}`."
        ),
    )


command = resume
