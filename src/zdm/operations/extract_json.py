"""extract_json: fields of a JSON document become columns of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from psycopg import sql
from pydantic import Field, field_validator

from zdm.errors import Problem
from zdm.model.mapping import Conflict, Expose
from zdm.model.names import Value
from zdm.model.sample import Scenario
from zdm.model.table import Column
from zdm.operations import ddl
from zdm.operations.base import Draft, Operation
from zdm.operations.params import (
    Dotted,
    Name,
    Sql,
    TableName,
    check_new_column,
    find_column,
    find_original,
    find_shape,
)
from zdm.operations.shape import BEFORE, DraftGroup, DraftNew, ShapeColumn, TableShape
from zdm.operations.succession import is_text


class Remove(StrEnum):
    """What the new version no longer has, and cleanup removes."""

    NOTHING = "nothing"
    KEYS = "keys"
    COLUMN = "column"


def _one_key_too(schema: dict[str, Any]) -> None:
    keys = {name: schema.pop(name) for name in ("type", "items", "minItems")}
    schema["anyOf"] = [{"type": "string"}, keys]


class JsonField(Value):
    """One field of the document, and the column that it becomes."""

    path: tuple[str, ...] = Field(
        min_length=1,
        description="the keys that lead to the field, from object to object; one key may stand by itself",
        json_schema_extra=_one_key_too,
    )
    to: Name | None = Field(default=None, description="the column's name; the last key if not given")
    type: Sql = Field(description="its type")
    up: Sql | None = Field(
        default=None,
        description="its value, over the old version's columns; the field's text, read as the type, if not given",
    )
    down: Sql | None = Field(
        default=None,
        description="the field's value as jsonb, over the new version's columns; to_jsonb of the column if not given",
    )
    default: Sql | None = Field(
        default=None,
        description="its default in the new version; where it is NOT NULL also what a document without the field gives",
    )
    not_null: bool = Field(default=False, description="whether the new version promises NOT NULL")
    collation: Dotted | None = Field(default=None, description="its collation")

    @field_validator("path", mode="before")
    @classmethod
    def _one_key(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def final(self) -> str:
        """The column's name."""
        return self.to or self.path[-1]


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
            after="SELECT bool_or(payload ? 'category') AND bool_or(category LIKE 'o%') AND bool_or(city = 'x') FROM items",
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
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def types(self) -> Sequence[str]:
        return tuple(found.type for found in self.fields)

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        column = find_column(shape, self.column, problems) if shape else None
        if shape is None or column is None:
            return problems
        original = find_original(shape, column, problems)
        self._check_fields(shape, problems)
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
        documents = _Documents(original, self.remove, self.fields, draft)
        group = DraftGroup(
            name=self.column,
            operation=label,
            old={column.physical: documents.down},
            lossy=self.lossy,
            reads_before=True,
        )
        shape.groups.append(group)
        at = shape.columns.index(column)
        if self.remove is Remove.NOTHING:
            # A statement of the new version may write other fields of the document and these columns at once.
            group.conflict = Conflict.NEW
        elif self.remove is Remove.COLUMN:
            shape.columns.remove(column)
        else:
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
            shape.columns[at] = _shown(left)
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
        for name in dict.fromkeys(names):
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


# --- the documents of both versions -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    """An object of the document on the way to fields."""

    fields: dict[str, JsonField] = field(default_factory=dict)
    nodes: dict[str, _Node] = field(default_factory=dict)

    def all(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], JsonField]]:
        """Every field beneath, with its path."""
        for key, found in self.fields.items():
            yield (*path, key), found
        for key, node in self.nodes.items():
            yield from node.all((*path, key))


class _Documents:
    """The expressions that take fields out of the document, and put them back.

    Putting back leaves alone what already says the same: where the text of a field is the column's, the field stays as it is
    written (``"7"`` for 7, null for a missing one), so that nothing is lost of documents that are not uniform.
    """

    def __init__(self, column: Column, remove: Remove, fields: Sequence[JsonField], draft: Draft) -> None:
        self.column, self.remove, self.fields, self.draft = column, remove, fields, draft
        self.tree = _Node()
        for found in fields:
            node = self.tree
            for key in found.path[:-1]:
                node = node.nodes.setdefault(key, _Node())
            node.fields[found.path[-1]] = found

    # --- up -------------------------------------------------------------------------------------------------------------

    def up(self, found: JsonField) -> str:
        """The column's value, over the old version's columns."""
        if found.up is not None:
            return found.up
        document = self._document(sql.Identifier(self.column.name))
        type_ = self.draft.type(found.type)
        value = _text(document, found.path)
        if type_ in {"json", "jsonb"}:
            value = _within(document, found.path)
        # Text is assigned, not cast: what is too long must fail, not be cut.
        if not is_text(type_):
            value = _cast(value, type_)
        if self._given(found):
            assert found.default is not None
            value = sql.SQL("COALESCE({}, ({}))").format(value, ddl.raw(found.default))
        return value.as_string(None)

    @property
    def rest(self) -> str:
        """The document without the fields. One that is null stays: the column could not tell it from one that is missing."""
        document = self._document(sql.Identifier(self.column.name))
        less: sql.Composable = document
        for found in self.fields:
            less = sql.SQL("({} #- CASE WHEN {} IS NOT NULL THEN {} ELSE {} END)").format(
                less, _text(document, found.path), _array(found.path), _array(())
            )
        # Only an object has fields.
        return self._as_written(document, less, sql.Identifier(self.column.name)).as_string(None)

    def _as_written(
        self, document: sql.Composable, made: sql.Composable, plain: sql.Composable
    ) -> sql.Composable:
        anything = sql.SQL(" OR ").join(
            sql.SQL("{} IS NOT NULL").format(_text(document, found.path)) for found in self.fields
        )
        return sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(
            anything, _cast(made, self.column.type), plain
        )

    # --- down -----------------------------------------------------------------------------------------------------------

    @property
    def down(self) -> str:
        """The old document, over the new version's columns and itself."""
        before = sql.Identifier(f"{BEFORE}{self.column.name}")
        base = sql.Identifier(self.column.name) if self.remove is Remove.KEYS else before
        unchanged: sql.Composable = base
        if self.remove is Remove.COLUMN and self.column.not_null:
            unchanged = sql.SQL("COALESCE({}, {})").format(base, _cast(sql.Literal("{}"), self.column.type))
        return (
            sql.SQL("CASE WHEN {} THEN {} ELSE {} END")
            .format(
                self._nothing_to_do(self.tree, before),
                unchanged,
                _cast(self._made(self.tree, self._document(base), self._document(before)), self.column.type),
            )
            .as_string(None)
        )

    def _nothing_to_do(
        self, node: _Node, before: sql.Composable, path: tuple[str, ...] = ()
    ) -> sql.Composable:
        """The document may stay as it is: it says what the columns say, or there is nothing to put back."""
        document = self._document(before)
        conditions: list[sql.Composable] = []
        for at, found in node.all(path):
            if self.remove is Remove.KEYS:
                conditions.append(sql.SQL("NOT {}").format(self._put(found, document, at)))
            else:
                conditions.append(self._same(found, _text(document, at)))
        return sql.SQL("({})").format(sql.SQL(" AND ").join(conditions))

    def _made(
        self, node: _Node, base: sql.Composable, before: sql.Composable, path: tuple[str, ...] = ()
    ) -> sql.Composable:
        """An object of `base` with the fields put in. Each step mentions the one before it once."""
        made: sql.Composable = sql.SQL(
            "COALESCE(NULLIF({}, CAST('null' AS jsonb)), CAST('{{}}' AS jsonb))"
        ).format(base)
        nothing = _array(())
        for key, found in node.fields.items():
            value, text = self._value(found), _text(before, (key,))
            if self.remove is not Remove.KEYS:
                made = sql.SQL("({} #- CASE WHEN {} IS NULL AND {} IS NOT NULL THEN {} ELSE {} END)").format(
                    made, value, text, _array((key,)), nothing
                )
            made = sql.SQL("jsonb_set({}, CASE WHEN {} THEN {} ELSE {} END, COALESCE({}, {}))").format(
                made,
                self._put(found, before, (key,)),
                _array((key,)),
                nothing,
                sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(
                    self._same(found, text), _within(before, (key,)), value
                ),
                _cast(sql.Literal("null"), "jsonb"),
            )
        for key, inner in node.nodes.items():
            below = (*path, key)
            deeper = self._made(inner, _within(base, (key,)), _within(before, (key,)), below)
            made = sql.SQL("jsonb_set({}, CASE WHEN {} THEN {} ELSE {} END, {})").format(
                made,
                self._nothing_to_do(inner, sql.Identifier(f"{BEFORE}{self.column.name}"), below),
                nothing,
                _array((key,)),
                sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(
                    self._nothing_to_do(inner, sql.Identifier(f"{BEFORE}{self.column.name}"), below),
                    _cast(sql.Literal("null"), "jsonb"),
                    deeper,
                ),
            )
        return made

    def _put(self, found: JsonField, document: sql.Composable, path: Sequence[str]) -> sql.Composable:
        """The column has something to put into the document, and it is not the default of a field that is missing there."""
        there = sql.SQL("{} IS NOT NULL").format(self._value(found))
        if not self._given(found):
            return there
        missing = sql.SQL("({} IS NULL AND {})").format(
            _within(document, path), self._same(found, _text(document, path))
        )
        return sql.SQL("({} AND NOT {})").format(there, missing)

    @staticmethod
    def _given(found: JsonField) -> bool:
        """A document without the field gives the column its default."""
        return found.up is None and found.not_null and found.default is not None

    def _value(self, found: JsonField) -> sql.Composable:
        """What the column puts into the document; NULL for nothing."""
        if found.down is not None:
            return sql.SQL("({})").format(ddl.raw(found.down))
        return sql.SQL("to_jsonb({})").format(sql.Identifier(found.final))

    def _same(self, found: JsonField, text: sql.Composable) -> sql.Composable:
        """The field's text is the column's; a missing one has that of the default."""
        if self._given(found):
            assert found.default is not None
            default = _cast(sql.SQL("({})").format(ddl.raw(found.default)), self.draft.type(found.type))
            text = sql.SQL("COALESCE({}, to_jsonb({}) #>> {})").format(text, default, _array(()))
        return sql.SQL("({} IS NOT DISTINCT FROM ({} #>> {}))").format(text, self._value(found), _array(()))

    def _document(self, column: sql.Composable) -> sql.Composable:
        return column if self.column.type == "jsonb" else _cast(column, "jsonb")


def _within(document: sql.Composable, path: Sequence[str]) -> sql.Composable:
    """What lies at the end of the path. By -> and not #>, which takes the number of an element of an array for a key."""
    for key in path:
        document = sql.SQL("({} -> CAST({} AS text))").format(document, sql.Literal(key))
    return document


def _text(document: sql.Composable, path: Sequence[str]) -> sql.Composable:
    """Its text; NULL where it is null or missing."""
    return sql.SQL("({} ->> CAST({} AS text))").format(_within(document, path[:-1]), sql.Literal(path[-1]))


def _array(keys: Sequence[str]) -> sql.Composable:
    return sql.SQL("CAST({} AS text[])").format(sql.Literal(list(keys)))


def _cast(value: sql.Composable, type_: str) -> sql.Composable:
    return sql.SQL("CAST({} AS {})").format(value, ddl.raw(type_))
