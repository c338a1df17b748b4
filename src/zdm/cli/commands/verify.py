"""``zdm verify``"""

from __future__ import annotations

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run
from zdm.errors import ZdmError


@declare(
    click.argument("migration", metavar="MIGRATION"),
    click.option(
        "--repair", is_flag=True, help="Derive rows again that differ, from the side that last wrote them."
    ),
    example="""
    zdm verify widen_balance
    zdm verify widen_balance --repair
    """,
)
def verify(run: Run, migration: str, repair: bool) -> None:
    """Compare both sides of every row, in one snapshot, and store what was found: switchover and cleanup ask for it.

    Counted with it are the rows that break a constraint which the new version adds: duplicates, orphans, violated
    checks, NULLs. Those nobody can derive again; correct them through either version of the application.

    Exit code 1 if there is a difference, or a row that breaks a constraint.
    """
    from zdm.cli.render.moves import verify_text
    from zdm.cli.render.text import plural
    from zdm.model.phases import State

    identifier = run.find_id(migration)
    run.left = lambda: "The verification was not stored; the one before still counts."
    try:
        result = run.engine().verify(identifier, repair=repair)
    finally:
        run.reporter.close()
    values = result.model_dump(mode="json")
    if result.clean:
        run.answer(values, lambda: verify_text(result))
        return
    run.say(verify_text(result))
    run.partial = values
    differences = sum(table.disagreements for table in result.tables)
    broken = sum(table.broken for table in result.tables)
    if not differences:
        raise ZdmError(
            f"{plural(broken, 'row')} of {identifier} break{'s' if broken == 1 else ''} a constraint of the new version",
            remedy=f"Correct {'it' if broken == 1 else 'them'} through either version of the application, and verify again; "
            "switchover refuses until then.",
        )
    unfilled = sum(table.unsettled for table in result.tables)
    if run.engine().status(identifier)[0].state in (
        State.PREPARED,
        State.MIGRATING,
        State.MIGRATION_FAILED,
    ):
        # Between tables, the rows that are not there yet.
        unfilled += sum(table.missing for table in result.tables)
    if unfilled == differences:
        raise ZdmError(
            f"{plural(unfilled, 'row')} of {identifier} {'is' if unfilled == 1 else 'are'} not filled yet",
            remedy=f"`zdm advance {identifier}` fills them in the migration phase, and `zdm backfill {identifier}` at once.",
        )
    raise ZdmError(
        f"both sides of {identifier} differ in {plural(differences, 'place')}",
        remedy="Correct what stands in the way of these rows through either version of the application, as said of them above, and repair again."
        if repair
        else f"`zdm verify {identifier} --repair` derives these rows again.",
    )


command = verify
