"""The locator of data folders, in a checkout; the wheel's side is in test_packaging.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from zdm import resources
from zdm.errors import ZdmError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", resources.FOLDERS)
def test_a_checkout_has_them_at_the_top(name: resources.Folder) -> None:
    assert resources.folder(name) == ROOT / name


def test_a_file_is_read() -> None:
    name = next(path.name for path in resources.phases().iterdir() if path.suffix == ".toml")
    assert resources.read_text("phases", name) == (ROOT / "phases" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["no_such.toml", "../pyproject.toml", "."])
def test_nothing_outside_is_read(name: str) -> None:
    with pytest.raises(ZdmError, match="there is no file"):
        resources.read_text("phases", name)


def test_an_incomplete_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "lib" / "zdm")
    resources.folder.cache_clear()
    try:
        with pytest.raises(ZdmError, match="'triggers' is missing"):
            resources.triggers()
    finally:
        resources.folder.cache_clear()
