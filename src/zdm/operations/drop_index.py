"""drop_index: an index that the new version does not need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from zdm.errors import Problem
from zdm.model.names import qualified
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Stage, Step
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import Name, TableName, find_shape, is_partitioned


class DropIndex(Operation):
    """Drop an index CONCURRENTLY, at cleanup: until then the old version's queries use it."""

    kind: ClassVar[str] = "drop_index"
    summary: ClassVar[str] = "drop an index at cleanup, without blocking"

    table: TableName = Field(description="the table it is on")
    name: Name = Field(description="the index")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE logs (id serial PRIMARY KEY, level int); CREATE INDEX logs_level_idx ON logs (level);"
            " INSERT INTO logs (level) SELECT g % 5 FROM generate_series(1, 300) g;",
            operations=({"drop_index": {"table": "logs", "name": "logs_level_idx"}},),
            old_writes=("INSERT INTO logs (level) VALUES (1)",),
            new_writes=("INSERT INTO logs (level) VALUES (2)",),
            old_reads=("SELECT id FROM logs WHERE level = 1 LIMIT 5",),
            new_reads=("SELECT id FROM logs LIMIT 5",),
            after="SELECT to_regclass('logs_level_idx') IS NULL",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        if shape is None:
            return problems
        index = next((i for i in shape.table.indexes if i.name == self.name), None)
        if index is None or self.name in shape.gone_indexes:
            known = ", ".join(i.name for i in shape.table.indexes) or "none"
            problems.append(
                Problem(f"there is no index {self.name} on {shape.name}", remedy=f"It has {known}.")
            )
        elif index.constraint is not None or index.primary:
            problems.append(
                Problem(f"the index {self.name} belongs to a constraint", remedy="Use drop_constraint.")
            )
        elif index.unique and any(set(k.columns) == set(index.columns) for k in shape.table.referenced_by):
            problems.append(
                Problem(f"a foreign key may rely on the index {self.name}", rule="referenced-by-foreign-key")
            )
        if problems:
            return problems
        shape.gone_indexes.add(self.name)
        draft.memo[label] = shape.name
        return []

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        if phase is not Phase.CLEANUP:
            return []
        table = context.draft.memo[context.label]
        return [
            Step(
                id=f"cleanup.{table}.drop_index.{self.name}",
                title=f"drop the index {self.name} of {table}",
                phase=phase,
                stage=Stage.TIGHTEN,
                operation=context.label,
                action=ddl.drop_index(
                    qualified(table.schema_, self.name),
                    table,
                    partitioned=is_partitioned(context.draft, table),
                ),
                naive="drop-index-blocks-reads",
            )
        ]
