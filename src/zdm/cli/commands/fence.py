"""``zdm fence``"""

from __future__ import annotations

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run


@declare(
    click.argument("migration", metavar="MIGRATION"),
    click.option("--lift", is_flag=True, help="Open it again."),
    example="""
    zdm fence widen_balance          # before cleanup: does anybody still need the old version?
    zdm fence widen_balance --lift
    """,
)
def fence(run: Run, migration: str, lift: bool) -> None:
    """Close the old version to applications, before cleanup removes it: who still uses it gets an error, and can be let in again."""
    from zdm.cli.render.text import careful, good

    result = run.engine().fence(run.find_id(migration), lift=lift)

    def text() -> str:
        if result.fenced:
            word = "is closed" if result.changed else "was closed already"
            return (
                careful(f"The old version of {result.rollout} {word}.")
                + f" Open it with `zdm fence {result.rollout} --lift`."
            )
        word = "is open again" if result.changed else "was open already"
        return good(f"The old version of {result.rollout} {word}.")

    run.answer(result.model_dump(mode="json"), text)


command = fence
