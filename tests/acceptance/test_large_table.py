"""Five million events are partitioned by month while both versions of the application write: there, back, and there for good."""

from __future__ import annotations

import os
import time

import pytest

from tests.acceptance.test_examples import rollout_of
from tests.conformance.harness import Rollout
from tests.support.servers import Database
from zdm.model.phases import State

ROWS = int(os.environ.get("ZDM_SOAK_ROWS", "5000000"))

#: Besides the rows of the example, which the writers choose from. They delete by kind.
EVENTS = f"""
CREATE INDEX events_kind ON events (kind);
INSERT INTO events (user_id, kind, payload, happened_at)
SELECT g % 20 + 1, 'seen', '{{}}', timestamptz '2023-12-01' + g * interval '210 days' / {ROWS} FROM generate_series(1, {ROWS}) AS g;
ANALYZE events
"""


def advanced(rollout: Rollout, state: State, *, restart: bool = False) -> None:
    """Advance with both versions at work, and tell how long it took and how long a statement of theirs took at most.

    The new version begins when its indexes are there: before, it would read five million rows to find one by its kind.
    """
    begun = time.monotonic()
    new = state in {State.SWITCHED_OVER, State.COMPLETED}
    with rollout.writing(new=new, old=state is not State.COMPLETED) as writers:
        writers.wait_for(1)
        rollout.advance_to(state, restart=restart)
        seconds = time.monotonic() - begun
        report = writers.stop()
    print(  # noqa: T201
        f"{state}: {seconds:.1f} s, {report.count} statements, the longest {report.slowest() * 1000:.0f} ms, "
        f"99 % within {report.percentile(99) * 1000:.0f} ms"
    )


@pytest.mark.soak
def test_a_large_table_is_partitioned(database: Database) -> None:
    rollout = rollout_of(database, "partition_events")
    database.execute(EVENTS)
    print(f"\n{ROWS} rows")  # noqa: T201
    for state in (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER):
        advanced(rollout, state)
    rollout.agree()
    with rollout.writing() as writers:
        writers.wait_for(1)
        assert rollout.engine().rollback(rollout.migration.id).state is State.ROLLED_BACK
    rollout.nothing_left()
    advanced(rollout, State.PREPARED, restart=True)
    for state in (State.MIGRATED, State.SWITCHED_OVER, State.COMPLETED):
        advanced(rollout, state)
    rollout.nothing_left()
    ((parts, rows),) = database.execute(
        "SELECT (SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass), count(*) FROM events"
    )
    assert parts == 8
    assert rows >= ROWS
