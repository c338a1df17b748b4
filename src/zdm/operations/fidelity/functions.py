"""Functions whose bodies name a column that is replaced, or a table that goes: found by their words only, so they are told, not refused."""

from __future__ import annotations

from collections.abc import Iterable

from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Severity
from zdm.model.requests import Mention, TableMention
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


def gone_tables(draft: Draft) -> list[tuple[QualifiedName, int]]:
    """Every table that nothing goes by the name of after cleanup, and its number."""
    replaced = {rows.old.table for rows in draft.rows if rows.replaces}
    return [
        (shape.name, shape.table.oid)
        for shape in draft.shapes.values()
        if shape.name not in replaced and (shape.dropped or shape.final_name != shape.name.name)
    ]


def mentioned_tables(draft: Draft, mentions: Iterable[TableMention]) -> list[Finding]:
    """One warning for each table that functions seem to name."""
    found: dict[QualifiedName, list[TableMention]] = {}
    for mention in mentions:
        found.setdefault(mention.table, []).append(mention)
    warnings = []
    for table, named in found.items():
        shape = draft.shapes[table]
        ends = "which cleanup drops" if shape.dropped else f"which is called {shape.final_name} after cleanup"
        triggers = list(dict.fromkeys(trigger for mention in named for trigger in mention.triggers))
        calling = f" Triggers that call them: {', '.join(triggers)}." if triggers else ""
        warnings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"the bodies of {', '.join(m.function for m in named)} seem to name {table}, {ends}: they fail from then on, and "
                f"whatever statement calls them; only their words were looked at.{calling}",
                rule="function-names-table",
            )
        )
    return warnings
