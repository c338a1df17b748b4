"""Working on a rollout: its lease is held, and every transaction depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zdm.db.session import Session, connect
from zdm.engine.executor import Executor
from zdm.engine.reconcile import reconciling
from zdm.engine.rows import RowWorker
from zdm.engine.work import Work


@contextmanager
def leased(work: Work, what: str) -> Iterator[Executor]:
    """Hold the rollout's lease; gives an executor whose every transaction depends on it.

    Parameters
    ----------
    what: what is done, for whoever finds the rollout held.

    Raises
    ------
    Busy: somebody else holds it.
    """
    with work.lease(what) as held:

        def again() -> Session:
            return connect(work.url, application_name=held.application_name)

        with again() as session:
            rows = RowWorker(work, held, again)
            executor = Executor(
                connect=again,
                session=session,
                rollout=work.rollout.id,
                lease=held,
                budget=work.budget,
                reporter=work.reporter,
                mapping=work.mapping,
                rows=work.rows,
                logs=work.logs,
                backfill=rows.backfill,
                verify=rows.verify_and_store,
                carry_over=rows.carry_over_all,
            )
            try:
                with reconciling(
                    again, work.plan.row_mappings, work.rollout.id, lock_budget=work.settings.lock_budget
                ):
                    yield executor
            finally:
                executor.session.close()  # another one, if the first was lost on the way
