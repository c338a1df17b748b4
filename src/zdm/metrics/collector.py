"""From a look at the catalog to Prometheus metrics. A database that cannot be read is ``zdm_up 0``, never an error."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from zdm import __version__
from zdm.metrics.reading import Reading, RolloutReading, read
from zdm.model.phases import State, machine
from zdm.sql.rows import Kind

_LOG = logging.getLogger(__name__)
_ROLLOUT = ("migration", "target", "module")
_PATIENCE = 8.0
"""Seconds a scrape waits for another one to end: less than Prometheus' own default of ten."""

Connect = Callable[[], psycopg.Connection[Any]]


class CatalogCollector(Collector):
    """Reads the catalog whenever it is scraped, over a connection of its own that it opens anew when it broke.

    Parameters
    ----------
    connect: opens a session in autocommit mode, with a short connection timeout.
    replicas: URLs of standbys that are asked themselves for their lag.
    """

    def __init__(self, connect: Connect, replicas: Sequence[str] = ()) -> None:
        self._connect = connect
        self._replicas = tuple(replicas)
        self._conn: psycopg.Connection[Any] | None = None
        self._lock = threading.Lock()
        self._failure = ""

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not need a database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """One scrape."""
        begin = time.perf_counter()
        reading = self._read()
        yield InfoMetricFamily("zdm_build", "The zdm that answers.", {"version": __version__})
        yield GaugeMetricFamily(
            "zdm_up", "Whether the catalog could be read.", value=0.0 if reading is None else 1.0
        )
        yield GaugeMetricFamily(
            "zdm_scrape_duration_seconds", "How long reading took.", value=time.perf_counter() - begin
        )
        if reading is not None:
            yield from metrics_of(reading)

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            self._drop()

    def _read(self) -> Reading | None:
        if not self._lock.acquire(timeout=_PATIENCE):
            return None
        try:
            reading = self._attempt()
        except Exception as error:  # noqa: BLE001  # whatever it is, the answer is zdm_up 0
            self._drop()
            self._tell(type(error).__name__)
            return None
        else:
            self._tell("")
            return reading
        finally:
            self._lock.release()

    def _attempt(self) -> Reading:
        if self._conn is not None and not self._conn.closed:
            try:
                return read(self._conn, self._replicas)
            except psycopg.OperationalError:
                # Lost since the last scrape; a new connection tells whether the database is.
                if not self._conn.closed:
                    raise
        self._conn = self._connect()
        return read(self._conn, self._replicas)

    def _drop(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _tell(self, failure: str) -> None:
        # Once a change, not once a scrape; and only the kind: messages of the driver may quote what is secret.
        if failure and failure != self._failure:
            _LOG.warning("the catalog cannot be read: %s", failure)
        elif not failure and self._failure:
            _LOG.warning("the catalog can be read again")
        self._failure = failure


def metrics_of(reading: Reading) -> Iterable[Metric]:
    """The metrics of one look at the catalog."""
    yield from _of_rollouts(reading.rollouts)
    yield from _of_tables(reading.rollouts)
    yield from _of_gates(reading.rollouts)
    yield from _of_standbys(reading)


def _labels(rollout: RolloutReading, *more: str) -> list[str]:
    return [rollout.migration, rollout.target, rollout.module, *more]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=[*_ROLLOUT, *labels])


def _of_rollouts(rollouts: Sequence[RolloutReading]) -> Iterable[Metric]:
    phase = _gauge(
        "zdm_rollout_phase", "The last phase entered: 1 preparation … 4 cleanup; 0 before the first."
    )
    state = _gauge("zdm_rollout_state", "1 for the state the rollout is in, 0 for all others.", "state")
    failed = _gauge("zdm_rollout_failed", "Whether the rollout stopped with an error.")
    paused = _gauge("zdm_rollout_paused", "Whether somebody asked long work to wait.")
    fenced = _gauge("zdm_rollout_fenced", "Whether the old version is set aside.")
    event = _gauge(
        "zdm_rollout_last_event_timestamp_seconds", "When anything was last recorded about the rollout."
    )
    lease = _gauge("zdm_lease_held", "Whether a zdm works on the rollout.")
    failures = _gauge("zdm_sync_failures", "Rows whose new side could not be derived.")
    alone = _gauge(
        "zdm_rows_without_old_form",
        "Rows of the new version that the old one has no form for; after a rollback, those it kept.",
    )
    pending = _gauge("zdm_sync_pending", "Changes that wait to be carried over to the other table.")
    lag = _gauge("zdm_sync_lag_seconds", "How long the oldest of them has waited.")
    conflicts = _gauge("zdm_sync_conflicts", "Writes that lost against the other version's.")
    failed_states = {definition.failed for definition in machine().definitions} | {State.ROLLBACK_FAILED}
    for rollout in rollouts:
        labels = _labels(rollout)
        phase.add_metric(labels, 0 if rollout.phase is None else rollout.phase.number)
        for known in State:
            state.add_metric(_labels(rollout, known.value), float(known is rollout.state))
        failed.add_metric(labels, float(rollout.state in failed_states))
        paused.add_metric(labels, float(rollout.paused))
        fenced.add_metric(labels, float(rollout.fenced))
        lease.add_metric(labels, float(rollout.lease_held))
        failures.add_metric(labels, rollout.sync_failures)
        alone.add_metric(labels, rollout.without_old_form)
        if rollout.log is not None:
            pending.add_metric(labels, rollout.log.pending)
            lag.add_metric(labels, rollout.log.lag)
            conflicts.add_metric(labels, rollout.log.conflicts)
        if rollout.last_event is not None:
            event.add_metric(labels, rollout.last_event)
    return phase, state, failed, paused, fenced, event, lease, failures, alone, pending, lag, conflicts


def _of_tables(rollouts: Sequence[RolloutReading]) -> Iterable[Metric]:
    labels = [*_ROLLOUT, "table"]
    # The family adds "_total".
    rows = CounterMetricFamily("zdm_backfill_rows", "Rows the backfill has settled.", labels=labels)
    estimated = _gauge(
        "zdm_backfill_rows_estimated", "The planner's estimate of the table's rows when planned.", "table"
    )
    wrong = _gauge(
        "zdm_verification_mismatches", "Rows that the latest verification found wrong.", "table", "kind"
    )
    compared = _gauge("zdm_verification_rows", "Rows that the latest verification compared.", "table")
    at = _gauge(
        "zdm_verification_timestamp_seconds", "When the latest verification took its snapshot.", "table"
    )
    for rollout in rollouts:
        for name, table in rollout.tables.items():
            if table.rows is not None:
                rows.add_metric(_labels(rollout, name), table.rows)
            if table.estimated is not None:
                estimated.add_metric(_labels(rollout, name), table.estimated)
            if table.verified_at is None or table.compared is None:
                continue
            at.add_metric(_labels(rollout, name), table.verified_at)
            compared.add_metric(_labels(rollout, name), table.compared)
            for kind in sorted({kind.value for kind in Kind} | set(table.mismatches)):
                wrong.add_metric(_labels(rollout, name, kind), table.mismatches.get(kind, 0))
    return rows, estimated, wrong, compared, at


def _of_gates(rollouts: Sequence[RolloutReading]) -> Iterable[Metric]:
    passed = _gauge(
        "zdm_gate_passed", "Whether the gate let through when it was last asked.", "gate", "phase"
    )
    for rollout in rollouts:
        for phase, gate, answer in rollout.gates:
            passed.add_metric(_labels(rollout, gate, phase.value), float(answer))
    return (passed,)


def _of_standbys(reading: Reading) -> Iterable[Metric]:
    lag = GaugeMetricFamily(
        "zdm_replication_lag_seconds",
        "How far the replica is behind; NaN if that cannot be read.",
        labels=["replica"],
    )
    readable = GaugeMetricFamily(
        "zdm_replication_readable",
        "Whether replication could be looked at.",
        value=float(reading.standbys is not None),
    )
    for standby in reading.standbys or ():
        lag.add_metric([standby.name], math.nan if standby.behind is None else standby.behind.total_seconds())
    return lag, readable
