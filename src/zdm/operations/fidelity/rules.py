"""Rules of tables whose rows are written: a rule rewrites statements, zdm's own among them, so nothing could be relied on."""

from __future__ import annotations

from zdm.errors import Problem
from zdm.model.table import Rule
from zdm.operations.base import Draft

_REMEDY = (
    "Use a trigger instead, which sees rows and not statements; or switch the rule off until cleanup "
    "(ALTER TABLE … DISABLE RULE …)."
)


def review_rules(draft: Draft) -> list[Problem]:
    """Refuse rules that would rewrite what the backfill, the repair or a mirror writes."""
    found: dict[str, Problem] = {}
    for shape in draft.shapes.values():
        if shape.groups:
            _refuse(found, shape.table.rules, {"update"}, shape.groups[0].operation)
    for rows in draft.rows:
        for side in (rows.old, rows.new):
            table = draft.tables.get(side.table)
            if table is not None:
                _refuse(found, table.rules, {"insert", "update", "delete"}, rows.operation)
    return list(found.values())


def _refuse(found: dict[str, Problem], rules: tuple[Rule, ...], events: set[str], where: str) -> None:
    for rule in rules:
        if rule.event in events and rule.name not in found:
            found[rule.name] = Problem(
                f"the rule {rule.name} rewrites each {rule.event.upper()}, also those by which zdm fills rows and keeps them in step",
                where,
                _REMEDY,
                "table-rule",
            )
