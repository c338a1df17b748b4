"""What the benchmarks share: a server with ordinary settings, interleaved measurements, and how they are told."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.servers import Database, Server
from zdm.devdb import DevServer, find_binaries

ROWS = int(os.environ.get("ZDM_BENCH_ROWS", "1000000"))
ROUNDS = int(os.environ.get("ZDM_BENCH_ROUNDS", "5"))

#: Large enough that a measurement is not a measurement of checkpoints; everything else as PostgreSQL comes, and durable.
SETTINGS = {"max_wal_size": "8GB", "checkpoint_timeout": "30min", "shared_buffers": "512MB"}


def tell(text: str) -> None:
    """Show a result; `make bench` lets it through."""
    print(text)  # noqa: T201


@contextmanager
def bench_database(**settings: str) -> Iterator[Database]:
    """A database on the server named by ZDM_TEST_DSN, else on one of our own, started for this."""
    given = os.environ.get("ZDM_TEST_DSN")
    if given:
        database = Database(Server(given))
        try:
            yield database
        finally:
            database.drop()
        return
    with DevServer(find_binaries(None), settings={**SETTINGS, **settings}, durable=True) as dev:
        yield Database(Server(dev.dsn(), dev))


@dataclass(frozen=True)
class Times:
    """Seconds of each round, by what was measured."""

    rounds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, to: str) -> float:
        """How fast `name` is compared with `to`, by their medians."""
        return self.median(to) / self.median(name)

    def best_ratio(self, name: str, to: str) -> float:
        """The same by the best round of each: what is left when the machine had other things to do meanwhile."""
        return min(self.rounds[to]) / min(self.rounds[name])

    def table(self, to: str) -> str:
        """All of it, for people."""
        lines = [f"{'':32} {'median':>9} {'best':>9} {'worst':>9}   to {to}: by median, by best"]
        for name, found in self.rounds.items():
            lines.append(
                f"{name:32} {self.median(name):8.3f}s {min(found):8.3f}s {max(found):8.3f}s"
                f"   {self.ratio(name, to):.2f}  {self.best_ratio(name, to):.2f}"
            )
        return "\n".join(lines)


def interleaved(
    work: Mapping[str, Callable[[], object]],
    *,
    rounds: int = ROUNDS,
    before: Callable[[str], object] | None = None,
) -> Times:
    """Measure everything once a round, so that whatever else the machine does meets all alike; `before` is not measured."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            if before is not None:
                before(name)
            begun = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - begun)
    return Times(found)
