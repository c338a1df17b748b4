"""A dry run: the exact statements of each step, the lock it takes, and what it is expected to cost."""

from __future__ import annotations

from psycopg import sql as composing

from zdm.catalog import steps as step_store
from zdm.catalog.steps import StepStatus
from zdm.db.session import Session
from zdm.engine import partitions
from zdm.engine.promises import promise_checks
from zdm.engine.results import PreviewStep
from zdm.engine.rollback import to_undo
from zdm.model.mapping import Authority, TableMapping
from zdm.model.names import QualifiedName
from zdm.model.plan import Plan
from zdm.model.row_mapping import RowMapping
from zdm.model.step import (
    Action,
    Backfill,
    Concurrent,
    PartitionedForeignKey,
    PartitionedIndex,
    Phase,
    Scan,
    Step,
    Sync,
    Transaction,
    Verify,
)
from zdm.sql import (
    element_rows,
    group_sync,
    parent_conditions,
    row_conditions,
    row_objects,
    row_sync,
    rows,
    sync,
)
from zdm.sql.identifiers import any_of, qualified_name, trusted


def statements_of(action: Action, plan: Plan, rollout: int) -> tuple[str, ...]:
    """The exact SQL of an action; for a backfill the statement of one chunk, for a verification its predicate's count."""
    match action:
        case Transaction():
            return action.first + action.statements
        case Concurrent() | Scan():
            return (action.statement,)
        case PartitionedIndex() | PartitionedForeignKey():
            return partitions.statements_of(action)
        case Sync(side="old" | "new" | "parent" as side):
            rows_of = plan.row_mapping(action.table)
            assert rows_of is not None
            return _row_sync(action, rows_of, rollout, side)
        case Sync():
            mapping = plan.mapping(action.table)
            # Which tables inherit by then, only the step itself knows.
            children = (
                f"-- and each trigger the same on all that inherits from {mapping.table}",
            ) * mapping.has_children
            if action.remove:
                ending = action.ending or Transaction(statements=())
                return (*ending.first, *sync.remove(mapping, rollout, *ending.statements), *children)
            if action.authority is Authority.NEW:
                return tuple(sync.switch(mapping, rollout, action.authority))
            return (*sync.install(mapping, rollout, action.authority).statements, *children)
        case Backfill() if (found := plan.row_mapping(action.table)) is not None:
            return (_row_chunk(found),)
        case Verify() if (found := plan.row_mapping(action.table)) is not None:
            return (row_sync.comparison(found).as_string(None),)
        case Backfill():
            return (_chunk(plan.mapping(action.table)),)
        case Verify():
            return _comparisons(plan, action.table)


def _row_sync(action: Sync, mapping: RowMapping, rollout: int, side: row_objects.Side) -> tuple[str, ...]:
    if action.together:
        if action.remove:
            return row_sync.remove_together(mapping, rollout)
        return row_sync.install_together(mapping, rollout).statements
    if action.remove:
        return row_sync.remove(mapping, rollout, side, action.ending)
    return row_sync.install(mapping, rollout, side).statements


def _chunk(mapping: TableMapping) -> str:
    template = composing.SQL(
        "UPDATE {t} SET {a} WHERE ctid >= '(<first block>,0)' AND ctid < '(<next block>,0)' AND {p}"
    )
    # Rows that may refer to others of the same chunk are settled by the triggers, row by row.
    sets = rows.settle_assignments if mapping.refers_to_itself else rows.fill_assignments
    return template.format(
        t=qualified_name(mapping.table), a=sets(mapping), p=rows.unsettled(mapping)
    ).as_string(None)


def _row_chunk(mapping: RowMapping) -> str:
    """As `zdm.backfill.row_statements` composes it, which asks for block numbers."""
    if mapping.parent is not None:
        template = composing.SQL(
            "SELECT <find or make the parent, link it> FROM {s} AS o WHERE o.ctid >= '(<first block>,0)' AND o.ctid < "
            "'(<next block>,0)' AND {w} AND NOT EXISTS (SELECT FROM {t} AS n WHERE {j}) FOR NO KEY UPDATE"
        )
        return template.format(
            s=qualified_name(mapping.old.table),
            t=qualified_name(mapping.new.table),
            w=parent_conditions.wants(mapping, mapping.parent, "o"),
            j=parent_conditions.links(mapping, "n", "o"),
        ).as_string(None)
    if mapping.gathers:
        template = composing.SQL(
            "SELECT <make the row say what these say> FROM (SELECT DISTINCT {k} FROM {s} AS o WHERE o.ctid >= '(<first block>,0)' AND o.ctid < "
            "'(<next block>,0)' AND {w} AND NOT EXISTS (SELECT FROM {t} AS n WHERE {j})) AS o"
        )
        return template.format(
            k=group_sync.key_of(mapping, "o"),
            s=qualified_name(mapping.old.table),
            t=qualified_name(mapping.new.table),
            w=group_sync.keyed(mapping, "o"),
            j=element_rows.belongs(mapping, "o", "n"),
        ).as_string(None)
    if mapping.elements is not None:
        one, many = mapping.source, mapping.side(mapping.elements.many)
        if mapping.elements.one == "new":
            template = composing.SQL(
                "SELECT <make the row say what {t} says> FROM {s} AS o WHERE o.ctid >= '(<first block>,0)' AND o.ctid < '(<next block>,0)'"
                " AND NOT {j} FOR NO KEY UPDATE"
            )
            return template.format(
                s=qualified_name(one.table),
                t=qualified_name(many.table),
                j=any_of(element_rows.agreement(mapping, "o", 0)),
            ).as_string(None)
        template = composing.SQL(
            "SELECT <make the elements> FROM {s} AS o WHERE o.ctid >= '(<first block>,0)' AND o.ctid < '(<next block>,0)'"
            " AND NOT EXISTS (SELECT FROM {t} AS n WHERE {j}) FOR NO KEY UPDATE"
        )
        return template.format(
            s=qualified_name(one.table),
            t=qualified_name(many.table),
            j=element_rows.belongs(mapping, "n", "o"),
        ).as_string(None)
    if mapping.joins:
        template = composing.SQL(
            "UPDATE {t} AS n SET {a} FROM (SELECT o.* FROM {s} AS o WHERE o.ctid >= '(<first block>,0)' AND o.ctid < "
            "'(<next block>,0)' FOR NO KEY UPDATE) AS o WHERE {j} AND {d}"
        )
        return template.format(
            t=qualified_name(mapping.new.table),
            s=qualified_name(mapping.old.table),
            a=row_conditions.assigned(mapping.new, "o"),
            j=row_conditions.joined(mapping, "o", "n"),
            d=row_conditions.disagree(mapping, "o", "n"),
        ).as_string(None)
    template = composing.SQL(
        "INSERT INTO {t} ({c}) SELECT {v} FROM (SELECT o.* FROM {s} AS o WHERE o.ctid >= '(<first block>,0)' AND o.ctid < "
        "'(<next block>,0)' AND {w} AND NOT EXISTS (SELECT FROM {t} AS n WHERE {j}) {l}) AS o"
    )
    if mapping.countable:
        lock = "/* FOR KEY SHARE only where the rows are not the same in number before the commit, or the new table has foreign keys */"
    else:
        lock = "FOR SHARE" if mapping.selective else "FOR KEY SHARE"
    return template.format(
        t=qualified_name(mapping.new.table),
        s=qualified_name(mapping.old.table),
        c=row_conditions.insert_columns(mapping.new),
        v=row_conditions.insert_values(mapping.new, "o"),
        w=row_conditions.wanted(mapping, "o"),
        j=row_conditions.joined(mapping, "o", "n"),
        l=trusted(lock),
    ).as_string(None)


def _comparison(mapping: TableMapping) -> str:
    kinds = composing.SQL(" OR ").join(found.predicate for found in rows.mismatch_kinds(mapping))
    template = composing.SQL("SELECT count(*), count(*) FILTER (WHERE {k}) FROM {t}")
    return template.format(t=qualified_name(mapping.table), k=kinds).as_string(None)


def _comparisons(plan: Plan, table: QualifiedName) -> tuple[str, ...]:
    """What a verification asks of one table."""
    mapping = plan.mapping(table)
    found = [_comparison(mapping)] if mapping.needs_sync else []
    return (
        *found,
        *(composing.Composed([check.count]).as_string(None) for check in promise_checks(plan, table)),
    )


def preview_steps(session: Session, plan: Plan, phase: Phase, *, rollout: int) -> list[PreviewStep]:
    """The steps of one phase as `advance` would run them; those done already are marked."""
    done: set[str] = set()
    if rollout:
        done = {
            record.step
            for record in step_store.all_of(session, rollout, phase)
            if record.status is StepStatus.FINISHED
        }
    return [_preview(step, plan, rollout, step.id in done) for step in plan.of(phase)]


def preview_undo(session: Session, plan: Plan, *, rollout: int) -> list[PreviewStep]:
    """The steps that `rollback` would undo, last first, with what it would send for each."""
    return [
        PreviewStep(
            id=step.id,
            title=step.title,
            phase=step.phase,
            kind="undo",
            locks=step.undo_locks,
            undo=tuple(text for action in step.undo for text in statements_of(action, plan, rollout)),
        )
        for step in to_undo(session, plan, rollout)
    ]


def _preview(step: Step, plan: Plan, rollout: int, done: bool) -> PreviewStep:
    found = plan.estimates.of(step.id) if plan.estimates is not None else None
    return PreviewStep(
        id=step.id,
        title=step.title,
        phase=step.phase,
        kind=step.action.kind,
        statements=statements_of(step.action, plan, rollout),
        locks=step.locks,
        seconds=found.seconds if found is not None else None,
        rows=found.rows if found is not None else None,
        bytes=found.read_bytes if found is not None else None,
        done=done,
        undo=tuple(text for action in step.undo for text in statements_of(action, plan, rollout)),
    )


def rendered_sql(plan: Plan, rollout: int) -> tuple[str, str]:
    """All statements forward and back, for people who read the registry."""
    up: list[str] = []
    down: list[str] = []
    for step in plan.steps:
        up += [
            f"-- {step.phase}: {step.title}",
            *(f"{text};" for text in statements_of(step.action, plan, rollout)),
        ]
    for step in reversed(plan.steps):
        texts = [f"{text};" for action in step.undo for text in statements_of(action, plan, rollout)]
        if texts:
            down += [f"-- undo {step.phase}: {step.title}", *texts]
    return "\n".join(up), "\n".join(down)
