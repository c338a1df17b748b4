"""The key of a table that takes another one's place, its indexes and constraints, and the foreign keys that point at it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from zdm.errors import Problem
from zdm.model.names import QualifiedName, fit, qualified
from zdm.model.plan import Finding, Severity
from zdm.model.requests import CarriedColumn, CarryRequest
from zdm.model.row_mapping import SyncMode
from zdm.model.table import Constraint, Index, Table
from zdm.operations import ddl
from zdm.operations.base import Draft
from zdm.operations.partitioning import partitions_of
from zdm.operations.shadow_params import ShadowParams, schema_of
from zdm.operations.shadows import Shadow, ShadowColumn, ShadowIndex, carry_key
from zdm.operations.shape import TableShape
from zdm.operations.target import quoted, unique_over


def shadow_of(
    asked: ShadowParams,
    draft: Draft,
    shape: TableShape,
    columns: tuple[ShadowColumn, ...],
    label: str,
    problems: list[Problem],
) -> Shadow | None:
    """The new table with its key, by which rows belong together; None if there is no such key."""
    table, by = shape.table, asked.partition_by
    old_key = table.key
    if not old_key or not unique_over(table, old_key):
        problems.append(
            Problem(
                f"{table.name} has no key by which its rows could be mirrored",
                remedy="Add a primary key first, or a unique constraint over NOT NULL columns.",
                rule="no-key",
            )
        )
        return None
    key = asked.primary_key or old_key
    if by is not None and not asked.primary_key:
        key = (*key, *(c for c in by.columns if c not in key))
    if by is not None and (missing := [c for c in by.columns if c not in key]):
        problems.append(
            Problem(
                f"the primary key ({', '.join(key)}) does not contain {', '.join(missing)}, by which the table is partitioned",
                remedy=f"Add {', '.join(missing)} to `primary_key`.",
                rule="unique-without-partition-key",
            )
        )
    shown = {c.name: c for c in columns}
    for name in key:
        c = shown.get(name)
        if c is None:
            problems.append(Problem(f"the key column {name} is not in the new table", rule="unknown-column"))
        elif c.source is None or c.source.type != c.type or c.value != quoted(name) or c.back != quoted(name):
            problems.append(
                Problem(
                    f"the key column {name} of {table.name} is not the same in both tables, so their rows could not be told to belong together",
                    remedy="Add it, fill it and make it unique in a migration before (add_column, change_type); then it can become the key.",
                    rule="no-key",
                )
            )
        elif not c.source.not_null:
            problems.append(
                Problem(
                    f"the key column {name} of {table.name} may be NULL",
                    remedy=f"set_not_null {name} in a migration before.",
                    rule="no-key",
                )
            )
    shadow_name = qualified(schema_of(draft), table.name.name)
    logged = draft.sync is SyncMode.LOGGED
    # What the old key names is one row for the old version, whatever else is in the new key: by log, that is what a write is of.
    named = old_key if logged and set(old_key) < set(key) else key
    if set(key[: len(named)]) != set(named):
        problems.append(
            Problem(
                f"the primary key ({', '.join(key)}) of the new {table.name} does not begin with ({', '.join(named)}), by which rows "
                "that are synced by log are looked for",
                remedy=f"Begin `primary_key` with {', '.join(named)}, or use `sync: immediate`.",
                rule="logged-sync",
            )
        )
    found = Shadow(
        table,
        shadow_name,
        label,
        tuple(key),
        tuple(named),
        columns,
        logged=logged,
        partitioned=by is not None,
    )
    if by is not None:
        found.partitions = partitions_of(table.name, by, asked.partitions, problems)
        found.complete = by.by == "hash" or any(spec.default for spec in asked.partitions)
    if not unique_over(table, named):
        found.extra_index = fit(f"_zdm_{table.name.name}_key")
    return found


def collect(
    asked: ShadowParams, draft: Draft, shape: TableShape, shadow: Shadow, problems: list[Problem]
) -> None:
    """What is built later: indexes and unique constraints after the rows, foreign keys before switchover."""
    table = shape.table
    known = {c.name for c in table.constraints} | {i.name for i in table.indexes}
    problems += [
        Problem(f"there is no index or constraint {name} on {table.name}", rule="unknown-column")
        for name in asked.without
        if name not in known
    ]
    left = {*asked.without, *shape.gone_indexes, *shape.gone_constraints}
    draft.findings += _checked_row_by_row(shadow, left)
    for index in table.indexes:
        if index.name in left or index.constraint in left or index.primary:
            continue
        backed = next((c for c in table.constraints if c.name == index.constraint), None)
        if backed is not None and backed.kind != "unique":
            continue
        if is_gone(asked, index.columns, f"the index {index.name}", table, problems):
            continue
        _carry_index(asked, shadow, index, backed, problems)
    for unique in asked.unique:
        name = unique.name or fit(f"{table.name.name}_{'_'.join(unique.columns)}_key")
        body = ddl.text(
            "UNIQUE ({columns})" if shadow.partitioned else "USING btree ({columns})",
            columns=ddl.idents(unique.columns),
        )
        shadow.indexes.append(ShadowIndex(name, body=body, unique=True, constraint=True))
    for constraint in table.constraints:
        if constraint.kind != "foreign key" or constraint.name in left:
            continue
        if is_gone(asked, constraint.columns, f"the foreign key {constraint.name}", table, problems):
            continue
        if constraint.references == table.name:
            _refuse_key(constraint, f"points at {table.name} itself", problems)
            continue
        if not constraint.validated:
            _refuse_key(constraint, "is NOT VALID", problems)
            continue
        shadow.own.append(constraint)
        shadow.carries.append(_key_request(shadow, table, constraint, None))
    _others(asked, draft, shadow, problems)


def _refuse_key(key: Constraint, why: str, problems: list[Problem]) -> None:
    problems.append(
        Problem(
            f"the foreign key {key.name} {why}, and cannot be carried over",
            remedy=f"Name {key.name} in `without`, and add it again afterwards; or validate it first.",
            rule="cannot-be-carried",
        )
    )


def is_gone(
    asked: ShadowParams, columns: Sequence[str], what: str, table: Table, problems: list[Problem]
) -> bool:
    """Whether something stands on a column that the new table has not; told as a problem."""
    gone = [c for c in columns if c in asked.drop]
    if gone:
        problems.append(
            Problem(
                f"{what} of {table.name} stands on {', '.join(gone)}, which the new table has not",
                remedy=f"Name {what.rpartition(' ')[2]} in `without`.",
                rule="hangs-on-column",
            )
        )
    return bool(gone)


def _carry_index(
    asked: ShadowParams, shadow: Shadow, index: Index, backed: Constraint | None, problems: list[Problem]
) -> None:
    by = asked.partition_by
    if not index.valid:
        problems.append(
            Problem(
                f"the index {index.name} of {shadow.old.name} is invalid",
                remedy=f"DROP INDEX CONCURRENTLY {index.name} first.",
            )
        )
        return
    if index.unique and by is not None and (missing := [c for c in by.columns if c not in index.columns]):
        problems.append(
            Problem(
                f"the unique index {index.name} of {shadow.old.name} does not contain {', '.join(missing)}, by which the new table is "
                "partitioned, so the server cannot keep it unique over all partitions",
                remedy=f"Name {index.name} in `without` if it may go.",
                rule="unique-without-partition-key",
            )
        )
        return
    timing = ""
    if backed is not None and " DEFERRABLE" in backed.definition:
        timing = " DEFERRABLE INITIALLY " + (
            "DEFERRED" if backed.definition.endswith(" DEFERRED") else "IMMEDIATE"
        )
    kind = "unique" if backed is not None and shadow.partitioned else "index"
    name = backed.name if backed is not None else index.name
    request = CarryRequest(
        key=carry_key(shadow.old.name, name),
        table=shadow.old.name,
        kind=kind,  # type: ignore[arg-type]
        name=name,
        columns=_retyped(shadow),
        where=shadow.label,
    )
    shadow.carries.append(request)
    shadow.indexes.append(
        ShadowIndex(
            name, carry=request.key, unique=index.unique, constraint=backed is not None, timing=timing
        )
    )


def _key_request(
    shadow: Shadow, child: Table, key: Constraint, instead: QualifiedName | None
) -> CarryRequest:
    return CarryRequest(
        key=carry_key(shadow.old.name, f"{child.name}/{key.name}"),
        table=child.name,
        kind="foreign key",
        name=key.name,
        columns=_retyped(shadow) if child is shadow.old else (),
        references=key.references,
        referenced=() if child is shadow.old else _retyped(shadow),
        instead=instead,
        where=shadow.label,
    )


def _others(asked: ShadowParams, draft: Draft, shadow: Shadow, problems: list[Problem]) -> None:
    keys = {frozenset(shadow.key)} | {frozenset(u.columns) for u in asked.unique}
    for index in shadow.indexes:
        if index.unique and index.carry:
            keys |= {frozenset(i.columns) for i in shadow.old.indexes if index.name in {i.name, i.constraint}}
    for pointing in shadow.old.referenced_by:
        if pointing.references is None or pointing.references == shadow.old.name:
            continue
        child = draft.existing(pointing.references)
        other = draft.shapes.get(pointing.references)
        if other is not None and (pointing.name in other.gone_constraints or other.dropped):
            continue
        what = f"the foreign key {pointing.name} of {pointing.references}"
        key = next(
            (c for c in (child.constraints if child is not None else ()) if c.name == pointing.name), None
        )
        why = ""
        if child is None or key is None or child.partitioned:
            why = "is of a table that is partitioned, or cannot be read"
        elif not child.may_alter:
            why = f"belongs to {child.owner}, of which the connected role is no member"
        elif not key.validated:
            why = "is NOT VALID"
        elif other is not None and (other.groups or other.removed):
            why = "is of a table that this migration changes"
        elif frozenset(pointing.columns) not in keys:
            why = f"points at ({', '.join(pointing.columns)}), which is no unique key of the new table"
        if why:
            problems.append(
                Problem(
                    f"{what} {why}, so it cannot be pointed at the new {shadow.old.name}",
                    remedy=f"Add drop_constraint {pointing.name} before this operation, or give the new table a key that it can point at.",
                    rule="referenced-by-foreign-key",
                )
            )
            continue
        assert child is not None
        assert key is not None
        if shadow.logged:
            problems.append(
                Problem(
                    f"{what} points at a row of {shadow.old.name}: with `sync: logged` one that the new version inserts is not there yet "
                    "when something refers to it",
                    remedy=f"Add drop_constraint {pointing.name} in a migration before this one and add_foreign_key in one after it, or "
                    "use `sync: immediate`.",
                    rule="logged-sync",
                )
            )
            continue
        shadow.others.append((child, key))
        shadow.carries.append(_key_request(shadow, child, key, shadow.name))


def _retyped(shadow: Shadow) -> tuple[CarriedColumn, ...]:
    return tuple(
        CarriedColumn(old=c.name, new=c.name, type=c.type, collation=c.collation)
        for c in shadow.columns
        if c.source is not None and (c.type != c.source.type or c.collation != c.source.collation)
    )


def _checked_row_by_row(shadow: Shadow, left: Collection[str]) -> list[Finding]:
    """Keys that wait for the end of the statement, which a mirror that writes row by row does not reach."""
    late = [
        c
        for c in shadow.old.constraints
        if c.kind in {"primary key", "unique"} and c.name not in left and " DEFERRABLE" in c.definition
    ]
    told = (
        "rows are carried over one by one: two that exchange their values wait for each other, which refuses the gates, until one is given "
        "another value for a moment"
        if shadow.logged
        else "rows are mirrored one by one: until cleanup a statement of the new version that exchanges its values fails, and one of the old "
        "version leaves rows for `zdm verify --repair`. A constraint that is INITIALLY DEFERRED has no such trouble"
    )
    return [
        Finding(
            severity=Severity.WARNING,
            text=f"{c.name} of {shadow.old.name} is checked at the end of a statement, but {told}",
            where=shadow.label,
        )
        for c in late
        if shadow.logged or not c.definition.endswith(" INITIALLY DEFERRED")
    ]
