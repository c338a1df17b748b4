"""What the stages of row mappings do alike: fill, compare and repair, without the engine."""

from __future__ import annotations

from tests.support.servers import Database
from zdm.backfill.run import backfill
from zdm.db.session import connect
from zdm.model.mapping import Authority
from zdm.model.row_mapping import RowMapping
from zdm.sql.rows import Kind
from zdm.verify.elements import verify_elements
from zdm.verify.repair_rows import repair_rows


class Mirrored:
    """A stage with one mapping, which is installed."""

    database: Database
    mapping: RowMapping
    rollout: int

    def fill(self) -> None:
        """Run the backfill to its end."""
        assert backfill(
            lambda: connect(self.database.dsn, application_name="backfill"), self.rollout, self.mapping
        ).complete


class Repaired(Mirrored):
    """One that is repaired without a log."""

    def repair(self, authority: Authority) -> int:
        """Make both sides agree, by one of them."""
        return repair_rows(
            lambda: connect(self.database.dsn, application_name="stage"),
            self.mapping,
            self.rollout,
            authority,
            guard=lambda _: None,
        )


class MirroredElements(Mirrored):
    """One whose mapping is of one row and many."""

    def found(self) -> dict[Kind, int]:
        """What the verification finds."""
        return dict(
            verify_elements(
                lambda: connect(self.database.dsn, application_name="stage"), self.mapping, self.rollout
            ).counts
        )
