"""Comparing rows of two tables: FULL JOINs on one exported snapshot, missing, extra and different rows by name.

Where rows that follow each other by key lie together in both tables, range by range, each a merge of two index scans. Else
the rows of a range are all over the tables, and one join of both in whole reads each block once.

Nothing of the backfill's is read: what must be there follows from the mapping and the rows of both sides alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Any

import psycopg
from psycopg import sql

from zdm.db.partitions import leaves
from zdm.db.session import WORK_MEM, fetch_value, transaction
from zdm.errors import ZdmError
from zdm.model.row_mapping import Presence, RowMapping, RowSide, SideKind
from zdm.sql import records, row_conditions, row_log, row_objects
from zdm.sql.identifiers import all_of, any_of, column, comma, qualified_name, trusted
from zdm.sql.rows import Kind, render
from zdm.verify.run import SAMPLES, Found
from zdm.verify.settled import settled

ROWS = 100_000
"""Rows of a range."""

_BLOCKS = 30
"""Blocks of each range that are looked at to find where it begins."""

_PROBE = 1000
"""Rows in the order of the key that are looked at to find whether they lie together."""

_SCATTER = 4
"""How many times the blocks that such rows need at least they may lie in."""

AGAIN = 5
"""How often a pair of which something waits is looked at again."""

ROWS_AGAIN = 1000
"""Of such pairs, how many in one statement."""

_OLD, _NEW = "zdm_o", "zdm_n"
_KINDS = (Kind.MISSING, Kind.EXTRA, Kind.DIFFERENT)
_RECORDED = len(_KINDS)
"""What is extra or different because the row is recorded as having no old form."""

_IDLE = timedelta(hours=24)
"""The session that exports the snapshot waits for those that use it."""

Bound = tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class _Part:
    rows: int
    counts: tuple[int, ...]
    samples: dict[Kind, list[str]]
    recorded: int = 0
    waiting: tuple[tuple[str, ...], ...] = ()
    """Keys of pairs that do not agree, and of which something waits to be carried over."""


def verify_rows(
    connect: Callable[[], psycopg.Connection[Any]],
    mapping: RowMapping,
    rollout: int,
    *,
    workers: int = 2,
    rows: int = ROWS,
    carry_over: Callable[[], None] = lambda: None,
) -> Found:
    """Compare every row of both sides, in one snapshot. Reads only.

    Where the mapping is synced by log, a pair of which something waits in that snapshot is looked at again once that was carried
    over; a pair that never is found without, and does not agree, counts as wrong.

    Parameters
    ----------
    workers: sessions that work on ranges at a time.
    rows: of the old side in one range.
    carry_over: brings to agree what waits at the moment.

    Raises
    ------
    ZdmError: a table could not be read to its end.
    """
    try:
        with connect() as conn:
            lsn = position(conn)
            with transaction(conn, isolation="repeatable read", read_only=True, idle_timeout=_IDLE):
                row = conn.execute(
                    "SELECT pg_catalog.now(), pg_catalog.pg_current_snapshot()::text, pg_catalog.pg_export_snapshot()"
                ).fetchone()
                assert row is not None
                started, snapshot, exported = row
                assert isinstance(started, datetime)
                statements = _Statements(conn, mapping, rollout)
                plan = _plan(conn, statements, rows, max(1, workers))
                parts = _parts(connect, statements, exported, plan)
                failed = statements.failures
            if mapping.logged:
                parts.append(
                    _looked_at_again(
                        conn, statements, [k for part in parts for k in part.waiting], carry_over
                    )
                )
    except psycopg.Error as error:
        raise ZdmError(
            f"{mapping.id} could not be verified: {str(error).strip()}",
            remedy="Nothing was changed; run again.",
        ) from error
    counts = {kind: sum(part.counts[i] for part in parts) for i, kind in enumerate(_KINDS)}
    samples = {
        kind: [key for part in parts for key in part.samples.get(kind, ())][:SAMPLES] for kind in _KINDS
    }
    if failed:
        counts[Kind.FAILED], samples[Kind.FAILED] = failed
    return Found(
        started_at=started,
        snapshot=str(snapshot),
        lsn=lsn,
        rows=sum(part.rows for part in parts),
        counts={kind: count for kind, count in counts.items() if count},
        samples={kind: keys for kind, keys in samples.items() if keys},
        without_old_form=sum(part.recorded for part in parts),
    )


def position(conn: psycopg.Connection[Any]) -> str | None:
    """Where the server is in its WAL."""
    found: str | None = fetch_value(
        conn,
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() "
        "ELSE pg_catalog.pg_current_wal_insert_lsn() END::text",
    )
    return found


def _looked_at_again(
    conn: psycopg.Connection[Any],
    statements: _Statements,
    keys: list[tuple[str, ...]],
    carry_over: Callable[[], None],
) -> _Part:
    """Pairs of which something was waiting, compared anew until each is found without, or time is up."""
    counts, samples = [0] * len(_KINDS), dict[Kind, list[str]]()

    def add(part: _Part) -> None:
        counts[:] = [a + b for a, b in zip(counts, part.counts, strict=True)]
        for kind, found in part.samples.items():
            samples.setdefault(kind, []).extend(found)

    for _ in range(AGAIN):
        if not keys:
            break
        carry_over()
        batch, keys = keys, []
        for at in range(0, len(batch), ROWS_AGAIN):
            with transaction(conn, isolation="repeatable read", read_only=True):
                part = statements.compare_keys(conn, batch[at : at + ROWS_AGAIN], last=False)
            add(part)
            keys += part.waiting
    # Those that are left are written without pause.
    for key in keys:
        add(statements.settled(conn, key))
    return _Part(0, tuple(counts), samples)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where ranges begin, how many sessions share them, and the settings of these."""

    bounds: Sequence[Bound]
    workers: int
    settings: dict[str, str]


def _plan(conn: psycopg.Connection[Any], statements: _Statements, rows: int, workers: int) -> _Plan:
    settings = {"jit": "off", "work_mem": WORK_MEM}
    if not statements.lies_together(conn):
        return _Plan([None], 1, {**settings, "max_parallel_workers_per_gather": str(workers)})
    bounds = statements.bounds(conn, rows)
    # The server believes that rows of these indexes are scattered, and would sort, or build a hash table of, each range.
    kept_from = ("enable_hashjoin", "enable_sort", "enable_seqscan", "enable_bitmapscan")
    settings |= {**dict.fromkeys(kept_from, "off"), "max_parallel_workers_per_gather": "0"}
    return _Plan(bounds, min(workers, len(bounds)), settings)


def _parts(
    connect: Callable[[], psycopg.Connection[Any]], statements: _Statements, exported: str, plan: _Plan
) -> list[_Part]:
    ranges = list(zip(plan.bounds, [*plan.bounds[1:], None], strict=True))
    # Shared out one by one: those that a sample gave are of different sizes.
    left, lock = iter(ranges), Lock()

    def work(_: int) -> list[_Part]:
        with (
            connect() as conn,
            transaction(conn, isolation="repeatable read", read_only=True, settings=plan.settings),
        ):
            conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(exported)))
            found: list[_Part] = []
            while True:
                with lock:
                    part = next(left, None)
                if part is None:
                    return found
                found.append(statements.compare(conn, *part))

    with ThreadPoolExecutor(plan.workers, thread_name_prefix="verify") as pool:
        return [part for found in pool.map(work, range(plan.workers)) for part in found]


def failures(
    conn: psycopg.Connection[Any], mapping: RowMapping, rollout: int
) -> tuple[int, list[str]] | None:
    """How many rows of the old side failed, and some of their keys; None if none did."""
    row = conn.execute(
        "SELECT pg_catalog.count(*), (pg_catalog.array_agg(key::text ORDER BY at))[1:%s] FROM zdm.sync_failures"
        " WHERE rollout = %s AND table_oid = %s AND group_name = %s",
        [SAMPLES, rollout, mapping.source.oid, str(mapping.id)],
    ).fetchone()
    return (row[0], list(row[1])) if row is not None and row[0] else None


class _Statements:
    def __init__(self, conn: psycopg.Connection[Any], mapping: RowMapping, rollout: int) -> None:
        self._mapping, self._rollout = mapping, rollout
        self.failures = failures(conn, mapping, rollout)
        # A column of the key is never NULL. A constant of our own would make the server copy each row to add it.
        gone, absent = (
            sql.SQL("{} IS NULL").format(column(side.key[0], alias))
            for side, alias in ((mapping.old, _OLD), (mapping.new, _NEW))
        )
        may: sql.Composable = sql.SQL("true")
        if mapping.where is not None:
            may = sql.SQL("({} IS TRUE)").format(render(mapping.where, _OLD))
        must = may
        if mapping.foremost:
            # A row of nobody's may have the key of one of ours.
            may = row_conditions.theirs(mapping.new, _NEW)
        if mapping.old.kind is SideKind.COLUMNS and mapping.presence is Presence.NEEDED:
            must = all_of([may, row_conditions.holds(mapping.old, _OLD)])
        # A row that the mapping does not make may be there by itself, as long as it holds nothing.
        lone = row_conditions.holds(mapping.new, _NEW) if mapping.joins else sql.SQL("true")
        # One expression for all kinds: to ask for each in turn takes as long as joining. Nearly all rows are copies of each other, as a rule.
        copies = row_conditions.copies(mapping, _OLD, _NEW)
        self._everything: sql.Composable = sql.SQL(
            "CASE {copies}WHEN {absent} THEN CASE WHEN {must} THEN {missing} END WHEN {gone} THEN CASE WHEN {lone} THEN {extra} END"
            " WHEN NOT {may} THEN {extra} WHEN {disagree} THEN {different} END"
        ).format(
            copies=sql.SQL("") if copies is None else sql.SQL("WHEN {} THEN NULL ").format(copies),
            absent=absent,
            must=any_of([must, *row_conditions.refers(mapping.old, _OLD)]),
            gone=gone,
            lone=lone,
            may=may,
            disagree=row_conditions.disagree(
                mapping,
                _OLD,
                _NEW,
                known=records.known(mapping, rollout, _OLD, _NEW) if mapping.records else None,
            ),
            missing=sql.Literal(_KINDS.index(Kind.MISSING)),
            extra=sql.Literal(_KINDS.index(Kind.EXTRA)),
            different=sql.Literal(_KINDS.index(Kind.DIFFERENT)),
        )
        if self.failures:
            # What is recorded counts as failed; and its expression would raise here as well.
            self._everything = sql.SQL(
                "CASE WHEN NOT EXISTS (SELECT FROM zdm.sync_failures AS zdm_f WHERE zdm_f.rollout = {} AND"
                " zdm_f.table_oid = {}::pg_catalog.oid AND zdm_f.key = {} AND zdm_f.group_name = {}) THEN {} END"
            ).format(
                sql.Literal(rollout),
                sql.Literal(mapping.old.oid),
                row_objects.failure_key(mapping.old, _OLD),
                sql.Literal(str(mapping.id)),
                self._everything,
            )
        self._kind = self._everything
        if mapping.records:
            self._kind = sql.SQL(
                "CASE WHEN ({}) IS NOT NULL THEN CASE WHEN {} THEN {} ELSE {} END END"
            ).format(
                self._everything,
                records.known(mapping, rollout, _OLD, _NEW),
                sql.Literal(_RECORDED),
                self._everything,
            )
        self._waiting: sql.Composable | None = None
        if mapping.logged:
            # By either side's key: only one of the two rows may be there.
            self._waiting = any_of(
                row_log.noted(mapping, rollout, side, alias, failed=False)
                for side, alias in ((mapping.old, _OLD), (mapping.new, _NEW))
            )
            self._kind = sql.SQL("CASE WHEN ({}) IS NOT NULL THEN CASE WHEN NOT {} THEN {} END END").format(
                self._everything, self._waiting, self._everything
            )

    def lies_together(self, conn: psycopg.Connection[Any]) -> bool:
        """Whether rows that follow each other by key are in few blocks, in both tables.

        Looked at are rows from the middle of a sample. The statistics do not tell: what two workers have filled at a time is in
        order nearly everywhere, and yet hardly correlated with the key.
        """
        return all(self._together(conn, side) for side in (self._mapping.old, self._mapping.new))

    def _together(self, conn: psycopg.Connection[Any], side: RowSide) -> bool:
        # A table that the migration makes had no number when it was planned.
        table = qualified_name(side.table).as_string(None)
        oid = fetch_value(conn, "SELECT pg_catalog.to_regclass(%s)::oid::int8", [table])
        row = conn.execute(
            "SELECT pg_catalog.sum(c.reltuples)::float8, pg_catalog.sum(c.relpages)::float8, pg_catalog.min(c.reltuples)"
            " FROM pg_catalog.pg_class AS c WHERE c.oid = ANY (%s)",
            [[leaf.oid for leaf in leaves(conn, oid)]],
        ).fetchone()
        if row is None or row[0] is None or row[2] < 0 or row[0] <= _PROBE * 2 or not row[1]:
            return True  # it is small, or nobody knows
        known, pages, _ = row
        key = comma(column(name) for name in side.key)
        blocks, found = conn.execute(
            sql.SQL(
                "SELECT pg_catalog.count(DISTINCT ROW(k.tableoid, (k.ctid::text::pg_catalog.point)[0])), pg_catalog.count(*) FROM ("
                "SELECT tableoid, ctid FROM {table} WHERE ({key}) >= (SELECT {key} FROM (SELECT {key} FROM {table} TABLESAMPLE SYSTEM ({share})"
                " REPEATABLE (0) LIMIT {probe}) AS s ORDER BY {key} OFFSET {middle} LIMIT 1) ORDER BY {key} LIMIT {probe}) AS k"
            ).format(
                table=qualified_name(side.table),
                key=key,
                share=sql.Literal(min(100.0, 3 * _PROBE / known * 100)),
                probe=sql.Literal(_PROBE),
                middle=sql.Literal(_PROBE // 4),
            )
        ).fetchone() or (0, 0)
        # A range that ends early, or a sample that found nothing, tells nothing.
        return bool(blocks <= _SCATTER * (found * pages / known + 2))

    def bounds(self, conn: psycopg.Connection[Any], rows: int) -> list[Bound]:
        """Where the ranges begin, the first one at the beginning of all.

        Any keys will do; a sample of the table's blocks gives ranges of about the size that is asked for, without a look at
        every row. A table of which the server does not know how large it is is counted.
        """
        side = self._mapping.old
        row = conn.execute(
            "SELECT c.reltuples, c.relpages FROM pg_catalog.pg_class AS c WHERE c.oid = %s", [side.oid]
        ).fetchone()
        known, pages = row if row is not None else (-1.0, 0)
        sampled = known > rows * 4 and pages > 0
        share = min(1.0, known / rows * _BLOCKS / pages) if sampled else 1.0
        key = comma(column(name) for name in side.key)
        found = conn.execute(
            sql.SQL(
                "SELECT ARRAY[{texts}] FROM (SELECT {key}, pg_catalog.row_number() OVER (ORDER BY {key}) AS zdm_row FROM {table}{sample}) AS k"
                " WHERE zdm_row % {rows} = 0 ORDER BY {key}"
            ).format(
                texts=comma(sql.SQL("{}::text").format(column(name)) for name in side.key),
                key=key,
                table=qualified_name(side.table),
                sample=sql.SQL(" TABLESAMPLE SYSTEM ({}) REPEATABLE (0)").format(sql.Literal(share * 100))
                if sampled
                else sql.SQL(""),
                rows=sql.Literal(max(1, int(rows * share))),
            )
        ).fetchall()
        return [None, *(tuple(row[0]) for row in found)]

    def compare(self, conn: psycopg.Connection[Any], start: Bound, end: Bound) -> _Part:
        """One range: how many rows, how many of each kind, some of them by name."""
        join = self._join(start, end)
        row = conn.execute(
            sql.SQL("SELECT pg_catalog.count(*), pg_catalog.count({}) FROM {}").format(self._everything, join)
        ).fetchone()
        assert row is not None
        rows, wrong = row
        if not wrong:
            return _Part(rows, (0,) * len(_KINDS), {})
        counts, samples, recorded = self._named(conn, join, self._kind)
        return _Part(rows, counts, samples, recorded, self._keys_waiting(conn, join))

    def _named(
        self, conn: psycopg.Connection[Any], join: sql.Composable, kind: sql.Composable
    ) -> tuple[tuple[int, ...], dict[Kind, list[str]], int]:
        """How many rows of each kind there are in a join, some of them by name, and how many are recorded."""
        found = dict(
            conn.execute(
                sql.SQL("SELECT {} AS zdm_kind, pg_catalog.count(*) FROM {} GROUP BY 1").format(kind, join)
            ).fetchall()
        )
        counts = tuple(found.get(number, 0) for number in range(len(_KINDS)))
        samples = {
            _KINDS[number]: self._samples(conn, join, sql.SQL("({}) = {}").format(kind, sql.Literal(number)))
            for number, count in enumerate(counts)
            if count
        }
        return counts, samples, found.get(_RECORDED, 0)

    def _keys_waiting(
        self, conn: psycopg.Connection[Any], join: sql.Composable
    ) -> tuple[tuple[str, ...], ...]:
        if self._waiting is None:
            return ()
        found = conn.execute(
            sql.SQL(
                "SELECT COALESCE({}, {}) FROM {} WHERE CASE WHEN ({}) IS NOT NULL THEN {} ELSE false END"
            ).format(
                sql.SQL("CASE WHEN {} IS NOT NULL THEN {} END").format(
                    column(self._mapping.new.key[0], _NEW), row_objects.key_text(self._mapping.new, _NEW)
                ),
                row_objects.key_text(self._mapping.old, _OLD),
                join,
                self._everything,
                self._waiting,
            )
        ).fetchall()
        return tuple(tuple(key) for (key,) in found)

    def compare_keys(
        self, conn: psycopg.Connection[Any], keys: Sequence[tuple[str, ...]], *, last: bool
    ) -> _Part:
        """Single pairs; at last those count as well of which something still waits."""
        join = sql.SQL("{} FULL JOIN {} ON {}").format(
            self._of_keys(self._mapping.old, _OLD, keys),
            self._of_keys(self._mapping.new, _NEW, keys),
            row_conditions.joined(self._mapping, _OLD, _NEW),
        )
        counts, samples, _ = self._named(conn, join, self._everything if last else self._kind)
        return _Part(0, counts, samples, waiting=() if last else self._keys_waiting(conn, join))

    def settled(self, conn: psycopg.Connection[Any], key: tuple[str, ...]) -> _Part:
        """A pair of which something always waits."""
        different = tuple(int(kind is Kind.DIFFERENT) for kind in _KINDS)
        names = zip(self._mapping.old.key, key, strict=True)
        unknown: _Part | None = _Part(
            0, different, {Kind.DIFFERENT: [", ".join(f"{n}={v}" for n, v in names)]}
        )

        def wrong() -> _Part | None:
            part = self.compare_keys(conn, [key], last=True)
            return part if any(part.counts) else None

        found = settled(conn, self._mapping, self._rollout, key, wrong, unknown=unknown)
        return found or _Part(0, (0,) * len(_KINDS), {})

    def _of_keys(self, side: RowSide, alias: str, keys: Sequence[tuple[str, ...]]) -> sql.Composable:
        columns = [[key[number] for key in keys] for number in range(len(side.shared))]
        values = comma(
            sql.SQL("CAST(zdm_k.{} AS {})").format(sql.Identifier(f"k{number}"), trusted(type_))
            for number, (_, type_) in enumerate(side.shared)
        )
        mine: sql.Composable = sql.SQL("true")
        if side is self._mapping.new and self._mapping.unites:
            mine = row_conditions.answered(self._mapping, "")
        return sql.SQL(
            "(SELECT * FROM {} WHERE {} AND ({}) IN (SELECT {} FROM ROWS FROM ({}) AS zdm_k ({}))) AS {}"
        ).format(
            qualified_name(side.table),
            mine,
            comma(column(name) for name, _ in side.shared),
            values,
            comma(sql.SQL("pg_catalog.unnest({}::text[])").format(sql.Literal(c)) for c in columns),
            comma(sql.Identifier(f"k{number}") for number in range(len(columns))),
            sql.Identifier(alias),
        )

    def _samples(
        self, conn: psycopg.Connection[Any], join: sql.Composable, condition: sql.Composable
    ) -> list[str]:
        names = self._mapping.new.key
        keys = comma(
            sql.SQL("COALESCE({}::text, {}::text)").format(column(new, _NEW), render(value, _OLD))
            for new, value in zip(names, self._mapping.new.key_values, strict=True)
        )
        found = conn.execute(
            sql.SQL("SELECT ARRAY[{}] FROM {} WHERE {} LIMIT {}").format(
                keys, join, condition, sql.Literal(SAMPLES)
            )
        ).fetchall()
        return [
            ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
            for (values,) in found
        ]

    def _join(self, start: Bound, end: Bound) -> sql.Composable:
        return sql.SQL("{} FULL JOIN {} ON {}").format(
            self._side(self._mapping.old, _OLD, start, end),
            self._side(self._mapping.new, _NEW, start, end),
            row_conditions.paired(self._mapping, _OLD, _NEW),
        )

    def _side(self, side: RowSide, alias: str, start: Bound, end: Bound) -> sql.Composable:
        conditions = [self._bound(side, ">=", start), self._bound(side, "<", end)]
        if side is self._mapping.new and self._mapping.unites:
            conditions.append(row_conditions.answered(self._mapping, ""))
        return sql.SQL("(SELECT * FROM {} WHERE {}) AS {}").format(
            qualified_name(side.table), all_of(c for c in conditions if c is not None), sql.Identifier(alias)
        )

    def _bound(self, side: RowSide, operator: str, bound: Bound) -> sql.Composable | None:
        if bound is None:
            return None
        values = comma(
            sql.SQL("CAST({} AS {})").format(sql.Literal(value), trusted(type_))
            for value, type_ in zip(bound, self._mapping.old.key_types, strict=True)
        )
        # What a side has in its key besides is the same in all rows that are compared.
        key = comma(
            column(name) for name, value in zip(side.key, side.key_values, strict=True) if value.columns
        )
        return sql.SQL("(({}) {} ({}))").format(key, trusted(operator), values)
