"""The wheel holds what a checkout holds, and works without one."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import zdm
from zdm.resources import FOLDERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and the sdist, built with what is installed."""
    out = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--sdist",
        "--wheel",
        "--outdir",
        str(out),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, as pip would lay them out."""
    place = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return place


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its content, but not what Python or an editor left there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_wheel_holds_the_data_folders(installed: Path, folder: str) -> None:
    expected = files(ROOT / folder)
    assert expected
    assert files(installed / "zdm" / "_data" / folder) == expected


def test_the_wheel_holds_the_package_and_nothing_else(installed: Path) -> None:
    packed = {name for name in files(installed / "zdm") if not name.startswith("_data/")}
    assert packed == set(files(ROOT / "src" / "zdm"))
    assert "py.typed" in packed
    assert sorted(path.name for path in installed.iterdir()) == ["zdm", f"zdm-{zdm.__version__}.dist-info"]


def test_the_installed_package_finds_its_data(installed: Path) -> None:
    """In a fresh interpreter that cannot see the checkout."""
    program = (
        "import zdm, zdm.resources as r; "
        "print(zdm.__file__); print(*(r.folder(name) for name in r.FOLDERS), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=installed.parent,
        env={"PYTHONPATH": str(installed), "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    package = installed / "zdm"
    assert done.stdout.splitlines() == [
        str(package / "__init__.py"),
        *(str(package / "_data" / folder) for folder in FOLDERS),
    ]


def test_the_sdist_can_be_built_from(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/zdm/__init__.py"} <= names
    for folder in FOLDERS:
        assert {f"{folder}/{name}" for name in files(ROOT / folder)} <= names


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == zdm.__version__


def test_the_version_is_cheap() -> None:
    """Importing zdm loads none of what its commands need."""
    program = "import sys, zdm; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert not loaded & {
        "sqlalchemy",
        "alembic",
        "psycopg",
        "sqlglot",
        "pydantic",
        "yaml",
        "prometheus_client",
    }
