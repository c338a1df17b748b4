"""What a plan will cost, from what was measured on its tables and from the server's statistics. All of it is "about"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from zdm.backfill.options import VacuumPolicy
from zdm.db.probes.rates import server_rates, table_rates
from zdm.db.session import Session
from zdm.engine.preview import statements_of
from zdm.model.estimate import (
    STOPS,
    Effort,
    Estimates,
    HeldLock,
    Risk,
    ServerRates,
    StepEstimate,
    TableRates,
)
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName
from zdm.model.plan import Plan, Severity
from zdm.model.row_mapping import RowMapping
from zdm.model.step import (
    Backfill,
    Concurrent,
    Lock,
    PartitionedForeignKey,
    PartitionedIndex,
    Phase,
    Scan,
    Step,
    Transaction,
    Verify,
)
from zdm.operations.lint import RULES

SCAN_BYTES_PER_SECOND = 500e6
FILL_ROWS_PER_SECOND = 40e3
"""Of a small machine with data in memory, where nothing could be measured."""

SYNC_COST = 2.5
"""A backfill against an UPDATE of a temporary copy: WAL, the sync triggers' conditions, a commit for each chunk."""

INDEX_COST = 6.0
"""Building an index CONCURRENTLY against reading the table: it is read twice, sorted and written."""

STATEMENT_SECONDS = 0.003
"""A change of the catalogs, once the lock is there."""

SYNC_STATEMENTS = 10
"""About so many triggers are made, or functions replaced."""

TUPLE_OVERHEAD = 150
INDEX_ENTRY = 64
"""Bytes of WAL for each new row version beside its values, and for its entry in each index."""

LONG = 4 * 3600.0
HUGE = 100 * 1024**3
RUN_NAIVELY = {
    **{rule.slug: rule.refusal for rule in RULES if rule.refusal},
    "set-not-null": "SET NOT NULL reads the whole table while nobody else can",
    "update-whole-table": "one UPDATE holds the lock of every row until it commits",
    "add-column-with-default": "a default may be computed, and constraints are proved, while everybody waits",
    "drop-column": "code that uses the column fails from that moment",
}


def estimate_plan(
    conn: Session | None, plan: Plan, workers: int = 1, *, measured: Iterable[TableRates] = ()
) -> Estimates:
    """Estimate every step and the whole.

    Parameters
    ----------
    conn: measured on; without it `measured` is all there is.
    workers: of the backfill.
    """
    server = server_rates(conn) if conn is not None else ServerRates()
    rates = {found.table: found for found in measured}
    mappings = {mapping.table: mapping for mapping in plan.mappings}
    for table in {lock.table for step in plan.steps for lock in step.locks} if conn is not None else ():
        found = table_rates(conn, table, mappings.get(table)) if conn is not None else None
        if found is not None:
            rates[table] = found
    steps = tuple(_step(step, plan, rates, server, workers) for step in plan.steps)
    phases = {phase.value: _sum(s.seconds for s in steps if s.phase is phase) for phase in Phase}
    whole = Estimates(
        steps=steps,
        tables=tuple(sorted(rates.values(), key=lambda r: str(r.table))),
        server=server,
        workers=workers,
        seconds=_sum(phases.values()),
        phase_seconds=phases,
        wal_bytes=_whole(_sum(s.wal_bytes or 0 for s in steps)),
        disk_bytes=_whole(_sum(s.disk_bytes or 0 for s in steps)),
        temporary_bytes=max((s.temporary_bytes or 0 for s in steps), default=0),
    )
    return whole.model_copy(update={"risk": _risk(plan, whole)})


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum; unknown if any part is."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _step(
    step: Step, plan: Plan, rates: Mapping[QualifiedName, TableRates], server: ServerRates, workers: int
) -> StepEstimate:
    action = step.action
    statements = statements_of(action, plan, 0)
    tables = [rates[lock.table] for lock in step.locks if lock.table in rates]
    made = StepEstimate(
        step=step.id,
        phase=step.phase,
        effort=Effort.CATALOG,
        statements=statements,
        naive=step.naive,
        naive_reason=RUN_NAIVELY.get(step.naive, ""),
    )
    if isinstance(action, Backfill):
        mapped = plan.row_mapping(action.table)
        if mapped is not None:
            made = _copied(made, rates.get(mapped.old.table), mapped, workers)
        else:
            known = rates.get(action.table)
            made = _filled(made, known, plan.mapping(action.table), server, workers)
    elif isinstance(action, Verify | Scan | PartitionedForeignKey):
        once = max(1, len(statements)) if isinstance(action, Verify) else 1
        read = _sum(_scan_seconds(one, server) for one in tables)
        made = made.model_copy(
            update={
                "effort": Effort.SCAN,
                "seconds": None if read is None else read * once,
                "rows": _sum(one.rows for one in tables),
                "read_bytes": sum(one.bytes for one in tables) * once,
            }
        )
    elif isinstance(action, PartitionedIndex):
        made = _index(made, tables, server, builds=not action.remove)
    elif isinstance(action, Concurrent):
        made = _index(made, tables, server, builds=action.statement.startswith("CREATE"))
    else:
        rewritten = any(lock.hold == "rewrite" for lock in step.locks)
        scanned = any(lock.hold == "scan" for lock in step.locks)
        # The sync functions are made before the lock is asked for.
        count = len(action.statements) if isinstance(action, Transaction) else SYNC_STATEMENTS
        seconds = STATEMENT_SECONDS * max(1, count)
        if rewritten or scanned:
            read = _sum(_scan_seconds(one, server) for one in tables)
            seconds = 0.0 if read is None else seconds + read * (4 if rewritten else 1)
        made = made.model_copy(
            update={
                "effort": Effort.SCAN if scanned else Effort.FILL if rewritten else Effort.CATALOG,
                "seconds": seconds,
            }
        )
    return made.model_copy(update={"locks": _held(step, made)})


def _held(step: Step, made: StepEstimate) -> tuple[HeldLock, ...]:
    """How long each lock is held: of row work the length of a chunk, of a transaction its own, of the rest the step's."""
    chunk = isinstance(step.action, Backfill)
    # The long part of these, building and proving, locks weakly; what stops somebody is a statement for each partition.
    brief = isinstance(step.action, PartitionedIndex | PartitionedForeignKey)
    return tuple(
        HeldLock(
            table=lock.table,
            mode=lock.mode,
            seconds=0.05 if chunk else STATEMENT_SECONDS if brief else made.seconds,
            stops="writers of the same rows" if chunk else STOPS[lock.mode],
        )
        for lock in step.locks
    )


def _scan_seconds(table: TableRates, server: ServerRates) -> float | None:
    rate = table.scan_bytes_per_second or server.read_bytes_per_second or SCAN_BYTES_PER_SECOND
    return table.bytes / rate


def _filled(
    made: StepEstimate, known: TableRates | None, mapping: TableMapping, server: ServerRates, workers: int
) -> StepEstimate:
    if known is None or known.rows < 0:
        return made.model_copy(update={"effort": Effort.FILL})
    rows = known.rows
    rate = known.fill_rows_per_second or FILL_ROWS_PER_SECOND * SYNC_COST
    # Two workers on two cores were measured to be 1.6 times as fast as one.
    faster = 1 + 0.6 * (workers - 1)
    width = known.bytes / rows if rows else 0
    news = sum(len(group.new) for group in mapping.groups)
    wal = rows * (width + 12 * news + TUPLE_OVERHEAD + INDEX_ENTRY * known.indexes)
    if server.full_page_writes:
        wal += known.bytes + known.index_bytes
    # Vacuumed while it is filled, a table uses its pages again: 1.15 times its size was measured, 2.05 times without.
    share = 0.15 if known.bytes >= VacuumPolicy().from_bytes else 1.0
    disk = rows * (12 * news + 4) + share * (known.bytes + known.index_bytes)
    return made.model_copy(
        update={
            "effort": Effort.FILL,
            "seconds": rows / rate * SYNC_COST / faster,
            "rows": rows,
            "read_bytes": known.bytes,
            "wal_bytes": int(wal),
            "disk_bytes": int(disk),
        }
    )


def _copied(made: StepEstimate, known: TableRates | None, mapping: RowMapping, workers: int) -> StepEstimate:
    """Rows of another table: inserted whole, nothing of the source is written but its row locks."""
    if known is None or known.rows < 0:
        return made.model_copy(update={"effort": Effort.FILL})
    filled = len(mapping.new.columns) + len(mapping.new.key)
    size = known.rows * (TUPLE_OVERHEAD + 12 * filled + INDEX_ENTRY)
    return made.model_copy(
        update={
            "effort": Effort.FILL,
            "seconds": known.rows / FILL_ROWS_PER_SECOND / (1 + 0.6 * (workers - 1)),
            "rows": known.rows,
            "read_bytes": known.bytes,
            # A row lock is about 190 bytes of WAL.
            "wal_bytes": int(size + 190 * known.rows),
            "disk_bytes": int(size),
        }
    )


def _index(
    made: StepEstimate, tables: Sequence[TableRates], server: ServerRates, *, builds: bool
) -> StepEstimate:
    if not builds:
        return made.model_copy(update={"seconds": STATEMENT_SECONDS})
    read = _sum(_scan_seconds(one, server) for one in tables)
    rows = _sum(one.rows for one in tables)
    # Where the table has indexes, the new one is like them; else an entry of about 24 bytes.
    size = sum(
        int(one.index_bytes / one.indexes) if one.indexes else int(max(one.rows, 0) * 27) for one in tables
    )
    return made.model_copy(
        update={
            "effort": Effort.INDEX,
            "seconds": None if read is None else read * INDEX_COST,
            "rows": rows,
            "read_bytes": 2 * sum(one.bytes for one in tables),
            "wal_bytes": size,
            "disk_bytes": size,
            "temporary_bytes": size,
        }
    )


def _risk(plan: Plan, whole: Estimates) -> Risk:
    """A few rules that a reviewer would go by; each that speaks is a reason."""
    medium: list[str] = []
    high: list[str] = []
    for mapping in plan.mappings:
        lossy = [group.name for group in mapping.groups if group.lossy]
        if lossy:
            medium.append(f"the way back of {', '.join(lossy)} of {mapping.table} is declared lossy")
        one_way = [g.name for g in mapping.groups if g.old and not g.two_way and g.pairs is None]
        if one_way:
            medium.append(f"{', '.join(one_way)} of {mapping.table} has no way back for new rows")
        if mapping.dropped_in_new:
            high.append(f"cleanup drops the table {mapping.table}")
    broken = sum(1 for f in plan.findings if f.rule == "rows-break-constraint" and "as things are" in f.text)
    if broken:
        medium.append(f"rows break {broken} of its constraints as things are")
    if any(trip.failed for trip in plan.roundtrips):
        high.append("the mapping raises on some rows")
    for step in plan.steps:
        strong = [lock for lock in step.locks if lock.mode is Lock.ACCESS_EXCLUSIVE]
        if isinstance(step.action, Transaction) and len({lock.table for lock in strong}) > 3:
            medium.append(f"“{step.title}” locks {len(strong)} relations at once")
        if any(lock.hold != "brief" and lock.mode in _BLOCKING for lock in step.locks):
            high.append(f"“{step.title}” keeps others waiting for as long as it takes to read the table")
    if whole.seconds is not None and whole.seconds > LONG:
        medium.append("it takes hours, during which both versions of the structure are kept")
    large = [str(table.table) for table in whole.tables if table.bytes > HUGE]
    if large:
        medium.append(f"{', '.join(large)} is larger than 100 GB")
    if any(f.severity is Severity.WARNING and "triggers" in f.text for f in plan.findings):
        medium.append("the tables have triggers of the application's")
    level = "high" if high else "medium" if medium else "low"
    return Risk(level=level, reasons=tuple(dict.fromkeys(high + medium)))


_BLOCKING = frozenset({Lock.ACCESS_EXCLUSIVE, Lock.EXCLUSIVE, Lock.SHARE_ROW_EXCLUSIVE, Lock.SHARE})
