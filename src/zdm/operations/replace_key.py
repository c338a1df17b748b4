"""replace_key: a key of another kind, which nothing computes from the old one, with all that refers to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from psycopg import sql
from pydantic import Field

from zdm.errors import Problem
from zdm.model.mapping import Conflict
from zdm.model.names import QualifiedName, Value, fit, qualified
from zdm.model.sample import Scenario
from zdm.model.step import Backfill, Lock, Phase, Stage, Step, Transaction
from zdm.model.table import Constraint
from zdm.operations import ddl
from zdm.operations.base import Context, Draft, Operation
from zdm.operations.params import Name, Sql, TableName, find_column, find_original, find_shape
from zdm.operations.shape import DraftNew, ShapeColumn, TableShape
from zdm.operations.succession import succeed
from zdm.sql import pairs

COMPARED = re.compile(r"smallint|integer|bigint|uuid|text|character varying(\(\d+\))?")
"""Types of keys whose ``=`` is pg_catalog's own."""


class ReferenceSpec(Value):
    """What a column that refers to the key is called in the new version."""

    table: TableName = Field(description="the table that refers to the key")
    column: Name = Field(description="its column")
    name: Name = Field(description="the column's name in the new version")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What `apply` found out: the key's table and new column, and the tables that refer to it."""

    shape: TableShape
    new: DraftNew
    children: tuple[QualifiedName, ...]


class ReplaceKey(Operation):
    """Give every row a key of another kind, that nothing computes from the old one; what refers to it follows."""

    kind: ClassVar[str] = "replace_key"
    summary: ClassVar[str] = (
        "replace a key, as an integer by a uuid, together with every column that refers to it"
    )

    table: TableName = Field(description="the table")
    column: Name | None = Field(default=None, description="its key; the primary key's column if not given")
    to: Sql = Field(description="the key's type in the new version")
    generate: Sql = Field(
        description="what gives a row its new key, such as gen_random_uuid(); the column's default in the new version"
    )
    name: Name | None = Field(default=None, description="the key's name in the new version, if it changes")
    references: tuple[ReferenceSpec, ...] = Field(
        default=(), description="columns that refer to the key and get another name: `{table, column, name}`"
    )

    scenarios: ClassVar[tuple[Scenario, ...]] = (
        Scenario(
            setup="CREATE TABLE orders (id serial PRIMARY KEY, customer text NOT NULL);"
            " CREATE TABLE items (id serial PRIMARY KEY, order_id int NOT NULL REFERENCES orders ON DELETE CASCADE,"
            " line int NOT NULL, what text, UNIQUE (order_id, line));"
            " CREATE TABLE refunds (id serial PRIMARY KEY, order_id int REFERENCES orders ON DELETE SET NULL, cents int);"
            " INSERT INTO orders (customer) SELECT 'c' || g FROM generate_series(1, 300) g;"
            " INSERT INTO items (order_id, line, what) SELECT g % 300 + 1, g, 'w' FROM generate_series(1, 300) g;"
            " INSERT INTO refunds (order_id, cents) SELECT nullif(g % 200, 0), g FROM generate_series(1, 300) g;",
            operations=(
                {
                    "replace_key": {
                        "table": "orders",
                        "to": "uuid",
                        "generate": "gen_random_uuid()",
                        "references": [{"table": "refunds", "column": "order_id", "name": "order_uuid"}],
                    }
                },
            ),
            old_writes=(
                "INSERT INTO orders (customer) VALUES ('old {n}')",
                "INSERT INTO items (order_id, line, what) SELECT id, 1000000 + {n}, 'old' FROM orders ORDER BY id DESC LIMIT 1",
                "INSERT INTO refunds (order_id, cents) VALUES ({n} % 100 + 1, {n})",
                "UPDATE items SET order_id = ({n} + 7) % 100 + 1 WHERE id = {n} % 300 + 1",
                "UPDATE refunds SET order_id = NULL WHERE id = {n} % 300 + 1",
                "DELETE FROM orders WHERE id = 200 + {n} % 100",
            ),
            new_writes=(
                "INSERT INTO orders (customer) VALUES ('new {n}')",
                "INSERT INTO orders (id, customer) VALUES (gen_random_uuid(), 'given {n}')",
                (
                    "WITH o AS (INSERT INTO orders (customer) VALUES ('both {n}') RETURNING id)"
                    " INSERT INTO items (order_id, line, what) SELECT id, 2000000 + {n}, 'new' FROM o"
                ),
                "INSERT INTO refunds (order_uuid, cents) SELECT id, {n} FROM orders WHERE customer LIKE 'new %' LIMIT 1",
                "UPDATE refunds SET order_uuid = NULL WHERE id = {n} % 300 + 1 AND order_uuid IS NOT NULL",
            ),
            old_reads=("SELECT o.id, i.what FROM orders o JOIN items i ON i.order_id = o.id LIMIT 5",),
            new_reads=("SELECT o.id, r.cents FROM orders o JOIN refunds r ON r.order_uuid = o.id LIMIT 5",),
            agree="SELECT NOT EXISTS (SELECT FROM items i WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = i.order_id))"
            " AND NOT EXISTS (SELECT FROM refunds r WHERE order_uuid IS NOT NULL"
            " AND NOT EXISTS (SELECT FROM orders o WHERE o.id = r.order_uuid)) AND (SELECT count(*) = count(DISTINCT id) FROM orders)",
            after="SELECT count(*) = 2 FROM pg_constraint WHERE contype = 'f' AND confrelid = 'orders'::regclass AND convalidated"
            " AND conname IN ('items_order_id_fkey', 'refunds_order_id_fkey')",
        ),
        Scenario(
            setup="CREATE TABLE pages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            " parent bigint REFERENCES pages ON DELETE CASCADE, title text);"
            " INSERT INTO pages (parent, title) SELECT CASE WHEN g % 7 = 0 THEN g WHEN g % 5 > 0 THEN 301 - g END, 'p'"
            " FROM generate_series(1, 300) g;",
            operations=({"replace_key": {"table": "pages", "to": "uuid", "generate": "gen_random_uuid()"}},),
            old_writes=(
                "INSERT INTO pages (parent, title) VALUES ({n} % 50 + 1, 'old {n}')",
                "UPDATE pages SET parent = id WHERE id = {n} % 50 + 1",
                "UPDATE pages SET title = 'p{n}' WHERE id = 250 - {n} % 50",
            ),
            new_writes=(
                (
                    "WITH p AS (INSERT INTO pages (title) VALUES ('new {n}') RETURNING id)"
                    " INSERT INTO pages (parent, title) SELECT id, 'below' FROM p"
                ),
                "WITH k AS (SELECT gen_random_uuid() AS k) INSERT INTO pages (id, parent, title) SELECT k, k, 'itself {n}' FROM k",
            ),
            old_reads=("SELECT p.id, c.title FROM pages p JOIN pages c ON c.parent = p.id LIMIT 5",),
            new_reads=("SELECT p.id, c.title FROM pages p JOIN pages c ON c.parent = p.id LIMIT 5",),
            agree="SELECT NOT EXISTS (SELECT FROM pages c WHERE parent IS NOT NULL"
            " AND NOT EXISTS (SELECT FROM pages p WHERE p.id = c.parent)) AND count(parent) > 200 FROM pages",
            after="SELECT pg_get_constraintdef(oid) = 'FOREIGN KEY (parent) REFERENCES pages(id) ON DELETE CASCADE' AND convalidated"
            " AND (SELECT atttypid = 'uuid'::regtype FROM pg_attribute WHERE attrelid = 'pages'::regclass AND attname = 'parent')"
            " FROM pg_constraint WHERE conname = 'pages_parent_fkey'",
        ),
    )

    def tables(self) -> Sequence[str]:
        return (self.table,)

    def types(self) -> Sequence[str]:
        return (self.to,)

    def apply(self, draft: Draft, label: str) -> list[Problem]:
        problems: list[Problem] = []
        shape = find_shape(draft, self.table, problems, ordinary=True)
        if shape is None or problems:
            return problems
        column = self._key(shape, problems)
        original = find_original(shape, column, problems) if column is not None else None
        if column is None or original is None:
            return problems
        self._check_key(shape, original.name, problems)
        other = next((group for group in shape.groups if group.paired), None)
        if other is not None:
            problems.append(
                Problem(
                    f"two keys of {shape.name} would be replaced, {', '.join(other.old)} and {original.name}; its rows are found by one",
                    remedy="Replace the other one in a migration of its own, after this one.",
                    rule="no-key",
                )
            )
        children = _children(draft, shape, column.physical, problems)
        self._check_named(draft, children, problems)
        if problems:
            return problems
        to = draft.type(self.to)
        new = succeed(shape, column, original, label=label, problems=problems, final=self.name, type_=to)
        new.fill = new.default = self.generate
        new.inherits = False
        group = shape.groups[-1]
        group.paired, group.conflict = True, Conflict.NEW
        _show(shape, new)
        for child, foreign in children:
            self._refer(draft, shape, child, foreign, to, label, problems)
        draft.memo[label] = _Plan(shape, new, tuple(dict.fromkeys(child.name for child, _ in children)))
        return problems

    def _key(self, shape: TableShape, problems: list[Problem]) -> ShapeColumn | None:
        name = self.column
        if name is None:
            key = next((c for c in shape.table.constraints if c.kind == "primary key"), None)
            if key is None or len(key.columns) != 1:
                what = f"the primary key {key.name} of several columns" if key else "no primary key"
                problems.append(
                    Problem(
                        f"{shape.name} has {what}, so it must be said which column is the key",
                        remedy="Give `column`: one that is a primary key or a unique key by itself.",
                        rule="no-key",
                    )
                )
                return None
            name = key.columns[0]
        return find_column(shape, name, problems)

    def _check_key(self, shape: TableShape, name: str, problems: list[Problem]) -> None:
        table = shape.table
        column = table.column(name)
        assert column is not None
        alone = any(
            c.kind in {"primary key", "unique"} and c.columns == (name,) and " DEFERRABLE" not in c.definition
            for c in table.constraints
        )
        if not alone or not column.not_null:
            problems.append(
                Problem(
                    f"{name} of {table.name} is no key by itself (a primary key, or NOT NULL and UNIQUE, not deferrable)",
                    remedy="Name a column that is; a key of several columns is replaced by a new table (shadow_table).",
                    rule="no-key",
                )
            )
        if not COMPARED.fullmatch(column.type):
            problems.append(
                Problem(
                    f"{name} of {table.name} is of type {column.type}, by which rows cannot be looked up in every session alike",
                    remedy="Change its type to an integer, uuid or text first (change_type).",
                    rule="no-key",
                )
            )
        if column.default is None and not column.identity:
            problems.append(
                Problem(
                    f"{name} of {table.name} has no default, so nothing gives the new version's rows an old key",
                    remedy=f"Give {name} a default (a sequence), or make it an identity, until cleanup.",
                    rule="missing-down",
                )
            )

    def _check_named(
        self, draft: Draft, children: Sequence[tuple[TableShape, Constraint]], problems: list[Problem]
    ) -> None:
        """Each of `references` names a column that refers to the key."""
        known = {(child.name, foreign.columns[0]) for child, foreign in children}
        for spec in self.references:
            try:
                named = (draft.name(spec.table), spec.column)
            except ValueError as error:
                problems.append(Problem(str(error), remedy="Write it as table or schema.table."))
                continue
            if named not in known:
                there = (
                    ", ".join(f"{column} of {table}" for table, column in sorted(known, key=str)) or "none"
                )
                problems.append(
                    Problem(
                        f"no foreign key of {spec.column} of {named[0]} refers to the key",
                        remedy=f"Columns that do: {there}.",
                        rule="unknown-column",
                    )
                )

    def _refer(
        self,
        draft: Draft,
        parent: TableShape,
        child: TableShape,
        foreign: Constraint,
        to: str,
        label: str,
        problems: list[Problem],
    ) -> None:
        """Let the column that refers to the key have a successor which refers to the new one."""
        physical = foreign.columns[0]
        shown = next((c for c in child.columns if c.physical == physical), None)
        original = find_original(child, shown, problems) if shown is not None else None
        if shown is None or original is None:
            if shown is None:
                problems.append(
                    Problem(
                        f"column {physical} of {child.name} goes in an earlier operation of this migration"
                    )
                )
            return
        named = {(draft.name(spec.table), spec.column): spec.name for spec in self.references}
        new = succeed(
            child,
            shown,
            original,
            label=label,
            problems=problems,
            final=named.get((child.name, physical)),
            type_=to,
        )
        new.inherits = False
        child.groups[-1].refers_to = parent.name
        _show(child, new)

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        found: _Plan = context.draft.memo[context.label]
        if not found.children:
            return []
        name = found.shape.name
        index = qualified(name.schema_, fit(f"_zdm_{found.shape.table.oid}_pairs"))
        column = ddl.ident(found.new.physical)
        # Over a part of the rows, it is no key to the server: an update that gives a row its new key waits for nobody who only
        # refers to the row, nor they for it.
        build = ddl.create_index(
            index,
            name,
            sql.SQL("USING btree ({0}) WHERE {0} IS NOT NULL").format(column),
            unique=True,
        )
        drop = ddl.drop_index(index, name)
        if phase is Phase.PREPARATION:
            view = context.mappings[name].pairs
            assert view is not None
            return [
                Step(
                    id=f"preparation.{name}.pairs.index",
                    title=f"build an index by which rows of {name} are looked up by their new keys",
                    phase=phase,
                    stage=Stage.SYNC,
                    operation=context.label,
                    action=build,
                    undo=(drop,),
                    naive="create-index-blocks-writes",
                ),
                Step(
                    id=f"preparation.{name}.pairs.view",
                    title=f"show both keys of {name} to the sync of what refers to it",
                    phase=phase,
                    stage=Stage.SYNC,
                    operation=context.label,
                    action=Transaction(
                        statements=pairs.create_view(context.mappings[name]),
                        locks=(ddl.lock(name, Lock.ACCESS_SHARE),),
                    ),
                    undo=(Transaction(statements=(pairs.drop_view(view),)),),
                ),
            ]
        if phase is not Phase.MIGRATION:
            return []
        itself = name in found.children
        waits = [
            Step(
                id=f"migration.{child}.pairs.{name}",
                title=f"wait for whoever wrote rows of {child} before all of {name} had new keys",
                phase=phase,
                stage=Stage.BACKFILL,
                operation=context.label,
                action=Transaction(statements=(), locks=(ddl.lock(child, Lock.SHARE),)),
                turn=ddl.filling(context.draft.depth(child)) + (2 if child == name else -1),
            )
            for child in found.children
        ]
        again = Step(
            id=f"migration.{name}.pairs.backfill",
            title=f"fill what rows of {name} refer to in {name} itself, where they had to wait",
            phase=phase,
            stage=Stage.BACKFILL,
            operation=context.label,
            action=Backfill(table=name, again=True),
            turn=ddl.filling(context.draft.depth(name)) + 2,
        )
        return [
            *waits,
            *((again,) if itself else ()),
            Step(
                id=f"migration.{name}.pairs.index",
                title=f"drop the index of the new keys of {name} that the key's own has replaced",
                phase=phase,
                stage=Stage.INDEXES,
                operation=context.label,
                action=drop,
                undo=(build,),
            ),
        ]


def _show(shape: TableShape, new: DraftNew) -> None:
    """Let the new version's column have the default that was given."""
    shown = shape.column(new.final)
    if shown is not None:
        shown.default = new.default


def _children(
    draft: Draft, shape: TableShape, key: str, problems: list[Problem]
) -> list[tuple[TableShape, Constraint]]:
    """The tables whose foreign keys point at the key, with these; what keeps one from following is appended."""
    found: list[tuple[TableShape, Constraint]] = []
    for pointing in shape.table.referenced_by:
        if key not in pointing.columns or pointing.references is None:
            continue
        name = pointing.references
        if name in draft.neighbours:
            draft.tables.setdefault(name, draft.neighbours[name])
        written = ddl.table(qualified(name.schema_, _present(draft, name))).as_string(None)
        child = find_shape(draft, written, problems, ordinary=True)
        if child is None:
            continue
        foreign = next(
            (c for c in child.table.constraints if c.kind == "foreign key" and c.name == pointing.name), None
        )
        if foreign is None or pointing.name in child.gone_constraints:
            continue
        why = _obstacle(draft, shape, child, foreign)
        if why:
            problems.append(
                Problem(
                    f"the foreign key {pointing.name} of {name} points at {key} of {shape.name}, {why[0]}",
                    remedy=why[1],
                    rule="referenced-by-foreign-key",
                )
            )
        else:
            found.append((child, foreign))
    return found


def _present(draft: Draft, name: QualifiedName) -> str:
    """What the table is called after the operations so far."""
    shape = draft.shapes.get(name)
    return shape.final_name if shape is not None else name.name


def _obstacle(
    draft: Draft, shape: TableShape, child: TableShape, foreign: Constraint
) -> tuple[str, str] | None:
    """What keeps a foreign key from following, and what to do; None if nothing does."""
    drop = f"Drop {foreign.name} in an earlier migration, and add it again after this one."
    if len(foreign.columns) != 1:
        return "together with other columns", drop
    (name,) = foreign.columns
    column = child.table.column(name)
    assert column is not None
    if child.name != shape.name and _leads_to(draft, shape.name, child.name):
        return f"which refers to what {child.name} refers to in turn: neither could be filled first", drop
    if not foreign.validated:
        return "and is NOT VALID: rows may refer to nothing", f"VALIDATE CONSTRAINT {foreign.name} first."
    if column.default is not None or column.identity:
        return (
            f"and {name} has a default, which names a row by its old key",
            f"ALTER COLUMN {name} DROP DEFAULT first, or let it have none in an earlier migration (set_default).",
        )
    others = [c for c in child.table.constraints if c.kind == "foreign key" and c is not foreign]
    also = [c.name for c in others if name in c.columns and c.name not in child.gone_constraints]
    if also:
        return (
            f"and {name} is part of {', '.join(also)} as well",
            f"Add drop_constraint for {', '.join(also)}.",
        )
    chained = [k for k in child.table.referenced_by if name in k.columns]
    if chained:
        named = ", ".join(f"{k.name} of {k.references}" for k in chained)
        return (
            f"and {name} is a key in turn, which {named} refers to",
            "Let that refer to the first table, or drop it in an earlier migration.",
        )
    return None


def _leads_to(draft: Draft, start: QualifiedName, end: QualifiedName) -> bool:
    """Whether rows of `start` are filled by rows of `end`, directly or by way of others."""
    if start == end:
        return True
    shape = draft.shapes.get(start)
    parents = {group.refers_to for group in shape.groups} if shape is not None else set()
    return any(_leads_to(draft, parent, end) for parent in parents if parent not in (None, start))
