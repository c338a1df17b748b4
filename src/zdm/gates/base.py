"""What a gate is: a value (its parameters are its fields) that answers one question about a move.

To add one, write ``src/zdm/gates/<name>.py`` with one subclass of `Gate` whose `name` is ``<name>``; it is found by
discovery (`zdm.gates.registry`). Name it in the phases/*.toml that it shall guard, and describe it in docs/gates/<name>.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import model_validator

from zdm.gates.context import GateContext
from zdm.model.names import Value
from zdm.model.verdict import Answer, Verdict


class Gate(Value, ABC):
    """One question. The fields of a subclass are its parameters, each with a default and a description.

    Attributes
    ----------
    name: as in phases/*.toml and in the migration file's ``gates``.
    asks: the question, for people.
    scalar: the parameter that a bare value means: ``soak: 24h`` is ``soak: {min: 24h}``; None if there is no short form.
    """

    name: ClassVar[str]
    asks: ClassVar[str]
    scalar: ClassVar[str | None] = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if value is None or value is True:
            return {}
        if isinstance(value, dict | Gate):
            return value
        if cls.scalar is None:
            raise ValueError(f"{cls.name} has no short form; write its parameters below it, or off")
        return {cls.scalar: value}

    @abstractmethod
    def evaluate(self, ctx: GateContext) -> Verdict:
        """Answer the question. What cannot be read raises, or is `unreadable`; it never passes."""

    def passed(self, observed: str, threshold: str) -> Verdict:
        """Yes."""
        return Verdict(gate=self.name, answer=Answer.PASSED, observed=observed, threshold=threshold)

    def refused(self, observed: str, threshold: str, remedy: str) -> Verdict:
        """No, and what to do now."""
        return Verdict(
            gate=self.name, answer=Answer.REFUSED, observed=observed, threshold=threshold, remedy=remedy
        )

    def unreadable(self, observed: str, threshold: str, remedy: str) -> Verdict:
        """It cannot be told, which refuses as well."""
        return Verdict(
            gate=self.name, answer=Answer.UNREADABLE, observed=observed, threshold=threshold, remedy=remedy
        )


def enumerated(names: list[str], limit: int = 3) -> str:
    """``a, b, c and 4 more``: a list that stays readable however long it is."""
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 row``, ``2 rows``, ``0 rows``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
