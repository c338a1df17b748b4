"""What a gate answers."""

from __future__ import annotations

from enum import StrEnum

from zdm.model.names import Value


class Answer(StrEnum):
    """A gate's answer. What cannot be read refuses: UNREADABLE never lets a move through."""

    PASSED = "passed"
    REFUSED = "refused"
    UNREADABLE = "unreadable"
    SKIPPED = "skipped"  # switched off by the migration file or a flag, and recorded as such


class Verdict(Value):
    """One gate's answer, with what it saw.

    Parameters
    ----------
    gate: the gate's name, as in phases/*.toml and the migration file's ``gates``.
    observed / threshold: for people, with units, for example ``3.2 s behind on replica_a`` / ``at most 5 s``.
    remedy: what to do now; empty if passed.
    """

    gate: str
    answer: Answer
    observed: str
    threshold: str
    remedy: str = ""

    @property
    def lets_through(self) -> bool:
        """Whether the move may go on as far as this gate is concerned."""
        return self.answer in (Answer.PASSED, Answer.SKIPPED)
