"""``zdm plan``"""

from __future__ import annotations

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run


@declare(
    click.argument("migration", metavar="MIGRATION"),
    click.option("--sql", is_flag=True, help="Show the SQL of each step."),
    click.option("--markdown", is_flag=True, help="Write Markdown, for a pull request."),
    example="""
    zdm plan migrations/widen_balance.yaml --sql
    zdm plan widen_balance --markdown > review.md
    """,
)
def plan(run: Run, migration: str, sql: bool, markdown: bool) -> None:
    """Show what a migration would do, as a document for review.

    MIGRATION is a file, or the id of a file in the migrations directory. The document tells what changes; for each
    phase its steps with the locks they take and how long, its gates, the way back, and what applications may or must
    do; and whether the mapping loses anything, measured on the rows as they are. Nothing is changed.
    """
    from zdm.cli.gates import gate_words
    from zdm.cli.migrations import find_file
    from zdm.cli.render.document import as_markdown, as_text
    from zdm.cli.render.plan import plan_document
    from zdm.model.phases import machine

    loaded = find_file(migration, run.config.migrations)
    with run.locating(loaded):
        made = run.engine().plan(loaded.migration)
    gates = gate_words(loaded.migration, machine())

    def text() -> str:
        blocks = plan_document(loaded, made, machine(), gates, with_sql=sql)
        return as_markdown(blocks) if markdown else as_text(blocks)

    values = {
        "plan": made.model_dump(mode="json"),
        "gates": {phase: dict(listed) for phase, listed in gates.items()},
        "checksum": loaded.migration.checksum,
    }
    run.answer(values, text)


command = plan
