"""add_unique: no two rows of the new version share these values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from psycopg import sql
from pydantic import Field

from zdm.errors import Problem
from zdm.model.names import QualifiedName, fit, qualified
from zdm.model.promise import Demand, Promise
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Stage, Step
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import (
    Name,
    TableName,
    check_free,
    check_unique,
    find_columns,
    find_shape,
    is_partitioned,
)


class AddUnique(Operation):
    """Add a UNIQUE constraint. Its index is built CONCURRENTLY, then becomes the constraint without a scan."""

    kind: ClassVar[str] = "add_unique"
    summary: ClassVar[str] = "add a UNIQUE constraint whose index is built without blocking"

    table: TableName = Field(description="the table")
    columns: tuple[Name, ...] = Field(min_length=1, description="the columns, in the index's order")
    name: Name | None = Field(
        default=None, description="the constraint's name; <table>_<columns>_key if not given"
    )
    nulls_not_distinct: bool = Field(
        default=False, description="let two NULLs be equal (PostgreSQL 15 and later)"
    )
    deferrable: bool = Field(default=False, description="let transactions postpone the check")
    initially: Literal["immediate", "deferred"] = Field(
        default="immediate",
        description="when a deferrable constraint is checked unless a transaction says otherwise",
    )

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE members (id serial PRIMARY KEY, email text NOT NULL);"
            " INSERT INTO members (email) SELECT 'm' || g || '@example.org' FROM generate_series(1, 300) g;",
            operations=({"add_unique": {"table": "members", "columns": ["email"]}},),
            old_writes=("INSERT INTO members (email) VALUES ('old{n}@example.org')",),
            new_writes=(
                "INSERT INTO members (email) VALUES ('new{n}@example.org')",
                "UPDATE members SET email = 'm' || id || '.{n}@example.org' WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, email FROM members LIMIT 5",),
            new_reads=("SELECT id, email FROM members LIMIT 5",),
            after="SELECT count(*) = 1 FROM pg_constraint WHERE conrelid = 'members'::regclass"
            " AND conname = 'members_email_key' AND contype = 'u'",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        try:
            name = draft.name(self.table)
        except ValueError:
            return ()
        return (qualified(name.schema_, self._name(name.name)),)

    def _name(self, table: str) -> str:
        return self.name or fit(f"{table}_{'_'.join(self.columns)}_key")

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        if self.nulls_not_distinct and draft.server_version < 150000:
            problems.append(
                Problem("`nulls_not_distinct` needs PostgreSQL 15 or later", rule="server-version")
            )
        if self.initially == "deferred" and not self.deferrable:
            problems.append(Problem("`initially: deferred` needs `deferrable: true`"))
        shape = find_shape(draft, self.table, problems)
        if shape is None:
            return problems
        columns = find_columns(shape, self.columns, problems)
        name = self._name(draft.name(self.table).name)
        check_free(draft, shape, name, "constraint", problems, shape.name.schema_)
        check_unique(shape, [c.physical for c in columns], f"the unique constraint {name}", problems)
        for column in columns:
            shape.uses[column.physical] = f"the unique constraint {name}"
        draft.memo[label] = (shape.name, name, [c.physical for c in columns])
        return problems

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        # Not before the new version is the authority, also where only new columns are concerned: what the old one writes may
        # come to the same in them, and its writes must not fail.
        if phase is not Phase.SWITCHOVER:
            return []
        table, name, columns = context.draft.memo[context.label]
        index = qualified(table.schema_, name)
        stage = Stage.CONSTRAINTS
        tail = self._tail(columns)
        timing = f" DEFERRABLE INITIALLY {self.initially.upper()}" if self.deferrable else ""
        base = f"{phase.value}.{table}.add_unique.{name}"
        if is_partitioned(context.draft, table):
            body = ddl.text(
                "UNIQUE{nulls} ({columns}){timing}",
                nulls=ddl.raw(" NULLS NOT DISTINCT" if self.nulls_not_distinct else ""),
                columns=ddl.idents(columns),
                timing=ddl.raw(timing),
            )
            return [
                ddl.partitioned_unique(
                    step_id=base,
                    phase=phase,
                    stage=stage,
                    operation=context.label,
                    on=table,
                    name=name,
                    body=body,
                )
            ]
        return [
            Step(
                id=f"{base}.index",
                title=f"build the unique index {name} on {table}",
                phase=phase,
                stage=stage,
                operation=context.label,
                action=ddl.create_index(index, table, tail, unique=True),
                undo=(ddl.drop_index(index, table),),
                naive="add-unique-builds-index",
            ),
            Step(
                id=base,
                title=f"make the index {name} a constraint of {table}",
                phase=phase,
                stage=stage,
                operation=context.label,
                action=ddl.alter(
                    table,
                    "ADD CONSTRAINT {name} UNIQUE USING INDEX {name}{timing}",
                    name=ddl.ident(name),
                    timing=ddl.raw(timing),
                ),
                undo=(ddl.drop_constraint(name, table),),
                naive="add-unique-builds-index",
            ),
        ]

    def _tail(self, columns: Sequence[str]) -> sql.Composed:
        nulls = " NULLS NOT DISTINCT" if self.nulls_not_distinct else ""
        return sql.SQL("USING btree ({}){}").format(ddl.idents(columns), ddl.raw(nulls))

    def promises(self, context: Context) -> list[Promise]:
        table, name, columns = context.draft.memo[context.label]
        return [
            Promise(
                demand=Demand.UNIQUE,
                name=name,
                table=table,
                operation=context.label,
                definition=self._tail(columns).as_string(None),
            )
        ]
