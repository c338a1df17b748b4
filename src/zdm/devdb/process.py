"""The operating system's side of a server: its directory, its processes, and their end."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import SystemRandom
from typing import IO

from zdm.devdb.account import Account, spawn
from zdm.errors import ZdmError

# sun_path holds 108 bytes on Linux and 104 on macOS, with the closing zero byte.
_SOCKET_PATH_LIMIT = 103

#: Below the range from which Linux and macOS take the local ports of outgoing connections: while a server
#: restarts, nobody is handed its port by chance.
_PORTS = range(20_000, 32_000)


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Poll `condition` until it is true.

    Raises
    ------
    ZdmError: it was not within `seconds`; `what` names what was waited for.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ZdmError(f"waited {seconds:g} s for {what}, in vain")
        time.sleep(0.01)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    pick = SystemRandom()
    for _ in range(200):
        port = pick.choice(_PORTS)
        with socket.socket() as probe:
            # Without it a port whose last connection was closed a moment ago would look taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ZdmError(f"no free TCP port found between {_PORTS.start} and {_PORTS.stop}")


class Home:
    """A fresh directory of one server, a watchdog over it, and the processes started in it.

    Parameters
    ----------
    account: whom the directory belongs to and the processes run as; None for ourselves.
    place: where the directory is made, if that can be.
    """

    def __init__(self, account: Account | None, place: Path | None = None) -> None:
        self.account = account
        self.directory = _fresh_directory(account, place)
        # The watchdog keeps our own account: it must be able to end and remove what the server's account owns.
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("watchdog.py")), str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def spawn(self, argv: Sequence[str | Path], output: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Start a program here; the watchdog ends it should we die."""
        process = spawn(argv, self.account, cwd=self.directory, output=output)
        self._tell(f"+{process.pid}\n")
        return process

    def ended(self, process: subprocess.Popen[bytes]) -> None:
        """Tell the watchdog that a process of :meth:`spawn` was waited for."""
        self._tell(f"-{process.pid}\n")

    def run(self, argv: Sequence[str | Path], *, seconds: float) -> str:
        """Run a program here to its end, and return what it printed.

        Raises
        ------
        ZdmError: it failed, or took longer than `seconds`.
        """
        name = Path(str(argv[0])).name
        with tempfile.TemporaryFile() as output:
            process = self.spawn(argv, output)
            try:
                code = process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                raise ZdmError(f"{name} took longer than {seconds:g} s") from None
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                self.ended(process)
            output.seek(0)
            text = output.read().decode(errors="replace")
        if code != 0:
            raise ZdmError(f"{name} failed with exit code {code}:\n{text.strip()}")
        return text

    def write(self, path: Path, text: str) -> None:
        """Write a file that only the server's account may read."""
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        if self.account:
            self.account.owns(path)

    def remove(self) -> None:
        """Remove the directory and let the watchdog go. The processes must have ended."""
        shutil.rmtree(self.directory, ignore_errors=True)
        pipe = self._watchdog.stdin
        if pipe is not None and not pipe.closed:
            pipe.close()
        self._watchdog.wait(timeout=30)

    def _tell(self, line: str) -> None:
        pipe = self._watchdog.stdin
        assert pipe is not None
        try:
            pipe.write(line.encode())
            pipe.flush()
        except (BrokenPipeError, ValueError):
            # Somebody ended the watchdog. What it would have done at the end, closing still does.
            return


def _fresh_directory(account: Account | None, place: Path | None) -> Path:
    """A new directory that is short enough for a socket and that `account` reaches."""
    first = [] if place is None else [str(place)]
    places = dict.fromkeys([*first, tempfile.gettempdir(), "/tmp", "/var/tmp"])  # noqa: S108
    for tried in places:
        try:
            made = Path(tempfile.mkdtemp(prefix="zdm-pg-", dir=tried)).resolve()
        except OSError:
            continue
        reached = account is None or all(account.reaches_through(parent) for parent in made.parents)
        if reached and len(os.fsencode(made / ".s.PGSQL.65535")) <= _SOCKET_PATH_LIMIT:
            if account:
                account.owns(made)
            return made
        made.rmdir()
    raise ZdmError(
        f"no usable temporary directory: tried {', '.join(places)}",
        remedy=f"Set TMPDIR to a directory of at most {_SOCKET_PATH_LIMIT - 40} characters that everybody can enter.",
    )


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        return [int(entry.name) for entry in proc.iterdir() if entry.name.isdigit() and _parent(entry) == pid]
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout
    pairs = (line.split() for line in listing.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


def _stat(entry: Path) -> list[str]:
    """The fields of /proc/PID/stat after the command's name: state, parent, …; empty if the process is gone."""
    try:
        text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The name stands in parentheses and may hold spaces and parentheses itself.
    return text.rpartition(")")[2].split()


def _parent(entry: Path) -> int:
    fields = _stat(entry)
    return int(fields[1]) if fields else -1


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a mere zombie that nobody waited for."""
    if Path("/proc/self/stat").exists():
        fields = _stat(Path("/proc") / str(pid))
        return bool(fields) and fields[0] not in "ZX"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End a server and all its backends at one instant, as a power cut of that server would.

    Every backend is in a session of its own, so killing the process group would leave them running on.
    """
    # Stopped first: a server that runs would start new children while we count them.
    os.kill(process.pid, signal.SIGSTOP)
    family = [*children(process.pid), process.pid]
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    wait_until(
        lambda: not any(is_running(pid) for pid in family), seconds=30, what="killed backends to disappear"
    )


def shared_memory(pid: int) -> set[Path]:
    """The POSIX shared memory files that a server and its backends have open (Linux; elsewhere none)."""
    found: set[Path] = set()
    pattern = r"/dev/shm/PostgreSQL\.\d+"  # noqa: S108
    for member in (pid, *children(pid)):
        try:
            maps = Path(f"/proc/{member}/maps").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found.update(Path(name) for name in re.findall(pattern, maps))
    return found


def release_shared_memory(files: Iterable[Path], lock_file: Path) -> None:
    """Release what a killed server could not, as its next start would have done.

    Parameters
    ----------
    files: what :func:`shared_memory` found before it was killed.
    lock_file: its ``postmaster.pid``, whose seventh line names the System V segment.
    """
    for file in files:
        file.unlink(missing_ok=True)
    try:
        segment = int(lock_file.read_text(encoding="utf-8").splitlines()[6].split()[1])
        libc = ctypes.CDLL(None, use_errno=True)
    except (OSError, IndexError, ValueError):
        return
    remove_id = 0  # IPC_RMID
    libc.shmctl(segment, remove_id, None)
