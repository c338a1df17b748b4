"""Names, types and comparisons as pieces of SQL. Nothing here depends on the session's search_path."""

from __future__ import annotations

import re
from collections.abc import Iterable

from psycopg import sql

from zdm.model.mapping import Comparison
from zdm.model.names import QualifiedName

SCHEMA = "zdm"
"""The schema of zdm's own objects, its functions included."""

_SYSTEM_TYPES = re.compile(
    r"box|bpchar|bytea|cidr|circle|date|datemultirange|daterange|inet|int4multirange|int4range|"
    r"int8multirange|int8range|json|jsonb|jsonpath|line|lseg|macaddr|macaddr8|money|name|nummultirange|"
    r"numrange|oid|path|pg_lsn|point|polygon|regclass|regproc|regtype|text|tid|tsmultirange|tsquery|"
    r"tsrange|tstzmultirange|tstzrange|tsvector|uuid|xid|xml"
)
"""Types that `format_type` writes as a bare name which the grammar does not reserve, so a search_path could shadow it."""

_DIRECT = re.compile(
    r"(smallint|integer|bigint|boolean|uuid|date|oid|numeric\(\d+,\d+\)|(timestamp|time)(\(\d\))? without time zone"
    r"|timestamp(\(\d\))? with time zone)"
)
"""Types whose ``pg_catalog.=`` needs no collation and, where the comparison is native, is faster than an image."""

_LENGTH = re.compile(r"(character varying)\(\d+\)")
_TEXT = re.compile(r"(text|character varying(\(\d+\))?|character\(\d+\))")
_C = sql.SQL('COLLATE pg_catalog."C"')


def qualified_name(name: QualifiedName) -> sql.Identifier:
    """``"schema"."name"``."""
    return sql.Identifier(name.schema_, name.name)


def look_up(path: Iterable[str]) -> sql.Composed:
    """A search_path that finds the server's own names first, then those of these schemas, and no temporary object unless it is named."""
    return comma(sql.Identifier(name) for name in ("pg_catalog", *path, "pg_temp"))


def trusted(text: str) -> sql.SQL:
    """Text that the server itself deparsed (a default, a type, a cut expression), as SQL."""
    return sql.SQL(text)


def type_name(text: str) -> sql.SQL:
    """A type as `format_type` wrote it, built-in ones qualified where another schema could shadow them."""
    base = text.split("[", 1)[0]
    if _SYSTEM_TYPES.fullmatch(base) or base == '"char"':
        return trusted(f"pg_catalog.{text}")
    return trusted(text)


def without_length(text: str) -> str:
    """A type as `format_type` wrote it; a cast to a length cuts what is longer, which is another value."""
    return _LENGTH.sub(r"\1", text)


def key_type(text: str) -> sql.SQL:
    """The type as which values of a natural key's column are computed."""
    return type_name(without_length(text))


def column(name: str, of: str | None = None) -> sql.Composable:
    """A column, optionally of a table alias."""
    return sql.Identifier(of, name) if of else sql.Identifier(name)


def comma(parts: Iterable[sql.Composable]) -> sql.Composed:
    """The parts, separated by commas."""
    return sql.SQL(", ").join(parts)


def all_of(parts: Iterable[sql.Composable]) -> sql.Composable:
    """The parts joined by AND; TRUE for none."""
    found = list(parts)
    return sql.SQL("({})").format(sql.SQL(" AND ").join(found)) if found else sql.SQL("true")


def is_true(condition: sql.Composable) -> bool:
    """Whether a condition is `all_of` nothing, and need not be asked."""
    return condition.as_string(None) == "true"


def any_of(parts: Iterable[sql.Composable]) -> sql.Composable:
    """The parts joined by OR; FALSE for none."""
    found = list(parts)
    return sql.SQL("({})").format(sql.SQL(" OR ").join(found)) if found else sql.SQL("false")


def differs(a: sql.Composable, b: sql.Composable, comparison: Comparison, type_: str = "") -> sql.Composable:
    """A condition (never NULL): `a` and `b`, both of the column type `type_`, are not the same value.

    Native comparison is used only where ``pg_catalog.=`` is known to exist and to need no collation; for every other type
    the image says the same and needs no operator of the type, no collation, and no search_path.
    """
    same = equals(a, b, comparison, type_)
    if same is None:
        # The function, not its operator: between two ROW()s PostgreSQL looks for an operator of the fields' own type.
        return sql.SQL("pg_catalog.record_image_ne(ROW({}), ROW({}))").format(a, b)
    return sql.SQL("({} IS NOT TRUE AND ({} IS NOT NULL OR {} IS NOT NULL))").format(same, a, b)


def equals(
    a: sql.Composable, b: sql.Composable, comparison: Comparison, type_: str = ""
) -> sql.Composable | None:
    """A condition, NULL if one of them is: both are the same value; None where only their images tell."""
    if comparison is Comparison.NATIVE and _DIRECT.fullmatch(type_):
        return sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(a, b)
    if comparison is Comparison.NATIVE and _TEXT.fullmatch(type_):
        left, right = (sql.SQL("({} {})").format(side, _C) for side in (a, b))
        return sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(left, right)
    return None
