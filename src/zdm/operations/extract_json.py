"""extract_json: fields of a JSON document become columns of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field, model_validator

from zdm.errors import Problem
from zdm.model.mapping import Conflict, Expose
from zdm.model.names import QualifiedName
from zdm.model.row_mapping import Presence, SyncMode, WithoutOldForm
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Step
from zdm.model.table import Column
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.json_documents import Documents, JsonField, KeptDocuments, Remove
from zdm.operations.json_table import check_into_table, into_table, into_table_steps
from zdm.operations.move_columns import CreatedTable
from zdm.operations.params import (
    Name,
    TableName,
    check_new_column,
    find_column,
    find_original,
    find_shape,
)
from zdm.operations.shape import DraftGroup, DraftNew, ShapeColumn, TableShape

_PREFERENCES = Scenario(
    setup="CREATE TABLE users (id bigserial PRIMARY KEY, data jsonb);"
    " INSERT INTO users (data) SELECT CASE WHEN g % 3 > 0 THEN jsonb_build_object('theme', 't' || g, 'other', g)"
    " ELSE jsonb_build_object('other', g) END FROM generate_series(1, 200) g;",
    operations=(
        {
            "extract_json": {
                "table": "users",
                "column": "data",
                "to": "preferences",
                "key": {"user_id": "id"},
                "create": {},
                "rows": "needed",
                "remove": "keys",
                "fields": [
                    {"path": "theme", "type": "text"},
                    {"path": "beta", "type": "boolean", "not_null": True, "default": "false"},
                ],
            }
        },
    ),
    old_writes=(
        "INSERT INTO users (data) VALUES (jsonb_build_object('theme', 'old {n}', 'a', {n}))",
        "INSERT INTO users (data) VALUES (jsonb_build_object('a', {n}))",
        "UPDATE users SET data = data || jsonb_build_object('theme', 'o{n}', 'beta', true) WHERE id = {n} % 200 + 1",
        "UPDATE users SET data = data - 'theme' || jsonb_build_object('old', {n}) WHERE id = {n} % 200 + 1",
    ),
    new_writes=(
        "INSERT INTO users (data) VALUES (jsonb_build_object('b', {n}))",
        (
            "WITH made AS (INSERT INTO users (data) VALUES (jsonb_build_object('b', {n})) RETURNING id)"
            " INSERT INTO preferences (user_id, theme) SELECT id, 'new {n}' FROM made"
        ),
        "UPDATE preferences SET theme = 'n{n}' WHERE user_id = {n} % 200 + 1",
        "UPDATE users SET data = data || jsonb_build_object('new', {n}) WHERE id = {n} % 200 + 1 AND data IS NOT NULL",
        "DELETE FROM preferences WHERE user_id = (SELECT max(user_id) FROM preferences WHERE user_id > 200)",
    ),
    old_reads=("SELECT id, data ->> 'theme' FROM users LIMIT 5",),
    new_reads=("SELECT u.data, p.theme FROM users u LEFT JOIN preferences p ON p.user_id = u.id LIMIT 5",),
    agree="SELECT NOT EXISTS (SELECT FROM public.users u JOIN users n USING (id) LEFT JOIN preferences p ON p.user_id = u.id"
    " WHERE u.data ->> 'theme' IS DISTINCT FROM p.theme OR COALESCE(CAST(u.data ->> 'beta' AS boolean), false) <> COALESCE(p.beta, false)"
    " OR n.data IS DISTINCT FROM u.data - 'theme' - 'beta')",
    after="SELECT bool_and(NOT u.data ?| ARRAY['theme', 'beta']) AND bool_or(u.data ? 'other') AND bool_or(p.theme LIKE 'o%')"
    " FROM users u LEFT JOIN preferences p ON p.user_id = u.id",
)


class ExtractJson(Operation):
    """Give fields of a JSON document typed columns. Other fields of the document stay as they are, whoever writes them."""

    kind: ClassVar[str] = "extract_json"
    summary: ClassVar[str] = "turn fields of a JSON document into columns"

    table: TableName = Field(description="the table")
    column: Name = Field(description="the column with the document, of type jsonb or json")
    fields: tuple[JsonField, ...] = Field(min_length=1, description="the fields, and the columns they become")
    remove: Remove = Field(
        default=Remove.NOTHING,
        description="nothing: the new version shows the document as it is; keys: without these fields; column: not at all",
    )
    to: TableName | None = Field(
        default=None, description="the table that gets the columns, one row for each; this one, if not given"
    )
    key: dict[Name, Name] = Field(
        default_factory=dict,
        description="with `to`: each key column of `to`, and the key column of `table` that it equals",
    )
    create: CreatedTable | None = Field(
        default=None, description="make `to`; without it, `to` exists already"
    )
    rows: Presence = Field(
        default=Presence.EVERY,
        description="with `to`: every: each row has one there; needed: only where the document has any of the fields",
    )
    without_old_form: WithoutOldForm = Field(
        default=WithoutOldForm.REFUSE,
        description="a row of `to` that `table` has no form for: refuse to write it, or record it, so that a rollback keeps it",
    )
    lossy: bool = Field(default=False, description="accept that down(up(x)) is not x for some rows")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE items (id serial PRIMARY KEY, payload jsonb NOT NULL DEFAULT '{}');"
            " INSERT INTO items (payload) SELECT CASE g % 5"
            " WHEN 0 THEN jsonb_build_object('category', 'c' || g, 'size', g, 'address', jsonb_build_object('city', 'x', 'zip', g))"
            ' WHEN 1 THEN \'{}\' WHEN 2 THEN \'{"category": null, "size": "7", "address": null}\''
            " WHEN 3 THEN jsonb_build_object('size', g::text, 'other', g) ELSE '[1]' END FROM generate_series(1, 200) g;",
            operations=(
                {
                    "extract_json": {
                        "table": "items",
                        "column": "payload",
                        "fields": [
                            {"path": "category", "type": "varchar(40)"},
                            {"path": "size", "to": "item_size", "type": "int"},
                            {"path": ["address", "city"], "type": "text"},
                        ],
                    }
                },
            ),
            old_writes=(
                "INSERT INTO items (payload) VALUES (jsonb_build_object('category', 'old {n}', 'a', {n}))",
                (
                    "UPDATE items SET payload = jsonb_set(payload, ARRAY['category'], to_jsonb('o{n}'::text))"
                    " WHERE id = {n} % 200 + 1 AND jsonb_typeof(payload) = 'object'"
                ),
                "UPDATE items SET payload = payload - 'size' WHERE id = {n} % 200 + 1 AND jsonb_typeof(payload) = 'object'",
            ),
            new_writes=(
                "INSERT INTO items (payload, category, city) VALUES (jsonb_build_object('b', {n}), 'new {n}', 'z')",
                (
                    "UPDATE items SET category = 'n{n}', item_size = {n}, city = 'y', payload = payload || jsonb_build_object('seen', {n})"
                    " WHERE id = {n} % 200 + 1 AND jsonb_typeof(payload) = 'object'"
                ),
                "UPDATE items SET item_size = {n} WHERE id = {n} % 200 + 1 AND category IS NOT NULL AND city IS NOT NULL",
            ),
            old_reads=("SELECT id, payload ->> 'category' FROM items LIMIT 5",),
            new_reads=("SELECT id, category, city, payload FROM items LIMIT 5",),
            agree="SELECT bool_and((payload ->> 'category', payload ->> 'size', payload -> 'address' ->> 'city')"
            " IS NOT DISTINCT FROM (category::text, item_size::text, city)) FROM items",
            after="SELECT bool_or(payload ? 'category') AND bool_or(category ~ '^[con]') AND bool_or(city IN ('x', 'y')) FROM items",
        ),
        Scenario(
            setup="CREATE TABLE things (id serial PRIMARY KEY, data jsonb); CREATE INDEX ON things USING gin (data);"
            " INSERT INTO things (data) SELECT jsonb_build_object('name', 'n' || g, 'other', g) FROM generate_series(1, 200) g;",
            operations=(
                {
                    "extract_json": {
                        "table": "things",
                        "column": "data",
                        "remove": "keys",
                        "fields": [
                            {"path": "name", "type": "text", "not_null": True, "default": "'unknown'"}
                        ],
                    }
                },
            ),
            old_writes=(
                "INSERT INTO things (data) VALUES (jsonb_build_object('name', 'old {n}', 'a', {n}))",
                "INSERT INTO things (data) VALUES (jsonb_build_object('b', {n}))",
                "UPDATE things SET data = data || jsonb_build_object('name', 'o{n}') WHERE id = {n} % 200 + 1",
                "UPDATE things SET data = data || jsonb_build_object('old', {n}) WHERE id = {n} % 200 + 1",
            ),
            new_writes=(
                "INSERT INTO things (data, name) VALUES (jsonb_build_object('c', {n}), 'new {n}')",
                "UPDATE things SET name = 'n{n}' WHERE id = {n} % 200 + 1 AND name IS NOT NULL",
                "UPDATE things SET data = data || jsonb_build_object('new', {n}) WHERE id = {n} % 200 + 1 AND name IS NOT NULL",
            ),
            old_reads=("SELECT id, data ->> 'name' FROM things LIMIT 5",),
            new_reads=("SELECT id, name, data FROM things LIMIT 5",),
            agree="SELECT bool_and(name IS NOT NULL AND NOT data ? 'name') FROM things",
            after="SELECT bool_and(name IS NOT NULL AND NOT data ? 'name') AND bool_or(data ? 'other') FROM things",
        ),
        Scenario(
            setup="CREATE TABLE orders (id bigserial PRIMARY KEY, payload jsonb NOT NULL DEFAULT '{}');"
            " INSERT INTO orders (payload) SELECT CASE g % 5"
            " WHEN 0 THEN jsonb_build_object('category', 'c' || g, 'size', g, 'address', jsonb_build_object('city', 'x', 'zip', g))"
            ' WHEN 1 THEN \'{}\' WHEN 2 THEN \'{"category": null, "size": "7", "address": null}\''
            " WHEN 3 THEN jsonb_build_object('size', g, 'other', g) ELSE '[1]' END FROM generate_series(1, 200) g;",
            operations=(
                {
                    "extract_json": {
                        "table": "orders",
                        "column": "payload",
                        "to": "order_details",
                        "key": {"order_id": "id"},
                        "create": {"columns": [{"name": "note", "type": "text"}]},
                        "fields": [
                            {"path": "category", "type": "varchar(40)"},
                            {"path": "size", "to": "order_size", "type": "int"},
                            {"path": ["address", "city"], "type": "text"},
                        ],
                    }
                },
            ),
            old_writes=(
                "INSERT INTO orders (payload) VALUES (jsonb_build_object('category', 'old {n}', 'a', {n}))",
                "INSERT INTO orders (payload) VALUES (jsonb_build_object('a', {n}))",
                (
                    "UPDATE orders SET payload = jsonb_set(payload, ARRAY['category'], to_jsonb('o{n}'::text))"
                    " WHERE id = {n} % 200 + 1 AND jsonb_typeof(payload) = 'object'"
                ),
                "UPDATE orders SET payload = payload - 'size' WHERE id = {n} % 200 + 1 AND jsonb_typeof(payload) = 'object'",
                "DELETE FROM orders WHERE id = (SELECT max(id) FROM orders WHERE id > 200)",
            ),
            new_writes=(
                "INSERT INTO orders (payload) VALUES (jsonb_build_object('b', {n}))",
                (
                    "WITH made AS (INSERT INTO orders (payload) VALUES (jsonb_build_object('b', {n})) RETURNING id)"
                    " INSERT INTO order_details (order_id, category, city) SELECT id, 'new {n}', 'z' FROM made"
                ),
                "UPDATE order_details SET category = 'n{n}', order_size = {n}, city = 'y' WHERE order_id = {n} % 200 + 1 AND category IS NOT NULL",
                "UPDATE order_details SET note = 'seen {n}' WHERE order_id = {n} % 200 + 1",
                "UPDATE orders SET payload = payload || jsonb_build_object('seen', {n}) WHERE id = {n} % 200 + 1 AND jsonb_typeof(payload) = 'object'",
            ),
            old_reads=("SELECT id, payload ->> 'category' FROM orders LIMIT 5",),
            new_reads=(
                "SELECT o.payload, d.category, d.city FROM orders o JOIN order_details d ON d.order_id = o.id LIMIT 5",
            ),
            agree="SELECT NOT EXISTS (SELECT FROM public.orders o FULL JOIN order_details d ON d.order_id = o.id WHERE o.id IS NULL OR d.order_id IS NULL"
            " OR (o.payload ->> 'category', o.payload ->> 'size', o.payload -> 'address' ->> 'city')"
            " IS DISTINCT FROM (d.category::text, d.order_size::text, d.city))",
            after="SELECT bool_or(o.payload ? 'other') AND bool_or(o.payload ? 'a') AND bool_or(d.category ~ '^[con]') AND bool_or(d.city IN ('x', 'y'))"
            " FROM orders o JOIN order_details d ON d.order_id = o.id",
        ),
        _PREFERENCES,
        _PREFERENCES.model_copy(update={"sync": SyncMode.LOGGED}),
    )

    @model_validator(mode="after")
    def _table_and_key(self) -> Self:
        beside = {
            "key": self.key,
            "create": self.create is not None,
            "rows": self.rows is not Presence.EVERY,
            "without_old_form": self.without_old_form is not WithoutOldForm.REFUSE,
        }
        if self.to is None and any(beside.values()):
            names = ", ".join(f"`{name}`" for name, given in beside.items() if given)
            raise ValueError(f"{names}: only with `to`, which names the table that gets the columns")
        if self.to is not None and not self.key:
            raise ValueError(
                "`to` needs `key`: each key column of it, and the key column of `table` that it equals"
            )
        return self

    def tables(self) -> Sequence[str]:
        if self.create is not None:
            return (self.table, *self.create.referenced)
        if self.to is None:
            return (self.table,)
        return (self.table, self.to)

    def types(self) -> Sequence[str]:
        own = self.create.columns if self.create is not None else ()
        return (*(found.type for found in self.fields), *(c.type for c in own))

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        if self.to is None or self.create is None:
            return ()
        try:
            return (draft.name(self.to),)
        except ValueError:
            return ()

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems, ordinary=self.to is not None)
        column = find_column(shape, self.column, problems) if shape else None
        if shape is None or column is None:
            return problems
        original = find_original(shape, column, problems)
        self._check_fields(shape, problems)
        if self.to is not None and original is not None:
            check_into_table(self, shape, original, problems)
        if original is not None and original.type not in {"json", "jsonb"}:
            problems.append(
                Problem(
                    f"column {self.column} of {shape.name} is {original.type}, not a JSON document",
                    remedy="Make it jsonb first (change_type), or use split_column.",
                )
            )
        if shape.expose is Expose.COLUMNS and self.remove is Remove.KEYS:
            problems.append(
                Problem(
                    f"the document without its fields would be a second column {self.column} of {shape.name} until cleanup, "
                    "and the migration exposes columns",
                    remedy="Keep the fields (`remove: nothing`), or leave out `expose: columns` (then version schemas keep them apart).",
                )
            )
        if original is None or problems:
            return problems
        if self.to is not None:
            problems += into_table(self, draft, shape, column, original, label)
            if self.remove is Remove.KEYS and not problems:
                kept = KeptDocuments(original, self.remove, self.fields, draft)
                self._without_fields(shape, column, original, kept, self._group(shape, column, kept, label))
            return problems
        documents = Documents(original, self.remove, self.fields, draft)
        group = self._group(shape, column, documents, label)
        at = shape.columns.index(column)
        if self.remove is Remove.NOTHING:
            # A statement of the new version may write other fields of the document and these columns at once.
            group.conflict = Conflict.NEW
        elif self.remove is Remove.COLUMN:
            shape.columns.remove(column)
        else:
            self._without_fields(shape, column, original, documents, group)
        at += self.remove is not Remove.COLUMN
        for offset, found in enumerate(self.fields):
            new = DraftNew(
                physical=shape.physical_name(found.final),
                final=found.final,
                type=draft.type(found.type),
                up=documents.up(found),
                default=found.default,
                not_null=found.not_null,
                collation=found.collation,
            )
            group.new.append(new)
            shape.columns.insert(at + offset, _shown(new))
        return []

    def _group(self, shape: TableShape, column: ShapeColumn, documents: Documents, label: str) -> DraftGroup:
        group = DraftGroup(
            name=self.column,
            operation=label,
            old={column.physical: documents.down},
            lossy=self.lossy,
            reads_before=True,
        )
        shape.groups.append(group)
        return group

    @staticmethod
    def _without_fields(
        shape: TableShape, column: ShapeColumn, original: Column, documents: Documents, group: DraftGroup
    ) -> None:
        """Give the new version a document of its own, which has the other fields."""
        left = DraftNew(
            physical=shape.physical_name(column.name),
            final=column.name,
            type=original.type,
            up=documents.rest,
            default=column.default,
            not_null=column.not_null,
            replaces=column.physical,
            inherits=True,
        )
        group.new.append(left)
        shape.columns[shape.columns.index(column)] = _shown(left)

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        return into_table_steps(self, phase, context) if self.to is not None else []

    def _check_fields(self, shape: TableShape, problems: list[Problem]) -> None:
        names = [found.final for found in self.fields]
        problems.extend(
            Problem(
                f"column {name} is named more than once in `fields`", remedy="Name one of them with `to`."
            )
            for name in dict.fromkeys(names)
            if names.count(name) > 1
        )
        instead_of = (self.column,) if self.remove is Remove.COLUMN else ()
        for name in dict.fromkeys(names) if self.to is None else ():
            check_new_column(shape, name, problems, instead_of=instead_of)
        paths = [found.path for found in self.fields]
        problems.extend(
            Problem(
                f"the field {' -> '.join(path)} is named more than once, or is a part of another one",
                remedy="Fields that are written back must not lie in each other.",
            )
            for number, path in enumerate(paths)
            if any(number != n and path[: len(other)] == other for n, other in enumerate(paths))
        )


def _shown(new: DraftNew) -> ShapeColumn:
    return ShapeColumn(new.final, new.physical, new.type, new.not_null, new.default, fresh=True)
