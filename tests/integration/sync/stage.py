"""A table under sync, built by hand: a mapping, its triggers, both version schemas, and people who write to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tests.support.servers import Connection, Database
from zdm.model.expression import ColumnRef, Expression, Volatility
from zdm.model.mapping import (
    FAILED,
    Authority,
    ColumnGroup,
    Comparison,
    NewColumn,
    OldColumn,
    TableMapping,
    ViewColumn,
)
from zdm.model.names import qualified
from zdm.sql import rows, sync, views

ROLLOUT = 7
Rewrite = Callable[[str], str]

_CATALOG = """
CREATE SCHEMA zdm;
CREATE TABLE zdm.sync_failures (
    rollout bigint NOT NULL, table_oid oid NOT NULL, key jsonb NOT NULL, group_name text NOT NULL,
    sqlstate text NOT NULL, message text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (rollout, table_oid, key, group_name)
);
"""


def expression(text: str, volatility: Volatility = Volatility.IMMUTABLE) -> Expression:
    """An expression whose column references are written ``{name}``."""
    parts = [part for part in re.split(r"(\{[^}]+\})", text) if part]
    made = tuple(ColumnRef(column=p[1:-1]) if p.startswith("{") else p for p in parts)
    return Expression(source=text, parts=made, type="", volatility=volatility)


def old(name: str, type_: str = "integer", down: str | None = None, **facts: Any) -> OldColumn:
    facts.setdefault("comparison", Comparison.NATIVE)
    return OldColumn(name=name, type=type_, down=expression(down) if down else None, **facts)


def new(name: str, final: str, type_: str = "numeric", up: str | None = None, **facts: Any) -> NewColumn:
    facts.setdefault("comparison", Comparison.IMAGE)
    return NewColumn(name=name, final=final, type=type_, up=expression(up) if up else None, **facts)


def group(*columns: OldColumn | NewColumn, name: str = "g", number: int = 0, **facts: Any) -> ColumnGroup:
    return ColumnGroup(
        name=name,
        number=number,
        old=tuple(c for c in columns if isinstance(c, OldColumn)),
        new=tuple(c for c in columns if isinstance(c, NewColumn)),
        **facts,
    )


@dataclass(frozen=True)
class Design:
    """A table and its mapping.

    Parameters
    ----------
    columns: the table's own columns, as in CREATE TABLE. The first one is its key.
    before: statements run after the table is made and before the sync is installed: rows that are not filled yet.
    after: statements run once the new columns and the sync are there.
    """

    columns: str
    groups: tuple[ColumnGroup, ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    marker_in_view: bool = False
    defaults: dict[str, str] = field(default_factory=dict)
    authority: Authority = Authority.OLD
    table: str = "t"
    key: tuple[str, ...] | None = None


@dataclass
class Stage:
    """What a test plays on."""

    database: Database
    design: Design
    mapping: TableMapping
    connection: Connection

    @classmethod
    def set(
        cls, database: Database, design: Design, *, rewrite: Rewrite = str, install: bool = True
    ) -> Stage:
        """Make the table, its columns, its sync (each statement passed through `rewrite`) and both version schemas."""
        connection = database.connect(autocommit=True)
        name = sql.Identifier("public", design.table)
        if not database.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'zdm'"):
            connection.execute(_CATALOG.encode())
        connection.execute(sql.SQL("CREATE TABLE {} ({})").format(name, sql.SQL(design.columns)))  # type: ignore[arg-type,unused-ignore]
        mapping = cls._mapping(connection, design)
        for statement in design.before:
            connection.execute(statement.encode())
        added = [c for g in design.groups for c in g.new]
        for column in added:
            collation = f" COLLATE {column.collation}" if column.collation else ""
            connection.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
                    name,
                    sql.Identifier(column.name),
                    sql.SQL(column.type + collation),  # type: ignore[arg-type,unused-ignore]
                )
            )
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN {} integer").format(name, sql.Identifier(mapping.marker))
        )
        stage = cls(database, design, mapping, connection)
        if install:
            stage.install(rewrite)
        version = connection.info.server_version
        with connection.transaction():
            for schema, is_old in (("before", True), ("after", False)):
                for statement in views.create_schema(schema, "public"):
                    connection.execute(statement.encode())
                for statement in views.create_view(mapping, schema, version, old=is_old):
                    connection.execute(statement.encode())
        for statement in design.after:
            connection.execute(statement.encode())
        return stage

    @staticmethod
    def _mapping(connection: Connection, design: Design) -> TableMapping:
        with connection.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute(
                "SELECT attname AS name, attrelid::int AS oid FROM pg_attribute "
                "WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
                [sql.Identifier("public", design.table).as_string(None)],
            ).fetchall()
        shown = [ViewColumn(physical=c["name"], name=c["name"]) for c in found]
        replaced = {o.name: g for g in design.groups for o in g.old}
        after: list[ViewColumn] = []
        placed: set[str] = set()

        def place(these: Sequence[NewColumn]) -> None:
            for column in these:
                if column.name not in placed:
                    placed.add(column.name)
                    default = design.defaults.get(column.final, column.default)
                    after.append(ViewColumn(physical=column.name, name=column.final, default=default))

        for c in shown:
            if c.name in replaced:
                place(replaced[c.name].new)
            else:
                after.append(c.model_copy(update={"default": design.defaults.get(c.name)}))
        place([n for g in design.groups for n in g.new])
        return TableMapping(
            table=qualified("public", design.table),
            final_name=design.table,
            oid=found[0]["oid"],
            key=(found[0]["name"],) if design.key is None else design.key,
            groups=design.groups,
            marker_in_view=design.marker_in_view,
            old_columns=tuple(shown),
            new_columns=tuple(after),
        )

    def install(self, rewrite: Rewrite = str) -> None:
        """Install the sync in one transaction."""
        with self.connection.transaction():
            for statement in sync.install(self.mapping, ROLLOUT, self.design.authority).statements:
                self.connection.execute(rewrite(statement).encode())

    # --- writing ------------------------------------------------------------------------------------------------------

    def run(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """A statement of somebody who uses the table itself."""
        return self._run("public", statement, parameters)

    def old(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """A statement of the old application, through its version schema."""
        return self._run("before, public", statement, parameters)

    def new(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """A statement of the new application, through its version schema."""
        return self._run("after, public", statement, parameters)

    def _run(self, path: str, statement: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        self.connection.execute(f"SET search_path = {path}".encode())
        cursor = self.connection.execute(statement.encode(), parameters or None)
        found = cursor.fetchall() if cursor.description else []
        self.connection.execute("SET search_path = public")
        return found

    def refused(self, who: Callable[..., object], statement: str) -> psycopg.Error:
        """The error that a statement must meet."""
        try:
            who(statement)
        except psycopg.Error as error:
            self.connection.execute("SET search_path = public")
            return error
        raise AssertionError(f"was not refused: {statement}")

    # --- looking ------------------------------------------------------------------------------------------------------

    def row(self, key: object = 1) -> dict[str, Any]:
        """A row of the table, its marker taken apart into `settled`, `failed` and `new_last` (numbers of groups)."""
        name = self.mapping.key[0] if self.mapping.key else "id"
        with self.connection.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute(
                sql.SQL("SELECT * FROM {} WHERE {} = %s").format(
                    sql.Identifier("public", self.mapping.table.name), sql.Identifier(name)
                ),
                [key],
            ).fetchall()
        assert len(found) == 1, f"{len(found)} rows with key {key!r}"
        row: dict[str, Any] = {k: float(v) if isinstance(v, Decimal) else v for k, v in found[0].items()}
        marker = row.pop(self.mapping.marker)
        row["settled"] = marker is not None
        row["failed"] = bool((marker or 0) & FAILED)
        row["new_last"] = [g.number for g in self.mapping.groups if (marker or 0) & g.bit]
        assert (marker or 0) < rows.REPAIR, "the spare bit was stored"
        return row

    def has(self, key: object = 1, **facts: object) -> None:
        """Assert facts about a row."""
        row = self.row(key)
        found = {name: row[name] for name in facts}
        assert found == facts, f"row {key}: {row}"

    def failures(self) -> list[tuple[Any, ...]]:
        """What is recorded: key, group, SQLSTATE."""
        return self.run(
            "SELECT key, group_name, sqlstate FROM zdm.sync_failures ORDER BY key::text, group_name"
        )

    def mismatches(self) -> list[tuple[str, str, int]]:
        """What a verification would find: kind, group, rows."""
        found = []
        for kind, name, predicate in rows.mismatch_kinds(self.mapping):
            query = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(
                sql.Identifier("public", self.mapping.table.name), predicate
            )
            ((count,),) = self.connection.execute(query).fetchall()
            if count:
                found.append((kind.value, name, count))
        return found

    def agrees(self) -> None:
        """Assert that every row is settled and both sides agree."""
        assert self.mismatches() == []

    def backfill(self, where: str = "true") -> None:
        """One statement of the backfill."""
        self.connection.execute(self.fill(where))

    def fill(self, where: str = "true") -> sql.Composed:
        return sql.SQL("UPDATE {} SET {} WHERE {} AND {}").format(
            sql.Identifier("public", self.mapping.table.name),
            rows.fill_assignments(self.mapping),
            rows.unsettled(self.mapping),
            sql.SQL(where),  # type: ignore[arg-type,unused-ignore]
        )

    def calls(self) -> int:
        """How many times functions of the sync have been called in the open transaction."""
        ((count,),) = self.run(
            "SELECT COALESCE(sum(calls), 0) FROM pg_stat_xact_user_functions WHERE schemaname = 'zdm'"
        )
        return int(count)
