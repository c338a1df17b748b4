"""Does nobody use the old version any more?

What can be watched from outside shows use, never the absence of it: counters of statements forget and do not tell
through which view a table was read, and a lock that is held for half a millisecond is rarely seen. So this gate believes
two things only: a fence that has stood long enough (whoever needed the old version would have failed), or counters that
were complete for the whole window and unambiguous. Everything else it calls by its name, and refuses.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any, ClassVar

from pydantic import Field

from zdm.db.session import fetch_value
from zdm.gates.base import Gate, counted, enumerated
from zdm.gates.context import GateContext
from zdm.gates.statements import Counters, Vocabulary, Watch, read_counters
from zdm.model.duration import Duration, format_duration
from zdm.model.names import qualified
from zdm.model.verdict import Verdict
from zdm.sql.fence import is_fenceable, old_schemas, standing

_VIEWS = """
SELECT c.oid FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY (%s) AND c.relkind = 'v'
"""

_LOCKS = """
SELECT n.nspname, c.relname, coalesce(a.application_name, ''), coalesce(a.usename, 'prepared transaction')
FROM pg_catalog.pg_locks AS l
JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.relation = ANY (%s) AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""

# A walsender of a logical slot has a database; one that streams the whole server has none. A standby whose connection is
# down at this moment still serves reads; if it has a slot, the slot tells of it.
_STANDBYS = """
SELECT (SELECT count(*) FROM pg_catalog.pg_stat_get_activity(NULL) WHERE backend_type = 'walsender' AND datid IS NULL)
     + (SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical' AND NOT active)
"""


class OldVersionUnused(Gate):
    """A fence has stood for `fence`, or complete and unambiguous counters saw no statement of the old version for `window`."""

    name: ClassVar[str] = "old_version_unused"
    asks: ClassVar[str] = "Does nobody use the old version any more?"
    scalar: ClassVar[str | None] = "window"

    window: Duration = Field(
        default=timedelta(minutes=10),
        description="how long no statement of the old version may have been seen",
    )
    fence: Duration = Field(default=timedelta(minutes=1), description="how long a fence must have stood")
    sample: Duration = Field(
        default=timedelta(seconds=10),
        description="how long locks on the old version's views are watched before it passes by counters",
    )
    every: Duration = Field(
        default=timedelta(milliseconds=100), description="the pause between two looks at the locks"
    )
    old_roles: tuple[str, ...] = Field(
        default=(),
        description="roles under which the old application, and nothing else, connects; then any statement of theirs on the "
        "tables is use of the old version, and nobody else's is",
    )

    ignore_standbys: bool = Field(
        default=False,
        description="whether standbys are known to serve no reads of the application; theirs are not counted here",
    )

    @property
    def _threshold(self) -> str:
        return (
            f"fenced for at least {format_duration(self.fence)}, "
            f"or no statement of the old version seen for {format_duration(self.window)}"
        )

    def evaluate(self, ctx: GateContext) -> Verdict:
        """The fence first; then the counters, together with a look at the locks."""
        if not is_fenceable(ctx.plan):
            return self.passed(
                "the old version has no name of its own, so nothing can miss it", self._threshold
            )
        if ctx.rollout.fenced_at is not None:
            return self._by_fence(ctx, ctx.rollout.fenced_at)
        return self._by_evidence(ctx)

    def _by_fence(self, ctx: GateContext, since: datetime) -> Verdict:
        raise_it = f"Raise it again with `zdm fence {ctx.migration.id}`."
        if not fetch_value(ctx.conn, standing(ctx.plan)):
            return self.refused(
                "a fence is recorded but does not stand as it was raised", self._threshold, raise_it
            )
        age = ctx.now - since
        observed = (
            f"fenced {format_duration(timedelta(seconds=int(age.total_seconds())))} ago, and not lifted since"
        )
        if age >= self.fence:
            return self.passed(observed, self._threshold)
        left = timedelta(seconds=int((self.fence - age).total_seconds()) + 1)
        return self.refused(
            observed,
            self._threshold,
            f"Try again in {format_duration(left)}; if an application fails, `zdm fence {ctx.migration.id} --lift`.",
        )

    def _by_evidence(self, ctx: GateContext) -> Verdict:
        fence_it = f"`zdm fence {ctx.migration.id}` gives certainty: it sets the old version aside, and back in an instant"
        vocabulary = Vocabulary.of(ctx.plan)
        counters = read_counters(ctx.conn, vocabulary, self.old_roles)
        watch = Watch.load(ctx.facts.recall(self.name))
        # Read before the sampling, stored after it: what happens meanwhile belongs to the next window.
        seen = watch.since(counters) if watch is not None and not counters.unavailable else None
        quiet = seen is not None and not (seen.used or seen.ambiguous or seen.gap)
        # Looking for long costs time, so only where it is the last thing between here and a pass.
        locks = self._sample_locks(
            ctx, thorough=quiet and watch is not None and ctx.now - watch.at >= self.window
        )

        used = [*(seen.used if seen is not None else ()), *locks]
        if used or not quiet:
            fresh = Watch.start(ctx.now, counters)
            if fresh is not None:
                ctx.facts.remember(self.name, fresh.dump())
        if used:
            return self.refused(
                f"the old version is in use: {enumerated(used)}",
                self._threshold,
                f"Deploy the new version there, then wait {format_duration(self.window)}. {fence_it}.",
            )
        blind = self._blind(ctx, counters, watch, seen.gap if seen is not None else "")
        if blind:
            return self.unreadable(f"{blind}; {_NO_LOCKS}", self._threshold, f"{fence_it}.")
        assert watch is not None  # _blind has said otherwise
        assert seen is not None
        if seen.ambiguous:
            return self.unreadable(
                "statements ran that read the same through the old and the new version: "
                f"{enumerated(list(seen.ambiguous), limit=2)}; {_NO_LOCKS}",
                self._threshold,
                f"{fence_it}. Or name the roles of the old application in old_roles.",
            )
        return self._by_age(ctx, watch, fence_it)

    def _by_age(self, ctx: GateContext, watch: Watch, fence_it: str) -> Verdict:
        age = ctx.now - watch.at
        observed = f"no statement of the old version in {format_duration(timedelta(seconds=int(age.total_seconds())))}"
        if age >= self.window:
            return self.passed(f"{observed} (pg_stat_statements), {_NO_LOCKS}", self._threshold)
        left = timedelta(seconds=int((self.window - age).total_seconds()) + 1)
        return self.refused(
            observed, self._threshold, f"Try again in {format_duration(left)} (`--wait`). {fence_it}."
        )

    def _blind(self, ctx: GateContext, counters: Counters, watch: Watch | None, gap: str) -> str:
        if counters.unavailable:
            return f"statements cannot be watched: {counters.unavailable}"
        standbys = 0 if self.ignore_standbys else fetch_value(ctx.conn, _STANDBYS)
        if standbys:
            return f"{counted(standbys, 'standby', 'standbys')} may serve reads that are not counted here"
        if gap:
            return f"{gap}, so the watch starts over at {ctx.now:%H:%M:%S} UTC"
        if watch is None:
            return f"the watch starts now, at {ctx.now:%H:%M:%S} UTC"
        return ""

    def _sample_locks(self, ctx: GateContext, *, thorough: bool) -> list[str]:
        schemas = list(old_schemas(ctx.plan))
        views = [row[0] for row in ctx.conn.execute(_VIEWS, (schemas,))]
        if not views:
            return []
        pause = ctx.sleep or time.sleep
        found: dict[str, Any] = {}
        looks = max(1, int(min(self.sample, self.window) / self.every)) if thorough and self.every else 1
        for look in range(looks):
            if look:
                pause(self.every.total_seconds())
            for schema, view, application, user in ctx.conn.execute(_LOCKS, (views,)):
                who = f"{application} as {user}" if application else user
                found[f"{qualified(schema, view)} was read by {who}"] = True
            if found:
                break
        return list(found)


_NO_LOCKS = "no lock on its views was seen"
