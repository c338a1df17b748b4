"""``zdm demo``: a migration through all four phases on a PostgreSQL of its own, with both applications at work."""

from __future__ import annotations

from zdm.demo.story import run

__all__ = ["run"]
