"""The verification against count(*) of the same table."""

from __future__ import annotations

import pytest

from tests.benchmarks.support import ROUNDS, ROWS, bench_database, interleaved, tell
from tests.support.mapped import Mapped
from zdm.backfill import backfill
from zdm.model.expression import ColumnRef
from zdm.verify import verify

pytestmark = pytest.mark.bench

#: The same mapping twice: one that only widens, and one whose values are expensive to derive and to compare.
MAPPINGS = {
    "integer to bigint": {
        "new_type": "bigint",
        "up": (ColumnRef(column="balance"), "::bigint"),
        "down": (ColumnRef(column="balance_new"), "::integer"),
    },
    "integer to numeric(18,2)": {},
}


@pytest.mark.parametrize("memory", ["512MB", "16MB"], ids=["in memory", "larger than shared_buffers"])
@pytest.mark.parametrize("mapping", list(MAPPINGS))
def test_verification_against_count(mapping: str, memory: str) -> None:
    """Each at the same parallelism. The bound is what was reached, not what was hoped for; see docs/benchmarks.md."""
    with bench_database(shared_buffers=memory) as database:
        table = Mapped(database, rows=ROWS, filler=84, **MAPPINGS[mapping])  # type: ignore[arg-type]
        backfill(table.connect, table.rollout, table.mapping)
        database.execute("VACUUM (FULL, ANALYZE) account")
        conn = table.connect()
        # Otherwise it is an index that is counted, which has a tenth of the pages.
        conn.execute("SET enable_indexonlyscan = off")

        def count(workers: int) -> None:
            conn.execute(f"SET max_parallel_workers_per_gather = {workers}".encode())
            assert conn.execute("SELECT count(*) FROM public.account").fetchone() == (ROWS,)

        def check(workers: int) -> None:
            found = verify(table.connect, table.mapping, parallel=workers)
            assert found.clean
            assert found.rows == ROWS

        work = {
            f"{name}, {workers} parallel workers": (lambda call=call, workers=workers: call(workers))
            for workers in (0, 1)
            for name, call in (("count(*)", count), ("verification", check))
        }
        times = interleaved(work)
        conn.close()
        tell(f"\n{mapping}, shared_buffers = {memory}, {ROWS} rows, {ROUNDS} rounds")
        tell(times.table("count(*), 0 parallel workers"))
        assert times.ratio("verification, 0 parallel workers", "count(*), 0 parallel workers") >= 0.15
