"""Names of database objects, as values, and as texts for people; what is executed is quoted where SQL is composed."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict

MAX_IDENTIFIER_BYTES = 63
"""NAMEDATALEN - 1 of an unmodified PostgreSQL; longer identifiers are cut by the server without an error."""


class Value(BaseModel):
    """Base of every model value: immutable, strict about unknown keys, comparable, JSON both ways."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class QualifiedName(Value):
    """A schema and a name, both exactly as the catalog stores them (unquoted, case preserved)."""

    schema_: str
    name: str

    def __str__(self) -> str:
        return f"{sql_name(self.schema_)}.{sql_name(self.name)}"

    def __hash__(self) -> int:
        return hash((self.schema_, self.name))


def qualified(schema: str, name: str) -> QualifiedName:
    """Build a `QualifiedName` from its two parts."""
    return QualifiedName(schema_=schema, name=name)


def fit(name: str, *, limit: int = MAX_IDENTIFIER_BYTES) -> str:
    """Cut `name` to `limit` bytes of UTF-8, replacing the tail by a hash so that different names stay different."""
    raw = name.encode()
    if len(raw) <= limit:
        return name
    tail = "_" + hashlib.sha256(raw).hexdigest()[:8]
    return raw[: limit - len(tail)].decode(errors="ignore") + tail


def sql_name(name: str) -> str:
    """The name as people read it, and may copy it into SQL: quoted where the server would quote it."""
    plain = (
        name.isascii()
        and name.replace("_", "a").isalnum()
        and name == name.lower()
        and not name[:1].isdigit()
    )
    return name if plain else '"' + name.replace('"', '""') + '"'


def chosen_by_server(table: str, column: str, label: str) -> str:
    """The name that the server gives a constraint of one column: table and column are cut, the longer first, the label is not."""
    first, second = table.encode(), column.encode()
    while len(first) + len(second) + len(label.encode()) + 2 > MAX_IDENTIFIER_BYTES:
        if len(first) > len(second):
            first = first[:-1]
        else:
            second = second[:-1]
    return "_".join((first.decode(errors="ignore"), second.decode(errors="ignore"), label))


def split_name(text: str, default_schema: str) -> QualifiedName:
    """Read ``name``, ``schema.name`` or quoted forms (``"My Schema"."Table"``) into a `QualifiedName`.

    Unquoted parts are folded to lower case as PostgreSQL does. Raises ValueError if the text is not one or two identifiers.
    """
    parts: list[str] = []
    rest = text.strip()
    while True:
        if rest.startswith('"'):
            end = 1
            while True:
                end = rest.find('"', end)
                if end < 0:
                    raise ValueError(f"{text!r} has an unterminated quoted identifier")
                if rest[end : end + 2] != '""':
                    break
                end += 2
            part, rest = rest[1:end].replace('""', '"'), rest[end + 1 :]
        else:
            cut = rest.find(".")
            raw, rest = (rest, "") if cut < 0 else (rest[:cut], rest[cut:])
            part = raw.lower() if raw.isascii() else raw
        if not part:
            raise ValueError(f"{text!r} is not a table name")
        parts.append(part)
        if not rest:
            break
        if not rest.startswith("."):
            raise ValueError(f"{text!r} is not a table name")
        rest = rest[1:]
    if len(parts) > 2:
        raise ValueError(f"{text!r} has {len(parts)} parts; a table is named as table or schema.table")
    return qualified(*parts) if len(parts) == 2 else qualified(default_schema, parts[0])
