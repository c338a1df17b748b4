"""The command group, and the one place where errors become text, JSON and exit codes."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import click

from zdm import __version__
from zdm.cli import secrets
from zdm.cli.command import GLOBAL_NAMES, global_options, write_example
from zdm.cli.run import Run, write_json
from zdm.errors import Interrupted, ZdmError

COMMANDS: Mapping[str, Mapping[str, str]] = {
    "Set up": {
        "init": "Install or upgrade zdm's catalog in the database.",
        "doctor": "Check server, rights, catalog, replicas and leftovers.",
        "demo": "See all four phases on a PostgreSQL of its own.",
    },
    "Write and review": {
        "new": "Write a commented migration file.",
        "validate": "Check migration files, all errors at once.",
        "plan": "What a migration would do, as a document for review.",
        "schema": "The JSON Schema of the migration file.",
    },
    "Roll out": {
        "advance": "Run the next phase.",
        "rollback": "Go back to before the rollout; no row is lost.",
        "approve": "Say yes to a phase that needs it.",
        "pause": "Hold the backfill and every further phase.",
        "resume": "Let a paused rollout go on.",
        "fence": "Close the old version to applications, or open it.",
    },
    "Look": {
        "status": "Where rollouts stand, and what comes next.",
        "history": "Everything that happened to a rollout.",
        "verify": "Compare both sides of every row.",
        "backfill": "Fill what is not filled yet.",
        "reconcile": "Carry over what waits between two tables.",
        "metrics": "Prometheus metrics, printed or served.",
    },
}
"""Every command with one line about it, so that ``zdm --help`` imports none of them. A test holds them to the files."""

EXAMPLE = """
zdm init --url postgresql://app@db/shop     # once per database
zdm plan migrations/widen_balance.yaml      # read it, review it
zdm advance migrations/widen_balance.yaml   # one phase at a time
zdm status widen_balance
"""


class Commands(click.Group):
    """Imports a command's file when the command is used, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the help."""
        del ctx
        return [name for group in COMMANDS.values() for name in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported; None if there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"zdm.cli.commands.{cmd_name}")
        found: click.Command = module.command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, which would suggest only commands that are imported already."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            names = self.list_commands(ctx)
            raise click.NoSuchCommand(error.command_name, possibilities=names, ctx=ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands by what they are for, then the options."""
        for title, group in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl(list(group.items()), col_max=12)
        with formatter.section("Global options, before or after the command"):
            formatter.write_dl([r for p in self.get_params(ctx) if (r := p.get_help_record(ctx)) is not None])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """An example, and the exit codes."""
        del ctx
        write_example(formatter, EXAMPLE.strip())
        formatter.write_paragraph()
        formatter.write(
            "Exit codes: 0 done, 1 failed (re-running continues), 2 bad input, 3 a gate refused,\n"
            "4 somebody else holds it, 5 the database is not what zdm left.\n"
        )


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value:
        click.echo(f"zdm {__version__}")
        context.exit()


def _group() -> Commands:
    return Commands(
        "zdm",
        callback=lambda: None,
        params=[
            *global_options(),
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_version,
                help="Show the version and exit.",
            ),
        ],
        help="Zero-downtime migrations for PostgreSQL: four phases, dual writes, one-command rollback.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        no_args_is_help=True,
    )


READ_ONLY = "25006"
"""The SQLSTATE of a write that a standby refuses. zdm's own sessions are never read-only by a setting."""

group = _group()


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Never raises for what a person can meet."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    state = Run()
    _prepare_streams()
    try:
        _refuse_unfit(arguments)
        with _signals():
            code = group.main(arguments, prog_name="zdm", standalone_mode=False, obj=state)
            return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # The reader (`| head`) has gone; keep the interpreter from complaining about it on its way out.
        with contextlib.suppress(OSError, io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        return _fail(state, arguments, _interrupted(state, error), error)
    except Exception as error:  # noqa: BLE001  the last resort: everything becomes a message and an exit code
        return _fail(state, arguments, _understood(state, error), error)


def interrupted(arguments: Sequence[str] | None, error: KeyboardInterrupt) -> int:
    """What is said of a Ctrl-C that came before the command had begun, and its exit code."""
    state = Run()
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _fail(state, given, _interrupted(state, error), error)


def _refuse_unfit(arguments: Sequence[str]) -> None:
    """No name, path or URL holds these characters, and each of their readers would fail in words of its own."""
    for argument in arguments:
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in argument):
            shown = argument.encode("ascii", "backslashreplace").decode().replace("\0", "\\0")
            raise _bad_input(f"the argument {shown} holds a character that is no text", "Write it in UTF-8.")


def _prepare_streams() -> None:
    """A terminal that cannot show a character gets a question mark, never an exception in the middle of a rollout."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class _StoppedError(KeyboardInterrupt):
    """SIGTERM or SIGHUP, handled as Ctrl-C is."""


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let a polite kill unwind as Ctrl-C does, so that leases are given back and the person is told what is left."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise _StoppedError(signal.Signals(number).name)

    before: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread: the host owns the signals
        for one in (signal.SIGTERM, signal.SIGHUP):
            before[one] = signal.signal(one, stop)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _interrupted(state: Run, error: BaseException) -> Interrupted:
    by = f" by {error}" if isinstance(error, _StoppedError) else ""
    left = state.left() if state.left else ""
    if not left:
        return Interrupted(f"Interrupted{by}.", changed="Nothing was changed.")
    return Interrupted(f"Interrupted{by}.", remedy="Run the same command again; it continues.", changed=left)


def _understood(state: Run, error: Exception) -> ZdmError:
    """The error as one of ours."""
    if isinstance(error, ZdmError):
        return error
    if isinstance(error, click.UsageError):
        remedy = f"See `{error.ctx.command_path} --help`." if error.ctx else ""
        return _bad_input(error.format_message(), remedy)
    if isinstance(error, click.ClickException):
        return _bad_input(error.format_message(), "")
    if type(error).__module__.split(".")[0] == "psycopg":
        if getattr(error, "sqlstate", None) == READ_ONLY:
            from zdm.db.session import takes_no_writes

            return takes_no_writes()
        remedy = "" if state.debug else "If this does not tell enough, --debug shows where it happened."
        return ZdmError(f"The database said: {str(error).strip()}", remedy=remedy)
    return ZdmError(
        f"zdm itself failed: {type(error).__name__}: {error}",
        remedy="This is a defect of zdm. Run the command again with --debug, and report what it prints.",
    )


def _bad_input(message: str, remedy: str) -> ZdmError:
    from zdm.errors import BadInput

    return BadInput(message, remedy=remedy)


def _fail(state: Run, arguments: Sequence[str], error: ZdmError, cause: BaseException) -> int:
    from zdm.cli.render.errors import error_text, error_values

    hidden = state.secrets
    # The usage may have been too wrong for the options to be stored.
    before_dashes = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = state.json or "--json" in before_dashes
    hidden |= {s for a in arguments for s in secrets.secrets_of(a)}
    if state.debug or "--debug" in before_dashes:
        trace = "".join(traceback.format_exception(cause))
        click.echo(secrets.mask(trace, hidden), err=True, nl=False)
    if as_json:
        masked = _mask_all(error_values(error), hidden)
        write_json({**state.partial, "error": masked, "exit_code": error.exit_code})
    else:
        click.echo(secrets.mask(error_text(error), hidden), err=True)
    return error.exit_code


def _mask_all(value: Any, hidden: set[str]) -> Any:
    match value:
        case str():
            return secrets.mask(value, hidden)
        case dict():
            return {key: _mask_all(inner, hidden) for key, inner in value.items()}
        case list():
            return [_mask_all(inner, hidden) for inner in value]
    return value


__all__ = ["COMMANDS", "GLOBAL_NAMES", "group", "run"]
