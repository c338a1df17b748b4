"""extract_json with `to`: the fields of a document become columns of another table, one row for each."""

from __future__ import annotations

from typing import Protocol

from zdm.errors import Problem
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import Presence, SideKind, SyncMode, WithoutOldForm
from zdm.model.step import Phase, Step
from zdm.model.table import Column
from zdm.operations.base import Context, Draft
from zdm.operations.create_table import TableColumn
from zdm.operations.elements import foreign_key_of
from zdm.operations.json_documents import Documents, JsonField, Remove
from zdm.operations.move_columns import CreatedTable
from zdm.operations.rows import DraftMirrored, DraftRows, DraftSide
from zdm.operations.shape import ShapeColumn, TableShape
from zdm.operations.target import (
    Target,
    existing_table,
    key_must_cascade,
    keys_of,
    lent_defaults,
    make_table,
    readable,
    refuse_loose_key,
    required,
    table_steps,
    without_old_form,
)


class IntoTable(Protocol):
    """What a migration file says of the fields, and of their table."""

    @property
    def to(self) -> str | None: ...
    @property
    def key(self) -> dict[str, str]: ...
    @property
    def create(self) -> CreatedTable | None: ...
    @property
    def rows(self) -> Presence: ...
    @property
    def without_old_form(self) -> WithoutOldForm: ...
    @property
    def fields(self) -> tuple[JsonField, ...]: ...
    @property
    def remove(self) -> Remove: ...
    @property
    def lossy(self) -> bool: ...


def into_table(
    said: IntoTable, draft: Draft, shape: TableShape, column: ShapeColumn, original: Column, label: str
) -> list[Problem]:
    """Map the rows of the table to rows of the other one, by the document."""
    problems: list[Problem] = []
    if said.create is not None and said.to is not None:
        problems += key_must_cascade(draft, said.create.foreign_key, said.to, shape.name)
    documents = Documents(original, Remove.NOTHING, said.fields, draft)
    target = _target(said, draft, shape, documents, label, problems)
    if target is None or problems:
        return problems
    old = DraftSide(
        table=shape.name,
        oid=shape.table.oid,
        kind=SideKind.COLUMNS,
        key=list(said.key.values()),
        columns=[
            DraftMirrored(
                name=original.name,
                type=original.type,
                value=documents.down,
                collation=original.collation,
                not_null=original.not_null,
                cleared=documents.rest,
                over_both=True,
                # A field that is put back by an expression may depend on other columns.
                apart=all(found.down is None for found in said.fields),
            )
        ],
        readable=readable(shape.table),
        required=[c.name for c in shape.table.columns if required(c) and c.name not in said.key.values()],
    )
    problems += without_old_form(
        draft,
        label,
        said.without_old_form,
        shape.name,
        target.side.table,
        [
            f"one that no row of {shape.name} has (23503)"
            if said.create is None or said.create.foreign_key is None
            else f"one that no row of {shape.name} has is refused by the foreign key in any case (23503)",
            f"one that puts a value beneath something in {original.name} that is no object (22023)",
        ],
    )
    draft.rows.append(
        DraftRows(
            operation=label,
            old=old,
            new=target.side,
            presence=said.rows,
            lossy=said.lossy,
            without_old_form=said.without_old_form,
            loggable=True,
        )
    )
    if said.remove is Remove.COLUMN:
        shape.columns.remove(column)
        shape.removed.append(column.physical)
    draft.memo[label] = (shape, target, original)
    own = [c.name for c in said.create.columns] if said.create else []
    draft.findings.append(
        Finding(
            severity=Severity.NOTE,
            text=f"what the new version writes to {', '.join(own)} of {target.side.table} has no old form, and goes in a rollback"
            if own
            else f"a rollback carries back what the new version writes to {target.side.table}, in the documents of {shape.name}",
            where=label,
        )
    )
    return problems


def into_table_steps(said: IntoTable, phase: Phase, context: Context) -> list[Step]:
    """The steps that make the table, besides those of the mapping."""
    shape, target, original = context.draft.memo[context.label]
    steps = table_steps(target, phase, context)
    if phase is Phase.PREPARATION and said.remove is Remove.COLUMN:
        # The new version does not know the document, and yet its rows must have one until cleanup.
        lent = [(original, "'{}'")] if original.not_null and original.default is None else []
        steps += lent_defaults(shape, lent, context.draft.target, context.label, "extract_json")
    if phase is Phase.MIGRATION and said.create is not None and said.create.foreign_key is not None:
        steps += foreign_key_of(
            target.side.table,
            said.key,
            shape.name,
            said.create.foreign_key,
            context.label,
            logged=context.draft.sync is SyncMode.LOGGED,
        )
    return steps


def check_into_table(said: IntoTable, shape: TableShape, original: Column, problems: list[Problem]) -> None:
    """Append what stands in the way of a table of their own."""
    refuse_loose_key(shape.table, tuple(said.key.values()), problems)
    if original.name in said.key.values():
        problems.append(Problem(f"column {original.name} is both the document and part of the key"))
    if original.generated:
        problems.append(
            Problem(
                f"column {original.name} of {shape.name} is a generated column, which cannot be written back",
                remedy="Leave it where it is, or make it a plain column first.",
            )
        )
    names = [*(found.final for found in said.fields), *said.key]
    problems.extend(
        Problem(
            f"{said.to} would have two columns called {name}",
            remedy="Name one of them with `to` of its field." if name in said.key else "",
        )
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    )


def _target(
    said: IntoTable,
    draft: Draft,
    shape: TableShape,
    documents: Documents,
    label: str,
    problems: list[Problem],
) -> Target | None:
    assert said.to is not None
    columns = [
        DraftMirrored(
            name=found.final,
            type=draft.type(found.type),
            value=documents.up(found),
            collation=found.collation,
            not_null=found.not_null,
        )
        for found in said.fields
    ]
    if said.create is None:
        return existing_table(draft, shape, said.to, said.key, columns, problems)
    made = [
        TableColumn(
            name=found.final,
            type=found.type,
            not_null=found.not_null,
            default=found.default,
            collation=found.collation,
        )
        for found in said.fields
    ]
    return make_table(
        draft,
        shape,
        said.to,
        keys_of(said.key, shape.table),
        made,
        columns,
        said.create,
        f"{label}/table",
        problems,
        primary_key=said.create.primary_key,
    )
