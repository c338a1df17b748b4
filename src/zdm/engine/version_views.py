"""The steps that make the version schemas: once the triggers stand, never before."""

from __future__ import annotations

from collections.abc import Iterable

from zdm.model.mapping import Expose, TableMapping, ViewColumn
from zdm.model.names import QualifiedName, sql_name
from zdm.model.plan import Plan
from zdm.model.step import Phase, Stage, Step, Transaction
from zdm.operations.base import Draft
from zdm.sql import views


def view_steps(plan: Plan, draft: Draft) -> list[Step]:
    """One step for each version's schema, with all of its views; none where the migration exposes columns."""
    if not plan.new_schema:
        return []
    new = [m for m in plan.mappings if not m.dropped_in_new]
    new += [created_view(name, columns) for name, columns in draft.created.items()]
    return [
        _step("old", plan.old_schema, plan, plan.mappings),
        _step("new", plan.new_schema, plan, new),
    ]


def _step(side: str, schema: str, plan: Plan, shown: Iterable[TableMapping]) -> Step:
    shown, old = list(shown), side == "old"
    statements = list(views.create_schema(schema, plan.target))
    for mapping in shown:
        statements += views.create_view(mapping, schema, plan.server_version, old=old)
    undo = [text for mapping in shown for text in views.drop_view(mapping, schema, old=old)]
    return Step(
        id=f"preparation.views.{side}",
        title=f"show the {side} version of the tables in schema {sql_name(schema)}",
        phase=Phase.PREPARATION,
        stage=Stage.VIEWS,
        action=Transaction(statements=tuple(statements)),
        undo=(Transaction(statements=(*undo, *views.drop_schema(schema))),),
    )


def created_view(name: QualifiedName, columns: Iterable[str]) -> TableMapping:
    """A table that the migration makes, as the new version sees it."""
    shown = tuple(ViewColumn(physical=column, name=column) for column in columns)
    return TableMapping(table=name, final_name=name.name, oid=0, expose=Expose.VIEWS, new_columns=shown)
