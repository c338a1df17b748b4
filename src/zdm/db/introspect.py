"""Reading from the catalogs what a table is, and asking the server about types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, LiteralString, cast

import psycopg
from psycopg import pq, sql

from zdm.db.routes import routes
from zdm.db.session import Connection, execute_one, fetch_value, search_path_of, transaction
from zdm.errors import BadInput
from zdm.model.mapping import Comparison
from zdm.model.names import QualifiedName
from zdm.model.table import Column, Constraint, Dependent, Index, Partition, Rule, Table, TableKind, Trigger

# --- tables -----------------------------------------------------------------------------------------------------------


def read_table(conn: Connection, name: QualifiedName) -> Table | None:
    """The table, view … called `name` as it stands, or None if there is none."""
    return read_tables(conn, [name]).get(name)


def read_tables(conn: Connection, names: Iterable[QualifiedName]) -> dict[QualifiedName, Table]:
    """Those of `names` that exist, all read in one snapshot. Indexes, sequences and composite types count as absent.

    In `Table.referenced_by`, `columns` are this table's columns and `references` is the table that refers to it.
    """
    wanted = list(dict.fromkeys(names))
    query = files("zdm.db").joinpath("introspect.sql").read_text(encoding="utf-8")
    with _reading(conn):
        rows = conn.execute(
            query, {"schemas": [n.schema_ for n in wanted], "names": [n.name for n in wanted]}
        ).fetchall()
        types = {
            (column["type_oid"], column["typmod"], column["collation_oid"])
            for row in rows
            for column in row[_COLUMNS]
        }
        facts = _type_facts(conn, types)
        tables = [_table(row, facts) for row in rows]
        tables = _with_partitions(conn, tables)
    return {table.name: table for table in tables}


# Columns of the keys of every level, by name. The server lets a column that a key uses, in an expression or by itself,
# depend on its own table.
_PARTITION_KEYS = """
SELECT r.root::int8, array_agg(DISTINCT a.attname::text), bool_or(0 = ANY (k.partattrs))
FROM unnest(%s::oid[]) AS r (root) CROSS JOIN LATERAL pg_partition_tree(r.root) AS p
JOIN pg_partitioned_table k ON k.partrelid = p.relid
JOIN pg_attribute a ON a.attrelid = p.relid AND a.attnum > 0 AND NOT a.attisdropped
 AND (a.attnum = ANY (k.partattrs) OR EXISTS (
   SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = p.relid AND d.objsubid = a.attnum
     AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.relid AND d.refobjsubid = 0 AND d.deptype = 'i'))
GROUP BY r.root
"""


# The direct parents by the table's number.
_PARENTS = """
SELECT h.inhrelid::int8, n.nspname, p.relname FROM pg_inherits h
JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace n ON n.oid = p.relnamespace
WHERE h.inhrelid = ANY (%s::oid[]) ORDER BY h.inhseqno
"""


def _with_partitions(conn: Connection, tables: Sequence[Table]) -> list[Table]:
    """The tables; those that are partitioned, or in a tree of inheritance, with what they are made of."""
    roots = [table.oid for table in tables if table.partitioned or table.kind is TableKind.INHERITED]
    if not roots:
        return list(tables)
    query = files("zdm.db").joinpath("partitions.sql").read_text(encoding="utf-8")
    found: dict[int, list[Partition]] = {root: [] for root in roots}
    rows = conn.execute(query, {"roots": roots}).fetchall()
    for root, schema, name, oid, kind, owner, may_alter, own, triggers, columns, above in rows:
        partition = Partition(
            name=QualifiedName(schema_=schema, name=name),
            oid=oid,
            kind=TableKind(kind),
            owner=owner,
            may_alter=may_alter,
            own=tuple(Dependent(**d) for d in own),
            triggers=tuple(Trigger(**t) for t in triggers),
            columns=tuple(columns),
            parents=tuple(QualifiedName(**p) for p in above),
        )
        found[root].append(partition)
    keys = {
        root: (tuple(columns), expressions)
        for root, columns, expressions in conn.execute(_PARTITION_KEYS, [roots]).fetchall()
    }
    parents: dict[int, list[QualifiedName]] = {}
    for oid, schema, name in conn.execute(_PARENTS, [roots]).fetchall():
        parents.setdefault(oid, []).append(QualifiedName(schema_=schema, name=name))
    made = []
    for table in tables:
        update: dict[str, object] = {}
        if table.oid in found:
            update = {
                "partitions": tuple(found[table.oid]),
                "parents": () if table.partitioned else tuple(parents.get(table.oid, ())),
            }
        if table.kind is TableKind.INHERITED and found[table.oid]:
            names = [table.name.name, *(child.name.name for child in found[table.oid])]
            update["routes"] = routes(conn, table.oid, names)
        if table.partitioned:
            update |= {
                "partition_key": keys[table.oid][0],
                "partition_expressions": keys[table.oid][1],
            }
        made.append(table.model_copy(update=update) if update else table)
    return made


_COLUMNS = 11


def _table(row: Sequence[Any], facts: dict[tuple[int, int, int], tuple[str, Comparison]]) -> Table:
    (schema, name, oid, kind, owner, may_alter, reltuples, size, row_security, granted, comment, *lists) = row
    columns, constraints, referenced_by, indexes, triggers, rules, dependents = lists
    made = []
    for column in columns:
        type_kind, comparison = facts[
            column.pop("type_oid"), column.pop("typmod"), column.pop("collation_oid")
        ]
        made.append(Column(**{**column, "type_kind": type_kind, "comparison": comparison}))
    return Table(
        name=QualifiedName(schema_=schema, name=name),
        oid=oid,
        kind=TableKind(kind),
        owner=owner,
        may_alter=may_alter,
        columns=tuple(made),
        constraints=tuple(Constraint(**c) for c in constraints),
        indexes=tuple(Index(**i) for i in indexes),
        triggers=tuple(Trigger(**t) for t in triggers),
        rules=tuple(Rule(**r) for r in rules),
        dependents=tuple(Dependent(**d) for d in dependents),
        referenced_by=tuple(Constraint(**c) for c in referenced_by),
        rows=reltuples,
        bytes=size,
        row_security=row_security,
        granted=tuple(granted),
        comment=comment,
    )


@contextmanager
def _reading(conn: Connection) -> Iterator[None]:
    """One snapshot under the pinned settings; inside a transaction of the caller's, that one."""
    if conn.info.transaction_status != pq.TransactionStatus.IDLE:
        yield
        return
    with transaction(conn, isolation="repeatable read", read_only=True):
        yield


# --- types ------------------------------------------------------------------------------------------------------------

# A domain is judged by the type under it. "Equal means identical" is what a btree operator class says of itself when
# it allows deduplication (support function 4); for text it holds only under a deterministic collation.
_TYPE_FACTS = """
WITH RECURSIVE asked AS (
  SELECT DISTINCT * FROM ROWS FROM (unnest(%(types)s::int8[]), unnest(%(typmods)s::int4[]), unnest(%(collations)s::int8[]))
    AS w (type, typmod, coll)
), chain (type, typmod, coll, base, base_typmod) AS (
  SELECT type, typmod, coll, type::oid, typmod FROM asked
  UNION ALL
  SELECT c.type, c.typmod, c.coll, y.typbasetype, CASE WHEN y.typtypmod >= 0 THEN y.typtypmod ELSE c.base_typmod END
  FROM chain c JOIN pg_type y ON y.oid = c.base WHERE y.typtype = 'd'
)
SELECT c.type, c.typmod, c.coll,
  CASE WHEN k.typtype = 'd' THEN 'domain' WHEN k.typtype = 'e' THEN 'enum' WHEN k.typtype = 'c' THEN 'composite'
       WHEN k.typtype = 'r' THEN 'range' WHEN k.typtype = 'm' THEN 'multirange' WHEN k.typtype = 'p' THEN 'pseudo'
       WHEN k.typcategory = 'A' AND k.typelem <> 0 THEN 'array' ELSE 'base' END,
  CASE WHEN b.oid = 'numeric'::regtype THEN c.base_typmod >= 0
       WHEN b.oid = 'bpchar'::regtype AND c.base_typmod < 0 THEN false
       WHEN b.typtype = 'e' THEN true
       ELSE coalesce((
         SELECT CASE p.amproc::oid
                  WHEN 'btequalimage'::regproc THEN true
                  WHEN 'btvarstrequalimage'::regproc THEN coalesce((
                    SELECT l.collisdeterministic FROM pg_collation l
                    WHERE l.oid = coalesce(nullif(c.coll, 0), nullif(b.typcollation, 0)::int8)::oid), true)
                  ELSE false END
         FROM pg_opclass o
         JOIN pg_amproc p ON p.amprocfamily = o.opcfamily AND p.amproclefttype = o.opcintype
          AND p.amprocrighttype = o.opcintype AND p.amprocnum = 4
         WHERE o.opcmethod = 403 AND o.opcdefault
           AND o.opcintype = CASE WHEN b.oid = 'varchar'::regtype THEN 'text'::regtype ELSE b.oid END), false) END
FROM chain c JOIN pg_type k ON k.oid = c.type JOIN pg_type b ON b.oid = c.base
WHERE b.typtype <> 'd'
"""


def _type_facts(
    conn: Connection, types: Iterable[tuple[int, int, int]]
) -> dict[tuple[int, int, int], tuple[str, Comparison]]:
    """For each (type, typmod, collation): the kind in words, and how values are told apart."""
    wanted = list(types)
    rows = conn.execute(
        _TYPE_FACTS,
        {
            "types": [t for t, _, _ in wanted],
            "typmods": [m for _, m, _ in wanted],
            "collations": [c for _, _, c in wanted],
        },
    ).fetchall()
    return {
        (type_, typmod, collation): (kind, Comparison.NATIVE if native else Comparison.IMAGE)
        for type_, typmod, collation, kind, native in rows
    }


@dataclass(frozen=True, slots=True)
class ResolvedType:
    """A type as the server names it. `name` is qualified unless it is in pg_catalog, and keeps the typmod."""

    name: str
    oid: int
    typmod: int
    kind: str  # as Column.type_kind
    collatable: bool


# The last column tells that the text was a type and nothing else.
_WRITTEN_TYPE = """
SELECT format_type(a.atttypid, a.atttypmod), a.atttypid::int8, a.atttypmod, y.typcollation <> 0,
  a.attcollation = y.typcollation AND NOT a.attnotnull AND NOT a.atthasdef AND a.attgenerated = '' AND a.attidentity = ''
  AND a.attstorage = y.typstorage AND a.attcompression = '' AND a.attislocal AND a.attinhcount = 0 AND a.attoptions IS NULL
  AND c.relkind = 'r' AND c.reloptions IS NULL AND c.reltablespace = 0 AND c.relnatts = 1
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = a.attrelid)
FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid JOIN pg_class c ON c.oid = a.attrelid
WHERE a.attrelid = 'pg_temp._zdm_type'::regclass AND a.attnum = 1
"""

_PROBE = sql.SQL("pg_temp._zdm_type")


def resolve_type(conn: Connection, text: str, target_schema: str = "public") -> ResolvedType:
    """The type written as `text`, unqualified names looked up in `target_schema`, then public.

    Raises
    ------
    BadInput: there is no such type, it cannot be a column's type, or the text is more than a type.
    """
    with transaction(conn, rollback=True):
        _column_of(conn, text, target_schema)
        row = conn.execute(_WRITTEN_TYPE).fetchone()
        assert row is not None
        name, oid, typmod, collatable, plain = row
        if not plain:
            raise _no_type(text, "it says more than a type")
        (kind, _) = _type_facts(conn, [(oid, typmod, 0)])[oid, typmod, 0]
    return ResolvedType(name, oid, typmod, kind, collatable)


def resolve_collation(conn: Connection, text: str, target_schema: str = "public") -> str | None:
    """The collation written as `text`, qualified where it is not the server's own; None if there is none for the encoding."""
    with transaction(conn, rollback=True):
        conn.execute(search_path_of(list(dict.fromkeys((target_schema, "public")))))
        oid = fetch_value(conn, "SELECT pg_catalog.to_regcollation(%s)::pg_catalog.oid", (text,))
        conn.execute(search_path_of([]))
        found = fetch_value(conn, "SELECT %s::pg_catalog.oid::pg_catalog.regcollation::text", (oid,))
    return None if found is None else str(found)


def type_comparison(conn: Connection, type_: str, collation: str | None = None) -> Comparison:
    """How values of the type (as `resolve_type` names it) under the collation (or the type's own) are told apart."""
    with transaction(conn, rollback=True):
        _column_of(conn, type_, "public", collation)
        row = conn.execute(
            "SELECT atttypid::int8, atttypmod, attcollation::int8 FROM pg_attribute"
            " WHERE attrelid = 'pg_temp._zdm_type'::regclass AND attnum = 1"
        ).fetchone()
        assert row is not None
        ((_, comparison),) = _type_facts(conn, [cast("tuple[int, int, int]", row)]).values()
    return comparison


def _column_of(conn: Connection, type_: str, target_schema: str, collation: str | None = None) -> None:
    """Create the temporary table with one column of the type, names looked up as the user means them."""
    suffix = sql.SQL("") if collation is None else sql.SQL(" COLLATE {}").format(sql.SQL(collation))
    conn.execute(search_path_of(["pg_catalog", target_schema, "public", "pg_temp"]))
    try:
        # The text is the user's: exactly one statement is accepted, its shape is looked at, and all is rolled back.
        execute_one(
            conn,
            sql.SQL("CREATE TEMPORARY TABLE _zdm_type (\nc {}\n{})").format(sql.SQL(type_), suffix),
        )
    except psycopg.Error as error:
        if conn.closed or error.sqlstate is None:
            raise
        raise _no_type(type_, error.diag.message_primary or "the server refuses it") from None
    conn.execute(search_path_of(["pg_catalog", "pg_temp"]))


def _no_type(text: str, why: str) -> BadInput:
    return BadInput(
        f"{text!r} is not a column type here: {why}",
        remedy="Write it as in CREATE TABLE, for example numeric(18,2), and qualify types of other schemas.",
    )


def rewrite_free(conn: Connection, old_type: str, new_type: str) -> bool:
    """Whether ALTER COLUMN TYPE from `old_type` to `new_type` leaves the table's file alone.

    Measured on an empty temporary table, under two time zones: between timestamp and timestamptz it depends on the
    session, and what depends on the session is not free. False too where the server has no such cast.
    """
    return all(_rewrite_free(conn, old_type, new_type, zone) for zone in ("UTC", "Asia/Kolkata"))


def _rewrite_free(conn: Connection, old_type: str, new_type: str, zone: str) -> bool:
    filenode: LiteralString = "SELECT pg_relation_filenode('pg_temp._zdm_type'::regclass)"
    with transaction(conn, rollback=True, settings={"TimeZone": zone}):
        _column_of(conn, old_type, "public")
        before = fetch_value(conn, filenode)
        try:
            execute_one(conn, sql.SQL("ALTER TABLE {} ALTER c TYPE {}").format(_PROBE, sql.SQL(new_type)))
        except psycopg.Error as error:
            if conn.closed or error.sqlstate is None:
                raise
            return False
        return bool(before == fetch_value(conn, filenode))
