"""The documents of both versions of extract_json: what takes fields out of one, and what puts them back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from psycopg import sql
from pydantic import Field, field_validator

from zdm.model.names import Value
from zdm.model.table import Column
from zdm.operations import ddl
from zdm.operations.base import Draft
from zdm.operations.params import Dotted, Name, Sql
from zdm.operations.shape import BEFORE
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


class Documents:
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


class KeptDocuments(Documents):
    """The same where the columns are another table's: the new version's document gets back the fields that the old one holds."""

    def _value(self, found: JsonField) -> sql.Composable:
        document = self._document(sql.Identifier(f"{BEFORE}{self.column.name}"))
        return sql.SQL("NULLIF({}, CAST('null' AS jsonb))").format(_within(document, found.path))

    @staticmethod
    def _given(found: JsonField) -> bool:
        del found
        return False


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
