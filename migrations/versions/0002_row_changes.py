"""What rows of two tables wait to be brought to agree, where a migration says ``sync: logged``; and what lost there.

Revision ID: 0002
Revises: 0001

The DDL is in the .sql files of the same name. Once released, neither is ever edited.
"""

from __future__ import annotations

from zdm.catalog.revision import run

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables."""
    run(__file__, "up")


def downgrade() -> None:
    """Remove them, unless something is still waiting."""
    run(__file__, "down")
