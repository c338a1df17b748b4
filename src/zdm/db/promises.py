"""The server reads promises, and counts on the rows as they are what would break them: before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import psycopg
from psycopg import sql

from zdm.db.session import Connection, fetch_value, transaction
from zdm.model.names import QualifiedName
from zdm.model.promise import Demand, Promise
from zdm.sql.promises import Equality, Source, violations

_TABLE = "_zdm_promised_table"
_PARENT = "_zdm_promised_parent"
_OBJECT = "_zdm_promised"

_INDEX = """
SELECT ARRAY(SELECT pg_get_indexdef(i.indexrelid, n, false)
               || CASE WHEN i.indcollation[n - 1] <> 0 THEN ' COLLATE ' || i.indcollation[n - 1]::regcollation::text ELSE '' END
             FROM generate_series(1, i.indnkeyatts) AS n ORDER BY n),
       pg_get_expr(i.indpred, i.indrelid), coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false),
       (SELECT array_agg(format('%%I.%%s', n.nspname, o.oprname) ORDER BY u.number)
        FROM pg_constraint k CROSS JOIN LATERAL unnest(k.conexclop) WITH ORDINALITY AS u (operator, number)
        JOIN pg_operator o ON o.oid = u.operator JOIN pg_namespace n ON n.oid = o.oprnamespace
        WHERE k.conindid = i.indexrelid AND k.contype = 'x')
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = pg_my_temp_schema() AND c.relname = %s
"""

_READS = """
SELECT DISTINCT a.attname::text FROM pg_depend d
JOIN pg_class t ON t.oid = d.refobjid JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
WHERE t.relnamespace = pg_my_temp_schema() AND t.relname = %s AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
  AND (d.classid, d.objid) IN (
    SELECT 'pg_class'::regclass::oid, c.oid FROM pg_class c WHERE c.relnamespace = pg_my_temp_schema() AND c.relname = %s
    UNION ALL SELECT 'pg_constraint'::regclass::oid, k.oid FROM pg_constraint k WHERE k.conrelid = t.oid AND k.conname = %s)
"""

# The operator that a foreign key compares with, where it is not pg_catalog's: types of extensions bring their own.
_EQUALS = """
SELECT coalesce(f.operator, 'pg_catalog.='), coalesce(f.type, '')
FROM unnest(%s::text[]) WITH ORDINALITY AS w (name, number) LEFT JOIN LATERAL (
  SELECT format('%%I.%%s', n.nspname, o.oprname) AS operator, format_type(c.opcintype, NULL) AS type FROM pg_attribute a
  JOIN pg_opclass c ON c.opcintype = a.atttypid AND c.opcdefault
  JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
  JOIN pg_amop s ON s.amopfamily = c.opcfamily AND s.amopstrategy = 3 AND s.amoplefttype = c.opcintype
    AND s.amoprighttype = c.opcintype
  JOIN pg_operator o ON o.oid = s.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
  WHERE a.attrelid = to_regclass(%s) AND a.attname = w.name AND n.nspname <> 'pg_catalog') AS f ON true
ORDER BY w.number
"""

_CARRIED_KEY = """
SELECT (SELECT array_agg(a.attname::text ORDER BY u.n) FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, n)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum),
       (SELECT array_agg(a.attname::text ORDER BY u.n) FROM unnest(k.confkey) WITH ORDINALITY AS u (attnum, n)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum),
       k.confmatchtype = 'f'
FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE n.nspname = %s AND t.relname = %s AND k.conname = %s AND k.contype = 'f'
"""


Added = tuple[str, str, str | None]
"""A column that the rollout adds: physical name, type and collation, as the server spelled them."""


def _clone(
    conn: Connection, name: str, table: QualifiedName, added: Sequence[Added], *, indexes: bool = False
) -> sql.Identifier:
    """An empty temporary copy of a table with its new columns."""
    clone = sql.Identifier("pg_temp", name)
    conn.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}{}) ON COMMIT DROP").format(
            sql.Identifier(name),
            sql.Identifier(table.schema_, table.name),
            sql.SQL(" INCLUDING INDEXES" if indexes else ""),
        )
    )
    for column, type_, collation in added:
        tail = sql.SQL(" COLLATE {}").format(sql.SQL(collation)) if collation else sql.SQL("")
        conn.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN {} {}{}").format(
                clone, sql.Identifier(column), sql.SQL(type_), tail
            )
        )
    return clone


def refused_key(
    conn: Connection, promise: Promise, added: Sequence[Added], added_to_parent: Sequence[Added]
) -> str:
    """What the server has against a foreign key, tried between two empty temporary copies; empty if nothing."""
    assert promise.references is not None
    referenced = sql.SQL(", ").join(sql.Identifier(name) for name in promise.referenced)
    try:
        with transaction(conn, rollback=True):
            child = _clone(conn, _TABLE, promise.table, added)
            parent = _clone(conn, _PARENT, promise.references, added_to_parent, indexes=True)
            if {name for name, _, _ in added_to_parent} & set(promise.referenced):
                # Its unique index follows the column in the rollout itself.
                conn.execute(sql.SQL("ALTER TABLE {} ADD UNIQUE ({})").format(parent, referenced))
            conn.execute(
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({})").format(
                    child,
                    sql.Identifier(promise.name),
                    sql.SQL(", ").join(sql.SQL(key) for key in promise.keys),
                    parent,
                    referenced,
                )
            )
    except psycopg.errors.ProgrammingError as error:
        if conn.closed:
            raise
        said = (error.diag.message_primary or "").replace(_PARENT, promise.references.name)
        return f"{said}: {error.diag.message_detail}" if error.diag.message_detail else said
    return ""


def read_promise(conn: Connection, promise: Promise, added: Sequence[Added]) -> Promise:
    """Let the server read `promise.definition` on an empty temporary copy of the table. Nothing is left in the database.

    Parameters
    ----------
    added: columns that the rollout adds to the table.
    """
    if not promise.definition:
        return promise
    with transaction(conn, rollback=True):
        clone = _clone(conn, _TABLE, promise.table, added)
        body, made = sql.SQL(promise.definition), sql.Identifier(_OBJECT)
        if promise.demand is Demand.UNIQUE and not promise.definition.startswith(("UNIQUE ", "PRIMARY KEY ")):
            conn.execute(sql.SQL("CREATE UNIQUE INDEX {} ON {} {}").format(made, clone, body))
        else:
            conn.execute(sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(clone, made, body))
        answer: dict[str, object]
        if promise.demand in {Demand.UNIQUE, Demand.EXCLUSION}:
            row = conn.execute(_INDEX, (_OBJECT,)).fetchone()
            assert row is not None
            keys, condition, nulls_equal, operators = row
            answer = {
                "keys": tuple(keys),
                "condition": condition or "",
                "nulls_equal": nulls_equal,
                "operators": tuple(operators or ()),
            }
        else:
            query = "SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conname = %s AND connamespace = pg_my_temp_schema()"
            answer = {"condition": fetch_value(conn, query, (_OBJECT,))}
        reads = tuple(sorted(name for (name,) in conn.execute(_READS, (_TABLE, _OBJECT, _OBJECT))))
    return promise.model_copy(update={**answer, "reads": reads})


def carried_key(
    conn: Connection, table: QualifiedName, name: str
) -> tuple[list[str], list[str], bool] | None:
    """Columns, referenced columns and MATCH FULL of a foreign key that stands; None if there is none."""
    row = conn.execute(_CARRIED_KEY, (table.schema_, table.name, name)).fetchone()
    return None if row is None else (row[0], row[1], row[2])


def key_operators(conn: Connection, promise: Promise) -> tuple[Equality, ...]:
    """For each column that a foreign key references, how it is compared."""
    if promise.references is None:
        return ()
    parent = sql.Identifier(promise.references.schema_, promise.references.name).as_string(None)
    rows = conn.execute(_EQUALS, (list(promise.referenced), parent))
    return tuple(Equality(operator, type_) for operator, type_ in rows)


@dataclass(frozen=True, slots=True)
class Measured:
    """How many rows break a promise now, with some of them named; or why it could not be told.

    Parameters
    ----------
    impossible: it can never be counted like this (the server refuses the query); otherwise only not now.
    """

    count: int = 0
    samples: tuple[str, ...] = ()
    unknown: str = ""
    impossible: bool = False


def measure_promise(
    conn: Connection,
    promise: Promise,
    source: Source,
    parent: Source | None = None,
    equals: Sequence[Equality] = (),
    timeout: timedelta = timedelta(seconds=10),
) -> Measured:
    """Count on the rows as they are, in a read-only transaction, for no longer than `timeout`."""
    queries = violations(promise, source, parent, equals)
    try:
        with transaction(
            conn,
            isolation="repeatable read",
            statement_timeout=timeout,
            rollback=True,
            settings={"jit": "off"},
        ):
            try:
                with conn.transaction():
                    conn.execute(sql.Composed([sql.SQL("EXPLAIN "), queries.count]))
            except psycopg.Error as error:
                if error.sqlstate is None or error.sqlstate[:2] not in ("42", "0A"):
                    raise
                return Measured(unknown=(error.diag.message_primary or "").strip(), impossible=True)
            count = int(fetch_value(conn, queries.count))
            found = conn.execute(queries.samples).fetchmany(5) if count else []
    except psycopg.errors.QueryCanceled:
        return Measured(unknown=f"it takes longer than {timeout.total_seconds():g} s")
    except psycopg.errors.DataError:
        return Measured(unknown="an expression raises on some row")
    return Measured(count, tuple(text for (text,) in found))
