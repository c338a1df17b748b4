"""Every error a person can meet, in one place, each with its exit code.

The tree::

    ZdmError               1  something failed; the state says where, re-running continues
    ├── BadInput           2  a file, an option or the schema it names is wrong; nothing changed
    ├── GateRefused        3  at least one gate said no
    ├── Busy               4  somebody else holds the rollout, or a lock could not be had in time
    ├── Drift              5  the database is not what zdm left behind
    ├── IllegalMove        2  the phase machine does not allow this from the present state
    └── Interrupted        1  a person or a signal stopped the work; re-running continues
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, with where it was found and what to do about it.

    Parameters
    ----------
    what: what was found, and what was needed instead.
    where: ``file:line`` of a migration file, or the name of a database object; empty if neither fits.
    remedy: what the reader can do; empty only where `what` already says it.
    rule: the slug of the page under ``docs/refusals/`` that explains the refusal, if there is one.
    """

    what: str
    where: str = ""
    remedy: str = ""
    rule: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n    {self.remedy}" if self.remedy else text


class ZdmError(Exception):
    """Something failed. Shown without a traceback unless ``--debug`` is given.

    Parameters
    ----------
    message: what was found and what was needed.
    remedy: what to do now.
    changed: whether the database was changed before the failure, in words; empty if nothing was.
    problems: the single findings, when there is more than one.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, remedy: str = "", changed: str = "", problems: Sequence[Problem] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.changed = changed
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = [self.message]
        lines += [f"  - {problem}" for problem in self.problems]
        if self.remedy:
            lines.append(self.remedy)
        if self.changed:
            lines.append(self.changed)
        return "\n".join(lines)


class BadInput(ZdmError):
    """A file, an option, or the schema it names is wrong. Nothing was changed."""

    exit_code = 2


def of_another_version(what: str, error: ValidationError) -> BadInput:
    """What the catalog holds cannot be read by this zdm.

    Parameters
    ----------
    what: what it is, as a sentence begins.
    """
    said = error.errors()[0]["msg"].removeprefix("Value error, ")
    return BadInput(
        f"{what} was written by another version of zdm: {said}",
        remedy="Go on with that version, or upgrade zdm on this machine.",
        changed="Nothing was changed.",
    )


class IllegalMove(ZdmError):
    """The phase machine does not allow this move from the present state. Nothing was changed."""

    exit_code = 2


class GateRefused(ZdmError):
    """At least one gate of the move said no. All verdicts are stored and shown."""

    exit_code = 3


class Busy(ZdmError):
    """Somebody else holds the rollout, or a lock could not be had within its bounds. Try again later."""

    exit_code = 4


class Drift(ZdmError):
    """The database is not what zdm left behind: an object was changed, removed or added by somebody else."""

    exit_code = 5


class Interrupted(ZdmError):
    """A person or a signal stopped the work. Whatever was committed stays; re-running continues."""
