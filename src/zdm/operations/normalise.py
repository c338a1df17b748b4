"""normalise: a value of a table's rows becomes a row of a table that they share, and a reference or a link to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value, qualified
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import SideKind, SyncMode, UnusedParents, WithoutOldForm
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Step
from zdm.model.table import Column
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.normalise_scenarios import SCENARIOS
from zdm.operations.params import Name, Sql, TableName, by_name, find_column, find_shape, names_too
from zdm.operations.parent_link import LinkTable
from zdm.operations.parent_reference import ReferenceColumns
from zdm.operations.rows import DraftMirrored, DraftParent, DraftRows, DraftSide
from zdm.operations.shape import DraftGroup, DraftNew, ShapeColumn, TableShape
from zdm.operations.shared_parent import (
    Made,
    ParentTable,
    Wanted,
    found_parent,
    made_parent,
    refuse_to_remove,
    shared_parent,
)
from zdm.operations.target import made_steps, readable, tell_granted, tell_secured, without_old_form


class HeldColumn(Value):
    """A column that holds the value in the old version; its name alone stands for one that is the natural key's value."""

    column: Name = Field(description="the column")
    down: Sql | None = Field(
        default=None,
        description="its value, over the parent's columns and, where the parent has none of that name, the row's own",
    )
    empty: Sql | None = Field(
        default=None,
        description="what it holds where the row has no parent, over the row's columns; its default or NULL if not given",
    )
    keep: bool = Field(
        default=False, description="it stays in the new version, because it holds other things as well"
    )


class Normalise(Operation):
    """Replace a value that many rows repeat by a row of a shared table, found or made by its natural key, and a reference to it."""

    kind: ClassVar[str] = "normalise"
    summary: ClassVar[str] = "turn a repeated value into a row of a shared table"

    table: TableName = Field(description="the table whose rows hold the value")
    columns: tuple[HeldColumn, ...] = Field(
        min_length=1,
        description="where the old version holds it, by name or in detail",
        json_schema_extra=names_too,
    )
    parent: TableName = Field(description="the shared table")
    values: dict[Name, Sql] = Field(
        min_length=1,
        description="the parent's natural key, which must be unique: each column, and its value over the old version's columns",
    )
    where: Sql | None = Field(
        default=None,
        description="which rows have a parent, over the old version's columns; those for which no value is NULL, if not given",
    )
    reference: ReferenceColumns | None = Field(
        default=None, description="columns that `table` gets, which refer to the parent; or `link`"
    )
    link: LinkTable | None = Field(default=None, description="the table that links rows with parents")
    create: ParentTable | None = Field(
        default=None,
        description="make `parent`; without it, `parent` exists already, or an earlier operation of the migration makes it",
    )
    unused: UnusedParents = Field(
        default=UnusedParents.KEEP,
        description="keep or remove a parent when the old version lets go of the last row that has it",
    )
    lossy: bool = Field(default=False, description="values that do not come back as they were are accepted")
    without_old_form: WithoutOldForm = Field(
        default=WithoutOldForm.REFUSE,
        description="with `link`: a link that `table` has no form for: refuse to write it, or record it, so that a rollback keeps it",
    )

    scenarios: ClassVar[tuple[Scenario, ...]] = SCENARIOS

    @field_validator("columns", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return by_name(value)

    def tables(self) -> Sequence[str]:
        if self.create is None:
            return (self.table, self.parent)
        return (self.table, *(key.references.table for key in self.create.foreign_keys))

    @model_validator(mode="after")
    def _one_of_two(self) -> Normalise:
        if (self.link is None) == (self.reference is None):
            raise ValueError(
                "a row has its parent either by a `reference`, columns of the table itself, or by a `link`, a table between the two: "
                f"{'neither is' if self.link is None else 'both are'} given"
            )
        if self.link is None and self.without_old_form is WithoutOldForm.RECORD:
            raise ValueError(
                "`without_old_form: record` needs a `link`: with a `reference` both forms are in one row, and what only the new version "
                "could say of it would be gone from both"
            )
        return self

    def types(self) -> Sequence[str]:
        made = self.create.columns if self.create is not None else ()
        return tuple(c.type for c in (*made, *(self.link.columns if self.link is not None else ())))

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        wanted = [self.parent] if self.create is not None else []
        try:
            found = [draft.name(name) for name in (*wanted, *([self.link.table] if self.link else []))]
            if self.reference is not None:
                table = draft.name(self.table)
                found.append(qualified(table.schema_, self.reference.index_name(table)))
        except ValueError:
            return ()
        return tuple(found)

    # --- what it means ------------------------------------------------------------------------------------------------

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems, ordinary=True)
        if shape is None:
            return problems
        held = self._held(shape, problems, logged=draft.sync is SyncMode.LOGGED)
        if self.reference is not None and draft.sync is SyncMode.LOGGED:
            self.reference.check_logged(
                shape, self.parent, remove=self.unused is UnusedParents.REMOVE, problems=problems
            )
        if self.link is not None:
            self.link.check(shape, [found.column for found in self.columns], problems)
        made: list[Made] = []
        side = self._parent(draft, shape, label, made, problems)
        if side is None or problems:
            return problems
        if self.link is not None:
            link = self.link.make(draft, shape, side, label, problems)
            if link is None or problems:
                return problems
            new, one = link
            made.append(one)
            problems += self._without_old_form(draft, shape.name, new.table, label)
            if problems:
                return problems
            draft.rows.append(self._rows(shape, held, side, new, label))
            shape.removed += [column.physical for found, column, _ in held if not found.keep]
            refer: list[DraftNew] = []
        else:
            refer = self._refer(draft, shape, held, side, label, problems)
            if problems:
                return problems
            new = side
        for found, column, _ in held:
            if not found.keep:
                shape.columns.remove(column)
        for one in made:
            tell_secured(draft, shape, draft.name(one.table.name), label)
            tell_granted(draft, [shape.table], one.table, label)
        draft.memo[label] = (shape, side, new, refer, made)
        draft.findings += self._notes(side, held)
        return []

    def _parent(
        self, draft: Draft, shape: TableShape, label: str, made: list[Made], problems: list[Problem]
    ) -> DraftSide | None:
        self._refuse_shared(draft, problems)
        link, reference = self.link, self.reference
        pairs = link.parent if link is not None else reference.columns if reference is not None else {}
        wanted = Wanted(
            table=self.parent,
            natural=tuple(self.values),
            identity=tuple(pairs.values()),
            said="link.parent" if link is not None else "reference",
        )
        if self.create is None:
            sharing = self._sharing(draft)
            if sharing and sharing[0].side.created:
                return shared_parent(wanted, sharing[0], problems)
            side = found_parent(draft, wanted, shape, label, problems)
            if side is not None and self.unused is UnusedParents.REMOVE:
                refuse_to_remove(draft.tables[side.table], problems)
            return side
        found = made_parent(draft, wanted, self.create, label, problems)
        if found is None:
            return None
        side, one = found
        made.append(one)
        return side

    def _sharing(self, draft: Draft) -> list[DraftParent]:
        """The parents in the same table that earlier operations of the migration have."""
        try:
            name = draft.name(self.parent)
        except ValueError:
            return []
        return [
            rows.parent for rows in draft.rows if rows.parent is not None and rows.parent.side.table == name
        ]

    def _refuse_shared(self, draft: Draft, problems: list[Problem]) -> None:
        """Whoever removes a parent that its own rows have no more asks no row of another operation."""
        sharing = self._sharing(draft)
        if sharing and UnusedParents.REMOVE in {self.unused, *(parent.unused for parent in sharing)}:
            problems.append(
                Problem(
                    f"rows of {sharing[0].side.table} are the parents of another operation of this migration as well, and would be removed when one "
                    "of the two has no use for them",
                    remedy="Leave out `unused: remove`; remove what nobody uses after cleanup.",
                )
            )

    def _refer(
        self,
        draft: Draft,
        shape: TableShape,
        held: Sequence[tuple[HeldColumn, ShapeColumn, Column]],
        side: DraftSide,
        label: str,
        problems: list[Problem],
    ) -> list[DraftNew]:
        assert self.reference is not None
        at = min(shape.columns.index(column) for _, column, _ in held)
        news = self.reference.add(draft, shape, side, at, [column.name for _, column, _ in held], problems)
        if problems:
            return []
        new = DraftSide(
            table=shape.name,
            oid=shape.table.oid,
            kind=SideKind.COLUMNS,
            key=list(shape.table.key),
            columns=[],
            readable=readable(shape.table),
        )
        draft.rows.append(self._rows(shape, held, side, new, label, refer=news))
        shape.groups.append(
            DraftGroup(
                name=", ".join(column.name for _, column, _ in held),
                operation=label,
                old={column.physical: None for _, column, _ in held},
                new=news,
                lossy=self.lossy,
                parent=len(draft.rows),
            )
        )
        return news

    def _rows(
        self,
        shape: TableShape,
        held: Sequence[tuple[HeldColumn, ShapeColumn, Column]],
        side: DraftSide,
        new: DraftSide,
        label: str,
        refer: Sequence[DraftNew] = (),
    ) -> DraftRows:
        if self.link is not None:
            key, pairs = list(self.link.source.values()), self.link.parent
            foreign_key = self.link.key_name(new.table, pairs)
        else:
            assert self.reference is not None
            key, pairs = list(shape.table.key), self.reference.columns
            foreign_key = self.reference.key_name(shape)
        old = DraftSide(
            table=shape.name,
            oid=shape.table.oid,
            kind=SideKind.COLUMNS,
            key=key,
            columns=[
                DraftMirrored(
                    name=column.name,
                    type=column.type,
                    value=found.down or self._same(found.column),
                    collation=column.collation,
                    not_null=column.not_null,
                    empty=found.empty or column.default,
                )
                for found, _, column in held
            ],
            readable=readable(shape.table),
        )
        return DraftRows(
            operation=label,
            old=old,
            new=new,
            where=self.where,
            without_old_form=self.without_old_form,
            parent=DraftParent(
                side=side,
                values=list(self.values.values()),
                identity=list(pairs.values()),
                reference=[column.physical for column in refer] or list(pairs),
                foreign_key=foreign_key,
                unused=self.unused,
                lossy=self.lossy,
            ),
            loggable=self.reference is not None,
        )

    def _without_old_form(
        self, draft: Draft, old: QualifiedName, new: QualifiedName, label: str
    ) -> list[Problem]:
        rows = [
            f"one beyond the first of a row of {old}, which holds one value (21000)",
            f"one to a row of {self.parent} that differs in what {old} says of {', '.join(self.values)} besides (23000)",
            f"one whose row of {old} is not there is refused in any case (23503)",
        ]
        return without_old_form(draft, label, self.without_old_form, old, new, rows)

    def _notes(
        self, side: DraftSide, held: Sequence[tuple[HeldColumn, ShapeColumn, Column]]
    ) -> Iterable[Finding]:
        texts = [
            f"a rollback carries back which row of {side.table} a row has, by {', '.join(self.values)}; other columns of {side.table}, "
            f"and rows of it that no row of {self.table} has, have no old form"
            + (
                "; the former go, the latter are kept in zdm.rows_without_old_form"
                if side.created
                else "; what was added to it stays"
            ),
        ]
        kept = [column.name for found, _, column in held if found.keep]
        if kept:
            texts.append(
                f"{', '.join(kept)} of {self.table} keeps the old value after cleanup; nothing follows it then"
            )
        return [Finding(severity=Severity.NOTE, text=text) for text in texts]

    def _same(self, column: str) -> str:
        """The natural key's column whose value is this column as it is."""
        name = next(
            name
            for name, value in self.values.items()
            if value in {column, ddl.ident(column).as_string(None)}
        )
        return ddl.ident(name).as_string(None)

    def _held(
        self, shape: TableShape, problems: list[Problem], *, logged: bool
    ) -> list[tuple[HeldColumn, ShapeColumn, Column]]:
        held: list[tuple[HeldColumn, ShapeColumn, Column]] = []
        for found in self.columns:
            column = find_column(shape, found.column, problems)
            if column is None:
                continue
            original = None if column.fresh else shape.original(column.physical)
            if original is None or column.name != column.physical:
                problems.append(
                    Problem(
                        f"column {column.name} of {shape.name} is changed by this migration, and normalised by it",
                        remedy="Change it in one migration, and normalise it in the next.",
                    )
                )
                continue
            if original.generated or original.identity:
                problems.append(
                    Problem(
                        f"column {original.name} of {shape.name} is a generated or identity column, which cannot be written back",
                        remedy="Name the column that it is computed from.",
                    )
                )
            plain = {found.column, ddl.ident(found.column).as_string(None)}
            if found.down is None and not plain & set(self.values.values()):
                problems.append(
                    Problem(
                        f"column {original.name} is mapped in one direction only",
                        remedy="Say with `down` how it follows from the parent; only a column that is a value of `values` as it is "
                        "follows by itself.",
                        rule="missing-down",
                    )
                )
            if self.reference is not None and shape.group_of(column.physical) is not None:
                problems.append(
                    Problem(
                        f"column {original.name} of {shape.name} is written by an earlier operation of this migration",
                        remedy="Change it in one migration, and normalise it in the next.",
                    )
                )
            if self.reference is not None and found.keep:
                problems.append(
                    Problem(
                        f"column {original.name} is kept, and would say the same as the reference",
                        remedy="Use a `link`; or give the value a column of its own first (extract_json), and normalise that.",
                    )
                )
            # A reconciler comes only afterwards.
            always = (
                self.reference is not None
                and not logged
                and (self.reference.not_null or found.empty is not None)
            )
            if original.not_null and original.default is None and not found.keep and not always:
                problems.append(
                    Problem(
                        f"column {original.name} of {shape.name} is NOT NULL without a default: rows that the new version inserts "
                        "have no value for it",
                        remedy="Give it a default first, for which `where` is false."
                        if self.reference is None or logged
                        else "Say with `empty` what it holds for a row without a parent, or let every row have one (`not_null`).",
                        rule="missing-down",
                    )
                )
            held.append((found, column, original))
        return held

    # --- steps --------------------------------------------------------------------------------------------------------

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        shape, parent, new, refer, tables = context.draft.memo[context.label]
        steps: list[Step] = []
        for made in tables:
            name = context.draft.name(made.table.name)
            steps += made_steps(
                made.table,
                name,
                made.label,
                made.indexes,
                shape.table.owner,
                phase,
                context,
                secured=shape.table.row_security,
            )
        if self.link is not None:
            return steps + self.link.steps(phase, new.table, shape.name, parent.table, context.label)
        assert self.reference is not None
        return steps + self.reference.steps(phase, shape, refer, parent.table, context.label)
