"""What a stored expression (`pg_node_tree` as text) mentions, by OID.

Only the fields needed here are read, so that differences between server versions do not matter. Nothing in the text can
imitate a field: constants are written as bytes, and names have their blanks escaped.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Final

_STABLE: Final = ("SQLVALUEFUNCTION", "XMLEXPR", "JSONEXPR", "JSONCONSTRUCTOREXPR", "JSONVALUEEXPR")
"""Nodes that depend on the session without naming a function: CURRENT_DATE and its like; XML and JSON may format dates."""


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

    @cached_property
    def meaning(self) -> tuple[tuple[int, ...], ...]:
        """What must be equal for two texts to mean the same: which columns, functions, operators, types they use."""
        opno, functions = self._numbers("opno", "opnos", "eqop"), self._numbers("funcid")
        return (
            tuple(sorted(opno)),
            tuple(sorted(functions)),
            tuple(sorted(self._numbers("varattno"))),
        )
