"""set_not_null: the new version promises a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from psycopg import sql
from pydantic import Field

from zdm.errors import Problem
from zdm.model.names import chosen_by_server, fit, qualified
from zdm.model.promise import Demand, Promise
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Stage, Step, Transaction
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import Name, Sql, TableName, find_column, find_original, find_shape
from zdm.operations.shape import ShapeColumn, TableShape
from zdm.operations.succession import cast_back, coalesce, succeed


class SetNotNull(Operation):
    """Make a column NOT NULL. With `up`, rows without a value get one; without, cleanup proves that there are none."""

    kind: ClassVar[str] = "set_not_null"
    summary: ClassVar[str] = "make a column NOT NULL, filling what is NULL"

    table: TableName = Field(description="the table")
    column: Name = Field(description="the column")
    up: Sql | None = Field(
        default=None, description="the value where it is NULL, over the old version's columns"
    )
    down: Sql | None = Field(
        default=None,
        description="the old value, over the new version's columns; the new value as it is, if not given",
    )

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE users (id serial PRIMARY KEY, nick text);"
            " CREATE INDEX users_nick_idx ON users (lower(nick));"
            " INSERT INTO users (nick) SELECT CASE WHEN g % 3 > 0 THEN 'n' || g END FROM generate_series(1, 300) g;",
            operations=({"set_not_null": {"table": "users", "column": "nick", "up": "'user-' || id"}},),
            old_writes=(
                "INSERT INTO users (nick) VALUES (NULL)",
                "INSERT INTO users (nick) VALUES ('old {n}')",
                "UPDATE users SET nick = NULL WHERE id = {n} % 300 + 1",
            ),
            new_writes=(
                "INSERT INTO users (nick) VALUES ('new {n}')",
                "UPDATE users SET nick = 'w{n}' WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, nick FROM users LIMIT 5",),
            new_reads=("SELECT id, nick FROM users WHERE lower(nick) = 'n1'",),
            agree="SELECT bool_and(nick IS NOT NULL) FROM users",
            after="SELECT attnotnull FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'nick'",
        ),
        Scenario(
            setup="CREATE TABLE orders (id serial PRIMARY KEY, total int);"
            " INSERT INTO orders (total) SELECT g FROM generate_series(1, 300) g;",
            operations=({"set_not_null": {"table": "orders", "column": "total"}},),
            old_writes=("INSERT INTO orders (total) VALUES ({n})",),
            new_writes=("INSERT INTO orders (total) VALUES ({n})",),
            old_reads=("SELECT id, total FROM orders LIMIT 5",),
            new_reads=("SELECT id, total FROM orders LIMIT 5",),
            after="SELECT attnotnull FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'total'",
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
        if column.not_null:
            return [Problem(f"column {self.column} of {shape.name} is NOT NULL already")]
        if self.up is None and self.down is not None:
            return [
                Problem("`down` without `up` has nothing to undo", remedy="Give `up`, or leave out `down`.")
            ]
        if column.fresh:
            return self._tighten_fresh(shape, column)
        original = find_original(shape, column, problems)
        if original is None:
            return problems
        if self.up is None:
            column.not_null = True
            draft.memo[label] = (shape, column.physical)
            return []
        new = succeed(shape, column, original, label=label, problems=problems)
        new.up, new.not_null = coalesce(column.physical, self.up), True
        shown = shape.column(new.final)
        if shown is not None:
            shown.not_null = True
        # A NULL of the old version cannot survive on purpose: that is what the operation is for.
        shape.groups[-1].lossy = True
        if self.down is None:
            cast_back(shape, column.physical, new, None)
        else:
            shape.groups[-1].old[column.physical] = self.down
        return problems

    def _tighten_fresh(self, shape: TableShape, column: ShapeColumn) -> list[Problem]:
        new, group = shape.draft(column.physical), shape.group_of(column.physical)
        if new is None or group is None:
            return [
                Problem(
                    f"column {self.column} of {shape.name} is added by this migration",
                    remedy="Say `not_null: true` in add_column.",
                )
            ]
        if self.down is not None:
            return [
                Problem(
                    f"column {self.column} already has a mapping in this migration",
                    remedy="Give `down` in the operation that replaces the column.",
                )
            ]
        new.not_null = column.not_null = True
        if self.up is not None:
            new.up = (
                self.up
                if new.up is None
                else ddl.text("COALESCE(({a}), ({b}))", a=ddl.raw(new.up), b=ddl.raw(self.up))
            )
            new.fill = None
            group.lossy = True
        return []

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        memo = context.draft.memo.get(context.label)
        if phase is not Phase.CLEANUP or memo is None:
            return []
        shape, physical = memo
        return prove_not_null(shape, physical, context)

    def promises(self, context: Context) -> list[Promise]:
        memo = context.draft.memo.get(context.label)
        if memo is None:
            return []  # rows get a value from `up`; the verification looks for NULLs itself
        shape, physical = memo
        return [
            Promise(
                demand=Demand.NOT_NULL,
                name=self.column,
                table=shape.name,
                operation=context.label,
                keys=(ddl.ident(physical).as_string(None),),
                reads=(physical,),
            )
        ]


def prove_not_null(shape: TableShape, physical: str, context: Context) -> list[Step]:
    """The steps that make a column NOT NULL without reading the table under a lock."""
    table = shape.name
    base = f"cleanup.{table}.set_not_null.{physical}"
    native = context.draft.server_version >= 180000
    final = next((c.name for c in shape.columns if c.physical == physical), physical)
    named = native and final == physical
    proof = (
        chosen_by_server(shape.final_name, final, "not_null") if named else fit(f"_zdm_{physical}_not_null")
    )
    body = (
        ddl.text("NOT NULL {c}", c=ddl.ident(physical))
        if native
        else ddl.text("CHECK ({c} IS NOT NULL)", c=ddl.ident(physical))
    )

    def step(suffix: str, title: str, action: Transaction) -> Step:
        return Step(
            id=base + suffix,
            title=title,
            phase=Phase.CLEANUP,
            stage=Stage.TIGHTEN,
            operation=context.label,
            action=action,
            undo=(ddl.drop_constraint(proof, table),) if suffix == ".promise" else (),
            naive="set-not-null-scan",
        )

    found = [
        step(
            ".promise",
            f"refuse NULL in {physical} of {table} for new rows",
            ddl.alter(
                table, "ADD CONSTRAINT {name} {body} NOT VALID", name=ddl.ident(proof), body=ddl.raw(body)
            ),
        ),
        Step(
            id=f"{base}.validate",
            title=f"prove that {physical} of {table} holds no NULL",
            phase=Phase.CLEANUP,
            stage=Stage.TIGHTEN,
            operation=context.label,
            action=ddl.validate_constraint(proof, table),
            naive="set-not-null-scan",
        ),
    ]
    if native and not named:
        found.append(ddl.name_not_null(qualified(table.schema_, shape.final_name), final, context.label))
    if not native:
        found.append(
            step(
                "",
                f"make {physical} of {table} NOT NULL, which the proof makes instant",
                Transaction(
                    # In one statement the proof would be dropped first, and the table be read under the lock.
                    statements=(
                        ddl.text(
                            "ALTER TABLE {t} ALTER COLUMN {c} SET NOT NULL",
                            t=ddl.table(table),
                            c=sql.Identifier(physical),
                        ),
                        ddl.text(
                            "ALTER TABLE {t} DROP CONSTRAINT {proof}",
                            t=ddl.table(table),
                            proof=ddl.ident(proof),
                        ),
                    ),
                    locks=(ddl.lock(table),),
                ),
            )
        )
    return found
