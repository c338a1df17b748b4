"""How a command is declared: its own options, the global ones that every command takes as well, and its example."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from zdm.cli.run import Run

PHASES = ("preparation", "migration", "switchover", "cleanup")
"""The phases' names, written out so that ``--help`` need not import the model; a test holds them equal to it."""


def _store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep a global option where it was given: before the command's name, or after it (which then wins)."""
    if value not in (None, False, 0):
        setattr(context.find_root().ensure_object(Run), str(parameter.name), value)


def global_options() -> list[click.Parameter]:
    """The options that may stand before or after the command's name."""
    common: dict[str, Any] = {"expose_value": False, "callback": _store, "is_eager": True}
    return [
        click.Option(
            ["--url"],
            metavar="URL",
            help="The database. Else ZDM_DATABASE_URL, else url in zdm.toml.",
            **common,
        ),
        click.Option(
            ["--target"], metavar="SCHEMA", help="The schema to roll out to. Default: public.", **common
        ),
        click.Option(
            ["--config", "config_file"],
            metavar="FILE",
            help="Settings. Default: the nearest zdm.toml, searched upward.",
            **common,
        ),
        click.Option(["--json"], is_flag=True, help="One JSON object on stdout; logs on stderr.", **common),
        click.Option(["-q", "--quiet"], is_flag=True, help="Only results and errors.", **common),
        click.Option(["-v", "--verbose"], count=True, help="More on stderr; twice: everything.", **common),
        click.Option(["--debug"], is_flag=True, help="A traceback with an error.", **common),
    ]


GLOBAL_NAMES = frozenset(option.name for option in global_options())


class Command(click.Command):
    """A command whose help ends with an example and shows the global options apart."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *global_options()]
        self.example = inspect.cleandoc(example)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Own options first, then the global ones."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                (shared if parameter.name in GLOBAL_NAMES else own).append(record)
        with formatter.section("Options"):
            formatter.write_dl(own)
        with formatter.section("Global options, before or after the command"):
            formatter.write_dl(shared)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, as it is typed."""
        del ctx
        write_example(formatter, self.example)


def write_example(formatter: click.HelpFormatter, example: str) -> None:
    """The section with the example, its lines left alone."""
    formatter.write_paragraph()
    formatter.write("Example:\n")
    for line in example.splitlines():
        formatter.write(f"  {line}\n" if line else "\n")


def command(*parameters: Callable[[Any], Any], example: str) -> Callable[[Callable[..., None]], Command]:
    """Declare a command: its name is the function's, its help the docstring; the function's first argument is the `Run`."""

    def declare(function: Callable[..., None]) -> Command:
        def callback(**values: Any) -> None:
            from zdm.cli.logs import configure

            run = click.get_current_context().find_root().ensure_object(Run)
            configure(run)
            function(run, **values)

        callback.__click_params__ = []  # type: ignore[attr-defined]
        for parameter in reversed(parameters):
            parameter(callback)
        declared: Sequence[click.Parameter] = list(reversed(callback.__click_params__))  # type: ignore[attr-defined]
        return Command(
            function.__name__.rstrip("_"),
            callback=callback,
            params=list(declared),
            # One blank line between paragraphs is all that click's own wrapping needs.
            help=re.sub(r"\n{3,}", "\n\n", inspect.cleandoc(function.__doc__ or "")),
            example=example,
        )

    return declare


class DurationType(click.ParamType[float]):
    """``30m``, ``1m30s``, ``90`` (seconds): as in the migration file."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """To a timedelta."""
        from zdm.model.duration import parse_duration

        text = str(value)
        try:
            return parse_duration(float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = DurationType()
