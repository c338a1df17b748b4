"""What the rows of today say to mapped columns of one table: measured before anything changes, refused by name."""

from __future__ import annotations

from collections.abc import Mapping

from zdm.db.expressions import measure_roundtrip
from zdm.engine.mapper import Mapper
from zdm.errors import Problem
from zdm.model.mapping import ColumnGroup, TableMapping
from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Severity


def measure_columns(mapper: Mapper, mappings: Mapping[QualifiedName, TableMapping]) -> None:
    """Refuse every group whose mapping loses values of real rows without saying so."""
    for mapping in mappings.values():
        for group in mapping.groups:
            if group.copied is not None and _promised(group):
                _measure_copies(mapper, mapping, group)
            # What goes by another table is tried with it, if at all.
            if not group.two_way or not group.new or group.elsewhere:
                continue
            measured = measure_roundtrip(mapper.conn, mapping, group)
            found = measured.roundtrip.model_copy(update={"declared_lossy": group.lossy})
            mapper.roundtrips.append(found)
            keys = "; ".join(found.sample_keys)
            if found.lost and not group.lossy:
                mapper.problems.append(
                    Problem(
                        f"{group.name}: down(up(x)) differs from x in {found.lost} of {found.rows} rows of "
                        f"{mapping.table} (for example {keys})",
                        _label(mapper, mapping, group),
                        "Correct `up` or `down`, or declare the loss with `lossy: true`.",
                        "lossy-mapping",
                    )
                )
            if found.failed:
                mapper.findings.append(
                    Finding(
                        severity=Severity.WARNING,
                        text=f"{group.name}: `up` or `down` raises{_null_counts(group)} on {found.failed} of {found.rows} "
                        f"rows of {mapping.table} (for example {keys}); the backfill will stop there until they are "
                        f"corrected{_may_be_null(group)}",
                        where=_label(mapper, mapping, group),
                        rule="up-raises",
                    )
                )


def _measure_copies(mapper: Mapper, mapping: TableMapping, group: ColumnGroup) -> None:
    """Warn of rows that would have NULL for a copy where the new version promises none."""
    found = measure_roundtrip(mapper.conn, mapping, group).roundtrip
    assert group.copied is not None
    if found.failed:
        keys = "; ".join(found.sample_keys)
        mapper.findings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"{found.failed} of {found.rows} rows of {mapping.table} (for example {keys}) would have NULL for "
                f"{_promised(group)}, which is NOT NULL: they refer to no row of {group.copied.table}, or to one that has NULL; the "
                "backfill will stop there until they are corrected",
                where=_label(mapper, mapping, group),
                rule="up-raises",
            )
        )


def _label(mapper: Mapper, mapping: TableMapping, group: ColumnGroup) -> str:
    return mapper.draft.shapes[mapping.table].groups[group.number].operation


def _promised(group: ColumnGroup) -> str:
    return ", ".join(new.final for new in group.new if new.not_null)


def _null_counts(group: ColumnGroup) -> str:
    """An `up` that gives NULL for a column that promises NOT NULL counts as one that raises."""
    return f" (or gives NULL for {names}, which is NOT NULL)" if (names := _promised(group)) else ""


def _may_be_null(group: ColumnGroup) -> str:
    return (
        f"; if {names} may be NULL in the new version, add drop_not_null to the migration"
        if (names := _promised(group))
        else ""
    )
