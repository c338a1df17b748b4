"""One invocation: its global options, its settings, where its output goes. Every command gets it as its first argument."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from zdm.cli import config
from zdm.cli.secrets import checked_url, mask, secrets_of
from zdm.errors import BadInput, Problem, ZdmError

if TYPE_CHECKING:
    from zdm.cli.progress import ConsoleReporter
    from zdm.engine.rollout import Engine
    from zdm.engine.settings import EngineSettings
    from zdm.operations.loader import Loaded
    from zdm.operations.migration import Migration
    from zdm.operations.source import Source


class Run:
    """The state that the global options set, and what commands do with it.

    Parameters
    ----------
    left: says what an interrupted command leaves behind; set by commands that change something.
    """

    def __init__(self) -> None:
        self.url: str | None = None
        self.target: str | None = None
        self.config_file: str | None = None
        self.json = False
        self.debug = False
        self.quiet = False
        self.verbose = 0
        self.left: Callable[[], str] | None = None
        self.partial: dict[str, Any] = {}
        """What a ``--json`` answer holds beside the error, if the command fails after it has something to tell."""
        self._emitted = False

    # ------------------------------------------------------------------------------------------- settings

    @cached_property
    def config(self) -> config.Config:
        """What zdm.toml says."""
        return config.load(self.config_file)

    def _urls(self) -> Iterator[tuple[str, str]]:
        """Every URL that was given, the one that counts first, with where it came from."""
        if self.url is not None:
            if not self.url.strip():
                raise empty("--url")
            yield self.url, "--url"
        environment = config.url_of_environment()
        if environment:
            yield environment, config.URL_VARIABLE
        if isinstance(self.config.values.get("url"), str):
            yield self.config.values["url"], f"the key 'url' in {self.config.path}"

    @property
    def has_url(self) -> bool:
        """Whether a database is known at all."""
        return next(self._urls(), None) is not None

    @property
    def database_url(self) -> str:
        """The URL to connect to. Raises `BadInput` if none is known or it cannot be read safely."""
        for url, came_from in self._urls():
            return checked_url(url, came_from)
        raise BadInput(
            "no database is known",
            remedy=f'Give --url, set {config.URL_VARIABLE}, or write `url = "postgresql://…"` into {config.FILE}.',
        )

    @property
    def schema(self) -> str:
        """The target schema. Raises `BadInput` if it was given, but nothing is in it."""
        if self.target is not None and not self.target.strip():
            raise empty("--target")
        return self.target or str(self.config.values.get("target", "public"))

    @property
    def secrets(self) -> set[str]:
        """Every password that this invocation knows."""
        found: set[str] = set()
        try:
            for url, _ in self._urls():
                found |= secrets_of(url)
            values = self.config.values
            for replica in (*values.get("replicas", ()), *values.get("throttle", {}).get("replicas", ())):
                found |= secrets_of(str(replica))
        except ZdmError:
            pass  # an unreadable zdm.toml is reported by whoever needs it
        return found

    # ------------------------------------------------------------------------------------------- engine

    @cached_property
    def reporter(self) -> ConsoleReporter:
        """Where the engine tells what it does: stdout for people, stderr beside ``--json``."""
        from zdm.cli.progress import ConsoleReporter

        return ConsoleReporter(
            sys.stderr if self.json else sys.stdout,
            quiet=self.quiet,
            verbose=self.verbose > 0,
            clean=self.mask,
        )

    def engine(self, **settings: Any) -> Engine:
        """The engine on this database and target; `settings` given (not None) win over zdm.toml."""
        return open_engine(self, {key: value for key, value in settings.items() if value is not None})

    # ------------------------------------------------------------------------------------------- migrations

    def find(self, argument: str) -> Loaded | str:
        """The migration that a person means: a file's path, the id of a file in the migrations directory, else an id."""
        from zdm.cli.migrations import find

        return find(argument, self.config.migrations)

    def registered(self, identifier: str) -> Loaded:
        """A migration that has no file here, as the database has it. Raises `BadInput` if it does not know it either."""
        from zdm.cli.migrations import find_file
        from zdm.operations import loader

        if not self.has_url:
            return find_file(identifier, self.config.migrations)
        stored = self.engine().registered(identifier)
        if stored is None:
            try:
                return find_file(identifier, self.config.migrations)
            except BadInput as error:
                error.message += ", and the database knows none"
                raise
        text, file = stored
        return loader.read_text(text, f"{file or identifier} (as registered)")

    def find_id(self, argument: str) -> str:
        """The id that a person means by a path or an id."""
        from zdm.cli.migrations import find_id

        return find_id(argument)

    @contextmanager
    def locating(self, loaded: Loaded | str) -> Iterator[Migration | str]:
        """Problems that name an operation of the migration get its file and line on their way out."""
        if isinstance(loaded, str):
            yield loaded
            return
        try:
            yield loaded.migration
        except ZdmError as error:
            error.problems = located(error, loaded.source)
            raise

    # ------------------------------------------------------------------------------------------- output

    def mask(self, text: str) -> str:
        """`text` without passwords in URLs and connection strings."""
        return mask(text)

    def say(self, text: str = "") -> None:
        """A line for people, on stdout; nothing with ``--json``."""
        if not self.json:
            click.echo(self.mask(text))

    def note(self, text: str) -> None:
        """A remark for people, on stderr; nothing with ``--quiet``."""
        if not self.quiet:
            click.echo(self.mask(text), err=True)

    def emit(self, value: Mapping[str, Any], exit_code: int = 0) -> None:
        """With ``--json``: the one object on stdout. Without: nothing."""
        if self.json and not self._emitted:
            self._emitted = True
            write_json({**value, "exit_code": exit_code})

    def answer(self, value: Mapping[str, Any], text: Callable[[], str]) -> None:
        """The command's result: the object with ``--json``, else the text."""
        if self.json:
            self.emit(value)
        else:
            self.say(text())

    @property
    def interactive(self) -> bool:
        """Whether a person sits there who can answer."""
        return not self.json and sys.stdin.isatty() and sys.stdout.isatty()

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before what cannot be taken back, if a person is there to ask. Raises `BadInput` on no."""
        if yes or not self.interactive:
            return
        if not click.confirm(question, default=False):
            raise BadInput("Not confirmed; nothing was changed.")


def empty(option: str) -> BadInput:
    """What is said of an option without a value: a variable that is not set must not mean the default."""
    return BadInput(
        f"{option} is empty", remedy="Give it a value, or leave it out.", changed="Nothing was changed."
    )


def write_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, passwords masked in every text in it, tables named as in SQL."""
    click.echo(json.dumps(_masked(value), ensure_ascii=False, indent=2, default=str))


def _masked(value: Any) -> Any:
    match value:
        case str():
            return mask(value)
        case {"schema_": str(), "name": str()} if len(value) == 2:
            from zdm.model.names import qualified

            return str(qualified(value["schema_"], value["name"]))
        case Mapping():
            return {key: _masked(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_masked(inner) for inner in value]
    return value


def located(error: ZdmError, source: Source) -> tuple[Any, ...]:
    """The error's problems with file and line, in the order of the file; what is not of the file comes last."""
    return tuple(sorted(map(source.locate, error.problems), key=source.line))


def open_engine(run: Run, settings: Mapping[str, Any]) -> Engine:
    """Build the engine; the one place that does, so that tests can put another in its place."""
    url, checked = run.database_url, engine_settings(run, settings)

    from zdm.engine.rollout import Engine

    return Engine(url, run.schema, reporter=run.reporter, settings=checked)


def engine_settings(run: Run, settings: Mapping[str, Any]) -> EngineSettings:
    """What zdm.toml says about the engine, and `settings` over it. Raises `BadInput` naming the key that is wrong."""
    from pydantic import ValidationError

    from zdm.engine.settings import EngineSettings

    values = {**run.config.engine, **settings}
    if "replicas" in values:
        values["replicas"] = tuple(checked_url(url, "a URL of 'replicas'") for url in values["replicas"])
    throttle = values.get("throttle", {})
    if isinstance(throttle.get("replicas"), list):
        urls = tuple(
            checked_url(str(url), "a URL of 'replicas' in [throttle]") for url in throttle["replicas"]
        )
        values["throttle"] = {**throttle, "replicas": urls}
    try:
        return EngineSettings.model_validate(values)
    except ValidationError as error:
        problems = [
            Problem(
                f"{'.'.join(map(str, found['loc']))}: {found['msg'].removeprefix('Value error, ')}",
                run.config.place(found["loc"]),
            )
            for found in error.errors(include_url=False, include_input=False)
        ]
        raise BadInput("the settings are not valid", problems=problems) from None
