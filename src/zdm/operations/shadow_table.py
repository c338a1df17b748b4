"""shadow_table: a whole new table that takes the old one's place: partitions, another key, types, order, storage."""

from __future__ import annotations

from typing import ClassVar

from zdm.errors import Problem
from zdm.model.mapping import Expose
from zdm.model.plan import Finding, Severity
from zdm.model.requests import ColumnType
from zdm.model.row_mapping import SideKind, WithoutOldForm
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Step
from zdm.operations.base import Context, Draft
from zdm.operations.params import find_shape
from zdm.operations.rows import DraftMirrored, DraftRows, DraftSide
from zdm.operations.shadow_columns import columns_of
from zdm.operations.shadow_create import create
from zdm.operations.shadow_keys import collect, shadow_of
from zdm.operations.shadow_params import ShadowParams
from zdm.operations.shadow_scenarios import SCENARIOS
from zdm.operations.shadow_steps import shadow_steps
from zdm.operations.shadows import Shadow
from zdm.operations.shape import TableShape
from zdm.operations.target import quoted, readable, without_old_form

_STANDS = {
    "view": "Drop it before, and create it again after cleanup.",
    "materialized view": "Drop it before, and create it again after cleanup.",
    "view rule": "Drop the rule first.",
    "rule": "Use a trigger instead of the rule.",
    "function": "Drop it before, and create it again after cleanup.",
    "column of the row type": "Give the column another type first.",
    "publication": "Take the table out of the publication; subscribers would not know the new one.",
    "subscription": "Take the table out of the subscription; the publisher would write to the old one.",
    "user of the identity sequence": "Let it use a sequence of its own.",
}


class ShadowTable(ShadowParams):
    """Make a new table beside the old one, mirror both ways, and let it take the old one's name at cleanup."""

    kind: ClassVar[str] = "shadow_table"
    summary: ClassVar[str] = (
        "replace a table by a new one: partitioned, with another key, types, order or storage"
    )
    scenarios: ClassVar[tuple[Scenario, ...]] = SCENARIOS

    # --- what it means ------------------------------------------------------------------------------------------------

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems, ordinary=True)
        if shape is None:
            return problems
        table = shape.table
        if shape.changed or shape.uses:
            problems.append(
                Problem(
                    f"table {shape.name} is changed by this migration, and replaced by it",
                    remedy="Say what changes in `columns` of shadow_table, or in a migration of its own.",
                )
            )
        if draft.expose is Expose.COLUMNS:
            problems.append(
                Problem(
                    "two tables cannot have one name without version schemas",
                    remedy="Leave out `expose: columns`.",
                )
            )
        self._refuse_dependents(draft, shape, problems)
        columns = columns_of(self, draft, table, problems)
        shadow = shadow_of(self, draft, shape, columns, label, problems)
        if problems or shadow is None:
            return problems
        collect(self, draft, shape, shadow, problems)
        create(self, draft, shadow, problems)
        if problems:
            return problems
        if self.without_old_form is WithoutOldForm.RECORD:
            problems += without_old_form(draft, label, self.without_old_form, table.name, shadow.name, ())
        if problems:
            return problems
        draft.rows.append(self._rows(shadow))
        draft.created[shadow.name] = {c.name: ColumnType(type=c.type, collation=c.collation) for c in columns}
        draft.shadows[table.name] = shadow
        draft.memo[label] = shadow
        shape.dropped = True
        shape.columns.clear()
        self._tell(draft, shadow)
        return []

    def _refuse_dependents(self, draft: Draft, shape: TableShape, problems: list[Problem]) -> None:
        own = f" on {shape.name}"
        for d in shape.table.dependents:
            elsewhere = d.kind == "policy" and not d.name.endswith(own)
            index = d.kind == "replica identity" and d.name not in {"full", "nothing"}
            if d.name in draft.own_views or not (d.kind in _STANDS or elsewhere or index):
                continue
            problems.append(
                Problem(
                    f"the {d.kind} {d.name} depends on {shape.name}, which is replaced by another table",
                    remedy=_STANDS.get(
                        d.kind,
                        "Let the policy read the table through a function."
                        if elsewhere
                        else "Use REPLICA IDENTITY FULL until cleanup.",
                    ),
                    rule="dependent-object",
                )
            )
        if draft.taken.intersection(names := self.names(draft)):
            problems += [
                Problem(
                    f"the name {name} is taken",
                    remedy="Give the partition another `name`.",
                    rule="name-taken",
                )
                for name in names
                if name in draft.taken
            ]

    def _rows(self, shadow: Shadow) -> DraftRows:
        table = shadow.old
        backs = {c.name: c.back for c in shadow.columns if c.back is not None and c.name not in shadow.named}
        backs |= {name: value for name, value in self.down.items() if name not in shadow.named}
        new = [
            DraftMirrored(
                name=c.name,
                type=c.type,
                value=c.value,
                collation=c.collation,
                not_null=c.not_null,
            )
            for c in shadow.columns
            if c.value is not None and c.name not in shadow.named
        ]
        changed = any(
            c.source is None or c.value != quoted(c.name) for c in shadow.columns if c.value is not None
        )
        return DraftRows(
            operation=shadow.label,
            old=DraftSide(
                table=table.name,
                oid=table.oid,
                kind=SideKind.ROWS,
                key=list(shadow.named),
                columns=[
                    DraftMirrored(
                        name=c.name,
                        type=c.type,
                        value=backs[c.name] or "NULL",
                        collation=c.collation,
                        not_null=c.not_null,
                        empty=c.default,
                    )
                    for c in table.columns
                    if c.name in backs
                ],
                readable=readable(table),
                fixed=[c.name for c in table.columns if c.identity == "always" and c.name in shadow.named],
            ),
            new=DraftSide(
                table=shadow.name,
                oid=0,
                kind=SideKind.ROWS,
                key=list(shadow.named),
                columns=new,
                readable=[(c.name, c.type, c.collation) for c in shadow.columns],
                guarded=bool(self.checks or self.exclusion or self.unique or not shadow.complete or changed),
                created=True,
                within=list(shadow.named if shadow.logged else table.key)
                if shadow.partitioned and (shadow.logged or set(table.key) < set(shadow.key))
                else [],
                loose=shadow.named != shadow.key,
            ),
            lossy=self.lossy,
            loggable=True,
            replaces=True,
            without_old_form=self.without_old_form,
        )

    def _tell(self, draft: Draft, shadow: Shadow) -> None:
        def finding(text: str, severity: Severity = Severity.WARNING) -> None:
            draft.findings.append(Finding(severity=severity, text=text, where=shadow.label))

        old = shadow.old
        if shadow.old.triggers:
            names = ", ".join(t.name for t in shadow.old.triggers)
            finding(
                f"the triggers {names} of {old.name} fire on the old table until cleanup, for the writes of both versions; then on the new one"
            )
        if shadow.extra_index is not None:
            finding(
                f"until cleanup {old.name} has one more unique index, over ({', '.join(shadow.key)})",
                Severity.NOTE,
            )
        lost = [
            c
            for c in old.constraints
            if c.kind in {"primary key", "unique"}
            and set(c.columns) < set(shadow.key)
            and c.kind == "primary key"
        ]
        kept = {frozenset(u.columns) for u in self.unique}
        for c in lost:
            if frozenset(c.columns) not in kept:
                finding(
                    f"after cleanup nothing keeps ({', '.join(c.columns)}) of {old.name} unique by itself"
                )

    # --- steps --------------------------------------------------------------------------------------------------------

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        return shadow_steps(phase, context, context.draft.memo[context.label])
