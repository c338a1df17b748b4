"""create_index: an index, built without blocking anybody."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from psycopg import sql
from pydantic import ConfigDict, Field, field_validator, model_validator

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value, qualified
from zdm.model.promise import Demand, Promise
from zdm.model.requests import ExpressionRequest, IndexRequest
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Stage, Step
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import (
    Dotted,
    Name,
    Sql,
    TableName,
    check_free,
    check_unique,
    find_column,
    find_columns,
    find_shape,
    is_partitioned,
)
from zdm.operations.shape import TableShape

Setting = str | int | float | bool


class IndexColumn(Value):
    """One key of an index: a column or an expression, and how it is ordered."""

    column: Name | None = Field(default=None, description="a column of the new version")
    expression: Sql | None = Field(default=None, description="or an expression over them")
    opclass: Dotted | None = Field(default=None, description="the operator class, as name or schema.name")
    opclass_parameters: dict[Name, Setting] = Field(default_factory=dict, description="its parameters")
    collation: Dotted | None = Field(default=None, description="the collation, if not the column's")
    order: Literal["asc", "desc"] = Field(default="asc", description="ascending or descending")
    nulls: Literal["first", "last"] | None = Field(default=None, description="where NULLs sort")

    @model_validator(mode="after")
    def _one_of_two(self) -> IndexColumn:
        if (self.column is None) == (self.expression is None):
            raise ValueError("an index key is either a `column` or an `expression`")
        return self

    def render(self, key: sql.Composable) -> sql.Composed:
        """The key with everything that follows it."""
        pieces: list[sql.Composable] = [key]
        if self.collation is not None:
            pieces.append(sql.SQL(" COLLATE {}").format(ddl.dotted(self.collation)))
        if self.opclass is not None:
            pieces.append(sql.SQL(" {}").format(ddl.dotted(self.opclass)))
            if self.opclass_parameters:
                pieces.append(sql.SQL(" ({})").format(settings(self.opclass_parameters)))
        if self.order == "desc":
            pieces.append(sql.SQL(" DESC"))
        if self.nulls is not None:
            pieces.append(sql.SQL(" NULLS FIRST") if self.nulls == "first" else sql.SQL(" NULLS LAST"))
        return sql.Composed(pieces)


def settings(values: dict[str, Setting]) -> sql.Composed:
    """``name = value`` for each, with commas."""
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(ddl.ident(name), sql.Literal(_word(value)))
        for name, value in values.items()
    )


def _word(value: Setting) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class CreateIndex(Operation):
    """Create an index CONCURRENTLY, after the rows are filled; a unique one at switchover, since it may refuse writes."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    kind: ClassVar[str] = "create_index"
    summary: ClassVar[str] = "create an index without blocking"

    table: TableName = Field(description="the table")
    name: Name = Field(description="the index's name")
    columns: tuple[IndexColumn, ...] = Field(
        default=(),
        description="its keys: column names, or mappings with column or expression, opclass, order …",
    )
    method: Name = Field(default="btree", description="the access method: btree, gin, gist, brin, hash …")
    include: tuple[Name, ...] = Field(default=(), description="columns it carries without sorting by them")
    where: Sql | None = Field(
        default=None, description="the condition of a partial index, over the new version's columns"
    )
    unique: bool = Field(default=False, description="whether no two rows may share the key")
    nulls_not_distinct: bool = Field(
        default=False, description="let two NULLs be equal (PostgreSQL 15 and later)"
    )
    parameters: dict[Name, Setting] = Field(
        default_factory=dict, alias="with", description="storage parameters, such as fillfactor"
    )
    tablespace: Name | None = Field(default=None, description="where it lies")
    definition: Sql | None = Field(
        default=None,
        description="instead of all that: everything behind ON table, beginning with USING or a parenthesis",
    )

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE docs (id serial PRIMARY KEY, title text, body jsonb, size int);"
            " INSERT INTO docs (title, body, size) SELECT 'T' || g, jsonb_build_object('n', g), g FROM generate_series(1, 300) g;",
            operations=(
                {
                    "create_index": {
                        "table": "docs",
                        "name": "docs_body_idx",
                        "method": "gin",
                        "columns": [{"column": "body", "opclass": "jsonb_path_ops"}],
                    }
                },
                {
                    "create_index": {
                        "table": "docs",
                        "name": "docs_lower_title_idx",
                        "columns": [
                            {"expression": "lower(title)", "opclass": "text_pattern_ops"},
                            {"column": "size", "order": "desc", "nulls": "last"},
                        ],
                        "include": ["id"],
                        "where": "size > 10",
                        "with": {"fillfactor": 80},
                    }
                },
            ),
            old_writes=("INSERT INTO docs (title, size) VALUES ('Old {n}', {n})",),
            new_writes=("INSERT INTO docs (title, size) VALUES ('New {n}', {n})",),
            old_reads=("SELECT id FROM docs WHERE lower(title) = 't1'",),
            new_reads=("""SELECT id FROM docs WHERE body @> '{{"n": 1}}'""",),
            after="SELECT count(*) = 2 AND bool_and(indisvalid) FROM pg_index WHERE indrelid = 'docs'::regclass AND NOT indisprimary",
        ),
    )

    @field_validator("columns", mode="before")
    @classmethod
    def _plain_names(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [{"column": item} if isinstance(item, str) else item for item in value]
        return value

    @model_validator(mode="after")
    def _columns_or_definition(self) -> CreateIndex:
        if self.definition is None and not self.columns:
            raise ValueError("an index needs `columns` or a `definition`")
        extra = self.columns or self.include or self.where or self.parameters or self.tablespace
        if self.definition is not None and (extra or self.method != "btree" or self.nulls_not_distinct):
            raise ValueError(
                "`definition` stands instead of columns, method, include, where, with and tablespace"
            )
        if self.definition is not None and not self.definition.lstrip().upper().startswith(("USING ", "(")):
            raise ValueError("`definition` is what follows ON table: it begins with USING or a parenthesis")
        return self

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        try:
            return (qualified(draft.name(self.table).schema_, self.name),)
        except ValueError:
            return ()

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        if self.nulls_not_distinct and draft.server_version < 150000:
            problems.append(
                Problem("`nulls_not_distinct` needs PostgreSQL 15 or later", rule="server-version")
            )
        if self.nulls_not_distinct and not self.unique:
            problems.append(Problem("`nulls_not_distinct` needs `unique: true`"))
        try:
            created = draft.created.get(draft.name(self.table))
        except ValueError:
            created = None
        if created is not None:
            return problems + self._apply_created(draft, label, created)
        shape = find_shape(draft, self.table, problems)
        if shape is None:
            return problems
        check_free(draft, shape, self.name, "index", problems, shape.name.schema_)
        if self.definition is not None and any(c.name != c.physical for c in shape.columns):
            problems.append(
                Problem(
                    "a raw `definition` cannot name columns that have another name on the table until cleanup",
                    remedy="Use `columns` and `where`, whose names are translated.",
                )
            )
        keys = [
            self._key(draft, shape, number, item, label, problems) for number, item in enumerate(self.columns)
        ]
        include = [c.physical for c in find_columns(shape, self.include, problems)]
        if self.where is not None:
            self._request(draft, shape, f"{label}/where", self.where, label, boolean=True)
        self._check_partitioned(shape, keys, problems)
        for one in [k for k in keys if k is not None] + include:
            shape.uses[one] = f"the index {self.name}"
        draft.memo[label] = (shape.name, keys, include, False)
        return problems

    def _check_partitioned(self, shape: TableShape, keys: list[str | None], problems: list[Problem]) -> None:
        if not shape.table.partitioned or not self.unique:
            return
        if self.definition is not None:
            problems.append(
                Problem(
                    "a unique index of a partitioned table cannot be a raw `definition`, whose columns are not known",
                    remedy="Use `columns`.",
                )
            )
            return
        check_unique(shape, [k for k in keys if k is not None], f"the unique index {self.name}", problems)

    def _apply_created(self, draft: Draft, label: str, created: Collection[str]) -> list[Problem]:
        table = draft.name(self.table)
        problems: list[Problem] = []
        check_free(draft, None, self.name, "index", problems, table.schema_)
        wanted = [item.column for item in self.columns if item.column is not None] + list(self.include)
        problems += [
            Problem(f"there is no column {c} in {table}", rule="unknown-column")
            for c in wanted
            if c not in created
        ]
        draft.memo[label] = (table, [item.column for item in self.columns], list(self.include), True)
        return problems

    def _key(
        self,
        draft: Draft,
        shape: TableShape,
        number: int,
        item: IndexColumn,
        label: str,
        problems: list[Problem],
    ) -> str | None:
        if item.column is not None:
            known = len(problems)
            found = find_column(shape, item.column, problems)
            if "(" in item.column and len(problems) > known:
                problems[-1] = replace(
                    problems[-1], remedy=f'An expression is written {{expression: "{item.column}"}}.'
                )
            return found.physical if found is not None else None
        assert item.expression is not None
        self._request(draft, shape, f"{label}/{number}", item.expression, label)
        return None

    def _request(
        self, draft: Draft, shape: TableShape, key: str, text: str, label: str, *, boolean: bool = False
    ) -> None:
        draft.requests.append(
            ExpressionRequest(key=key, table=shape.name, text=text, boolean=boolean, where=label)
        )

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        # A unique one refuses writes: not those of the old version while that is the authority.
        table, keys, include, created = context.draft.memo[context.label]
        if phase is not (Phase.MIGRATION if created or not self.unique else Phase.SWITCHOVER):
            return []
        index = qualified(table.schema_, self.name)
        partitioned = is_partitioned(context.draft, table)
        return [
            Step(
                id=f"{phase.value}.{table}.create_index.{self.name}",
                title=f"build the index {self.name} on {table}",
                phase=phase,
                stage=Stage.INDEXES if phase is Phase.MIGRATION else Stage.CONSTRAINTS,
                operation=context.label,
                action=ddl.create_index(
                    index,
                    table,
                    self._tail(keys, include, context),
                    unique=self.unique,
                    partitioned=partitioned,
                ),
                undo=(ddl.drop_index(index, table, partitioned=partitioned),),
                naive="create-index-blocks-writes",
            )
        ]

    def indexes(self, context: Context) -> list[IndexRequest]:
        table, keys, include, created = context.draft.memo[context.label]
        shape = None if created else context.draft.shapes[table]
        return [
            IndexRequest(
                key=f"{context.label}/index",
                table=table,
                columns=context.draft.created[table] if shape is None else shape.types(),
                definition=self._composed(keys, include, context).as_string(None),
                unique=self.unique,
                tablespace=self.tablespace,
                where=context.label,
            )
        ]

    def promises(self, context: Context) -> list[Promise]:
        table, keys, include, created = context.draft.memo[context.label]
        if created or not self.unique:
            return []
        return [
            Promise(
                demand=Demand.UNIQUE,
                name=self.name,
                table=table,
                operation=context.label,
                definition=self._tail(keys, include, context).as_string(None),
            )
        ]

    def _tail(self, keys: list[str | None], include: list[str], context: Context) -> sql.Composed:
        """What follows ``ON table``, as the server spells it."""
        spelled = context.carried.get(f"{context.label}/index")
        if spelled is not None:
            return sql.Composed([ddl.raw(spelled)])
        return self._composed(keys, include, context)

    def _composed(self, keys: list[str | None], include: list[str], context: Context) -> sql.Composed:
        if self.definition is not None:
            return sql.Composed([ddl.raw(self.definition)])
        rendered = []
        for number, (item, physical) in enumerate(zip(self.columns, keys, strict=True)):
            key = (
                ddl.ident(physical)
                if physical is not None
                else self._checked(f"{number}", item.expression, context)
            )
            rendered.append(item.render(key))
        pieces: list[sql.Composable] = [
            sql.SQL("USING {} ({})").format(ddl.ident(self.method), sql.SQL(", ").join(rendered))
        ]
        if include:
            pieces.append(sql.SQL(" INCLUDE ({})").format(ddl.idents(include)))
        if self.nulls_not_distinct:
            pieces.append(sql.SQL(" NULLS NOT DISTINCT"))
        if self.parameters:
            pieces.append(sql.SQL(" WITH ({})").format(settings(self.parameters)))
        if self.tablespace is not None:
            pieces.append(sql.SQL(" TABLESPACE {}").format(ddl.ident(self.tablespace)))
        if self.where is not None:
            pieces.append(sql.SQL(" WHERE {}").format(self._checked("where", self.where, context)))
        return sql.Composed(pieces)

    def _checked(self, key: str, written: str | None, context: Context) -> sql.Composable:
        """The server's reading of an expression; what was written where the table does not exist yet."""
        found = context.expressions.get(f"{context.label}/{key}")
        if found is not None:
            return found.render(sql.Identifier)
        return sql.SQL("({})").format(ddl.raw(written or ""))
