"""Functions whose bodies name a replaced column: found by their words only, so they are told, not refused."""

from __future__ import annotations

from collections.abc import Iterable

from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Severity
from zdm.model.requests import Mention
from zdm.operations.base import Draft


def replaced_columns(draft: Draft) -> list[tuple[QualifiedName, int, str]]:
    """Every column that cleanup replaces or removes, with its table's name and number."""
    return [
        (shape.name, shape.table.oid, column)
        for shape in draft.shapes.values()
        if not shape.dropped
        for column in shape.replaced()
    ]


def mentioned(draft: Draft, mentions: Iterable[Mention]) -> list[Finding]:
    """One warning for each column that functions seem to name."""
    found: dict[tuple[QualifiedName, str], list[str]] = {}
    for mention in mentions:
        found.setdefault((mention.table, mention.column), []).append(mention.function)
    warnings = []
    for (table, column), functions in found.items():
        shape = draft.shapes[table]
        new = shape.successor(column)
        after = f"{new.final} of type {new.type}" if new is not None else "no such column"
        warnings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"the bodies of {', '.join(functions)} seem to name {column} of {table}: they find the old column until "
                f"cleanup, and {after} from then on; only their words were looked at",
                where=shape.replaced()[column],
                rule="function-names-column",
            )
        )
    return warnings
