"""``zdm reconcile``"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from zdm.cli.command import command as declare
from zdm.cli.run import Run

if TYPE_CHECKING:
    from zdm.engine.results import ReconcileResult


@declare(
    click.argument("migration", metavar="[MIGRATION]", required=False),
    click.option("--follow", is_flag=True, help="Go on until it is stopped, as a service."),
    click.option(
        "--interval",
        default="200ms",
        show_default=True,
        metavar="DURATION",
        help="With --follow, the pause after a round that found nothing.",
    ),
    example="""
    zdm reconcile move_counters
    zdm reconcile --follow
    """,
)
def reconcile(run: Run, migration: str | None, follow: bool, interval: str) -> None:
    """Carry over what waits between tables whose migration says `sync: logged`; without MIGRATION, of every rollout.

    Every other command does so as well while it works; between deploys this one does. Several may run at once.
    """
    from zdm.cli.render.moves import reconcile_text
    from zdm.model.duration import parse_duration

    identifier = run.find_id(migration) if migration else None
    try:
        pause = parse_duration(interval)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--interval") from None
    if not follow:
        result = run.engine().reconcile(identifier)
        run.answer(result.model_dump(mode="json"), lambda: reconcile_text(result))
        return

    def tell(since: ReconcileResult) -> None:
        run.note(reconcile_text(since))

    with _stopping() as stop:
        run.note("Reconciling; stop with Ctrl-C.")
        last = run.engine().reconcile(
            identifier, follow=stop, interval=max(pause, timedelta(milliseconds=10)), tell=tell
        )
    run.answer(last.model_dump(mode="json"), lambda: reconcile_text(last))


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set: what is begun is finished, and the command ends with exit code 0."""
    stop = threading.Event()
    before: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread: the host owns the signals
        for one in (signal.SIGTERM, signal.SIGINT):
            before[one] = signal.signal(one, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


command = reconcile
