"""``zdm rollback``"""

from __future__ import annotations

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run


@declare(
    click.argument("migration", metavar="MIGRATION"),
    click.option("--no-verify", is_flag=True, help="Do not compare both sides first."),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Print the exact SQL and the locks of the way back; change nothing.",
    ),
    click.option("-y", "--yes", is_flag=True, help="Do not ask."),
    example="""
    zdm rollback widen_balance
    zdm rollback widen_balance --dry-run
    """,
)
def rollback(run: Run, migration: str, no_verify: bool, dry_run: bool, yes: bool) -> None:
    """Go back to before the rollout, from any phase before cleanup. No row is lost, also none that the new version wrote.

    Both sides of every row are compared first, because what the new version wrote has to have reached the old
    structure; a difference refuses. An interrupted rollback is continued by the same command.
    """
    from zdm.cli.render.moves import rollback_text, undo_text
    from zdm.model.names import sql_name

    identifier = run.find_id(migration)
    if dry_run:
        steps = run.engine().preview_rollback(identifier)
        values = {"rollout": identifier, "steps": [step.model_dump(mode="json") for step in steps]}
        run.answer(values, lambda: undo_text(identifier, steps))
        return
    run.confirm(
        f"Roll back {identifier} on {sql_name(run.schema)}? The new version's applications must be out of service.",
        yes=yes,
    )
    run.left = run.reporter.left
    try:
        result = run.engine().rollback(identifier, verify=not no_verify)
    finally:
        run.reporter.close()
    run.answer(result.model_dump(mode="json"), lambda: rollback_text(result))


command = rollback
