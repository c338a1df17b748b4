"""add_column: a column that the old version does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from psycopg import sql
from pydantic import Field

from zdm.errors import Problem
from zdm.model.names import QualifiedName, qualified
from zdm.model.requests import ExpressionRequest
from zdm.model.sample import Scenario
from zdm.model.step import Lock, Phase, Stage, Step, Transaction
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import Dotted, Name, Sql, TableName, check_new_column, find_shape
from zdm.operations.shape import DraftGroup, DraftNew, ShapeColumn, TableShape
from zdm.sql import children
from zdm.sql.closed import open_columns


class AddColumn(Operation):
    """Add a column. Rows of the old version get `up`, or else the default."""

    kind: ClassVar[str] = "add_column"
    summary: ClassVar[str] = "add a column, filled from the other columns, a default, or nothing"

    table: TableName = Field(description="the table")
    column: Name = Field(description="the new column's name")
    type: Sql = Field(description="its type")
    up: Sql | None = Field(
        default=None, description="its value for rows of the old version, over their columns"
    )
    default: Sql | None = Field(
        default=None, description="its default; may be volatile, such as gen_random_uuid()"
    )
    not_null: bool = Field(default=False, description="whether the new version promises NOT NULL")
    collation: Dotted | None = Field(default=None, description="its collation, if not the type's")
    comment: str | None = Field(default=None, description="its comment")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE reports (id serial PRIMARY KEY, title text NOT NULL);"
            " INSERT INTO reports (title) SELECT 'report ' || g FROM generate_series(1, 300) g;",
            operations=({"add_column": {"table": "reports", "column": "insights", "type": "jsonb"}},),
            old_writes=(
                "INSERT INTO reports (title) VALUES ('old {n}')",
                "UPDATE reports SET title = 'o{n}' WHERE id = {n} % 300 + 1",
            ),
            new_writes=(
                """INSERT INTO reports (title, insights) VALUES ('new {n}', '{{"score": {n}}}')""",
                """UPDATE reports SET insights = '{{"n": {n}}}' WHERE id = {n} % 300 + 1""",
            ),
            old_reads=("SELECT id, title FROM reports LIMIT 5",),
            new_reads=("SELECT id, title, insights FROM reports LIMIT 5",),
            after="SELECT count(*) = 1 FROM information_schema.columns WHERE table_name = 'reports'"
            " AND column_name = 'insights' AND data_type = 'jsonb' AND table_schema = current_schema()",
        ),
        Scenario(
            setup="CREATE TABLE people (id serial PRIMARY KEY, first text NOT NULL, last text);"
            " INSERT INTO people (first, last) SELECT 'f' || g, nullif('l' || g % 7, 'l0') FROM generate_series(1, 300) g;",
            operations=(
                {
                    "add_column": {
                        "table": "people",
                        "column": "full_name",
                        "type": "text",
                        "up": "concat_ws(' ', first, last)",
                        "not_null": True,
                        "comment": "what letters are addressed to",
                    }
                },
            ),
            old_writes=(
                "INSERT INTO people (first, last) VALUES ('old', '{n}')",
                "UPDATE people SET last = 'w{n}' WHERE id = {n} % 300 + 1",
            ),
            new_writes=(
                "INSERT INTO people (first, full_name) VALUES ('new', 'new {n}')",
                "UPDATE people SET full_name = 'renamed {n}' WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, first, last FROM people LIMIT 5",),
            new_reads=("SELECT id, full_name FROM people LIMIT 5",),
            agree="SELECT bool_and(full_name IS NOT NULL) FROM people",
            after="SELECT bool_and(full_name IS NOT NULL) FROM people",
        ),
        Scenario(
            setup="CREATE TABLE tickets (id serial PRIMARY KEY, note text);"
            " INSERT INTO tickets (note) SELECT 'n' || g FROM generate_series(1, 300) g;",
            operations=(
                {
                    "add_column": {
                        "table": "tickets",
                        "column": "token",
                        "type": "uuid",
                        "default": "gen_random_uuid()",
                        "not_null": True,
                    }
                },
                {
                    "add_column": {
                        "table": "tickets",
                        "column": "state",
                        "type": "text",
                        "default": "'open'",
                        "not_null": True,
                    }
                },
            ),
            old_writes=(
                "INSERT INTO tickets (note) VALUES ('old {n}')",
                "UPDATE tickets SET note = 'o{n}' WHERE id = {n} % 300 + 1",
            ),
            new_writes=("INSERT INTO tickets (note, state) VALUES ('new {n}', 'closed')",),
            old_reads=("SELECT id, note FROM tickets LIMIT 5",),
            new_reads=("SELECT id, token, state FROM tickets LIMIT 5",),
            agree="SELECT bool_and(token IS NOT NULL AND state IS NOT NULL) AND count(*) = count(DISTINCT token) FROM tickets",
            after="SELECT bool_and(token IS NOT NULL AND state IS NOT NULL) AND count(*) = count(DISTINCT token) FROM tickets",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def types(self) -> Sequence[str]:
        return (self.type,)

    def column_additions(self, draft: Draft) -> Sequence[tuple[str, str | None]]:
        del draft
        return ((self.type, self.default),)

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        if self.not_null and self.up is None and self.default is None:
            problems.append(
                Problem(
                    f"column {self.column} is to be NOT NULL, but nothing gives rows of the old version a value",
                    remedy="Give `default` or `up`, or leave out `not_null`.",
                )
            )
        if shape is None:
            return problems
        check_new_column(shape, self.column, problems)
        if problems:
            return problems
        new = DraftNew(
            physical=shape.physical_name(self.column),
            final=self.column,
            type=draft.type(self.type),
            up=self.up,
            default=self.default,
            not_null=self.not_null,
            collation=self.collation,
        )
        if self.up is None and (self.default is None or (self.type, self.default) in draft.instant_columns):
            shape.added.append(new)
            if self.default is not None:
                draft.requests.append(
                    ExpressionRequest(
                        key=f"{label}/default",
                        table=shape.name,
                        text=self.default,
                        assign_to=new.type,
                        constant=True,
                        where=label,
                    )
                )
        else:
            # A default that is not known to be stored once for all rows is evaluated once per row, by whoever settles it.
            new.fill = self.default if self.up is None else None
            shape.groups.append(DraftGroup(name=self.column, operation=label, new=[new]))
        shape.columns.append(
            ShapeColumn(new.final, new.physical, new.type, new.not_null, new.default, fresh=True)
        )
        draft.memo[label] = (shape, new)
        return []

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        shape, new = context.draft.memo[context.label]
        instant = new in shape.added
        if phase is Phase.PREPARATION and instant:
            return [self._add(shape, new, context)]
        final = qualified(shape.name.schema_, shape.final_name)
        if phase is Phase.CLEANUP and instant and new.not_null and new.physical != new.final:
            # PostgreSQL 18 named it after the column's name of then.
            native = context.draft.server_version >= 180000
            return [ddl.name_not_null(final, new.final, context.label)] if native else []
        if phase is Phase.CLEANUP and self.comment is not None and not instant:
            return [
                Step(
                    id=f"cleanup.{shape.name}.add_column.{new.physical}.comment",
                    title=f"comment on the column {new.final}",
                    phase=phase,
                    stage=Stage.FINISH,
                    operation=context.label,
                    action=Transaction(
                        statements=(self._comment_on(final, new.final),),
                        locks=(ddl.lock(final, Lock.SHARE_UPDATE_EXCLUSIVE),),
                    ),
                )
            ]
        return []

    def _comment_on(self, name: QualifiedName, column: str) -> str:
        return ddl.text(
            "COMMENT ON COLUMN {t}.{c} IS {comment}",
            t=ddl.table(name),
            c=ddl.ident(column),
            comment=sql.Literal(self.comment),
        )

    def _add(self, shape: TableShape, new: DraftNew, context: Context) -> Step:
        tail: list[sql.Composable] = []
        if new.default is not None:
            default = context.expressions[f"{context.label}/default"].render(sql.Identifier)
            tail.append(sql.SQL(" DEFAULT {}").format(default))
        if new.not_null:
            tail.append(sql.SQL(" NOT NULL"))
        statements = [
            ddl.text(
                "ALTER TABLE {t} ADD COLUMN {definition}{tail}",
                t=ddl.table(shape.name),
                definition=ddl.definition(new.physical, new.type, new.collation),
                tail=sql.Composed(tail),
            )
        ]
        if self.comment is not None:
            statements.append(self._comment_on(shape.name, new.physical))
        left = (children.drop_columns(shape.table.oid, [new.physical]),) if shape.table.has_children else ()
        return Step(
            id=f"preparation.{shape.name}.add_column.{new.physical}",
            title=f"add the column {new.final} to {shape.name}",
            phase=Phase.PREPARATION,
            stage=Stage.STRUCTURE,
            operation=context.label,
            action=Transaction(statements=tuple(statements), locks=(ddl.lock(shape.name),)),
            undo=(
                Transaction(
                    statements=(
                        *(open_columns(shape.name, [new.physical]) if shape.name in context.closable else ()),
                        ddl.text(
                            "ALTER TABLE IF EXISTS {t} DROP COLUMN IF EXISTS {c}",
                            t=ddl.table(shape.name),
                            c=ddl.ident(new.physical),
                        ),
                        *left,
                    ),
                    locks=(ddl.lock(shape.name),),
                ),
            ),
            naive="add-column-with-default",
        )
