"""``zdm new``"""

from __future__ import annotations

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run
from zdm.errors import BadInput


@declare(
    click.argument("identifier", metavar="ID"),
    click.option(
        "-o",
        "--operation",
        "kinds",
        multiple=True,
        metavar="KIND",
        help="An operation to begin with; may be repeated.",
    ),
    click.option("--description", metavar="TEXT", default="", help="One sentence for people."),
    click.option("--stdout", "to_stdout", is_flag=True, help="Print it instead of writing the file."),
    click.option("--force", is_flag=True, help="Overwrite a file that is there."),
    example="""
    zdm new widen_balance --operation change_type
    """,
)
def new(
    run: Run, identifier: str, kinds: tuple[str, ...], description: str, to_stdout: bool, force: bool
) -> None:
    """Write a commented migration file ID.yaml into the migrations directory."""
    from zdm.cli.migrations import with_id
    from zdm.cli.template import template
    from zdm.operations import loader
    from zdm.operations.mistakes import suggest
    from zdm.operations.registry import operations

    known = operations()
    for kind in kinds:
        if kind not in known:
            raise BadInput(f"there is no operation {kind!r}", remedy=suggest(kind, known, "Operations are"))
    text = template(identifier, kinds or ("change_type",), description)
    loader.read_text(text, f"{identifier}.yaml")  # refuses a bad id in the loader's own words
    if to_stdout:
        run.answer({"id": identifier, "text": text}, lambda: text.rstrip("\n"))
        return
    directory = run.config.migrations
    path = directory / f"{identifier}.yaml"
    others = [f for f in with_id(identifier, directory) if f.resolve() != path.resolve()]
    if others:
        raise BadInput(
            f"the id {identifier!r} is taken by {loader.display(others[0])}", remedy="Choose another id."
        )
    if path.exists() and not force:
        raise BadInput(
            f"{loader.display(path)} is there already",
            remedy="Overwrite it with --force, or choose another id.",
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{loader.display(path)} cannot be written: {error.strerror or error}") from None
    shown = loader.display(path)
    run.answer(
        {"id": identifier, "path": str(path)},
        lambda: f"Wrote {shown}. Edit it, then run `zdm validate {shown}`.",
    )


command = new
