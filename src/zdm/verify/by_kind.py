"""Which comparison a row mapping needs, by its kind."""

from __future__ import annotations

from collections.abc import Callable

from zdm.model.row_mapping import RowMapping
from zdm.verify.elements import verify_elements
from zdm.verify.parents import verify_parents
from zdm.verify.rows import verify_rows
from zdm.verify.run import Found


def comparer(mapping: RowMapping) -> Callable[..., Found]:
    """What compares the rows of this mapping; called with `connect`, the mapping, the rollout, and `workers`."""
    if mapping.parent is not None:
        return verify_parents
    return verify_rows if mapping.elements is None else verify_elements
