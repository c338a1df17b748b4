"""``zdm approve``"""

from __future__ import annotations

import getpass

import click

from zdm.cli.command import PHASES
from zdm.cli.command import command as declare
from zdm.cli.run import Run
from zdm.errors import BadInput


@declare(
    click.argument("migration", metavar="MIGRATION"),
    click.argument("phase", type=click.Choice(PHASES)),
    click.option("--by", metavar="NAME", help="Who says yes. Default: the name you are logged in with."),
    click.option("--comment", metavar="TEXT", default="", help="Why, for the history."),
    example="""
    zdm approve widen_balance switchover --by ada --comment "checked the dashboards"
    """,
)
def approve(run: Run, migration: str, phase: str, by: str | None, comment: str) -> None:
    """Say yes to one phase of a rollout. The gate "approvals" counts them by the migration's risk."""
    from zdm.cli.render.text import when
    from zdm.model.step import Phase

    identifier = run.find_id(migration)
    result = run.engine().approve(identifier, Phase(phase), by or _who(), comment)
    run.answer(
        result.model_dump(mode="json"),
        lambda: f"{result.by} approved {result.phase.value} of {result.rollout}, {when(result.at)}.",
    )


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise BadInput("who approves is not known", remedy="Say it with --by NAME.") from None


command = approve
