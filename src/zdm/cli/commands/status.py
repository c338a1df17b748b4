"""``zdm status``"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from zdm.cli.command import DURATION
from zdm.cli.command import command as declare
from zdm.cli.run import Run
from zdm.errors import BadInput

if TYPE_CHECKING:
    from zdm.engine.results import RolloutStatus


@declare(
    click.argument("migration", metavar="[MIGRATION]", required=False),
    click.option(
        "-w",
        "--watch",
        is_flag=True,
        help="Show it again and again, until Ctrl-C or until nothing moves any more.",
    ),
    click.option(
        "--interval", type=DURATION, default="2s", show_default=True, help="Time between two looks."
    ),
    example="""
    zdm status
    zdm status widen_balance --watch
    """,
)
def status(run: Run, migration: str | None, watch: bool, interval: timedelta) -> None:
    """Show where rollouts stand: phase, progress, gates of the next move, who holds it, and whether there is a way back.

    Without MIGRATION every rollout of the target, one line each.
    """
    if watch and run.json:
        raise BadInput(
            "--watch and --json do not go together",
            remedy="Call `zdm status --json` again and again instead.",
        )
    identifier = run.find_id(migration) if migration else None
    engine = run.engine()
    if not watch:
        found = engine.status(identifier)
        values = {"rollouts": [one.model_dump(mode="json") for one in found]}
        run.answer(values, lambda: _text(found, identifier))
        return
    terminal = sys.stdout.isatty()
    last = ""
    while True:
        found = engine.status(identifier)
        text = _text(found, identifier)
        if terminal:
            click.clear()
        if terminal or text != last:
            run.say(text if terminal else f"{text}\n")
        last = text
        if found and all(one.state.value in ("completed", "rolled_back") for one in found):
            return
        time.sleep(max(interval.total_seconds(), 0.2))


def _text(found: list[RolloutStatus], identifier: str | None) -> str:
    from zdm.cli.render.status import overview_text, status_text

    if identifier is None:
        return overview_text(found)
    return "\n\n".join(status_text(one, datetime.now(UTC)) for one in found)


command = status
