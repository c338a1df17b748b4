"""The facade: everything the command line, the tests and other programs do with zdm goes through `Engine`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

from zdm.catalog import approvals, events, install, registry, rollouts
from zdm.catalog import steps as step_store
from zdm.catalog.rollouts import Rollout
from zdm.catalog.steps import StepStatus
from zdm.db.session import Session, fetch_value, transaction
from zdm.engine import doctor as doctor_checks
from zdm.engine.compile import compile_plan
from zdm.engine.fence import set_fence
from zdm.engine.leased import leased
from zdm.engine.phase_run import run_phase
from zdm.engine.preview import preview_steps, preview_undo, rendered_sql
from zdm.engine.reconcile import Service
from zdm.engine.reporter import Reporter, Silent
from zdm.engine.results import (
    AdvanceResult,
    Approval,
    BackfillResult,
    Check,
    FenceResult,
    HistoryEntry,
    InitResult,
    Outcome,
    PauseResult,
    PreviewStep,
    ReconcileResult,
    RollbackResult,
    RolloutStatus,
    VerifyResult,
)
from zdm.engine.rollback import refuse_no_way_back, roll_back
from zdm.engine.rows import backfill_all, verify_all
from zdm.engine.settings import EngineSettings
from zdm.engine.status import history_of, status_of
from zdm.engine.work import Work, find_rollout, open_session, person, registered_migration
from zdm.errors import BadInput, Busy, IllegalMove, Problem, ZdmError
from zdm.model.names import sql_name
from zdm.model.phases import State, machine
from zdm.model.plan import Plan
from zdm.model.row_mapping import RowMapping
from zdm.model.step import Phase
from zdm.operations.base import readable_names
from zdm.operations.migration import Migration


class Engine:
    """One database and one target schema in it.

    Parameters
    ----------
    url: a libpq or SQLAlchemy URL, or libpq's keywords.
    target: the schema that unqualified names mean.
    reporter: is told what happens while it happens.
    """

    def __init__(
        self,
        url: str,
        target: str = "public",
        *,
        reporter: Reporter | None = None,
        settings: EngineSettings | None = None,
    ) -> None:
        self.url = url
        self.target = target
        self.reporter: Reporter = reporter or Silent()
        self.settings = settings or EngineSettings()

    # -- the catalog --------------------------------------------------------------------------------------------

    def init(self) -> InitResult:
        """Install or upgrade the catalog; safe to repeat.

        Raises
        ------
        BadInput: the server is too old, the catalog is a newer zdm's, or a right is missing.
        """
        with open_session(self.url, catalog=False) as session:
            before = install.status(session)
            after = install.install(session)
            return InitResult(
                database=session.info.dbname,
                role=fetch_value(session, "SELECT current_user"),
                server_version=session.info.server_version,
                version=after.revision or after.head,
                previous=before.revision,
                applied=(after.head,) if before.revision != after.revision else (),
            )

    # -- planning -----------------------------------------------------------------------------------------------

    def plan(self, migration: Migration | str) -> Plan:
        """What the migration would do on this target now, checked in full; a rollout under way returns its stored plan.

        Raises
        ------
        BadInput: with everything that is wrong. Nothing is changed either way.
        """
        with open_session(self.url, catalog=False) as session:
            known = install.status(session).revision is not None
            found = self._migration(session, migration)
            stored = rollouts.find(session, found.id, self.target) if known else None
            if stored is not None and stored.state not in (State.PLANNED, State.ROLLED_BACK):
                return rollouts.plan(session, stored.id)
            return self._compile(session, found, catalog=known)

    def preview(self, migration: Migration | str) -> list[PreviewStep]:
        """The steps of the phase that `advance` would run next: exact SQL, locks, estimates. Changes nothing."""
        with open_session(self.url, catalog=False) as session:
            known = install.status(session).revision is not None
            found = self._migration(session, migration)
            stored = rollouts.find(session, found.id, self.target) if known else None
            if stored is None or stored.state in (State.PLANNED, State.ROLLED_BACK):
                plan = self._compile(session, found, catalog=known)
                return preview_steps(session, plan, Phase.PREPARATION, rollout=stored.id if stored else 0)
            phase = machine().next(stored.state).phase
            return preview_steps(session, rollouts.plan(session, stored.id), phase, rollout=stored.id)

    def preview_rollback(self, migration: str) -> list[PreviewStep]:
        """The steps that `rollback` would undo, last first: exact SQL and locks. Changes nothing.

        Raises
        ------
        IllegalMove: there is nothing to take back, or cleanup has begun.
        """
        with open_session(self.url) as session:
            work = self._opened(session, migration)
            refuse_no_way_back(work)
            return preview_undo(session, work.plan, rollout=work.rollout.id)

    def registered(self, migration: str) -> tuple[str, str] | None:
        """Text and file name of a registered migration; None if the catalog does not know it, or there is none."""
        with open_session(self.url, catalog=False) as session:
            if install.status(session).revision is None:
                return None
            found = registry.get(session, migration)
            return None if found is None else (found.source, found.file)

    def _compile(self, session: Session, migration: Migration, *, catalog: bool = True) -> Plan:
        if catalog:
            self._refuse_held_tables(session, migration)
        previous = self._previous_schemas(session, migration.id) if catalog else []
        try:
            return compile_plan(
                session,
                migration,
                self.target,
                previous_schemas=previous,
                workers=self.settings.workers,
                lock_budget=self.settings.lock_budget,
            )
        finally:
            session.prelude = ()

    def _refuse_held_tables(self, session: Session, migration: Migration) -> None:
        """Two rollouts never share a table; and the columns and views of the other one are not this one's business."""
        problems: list[Problem] = []
        for position, operation in enumerate(migration.operations, 1):
            names = readable_names(operation.tables(), self.target)
            problems += [
                Problem(
                    f"the rollout of {other.migration} on {sql_name(other.target)} is at table {table} ({other.state.words})",
                    f"{position}:{operation.kind}",
                )
                for table, other in rollouts.conflicts(session, names)
                if (other.migration, other.target) != (migration.id, self.target)
            ]
        if problems:
            raise Busy(
                f"Migration {migration.id} has to wait for another rollout on {sql_name(self.target)}.",
                problems=problems,
                remedy="Finish that one or roll it back first (`zdm status`).",
                changed="Nothing was changed.",
            )

    def _previous_schemas(self, session: Session, migration: str) -> list[str]:
        """Version schemas that completed rollouts of this target have left for their applications."""
        done = rollouts.all_of(session, target=self.target)
        names = [
            r.new_schema
            for r in done
            if r.state is State.COMPLETED and r.new_schema and r.migration != migration
        ]
        rows = session.execute(
            "SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname = ANY (%s)", [names]
        ).fetchall()
        present = {row[0] for row in rows}
        return [name for name in names if name in present]

    def _migration(self, session: Session, migration: Migration | str) -> Migration:
        return registered_migration(session, migration) if isinstance(migration, str) else migration

    # -- moving -------------------------------------------------------------------------------------------------

    def advance(
        self,
        migration: Migration | str,
        *,
        until: Phase | None = None,
        wait: timedelta | None = None,
        restart: bool = False,
        source: str = "",
        file: str = "",
    ) -> AdvanceResult:
        """Run the next phase, or go on with the one that was interrupted.

        Parameters
        ----------
        until: run one phase after the other until this one is done.
        wait: how long to wait for gates that refuse.
        restart: begin again after a rollback.
        source / file: the text and the name of the file the migration was read from, for the registry.

        Raises
        ------
        BadInput, IllegalMove, Busy, Drift, ZdmError: see `zdm.engine.phase_run.run_phase`.
        """
        with open_session(self.url) as session:
            found = self._register(session, migration, source, file)
            rollout = self._begun(session, found, restart=restart)
            work = self._work(session, rollout, found)
            result = self._advance_once(work, wait, until)
            earlier: list[AdvanceResult] = []
            while until is not None and result.outcome is Outcome.DONE and result.phase is not until:
                earlier.append(result)
                result = self._advance_once(work, wait, until)
            return result.model_copy(update={"earlier": tuple(earlier)}) if earlier else result

    def _advance_once(self, work: Work, wait: timedelta | None, until: Phase | None) -> AdvanceResult:
        moves = machine()
        done = until is not None and moves.is_past(work.rollout.state, until)
        if done or (until is not None and not moves.follows(work.rollout.state)):
            following = moves.next(work.rollout.state).phase if moves.follows(work.rollout.state) else None
            return AdvanceResult(
                rollout=work.rollout.migration,
                target=work.rollout.target,
                phase=until or Phase.CLEANUP,
                before=work.rollout.state,
                state=work.rollout.state,
                outcome=Outcome.NOTHING,
                next_phase=following,
                can_return=moves.can_roll_back(work.rollout.state),
                old_schema=work.rollout.old_schema,
                new_schema=work.rollout.new_schema,
            )
        return run_phase(work, wait=wait)

    def _register(self, session: Session, migration: Migration | str, source: str, file: str) -> Migration:
        if isinstance(migration, str):
            return registered_migration(session, migration)
        # An edited file is taken as long as nothing of it has been done; afterwards the registry refuses it.
        registry.register(
            session, migration, source or migration.canonical(), file=file, by=person(), replace=True
        )
        return migration

    def _begun(self, session: Session, migration: Migration, *, restart: bool) -> Rollout:
        found = rollouts.find(session, migration.id, self.target)
        if found is not None and found.state is State.ROLLED_BACK and not restart:
            raise IllegalMove(
                f"The rollout of {migration.id} on {sql_name(self.target)} was rolled back at {found.rolled_back_at:%Y-%m-%d %H:%M}.",
                remedy="Begin again with `zdm advance --restart`.",
                changed="Nothing was changed.",
            )
        if found is not None and found.state not in (State.PLANNED, State.ROLLED_BACK):
            if found.checksum != migration.checksum:
                raise BadInput(
                    f"The rollout of {migration.id} was planned from another content of the file.",
                    remedy="Restore the file, or roll back first.",
                    changed="Nothing was changed.",
                )
            return found
        plan = self._compile(session, migration)
        with transaction(session):
            if found is None or found.state is State.ROLLED_BACK:
                made = rollouts.create(session, plan)
            else:
                made = rollouts.replan(session, found.id, plan)
            up, down = rendered_sql(plan, made.id)
            registry.set_sql(session, migration.id, up_sql=up, down_sql=down)
        return made

    def _work(self, session: Session, rollout: Rollout, migration: Migration) -> Work:
        return Work(
            url=self.url,
            settings=self.settings,
            reporter=self.reporter,
            session=session,
            rollout=rollout,
            plan=rollouts.plan(session, rollout.id),
            migration=migration,
        )

    def _opened(self, session: Session, migration: str) -> Work:
        rollout = find_rollout(session, migration, self.target)
        return self._work(session, rollout, registered_migration(session, migration))

    def rollback(self, migration: str, *, verify: bool = True) -> RollbackResult:
        """Return to the old version from any phase before cleanup; see `zdm.engine.rollback.roll_back`."""
        with open_session(self.url) as session:
            return roll_back(self._opened(session, migration), verify=verify)

    # -- rows ---------------------------------------------------------------------------------------------------

    def verify(self, migration: str, *, repair: bool = False) -> VerifyResult:
        """Compare every row of every mapped table, and store what was found.

        Parameters
        ----------
        repair: derive again, from the side that is the authority, what disagrees; then compare once more.

        Raises
        ------
        IllegalMove: the sync triggers do not stand, so there are not two sides to compare.
        """
        with open_session(self.url) as session:
            work = self._opened(session, migration)
            self._needs_both_sides(work)
            with leased(work, f"verify {migration}") as executor:
                return verify_all(work, executor, repair_first=repair)

    def backfill(self, migration: str, *, workers: int | None = None) -> BackfillResult:
        """Fill what is not settled, without moving the rollout. Continues where an earlier run stopped.

        Raises
        ------
        IllegalMove: the sync triggers do not stand.
        """
        with open_session(self.url) as session:
            work = self._opened(session, migration)
            if workers is not None:
                work.settings = work.settings.model_copy(update={"workers": workers})
            self._needs_both_sides(work)
            with leased(work, f"backfill {migration}") as executor:
                return backfill_all(work, executor)

    def reconcile(
        self,
        migration: str | None = None,
        *,
        follow: threading.Event | None = None,
        interval: timedelta = timedelta(milliseconds=200),
        tell: Callable[[ReconcileResult], None] = lambda _: None,
    ) -> ReconcileResult:
        """Carry over what waits in the logs of rollouts that say ``sync: logged``: of one, or of all of this target.

        No lease is taken: several may do so at once, beside anything else that zdm does.

        Parameters
        ----------
        follow: go on until this is set.
        interval: the pause after a round that found nothing to do.
        tell: told now and then, while it follows, what was done since the last time.

        Raises
        ------
        Busy: without `follow`: rows were held by others all the time.
        """

        def find(session: Session) -> list[tuple[Rollout, tuple[RowMapping, ...]]]:
            found = (
                [find_rollout(session, migration, self.target)]
                if migration is not None
                else rollouts.all_of(session, active=True, target=self.target)
            )
            return [(rollout, rollouts.plan(session, rollout.id).row_mappings) for rollout in found]

        service = Service(lambda: open_session(self.url), find, self.settings.lock_budget)
        return service.run_once() if follow is None else service.follow(follow, interval, tell)

    @staticmethod
    def _needs_both_sides(work: Work) -> None:
        standing = (
            State.PREPARED,
            State.MIGRATING,
            State.MIGRATION_FAILED,
            State.MIGRATED,
            State.SWITCHING_OVER,
            State.SWITCHOVER_FAILED,
            State.SWITCHED_OVER,
        )
        # A cleanup that failed before the first swap has changed no row, and may have failed for what some rows hold.
        whole = work.rollout.state is State.CLEANUP_FAILED and not any(
            record.step.endswith(".swap") and record.status is StepStatus.FINISHED
            for record in step_store.all_of(work.session, work.rollout.id)
        )
        if work.rollout.state not in standing and not whole:
            raise IllegalMove(
                f"The rollout is {work.rollout.state.words}: there are not both sides of the rows.",
                remedy="This works from the end of preparation until cleanup.",
                changed="Nothing was changed.",
            )

    # -- people -------------------------------------------------------------------------------------------------

    def status(self, migration: str | None = None) -> list[RolloutStatus]:
        """Every rollout of the target, or one: phase, gates of the next move, progress, what is next. Changes nothing."""
        with open_session(self.url) as session:
            if migration is not None:
                return [status_of(self._opened(session, migration))]
            found = rollouts.all_of(session, target=self.target)
            latest = {rollout.migration: rollout for rollout in found}
            return [
                status_of(self._work(session, rollout, registered_migration(session, rollout.migration)))
                for rollout in latest.values()
            ]

    def pause(self, migration: str) -> PauseResult:
        """Let a running backfill wait after its present chunk, until `resume`."""
        return self._pause(migration, paused=True)

    def resume(self, migration: str) -> PauseResult:
        """Let a paused backfill go on."""
        return self._pause(migration, paused=False)

    def _pause(self, migration: str, *, paused: bool) -> PauseResult:
        with open_session(self.url) as session:
            rollout = find_rollout(session, migration, self.target)
            if not machine().follows(rollout.state):
                raise IllegalMove(
                    f"The rollout is {rollout.state.words}; nothing of it runs.",
                    changed="Nothing was changed.",
                )
            rollouts.set_paused(session, rollout.id, paused)
            return PauseResult(
                rollout=migration, target=self.target, paused=paused, changed=rollout.paused is not paused
            )

    def approve(self, migration: str, phase: Phase, by: str = "", comment: str = "") -> Approval:
        """Record somebody's approval of the move into a phase; repeating it changes nothing.

        Raises
        ------
        IllegalMove: the phase is done.
        """
        with open_session(self.url) as session:
            rollout = find_rollout(session, migration, self.target)
            if machine().is_past(rollout.state, phase):
                raise IllegalMove(
                    f"The {phase.value} of {migration} is done: there is nothing to approve.",
                    changed="Nothing was changed.",
                )
            approver = by or person()
            approvals.add(session, rollout.id, phase, approver, comment)
            found = [a for a in approvals.all_of(session, rollout.id, phase) if a.approver == approver]
            if not found:
                raise ZdmError("The approval was not recorded.", remedy="Try again.")
            latest = found[-1]
            return Approval(
                rollout=migration,
                target=self.target,
                phase=phase,
                by=approver,
                at=latest.at,
                comment=latest.comment,
            )

    def fence(self, migration: str, *, lift: bool = False) -> FenceResult:
        """Make the old version unusable but whole, or bring it back."""
        with open_session(self.url) as session:
            return set_fence(self._opened(session, migration), up=not lift)

    def history(self, migration: str | None = None) -> list[HistoryEntry]:
        """What happened, oldest first: of one migration on this target, rollouts that were rolled back included, or of everything."""
        with open_session(self.url) as session:
            if migration is None:
                return history_of(events.all_of(session))
            find_rollout(session, migration, self.target)
            every = rollouts.all_of(session, migration=migration, target=self.target)
            told = [event for one in every for event in events.all_of(session, rollout=one.id)]
            return history_of(sorted(told, key=lambda event: event.id))

    def doctor(self) -> list[Check]:
        """Look at server, rights, catalog, replicas and leftovers, and say what to do about each. Changes nothing."""
        return doctor_checks.checks(self.url, self.settings)
