"""Backfills: which blocks of a table are done. A chunk and its cursor commit in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg.rows import dict_row, tuple_row

from zdm.errors import Drift
from zdm.model.names import QualifiedName, qualified


class BackfillStatus(StrEnum):
    """Where a backfill stands."""

    RUNNING = "running"  # ranges are being gone through
    SWEEPING = "sweeping"  # looks over the whole table for rows that were left
    FINISHED = "finished"


class Part(NamedTuple):
    """A table that holds rows of the table that is filled: itself, or a partition. Its number, its file, and its blocks."""

    relation: int
    file: int
    blocks: int


class Range(NamedTuple):
    """Blocks ``[lo, hi)`` of one part for one worker; those before `next` are done."""

    number: int
    lo: int
    next: int
    hi: int
    relation: int
    file: int

    @property
    def finished(self) -> bool:
        """Whether every block is done."""
        return self.next >= self.hi


@dataclass(frozen=True, slots=True)
class BackfillState:
    """A backfill as it stood when it was read.

    Parameters
    ----------
    ranges: by number; finished ones included.
    pass_no: raised whenever the table is gone over again.
    done_rows: rows settled in this pass and all earlier ones, the sweep's included.
    total_blocks: the table's size when the pass began; blocks appended later hold settled rows only.
    left_rows: whether some chunk of this pass may have left rows behind, because somebody held them or an expression raised.
    since: the oldest transaction that ran when the pass began; None where an earlier zdm began it.
    """

    rollout: int
    table: QualifiedName
    status: BackfillStatus
    pass_no: int
    total_blocks: int
    ranges: tuple[Range, ...]
    done_rows: int
    swept_rows: int
    left_rows: bool
    since: str | None
    started_at: datetime
    finished_at: datetime | None

    @property
    def done_blocks(self) -> int:
        """Blocks done in this pass."""
        return sum(part.next - part.lo for part in self.ranges)


def split(parts: Sequence[Part], workers: int, *, first: int = 0) -> tuple[Range, ...]:
    """Cut the blocks of the parts into contiguous ranges, numbered from `first`.

    A part that is more than one worker's share of all is cut into nearly equal ranges, one for each worker.
    """
    found: list[Range] = []
    share = max(1, sum(part.blocks for part in parts) // max(1, workers))
    for part in parts:
        count = max(1, min(workers, part.blocks)) if part.blocks >= share or len(parts) == 1 else 1
        edges = [part.blocks * i // count for i in range(count + 1)]
        found += [
            Range(first + len(found) + i, edges[i], edges[i], edges[i + 1], part.relation, part.file)
            for i in range(count)
        ]
    return tuple(found)


def share_out(ranges: Sequence[Range], workers: int) -> tuple[Range, ...]:
    """Halve the longest remaining ranges until `workers` have one each. No block changes between done and not done."""
    parts = list(ranges)
    while parts and sum(not part.finished for part in parts) < workers:
        longest = max(parts, key=lambda part: part.hi - part.next)
        if longest.hi - longest.next < 2:
            break
        middle = (longest.next + longest.hi) // 2
        parts[parts.index(longest)] = longest._replace(hi=middle)
        number = max(part.number for part in parts) + 1
        parts.append(longest._replace(number=number, lo=middle, next=middle))
    return tuple(parts)


def open(  # noqa: A001  # reads as backfills.open
    conn: psycopg.Connection[Any],
    rollout_id: int,
    table: QualifiedName,
    parts: Sequence[Part],
    workers: int,
    *,
    since: str | None = None,
) -> BackfillState:
    """Begin the backfill of `table`, or take it up where it stopped. Atomic, inside the caller's transaction or in its own.

    Needs the lease: nobody else may be working on the ranges. `parts` are to be read after the triggers stand. The same
    file resumes each range (more workers than ranges halve what is left). A part with another file is gone over from its
    beginning, in a new pass; one that came since is added, and one that is gone is forgotten. A finished backfill stays
    finished, unless a part came since; `next_pass` goes over it again.

    Parameters
    ----------
    since: the oldest transaction that ran before `parts` were read; without it the last look looks at every row.
    """
    with conn.transaction():
        found = get(conn, rollout_id, table)
        if found is None:
            with conn.cursor(row_factory=tuple_row) as cursor:
                cursor.execute(
                    "INSERT INTO zdm.data_migrations (rollout, schema_name, table_name, total_blocks, since)"
                    " VALUES (%s, %s, %s, %s, %s::xid8)",
                    [rollout_id, table.schema_, table.name, sum(part.blocks for part in parts), since],
                )
            _write_ranges(conn, rollout_id, table, split(parts, workers))
        else:
            _reconcile(conn, found, parts, workers)
        return _existing(conn, rollout_id, table)


def _reconcile(
    conn: psycopg.Connection[Any], found: BackfillState, parts: Sequence[Part], workers: int
) -> None:
    """Let the ranges be of the parts that there are; see `open`."""
    present = {part.relation: part for part in parts}
    known = {part.relation for part in found.ranges}
    finished = found.status is BackfillStatus.FINISHED
    # Rows that are settled stay settled whatever file they are in.
    rewritten = {
        r.relation
        for r in found.ranges
        if not finished and r.relation in present and r.file != present[r.relation].file
    }
    gone = set() if finished else known - set(present)
    fresh = [part for part in parts if part.relation in rewritten or part.relation not in known]
    if rewritten or gone:
        _forget(conn, found, rewritten | gone)
    if rewritten or fresh:
        with conn.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(
                """
                UPDATE zdm.data_migrations SET status = 'running', finished_at = NULL, pass_no = pass_no + %s
                WHERE rollout = %s AND schema_name = %s AND table_name = %s
                """,
                [1 if rewritten else 0, found.rollout, found.table.schema_, found.table.name],
            )
    first = max((r.number for r in found.ranges), default=-1) + 1
    kept = [r for r in found.ranges if r.relation not in rewritten | gone]
    wanted = (*kept, *split(fresh, workers, first=first))
    if found.status is BackfillStatus.RUNNING:
        wanted = share_out(wanted, workers)
    if wanted != found.ranges:
        _write_ranges(conn, found.rollout, found.table, wanted)


def _forget(conn: psycopg.Connection[Any], found: BackfillState, relations: Iterable[int]) -> None:
    """Drop the ranges of some parts; the rows that were settled in them still count."""
    conn.execute(
        """
        WITH gone AS (
            DELETE FROM zdm.data_migration_ranges AS r USING zdm.data_migrations AS d
            WHERE d.id = r.backfill AND d.rollout = %(rollout)s AND d.schema_name = %(schema)s AND d.table_name = %(name)s
              AND r.relation = ANY (%(relations)s::oid[])
            RETURNING r.rows_done)
        UPDATE zdm.data_migrations SET earlier_rows = earlier_rows + (SELECT coalesce(sum(rows_done), 0) FROM gone)
        WHERE rollout = %(rollout)s AND schema_name = %(schema)s AND table_name = %(name)s
        """,
        {
            "rollout": found.rollout,
            "schema": found.table.schema_,
            "name": found.table.name,
            "relations": sorted(relations),
        },
    )


def advance(
    conn: psycopg.Connection[Any],
    rollout_id: int,
    table: QualifiedName,
    range_no: int,
    next_block: int,
    rows: int,
    *,
    left: bool = False,
) -> int | None:
    """Blocks before `next_block` of a range are done, and `rows` were settled. One write, inside the chunk's transaction.

    Returns the file that the range's table has at this moment, so that it need not be asked for in another round trip; None if
    the table is gone.

    Parameters
    ----------
    left: some rows of these blocks may not be settled; the sweep will look for them.

    Raises
    ------
    Drift: the cursor is not where this worker left it: it would go back, or past the end, or the pass is over.
    """
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            """
            UPDATE zdm.data_migration_ranges AS r
            SET next_block = %(next)s, rows_done = rows_done + %(rows)s, chunks = chunks + 1,
                last_rows = %(rows)s, last_at = clock_timestamp(), left_rows = r.left_rows OR %(left)s
            FROM zdm.data_migrations AS d
            WHERE d.id = r.backfill AND d.rollout = %(rollout)s AND d.schema_name = %(schema)s AND d.table_name = %(name)s
              AND d.status = 'running' AND r.range_no = %(range)s AND %(next)s BETWEEN r.next_block + 1 AND r.hi
            RETURNING pg_catalog.pg_relation_filenode(r.relation)::int8
            """,
            {
                "next": next_block,
                "rows": rows,
                "left": left,
                "rollout": rollout_id,
                "schema": table.schema_,
                "name": table.name,
                "range": range_no,
            },
        )
        row = cursor.fetchone()
        if row is None:
            raise Drift(
                f"The backfill of {table} cannot move range {range_no} to block {next_block}: its cursor is not where this "
                "worker left it.",
                remedy="Another zdm works on it, or the catalog was changed by hand. Nothing of this chunk is kept; run again.",
            )
        return None if row[0] is None else int(row[0])


def start_sweep(conn: psycopg.Connection[Any], rollout_id: int, table: QualifiedName) -> None:
    """Every range is done, but rows may have been left: looks over the whole table begin. Atomic, inside the caller's transaction or in its own.

    Raises
    ------
    Drift: a range is not done yet.
    """
    _complete(
        conn,
        rollout_id,
        table,
        """
        UPDATE zdm.data_migrations SET status = 'sweeping'
        WHERE rollout = %s AND schema_name = %s AND table_name = %s AND status <> 'finished'
        """,
    )


def add_swept(conn: psycopg.Connection[Any], rollout_id: int, table: QualifiedName, rows: int) -> None:
    """The sweep settled `rows` more. One write, inside the transaction that settled them."""
    conn.execute(
        """
        UPDATE zdm.data_migrations SET swept_rows = swept_rows + %s
        WHERE rollout = %s AND schema_name = %s AND table_name = %s
        """,
        [rows, rollout_id, table.schema_, table.name],
    )


def finish(conn: psycopg.Connection[Any], rollout_id: int, table: QualifiedName) -> BackfillState:
    """Nothing is left to settle. Atomic, inside the caller's transaction or in its own. Repeating it changes nothing.

    Raises
    ------
    Drift: a range is not done yet.
    """
    _complete(
        conn,
        rollout_id,
        table,
        """
        UPDATE zdm.data_migrations SET status = 'finished', finished_at = coalesce(finished_at, clock_timestamp())
        WHERE rollout = %s AND schema_name = %s AND table_name = %s
        """,
    )
    return _existing(conn, rollout_id, table)


def next_pass(
    conn: psycopg.Connection[Any],
    rollout_id: int,
    table: QualifiedName,
    parts: Sequence[Part],
    workers: int,
    *,
    since: str | None = None,
) -> BackfillState:
    """Go over the whole table again. Atomic, inside the caller's transaction or in its own.

    Verifications of an earlier pass do not count from here on.
    """
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            """
            UPDATE zdm.data_migrations AS d
            SET status = 'running', pass_no = pass_no + 1, finished_at = NULL, since = %s::xid8,
                earlier_rows = earlier_rows
                    + coalesce((SELECT sum(r.rows_done) FROM zdm.data_migration_ranges AS r WHERE r.backfill = d.id), 0)
            WHERE rollout = %s AND schema_name = %s AND table_name = %s
            """,
            [since, rollout_id, table.schema_, table.name],
        )
        if cursor.rowcount != 1:
            raise Drift(f"Rollout {rollout_id} has no backfill of {table} to go over again.")
        _write_ranges(conn, rollout_id, table, split(parts, workers), replace=True)
        return _existing(conn, rollout_id, table)


def get(conn: psycopg.Connection[Any], rollout_id: int, table: QualifiedName) -> BackfillState | None:
    """The backfill of one table, or None if it has not begun."""
    return next((state for state in all_of(conn, rollout_id) if state.table == table), None)


def all_of(conn: psycopg.Connection[Any], rollout_id: int) -> list[BackfillState]:
    """The backfills of a rollout, in the order in which they began."""
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            SELECT d.*, d.since::text AS since_text, r.ranges, r.left_rows, d.earlier_rows + d.swept_rows + r.rows_done AS done_rows
            FROM zdm.data_migrations AS d
            CROSS JOIN LATERAL (
                SELECT coalesce(jsonb_agg(jsonb_build_array(range_no, lo, next_block, hi, relation::bigint, file::bigint)
                           ORDER BY range_no), '[]') AS ranges,
                       coalesce(sum(rows_done), 0)::bigint AS rows_done, coalesce(bool_or(left_rows), false) AS left_rows
                FROM zdm.data_migration_ranges WHERE backfill = d.id
            ) AS r
            WHERE d.rollout = %s
            ORDER BY d.id
            """,
            [rollout_id],
        )
        return [
            BackfillState(
                rollout=row["rollout"],
                table=qualified(row["schema_name"], row["table_name"]),
                status=BackfillStatus(row["status"]),
                pass_no=row["pass_no"],
                total_blocks=row["total_blocks"],
                ranges=tuple(Range(*part) for part in row["ranges"]),
                done_rows=row["done_rows"],
                swept_rows=row["swept_rows"],
                left_rows=row["left_rows"],
                since=row["since_text"],
                started_at=row["started_at"],
                finished_at=row["finished_at"],
            )
            for row in cursor.fetchall()
        ]


def _existing(conn: psycopg.Connection[Any], rollout_id: int, table: QualifiedName) -> BackfillState:
    found = get(conn, rollout_id, table)
    if found is None:
        raise Drift(f"Rollout {rollout_id} has no backfill of {table}.")
    return found


def _complete(
    conn: psycopg.Connection[Any], rollout_id: int, table: QualifiedName, statement: LiteralString
) -> None:
    """Run `statement` over the backfill's row if every range is done."""
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        found = _existing(conn, rollout_id, table)
        left = [part for part in found.ranges if not part.finished]
        if left:
            raise Drift(f"The backfill of {table} still has {len(left)} of {len(found.ranges)} ranges to do.")
        cursor.execute(statement, [rollout_id, table.schema_, table.name])
        if cursor.rowcount != 1:
            raise Drift(f"The backfill of {table} is {found.status} already.")


def _write_ranges(
    conn: psycopg.Connection[Any],
    rollout_id: int,
    table: QualifiedName,
    ranges: Sequence[Range],
    *,
    replace: bool = False,
) -> None:
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT id FROM zdm.data_migrations WHERE rollout = %s AND schema_name = %s AND table_name = %s FOR UPDATE",
            [rollout_id, table.schema_, table.name],
        )
        row = cursor.fetchone()
        assert row is not None
        if replace:
            cursor.execute("DELETE FROM zdm.data_migration_ranges WHERE backfill = %s", [row[0]])
        # Only a range's end moves when work is shared out again; its cursor is the worker's.
        cursor.executemany(
            """
            INSERT INTO zdm.data_migration_ranges AS r (backfill, range_no, lo, next_block, hi, relation, file)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (backfill, range_no) DO UPDATE SET hi = excluded.hi WHERE r.hi <> excluded.hi
            """,
            [(row[0], *part) for part in ranges],
        )
        cursor.execute(
            """
            UPDATE zdm.data_migrations AS d SET total_blocks = r.blocks
            FROM (SELECT coalesce(sum(hi - lo), 0) AS blocks FROM zdm.data_migration_ranges WHERE backfill = %(id)s) AS r
            WHERE d.id = %(id)s AND d.total_blocks <> r.blocks
            """,
            {"id": row[0]},
        )
