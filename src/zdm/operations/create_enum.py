"""create_enum: a type with a fixed list of values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from psycopg import sql
from pydantic import Field

from zdm.errors import Problem
from zdm.model.names import MAX_IDENTIFIER_BYTES, QualifiedName
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Stage, Step, Transaction
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import TableName


class CreateEnum(Operation):
    """Create an enum type, before anything that uses it."""

    kind: ClassVar[str] = "create_enum"
    summary: ClassVar[str] = "create an enum type"

    name: TableName = Field(description="the type, as name or schema.name")
    values: tuple[str, ...] = Field(min_length=1, description="its values, in order")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE things (id serial PRIMARY KEY);",
            operations=(
                {"create_enum": {"name": "mood", "values": ["happy", 'it\'s "odd"', "sad"]}},
                {"add_column": {"table": "things", "column": "mood", "type": "mood", "default": "'sad'"}},
            ),
            old_writes=("INSERT INTO things DEFAULT VALUES",),
            new_writes=("INSERT INTO things (mood) VALUES ('happy')",),
            old_reads=("SELECT id FROM things LIMIT 5",),
            new_reads=("SELECT id, mood FROM things LIMIT 5",),
            after="SELECT count(*) = 3 FROM pg_enum WHERE enumtypid = 'mood'::regtype",
        ),
    )

    def tables(self) -> Sequence[str]:
        return ()

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        try:
            return (draft.name(self.name),)
        except ValueError:
            return ()

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        try:
            name = draft.name(self.name)
        except ValueError as error:
            return [Problem(str(error))]
        problems = [
            Problem(f"the value {value!r} is there more than once")
            for value in dict.fromkeys(self.values)
            if self.values.count(value) > 1
        ]
        problems += [
            Problem(
                f"the value {value!r} is longer than the {MAX_IDENTIFIER_BYTES} bytes that an enum value may have"
            )
            for value in self.values
            if len(value.encode()) > MAX_IDENTIFIER_BYTES
        ]
        if name in draft.taken or name in draft.types or name in draft.created:
            problems.append(
                Problem(
                    f"the name {name} is taken",
                    remedy="Choose another one; or, if the type that has it is meant, leave this out.",
                    rule="name-taken",
                )
            )
        if problems:
            return problems
        draft.types.add(name)
        draft.prelude.append(self._create(name))
        draft.memo[label] = name
        return []

    def _create(self, name: QualifiedName) -> str:
        return ddl.text(
            "CREATE TYPE {name} AS ENUM ({values})",
            name=ddl.table(name),
            values=sql.SQL(", ").join(sql.Literal(value) for value in self.values),
        )

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        if phase is not Phase.PREPARATION:
            return []
        name: QualifiedName = context.draft.memo[context.label]
        return [
            Step(
                id=f"preparation.{name}.create_enum",
                title=f"create the enum type {name}",
                phase=phase,
                stage=Stage.TYPES,
                operation=context.label,
                action=Transaction(statements=(self._create(name),)),
                undo=(
                    Transaction(statements=(ddl.text("DROP TYPE IF EXISTS {name}", name=ddl.table(name)),)),
                ),
            )
        ]
