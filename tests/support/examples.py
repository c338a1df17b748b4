"""The folders of examples/, as what tests run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from zdm.model.sample import Scenario
from zdm.operations.migration import Migration

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if (path / "setup.sql").exists())


@dataclass(frozen=True)
class Example:
    """One folder: the migrations in order, and the last one as a scenario of the conformance suite.

    Parameters
    ----------
    rows: what is inserted once all migrations but the last are complete.
    """

    migrations: list[Migration]
    setup: str
    rows: str
    writes: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Example:
        migrations = [
            Migration.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
            for path in sorted(folder.glob("*.yaml"))
            if path.name != "writes.yaml"
        ]
        writes = yaml.safe_load((folder / "writes.yaml").read_text(encoding="utf-8"))
        return cls(
            migrations, (folder / "setup.sql").read_text(encoding="utf-8"), writes.pop("rows", ""), writes
        )

    def scenario(self) -> Scenario:
        last = self.migrations[-1].model_dump(mode="json", exclude_defaults=True)
        return Scenario.model_validate({"setup": self.setup, "operations": last["operations"], **self.writes})
