"""A command line with an engine that answers from a script."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.fake import MIGRATION, FakeEngine
from zdm.cli import app
from zdm.cli import run as run_module
from zdm.cli.run import Run

URL = "postgresql://migrator:s3cret%20word@db.example/shop"
SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATE = bool(os.environ.get("ZDM_UPDATE_SNAPSHOTS"))


@dataclass(frozen=True)
class Ended:
    """What a command left."""

    code: int
    out: str
    err: str
    engine: FakeEngine

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


Zdm = Callable[..., Ended]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with one migration in its migrations directory, and no setting from outside."""
    for name in [n for n in os.environ if n.startswith(("ZDM_", "PG"))]:
        monkeypatch.delenv(name)
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "widen_balance.yaml").write_text(MIGRATION, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def zdm(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Zdm:
    """Run a command; keyword arguments are the engine's answers (an exception is raised)."""
    del place

    def call(*arguments: str, url: str | None = URL, **answers: Any) -> Ended:
        engine = FakeEngine(answers)

        def opened(run: Run, settings: Mapping[str, Any]) -> Any:
            engine.calls.append(("open", (run.database_url, run.schema), dict(settings)))
            engine.reporter = run.reporter
            return engine

        monkeypatch.setattr(run_module, "open_engine", opened)
        if url is not None:
            monkeypatch.setenv("ZDM_DATABASE_URL", url)
        capsys.readouterr()
        code = app.run(arguments)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err, engine)

    return call


@pytest.fixture
def snapshot() -> Callable[[str, str], None]:
    """Compare a text with tests/unit/cli/snapshots/<name>; ``ZDM_UPDATE_SNAPSHOTS=1`` writes it instead."""

    def compare(name: str, text: str) -> None:
        path = SNAPSHOTS / name
        if UPDATE:
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text, f"differs from {path}; see ZDM_UPDATE_SNAPSHOTS"

    return compare
