"""The oldest transaction that ran when a backfill's pass began: its last look need not look at rows that were written before.

Revision ID: 0004
Revises: 0003

The DDL is in the .sql files of the same name. Once released, neither is ever edited.
"""

from __future__ import annotations

from zdm.catalog.revision import run

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    run(__file__, "up")


def downgrade() -> None:
    """Remove it."""
    run(__file__, "down")
