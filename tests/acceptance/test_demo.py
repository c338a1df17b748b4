"""``zdm demo``: what it promises on its way out, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.acceptance.command import Zdm


def processes(text: str) -> list[str]:
    """The command lines of all processes that have `text` in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (
                text in (entry / "environ").read_text(errors="replace")
                or text in (entry / "cmdline").read_text()
            ):
                found.append(f"{entry.name}: {(entry / 'cmdline').read_text().replace(chr(0), ' ')}")
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_the_demonstration(tmp_path: Path) -> None:
    mark = f"zdm-acceptance-{os.getpid()}"
    # The directory is what the server's programs run in and are told by; every path of the demonstration lies in it.
    with tempfile.TemporaryDirectory(prefix=mark, dir="/tmp") as temporary:
        Path(temporary).chmod(0o755)
        process = subprocess.Popen(
            [sys.executable, "-m", "zdm", "demo", "--rows", "100000", "--json"],
            env={**os.environ, "TMPDIR": temporary, "ZDM_ACCEPTANCE": mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, err = process.communicate(timeout=280)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=60)
        assert process.returncode == 0, err[-3000:]
        assert "Traceback" not in err
        assert processes(mark) == []
        assert list(Path(temporary).iterdir()) == []

    result = json.loads(out)
    assert out.strip().startswith("{")
    assert result["exit_code"] == 0
    assert result["rows"] == 100_000
    # What was taken back and begun again is there twice.
    names = [p["name"] for p in result["phases"]]
    assert names[-4:] == ["preparation", "migration", "switchover", "cleanup"]
    assert all(p["seconds"] > 0 for p in result["phases"])
    assert result["backfill"]["rows_per_second"] > 0
    assert result["clients"]["transactions"] > 100
    assert result["clients"]["errors"] == 0
    assert set(result["latency_ms"]) == {"before", "during", "after"}
    for found in result["latency_ms"].values():
        assert 0 < found["p50"] <= found["p99"] <= found["max"]
    assert result["mismatches"] == 0
    assert result["resumed_after_kill"] is True
    assert result["rolled_back_clean"] is True


def test_bad_options(tmp_path: Path) -> None:
    answer = Zdm("postgresql://nobody@127.0.0.1:1/nothing", tmp_path)("demo", "--rows", "0", "--json")
    assert (answer.code, answer.json["error"]["type"]) == (2, "bad_input")
