"""zdm as a person has it: a command line in a process of its own, with its settings beside the migration file."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from zdm.cli.app import run

#: The slowest answer that is still one.
SECONDS = 120.0


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    def done(self) -> Answer:
        """Itself, provided that it succeeded."""
        assert self.code == 0, self.text
        return self


class Zdm:
    """zdm run in a directory of the test's own, on one database.

    Parameters
    ----------
    settings: more lines of ``zdm.toml``.
    target: the schema, if not public.
    """

    def __init__(self, dsn: str, directory: Path, *, settings: str = "", target: str = "public") -> None:
        self.dsn, self.directory = dsn, directory
        directory.mkdir(exist_ok=True)
        (directory / "zdm.toml").write_text(f"target = {json.dumps(target)}\n{settings}\n", encoding="utf-8")

    def write(self, migration: dict[str, Any], name: str = "m.yaml") -> str:
        """Write a migration file and return its name."""
        text = yaml.safe_dump(migration, sort_keys=False, allow_unicode=True, width=1000)
        return self.write_text(text, name)

    def write_text(self, text: str, name: str = "m.yaml") -> str:
        (self.directory / name).write_text(text, encoding="utf-8")
        return name

    def start(self, *arguments: str, dsn: str | None = None) -> subprocess.Popen[str]:
        """A command in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", "zdm", *arguments],
            cwd=self.directory,
            env={**os.environ, "ZDM_DATABASE_URL": dsn or self.dsn},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, dsn: str | None = None) -> Answer:
        """A command, to its end."""
        return ended(self.start(*arguments, dsn=dsn))


class Command(Zdm):
    """zdm in this process, which is a good deal faster; the last word on every error is in `zdm.cli.app.run` either way."""

    def __call__(self, *arguments: str, dsn: str | None = None) -> Answer:
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.directory),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("ZDM_DATABASE_URL", dsn or self.dsn)
            code = run(list(arguments))
        return Answer(code, out.getvalue(), err.getvalue())


def ended(process: subprocess.Popen[str], *, seconds: float = SECONDS) -> Answer:
    """Wait for a command."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        said = kill(process)
        pytest.fail(f"{process.args!r} did not end within {seconds:g} s and had said:\n{said.text}")
    return Answer(process.returncode, out, err)


def kill(process: subprocess.Popen[str]) -> Answer:
    """``kill -9``."""
    process.send_signal(signal.SIGKILL)
    out, err = process.communicate()
    return Answer(process.returncode, out, err)
