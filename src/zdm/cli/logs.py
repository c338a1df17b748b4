"""Logs on stderr: warnings, more with -v; never a password, never mixed into an answer on stdout."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from zdm.cli.run import Run
from zdm.cli.secrets import mask


class _Formatter(logging.Formatter):
    def __init__(self, secrets: set[str]) -> None:
        super().__init__("%(levelname)s: %(message)s")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """The line without passwords, its traceback included."""
        return mask(super().format(record), self._secrets)


class _Handler(logging.StreamHandler[TextIO]):
    """Looks stderr up each time: whoever redirects it later is meant as well."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure(run: Run) -> None:
    """Set up zdm's own loggers for one command; those of a program that embeds it are left alone."""
    level = logging.ERROR if run.quiet else logging.WARNING
    if run.verbose:
        level = logging.INFO if run.verbose == 1 else logging.DEBUG
    handler = _Handler()
    handler.setFormatter(_Formatter(run.secrets))
    logger = logging.getLogger("zdm")
    logger.setLevel(level)
    for other in [h for h in logger.handlers if isinstance(h, _Handler)]:
        logger.removeHandler(other)
    logger.addHandler(handler)
