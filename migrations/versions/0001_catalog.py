"""The catalog: registry, rollouts, steps, backfills, verifications, gates, leases, events.

Revision ID: 0001
Revises:

The DDL is in the .sql files of the same name. Once released, neither is ever edited.
"""

from __future__ import annotations

from zdm.catalog.revision import run

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table, trigger and comment."""
    run(__file__, "up")


def downgrade() -> None:
    """Remove them, unless a rollout is under way."""
    run(__file__, "down")
