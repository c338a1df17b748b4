"""What the new version will demand of rows: read by the server at plan time, measured then, and counted by every verification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from zdm.db.promises import (
    Added,
    Measured,
    carried_key,
    key_operators,
    measure_promise,
    read_promise,
    refused_key,
)
from zdm.db.session import Session
from zdm.errors import Problem
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Plan, Severity
from zdm.model.promise import Demand, Promise
from zdm.operations import fidelity
from zdm.operations.base import Context, Draft
from zdm.operations.migration import Migration
from zdm.sql.fence import aside, effective, fenced_columns
from zdm.sql.promises import Source, violations
from zdm.sql.rows import render
from zdm.verify.run import ExtraCheck


def find_promises(
    conn: Session,
    migration: Migration,
    contexts: Sequence[Context],
    mappings: Mapping[QualifiedName, TableMapping],
    *,
    measure: bool = True,
) -> tuple[list[Promise], list[Finding], list[Problem]]:
    """Every promise that can be counted, as the server reads it; what a reviewer should know of those that rows break now; and
    foreign keys that the server would not have.

    Parameters
    ----------
    measure: count on the rows as they are.
    """
    draft = contexts[0].draft
    asked = [
        promise
        for operation, context in zip(migration.operations, contexts, strict=True)
        for promise in operation.promises(context)
    ]
    asked += fidelity.promises(contexts[0])
    kept: list[Promise] = []
    findings: list[Finding] = []
    problems: list[Problem] = []
    for wanted in asked:
        try:
            promise = _read(conn, draft, wanted)
        except psycopg.Error as error:
            if error.sqlstate is None or conn.closed:
                raise
            findings.append(_uncountable(wanted, error.diag.message_primary or str(error)))
            continue
        parent = promise.references
        if parent is not None and draft.existing(parent) is not None:
            said = refused_key(conn, promise, _added(draft, promise.table), _added(draft, parent))
            if said:
                problems.append(
                    Problem(f"the server refuses the foreign key {promise.name}: {said}", promise.operation)
                )
                continue
        mapping, there = _mapping(draft, mappings, promise.table), _mapping(draft, mappings, parent)
        unfilled = _unfilled(promise.reads, mapping)
        created = parent is not None and parent in draft.created
        if parent is not None and not created:
            unfilled |= _unfilled(promise.referenced, there)
        if unfilled or created or not measure:
            if draft.following(promise.table) is not None:
                kept.append(promise)
            continue
        found = measure_promise(
            conn,
            promise,
            _planned(promise.table, mapping, draft),
            _planned(parent, there, draft) if parent is not None else None,
            key_operators(conn, promise),
        )
        if draft.following(promise.table) is None:
            # Nothing is mapped there, so no verification looks at it: both sides agree now or the key cannot follow.
            problems += _apart(promise, found)
            continue
        if not found.impossible:
            kept.append(promise)
        findings += _finding(promise, found)
    return kept, findings, problems


def _mapping(
    draft: Draft, mappings: Mapping[QualifiedName, TableMapping], table: QualifiedName | None
) -> TableMapping | None:
    """The mapping of a table's rows, which is another's if it is a part of that."""
    shape = draft.following(table) if table is not None else None
    return mappings.get(shape.mapped_as) if shape is not None else None


def _added(draft: Draft, table: QualifiedName) -> list[Added]:
    shape = draft.following(table)
    return [(n.physical, n.type, n.collation) for n in shape.all_new()] if shape is not None else []


def _read(conn: Session, draft: Draft, promise: Promise) -> Promise:
    if promise.demand is Demand.FOREIGN_KEY and not promise.keys:
        found = carried_key(conn, promise.table, promise.name)
        assert found is not None, promise.name
        columns, referenced, full = found
        assert promise.references is not None
        successors = _successors(draft, promise.table)
        there = _successors(draft, promise.references)
        reads = tuple(successors.get(column, column) for column in columns)
        return promise.model_copy(
            update={
                "keys": tuple(sql.Identifier(column).as_string(None) for column in reads),
                "reads": reads,
                "referenced": tuple(there.get(column, column) for column in referenced),
                "match_full": full,
            }
        )
    return read_promise(conn, promise, _added(draft, promise.table))


def _successors(draft: Draft, table: QualifiedName) -> dict[str, str]:
    shape = draft.following(table)
    new = shape.all_new() if shape is not None else []
    return {n.replaces: n.physical for n in new if n.replaces is not None}


def _unfilled(columns: Sequence[str], mapping: TableMapping | None) -> bool:
    """Whether some of the columns will be there, but what is in them is not known before."""
    if mapping is None:
        return False
    there = {c.physical for c in mapping.old_columns}
    # What is looked up elsewhere is looked up in what is not there before preparation.
    derived = {
        n.name for group in mapping.groups for n in group.new if n.up is not None and not group.elsewhere
    }
    return not set(columns) <= there | derived


def _planned(table: QualifiedName, mapping: TableMapping | None, draft: Draft) -> Source:
    """The table as it will be once it is filled: new columns are what `up` makes of the row."""
    if mapping is None:
        known = draft.tables.get(table)
        return Source(
            table, {}, known.key if known is not None else (), known is not None and known.has_children
        )
    derived: dict[str, sql.Composable] = {
        new.name: sql.SQL("CAST({} AS {})").format(render(new.up), sql.SQL(new.type))
        for group in mapping.groups
        for new in group.new
        if new.up is not None and not group.elsewhere
    }
    return Source(table, derived, mapping.key, mapping.has_children)


def _finding(promise: Promise, found: Measured) -> list[Finding]:
    if found.impossible:
        return [_uncountable(promise, found.unknown)]
    if found.unknown:
        return [
            Finding(
                severity=Severity.NOTE,
                text=f"which rows of {promise.table} break {promise.label} was not counted, because {found.unknown}; "
                "the verification of phase 2 counts them",
                where=promise.operation,
            )
        ]
    if not found.count:
        return []
    rows = "1 row" if found.count == 1 else f"{found.count} rows"
    verb = "breaks" if found.count == 1 else "break"
    return [
        Finding(
            severity=Severity.WARNING,
            text=f"{rows} of {promise.table} {verb} {promise.label} as things are (for example "
            f"{'; '.join(found.samples)}); correct them before switchover, whose gate refuses until then",
            where=promise.operation,
            rule="rows-break-constraint",
        )
    ]


def _apart(promise: Promise, found: Measured) -> list[Problem]:
    """A foreign key of a table that the migration leaves alone, whose values are not found on the new side."""
    if not found.count:
        return []
    rows = "1 row" if found.count == 1 else f"{found.count} rows"
    return [
        Problem(
            f"{rows} of {promise.table} would break {promise.label}, since `up` makes another value of the key that they"
            f" refer to (for example {'; '.join(found.samples)})",
            where=promise.operation,
            remedy=f"Change the columns of {promise.table} in the same migration with the same `up`.",
            rule="rows-break-constraint",
        )
    ]


def _uncountable(promise: Promise, why: str) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        text=f"rows of {promise.table} that break {promise.label} cannot be counted beforehand ({why.strip()}); "
        "if there are any, the step that adds it fails, and can be repeated once they are corrected",
        where=promise.operation,
        rule="rows-break-constraint",
    )


def promise_checks(
    plan: Plan, table: QualifiedName, *, fenced: bool = False, conn: Session | None = None
) -> list[ExtraCheck]:
    """The promises about one table, as the verification asks them while both sides exist.

    Parameters
    ----------
    fenced: names that only the old version uses are set aside at the moment.
    conn: asked which operators foreign keys compare with; without it pg_catalog's are taken, which is good enough to be read.
    """
    checks: list[ExtraCheck] = []
    for promise in plan.promised(table):
        parent = promise.references
        queries = violations(
            promise,
            _present(plan, promise.table, table, fenced=fenced),
            _present(plan, parent, parent, fenced=fenced) if parent is not None else None,
            key_operators(conn, promise) if conn is not None else (),
        )
        checks.append(ExtraCheck(name=promise.label, count=queries.count, samples=queries.samples))
    return checks


def _present(plan: Plan, table: QualifiedName, mapped: QualifiedName, *, fenced: bool) -> Source:
    """A table, or a part of one that is `mapped`."""
    planned = next((m for m in plan.mappings if m.table == mapped), None)
    if planned is None:
        return Source(table, {})
    now = effective(planned, fenced=fenced)
    renamed: dict[str, sql.Composable] = (
        {name: sql.Identifier(aside(name)) for name in fenced_columns(planned)} if fenced else {}
    )
    named = now.table if table == mapped else table
    return Source(named, renamed, planned.key, planned.has_children)
