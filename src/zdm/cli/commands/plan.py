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

    MIGRATION is a file, the id of a file in the migrations directory, or an id that the database knows. The document tells
    what changes; for each phase its steps, with each lock, whom it makes wait and for how long, whether rows are read or
    written, and which rule the obvious statement would break; gates, the way back, and what applications may or must do;
    time, WAL and disk of the whole, estimated from what was measured on the tables and from the server's statistics; and
    what the mapping loses and which rows break its constraints, measured on the rows as they are. Nothing is changed.
    """
    from zdm.cli.gates import gate_words
    from zdm.cli.render.document import as_markdown, as_text
    from zdm.cli.render.plan import plan_document
    from zdm.model.phases import machine

    found = run.find(migration)
    loaded = found if not isinstance(found, str) else run.registered(found)
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
