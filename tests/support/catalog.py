"""Small migrations and plans, for tests of what stores them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta

from zdm.model.mapping import TableMapping
from zdm.model.names import qualified
from zdm.model.plan import Plan
from zdm.model.step import Phase, Stage, Step, Transaction


@dataclass(frozen=True)
class FakeMigration:
    """As much of a migration as the registry looks at."""

    id: str
    depends_on: tuple[str, ...] = ()
    description: str = ""
    module: str | None = None
    version: str | None = None
    from_version: str | None = None
    risk: str = "low"
    estimated_time: timedelta | None = None

    def canonical(self) -> str:
        return json.dumps(
            {"id": self.id, "depends_on": list(self.depends_on), "description": self.description},
            sort_keys=True,
        )

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def make_plan(
    migration: str = "m", *, table: str = "t", target: str = "public", final_name: str = ""
) -> Plan:
    """A plan of two steps over one table."""
    return Plan(
        migration=migration,
        target=target,
        server_version=180000,
        old_schema=f"{target}_before_{migration}",
        new_schema=f"{target}_{migration}",
        mappings=(TableMapping(table=qualified(target, table), final_name=final_name or table, oid=4711),),
        steps=(
            Step(
                id=f"preparation.{table}.columns",
                title="add the new columns beside the old ones",
                phase=Phase.PREPARATION,
                stage=Stage.STRUCTURE,
                action=Transaction(statements=("SELECT 1",)),
                undo=(Transaction(statements=("SELECT 2",)),),
            ),
            Step(
                id=f"cleanup.{table}.swap",
                title="remove what is old",
                phase=Phase.CLEANUP,
                stage=Stage.CONTRACT,
                action=Transaction(statements=("SELECT 3 % 2",)),
            ),
        ),
    )
