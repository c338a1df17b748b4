"""shadow_table: a whole new table that takes the old one's place: partitions, another key, types, order, storage."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from psycopg import sql
from pydantic import Field, model_validator

from zdm.errors import Problem
from zdm.model.mapping import Expose
from zdm.model.names import QualifiedName, Value, chosen_by_server, fit, qualified
from zdm.model.plan import Finding, Severity
from zdm.model.requests import CarriedColumn, CarryRequest, ColumnType
from zdm.model.row_mapping import SideKind, SyncMode, WithoutOldForm
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Step
from zdm.model.table import Column, Constraint, Index, Table
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.create_table import Check, UniqueKey
from zdm.operations.params import Dotted, Name, Sql, TableName, find_shape
from zdm.operations.partitioning import PartitionBy, PartitionSpec, partitions_of
from zdm.operations.rows import DraftMirrored, DraftRows, DraftSide
from zdm.operations.shadow_steps import shadow_steps
from zdm.operations.shadows import Shadow, ShadowColumn, ShadowIndex, carry_key, literal
from zdm.operations.shape import TableShape
from zdm.operations.target import quoted, readable, required, unique_over, without_old_form
from zdm.sql.templates import dollar_quoted

_STANDS = {
    "view": "Drop it before, and create it again after cleanup.",
    "materialized view": "Drop it before, and create it again after cleanup.",
    "view rule": "Drop the rule first.",
    "rule": "Use a trigger instead of the rule.",
    "function": "Drop it before, and create it again after cleanup.",
    "column of the row type": "Give the column another type first.",
    "publication": "Take the table out of the publication; subscribers would not know the new one.",
    "subscription": "Take the table out of the subscription; the publisher would write to the old one.",
    "user of the identity sequence": "Let it use a sequence of its own.",
}


class ColumnChange(Value):
    """A column of the new table that is not as it was, or that was not there."""

    column: Name = Field(description="its name")
    type: Sql | None = Field(default=None, description="its type; required for a column that is added")
    up: Sql | None = Field(
        default=None,
        description="its value, over the old table's columns; a cast of the column of that name if not given",
    )
    down: Sql | None = Field(
        default=None,
        description="the old column's value, over the new table's columns; a cast back if not given",
    )
    not_null: bool | None = Field(default=None, description="whether it is NOT NULL; as it was if not given")
    default: Sql | None = Field(default=None, description="its default; as it was if not given")
    collation: Dotted | None = Field(default=None, description="its collation; as it was if not given")


class Exclusion(Value):
    """An exclusion constraint of the new table."""

    name: Name = Field(description="its name")
    exclude: Sql = Field(
        description="what stands behind EXCLUDE, such as USING gist (room WITH =, during WITH &&)"
    )


class ShadowTable(Operation):
    """Make a new table beside the old one, mirror both ways, and let it take the old one's name at cleanup."""

    kind: ClassVar[str] = "shadow_table"
    summary: ClassVar[str] = (
        "replace a table by a new one: partitioned, with another key, types, order or storage"
    )

    table: TableName = Field(description="the table that is replaced")
    primary_key: tuple[Name, ...] = Field(
        default=(),
        description="the new table's primary key; as it was, and with the columns of `partition_by`, if not given",
    )
    partition_by: PartitionBy | None = Field(default=None, description="partition the new table")
    partitions: tuple[PartitionSpec, ...] = Field(default=(), description="its partitions")
    columns: tuple[ColumnChange, ...] = Field(default=(), description="columns that change, or are added")
    drop: tuple[Name, ...] = Field(default=(), description="columns that the new table has not")
    down: dict[Name, Sql] = Field(
        default_factory=dict,
        description="values of dropped columns for rows of the new version, over its columns",
    )
    order: tuple[Name, ...] = Field(default=(), description="the columns that come first, in this order")
    unique: tuple[UniqueKey, ...] = Field(default=(), description="further unique constraints")
    checks: tuple[Check, ...] = Field(default=(), description="further check constraints")
    exclusion: tuple[Exclusion, ...] = Field(default=(), description="further exclusion constraints")
    without: tuple[Name, ...] = Field(
        default=(), description="indexes and constraints of the old table that the new one has not"
    )
    storage: dict[Name, Sql] = Field(
        default_factory=dict,
        description="storage parameters, such as fillfactor; the others are as they were",
    )
    using: Name | None = Field(default=None, description="its table access method")
    tablespace: Name | None = Field(default=None, description="its tablespace")
    without_old_form: WithoutOldForm = Field(
        default=WithoutOldForm.REFUSE,
        description="a row of the new table that the old one has no form for: refuse to write it, or record it, so that a rollback keeps it",
    )
    lossy: bool = Field(default=False, description="accept that down(up(x)) is not x for some rows")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE kinds (name text PRIMARY KEY); INSERT INTO kinds VALUES ('click'), ('view');"
            " CREATE TABLE events (id bigserial PRIMARY KEY, happened_at timestamptz NOT NULL DEFAULT '2024-02-10',"
            " kind text NOT NULL DEFAULT 'click' REFERENCES kinds, payload jsonb, CHECK (id > 0));"
            " CREATE INDEX events_kind ON events (kind, happened_at DESC) WHERE payload IS NOT NULL;"
            " INSERT INTO events (happened_at, kind, payload) SELECT timestamptz '2024-01-01' + g * interval '7 hours',"
            " CASE g % 2 WHEN 0 THEN 'click' ELSE 'view' END, jsonb_build_object('n', g) FROM generate_series(1, 300) g;",
            operations=(
                {
                    "shadow_table": {
                        "table": "events",
                        "partition_by": {"by": "range", "columns": ["happened_at"]},
                        "partitions": [
                            {"every": "month", "start": "2024-01", "end": "2024-04"},
                            {"default": True},
                        ],
                    }
                },
            ),
            old_writes=(
                "INSERT INTO events (payload) VALUES ('{{\"old\": {n}}}')",
                "UPDATE events SET payload = '{{\"n\": {n}}}' WHERE id = {n} % 300 + 1",
                "UPDATE events SET happened_at = happened_at + interval '20 days' WHERE id = {n} % 300 + 1",
                "DELETE FROM events WHERE id = (SELECT max(id) FROM events WHERE payload ? 'old')",
            ),
            new_writes=(
                "INSERT INTO events (happened_at, payload) VALUES ('2024-03-01', '{{\"new\": {n}}}')",
                "UPDATE events SET happened_at = happened_at - interval '25 days', kind = 'view' WHERE id = {n} % 300 + 1",
                "UPDATE events SET payload = NULL WHERE id = {n} % 300 + 1",
                "DELETE FROM events WHERE id = (SELECT max(id) FROM events WHERE payload ? 'new')",
            ),
            old_reads=("SELECT id, happened_at, payload FROM events WHERE id < 10",),
            new_reads=(
                "SELECT id, happened_at, payload FROM events WHERE happened_at < '2024-02-01' LIMIT 5",
            ),
            agree="SELECT NOT EXISTS (SELECT FROM public.events o FULL JOIN events n ON n.id = o.id"
            " WHERE (o.*)::text IS DISTINCT FROM (n.*)::text)",
            after="SELECT (SELECT relkind = 'p' FROM pg_class WHERE oid = 'events'::regclass) AND count(*) >= 200"
            " AND pg_get_serial_sequence('events', 'id') = 'public.events_id_seq'"
            " AND (SELECT count(*) = 5 AND bool_and(indisvalid) FROM pg_index JOIN pg_class c ON c.oid = indexrelid"
            " WHERE c.relname LIKE 'events%_kind') AND (SELECT count(*) = 1 AND bool_and(convalidated) FROM pg_constraint"
            " WHERE conrelid = 'events'::regclass AND contype = 'f' AND conparentid = 0) FROM events",
        ),
        Scenario(
            setup="CREATE TABLE parts (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant int NOT NULL DEFAULT 1,"
            " code text NOT NULL UNIQUE, price int, legacy text DEFAULT 'x', UNIQUE (tenant, id));"
            " CREATE TABLE orders (id serial PRIMARY KEY, part int REFERENCES parts ON DELETE CASCADE);"
            " INSERT INTO parts (tenant, code, price) SELECT g % 3, 'c' || g, g FROM generate_series(1, 300) g;"
            " INSERT INTO orders (part) SELECT g FROM generate_series(1, 300) g;",
            operations=(
                {
                    "shadow_table": {
                        "table": "parts",
                        "primary_key": ["tenant", "id"],
                        "unique": [{"columns": ["id"], "name": "parts_id_key"}],
                        "columns": [
                            {"column": "price", "type": "numeric(12,2)", "down": "round(price)::int"}
                        ],
                        "drop": ["legacy"],
                        "order": ["tenant", "id"],
                        "without": ["parts_tenant_id_key"],
                        "storage": {"fillfactor": 80},
                    }
                },
            ),
            old_writes=(
                "INSERT INTO parts (tenant, code) VALUES (1, 'old {n}')",
                "UPDATE parts SET price = price + 1, tenant = (tenant + 1) % 3 WHERE id = {n} % 300 + 1",
                "INSERT INTO orders (part) SELECT id FROM parts WHERE id = {n} % 300 + 1",
                "DELETE FROM parts WHERE id = (SELECT max(id) FROM parts WHERE code LIKE 'old%')",
            ),
            new_writes=(
                "INSERT INTO parts (tenant, code) VALUES (2, 'new {n}')",
                "UPDATE parts SET price = price + 1.25 WHERE id = {n} % 300 + 1",
                "DELETE FROM parts WHERE code = 'new {n}'",
            ),
            old_reads=("SELECT id, tenant, code, price FROM parts LIMIT 5",),
            new_reads=("SELECT tenant, id, code, price FROM parts LIMIT 5",),
            agree="SELECT NOT EXISTS (SELECT FROM public.parts o FULL JOIN parts n ON n.id = o.id"
            " WHERE (o.tenant, o.code, o.price) IS DISTINCT FROM (n.tenant, n.code, round(n.price)::int))",
            after="SELECT (SELECT pg_get_constraintdef(oid) = 'PRIMARY KEY (tenant, id)' FROM pg_constraint"
            " WHERE conname = 'parts_pkey') AND (SELECT reloptions = '{fillfactor=80}' FROM pg_class WHERE oid = 'parts'::regclass)"
            " AND (SELECT confrelid = 'parts'::regclass AND convalidated FROM pg_constraint WHERE conname = 'orders_part_fkey')"
            " AND (SELECT attidentity = 'a' AND attnum = 2 FROM pg_attribute WHERE attrelid = 'parts'::regclass AND attname = 'id')"
            " AND nextval('parts_id_seq') > 300",
        ),
        # Rows that the old version takes to another month are none of those that the new one writes: the server would refuse whoever
        # waits for such a row.
        Scenario(
            sync=SyncMode.LOGGED,
            setup="CREATE TABLE kinds (name text PRIMARY KEY); INSERT INTO kinds VALUES ('click'), ('view');"
            " CREATE TABLE hits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at date NOT NULL DEFAULT '2024-02-10',"
            " kind text NOT NULL DEFAULT 'click' REFERENCES kinds, seen int NOT NULL DEFAULT 0, note text, legacy text DEFAULT 'x');"
            " INSERT INTO hits (at, note) SELECT date '2024-01-01' + g % 90, 'n' || g FROM generate_series(1, 300) g;",
            operations=(
                {
                    "shadow_table": {
                        "table": "hits",
                        "partition_by": {"by": "range", "columns": ["at"]},
                        "partitions": [{"every": "month", "start": "2024-01", "end": "2024-05"}],
                        "columns": [{"column": "seen", "type": "bigint"}],
                        "drop": ["legacy"],
                    }
                },
            ),
            old_writes=(
                "INSERT INTO hits (note) VALUES ('old {n}')",
                "UPDATE hits SET at = date '2024-01-01' + {n} % 90, note = 'moved' WHERE id = {n} % 150 * 2 + 2",
                "UPDATE hits SET seen = {n}, legacy = 'y' WHERE id = {n} % 150 * 2 + 1",
                "DELETE FROM hits WHERE id = (SELECT max(id) FROM hits WHERE note LIKE 'old%')",
            ),
            new_writes=(
                "INSERT INTO hits (at, note) VALUES ('2024-03-01', 'new {n}')",
                "UPDATE hits SET at = date '2024-01-01' + {n} % 90, kind = 'view' WHERE id = {n} % 150 * 2 + 1",
                "UPDATE hits SET note = 'new' WHERE id = {n} % 150 * 2 + 1",
                "DELETE FROM hits WHERE id = (SELECT max(id) FROM hits WHERE note LIKE 'new %')",
            ),
            old_reads=("SELECT id, at, seen FROM hits WHERE id < 10",),
            new_reads=("SELECT id, at, seen FROM hits WHERE at < '2024-02-01' LIMIT 5",),
            agree="SELECT NOT EXISTS (SELECT FROM public.hits o FULL JOIN hits n ON n.id = o.id"
            " WHERE (o.id, o.at, o.kind, o.seen, o.note) IS DISTINCT FROM (n.id, n.at, n.kind, n.seen, n.note))",
            after="SELECT (SELECT relkind = 'p' FROM pg_class WHERE oid = 'hits'::regclass) AND count(*) >= 250"
            " AND (SELECT attidentity = 'a' FROM pg_attribute WHERE attrelid = 'hits'::regclass AND attname = 'id')"
            " AND (SELECT count(*) = 1 AND bool_and(convalidated) FROM pg_constraint"
            " WHERE conrelid = 'hits'::regclass AND contype = 'f' AND conparentid = 0) FROM hits",
        ),
    )

    @model_validator(mode="after")
    def _consistent(self) -> ShadowTable:
        if self.partitions and self.partition_by is None:
            raise ValueError("`partitions` needs `partition_by`")
        return self

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def types(self) -> Sequence[str]:
        return tuple(c.type for c in self.columns if c.type is not None)

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        try:
            name = draft.name(self.table)
        except ValueError:
            return ()
        found = [qualified(_schema(draft), name.name)]
        if self.partition_by is not None:
            found += [p.name for p in partitions_of(name, self.partition_by, self.partitions, [])]
        return found

    # --- what it means ------------------------------------------------------------------------------------------------

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems, ordinary=True)
        if shape is None:
            return problems
        table = shape.table
        if shape.changed or shape.uses:
            problems.append(
                Problem(
                    f"table {shape.name} is changed by this migration, and replaced by it",
                    remedy="Say what changes in `columns` of shadow_table, or in a migration of its own.",
                )
            )
        if draft.expose is Expose.COLUMNS:
            problems.append(
                Problem(
                    "two tables cannot have one name without version schemas",
                    remedy="Leave out `expose: columns`.",
                )
            )
        self._refuse_dependents(draft, shape, problems)
        columns = self._columns(draft, table, problems)
        shadow = self._shadow(draft, shape, columns, label, problems)
        if problems or shadow is None:
            return problems
        self._collect(draft, shape, shadow, problems)
        self._create(draft, shadow, problems)
        if problems:
            return problems
        if self.without_old_form is WithoutOldForm.RECORD:
            problems += without_old_form(draft, label, self.without_old_form, table.name, shadow.name, ())
        if problems:
            return problems
        draft.rows.append(self._rows(shadow))
        draft.created[shadow.name] = {c.name: ColumnType(type=c.type, collation=c.collation) for c in columns}
        draft.shadows[table.name] = shadow
        draft.memo[label] = shadow
        shape.dropped = True
        shape.columns.clear()
        self._tell(draft, shadow)
        return []

    def _refuse_dependents(self, draft: Draft, shape: TableShape, problems: list[Problem]) -> None:
        own = f" on {shape.name}"
        for d in shape.table.dependents:
            elsewhere = d.kind == "policy" and not d.name.endswith(own)
            index = d.kind == "replica identity" and d.name not in {"full", "nothing"}
            if d.name in draft.own_views or not (d.kind in _STANDS or elsewhere or index):
                continue
            problems.append(
                Problem(
                    f"the {d.kind} {d.name} depends on {shape.name}, which is replaced by another table",
                    remedy=_STANDS.get(
                        d.kind,
                        "Let the policy read the table through a function."
                        if elsewhere
                        else "Use REPLICA IDENTITY FULL until cleanup.",
                    ),
                    rule="dependent-object",
                )
            )
        if draft.taken.intersection(names := self.names(draft)):
            problems += [
                Problem(
                    f"the name {name} is taken",
                    remedy="Give the partition another `name`.",
                    rule="name-taken",
                )
                for name in names
                if name in draft.taken
            ]

    def _columns(self, draft: Draft, table: Table, problems: list[Problem]) -> tuple[ShadowColumn, ...]:
        changes = {c.column: c for c in self.columns}
        there = {c.name for c in table.columns}
        problems += [
            Problem(f"there is no column {name} in {table.name}", rule="unknown-column")
            for name in dict.fromkeys([*self.drop, *self.down])
            if name not in there
        ]
        found = [
            self._kept(draft, table, c, changes.get(c.name), problems)
            for c in table.columns
            if c.name not in self.drop
        ]
        for change in self.columns:
            if change.column in there and change.column not in self.drop:
                continue
            if change.type is None:
                problems.append(
                    Problem(
                        f"column {change.column} is new in {table.name} and has no type",
                        remedy="Give it a `type`, or correct its name.",
                        rule="unknown-column",
                    )
                )
                continue
            found.append(
                ShadowColumn(
                    name=change.column,
                    type=draft.type(change.type),
                    not_null=bool(change.not_null),
                    default=change.default,
                    collation=change.collation,
                    value=change.up,
                )
            )
            if change.not_null and change.up is None and change.default is None:
                problems.append(
                    Problem(
                        f"column {change.column} is new in {table.name}, NOT NULL and without a value for the rows that are there",
                        remedy="Give it `up` or a `default`.",
                    )
                )
        known = [c.name for c in found]
        problems += [
            Problem(f"there is no column {name} in the new {table.name}", rule="unknown-column")
            for name in dict.fromkeys(
                [*self.order, *self.primary_key, *(self.partition_by.columns if self.partition_by else ())]
            )
            if name not in known
        ]
        first = [c for name in self.order for c in found if c.name == name]
        columns = tuple(first + [c for c in found if c not in first])
        back = {c.name for c in columns if c.back is not None} | self.down.keys()
        problems += [
            Problem(
                f"column {c.name} of {table.name} is NOT NULL without a default: rows that the new version inserts have no value for it",
                remedy="Give it one in `down`.",
                rule="missing-down",
            )
            for c in table.columns
            if c.name not in back and required(c)
        ]
        return columns

    def _kept(
        self, draft: Draft, table: Table, column: Column, change: ColumnChange | None, problems: list[Problem]
    ) -> ShadowColumn:
        type_ = draft.type(change.type) if change is not None and change.type is not None else column.type
        name, same = quoted(column.name), type_ == column.type
        value, back = name, name
        if not same:
            value, back = f"CAST({name} AS {type_})", f"CAST({name} AS {column.type})"
        if change is not None:
            value, back = change.up or value, change.down or back
            if column.generated or column.identity:
                problems.append(
                    Problem(
                        f"{column.name} of {table.name} is {'a generated' if column.generated else 'an identity'} column, and changes",
                        remedy="Change it in a migration of its own.",
                    )
                )
        return ShadowColumn(
            name=column.name,
            type=type_,
            not_null=column.not_null if change is None or change.not_null is None else change.not_null,
            default=column.default if change is None or change.default is None else change.default,
            collation=(change.collation if change is not None and change.collation else None)
            or (column.collation if same else None),
            source=column,
            value=None if column.generated else value,
            back=None if column.generated else self.down.get(column.name, back),
        )

    # --- keys and constraints -----------------------------------------------------------------------------------------

    def _shadow(
        self,
        draft: Draft,
        shape: TableShape,
        columns: tuple[ShadowColumn, ...],
        label: str,
        problems: list[Problem],
    ) -> Shadow | None:
        table, by = shape.table, self.partition_by
        old_key = table.key
        if not old_key or not unique_over(table, old_key):
            problems.append(
                Problem(
                    f"{table.name} has no key by which its rows could be mirrored",
                    remedy="Add a primary key first, or a unique constraint over NOT NULL columns.",
                    rule="no-key",
                )
            )
            return None
        key = self.primary_key or old_key
        if by is not None and not self.primary_key:
            key = (*key, *(c for c in by.columns if c not in key))
        if by is not None and (missing := [c for c in by.columns if c not in key]):
            problems.append(
                Problem(
                    f"the primary key ({', '.join(key)}) does not contain {', '.join(missing)}, by which the table is partitioned",
                    remedy=f"Add {', '.join(missing)} to `primary_key`.",
                    rule="unique-without-partition-key",
                )
            )
        shown = {c.name: c for c in columns}
        for name in key:
            c = shown.get(name)
            if c is None:
                problems.append(
                    Problem(f"the key column {name} is not in the new table", rule="unknown-column")
                )
            elif (
                c.source is None
                or c.source.type != c.type
                or c.value != quoted(name)
                or c.back != quoted(name)
            ):
                problems.append(
                    Problem(
                        f"the key column {name} of {table.name} is not the same in both tables, so their rows could not be told to belong together",
                        remedy="Add it, fill it and make it unique in a migration before (add_column, change_type); then it can become the key.",
                        rule="no-key",
                    )
                )
            elif not c.source.not_null:
                problems.append(
                    Problem(
                        f"the key column {name} of {table.name} may be NULL",
                        remedy=f"set_not_null {name} in a migration before.",
                        rule="no-key",
                    )
                )
        shadow_name = qualified(_schema(draft), table.name.name)
        logged = draft.sync is SyncMode.LOGGED
        # What the old key names is one row for the old version, whatever else is in the new key: by log, that is what a write is of.
        named = old_key if logged and set(old_key) < set(key) else key
        if set(key[: len(named)]) != set(named):
            problems.append(
                Problem(
                    f"the primary key ({', '.join(key)}) of the new {table.name} does not begin with ({', '.join(named)}), by which rows "
                    "that are synced by log are looked for",
                    remedy=f"Begin `primary_key` with {', '.join(named)}, or use `sync: immediate`.",
                    rule="logged-sync",
                )
            )
        found = Shadow(
            table,
            shadow_name,
            label,
            tuple(key),
            tuple(named),
            columns,
            logged=logged,
            partitioned=by is not None,
        )
        if by is not None:
            found.partitions = partitions_of(table.name, by, self.partitions, problems)
            found.complete = by.by == "hash" or any(spec.default for spec in self.partitions)
        if not unique_over(table, named):
            found.extra_index = fit(f"_zdm_{table.name.name}_key")
        return found

    def _collect(self, draft: Draft, shape: TableShape, shadow: Shadow, problems: list[Problem]) -> None:
        """What is built later: indexes and unique constraints after the rows, foreign keys before switchover."""
        table = shape.table
        known = {c.name for c in table.constraints} | {i.name for i in table.indexes}
        problems += [
            Problem(f"there is no index or constraint {name} on {table.name}", rule="unknown-column")
            for name in self.without
            if name not in known
        ]
        left = {*self.without, *shape.gone_indexes, *shape.gone_constraints}
        draft.findings += _checked_row_by_row(shadow, left)
        for index in table.indexes:
            if index.name in left or index.constraint in left or index.primary:
                continue
            backed = next((c for c in table.constraints if c.name == index.constraint), None)
            if backed is not None and backed.kind != "unique":
                continue
            if self._gone(index.columns, f"the index {index.name}", table, problems):
                continue
            self._carry_index(shadow, index, backed, problems)
        for unique in self.unique:
            name = unique.name or fit(f"{table.name.name}_{'_'.join(unique.columns)}_key")
            body = ddl.text(
                "UNIQUE ({columns})" if shadow.partitioned else "USING btree ({columns})",
                columns=ddl.idents(unique.columns),
            )
            shadow.indexes.append(ShadowIndex(name, body=body, unique=True, constraint=True))
        for constraint in table.constraints:
            if constraint.kind != "foreign key" or constraint.name in left:
                continue
            if self._gone(constraint.columns, f"the foreign key {constraint.name}", table, problems):
                continue
            if constraint.references == table.name:
                self._refuse_key(constraint, f"points at {table.name} itself", problems)
                continue
            if not constraint.validated:
                self._refuse_key(constraint, "is NOT VALID", problems)
                continue
            shadow.own.append(constraint)
            shadow.carries.append(self._key_request(shadow, table, constraint, None))
        self._others(draft, shadow, problems)

    @staticmethod
    def _refuse_key(key: Constraint, why: str, problems: list[Problem]) -> None:
        problems.append(
            Problem(
                f"the foreign key {key.name} {why}, and cannot be carried over",
                remedy=f"Name {key.name} in `without`, and add it again afterwards; or validate it first.",
                rule="cannot-be-carried",
            )
        )

    def _gone(self, columns: Sequence[str], what: str, table: Table, problems: list[Problem]) -> bool:
        gone = [c for c in columns if c in self.drop]
        if gone:
            problems.append(
                Problem(
                    f"{what} of {table.name} stands on {', '.join(gone)}, which the new table has not",
                    remedy=f"Name {what.rpartition(' ')[2]} in `without`.",
                    rule="hangs-on-column",
                )
            )
        return bool(gone)

    def _carry_index(
        self, shadow: Shadow, index: Index, backed: Constraint | None, problems: list[Problem]
    ) -> None:
        by = self.partition_by
        if not index.valid:
            problems.append(
                Problem(
                    f"the index {index.name} of {shadow.old.name} is invalid",
                    remedy=f"DROP INDEX CONCURRENTLY {index.name} first.",
                )
            )
            return
        if index.unique and by is not None and (missing := [c for c in by.columns if c not in index.columns]):
            problems.append(
                Problem(
                    f"the unique index {index.name} of {shadow.old.name} does not contain {', '.join(missing)}, by which the new table is "
                    "partitioned, so the server cannot keep it unique over all partitions",
                    remedy=f"Name {index.name} in `without` if it may go.",
                    rule="unique-without-partition-key",
                )
            )
            return
        timing = ""
        if backed is not None and " DEFERRABLE" in backed.definition:
            timing = " DEFERRABLE INITIALLY " + (
                "DEFERRED" if backed.definition.endswith(" DEFERRED") else "IMMEDIATE"
            )
        kind = "unique" if backed is not None and shadow.partitioned else "index"
        name = backed.name if backed is not None else index.name
        request = CarryRequest(
            key=carry_key(shadow.old.name, name),
            table=shadow.old.name,
            kind=kind,  # type: ignore[arg-type]
            name=name,
            columns=_retyped(shadow),
            where=shadow.label,
        )
        shadow.carries.append(request)
        shadow.indexes.append(
            ShadowIndex(
                name, carry=request.key, unique=index.unique, constraint=backed is not None, timing=timing
            )
        )

    def _key_request(
        self, shadow: Shadow, child: Table, key: Constraint, instead: QualifiedName | None
    ) -> CarryRequest:
        return CarryRequest(
            key=carry_key(shadow.old.name, f"{child.name}/{key.name}"),
            table=child.name,
            kind="foreign key",
            name=key.name,
            columns=_retyped(shadow) if child is shadow.old else (),
            references=key.references,
            referenced=() if child is shadow.old else _retyped(shadow),
            instead=instead,
            where=shadow.label,
        )

    def _others(self, draft: Draft, shadow: Shadow, problems: list[Problem]) -> None:
        keys = {frozenset(shadow.key)} | {frozenset(u.columns) for u in self.unique}
        for index in shadow.indexes:
            if index.unique and index.carry:
                keys |= {
                    frozenset(i.columns) for i in shadow.old.indexes if index.name in {i.name, i.constraint}
                }
        for pointing in shadow.old.referenced_by:
            if pointing.references is None or pointing.references == shadow.old.name:
                continue
            child = draft.existing(pointing.references)
            other = draft.shapes.get(pointing.references)
            if other is not None and (pointing.name in other.gone_constraints or other.dropped):
                continue
            what = f"the foreign key {pointing.name} of {pointing.references}"
            key = next(
                (c for c in (child.constraints if child is not None else ()) if c.name == pointing.name), None
            )
            why = ""
            if child is None or key is None or child.partitioned:
                why = "is of a table that is partitioned, or cannot be read"
            elif not child.may_alter:
                why = f"belongs to {child.owner}, of which the connected role is no member"
            elif not key.validated:
                why = "is NOT VALID"
            elif other is not None and (other.groups or other.removed):
                why = "is of a table that this migration changes"
            elif frozenset(pointing.columns) not in keys:
                why = f"points at ({', '.join(pointing.columns)}), which is no unique key of the new table"
            if why:
                problems.append(
                    Problem(
                        f"{what} {why}, so it cannot be pointed at the new {shadow.old.name}",
                        remedy=f"Add drop_constraint {pointing.name} before this operation, or give the new table a key that it can point at.",
                        rule="referenced-by-foreign-key",
                    )
                )
                continue
            assert child is not None
            assert key is not None
            if shadow.logged:
                problems.append(
                    Problem(
                        f"{what} points at a row of {shadow.old.name}: with `sync: logged` one that the new version inserts is not there yet "
                        "when something refers to it",
                        remedy=f"Add drop_constraint {pointing.name} in a migration before this one and add_foreign_key in one after it, or "
                        "use `sync: immediate`.",
                        rule="logged-sync",
                    )
                )
                continue
            shadow.others.append((child, key))
            shadow.carries.append(self._key_request(shadow, child, key, shadow.name))

    # --- making it ----------------------------------------------------------------------------------------------------

    def _create(self, draft: Draft, shadow: Shadow, problems: list[Problem]) -> None:
        table, t = shadow.old, ddl.table(shadow.name)
        left = {*self.without, *draft.shapes[table.name].gone_constraints}
        parts: list[sql.Composable] = [self._definition(shadow, c) for c in shadow.columns]
        primary = next((c.name for c in table.constraints if c.kind == "primary key"), None)
        parts.append(
            sql.SQL("CONSTRAINT {} PRIMARY KEY ({})").format(
                ddl.ident(primary or fit(f"{table.name.name}_pkey")), ddl.idents(shadow.key)
            )
        )
        for c in table.constraints:
            if c.kind not in {"check", "exclusion"} or c.name in left:
                continue
            if self._gone(c.columns, f"the {c.kind} {c.name}", table, problems):
                continue
            if not c.validated:
                problems.append(
                    Problem(
                        f"the {c.kind} {c.name} of {table.name} is NOT VALID: rows that break it could not be made in the new table",
                        remedy=f"Validate {c.name} first, or name it in `without`.",
                        rule="cannot-be-carried",
                    )
                )
                continue
            parts.append(sql.SQL("CONSTRAINT {} {}").format(ddl.ident(c.name), ddl.raw(c.definition)))
        parts += [
            sql.SQL("CONSTRAINT {} CHECK ({})").format(ddl.ident(c.name), ddl.raw(c.check))
            for c in self.checks
        ]
        parts += [
            sql.SQL("CONSTRAINT {} EXCLUDE {}").format(ddl.ident(c.name), ddl.raw(c.exclude))
            for c in self.exclusion
        ]
        tail = sql.Composed([])
        if self.partition_by is not None:
            tail += sql.SQL(" PARTITION BY {} ({})").format(
                sql.SQL(self.partition_by.by.upper()), ddl.idents(self.partition_by.columns)
            )
        if self.using is not None:
            tail += sql.SQL(" USING {}").format(ddl.ident(self.using))
        if self.tablespace is not None:
            tail += sql.SQL(" TABLESPACE {}").format(ddl.ident(self.tablespace))
        shadow.create = [
            *ddl.in_target(
                draft.target,
                ddl.text("CREATE TABLE {t} ({parts}){tail}", t=t, parts=sql.SQL(", ").join(parts), tail=tail),
                *(one.create(shadow.name) for one in shadow.partitions),
            ),
            dollar_quoted(
                "shadow_dress",
                old=sql.SQL("{}::pg_catalog.regclass").format(literal(table.name)),
                new=sql.SQL("{}::pg_catalog.regclass").format(literal(shadow.name)),
            ).as_string(None),
        ]
        if self.storage:
            settings = sql.SQL(", ").join(
                sql.SQL("{} = {}").format(_option(name), sql.Literal(value))
                for name, value in self.storage.items()
            )
            held = [p.name for p in shadow.partitions] or [shadow.name]
            shadow.create += [
                ddl.text("ALTER TABLE {t} SET ({s})", t=ddl.table(name), s=settings) for name in held
            ]

    @staticmethod
    def _definition(shadow: Shadow, column: ShadowColumn) -> sql.Composed:
        table = shadow.old
        pieces: list[sql.Composable] = [ddl.definition(column.name, column.type, column.collation)]
        source = column.source
        if source is not None and source.generated:
            stored = "STORED" if source.generated == "stored" else "VIRTUAL"
            pieces.append(
                sql.SQL("GENERATED ALWAYS AS ({}) {}").format(
                    ddl.raw(source.default or "NULL"), sql.SQL(stored)
                )
            )
        elif column.default is not None:
            pieces.append(sql.SQL("DEFAULT ({})").format(ddl.raw(column.default)))
        if column.not_null or column.name in shadow.key:
            named = next(
                (c.name for c in table.constraints if c.kind == "not null" and c.columns == (column.name,)),
                None,
            )
            pieces.append(
                sql.SQL("CONSTRAINT {} NOT NULL").format(
                    ddl.ident(named or chosen_by_server(table.name.name, column.name, "not_null"))
                )
            )
        return sql.SQL(" ").join(pieces)

    def _rows(self, shadow: Shadow) -> DraftRows:
        table = shadow.old
        backs = {c.name: c.back for c in shadow.columns if c.back is not None and c.name not in shadow.named}
        backs |= {name: value for name, value in self.down.items() if name not in shadow.named}
        new = [
            DraftMirrored(
                name=c.name,
                type=c.type,
                value=c.value,
                collation=c.collation,
                not_null=c.not_null,
            )
            for c in shadow.columns
            if c.value is not None and c.name not in shadow.named
        ]
        changed = any(
            c.source is None or c.value != quoted(c.name) for c in shadow.columns if c.value is not None
        )
        return DraftRows(
            operation=shadow.label,
            old=DraftSide(
                table=table.name,
                oid=table.oid,
                kind=SideKind.ROWS,
                key=list(shadow.named),
                columns=[
                    DraftMirrored(
                        name=c.name,
                        type=c.type,
                        value=backs[c.name] or "NULL",
                        collation=c.collation,
                        not_null=c.not_null,
                        empty=c.default,
                    )
                    for c in table.columns
                    if c.name in backs
                ],
                readable=readable(table),
                fixed=[c.name for c in table.columns if c.identity == "always" and c.name in shadow.named],
            ),
            new=DraftSide(
                table=shadow.name,
                oid=0,
                kind=SideKind.ROWS,
                key=list(shadow.named),
                columns=new,
                readable=[(c.name, c.type, c.collation) for c in shadow.columns],
                guarded=bool(self.checks or self.exclusion or self.unique or not shadow.complete or changed),
                created=True,
                within=list(shadow.named if shadow.logged else table.key)
                if shadow.partitioned and (shadow.logged or set(table.key) < set(shadow.key))
                else [],
                loose=shadow.named != shadow.key,
            ),
            lossy=self.lossy,
            loggable=True,
            replaces=True,
            without_old_form=self.without_old_form,
        )

    def _tell(self, draft: Draft, shadow: Shadow) -> None:
        def finding(text: str, severity: Severity = Severity.WARNING) -> None:
            draft.findings.append(Finding(severity=severity, text=text, where=shadow.label))

        old = shadow.old
        if shadow.old.triggers:
            names = ", ".join(t.name for t in shadow.old.triggers)
            finding(
                f"the triggers {names} of {old.name} fire on the old table until cleanup, for the writes of both versions; then on the new one"
            )
        if shadow.extra_index is not None:
            finding(
                f"until cleanup {old.name} has one more unique index, over ({', '.join(shadow.key)})",
                Severity.NOTE,
            )
        lost = [
            c
            for c in old.constraints
            if c.kind in {"primary key", "unique"}
            and set(c.columns) < set(shadow.key)
            and c.kind == "primary key"
        ]
        kept = {frozenset(u.columns) for u in self.unique}
        for c in lost:
            if frozenset(c.columns) not in kept:
                finding(
                    f"after cleanup nothing keeps ({', '.join(c.columns)}) of {old.name} unique by itself"
                )

    # --- steps --------------------------------------------------------------------------------------------------------

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        return shadow_steps(phase, context, context.draft.memo[context.label])


def _schema(draft: Draft) -> str:
    """Where the new tables of a migration are until cleanup: under their final names, as are their indexes."""
    return fit(f"zdm_{draft.target}_{draft.migration}")


def _retyped(shadow: Shadow) -> tuple[CarriedColumn, ...]:
    return tuple(
        CarriedColumn(old=c.name, new=c.name, type=c.type, collation=c.collation)
        for c in shadow.columns
        if c.source is not None and (c.type != c.source.type or c.collation != c.source.collation)
    )


def _option(name: str) -> sql.Composable:
    """A storage parameter, which may have a namespace: toast.autovacuum_enabled."""
    space, dot, rest = name.partition(".")
    return sql.Identifier(space) + sql.SQL(".") + sql.Identifier(rest) if dot else sql.Identifier(name)


def _checked_row_by_row(shadow: Shadow, left: Collection[str]) -> list[Finding]:
    """Keys that wait for the end of the statement, which a mirror that writes row by row does not reach."""
    late = [
        c
        for c in shadow.old.constraints
        if c.kind in {"primary key", "unique"} and c.name not in left and " DEFERRABLE" in c.definition
    ]
    told = (
        "rows are carried over one by one: two that exchange their values wait for each other, which refuses the gates, until one is given "
        "another value for a moment"
        if shadow.logged
        else "rows are mirrored one by one: until cleanup a statement of the new version that exchanges its values fails, and one of the old "
        "version leaves rows for `zdm verify --repair`. A constraint that is INITIALLY DEFERRED has no such trouble"
    )
    return [
        Finding(
            severity=Severity.WARNING,
            text=f"{c.name} of {shadow.old.name} is checked at the end of a statement, but {told}",
            where=shadow.label,
        )
        for c in late
        if shadow.logged or not c.definition.endswith(" INITIALLY DEFERRED")
    ]
