"""copy_columns: columns of the row that a foreign key refers to, copied into the rows that refer to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from zdm.errors import Problem
from zdm.model.mapping import Conflict, Copied
from zdm.model.names import QualifiedName, fit
from zdm.model.plan import Finding, Severity
from zdm.model.promise import Promise
from zdm.model.requests import IndexRequest
from zdm.model.sample import Scenario
from zdm.model.step import (
    Phase,
    Step,
)
from zdm.model.table import Column, Constraint, Table
from zdm.operations.add_foreign_key import AddForeignKey, ForeignKey
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.copy_scenarios import SCENARIOS
from zdm.operations.copy_steps import CopyPlan, clean_up, prepare
from zdm.operations.create_index import CreateIndex
from zdm.operations.params import Name, TableName, check_new_column, find_columns, find_shape
from zdm.operations.replace_key import COMPARED
from zdm.operations.shape import DraftGroup, DraftNew, ShapeColumn, TableShape

_BOUNDED = re.compile(
    r"smallint|integer|bigint|oid|uuid|boolean|date|real|double precision|money|inet|cidr|macaddr8?|interval( .*)?|numeric\(\d+,-?\d+\)"
    r"|(timestamp|time)(\(\d\))? with(out)? time zone|character( varying)?\(([1-4]?\d?\d|500)\)"
)
"""Types no value of which is too long for an entry of an index."""

_ON_UPDATE = re.compile(r" ON UPDATE (CASCADE|RESTRICT|NO ACTION|SET NULL|SET DEFAULT)")
_ON_DELETE = re.compile(r" ON DELETE (?:CASCADE|RESTRICT|NO ACTION|SET NULL|SET DEFAULT)(?: \([^)]*\))?")
_TIMING = re.compile(r" DEFERRABLE(?: INITIALLY DEFERRED)?")


class CopyColumns(Operation):
    """Give rows that refer to another table's row copies of its columns; they follow it, whoever writes."""

    kind: ClassVar[str] = "copy_columns"
    summary: ClassVar[str] = (
        "copy columns of the row that a foreign key refers to into the rows that refer to it, as a tenant's or project's id"
    )

    table: TableName = Field(description="the table whose rows refer to the other one's, and get the columns")
    parent: TableName = Field(description="the table that they refer to, which has the columns")
    reference: tuple[Name, ...] = Field(
        default=(),
        description="the columns of the foreign key by which they do; needed where there is more than one between the two tables",
    )
    columns: dict[Name, Name] = Field(
        min_length=1,
        description="each column that `table` gets, and the column of `parent` that it is a copy of",
    )
    not_null: bool = Field(default=False, description="whether the new version promises NOT NULL")
    conflict: Literal["parent", "refuse"] = Field(
        default="parent",
        description="what becomes of a write of a copy that disagrees: it gets what the parent says, or it is refused (23000)",
    )
    index: bool = Field(
        default=False,
        description="make an index on the new columns, built without blocking once the rows are filled",
    )
    foreign_keys: tuple[ForeignKey, ...] = Field(
        default=(), description="foreign keys of the new columns, as of add_foreign_key"
    )

    scenarios: ClassVar[tuple[Scenario, ...]] = SCENARIOS

    @model_validator(mode="after")
    def _agreeing(self) -> Self:
        cascading = [k for k in self.foreign_keys if k.on_update not in ("no action", "restrict")]
        if self.conflict == "refuse" and cascading:
            raise ValueError(
                "`conflict: refuse` would refuse what a foreign key of the copies with `on_update` writes before the parent follows"
            )
        return self

    def tables(self) -> Sequence[str]:
        return (self.table, self.parent, *(key.references.table for key in self.foreign_keys))

    def _more(self, label: str, table: str) -> tuple[tuple[str, Operation], ...]:
        """The operations that make the indexes and foreign keys."""
        made: list[Operation] = []
        if self.index:
            made.append(
                CreateIndex.model_validate(
                    {
                        "table": self.table,
                        "name": fit(f"{table}_{'_'.join(self.columns)}_idx"),
                        "columns": list(self.columns),
                    }
                )
            )
        made += [AddForeignKey(table=self.table, **dict(key)) for key in self.foreign_keys]
        return tuple((f"{label}/{number}", operation) for number, operation in enumerate(made, 1))

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        return [name for _, one in self._more("", self._bare(draft)) for name in one.names(draft)]

    def _bare(self, draft: Draft) -> str:
        try:
            return draft.name(self.table).name
        except ValueError:
            return self.table

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems)
        parent = find_shape(draft, self.parent, problems, ordinary=True)
        if shape is None or parent is None:
            return problems
        if shape.table.has_children or shape.table.parents:
            problems.append(
                Problem(
                    f"{shape.name} is in a tree of inheritance, to whose tables no foreign key is handed down",
                    remedy="Take it out of the inheritance first (ALTER TABLE … NO INHERIT …), or make it a partitioned table.",
                    rule="not-an-ordinary-table",
                )
            )
        if parent is shape:
            problems.append(
                Problem(
                    f"{shape.name} would copy from itself: a change of one row would have to go on from row to row",
                    remedy="Copy from another table.",
                )
            )
            return problems
        key = self._foreign_key(shape, parent, problems)
        found = self._columns(shape, parent, problems)
        if parent.table.owner != shape.table.owner:
            problems.append(
                Problem(
                    f"{parent.name} belongs to {parent.table.owner}, {shape.name} to {shape.table.owner}: what changes in one could not be "
                    "written to the other",
                    remedy="Give both to one role first (ALTER TABLE … OWNER TO …).",
                    rule="not-owner",
                )
            )
        by = (
            self._by(shape, parent, key, [column.name for column in found], problems)
            if key is not None
            else ()
        )
        for name in self.columns:
            check_new_column(shape, name, problems)
        if problems or key is None:
            return problems
        return self._add(draft, shape, parent, key, by, found, label)

    def _foreign_key(
        self, shape: TableShape, parent: TableShape, problems: list[Problem]
    ) -> Constraint | None:
        """The foreign key by which rows refer to the parent; what stands in the way is appended."""
        keys = [
            c
            for c in shape.table.constraints
            if c.kind == "foreign key"
            and c.references == parent.name
            and c.name not in shape.gone_constraints
        ]
        wanted = {column.physical for column in find_columns(shape, self.reference, problems)}
        chosen = [key for key in keys if not self.reference or set(key.columns) == wanted]
        there = "; ".join(f"{key.name} ({', '.join(key.columns)})" for key in keys)
        if not chosen:
            what = f"of {', '.join(self.reference)} " if self.reference else ""
            problems.append(
                Problem(
                    f"no foreign key {what}of {shape.name} refers to {parent.name}, so nothing says that a row has one there",
                    remedy=f"There is {there}."
                    if keys
                    else "Add one first (add_foreign_key), in a migration of its own.",
                    rule="no-key",
                )
            )
            return None
        if len({frozenset(key.columns) for key in chosen}) > 1:
            problems.append(
                Problem(
                    f"{shape.name} refers to {parent.name} by more than one foreign key: {there}",
                    remedy="Say which in `reference`, by its columns.",
                    rule="no-key",
                )
            )
            return None
        # Of two over the same columns one that is checked at once, and proven, says more.
        key = min(chosen, key=lambda one: (not one.validated, " DEFERRABLE" in one.definition))
        if not key.validated:
            problems.append(
                Problem(
                    f"the foreign key {key.name} is NOT VALID: rows may refer to nothing",
                    remedy=f"VALIDATE CONSTRAINT {key.name} first."
                    if " NOT ENFORCED" not in key.definition
                    else "Let it be enforced first.",
                    rule="no-key",
                )
            )
        action = _ON_UPDATE.search(key.definition)
        if action is not None and action[1].startswith("SET "):
            problems.append(
                Problem(
                    f"the foreign key {key.name} has ON UPDATE {action[1]}, by which rows let go of one whose key changes",
                    remedy="Let it be NO ACTION or CASCADE until cleanup.",
                    rule="no-key",
                )
            )
        if not any(_leads(index.definition, key.columns) for index in shape.table.indexes if index.valid):
            problems.append(
                Problem(
                    f"no index of {shape.name} begins with {' or '.join(key.columns)}: whoever changes {', '.join(self.columns.values())} of "
                    f"a row of {parent.name} would read all of it to find the rows that follow",
                    remedy="Add one first (create_index), in a migration of its own.",
                    rule="reference-without-index",
                )
            )
        return key

    def _columns(self, shape: TableShape, parent: TableShape, problems: list[Problem]) -> list[Column]:
        """The parent's columns; what stands in the way is appended."""
        names = list(self.columns.values())
        found = find_columns(parent, dict.fromkeys(names), problems)
        problems.extend(
            Problem(f"{name} of {parent.name} would be copied twice", remedy="Copy it once.")
            for name in dict.fromkeys(names)
            if names.count(name) > 1
        )
        originals: list[Column] = []
        for shown in found:
            original = None if shown.fresh else parent.original(shown.physical)
            if original is None:
                problems.append(
                    Problem(
                        f"column {shown.name} of {parent.name} is new in this migration",
                        remedy=f"Copy it in a migration of its own, after this one: it has its values by then, and {shape.name} can follow them.",
                    )
                )
                continue
            originals.append(original)
            if original.generated:
                problems.append(
                    Problem(
                        f"column {original.name} of {parent.name} is generated, and changes with the columns that it is generated from",
                        remedy="Copy those, and generate it from them.",
                        rule="reads-generated-column",
                    )
                )
            elif not _indexable(parent.table, original):
                problems.append(
                    Problem(
                        f"column {original.name} of {parent.name} is of type {original.type}, whose values may be too long for an index, by "
                        "which its changes are told apart from others while the rollout runs",
                        remedy="Copy a column of bounded length, or one that an index has already.",
                        rule="copied-type",
                    )
                )
        return originals

    @staticmethod
    def _by(
        shape: TableShape,
        parent: TableShape,
        key: Constraint,
        copied: Sequence[str],
        problems: list[Problem],
    ) -> tuple[tuple[str, str], ...]:
        """The reference's columns with those that they equal; what stands in the way is appended."""
        pointed = next(
            (k for k in parent.table.referenced_by if k.name == key.name and k.references == shape.name), None
        )
        assert pointed is not None, f"{key.name} is not known to {parent.name}"
        problems.extend(
            Problem(
                f"{name} of {parent.name} is part of what {key.name} refers to, so rows of {shape.name} have it already",
                remedy=f"Use {own}, or add a column with `up: {own}` (add_column).",
            )
            for own, name in zip(key.columns, pointed.columns, strict=True)
            if name in copied
        )
        for own, name in zip(key.columns, pointed.columns, strict=True):
            here, there = _column_of(shape, own), _column_of(parent, name)
            if here.collation != there.collation:
                problems.append(
                    Problem(
                        f"{own} of {shape.name} and {name} of {parent.name} have different collations, so they cannot be compared",
                        remedy="Bring both to one collation first (change_type).",
                        rule="no-key",
                    )
                )
            for table, column in (
                (shape.table, _column_of(shape, own)),
                (parent.table, _column_of(parent, name)),
            ):
                if not COMPARED.fullmatch(column.type):
                    problems.append(
                        Problem(
                            f"{column.name} of {table.name} is of type {column.type}, by which rows cannot be looked up in every session alike",
                            remedy="Change its type to an integer, uuid or text first (change_type).",
                            rule="no-key",
                        )
                    )
                if column.generated:
                    problems.append(
                        Problem(
                            f"{column.name} of {table.name} is generated, and has its value only after the triggers",
                            remedy="Refer by a column that is written.",
                            rule="reads-generated-column",
                        )
                    )
        return tuple(zip(key.columns, pointed.columns, strict=True))

    def _add(
        self,
        draft: Draft,
        shape: TableShape,
        parent: TableShape,
        key: Constraint,
        by: tuple[tuple[str, str], ...],
        found: Sequence[Column],
        label: str,
    ) -> list[Problem]:
        """Add the columns to the new version, with what they get; what is wrong with that is returned."""
        copied = Copied(
            table=parent.name,
            oid=parent.table.oid,
            by=by,
            columns=tuple(column.name for column in found),
            cascades=" ON UPDATE CASCADE" in key.definition,
            deferrable=" DEFERRABLE" in key.definition,
        )
        group = DraftGroup(
            name=", ".join(self.columns),
            operation=label,
            conflict=Conflict.REFUSE if self.conflict == "refuse" else Conflict.OLD,
            copied=copied,
        )
        for name, column in zip(self.columns, found, strict=True):
            new = DraftNew(
                physical=shape.physical_name(name),
                final=name,
                type=column.type,
                not_null=self.not_null,
                collation=column.collation,
            )
            group.new.append(new)
            shape.columns.append(
                ShapeColumn(new.final, new.physical, new.type, new.not_null, None, fresh=True)
            )
        shape.groups.append(group)
        for own, name in by:
            shape.uses[own] = parent.uses[name] = f"the copies in {', '.join(self.columns)}"
        for name in copied.columns:
            parent.uses[name] = f"the copies in {shape.name}"
        draft.findings += self._findings(shape, parent, label)
        more = self._more(label, shape.name.name)
        action = _ON_DELETE.search(key.definition)
        timing = _TIMING.search(key.definition)
        tail = (action[0] if action else "") + (timing[0] if timing else "")
        draft.memo[label] = CopyPlan(shape, group, copied, len(shape.groups) - 1, tail, more)
        return [problem for name, one in more for problem in one.apply(draft, name)]

    def _findings(self, shape: TableShape, parent: TableShape, label: str) -> Iterator[Finding]:
        names = ", ".join(self.columns.values())
        yield Finding(
            severity=Severity.NOTE,
            text=f"until cleanup a statement that changes {names} of {parent.name} also writes all its rows of {shape.name}, and waits "
            f"for transactions that add such rows; from cleanup on the application itself keeps {', '.join(self.columns)}",
            where=label,
        )

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        found: CopyPlan = context.draft.memo[context.label]
        steps = [
            step.model_copy(update={"operation": context.label})
            for label, one in found.more
            for step in one.plan(phase, replace(context, label=label))
        ]
        if phase is Phase.PREPARATION:
            return [*prepare(found, context), *steps]
        if phase is Phase.CLEANUP:
            return [*clean_up(found, context), *steps]
        return steps

    def indexes(self, context: Context) -> Sequence[IndexRequest]:
        found: CopyPlan = context.draft.memo[context.label]
        return [r for label, one in found.more for r in one.indexes(replace(context, label=label))]

    def promises(self, context: Context) -> list[Promise]:
        found: CopyPlan = context.draft.memo[context.label]
        return [p for label, one in found.more for p in one.promises(replace(context, label=label))]


def _column_of(shape: TableShape, name: str) -> Column:
    """A column that is known to be there."""
    found = shape.table.column(name)
    assert found is not None
    return found


def _leads(definition: str, columns: Sequence[str]) -> bool:
    """Whether rows of one value of these columns are found by the index, as the server spells it."""
    _, found, tail = definition.partition(" USING btree (")
    if not found or " WHERE " in tail:
        return False
    first = re.match(r'("(?:[^"]|"")*"|[^ ,()]+)(?=[ ,)])', tail)
    return first is not None and first[1].strip('"').replace('""', '"') in columns


def _indexable(table: Table, column: Column) -> bool:
    """Whether no value of the column is too long for an entry of an index."""
    if column.type_kind == "enum" or _BOUNDED.fullmatch(column.type):
        return True
    keyed = [c.columns for c in table.constraints if c.kind in {"primary key", "unique", "foreign key"}]
    keyed += [
        i.columns
        for i in table.indexes
        if i.valid and " USING btree (" in i.definition and " WHERE " not in i.definition
    ]
    return (column.name,) in keyed and column.type_kind == "base"
