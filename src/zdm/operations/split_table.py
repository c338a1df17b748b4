"""split_table: rows of a table, or those that meet a condition, get tables of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from psycopg import sql
from pydantic import Field, field_validator

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value
from zdm.model.row_mapping import SideKind, WithoutOldForm
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Step
from zdm.model.table import Table
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.create_table import TableColumn
from zdm.operations.drop_table import DropTable, left_behind
from zdm.operations.params import Name, Sql, TableName, by_name, find_shape, names_too
from zdm.operations.rows import DraftMirrored, DraftRows, DraftSide
from zdm.operations.shape import TableShape, is_sequence_default
from zdm.operations.target import (
    MadeTable,
    Target,
    existing_table,
    make_table,
    nothing_comes_back,
    quoted,
    readable,
    refuse_loose_key,
    required,
    sequence_step,
    table_steps,
    without_old_form,
)


class PartColumn(Value):
    """One column of a part; its name alone stands for one that is copied as it is."""

    column: Name = Field(description="its name in the part")
    up: Sql | None = Field(
        default=None,
        description="its value, over the old table's columns; the column of that name if not given",
    )
    type: Sql | None = Field(
        default=None, description="its type; that of the column it is copied from if not given"
    )
    not_null: bool | None = Field(
        default=None, description="whether it is NOT NULL; as the column it is copied from if not given"
    )
    default: Sql | None = Field(
        default=None, description="its default; that of the column it is copied from if not given"
    )


class CreatedPart(MadeTable):
    """The part's table to make: what it has besides the key and the mapped columns."""

    primary_key: tuple[Name, ...] = Field(
        default=(), description="the primary key's columns; those of `key` if not given"
    )


class Part(Value):
    """One table that rows go to."""

    to: TableName = Field(description="the table")
    key: dict[Name, Name] = Field(
        min_length=1,
        description="which row belongs to which: each key column of `to`, and the key column of `table` that it equals",
    )
    columns: tuple[PartColumn, ...] = Field(
        default=(),
        description="its mapped columns besides the key, by name or in detail",
        json_schema_extra=names_too,
    )
    where: Sql | None = Field(
        default=None, description="only rows that meet this, over the old table's columns"
    )
    down: dict[Name, Sql] = Field(
        default_factory=dict,
        description="the old table's columns, over this one's; each column that is copied as it is needs none",
    )
    gone: dict[Name, Sql] = Field(
        default_factory=dict,
        description="what the old row is given instead of being deleted, when its row here is; `where` must then leave it out",
    )
    one_way: bool = Field(
        default=False,
        description="nothing flows back to the old table: until cleanup the new version only reads this one, besides columns of its own",
    )
    without_old_form: WithoutOldForm = Field(
        default=WithoutOldForm.REFUSE,
        description="a row of it that the old table has no form for: refuse to write it, or record it, so that a rollback keeps it",
    )
    lossy: bool = Field(default=False, description="accept that down(up(x)) is not x for some rows")
    create: CreatedPart | None = Field(default=None, description="make `to`; without it, `to` exists already")

    @field_validator("columns", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return by_name(value)


class SplitTable(Operation):
    """Mirror rows of a table in other tables, by columns, by a condition, or both; the old table stays or goes at cleanup."""

    kind: ClassVar[str] = "split_table"
    summary: ClassVar[str] = "split a table into others, by columns or by a condition"

    table: TableName = Field(description="the table whose rows are split")
    into: tuple[Part, ...] = Field(min_length=1, description="the tables that get them")
    keep: bool = Field(default=False, description="the new version has the old table as well")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE entries (entry_id bigserial PRIMARY KEY, amount numeric(12,2) NOT NULL, description text,"
            " status text NOT NULL DEFAULT 'active'); INSERT INTO entries (amount, description, status)"
            " SELECT g, 'entry ' || g, CASE WHEN g % 3 = 0 THEN 'inactive' ELSE 'active' END FROM generate_series(1, 300) g;",
            operations=(
                {
                    "split_table": {
                        "table": "entries",
                        "keep": True,
                        "into": [
                            {
                                "to": "reports",
                                "key": {"id": "entry_id"},
                                "where": "status = 'active'",
                                "columns": [
                                    {"column": "value", "up": "amount"},
                                    {"column": "notes", "up": "upper(description)", "type": "text"},
                                ],
                                "down": {
                                    "amount": "value",
                                    "description": "lower(notes)",
                                    "status": "'active'",
                                },
                                "gone": {"status": "'inactive'"},
                                "create": {
                                    "columns": [{"name": "checked", "type": "boolean", "default": "false"}]
                                },
                            }
                        ],
                    }
                },
            ),
            old_writes=(
                "INSERT INTO entries (amount, description) VALUES ({n}, 'old {n}')",
                "UPDATE entries SET amount = amount + 1 WHERE entry_id = {n} % 300 + 1",
                (
                    "UPDATE entries SET status = CASE status WHEN 'active' THEN 'inactive' ELSE 'active' END"
                    " WHERE entry_id = {n} % 300 + 1"
                ),
                "DELETE FROM entries WHERE entry_id = (SELECT max(entry_id) FROM entries WHERE description LIKE 'old%')",
            ),
            new_writes=(
                "INSERT INTO reports (value, notes) VALUES ({n}, 'NEW {n}')",
                "UPDATE reports SET value = value + 1 WHERE id = {n} % 300 + 1",
                "DELETE FROM reports WHERE id = (SELECT max(id) FROM reports WHERE notes LIKE 'NEW%')",
            ),
            old_reads=("SELECT entry_id, amount, status FROM entries LIMIT 5",),
            new_reads=("SELECT id, value, notes FROM reports LIMIT 5",),
            agree="SELECT NOT EXISTS (SELECT FROM (SELECT * FROM public.entries WHERE status = 'active') e"
            " FULL JOIN public.reports r ON r.id = e.entry_id"
            " WHERE e.entry_id IS NULL OR r.id IS NULL OR e.amount <> r.value OR lower(e.description) <> lower(r.notes))",
            after="SELECT to_regclass('entries') IS NOT NULL AND (SELECT count(*) FROM reports) > 100",
        ),
        Scenario(
            setup="CREATE TABLE customers (id bigserial PRIMARY KEY, email text NOT NULL, nick text, street text NOT NULL DEFAULT '',"
            " city text); INSERT INTO customers (email, street, city)"
            " SELECT 'c' || g, 'Street ' || g, 'City' FROM generate_series(1, 300) g;",
            operations=(
                {
                    "split_table": {
                        "table": "customers",
                        "into": [
                            {
                                "to": "logins",
                                "key": {"id": "id"},
                                "columns": ["email", "nick"],
                                "create": {},
                            },
                            {
                                "to": "addresses",
                                "key": {"customer_id": "id"},
                                "columns": ["street", {"column": "town", "up": "city"}],
                                "down": {"email": "'unknown'"},
                                "create": {},
                            },
                        ],
                    }
                },
            ),
            old_writes=(
                "INSERT INTO customers (email, city) VALUES ('old {n}', 'Old')",
                "UPDATE customers SET street = 'x{n}', nick = 'n{n}' WHERE id = {n} % 300 + 1",
                "DELETE FROM customers WHERE email = 'old {n}'",
            ),
            new_writes=(
                (
                    "WITH l AS (INSERT INTO logins (email) VALUES ('new {n}') RETURNING id)"
                    " INSERT INTO addresses (customer_id, town) SELECT id, 'New' FROM l"
                ),
                # The part that comes first lends the other one's column a value, which the other one then gives.
                (
                    "WITH a AS (INSERT INTO addresses (town) VALUES ('first {n}') RETURNING customer_id)"
                    " INSERT INTO logins (id, email) SELECT customer_id, 'second {n}' FROM a"
                ),
                "UPDATE addresses SET town = 't{n}' WHERE customer_id = {n} % 300 + 1",
                "UPDATE logins SET nick = 'm{n}' WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, email, city FROM customers LIMIT 5",),
            new_reads=(
                "SELECT l.email, a.town FROM logins l JOIN addresses a ON a.customer_id = l.id LIMIT 5",
            ),
            agree="SELECT NOT EXISTS (SELECT FROM public.customers c FULL JOIN public.logins l USING (id)"
            " FULL JOIN public.addresses a ON a.customer_id = id"
            " WHERE (c.email, c.nick, c.street, c.city) IS DISTINCT FROM (l.email, l.nick, a.street, a.town))",
            after="SELECT to_regclass('customers') IS NULL AND (SELECT count(*) FROM logins) >= 300"
            " AND pg_get_serial_sequence('logins', 'id') IS NOT NULL",
        ),
        Scenario(
            setup="CREATE TABLE entries (entry_id bigserial PRIMARY KEY, amount numeric(12,2) NOT NULL, status text NOT NULL"
            " DEFAULT 'active'); INSERT INTO entries (amount, status)"
            " SELECT g, CASE WHEN g % 3 = 0 THEN 'inactive' ELSE 'active' END FROM generate_series(1, 300) g;",
            operations=(
                {
                    "split_table": {
                        "table": "entries",
                        "keep": True,
                        "into": [
                            {
                                "to": "reports",
                                "key": {"id": "entry_id"},
                                "where": "status = 'active'",
                                "columns": [
                                    {"column": "value", "up": "amount"},
                                    {"column": "state", "up": "status"},
                                ],
                                "gone": {"status": "'inactive'"},
                                "without_old_form": "record",
                                "create": {},
                            }
                        ],
                    }
                },
            ),
            old_writes=(
                "INSERT INTO entries (amount) VALUES ({n})",
                "UPDATE entries SET amount = amount + 1 WHERE entry_id = {n} % 300 + 1",
                (
                    "UPDATE entries SET status = CASE status WHEN 'active' THEN 'inactive' ELSE 'active' END"
                    " WHERE entry_id = {n} % 300 + 1"
                ),
                "DELETE FROM entries WHERE entry_id = (SELECT max(entry_id) FROM entries WHERE entry_id > 300)",
            ),
            new_writes=(
                "INSERT INTO reports (value, state) VALUES ({n}, 'draft')",
                (
                    "UPDATE reports SET state = CASE state WHEN 'active' THEN 'draft' ELSE 'active' END"
                    " WHERE id = {n} % 300 + 1"
                ),
                "UPDATE reports SET value = value + 1 WHERE id = (SELECT max(id) FROM reports WHERE state = 'draft')",
                "DELETE FROM reports WHERE id = (SELECT min(id) FROM reports WHERE id > 300 AND state = 'draft')",
            ),
            old_reads=("SELECT entry_id, amount, status FROM entries LIMIT 5",),
            new_reads=("SELECT id, value, state FROM reports LIMIT 5",),
            agree="SELECT NOT EXISTS (SELECT FROM (SELECT * FROM public.entries WHERE status = 'active') e FULL JOIN"
            " (SELECT * FROM public.reports WHERE state = 'active') r ON r.id = e.entry_id WHERE e.amount IS DISTINCT FROM r.value)"
            " AND NOT EXISTS (SELECT FROM (SELECT * FROM public.reports WHERE state <> 'active') AS r FULL JOIN (SELECT * FROM"
            " zdm.rows_without_old_form WHERE rollout = (SELECT max(id) FROM zdm.module_migrations)) AS f"
            " ON f.key = jsonb_build_object('id', r.id) WHERE f.new_row IS DISTINCT FROM to_jsonb(r))",
            after="SELECT (SELECT count(*) FROM reports) > 100 AND NOT EXISTS (SELECT FROM zdm.rows_without_old_form"
            " WHERE rollout = (SELECT max(id) FROM zdm.module_migrations))",
        ),
    )

    def tables(self) -> Sequence[str]:
        others = [(part.to,) if part.create is None else part.create.referenced for part in self.into]
        return (self.table, *(name for names in others for name in names))

    def types(self) -> Sequence[str]:
        found = [c.type for part in self.into for c in part.columns if c.type is not None]
        found += [c.type for part in self.into if part.create is not None for c in part.create.columns]
        return tuple(found)

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        found: list[QualifiedName] = []
        for part in self.into:
            if part.create is not None:
                try:
                    found.append(draft.name(part.to))
                except ValueError:
                    return ()
        return tuple(found)

    # --- what it means ------------------------------------------------------------------------------------------------

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems, ordinary=True)
        if shape is None:
            return problems
        if shape.changed:
            problems.append(
                Problem(
                    f"table {shape.name} is changed by this migration, and split by it",
                    remedy="Change it in one migration, and split it in the next.",
                )
            )
            return problems
        problems += self._recorded()
        made: list[tuple[Part, Target]] = []
        for number, part in enumerate(self.into):
            found = self._part(draft, shape, part, f"{label}/{number}", problems)
            if found is not None:
                made.append((part, found))
        if problems:
            return problems
        for part, found in made:
            rows = self._rows(shape, part, found, label)
            draft.rows.append(rows)
            known = {*rows.old.key, *(c.name for c in rows.old.columns)}
            if not part.one_way:
                problems += [
                    Problem(
                        f"column {c.name} of {shape.name} is NOT NULL without a default: rows that the new version inserts into "
                        f"{found.side.table} have no value for it",
                        remedy="Give it one in `down`.",
                        rule="missing-down",
                    )
                    for c in shape.table.columns
                    if c.name not in known and required(c)
                ]
        draft.memo[label] = [found for _, found in made]
        if not self.keep:
            problems += self._numbered(shape)
            drop = DropTable(table=self.table)
            problems += drop.apply(draft, f"{label}/drop")
            left_behind(
                draft,
                label,
                shape,
                [found.side.table for _, found in made],
                [c.name for c in shape.table.columns],
            )
            draft.memo[f"{label}/dropping"] = drop
        for part, found in made:
            if part.one_way:
                draft.findings.append(nothing_comes_back(found.side.table, label))
            else:
                problems += without_old_form(
                    draft,
                    label,
                    part.without_old_form,
                    shape.name,
                    found.side.table,
                    [f"one whose row of {shape.name} would not meet {part.where!r} (23514)"]
                    if part.where is not None
                    else [],
                )
        return problems

    def _recorded(self) -> list[Problem]:
        """A row of which another part makes the old one has an old form, whatever this part says of it."""
        both = [part for part in self.into if not part.one_way]
        return [
            Problem(
                f"rows of {part.to} without an old form cannot be recorded: "
                + (
                    "what is written there does not flow back at all (`one_way`)"
                    if part.one_way
                    else f"{next(p.to for p in both if p is not part)} makes the same rows of {self.table}"
                ),
                remedy="Leave out `without_old_form`, or split off one table at a time.",
            )
            for part in self.into
            if part.without_old_form is WithoutOldForm.RECORD and (part.one_way or len(both) > 1)
        ]

    def _part(
        self, draft: Draft, shape: TableShape, part: Part, label: str, problems: list[Problem]
    ) -> Target | None:
        table = shape.table
        wanted = tuple(part.key.values())
        refuse_loose_key(table, wanted, problems)
        columns: list[DraftMirrored] = []
        made: list[TableColumn] = []
        for c in part.columns:
            # An `up` that names a column copies it.
            source = table.column(c.up or c.column)
            if source is None and (c.up is None or (c.type is None and part.create is not None)):
                what = (
                    f"there is no column {c.column} in {table.name}"
                    if c.up is None
                    else f"column {c.column} has no type"
                )
                problems.append(
                    Problem(what, remedy="Give `up`, and the type of what it makes.", rule="unknown-column")
                )
                continue
            type_ = draft.type(c.type) if c.type else (source.type if source else "")
            not_null = c.not_null if c.not_null is not None else bool(source and source.not_null)
            collation = source.collation if source is not None and c.type is None else None
            columns.append(
                DraftMirrored(
                    name=c.column,
                    type=type_,
                    value=c.up or quoted(c.column),
                    collation=collation,
                    not_null=not_null,
                )
            )
            if part.create is not None:
                copied = source is not None and c.type is None and c.default is None
                default = source.default if source is not None and copied else c.default
                made.append(
                    TableColumn(
                        name=c.column, type=type_, not_null=not_null, default=default, collation=collation
                    )
                )
        # What the other table would lack only because this one does is not told.
        if len(columns) < len(part.columns) or any(table.column(name) is None for name in wanted):
            return None
        if part.create is None:
            return existing_table(draft, shape, part.to, part.key, columns, problems)
        keys = [self._key_column(table, name, source) for name, source in part.key.items()]
        return make_table(
            draft,
            shape,
            part.to,
            keys,
            made,
            columns,
            part.create,
            label,
            problems,
            primary_key=part.create.primary_key,
        )

    @staticmethod
    def _key_column(table: Table, name: str, source: str) -> TableColumn:
        column = table.column(source)
        assert column is not None
        default = column.default
        if column.identity:
            # Both versions number rows from one sequence, or they would meet.
            default = ddl.text(
                "pg_catalog.nextval(pg_catalog.pg_get_serial_sequence({t}, {c})::pg_catalog.regclass)",
                t=sql.Literal(ddl.table(table.name).as_string(None)),
                c=sql.Literal(source),
            )
        return TableColumn(
            name=name, type=column.type, not_null=True, default=default, collation=column.collation
        )

    def _numbered(self, shape: TableShape) -> list[Problem]:
        keys = {name for part in self.into if part.create is not None for name in part.key.values()}
        return [
            Problem(
                f"{c.name} of {shape.name} is an identity column, whose sequence goes with the table and cannot move to another",
                remedy="Use `keep: true`, or turn it into a plain column with a default from a sequence of its own first.",
                rule="identity-column",
            )
            for c in shape.table.columns
            if c.identity and c.name in keys
        ]

    def _rows(self, shape: TableShape, part: Part, found: Target, label: str) -> DraftRows:
        table = shape.table
        downs = dict(part.down)
        for c in part.columns:
            source = table.column(c.up or c.column)
            if source is not None and c.type is None:
                downs.setdefault(source.name, quoted(c.column))
        return DraftRows(
            operation=label,
            old=DraftSide(
                table=shape.name,
                oid=table.oid,
                kind=SideKind.ROWS,
                key=list(part.key.values()),
                columns=[
                    DraftMirrored(
                        name=name,
                        type=column.type,
                        value=value,
                        collation=column.collation,
                        not_null=column.not_null,
                        empty=column.default,
                    )
                    for name, value in downs.items()
                    if (column := table.column(name)) is not None
                ],
                readable=readable(table),
                gone=dict(part.gone),
            ),
            new=found.side,
            where=part.where,
            one_way=part.one_way,
            lossy=part.lossy,
            loggable=True,
            without_old_form=part.without_old_form,
        )

    # --- steps --------------------------------------------------------------------------------------------------------

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        steps: list[Step] = []
        for found in context.draft.memo[context.label]:
            steps += table_steps(found, phase, context)
        if not self.keep and phase is Phase.CLEANUP:
            steps += self._sequences(context)
        if not self.keep:
            drop: DropTable = context.draft.memo[f"{context.label}/dropping"]
            steps += [
                step.model_copy(update={"operation": context.label})
                for step in drop.plan(phase, replace(context, label=f"{context.label}/drop"))
            ]
        return steps

    def _sequences(self, context: Context) -> list[Step]:
        """A sequence that numbers a column of the old table goes on with the first of the new ones."""
        found: list[Target] = context.draft.memo[context.label]
        steps: list[Step] = []
        moved: set[str] = set()
        table = context.draft.tables[context.draft.name(self.table)]
        for part, target in zip(self.into, found, strict=True):
            # A column that is copied as it is has the old one's default.
            numbered = {
                c.column: c.up or c.column
                for c in part.columns
                if c.type is None
                and c.default is None
                and (column := table.column(c.up or c.column)) is not None
                and is_sequence_default(column.default)
            }
            for name, source in (*part.key.items(), *numbered.items()):
                if part.create is None or source in moved:
                    continue
                moved.add(source)
                steps.append(sequence_step(context, table, source, target.side.table, name))
        return steps
