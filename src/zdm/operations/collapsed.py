"""collapse of rows that either version writes: the old one rows of a table, the new one columns of the row that they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from zdm.errors import Problem
from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import SideKind, SyncMode, WithoutOldForm
from zdm.model.table import Column, Table
from zdm.operations.add_column import AddColumn
from zdm.operations.base import Draft
from zdm.operations.elements import Form
from zdm.operations.gathered import Gathered
from zdm.operations.rows import DraftElements, DraftMirrored, DraftRows, DraftSide
from zdm.operations.shape import TableShape
from zdm.operations.target import named_once, readable, required, without_old_form


@dataclass(frozen=True, slots=True)
class BothWays:
    """What `collapse` is with `elements`; the parts as its parameters."""

    to: str
    key: Mapping[str, str]
    elements: Sequence[str]
    element_key: Sequence[str]
    form: Form | None
    columns: Sequence[Gathered]
    down: str | None
    order: str | None
    where: str | None
    lossy: bool
    discard: Sequence[str]

    @property
    def _element_key(self) -> list[str]:
        return list(self.element_key or self.elements[:1])

    def additions(self, many: Table) -> list[AddColumn]:
        """The columns that are made."""
        given = {c.column: c for c in self.columns}
        names = self.form.held if self.form is not None else tuple(given)
        return [
            AddColumn(
                table=self.to,
                column=name,
                type=self._type(given.get(name), many),
                default=given[name].empty if name in given else None,
                not_null=given[name].not_null if name in given else False,
                comment=given[name].comment if name in given else None,
            )
            for name in names
        ]

    def _type(self, c: Gathered | None, many: Table) -> str:
        if c is not None and c.type is not None:
            return c.type
        assert self.form is not None
        value = many.column(self.elements[-1])
        if self.form.json_array is not None or self.form.json_object is not None:
            return "jsonb"
        if self.form.delimited is not None or value is None:
            return "text"
        return f"{value.type}[]" if self.form.array is not None else value.type

    # --- what is wrong with it ------------------------------------------------------------------------------------------

    def check(self, draft: Draft, shape: TableShape, problems: list[Problem]) -> None:
        """Append what stands in the way, as far as the table of the rows tells."""
        many = shape.table
        if draft.sync is SyncMode.LOGGED:
            problems.append(
                Problem(
                    f"columns that {many.name} follows as well (`elements`) are not offered with `sync: logged`",
                    remedy="Use `sync: immediate`; or `one_way: true`.",
                    rule="logged-sync",
                )
            )
        self._check_names(many, problems)
        named = [c.column for c in self.columns]
        if self.form is not None:
            problems.extend(
                Problem(
                    f"{name} of `columns` is none of the columns that `into` fills", rule="unknown-column"
                )
                for name in named
                if name not in self.form.held
            )
        for add in self.additions(many):
            if draft.type(add.type) == "json":
                problems.append(
                    Problem(
                        f"column {add.column} would be json, of which two texts may say the same",
                        remedy="Make it jsonb.",
                    )
                )
            if add.default is not None and (add.type, add.default) not in draft.instant_columns:
                problems.append(
                    Problem(
                        f"column {add.column} of {self.to} would have {add.default} where {many.name} has no row, which is another value "
                        "each time",
                        remedy="Say with `empty` what it holds there: a constant, or NULL.",
                        rule="add-column-rewrites",
                    )
                )

    def _check_names(self, many: Table, problems: list[Problem]) -> None:
        known = [*self.key, *self.elements]
        wanted = [*known, *self.discard]
        problems.extend(named_once(many, wanted))
        problems.extend(
            Problem(f"{name} is none of `elements`", rule="unknown-column")
            for name in (*self.element_key, *([self.order] if self.order else []))
            if name not in self.elements
        )
        problems.extend(
            Problem(
                f"column {c.name} of {many.name} is neither part of `key` or `elements` nor discarded",
                remedy="Name it in `elements`, or in `discard` if what it holds may go: with a row that the new version takes away, and with the "
                "table.",
            )
            for c in many.columns
            if c.name not in wanted
        )
        problems.extend(
            Problem(
                f"column {c.name} of {many.name} is NOT NULL without a default: rows that the new version makes have no value for it",
                remedy="Name it in `elements`, or give it a default first.",
                rule="missing-down",
            )
            for c in many.columns
            if c.name not in known and required(c)
        )
        problems.extend(
            Problem(
                f"column {c.name} of {many.name} is generated, so that it cannot be written back",
                remedy="Name the column that it is computed from.",
            )
            for c in many.columns
            if c.name in known and c.generated
        )

    # --- what it means --------------------------------------------------------------------------------------------------

    def rows(
        self, draft: Draft, many: Table, other: TableShape, added: Sequence[AddColumn], label: str
    ) -> list[Problem]:
        """Add the mapping to the draft, once the columns are there; or say what is wrong with it."""
        problems: list[Problem] = []
        one = other.table
        columns = [c for name in self.elements if (c := many.column(name)) is not None]
        fresh = {c.name: c for c in other.columns if c.fresh}
        held = [
            Column(
                name=add.column,
                number=0,
                type=draft.type(add.type),
                not_null=add.not_null,
                default=add.default,
            )
            for add in added
        ]
        problems += [
            Problem(
                f"column {c.name} of {one.name} is changed by this migration, and filled by it under its name",
                remedy="Give the new column another name, or do the two one after the other.",
                rule="column-exists",
            )
            for c in held
            if fresh[c.name].physical != c.name
        ]
        down, ups, order = self.down, [c.up or "" for c in self.columns], self.order
        nothing = {c.column: c.empty for c in self.columns if c.empty is not None}
        if self.form is not None:
            down, ups, order = self.form.expand(
                [(c.name, c.type) for c in columns],
                self._element_key,
                held,
                problems,
                defaults_say_nothing=True,
            )
            if self.form.nothing is not None:
                nothing = {held[0].name: self.form.nothing}
        if down is None or problems:
            return problems
        draft.rows.append(
            DraftRows(
                operation=label,
                old=DraftSide(
                    table=many.name,
                    oid=many.oid,
                    kind=SideKind.ROWS,
                    key=[*self.key, *self._element_key],
                    columns=[],
                    readable=readable(many),
                ),
                new=DraftSide(
                    table=one.name,
                    oid=one.oid,
                    kind=SideKind.COLUMNS,
                    key=list(self.key.values()),
                    columns=[],
                    readable=[*readable(one), *((c.name, c.type, None) for c in held)],
                ),
                lossy=self.lossy,
                elements=DraftElements(
                    one="new",
                    of=list(self.key),
                    key=self._element_key,
                    columns=[
                        DraftMirrored(
                            name=c.name, type=c.type, value="", collation=c.collation, not_null=c.not_null
                        )
                        for c in columns
                    ],
                    held=[
                        DraftMirrored(name=c.name, type=c.type, value="", not_null=c.not_null) for c in held
                    ],
                    split=down,
                    join=ups,
                    order=order,
                    where=self.where,
                    empty={c.column: c.empty for c in self.columns if c.empty is not None},
                    nothing=nothing,
                ),
            )
        )
        draft.findings += self._held_back(many, one.name, label)
        return self._noted(draft, many.name, one.name, label)

    def _held_back(self, many: Table, one: QualifiedName, label: str) -> Iterator[Finding]:
        for key in many.constraints:
            if key.kind != "foreign key" or key.references != one or set(key.columns) != set(self.key):
                continue
            if "ON DELETE CASCADE" not in key.definition:
                yield Finding(
                    severity=Severity.WARNING,
                    text=f"foreign key {key.name} of {many.name} keeps its say until cleanup: a row of {one} that has any of its rows is not deleted "
                    "by either version. If the new one is to, make it ON DELETE CASCADE first",
                    where=label,
                )

    def _noted(self, draft: Draft, many: QualifiedName, one: QualifiedName, label: str) -> list[Problem]:
        rows = ["one that is not filled yet, until migration is complete (55000)"]
        if not self.lossy:
            rows.append(f"one that rows of {many} cannot say as it is (23514)")
        if self.discard:
            draft.findings.append(
                Finding(
                    severity=Severity.WARNING,
                    text=f"{', '.join(self.discard)} of {many} have no new form: what they hold goes with a row that the new version takes away",
                    where=label,
                )
            )
        return without_old_form(draft, label, WithoutOldForm.REFUSE, many, one, rows)
