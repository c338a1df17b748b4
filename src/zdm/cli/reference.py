"""docs/cli.md, generated from the commands themselves; a test fails when the two differ."""

from __future__ import annotations

import click

from zdm.cli.app import COMMANDS, group
from zdm.cli.config import KEYS

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
(`zdm schema` prints the schema itself). A failure adds `error` to what there is to tell:

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
environment over the file. Unknown keys are refused.

| Key | Meaning |
|---|---|
"""


def reference() -> str:
    """The whole page."""
    parts = [_HEAD + "".join(f"| `{key}` | {meaning} |\n" for key, meaning in KEYS.items())]
    with click.Context(group, info_name="zdm", terminal_width=_WIDTH) as root:
        parts.append(f"## zdm\n\n```text\n{group.get_help(root)}\n```\n")
        for names in COMMANDS.values():
            for name in names:
                command = group.get_command(root, name)
                assert command is not None
                with click.Context(command, parent=root, info_name=name, terminal_width=_WIDTH) as context:
                    parts.append(f"## zdm {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)
