"""What the command itself takes: memory whatever the table's size, and the time to say how it is used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.support import bench_database, tell

pytestmark = pytest.mark.bench

ZDM = [sys.executable, "-m", "zdm"]
LARGE = int(os.environ.get("ZDM_BENCH_LARGE_ROWS", "10000000"))

MIGRATION = """
id: widen_balance
description: balances need more than an int
operations:
  - change_type:
      table: account
      column: balance
      to: numeric(18,2)
      up: "balance::numeric(18,2)"
      down: "round(balance)::int"
"""


def peak_of(argv: list[str], env: dict[str, str], cwd: Path) -> float:
    """The most memory that a process ever had, in MB, as the kernel has it (VmHWM)."""
    peak = 0.0
    with subprocess.Popen(
        argv, env=env, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        while child.poll() is None:
            try:
                status = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")
            except OSError:
                break
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            peak = max(peak, int(found[1]) / 1024 if found else 0.0)
            time.sleep(0.01)
        assert child.stderr is not None
        text = child.stderr.read()
    assert child.returncode == 0, text
    return peak


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the kernel does not show a process's peak memory"
)
def test_memory_is_the_same_whatever_the_size(tmp_path: Path) -> None:
    peaks: dict[int, float] = {}
    for rows in (100_000, LARGE):
        with bench_database() as database:
            database.execute("CREATE TABLE account (id integer PRIMARY KEY, balance integer)")
            database.execute(f"INSERT INTO account SELECT g, g % 1000 FROM generate_series(1, {rows}) g")
            database.execute("VACUUM ANALYZE account")
            (tmp_path / "widen.yaml").write_text(MIGRATION, encoding="utf-8")
            env = {**os.environ, "ZDM_DATABASE_URL": database.dsn}
            for arguments in (["init"], ["advance", "widen.yaml"]):
                subprocess.run([*ZDM, *arguments], env=env, cwd=tmp_path, check=True, capture_output=True)
            peaks[rows] = peak_of([*ZDM, "backfill", "widen_balance"], env, tmp_path)
            assert database.value("SELECT count(*) FROM account WHERE _zdm_state IS NULL") == 0
    tell("\n" + "\n".join(f"{rows:>12,} rows: {peak:.1f} MB at most" for rows, peak in peaks.items()))
    small, large = peaks.values()
    assert abs(large - small) <= 0.1 * small
    assert max(peaks.values()) < 120


def test_help_is_quick() -> None:
    times = []
    for _ in range(11):
        begun = time.perf_counter()
        subprocess.run([*ZDM, "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    median = sorted(times)[5]
    tell(f"\nzdm --help: median {median:.3f} s, best {min(times):.3f} s")
    assert median < 0.3
