"""What `zdm doctor` looks at: server, rights, catalog, replicas, what could be in the way, and what was left behind."""

from __future__ import annotations

from datetime import timedelta

from zdm.catalog import install, rollouts
from zdm.db.probes.long_transactions import long_transactions
from zdm.db.probes.replication_lag import replication_lag
from zdm.db.probes.server import Server, server
from zdm.db.session import Session, fetch_value
from zdm.engine.leftovers import leftovers
from zdm.engine.results import Check, Health
from zdm.engine.settings import EngineSettings
from zdm.engine.work import open_session
from zdm.model.phases import State
from zdm.sql import sync
from zdm.sql.fence import effective

LONG = timedelta(minutes=5)


def checks(url: str, settings: EngineSettings) -> list[Check]:
    """Every check, in the order people read them. Raises BadInput if the database cannot be reached at all."""
    with open_session(url, catalog=False) as session:
        found = server(session)
        result = [_version(found), *_rights(found), _pooler(found), _catalog(session)]
        result += _replicas(session, settings)
        result += [_statements(session), _transactions(session)]
        if install.status(session).revision is not None:
            result += _leftovers(session)
            result += _other_versions(session)
        return result


def _version(found: Server) -> Check:
    if found.in_recovery:
        return Check(
            name="server version",
            health=Health.PROBLEM,
            found=f"{found.version_text}, a standby",
            needed="the primary",
            remedy="Connect to the primary.",
        )
    return Check(name="server version", health=Health.OK, found=found.version_text)


def _rights(found: Server) -> list[Check]:
    wanted = [
        (
            found.may_create_schema,
            "create schemas",
            Health.PROBLEM,
            "GRANT CREATE ON DATABASE … TO the role, which needs schemas for its catalog and the versions.",
        ),
        (
            found.may_monitor,
            "see others' activity",
            Health.WARNING,
            "GRANT pg_monitor TO the role; without it the replication lag gate cannot be read and refuses.",
        ),
        (
            found.may_set_replication_role,
            "set session_replication_role",
            Health.NOTE,
            "GRANT SET ON PARAMETER session_replication_role TO the role (15+); without it the backfill fires user triggers.",
        ),
        (
            found.may_signal,
            "cancel autovacuum",
            Health.NOTE,
            "GRANT pg_signal_autovacuum_worker (18+) or pg_signal_backend TO the role; without it zdm waits for a running autovacuum.",
        ),
    ]
    return [
        Check(name=f"right to {what}", health=Health.OK, found="there")
        if there
        else Check(name=f"right to {what}", health=health, found="missing", needed="there", remedy=remedy)
        for there, what, health, remedy in wanted
    ]


def _pooler(found: Server) -> Check:
    if found.pooled:
        return Check(
            name="pooler",
            health=Health.NOTE,
            found="a transaction pooler is between zdm and the server",
            remedy="It works; a direct connection notices at once when another zdm has died, instead of after 15 s.",
        )
    return Check(name="pooler", health=Health.OK, found="none")


def _catalog(session: Session) -> Check:
    found = install.status(session)
    if found.revision is None:
        return Check(
            name="catalog", health=Health.PROBLEM, found="absent", needed=found.head, remedy="Run `zdm init`."
        )
    if not found.known:
        return Check(
            name="catalog",
            health=Health.PROBLEM,
            found=f"{found.revision}, of a newer zdm",
            needed=found.head,
            remedy="Upgrade zdm on this machine.",
        )
    if not found.current:
        return Check(
            name="catalog",
            health=Health.PROBLEM,
            found=found.revision,
            needed=found.head,
            remedy="Run `zdm init`; it upgrades the catalog.",
        )
    return Check(name="catalog", health=Health.OK, found=found.revision)


def _replicas(session: Session, settings: EngineSettings) -> list[Check]:
    found = replication_lag(session, settings.replicas)
    if not found:
        return [Check(name="replicas", health=Health.OK, found="none")]
    result = []
    for standby in found:
        if standby.unreadable:
            result.append(
                Check(
                    name=f"replica {standby.name}",
                    health=Health.UNKNOWN,
                    found=standby.unreadable,
                    needed="readable lag",
                    remedy="GRANT pg_monitor TO the role, or name the replica's own URL in zdm.toml.",
                )
            )
        else:
            behind = standby.behind.total_seconds() if standby.behind is not None else 0.0
            result.append(
                Check(
                    name=f"replica {standby.name}",
                    health=Health.OK,
                    found=f"{standby.state}, {behind:.1f} s and {standby.bytes or 0} bytes behind",
                )
            )
    return result


def _statements(session: Session) -> Check:
    there = fetch_value(
        session, "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_stat_statements')"
    )
    if there:
        return Check(name="pg_stat_statements", health=Health.OK, found="installed")
    return Check(
        name="pg_stat_statements",
        health=Health.NOTE,
        found="absent",
        remedy="With it the gate old_version_unused can see who still uses the old version; without it, use `zdm fence`.",
    )


def _transactions(session: Session) -> Check:
    found = long_transactions(session, LONG)
    if found.unreadable:
        return Check(
            name="long transactions",
            health=Health.UNKNOWN,
            found=found.unreadable,
            remedy="GRANT pg_monitor TO the role.",
        )
    if not found.found:
        return Check(name="long transactions", health=Health.OK, found="none older than 5 minutes")
    oldest = found.found[0]
    return Check(
        name="long transactions",
        health=Health.WARNING,
        found=f"{len(found.found)}, the oldest by {oldest.name or oldest.user} (process {oldest.pid}) for "
        f"{oldest.age.total_seconds():.0f} s",
        needed="none older than 5 minutes",
        remedy="They hold back vacuum, index builds and locks; end them before a rollout.",
    )


def _leftovers(session: Session) -> list[Check]:
    result = []
    for rollout in rollouts.all_of(session):
        if rollout.state not in (State.ROLLED_BACK, State.COMPLETED):
            continue
        plan = rollouts.plan(session, rollout.id)
        newer = any(
            r.migration == rollout.migration and r.target == rollout.target and r.id > rollout.id
            for r in rollouts.all_of(session)
        )
        left = [] if newer else leftovers(session, plan, schemas=rollout.state is State.ROLLED_BACK)
        if left:
            result.append(
                Check(
                    name=f"leftovers of {rollout.migration}",
                    health=Health.WARNING,
                    found="; ".join(left),
                    needed="nothing",
                    remedy="Drop them by hand, after a look at who made them.",
                )
            )
    return result or [Check(name="leftovers", health=Health.OK, found="none")]


def _other_versions(session: Session) -> list[Check]:
    """Sync that another version of zdm installed, for rollouts under way: it works on, and is no drift."""
    result = []
    for rollout in rollouts.all_of(session, active=True):
        plan = rollouts.plan(session, rollout.id)
        found: list[str] = []
        for planned in plan.mappings:
            mapping = effective(planned, fenced=rollout.fenced_at is not None)
            expected = sync.expected_objects(mapping, rollout.id, rollout.authority)
            if expected:
                rows = session.execute(sync.state_query(mapping, rollout.id).encode()).fetchall()
                found += [f"{text} (on {mapping.table})" for text in sync.by_another_zdm(expected, rows)]
        if found:
            result.append(
                Check(
                    name=f"sync of {rollout.migration}",
                    health=Health.NOTE,
                    found=f"installed by another version of zdm, and not changed since: {', '.join(found)}",
                    remedy="Nothing needs to be done. Switchover and the fence make it anew with this version's templates.",
                )
            )
    return result
