"""Whether rows of two tables can be found by their keys: at every write, with an equality that no search_path has a say in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from itertools import pairwise
from typing import Final

import psycopg
from psycopg import sql

from zdm.db.introspect import resolve_collation
from zdm.db.session import Connection, fetch_value, transaction
from zdm.engine.mapper import Mapper
from zdm.errors import Problem
from zdm.model.names import QualifiedName
from zdm.operations.rows import DraftRows, DraftSide
from zdm.sql.identifiers import type_name

_NONDETERMINISTIC: Final = """
SELECT NOT collisdeterministic FROM pg_catalog.pg_collation WHERE oid = pg_catalog.to_regcollation(%s)
"""

Key = tuple[QualifiedName, str, str, str | None]
"""A column by which rows are found: its table, name, type and collation."""


def refuse_incomparable(mapper: Mapper) -> bool:
    """Append a problem for each key by which rows cannot be found: the applications' own writes would fail with it.

    Returns
    -------
    Whether there is any; then nothing can be asked of the rows either.
    """
    before = len(mapper.problems)
    told: set[tuple[QualifiedName, str]] = set()
    equal = cache(partial(_has_equality, mapper.conn))
    for draft in mapper.draft.rows:
        for keys in _keys(draft):
            for table, name, type_, _ in keys:
                if (table, name) in told or equal(type_):
                    continue
                told.add((table, name))
                mapper.problems.append(
                    Problem(
                        f"{name} of {table} is {type_}, whose = is not the server's own: rows cannot be found by it whatever the "
                        "search_path of whoever writes",
                        draft.operation,
                        "Find rows by a column of another type (text, for one), beside this one.",
                        "no-key",
                    )
                )
            mapper.problems += [
                Problem(
                    f"{one[1]} of {one[0]} has collation {one[3] or 'of its type'}, {other[1]} of {other[0]} {other[3] or 'that of its type'}: "
                    "what is equal in one table need not be in the other",
                    draft.operation,
                    "Give both the same collation first.",
                    "no-key",
                )
                for one, other in pairwise(keys)
                if _apart(mapper, one[3], other[3])
            ]
    return len(mapper.problems) > before


def _keys(draft: DraftRows) -> Iterator[list[Key]]:
    """The columns that are compared with each other."""
    old, new, parent, elements = draft.old, draft.new, draft.parent, draft.elements
    if elements is not None:
        one, many = (old, new) if elements.one == "old" else (new, old)
        yield from _pairs((one, one.key), (many, elements.of))
        types = {c.name: (c.type, c.collation) for c in elements.columns}
        yield from ([(many.table, name, *types[name])] for name in elements.key if name in types)
        return
    if parent is None:
        yield from _pairs((old, old.shared), (new, new.shared))
        return
    yield from _pairs((old, old.key), (new, new.key))
    yield from _pairs((parent.side, parent.identity), (new, parent.reference))
    yield from _pairs((parent.side, parent.side.key))


def _pairs(*sides: tuple[DraftSide, list[str]]) -> Iterator[list[Key]]:
    """The columns of these sides that correspond, as far as the sides have them yet."""
    found = []
    for side, names in sides:
        known = {name: (type_, collation) for name, type_, collation in side.readable}
        found.append([(side.table, name, *known[name]) if name in known else None for name in names])
    for keys in zip(*found, strict=True):
        yield [key for key in keys if key is not None]


def _has_equality(conn: Connection, type_: str) -> bool:
    with transaction(conn, rollback=True):
        try:
            conn.execute(
                sql.SQL("SELECT CAST(NULL AS {0}) OPERATOR(pg_catalog.=) CAST(NULL AS {0})").format(
                    type_name(type_)
                )
            )
        except psycopg.errors.UndefinedFunction:
            return False
    return True


def _apart(mapper: Mapper, one: str | None, other: str | None) -> bool:
    """Whether two collations may differ in what is equal, or the server would not know which of them to go by."""
    found = [name and resolve_collation(mapper.conn, name, mapper.target) for name in (one, other)]
    if found[0] == found[1]:
        return False
    if all(found):
        return True
    return any(fetch_value(mapper.conn, _NONDETERMINISTIC, (name,)) for name in found if name)
