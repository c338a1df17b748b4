"""The server's own judgement of a table that is to take another one's place: it is made, without rows, and undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import psycopg
from psycopg import sql

from zdm.db.session import Session, transaction
from zdm.errors import Problem
from zdm.operations import ddl
from zdm.operations.shadows import Shadow
from zdm.sql.identifiers import all_of, any_of, column, qualified_name, trusted
from zdm.sql.views import create_schema

_SAMPLES = 5


def try_shadow(
    conn: Session, shadow: Shadow, carried: Mapping[str, str], *, measure: bool
) -> Sequence[Problem]:
    """Make the table with all its indexes in a transaction that is rolled back; what the server refuses, or which rows have no place.

    Parameters
    ----------
    carried: the server's answers to the shadow's requests.
    measure: look at the rows as well.
    """
    try:
        with transaction(conn, rollback=True):
            for statement in (*create_schema(shadow.schema, shadow.old.name.schema_), *shadow.create):
                conn.execute(statement.encode())
            for index in shadow.indexes:
                conn.execute(
                    _build(
                        shadow,
                        index.name,
                        index.body or carried[index.carry],
                        unique=index.unique,
                        constraint=index.constraint and shadow.partitioned,
                    )
                )
            return [
                *(_without_place(conn, shadow) if measure else ()),
                *(_claimed_twice(conn, shadow) if measure else ()),
            ]
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate[:2] in {"08", "57", "58", "XX"}:
            raise
        return [
            Problem(
                f"the server refuses the new {shadow.old.name}: {(error.diag.message_primary or str(error)).strip()}",
                shadow.label,
                error.diag.message_hint or "Correct what the migration says of the table.",
                "cannot-be-carried",
            )
        ]


def _build(shadow: Shadow, name: str, body: str, *, unique: bool, constraint: bool) -> bytes:
    table = ddl.table(shadow.name)
    if constraint:
        text = ddl.text("ALTER TABLE {t} ADD CONSTRAINT {n} {b}", t=table, n=ddl.ident(name), b=ddl.raw(body))
    else:
        what = "CREATE UNIQUE INDEX {n} ON {t} {b}" if unique else "CREATE INDEX {n} ON {t} {b}"
        text = ddl.text(what, n=ddl.ident(name), t=table, b=ddl.raw(body))
    return text.encode()


def _without_place(conn: Session, shadow: Shadow) -> list[Problem]:
    """Rows of today that none of the partitions takes."""
    if not shadow.partitioned or shadow.complete:
        return []
    rows = conn.execute(
        "SELECT pg_catalog.pg_get_partition_constraintdef(p.relid) FROM pg_catalog.pg_partition_tree(%s::pg_catalog.regclass) AS p WHERE p.isleaf",
        [ddl.table(shadow.name).as_string(None)],
    ).fetchall()
    takes = any_of(sql.SQL("({})").format(trusted(text)) for (text,) in rows if text is not None)
    found = _some(conn, shadow, sql.SQL("({}) IS NOT TRUE").format(takes))
    if found is None:
        return []
    count, keys = found
    return [
        Problem(
            f"{count} rows of {shadow.old.name} fit none of the new partitions, for example {keys}",
            shadow.label,
            "Add partitions for them, or one with `default: true`.",
            "no-partition",
        )
    ]


def _claimed_twice(conn: Session, shadow: Shadow) -> list[Problem]:
    """Rows of today that would have one key. Where a part of the key is unique by itself there are none."""
    if shadow.extra_index is None or set(shadow.old.key) <= set(shadow.key):
        return []
    alias = "zdm_o"
    same = all_of(
        sql.SQL("{} = {}").format(column(name, "zdm_t"), column(name, alias)) for name in shadow.key
    )
    own = any_of(
        sql.SQL("{} IS DISTINCT FROM {}").format(column(name, "zdm_t"), column(name, alias))
        for name in shadow.old.key
    )
    twice = sql.SQL("EXISTS (SELECT FROM {} AS zdm_t WHERE {} AND {})").format(
        qualified_name(shadow.old.name), same, own
    )
    found = _some(conn, shadow, twice)
    if found is None:
        return []
    count, keys = found
    return [
        Problem(
            f"{count} rows of {shadow.old.name} share ({', '.join(shadow.key)}) with another one, for example {keys}",
            shadow.label,
            "Choose a key that is unique, or correct the rows first.",
            "rows-break-constraint",
        )
    ]


def _some(conn: Session, shadow: Shadow, condition: sql.Composable) -> tuple[int, str] | None:
    names = sql.SQL(" || ', ' || ").join(
        sql.SQL("{} || COALESCE({}::text, 'NULL')").format(sql.Literal(f"{name}="), column(name, "zdm_o"))
        for name in shadow.old.key
    )
    row = conn.execute(
        sql.SQL(
            "SELECT pg_catalog.count(*), (pg_catalog.array_agg({}))[1:{}] FROM {} AS zdm_o WHERE {}"
        ).format(names, sql.Literal(_SAMPLES), qualified_name(shadow.old.name), condition)
    ).fetchone()
    count, keys = cast("tuple[int, list[str] | None]", row)
    return (count, "; ".join(keys or ())) if count else None
