"""Which migration a person means on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from zdm.errors import BadInput, Problem
from zdm.operations import loader
from zdm.operations.loader import GateCheck, Loaded


def gate_check() -> GateCheck:
    """What checks the ``gates`` of a file."""
    from zdm.gates.registry import check_overrides

    return check_overrides


def find(argument: str, directory: Path) -> Loaded | str:
    """A file's path, the id of a file in `directory`, else the argument itself: an id that the database may know."""
    path = as_path(argument)
    if path is not None:
        return loader.read(path, check_gates=gate_check())
    files = with_id(argument, directory)
    if len(files) > 1:
        raise BadInput(
            f"the id {argument!r} is in more than one file",
            problems=[Problem("it is here", loader.display(f)) for f in files],
            remedy="Give each migration an id of its own, or name the file.",
        )
    return loader.read(files[0], check_gates=gate_check()) if files else argument


def find_file(argument: str, directory: Path) -> Loaded:
    """As `find`, but only what has a file. Raises `BadInput` with the ids that there are."""
    found = find(argument, directory)
    if isinstance(found, Loaded):
        return found
    known = ids(directory)
    close = get_close_matches(argument, known, n=1)
    if close:
        remedy = f"Did you mean {close[0]!r}?"
    elif known:
        remedy = f"{loader.display(directory)} has {', '.join(known)}."
    else:
        remedy = f"Name the file, or put it into {loader.display(directory)}."
    raise BadInput(f"there is no migration file with the id {argument!r}", remedy=remedy)


def find_id(argument: str) -> str:
    """The id that a path or an id means. A file with errors is good enough: its rollout may have to be stopped."""
    path = as_path(argument)
    return argument if path is None else loader.peek_id(path) or loader.read(path).migration.id


def with_id(identifier: str, directory: Path) -> list[Path]:
    """The files of `directory` whose top-level ``id`` is `identifier`, however broken they or others are."""
    if not directory.is_dir():
        return []
    return [f for f in loader.migration_files(directory) if loader.peek_id(f) == identifier]


def ids(directory: Path) -> Sequence[str]:
    """The ids of the files in `directory`."""
    if not directory.is_dir():
        return []
    return [found for f in loader.migration_files(directory) if (found := loader.peek_id(f))]


def as_path(argument: str) -> Path | None:
    """The argument as a path if it means a file: it ends as one, holds a slash, or is there."""
    path = Path(argument)
    looks = argument.endswith((".yaml", ".yml")) or "/" in argument
    try:
        return path if looks or path.is_file() else None
    except OSError:  # no file can be called so
        return None
