"""Whom a server runs as.

PostgreSQL refuses to run as root. As root we start it as an account that exists on every system
(``nobody``), which needs no account to be created and leaves none behind; as anybody else, as ourselves.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from zdm.errors import ZdmError

# ``initdb`` looks its user up by name, so an unused numeric id would not do.
_UNPRIVILEGED = ("nobody", "postgres", "daemon")


@dataclass(frozen=True, slots=True)
class Account:
    """A user and group id to run a server as; the groups of whoever starts it are dropped."""

    uid: int
    gid: int

    def owns(self, path: Path) -> None:
        """Give a file or directory of ours to this account."""
        os.chown(path, self.uid, self.gid)

    def reaches(self, path: Path) -> bool:
        """Whether the mode bits let this account through to `path`, and read and search it.

        Access control lists are not looked at, so this may say no too often, which costs a copy.
        """
        path = path.resolve()
        return self._may(path, 0o5) and all(self.reaches_through(parent) for parent in path.parents)

    def reaches_through(self, directory: Path) -> bool:
        """Whether the mode bits let this account through one directory to something inside it."""
        return self._may(directory, 0o1)

    def _may(self, path: Path, wanted: int) -> bool:
        status = path.stat()
        if status.st_uid == self.uid:
            granted = status.st_mode >> 6
        elif status.st_gid == self.gid:
            granted = status.st_mode >> 3
        else:
            granted = status.st_mode
        return granted & wanted == wanted


def server_account() -> Account | None:
    """The account to start servers as, or None to start them as ourselves.

    Raises
    ------
    ZdmError: we are root and no unprivileged account is usable.
    """
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        account = Account(entry.pw_uid, entry.pw_gid)
        # Inside some containers the id exists by name but is not mapped: try, rather than trust the name.
        if account.uid != 0 and _usable(account):
            return account
    raise ZdmError(
        "PostgreSQL refuses to run as root, and none of the accounts "
        f"{', '.join(_UNPRIVILEGED)} can be used to start it",
        remedy="Run as an ordinary user, or point zdm at a server that already runs.",
    )


def _usable(account: Account) -> bool:
    try:
        return spawn(["/bin/sh", "-c", ":"], account, cwd=Path("/")).wait(timeout=10) == 0
    except (OSError, subprocess.SubprocessError):
        return False


def spawn(
    argv: Sequence[str | Path],
    account: Account | None,
    *,
    cwd: Path,
    output: IO[bytes] | int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server-side program as `account`, in a session of its own, so that Ctrl-C does not reach it.

    Parameters
    ----------
    output: where standard output and error go. Never inherited: a server that outlives a test would keep
        the test runner's pipe open.
    env: the whole environment; without it, a bare one in the C locale. Ours is not passed on: ``PGDATA``
        and its like would lead the programs elsewhere.
    """
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(cwd)} if env is None else dict(env)
    return subprocess.Popen(
        [str(part) for part in argv],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        umask=0o077,
    )
