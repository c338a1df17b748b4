"""move_columns: columns of a table become a table of their own, one row for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, field_validator

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import Presence, SideKind, SyncMode, WithoutOldForm
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Step
from zdm.model.table import Column
from zdm.operations.add_column import AddColumn
from zdm.operations.add_foreign_key import Reaction
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.create_table import TableColumn
from zdm.operations.elements import foreign_key_of
from zdm.operations.params import Name, Sql, TableName, by_name, find_column, find_shape, names_too
from zdm.operations.rows import DraftMirrored, DraftRows, DraftSide
from zdm.operations.shape import ShapeColumn, TableShape, is_sequence_default
from zdm.operations.target import (
    MadeTable,
    Target,
    existing_table,
    key_must_cascade,
    keys_of,
    lent_defaults,
    make_table,
    quoted,
    readable,
    refuse_loose_key,
    required,
    sequence_step,
    table_steps,
    without_old_form,
)


class MovedColumn(Value):
    """One column that moves; its name alone stands for one that stays as it is."""

    column: Name = Field(description="the column")
    to: Name | None = Field(default=None, description="its name in the other table; the same if not given")
    type: Sql | None = Field(default=None, description="its type there; the same if not given")
    up: Sql | None = Field(default=None, description="its value there, over the old version's columns")
    down: Sql | None = Field(
        default=None, description="the old column's value, over the other table's columns"
    )
    empty: Sql | None = Field(
        default=None,
        description="what the old column holds where the other table has no row; its default or NULL if not given",
    )

    @property
    def final(self) -> str:
        """The column's name in the other table."""
        return self.to or self.column


class CreatedTable(MadeTable):
    """The table to make: what it has besides the key and the moved columns."""

    primary_key: tuple[Name, ...] = Field(
        default=(), description="the primary key's columns; those of `key` if not given"
    )
    foreign_key: Reaction | None = Field(
        default="cascade",
        description="what deleting a row does to its row here, by a foreign key; null makes none",
    )

    @property
    def belongs(self) -> bool:
        return self.foreign_key is not None


class MoveColumns(Operation):
    """Move columns into a table that has one row for each row of this one, new or existing."""

    kind: ClassVar[str] = "move_columns"
    summary: ClassVar[str] = "move columns into a 1:1 table"

    table: TableName = Field(description="the table that has the columns")
    to: TableName = Field(description="the table that gets them")
    columns: tuple[MovedColumn, ...] = Field(
        min_length=1, description="the columns, by name or in detail", json_schema_extra=names_too
    )
    key: dict[Name, Name] = Field(
        min_length=1,
        description="which row belongs to which: each key column of `to`, and the key column of `table` that it equals",
    )
    create: CreatedTable | None = Field(
        default=None, description="make `to`; without it, `to` exists already"
    )
    rows: Presence = Field(
        default=Presence.EVERY,
        description="every: each row has one in `to`; needed: only where a column holds anything but what it is empty with",
    )

    where: Sql | None = Field(
        default=None,
        description="with `rows: needed`: only rows that meet this have one in `to`, over the old version's columns",
    )
    copies: dict[Name, Name] = Field(
        default_factory=dict,
        description="columns of `to` that repeat columns of `table` which stay: each column, and the one that it equals",
    )
    reference: Name | None = Field(
        default=None,
        description="a column that `table` gets in the new version: the key of its row in `to`, NULL without one; with `rows: needed`",
    )
    without_old_form: WithoutOldForm = Field(
        default=WithoutOldForm.REFUSE,
        description="a row of `to` that `table` has no form for: refuse to write it, or record it, so that a rollback keeps it",
    )
    lossy: bool = Field(default=False, description="accept that down(up(x)) is not x for some rows")

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE accounts (id bigserial PRIMARY KEY, username text NOT NULL,"
            " statuses_count bigint NOT NULL DEFAULT 0, followers_count bigint NOT NULL DEFAULT 0, note jsonb);"
            " INSERT INTO accounts (username, statuses_count, followers_count, note)"
            " SELECT 'u' || g, g % 7, g % 3, jsonb_build_object('n', g) FROM generate_series(1, 300) g;",
            operations=(
                {
                    "move_columns": {
                        "table": "accounts",
                        "to": "account_stats",
                        "columns": [
                            "statuses_count",
                            {"column": "followers_count", "to": "followers"},
                            "note",
                        ],
                        "key": {"account_id": "id"},
                        "create": {
                            "columns": [
                                {"name": "id", "type": "bigint", "identity": "always"},
                                {
                                    "name": "created_at",
                                    "type": "timestamptz",
                                    "not_null": True,
                                    "default": "now()",
                                },
                            ],
                            "primary_key": ["id"],
                        },
                    }
                },
            ),
            old_writes=(
                "INSERT INTO accounts (username, statuses_count) VALUES ('old {n}', {n} % 2)",
                "UPDATE accounts SET statuses_count = statuses_count + 1 WHERE id = {n} % 300 + 1",
                "UPDATE accounts SET username = 'x{n}' WHERE id = {n} % 300 + 1",
                "DELETE FROM accounts WHERE username = 'old {n}'",
                "DELETE FROM accounts WHERE id = (SELECT max(id) FROM accounts WHERE id > 300)",
            ),
            new_writes=(
                "INSERT INTO accounts (username) VALUES ('new {n}')",
                (
                    "WITH a AS (INSERT INTO accounts (username) VALUES ('both {n}') RETURNING id)"
                    " INSERT INTO account_stats (account_id, statuses_count) SELECT id, {n} FROM a"
                ),
                "UPDATE account_stats SET followers = followers + 1 WHERE account_id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, username, statuses_count, followers_count FROM accounts LIMIT 5",),
            new_reads=(
                "SELECT a.username, s.statuses_count FROM accounts a JOIN account_stats s ON s.account_id = a.id LIMIT 5",
            ),
            agree="SELECT NOT EXISTS (SELECT FROM public.accounts a FULL JOIN account_stats s ON s.account_id = a.id"
            " WHERE (a.statuses_count, a.followers_count, a.note) IS DISTINCT FROM (s.statuses_count, s.followers, s.note)"
            " OR a.id IS NULL OR s.id IS NULL)",
            after="SELECT NOT EXISTS (SELECT FROM accounts a LEFT JOIN account_stats s ON s.account_id = a.id"
            " WHERE s.id IS NULL AND a.username !~ '^new ')"
            " AND NOT EXISTS (SELECT FROM information_schema.columns WHERE table_schema = current_schema()"
            " AND table_name = 'accounts' AND column_name IN ('statuses_count', 'followers_count', 'note'))",
        ),
        Scenario(
            setup="CREATE TABLE providers (id bigserial PRIMARY KEY, name text NOT NULL, config text);"
            " INSERT INTO providers (name, config) SELECT 'p' || g, CASE WHEN g % 3 > 0 THEN 'c' || g END"
            " FROM generate_series(1, 300) g;",
            operations=(
                {
                    "move_columns": {
                        "table": "providers",
                        "to": "credentials",
                        "columns": ["config"],
                        "key": {"id": "id"},
                        "rows": "needed",
                        "without_old_form": "record",
                        "create": {"columns": [{"name": "label", "type": "text"}], "foreign_key": None},
                    }
                },
            ),
            old_writes=(
                "INSERT INTO providers (name, config) VALUES ('old {n}', (ARRAY['old {n}', NULL])[{n} % 2 + 1])",
                "UPDATE providers SET config = 'old {n}' WHERE id = {n} % 300 + 1",
                "UPDATE providers SET config = NULL WHERE id = {n} % 300 + 1",
                "DELETE FROM providers WHERE id = (SELECT max(id) FROM providers WHERE id > 300)",
            ),
            new_writes=(
                "INSERT INTO credentials (id, config, label) VALUES (-{n}, 'pooled {n}', 'more')",
                "UPDATE credentials SET config = 'again {n}' WHERE id = (SELECT min(id) FROM credentials WHERE id < 0)",
                "DELETE FROM credentials WHERE id = (SELECT max(id) FROM credentials WHERE id < -{n} / 2)",
                "UPDATE credentials SET config = 'new {n}' WHERE id = {n} % 300 + 1",
            ),
            old_reads=("SELECT id, name, config FROM providers LIMIT 5",),
            new_reads=("SELECT p.name, c.config FROM providers p JOIN credentials c USING (id) LIMIT 5",),
            agree="SELECT NOT EXISTS (SELECT FROM public.providers p FULL JOIN public.credentials c USING (id)"
            " WHERE id > 0 AND p.config IS DISTINCT FROM c.config)"
            " AND NOT EXISTS (SELECT FROM (SELECT * FROM public.credentials WHERE id < 0) AS c FULL JOIN (SELECT * FROM"
            " zdm.rows_without_old_form WHERE rollout = (SELECT max(id) FROM zdm.module_migrations)) AS f"
            " ON f.key = jsonb_build_object('id', c.id) WHERE f.new_row IS DISTINCT FROM to_jsonb(c))",
            after="SELECT (SELECT count(*) FROM credentials) >= 150 AND NOT EXISTS (SELECT FROM zdm.rows_without_old_form"
            " WHERE rollout = (SELECT max(id) FROM zdm.module_migrations))",
        ),
    )

    @field_validator("columns", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return by_name(value)

    def tables(self) -> Sequence[str]:
        return (self.table, *self.create.referenced) if self.create is not None else (self.table, self.to)

    def types(self) -> Sequence[str]:
        found = [c.type for c in self.columns if c.type is not None]
        return (*found, *((c.type for c in self.create.columns) if self.create is not None else ()))

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        if self.create is None:
            return ()
        try:
            return (draft.name(self.to),)
        except ValueError:
            return ()

    # --- what it means ------------------------------------------------------------------------------------------------

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems, ordinary=True)
        found = (
            [(moved, find_column(shape, moved.column, problems)) for moved in self.columns] if shape else []
        )
        if shape is None:
            return problems
        columns = [(moved, column) for moved, column in found if column is not None]
        if self.create is not None:
            problems += key_must_cascade(draft, self.create.foreign_key, self.to, shape.name)
        originals = self._originals(shape, columns, problems)
        self._check_key(shape, problems)
        self._check_copies(shape, problems)
        # What the other table would lack only because this one does is not told.
        target = (
            self._target(draft, shape, originals, label, problems)
            if len(originals) == len(self.columns) and self._sources <= {c.name for c in shape.table.columns}
            else None
        )
        if target is None or problems:
            return problems
        new = target.side
        reference = self._reference(draft, shape, label, problems)
        if problems:
            return problems
        old = DraftSide(
            table=shape.name,
            oid=shape.table.oid,
            kind=SideKind.COLUMNS,
            key=list(self.key.values()),
            columns=[
                DraftMirrored(
                    name=original.name,
                    type=original.type,
                    value=moved.down or quoted(moved.final),
                    collation=original.collation,
                    not_null=original.not_null,
                    empty=moved.empty or original.default,
                )
                for moved, original in originals
            ]
            + [
                DraftMirrored(
                    name=column.column, type=column.type, value=quoted(next(iter(self.key))), reference=True
                )
                for column in reference
            ],
            readable=readable(shape.table),
            required=[c.name for c in shape.table.columns if required(c) and c.name not in self.key.values()],
        )
        problems += self._without_old_form(draft, shape.name, new.table, label)
        if problems:
            return problems
        draft.rows.append(
            DraftRows(
                operation=label,
                old=old,
                new=new,
                where=self.where,
                presence=self.rows,
                lossy=self.lossy,
                loggable=True,
                without_old_form=self.without_old_form,
            )
        )
        for _, column in columns:
            shape.columns.remove(column)
            shape.removed.append(column.physical)
        draft.memo[label] = (shape, target, originals, reference)
        own = [c.name for c in self.create.columns] if self.create else []
        draft.findings.append(
            Finding(
                severity=Severity.NOTE,
                text=f"what the new version writes to {', '.join(own)} of {new.table} has no old form, and goes in a rollback"
                if own
                else f"a rollback carries back what the new version writes to the moved columns of {new.table}",
                where=label,
            )
        )
        return []

    def _without_old_form(
        self, draft: Draft, old: QualifiedName, new: QualifiedName, label: str
    ) -> list[Problem]:
        rows = [f"one that no row of {old} has (23503)"]
        if self.create is not None and self.create.foreign_key is not None:
            rows = [f"one that no row of {old} has is refused by the foreign key in any case (23503)"]
        if self.where is not None:
            rows.append(f"one whose row of {old} would not meet {self.where!r} (23514)")
        if self.copies:
            rows.append(f"one in which {', '.join(self.copies)} differ from what stays in {old} (23000)")
        return without_old_form(draft, label, self.without_old_form, old, new, rows)

    def _originals(
        self, shape: TableShape, columns: Sequence[tuple[MovedColumn, ShapeColumn]], problems: list[Problem]
    ) -> list[tuple[MovedColumn, Column]]:
        found: list[tuple[MovedColumn, Column]] = []
        for moved, column in columns:
            original = None if column.fresh else shape.original(column.physical)
            if original is None or column.name != column.physical:
                problems.append(
                    Problem(
                        f"column {column.name} of {shape.name} is changed by this migration, and moved by it",
                        remedy="Change it in one migration, and move it in the next.",
                    )
                )
                continue
            if original.generated or original.identity:
                problems.append(
                    Problem(
                        f"column {original.name} of {shape.name} is a generated or identity column, which cannot be written back",
                        remedy="Leave it where it is, or make it a plain column first.",
                    )
                )
                continue
            if original.not_null and original.default is None and moved.empty is None:
                problems.append(
                    Problem(
                        f"column {original.name} of {shape.name} is NOT NULL without a default: rows that the new version inserts "
                        "have no value for it",
                        remedy="Say with `empty` what it holds where the other table has no row; or let it be NULL first (drop_not_null), where no "
                        "value means that (a reference).",
                        rule="missing-down",
                    )
                )
            if (moved.up is None) != (moved.down is None) or (moved.type is not None and moved.up is None):
                problems.append(
                    Problem(
                        f"column {original.name} is mapped in one direction only",
                        remedy="Give `up` and `down` both, or neither (then the value is copied, and the type stays).",
                        rule="missing-down",
                    )
                )
            found.append((moved, original))
        names = [moved.final for moved, _ in found] + list(self.key) + list(self.copies)
        problems.extend(
            Problem(f"{self.to} would have two columns called {name}")
            for name in dict.fromkeys(names)
            if names.count(name) > 1
        )
        return found

    @property
    def _sources(self) -> set[str]:
        """What the key and what repeats columns are taken from."""
        return {*self.key.values(), *self.copies.values()}

    def _check_key(self, shape: TableShape, problems: list[Problem]) -> None:
        table = shape.table
        wanted = tuple(self.key.values())
        refuse_loose_key(table, wanted, problems)
        moved = {m.column for m in self.columns}
        problems.extend(
            Problem(f"column {name} is both moved and part of the key") for name in wanted if name in moved
        )

    def _reference(
        self, draft: Draft, shape: TableShape, label: str, problems: list[Problem]
    ) -> list[AddColumn]:
        """The column that refers to the other table, if one is wanted."""
        if self.reference is None:
            return []
        if self.rows is not Presence.NEEDED or self.create is None or len(self.key) != 1:
            problems.append(
                Problem(
                    "`reference` says which row of a new table a row has, by its key of one column",
                    remedy="Give `rows: needed` and `create`, and a `key` of one column.",
                )
            )
            return []
        column = shape.table.column(next(iter(self.key.values())))
        assert column is not None
        made = AddColumn(
            table=self.table, column=self.reference, type=column.type, collation=column.collation
        )
        problems += made.apply(draft, f"{label}/reference")
        return [made]

    def _check_copies(self, shape: TableShape, problems: list[Problem]) -> None:
        moved = {m.column for m in self.columns}
        for source in self.copies.values():
            column = find_column(shape, source, problems)
            if column is None:
                continue
            if source in moved or column.fresh or column.name != column.physical:
                problems.append(
                    Problem(
                        f"column {source} of {shape.name} does not stay as it is, so nothing can repeat it",
                        remedy="Name a column that this migration leaves alone.",
                    )
                )
        if self.where is not None and self.rows is not Presence.NEEDED:
            problems.append(
                Problem(
                    "`where` says which rows have one in the other table", remedy="Give `rows: needed` too."
                )
            )

    def _target(
        self,
        draft: Draft,
        shape: TableShape,
        originals: Sequence[tuple[MovedColumn, Column]],
        label: str,
        problems: list[Problem],
    ) -> Target | None:
        columns = [
            DraftMirrored(
                name=m.final,
                type=draft.type(m.type) if m.type else original.type,
                value=m.up or quoted(m.column),
                collation=original.collation,
                not_null=original.not_null,
            )
            for m, original in originals
        ]
        repeated = [
            (name, column)
            for name, source in self.copies.items()
            if (column := shape.table.column(source)) is not None
        ]
        columns += [
            DraftMirrored(
                name=name,
                type=column.type,
                value=quoted(column.name),
                collation=column.collation,
                not_null=column.not_null,
            )
            for name, column in repeated
        ]
        if self.create is None:
            return existing_table(draft, shape, self.to, self.key, columns, problems)
        keys = keys_of(self.key, shape.table)
        moved = [
            TableColumn(
                name=c.name,
                type=c.type,
                not_null=original.not_null,
                default=original.default if m.type is None else None,
                collation=c.collation,
                comment=original.comment,
            )
            for c, (m, original) in zip(columns, originals, strict=False)
        ]
        moved += [
            TableColumn(
                name=name,
                type=column.type,
                not_null=column.not_null,
                collation=column.collation,
                comment=column.comment,
            )
            for name, column in repeated
        ]
        return make_table(
            draft,
            shape,
            self.to,
            keys,
            moved,
            columns,
            self.create,
            f"{label}/table",
            problems,
            primary_key=self.create.primary_key,
        )

    # --- steps --------------------------------------------------------------------------------------------------------

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        shape, target, originals, reference = context.draft.memo[context.label]
        steps = table_steps(target, phase, context)
        for column in reference:
            made = column.plan(phase, replace(context, label=f"{context.label}/reference"))
            steps += [step.model_copy(update={"operation": context.label}) for step in made]
        if phase is Phase.PREPARATION:
            lent = [
                (c, m.empty) for m, c in originals if m.empty is not None and c.not_null and c.default is None
            ]
            steps += lent_defaults(shape, lent, context.draft.target, context.label, "move_columns")
        if phase is Phase.CLEANUP and self.create is not None:
            # The new column has the old one's default, and the old one's end would take the sequence along.
            steps += [
                sequence_step(context, shape.table, c.name, target.side.table, m.final)
                for m, c in originals
                if m.type is None and is_sequence_default(c.default)
            ]
        if phase is Phase.MIGRATION and self.create is not None and self.create.foreign_key is not None:
            steps += foreign_key_of(
                target.side.table,
                self.key,
                shape.name,
                self.create.foreign_key,
                context.label,
                logged=context.draft.sync is SyncMode.LOGGED,
            )
        return steps
