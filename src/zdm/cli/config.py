"""Where settings come from: an option before the environment before ``zdm.toml``, which is searched upward."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from zdm.errors import BadInput, Problem

FILE = "zdm.toml"
URL_VARIABLE = "ZDM_DATABASE_URL"

KEYS: dict[str, str] = {
    "url": "connection URL of the database",
    "target": "the schema that migrations roll out to",
    "migrations": "directory of the migration files, relative to this file",
    "replicas": "connection URLs of replicas whose lag is read directly",
    "lock_budget": "the longest a statement of the applications may wait for zdm; where zdm needs several locks at once, "
    "no more than half of the server's `deadlock_timeout` counts",
    "lock_timeout_total": "how long one step keeps trying to get its locks",
    "workers": "parallel workers of a backfill",
    "lease": "how long a rollout stays held by a process that died",
    "throttle": "when a backfill slows down: a table of its own, see below",
}
"""Every key of zdm.toml, in the order of the documentation. Those that are not url, target or migrations are the engine's."""

ENGINE_KEYS = ("replicas", "lock_budget", "lock_timeout_total", "workers", "lease", "throttle")

THROTTLE_KEYS: dict[str, tuple[str, str]] = {
    "max_lag": ("the most that any replica may be behind", "5s"),
    "replicas": ("connection URLs of replicas that are asked themselves, if not those of the key above", ""),
    "max_archive_backlog": ("the most WAL segments that may wait to be archived", "42"),
    "max_active": ("the most statements of others that may be running at a time", "off"),
    "nice": ("rest this many times as long as the last chunk took", "0"),
}
"""The keys of ``[throttle]``, their meaning and their default."""

SIGNALS = ("max_lag", "max_archive_backlog", "max_active")
"""Those that ``"off"`` switches off."""


@dataclass(frozen=True, slots=True)
class Config:
    """What ``zdm.toml`` says; empty if there is none."""

    path: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    text: str = field(default="", repr=False)

    def place(self, trail: Sequence[object]) -> str:
        """``file:line`` of a key, such as ``("throttle", "max_lag")``; empty if it is not in the file."""
        if self.path is None or not trail or trail[0] not in self.values:
            return ""
        return f"{self.path}:{_line(self.text, *(str(part) for part in trail[:2]))}"

    @property
    def directory(self) -> Path:
        """The directory that relative paths in it start from."""
        return self.path.parent if self.path else Path()

    @property
    def migrations(self) -> Path:
        """The directory of the migration files; it need not exist."""
        return self.directory / str(self.values.get("migrations", "migrations"))

    @property
    def engine(self) -> dict[str, Any]:
        """The engine's settings among the keys; ``"off"`` of a signal as None."""
        found = {key: self.values[key] for key in ENGINE_KEYS if key in self.values}
        if "throttle" in found:
            found["throttle"] = {
                key: None if key in SIGNALS and (value == "off" or value is False) else value
                for key, value in found["throttle"].items()
            }
        return found


def find(start: Path | None = None) -> Path | None:
    """The nearest ``zdm.toml`` in the working directory or above it."""
    try:
        here = (start or Path.cwd()).resolve()
    except OSError:
        return None
    return next((d / FILE for d in (here, *here.parents) if (d / FILE).is_file()), None)


def read(path: Path) -> Config:
    """The settings in `path`. Raises `BadInput` with everything that is wrong with it, never repeating a value of ``url``."""
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from None
    problems: list[Problem] = []
    for key, value in values.items():
        where = f"{path}:{_line(text, key)}"
        if key not in KEYS:
            problems.append(_unknown(key, KEYS, where))
        elif key == "throttle" and not isinstance(value, dict):
            problems.append(Problem("throttle must be a table: write its keys below [throttle]", where))
        elif key == "throttle":
            problems += [
                _unknown(inner, THROTTLE_KEYS, f"{path}:{_line(text, key, inner)}", " of [throttle]")
                for inner in value
                if inner not in THROTTLE_KEYS
            ]
        elif key == "replicas" and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            problems.append(Problem("replicas must be a list of connection URLs", where))
        elif key in ("url", "target", "migrations") and not (isinstance(value, str) and value):
            problems.append(Problem(f"{key} must be text", where))
        elif key == "workers" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            problems.append(Problem("workers must be a whole number of 1 or more", where))
    if problems:
        raise BadInput(f"{path} is not valid", problems=problems)
    return Config(path.resolve(), values, text)


def _unknown(key: str, known: Mapping[str, object], where: str, of: str = "") -> Problem:
    close = get_close_matches(key, known, n=1)
    remedy = f"Did you mean {close[0]!r}?" if close else f"Keys are {', '.join(known)}."
    return Problem(f"unknown key {key!r}{of}", where, remedy)


def load(explicit: str | None) -> Config:
    """The file named with ``--config``, else the nearest one, else nothing."""
    path = Path(explicit) if explicit else find()
    return read(path) if path else Config()


def url_of_environment() -> str | None:
    """The URL in the environment, if there is one that is not empty."""
    return os.environ.get(URL_VARIABLE) or None


def _line(text: str, key: str, inner: str = "") -> int:
    """The line of a key, or of a key in the table called `key`: below its header, or in the line that assigns it."""
    found = re.search(rf"^\s*\[?\s*[\"']?{re.escape(key)}\b", text, re.MULTILINE)
    if found is None:
        return 1
    if inner:
        below = re.compile(rf"(^\s*|[{{,.]\s*)[\"']?{re.escape(inner)}[\"']?\s*=", re.MULTILINE)
        found = below.search(text, found.end()) or found
    return text.count("\n", 0, found.end()) + 1
