"""What the functions and triggers of every kind of row mapping have in common: names, labels, comments, pinned settings."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from zdm.model.expression import Expression, Volatility
from zdm.model.names import QualifiedName, fit
from zdm.model.row_mapping import RowMapping, RowSide
from zdm.sql.identifiers import SCHEMA, all_of, column, comma, is_true, look_up, qualified_name
from zdm.sql.rows import PINNED_SETTINGS
from zdm.sql.templates import dollar_quoted, load

PREFIX = "!zdm_rows_"
"""How the names of the triggers begin."""

Side = Literal["old", "new", "parent"]

RAISED = sql.SQL(
    "      WHEN transaction_rollback OR insufficient_resources OR object_not_in_prerequisite_state OR operator_intervention\n"
    "        OR system_error THEN RAISE;\n"
)


@dataclass(frozen=True, slots=True)
class Function:
    """A function to make; nobody but zdm may call it."""

    name: str
    arguments: sql.Composable
    definition: sql.Composed
    label: str

    @property
    def statements(self) -> tuple[sql.Composable, ...]:
        """What makes it."""
        revoke = sql.SQL("REVOKE ALL ON FUNCTION {}({}) FROM PUBLIC").format(
            sql.Identifier(SCHEMA, self.name), self.arguments
        )
        return (self.definition, revoke)


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger to make."""

    name: str
    definition: sql.Composed
    label: str


class Objects(ABC):
    """Everything that mirrors the writes of one side (`mine`)."""

    def __init__(self, mapping: RowMapping, rollout: int, side: Side) -> None:
        self.mapping, self.rollout, self.side = mapping, rollout, side
        self.mine = mapping.side(side)
        self.table = qualified_name(self.mine.table)

    @property
    @abstractmethod
    def functions(self) -> tuple[Function, ...]:
        """Its functions, in the order in which they are made."""

    @property
    @abstractmethod
    def triggers(self) -> tuple[Trigger, ...]:
        """Its triggers."""

    @property
    @abstractmethod
    def _expressions(self) -> list[Expression]: ...

    def owner(self) -> sql.Composed:
        """What makes the functions the table's owner's."""
        return dollar_quoted(
            "row_owner",
            schema=sql.Literal(SCHEMA),
            table=sql.Literal(text_of(self.table)),
            functions=sql.Literal([f.name for f in self.functions]),
        )

    def comments(self) -> sql.Composed:
        """What stamps them with where they come from."""
        return dollar_quoted(
            "row_comments",
            schema=sql.Literal(SCHEMA),
            table=sql.Literal(text_of(self.table)),
            functions=sql.Literal([f.name for f in self.functions]),
            function_labels=sql.Literal([f.label for f in self.functions]),
            triggers=sql.Literal([t.name for t in self.triggers]),
            trigger_labels=sql.Literal([t.label for t in self.triggers]),
        )

    def _definition(self, template: str, **pieces: sql.Composable) -> sql.Composed:
        """A filled template, which looks names up where the application's triggers do if it writes rows."""
        if "path" in load(template).parameters:
            pieces["path"] = look_up(self.mapping.path)
        return dollar_quoted(template, **pieces)

    @property
    def _settings(self) -> sql.Composable:
        names: Iterable[str] = ()
        if any(e.volatility is not Volatility.IMMUTABLE for e in self._expressions):
            names = PINNED_SETTINGS
        elif any("\\" in part for e in self._expressions for part in e.parts if isinstance(part, str)):
            names = ("standard_conforming_strings",)
        return pinned(names)

    def _filled(self, name: QualifiedName) -> sql.Composable:
        """That the backfill which the catalog calls so has been to its end, as FROM and WHERE."""
        return sql.SQL(
            "FROM zdm.data_migrations AS zdm_d WHERE zdm_d.rollout = {} AND zdm_d.schema_name = {} AND zdm_d.table_name = {}"
            " AND zdm_d.status = 'finished'"
        ).format(sql.Literal(self.rollout), sql.Literal(name.schema_), sql.Literal(name.name))

    def _function_name(self, purpose: str) -> str:
        return name_of(self.mapping, self.rollout, f"{purpose}_{self.side}")

    def _label(self, template: str, definition: sql.Composed) -> str:
        source = hashlib.sha256(text_of(definition).encode()).hexdigest()[:16]
        return (
            f"zdm rollout {self.rollout} {template} version {load(template).version} source {source} server "
        )

    def _trigger(
        self,
        purpose: str,
        event: str,
        function: str,
        when: sql.Composable | None = None,
        *,
        late: bool = False,
    ) -> Trigger:
        name = trigger_of(self.mapping, f"{self.side}_{purpose}")
        definition = load("row_trigger_late" if late else "row_trigger_row").fill(
            trigger=sql.Identifier(name),
            event=sql.SQL(event),
            table=self.table,
            condition=sql.SQL("") if when is None or is_true(when) else sql.SQL("WHEN ({})").format(when),
            function=sql.Identifier(SCHEMA, function),
        )
        return Trigger(name, definition, self._label("row_trigger_row", definition))

    def _statement_trigger(self, function: str) -> Trigger:
        name = trigger_of(self.mapping, f"{self.side}_truncate")
        definition = load("row_trigger_truncate").fill(
            trigger=sql.Identifier(name), table=self.table, function=sql.Identifier(SCHEMA, function)
        )
        return Trigger(name, definition, self._label("row_trigger_truncate", definition))

    def _changed(self, names: Sequence[str]) -> sql.Composable:
        old, new = (comma(column(name, alias) for name in names) for alias in ("old", "new"))
        return sql.SQL("pg_catalog.record_image_ne(ROW({}), ROW({}))").format(old, new)


_SIMPLE = ("smallint", "integer", "bigint", "uuid", "text", "boolean", "oid", "character varying", "numeric")
"""Types whose text does not depend on any setting."""


def pinned(names: Iterable[str] = PINNED_SETTINGS) -> sql.Composed:
    """The SET clauses of a function whose results depend on settings."""
    return sql.Composed(
        [
            sql.SQL("\n  SET {} = {}").format(sql.Identifier(name), sql.Literal(PINNED_SETTINGS[name]))
            for name in names
        ]
    )


def plain_keys(types: Iterable[str]) -> bool:
    """Whether a key of these types has the same text whoever writes it, and whoever reads it."""
    return all(type_.split("(", 1)[0] in _SIMPLE for type_ in types)


def key_text(side: RowSide, alias: str) -> sql.Composable:
    """The key of a row as the log of changes, and what lost, have it."""
    return sql.SQL("ARRAY[{}]").format(
        comma(sql.SQL("{}::pg_catalog.text").format(column(name, alias)) for name, _ in side.shared)
    )


def failure_key(side: RowSide, alias: str, values: Sequence[sql.Composable] = ()) -> sql.Composable:
    """A row's key as ``zdm.sync_failures`` has it; of these values, where `alias` is not a row of this side."""
    found = values or [column(name, alias) for name in side.key]
    pairs = comma(
        sql.SQL("{}, {}").format(sql.Literal(name), value)
        for name, value in zip(side.key, found, strict=True)
    )
    return sql.SQL("pg_catalog.jsonb_build_object({})").format(pairs)


def record_failure(
    mapping: RowMapping, rollout: int, side: RowSide, alias: str, values: Sequence[sql.Composable] = ()
) -> sql.Composable:
    """Inside an exception handler: note that this row has no form over there at present; `values` as for `failed`."""
    return sql.SQL(
        "        INSERT INTO zdm.sync_failures (rollout, table_oid, key, group_name, sqlstate, message)\n"
        "        VALUES ({}, {}, {}, {}, SQLSTATE, SQLERRM)\n"
        "        ON CONFLICT (rollout, table_oid, key, group_name)\n"
        "        DO UPDATE SET sqlstate = EXCLUDED.sqlstate, message = EXCLUDED.message, at = DEFAULT;"
    ).format(sql.Literal(rollout), _oid(side), failure_key(side, alias, values), sql.Literal(str(mapping.id)))


def failed(
    mapping: RowMapping, rollout: int, side: RowSide, alias: str, values: Sequence[sql.Composable] = ()
) -> sql.Composable:
    """What ``zdm.sync_failures`` holds of this row, as a FROM and WHERE.

    Parameters
    ----------
    values: of its key, where `alias` is not a row of this side.
    """
    key = failure_key(side, alias, values)
    return sql.SQL(
        "FROM zdm.sync_failures AS zdm_f WHERE zdm_f.rollout = {} AND zdm_f.table_oid = {} AND zdm_f.key = {}"
        " AND zdm_f.group_name = {}"
    ).format(sql.Literal(rollout), _oid(side), key, sql.Literal(str(mapping.id)))


def same_key(side: RowSide, left: str, right: str) -> sql.Composable:
    """A condition over two aliases of one side: the key is the same."""
    return equal(side.key, left, side.key, right)


def equal(mine: Sequence[str], left: str, yours: Sequence[str], right: str) -> sql.Composable:
    """A condition over two aliases: these columns are equal, pair by pair."""
    return all_of(
        sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(column(a, left), column(b, right))
        for a, b in zip(mine, yours, strict=True)
    )


def truncated(table: sql.Composable, guard: sql.Composable) -> sql.Composable:
    """What empties a table when all rows of the other side have gone; `guard` says so to its triggers."""
    return load("row_truncate").fill(target=table, named=sql.Literal(text_of(table)), guard=guard)


def referring(many: RowSide, one: RowSide) -> sql.Composable:
    """A query that finds a foreign key of `many` to `one`, if there is any."""
    return sql.SQL(
        "SELECT FROM pg_catalog.pg_constraint AS zdm_c WHERE zdm_c.contype = 'f'"
        " AND zdm_c.conrelid = pg_catalog.to_regclass({}) AND zdm_c.confrelid = pg_catalog.to_regclass({})"
    ).format(*(sql.Literal(text_of(qualified_name(side.table))) for side in (many, one)))


def name_of(mapping: RowMapping, rollout: int, purpose: str) -> str:
    """The name of a function."""
    return f"rows_{rollout}_{mapping.number}_{purpose}"


def trigger_of(mapping: RowMapping, purpose: str) -> str:
    """The name of a trigger."""
    return fit(f"{PREFIX}{mapping.number}_{purpose}")


def text_of(statement: sql.Composable) -> str:
    """A composed statement as text."""
    return statement.as_string(None)


def _oid(side: RowSide) -> sql.Composable:
    return sql.SQL("{}::pg_catalog.regclass::pg_catalog.oid").format(
        sql.Literal(text_of(qualified_name(side.table)))
    )


def sides(mapping: RowMapping) -> tuple[Side, ...]:
    """The sides whose writes are mirrored."""
    if mapping.in_place:
        return ("parent", "old")
    if mapping.parent is not None:
        # What writes of the parent call is made with the new side, which therefore comes first.
        return ("old", "parent", "new")
    if mapping.elements is not None and mapping.elements.one == "new":
        # What the new version writes is refused, if it is not mirrored.
        return ("old", "new")
    return ("old",) if mapping.one_way else ("old", "new")
