"""``zdm init``"""

from __future__ import annotations

from zdm.cli.command import command as declare
from zdm.cli.run import Run


@declare(
    example="""
    zdm init --url postgresql://migrator@db/shop
    """
)
def init(run: Run) -> None:
    """Install zdm's catalog (the schema "zdm") into the database, or upgrade it.

    Safe to repeat. Nothing of the application's is touched.
    """
    from zdm.cli.render.status import init_text

    run.left = lambda: "The catalog's own migrations run in transactions; what was committed stays."
    result = run.engine().init()
    run.answer(result.model_dump(mode="json"), lambda: init_text(result))


command = init
