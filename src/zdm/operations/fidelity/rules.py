"""Rules of tables whose rows are written: a rule rewrites statements, zdm's own among them.

The backfill is a session that replicates, where it may be: rules leave alone what it writes, as triggers do. So one on UPDATE that is
applied in addition (DO ALSO) stays, unless it reads of NEW what the other version's statement does not say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zdm.errors import Problem
from zdm.model.plan import Finding, Severity
from zdm.model.table import Rule
from zdm.operations.base import Draft
from zdm.operations.shape import TableShape

_REMEDY = (
    "Use a trigger instead, which sees rows and not statements; or switch the rule off until cleanup "
    "(ALTER TABLE … DISABLE RULE …)."
)
_GRANT = (
    "Let the connected role make them as a session that replicates, to which rules are not applied (GRANT SET ON PARAMETER "
    "session_replication_role TO it; before PostgreSQL 15 a superuser); or use a trigger instead of the rule."
)


def review_rules(draft: Draft) -> list[Problem]:
    """Refuse rules that would rewrite what the backfill, the repair or a mirror writes, or miss what a version writes."""
    found: dict[str, Problem] = {}
    for shape in draft.shapes.values():
        if shape.groups and not shape.dropped:
            _review_updates(draft, shape, found)
    for rows in draft.rows:
        for side in (rows.old, rows.new):
            table = draft.tables.get(side.table)
            if table is not None:
                _refuse(found, table.rules, {"insert", "update", "delete"}, rows.operation)
    return list(found.values())


def reads_what_is_replaced(rule: Rule, replaced: Collection[str]) -> bool:
    """Whether it reads of NEW a column that only one version's statements name."""
    return rule.event != "delete" and bool(set(rule.new).intersection(replaced))


def _review_updates(draft: Draft, shape: TableShape, found: dict[str, Problem]) -> None:
    where = shape.groups[0].operation
    stays: list[str] = []
    for rule in shape.table.rules:
        if rule.event != "update":
            continue
        if rule.instead or not rule.silent or _by_hand(shape):
            _refuse(found, (rule,), {"update"}, where)
        elif reads_what_is_replaced(rule, shape.replaced()):
            columns = ", ".join(sorted(set(rule.new).intersection(shape.replaced())))
            what = f"the rule {rule.name} reads {columns} of NEW, which is what a statement says: it would not see what the other version writes"
            found.setdefault(rule.name, Problem(what, where, _REMEDY, "table-rule"))
        elif not draft.silences:
            _refuse(found, (rule,), {"update"}, where, _GRANT)
        else:
            stays.append(rule.name)
    if stays:
        text = f"{', '.join(stays)}: applied to what applications write, as before; not to the backfill, and once more to rows that `zdm verify --repair` writes"
        draft.findings.append(Finding(severity=Severity.NOTE, text=text, where=where, rule="table-rule"))


def _by_hand(shape: TableShape) -> bool:
    """Whether triggers of zdm's write rows of the table by statements of their own, in the application's session."""
    return any(
        group.paired or group.refers_to is not None or group.parent or group.copied for group in shape.groups
    )


def _refuse(
    found: dict[str, Problem], rules: Iterable[Rule], events: set[str], where: str, remedy: str = _REMEDY
) -> None:
    for rule in rules:
        if rule.event in events and rule.name not in found:
            found[rule.name] = Problem(
                f"the rule {rule.name} rewrites each {rule.event.upper()}, also those by which zdm fills rows and keeps them in step",
                where,
                remedy,
                "table-rule",
            )
