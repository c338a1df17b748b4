"""drop_constraint: the new version does not promise it any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from zdm.errors import Problem
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Stage, Step
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import Name, TableName, find_shape


class DropConstraint(Operation):
    """Drop a check, unique, exclusion or foreign key constraint, at cleanup: until then the old version relies on it."""

    kind: ClassVar[str] = "drop_constraint"
    summary: ClassVar[str] = "drop a constraint at cleanup"

    table: TableName = Field(description="the table")
    name: Name = Field(description="the constraint")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE teams (id int PRIMARY KEY); INSERT INTO teams SELECT generate_series(1, 20);"
            " CREATE TABLE players (id serial PRIMARY KEY, team_id int REFERENCES teams, age int CHECK (age < 100000000));"
            " INSERT INTO players (team_id, age) SELECT g % 20 + 1, g FROM generate_series(1, 300) g;",
            operations=(
                {"drop_constraint": {"table": "players", "name": "players_age_check"}},
                {"drop_constraint": {"table": "players", "name": "players_team_id_fkey"}},
            ),
            old_writes=("INSERT INTO players (team_id, age) VALUES (1, {n})",),
            new_writes=("INSERT INTO players (team_id, age) VALUES (2, {n})",),
            old_reads=("SELECT id, age FROM players LIMIT 5",),
            new_reads=("SELECT id, age FROM players LIMIT 5",),
            after="SELECT count(*) = 0 FROM pg_constraint WHERE conrelid = 'players'::regclass AND contype IN ('c', 'f')",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        if shape is None:
            return problems
        constraint = next((c for c in shape.table.constraints if c.name == self.name), None)
        if constraint is None or self.name in shape.gone_constraints:
            known = ", ".join(c.name for c in shape.table.constraints) or "none"
            problems.append(
                Problem(f"there is no constraint {self.name} on {shape.name}", remedy=f"It has {known}.")
            )
            return problems
        if constraint.kind == "not null":
            problems.append(Problem(f"{self.name} is a NOT NULL constraint", remedy="Use drop_not_null."))
        keyed = constraint.kind in {"primary key", "unique"}
        pointing = [
            k for k in shape.table.referenced_by if keyed and set(k.columns) == set(constraint.columns)
        ]
        problems.extend(
            Problem(
                f"the foreign key {k.name} relies on {self.name}",
                remedy=f"Drop {k.name} first, in an earlier migration.",
                rule="referenced-by-foreign-key",
            )
            for k in pointing
        )
        if problems:
            return problems
        shape.gone_constraints.add(self.name)
        if constraint.index is not None:
            shape.gone_indexes.add(constraint.index)
        others = (constraint.references,) if constraint.references is not None else ()
        draft.memo[label] = (shape.name, others)
        return []

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        if phase is not Phase.CLEANUP:
            return []
        table, others = context.draft.memo[context.label]
        return [
            Step(
                id=f"cleanup.{table}.drop_constraint.{self.name}",
                title=f"drop the constraint {self.name} of {table}",
                phase=phase,
                stage=Stage.TIGHTEN,
                operation=context.label,
                action=ddl.drop_constraint(self.name, table, *others),
                naive="drop-foreign-key-locks-both" if others else "",
            )
        ]
