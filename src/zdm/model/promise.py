"""What the new version will demand of every row, as data: so that it can be counted before anything demands it."""

from __future__ import annotations

from enum import StrEnum

from zdm.model.names import QualifiedName, Value


class Demand(StrEnum):
    """What is demanded."""

    UNIQUE = "unique"
    CHECK = "check"
    FOREIGN_KEY = "foreign key"
    NOT_NULL = "not null"
    EXCLUSION = "exclusion"


class Promise(Value):
    """A constraint or unique index that the rollout adds to a table with rows.

    All SQL in it is the server's own, over bare *physical* column names as they are while both sides exist.

    Parameters
    ----------
    name: as the new version calls it.
    part_of: the table of which `table` is a partition or child, if it is demanded of that part's rows alone.
    operation: the operation that asks for it, as ``2:add_unique``.
    definition: what the server is asked to read: what follows ``ON table`` (unique), or a whole constraint (``CHECK (…)``,
        ``UNIQUE (…) DEFERRABLE``, ``EXCLUDE …``); empty if nothing is to be asked. The server's answer is `keys`, `condition`,
        `nulls_equal`, `operators` and `reads`.
    keys: the columns or expressions that must be unique, that exclude each other, or that reference.
    condition: of a check; of a unique index or an exclusion, which rows it is about.
    nulls_equal: two rows with NULL count as equal (unique).
    operators: of an exclusion, the operator of each key, qualified: no two rows may meet all of them.
    references / referenced: the table and columns that a foreign key points at.
    match_full: all of a foreign key's columns are NULL, or none is.
    reads: every physical column that it reads.
    """

    demand: Demand
    name: str
    table: QualifiedName
    part_of: QualifiedName | None = None
    operation: str = ""
    definition: str = ""
    keys: tuple[str, ...] = ()
    condition: str = ""
    nulls_equal: bool = False
    operators: tuple[str, ...] = ()
    references: QualifiedName | None = None
    referenced: tuple[str, ...] = ()
    match_full: bool = False
    reads: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """As results, gates and metrics call it: ``unique members_email_key``."""
        where = f" of {self.table}" if self.part_of is not None else ""
        return f"{self.demand.value} {self.name}{where}"
