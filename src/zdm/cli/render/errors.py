"""An error as text, and as the ``error`` of a JSON answer."""

from __future__ import annotations

from typing import Any

from zdm.cli.render.text import bad, indented, joined
from zdm.errors import Busy, Problem, ZdmError


def error_text(error: ZdmError) -> str:
    """What was found, each problem with place and remedy, what to do, and what is left."""
    label = "Busy:" if isinstance(error, Busy) else "Error:"
    blocks = [f"{bad(label)} {error.message}"]
    blocks += [indented(_problem(p), 2) for p in error.problems]
    tail = [text for text in (error.remedy, error.changed) if text]
    return (
        joined(blocks)
        + ("\n" + "\n".join(tail) if tail and not error.problems else "")
        + ("\n\n" + "\n".join(tail) if tail and error.problems else "")
    )


def _problem(problem: Problem) -> str:
    lines = [f"{problem.where}: {problem.what}" if problem.where else problem.what]
    if problem.remedy:
        lines.append(indented(problem.remedy, 4))
    if problem.rule:
        lines.append(indented(f"why: docs/refusals/{problem.rule}.md", 4))
    return "\n".join(lines)


def error_values(error: ZdmError) -> dict[str, Any]:
    """The same for a script. `type` is the class's name in snake case, as the documentation lists them.

    What a lower layer makes of one of them for its own use is still that one.
    """
    name = next(c.__name__ for c in type(error).__mro__ if c.__module__ == ZdmError.__module__)
    kind = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
    return {
        "type": "failed" if kind == "zdm_error" else kind,
        "message": error.message,
        "remedy": error.remedy,
        "changed": error.changed,
        "problems": [
            {"what": p.what, "where": p.where, "remedy": p.remedy, "rule": p.rule} for p in error.problems
        ],
    }
