"""drop_table: a table that the new version does not have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from pydantic import Field

from zdm.errors import Problem
from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Severity
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Stage, Step, Transaction
from zdm.model.table import Constraint
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import TableName, find_shape
from zdm.operations.shape import TableShape
from zdm.sql.closed import forget

_BLOCKING = {"view", "materialized view", "function", "column of the row type"}


class DropTable(Operation):
    """Drop a table. The new version does not see it; cleanup drops its foreign keys one by one, then the table."""

    kind: ClassVar[str] = "drop_table"
    summary: ClassVar[str] = "drop a table at cleanup"

    table: TableName = Field(description="the table")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept SELECT generate_series(1, 50);"
            " CREATE TABLE audit (id serial PRIMARY KEY, kept_id int REFERENCES kept, note text);"
            " CREATE TABLE audit_detail (id serial PRIMARY KEY, audit_id int REFERENCES audit);"
            " INSERT INTO audit (kept_id, note) SELECT g % 50 + 1, 'n' FROM generate_series(1, 300) g;",
            operations=({"drop_table": {"table": "audit"}},),
            old_writes=("INSERT INTO audit (kept_id, note) VALUES (1, 'old {n}')",),
            new_writes=("INSERT INTO audit_detail (audit_id) VALUES (NULL)",),
            old_reads=("SELECT id, note FROM audit LIMIT 5",),
            new_reads=("SELECT id FROM kept LIMIT 5",),
            after="SELECT to_regclass('audit') IS NULL AND to_regclass('audit_detail') IS NOT NULL",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        if shape is None:
            return problems
        if shape.groups or shape.added or shape.removed or shape.final_name != shape.name.name or shape.uses:
            problems.append(
                Problem(
                    f"table {shape.name} is changed by this migration and dropped by it",
                    remedy="Do only one of the two.",
                )
            )
        problems += [
            Problem(
                f"{child.name} inherits from {shape.name}",
                remedy=f"Drop it first, or take it out (ALTER TABLE {child.name} NO INHERIT {shape.name}).",
                rule="dependent-object",
            )
            for child in shape.table.partitions
            if shape.table.has_children
        ]
        problems += [
            Problem(
                f"the {d.kind} {d.name} depends on {shape.name}",
                remedy=f"Drop the {d.kind} first; zdm never drops what you did not name.",
                rule="dependent-object",
            )
            for d in shape.table.dependents
            if d.name not in draft.own_views
            and (
                d.kind in _BLOCKING
                or (d.kind in {"rule", "policy"} and not d.name.endswith(f" on {shape.name}"))
            )
        ]
        published = [d.name for d in shape.table.dependents if d.kind == "publication"]
        if published:
            draft.findings.append(
                Finding(
                    severity=Severity.WARNING,
                    text=f"{shape.name} is published by {', '.join(published)}; subscribers keep their copy",
                    where=label,
                )
            )
        if problems:
            return problems
        shape.dropped = True
        shape.columns.clear()
        draft.findings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"cleanup drops {shape.name} with its rows; after that no rollback brings them back",
                where=label,
            )
        )
        draft.memo[label] = shape
        return []

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        if phase is not Phase.CLEANUP:
            return []
        shape = context.draft.memo[context.label]
        name: QualifiedName = shape.name
        steps = [
            self._drop_key(key.name, name, key.references or name, context.label)
            for key in shape.table.constraints
            if key.kind == "foreign key" and key.name not in shape.gone_constraints
        ]
        steps += [
            self._drop_key(key.name, key.references, name, context.label)
            for key in shape.table.referenced_by
            if key.references is not None and key.references != name and not self._gone(context.draft, key)
        ]
        closed = (forget(name),) if any(rows.old.table == name for rows in context.draft.rows) else ()
        steps.append(
            Step(
                id=f"cleanup.{name}.drop_table",
                title=f"drop the table {name}",
                phase=phase,
                stage=Stage.FINISH,
                operation=context.label,
                action=Transaction(
                    statements=(ddl.text("DROP TABLE IF EXISTS {t}", t=ddl.table(name)), *closed),
                    locks=(ddl.lock(name),),
                ),
                naive="drop-table-locks-referenced",
            )
        )
        return steps

    def _gone(self, draft: Draft, key: Constraint) -> bool:
        """Whether another operation of the migration drops the foreign key, or its table, first."""
        child = draft.shapes.get(key.references) if key.references is not None else None
        return child is not None and (key.name in child.gone_constraints or child.dropped)

    def _drop_key(self, key: str, child: QualifiedName, parent: QualifiedName, label: str) -> Step:
        return Step(
            id=f"cleanup.{child}.drop_foreign_key.{key}",
            title=f"drop the foreign key {key} of {child}",
            phase=Phase.CLEANUP,
            stage=Stage.TIGHTEN,
            operation=label,
            action=ddl.drop_constraint(key, child, parent),
            naive="drop-foreign-key-locks-both",
        )


def left_behind(
    draft: Draft, label: str, shape: TableShape, into: Sequence[QualifiedName], columns: Collection[str]
) -> None:
    """Say what goes with a table whose rows stand in others from cleanup on.

    Parameters
    ----------
    columns: those that the others have; what is on none of them has no place there.
    """
    table = shape.table
    names = [
        f"{c.kind} constraint {c.name}"
        for c in table.constraints
        if c.kind in {"unique", "check", "exclusion", "foreign key"}
        and c.references not in into
        and set(c.columns) & set(columns)
    ]
    names += [
        f"index {i.name}" for i in table.indexes if i.constraint is None and set(i.columns) & set(columns)
    ]
    names += [f"trigger {t.name}" for t in table.triggers]
    if not names:
        return
    others = " or ".join(str(name) for name in dict.fromkeys(into))
    draft.findings.append(
        Finding(
            severity=Severity.WARNING,
            text=f"what is on {shape.name} goes with it: {', '.join(names)}; give {others} what it needs of that, in this "
            "migration (create_index, add_unique, add_check, add_foreign_key, or in `create`; sql for triggers)",
            where=label,
        )
    )
