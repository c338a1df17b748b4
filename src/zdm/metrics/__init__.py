"""Prometheus metrics, read from zdm's catalog at each scrape. Nothing is counted in memory, so a restart loses nothing."""

from __future__ import annotations

from zdm.metrics.server import DEFAULT_LISTEN, render, serve

__all__ = ["DEFAULT_LISTEN", "render", "serve"]
