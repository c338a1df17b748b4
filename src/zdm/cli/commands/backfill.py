"""``zdm backfill``"""

from __future__ import annotations

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run


@declare(
    click.argument("migration", metavar="MIGRATION"),
    click.option(
        "--workers", type=click.IntRange(1, 64), help="Parallel workers, each on a part of its own."
    ),
    example="""
    zdm backfill widen_balance --workers 2
    """,
)
def backfill(run: Run, migration: str, workers: int | None) -> None:
    """Fill every row that is not filled yet, while applications go on. `zdm advance` does this in the migration phase.

    It gives way to the applications: replication lag, locks and load slow it down. It continues where it stopped.
    """
    from zdm.cli.render.moves import backfill_text

    identifier = run.find_id(migration)
    run.left = lambda: "Every chunk that was committed stays, with its place; the same command continues."
    try:
        result = run.engine(workers=workers).backfill(identifier, workers=workers)
    finally:
        run.reporter.close()
    run.answer(result.model_dump(mode="json"), lambda: backfill_text(result))


command = backfill
