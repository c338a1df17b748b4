"""From the operations of a migration to checked mappings of its tables: what the server has to say to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from psycopg import sql

from zdm.db.additions import adds_instantly, taken_names
from zdm.db.expressions import CheckColumn, Derived, ExpressionChecker, Request
from zdm.db.introspect import (
    ResolvedType,
    resolve_collation,
    resolve_type,
    rewrite_free,
    type_comparison,
)
from zdm.db.session import Session
from zdm.db.write_path import write_path
from zdm.engine import sync_limits
from zdm.engine.circles import refused_circles
from zdm.engine.copy_mapper import copying, refused_copies
from zdm.engine.derived_defaults import DerivedDefaults
from zdm.engine.key_mapper import referring, refused_keys
from zdm.engine.origin import ambiguous
from zdm.errors import BadInput, Problem
from zdm.model.expression import Expression, Volatility
from zdm.model.mapping import (
    MAX_GROUPS,
    ColumnGroup,
    Expose,
    NewColumn,
    OldColumn,
    TableMapping,
    ViewColumn,
)
from zdm.model.names import QualifiedName, sql_name
from zdm.model.plan import Finding, Roundtrip, Severity
from zdm.model.table import Column, Table
from zdm.operations import fidelity
from zdm.operations.base import Draft, Operation
from zdm.operations.migration import Migration
from zdm.operations.shape import BEFORE, DraftNew, ShapeColumn, TableShape, is_sequence_default
from zdm.operations.succession import plain_default
from zdm.sql import pairs

MARKER = "_zdm_state"


@dataclass(slots=True)
class Mapper:
    """Applies the operations and maps the tables. Problems are collected, so that all of them are shown at once."""

    conn: Session
    migration: Migration
    target: str
    draft: Draft
    problems: list[Problem] = field(default_factory=list)
    refused: list[Problem] = field(default_factory=list)
    """What hangs on replaced columns and cannot follow them; told together with what is wrong with the mappings."""
    typed: bool = True
    """Whether the server knows all types, so that it can be asked about expressions over their columns."""
    findings: list[Finding] = field(default_factory=list)
    roundtrips: list[Roundtrip] = field(default_factory=list)
    _types: dict[str, ResolvedType] = field(default_factory=dict)
    _rewrite_free: dict[tuple[str, str], bool] = field(default_factory=dict)
    _instant: dict[tuple[str, str | None], bool] = field(default_factory=dict)
    _paths: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

    def fail(self) -> None:
        if self.problems:
            count = len(self.problems)
            raise BadInput(
                f"Migration {self.migration.id} cannot be planned on {sql_name(self.target)}: "
                f"{count} problem{'s' if count > 1 else ''}.",
                problems=self.problems,
                changed="Nothing was changed.",
            )

    def fail_with(self, asked: Callable[[], Sequence[Problem]]) -> None:
        """Fail if anything is wrong so far, `asked` included, which the server is asked only then: later it is asked anyway."""
        if self.problems or self.refused:
            self.problems = [*self.refused, *self.problems, *asked()]
            self.refused = []
        self.fail()

    # -- operations -------------------------------------------------------------------------------------------

    def apply(self) -> None:
        for position, operation in enumerate(self.migration.operations, 1):
            label = f"{position}:{operation.kind}"
            unknown = self._answer(operation)
            made = len(self.draft.created) + len(self.draft.shadows)
            found = operation.apply(self.draft, label)
            if found or len(self.draft.created) + len(self.draft.shadows) > made:
                # Of a table that is there, the column that wants the type says so.
                found = [*found, *unknown]
            for problem in found:
                where = problem.where or label
                self.problems.append(Problem(problem.what, where, problem.remedy, problem.rule))
            if self.conn.prelude != (prelude := tuple(self.draft.prelude)):
                self.conn.prelude = prelude
                self._instant.clear()  # a type that there was not may be there now
        self.fail()
        self.refused = fidelity.settle(self.draft)
        self.findings += self.draft.findings

    def _answer(self, operation: Operation) -> list[Problem]:
        """Ask the server what the operation wants to know before it is applied; returns which types there are not."""
        draft = self.draft
        unknown: list[Problem] = []
        for written in dict.fromkeys(operation.types()):
            try:
                draft.canonical_types[written] = self._type(written).name
            except BadInput as error:
                unknown.append(Problem(str(error.message), remedy=error.remedy))
        for old, new in operation.type_changes(draft):
            with suppress(BadInput):
                if self._rewrites_nothing(old, self._type(new).name):
                    draft.rewrite_free.add((old, new))
        for type_, default in operation.column_additions(draft):
            if self._adds_instantly(type_, default):
                draft.instant_columns.add((type_, default))
        draft.taken |= taken_names(self.conn, operation.names(draft))
        return unknown

    # Columns of one migration have few types, and each answer takes several round trips.

    def _type(self, text: str) -> ResolvedType:
        if text not in self._types:
            self._types[text] = resolve_type(self.conn, text, self.target)
        return self._types[text]

    def _rewrites_nothing(self, old: str, new: str) -> bool:
        if (old, new) not in self._rewrite_free:
            self._rewrite_free[old, new] = rewrite_free(self.conn, old, new)
        return self._rewrite_free[old, new]

    def _adds_instantly(self, type_: str, default: str | None) -> bool:
        if (type_, default) not in self._instant:
            self._instant[type_, default] = adds_instantly(self.conn, type_, default, self.target)
        return self._instant[type_, default]

    # -- one table --------------------------------------------------------------------------------------------

    def mapping(self, shape: TableShape) -> TableMapping:
        """The checked mapping of one table's shape; problems are collected, not raised."""
        table = shape.table
        marker = _free(MARKER, shape)
        for new in shape.all_new():
            self._resolve_collation(shape, new)
        groups = self._groups(shape)
        self.problems += sync_limits.too_many_columns(self.conn, shape)
        for name, count in Counter(c.name for c in shape.columns).items():
            if count > 1:
                self.problems.append(
                    Problem(
                        f"the new version of {table.name} would have two columns called {name}",
                        str(table.name),
                    )
                )
        mapping = TableMapping(
            table=table.name,
            final_name=shape.final_name,
            oid=table.oid,
            key=table.key,
            guarded=fidelity.guarded(self.draft, shape) if groups else (),
            groups=groups,
            marker=marker,
            expose=shape.expose,
            old_columns=tuple(
                ViewColumn(physical=c.name, name=c.name, default=_own_default(c)) for c in table.columns
            ),
            new_columns=tuple(
                ViewColumn(
                    physical=c.physical,
                    name=c.name,
                    default=_view_default(shape, c),
                )
                for c in shape.columns
            ),
            dropped_in_new=shape.dropped,
            partitioned=table.partitioned,
            has_children=table.has_children,
            path=self.path(table.owner, table.name) if groups else (),
        )
        if self.problems or not mapping.needs_sync or shape.expose is Expose.COLUMNS:
            return mapping
        return mapping.model_copy(
            update={"marker_in_view": any(ambiguous(self.conn, shape, g) for g in groups)}
        )

    def path(self, owner: str, *tables: QualifiedName) -> tuple[str, ...]:
        """Where names are looked up while rows of these tables are written."""
        asked = (owner, *dict.fromkeys([*(table.schema_ for table in tables), self.target]))
        if asked not in self._paths:
            self._paths[asked] = write_path(self.conn, owner, asked[1:])
        return self._paths[asked]

    def _groups(self, shape: TableShape) -> tuple[ColumnGroup, ...]:
        before = len(self.problems)
        if not shape.groups:
            self._spell_defaults(shape)
            return ()
        self.problems += sync_limits.hindered_sync(self.conn, shape)
        self.problems += sync_limits.not_null_domains(self.conn, shape)
        if len(shape.groups) > MAX_GROUPS:
            self.problems.append(
                Problem(
                    f"{shape.name} would need {len(shape.groups)} mapped groups of columns; {MAX_GROUPS} fit the marker",
                    str(shape.name),
                    "Split the migration in two.",
                )
            )
            return ()
        for group in shape.groups:
            for new in group.new:
                self._resolve_new(shape, group.operation, new)
        if len(self.problems) > before:
            return ()
        ups, fills, downs = self._expressions(shape)
        derived = DerivedDefaults(self.conn, self.target, shape, self.problems, self.findings)
        derived.derive(ups)
        self._spell_defaults(shape)
        self.problems += sync_limits.reads_generated(shape, [*ups.items(), *downs.items()])
        self.problems += refused_keys(self.conn, shape, fills)
        self.problems += refused_copies(self.conn, self.draft, shape)
        if len(self.problems) > before:
            return ()
        made = []
        for number, group in enumerate(shape.groups):
            made.append(
                ColumnGroup(
                    name=group.name,
                    number=number,
                    old=tuple(self._old(shape, name, downs) for name in group.old),
                    new=tuple(self._new(new, ups, fills, numbered=shape.numbered(new)) for new in group.new),
                    lossy=group.lossy,
                    conflict=group.conflict,
                    pairs=pairs.view_name(shape.table.oid) if group.paired else None,
                )
            )
            if group.refers_to is not None:
                made[-1] = referring(self.draft, made[-1], group.refers_to, own=group.refers_to == shape.name)
            if group.copied is not None:
                made[-1] = copying(made[-1], group.copied)
        self.problems += refused_circles(shape, made)
        return tuple(made)

    def _spell_defaults(self, shape: TableShape) -> None:
        """Have the server spell the defaults of the new version, so that they mean the same under every search_path."""
        mapped = {new.physical: (new, group.operation) for group in shape.groups for new in group.new}
        given = [
            (column, *mapped.get(column.physical, (None, str(shape.name))), column.default)
            for column in shape.columns
            if column.default is not None
            and (column.default_changed or column.fresh or column.physical in mapped)
        ]
        found = self._plain_defaults(shape, [(d, label) for _, d, label, _ in given if d is not None])
        asked = {
            column.physical: Request(label, default, column.type, allow_volatile=True)
            for column, _, label, default in given
            if column.physical not in found
        }
        found |= self.check(shape.final_name, self._new_columns(shape), asked)
        for column, draft, label, _ in given:
            spelt = found.get(column.physical)
            if spelt is None:
                continue
            if spelt.columns:
                self.problems.append(
                    Problem(
                        f"the default of {column.name} mentions {', '.join(spelt.columns)}; a default cannot depend on the row",
                        label,
                        "Use `up` for a value that is made from other columns.",
                    )
                )
                continue
            column.default = spelt.render(sql.Identifier).as_string(None)
            if draft is not None:
                draft.default = column.default

    def _plain_defaults(
        self, shape: TableShape, drafts: Sequence[tuple[DraftNew, str]]
    ) -> dict[str, Expression]:
        """By new physical column the old defaults without a cast, of those that the server takes for the new type."""
        asked: list[tuple[str, Request]] = []
        for draft, label in drafts:
            original = shape.original(draft.replaces) if draft.replaces is not None else None
            if draft.default_before is None or original is None:
                continue
            text = plain_default(draft.default_before, original.type, draft.type)
            asked.append(
                (draft.physical, Request(label, text, draft.type, draft.collation, allow_volatile=True))
            )
        answers = ExpressionChecker(self.conn).check(
            self._new_columns(shape),
            [request for _, request in asked],
            shape.final_name,
            [self.target, "public"],
        )
        return {
            physical: answer
            for (physical, _), answer in zip(asked, answers, strict=True)
            if isinstance(answer, Expression)
        }

    def _resolve_collation(self, shape: TableShape, new: DraftNew) -> None:
        if new.collation is None:
            return
        found = resolve_collation(self.conn, new.collation, self.target)
        if found is None:
            group = shape.group_of(new.physical)
            self.problems.append(
                Problem(
                    f"there is no collation {new.collation} for column {new.final} of {shape.name}",
                    group.operation if group is not None else str(shape.name),
                    "Qualify its name if it is not in the target schema, public or pg_catalog.",
                )
            )
        new.collation = found

    def _resolve_new(self, shape: TableShape, operation: str, new: DraftNew) -> None:
        try:
            found = self._type(new.type)
        except BadInput as error:
            self.problems.append(Problem(error.message, operation, error.remedy))
            self.typed = False
            return
        new.type, new.domain = found.name, found.kind == "domain"
        if not self._adds_instantly(found.name, None):
            self.problems.append(
                Problem(
                    f"adding a column of type {new.type} rewrites the table under lock, because the domain has constraints",
                    operation,
                    "Use the domain's base type, and add its conditions with add_check.",
                    "add-column-rewrites",
                )
            )
        for column in shape.columns:
            if column.physical == new.physical:
                column.type = found.name

    def _expressions(
        self, shape: TableShape
    ) -> tuple[dict[str, Expression], dict[str, Expression], dict[str, Expression]]:
        """All `up`s and all `fill`s by new physical column, and all `down`s by old physical column."""
        old = self._old_columns(shape)
        new = self._new_columns(shape)
        ups = {
            n.physical: Request(g.operation, n.up, n.type, n.collation, derived=Derived.ALWAYS)
            for g in shape.groups
            for n in g.new
            if n.up is not None
        }
        fills = {
            n.physical: Request(g.operation, n.fill, n.type, n.collation, allow_volatile=True)
            for g in shape.groups
            for n in g.new
            if n.fill is not None
        }
        downs = {
            name: Request(
                g.operation,
                text,
                _column(shape.table, name).type,
                _column(shape.table, name).collation,
                derived=Derived.ALWAYS,
            )
            for g in shape.groups
            for name, text in g.old.items()
            if text is not None
        }
        before = [
            CheckColumn(f"{BEFORE}{c.shown_name}", c.physical_name, c.type, c.collation)
            for c in old
            if any(group.reads_before and c.physical_name in group.old for group in shape.groups)
        ]
        return (
            self.check(shape.name.name, old, ups),
            self.check(shape.name.name, old, fills),
            self.check(shape.final_name, [*new, *before], downs),
        )

    def check(
        self, alias: str, columns: Sequence[CheckColumn], requests: dict[str, Request]
    ) -> dict[str, Expression]:
        if not requests:
            return {}
        checker = ExpressionChecker(self.conn)
        answers = checker.check(columns, list(requests.values()), alias, [self.target, "public"])
        found: dict[str, Expression] = {}
        for (key, request), answer in zip(requests.items(), answers, strict=True):
            if isinstance(answer, Problem):
                self.problems.append(answer)
                continue
            found[key] = answer
            if answer.volatility is Volatility.STABLE:
                self.findings.append(
                    Finding(
                        severity=Severity.NOTE,
                        text=f"{request.text!r} depends on session settings; it is always evaluated with TimeZone UTC, "
                        "DateStyle ISO and IntervalStyle postgres",
                        where=request.label,
                    )
                )
            for function in checker.user_functions.get(request.label, ()):
                self.findings.append(
                    Finding(
                        severity=Severity.WARNING,
                        text=f"{request.text!r} calls {function}; do not change that function while the rollout runs",
                        where=request.label,
                    )
                )
        return found

    def _old(self, shape: TableShape, name: str, downs: dict[str, Expression]) -> OldColumn:
        column = _column(shape.table, name)
        return OldColumn(
            name=name,
            type=column.type,
            comparison=column.comparison,
            not_null=column.not_null,
            default=column.default,
            down=downs.get(name),
        )

    def _new(
        self, new: DraftNew, ups: dict[str, Expression], fills: dict[str, Expression], *, numbered: bool
    ) -> NewColumn:
        return NewColumn(
            name=new.physical,
            final=new.final,
            type=new.type,
            comparison=type_comparison(self.conn, new.type, new.collation),
            default=new.default,
            not_null=new.not_null,
            up=ups.get(new.physical),
            fill=fills.get(new.physical),
            collation=new.collation,
            domain=new.domain,
            numbered=numbered,
        )

    # -- what operations asked for ----------------------------------------------------------------------------

    def requested(self) -> dict[str, Expression]:
        """Have the server check the expressions of operations (conditions, index expressions, defaults)."""
        found: dict[str, Expression] = {}
        for name, shape in self.draft.shapes.items():
            for over in ("old", "new"):
                requests = {
                    r.key: Request(r.where, r.text, r.assign_to, allow_volatile=r.volatile)
                    for r in self.draft.requests
                    if r.table == name and r.over == over
                }
                old = over == "old"
                columns = self._old_columns(shape) if old else self._new_columns(shape)
                found |= self.check(shape.name.name if old else shape.final_name, columns, requests)
        for wanted in self.draft.requests:
            answer = found.get(wanted.key)
            if answer is not None and wanted.boolean and answer.type != "boolean":
                self.problems.append(
                    Problem(f"{wanted.text!r} is of type {answer.type}; a condition is needed", wanted.where)
                )
            if answer is not None and wanted.constant and answer.columns:
                self.problems.append(
                    Problem(
                        f"{wanted.text!r} mentions {', '.join(answer.columns)}; it cannot depend on the row",
                        wanted.where,
                    )
                )
        return found

    @staticmethod
    def _old_columns(shape: TableShape) -> list[CheckColumn]:
        return [CheckColumn(c.name, c.name, c.type, c.collation) for c in shape.table.columns]

    def _new_columns(self, shape: TableShape) -> list[CheckColumn]:
        return [CheckColumn(c.name, c.physical, c.type, shape.collation(c.physical)) for c in shape.columns]


def _view_default(shape: TableShape, column: ShapeColumn) -> str | None:
    """The default that the new version's view carries: None where only the table's own is right."""
    new = shape.draft(column.physical)
    if new is not None and shape.numbered(new):
        return None
    if column.default_changed or (column.fresh and column.default):
        return column.default or "NULL"
    original = shape.original(column.physical)
    return _own_default(original) if original is not None else None


def _own_default(column: Column) -> str | None:
    """The table's default, for a view: through one without, `SET c = DEFAULT` gives NULL. A number is the table's to give."""
    if column.generated or is_sequence_default(column.default):
        return None
    return column.default


def _column(table: Table, name: str):  # type: ignore[no-untyped-def]
    found = table.column(name)
    assert found is not None, f"{table.name} has no column {name}"
    return found


def _free(name: str, shape: TableShape) -> str:
    """A name for the marker that neither the table has nor a new column takes: that of `state` begins like it."""
    taken = shape.physical_names()
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}{count}"
    return candidate
