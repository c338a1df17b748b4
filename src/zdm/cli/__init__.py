"""The command line: one file per command under `zdm.cli.commands`, what a person reads under `zdm.cli.render`."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script ``zdm``. Ends the process with the exit code of the documentation."""
    import sys

    try:
        from zdm.cli.app import run
    except KeyboardInterrupt as error:
        sys.exit(_at_once(arguments, error))
    sys.exit(run(arguments))


def _at_once(arguments: Sequence[str] | None, error: KeyboardInterrupt) -> int:
    """Ctrl-C while the program is still being loaded: a command that has begun answers by itself."""
    import signal

    with_patience = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is half loaded is loaded again
    try:
        from zdm.cli.app import interrupted

        return interrupted(arguments, error)
    finally:
        signal.signal(signal.SIGINT, with_patience)
