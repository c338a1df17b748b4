"""One statement over one snapshot of every row; what it finds is then counted by kind and named, in the same snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from zdm.db.partitions import holding
from zdm.db.session import fetch_value, transaction
from zdm.errors import ZdmError
from zdm.model.mapping import TableMapping
from zdm.sql.rows import Kind
from zdm.verify.logged import Key, TableLog
from zdm.verify.statements import Statements, all_rows, between, of_a_row

SAMPLES = 10
MOST_RAISING = 1000
"""Rows whose expressions raise that are sought out one by one; a table with more is wrong in another way than by its rows."""

LAST_OFFSET = 2048
"""Above every line pointer that a page of 32 KB can hold."""


@dataclass(frozen=True, slots=True)
class ExtraCheck:
    """A promise of the new version that is not about one row's two sides: duplicates, orphans, violated checks.

    Parameters
    ----------
    count: a query of one number, zero if the promise holds.
    samples: a query of some offending keys, one text each; None if there is no way to name them.
    """

    name: str
    count: sql.Composable
    samples: sql.Composable | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What the verification of one table found.

    Parameters
    ----------
    started_at: the server's time, not later than the snapshot.
    snapshot: of the comparison; a row written later was not seen.
    lsn: a WAL position not later than the snapshot.
    counts: rows by kind, only kinds that occurred. A row can be of several kinds if the table has several groups.
    samples: keys of up to ten rows by kind.
    extra / extra_samples: violations by the name of the `ExtraCheck`, only those that occurred.
    raised: what the server said about the first row whose expression raised.
    without_old_form: rows of the new version that are recorded as having no old form; nothing is wrong with them.
    """

    started_at: datetime
    snapshot: str
    lsn: str | None
    rows: int
    counts: Mapping[Kind, int] = field(default_factory=dict)
    samples: Mapping[Kind, Sequence[str]] = field(default_factory=dict)
    extra: Mapping[str, int] = field(default_factory=dict)
    extra_samples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    raised: str = ""
    without_old_form: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.counts.values()) and not any(self.extra.values())


def verify(
    connect: Callable[[], psycopg.Connection[Any]],
    mapping: TableMapping,
    *,
    checks: Sequence[ExtraCheck] = (),
    parallel: int | None = None,
    log: TableLog | None = None,
) -> Found:
    """Compare both sides of every row. Reads only, takes no lock that anybody would notice.

    Parameters
    ----------
    checks: further promises, counted in the same snapshot.
    log: where some of it is synced by log: rows of which something waits in the snapshot are looked at again once that is carried over.
    parallel: the most parallel workers of the scan; None leaves the server's setting.

    Raises
    ------
    ZdmError: the table could not be read to its end. An expression that raises for a row is a finding, not an error.
    """
    conn = connect()
    try:
        settings = {} if parallel is None else {"max_parallel_workers_per_gather": str(parallel)}
        # Half of the cost of compiled expressions is paid before the first row; the scan is bound by memory, not by them.
        settings["jit"] = "off"
        # Read before the snapshot is taken, so it is never later than that.
        lsn = fetch_value(
            conn,
            "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() "
            "ELSE pg_catalog.pg_current_wal_insert_lsn() END::text",
        )
        with transaction(conn, isolation="repeatable read", read_only=True, settings=settings):
            found = _Look(conn, mapping, log).all(checks, lsn)
            waiting = [] if log is None else log.waiting(conn, mapping)
        return found if log is None else _looked_at_again(conn, mapping, log, waiting, found)
    except psycopg.Error as error:
        raise ZdmError(
            f"{mapping.table} could not be verified: {str(error).strip()}",
            remedy="Nothing was changed; run again.",
        ) from error
    finally:
        conn.close()


def _looked_at_again(
    conn: psycopg.Connection[Any],
    mapping: TableMapping,
    log: TableLog,
    waiting: Sequence[Key],
    found: Found,
) -> Found:
    """With what is still wrong with rows of which something waited."""
    counts, samples = dict(found.counts), {kind: list(keys) for kind, keys in found.samples.items()}
    if waiting:
        log.carry_over()
    for key in waiting:
        for kind in log.wrong(conn, mapping, key):
            counts[kind] = counts.get(kind, 0) + 1
            names = samples.setdefault(kind, [])
            if len(names) < SAMPLES:
                names.append(Statements(mapping).named(list(key[1])))
    return replace(found, counts=counts, samples=samples)


class _Look:
    """One look at one table, inside one snapshot."""

    def __init__(
        self, conn: psycopg.Connection[Any], mapping: TableMapping, log: TableLog | None = None
    ) -> None:
        self._conn = conn
        self._mapping = mapping
        self._waits = None if log is None else log.waits
        self._statements = Statements(mapping, waits=self._waits)
        self._rows = 0
        self._counts: dict[Kind, int] = {}
        self._samples: dict[Kind, list[str]] = {}
        self._raising = 0
        self._raised = ""

    def all(self, checks: Sequence[ExtraCheck], lsn: str | None) -> Found:
        started, snapshot = self._conn.execute(
            "SELECT pg_catalog.now(), pg_catalog.pg_current_snapshot()::text"
        ).fetchone() or (None, None)
        if self._mapping.needs_sync:
            self._compare()
        else:
            self._rows = int(fetch_value(self._conn, self._count_all()))
        extra, extra_samples = self._extra(checks)
        assert isinstance(started, datetime)
        return Found(
            started_at=started,
            snapshot=str(snapshot),
            lsn=lsn,
            rows=self._rows,
            counts=self._counts,
            samples=self._samples,
            extra=extra,
            extra_samples=extra_samples,
            raised=self._raised,
        )

    def _count_all(self) -> sql.Composed:
        return sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(all_rows(self._mapping))

    def _compare(self) -> None:
        try:
            with self._savepoint():
                self._region(None)
        except psycopg.Error as error:
            if not of_a_row(error) or not self._runs():
                raise
            # The partitions are those of now, the rows those of the snapshot. Cleanup looks itself at partitions that came
            # after the snapshot.
            for leaf in holding(self._conn, self._mapping):
                blocks = int(
                    fetch_value(
                        self._conn,
                        "SELECT pg_catalog.pg_relation_size(%s::oid) / pg_catalog.current_setting('block_size')::bigint",
                        [leaf.oid],
                    )
                )
                self._statements = Statements(self._mapping, leaf.name, self._waits)
                self._seek((0, 0), (max(1, blocks), 0))

    def _runs(self) -> bool:
        """Whether the comparison can be run at all: what fails without a row, such as a column that is gone, no row is to blame for."""
        try:
            with self._savepoint():
                self._conn.execute(self._statements.count(sql.SQL("false")))
        except psycopg.Error as error:
            if not of_a_row(error):
                raise
            return False
        return True

    def _region(self, within: sql.Composable | None) -> None:
        row = self._conn.execute(self._statements.count(within)).fetchone()
        assert row is not None
        rows, bad = row
        counts: dict[Kind, int] = {}
        samples: dict[Kind, list[str]] = {}
        if bad:
            details = self._conn.execute(self._statements.details(within)).fetchone()
            assert details is not None
            for mismatch, count in zip(self._statements.kinds, details, strict=True):
                if not count:
                    continue
                counts[mismatch.kind] = counts.get(mismatch.kind, 0) + count
                room = (
                    SAMPLES - len(samples.get(mismatch.kind, ())) - len(self._samples.get(mismatch.kind, ()))
                )
                if room > 0:
                    found = self._conn.execute(self._statements.samples(mismatch, room, within)).fetchall()
                    samples.setdefault(mismatch.kind, []).extend(self._statements.named(r[0]) for r in found)
        # Only now: had any of this raised, the region is gone over again in pieces.
        self._rows += rows
        for kind, count in counts.items():
            self._counts[kind] = self._counts.get(kind, 0) + count
        for kind, names in samples.items():
            self._samples.setdefault(kind, []).extend(names)

    def _seek(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Go over a region in which an expression raised, in halves, down to the rows."""
        if start >= end:
            return
        try:
            with self._savepoint():
                self._region(between(start, end))
        except psycopg.Error as error:
            if not of_a_row(error):
                raise
            middle = _middle(start, end)
            if middle is None:
                self._blame(start, end, error)
                return
            self._seek(start, middle)
            self._seek(middle, end)

    def _blame(self, start: tuple[int, int], end: tuple[int, int], error: psycopg.Error) -> None:
        self._raising += 1
        self._rows += 1
        self._raised = self._raised or f"{error.sqlstate}: {error.diag.message_primary or str(error).strip()}"
        if self._raising > MOST_RAISING:
            raise error
        self._counts[Kind.FAILED] = self._counts.get(Kind.FAILED, 0) + 1
        names = self._samples.setdefault(Kind.FAILED, [])
        if len(names) < SAMPLES:
            found = self._conn.execute(
                self._statements.keys(sql.SQL("true"), 1, between(start, end))
            ).fetchall()
            names.extend(self._statements.named(r[0]) for r in found)

    def _extra(self, checks: Sequence[ExtraCheck]) -> tuple[dict[str, int], dict[str, list[str]]]:
        counts: dict[str, int] = {}
        samples: dict[str, list[str]] = {}
        for check in checks:
            try:
                with self._savepoint():
                    row = self._conn.execute(sql.Composed([check.count])).fetchone()
            except psycopg.Error as error:
                if not of_a_row(error):
                    raise
                # Adding the constraint would raise just so.
                counts[check.name] = 1
                samples[check.name] = [f"it raises on some row, SQLSTATE {error.sqlstate}"]
                continue
            if row is None or row[0] is None:
                raise ZdmError(f"the check {check.name!r} gave no number")
            if not row[0]:
                continue
            counts[check.name] = int(row[0])
            if check.samples is not None:
                found = self._conn.execute(sql.Composed([check.samples])).fetchmany(SAMPLES)
                samples[check.name] = [str(r[0]) for r in found]
        return counts, samples

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        with self._conn.transaction():
            yield


def _middle(start: tuple[int, int], end: tuple[int, int]) -> tuple[int, int] | None:
    """Halfway between two positions: by blocks, within the last block by rows; None if there is only one row."""
    (block, offset), (last, before) = start, end
    if before == 0:
        last, before = last - 1, LAST_OFFSET
    if last > block:
        middle = (block + last + 1) // 2
        return (middle, 0)
    if before - offset > 1:
        return (block, (offset + before) // 2)
    return None
