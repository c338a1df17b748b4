"""Runs zdm itself, as a person would: a process of its own, which can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from zdm.errors import ZdmError


class Command:
    """One ``zdm …`` in a process of its own; what it logs is passed on line by line."""

    def __init__(self, dsn: str, say: Callable[[str], None], *arguments: str) -> None:
        self.arguments = arguments
        environment = {**os.environ, "ZDM_DATABASE_URL": dsn}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "zdm", *arguments, "--json"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._say = say
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.strip():
                self._say(f"    {line.rstrip()}")

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> int:
        """``kill -9``; returns how the process ended (-9 if the signal was what ended it)."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        return self._process.returncode

    def result(self) -> dict[str, Any]:
        """Its answer, once it has ended.

        Raises
        ------
        ZdmError: it did not end with exit code 0.
        """
        assert self._process.stdout is not None
        out = self._process.stdout.read()
        code = self._process.wait()
        self._reader.join(5)
        if code != 0:
            raise ZdmError(f"zdm {' '.join(self.arguments)} ended with exit code {code}: {out.strip()}")
        answer: dict[str, Any] = json.loads(out)
        return answer
