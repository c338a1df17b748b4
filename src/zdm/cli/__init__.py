"""The command line: one file per command under `zdm.cli.commands`, what a person reads under `zdm.cli.render`."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script ``zdm``. Ends the process with the exit code of the documentation."""
    import sys

    from zdm.cli.app import run

    sys.exit(run(arguments))
