"""``zdm history``"""

from __future__ import annotations

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run


@declare(
    click.argument("migration", metavar="MIGRATION"),
    example="""
    zdm history widen_balance
    """,
)
def history(run: Run, migration: str) -> None:
    """Show everything that happened to a rollout, oldest first: moves, steps, refusals, approvals, by whom.

    Who held the rollout when is shown with -v only.
    """
    from zdm.cli.render.status import history_text

    identifier = run.find_id(migration)
    entries = run.engine().history(identifier)
    values = {"rollout": identifier, "events": [entry.model_dump(mode="json") for entry in entries]}
    shown = entries if run.verbose else [entry for entry in entries if entry.event != "lease"]
    run.answer(values, lambda: history_text(identifier, shown))


command = history
