"""What everything that works on one rollout needs: the session, the stored rollout and plan, the migration, the lease."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass

from pydantic import ValidationError

from zdm.catalog import install, lease, registry, rollouts
from zdm.catalog.lease import Lease
from zdm.catalog.rollouts import Rollout
from zdm.db.locks import LockBudget
from zdm.db.session import Session, connect
from zdm.engine.reporter import Reporter
from zdm.engine.settings import EngineSettings
from zdm.errors import BadInput, of_another_version
from zdm.model.mapping import TableMapping
from zdm.model.names import QualifiedName, sql_name
from zdm.model.plan import Plan
from zdm.model.row_mapping import RowMapping
from zdm.operations.migration import Migration
from zdm.sql.fence import effective, effective_rows


@dataclass(slots=True)
class Work:
    """One rollout as it stood when it was opened.

    Parameters
    ----------
    url: of the database; a lost session is opened anew with it.
    """

    url: str
    settings: EngineSettings
    reporter: Reporter
    session: Session
    rollout: Rollout
    plan: Plan
    migration: Migration

    @property
    def budget(self) -> LockBudget:
        """How long others may be stalled, and how long a step tries."""
        return LockBudget(timeout=self.settings.lock_budget, max_wait=self.settings.lock_timeout_total)

    def mapping(self, table: QualifiedName) -> TableMapping:
        """A table's mapping under the physical names of the moment."""
        return effective(self.plan.mapping(table), fenced=self.rollout.fenced_at is not None)

    def rows(self, id_: QualifiedName) -> RowMapping | None:
        """The row mapping of that id under the physical names of the moment; None if it is a table's."""
        found = self.plan.row_mapping(id_)
        fenced = self.rollout.fenced_at is not None
        return None if found is None else effective_rows(found, self.plan, fenced=fenced)

    def logs(self, table: QualifiedName) -> list[RowMapping]:
        """The row mappings that are synced by log on the rows of a table themselves, under the physical names of the moment."""
        found = [m for m in self.plan.row_mappings if m.logged and m.in_place and m.old.table == table]
        fenced = self.rollout.fenced_at is not None
        return [effective_rows(m, self.plan, fenced=fenced) for m in found]

    def mapped(self) -> list[TableMapping]:
        """The mappings of all tables whose rows are mapped, under the physical names of the moment."""
        return [self.mapping(m.table) for m in self.plan.mappings if m.needs_sync]

    def refresh(self) -> None:
        """Read the rollout's row anew."""
        self.rollout = rollouts.get(self.session, self.rollout.id)

    def lease(self, what: str) -> Lease:
        """Take the rollout's lease."""
        return lease.acquire(
            lambda: connect(self.url, application_name="zdm lease"),
            self.rollout.id,
            self._holder(what),
            beat=min(lease.BEAT, self.settings.lease / 5),
            expiry=self.settings.lease,
        )

    def _holder(self, what: str) -> str:
        return self.settings.holder or f"zdm {what} by {person()}"


def person() -> str:
    """Who runs this process, for other people: login name and host."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"user {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def open_session(url: str, *, catalog: bool = True) -> Session:
    """A session; with `catalog`, one on a database whose catalog this zdm can work with.

    Raises
    ------
    BadInput: no connection, no catalog, or a catalog of another version.
    """
    session = connect(url, application_name="zdm")
    try:
        if catalog:
            install.require(session)
    except BaseException:
        session.close()
        raise
    return session


def find_rollout(session: Session, migration: str, target: str) -> Rollout:
    """The rollout of a migration on a target. Raises BadInput if there is none."""
    found = rollouts.find(session, migration, target)
    if found is None:
        known = registry.get(session, migration)
        raise BadInput(
            f"There is no rollout of {migration} on {sql_name(target)}."
            if known
            else f"There is no migration {migration} in the catalog.",
            remedy="`zdm advance` begins one."
            if known
            else "`zdm advance FILE` registers a file and begins.",
            changed="Nothing was changed.",
        )
    return found


def registered_migration(session: Session, migration: str) -> Migration:
    """A registered migration as a value. Raises BadInput if there is none with that id."""
    found = registry.get(session, migration)
    if found is None:
        raise BadInput(
            f"There is no migration {migration} in the catalog.",
            remedy="Give the path of its file instead of its id.",
        )
    try:
        return Migration.model_validate(found.canonical)
    except ValidationError as error:
        raise of_another_version(f"Migration {migration}", error) from None
