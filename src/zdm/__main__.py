"""``python -m zdm``: the same as the console script."""

from __future__ import annotations

from zdm.cli import main

main()
