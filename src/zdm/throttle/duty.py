"""Rest in proportion to work: a nice ratio of 1 leaves the server alone for half of the time."""

from __future__ import annotations


def rest(nice: float, last: float) -> float:
    """Seconds to rest after a chunk of `last` seconds."""
    return max(0.0, nice * last)
