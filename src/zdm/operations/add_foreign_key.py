"""add_foreign_key: every row of the new version points at one that exists."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

from psycopg import sql
from pydantic import Field

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value, fit
from zdm.model.promise import Demand, Promise
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Stage, Step
from zdm.model.table import TableKind
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import Name, TableName, check_free, find_columns, find_shape, is_partitioned

Reaction = Literal["no action", "restrict", "cascade", "set null", "set default"]


class Target(Value):
    """The table and columns that a foreign key points at."""

    table: TableName = Field(description="the referenced table")
    columns: tuple[Name, ...] = Field(default=(), description="its columns; its primary key if not given")


class ForeignKey(Value):
    """What a foreign key says, apart from the table it is on."""

    columns: tuple[Name, ...] = Field(min_length=1, description="the referencing columns")
    references: Target = Field(description="what they point at")
    name: Name | None = Field(
        default=None, description="the constraint's name; <table>_<columns>_fkey if not given"
    )
    on_delete: Reaction = Field(default="no action", description="what happens when the referenced row goes")
    on_update: Reaction = Field(
        default="no action", description="what happens when the referenced key changes"
    )
    match: Literal["simple", "full"] = Field(default="simple", description="how NULLs count")
    deferrable: bool = Field(default=False, description="let transactions postpone the check")
    initially: Literal["immediate", "deferred"] = Field(
        default="immediate",
        description="when a deferrable constraint is checked unless a transaction says otherwise",
    )

    def name_on(self, table: str) -> str:
        """The constraint's name on that table."""
        return self.name or fit(f"{table}_{'_'.join(self.columns)}_fkey")

    def referenced(self, draft: Draft, problems: list[Problem]) -> tuple[QualifiedName, list[str]] | None:
        """The referenced table by its present name and its physical columns; what is wrong is appended."""
        try:
            name = draft.name(self.references.table)
        except ValueError as error:
            problems.append(Problem(str(error)))
            return None
        if name in draft.created:
            return self._created(name, draft.created[name], problems)
        shape = draft.shape(self.references.table)
        if shape is None or shape.dropped:
            problems.append(Problem(f"there is no table {name} to reference", rule="unknown-table"))
            return None
        if shape.table.kind not in {TableKind.TABLE, TableKind.PARTITIONED}:
            problems.append(
                Problem(f"{name} is a {shape.table.kind.value}; a foreign key cannot reference it")
            )
            return None
        if self.references.columns:
            found = find_columns(shape, self.references.columns, problems)
            if len(found) != len(self.references.columns):
                return None
            physical = [c.physical for c in found]
        else:
            physical = list(next((c.columns for c in shape.table.constraints if c.kind == "primary key"), ()))
            if not physical:
                problems.append(
                    Problem(
                        f"{name} has no primary key to reference", remedy="Name its columns in `references`."
                    )
                )
                return None
        for one in physical:
            shape.uses[one] = f"the foreign key on {', '.join(self.columns)}"
        return self._same_number(shape.name, physical, problems)

    def _created(
        self, name: QualifiedName, columns: Collection[str], problems: list[Problem]
    ) -> tuple[QualifiedName, list[str]] | None:
        if not self.references.columns:
            problems.append(
                Problem(f"{name} is made by this migration", remedy="Name its columns in `references`.")
            )
            return None
        missing = [c for c in self.references.columns if c not in columns]
        problems.extend(Problem(f"there is no column {c} in {name}", rule="unknown-column") for c in missing)
        return None if missing else self._same_number(name, list(self.references.columns), problems)

    def _same_number(
        self, name: QualifiedName, columns: list[str], problems: list[Problem]
    ) -> tuple[QualifiedName, list[str]] | None:
        if len(columns) != len(self.columns):
            problems.append(
                Problem(f"{len(self.columns)} columns cannot reference {len(columns)} columns of {name}")
            )
            return None
        return name, columns

    def check(self) -> list[Problem]:
        """What is wrong with it whatever the tables are."""
        if self.initially == "deferred" and not self.deferrable:
            return [Problem("`initially: deferred` needs `deferrable: true`")]
        return []

    def body(
        self, columns: Sequence[str], parent: QualifiedName, parent_columns: Sequence[str]
    ) -> sql.Composed:
        """``FOREIGN KEY (…) REFERENCES …`` with all that belongs to it."""
        words = ""
        if self.match == "full":
            words += " MATCH FULL"
        if self.on_update != "no action":
            words += f" ON UPDATE {self.on_update.upper()}"
        if self.on_delete != "no action":
            words += f" ON DELETE {self.on_delete.upper()}"
        if self.deferrable:
            words += f" DEFERRABLE INITIALLY {self.initially.upper()}"
        return sql.SQL("FOREIGN KEY ({}) REFERENCES {} ({}){}").format(
            ddl.idents(columns), ddl.table(parent), ddl.idents(parent_columns), ddl.raw(words)
        )


class AddForeignKey(Operation):
    """Add a foreign key. Switchover adds it for new rows, then proves it for the old ones by a scan that blocks nobody."""

    kind: ClassVar[str] = "add_foreign_key"
    summary: ClassVar[str] = "add a foreign key without a scan under lock"

    table: TableName = Field(description="the referencing table")
    columns: tuple[Name, ...] = Field(min_length=1, description="the referencing columns")
    references: Target = Field(description="the referenced table and columns")
    name: Name | None = Field(
        default=None, description="the constraint's name; <table>_<columns>_fkey if not given"
    )
    on_delete: Reaction = Field(default="no action", description="what happens when the referenced row goes")
    on_update: Reaction = Field(
        default="no action", description="what happens when the referenced key changes"
    )
    match: Literal["simple", "full"] = Field(default="simple", description="how NULLs count")
    deferrable: bool = Field(default=False, description="let transactions postpone the check")
    initially: Literal["immediate", "deferred"] = Field(
        default="immediate",
        description="when a deferrable constraint is checked unless a transaction says otherwise",
    )

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE owners (id int PRIMARY KEY); INSERT INTO owners SELECT generate_series(1, 50);"
            " CREATE TABLE pets (id serial PRIMARY KEY, owner_id int);"
            " INSERT INTO pets (owner_id) SELECT g % 50 + 1 FROM generate_series(1, 300) g;",
            operations=(
                {
                    "add_foreign_key": {
                        "table": "pets",
                        "columns": ["owner_id"],
                        "references": {"table": "owners", "columns": ["id"]},
                        "on_delete": "cascade",
                    }
                },
            ),
            old_writes=("INSERT INTO pets (owner_id) VALUES ({n} % 50 + 1)",),
            new_writes=(
                "INSERT INTO pets (owner_id) VALUES ({n} % 50 + 1)",
                "UPDATE pets SET owner_id = NULL WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, owner_id FROM pets LIMIT 5",),
            new_reads=("SELECT id, owner_id FROM pets LIMIT 5",),
            after="SELECT convalidated AND confdeltype = 'c' FROM pg_constraint WHERE conrelid = 'pets'::regclass"
            " AND conname = 'pets_owner_id_fkey'",
        ),
        Scenario(
            setup="CREATE TABLE owners (id int PRIMARY KEY); INSERT INTO owners SELECT generate_series(1, 50);"
            " CREATE TABLE pets (id int, owner_id int) PARTITION BY HASH (id);"
            " CREATE TABLE pets_0 PARTITION OF pets FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
            " CREATE TABLE pets_1 (owner_id int, id int); ALTER TABLE pets ATTACH PARTITION pets_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
            " INSERT INTO pets SELECT g, g % 50 + 1 FROM generate_series(1, 300) g;",
            operations=(
                {
                    "add_foreign_key": {
                        "table": "pets",
                        "columns": ["owner_id"],
                        "references": {"table": "owners", "columns": ["id"]},
                        "on_delete": "set null",
                    }
                },
                {"create_index": {"table": "pets", "name": "pets_owner_idx", "columns": ["owner_id"]}},
            ),
            old_writes=("INSERT INTO pets VALUES ({n}, {n} % 50 + 1)",),
            new_writes=("UPDATE pets SET owner_id = {n} % 50 + 1 WHERE id = {n} % 300 + 1",),
            after="SELECT bool_and(convalidated AND confdeltype = 'n' AND conname = 'pets_owner_id_fkey') AND count(*) = 3"
            " FROM pg_constraint WHERE conrelid IN (SELECT relid FROM pg_partition_tree('pets')) AND contype = 'f'",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table, self.references.table)

    def key(self) -> ForeignKey:
        """The parameters without the table."""
        return ForeignKey.model_validate(self.model_dump(exclude={"table"}))

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        key = self.key()
        problems = key.check()
        shape = find_shape(draft, self.table, problems)
        parent = key.referenced(draft, problems)
        if shape is None:
            return problems
        columns = find_columns(shape, self.columns, problems)
        name = key.name_on(draft.name(self.table).name)
        check_free(draft, shape, name, "foreign key", problems, shape.name.schema_)
        for column in columns:
            shape.uses[column.physical] = f"the foreign key {name}"
        draft.memo[label] = (shape.name, name, [c.physical for c in columns], parent)
        return problems

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        if phase is not Phase.SWITCHOVER:
            return []
        table, name, columns, (parent, parent_columns) = context.draft.memo[context.label]
        return ddl.checked_constraint(
            step_id=f"switchover.{table}.add_foreign_key.{name}",
            phase=phase,
            stage=Stage.CONSTRAINTS,
            operation=context.label,
            on=table,
            name=name,
            body=self.key().body(columns, parent, parent_columns),
            references=parent,
            naive="add-foreign-key-scan",
            partitioned=is_partitioned(context.draft, table),
        )

    def promises(self, context: Context) -> list[Promise]:
        table, name, columns, (parent, parent_columns) = context.draft.memo[context.label]
        return [
            Promise(
                demand=Demand.FOREIGN_KEY,
                name=name,
                table=table,
                operation=context.label,
                keys=tuple(ddl.ident(column).as_string(None) for column in columns),
                references=parent,
                referenced=tuple(parent_columns),
                match_full=self.match == "full",
                reads=tuple(columns),
            )
        ]
