"""Which element of a row was written, where one row says the same as many and both are synced by log.

Revision ID: 0005
Revises: 0004

The DDL is in the .sql files of the same name. Once released, neither is ever edited.
"""

from __future__ import annotations

from zdm.catalog.revision import run

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    run(__file__, "up")


def downgrade() -> None:
    """Remove them, unless an entry needs them."""
    run(__file__, "down")
