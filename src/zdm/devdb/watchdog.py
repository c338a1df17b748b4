"""Clears up after a development server whose starter died without a chance to do so (``kill -9``).

Runs as a process of its own, with nothing but the standard library, and not even its site packages::

    python -I -S watchdog.py DIRECTORY

It reads ``+PID`` and ``-PID`` lines on standard input: processes that were started and that ended. When the
input ends, its starter is gone, by whatever death: the pipe is closed by the kernel. It then stops what still
runs and removes the directory. A pipe does this on every system, for files as well as processes, and does
not depend on the thread that started the server, as Linux' parent-death signal does.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

#: Seconds a server gets for an immediate shutdown, in which it releases its shared memory.
_GRACE = 5.0


def _is_ours(pid: int, directory: Path) -> bool:
    """Whether `pid` still is the process that was started in `directory`, and not a later one of that number."""
    try:
        where = Path(f"/proc/{pid}/cwd").readlink()
    except FileNotFoundError:
        return not Path("/proc/self").exists() and _alive(pid)
    except OSError:
        return False
    return where.is_relative_to(directory)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _end(pid: int, directory: Path) -> None:
    for sign, seconds in ((signal.SIGQUIT, _GRACE), (signal.SIGKILL, _GRACE)):
        deadline = time.monotonic() + seconds
        if not _is_ours(pid, directory):
            return
        try:
            os.kill(pid, sign)
            os.kill(pid, signal.SIGCONT)
        except OSError:
            return
        while _is_ours(pid, directory) and time.monotonic() < deadline:
            time.sleep(0.02)


def main() -> None:
    """Read until the starter is gone, then clear up."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.SIG_IGN)
    directory = Path(sys.argv[1]).resolve()
    running: dict[int, None] = {}
    for line in sys.stdin:
        pid = int(line[1:])
        if line.startswith("+"):
            running[pid] = None
        else:
            running.pop(pid, None)
    for pid in reversed(running):
        _end(pid, directory)
    # Children of a killed server may still write for a moment.
    deadline = time.monotonic() + _GRACE
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        if directory.exists():
            time.sleep(0.05)


if __name__ == "__main__":
    main()
