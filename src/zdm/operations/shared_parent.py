"""The shared table of rows that repeat a value: made by the migration, or there already."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pydantic import Field

from zdm.errors import Problem
from zdm.model.names import Value
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import SideKind
from zdm.model.table import Table
from zdm.operations.add_foreign_key import ForeignKey
from zdm.operations.base import Draft
from zdm.operations.create_table import Check, CreateTable, Privilege, TableColumn, UniqueKey
from zdm.operations.params import Name, find_column, find_shape
from zdm.operations.rows import DraftParent, DraftSide
from zdm.operations.shape import TableShape
from zdm.operations.target import loose_key, readable, required


class ParentTable(Value):
    """The shared table to make."""

    columns: tuple[TableColumn, ...] = Field(
        min_length=1, description="its columns, those of `values` included"
    )
    primary_key: tuple[Name, ...] = Field(min_length=1, description="the primary key's columns")
    unique: tuple[UniqueKey, ...] = Field(
        default=(), description="unique constraints besides the one over the columns of `values`"
    )
    checks: tuple[Check, ...] = Field(default=(), description="check constraints")
    foreign_keys: tuple[ForeignKey, ...] = Field(default=(), description="foreign keys")
    indexes: tuple[tuple[Name, ...], ...] = Field(default=(), description="columns of further indexes")
    comment: str | None = Field(default=None, description="its comment")
    grants: dict[Name, tuple[Privilege, ...]] = Field(
        default_factory=dict, description="privileges by role; PUBLIC is the role of everybody"
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a migration file says of a shared table.

    Parameters
    ----------
    natural: the columns by which a row of it is found.
    identity: the columns by which it is referred to, and where the file says so.
    """

    table: str
    natural: tuple[str, ...]
    identity: tuple[str, ...]
    said: str


@dataclass(frozen=True, slots=True)
class Made:
    """A table that the migration makes: under which label it keeps what it found out, and the columns of its indexes."""

    label: str
    table: CreateTable
    indexes: tuple[tuple[str, ...], ...]


def made_parent(
    draft: Draft, wanted: Wanted, create: ParentTable, label: str, problems: list[Problem]
) -> tuple[DraftSide, Made] | None:
    """The shared table that the migration makes; what stands in the way is appended."""
    names = [c.name for c in create.columns]
    missing = [name for name in wanted.natural if name not in names]
    problems.extend(
        Problem(
            f"there is no column {name} in {wanted.table}, which `values` names",
            remedy=f"`create` gives it {', '.join(names)}.",
            rule="unknown-column",
        )
        for name in missing
    )
    # A key over a column that is not there would be told as well.
    own = bool(missing) or any(set(key.columns) == set(wanted.natural) for key in create.unique)
    table = CreateTable(
        name=wanted.table,
        columns=tuple(
            c.model_copy(update={"not_null": True}) if c.name in wanted.natural else c for c in create.columns
        ),
        primary_key=create.primary_key,
        unique=create.unique if own else (UniqueKey(columns=wanted.natural), *create.unique),
        checks=create.checks,
        foreign_keys=create.foreign_keys,
        comment=create.comment,
        grants=create.grants,
    )
    if wanted.identity != create.primary_key:
        problems.append(
            Problem(
                f"`{wanted.said}` names {', '.join(wanted.identity)} of {wanted.table}, whose primary key is "
                f"{', '.join(create.primary_key)}",
                remedy="Let it name the primary key's columns, in their order.",
                rule="no-key",
            )
        )
    problems.extend(
        Problem(
            f"column {c.name} of {wanted.table} is NOT NULL without a default: rows made of the old version's values have none for it",
            remedy="Give it a default, or add it to `values`.",
        )
        for c in create.columns
        if (c.not_null or c.name in create.primary_key)
        and c.name not in wanted.natural
        and c.default is None
        and c.identity is None
        and c.generated is None
    )
    problems += table.apply(draft, f"{label}/parent")
    if problems:
        return None
    side = DraftSide(
        table=draft.name(wanted.table),
        oid=0,
        kind=SideKind.ROWS,
        key=list(wanted.natural),
        columns=[],
        readable=[(c.name, draft.type(c.type), c.collation) for c in table.columns],
        created=True,
    )
    return side, Made(f"{label}/parent", table, create.indexes)


def shared_parent(wanted: Wanted, made: DraftParent, problems: list[Problem]) -> DraftSide | None:
    """The shared table that an earlier operation of the same migration makes; what stands in the way is appended."""
    before = len(problems)
    name = made.side.table
    if set(wanted.natural) != set(made.side.key):
        problems.append(
            Problem(
                f"`values` names {', '.join(wanted.natural)} of {name}, whose rows an earlier operation of this migration finds by "
                f"{', '.join(made.side.key)}",
                remedy="Let both name the same columns.",
                rule="no-key",
            )
        )
    if list(wanted.identity) != made.identity:
        problems.append(
            Problem(
                f"`{wanted.said}` names {', '.join(wanted.identity)} of {name}, whose primary key is {', '.join(made.identity)}",
                remedy="Let it name the primary key's columns, in their order.",
                rule="no-key",
            )
        )
    if len(problems) > before:
        return None
    return replace(made.side, key=list(wanted.natural))


def found_parent(
    draft: Draft, wanted: Wanted, source: TableShape, label: str, problems: list[Problem]
) -> DraftSide | None:
    """The shared table that exists; what stands in the way is appended."""
    other = find_shape(draft, wanted.table, problems, ordinary=True)
    if other is None:
        return None
    table = other.table
    if other.changed:
        problems.append(
            Problem(
                f"table {other.name} is changed by this migration, and gets rows by it",
                remedy="Change it in one migration, and normalise in the next.",
            )
        )
    for name in wanted.natural:
        find_column(other, name, problems)
    for what, names in (("the natural key", wanted.natural), ("what rows refer to", wanted.identity)):
        remedy = "Add the unique constraint first; without it two rows could be made for one value."
        problems.extend(loose_key(table, names, remedy, called=what))
    given = [c.name for c in table.columns if required(c) and c.name not in wanted.natural]
    if given:
        draft.findings.append(
            Finding(
                severity=Severity.WARNING,
                text=f"no row of {table.name} is made, since {', '.join(given)} must be given: a row whose value has none there is recorded "
                "in zdm.sync_failures, and refuses the gates, until it has",
                where=label,
            )
        )
    if source.table.owner != table.owner:
        problems.append(
            Problem(
                f"{table.name} belongs to {table.owner}, {source.name} to {source.table.owner}: what mirrors one in the other has the "
                "rights of one of them only",
                remedy="Give both to one role first.",
                rule="not-owner",
            )
        )
    if other is source:
        problems.append(Problem("a table cannot be the parent of its own rows"))
    return DraftSide(
        table=table.name,
        oid=table.oid,
        kind=SideKind.ROWS,
        key=list(wanted.natural),
        columns=[],
        readable=readable(table),
    )


_SPREADS = re.compile(r" ON DELETE (CASCADE|SET NULL|SET DEFAULT)")


def refuse_to_remove(parent: Table, problems: list[Problem]) -> None:
    """An unused parent cannot go where its end would change rows of other tables, which may well use it."""
    problems.extend(
        Problem(
            f"a row of {parent.name} that no row has any more would be removed, and with it what {key.name} of {table} does "
            f"({found.group(0).strip()})",
            remedy="Leave out `unused: remove`; remove what nobody uses after cleanup.",
        )
        for key in parent.referenced_by
        if (table := key.references) is not None and (found := _SPREADS.search(key.definition))
    )
