"""pgbench itself, unmodified and with prepared statements, while its accounts get another primary key."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conformance.harness import OPEN_GATES, Rollout
from tests.support.examples import EXAMPLES, Example
from tests.support.interleave import eventually
from tests.support.servers import Database
from zdm.model.phases import State
from zdm.model.sample import Scenario


def test_account_numbers_become_bigint_under_pgbench(database: Database, tmp_path: Path) -> None:
    """No session of pgbench meets an error, from before preparation until after cleanup."""
    dev = database.server.dev
    if dev is None:
        pytest.skip("pgbench is known for servers of our own only")
    pgbench = str(dev.bin("pgbench"))
    subprocess.run(
        [pgbench, "-i", "-q", "-I", "dtGpf", "-s", "1", database.dsn],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (migration,) = Example.read(EXAMPLES / "pgbench_aid").migrations
    rollout = Rollout(
        database,
        Scenario(setup="", operations=()),
        given=migration.model_copy(update={"gates": OPEN_GATES}),
    )

    def more() -> None:
        before = database.value("SELECT count(*) FROM pgbench_history")
        eventually(
            lambda: database.value("SELECT count(*) FROM pgbench_history") > before + 20,
            what="more transactions of pgbench",
        )

    complaints = tmp_path / "stderr"
    with complaints.open("w") as stderr:
        running = subprocess.Popen(
            [pgbench, "-n", "-M", "prepared", "-c", "3", "-T", "3600", "-R", "200", database.dsn],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        try:
            for state in (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER, State.COMPLETED):
                more()
                rollout.advance_to(state)
            more()
            assert running.poll() is None
        finally:
            running.terminate()
            running.wait(30)
    said = complaints.read_text(encoding="utf-8")
    assert "aborted" not in said, said
    assert "ERROR" not in said, said
    rollout.nothing_left()
    assert database.value(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)"
        " AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)"
    )
    assert database.execute(
        "SELECT conname, convalidated FROM pg_constraint WHERE confrelid = 'pgbench_accounts'::regclass"
    ) == [("pgbench_history_aid_fkey", True)]
