"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}

The DDL is in the .sql files of the same name. Once released, neither is ever edited.
"""

from __future__ import annotations

from zdm.catalog.revision import run

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(__file__, "up")


def downgrade() -> None:
    run(__file__, "down")
