"""How rows are copied to another table without a lock on each: they are counted before, and once more before the commit.

A row that is deleted while its copy is on the way would leave the copy behind. To lock it would keep it, and would change each page
of the old table: twice the WAL, and a third of the time. Instead a chunk

1. counts the rows whose writers had ended when it began, by the oldest transaction that ran then (`Count.since`);
2. copies those, and locks the few that somebody has marked, against whatever takes them away: it cannot be told what the mark is for;
3. counts again, under an advisory lock that it keeps to its commit, and shares with other chunks. A row that went meanwhile, by a commit or by a statement that has only
   marked it yet, makes the numbers differ: no row that was not there can take its place, as its writer would not have ended.
   The chunk is then repeated with locks.

Who deletes a row after that finds no copy yet. The triggers pass through the same lock then, alone, so that the chunk commits, and look again
(`triggers/row_pass.sql`). Rows that were written lately are copied under their locks.

Where nobody seems to write, the first count is spared: what was copied is the number, and the last look must find nothing but rows that were settled
and that nobody has marked. If it finds more, the chunk is repeated from the count on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from zdm.backfill.table import ALIAS, within
from zdm.model.row_mapping import RowMapping
from zdm.sql import row_conditions
from zdm.sql.identifiers import all_of, column, comma, qualified_name
from zdm.sql.templates import dollar_quoted

MOVED = "ZDM03"
"""The SQLSTATE of a chunk whose rows are not what they were."""


FAR = 2**30
"""Transactions after which a row's writer is not compared with one of back then. A row keeps 32 bits of its writer's number, which comes round."""


class Count(NamedTuple):
    """The rows of some blocks at one moment.

    Parameters
    ----------
    since: all transactions before this one had ended.
    settled: rows whose writers are among those.
    held: those of them that somebody has locked or is about to delete, or had.
    young: all others.
    """

    since: str
    settled: int
    held: int
    young: int

    @property
    def quiet(self) -> bool:
        """Whether most of them are left alone, so that it pays."""
        return 2 * (self.held + self.young) <= self.settled


class Counting:
    """The statements of such a chunk.

    Parameters
    ----------
    insert: the part of ``INSERT INTO … SELECT …`` before FROM, over the source's row as `ALIAS`.
    wanted: a condition over that row: it must have a copy.
    """

    def __init__(
        self, mapping: RowMapping, rollout: int, insert: sql.Composable, wanted: sql.Composable
    ) -> None:
        self._wanted = wanted
        self._source = qualified_name(mapping.old.table)
        self._closing = row_conditions.closing(mapping, rollout)
        # Any update can take a row out of a filter; elsewhere only another key, or a deletion, takes it away.
        self._lock = sql.SQL("FOR SHARE" if mapping.selective else "FOR KEY SHARE")
        self._insert = insert

    @staticmethod
    def oldest(conn: psycopg.Connection[Any]) -> str:
        """The oldest transaction that runs."""
        (found,) = _row(conn.execute(sql.SQL("SELECT {}::text").format(_OLDEST)))
        return str(found)

    def count(self, conn: psycopg.Connection[Any], start: int, end: int) -> Count:
        """The rows of these blocks, and the oldest transaction that runs."""
        query = sql.SQL(
            "SELECT {oldest}::text, {numbers}, pg_catalog.count(*) FROM ONLY {source} AS {alias} WHERE {within}"
        ).format(
            oldest=_OLDEST,
            numbers=comma(_numbers(_before(sql.SQL("(SELECT {})").format(_OLDEST)))),
            source=self._source,
            alias=sql.Identifier(ALIAS),
            within=within(start, end, ALIAS),
        )
        since, settled, held, every = _row(conn.execute(query))
        return Count(since, settled, held, every - settled)

    def fill(self, start: int, end: int, since: str, absent: sql.Composable | None) -> sql.Composed:
        """Copy the rows that were settled then, those only that have no copy where `absent` says what such are."""
        conditions = [
            within(start, end, ALIAS),
            before(since),
            self._wanted,
            *([] if absent is None else [absent]),
        ]
        return sql.SQL("{} FROM ONLY {} AS {} WHERE {}").format(
            self._insert, self._source, sql.Identifier(ALIAS), all_of(conditions)
        )

    def hold(self, start: int, end: int, count: Count) -> sql.Composed:
        """Wait for those who are about to take settled rows away, and keep what is left of these: as many rows as it finds."""
        return sql.SQL("SELECT FROM ONLY {} AS {} WHERE {} AND {} AND {} {}").format(
            self._source,
            sql.Identifier(ALIAS),
            within(start, end, ALIAS),
            _HELD,
            before(count.since),
            self._lock,
        )

    def close(self, start: int, end: int, count: Count, kept: int) -> sql.Composed:
        """Commit, unless a row of those that were counted went.

        Parameters
        ----------
        kept: rows that carry our lock. As many that were marked when they were counted need not be those: VACUUM takes old marks away.
        """
        numbers = zip(_numbers(before(count.since)), (count.settled, kept), strict=True)
        return self._close(within(start, end, ALIAS), numbers)

    def close_quiet(self, start: int, end: int, since: str, rows: int) -> sql.Composed:
        """Commit, unless the rows that want a copy are others than the `rows` that got one, or somebody has marked one."""
        left_alone = sql.SQL("pg_catalog.count(*) FILTER (WHERE NOT {} AND {})").format(_HELD, before(since))
        return self._close(
            all_of([within(start, end, ALIAS), self._wanted]),
            [(sql.SQL("pg_catalog.count(*)"), rows), (left_alone, rows)],
        )

    def _close(self, rows: sql.Composable, numbers: Iterable[tuple[sql.Composable, int]]) -> sql.Composed:
        # In one message, since rows that are deleted wait for it. What is deferred may wait for others, so it comes first.
        return sql.SQL(
            "SET CONSTRAINTS ALL IMMEDIATE;\nSELECT pg_catalog.pg_advisory_xact_lock_shared({});\n{};\nCOMMIT"
        ).format(
            self._closing,
            dollar_quoted(
                "chunk_close",
                same=all_of(
                    [
                        sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(found, sql.Literal(number))
                        for found, number in numbers
                    ]
                ),
                source=self._source,
                alias=sql.Identifier(ALIAS),
                rows=rows,
                moved=sql.Literal(MOVED),
            ),
        )


_OLDEST = sql.SQL("pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())")

_HELD = sql.SQL("({} OPERATOR(pg_catalog.<>) '0'::pg_catalog.xid)").format(column("xmax", ALIAS))


def before(since: str) -> sql.Composable:
    """A condition: the row's writer had ended before that transaction began to be the oldest.

    A row that was frozen long ago may still show a number that has come round since, and so seem young: it is looked at, then, as a young one is.
    """
    return _before(sql.Literal(since))


def tells(since: str, now: str) -> bool:
    """Whether a row's writer still tells if it had ended when that transaction was the oldest: `now` is the newest one.

    A pass that is paused for days may be further back; a database that was restored from a dump counts anew.
    """
    return 0 <= int(now) - int(since) < FAR


def _before(since: sql.Composable) -> sql.Composable:
    return sql.SQL(
        # As a query of its own it is asked once, not for each row.
        "(pg_catalog.age({}) OPERATOR(pg_catalog.>) (SELECT pg_catalog.age({}::pg_catalog.xid8::pg_catalog.xid)))"
    ).format(column("xmin", ALIAS), since)


def _numbers(settled: sql.Composable) -> list[sql.Composable]:
    """How many rows are settled, and how many of these are held."""
    return [
        sql.SQL("pg_catalog.count(*) FILTER (WHERE {})").format(settled),
        sql.SQL("pg_catalog.count(*) FILTER (WHERE {} AND {})").format(_HELD, settled),
    ]


def _row(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None
    return tuple(row)
