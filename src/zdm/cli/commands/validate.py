"""``zdm validate``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run, as_path, located
from zdm.errors import BadInput, Problem

if TYPE_CHECKING:
    from zdm.operations.loader import Loaded


@declare(
    click.argument("files", nargs=-1, metavar="[MIGRATION]..."),
    click.option("--offline", is_flag=True, help="Do not ask the server, even if a database is known."),
    example="""
    zdm validate                                  # every file of the migrations directory
    zdm validate migrations/widen_balance.yaml --offline
    """,
)
def validate(run: Run, files: tuple[str, ...], offline: bool) -> None:
    """Check migration files: all errors of all files at once, each with file and line.

    MIGRATION is a file, a directory, or the id of a file in the migrations directory; without any, the whole migrations
    directory. Where a database is known (--url, ZDM_DATABASE_URL, zdm.toml) the server checks tables, columns, types and
    expressions as well. Nothing is changed.
    """
    from zdm.cli.migrations import find_file, gate_check
    from zdm.cli.render.plan import place_of
    from zdm.operations import loader

    loaded: list[Loaded] = []
    problems: list[Problem] = []
    check = gate_check()
    for name in files or (str(run.config.migrations),):
        try:
            path = Path(name)
            if path.is_dir() or (not files and not path.exists()):
                loaded += loader.load_directory(path, check_gates=check).values()
            elif as_path(name) is None:
                loaded.append(find_file(name, run.config.migrations))
            else:
                loaded.append(loader.read(path, check_gates=check))
        except BadInput as error:
            problems += error.problems or [Problem(error.message, remedy=error.remedy)]
    problems += _duplicates(loaded)
    ask = run.has_url and not offline
    findings: list[dict[str, str]] = []
    if ask and loaded:
        engine = run.engine()
        for one in loaded:
            try:
                plan = engine.plan(one.migration)
                findings += [
                    {
                        "migration": one.migration.id,
                        "severity": f.severity.value,
                        "text": f.text,
                        "where": place_of(f, one.source),
                    }
                    for f in plan.findings
                ]
            except BadInput as error:
                problems += located(error, one.source) or (
                    Problem(error.message, one.source.name, error.remedy),
                )
    run.partial = {"valid": [one.migration.id for one in loaded], "server": ask, "findings": findings}
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise BadInput(f"{count} found; nothing was changed", problems=problems)
    run.answer(run.partial, lambda: _text(loaded, findings, ask))


def _duplicates(loaded: list[Loaded]) -> list[Problem]:
    seen: dict[str, str] = {}
    problems = []
    for one in loaded:
        place = one.source.place(("id",))
        if seen.setdefault(one.migration.id, place) != place:
            problems.append(
                Problem(f"the id {one.migration.id!r} is taken by {seen[one.migration.id]} as well", place)
            )
    return problems


def _text(loaded: list[Loaded], findings: list[dict[str, str]], asked: bool) -> str:
    from zdm.cli.render.text import careful, good, plural

    if not loaded:
        return "There are no migration files."
    lines = [f"{good('ok')}  {one.source.name}: {one.migration.id}" for one in loaded]
    lines += [
        f"{careful(f['severity'])}  {f['migration']}: {f['where'] + ': ' if f['where'] else ''}{f['text']}"
        for f in findings
    ]
    how = "checked, by the server as well" if asked else "checked without a server"
    return "\n".join([*lines, f"{plural(len(loaded), 'migration')} {how}."])


command = validate
