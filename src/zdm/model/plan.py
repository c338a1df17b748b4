"""What a migration compiles to on one target. Stored whole in the catalog, so that a resume runs exactly what was planned."""

from __future__ import annotations

from enum import StrEnum

from zdm.model.estimate import Estimates
from zdm.model.hanging import Hanging
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName, Value
from zdm.model.promise import Promise
from zdm.model.row_mapping import RowMapping
from zdm.model.step import Phase, Step


class Severity(StrEnum):
    """How much a finding matters: a warning is printed and goes on; anything worse is a `Problem` and stops the plan."""

    NOTE = "note"
    WARNING = "warning"


class Finding(Value):
    """Something a reviewer should know before the rollout starts. `rule` names a page under docs/, or is empty."""

    severity: Severity
    text: str
    where: str = ""
    rule: str = ""


class TableFacts(Value):
    """What estimates are made from: size of a touched table when the plan was made."""

    table: QualifiedName
    rows: float
    bytes: int


class Roundtrip(Value):
    """The measurement of ``down(up(x)) = x`` on real rows of one group."""

    table: QualifiedName
    group: str
    rows: int
    lost: int
    failed: int
    sample_keys: tuple[str, ...] = ()
    declared_lossy: bool = False


class Plan(Value):
    """Steps and mappings of one migration on one target.

    Parameters
    ----------
    old_schema / new_schema: the version schemas' names; empty where the migration exposes columns only.
    previous_schemas: version schemas that earlier, completed rollouts left for their applications; cleanup drops them.
    promises: constraints that rows may break; the verification counts who does.
    estimates: what it is expected to cost; None if nothing was measured.
    hanging: what hung on the columns that go when the plan was made; None if that was not noted.
    """

    migration: str
    target: str
    server_version: int
    old_schema: str = ""
    new_schema: str = ""
    previous_schemas: tuple[str, ...] = ()
    mappings: tuple[TableMapping, ...] = ()
    row_mappings: tuple[RowMapping, ...] = ()
    steps: tuple[Step, ...] = ()
    findings: tuple[Finding, ...] = ()
    facts: tuple[TableFacts, ...] = ()
    roundtrips: tuple[Roundtrip, ...] = ()
    promises: tuple[Promise, ...] = ()
    estimates: Estimates | None = None
    hanging: tuple[Hanging, ...] | None = None

    def promised(self, table: QualifiedName) -> tuple[Promise, ...]:
        """What the new version will demand of the rows of `table` (by its old name), or of a part of it."""
        return tuple(promise for promise in self.promises if table in (promise.table, promise.part_of))

    @property
    def verified(self) -> tuple[QualifiedName, ...]:
        """What the verification looks at: tables whose rows are mapped or promised something, and row mappings."""
        tables = tuple(m.table for m in self.mappings if m.needs_sync or self.promised(m.table))
        return tables + tuple(rows.id for rows in self.row_mappings if not rows.in_place)

    def mapping(self, table: QualifiedName) -> TableMapping:
        """The mapping of `table` (by its old name). Raises KeyError if the plan does not map it."""
        for mapping in self.mappings:
            if mapping.table == table:
                return mapping
        raise KeyError(str(table))

    def row_mapping(self, id_: QualifiedName) -> RowMapping | None:
        """The row mapping called `id_`, or None if that is a table's."""
        return next((rows for rows in self.row_mappings if rows.id == id_), None)

    @property
    def passes(self) -> tuple[QualifiedName, ...]:
        """What is filled and compared, as catalog and gates call it: tables whose rows are mapped, and row mappings."""
        rows = tuple(r.id for r in self.row_mappings if not r.in_place)
        return tuple(m.table for m in self.mappings if m.needs_sync) + rows

    def of(self, phase: Phase) -> tuple[Step, ...]:
        """The steps of one phase, in the order they run."""
        return tuple(step for step in self.steps if step.phase is phase)
