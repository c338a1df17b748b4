"""Comparing both sides of every row, and repairing what disagrees."""

from __future__ import annotations

from zdm.verify.repair import repair
from zdm.verify.run import ExtraCheck, Found, verify

__all__ = ["ExtraCheck", "Found", "repair", "verify"]
