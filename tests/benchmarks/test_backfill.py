"""The backfill against one giant UPDATE, and how long it makes others wait."""

from __future__ import annotations

import random
import threading

import pytest

from tests.benchmarks.support import ROUNDS, ROWS, bench_database, interleaved, tell
from tests.support.mapped import Mapped
from tests.support.servers import Connection, Database
from tests.support.writers import Writers
from zdm.backfill import Options, backfill

pytestmark = pytest.mark.bench


def prepared(database: Database, *, triggers: bool = True, rows: int = ROWS) -> Mapped:
    """A table like pgbench's accounts, ready to be filled, nothing of an earlier round left, all of it on disk."""
    database.execute("DROP TABLE IF EXISTS account")
    database.execute("DROP SCHEMA IF EXISTS zdm CASCADE")
    table = Mapped(database, rows=rows, filler=84, triggers=triggers)
    database.execute("CHECKPOINT")
    return table


def test_backfill_against_one_giant_update() -> None:
    with bench_database() as database:
        tables: list[Mapped] = []

        def before(name: str) -> None:
            tables[:] = [prepared(database, triggers=name != "one UPDATE, no triggers")]

        def giant() -> None:
            database.execute("UPDATE account SET balance_new = balance::numeric(18,2), _zdm_state = 1")

        def fill(workers: int) -> None:
            table = tables[0]
            assert (
                backfill(table.connect, table.rollout, table.mapping, Options(workers=workers)).rows == ROWS
            )

        times = interleaved(
            {
                "one UPDATE, no triggers": giant,
                "backfill, triggers, 1 worker": lambda: fill(1),
                "backfill, triggers, 2 workers": lambda: fill(2),
            },
            before=before,
        )
        tell(f"\n{ROWS} rows, {ROUNDS} rounds\n{times.table('one UPDATE, no triggers')}")
        assert times.ratio("backfill, triggers, 1 worker", "one UPDATE, no triggers") >= 0.8


def test_longest_stall_of_a_foreground_statement() -> None:
    """Single-row updates by three sessions meanwhile. What they wait without a backfill is measured as well."""
    with bench_database() as database:
        table = prepared(database)

        def write(conn: Connection, rng: random.Random, n: int) -> None:
            conn.execute("UPDATE account SET touched = touched + 1 WHERE id = %s", [rng.randint(1, ROWS)])
            conn.commit()
            idle.wait(0.002)  # an application, not a load test

        idle = threading.Event()

        def slowest(busy: bool) -> tuple[float, float, int]:
            with Writers(database.dsn, seed=busy) as writers:
                writers.add("application", write, threads=3)
                writers.wait_for(1)
                result = None
                if busy:
                    result = backfill(table.connect, table.rollout, table.mapping)
                else:
                    writers.wait_for(500)
                report = writers.stop()
            report.assert_only()
            if result is not None:
                tell(
                    f"{result.chunks} chunks, {result.split} given up, the longest {result.longest_chunk * 1000:.0f} ms"
                )
            return report.slowest(), report.percentile(99.9), report.count

        quiet, busy = slowest(False), slowest(True)
        for name, (worst, high, count) in (("without", quiet), ("with a backfill", busy)):
            tell(
                f"{name:16} longest {worst * 1000:6.1f} ms, 99.9 % {high * 1000:6.1f} ms, {count} statements"
            )
        assert busy[0] <= 0.120 + 0.002
