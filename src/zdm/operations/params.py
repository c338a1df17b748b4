"""Types of the operations' parameters, and looking up what they name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from zdm.errors import Problem
from zdm.model.mapping import Expose
from zdm.model.names import MAX_IDENTIFIER_BYTES, QualifiedName, Value, qualified, split_name
from zdm.model.table import Column, Table, TableKind
from zdm.operations.base import Draft
from zdm.operations.shape import DraftNew, ShapeColumn, TableShape

_PAIRS = {"(": ")", "[": "]"}
_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)


def fragment_error(text: str) -> str:
    """Why the text cannot stand between parentheses as one piece of SQL; empty if it can.

    It is what keeps a fragment from ending the statement that it becomes a part of: balanced brackets, closed quotes, no
    semicolon, no comment. Whether it is good SQL is for the server to say.
    """
    closing: list[str] = []
    at = 0
    while at < len(text):
        char, pair = text[at], text[at : at + 2]
        if char in "'\"":
            at = _after_quoted(text, at)
            if at < 0:
                return "a quoted string or name is not closed"
            continue
        if char == "$" and (at == 0 or not (text[at - 1].isalnum() or text[at - 1] == "_")):
            end = text.find("$", at + 1)
            tag = text[at + 1 : end] if end > 0 else "?"
            if end > 0 and (tag == "" or (tag.replace("_", "a").isalnum() and not tag[0].isdigit())):
                close = text.find(text[at : end + 1], end + 1)
                if close < 0:
                    return "a dollar-quoted string is not closed"
                at = close + len(tag) + 2
                continue
        if pair in {"--", "/*"}:
            return "a comment is not accepted here"
        if char == ";":
            return "it holds more than one statement (a semicolon)"
        if char in _PAIRS:
            closing.append(_PAIRS[char])
        elif char in ")]" and (not closing or closing.pop() != char):
            return f"an unexpected {char!r}"
        at += 1
    return f"a {closing[-1]!r} is missing" if closing else ""


def _after_quoted(text: str, at: int) -> int:
    quote = text[at]
    escapes = quote == "'" and at > 0 and text[at - 1] in "eE" and (at < 2 or not text[at - 2].isalnum())
    at += 1
    while at < len(text):
        if escapes and text[at] == "\\":
            at += 2
        elif text[at] != quote:
            at += 1
        elif text[at + 1 : at + 2] == quote:
            at += 2
        else:
            return at + 1
    return -1


def _to_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _one_fragment(value: str) -> str:
    if not value.strip():
        raise ValueError("an SQL expression is needed, found an empty text")
    error = fragment_error(value)
    if error:
        raise ValueError(f"{value!r} is not one SQL expression: {error}")
    return value.strip()


def _identifier(value: str) -> str:
    if _QUOTED.fullmatch(value):
        value = value[1:-1].replace('""', '"')
    if not value or "\0" in value:
        raise ValueError("a name is needed, found an empty text")
    if len(value.encode()) > MAX_IDENTIFIER_BYTES:
        raise ValueError(
            f"{value!r} is {len(value.encode())} bytes long; PostgreSQL keeps {MAX_IDENTIFIER_BYTES} of a name"
        )
    return value


Sql = Annotated[
    str,
    BeforeValidator(_to_text),
    AfterValidator(_one_fragment),
    WithJsonSchema({"type": ["string", "number", "boolean"]}),
]
"""One SQL expression (or type), as text; numbers and booleans of YAML are taken as such."""

Name = Annotated[str, AfterValidator(_identifier)]
"""A column, constraint, index or role name exactly as the catalog stores it, case preserved; or in SQL's quotes, as a table's must be."""


def _qualified_text(value: str) -> str:
    """A collation or operator class as quoted SQL: unquoted parts keep their case, ``en_US.utf8`` stays one name."""
    text = value.strip()
    if not text:
        raise ValueError("a name is needed, found an empty text")
    if '"' in text:
        name = split_name(text, "")
        parts = [name.schema_, name.name] if name.schema_ else [name.name]
    else:
        schema, dot, rest = text.partition(".")
        parts = [schema, rest] if dot and schema == schema.lower() else [text]
    return ".".join(f'"{part.replace(chr(34), chr(34) * 2)}"' for part in parts)


Dotted = Annotated[str, AfterValidator(_qualified_text)]
"""A collation or operator class, as name or schema.name."""

TableName = Annotated[str, Field(min_length=1)]
"""A table as ``name``, ``schema.name`` or with quotes; unquoted parts are folded to lower case as in SQL."""


def by_name(value: Any) -> Any:
    """A validator that runs before the others: a column's name alone stands for the column in detail."""
    if isinstance(value, list | tuple):
        return tuple({"column": item} if isinstance(item, str) else item for item in value)
    return value


def names_too(schema: dict[str, Any]) -> None:
    """For `json_schema_extra` of a list whose items may be given by name alone."""
    schema["items"] = {"anyOf": [{"type": "string"}, schema["items"]]}


class NewColumnSpec(Value):
    """A column that a split or merge makes."""

    name: Name = Field(description="its name in the new version")
    type: Sql = Field(description="its type")
    up: Sql = Field(description="its value, over the old version's columns")
    default: Sql | None = Field(default=None, description="its default in the new version")
    not_null: bool = Field(default=False, description="whether the new version promises NOT NULL")
    collation: Dotted | None = Field(default=None, description="its collation")


_INSTEAD = {
    TableKind.PARTITION: "Name the partitioned table that it belongs to.",
}


def _relatives(table: Table) -> str:
    """The kind of a table in a tree of inheritance, with whom it inherits from, and who from it."""
    words = [f"{d.kind} {d.name}" for d in table.dependents if d.kind in {"parent", "child"}]
    return f"{table.kind.value} ({', '.join(words)})"


def _of_partitions(table: Table) -> list[Problem]:
    """What is wrong with the partitions or children of a table, each by its name."""
    found = []
    for part in table.partitions:
        called = (
            f"{part.name}, which inherits from {table.name},"
            if table.has_children
            else f"{part.name}, a partition of {table.name},"
        )
        if table.has_children and len(part.parents) > 1:
            found.append(
                Problem(
                    f"{called} inherits from {' and '.join(map(str, part.parents))}, so its columns are not {table.name}'s alone",
                    remedy=f"Take {part.name} out of one of the two until cleanup (ALTER TABLE {part.name} NO INHERIT …).",
                    rule="not-an-ordinary-table",
                )
            )
        if part.kind is TableKind.FOREIGN:
            found.append(
                Problem(
                    f"{called} is a foreign table, whose rows no trigger of ours can keep in step",
                    remedy=f"Take {part.name} out (DETACH PARTITION, NO INHERIT) until cleanup, or move its rows into an ordinary table.",
                    rule="not-an-ordinary-table",
                )
            )
        elif not part.may_alter:
            found.append(
                Problem(
                    f"{called} belongs to {part.owner}, and the connected role is not a member of it",
                    remedy=f"ALTER TABLE {part.name} OWNER TO {table.owner}, or grant membership in {part.owner}.",
                    rule="not-owner",
                )
            )
    return found


def find_shape(
    draft: Draft, written: str, problems: list[Problem], *, ordinary: bool = False
) -> TableShape | None:
    """The shape of an existing table that this role may alter; otherwise None, with what is wrong appended.

    Parameters
    ----------
    ordinary: a partitioned table will not do, nor one in a tree of inheritance.
    """
    try:
        name = draft.name(written)
    except ValueError as error:
        problems.append(Problem(str(error), remedy="Write it as table or schema.table."))
        return None
    shape = draft.shape(written)
    if shape is None:
        if name in draft.created:
            problems.append(
                Problem(
                    f"table {name} is made by this migration; this operation needs one that exists",
                    remedy="Say it where the table is made (create_table, or `create`), or in a later migration.",
                )
            )
        else:
            problems.append(
                Problem(
                    f"there is no table {name}",
                    remedy=_folded(written)
                    or "Check the name and the target's schema; names in "
                    "migrations mean the target's schema unless they are qualified.",
                    rule="unknown-table",
                )
            )
        return None
    table = shape.table
    system = name.schema_ in {"information_schema", "zdm"} or name.schema_.startswith("pg_")
    if system and table.kind is not TableKind.TEMPORARY:
        problems.append(
            Problem(
                f"{name} is a system table",
                remedy="Leave it as it is; only PostgreSQL, or zdm, may change it.",
                rule="not-an-ordinary-table",
            )
        )
        return None
    if table.kind not in {TableKind.TABLE, TableKind.PARTITIONED, TableKind.INHERITED}:
        problems.append(
            Problem(
                f"{name} is a {table.kind.value}; zdm changes ordinary and partitioned tables, and those that inherit",
                remedy=_INSTEAD.get(table.kind, "Change it by hand, or name the tables that it is made of."),
                rule="not-an-ordinary-table",
            )
        )
        return None
    if ordinary and table.partitioned:
        problems.append(
            Problem(
                f"{name} is a partitioned table; rows are mapped between ordinary tables only",
                remedy="Map them by hand, or into a table that is partitioned afterwards.",
                rule="not-an-ordinary-table",
            )
        )
    if ordinary and table.kind is TableKind.INHERITED:
        problems.append(
            Problem(
                f"{name} is an {_relatives(table)}; rows are mapped between ordinary tables only",
                remedy="Take it out of the inheritance first (ALTER TABLE … NO INHERIT …), or make it a partitioned table.",
                rule="not-an-ordinary-table",
            )
        )
    problems.extend(_of_partitions(table))
    if not table.may_alter:
        problems.append(
            Problem(
                f"table {name} belongs to {table.owner}, and the connected role is not a member of it",
                remedy=f"Connect as {table.owner}, or grant its membership to the connected role.",
                rule="not-owner",
            )
        )
    if shape.dropped:
        problems.append(Problem(f"table {name} is dropped by an earlier operation of this migration"))
        return None
    return shape


def _folded(written: str) -> str:
    """The remedy for a name whose capitals were meant; empty if it has none to fold."""
    if '"' in written or written == written.lower():
        return ""
    meant = ".".join(f'"{part}"' if part != part.lower() else part for part in written.split("."))
    return f"Capital letters are folded, as in SQL. A table that has them is written '{meant}', in both kinds of quotes."


def find_column(shape: TableShape, name: str, problems: list[Problem]) -> ShapeColumn | None:
    """The new version's column called `name`; otherwise None, with what is wrong appended."""
    found = shape.column(name)
    if found is None:
        if shape.original(name) is not None:
            problems.append(
                Problem(
                    f"column {name} of {shape.name} is not there any more after the earlier operations of this migration",
                    remedy="Name the column that replaces it.",
                )
            )
        else:
            known = ", ".join(c.name for c in shape.columns)
            problems.append(
                Problem(
                    f"there is no column {name} in {shape.name}",
                    remedy=f"It has {known}.",
                    rule="unknown-column",
                )
            )
    return found


def find_columns(shape: TableShape, names: Iterable[str], problems: list[Problem]) -> list[ShapeColumn]:
    """The new version's columns of these names, in that order; what is wrong is appended, repeated names included."""
    wanted = list(names)
    problems.extend(
        Problem(f"column {name} is named more than once")
        for name in dict.fromkeys(wanted)
        if wanted.count(name) > 1
    )
    found = [find_column(shape, name, problems) for name in dict.fromkeys(wanted)]
    return [column for column in found if column is not None]


def find_original(shape: TableShape, column: ShapeColumn, problems: list[Problem]) -> Column | None:
    """The table's own column that a not yet replaced one stands for; None, with a problem, if this migration added it."""
    found = None if column.fresh else shape.original(column.physical)
    if found is None:
        problems.append(
            Problem(
                f"column {column.name} of {shape.name} is new in this migration",
                remedy="Say it in the operation that adds the column.",
            )
        )
    elif shape.group_of(column.physical) is not None:
        problems.append(
            Problem(
                f"column {column.name} of {shape.name} is written by an earlier operation of this migration",
                remedy="Say both in one operation, or in two migrations.",
            )
        )
        return None
    return found


def check_new_column(
    shape: TableShape, name: str, problems: list[Problem], *, instead_of: Sequence[str] = ()
) -> None:
    """Append a problem if the new version already has a column `name`, apart from those that it takes the place of."""
    if name in instead_of:
        if shape.expose is Expose.COLUMNS and any(c.name == name for c in shape.table.columns):
            problems.append(
                Problem(
                    f"the new column needs a name of its own: {name} is taken, and the migration exposes columns",
                    remedy="Give it another name, or leave out `expose: columns` (then version schemas keep them apart).",
                )
            )
        return
    if shape.column(name) is not None:
        problems.append(Problem(f"{shape.name} already has a column {name}", rule="column-exists"))
    elif shape.expose is Expose.COLUMNS and shape.original(name) is not None:
        problems.append(
            Problem(
                f"{shape.name} has a column {name} until cleanup, and the migration exposes columns",
                remedy="Choose another name, or leave out `expose: columns`.",
                rule="column-exists",
            )
        )


def check_free(
    draft: Draft, shape: TableShape | None, name: str, kind: str, problems: list[Problem], schema: str
) -> None:
    """Append a problem if a constraint or index of that name is there, or is made by an earlier operation."""
    table_names: set[str] = set()
    if shape is not None:
        table_names = {i.name for i in shape.table.indexes} | {c.name for c in shape.table.constraints}
        table_names |= shape.new_names
    if name in table_names or (
        kind not in {"check", "foreign key"} and qualified(schema, name) in draft.taken
    ):
        problems.append(
            Problem(f"the name {name} is taken", remedy=f"Give the {kind} another `name`.", rule="name-taken")
        )
    elif shape is not None:
        shape.new_names.add(name)


def is_partitioned(draft: Draft, table: QualifiedName) -> bool:
    """Whether the table exists, and is partitioned."""
    found = draft.existing(table)
    return found is not None and found.partitioned


def check_unique(shape: TableShape, columns: Iterable[str], what: str, problems: list[Problem]) -> None:
    """Append a problem if the server could not keep the physical columns unique over all partitions of the table."""
    table = shape.table
    if not table.partitioned:
        return
    if table.partition_expressions:
        problems.append(
            Problem(
                f"{what} cannot be had: {table.name} is partitioned by an expression",
                remedy="Leave it out; a partition can have one of its own.",
                rule="unique-without-partition-key",
            )
        )
    elif missing := [name for name in table.partition_key if name not in set(columns)]:
        problems.append(
            Problem(
                f"{what} of {table.name} does not contain {', '.join(missing)}, by which the table is partitioned, so the server "
                "cannot keep it unique over all partitions",
                remedy=f"Add {', '.join(missing)} to its columns.",
                rule="unique-without-partition-key",
            )
        )


def replace_column(shape: TableShape, column: ShapeColumn, new: DraftNew) -> ShapeColumn:
    """Let the added column take the place of the old one in the new version, and return how it shows."""
    shown = ShapeColumn(new.final, new.physical, new.type, new.not_null, new.default, fresh=True)
    shape.columns[shape.columns.index(column)] = shown
    return shown
