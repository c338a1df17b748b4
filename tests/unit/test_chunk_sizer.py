"""The chunk's size follows the time that chunks take."""

from __future__ import annotations

from itertools import pairwise

from zdm.backfill.chunks import Sizer


def sizer(**options: float) -> Sizer:
    given = {"density": 60.0, "target": 0.05, "first_rows": 1000, "most_rows": 50_000, **options}
    return Sizer(**given)  # type: ignore[arg-type]


def test_starts_with_about_a_thousand_rows() -> None:
    assert sizer().blocks == 16
    assert sizer(density=5000).blocks == 1


def test_grows_by_half_at_most_and_settles_at_the_target() -> None:
    found = sizer()
    sizes = []
    for _ in range(20):
        sizes.append(found.blocks)
        found.took(found.blocks * 60 * 4e-6, found.blocks, found.blocks * 60)
    assert all(b <= a * 1.5 + 1 for a, b in pairwise(sizes))
    assert 0.045 <= sizes[-1] * 60 * 4e-6 <= 0.055


def test_cuts_at_once_when_a_chunk_takes_twice_the_target() -> None:
    found = sizer()
    found.took(0.5, 16, 960)
    assert found.blocks == 1


def test_a_chunk_of_one_block_can_become_larger() -> None:
    """One block and a half is a chunk of one block: growth that begins anew from what the chunk had stays there for ever."""
    found = sizer()
    found.took(0.5, 16, 960)
    for _ in range(20):
        found.took(found.blocks * 60 * 4e-6, found.blocks, found.blocks * 60)
    assert found.blocks > 100


def test_what_round_trips_take_does_not_make_chunks_smaller_and_smaller() -> None:
    """On a server without a processor to spare each of them waits, and a chunk of few rows waits as long as one of many."""
    found = sizer()
    for _ in range(50):
        found.took(found.blocks * 60 * 4e-6, found.blocks, found.blocks * 60, besides=0.045)
    assert 0.01 <= found.blocks * 60 * 4e-6 <= 0.015


def test_rows_and_round_trips_together_keep_to_the_target() -> None:
    found = sizer()
    for _ in range(50):
        found.took(found.blocks * 60 * 4e-6, found.blocks, found.blocks * 60, besides=0.020)
    assert 0.025 <= found.blocks * 60 * 4e-6 <= 0.032


def test_filled_blocks_teach_nothing() -> None:
    """Otherwise the first unfilled blocks after many filled ones would meet a chunk of gigantic size."""
    found = sizer()
    for _ in range(50):
        found.took(0.0001, found.blocks, 0)
    assert found.blocks == 16


def test_never_more_than_the_most_rows() -> None:
    found = sizer(most_rows=6000)
    for _ in range(50):
        found.took(0.001, found.blocks, found.blocks * 60)
    assert found.blocks == 100


def test_a_wrong_estimate_of_the_density_is_corrected() -> None:
    found = sizer(density=1, most_rows=6000)
    for _ in range(50):
        found.took(0.001, found.blocks, found.blocks * 200)
    assert found.blocks <= 30


def test_a_chunk_that_was_cut_off_halves() -> None:
    found = sizer()
    found.cut_off(16)
    assert found.blocks == 8
