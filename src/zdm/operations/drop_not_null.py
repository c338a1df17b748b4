"""drop_not_null: the new version accepts NULL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from zdm.errors import Problem
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Stage, Step
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import Name, Sql, TableName, find_column, find_original, find_shape
from zdm.operations.succession import coalesce, succeed


class DropNotNull(Operation):
    """Let a column be NULL. With `down`, from the first phase on; without, from cleanup on."""

    kind: ClassVar[str] = "drop_not_null"
    summary: ClassVar[str] = "let a column be NULL"

    table: TableName = Field(description="the table")
    column: Name = Field(description="the column")
    down: Sql | None = Field(
        default=None, description="what the old version sees in place of NULL, over the new version's columns"
    )

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE posts (id serial PRIMARY KEY, body text NOT NULL, rank int NOT NULL DEFAULT 0);"
            " INSERT INTO posts (body) SELECT 'b' || g FROM generate_series(1, 300) g;",
            operations=(
                {"drop_not_null": {"table": "posts", "column": "body", "down": "''"}},
                {"drop_not_null": {"table": "posts", "column": "rank"}},
            ),
            old_writes=(
                "INSERT INTO posts (body) VALUES ('old {n}')",
                "UPDATE posts SET body = 'o{n}' WHERE id = {n} % 300 + 1",
            ),
            new_writes=(
                "INSERT INTO posts (body) VALUES (NULL)",
                "INSERT INTO posts (body) VALUES ('new {n}')",
                "UPDATE posts SET body = 'w{n}' WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, body FROM posts LIMIT 5",),
            new_reads=("SELECT id, body FROM posts LIMIT 5",),
            after="SELECT bool_and(NOT attnotnull) FROM pg_attribute WHERE attrelid = 'posts'::regclass"
            " AND attname IN ('body', 'rank')",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        column = find_column(shape, self.column, problems) if shape else None
        if shape is None or column is None:
            return problems
        if not column.not_null:
            return [Problem(f"column {self.column} of {shape.name} may be NULL already")]
        if column.physical in shape.table.key and any(
            c.kind == "primary key" and column.physical in c.columns for c in shape.table.constraints
        ):
            return [
                Problem(
                    f"column {self.column} is part of the primary key of {shape.name}, which needs NOT NULL"
                )
            ]
        if column.fresh:
            return self._loosen_fresh(draft, column.physical)
        original = find_original(shape, column, problems)
        if original is None:
            return problems
        if original.identity:
            return [Problem(f"column {self.column} is an identity column, which needs NOT NULL")]
        if self.down is None:
            column.not_null = False
            draft.memo[label] = (shape, column.physical)
            return []
        new = succeed(shape, column, original, label=label, problems=problems)
        new.up, new.not_null = ddl.ident(column.physical).as_string(None), False
        shown = shape.column(new.final)
        if shown is not None:
            shown.not_null = False
        shape.groups[-1].old[column.physical] = coalesce(new.final, self.down)
        return problems

    def _loosen_fresh(self, draft: Draft, physical: str) -> list[Problem]:
        shape = draft.shape(self.table)
        new, group = (shape.draft(physical), shape.group_of(physical)) if shape else (None, None)
        column = shape.column(self.column) if shape else None
        if new is None or group is None or new.replaces is None or column is None:
            return [
                Problem(
                    f"column {self.column} is new in this migration",
                    remedy="Leave out `not_null` in the operation that adds it.",
                )
            ]
        new.not_null = column.not_null = False
        if self.down is not None:
            if new.replaces not in group.casts:
                return [
                    Problem(
                        f"column {self.column} has a `down` in this migration already",
                        remedy="Let that `down` say what the old version sees in place of NULL.",
                    )
                ]
            back = group.old[new.replaces]
            group.old[new.replaces] = ddl.text(
                "COALESCE(({a}), ({b}))", a=ddl.raw(back or "NULL"), b=ddl.raw(self.down)
            )
            del group.casts[new.replaces]
        return []

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        memo = context.draft.memo.get(context.label)
        if phase is not Phase.CLEANUP or memo is None:
            return []
        shape, physical = memo
        return [
            Step(
                id=f"cleanup.{shape.name}.drop_not_null.{physical}",
                title=f"let {physical} of {shape.name} be NULL",
                phase=phase,
                stage=Stage.TIGHTEN,
                operation=context.label,
                action=ddl.alter(shape.name, "ALTER COLUMN {c} DROP NOT NULL", c=ddl.ident(physical)),
            )
        ]
