"""normalise: a value of a table's rows becomes a row of a table that they share, and a link to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from psycopg import sql
from pydantic import Field, field_validator

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value, fit
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import SideKind, UnusedParents
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Stage, Step, Transaction
from zdm.model.table import Column
from zdm.operations import ddl
from zdm.operations.add_foreign_key import ForeignKey
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.create_table import Check, CreateTable, Privilege, TableColumn, UniqueKey
from zdm.operations.params import Name, Sql, TableName, by_name, find_column, find_shape
from zdm.operations.rows import DraftMirrored, DraftParent, DraftRows, DraftSide
from zdm.operations.shape import ShapeColumn, TableShape
from zdm.operations.target import readable, unique_over


class HeldColumn(Value):
    """A column that holds the value in the old version; its name alone stands for one that is the natural key's value."""

    column: Name = Field(description="the column")
    down: Sql | None = Field(
        default=None,
        description="its value, over the parent's columns and, where the parent has none of that name, the row's own",
    )
    empty: Sql | None = Field(
        default=None,
        description="what it holds where the row has no parent, over the row's columns; its default or NULL if not given",
    )
    keep: bool = Field(
        default=False, description="it stays in the new version, because it holds other things as well"
    )


class ParentTable(Value):
    """The shared table to make."""

    columns: tuple[TableColumn, ...] = Field(
        min_length=1, description="its columns, those of `values` included"
    )
    primary_key: tuple[Name, ...] = Field(min_length=1, description="the primary key's columns")
    unique: tuple[UniqueKey, ...] = Field(
        default=(), description="unique constraints besides the one over the columns of `values`"
    )
    checks: tuple[Check, ...] = Field(default=(), description="check constraints")
    foreign_keys: tuple[ForeignKey, ...] = Field(default=(), description="foreign keys")
    indexes: tuple[tuple[Name, ...], ...] = Field(default=(), description="columns of further indexes")
    comment: str | None = Field(default=None, description="its comment")
    grants: dict[Name, tuple[Privilege, ...]] = Field(
        default_factory=dict, description="privileges by role; PUBLIC is the role of everybody"
    )


class LinkTable(Value):
    """The table that says which parent a row has: it is made, with foreign keys to both that cascade."""

    table: TableName = Field(description="its name")
    source: dict[Name, Name] = Field(
        min_length=1, description="its columns that name the row, and the row's key columns that they equal"
    )
    parent: dict[Name, Name] = Field(
        min_length=1, description="its columns that name the parent, and the parent's primary key columns"
    )
    columns: tuple[TableColumn, ...] = Field(default=(), description="columns of its own")
    indexes: tuple[tuple[Name, ...], ...] = Field(
        default=(), description="columns of further indexes; those that name the parent have one"
    )
    comment: str | None = Field(default=None, description="its comment")
    grants: dict[Name, tuple[Privilege, ...]] = Field(
        default_factory=dict, description="privileges by role; PUBLIC is the role of everybody"
    )


class Normalise(Operation):
    """Replace a value that many rows repeat by a row of a shared table, found or made by its natural key, and a link to it."""

    kind: ClassVar[str] = "normalise"
    summary: ClassVar[str] = "turn a repeated value into a row of a shared table"

    table: TableName = Field(description="the table whose rows hold the value")
    columns: tuple[HeldColumn, ...] = Field(
        min_length=1, description="where the old version holds it, by name or in detail"
    )
    parent: TableName = Field(description="the shared table")
    values: dict[Name, Sql] = Field(
        min_length=1,
        description="the parent's natural key, which must be unique: each column, and its value over the old version's columns",
    )
    where: Sql | None = Field(
        default=None,
        description="which rows have a parent, over the old version's columns; those for which no value is NULL, if not given",
    )
    link: LinkTable = Field(description="the table that links rows with parents")
    create: ParentTable | None = Field(
        default=None, description="make `parent`; without it, `parent` exists already"
    )
    unused: UnusedParents = Field(
        default=UnusedParents.KEEP,
        description="keep or remove a parent when the old version lets go of the last row that has it",
    )
    lossy: bool = Field(default=False, description="values that do not come back as they were are accepted")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE customers (id bigserial PRIMARY KEY, name text NOT NULL, country varchar(40));"
            " INSERT INTO customers (name, country) SELECT 'c' || g, (ARRAY['Kenya', 'Peru', 'Nepal', NULL])[g % 4 + 1]"
            " FROM generate_series(1, 300) g;",
            operations=(
                {
                    "normalise": {
                        "table": "customers",
                        "columns": ["country"],
                        "parent": "countries",
                        "values": {"title": "country"},
                        "create": {
                            "columns": [
                                {"name": "id", "type": "bigint", "identity": "by default"},
                                {"name": "title", "type": "varchar(40)"},
                                {"name": "seen", "type": "timestamptz", "not_null": True, "default": "now()"},
                            ],
                            "primary_key": ["id"],
                        },
                        "link": {
                            "table": "customer_countries",
                            "source": {"customer_id": "id"},
                            "parent": {"country_id": "id"},
                        },
                        "unused": "remove",
                    }
                },
            ),
            old_writes=(
                "INSERT INTO customers (name, country) VALUES ('old {n}', 'Land ' || {n} % 5)",
                "UPDATE customers SET country = 'Land ' || {n} % 7 WHERE id = {n} % 300 + 1",
                "UPDATE customers SET country = NULL WHERE id = {n} % 300 + 1",
                "UPDATE customers SET name = 'x{n}' WHERE id = {n} % 300 + 1",
                "DELETE FROM customers WHERE id = (SELECT max(id) FROM customers WHERE id > 300 AND name LIKE 'old%')",
            ),
            new_writes=(
                (
                    "WITH c AS (INSERT INTO customers (name) VALUES ('new {n}') RETURNING id), p AS (INSERT INTO countries (title)"
                    " VALUES ('New ' || {n}) RETURNING id)"
                    " INSERT INTO customer_countries (customer_id, country_id) SELECT c.id, p.id FROM c, p"
                ),
                "UPDATE countries SET title = 'Renamed {n}' WHERE title = (SELECT min(title) FROM countries WHERE title LIKE 'New%')",
                "DELETE FROM customer_countries WHERE customer_id = {n} % 300 + 1",
                "DELETE FROM countries WHERE title = 'Renamed ' || ({n} - 5)",
            ),
            old_reads=("SELECT id, name, country FROM customers LIMIT 5",),
            new_reads=(
                (
                    "SELECT c.name, p.title FROM customers c JOIN customer_countries l ON l.customer_id = c.id"
                    " JOIN countries p ON p.id = l.country_id LIMIT 5"
                ),
            ),
            agree="SELECT NOT EXISTS (SELECT FROM public.customers c FULL JOIN (customer_countries l JOIN countries p ON p.id = l.country_id)"
            " ON l.customer_id = c.id WHERE c.country IS DISTINCT FROM p.title OR c.id IS NULL)"
            " AND NOT EXISTS (SELECT FROM customer_countries GROUP BY customer_id HAVING count(*) > 1)",
            after="SELECT EXISTS (SELECT FROM customer_countries) AND NOT EXISTS (SELECT FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND table_name = 'customers' AND column_name = 'country')",
        ),
    )

    @field_validator("columns", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return by_name(value)

    def tables(self) -> Sequence[str]:
        if self.create is None:
            return (self.table, self.parent)
        return (self.table, *(key.references.table for key in self.create.foreign_keys))

    def types(self) -> Sequence[str]:
        made = self.create.columns if self.create is not None else ()
        return tuple(c.type for c in (*made, *self.link.columns))

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        wanted = [self.link.table, *([self.parent] if self.create is not None else [])]
        try:
            return tuple(draft.name(name) for name in wanted)
        except ValueError:
            return ()

    # --- what it means ------------------------------------------------------------------------------------------------

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems, ordinary=True)
        if shape is None:
            return problems
        held = self._held(shape, problems)
        self._check_key(shape, problems)
        side = (
            self._made_parent(draft, label, problems) if self.create else self._found_parent(draft, problems)
        )
        if side is None or problems:
            return problems
        link = self._made_link(draft, shape, side, label, problems)
        if link is None or problems:
            return problems
        old = DraftSide(
            table=shape.name,
            oid=shape.table.oid,
            kind=SideKind.COLUMNS,
            key=list(self.link.source.values()),
            columns=[
                DraftMirrored(
                    name=column.name,
                    type=column.type,
                    value=found.down or self._same(found.column),
                    collation=column.collation,
                    not_null=column.not_null,
                    empty=found.empty or column.default,
                )
                for found, _, column in held
            ],
            readable=readable(shape.table),
        )
        draft.rows.append(
            DraftRows(
                operation=label,
                old=old,
                new=link,
                where=self.where,
                parent=DraftParent(
                    side=side,
                    values=list(self.values.values()),
                    identity=list(self.link.parent.values()),
                    reference=list(self.link.parent),
                    unused=self.unused,
                    lossy=self.lossy,
                ),
            )
        )
        for found, column, _ in held:
            if not found.keep:
                shape.columns.remove(column)
                shape.removed.append(column.physical)
        draft.memo[label] = (shape, side, link)
        draft.findings += self._notes(side, held)
        return []

    def _notes(
        self, side: DraftSide, held: Sequence[tuple[HeldColumn, ShapeColumn, Column]]
    ) -> Iterable[Finding]:
        texts = [
            (
                f"until cleanup a row of {self.table} has one row of {self.link.table} at most: the old version holds one value, so a "
                "transaction that ends with several is refused"
            ),
            f"a rollback carries back which row of {side.table} a row has, by {', '.join(self.values)}; other columns of {side.table}, "
            f"and rows of it that no row of {self.table} has, have no old form"
            + (" and go" if side.created else "; what was added to it stays"),
        ]
        kept = [column.name for found, _, column in held if found.keep]
        if kept:
            texts.append(
                f"{', '.join(kept)} of {self.table} keeps the old value after cleanup; nothing follows it then"
            )
        return [Finding(severity=Severity.NOTE, text=text) for text in texts]

    def _same(self, column: str) -> str:
        """The natural key's column whose value is this column as it is."""
        name = next(
            name
            for name, value in self.values.items()
            if value in {column, ddl.ident(column).as_string(None)}
        )
        return ddl.ident(name).as_string(None)

    def _held(
        self, shape: TableShape, problems: list[Problem]
    ) -> list[tuple[HeldColumn, ShapeColumn, Column]]:
        held: list[tuple[HeldColumn, ShapeColumn, Column]] = []
        for found in self.columns:
            column = find_column(shape, found.column, problems)
            if column is None:
                continue
            original = None if column.fresh else shape.original(column.physical)
            if original is None or column.name != column.physical:
                problems.append(
                    Problem(
                        f"column {column.name} of {shape.name} is changed by this migration, and normalised by it",
                        remedy="Change it in one migration, and normalise it in the next.",
                    )
                )
                continue
            if original.generated or original.identity:
                problems.append(
                    Problem(
                        f"column {original.name} of {shape.name} is a generated or identity column, which cannot be written back",
                        remedy="Name the column that it is computed from.",
                    )
                )
            plain = {found.column, ddl.ident(found.column).as_string(None)}
            if found.down is None and not plain & set(self.values.values()):
                problems.append(
                    Problem(
                        f"column {original.name} is mapped in one direction only",
                        remedy="Say with `down` how it follows from the parent; only a column that is a value of `values` as it is "
                        "follows by itself.",
                        rule="missing-down",
                    )
                )
            if original.not_null and original.default is None and not found.keep:
                problems.append(
                    Problem(
                        f"column {original.name} of {shape.name} is NOT NULL without a default: rows that the new version inserts "
                        "have no value for it",
                        remedy="Give it a default first, for which `where` is false.",
                        rule="missing-down",
                    )
                )
            held.append((found, column, original))
        return held

    def _check_key(self, shape: TableShape, problems: list[Problem]) -> None:
        wanted = tuple(self.link.source.values())
        if not unique_over(shape.table, wanted):
            problems.append(
                Problem(
                    f"({', '.join(wanted)}) is no unique key of {shape.name} whose columns are NOT NULL",
                    remedy=f"Use its key ({', '.join(shape.table.key)})."
                    if shape.table.key
                    else "Add a primary key first.",
                    rule="no-key",
                )
            )
        dropped = {found.column for found in self.columns}
        problems.extend(
            Problem(f"column {name} is both normalised and part of the key")
            for name in wanted
            if name in dropped
        )

    def _made_parent(self, draft: Draft, label: str, problems: list[Problem]) -> DraftSide | None:
        create = self.create
        assert create is not None
        names = {c.name for c in create.columns}
        problems.extend(
            Problem(f"there is no column {name} in {self.parent}", rule="unknown-column")
            for name in self.values
            if name not in names
        )
        unique = [key for key in create.unique if set(key.columns) == set(self.values)]
        made = CreateTable(
            name=self.parent,
            columns=tuple(
                c.model_copy(update={"not_null": True}) if c.name in self.values else c
                for c in create.columns
            ),
            primary_key=create.primary_key,
            unique=create.unique if unique else (UniqueKey(columns=tuple(self.values)), *create.unique),
            checks=create.checks,
            foreign_keys=create.foreign_keys,
            comment=create.comment,
            grants=create.grants,
        )
        if tuple(self.link.parent.values()) != create.primary_key:
            problems.append(
                Problem(
                    f"`link.parent` names {', '.join(self.link.parent.values())} of {self.parent}, whose primary key is "
                    f"{', '.join(create.primary_key)}",
                    remedy="Let it name the primary key's columns, in their order.",
                    rule="no-key",
                )
            )
        problems.extend(
            Problem(
                f"column {c.name} of {self.parent} is NOT NULL without a default: rows made of the old version's values have none for it",
                remedy="Give it a default, or add it to `values`.",
            )
            for c in create.columns
            if (c.not_null or c.name in create.primary_key)
            and c.name not in self.values
            and c.default is None
            and c.identity is None
            and c.generated is None
        )
        problems += made.apply(draft, f"{label}/parent")
        draft.memo[f"{label}/made"] = [(f"{label}/parent", made, create.indexes)]
        if problems:
            return None
        return DraftSide(
            table=draft.name(self.parent),
            oid=0,
            kind=SideKind.ROWS,
            key=list(self.values),
            columns=[],
            readable=[(c.name, draft.type(c.type), c.collation) for c in made.columns],
            created=True,
        )

    def _found_parent(self, draft: Draft, problems: list[Problem]) -> DraftSide | None:
        other = find_shape(draft, self.parent, problems, ordinary=True)
        if other is None:
            return None
        table = other.table
        if other.groups or other.removed or other.added or other.final_name != other.name.name:
            problems.append(
                Problem(
                    f"table {other.name} is changed by this migration, and gets rows by it",
                    remedy="Change it in one migration, and normalise in the next.",
                )
            )
        for name in self.values:
            find_column(other, name, problems)
        for what, names in (
            ("the natural key", tuple(self.values)),
            ("what links refer to", tuple(self.link.parent.values())),
        ):
            if not unique_over(table, names):
                problems.append(
                    Problem(
                        f"({', '.join(names)}), {what}, is no unique key of {table.name} whose columns are NOT NULL",
                        remedy="Add the unique constraint first; without it two rows could be made for one value.",
                        rule="no-key",
                    )
                )
        problems.extend(
            Problem(
                f"column {c.name} of {table.name} is NOT NULL without a default: rows made of the old version's values have none for it",
                remedy="Give it a default first.",
            )
            for c in table.columns
            if c.not_null
            and c.name not in self.values
            and c.default is None
            and not c.identity
            and not c.generated
        )
        mine = draft.shape(self.table)
        if mine is not None and mine.table.owner != table.owner:
            problems.append(
                Problem(
                    f"{table.name} belongs to {table.owner}, {mine.name} to {mine.table.owner}: what mirrors one in the other has the "
                    "rights of one of them only",
                    remedy="Give both to one role first.",
                    rule="not-owner",
                )
            )
        if other.name == draft.name(self.table):
            problems.append(Problem("a table cannot be the parent of its own rows"))
        return DraftSide(
            table=table.name,
            oid=table.oid,
            kind=SideKind.ROWS,
            key=list(self.values),
            columns=[],
            readable=readable(table),
        )

    def _made_link(
        self, draft: Draft, shape: TableShape, parent: DraftSide, label: str, problems: list[Problem]
    ) -> DraftSide | None:
        types = {name: type_ for name, type_, _ in parent.readable}
        own = {c.name: c.type for c in shape.table.columns}
        keys = [
            *(
                TableColumn(name=n, type=own[c], not_null=True)
                for n, c in self.link.source.items()
                if c in own
            ),
            *(
                TableColumn(name=n, type=types[c], not_null=True)
                for n, c in self.link.parent.items()
                if c in types
            ),
        ]
        problems.extend(
            Problem(
                f"column {c.name} of {self.link.table} is NOT NULL without a default: rows made of the old version's values have none for it",
                remedy="Give it a default.",
            )
            for c in self.link.columns
            if c.not_null and c.default is None and c.identity is None and c.generated is None
        )
        made = CreateTable(
            name=self.link.table,
            columns=(*keys, *self.link.columns),
            primary_key=(*self.link.source, *self.link.parent),
            comment=self.link.comment,
            grants=self.link.grants,
        )
        problems += made.apply(draft, f"{label}/link")
        if problems:
            return None
        # What a parent's rename and its end look for, from the first moment.
        indexes = (tuple(self.link.parent), *(i for i in self.link.indexes if i != tuple(self.link.parent)))
        draft.memo.setdefault(f"{label}/made", []).append((f"{label}/link", made, indexes))
        return DraftSide(
            table=draft.name(self.link.table),
            oid=0,
            kind=SideKind.ROWS,
            key=list(self.link.source),
            columns=[],
            readable=[(c.name, draft.type(c.type), c.collation) for c in made.columns],
            created=True,
        )

    # --- steps --------------------------------------------------------------------------------------------------------

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        shape, parent, link = context.draft.memo[context.label]
        steps: list[Step] = []
        for label, made, indexes in context.draft.memo[f"{context.label}/made"]:
            name = context.draft.name(made.name)
            for step in made.plan(phase, replace(context, label=label)):
                update: dict[str, object] = {"operation": context.label}
                action = step.action
                if isinstance(action, Transaction) and step.id.endswith(".create_table"):
                    update["action"] = action.model_copy(
                        update={
                            "statements": (*action.statements, *_finishing(name, indexes, shape.table.owner))
                        }
                    )
                steps.append(step.model_copy(update=update))
        if phase is Phase.PREPARATION:
            # From the first moment: only the server sees a link that was made since the snapshot in which its parent is removed.
            steps += self._foreign_key(phase, link, self.link.parent, parent.table, context.label)
        if phase is Phase.MIGRATION:
            steps += self._foreign_key(phase, link, self.link.source, shape.name, context.label)
        return steps

    def _foreign_key(
        self, phase: Phase, link: DraftSide, columns: dict[str, str], references: QualifiedName, label: str
    ) -> list[Step]:
        name = fit(f"{link.table.name}_{'_'.join(columns)}_fkey")
        body = sql.SQL("FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE CASCADE").format(
            ddl.idents(columns), ddl.table(references), ddl.idents(columns.values())
        )
        return ddl.checked_constraint(
            step_id=f"{phase.value}.{link.table}.add_foreign_key.{name}",
            phase=phase,
            stage=Stage.TABLES if phase is Phase.PREPARATION else Stage.INDEXES,
            operation=label,
            on=link.table,
            name=name,
            body=body,
            references=references,
            naive="create-table-with-foreign-key",
        )


def _finishing(name: QualifiedName, indexes: Iterable[Sequence[str]], owner: str) -> list[str]:
    """What a table that is still empty gets besides."""
    found = [
        ddl.text(
            "CREATE INDEX {i} ON {t} ({c})",
            i=ddl.ident(fit(f"{name.name}_{'_'.join(columns)}_idx")),
            t=ddl.table(name),
            c=ddl.idents(columns),
        )
        for columns in indexes
    ]
    return [*found, ddl.text("ALTER TABLE {t} OWNER TO {owner}", t=ddl.table(name), owner=ddl.ident(owner))]
