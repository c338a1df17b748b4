"""The plan as a document for review: what changes, what each phase does to whom, and how it is taken back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zdm.cli.render.document import Block, Code, Grid, Heading, Items, Numbered, Paragraph
from zdm.cli.render.moves import applications, lock_words
from zdm.cli.render.status import version_words
from zdm.cli.render.text import careful, number, plural, seconds, size
from zdm.errors import Problem
from zdm.model.estimate import Effort
from zdm.model.names import sql_name
from zdm.model.row_mapping import RowMapping

if TYPE_CHECKING:
    from zdm.model.estimate import Estimates, HeldLock, ServerRates
    from zdm.model.mapping import NewColumn, TableMapping
    from zdm.model.phases import PhaseMachine
    from zdm.model.plan import Finding, Plan
    from zdm.model.step import Phase, Step
    from zdm.operations.loader import Loaded
    from zdm.operations.migration import Migration
    from zdm.operations.source import Source

GateWords = Mapping[str, Sequence[tuple[str, str]]]
"""For each phase the gates of the move into it, with their parameters in words."""


def plan_document(
    loaded: Loaded, plan: Plan, machine: PhaseMachine, gates: GateWords, *, with_sql: bool = False
) -> list[Block]:
    """The whole document."""
    migration = loaded.migration
    blocks: list[Block] = [Heading(f"Migration {migration.id}", 1)]
    if migration.description:
        blocks.append(Paragraph(migration.description))
    blocks.append(Items(list(_facts(migration, plan))))
    blocks += _changes(migration, plan)
    blocks += _findings(plan, loaded.source)
    blocks += _roundtrips(plan)
    blocks += _cost(plan)
    for definition in machine.definitions:
        phase = definition.phase
        blocks.append(Heading(f"Phase {phase.number}: {definition.title}"))
        blocks.append(Paragraph(definition.description))
        blocks += _steps(plan, phase, with_sql=with_sql)
        blocks.append(Heading("Gates", 3))
        listed = [f"{name} ({words})" if words else name for name, words in gates.get(phase.value, ())]
        blocks.append(Items(listed or ["none"]))
        blocks.append(Heading("Way back", 3))
        blocks += _way_back(plan, phase, reversible=definition.reversible)
        blocks.append(Heading("Applications, once it is done", 3))
        advice = applications(phase.value, plan.target, plan.old_schema, plan.new_schema)
        blocks.append(Paragraph(advice[:1].upper() + advice[1:]))
    if migration.validations:
        blocks.append(Heading("Validations before switchover and cleanup"))
        for validation in migration.validations:
            blocks.append(Paragraph(f"{validation.name}: must return {validation.expect!r}"))
            blocks.append(Code(validation.sql))
    return blocks


def _facts(migration: Migration, plan: Plan) -> Iterator[str]:
    yield f"target: schema {sql_name(plan.target)}, PostgreSQL {version_words(plan.server_version)}"
    if plan.new_schema:
        yield f"version schemas: old {sql_name(plan.old_schema)}, new {sql_name(plan.new_schema)}"
    else:
        yield "no version schemas: applications see the new columns by their own names"
    yield _risk(migration, plan)
    if migration.estimated_time is not None:
        yield f"the authors' estimate: {migration.model_dump(mode='json')['estimated_time']}"
    if migration.depends_on:
        yield f"after: {', '.join(migration.depends_on)}"
    if migration.module:
        versions = " to ".join(v for v in (migration.from_version, migration.version) if v)
        yield f"module: {migration.module} {versions}".rstrip()
    yield f"checksum: {migration.checksum[:12]}"


def _changes(migration: Migration, plan: Plan) -> Iterator[Block]:
    yield Heading("What changes")
    rows = []
    for position, operation in enumerate(migration.operations, 1):
        values = operation.model_dump(mode="json", exclude_defaults=True, by_alias=True)
        where = ".".join(
            str(values.pop(key)) for key in ("table", "column") if isinstance(values.get(key), str)
        )
        detail = ", ".join(f"{key}: {_short(value)}" for key, value in values.items())
        rows.append((str(position), operation.kind, where, detail))
    yield Grid(("", "operation", "on", "parameters"), rows)
    if plan.facts:
        yield Heading("Tables", 3)
        facts = [
            (str(f.table), number(f.rows), size(f.bytes), _sync_words(plan, str(f.table))) for f in plan.facts
        ]
        yield Grid(("table", "rows (estimate)", "size", "rows are"), facts, right=(1, 2))
    mapped = [row for mapping in plan.mappings for row in _mapped(mapping)]
    mapped += [row for rows in plan.row_mappings for row in _mirrored(rows)]
    if mapped:
        yield Heading("How values are mapped", 3)
        yield Grid(("table", "direction", "column", "expression"), mapped)


def _sync_words(plan: Plan, table: str) -> str:
    for rows in plan.row_mappings:
        for side, other in ((rows.old, rows.new), (rows.new, rows.old)):
            if str(side.table) == table:
                return f"mirrored in {other.table}"
    for mapping in plan.mappings:
        if str(mapping.table) == table:
            return "filled and kept in step" if mapping.needs_sync else "left alone"
    return "left alone"


def _mapped(mapping: TableMapping) -> Iterator[tuple[str, str, str, str]]:
    for group in mapping.groups:
        for new in group.new:
            yield str(mapping.table), "up", f"{new.final} {new.type}", _filled_with(new)
        for old in group.old:
            source = "no way back for new rows"
            if old.down is not None:
                source = old.down.source
            elif group.pairs is not None:
                source = "once, its default or identity"
            yield str(mapping.table), "down", f"{old.name} {old.type}", source


def _filled_with(new: NewColumn) -> str:
    if new.up is not None:
        return new.up.source
    if new.fill is not None:
        return f"once, {new.fill.source}"
    return f"once, its default {new.default}" if new.default is not None else "nothing fills it"


def _mirrored(rows: RowMapping) -> Iterator[tuple[str, str, str, str]]:
    where = f" where {rows.where.source}" if rows.where is not None else ""
    if rows.unites:
        where = f" from {rows.old.table}"
    for t in rows.new.told:
        yield f"{rows.new.table}{where}", "up", f"{t.name} {t.type}", t.value.source
    for c in rows.new.columns:
        yield f"{rows.new.table}{where}", "up", f"{c.name} {c.type}", c.value.source
    for c in () if rows.one_way else rows.old.columns:
        yield str(rows.old.table), "down", f"{c.name} {c.type}", c.value.source


def _findings(plan: Plan, source: Source) -> Iterator[Block]:
    if not plan.findings:
        return
    yield Heading("What to know")
    yield Items(
        [
            (careful("warning: ") if f.severity.value == "warning" else "")
            + (f"{place_of(f, source)}: " if f.where else "")
            + f.text
            + (f" (docs/refusals/{f.rule}.md)" if f.rule else "")
            for f in plan.findings
        ]
    )


def place_of(finding: Finding, source: Source) -> str:
    """Where the finding is: file and line if it names an operation."""
    return source.locate(Problem(finding.text, finding.where)).where


def _roundtrips(plan: Plan) -> Iterator[Block]:
    if not plan.roundtrips:
        return
    yield Heading("Round trip, measured on the rows as they are")
    rows = []
    for trip in plan.roundtrips:
        if trip.lost == 0 and trip.failed == 0:
            verdict = "down(up(x)) = x for every row"
        else:
            verdict = "declared lossy" if trip.declared_lossy else careful("not declared lossy")
        if trip.sample_keys:
            verdict += f"; for example {'; '.join(trip.sample_keys)}"
        rows.append(
            (f"{trip.table} {trip.group}", number(trip.rows), number(trip.lost), number(trip.failed), verdict)
        )
    yield Grid(("columns", "rows tried", "changed", "failed", ""), rows, right=(1, 2, 3))


def _steps(plan: Plan, phase: Phase, *, with_sql: bool) -> Iterator[Block]:
    steps = plan.of(phase)
    if not steps:
        yield Paragraph("Nothing to do in the database.")
        return
    yield Numbered([(step.title, _details(plan, step)) for step in steps])
    if with_sql:
        for i, step in enumerate(steps, 1):
            yield Paragraph(f"Step {i}, {step.title}:")
            yield Code(_sql(step.action))


def _details(plan: Plan, step: Step) -> list[str]:
    """The locks of a step and how long they are held, what it does to rows, and why it is not done in the obvious way."""
    found = plan.estimates.of(step.id) if plan.estimates is not None else None
    if found is None:
        return [lock_words(lock) for lock in step.locks] or ["no table lock"]
    details = [_held(lock) for lock in found.locks] or ["no table lock"]
    work = found.effort.value
    if found.effort is not Effort.CATALOG:
        work += (
            f": {plural(found.rows, 'row') if found.rows is not None and found.rows >= 0 else 'rows unknown'}"
        )
        work += f", {size(found.read_bytes)} read" if found.read_bytes else ""
        work += f", {size(found.wal_bytes)} of WAL" if found.wal_bytes else ""
        work += f"; takes about {seconds(found.seconds)}" if found.seconds is not None else "; time unknown"
    details.append(work)
    if found.naive:
        why = f": {found.naive_reason}" if found.naive_reason else ""
        details.append(f"the obvious statement breaks {found.naive}{why} (docs/refusals/{found.naive}.md)")
    return details


def _held(lock: HeldLock) -> str:
    """``AccessExclusive on public.t, held about 3 ms; makes reads and writes wait``."""
    held = (
        f"held about {seconds(max(lock.seconds, 0.001))}"
        if lock.seconds is not None
        else "held for an unknown time"
    )
    return f"{lock.mode.value} on {lock.table}, {held}; makes {lock.stops} wait"


def _risk(migration: Migration, plan: Plan) -> str:
    declared = f"risk: {migration.risk.value}"
    if plan.estimates is None:
        return declared
    assessed = plan.estimates.risk
    if not assessed.reasons:
        return f"{declared}; nothing speaks against it"
    return f"{declared} as declared, {assessed.level} by the look of it: {'; '.join(assessed.reasons)}"


def _cost(plan: Plan) -> Iterator[Block]:
    """What it costs all in all, and what that was estimated from."""
    found = plan.estimates
    if found is None:
        return
    yield Heading("What it costs, about")
    rows = []
    for phase, took in found.phase_seconds.items():
        steps = [step for step in found.steps if step.phase.value == phase]
        longest = max(
            (lock for step in steps for lock in step.locks if lock.mode.value in _STRONG),
            key=lambda lock: lock.seconds or 0.0,
            default=None,
        )
        strongest = f"{lock_name(longest)}, {seconds(longest.seconds)}" if longest is not None else "none"
        rows.append((phase, seconds(took), size(sum(step.wal_bytes or 0 for step in steps)), strongest))
    rows.append(("all", seconds(found.seconds), size(found.wal_bytes), ""))
    yield Grid(("phase", "time", "WAL", "longest lock that makes writes wait"), rows, right=(1, 2))
    disk = f"disk: {size(found.disk_bytes)} more until the old structure is gone and its space is used again"
    if found.temporary_bytes:
        disk += f", and up to {size(found.temporary_bytes)} of temporary files"
    notes = [disk]
    server = found.server
    if found.wal_bytes and server.max_wal_size:
        notes.append(f"WAL: {_wal_words(found, server)}")
    for table in found.tables:
        if table.scan_bytes_per_second is None:
            continue
        text = f"{table.table} is read at {size(table.scan_bytes_per_second)}/s, measured on its first pages"
        if table.fill_rows_per_second is not None:
            text += (
                f"; {number(table.sample)} of its rows were filled on a temporary copy at "
                f"{number(table.fill_rows_per_second)} rows/s"
            )
        notes.append(text)
    notes.append("no lock is asked for longer than the lock budget (100 ms unless set) at a time")
    if found.workers > 1:
        notes.append(f"the backfill is counted with {plural(found.workers, 'worker')}")
    notes.append("not counted: waiting for gates, for people, and for replicas that fall behind")
    yield Items(notes)


def cost_line(found: Estimates) -> str:
    """The whole in one line."""
    strong = [lock for step in found.steps for lock in step.locks if lock.mode.value in _STRONG]
    longest = max(strong, key=lambda lock: lock.seconds or 0.0, default=None)
    parts = [
        plural(len(found.steps), "step"),
        f"about {seconds(found.seconds)}",
        f"{size(found.wal_bytes)} of WAL",
    ]
    if longest is not None:
        parts.append(
            f"longest lock that makes writes wait: {lock_name(longest)}, about {seconds(longest.seconds)}"
        )
    risk = found.risk
    parts.append(f"risk {risk.level}" + (f" ({'; '.join(risk.reasons)})" if risk.reasons else ""))
    return ", ".join(parts)


def _wal_words(found: Estimates, server: ServerRates) -> str:
    assert found.wal_bytes is not None
    assert server.max_wal_size
    times = found.wal_bytes / server.max_wal_size
    words = (
        f"{size(found.wal_bytes)}, {times:.1f} times max_wal_size" if times >= 0.1 else size(found.wal_bytes)
    )
    if server.wal_bytes_per_second is not None:
        words += (
            f"; the server has written {size(server.wal_bytes_per_second)}/s since its statistics were reset"
        )
    if server.archives:
        words += "; all of it is archived"
    return f"{words}; replicas and slots must keep up with it"


def lock_name(lock: HeldLock) -> str:
    """``AccessExclusive on public.t``."""
    return f"{lock.mode.value} on {lock.table}"


_STRONG = frozenset({"AccessExclusive", "Exclusive", "ShareRowExclusive", "Share"})


def _sql(action: Any) -> str:
    if action.kind == "transaction":
        return "BEGIN;\n" + "".join(f"{s.strip().rstrip(';')};\n" for s in action.statements) + "COMMIT;"
    if action.kind in ("concurrent", "scan"):
        return f"{str(action.statement).strip().rstrip(';')};"
    words = {
        "sync": "-- installs the sync functions and triggers of",
        "backfill": "-- fills, chunk by chunk, every unsettled row of",
        "verify": "-- compares every row of",
    }
    return f"{words[action.kind]} {action.table}; `zdm advance --dry-run` prints the exact SQL"


def _way_back(plan: Plan, phase: Phase, *, reversible: bool) -> Iterator[Block]:
    if not reversible:
        yield Paragraph(careful("None.") + " Once this phase has begun, the old structure goes.")
        return
    undone = [step.title for step in reversed(plan.of(phase)) if step.undo]
    if not undone:
        yield Paragraph(
            "`zdm rollback` takes everything back to before the rollout; this phase adds nothing to undo."
        )
        return
    yield Paragraph("`zdm rollback` takes back, in this order, what these steps did, then the phases before:")
    yield Items(undone)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else _compact(value)
    text = " ".join(str(text).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _compact(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{k}: {_compact(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(_compact(v) for v in value) + "]"
    return str(value)
