"""How large the next chunk is. Pure."""

from __future__ import annotations

GROWTH = 1.5
OVERRUN = 2.0
LEAST_ROOM = 0.25
"""Of the target, what is left for rows however long everything else takes: on a server that has no processor to spare each
round trip waits for one, and chunks that were cut for that would spend all their time on round trips."""


class Sizer:
    """Blocks per chunk, steered by the time that their rows take.

    A chunk below the target lets the next one grow, by half at most: a larger step would meet a slower region of the table
    with too large a chunk. One that took twice the target or more cuts at once. Only chunks that were full of unfilled rows
    teach growth; otherwise going through filled blocks would grow the chunk beyond all measure.

    Parameters
    ----------
    density: rows in a block, as the server estimates.
    target: seconds for which a chunk aims to hold its locks.
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

    def took(self, seconds: float, blocks: int, rows: int, *, besides: float = 0.0) -> None:
        """A chunk of so many blocks was committed; `rows` were filled in it.

        Parameters
        ----------
        seconds: what the statement took that fills the rows.
        besides: how much longer the chunk held its locks; no smaller chunk would hold them less for that.
        """
        if rows:
            # The estimate may be of long ago, or be missing: the densest chunk seen is what we size for.
            self._density = max(self._density * 0.98, rows / blocks)
        room = max(self._target * LEAST_ROOM, self._target - besides)
        if seconds >= OVERRUN * room:
            self._size = blocks * room / seconds
        elif rows >= blocks * self._density / 2:
            ratio = min(GROWTH, max(0.5, room / max(seconds, 1e-6)))
            # Towards what this chunk says, from the size it really had (the last of a range is shorter); of a full one from the size that
            # was meant, fractions included, since one block and a half is a chunk of one, which would never become two.
            full = blocks >= int(self._size)
            wanted = (self._size if full else blocks) * ratio
            self._size = wanted if full or wanted < self._size else self._size
        self._size = min(max(1.0, self._size), max(1.0, self._most_rows / self._density))

    def cut_off(self, blocks: int) -> None:
        """The server cut a chunk of so many blocks off."""
        self._size = max(1.0, min(self._size, blocks / 2))
