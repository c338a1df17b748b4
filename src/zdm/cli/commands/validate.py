"""``zdm validate``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run, located
from zdm.errors import BadInput, Problem

if TYPE_CHECKING:
    from zdm.model.estimate import Estimates
    from zdm.operations.loader import Loaded

NEEDS_A_SERVER = (
    "whether tables, columns, types and roles exist, and names are free",
    "whether expressions parse, fit their columns and are not volatile",
    "what hangs on replaced columns, and whether it can follow them",
    "whether the mapping loses values, and rows break constraints, on the rows as they are",
    "locks, time, WAL and disk",
)
"""What a file alone does not tell."""


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
    expressions as well, and each migration's longest lock, time, WAL and risk are told as `zdm plan` estimates them (with
    --json all of it, step by step). Without one the answer says what was not checked. Nothing is changed.
    """
    from zdm.cli.migrations import as_path, find_file, gate_check
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
    costs: dict[str, Estimates] = {}
    if ask and loaded:
        engine = run.engine()
        for one in loaded:
            try:
                plan = engine.plan(one.migration)
                if plan.estimates is not None:
                    costs[one.migration.id] = plan.estimates
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
    run.partial = {
        "valid": [one.migration.id for one in loaded],
        "server": ask,
        "findings": findings,
        "estimates": {name: found.model_dump(mode="json") for name, found in costs.items()},
        "not_checked": [] if ask else list(NEEDS_A_SERVER),
    }
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise BadInput(f"{count} found; nothing was changed", problems=problems)
    run.answer(run.partial, lambda: _text(loaded, findings, costs, ask))


def _duplicates(loaded: list[Loaded]) -> list[Problem]:
    seen: dict[str, str] = {}
    problems = []
    for one in loaded:
        place = one.source.place(("id",))
        if seen.setdefault(one.migration.id, place) != place:
            problems.append(
                Problem(
                    f"the id {one.migration.id!r} is taken by {seen[one.migration.id]} as well",
                    place,
                    "Give each migration an id of its own.",
                )
            )
    return problems


def _text(
    loaded: list[Loaded], findings: list[dict[str, str]], costs: dict[str, Estimates], asked: bool
) -> str:
    from zdm.cli.render.plan import cost_line
    from zdm.cli.render.text import careful, good, plural, wrapped

    if not loaded:
        return "There are no migration files."
    lines: list[str] = []
    for one in loaded:
        lines.append(f"{good('ok')}  {one.source.name}: {one.migration.id}")
        if one.migration.id in costs:
            lines.append(wrapped(cost_line(costs[one.migration.id]), indent=4))
    lines += [
        f"{careful(f['severity'])}  {f['migration']}: {f['where'] + ': ' if f['where'] else ''}{f['text']}"
        for f in findings
    ]
    if asked:
        return "\n".join([*lines, f"{plural(len(loaded), 'migration')} checked, by the server as well."])
    missing = "; ".join(NEEDS_A_SERVER)
    told = f"{plural(len(loaded), 'migration')} checked without a server. Not checked, because it takes one: {missing}."
    return "\n".join([*lines, wrapped(told, indent=0)])


command = validate
