"""The user's views over replaced columns: refused by name, or made anew at cleanup where the migration says so."""

from __future__ import annotations

from collections.abc import Iterable

from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Severity
from zdm.model.requests import Dependents, RecreatedView, RecreateRequest, Recreation
from zdm.model.step import Lock, Phase, Scan, Stage, Step, TableLock, Transaction
from zdm.model.table import Dependent
from zdm.operations import ddl
from zdm.operations.base import Context, Draft
from zdm.operations.fidelity.review import Review, replaced_tables

KINDS = frozenset({"view", "materialized view", "view rule"})


def recreates(review: Review, dependent: Dependent, hit: list[str]) -> bool:
    """Whether the dependant is a view that is made anew, since each column it reads has a successor."""
    draft = review.draft
    if (
        dependent.kind not in KINDS
        or draft.dependents is not Dependents.RECREATE
        or not set(hit) <= set(review.successors)
    ):
        return False
    if draft.recreate is None:
        draft.recreate = RecreateRequest(
            replaced=replaced_tables(draft), own=tuple(sorted(draft.own_views)), where=review.replaced[hit[0]]
        )
    return True


def told(draft: Draft, recreation: Recreation) -> list[Finding]:
    """What people should know of the views that are made anew."""
    if draft.recreate is None or not recreation.views:
        return []
    names = ", ".join(str(view.name) for view in recreation.views)
    found = [f"cleanup makes anew {names}; until then they read the old columns"]
    computed = ", ".join(str(view.name) for view in recreation.views if view.materialized)
    if computed:
        found.append(
            f"cleanup computes {computed} anew beside the old one, and builds the indexes: that needs the space once more, and a"
            " REFRESH of the old one meanwhile does not count"
        )
    where = draft.recreate.where
    return [Finding(severity=Severity.NOTE, text=text, where=where) for text in found]


def view_steps(phase: Phase, context: Context) -> list[Step]:
    """At cleanup before any swap: each view beside the old one, in order; then all of them change places at once."""
    recreation, request = context.recreation, context.draft.recreate
    if phase is not Phase.CLEANUP or request is None or not recreation.views:
        return []
    tables = [replaced.table for replaced in request.replaced]
    found: list[Step] = []
    for view in recreation.views:
        found += _made(view, tables, request.where)
    found.append(
        Step(
            id=f"cleanup.{context.draft.target}.views.change",
            title="let the views over the new columns take the place of the old ones",
            phase=Phase.CLEANUP,
            stage=Stage.TIGHTEN,
            operation=request.where,
            action=Transaction(
                statements=recreation.change,
                locks=tuple(ddl.lock(view.name) for view in reversed(recreation.views)),
            ),
        )
    )
    return found


def _made(view: RecreatedView, tables: Iterable[QualifiedName], where: str) -> list[Step]:
    def step(name: str, title: str, action: Transaction | Scan) -> Step:
        return Step(
            id=f"cleanup.{view.name}.views.{name}",
            title=title,
            phase=Phase.CLEANUP,
            stage=Stage.TIGHTEN,
            operation=where,
            action=action,
        )

    reads = tuple(TableLock(table=table, mode=Lock.ACCESS_SHARE, hold="scan") for table in tables)
    brief = tuple(ddl.lock(table, Lock.ACCESS_SHARE) for table in tables)
    found = [
        step(
            "make",
            f"make {view.name} over the new columns, beside the old one",
            Transaction(statements=view.make, locks=brief),
        )
    ]
    if view.fill is not None:
        statement, done_when = view.fill
        found.append(
            step(
                "fill",
                f"compute {view.name} over the new columns",
                Scan(statement=statement, done_when=done_when, locks=reads),
            )
        )
    for number, (statement, done_when) in enumerate(view.indexes, 1):
        found.append(
            step(
                f"index.{number}",
                f"build index {number} of {view.name} over the new columns",
                Scan(statement=statement, done_when=done_when),
            )
        )
    return found
