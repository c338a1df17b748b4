"""collapse: what many rows say of one row, together, becomes columns of that row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Self

from psycopg import sql
from pydantic import Field, model_validator

from zdm.errors import Problem
from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import SideKind, SyncMode
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Step
from zdm.model.table import Table
from zdm.operations import ddl
from zdm.operations.add_column import AddColumn
from zdm.operations.base import Context, Draft, Operation, readable_names
from zdm.operations.collapse_scenarios import SCENARIOS
from zdm.operations.collapsed import BothWays
from zdm.operations.create_table import TableColumn
from zdm.operations.drop_table import DropTable
from zdm.operations.elements import Form
from zdm.operations.gathered import Gathered, WriteBack, check_back
from zdm.operations.params import Name, Sql, TableName, find_column, find_shape
from zdm.operations.rows import DraftElements, DraftMirrored, DraftRows, DraftSide
from zdm.operations.shape import TableShape
from zdm.operations.target import (
    MadeTable,
    Target,
    keys_of,
    loose_key,
    make_table,
    readable,
    table_steps,
)


class Collapse(Operation):
    """Keep in columns of a row what the rows of another table say of it: an aggregate, the latest of them, or all of them."""

    kind: ClassVar[str] = "collapse"
    summary: ClassVar[str] = "turn many rows into columns of one"

    table: TableName = Field(description="the table with many rows")
    to: TableName = Field(description="the table with one row for them, which gets the columns")
    create: MadeTable | None = Field(
        default=None,
        description="make `to`: a row for each key, as long as `table` has any of it; without it, `to` exists already",
    )
    key: dict[Name, Name] = Field(
        min_length=1,
        description="which rows belong to which: each such column of `table`, and the key column of `to` that it refers to",
    )
    columns: tuple[Gathered, ...] = Field(
        default=(), description="the columns to make; with `into` only what is to be said of them besides"
    )
    where: Sql | None = Field(
        default=None,
        description="which rows of `table` count, over its columns; with `elements` over those of `key` and `element_key`; the others are left alone",
    )
    elements: tuple[Name, ...] = Field(
        default=(),
        description="either version writes: the columns of `table` that an element fills, in the order in which `down` gives them",
    )
    element_key: tuple[Name, ...] = Field(
        default=(),
        description="which of them tell the elements of one row apart; the first one, if not given",
    )
    into: Form | None = Field(
        default=None,
        description="with `elements`: how the columns hold them, instead of their `up` and `down`",
    )
    down: Sql | None = Field(
        default=None,
        description="with `elements`: a SELECT over the new version's columns of `to`: a row for each element, as `elements`",
    )
    order: Name | None = Field(
        default=None,
        description="the column of `elements` that only says in which order they come, so that gaps in it mean nothing",
    )
    lossy: bool = Field(
        default=False, description="with `elements`: rows that do not come back as they were are accepted"
    )
    discard: tuple[Name, ...] = Field(
        default=(),
        description="with `elements`: columns of `table` that have no new form, and what they hold may go",
    )
    one_way: bool = Field(
        default=False,
        description="true: that the new version's writes of these columns have no old form is declared; or give `write_back`",
    )
    write_back: WriteBack | None = Field(
        default=None,
        description="what becomes of the new version's writes of columns with `latest`: a row of `table` for each, with these values",
    )
    drop: bool = Field(default=False, description="cleanup drops `table`; it stays, if not given")

    scenarios: ClassVar[tuple[Scenario, ...]] = SCENARIOS

    @model_validator(mode="after")
    def _one_way_or_back(self) -> Self:
        if [self.one_way, self.write_back is not None, bool(self.elements)].count(True) != 1:
            raise ValueError(
                "one of three: `one_way: true` declares that the new version's writes of these columns have no old form; `write_back` says which "
                "row of `table` each of them makes (`insert`, for columns with `latest`); `elements` names the columns of the rows that they are"
            )
        (self._check_both_ways if self.elements else self._check_gathered)()
        return self

    def _check_both_ways(self) -> None:
        if self.create is not None:
            raise ValueError("with `elements` the columns are those of a table that exists, without `create`")
        if (self.into is None) == (self.down is None):
            raise ValueError(
                "with `elements`, either `into`, or `down` and an `up` of each column, says how they are held"
            )
        for c in self.columns:
            if c.latest is not None:
                raise ValueError(
                    f"column {c.column}: `latest` is no place for all `elements`; use `write_back`"
                )
            if (c.up is None) != (self.into is not None):
                raise ValueError(f"column {c.column}: `up` goes with `down`; `into` knows it")
        if self.into is not None and self.order is not None:
            raise ValueError("`order` goes with `down`; `into` knows it")
        if self.into is None and not self.columns:
            raise ValueError("`columns` are needed: those to make")

    def _check_gathered(self) -> None:
        both = {"into": self.into, "down": self.down, "order": self.order, "element_key": self.element_key}
        for name, value in {**both, "lossy": self.lossy, "discard": self.discard}.items():
            if value:
                raise ValueError(f"`{name}` goes with `elements`")
        if not self.columns:
            raise ValueError("`columns` are needed: those to make")
        for c in self.columns:
            if (c.up is None) == (c.latest is None):
                raise ValueError(f"column {c.column}: either `up` or `latest` says what it holds")
            if c.not_null or c.empty is not None:
                raise ValueError(
                    f"column {c.column}: `empty` and `not_null` go with `elements`; `up` says what it holds without rows"
                )

    @property
    def _both_ways(self) -> BothWays | None:
        """What it is with `elements`."""
        if not self.elements:
            return None
        return BothWays(
            self.to,
            self.key,
            self.elements,
            self.element_key,
            self.into,
            self.columns,
            self.down,
            self.order,
            self.where,
            self.lossy,
            self.discard,
        )

    def tables(self) -> Sequence[str]:
        return (self.table, self.to) if self.create is None else (self.table, *self.create.referenced)

    def types(self) -> Sequence[str]:
        own = self.create.columns if self.create is not None else ()
        return (*(c.type for c in self.columns if c.type is not None), *(c.type for c in own))

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        return () if self.create is None else readable_names((self.to,), draft.target)

    def column_additions(self, draft: Draft) -> Sequence[tuple[str, str | None]]:
        both = self._both_ways
        if both is not None:
            found = [
                draft.tables[name]
                for name in readable_names((self.table,), draft.target)
                if name in draft.tables
            ]
            return tuple((add.type, add.default) for many in found for add in both.additions(many))
        return () if self.create is not None else tuple((type_, None) for type_ in self.types())

    # --- what it means ------------------------------------------------------------------------------------------------

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        if self.write_back is not None and draft.sync is SyncMode.LOGGED:
            problems.append(
                Problem(
                    f"`write_back` inserts a row into {self.table} for each write of the new version; with `sync: logged` it is known only "
                    "that something was written, not what came between",
                    remedy="Use `sync: immediate`, or `one_way: true`, and let the new version insert these rows itself.",
                    rule="logged-sync",
                )
            )
        if self.where is not None and not self.elements and draft.sync is SyncMode.LOGGED:
            problems.append(
                Problem(
                    f"`where`, which says which rows of {self.table} count, is not offered with `sync: logged`",
                    remedy="Use `sync: immediate`.",
                    rule="logged-sync",
                )
            )
        shape = find_shape(draft, self.table, problems, ordinary=True)
        if self.create is not None:
            return problems if shape is None or problems else self._into_new(draft, shape, self.create, label)
        other = find_shape(draft, self.to, problems, ordinary=True)
        if shape is None or other is None or problems:
            return problems
        many, one = shape.table, other.table
        self._check(shape, other, problems)
        both = self._both_ways
        if both is not None:
            both.check(draft, shape, problems)
        if problems:
            return problems
        if both is not None:
            return self._collapsed(draft, both, shape, other, label)
        gathered = [self._gathered(c, many, problems) for c in self.columns]
        if problems:
            return problems
        made = [
            (
                AddColumn(table=self.to, column=c.column, type=type_, collation=collation, comment=c.comment),
                up,
            )
            for c, (type_, collation, up) in zip(self.columns, gathered, strict=True)
        ]
        held: list[DraftMirrored] = []
        for number, (c, (add, _)) in enumerate(zip(self.columns, made, strict=True)):
            problems += add.apply(draft, f"{label}/{number}")
            found = next((s for s in other.columns if s.name == c.column and s.fresh), None)
            if found is not None:
                held.append(
                    DraftMirrored(
                        name=found.physical, type=draft.type(add.type), value="", collation=add.collation
                    )
                )
        if problems:
            return problems
        new = DraftSide(
            table=one.name,
            oid=one.oid,
            kind=SideKind.COLUMNS,
            key=list(self.key.values()),
            columns=[],
            readable=readable(one),
        )
        over = [(name, name, type_, collation) for name, type_, collation in readable(one)]
        over += [(c.column, h.name, h.type, h.collation) for c, h in zip(self.columns, held, strict=True)]
        draft.rows.append(self._rows(label, many, new, held, [up for _, up in made], over))
        draft.memo[label] = [add for add, _ in made]
        return self._noted(draft, f"{', '.join(c.column for c in self.columns)} of {one.name}", many, label)

    def _collapsed(
        self, draft: Draft, both: BothWays, shape: TableShape, other: TableShape, label: str
    ) -> list[Problem]:
        """Make the columns, which either version writes."""
        added = both.additions(shape.table)
        problems = [
            problem for number, add in enumerate(added) for problem in add.apply(draft, f"{label}/{number}")
        ]
        problems = problems or both.rows(draft, shape.table, other, added, label)
        draft.memo[label] = added
        return problems or self._dropping(draft, label)

    def _rows(
        self,
        label: str,
        many: Table,
        new: DraftSide,
        held: list[DraftMirrored],
        join: list[str],
        over: list[tuple[str, str, str, str | None]],
    ) -> DraftRows:
        append = self.write_back.insert if self.write_back is not None else {}
        return DraftRows(
            operation=label,
            old=DraftSide(
                table=many.name,
                oid=many.oid,
                kind=SideKind.ROWS,
                key=list(self.key),
                columns=[],
                readable=readable(many),
            ),
            new=new,
            one_way=True,
            loggable=True,
            elements=DraftElements(
                one="new",
                of=list(self.key),
                key=[],
                columns=[],
                held=held,
                split=None,
                join=join,
                where=self.where,
                written=[h.name for c, h in zip(self.columns, held, strict=True) if append and c.latest],
                append=dict(append),
                over=over,
            ),
        )

    def _noted(self, draft: Draft, what: str, many: Table, label: str) -> list[Problem]:
        text = f"until cleanup {what} only follows from {many.name}: what the new version writes there is refused, since it has no old form"
        if self.write_back is not None:
            written = ", ".join(c.column for c in self.columns if c.latest)
            text += f"; but for {written}, of which each write inserts a row into {many.name}, and is refused if that does not come last"
        draft.findings.append(Finding(severity=Severity.NOTE, text=text))
        return self._dropping(draft, label)

    def _dropping(self, draft: Draft, label: str) -> list[Problem]:
        if not self.drop:
            return []
        drop = DropTable(table=self.table)
        draft.memo[f"{label}/dropping"] = drop
        return drop.apply(draft, f"{label}/drop")

    def _into_new(self, draft: Draft, shape: TableShape, create: MadeTable, label: str) -> list[Problem]:
        """Make the table, with a row for each key."""
        problems: list[Problem] = []
        many = shape.table
        self._check_many(shape, problems)
        gathered = [self._gathered(c, many, problems) for c in self.columns]
        names = [*self.key.values(), *(c.column for c in self.columns)]
        problems += [
            Problem(f"{self.to} would have two columns called {name}")
            for name in dict.fromkeys(names)
            if names.count(name) > 1
        ]
        problems += [
            Problem(
                f"column {c.name} of {self.to} is NOT NULL without a default: rows that the old version makes have no value for it",
                remedy="Give it a default.",
            )
            for c in create.columns
            if c.not_null and not (c.default or c.identity or c.generated)
        ]
        if problems:
            return problems
        pairs = list(zip(self.columns, gathered, strict=True))
        keys = keys_of({name: source for source, name in self.key.items()}, many)
        held = [
            DraftMirrored(name=c.column, type=draft.type(type_), value="", collation=collation)
            for c, (type_, collation, _) in pairs
        ]
        target = make_table(
            draft,
            shape,
            self.to,
            keys,
            [
                TableColumn(name=c.column, type=type_, collation=collation, comment=c.comment)
                for c, (type_, collation, _) in pairs
            ],
            [],
            create,
            f"{label}/table",
            problems,
        )
        if target is None:
            return problems
        over = [(name, name, type_, collation) for name, type_, collation in target.side.readable]
        # What it says follows from rows of `table` and its key: it is computed before there is a row.
        target.side.readable = [found for found in target.side.readable if found[0] in target.side.key]
        joins = [up for _, _, up in gathered]
        draft.rows.append(self._rows(label, many, target.side, held, joins, over))
        draft.memo[label] = target
        return self._noted(draft, f"{target.side.table}", many, label)

    def _check_many(self, shape: TableShape, problems: list[Problem]) -> None:
        for name in self.key:
            find_column(shape, name, problems)
        if self.write_back is not None:
            check_back(shape, self.key, self.columns, self.write_back, problems)
        if not any(
            i.valid and "WHERE" not in i.definition and set(i.columns[: len(self.key)]) == set(self.key)
            for i in shape.table.indexes
        ):
            problems.append(
                Problem(
                    f"no index of {shape.name} begins with ({', '.join(self.key)}): each row would be looked for in the whole table",
                    remedy="Create it first (create_index).",
                    rule="no-key",
                )
            )
        if shape.groups or shape.removed or shape.final_name != shape.name.name:
            problems.append(
                Problem(
                    f"table {shape.name} is changed by this migration, and collapsed by it",
                    remedy="Change it in one migration, and collapse it in the next.",
                )
            )

    def _check(self, shape: TableShape, other: TableShape, problems: list[Problem]) -> None:
        many, one = shape.table, other.table
        self._check_many(shape, problems)
        if many.name == one.name:
            problems.append(
                Problem(
                    "a table's rows cannot be collapsed into the table itself",
                    remedy="Give the columns a table of their own (`create`), whose rows have the key of those that are referred to.",
                )
            )
        wanted = tuple(self.key.values())
        problems.extend(loose_key(one, wanted))
        if not any(
            c.kind == "foreign key"
            and c.references == one.name
            and set(c.columns) == set(self.key)
            and c.validated
            and "DEFERRABLE" not in c.definition
            for c in many.constraints
        ):
            problems.append(
                Problem(
                    f"({', '.join(self.key)}) of {many.name} has no valid foreign key to {one.name} that is not deferrable: "
                    "rows that belong to none have no new form",
                    remedy=f"Add it first (add_foreign_key). Where rows of several tables share {many.name}, let those of this one have a table of "
                    "their own first (split_table with `where`, and `foreign_keys` and `indexes` in `create`).",
                    rule="no-key",
                )
            )
        if many.owner != one.owner:
            problems.append(
                Problem(
                    f"{many.name} belongs to {many.owner}, {one.name} to {one.owner}: what mirrors one in the other has the rights of one "
                    "of them only",
                    remedy="Give both to one role first.",
                    rule="not-owner",
                )
            )

    def _gathered(self, c: Gathered, many: Table, problems: list[Problem]) -> tuple[str, str | None, str]:
        """The column's type, its collation, and the aggregate that fills it."""
        type_, collation, up = c.type, None, c.up
        if c.latest is not None:
            found = many.column(c.latest)
            problems.extend(
                Problem(f"there is no column {name} in {many.name}", rule="unknown-column")
                for name in (c.latest, *c.by)
                if many.column(name) is None
            )
            if type_ is None and found is not None:
                type_, collation = found.type, found.collation
            type_ = type_ or "text"
            # Of two that come last together the key decides.
            order = [*c.by, *(name for name in many.key if name not in c.by)]
            up = ddl.text(
                "(array_agg({c} ORDER BY {o}))[1]",
                c=ddl.ident(c.latest),
                o=sql.SQL(", ").join(sql.SQL("{} DESC NULLS LAST").format(ddl.ident(name)) for name in order),
            )
        assert type_ is not None
        assert up is not None
        return type_, collation, up

    # --- steps --------------------------------------------------------------------------------------------------------

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        steps: list[Step] = []
        made = context.draft.memo[context.label]
        if isinstance(made, Target):
            steps += table_steps(made, phase, context)
            made = []
        for number, add in enumerate(made):
            steps += [
                step.model_copy(update={"operation": context.label})
                for step in add.plan(phase, replace(context, label=f"{context.label}/{number}"))
            ]
        if self.drop:
            drop: DropTable = context.draft.memo[f"{context.label}/dropping"]
            steps += [
                step.model_copy(update={"operation": context.label})
                for step in drop.plan(phase, replace(context, label=f"{context.label}/drop"))
            ]
        return steps
