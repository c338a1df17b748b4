"""Of a mapping that is synced by log, fields of a document: which of them differ between two versions of a row, and how they are put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg import sql

from zdm.model.row_mapping import MirroredColumn, Part
from zdm.sql import row_conditions
from zdm.sql.identifiers import column, differs, type_name
from zdm.sql.rows import render

Numbered = Mapping[int, Part]
"""The parts that are fields, by their numbers."""


def fields(parts: Sequence[Part]) -> dict[int, Part]:
    """Those of the parts that are fields of a document, which their numbers name from 1 on."""
    return {number: part for number, part in enumerate(parts, 1) if part.field}


def emptied(parts: Numbered) -> sql.Composable:
    """Statements that take every field out of a version of the row."""
    return sql.SQL("\n").join(
        sql.SQL("    {} := {};").format(column(c.name, "zdm_before"), row_conditions.empty(c, "zdm_after"))
        for c in _documents(parts)
    )


def compared(parts: Numbered) -> sql.Composable:
    """Statements that collect the numbers of those that differ; what cannot be computed may be anything."""
    found: list[sql.Composable] = []
    for number, part in parts.items():
        (c,) = part.new
        before, after = (
            sql.SQL("CAST({} AS {})").format(render(c.value, alias), type_name(c.type))
            for alias in ("zdm_before", "zdm_after")
        )
        noted = sql.SQL("zdm_found := zdm_found OPERATOR(pg_catalog.||) {};").format(sql.Literal(number))
        found.append(
            sql.SQL(
                "  BEGIN\n    IF {differ} THEN\n      {noted}\n    END IF;\n  EXCEPTION\n"
                "    WHEN transaction_rollback OR insufficient_resources OR operator_intervention OR system_error THEN RAISE;\n"
                "    WHEN OTHERS THEN {noted}\n  END;"
            ).format(differ=differs(before, after, c.comparison, c.type), noted=noted)
        )
    return sql.SQL("\n").join(found)


def put_back(parts: Numbered, new: str) -> list[sql.Composable]:
    """The SET list that makes documents hold the fields of the new side's row, besides what they hold at that moment."""
    return [
        sql.SQL("{} = {}").format(column(c.name), render(c.value, new, "zdm_t")) for c in _documents(parts)
    ]


def _documents(parts: Numbered) -> list[MirroredColumn]:
    return list({part.old[0].name: part.old[0] for part in parts.values()}.values())
