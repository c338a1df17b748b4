"""explode: a list in a row becomes a row for each of its elements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pydantic import ConfigDict, Field, field_validator, model_validator

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value
from zdm.model.plan import Finding, Severity
from zdm.model.row_mapping import SideKind, SyncMode, WithoutOldForm
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Step
from zdm.model.table import Column
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.create_table import TableColumn
from zdm.operations.elements import Form, ListColumn, foreign_key_of
from zdm.operations.move_columns import CreatedTable
from zdm.operations.params import Name, Sql, TableName, by_name, find_column, find_shape, names_too
from zdm.operations.rows import DraftElements, DraftMirrored, DraftRows, DraftSide
from zdm.operations.shape import ShapeColumn, TableShape
from zdm.operations.target import (
    Target,
    existing_table,
    key_must_cascade,
    keys_of,
    lent_defaults,
    make_table,
    nothing_comes_back,
    readable,
    refuse_loose_key,
    table_steps,
    without_old_form,
)


class ElementColumn(Value):
    """A column of the new rows that an element fills; its name alone stands for one whose type is known."""

    column: Name = Field(description="its name")
    type: Sql | None = Field(
        default=None, description="its type; that of the existing table, or what the form gives, if not given"
    )
    not_null: bool = Field(default=False, description="whether it is NOT NULL; columns of the key always are")


_TAGS = Scenario(
    setup="CREATE TABLE products (id bigserial PRIMARY KEY, name text NOT NULL, tags text);"
    " INSERT INTO products (name, tags) SELECT 'p' || g, (ARRAY['red,round', 'blue', NULL, 'red,blue,flat'])[g % 4 + 1]"
    " FROM generate_series(1, 300) g;",
    operations=(
        {
            "explode": {
                "table": "products",
                "to": "product_tags",
                "key": {"product_id": "id"},
                "from": {"delimited": "tags"},
                "elements": ["position", {"column": "tag", "type": "varchar(20)", "not_null": True}],
                "create": {
                    "columns": [
                        {"name": "id", "type": "bigint", "identity": "by default"},
                        {"name": "seen", "type": "timestamptz", "not_null": True, "default": "now()"},
                    ],
                    "primary_key": ["id"],
                },
            }
        },
    ),
    old_writes=(
        "INSERT INTO products (name, tags) VALUES ('old {n}', 'a{n},b')",
        "UPDATE products SET tags = 'x{n},y,z' WHERE id = {n} % 300 + 1",
        "UPDATE products SET tags = NULL WHERE id = {n} % 300 + 1",
        "UPDATE products SET name = 'x{n}' WHERE id = {n} % 300 + 1",
        "DELETE FROM products WHERE id = (SELECT max(id) FROM products WHERE name LIKE 'old%')",
    ),
    new_writes=(
        (
            "WITH p AS (INSERT INTO products (name) VALUES ('new {n}') RETURNING id)"
            " INSERT INTO product_tags (product_id, position, tag) SELECT id, g, 'n' || g FROM p, generate_series(1, 3) g"
        ),
        "UPDATE product_tags SET tag = 'u{n}' WHERE product_id = {n} % 300 + 1",
        (
            "DELETE FROM product_tags WHERE position = 1 AND product_id ="
            " (SELECT max(product_id) FROM product_tags WHERE tag = 'n2')"
        ),
        (
            "INSERT INTO product_tags (product_id, position, tag) VALUES ({n} % 300 + 1, 100 + {n}, 'more {n}')"
            " ON CONFLICT DO NOTHING"
        ),
    ),
    old_reads=("SELECT id, name, tags FROM products LIMIT 5",),
    new_reads=(
        (
            "SELECT p.name, t.tag FROM products p LEFT JOIN product_tags t ON t.product_id = p.id"
            " ORDER BY p.id, t.position LIMIT 5"
        ),
    ),
    agree="SELECT NOT EXISTS (SELECT FROM public.products p FULL JOIN (SELECT product_id,"
    " string_agg(tag, ',' ORDER BY position) AS tags FROM product_tags GROUP BY product_id) t ON t.product_id = p.id"
    " WHERE p.tags IS DISTINCT FROM t.tags OR p.id IS NULL)",
    after="SELECT (SELECT count(*) FROM product_tags) > 200 AND NOT EXISTS (SELECT FROM information_schema.columns"
    " WHERE table_schema = current_schema() AND table_name = 'products' AND column_name = 'tags')",
)


class Explode(Operation):
    """Give each element of a list that rows hold a row of its own: of an array, an object, a delimited text, or columns."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    kind: ClassVar[str] = "explode"
    summary: ClassVar[str] = "turn a list in a row into rows of another table"

    table: TableName = Field(description="the table whose rows hold the list")
    to: TableName = Field(description="the table that gets a row for each element")
    key: dict[Name, Name] = Field(
        min_length=1,
        description="which element belongs to which row: each such column of `to`, and the key column of `table` that it equals",
    )
    elements: tuple[ElementColumn, ...] = Field(
        min_length=1,
        description="the columns of `to` that an element fills, by name or in detail, in the order in which `up` gives them",
        json_schema_extra=names_too,
    )
    element_key: tuple[Name, ...] = Field(
        default=(),
        description="which of them tell the elements of one row apart; the first one, if not given",
    )
    form: Form | None = Field(
        default=None, alias="from", description="how the list is held, instead of `columns` and `up`"
    )
    columns: tuple[ListColumn, ...] = Field(
        default=(),
        description="the columns of the old version that hold the list, and how they follow from it",
    )
    up: Sql | None = Field(
        default=None,
        description="a SELECT over the old version's columns: a row for each element, as `elements`",
    )
    order: Name | None = Field(
        default=None,
        description="the column of `elements` that only says in which order they come, so that gaps in it mean nothing",
    )
    elements_where: Sql | None = Field(
        default=None,
        description="of a table that exists and has other rows as well: which are elements, over the columns of `key` and `element_key`; "
        "the others are left alone",
    )
    keep: bool = Field(
        default=False, description="the columns stay in the new version; nothing follows them after cleanup"
    )
    one_way: bool = Field(
        default=False,
        description="nothing flows back: until cleanup the new version only reads `to`, besides columns of its own",
    )
    lossy: bool = Field(default=False, description="lists that do not come back as they were are accepted")
    without_old_form: WithoutOldForm = Field(
        default=WithoutOldForm.REFUSE,
        description="an element that the list has no form for: refuse to write it, or record it, so that a rollback keeps it",
    )
    create: CreatedTable | None = Field(
        default=None, description="make `to`; without it, `to` exists already"
    )

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        _TAGS,
        # A table that has numbers of other kinds as well, which are nobody's columns.
        Scenario(
            setup="CREATE TABLE people (id int PRIMARY KEY, home text, work text, data jsonb NOT NULL DEFAULT '{}');"
            " CREATE TABLE phones (person int NOT NULL REFERENCES people ON DELETE CASCADE, kind text NOT NULL, number text NOT NULL,"
            " id uuid PRIMARY KEY DEFAULT gen_random_uuid(), UNIQUE (person, kind));"
            " INSERT INTO people SELECT g, '1-' || g, CASE WHEN g % 2 = 0 THEN '2-' || g END FROM generate_series(1, 200) g;"
            " INSERT INTO phones SELECT g, k, 'of old' FROM generate_series(1, 200, 3) g, unnest(ARRAY['fax', 'pager']) k;",
            operations=(
                {
                    "explode": {
                        "table": "people",
                        "to": "phones",
                        "key": {"person": "id"},
                        "from": {"columns": {"home": "home", "work": "work"}},
                        "elements": ["kind", "number"],
                        "elements_where": "kind IN ('home', 'work')",
                    }
                },
            ),
            old_writes=(
                "INSERT INTO people (id, home) VALUES (1000 + {n}, '3-{n}')",
                "UPDATE people SET home = '4-{n}', work = NULL WHERE id = {n} % 200 + 1",
                "DELETE FROM people WHERE id = 1000 + {n} - 9",
                "UPDATE phones SET number = '6-{n}' WHERE person = {n} % 200 + 1 AND kind = 'fax'",
            ),
            new_writes=(
                "INSERT INTO people (id) VALUES (1000000 + {n})",
                "UPDATE phones SET number = '5-{n}' WHERE person = {n} % 200 + 1 AND kind = 'home'",
                "DELETE FROM phones WHERE person = {n} % 200 + 1 AND kind = 'work'",
                "INSERT INTO phones (person, kind, number) VALUES ({n} % 200 + 1, 'other {n}', '7')",
                "UPDATE phones SET kind = 'was {n}' WHERE person = {n} % 200 + 2 AND kind = 'work'",
                "DELETE FROM phones WHERE kind = 'other ' || ({n} - 9)",
            ),
            old_reads=("SELECT home, work FROM people LIMIT 5",),
            new_reads=(
                "SELECT p.id, f.kind, f.number FROM people p JOIN phones f ON f.person = p.id LIMIT 5",
            ),
            agree="SELECT NOT EXISTS (SELECT FROM (SELECT id, 'home' AS kind, home AS number FROM public.people WHERE home IS NOT NULL"
            " UNION ALL SELECT id, 'work', work FROM public.people WHERE work IS NOT NULL) o"
            " FULL JOIN (SELECT * FROM public.phones WHERE kind IN ('home', 'work')) f ON f.person = o.id AND f.kind = o.kind"
            " WHERE o.number IS DISTINCT FROM f.number) AND (SELECT count(*) FROM public.phones WHERE kind IN ('fax', 'pager')) = 134",
            after="SELECT (SELECT count(*) FROM phones) > 200",
        ),
        # The new version knows kinds of numbers for which the old one has no column.
        Scenario(
            setup="CREATE TABLE people (id bigserial PRIMARY KEY, home text, work text);"
            " INSERT INTO people (home, work) SELECT '1-' || g, CASE WHEN g % 2 = 0 THEN '2-' || g END FROM generate_series(1, 200) g;",
            operations=(
                {
                    "explode": {
                        "table": "people",
                        "to": "phones",
                        "key": {"person": "id"},
                        "from": {"columns": {"home": "home", "work": "work"}},
                        "elements": ["kind", "number"],
                        "without_old_form": "record",
                        "create": {"columns": [{"name": "calls", "type": "int", "default": "0"}]},
                    }
                },
            ),
            old_writes=(
                "INSERT INTO people (home) VALUES ('3-{n}')",
                "UPDATE people SET home = '4-{n}', work = NULL WHERE id = {n} % 200 + 1",
                "UPDATE people SET work = '5-{n}' WHERE id = {n} % 200 + 1",
                "DELETE FROM people WHERE id = (SELECT max(id) FROM people WHERE home LIKE '3%')",
            ),
            new_writes=(
                (
                    "INSERT INTO phones (person, kind, number) VALUES ({n} % 200 + 1, 'mobile', '6-{n}')"
                    " ON CONFLICT (person, kind) DO UPDATE SET number = EXCLUDED.number"
                ),
                "UPDATE phones SET kind = 'fax {n}' WHERE person = {n} % 200 + 1 AND kind = 'work'",
                "UPDATE phones SET calls = calls + 1 WHERE person = {n} % 200 + 2",
                "DELETE FROM phones WHERE person = {n} % 200 + 1 AND kind <> 'home'",
            ),
            old_reads=("SELECT home, work FROM people LIMIT 5",),
            new_reads=(
                "SELECT p.id, f.kind, f.number FROM people p JOIN phones f ON f.person = p.id LIMIT 5",
            ),
            agree="SELECT NOT EXISTS (SELECT FROM (SELECT id, 'home' AS kind, home AS number FROM public.people WHERE home IS NOT NULL"
            " UNION ALL SELECT id, 'work', work FROM public.people WHERE work IS NOT NULL) o FULL JOIN (SELECT * FROM phones"
            " WHERE kind IN ('home', 'work')) f ON f.person = o.id AND f.kind = o.kind WHERE o.number IS DISTINCT FROM f.number)"
            " AND NOT EXISTS (SELECT FROM (SELECT * FROM phones WHERE kind NOT IN ('home', 'work')) AS p FULL JOIN (SELECT * FROM"
            " zdm.rows_without_old_form WHERE rollout = (SELECT max(id) FROM zdm.module_migrations)) AS f"
            " ON f.key = jsonb_build_object('person', p.person, 'kind', p.kind) WHERE f.new_row IS DISTINCT FROM to_jsonb(p))",
            after="SELECT (SELECT count(*) FROM phones) > 100 AND NOT EXISTS (SELECT FROM zdm.rows_without_old_form"
            " WHERE rollout = (SELECT max(id) FROM zdm.module_migrations))",
        ),
        _TAGS.model_copy(update={"sync": SyncMode.LOGGED}),
    )

    @field_validator("elements", "columns", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return by_name(value)

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Explode:
        if (self.form is None) == (self.up is None):
            raise ValueError("explode: either `from` or `up` says what the elements are")
        if self.form is not None and (self.columns or self.order):
            raise ValueError("explode: `columns` and `order` go with `up`; `from` knows them")
        if self.form is None and not self.columns:
            raise ValueError("explode: `columns` names the columns that hold the list")
        if self.elements_where is not None and self.create is not None:
            raise ValueError(
                "explode: `elements_where` tells elements from the other rows of a table that exists; one that is made (`create`) has none"
            )
        if self.elements_where is not None and self.without_old_form is WithoutOldForm.RECORD:
            raise ValueError(
                "explode: with `elements_where` no element is recorded; rows that it leaves out are written as before"
            )
        if self.one_way and self.without_old_form is WithoutOldForm.RECORD:
            raise ValueError(
                "explode: with `one_way` nothing flows back, so that no element is known to be without an old form"
            )
        return self

    def tables(self) -> Sequence[str]:
        if self.create is None:
            return (self.table, self.to)
        return (self.table, *self.create.referenced)

    def types(self) -> Sequence[str]:
        made = self.create.columns if self.create is not None else ()
        return (*(c.type for c in made), *(c.type for c in self.elements if c.type is not None))

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        if self.create is None:
            return ()
        try:
            return (draft.name(self.to),)
        except ValueError:
            return ()

    # --- what it means ------------------------------------------------------------------------------------------------

    @property
    def _element_key(self) -> tuple[str, ...]:
        return self.element_key or (self.elements[0].column,)

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems, ordinary=True)
        if shape is None:
            return problems
        self._check_key(shape, problems)
        if self.elements_where is not None and draft.sync is SyncMode.LOGGED:
            problems.append(
                Problem(
                    f"`elements_where` of {self.to} is not offered with `sync: logged`",
                    remedy="Use `sync: immediate`.",
                    rule="logged-sync",
                )
            )
        if self.create is not None:
            problems += key_must_cascade(draft, self.create.foreign_key, self.to, shape.name)
        asked = self.columns
        if self.form is not None:
            asked = tuple(ListColumn(column=name, empty=self.form.nothing) for name in self.form.held)
        held = self._held(shape, asked, problems)
        # What the other table would lack only because this one does is not told.
        known = len(held) == len(asked) and all(shape.table.column(name) for name in self.key.values())
        target = self._target(draft, shape, label, problems) if known else None
        if target is None or problems:
            return problems
        side, mapped = target
        up, downs, order = self.up, [found.down for found, _, _ in held], self.order
        if self.form is not None:
            types = [(c.name, c.type) for c in mapped]
            up, texts, order = self.form.expand(
                types, self._element_key, [original for _, _, original in held], problems
            )
            downs = list(texts)
        if not self.one_way:
            problems += self._without_old_form(draft, shape.name, side.side.table, label)
        if up is None or problems:
            return problems
        draft.rows.append(
            DraftRows(
                operation=label,
                old=DraftSide(
                    table=shape.name,
                    oid=shape.table.oid,
                    kind=SideKind.COLUMNS,
                    key=list(self.key.values()),
                    columns=[],
                    readable=readable(shape.table),
                ),
                new=side.side,
                one_way=self.one_way,
                lossy=self.lossy,
                without_old_form=self.without_old_form,
                loggable=True,
                elements=DraftElements(
                    one="old",
                    of=list(self.key),
                    key=list(self._element_key),
                    columns=mapped,
                    held=[
                        DraftMirrored(
                            name=original.name,
                            type=original.type,
                            value="",
                            collation=original.collation,
                            not_null=original.not_null,
                        )
                        for _, _, original in held
                    ],
                    split=up,
                    join=[] if self.one_way else [text or "" for text in downs],
                    order=order,
                    where=self.elements_where,
                    empty={c.name: text for c, text in self._lent(held)},
                ),
            )
        )
        for found, column, _ in held:
            if not (self.keep or found.keep):
                shape.columns.remove(column)
                shape.removed.append(column.physical)
        draft.memo[label] = (shape, side, self._lent(held))
        draft.findings += self._notes(side, held, label)
        return []

    def _lent(self, held: Sequence[tuple[ListColumn, ShapeColumn, Column]]) -> list[tuple[Column, str]]:
        """The columns that rows of the new version would have no value for, and what they hold until these have elements."""
        return [
            (original, found.empty)
            for found, _, original in held
            if original.not_null
            and original.default is None
            and found.empty is not None
            and not (self.keep or found.keep)
        ]

    def _notes(
        self, target: Target, held: Sequence[tuple[ListColumn, ShapeColumn, Column]], label: str
    ) -> Iterable[Finding]:
        if self.one_way:
            yield nothing_comes_back(target.side.table, label)
        else:
            yield Finding(
                severity=Severity.NOTE,
                text=f"a rollback carries back the elements of {target.side.table}; its other columns have no old form",
            )
        kept = [column.name for found, column, _ in held if self.keep or found.keep]
        if kept:
            yield Finding(
                severity=Severity.NOTE,
                text=f"{', '.join(kept)} of {self.table} keeps the list after cleanup; nothing follows it then",
            )

    def _without_old_form(
        self, draft: Draft, old: QualifiedName, new: QualifiedName, label: str
    ) -> list[Problem]:
        rows = [f"one whose row of {old} is not there is refused in any case (23503)"]
        if not self.lossy:
            rows.append("one with which other elements would come back, or in another order (23514)")
        return without_old_form(draft, label, self.without_old_form, old, new, rows)

    def _check_key(self, shape: TableShape, problems: list[Problem]) -> None:
        refuse_loose_key(shape.table, tuple(self.key.values()), problems)
        names = [c.column for c in self.elements]
        problems.extend(
            Problem(f"{name} is none of `elements`", rule="unknown-column")
            for name in (*self.element_key, *([self.order] if self.order else []))
            if name not in names
        )
        problems.extend(
            Problem(f"column {name} of {self.to} is both part of `key` and of `elements`")
            for name in self.key
            if name in names
        )

    def _held(
        self, shape: TableShape, asked: Sequence[ListColumn], problems: list[Problem]
    ) -> list[tuple[ListColumn, ShapeColumn, Column]]:
        held: list[tuple[ListColumn, ShapeColumn, Column]] = []
        for found in asked:
            column = find_column(shape, found.column, problems)
            if column is None:
                continue
            original = None if column.fresh else shape.original(column.physical)
            if original is None or column.name != column.physical:
                problems.append(
                    Problem(
                        f"column {column.name} of {shape.name} is changed by this migration, and exploded by it",
                        remedy="Change it in one migration, and explode it in the next.",
                    )
                )
                continue
            if original.name in self.key.values():
                problems.append(Problem(f"column {original.name} is both exploded and part of the key"))
            if original.generated or original.identity:
                problems.append(
                    Problem(
                        f"column {original.name} of {shape.name} is a generated or identity column, which cannot be written back",
                        remedy="Name the column that it is computed from.",
                    )
                )
            if self.form is None and found.down is None and not self.one_way:
                problems.append(
                    Problem(
                        f"column {original.name} is mapped in one direction only",
                        remedy="Say with `down` how it follows from its elements, or declare `one_way: true`.",
                        rule="missing-down",
                    )
                )
            kept = self.keep or found.keep
            if original.not_null and original.default is None and found.empty is None and not kept:
                problems.append(
                    Problem(
                        f"column {original.name} of {shape.name} is NOT NULL without a default: rows that the new version inserts "
                        "have no value for it",
                        remedy="Say with `empty`, beside its `down`, what it holds as long as a row has no elements (''), of which `up` makes none; or "
                        "let it be NULL first, in a migration of its own (drop_not_null), where no value means that (a reference).",
                        rule="missing-down",
                    )
                )
            if self.form is None and found.empty is not None and kept:
                problems.append(
                    Problem(
                        f"column {original.name} of {shape.name} stays in the new version, which gives it a value by itself: `empty` means nothing",
                        remedy="Leave out `empty`, or `keep`.",
                    )
                )
            held.append((found, column, original))
        return held

    def _target(
        self, draft: Draft, shape: TableShape, label: str, problems: list[Problem]
    ) -> tuple[Target, list[DraftMirrored]] | None:
        """The table of the elements, and their columns."""
        known = self.form.types(shape.table, len(self.elements)) if self.form is not None else []
        mapped: list[DraftMirrored] = []
        before = len(problems)
        if {c.column for c in self.elements}.intersection(self.key):
            return None
        for number, c in enumerate(self.elements):
            type_ = c.type or (known[number] if number < len(known) else None)
            if type_ is None and self.create is not None:
                problems.append(
                    Problem(f"column {c.column} has no type", remedy="Give it one.", rule="unknown-column")
                )
                continue
            mapped.append(
                DraftMirrored(
                    name=c.column,
                    type=draft.type(type_) if type_ is not None else "",
                    value="",
                    not_null=c.not_null or c.column in self._element_key,
                )
            )
        if len(problems) > before:
            return None
        key = [*self.key, *self._element_key]
        if self.create is None:
            # Which columns carry the unique key; those of the element equal no column of the row.
            wanted = {**self.key, **dict.fromkeys(self._element_key, "")}
            found = existing_table(draft, shape, self.to, wanted, mapped, problems)
        else:
            keys = keys_of(self.key, shape.table)
            made = [TableColumn(name=c.name, type=c.type, not_null=c.not_null) for c in mapped]
            keys += [c for name in self._element_key for c in made if c.name == name]
            others = [c for c in made if c.name not in self._element_key]
            found = make_table(
                draft,
                shape,
                self.to,
                keys,
                others,
                [],
                self.create,
                f"{label}/table",
                problems,
                primary_key=self.create.primary_key,
            )
        if found is None:
            return None
        found.side.key = key
        found.side.columns = []
        return found, mapped

    # --- steps --------------------------------------------------------------------------------------------------------

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        shape, target, lent = context.draft.memo[context.label]
        steps = table_steps(target, phase, context)
        if phase is Phase.PREPARATION:
            steps += lent_defaults(shape, lent, context.draft.target, context.label, "explode")
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
