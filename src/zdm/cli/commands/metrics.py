"""``zdm metrics``"""

from __future__ import annotations

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run, engine_settings


@declare(
    click.option(
        "--listen",
        metavar="[HOST]:PORT",
        help="Serve them for Prometheus, until it is stopped; :9464 by custom.",
    ),
    example="""
    zdm metrics
    zdm metrics --listen 127.0.0.1:9464
    """,
)
def metrics(run: Run, listen: str | None) -> None:
    """Print the Prometheus metrics of every rollout in the database once, or serve them.

    Serving begins even while the database cannot be reached, and ends with exit code 0 on SIGTERM or Ctrl-C.
    """
    from zdm.metrics import render, serve

    url, replicas = run.database_url, engine_settings(run, {}).replicas
    if listen is None:
        text = render(url, replicas=replicas).decode()
        run.answer({"metrics": text}, lambda: text.rstrip("\n"))
        return
    served: list[str] = []

    def ready(host: str, port: int) -> None:
        served.append(f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics")
        run.note(f"Serving {served[0]}; stop with Ctrl-C.")

    serve(listen, url, replicas=replicas, ready=ready)
    run.emit({"served": served[0] if served else listen})


command = metrics
