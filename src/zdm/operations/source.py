"""Where in a migration file something stands: the file, its text, and the line of every key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from zdm.errors import Problem

Trail = tuple[str | int, ...]
"""Where a value lies in the document: keys and list positions from the root."""

_LABEL = re.compile(
    r"(?P<position>\d+):(?P<kind>[a-z_]+)(?P<keys>(?:\.[A-Za-z0-9_]+)*)(?:/[^ :]*)?(?:[ :]+(?P<rest>.*))?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Source:
    """One file as it was read: its name for people, its text, and the line of every key and list item."""

    name: str
    text: str = ""
    lines: Mapping[Trail, int] = field(default_factory=dict)

    def place(self, trail: Trail = ()) -> str:
        """``file:line`` of the value at `trail`, or of the nearest thing around it; only the file where neither is known."""
        for end in range(len(trail), -1, -1):
            line = self.lines.get(trail[:end])
            if line is not None:
                return f"{self.name}:{line}"
        return self.name

    def line(self, problem: Problem) -> float:
        """The line of the file that a problem names; beyond the end if it names none."""
        found = re.match(rf"{re.escape(self.name)}:(\d+)", problem.where)
        return int(found[1]) if found is not None else float("inf")

    def locate(self, problem: Problem) -> Problem:
        """The same problem with file and line, if its `where` is an operation's label (``2:split_column``).

        The label may name a key below the operation (``2:split_column.into``), or an operation that it uses (``2:merge_tables/drop``); text after
        a space is kept.
        """
        found = _LABEL.fullmatch(problem.where)
        if found is None:
            return problem
        keys = tuple(k for k in found["keys"].split(".") if k)
        trail: Trail = ("operations", int(found["position"]) - 1, found["kind"], *keys)
        rest = f" {found['rest']}" if found["rest"] else ""
        return Problem(problem.what, f"{self.place(trail)}{rest}", problem.remedy, problem.rule)
