"""One look at the catalog: a handful of cheap queries in one read-only transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg

from zdm.catalog import lease
from zdm.db.probes.replication_lag import StandbyLag, replication_lag
from zdm.db.session import transaction
from zdm.model.phases import State
from zdm.model.step import Phase

TIMEOUT = timedelta(seconds=5)
"""The longest any statement of a scrape may run; a lock on the catalog is not waited for as long."""

# The live rollout of each migration and target, else the latest that was rolled back.
_ROLLOUTS = """
SELECT DISTINCT ON (r.migration, r.target)
       r.id, r.migration, r.target, coalesce(m.module, ''), r.state, r.phase, r.paused,
       (to_jsonb(r) ->> 'fenced_at') IS NOT NULL, r.plan -> 'facts',
       (SELECT extract(epoch FROM e.at)::float8 FROM zdm.events AS e WHERE e.rollout = r.id ORDER BY e.id DESC LIMIT 1),
       EXISTS (SELECT FROM zdm.leases AS l WHERE l.rollout = r.id),
       (SELECT count(*) FROM zdm.sync_failures AS f WHERE f.rollout = r.id),
       (SELECT count(*) FROM zdm.rows_without_old_form AS w WHERE w.rollout = r.id),
       r.plan @? '$.row_mappings[*] ? (@.logged == true)',
       (SELECT count(*) FROM zdm.row_conflicts AS c WHERE c.rollout = r.id)
FROM zdm.module_migrations AS r JOIN zdm.schema_migrations AS m ON m.id = r.migration
ORDER BY r.migration, r.target, r.state = 'rolled_back', r.id DESC
"""

_BACKFILLS = """
SELECT b.rollout, b.schema_name || '.' || b.table_name,
       (b.earlier_rows + b.swept_rows + coalesce((SELECT sum(rows_done) FROM zdm.data_migration_ranges WHERE backfill = b.id), 0))::bigint
FROM zdm.data_migrations AS b WHERE b.rollout = ANY (%s)
"""

_VERIFICATIONS = """
SELECT DISTINCT ON (rollout, schema_name, table_name)
       rollout, schema_name || '.' || table_name, extract(epoch FROM started_at)::float8, rows_seen, mismatches
FROM zdm.verifications WHERE rollout = ANY (%s)
ORDER BY rollout, schema_name, table_name, started_at DESC, id DESC
"""

_LOGS = """
SELECT rollout, count(*), extract(epoch FROM clock_timestamp() - min(at))::float8
FROM zdm.row_changes WHERE rollout = ANY (%s) AND NOT failed GROUP BY rollout
"""

_GATES = """
SELECT v.rollout, v.phase, v.gate, v.answer IN ('passed', 'skipped')
FROM zdm.gate_verdicts AS v
WHERE v.rollout = ANY (%s)
  AND v.evaluation = (SELECT max(w.evaluation) FROM zdm.gate_verdicts AS w WHERE w.rollout = v.rollout)
"""


@dataclass(frozen=True, slots=True)
class TableReading:
    """One table of a rollout. None: not begun, or not known."""

    rows: int | None = None
    estimated: float | None = None
    verified_at: float | None = None
    compared: int | None = None
    mismatches: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogReading:
    """What waits in the log of a rollout, for how many seconds the oldest, and how many writes lost."""

    pending: int = 0
    lag: float = 0.0
    conflicts: int = 0


@dataclass(slots=True)
class RolloutReading:
    """One rollout; `log` only where it is synced by log."""

    id: int
    migration: str
    target: str
    module: str
    state: State
    phase: Phase | None
    paused: bool
    fenced: bool
    last_event: float | None
    lease_held: bool
    sync_failures: int
    without_old_form: int
    log: LogReading | None = None
    tables: dict[str, TableReading] = field(default_factory=dict)
    gates: list[tuple[Phase, str, bool]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything of one scrape. `standbys` is None if it could not be read at all."""

    rollouts: tuple[RolloutReading, ...]
    standbys: tuple[StandbyLag, ...] | None


def read(conn: psycopg.Connection[Any], replicas: Sequence[str] = ()) -> Reading:
    """Look at the catalog, and at the standbys. Whatever is wrong with the catalog raises."""
    with transaction(
        conn,
        isolation="repeatable read",
        read_only=True,
        rollback=True,
        statement_timeout=TIMEOUT,
        lock_timeout=TIMEOUT / 5,
    ):
        found = _rollouts(conn)
        _tables(conn, found)
        for rollout, pending, lag in conn.execute(_LOGS, (list(found),)):
            log = found[rollout].log
            found[rollout].log = LogReading(pending, lag, log.conflicts if log is not None else 0)
        for reading in found.values():
            holder = lease.holder(conn, reading.id) if reading.lease_held else None
            reading.lease_held = holder is not None and not holder.free()
        for rollout, phase, gate, passed in conn.execute(_GATES, (list(found),)):
            found[rollout].gates.append((Phase(phase), gate, passed))
    return Reading(tuple(found.values()), _standbys(conn, replicas))


def _rollouts(conn: psycopg.Connection[Any]) -> dict[int, RolloutReading]:
    found: dict[int, RolloutReading] = {}
    for row in conn.execute(_ROLLOUTS):
        (
            number,
            migration,
            target,
            module,
            state,
            phase,
            paused,
            fenced,
            facts,
            last_event,
            held,
            failures,
            without_old_form,
            logged,
            conflicts,
        ) = row
        reading = RolloutReading(
            number,
            migration,
            target,
            module,
            State(state),
            None if phase is None else Phase(phase),
            paused,
            fenced,
            last_event,
            held,
            failures,
            without_old_form,
            LogReading(conflicts=conflicts) if logged or conflicts else None,
        )
        for fact in facts or ():
            # reltuples is -1 for a table that was never analysed: not known, and not zero.
            if fact["rows"] >= 0:
                name = f"{fact['table']['schema_']}.{fact['table']['name']}"
                reading.tables[name] = TableReading(estimated=fact["rows"])
        found[number] = reading
    return found


def _tables(conn: psycopg.Connection[Any], found: dict[int, RolloutReading]) -> None:
    rows: dict[tuple[int, str], int] = {
        (rollout, table): count for rollout, table, count in conn.execute(_BACKFILLS, (list(found),))
    }
    verified = {
        (rollout, table): (at, seen, kinds)
        for rollout, table, at, seen, kinds in conn.execute(_VERIFICATIONS, (list(found),))
    }
    for rollout, table in {**rows, **verified}:
        at, seen, kinds = verified.get((rollout, table), (None, None, {}))
        known = found[rollout].tables.get(table, TableReading())
        found[rollout].tables[table] = TableReading(
            rows.get((rollout, table)), known.estimated, at, seen, kinds
        )


def _standbys(conn: psycopg.Connection[Any], replicas: Sequence[str]) -> tuple[StandbyLag, ...] | None:
    try:
        return replication_lag(conn, replicas)
    except Exception:  # noqa: BLE001  # the catalog was read; the scrape says that this part was not
        return None
