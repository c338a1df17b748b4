"""rename_table: the same rows under another name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from zdm.errors import Problem
from zdm.model.mapping import Expose
from zdm.model.names import QualifiedName, qualified
from zdm.model.sample import Scenario
from zdm.operations.base import Draft, Operation
from zdm.operations.params import Name, TableName, find_shape


class RenameTable(Operation):
    """Rename a table. The new version's view has the new name at once; cleanup renames the table."""

    kind: ClassVar[str] = "rename_table"
    summary: ClassVar[str] = "rename a table"

    table: TableName = Field(description="the table's present name")
    to: Name = Field(description="its name in the new version, in the same schema")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE customer (id serial PRIMARY KEY, name text);"
            " INSERT INTO customer (name) SELECT 'c' || g FROM generate_series(1, 300) g;",
            operations=({"rename_table": {"table": "customer", "to": "client"}},),
            old_writes=("INSERT INTO customer (name) VALUES ('old {n}')",),
            new_writes=("INSERT INTO client (name) VALUES ('new {n}')",),
            old_reads=("SELECT id, name FROM customer LIMIT 5",),
            new_reads=("SELECT id, name FROM client LIMIT 5",),
            after="SELECT to_regclass('client') IS NOT NULL AND to_regclass('customer') IS NULL",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        try:
            return (qualified(draft.name(self.table).schema_, self.to),)
        except ValueError:
            return ()

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        if shape is None:
            return problems
        final = qualified(shape.name.schema_, self.to)
        if shape.expose is Expose.COLUMNS:
            problems.append(
                Problem(
                    "a table cannot have two names without version schemas",
                    remedy="Leave out `expose: columns`, or rename the table in a migration of its own.",
                )
            )
        if final == shape.name or self.to == shape.final_name:
            problems.append(Problem(f"table {shape.name} already has that name"))
        elif (
            final in draft.tables
            or final in draft.created
            or final in draft.taken
            or any(s.final_name == self.to and s.name.schema_ == final.schema_ for s in draft.shapes.values())
        ):
            problems.append(
                Problem(f"the name {final} is taken", remedy="Choose another one.", rule="name-taken")
            )
        if problems:
            return problems
        shape.final_name = self.to
        draft.memo[label] = shape
        return []
