"""Benchmarks take as long as they take."""

from __future__ import annotations

import faulthandler

import pytest


@pytest.fixture(autouse=True)
def no_time_limit() -> None:
    """Undo the limit that ends an ordinary test that hangs; it is armed before the fixtures run."""
    faulthandler.cancel_dump_traceback_later()
