"""Writers of all isolation levels chase the backfill's edge; the same with a naive trigger leaves zombies."""

from __future__ import annotations

import random
import threading
from typing import Any

import psycopg
import pytest

from tests.integration.rows.stage import Rows
from tests.support.interleave import DEADLINE, Isolation
from tests.support.servers import Database
from tests.support.writers import Writers
from zdm.backfill.options import Hooks, Options, Progress, Wait
from zdm.backfill.run import backfill
from zdm.db.session import connect

ROWS = 20_000
LEVELS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


class Edge:
    """Where the backfill is, for writers that want to be there."""

    def __init__(self, rows: int = ROWS, *, blocks: int = 0) -> None:
        """One that has not moved.

        Parameters
        ----------
        blocks: of the table, where each chunk is one, and waits for its turn.
        """
        self._rows = rows
        self._blocks = blocks
        self._around = rows / blocks if blocks else 600.0
        self._lock = threading.Condition()
        self._at = 0.0
        self._chunks = 0
        self._waiting = 0

    def progress(self, at: Progress) -> None:
        with self._lock:
            self._at = at.fraction
            self._lock.notify_all()

    def turn(self, last: float) -> Wait:
        """Let no chunk begin before a writer waits for it, however slow the machine is."""
        del last
        with self._lock:
            self._lock.wait_for(lambda: self._waiting > 0, timeout=DEADLINE)
            self._chunks += 1
            self._waiting = 0
            self._lock.notify_all()
        return Wait(0.0)

    def moves(self) -> None:
        """Wait until the next chunk begins, while there are any."""
        with self._lock:
            chunks = self._chunks
            self._waiting += 1
            self._lock.notify_all()
            self._lock.wait_for(lambda: self._chunks != chunks or self._at >= 1, timeout=DEADLINE)

    def near(self, rng: random.Random) -> int:
        """An account around the edge of one of the two workers, which have a half each."""
        with self._lock:
            at = (self._at + rng.randrange(2)) / 2
        return max(1, min(self._rows, int(at * self._rows + rng.gauss(0, 600))))


@pytest.mark.parametrize(("naive", "options"), [(False, {}), (False, {"rows": "needed"}), (True, {})])
def test_chasing_the_edge(database: Database, naive: bool, options: dict[str, object]) -> None:
    rows = Rows(database, rows=ROWS, naive=naive, options=options)
    ((blocks,),) = database.execute(
        "SELECT pg_relation_size('accounts') / current_setting('block_size')::int"
    )
    edge = Edge(blocks=blocks)

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        """A snapshot first, so that what the backfill commits meanwhile is not in it; then a write at the edge."""
        connection.execute("SELECT 1 FROM public.accounts LIMIT 1")
        edge.moves()
        for _ in range(3):
            account = edge.near(rng)
            kind = rng.randrange(5)
            if kind == 0:
                connection.execute("DELETE FROM public.accounts WHERE id = %s", [account])
            elif kind == 1:
                connection.execute(
                    "INSERT INTO public.accounts VALUES (%s, 'again', 1, 2) ON CONFLICT (id) DO UPDATE SET statuses = 5",
                    [account],
                )
            elif kind == 2:
                connection.execute(
                    "UPDATE public.accounts SET id = -nextval('public.moved') WHERE id = %s", [account]
                )
            elif kind == 3:
                connection.execute(
                    "UPDATE public.accounts SET statuses = 0, followers = 0 WHERE id = %s", [account]
                )
            else:
                connection.execute(
                    "UPDATE public.accounts SET statuses = statuses + 1 WHERE id = %s", [account]
                )

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        account = edge.near(rng) - 2000
        if number % 5:
            connection.execute(
                "UPDATE public.account_stats SET followers = followers + 1 WHERE account_id = %s", [account]
            )
        else:
            connection.execute("DELETE FROM public.account_stats WHERE account_id = %s", [account])

    with Writers(database.dsn) as writers:
        for level in LEVELS:
            writers.add(f"old {level}", old, isolation=level)
            # A naive trigger mirrors in one direction only.
            writers.add(f"new {level}", old if naive else new, isolation=level)
        result = backfill(
            lambda: connect(database.dsn, application_name="backfill"),
            rows.rollout,
            rows.mapping,
            Options(workers=2, first_rows=1, most_rows=1),
            Hooks(progress=edge.progress, throttle=edge.turn),
        )
        assert result.complete
        writers.wait_for(5)
    writers.report.assert_only("40001", "40P01", *(["23505"] if naive else ["55000"]))
    zombies, missing, stale = rows.bad()
    if naive:
        assert zombies + missing + stale > 0
    else:
        assert (zombies, missing, stale) == (0, 0, 0)
