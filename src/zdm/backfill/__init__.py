"""Filling the new side of existing rows, in small transactions that never stall anybody for longer than the lock budget."""

from __future__ import annotations

from zdm.backfill.options import Hooks, Options, Progress, Result, VacuumPolicy
from zdm.backfill.run import BadData, backfill

__all__ = ["BadData", "Hooks", "Options", "Progress", "Result", "VacuumPolicy", "backfill"]
