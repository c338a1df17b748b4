"""The targets as a person or a pipeline calls them, with programs that only tell how they were called."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

TELLS = '#!/bin/sh\necho "$(basename "$0") $*"\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment exists, but has nothing installed in it yet."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "zdm", "ruff", "mypy"):
        (programs / name).write_text(TELLS, encoding="utf-8")
        (programs / name).chmod(0o755)
    return tmp_path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],  # noqa: S607
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin"},
    )


def test_the_demo_alone_speaks_on_standard_output(checkout: Path) -> None:
    done = make(checkout, "demo", "ARGS=--rows 200000 --json")
    assert done.stdout == "zdm demo --rows 200000 --json\n"
    assert "python -m pip --disable-pip-version-check --quiet install --editable .[demo]" in done.stderr


def test_set_up_happens_once_and_again_when_the_project_changes(checkout: Path) -> None:
    assert "install" in make(checkout, "demo").stderr
    assert make(checkout, "demo").stderr == ""
    # What develops zdm includes what demonstrates it, not the other way round.
    assert "install" in make(checkout, "lint").stderr
    assert make(checkout, "lint").stderr == ""
    newer = (checkout / ".venv" / ".dev").stat().st_mtime + 10
    subprocess.run(["touch", "-d", f"@{newer}", "pyproject.toml"], cwd=checkout, check=True)  # noqa: S607
    assert "install" in make(checkout, "demo").stderr


def test_a_failure_is_passed_on(checkout: Path) -> None:
    (checkout / ".venv" / "bin" / "zdm").write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    assert make(checkout, "demo").returncode != 0


def test_the_tests_run_on_all_cores_with_options(checkout: Path) -> None:
    shown = make(checkout, "test", "JOBS=3", "ARGS=-k some -x").stdout
    assert shown == "python -m pytest -n 3 --dist worksteal -k some -x\n"
    assert "ZDM_TEST_PG=15 .venv/bin/python" in make(checkout, "--dry-run", "test", "PG=15").stdout


def test_the_others(checkout: Path) -> None:
    assert make(checkout, "lint").stdout == "ruff check\nruff format --check\nmypy \n"
    assert make(checkout, "bench").stdout == "python -m pytest -m bench -s\n"
    assert make(checkout, "soak").stdout == "python -m pytest -m soak -s -o faulthandler_timeout=0\n"
    shown = make(checkout).stdout
    for target in ("demo", "test", "lint", "format", "bench", "soak", "clean"):
        assert f"  make {target} " in shown
    make(checkout, "clean")
    assert not (checkout / ".venv").exists()


def test_without_a_python_it_says_what_it_needs(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    bare = checkout / "bin"
    bare.mkdir()
    for name in ("sh", "make", "echo", "rm", "awk"):
        found = shutil.which(name)
        assert found is not None
        (bare / name).symlink_to(found)
    done = subprocess.run(
        [str(bare / "make"), "-C", str(checkout), "demo"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": str(bare)},
    )
    assert done.returncode != 0
    assert "zdm needs Python 3.11 or newer" in done.stderr


def test_the_ci_script_is_a_script() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111 == 0o111
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)  # noqa: S607
