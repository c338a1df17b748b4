"""How fast this server reads a table and computes its new columns, and what its statistics say about WAL and disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

import psycopg
from psycopg import sql

from zdm.db.session import Connection, fetch_value, transaction
from zdm.model.estimate import ServerRates, TableRates
from zdm.model.expression import Expression
from zdm.model.mapping import NewColumn, TableMapping
from zdm.model.names import QualifiedName
from zdm.sql.rows import fill_assignments, render

PAGES = 4096
"""Pages that are read to measure how fast they are: 32 MB."""

SAMPLE = 10_000
"""Rows that are filled on a temporary copy."""

TIMEOUT = timedelta(seconds=15)

_TABLE = """
SELECT sum(pg_relation_size(p.oid))::bigint, sum(pg_indexes_size(p.oid))::bigint,
       CASE WHEN min(p.reltuples) < 0 THEN -1 ELSE sum(p.reltuples) END::float8,
       (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid), current_setting('block_size')::int
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN LATERAL (
  WITH RECURSIVE family (oid) AS (
    SELECT c.oid UNION SELECT h.inhrelid FROM family f JOIN pg_inherits h ON h.inhparent = f.oid WHERE NOT h.inhdetachpending)
  SELECT l.oid, l.reltuples FROM family f JOIN pg_class l ON l.oid = f.oid WHERE l.relkind = 'r'
) AS p ON true
WHERE n.nspname = %s AND c.relname = %s GROUP BY c.oid
"""

_SERVER = """
SELECT (SELECT wal_bytes / greatest(extract(epoch FROM clock_timestamp() - stats_reset), 1) FROM pg_catalog.pg_stat_wal
        WHERE stats_reset < clock_timestamp() - interval '1 minute')::float8,
       current_setting('full_page_writes')::boolean, pg_size_bytes(current_setting('max_wal_size')),
       current_setting('archive_mode') <> 'off'
"""

# 18 counts bytes, 16 and 17 operations of a known size; both through JSON, so that one text fits every version.
_DISK = """
SELECT sum(coalesce((to_jsonb(s) ->> 'read_bytes')::float8, s.reads * (to_jsonb(s) ->> 'op_bytes')::float8))
       / nullif(sum(s.read_time) / 1000, 0)
FROM pg_catalog.pg_stat_io s WHERE s.object = 'relation' AND s.reads > 0 AND s.read_time > 0
HAVING sum(s.reads) > 1000
"""


def server_rates(conn: Connection) -> ServerRates:
    """What the statistics of the whole server say."""
    with transaction(conn, read_only=True):
        row = conn.execute(_SERVER).fetchone()
        assert row is not None
        wal, pages, most, archives = row
        disk = fetch_value(conn, _DISK) if conn.info.server_version >= 160000 else None
    return ServerRates(
        wal_bytes_per_second=wal,
        full_page_writes=pages,
        max_wal_size=most,
        archives=archives,
        read_bytes_per_second=disk,
    )


def table_rates(conn: Connection, table: QualifiedName, mapping: TableMapping | None) -> TableRates | None:
    """Measure one table, for seconds at most; everything that is made for it is rolled back. None if there is no such table."""
    with transaction(conn, read_only=True):
        row = conn.execute(_TABLE, (table.schema_, table.name)).fetchone()
    if row is None:
        return None
    size, index_bytes, estimated, indexes, block = row
    # What is looked up elsewhere cannot be before preparation.
    groups = [group for group in mapping.groups if not group.elsewhere] if mapping is not None else []
    news = [new for group in groups for new in group.new]
    scanned = _scan(conn, table, [new for new in news if new.up is not None], size // block)
    rows, rate = float(estimated), None
    if scanned is not None:
        seen, pages, seconds = scanned
        rows = seen / pages * (size / block)
        rate = pages * block / seconds
    found = TableRates(
        table=table,
        rows=rows,
        bytes=size,
        index_bytes=index_bytes,
        indexes=indexes,
        scan_bytes_per_second=rate,
    )
    if mapping is None or not mapping.needs_sync or size == 0:
        return found
    filled = _fill(conn, table, mapping, share=SAMPLE / rows if rows > 0 else 1.0)
    if filled is None:
        return found
    count, seconds = filled
    return found.model_copy(update={"fill_rows_per_second": count / seconds, "sample": count})


_NOTHING = Expression(source="NULL", parts=("NULL",), type="text")
"""In the place of a search in a shared table, which need not be there yet."""


def _scan(
    conn: Connection, table: QualifiedName, ups: Sequence[NewColumn], pages: int
) -> tuple[int, int, float] | None:
    """Rows, pages and seconds of reading the table's beginning and computing `up`; None if it cannot be told."""
    read = min(pages, PAGES)
    if read == 0:
        return None
    computed = sql.SQL("").join(
        sql.SQL(", count({})").format(render(new.up)) for new in ups if new.up is not None
    )
    query = sql.SQL("SELECT count(*){} FROM ONLY {} WHERE ctid < {}::tid").format(
        computed, sql.Identifier(table.schema_, table.name), sql.Literal(f"({read},0)")
    )
    settings = {"jit": "off", "max_parallel_workers_per_gather": "0"}
    try:
        with transaction(conn, statement_timeout=TIMEOUT, rollback=True, settings=settings):
            begun = time.perf_counter()
            count = int(fetch_value(conn, query))
            seconds = time.perf_counter() - begun
    except (psycopg.errors.DataError, psycopg.errors.QueryCanceled, psycopg.errors.InsufficientPrivilege):
        return None if not ups else _scan(conn, table, (), pages)
    return (count, read, seconds) if count and seconds > 0 else None


def _fill(
    conn: Connection, table: QualifiedName, mapping: TableMapping, share: float
) -> tuple[int, float] | None:
    """Rows and seconds of filling a temporary copy of some rows, its indexes included; None if that fails on one of them."""
    copy = sql.Identifier("pg_temp", "_zdm_rates")
    # What may be volatile is left out: a sequence would move on although all is rolled back.
    quiet = mapping.model_copy(
        update={
            "groups": tuple(
                group.model_copy(
                    update={
                        "new": tuple(
                            new.model_copy(
                                update={
                                    "fill": None,
                                    "default": None,
                                    "up": new.up if group.parent is None else _NOTHING,
                                }
                            )
                            for new in group.new
                        )
                    }
                )
                for group in mapping.groups
            )
        }
    )
    source: sql.Composable = sql.Identifier(table.schema_, table.name)
    if share < 0.5:
        source = sql.SQL("{} TABLESAMPLE SYSTEM ({})").format(source, sql.Literal(max(share * 150, 0.001)))
    try:
        with transaction(conn, statement_timeout=TIMEOUT, rollback=True, settings={"jit": "off"}):
            conn.execute(
                sql.SQL(
                    "CREATE TEMPORARY TABLE _zdm_rates (LIKE {} INCLUDING INDEXES) ON COMMIT DROP"
                ).format(sql.Identifier(table.schema_, table.name))
            )
            count = conn.execute(
                sql.SQL("INSERT INTO {} SELECT * FROM {} LIMIT {}").format(copy, source, sql.Literal(SAMPLE))
            ).rowcount
            for group in quiet.groups:
                for new in group.new:
                    conn.execute(
                        sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
                            copy, sql.Identifier(new.name), sql.SQL(new.type)
                        )
                    )
            conn.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} integer").format(copy, sql.Identifier(mapping.marker))
            )
            begun = time.perf_counter()
            conn.execute(sql.SQL("UPDATE {} SET {}").format(copy, fill_assignments(quiet)))
            seconds = time.perf_counter() - begun
    except psycopg.Error as error:
        if error.sqlstate is None or conn.closed:
            raise
        return None
    return (count, seconds) if count and seconds > 0 else None
