"""What a plan is expected to cost: for each step its locks and how long they are held, and time, WAL and disk of the whole."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from zdm.model.names import QualifiedName, Value
from zdm.model.step import Lock, Phase


class Effort(StrEnum):
    """What a step does to the rows of its tables."""

    CATALOG = "changes catalogs only"
    SCAN = "reads every row"
    INDEX = "reads every row and writes an index"
    FILL = "writes every row once, in small transactions"


STOPS = {
    Lock.ACCESS_EXCLUSIVE: "reads and writes",
    Lock.EXCLUSIVE: "writes",
    Lock.SHARE_ROW_EXCLUSIVE: "writes",
    Lock.SHARE: "writes",
    Lock.SHARE_UPDATE_EXCLUSIVE: "schema changes and vacuum",
    Lock.ROW_EXCLUSIVE: "no statement of an application",
    Lock.ROW_SHARE: "no statement of an application",
    Lock.ACCESS_SHARE: "no statement of an application",
    Lock.NONE: "nothing",
}
"""Whom a lock makes wait while it is held."""


class HeldLock(Value):
    """One lock of a step. `seconds` is how long it is expected to be held once it is there; None if that is unknown."""

    table: QualifiedName
    mode: Lock
    seconds: float | None
    stops: str


class StepEstimate(Value):
    """What one step is expected to cost. None stands for unknown, never for nothing.

    Parameters
    ----------
    statements: the exact SQL, in order; of row work the statement of one chunk, or of the table.
    wal_bytes: written to the WAL.
    disk_bytes: that stay; temporary_bytes: needed while the step runs.
    naive: the rule that the obvious statement would break; empty if there is none. naive_reason: what it would do.
    """

    step: str
    phase: Phase
    effort: Effort
    statements: tuple[str, ...] = ()
    locks: tuple[HeldLock, ...] = ()
    seconds: float | None = None
    rows: float | None = None
    read_bytes: int | None = None
    wal_bytes: int | None = None
    disk_bytes: int | None = None
    temporary_bytes: int | None = None
    naive: str = ""
    naive_reason: str = ""


class TableRates(Value):
    """What was measured on a table: it was read, and `up` was tried on a temporary copy of some of its rows.

    Parameters
    ----------
    rows: how many it has, by the density of the pages that were read.
    fill_rows_per_second: of one worker; None if it could not be measured or there is nothing to fill.
    sample: rows that were filled for that.
    """

    table: QualifiedName
    rows: float
    bytes: int
    index_bytes: int
    indexes: int
    scan_bytes_per_second: float | None = None
    fill_rows_per_second: float | None = None
    sample: int = 0


class ServerRates(Value):
    """What the server's statistics say. `wal_bytes_per_second` is the average since they were reset, None if unknown;
    `read_bytes_per_second` is what the disk gave (pg_stat_io, where the server times it)."""

    wal_bytes_per_second: float | None = None
    full_page_writes: bool = True
    max_wal_size: int | None = None
    archives: bool = False
    read_bytes_per_second: float | None = None


class Risk(Value):
    """How risky a plan looks to zdm, and why: ``low``, ``medium`` or ``high``."""

    level: str
    reasons: tuple[str, ...] = ()


class Estimates(Value):
    """Everything together. `seconds` is of the database's work alone: gates and people come on top."""

    steps: tuple[StepEstimate, ...] = ()
    tables: tuple[TableRates, ...] = ()
    server: ServerRates = ServerRates()
    workers: int = 1
    seconds: float | None = None
    phase_seconds: dict[str, float | None] = Field(default_factory=dict)
    wal_bytes: int | None = None
    disk_bytes: int | None = None
    temporary_bytes: int | None = None
    risk: Risk = Risk(level="low")

    def of(self, step: str) -> StepEstimate | None:
        """The estimate of one step, by its id."""
        return next((found for found in self.steps if found.step == step), None)
