"""``zdm demo``"""

from __future__ import annotations

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run
from zdm.errors import BadInput, ZdmError


@declare(
    click.option(
        "--rows", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="Rows to migrate."
    ),
    click.option("--keep", is_flag=True, help="Leave the server running until you press Enter."),
    example="""
    pip install 'zdm[demo]' && zdm demo
    """,
)
def demo(run: Run, rows: int, keep: bool) -> None:
    """See a migration through all four phases, on a PostgreSQL of its own, with two versions of an application writing.

    On the way it is killed and resumed, rolled back and begun again. Needs no database and no Docker; the server and
    its files are gone afterwards. Exit code 1 if any transaction failed or any row differs.
    """
    try:
        from zdm.demo.story import passed
        from zdm.demo.story import run as tell
    except ModuleNotFoundError as error:
        raise BadInput(
            f"the demo needs {error.name}", remedy="Install it: pip install 'zdm[demo]'."
        ) from None
    run.left = lambda: "The demo's server is stopped and its files are removed; nothing else was touched."
    # The story is logs where the answer is an object: then it goes to stderr.
    result = tell(run.note if run.json else run.say, rows, keep=keep)
    if not passed(result):
        run.partial = result
        raise ZdmError("the demo found an error or a difference", remedy="See the lines above.")
    run.emit(result)


command = demo
