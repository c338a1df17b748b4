"""zdm in processes that are killed -9 at a round trip to the server that the test names.

Starting Python and importing zdm takes longer than a phase on a small table. So one process imports it once and forks a new
one for each command; that one alone is killed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.waiting import Ready

from zdm.engine.rollout import Engine
from zdm.engine.settings import EngineSettings
from zdm.errors import ZdmError
from zdm.operations.migration import Migration


class How(StrEnum):
    """When in a round trip the process dies."""

    BEFORE = "before"
    """The server never hears of it."""
    MEANWHILE = "meanwhile"
    """It is sent; nobody waits for the answer."""
    AFTER = "after"
    """The answer has come, and nothing was done with it."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Parameters
    ----------
    trips: its round trips, if it lived.
    state: where the rollout stands, if it succeeded.
    error: what it failed with, or empty.
    """

    killed: bool = False
    trips: int = 0
    state: str = ""
    error: str = ""


class Mortal:
    """Runs commands; each in a process of its own. Close it, or use it in a ``with``."""

    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.support.mortal"],
            cwd=root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait(60)
        self._parent.stdout.close()

    def advance(self, dsn: str, migration: Migration, *, at: int = 0, how: How = How.BEFORE) -> Ended:
        """Run the next phase, killed at round trip `at` (from 1; 0: not at all). Begins again after a rollback."""
        given = migration.model_dump(mode="json", exclude_defaults=True)
        return self._do({"do": "advance", "dsn": dsn, "migration": given, "at": at, "how": how})

    def lead(self, dsn: str, migration: Migration, do: str) -> Led:
        """Start ``advance`` or ``rollback``; it makes only the round trips that it is granted."""
        given = migration.model_dump(mode="json", exclude_defaults=True) if do == "advance" else migration.id
        return Led(self, {"do": do, "dsn": dsn, "migration": given, "at": 0, "how": How.BEFORE})

    def roll_back(self, dsn: str, migration: str, *, at: int = 0, how: How = How.BEFORE) -> Ended:
        return self._do({"do": "rollback", "dsn": dsn, "migration": migration, "at": at, "how": how})

    def _do(self, request: Mapping[str, object]) -> Ended:
        self.ask(request)
        return self.answer()

    def ask(self, request: Mapping[str, object]) -> None:
        """Start a command."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps(request) + "\n")
        self._parent.stdin.flush()

    def answer(self) -> Ended:
        """Wait for its end."""
        assert self._parent.stdout is not None
        answer = self._parent.stdout.readline()
        assert answer, "the process that starts the others died"
        return Ended(**json.loads(answer))


class Led:
    """A command that stands still before each round trip until it is granted some more."""

    def __init__(self, mortal: Mortal, request: Mapping[str, object]) -> None:
        self._mortal = mortal
        self._directory = tempfile.TemporaryDirectory(prefix="zdm-led-")
        path = str(Path(self._directory.name) / "s")
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
            listening.bind(path)
            listening.listen(1)
            mortal.ask({**request, "control": path})
            self._line, _ = listening.accept()
        # Not a byte beyond the line: what follows says that it stands, and may be there already.
        with self._line.makefile("rb", buffering=0) as told:
            self._pid = int(told.readline())
        self.ended: Ended | None = None
        self.standing = False
        """Whether it waits for a grant; else it works, or waits for the server."""

    def grant(self, trips: int) -> None:
        """Let it make some more round trips. It must be standing."""
        self._line.sendall(f"{trips}\n".encode())
        self.standing = False

    def look(self, seconds: float) -> None:
        """Wait until it stands or has ended, for some time."""
        if self.ended is not None or self.standing or not select.select([self._line], [], [], seconds)[0]:
            return
        if self._line.recv(1):
            self.standing = True
        else:
            self._end()

    def kill(self) -> None:
        """``kill -9``, wherever it is. It may have come to its end before; `ended` says which."""
        if self.ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._end()

    def _end(self) -> None:
        self.ended = self._mortal.answer()
        self._line.close()
        self._directory.cleanup()


# --- the process that starts the others -------------------------------------------------------------------------------


def _serve() -> None:
    for line in sys.stdin:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _live(json.loads(line), write)
        os.close(write)
        with os.fdopen(read) as pipe:
            told = pipe.read()
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            told = json.dumps(asdict(Ended(killed=True)))
        sys.stdout.write((told or json.dumps(asdict(Ended(error=f"ended with status {status}")))) + "\n")
        sys.stdout.flush()


def _live(request: dict[str, Any], write: int) -> None:
    trips = _count_trips(request["at"], How(request["how"]), request.get("control"))
    state = error = ""
    try:
        engine = Engine(request["dsn"], "public", settings=EngineSettings(workers=1))
        if request["do"] == "advance":
            result = engine.advance(Migration.model_validate(request["migration"]), restart=True)
            refused = [v for v in result.verdicts if not v.lets_through]
            state, error = result.state.value, str(refused) if refused else ""
        else:
            state = engine.rollback(request["migration"]).state.value
    except (ZdmError, psycopg.Error) as failure:
        error = f"{type(failure).__name__}: {failure}"
    os.write(write, json.dumps(asdict(Ended(trips=next(trips) - 1, state=state, error=error))).encode())
    os._exit(0)


def _count_trips(at: int, how: How, control: str | None) -> itertools.count[int]:
    trips = itertools.count(1)
    gate = _Gate(control) if control is not None else None
    wait = psycopg.Connection.wait

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(self: psycopg.Connection[Any], generator: Generator[Any, Any, Any], *rest: Any) -> Any:
        if gate is not None and not threading.current_thread().name.startswith("zdm-lease"):
            gate.pass_()
        fatal = next(trips) == at
        if fatal and how is How.BEFORE:
            die()
        if fatal and how is How.MEANWHILE:
            # It says that it waits for the socket, and sends when it is told that it may. Some have nothing to send.
            with contextlib.suppress(StopIteration):
                next(generator)
                generator.send(Ready.W)
            die()
        result = wait(self, generator, *rest)
        if fatal:
            die()
        return result

    psycopg.Connection.wait = counted  # type: ignore[method-assign, assignment]
    return trips


class _Gate:
    """Where a led command waits for grants."""

    def __init__(self, control: str) -> None:
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(control)
        self._line.sendall(f"{os.getpid()}\n".encode())
        self._granted = self._line.makefile("r")
        self._left = 0
        self._lock = threading.Lock()

    def pass_(self) -> None:
        with self._lock:
            while self._left == 0:
                self._line.sendall(b"s")
                self._left = int(self._granted.readline())
            self._left -= 1


if __name__ == "__main__":
    _serve()
