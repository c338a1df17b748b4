"""The one place that finds ``phases/``, ``triggers/`` and ``migrations/``.

In a checkout (and so in an editable install) they lie at the top of the repository, where people look for
them; a wheel carries them as ``zdm/_data/<folder>``. Everybody else asks here and never builds such a path.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, Literal, get_args

from zdm.errors import ZdmError

Folder = Literal["phases", "triggers", "migrations"]

#: The data folders, in the order in which the documentation names them.
FOLDERS: Final[tuple[Folder, ...]] = get_args(Folder)

_PACKAGE: Final = Path(__file__).resolve().parent


@cache
def folder(name: Folder) -> Path:
    """Where a data folder lies on this installation.

    Raises
    ------
    ZdmError: the folder is in neither place: the installation is incomplete.
    """
    # The wheel's copy first: a stray directory named "phases" two levels above site-packages is not ours.
    installed = _PACKAGE / "_data" / name
    if installed.is_dir():
        return installed
    checkout = _PACKAGE.parent.parent / name
    if checkout.is_dir():
        return checkout
    raise ZdmError(
        f"zdm's own folder {name!r} is missing: looked for {installed} and {checkout}",
        remedy="Install zdm again; the installation is incomplete.",
    )


def phases() -> Path:
    """The folder of the four phase definitions (``1_preparation.toml`` … ``4_cleanup.toml``)."""
    return folder("phases")


def triggers() -> Path:
    """The folder of the SQL templates of sync functions and triggers."""
    return folder("triggers")


def migrations() -> Path:
    """The Alembic script location of zdm's own catalog."""
    return folder("migrations")


def read_text(name: Folder, file: str) -> str:
    """The text of one file of a data folder.

    Parameters
    ----------
    file: the file's name, relative to the folder; it may not leave it.

    Raises
    ------
    ZdmError: there is no such file.
    """
    base = folder(name)
    path = (base / file).resolve()
    if not path.is_relative_to(base.resolve()) or not path.is_file():
        raise ZdmError(f"there is no file {file!r} in zdm's folder {name!r}")
    return path.read_text(encoding="utf-8")
