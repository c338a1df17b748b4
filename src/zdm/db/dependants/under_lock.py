"""How long the swap would hold its lock for what can only be built there, tried at plan time on a copy of the rows.

The copy is a temporary table in a transaction that is rolled back, so nobody waits for it, whatever it takes. It is not
logged, and the machine may be busier on the day of the swap: twice the time must fit. The swap itself is bounded by the
lock budget in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import psycopg
from psycopg import sql

from zdm.db.dependants.clones import CannotFollowError
from zdm.db.session import Connection, fetch_value, milliseconds
from zdm.model.names import QualifiedName

COPY: Final = sql.Identifier("pg_temp", "_zdm_rebuilt")

_MARGIN: Final = 2
_TRIES: Final = 3  # the shortest counts: what else the machine did meanwhile is not the table's
_COPYING: Final = (
    20  # times the budget: filling a copy that has indexes takes several times as long as building it anew
)
_BYTES_A_SECOND: Final = (
    2**30
)  # no server writes a table faster, so larger ones need not be copied to know it

_COLUMNS = """
SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
"""


class TooLongUnderLockError(CannotFollowError):
    """It does not fit into the lock budget; the text says what was found and what was needed."""


@dataclass(slots=True)
class Allowance:
    """What is left of the lock budget for each table's swap.

    Parameters
    ----------
    budget: the lock budget; None lets everything through untried.
    """

    budget: timedelta | None = None
    spent: dict[QualifiedName, timedelta] = field(default_factory=dict)

    def take(
        self,
        conn: Connection,
        table: QualifiedName,
        statements: Sequence[sql.Composable],
        *,
        indexes: bool = False,
    ) -> None:
        """Try `statements` on a copy called `COPY`, and take twice their time from the table's allowance.

        Runs in a transaction of the caller's that is rolled back.

        Parameters
        ----------
        indexes: the copy has the table's constraints and indexes, since the statements write it anew with them.

        Raises
        ------
        TooLongUnderLockError: it takes too long.
        """
        if self.budget is None:
            return
        name = sql.Identifier(table.schema_, table.name)
        size = fetch_value(conn, "SELECT pg_table_size(%s::regclass)", (name.as_string(None),))
        if size > self.budget.total_seconds() * _BYTES_A_SECOND:
            raise TooLongUnderLockError(f"the table has {size / 2**20:.0f} MiB, {self._limit()}")
        try:
            with conn.transaction(force_rollback=True):
                self._copy(conn, name, indexes=indexes)
                taken = min(self._tried(conn, statements) for _ in range(_TRIES))
        except psycopg.errors.QueryCanceled:
            raise TooLongUnderLockError(
                f"building it on the {size / 2**20:.1f} MiB that the table has takes longer, {self._limit()}"
            ) from None
        spent = self.spent.get(table, timedelta()) + _MARGIN * taken
        if spent > self.budget:
            raise TooLongUnderLockError(
                f"what the swap must build here would hold its lock for up to {_words(spent)}, {self._limit()}"
            )
        self.spent[table] = spent

    def _limit(self) -> str:
        assert self.budget is not None
        return f"and the lock budget is {_words(self.budget)}"

    def _copy(self, conn: Connection, table: sql.Identifier, *, indexes: bool) -> None:
        assert self.budget is not None
        _bound(conn, self.budget * _COPYING)
        like = sql.SQL(" INCLUDING ALL" if indexes else " INCLUDING GENERATED")
        conn.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}{}) ON COMMIT DROP").format(
                sql.Identifier("_zdm_rebuilt"), table, like
            )
        )
        columns = sql.SQL(", ").join(
            sql.Identifier(c) for c in fetch_value(conn, _COLUMNS, (table.as_string(None),))
        )
        conn.execute(
            sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(
                COPY, columns, columns, table
            )
        )

    def _tried(self, conn: Connection, statements: Sequence[sql.Composable]) -> timedelta:
        """How long the server takes for the statements; its own clock, so the way to it does not count."""
        assert self.budget is not None
        clock = sql.SQL("SELECT clock_timestamp()")
        with conn.transaction(force_rollback=True):
            _bound(conn, self.budget)
            cursor = conn.execute(sql.SQL("; ").join([clock, *statements, clock]))
            read: list[datetime] = []
            while True:
                if cursor.description:
                    read += [row[0] for row in cursor]
                if not cursor.nextset():
                    break
        first, last = read
        return last - first


def _words(duration: timedelta) -> str:
    return f"{duration.total_seconds() * 1000:.0f} ms"


def _bound(conn: Connection, limit: timedelta) -> None:
    conn.execute("SELECT set_config('statement_timeout', %s, true)", (milliseconds(limit),))
