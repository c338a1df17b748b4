"""What a stored expression (`pg_node_tree` as text) mentions, by OID.

Only the fields needed here are read, so that differences between server versions do not matter. Nothing in the text can
imitate a field: constants are written as bytes, and names have their blanks escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Final

_STABLE: Final = ("SQLVALUEFUNCTION", "XMLEXPR", "JSONEXPR", "JSONCONSTRUCTOREXPR", "JSONVALUEEXPR")
"""Nodes that depend on the session without naming a function: CURRENT_DATE and its like; XML and JSON may format dates."""

_MOMENTS: Final = (
    *("CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIME", "CURRENT_TIMESTAMP", "CURRENT_TIMESTAMP"),
    *("LOCALTIME", "LOCALTIME", "LOCALTIMESTAMP", "LOCALTIMESTAMP"),
    *("CURRENT_ROLE", "CURRENT_USER", "USER", "SESSION_USER"),
)
"""What a SQLVALUEFUNCTION may be, by its number; those that follow are the same in every session of a database."""

_MOMENT: Final = re.compile(
    r"(now|transaction_timestamp|statement_timestamp|current_setting|txid_current|pg_current_xact_id)\(|age\(timestamp [a-z ]*\)$"
)
"""Functions of the server's that do the same."""

ANOTHER_LATER: Final = "is another value later: triggers, backfill and verification, which compute the value again, would never agree"
ONCE: Final = (
    "Take the value from a column, such as the one that says when the row was changed, or give a constant; what new rows get once is "
    "their column's default."
)


class Tree:
    """One stored expression."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _numbers(self, *fields: str) -> list[int]:
        found = re.findall(rf"(?<!\\) :(?:{'|'.join(fields)}) (-?\d+)(?=[ }}])", self.text)
        return [int(number) for number in found]

    @cached_property
    def functions(self) -> frozenset[int]:
        """Functions called, those behind operators included where the server has resolved them."""
        return frozenset(self._numbers("funcid", "opfuncid", "hashfuncid", "negfuncid")) - {0}

    @cached_property
    def operators(self) -> frozenset[int]:
        """Operators applied."""
        return frozenset(self._numbers("opno", "eqop")) - {0}

    @cached_property
    def types(self) -> frozenset[int]:
        """Every type mentioned."""
        fields = (
            "vartype",
            "consttype",
            "resulttype",
            "funcresulttype",
            "opresulttype",
            "casetype",
            "typeId",
        )
        return frozenset(
            self._numbers(*fields, "coalescetype", "minmaxtype", "array_typeid", "refrestype")
        ) - {0}

    @cached_property
    def converted_to(self) -> frozenset[int]:
        """Types whose text form is read: the results of casts that go through text."""
        return self._results_of("COERCEVIAIO")

    @cached_property
    def domains(self) -> frozenset[int]:
        """Domains that values are cast to."""
        return self._results_of("COERCETODOMAIN")

    def _results_of(self, node: str) -> frozenset[int]:
        # A node's own resulttype follows its argument; any later one is of an outer node, and taking too many is safe.
        if "{" + node not in self.text:
            return frozenset()
        return frozenset(self._numbers("resulttype"))

    @cached_property
    def attributes(self) -> frozenset[int]:
        """Columns read, by number: 0 is the whole row, negative ones are system columns."""
        return frozenset(self._numbers("varattno"))

    @cached_property
    def minimum(self) -> int:
        """The volatility that nodes without a function bring: 0 immutable, 1 stable, 2 volatile."""
        if "{NEXTVALUEEXPR" in self.text:
            return 2
        return int(any("{" + node in self.text for node in _STABLE))

    def moments(self, functions: Iterable[str]) -> list[str]:
        """What in it depends on when, or by whom, it is asked for, though it is no more than stable.

        Parameters
        ----------
        functions: the signatures of what it calls.
        """
        found = (int(number) for number in re.findall(r"\{SQLVALUEFUNCTION :op (\d+)", self.text))
        named = {_MOMENTS[number] for number in found if number < len(_MOMENTS)}
        return sorted({*named, *(signature for signature in functions if _MOMENT.match(signature))})

    @cached_property
    def meaning(self) -> tuple[tuple[int, ...], ...]:
        """What must be equal for two texts to mean the same: which columns, functions, operators, types they use."""
        opno, functions = self._numbers("opno", "opnos", "eqop"), self._numbers("funcid")
        return (
            tuple(sorted(opno)),
            tuple(sorted(functions)),
            tuple(sorted(self._numbers("varattno"))),
        )
