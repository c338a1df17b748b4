"""change_type: a column of another type, with values mapped both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from zdm.errors import Problem
from zdm.model.sample import Scenario
from zdm.model.table import Column
from zdm.operations import ddl
from zdm.operations.base import Draft, Operation
from zdm.operations.fidelity import BLOCKING
from zdm.operations.params import Dotted, Name, Sql, TableName, find_column, find_original, find_shape
from zdm.operations.shape import DraftNew, ShapeColumn, TableShape, is_sequence_default
from zdm.operations.succession import cast, cast_back, cast_text, succeed

INTEGERS = ("smallint", "integer", "bigint")
"""The types, as the server calls them, that an identity column or a sequence's own numbers can have."""


class ChangeType(Operation):
    """Change a column's type. A new column beside the old one takes the converted values; both are kept in step."""

    kind: ClassVar[str] = "change_type"
    summary: ClassVar[str] = "change a column's type, and its name if wanted"

    table: TableName = Field(description="the table")
    column: Name = Field(description="the column")
    to: Sql = Field(description="its type in the new version")
    up: Sql | None = Field(
        default=None, description="new value over the old version's columns; a cast if not given"
    )
    down: Sql | None = Field(
        default=None, description="old value over the new version's columns; a cast if not given"
    )
    name: Name | None = Field(default=None, description="its name in the new version, if it changes")
    collation: Dotted | None = Field(default=None, description="its collation in the new version")
    default: Sql | None = Field(
        default=None, description="its default in the new version; the old default, cast, if not given"
    )
    drop_default: bool = Field(default=False, description="let the column have no default in the new version")
    lossy: bool = Field(default=False, description="accept that down(up(x)) is not x for some rows")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE accounts (id serial PRIMARY KEY, balance int NOT NULL DEFAULT 0, CHECK (balance > -1000000));"
            " CREATE INDEX accounts_balance_idx ON accounts (balance DESC) WHERE balance > 0;"
            " INSERT INTO accounts (balance) SELECT g * 10 FROM generate_series(1, 300) g;",
            operations=(
                {
                    "change_type": {
                        "table": "accounts",
                        "column": "balance",
                        "to": "numeric(18,2)",
                        "up": "balance::numeric(18,2)",
                        "down": "round(balance)::int",
                        "default": 0,
                    }
                },
            ),
            old_writes=(
                "INSERT INTO accounts (balance) VALUES ({n})",
                "UPDATE accounts SET balance = balance + 1 WHERE id = {n} % 300 + 1",
            ),
            new_writes=(
                "INSERT INTO accounts (balance) VALUES ({n} + 0.25)",
                "UPDATE accounts SET balance = {n} + 0.5 WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, balance FROM accounts ORDER BY balance DESC LIMIT 5",),
            new_reads=("SELECT id, balance FROM accounts ORDER BY balance DESC LIMIT 5",),
            agree="SELECT bool_and(balance IS NOT NULL) FROM accounts",
            after="SELECT count(*) = 1 FROM information_schema.columns WHERE table_schema = current_schema()"
            " AND table_name = 'accounts' AND column_name = 'balance' AND data_type = 'numeric' AND numeric_scale = 2",
        ),
        Scenario(
            setup="CREATE TABLE readings (id int, day int, value int CONSTRAINT sane CHECK (value >= 0), PRIMARY KEY (id, day),"
            " CONSTRAINT one_each UNIQUE (value, id, day)) PARTITION BY RANGE (day);"
            " CREATE TABLE readings_1 (value int CONSTRAINT sane CHECK (value >= 0), day int NOT NULL, id int NOT NULL);"
            " ALTER TABLE readings ATTACH PARTITION readings_1 FOR VALUES FROM (0) TO (10);"
            " CREATE TABLE readings_rest PARTITION OF readings DEFAULT PARTITION BY LIST (day);"
            " CREATE TABLE readings_any PARTITION OF readings_rest DEFAULT;"
            " CREATE INDEX readings_value_idx ON readings (value DESC) WHERE value > 5;"
            " INSERT INTO readings SELECT g, g % 25, g FROM generate_series(1, 300) g;",
            operations=(
                {
                    "change_type": {
                        "table": "readings",
                        "column": "value",
                        "to": "bigint",
                    }
                },
                {"change_type": {"table": "readings", "column": "id", "to": "bigint"}},
                {"rename_column": {"table": "readings", "column": "value", "to": "measured"}},
            ),
            old_writes=(
                "INSERT INTO readings (id, day, value) VALUES ({n}, {n} % 25, {n})",
                "UPDATE readings SET day = {n} % 25 WHERE id = {n} % 300 + 1",
                "UPDATE readings SET value = value + 1 WHERE id = {n} % 300 + 1",
            ),
            new_writes=(
                "INSERT INTO readings (id, day, measured) VALUES ({n}, {n} % 25, {n})",
                "UPDATE readings SET id = id + 1000000 WHERE id = {n} - 20",
                "UPDATE readings SET day = {n} % 25, measured = {n} WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, value FROM readings WHERE day = 3 LIMIT 5",),
            new_reads=("SELECT id, measured FROM readings WHERE day = 3 LIMIT 5",),
            agree="SELECT bool_and(n.measured = o.value) FROM readings n FULL JOIN public.readings o USING (id, day)",
            after="SELECT count(*) = 8 AND bool_and(a.atttypid = 'bigint'::regtype) AND (SELECT count(*) = 4 FROM pg_index i"
            " WHERE i.indisprimary AND i.indisvalid AND i.indrelid IN (SELECT relid FROM pg_partition_tree('readings'))) FROM pg_attribute a"
            " WHERE a.attname IN ('measured', 'id') AND a.attrelid IN (SELECT relid FROM pg_partition_tree('readings'))",
        ),
        Scenario(
            setup="CREATE TABLE measurement (city int NOT NULL, day int NOT NULL, peak int CONSTRAINT sane CHECK (peak > -100), sold int);"
            " CREATE TABLE measurement_1 (CHECK (day < 10)) INHERITS (measurement);"
            " CREATE TABLE measurement_2 (LIKE measurement INCLUDING ALL, CHECK (day >= 10 AND day < 20));"
            " ALTER TABLE measurement_2 INHERIT measurement; CREATE INDEX measurement_1_city ON measurement_1 (city);"
            " CREATE FUNCTION route_measurement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.day < 10 THEN INSERT INTO public.measurement_1 VALUES (NEW.*);"
            " ELSIF NEW.day < 20 THEN INSERT INTO public.measurement_2 VALUES (NEW.*); ELSE RETURN NEW; END IF; RETURN NULL; END $$;"
            " CREATE TRIGGER route BEFORE INSERT ON measurement FOR EACH ROW EXECUTE FUNCTION route_measurement();"
            " INSERT INTO measurement SELECT g, g % 25, g % 50, g FROM generate_series(1, 300) g;",
            operations=(
                {
                    "change_type": {
                        "table": "measurement",
                        "column": "peak",
                        "to": "numeric(10,2)",
                        "up": "peak::numeric(10,2)",
                        "down": "round(peak)::int",
                    }
                },
                {"rename_column": {"table": "measurement", "column": "sold", "to": "sales"}},
            ),
            old_writes=(
                "INSERT INTO measurement (city, day, peak) VALUES ({n}, {n} % 25, {n} % 90)",
                "UPDATE measurement SET peak = peak + 1, sold = {n} WHERE city = {n} % 300 + 1",
                "DELETE FROM measurement WHERE city = {n} - 20",
            ),
            new_writes=(
                "INSERT INTO measurement (city, day, peak) VALUES ({n}, {n} % 25, {n} % 90 + 0.25)",
                "UPDATE measurement SET peak = {n} % 90 + 0.5, sales = {n} WHERE city = {n} % 300 + 1",
            ),
            old_reads=("SELECT city, peak, sold FROM measurement WHERE day = 3 LIMIT 5",),
            new_reads=("SELECT city, peak, sales FROM measurement WHERE day = 3 LIMIT 5",),
            after="SELECT count(*) = 3 AND bool_and(a.atttypid = 'numeric'::regtype) FROM pg_attribute a"
            " WHERE a.attname = 'peak' AND a.attrelid::regclass::text ~ '^measurement'",
        ),
        Scenario(
            setup="CREATE TABLE images (id serial PRIMARY KEY, is_public boolean NOT NULL DEFAULT false);"
            " INSERT INTO images (is_public) SELECT g % 3 = 0 FROM generate_series(1, 300) g;",
            operations=(
                {"create_enum": {"name": "visibility_level", "values": ["private", "public", "shared"]}},
                {
                    "change_type": {
                        "table": "images",
                        "column": "is_public",
                        "name": "visibility",
                        "to": "visibility_level",
                        "up": "CASE WHEN is_public THEN 'public'::visibility_level ELSE 'private'::visibility_level END",
                        "down": "visibility = 'public'",
                        "default": "'shared'",
                        "lossy": True,
                    }
                },
            ),
            old_writes=(
                "INSERT INTO images (is_public) VALUES ({n} % 2 = 0)",
                "UPDATE images SET is_public = NOT is_public WHERE id = {n} % 300 + 1",
            ),
            new_writes=(
                "INSERT INTO images (visibility) VALUES ('shared')",
                "INSERT INTO images DEFAULT VALUES",
                "UPDATE images SET visibility = 'shared' WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id FROM images WHERE is_public LIMIT 5",),
            new_reads=("SELECT id, visibility FROM images LIMIT 5",),
            agree="SELECT bool_and(visibility IS NOT NULL) FROM images",
            after="SELECT count(*) > 0 FROM images WHERE visibility = 'public'",
        ),
        Scenario(
            setup="CREATE TABLE notes (id serial PRIMARY KEY, code varchar(20), at timestamp);"
            " INSERT INTO notes (code, at) SELECT 'c' || g, timestamp '2024-01-01' + g * interval '1 hour'"
            " FROM generate_series(1, 300) g;",
            operations=(
                {"change_type": {"table": "notes", "column": "code", "to": "varchar(40)"}},
                {
                    "change_type": {
                        "table": "notes",
                        "column": "at",
                        "to": "timestamptz",
                        "up": "at AT TIME ZONE 'UTC'",
                        "down": "at AT TIME ZONE 'UTC'",
                    }
                },
            ),
            old_writes=("INSERT INTO notes (code, at) VALUES ('o{n}', '2024-02-01 12:00')",),
            new_writes=(
                "INSERT INTO notes (code, at) VALUES ('n{n}', '2024-02-01 12:00+00')",
                "UPDATE notes SET at = '2024-03-01 00:00+02' WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, code, at FROM notes LIMIT 5",),
            new_reads=("SELECT id, code, at FROM notes LIMIT 5",),
            after="SELECT count(*) = 2 FROM information_schema.columns WHERE table_schema = current_schema() AND"
            " table_name = 'notes' AND (character_maximum_length = 40 OR data_type = 'timestamp with time zone')",
            replans=True,
        ),
        Scenario(
            setup="CREATE TABLE events (id serial, parent_id int, title text, PRIMARY KEY (id) INCLUDE (title),"
            " FOREIGN KEY (parent_id) REFERENCES events (id) ON UPDATE CASCADE ON DELETE SET NULL);"
            " CREATE TABLE payloads (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id int, CONSTRAINT of_event"
            " FOREIGN KEY (event_id) REFERENCES events ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE);"
            " INSERT INTO events (parent_id, title) SELECT nullif(g / 10, 0), 't' || g FROM generate_series(1, 300) g;"
            " INSERT INTO payloads (event_id) SELECT g FROM generate_series(1, 300) g;",
            operations=({"change_type": {"table": "events", "column": "id", "to": "bigint"}},),
            old_writes=(
                "WITH e AS (INSERT INTO events (title) VALUES ('old {n}') RETURNING id) INSERT INTO payloads (event_id) TABLE e",
                "INSERT INTO events (id, parent_id) VALUES ({n} * 10, {n} % 5 + 1) ON CONFLICT (id) DO UPDATE SET title = 'x'",
                "UPDATE events SET id = id + 10000000 WHERE id = {n} % 140 + 11",
                "DELETE FROM events WHERE id = {n} % 140 + 151",
            ),
            new_writes=(
                "WITH e AS (INSERT INTO events (title) VALUES ('new {n}') RETURNING id) INSERT INTO payloads (event_id) TABLE e",
                "INSERT INTO events (id, parent_id) VALUES ({n} * 10 + 1, {n} % 5 + 1)",
                "UPDATE events SET id = id + 20000000 WHERE id = {n} % 140 + 12",
                "DELETE FROM events WHERE id = {n} % 140 + 152",
            ),
            old_reads=("SELECT e.id, p.event_id FROM events e JOIN payloads p ON p.event_id = e.id LIMIT 5",),
            new_reads=("SELECT e.id, p.event_id FROM events e JOIN payloads p ON p.event_id = e.id LIMIT 5",),
            agree="SELECT bool_and(id IS NOT NULL) AND NOT EXISTS (SELECT FROM payloads p"
            " WHERE NOT EXISTS (SELECT FROM events e WHERE e.id = p.event_id)) FROM events",
            after="SELECT bool_and(k.convalidated) AND count(*) = 2 AND pg_get_serial_sequence('events', 'id') = 'public.events_id_seq'"
            " AND bool_or(pg_get_constraintdef(k.oid) = 'FOREIGN KEY (event_id) REFERENCES events(id)"
            " ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE') FROM pg_constraint k WHERE k.confrelid = 'events'::regclass",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def types(self) -> Sequence[str]:
        return (self.to,)

    def type_changes(self, draft: Draft) -> Sequence[tuple[str, str]]:
        try:
            table = draft.tables.get(draft.name(self.table))
        except ValueError:
            return ()
        column = table.column(self.column) if table is not None else None
        return ((column.type, self.to),) if column is not None else ()

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        column = find_column(shape, self.column, problems) if shape else None
        if self.default is not None and self.drop_default:
            problems.append(Problem("`default` and `drop_default` exclude each other"))
        if shape is None or column is None or problems:
            return problems
        if column.fresh:
            return self._change_fresh(draft, shape, column)
        original = find_original(shape, column, problems)
        if original is None:
            return problems
        to = draft.type(self.to)
        if to == column.type and self.up is None and self.down is None and self.collation is None:
            return [Problem(f"column {self.column} of {shape.name} is {column.type} already")]
        if self._in_place(draft, shape, original):
            column.alter_type = column.type = to
            self._set_default(column)
            return []
        return self._succeed(shape, column, original, to, label)

    def _in_place(self, draft: Draft, shape: TableShape, original: Column) -> bool:
        """Whether cleanup can alter the column itself: no rewrite, no check to prove again under lock, nothing in the way."""
        asked = (
            self.up is not None
            or self.down is not None
            or self.name is not None
            or self.collation is not None
        )
        if asked or (original.type, self.to) not in draft.rewrite_free:
            return False
        table, name = shape.table, original.name
        hangs = any(c.kind in {"check", "foreign key"} and name in c.columns for c in table.constraints)
        hangs = hangs or any(name in k.columns for k in table.referenced_by)
        hangs = hangs or any(name in t.columns for t in table.triggers)
        return not hangs and not any(
            d.kind in BLOCKING and name in d.columns and d.name not in draft.own_views
            for d in table.dependents
        )

    def _set_default(self, column: ShapeColumn) -> None:
        if self.default is not None or self.drop_default:
            column.default, column.default_changed = self.default, True

    def _succeed(
        self, shape: TableShape, column: ShapeColumn, original: Column, to: str, label: str
    ) -> list[Problem]:
        problems: list[Problem] = []
        old_type, old_default = column.type, column.default
        inherits = self.default is None and not self.drop_default
        if inherits and original.identity and to not in INTEGERS:
            return [
                Problem(
                    f"{self.column} is an identity column, and {to} is no type that PostgreSQL numbers",
                    remedy="Give `default` for the new version, or `drop_default: true`.",
                    rule="identity-column",
                )
            ]
        # A number of the sequence is a number, whatever the width.
        as_it_is = is_sequence_default(old_default) and to in INTEGERS
        new = succeed(
            shape,
            column,
            original,
            label=label,
            problems=problems,
            final=self.name,
            type_=to,
            collation=self.collation,
        )
        new.up = self.up if self.up is not None else cast(original.name, to)
        if not inherits:
            new.default, new.inherits = self.default, False
        elif old_default is not None and self.up is not None and not as_it_is:
            new.default, new.default_by_up = None, old_default
        elif old_default is not None and not as_it_is:
            new.default, new.default_before = cast_text(old_default, to), old_default
        shown = shape.column(new.final)
        if shown is not None:
            shown.default = new.default
        group = shape.groups[-1]
        group.lossy = self.lossy
        if self.down is not None:
            group.old[column.physical] = self.down
        else:
            cast_back(shape, column.physical, new, old_type)
        return problems

    def _change_fresh(self, draft: Draft, shape: TableShape, column: ShapeColumn) -> list[Problem]:
        new, group = shape.draft(column.physical), shape.group_of(column.physical)
        if new is None or group is None or new.replaces is None:
            return [
                Problem(
                    f"column {self.column} of {shape.name} is new in this migration",
                    remedy="Give it this type in the operation that adds it.",
                )
            ]
        if self.up is not None or self.down is not None or self.name is not None:
            return [
                Problem(
                    f"column {self.column} of {shape.name} already has a successor with a mapping of its own in this migration",
                    remedy="Put change_type before the other operations on the column, or leave out `up`, `down` and `name`.",
                )
            ]
        return self._recast(draft, shape, column, new)

    def _recast(self, draft: Draft, shape: TableShape, column: ShapeColumn, new: DraftNew) -> list[Problem]:
        group = shape.group_of(column.physical)
        assert group is not None
        assert new.replaces is not None
        if new.replaces not in group.casts and group.old[new.replaces] is not None:
            return [
                Problem(
                    f"the `down` of column {self.column} was written for its type before this change",
                    remedy="Put change_type before the other operations on the column.",
                )
            ]
        original = shape.original(new.replaces)
        assert original is not None
        to = draft.type(self.to)
        new.up = cast_text(new.up or ddl.ident(new.replaces).as_string(None), to)
        cast_back(shape, new.replaces, new, original.type)
        if self.default is not None or self.drop_default:
            new.default, new.default_before, new.inherits = self.default, None, False
        elif new.default is not None:
            new.default_before = new.default_before or new.default
            new.default = cast_text(new.default, to)
        new.type = column.type = to
        column.default = new.default
        new.collation = self.collation or new.collation
        group.lossy = group.lossy or self.lossy
        return []
