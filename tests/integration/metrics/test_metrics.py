"""What Prometheus reads: from a catalog with a rollout, from one without, and from a database that is not there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from queue import Queue
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.gates.sample import SETUP, TABLE, mapping, migration, session
from tests.support.servers import Database
from zdm.catalog import approvals, backfills, gates, install, lease, registry, rollouts, verifications
from zdm.errors import BadInput, ZdmError
from zdm.metrics import render, serve
from zdm.metrics.server import parse_listen
from zdm.model.mapping import Authority
from zdm.model.phases import State
from zdm.model.plan import Plan, TableFacts
from zdm.model.step import Phase
from zdm.model.verdict import Answer, Verdict

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
ROLLOUT = {"migration": "widen", "target": "public", "module": "shop"}


def parse(page: bytes) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


@pytest.fixture
def catalog(database: Database) -> Database:
    with session(database.dsn) as conn:
        install.install(conn)
    return database


@pytest.fixture
def rollout(catalog: Database) -> Iterator[int]:
    catalog.execute(SETUP)
    oid = catalog.value("SELECT 'public.orders'::regclass::oid::bigint")
    planned = Plan(
        migration="widen",
        target="public",
        server_version=180000,
        mappings=(mapping(oid),),
        facts=(TableFacts(table=TABLE, rows=100.0, bytes=8192),),
    )
    with session(catalog.dsn) as conn:
        registry.register(conn, migration(module="shop", version="2"), "")
        made = rollouts.create(conn, planned)
        rollouts.move(conn, made.id, State.PREPARING)
        rollouts.move(conn, made.id, State.PREPARED)
        rollouts.move(conn, made.id, State.MIGRATING)
        backfills.open(conn, made.id, TABLE, [backfills.Part(1, 1, 4)], 1)
        backfills.advance(conn, made.id, TABLE, 0, 2, 60)
        approvals.add(conn, made.id, Phase.SWITCHOVER, "bea")
        verifications.store(
            conn,
            made.id,
            verifications.Verification(TABLE, made.created_at, 100, Authority.OLD, {"stale_new": 3}),
        )
        verdicts = [
            Verdict(gate="drift", answer=Answer.PASSED, observed="", threshold=""),
            Verdict(gate="soak", answer=Answer.SKIPPED, observed="", threshold=""),
            Verdict(gate="verification", answer=Answer.UNREADABLE, observed="", threshold=""),
        ]
        gates.store(conn, made.id, Phase.SWITCHOVER, [verdicts[0]])
        gates.store(conn, made.id, Phase.SWITCHOVER, verdicts)
        yield made.id


def test_a_rollout(catalog: Database, rollout: int) -> None:
    catalog.execute(
        "INSERT INTO zdm.sync_failures (rollout, table_oid, key, group_name, sqlstate, message) "
        """VALUES (%s, 'public.orders'::regclass, '{"id": 1}', 'amount', '22003', 'out of range')""",
        rollout,
    )
    page = render(catalog.dsn)
    found = parse(page)
    assert value(found, "zdm_up") == 1
    assert value(found, "zdm_rollout_phase", **ROLLOUT) == 2
    assert value(found, "zdm_rollout_state", **ROLLOUT, state="migrating") == 1
    assert sum(v for (name, _), v in found.items() if name == "zdm_rollout_state") == 1
    assert value(found, "zdm_rollout_failed", **ROLLOUT) == 0
    assert value(found, "zdm_rollout_paused", **ROLLOUT) == 0
    assert value(found, "zdm_rollout_fenced", **ROLLOUT) == 0
    assert value(found, "zdm_lease_held", **ROLLOUT) == 0
    assert value(found, "zdm_sync_failures", **ROLLOUT) == 1
    assert value(found, "zdm_backfill_rows_total", **ROLLOUT, table="public.orders") == 60
    assert value(found, "zdm_backfill_rows_estimated", **ROLLOUT, table="public.orders") == 100
    assert (
        value(found, "zdm_verification_mismatches", **ROLLOUT, table="public.orders", kind="stale_new") == 3
    )
    assert (
        value(found, "zdm_verification_mismatches", **ROLLOUT, table="public.orders", kind="unsettled") == 0
    )
    assert value(found, "zdm_verification_rows", **ROLLOUT, table="public.orders") == 100
    created = catalog.value("SELECT extract(epoch FROM created_at)::float8 FROM zdm.module_migrations")
    assert value(
        found, "zdm_verification_timestamp_seconds", **ROLLOUT, table="public.orders"
    ) == pytest.approx(created, abs=1e-3)
    assert value(found, "zdm_gate_passed", **ROLLOUT, gate="drift", phase="switchover") == 1
    assert value(found, "zdm_gate_passed", **ROLLOUT, gate="soak", phase="switchover") == 1
    assert value(found, "zdm_gate_passed", **ROLLOUT, gate="verification", phase="switchover") == 0
    assert value(found, "zdm_rollout_last_event_timestamp_seconds", **ROLLOUT) >= created
    promtool(page)


def promtool(page: bytes) -> None:
    """Prometheus' own linter, where it is installed."""
    program = shutil.which("promtool")
    if program is not None:
        subprocess.run([program, "check", "metrics"], input=page, check=True, capture_output=True)


def test_an_empty_catalog(catalog: Database) -> None:
    found = parse(render(catalog.dsn))
    assert value(found, "zdm_up") == 1
    assert not any(name.startswith("zdm_rollout") for name, _ in found)


def test_no_catalog(database: Database) -> None:
    assert value(parse(render(database.dsn)), "zdm_up") == 0


def test_no_server() -> None:
    found = parse(render("postgresql://zdm:hunter2@127.0.0.1:1/shop"))
    assert value(found, "zdm_up") == 0
    assert {name for name, _ in found} == {"zdm_up", "zdm_build_info", "zdm_scrape_duration_seconds"}


def test_a_locked_catalog_does_not_hang(catalog: Database) -> None:
    blocker = catalog.connect()
    blocker.execute("LOCK TABLE zdm.module_migrations IN ACCESS EXCLUSIVE MODE")
    assert value(parse(render(catalog.dsn)), "zdm_up") == 0
    blocker.rollback()
    assert value(parse(render(catalog.dsn)), "zdm_up") == 1


def test_rolled_back_and_begun_again_is_one_rollout(catalog: Database, rollout: int) -> None:
    with session(catalog.dsn) as conn:
        rollouts.move(conn, rollout, State.ROLLING_BACK)
        rollouts.move(conn, rollout, State.ROLLED_BACK)
        assert value(parse(render(catalog.dsn)), "zdm_rollout_state", **ROLLOUT, state="rolled_back") == 1
        rollouts.create(conn, rollouts.plan(conn, rollout))
    found = parse(render(catalog.dsn))
    assert value(found, "zdm_rollout_state", **ROLLOUT, state="planned") == 1
    assert sum(1 for name, _ in found if name == "zdm_rollout_phase") == 1


class Server:
    """`serve` in a thread."""

    def __init__(self, dsn: str) -> None:
        self.stop = threading.Event()
        self.port: Queue[int] = Queue()
        self.thread = threading.Thread(
            target=serve,
            args=("127.0.0.1:0", dsn),
            kwargs={"ready": lambda _, port: self.port.put(port), "stop": self.stop},
        )

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.port.get(timeout=30)}/metrics"

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()


def scrape(url: str) -> Samples:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  # our own
        assert answer.status == 200
        page: bytes = answer.read()
    return parse(page)


def test_a_lost_connection_is_opened_again(catalog: Database) -> None:
    with Server(catalog.dsn) as url:
        assert value(scrape(url), "zdm_up") == 1
        killed = catalog.value(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE application_name = 'zdm metrics' AND datname = current_database()"
        )
        assert killed == 1
        assert value(scrape(url), "zdm_up") == 1


def test_sigterm_ends_it_with_0(catalog: Database) -> None:
    script = (
        "import sys; from zdm.metrics import serve; "
        "serve('127.0.0.1:0', sys.argv[1], ready=lambda host, port: print(port, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, catalog.dsn],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ.copy(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        port = int(process.stdout.readline())
        assert value(scrape(f"http://127.0.0.1:{port}/metrics"), "zdm_up") == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == b""


def test_a_lease_counts_while_its_holder_lives(catalog: Database, rollout: int) -> None:
    held = lease.acquire(lambda: session(catalog.dsn), rollout, "a test")
    assert value(parse(render(catalog.dsn)), "zdm_lease_held", **ROLLOUT) == 1
    held.release()
    assert value(parse(render(catalog.dsn)), "zdm_lease_held", **ROLLOUT) == 0
    catalog.execute(
        "INSERT INTO zdm.leases (rollout, token, holder, host, os_pid) VALUES (%s, gen_random_uuid(), 'dead', 'h', 1)",
        rollout,
    )
    catalog.execute(
        "INSERT INTO zdm.lease_heartbeats (rollout, beat_at) VALUES (%s, clock_timestamp() - interval '1 hour')",
        rollout,
    )
    assert value(parse(render(catalog.dsn)), "zdm_lease_held", **ROLLOUT) == 0


def test_a_port_in_use(catalog: Database) -> None:
    with Server(catalog.dsn) as url:
        port = url.rsplit(":", 1)[1].split("/")[0]
        with pytest.raises(ZdmError, match="Cannot listen"):
            serve(f"127.0.0.1:{port}", catalog.dsn)


@pytest.mark.parametrize(
    "text, expected",
    [
        (":9464", ("0.0.0.0", 9464)),  # noqa: S104
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:9464", ("::1", 9464)),
        ("9464", ("0.0.0.0", 9464)),  # noqa: S104
        ("metrics.local:0", ("metrics.local", 0)),
    ],
)
def test_addresses(text: str, expected: Any) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", ["", ":", "host", ":70000", "::1:9464", "host:http"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(BadInput):
        parse_listen(text)
