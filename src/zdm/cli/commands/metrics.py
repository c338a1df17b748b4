"""``zdm metrics``"""

from __future__ import annotations

import importlib
from typing import Any

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run
from zdm.errors import BadInput, ZdmError


@declare(
    click.option("--listen", metavar="[HOST:]PORT", help="Serve them for Prometheus, until it is stopped."),
    example="""
    zdm metrics
    zdm metrics --listen 127.0.0.1:9187
    """,
)
def metrics(run: Run, listen: str | None) -> None:
    """Print the Prometheus metrics of every rollout in the database once, or serve them."""
    url = run.database_url
    exporter: Any = _module("zdm.metrics")
    if listen is None:
        text: str = exporter.render(url)
        run.answer({"metrics": text}, lambda: text.rstrip("\n"))
        return
    host, port = _address(listen)
    shown = f"[{host}]" if ":" in host else host
    run.note(f"Serving metrics on http://{shown}:{port}/metrics; stop with Ctrl-C.")
    try:
        exporter.serve(url, host=host, port=port)
    except KeyboardInterrupt:
        # Stopping is how serving ends, so it is no failure.
        run.emit({"served": f"{host}:{port}"})
    except OSError as error:
        raise ZdmError(f"cannot listen on {listen}: {error.strerror or error}") from None


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise BadInput(
            f"--listen {text!r} is no address",
            remedy="Write it as PORT or HOST:PORT, for example 127.0.0.1:9187.",
        )
    return host.strip("[]") or "127.0.0.1", int(port)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ZdmError(f"this installation has no {name}", remedy="Install zdm again.") from None


command = metrics
