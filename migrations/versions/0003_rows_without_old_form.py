"""Rows of the new version that the old one cannot hold, where an operation says ``without_old_form: record``.

Revision ID: 0003
Revises: 0002

The DDL is in the .sql files of the same name. Once released, neither is ever edited.
"""

from __future__ import annotations

from zdm.catalog.revision import run

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    run(__file__, "up")


def downgrade() -> None:
    """Remove it, unless it holds a row."""
    run(__file__, "down")
