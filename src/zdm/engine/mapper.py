"""From the operations of a migration to checked mappings of its tables: what the server has to say to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from psycopg import sql

from zdm.db.additions import adds_instantly, taken_names
from zdm.db.expressions import CheckColumn, ExpressionChecker, Request, measure_roundtrip, on_nulls
from zdm.db.introspect import (
    ResolvedType,
    resolve_collation,
    resolve_type,
    rewrite_free,
    type_comparison,
)
from zdm.db.session import Session
from zdm.db.write_path import write_path
from zdm.engine.copy_mapper import copying, refused_copies
from zdm.engine.derived_defaults import DerivedDefaults
from zdm.engine.key_mapper import referring, refused_keys
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
from zdm.model.names import QualifiedName
from zdm.model.plan import Finding, Roundtrip, Severity
from zdm.model.table import Column, Table
from zdm.operations import fidelity
from zdm.operations.base import Draft, Operation
from zdm.operations.migration import Migration
from zdm.operations.shape import BEFORE, DraftNew, ShapeColumn, TableShape, is_sequence_default
from zdm.operations.succession import plain_default
from zdm.sql import pairs
from zdm.sql.partitions import over_family

MARKER = "_zdm_state"
MOST_COLUMNS = 1600
"""What the server allows, dropped columns counted."""
OUR_TRIGGERS = b"~zdm_1"
"""How the first of the sync triggers' names begins; the server fires triggers in the bytewise order of their names."""


_MOST_COLUMNS_THERE = """
SELECT c.oid::pg_catalog.regclass::text, max(a.attnum), count(*) FILTER (WHERE a.attisdropped)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.oid IN {family} GROUP BY c.oid ORDER BY 2 DESC LIMIT 1
"""


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
    findings: list[Finding] = field(default_factory=list)
    roundtrips: list[Roundtrip] = field(default_factory=list)
    _types: dict[str, ResolvedType] = field(default_factory=dict)
    _rewrite_free: dict[tuple[str, str], bool] = field(default_factory=dict)
    _instant: dict[tuple[str, str | None], bool] = field(default_factory=dict)

    def fail(self) -> None:
        if self.problems:
            count = len(self.problems)
            raise BadInput(
                f"Migration {self.migration.id} cannot be planned on {self.target}: "
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
        self._refuse_too_many_columns(shape)
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
        return mapping.model_copy(update={"marker_in_view": any(self._ambiguous(shape, g) for g in groups)})

    def path(self, owner: str, *tables: QualifiedName) -> tuple[str, ...]:
        """Where names are looked up while rows of these tables are written."""
        return write_path(self.conn, owner, [*(table.schema_ for table in tables), self.target])

    def _groups(self, shape: TableShape) -> tuple[ColumnGroup, ...]:
        if not shape.groups:
            self._spell_defaults(shape)
            return ()
        self._refuse_what_sync_cannot_do(shape)
        self._refuse_not_null_domains(shape)
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
        if self.problems:
            return ()
        ups, fills, downs = self._expressions(shape)
        derived = DerivedDefaults(self.conn, self.target, shape, self.problems, self.findings)
        derived.derive(ups)
        self._spell_defaults(shape)
        self.refuse_generated(shape, [*ups.items(), *downs.items()])
        self.problems += refused_keys(self.conn, shape, fills)
        self.problems += refused_copies(self.conn, self.draft, shape)
        if self.problems:
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
        for circle in circles(made):
            self._refuse_circle(shape, circle)
        return tuple(made)

    def _refuse_too_many_columns(self, shape: TableShape) -> None:
        """The server counts every column that a table ever had; on a partition they may be more than on the table."""
        added = len(shape.all_new()) + (1 if shape.groups else 0)
        if not added:
            return
        row = self.conn.execute(over_family(_MOST_COLUMNS_THERE, shape.table.oid)).fetchone()
        if row is not None and row[1] + added > MOST_COLUMNS:
            name, there, dropped = row
            self.problems.append(
                Problem(
                    f"{name} has {there} columns, {dropped} dropped ones included, and would need {added} more; a table can have "
                    f"{MOST_COLUMNS}",
                    next((group.operation for group in shape.groups), str(shape.name)),
                    "Map fewer columns at a time; if dropped ones fill the table, move its rows to a new one.",
                    "too-many-columns",
                )
            )

    def _refuse_circle(self, shape: TableShape, circle: Sequence[tuple[ColumnGroup, str]]) -> None:
        """No trigger could say which of them comes first."""
        told = ", and ".join(
            f"`{way}` of {group.name} reads what `{other_way}` of {other.name} writes"
            for (group, way), (other, other_way) in zip(circle, [*circle[1:], circle[0]], strict=True)
        )
        self.problems.append(
            Problem(
                f"mappings of {shape.name} read each other's columns in a circle: {told}",
                shape.groups[circle[0][0].number].operation,
                "Let one of the expressions do without the other's column, or map the columns together in one operation.",
                "mapping-circle",
            )
        )

    def _refuse_not_null_domains(self, shape: TableShape) -> None:
        """The server checks a domain's NOT NULL before any trigger runs, so a row of the new version could not be inserted."""
        rows = self.conn.execute(
            """SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a
               JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
               WHERE a.attrelid = %s AND a.attname = ANY (%s) AND t.typnotnull AND t.typdefault IS NULL AND NOT a.atthasdef""",
            [shape.table.oid, [name for group in shape.groups for name in group.old]],
        )
        for name, domain in rows:
            group = shape.group_of(name)
            self.problems.append(
                Problem(
                    f"{name} is of the domain {domain}, which refuses NULL before any trigger can give it a value, so rows of "
                    "the new version could not be inserted",
                    group.operation if group is not None else str(shape.name),
                    f"Give {name} a default, or the domain, until cleanup; or move NOT NULL from the domain to the column.",
                    "not-null-domain",
                )
            )

    def refuse_generated(self, shape: TableShape, expressions: Sequence[tuple[str, Expression]]) -> None:
        """A generated column has its value only after the triggers have run."""
        generated = {column.name for column in shape.table.columns if column.generated}
        for target, expression in expressions:
            for name in sorted(generated.intersection(expression.columns)):
                group = shape.group_of(target)
                self.problems.append(
                    Problem(
                        f"{expression.source!r} reads the generated column {name}, which is computed only after triggers",
                        group.operation if group is not None else str(shape.name),
                        f"Write the expression that {name} is generated from instead.",
                        "reads-generated-column",
                    )
                )

    def _refuse_what_sync_cannot_do(self, shape: TableShape) -> None:
        """Triggers that come after ours, and views that could not keep row security, would break the promise silently."""
        label = shape.groups[0].operation
        own = [(shape.name, trigger) for trigger in shape.table.triggers]
        own += [(part.name, trigger) for part in shape.table.partitions for trigger in part.triggers]
        for table, trigger in own:
            if trigger.row and trigger.timing == "before" and trigger.name.encode() > OUR_TRIGGERS:
                self.problems.append(
                    Problem(
                        f"the trigger {trigger.name} of {table} fires after zdm's, so what it changes would not be synced",
                        label,
                        f"Rename it to sort before {OUR_TRIGGERS.decode()} (ALTER TRIGGER … RENAME TO …).",
                        "trigger-sorts-last",
                    )
                )
        if shape.table.row_security and shape.expose is Expose.VIEWS:
            if self.conn.info.server_version < 150000:
                self.problems.append(
                    Problem(
                        f"{shape.name} has row security, which views keep only from PostgreSQL 15 on",
                        label,
                        "Use `expose: columns`, or upgrade the server first.",
                        "row-security-views",
                    )
                )
            if any(item for column in shape.table.columns for item in column.acl):
                self.problems.append(
                    Problem(
                        f"{shape.name} has both row security and grants on single columns, which no view can keep together",
                        label,
                        "Use `expose: columns`, or grant the whole table.",
                        "row-security-views",
                    )
                )

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
            n.physical: Request(g.operation, n.up, n.type, n.collation)
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
                g.operation, text, _column(shape.table, name).type, _column(shape.table, name).collation
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

    def _ambiguous(self, shape: TableShape, group: ColumnGroup) -> bool:
        """Whether an INSERT's origin cannot be told from the row; see docs/architecture.md, Triggers."""
        if group.copied is not None:
            # Whoever inserts the row, it has what the other table says.
            return False
        triggers = [*shape.table.triggers, *(t for part in shape.table.partitions for t in part.triggers)]
        if any(t.row and t.timing == "before" and "INSERT" in t.definition for t in triggers):
            # An application trigger may fill columns of either side before ours looks at the row.
            return True
        if not group.old:
            # An explicit NULL of the new version must not be derived again.
            return any(not n.not_null and (n.up is not None or n.fill is not None) for n in group.new)
        if not group.new:
            # Nothing of the row tells who inserted it, and only rows of the new version get `down`.
            return any(old.down is not None for old in group.old)
        if all(new.not_null for new in group.new) or group.lookup is not None:
            # NULL refers to nothing, in either version.
            return False
        shown = {column.physical for column in shape.columns}
        if any(old.name in shown for old in group.old):
            # Both versions give it a value.
            return True
        if any(old.default is not None for old in group.old):
            return True
        if any(column.identity for old in group.old if (column := shape.original(old.name)) is not None):
            return True
        types = {c.name: c.type for c in shape.table.columns} | {
            n.physical: n.type for g in shape.groups for n in g.new
        }
        expressions = [n.up for n in group.new if n.up is not None] + [
            o.down for o in group.old if o.down is not None
        ]
        # None means that it raises on NULLs; then the row's origin matters as well.
        return any(on_nulls(self.conn, types, expression) is not True for expression in expressions)

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

    # -- round trips ------------------------------------------------------------------------------------------

    def measure(self, mappings: dict[QualifiedName, TableMapping]) -> None:
        """Refuse every group whose mapping loses values of real rows without saying so."""
        for mapping in mappings.values():
            for group in mapping.groups:
                if group.copied is not None and _promised(group):
                    self._measure_copies(mapping, group)
                # What goes by another table is tried with it, if at all.
                if not group.two_way or not group.new or group.elsewhere:
                    continue
                measured = measure_roundtrip(self.conn, mapping, group)
                found = measured.roundtrip.model_copy(update={"declared_lossy": group.lossy})
                self.roundtrips.append(found)
                keys = "; ".join(found.sample_keys)
                if found.lost and not group.lossy:
                    self.problems.append(
                        Problem(
                            f"{group.name}: down(up(x)) differs from x in {found.lost} of {found.rows} rows of "
                            f"{mapping.table} (for example {keys})",
                            self._label(mapping, group),
                            "Correct `up` or `down`, or declare the loss with `lossy: true`.",
                            "lossy-mapping",
                        )
                    )
                if found.failed:
                    self.findings.append(
                        Finding(
                            severity=Severity.WARNING,
                            text=f"{group.name}: `up` or `down` raises{_null_counts(group)} on {found.failed} of {found.rows} "
                            f"rows of {mapping.table} (for example {keys}); the backfill will stop there until they are "
                            f"corrected{_may_be_null(group)}",
                            where=self._label(mapping, group),
                            rule="up-raises",
                        )
                    )

    def _measure_copies(self, mapping: TableMapping, group: ColumnGroup) -> None:
        """Warn of rows that would have NULL for a copy where the new version promises none."""
        found = measure_roundtrip(self.conn, mapping, group).roundtrip
        assert group.copied is not None
        if found.failed:
            keys = "; ".join(found.sample_keys)
            self.findings.append(
                Finding(
                    severity=Severity.WARNING,
                    text=f"{found.failed} of {found.rows} rows of {mapping.table} (for example {keys}) would have NULL for "
                    f"{_promised(group)}, which is NOT NULL: they refer to no row of {group.copied.table}, or to one that has NULL; the "
                    "backfill will stop there until they are corrected",
                    where=self._label(mapping, group),
                    rule="up-raises",
                )
            )

    def _label(self, mapping: TableMapping, group: ColumnGroup) -> str:
        return self.draft.shapes[mapping.table].groups[group.number].operation


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


def _promised(group: ColumnGroup) -> str:
    return ", ".join(new.final for new in group.new if new.not_null)


def _null_counts(group: ColumnGroup) -> str:
    """An `up` that gives NULL for a column that promises NOT NULL counts as one that raises."""
    return f" (or gives NULL for {names}, which is NOT NULL)" if (names := _promised(group)) else ""


def _may_be_null(group: ColumnGroup) -> str:
    return (
        f"; if {names} may be NULL in the new version, add drop_not_null to the migration"
        if (names := _promised(group))
        else ""
    )


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


def circles(groups: Sequence[ColumnGroup]) -> list[list[tuple[ColumnGroup, str]]]:
    """Derivations that wait for each other: `up` of one group reads an old column that `down` of another writes, and so on round.

    A group is derived in one direction at a time, so it is at most once in a circle. Each circle is told once.
    """
    found: dict[frozenset[int], list[tuple[ColumnGroup, str]]] = {}

    def reads(group: ColumnGroup, way: str) -> list[tuple[ColumnGroup, str]]:
        wanted = set(group.reads_of_up if way == "up" else group.reads_of_down)
        other_way = "down" if way == "up" else "up"
        return [
            (other, other_way)
            for other in groups
            if other.number != group.number
            and wanted
            & (
                {old.name for old in other.old if old.down is not None}
                if way == "up"
                else {new.name for new in other.new if new.up is not None}
            )
        ]

    def walk(path: list[tuple[ColumnGroup, str]]) -> None:
        for following in reads(*path[-1]):
            if following[0].number == path[0][0].number and following[1] == path[0][1]:
                found.setdefault(frozenset(group.number for group, _ in path), path)
            elif following[0].number not in {group.number for group, _ in path}:
                walk([*path, following])

    for group in groups:
        walk([(group, "up")])
    return list(found.values())
