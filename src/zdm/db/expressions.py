"""The server checks, types and deparses the user's expressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zdm.db.session import Connection
from zdm.errors import Problem
from zdm.model.expression import Expression
from zdm.model.mapping import ColumnGroup, TableMapping
from zdm.model.plan import Roundtrip


@dataclass(frozen=True, slots=True)
class CheckColumn:
    """A column that expressions may mention: the name the user writes, and the physical one it stands for."""

    shown_name: str
    physical_name: str
    type: str
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One expression to check.

    Parameters
    ----------
    label: where it comes from, for `Problem.where`.
    text: as the user wrote it.
    assign_to_type: the column type its value must be assignable to, or None.
    assign_collation: that column's collation, if it differs from the type's.
    allow_volatile: volatile functions are accepted (a column default).
    """

    label: str
    text: str
    assign_to_type: str | None = None
    assign_collation: str | None = None
    allow_volatile: bool = False


class ExpressionChecker:
    """Checks expressions over the columns of one row, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.user_functions: dict[str, tuple[str, ...]] = {}
        """By request label: the user-defined functions its expression calls, qualified with argument types."""

    def check(
        self,
        columns: Sequence[CheckColumn],
        requests: Sequence[Request],
        table_alias: str,
        search_path: Sequence[str],
    ) -> list[Expression | Problem]:
        """One answer for each request, in order. Nothing is left in the database."""
        raise NotImplementedError


def on_nulls(conn: Connection, columns: Mapping[str, str], expression: Expression) -> bool | None:
    """Whether the expression over all-NULL columns (physical name to type) is NULL; None if it raises."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Measured:
    """A `Roundtrip`, and whether every row was measured or only a sample."""

    roundtrip: Roundtrip
    complete: bool


def measure_roundtrip(
    conn: Connection, mapping: TableMapping, group: ColumnGroup, sample: int = 100_000
) -> Measured:
    """Measure ``down(up(x)) = x`` on real rows, before the new columns exist."""
    raise NotImplementedError
