"""Cursors of backfills, and the verifications that come after them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import pytest

from tests.integration.catalog.conftest import NewRollout
from tests.support import Connection
from zdm.catalog import backfills, verifications
from zdm.catalog.backfills import BackfillState, BackfillStatus, Part, Range, share_out, split
from zdm.catalog.verifications import Verification
from zdm.errors import Drift
from zdm.model.mapping import Authority
from zdm.model.names import qualified

TABLE = qualified("public", "t")


def parts(blocks: int, *, file: int = 900, relation: int = 800) -> list[Part]:
    """A table that is its own only part."""
    return [Part(relation, file, blocks)]


def cursors(ranges: Iterable[Range]) -> tuple[tuple[int, ...], ...]:
    """The ranges without what they are of."""
    return tuple(tuple(part[:4]) for part in ranges)


@pytest.fixture
def rollout(new_rollout: NewRollout) -> int:
    return new_rollout().id


def run_to_the_end(conn: Connection, rollout: int, state: BackfillState) -> BackfillState:
    for part in state.ranges:
        if not part.finished:
            backfills.advance(conn, rollout, TABLE, part.number, part.hi, 10)
    return backfills.finish(conn, rollout, TABLE)


@pytest.mark.parametrize("blocks, workers", [(0, 2), (1, 4), (7, 3), (1000, 2)])
def test_split_covers_every_block_once(blocks: int, workers: int) -> None:
    found = split(parts(blocks), workers)
    assert [block for part in found for block in range(part.lo, part.hi)] == list(range(blocks))
    assert len(found) == max(1, min(blocks, workers))


@pytest.mark.parametrize("workers", range(1, 9))
def test_sharing_out_changes_no_blocks_state(workers: int) -> None:
    before = (Range(0, 0, 10, 10, 1, 1), Range(1, 10, 13, 40, 1, 1), Range(2, 40, 44, 45, 1, 1))
    after = share_out(before, workers)
    todo = sorted(block for part in after for block in range(part.next, part.hi))
    assert todo == [*range(13, 40), 44]
    assert len({part.number for part in after}) == len(after)
    assert sum(not part.finished for part in after) == max(2, workers)
    assert share_out([Range(0, 0, 9, 10, 1, 1)], 4) == (Range(0, 0, 9, 10, 1, 1),), (
        "one block cannot be shared"
    )


def test_open_advance_finish(conn: Connection, rollout: int) -> None:
    state = backfills.open(conn, rollout, TABLE, parts(10, file=900), 2)
    assert cursors(state.ranges) == ((0, 0, 0, 5), (1, 5, 5, 10))
    assert (state.pass_no, state.done_rows, state.status) == (1, 0, BackfillStatus.RUNNING)
    backfills.advance(conn, rollout, TABLE, 0, 3, 30)
    backfills.advance(conn, rollout, TABLE, 1, 10, 50)
    resumed = backfills.open(conn, rollout, TABLE, parts(12, file=900), 1)
    assert cursors(resumed.ranges) == ((0, 0, 3, 5), (1, 5, 10, 10))
    assert (resumed.done_rows, resumed.done_blocks, resumed.total_blocks) == (80, 8, 10)
    with pytest.raises(Drift, match="still has 1 of 2 ranges to do"):
        backfills.finish(conn, rollout, TABLE)
    with pytest.raises(Drift, match="still has 1 of 2 ranges to do"):
        backfills.start_sweep(conn, rollout, TABLE)
    backfills.advance(conn, rollout, TABLE, 0, 5, 20)
    backfills.start_sweep(conn, rollout, TABLE)
    backfills.add_swept(conn, rollout, TABLE, 3)
    assert backfills.open(conn, rollout, TABLE, parts(12, file=900), 2).status is BackfillStatus.SWEEPING
    done = backfills.finish(conn, rollout, TABLE)
    assert (done.status, done.done_rows, done.swept_rows) == (BackfillStatus.FINISHED, 103, 3)
    assert backfills.finish(conn, rollout, TABLE) == done
    assert backfills.open(conn, rollout, TABLE, parts(12, file=900), 2) == done, (
        "a finished one stays finished"
    )
    with pytest.raises(Drift, match="is finished already"):
        backfills.start_sweep(conn, rollout, TABLE)


def test_the_cursor_commits_or_goes_with_the_chunk(conn: Connection, rollout: int) -> None:
    backfills.open(conn, rollout, TABLE, parts(10, file=900), 1)
    conn.commit()
    backfills.advance(conn, rollout, TABLE, 0, 4, 1)
    conn.rollback()
    state = backfills.get(conn, rollout, TABLE)
    assert state is not None
    assert cursors(state.ranges) == ((0, 0, 0, 10),)


@pytest.mark.parametrize("block", [3, 4, 11])
def test_a_cursor_never_goes_back_stays_or_leaves_its_range(
    conn: Connection, rollout: int, block: int
) -> None:
    backfills.open(conn, rollout, TABLE, parts(10, file=900), 1)
    backfills.advance(conn, rollout, TABLE, 0, 4, 1)
    with pytest.raises(Drift, match=f"cannot move range 0 to block {block}"):
        backfills.advance(conn, rollout, TABLE, 0, block, 1)


def test_more_workers_take_their_share_of_what_is_left(conn: Connection, rollout: int) -> None:
    backfills.open(conn, rollout, TABLE, parts(100, file=900), 1)
    backfills.advance(conn, rollout, TABLE, 0, 20, 5)
    state = backfills.open(conn, rollout, TABLE, parts(100, file=900), 2)
    assert cursors(state.ranges) == ((0, 0, 20, 60), (1, 60, 60, 100))
    assert state.done_rows == 5


def test_another_file_starts_the_pass_over(conn: Connection, rollout: int) -> None:
    backfills.open(conn, rollout, TABLE, parts(10, file=900), 2)
    backfills.advance(conn, rollout, TABLE, 0, 5, 30)
    state = backfills.open(conn, rollout, TABLE, parts(8, file=901), 1)
    assert (state.pass_no, state.ranges[0].file, state.total_blocks, state.done_rows) == (2, 901, 8, 30)
    assert cursors(state.ranges) == ((2, 0, 0, 8),)


def test_no_backfill(conn: Connection, rollout: int) -> None:
    assert backfills.get(conn, rollout, TABLE) is None
    with pytest.raises(Drift, match=r"has no backfill of public\.t"):
        backfills.finish(conn, rollout, TABLE)
    with pytest.raises(Drift, match="no backfill"):
        backfills.next_pass(conn, rollout, TABLE, parts(1, file=1), 1)
    with pytest.raises(Drift, match="cannot move"):
        backfills.advance(conn, rollout, TABLE, 0, 1, 1)


def now(conn: Connection) -> datetime:
    row = conn.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    found: datetime = row[0]
    return found


def test_a_verification_counts_for_the_pass_that_was_finished_before_it_began(
    conn: Connection, rollout: int
) -> None:
    before = now(conn)
    state = run_to_the_end(conn, rollout, backfills.open(conn, rollout, TABLE, parts(10, file=900), 2))
    early = verifications.store(conn, rollout, Verification(TABLE, before, 10, Authority.OLD))
    assert early.backfill_pass is None
    assert not early.covers(state), "it began before the backfill had ended"
    found = Verification(
        TABLE,
        now(conn),
        10,
        Authority.NEW,
        {"unsettled": 2, "failed": 0},
        {"unsettled": ["1", "7"]},
        "5:7:",
        "0/15",
    )
    stored = verifications.store(conn, rollout, found)
    assert stored == verifications.latest(conn, rollout, TABLE)
    assert (stored.backfill_pass, stored.lsn, stored.sample_keys) == (1, "0/15", {"unsettled": ("1", "7")})
    assert stored.covers(state)
    assert not stored.clean
    assert early.clean
    again = backfills.next_pass(conn, rollout, TABLE, parts(8, file=901), 1)
    assert not stored.covers(again)
    assert not stored.covers(run_to_the_end(conn, rollout, again)), "a later pass needs a later verification"
    assert not stored.covers(None)
    assert verifications.latest(conn, rollout, qualified("public", "other")) is None


def test_partitions_come_go_and_are_rewritten(conn: Connection, rollout: int) -> None:
    """Each keeps its own cursor; what came since opens a finished backfill again, for itself alone."""
    one, two, three = Part(801, 901, 10), Part(802, 902, 4), Part(803, 903, 6)
    state = backfills.open(conn, rollout, TABLE, [one, two], 2)
    assert [(r.relation, r.lo, r.hi) for r in state.ranges] == [(801, 0, 5), (801, 5, 10), (802, 0, 4)]
    backfills.advance(conn, rollout, TABLE, 0, 5, 50)
    backfills.advance(conn, rollout, TABLE, 2, 4, 40)
    # Two was rewritten, three is new, one stays where it is.
    state = backfills.open(conn, rollout, TABLE, [one, two._replace(file=904), three], 1)
    assert (state.pass_no, state.done_rows, state.total_blocks, state.done_blocks) == (2, 90, 20, 5)
    assert {(r.relation, r.file) for r in state.ranges if not r.finished} == {
        (801, 901),
        (802, 904),
        (803, 903),
    }
    state = backfills.open(conn, rollout, TABLE, [two._replace(file=904), three], 1)
    assert {r.relation for r in state.ranges} == {802, 803}, "one was dropped"
    assert (state.done_rows, state.total_blocks) == (90, 10)
    done = run_to_the_end(conn, rollout, state)
    assert backfills.open(conn, rollout, TABLE, [three._replace(file=905)], 1) == done
    state = backfills.open(conn, rollout, TABLE, [three, one], 1)
    assert (state.status, state.pass_no) == (BackfillStatus.RUNNING, 2)
    assert [r.relation for r in state.ranges if not r.finished] == [801]
