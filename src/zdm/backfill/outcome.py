"""What an error of the server means for a chunk."""

from __future__ import annotations

from enum import Enum, auto

import psycopg

from zdm.db.session import OutcomeUnknown


class Trouble(Enum):
    """What stopped a chunk."""

    LOCKED = auto()  # somebody holds a row: smaller pieces, then around it
    SLOW = auto()  # the server cut it off: smaller pieces
    CONFLICT = auto()  # a deadlock or a serialization error: the same again
    RAISED = auto()  # an expression raised: through the triggers, which catch it row by row
    LOST = auto()  # the connection is gone: connect again
    FATAL = auto()  # nothing that we could do would help


_NOT_OF_A_ROW = frozenset({"25", "28", "3D", "40", "53", "55", "57", "58", "F0"})
"""Classes of errors that no value of a row causes. Any other may come out of an expression, or a function it calls."""

_LOST = frozenset({"57P01", "57P02", "57P03", "25P03", "25P04"})


def classify(error: psycopg.Error | OutcomeUnknown, conn: psycopg.Connection[object]) -> Trouble:
    """What to do about an error."""
    if isinstance(error, OutcomeUnknown) or conn.closed or conn.broken:
        return Trouble.LOST
    state = error.sqlstate or ""
    match state:
        case "55P03":
            return Trouble.LOCKED
        case "57014":
            return Trouble.SLOW
        case "40P01" | "40001":
            return Trouble.CONFLICT
    if state in _LOST or state.startswith("08") or not state:
        return Trouble.LOST
    return Trouble.FATAL if state[:2] in _NOT_OF_A_ROW else Trouble.RAISED
