"""What an operation is: a validated value that edits shapes and lists steps. It never touches a connection.

To add one, write ``src/zdm/operations/<name>.py`` with one subclass of `Operation` whose `kind` is ``<name>``; it is found
by discovery (`zdm.operations.registry`). It carries `scenarios`, which the conformance suite runs through every phase, kill
and rollback, and it has a page ``docs/operations/<name>.md``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from psycopg import sql

from zdm.errors import Problem
from zdm.model.expression import Expression
from zdm.model.mapping import Expose, TableMapping
from zdm.model.names import QualifiedName, Value, split_name
from zdm.model.plan import Finding
from zdm.model.promise import Promise
from zdm.model.requests import (
    CarryRequest,
    ColumnType,
    Dependents,
    ExpressionRequest,
    Follow,
    FollowRequest,
    IndexRequest,
    RecreateRequest,
    Recreation,
)
from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Step
from zdm.model.table import Table
from zdm.operations.rows import DraftRows
from zdm.operations.shadows import Shadow
from zdm.operations.shape import TableShape


def readable_names(written: Iterable[str], default_schema: str) -> list[QualifiedName]:
    """The names that can be read; what is wrong with the others the operations say, each with its place."""
    found: list[QualifiedName] = []
    for text in written:
        with suppress(ValueError):
            found.append(split_name(text, default_schema))
    return found


@dataclass(slots=True)
class Draft:
    """The new version of everything a migration touches while its operations are applied.

    Parameters
    ----------
    target: the schema that unqualified names mean.
    migration: the migration's id, for names of generated objects.
    server_version: `server_version_num`, e.g. 180006; recipes differ by version.
    tables: every existing table, view … that the operations name, as introspected, by qualified name (absent = no such table).
    created: tables that earlier operations of the same migration create, by qualified name, with their columns' types by name.
    """

    target: str
    migration: str
    server_version: int
    expose: Expose = Expose.VIEWS
    tables: dict[QualifiedName, Table] = field(default_factory=dict)
    shapes: dict[QualifiedName, TableShape] = field(default_factory=dict)
    neighbours: dict[QualifiedName, Table] = field(default_factory=dict)
    """Tables that no operation names, but whose foreign keys point at one that is named, or at a part of one."""
    part_tables: dict[QualifiedName, Table] = field(default_factory=dict)
    """Partitions and children of named tables that have anything of their own on columns which they share."""
    parts: dict[QualifiedName, TableShape] = field(default_factory=dict)
    """Those of them whose own things follow replaced columns, each with what is its own only. Filled by `zdm.operations.fidelity`."""
    created: dict[QualifiedName, dict[str, ColumnType]] = field(default_factory=dict)
    rows: list[DraftRows] = field(default_factory=list)
    """Mappings between rows of two tables; the planner has them checked and turns them into `RowMapping`s."""
    shadows: dict[QualifiedName, Shadow] = field(default_factory=dict)
    """Tables that another one replaces, by their present name; that one is in `created` as well."""
    types: set[QualifiedName] = field(default_factory=set)
    """Types that earlier operations of the same migration create."""
    silences: bool = False
    """Whether the connected role may set session_replication_role, so that triggers and rules leave alone what the backfill writes."""
    prelude: list[str] = field(default_factory=list)
    """Statements that make those types; the transaction that checks expressions runs them first, and is rolled back."""
    rewrite_free: set[tuple[str, str]] = field(default_factory=set)
    """(old type, new type) pairs for which the server, asked on an empty table, changes the type without a rewrite."""
    instant_columns: set[tuple[str, str | None]] = field(default_factory=set)
    """(type, default) pairs for which the server, asked on an empty table, adds a column without a rewrite."""
    canonical_types: dict[str, str] = field(default_factory=dict)
    """Types as written in the file, as the server calls them with an empty search_path."""
    own_views: set[str] = field(default_factory=set)
    """zdm's own version views, as `Dependent.name` has them: they follow the table, so they stand in nobody's way."""
    taken: set[QualifiedName] = field(default_factory=set)
    """Those names of `Operation.names` that a relation or a type already has."""
    requests: list[ExpressionRequest] = field(default_factory=list)
    """Expressions that the planner must have checked once every operation is applied; see `Context.expressions`."""
    carries: list[CarryRequest] = field(default_factory=list)
    """Definitions that the planner must have rewritten; see `Context.carried`. Filled by `zdm.operations.fidelity`."""
    follows: list[FollowRequest] = field(default_factory=list)
    """Dependants that the planner must ask the server about; see `Context.followed`. Filled by `zdm.operations.fidelity`."""
    sync: SyncMode = SyncMode.IMMEDIATE
    """How rows of two tables are kept in step."""
    dependents: Dependents = Dependents.REFUSE
    """What becomes of the user's views over replaced columns."""
    recreate: RecreateRequest | None = None
    """The views that the planner must ask the server about; see `Context.recreation`. Filled by `zdm.operations.fidelity`."""
    findings: list[Finding] = field(default_factory=list)
    memo: dict[str, Any] = field(default_factory=dict)
    """What `apply` found out and `plan` needs, by the operation's label; names may change meaning in between."""

    def name(self, text: str) -> QualifiedName:
        """`text` as a qualified name in this target."""
        return split_name(text, self.target)

    def shape(self, text: str) -> TableShape | None:
        """The shape of the existing table called `text`, made on first use; None if there is no such table.

        A table that an earlier operation renamed answers to its new name only.
        """
        name = self.name(text)
        for shape in self.shapes.values():
            if shape.name.schema_ == name.schema_ and shape.final_name == name.name and shape.name != name:
                return shape
        if name not in self.shapes and name in self.tables:
            self.shapes[name] = TableShape.of(self.tables[name], self.expose)
        found = self.shapes.get(name)
        return found if found is not None and found.final_name == name.name else None

    def depth(self, name: QualifiedName) -> int:
        """How many tables have to be filled before this one, since its rows refer to theirs by keys that they get."""
        shape = self.shapes.get(name)
        parents = {group.refers_to for group in shape.groups} if shape is not None else set()
        return max((self.depth(parent) + 1 for parent in parents if parent not in (None, name)), default=0)

    def existing(self, name: QualifiedName) -> Table | None:
        """An existing table that an operation names, a part of it, or one that refers to either."""
        return self.tables.get(name) or self.part_tables.get(name) or self.neighbours.get(name)

    def following(self, name: QualifiedName) -> TableShape | None:
        """The shape of a table whose own things follow replaced columns: as a part of another one, or by itself."""
        return self.parts.get(name) or self.shapes.get(name)

    def carriers(self) -> list[TableShape]:
        """The shapes of all tables on which something may follow replaced columns, each once."""
        alone = [s for s in self.shapes.values() if not s.dropped and s.name not in self.parts]
        return alone + list(self.parts.values())

    def type(self, text: str) -> str:
        """A type as written in the file, as SQL that means the same under every search_path, as far as it is known."""
        found = self.canonical_types.get(text)
        if found is not None:
            return found
        base, array = (text.strip()[:-2], "[]") if text.strip().endswith("[]") else (text, "")
        try:
            name = self.name(base)
        except ValueError:
            return text
        if name in self.types:
            return sql.Identifier(name.schema_, name.name).as_string(None) + array
        return text


@dataclass(frozen=True, slots=True)
class Context:
    """What `Operation.plan` sees: the finished draft and the mappings the server has checked, by the table's old name.

    `expressions`, `carried` and `followed` hold the server's answers to `Draft.requests`, `Draft.carries` (and
    `Operation.indexes`) and `Draft.follows`, by their keys; `recreation` the one to `Draft.recreate`.
    """

    draft: Draft
    mappings: dict[QualifiedName, TableMapping]
    label: str  # "<position>:<kind>", the `operation` of every step
    expressions: dict[str, Expression] = field(default_factory=dict)
    carried: dict[str, str] = field(default_factory=dict)
    followed: dict[str, Follow] = field(default_factory=dict)
    recreation: Recreation = field(default_factory=Recreation)
    closable: frozenset[QualifiedName] = frozenset()


class Operation(Value, ABC):
    """One change. Subclasses declare their parameters as pydantic fields with descriptions."""

    kind: ClassVar[str]
    summary: ClassVar[str]
    scenarios: ClassVar[tuple[Scenario, ...]] = ()

    @abstractmethod
    def tables(self) -> Sequence[str]:
        """The existing tables it needs to know (as written in the file), referenced ones included."""

    def type_changes(self, draft: Draft) -> Sequence[tuple[str, str]]:
        """(old type, new type) pairs the planner should ask the server about before `apply`; see `Draft.rewrite_free`."""
        del draft
        return ()

    def column_additions(self, draft: Draft) -> Sequence[tuple[str, str | None]]:
        """(type, default) pairs the planner should ask the server about before `apply`; see `Draft.instant_columns`."""
        del draft
        return ()

    def types(self) -> Sequence[str]:
        """Types as written in the file, to be asked for their full names before `apply`; see `Draft.canonical_types`."""
        return ()

    def names(self, draft: Draft) -> Sequence[QualifiedName]:
        """Relations and types that it creates, to be looked up before `apply`; see `Draft.taken`."""
        del draft
        return ()

    @abstractmethod
    def apply(self, draft: Draft, label: str) -> list[Problem]:
        """Edit the draft, or say everything that is wrong with it. `label` is "<position>:<kind>".

        Problems leave `where` empty: the loader adds file and line of the operation.
        """

    def plan(self, phase: Phase, context: Context) -> list[Step]:
        """The operation's own steps in `phase`. What rows need (new columns, triggers, backfill, views, swap) is compiled
        once per table from the shape, so operations that only map columns have none.

        Steps before `Stage.CONTRACT` speak of physical columns and the table's present name; steps of `Stage.FINISH`, which
        run after the swap, of final ones.
        """
        del phase, context
        return []

    def indexes(self, context: Context) -> Sequence[IndexRequest]:
        """Indexes that the server should spell before `plan`; the answers are in `Context.carried`."""
        del context
        return ()

    def promises(self, context: Context) -> list[Promise]:
        """What it demands of rows that are there already, so that the verification counts who breaks it beforehand."""
        del context
        return []
