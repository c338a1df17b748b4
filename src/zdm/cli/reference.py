"""docs/cli.md and the lists of docs/migration-file.md, generated from the code; a test fails when they differ."""

from __future__ import annotations

from collections.abc import Iterator

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from zdm.cli.app import COMMANDS, group
from zdm.cli.config import KEYS, THROTTLE_KEYS
from zdm.operations.mistakes import models_in

_WIDTH = 100

_HEAD = """# Command line

Generated from `zdm --help` and each command's own help; a test holds the two equal.

The database is given with `--url`, in the environment as `ZDM_DATABASE_URL`, or in `zdm.toml`; the first that is there
counts. Global options may stand before or after the command's name. Everywhere a MIGRATION is asked for, a file's path
does as well as an id.

## Exit codes

| Code | Meaning |
|---|---|
| 0 | done |
| 1 | failed; the state says where, and running the same command again continues |
| 2 | bad input or usage; nothing was changed |
| 3 | a gate refused |
| 4 | busy: somebody else holds the rollout, or a lock could not be had in time |
| 5 | drift: the database is not what zdm left |

Ctrl-C, SIGTERM and SIGHUP end with 1 and say what is left.

## JSON

With `--json` stdout holds exactly one object, whatever happens, and logs go to stderr. Every object has `exit_code`
(`zdm schema` prints the schema itself). Tables are named as in SQL (`public.accounts`, `public."Odd Name"`), times are
ISO 8601 in UTC, durations are seconds. A failure adds `error` to what there is to tell:

```json
{
  "error": {
    "type": "gate_refused",
    "message": "switchover was refused by replication_lag",
    "remedy": "",
    "changed": "",
    "problems": [{"what": "…", "where": "file:line", "remedy": "…", "rule": ""}]
  },
  "exit_code": 3
}
```

`type` is `failed`, `bad_input`, `illegal_move`, `gate_refused`, `busy`, `drift` or `interrupted`.

## zdm.toml

Searched for in the working directory and above it, or named with `--config`. An option wins over the environment, the
environment over the file. Unknown keys are refused, with file and line.

| Key | Meaning |
|---|---|
"""

_THROTTLE = """
### [throttle]

While a signal is above its limit the backfill waits, and looks again twice a second; what cannot be read counts as above it. `"off"`
switches a signal off. The [signals](index.md#throttle-signals) say what they look at.

```toml
[throttle]
max_lag = "2s"
max_active = 30
max_archive_backlog = "off"
nice = 0.5
```

| Key | Meaning | Default |
|---|---|---|
"""


def reference() -> str:
    """The whole page."""
    parts = [_HEAD + "".join(f"| `{key}` | {meaning} |\n" for key, meaning in KEYS.items())]
    rows = (
        f"| `{key}` | {meaning} | {f'`{default}`' if default else ''} |\n"
        for key, (meaning, default) in THROTTLE_KEYS.items()
    )
    parts[0] += _THROTTLE + "".join(rows)
    with click.Context(group, info_name="zdm", terminal_width=_WIDTH, **group.context_settings) as root:
        parts.append(f"## zdm\n\n```text\n{group.get_help(root)}\n```\n")
        for names in COMMANDS.values():
            for name in names:
                command = group.get_command(root, name)
                assert command is not None
                with click.Context(command, parent=root, info_name=name, terminal_width=_WIDTH) as context:
                    parts.append(f"## zdm {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


GENERATED = "<!-- generated from the code from here on; a test holds it to the code -->"


def keys_reference() -> str:
    """The lists of docs/migration-file.md: the file's own keys, every operation's, and every gate's."""
    from zdm.gates.registry import gates
    from zdm.operations.migration import Migration, Validation
    from zdm.operations.registry import operations

    parts = [
        "## Every key",
        "### The file",
        _fields(Migration),
        "### Each of `validations`",
        _fields(Validation),
    ]
    parts.append("## Every operation")
    for kind, operation in operations().items():
        parts += [
            f"### {kind}",
            f"{operation.summary[:1].upper()}{operation.summary[1:]}.",
            _fields(operation),
        ]
        parts += [f"Each of `{key}`:\n\n{_fields(inner)}" for key, inner in _inner(operation)]
    parts.append("## Every gate")
    for name, gate in gates().items():
        short = f" A bare value means `{gate.scalar}`." if gate.scalar else ""
        parts += [f"### {name}", f"{gate.asks}{short}"]
        if gate.model_fields:
            parts.append(_fields(gate))
    return "\n\n".join(parts) + "\n"


def _fields(model: type[BaseModel]) -> str:
    rows = ["| Key | Meaning | Default |", "|---|---|---|"]
    for name, info in model.model_fields.items():
        meaning = (info.description or "").replace("|", "\\|").replace("<", "\\<")
        rows.append(f"| `{info.alias or name}` | {meaning} | {_default(info)} |")
    return "\n".join(rows)


def _default(info: FieldInfo) -> str:
    from datetime import timedelta

    from zdm.model.duration import format_duration

    if info.is_required():
        return "required"
    default = info.get_default(call_default_factory=False)
    default = getattr(default, "value", default)
    if isinstance(default, timedelta):
        default = format_duration(default)
    if isinstance(default, bool):
        default = str(default).lower()
    return f"`{default}`" if isinstance(default, str | int | float) and default != "" else ""


def _inner(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, info in model.model_fields.items():
        for found in models_in(info.annotation):
            yield info.alias or name, found
