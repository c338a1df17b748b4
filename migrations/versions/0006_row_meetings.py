"""Where rows of the old version that say nothing are noted, so that whoever records one of the same key meets them.

Revision ID: 0006
Revises: 0005

The DDL is in the .sql files of the same name. Once released, neither is ever edited.
"""

from __future__ import annotations

from zdm.catalog.revision import run

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    run(__file__, "up")


def downgrade() -> None:
    """Remove it."""
    run(__file__, "down")
