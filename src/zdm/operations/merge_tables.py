"""merge_tables: a table becomes columns of another one, which has a row for each of its rows; or rows of several become those of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import Presence, SideKind, SyncMode, WithoutOldForm
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Step
from zdm.model.table import Column
from zdm.operations.add_column import AddColumn
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.drop_table import DropTable, left_behind
from zdm.operations.params import Name, Sql, TableName, by_name, find_shape, names_too
from zdm.operations.rows import DraftMirrored, DraftRows, DraftSide
from zdm.operations.shape import TableShape, is_sequence_default
from zdm.operations.split_table import CreatedPart
from zdm.operations.target import loose_key, named_once, quoted, readable, required, without_old_form
from zdm.operations.union import Union, UnitedTable
from zdm.operations.union_scenarios import SCENARIOS


class MergedColumn(Value):
    """One column that comes over; its name alone stands for one that stays as it is."""

    column: Name = Field(description="the column")
    to: Name | None = Field(default=None, description="its name in the other table; the same if not given")
    type: Sql | None = Field(default=None, description="its type there; the same if not given")
    up: Sql | None = Field(default=None, description="its value there, over the columns of `table`")
    down: Sql | None = Field(
        default=None, description="the old column's value, over the new version's columns of `to`"
    )
    empty: Sql | None = Field(
        default=None,
        description="its value and its default there where `table` has no row; the old column's default or NULL if not given",
    )

    @property
    def final(self) -> str:
        """The column's name in the table that stays."""
        return self.to or self.column


def _names_alone(schema: dict[str, Any]) -> None:
    """For `json_schema_extra` of pairs of names, which may be given as a list where both are the same."""
    pairs = {
        name: schema.pop(name) for name in ("type", "additionalProperties", "minProperties") if name in schema
    }
    schema["anyOf"] = [pairs, {"type": "array", "items": {"type": "string"}, "minItems": 1}]


_STATS = Scenario(
    setup="CREATE TABLE accounts (id bigserial PRIMARY KEY, username text NOT NULL);"
    " CREATE TABLE account_stats (id bigserial PRIMARY KEY, account_id bigint NOT NULL UNIQUE REFERENCES accounts ON DELETE CASCADE,"
    " statuses_count bigint NOT NULL DEFAULT 0, note text, created_at timestamptz NOT NULL DEFAULT now());"
    " INSERT INTO accounts (username) SELECT 'u' || g FROM generate_series(1, 300) g;"
    " INSERT INTO account_stats (account_id, statuses_count, note)"
    " SELECT g, g % 7, nullif('n' || g % 5, 'n0') FROM generate_series(1, 300) g WHERE g % 4 <> 0;",
    operations=(
        {
            "merge_tables": {
                "table": "account_stats",
                "to": "accounts",
                "key": {"id": "account_id"},
                "columns": [
                    "statuses_count",
                    {
                        "column": "note",
                        "to": "remark",
                        "type": "text",
                        "up": "upper(note)",
                        "down": "lower(remark)",
                    },
                ],
                "discard": ["id", "created_at"],
            }
        },
    ),
    old_writes=(
        ("WITH a AS (INSERT INTO accounts (username) VALUES ('old {n}') RETURNING id) SELECT 1 FROM a"),
        (
            "INSERT INTO account_stats (account_id, note) SELECT id, 'late' FROM accounts WHERE id = {n} % 300 + 1"
            " ON CONFLICT (account_id) DO UPDATE SET statuses_count = account_stats.statuses_count + 1"
        ),
        "UPDATE account_stats SET note = 'x{n}' WHERE account_id = {n} % 300 + 1",
        "DELETE FROM account_stats WHERE account_id = {n} % 300 + 1 AND note = 'late'",
        "DELETE FROM accounts WHERE id = (SELECT max(id) FROM accounts WHERE username LIKE 'old%')",
    ),
    new_writes=(
        "INSERT INTO accounts (username, statuses_count) VALUES ('new {n}', {n})",
        "UPDATE accounts SET username = 'y{n}' WHERE id = {n} % 300 + 1 AND id > 250",
        "UPDATE accounts SET remark = 'NEW {n}' WHERE username LIKE 'new%' AND statuses_count > 0 AND id % 5 = {n} % 5",
    ),
    old_reads=("SELECT a.id, s.note FROM accounts a JOIN account_stats s ON s.account_id = a.id LIMIT 5",),
    new_reads=("SELECT id, statuses_count, remark FROM accounts LIMIT 5",),
    agree="SELECT NOT EXISTS (SELECT FROM accounts a LEFT JOIN public.account_stats s ON s.account_id = a.id"
    " WHERE (a.statuses_count, lower(a.remark)) IS DISTINCT FROM (coalesce(s.statuses_count, 0), lower(s.note)))",
    after="SELECT to_regclass('account_stats') IS NULL AND bool_and(statuses_count IS NOT NULL)"
    " AND bool_or(remark ~ '^[NX]') FROM accounts",
)


class MergeTables(Operation):
    """Let the rows of a table become columns of another one, which has a row for each of them, or the rows of several tables the rows of one; the
    tables go at cleanup."""

    kind: ClassVar[str] = "merge_tables"
    summary: ClassVar[str] = "merge a 1:1 table into the other one, or the rows of several tables into one"

    table: TableName | None = Field(default=None, description="the table that goes, and becomes columns")
    united: tuple[UnitedTable, ...] = Field(
        default=(),
        alias="tables",
        description="instead of `table`: the tables that go, and whose rows become those of `to`",
    )
    to: TableName = Field(description="the table that gets its columns, or their rows")
    key: dict[Name, Name] = Field(
        min_length=1,
        description="which row belongs to which: each key column of `to`, and the key column of `table` that it equals; with `tables`, "
        "columns of `values` may be among them",
        json_schema_extra=_names_alone,
    )
    columns: tuple[MergedColumn, ...] = Field(
        default=(),
        description="of `table`: the columns that come over, by name or in detail",
        json_schema_extra=names_too,
    )
    discard: tuple[Name, ...] = Field(
        default=(), description="columns of `table` that go with it, and whatever they hold"
    )
    lossy: bool = Field(default=False, description="accept that down(up(x)) is not x for some rows")
    create: CreatedPart | None = Field(
        default=None, description="with `tables`: make `to`; without it, `to` exists already"
    )
    keep: bool = Field(default=False, description="with `tables`: the new version has them as well")
    without_old_form: WithoutOldForm = Field(
        default=WithoutOldForm.REFUSE,
        description="what the old tables have no form for: refuse to write it, or record it, so that a rollback keeps it",
    )

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        _STATS,
        _STATS.model_copy(
            update={
                "sync": SyncMode.LOGGED,
                "setup": _STATS.setup.replace("ON DELETE CASCADE", "ON DELETE CASCADE ON UPDATE CASCADE"),
                # Rows of which one is always on its way never agree.
                "new_writes": (
                    *_STATS.new_writes[:2],
                    "UPDATE accounts SET remark = 'NEW {n}' WHERE id = (SELECT max(id) FROM accounts WHERE username LIKE 'new%')",
                ),
            }
        ),
        *SCENARIOS,
        # The new version says what the table cannot hold.
        _STATS.model_copy(
            update={
                "setup": _STATS.setup.replace("note text,", "note text CHECK (note <> 'none'),"),
                "operations": (
                    {
                        "merge_tables": {
                            **_STATS.operations[0]["merge_tables"],  # type: ignore[dict-item]
                            "without_old_form": "record",
                        }
                    },
                ),
                "new_writes": (
                    *_STATS.new_writes,
                    "UPDATE accounts SET remark = 'NONE' WHERE id = {n} % 300 + 1 AND statuses_count > 2",
                ),
                "agree": _STATS.agree.replace(
                    "lower(s.note)))",
                    "lower(s.note)) AND NOT EXISTS (SELECT FROM zdm.rows_without_old_form f WHERE f.key = jsonb_build_object('id', a.id)"
                    " AND s.account_id IS NULL AND f.rollout = (SELECT max(id) FROM zdm.module_migrations)))",
                ),
            }
        ),
    )

    @field_validator("columns", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return by_name(value)

    @field_validator("key", mode="before")
    @classmethod
    def _same_names(cls, value: Any) -> Any:
        return {name: name for name in value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _one_form(self) -> MergeTables:
        if (self.table is None) == (not self.united):
            raise ValueError(
                "give either `table`, which becomes columns of `to`, or `tables`, whose rows become rows of `to`"
            )
        columns = {"columns": self.columns, "discard": self.discard, "lossy": self.lossy}
        rows = {"create": self.create, "keep": self.keep}
        given = [name for name, value in (columns if self.united else rows).items() if value]
        if given:
            belongs = "each of `tables`" if self.united else "`tables`, not to `table`"
            raise ValueError(f"`{given[0]}` belongs to {belongs}")
        if self.united and len(self.united) < 2:
            raise ValueError("`tables` are two at least")
        if self.table is not None and not self.columns:
            raise ValueError("`columns` are needed: those of `table` that come over")
        return self

    @property
    def _union(self) -> Union | None:
        """What it is with `tables`."""
        if not self.united:
            return None
        return Union(self.united, self.to, dict(self.key), self.create, self.keep, self.without_old_form)

    @property
    def _goes(self) -> str:
        assert self.table is not None
        return self.table

    def tables(self) -> Sequence[str]:
        if self.united:
            others = (self.to,) if self.create is None else self.create.referenced
            return (*(u.table for u in self.united), *others)
        return (self._goes, self.to)

    def types(self) -> Sequence[str]:
        if self._union is not None:
            return self._union.types()
        return tuple(c.type for c in self.columns if c.type is not None)

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        if self.create is None:
            return ()
        try:
            return (draft.name(self.to),)
        except ValueError:
            return ()

    def column_additions(self, draft: Draft) -> Sequence[tuple[str, str | None]]:
        return tuple((added.type, added.default) for _, _, added in self._added(draft))

    def _added(self, draft: Draft) -> list[tuple[MergedColumn, Column, AddColumn]]:
        """What the table that stays gets. Nothing for columns that there are not."""
        if self.table is None:
            return []
        try:
            table = draft.tables.get(draft.name(self._goes))
        except ValueError:
            return []
        found: list[tuple[MergedColumn, Column, AddColumn]] = []
        for merged in self.columns:
            original = table.column(merged.column) if table is not None else None
            if original is None:
                continue
            default = merged.empty
            if default is None and merged.up is None:
                default = original.default
            found.append(
                (
                    merged,
                    original,
                    AddColumn(
                        table=self.to,
                        column=merged.final,
                        type=merged.type or original.type,
                        default=default,
                        not_null=original.not_null and default is not None,
                        collation=original.collation if merged.type is None else None,
                        comment=original.comment,
                    ),
                )
            )
        return found

    # --- what it means ------------------------------------------------------------------------------------------------

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        if self._union is not None:
            return self._union.apply(draft, label)
        problems: list[Problem] = []
        source = find_shape(draft, self._goes, problems, ordinary=True)
        target = find_shape(draft, self.to, problems, ordinary=True)
        if source is None or target is None:
            return problems
        added = self._added(draft)
        self._check_tables(source, target, problems)
        self._check_columns(draft, source, added, problems)
        if problems:
            return problems
        problems += without_old_form(draft, label, self.without_old_form, source.name, target.name, ())
        if problems:
            return problems
        before = len(target.added)
        for _, _, column in added:
            problems += column.apply(draft, f"{label}/{column.column}")
        made = target.added[before:]
        if problems:
            return problems
        draft.rows.append(
            DraftRows(
                operation=label,
                old=self._side(source, added, made=False),
                new=self._side(target, added, made=True),
                presence=Presence.NEEDED,
                lossy=self.lossy,
                loggable=True,
                without_old_form=self.without_old_form,
            )
        )
        assert len(made) == len(added)
        drop = DropTable(table=self._goes)
        problems += drop.apply(draft, f"{label}/drop")
        left_behind(draft, label, source, [target.name], [c.column for c in self.columns])
        draft.memo[label] = ([column for _, _, column in added], drop)
        if self.discard:
            draft.findings.append(
                Finding(
                    severity=Severity.WARNING,
                    text=f"{', '.join(self.discard)} of {source.name} have no new form: cleanup drops what they hold",
                    where=label,
                )
            )
        return problems

    def _side(
        self, shape: TableShape, added: Sequence[tuple[MergedColumn, Column, AddColumn]], *, made: bool
    ) -> DraftSide:
        known = readable(shape.table)
        if made:
            shown = {column.name: column for column in shape.columns}
            known += [(c.column, shown[c.column].type, c.collation) for _, _, c in added]
            columns = [
                DraftMirrored(
                    name=column.column,
                    type=shown[column.column].type,
                    value=merged.up or quoted(merged.column),
                    collation=column.collation,
                    not_null=column.not_null,
                    empty=column.default,
                )
                for merged, _, column in added
            ]
        else:
            columns = [
                DraftMirrored(
                    name=original.name,
                    type=original.type,
                    value=merged.down or quoted(merged.final),
                    collation=original.collation,
                    not_null=original.not_null,
                    empty=original.default,
                )
                for merged, original, _ in added
            ]
        return DraftSide(
            table=shape.name,
            oid=shape.table.oid,
            kind=SideKind.COLUMNS if made else SideKind.ROWS,
            key=list(self.key) if made else list(self.key.values()),
            columns=columns,
            readable=known,
            guarded=bool(shape.table.triggers) if made else False,
        )

    def _check_tables(self, source: TableShape, target: TableShape, problems: list[Problem]) -> None:
        if source is target:
            problems.append(Problem("a table cannot be merged into itself"))
        problems.extend(
            Problem(
                f"table {shape.name} is changed by this migration, and merged by it",
                remedy="Change it in one migration, and merge it in the next.",
            )
            for shape in (source, target)
            if shape.groups or shape.removed or shape.final_name != shape.name.name
        )
        if source.table.owner != target.table.owner:
            problems.append(
                Problem(
                    f"{source.name} belongs to {source.table.owner}, {target.name} to {target.table.owner}: what is written to one could "
                    "not be written to the other",
                    remedy="Give both to one role first (ALTER TABLE … OWNER TO …).",
                    rule="not-owner",
                )
            )
        for shape, names in ((target, tuple(self.key)), (source, tuple(self.key.values()))):
            remedy = "Add the unique constraint first; without it two rows could claim one place."
            problems.extend(loose_key(shape.table, names, remedy))
        for name, other in self.key.items():
            here, there = target.table.column(name), source.table.column(other)
            if here is not None and there is not None and here.type != there.type:
                problems.append(
                    Problem(
                        f"{name} of {target.name} is {here.type}, {other} of {source.name} is {there.type}",
                        remedy="Bring both to one type first (change_type).",
                        rule="no-key",
                    )
                )
        problems.extend(
            Problem(
                f"the foreign key {key.name} of {key.references} points at {source.name}, which goes",
                remedy=f"Drop it in an earlier migration (drop_constraint), and add one to {target.name} (add_foreign_key).",
                rule="referenced-by-foreign-key",
            )
            for key in source.table.referenced_by
            if key.references != source.name
        )

    def _check_columns(
        self,
        draft: Draft,
        source: TableShape,
        added: Sequence[tuple[MergedColumn, Column, AddColumn]],
        problems: list[Problem],
    ) -> None:
        table = source.table
        wanted = [*self.key.values(), *(c.column for c in self.columns), *self.discard]
        problems.extend(named_once(table, wanted))
        problems.extend(
            Problem(
                f"column {c.name} of {table.name} is neither merged nor discarded",
                remedy="Name it in `columns`, or in `discard` if what it holds may go.",
            )
            for c in table.columns
            if c.name not in wanted
        )
        problems.extend(
            Problem(
                f"column {c.name} of {table.name} is NOT NULL without a default: what the new version writes has no value for it",
                remedy="Name it in `columns`.",
                rule="missing-down",
            )
            for c in table.columns
            if c.name in self.discard and required(c)
        )
        for merged, original, column in added:
            if original.generated or original.identity or is_sequence_default(original.default):
                problems.append(
                    Problem(
                        f"column {original.name} of {table.name} is generated or numbers its rows, so it cannot be written back",
                        remedy="Name it in `discard`, or make it a plain column first.",
                    )
                )
            elif (merged.up is None) != (merged.down is None) or (
                merged.type is not None and merged.up is None
            ):
                problems.append(
                    Problem(
                        f"column {original.name} is mapped in one direction only",
                        remedy="Give `up` and `down` both, or neither (then the value is copied, and the type stays).",
                        rule="missing-down",
                    )
                )
            elif column.default is not None and (column.type, column.default) not in draft.instant_columns:
                problems.append(
                    Problem(
                        f"column {column.column} of {self.to} would have {column.default} where {table.name} has no row, which is another "
                        "value each time",
                        remedy="Say with `empty` what it holds there: a constant, or NULL.",
                        rule="add-column-rewrites",
                    )
                )

    # --- steps --------------------------------------------------------------------------------------------------------

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        if self._union is not None:
            return self._union.plan(phase, context)
        columns: list[AddColumn]
        drop: DropTable
        columns, drop = context.draft.memo[context.label]
        steps = [
            step
            for column in columns
            for step in column.plan(phase, replace(context, label=f"{context.label}/{column.column}"))
        ]
        steps += drop.plan(phase, replace(context, label=f"{context.label}/drop"))
        return [step.model_copy(update={"operation": context.label}) for step in steps]
