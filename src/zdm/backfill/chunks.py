"""How large the next chunk is. Pure."""

from __future__ import annotations

GROWTH = 1.5
OVERRUN = 2.0


class Sizer:
    """Blocks per chunk, steered by the time that chunks take.

    A chunk below the target lets the next one grow, by half at most: a larger step would meet a slower region of the table
    with too large a chunk. One that took twice the target or more cuts at once. Only chunks that were full of unfilled rows
    teach growth; otherwise going through filled blocks would grow the chunk beyond all measure.

    Parameters
    ----------
    density: rows in a block, as the server estimates.
    target: seconds a chunk aims at.
    """

    def __init__(self, *, density: float, target: float, first_rows: int, most_rows: int) -> None:
        self._density = max(1.0, density)
        self._target = target
        self._most_rows = most_rows
        self._size = max(1.0, first_rows / self._density)

    @property
    def blocks(self) -> int:
        """How many blocks the next chunk takes."""
        return max(1, int(self._size))

    def took(self, seconds: float, blocks: int, rows: int) -> None:
        """A chunk of so many blocks was committed; `rows` were filled in it."""
        if rows:
            # The estimate may be of long ago, or be missing: the densest chunk seen is what we size for.
            self._density = max(self._density * 0.98, rows / blocks)
        if seconds >= OVERRUN * self._target:
            self._size = blocks * self._target / seconds
        elif rows >= blocks * self._density / 2:
            ratio = min(GROWTH, max(0.5, self._target / max(seconds, 1e-6)))
            # Towards what this chunk says, from the size it really had (the last of a range is shorter).
            wanted = blocks * ratio
            self._size = wanted if wanted < self._size or blocks >= int(self._size) else self._size
        self._size = min(max(1.0, self._size), max(1.0, self._most_rows / self._density))

    def cut_off(self, blocks: int) -> None:
        """The server cut a chunk of so many blocks off."""
        self._size = max(1.0, min(self._size, blocks / 2))
