"""``zdm doctor``"""

from __future__ import annotations

from zdm.cli.command import command as declare
from zdm.cli.run import Run
from zdm.errors import ZdmError


@declare(
    example="""
    zdm doctor --url postgresql://migrator@db/shop
    """
)
def doctor(run: Run) -> None:
    """Check whether zdm can work here: server version, rights, catalog, replicas, statistics, pooler, leftovers.

    Changes nothing. Exit code 1 if there is a problem, or something cannot be read; warnings alone do not fail.
    """
    from zdm.cli.render.status import doctor_text

    checks = run.engine().doctor()
    values = {"checks": [check.model_dump(mode="json") for check in checks]}
    failed = [check for check in checks if check.health.value in ("problem", "unknown")]
    if not failed:
        run.answer(values, lambda: doctor_text(checks))
        return
    run.say(doctor_text(checks))
    run.partial = values
    raise ZdmError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(c.name for c in failed)}")


command = doctor
