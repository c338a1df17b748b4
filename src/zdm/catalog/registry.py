"""The registry: every migration this database has been shown. A started migration is never edited."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import psycopg
import yaml
from psycopg.rows import dict_row, tuple_row

from zdm.errors import BadInput, Problem


class MigrationLike(Protocol):
    """What the registry needs to know of a migration. The operations' `Migration` is one."""

    @property
    def id(self) -> str: ...
    @property
    def module(self) -> str | None: ...
    @property
    def version(self) -> str | None: ...
    @property
    def from_version(self) -> str | None: ...
    @property
    def depends_on(self) -> tuple[str, ...]: ...
    @property
    def risk(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def estimated_time(self) -> timedelta | None: ...
    @property
    def checksum(self) -> str: ...
    def canonical(self) -> str:
        """Sorted JSON without defaults."""


@dataclass(frozen=True, slots=True)
class Source:
    """A migration as it is given.

    Parameters
    ----------
    text / file: what it was read from; empty if it was built in Python.
    by: who gives it, for people; the database role if empty.
    """

    migration: MigrationLike
    text: str = ""
    file: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Registered:
    """A migration as the registry has it. `canonical` is the migration without defaults, ready for `model_validate`."""

    id: str
    module: str | None
    version: str | None
    from_version: str | None
    checksum: str
    canonical: Mapping[str, Any]
    file: str
    source: str
    depends_on: tuple[str, ...]
    risk: str
    description: str
    estimated_time: timedelta | None
    up_sql: str
    down_sql: str
    registered_at: datetime
    registered_by: str


def register(
    conn: psycopg.Connection[Any],
    migration: MigrationLike,
    source_text: str,
    *,
    file: str = "",
    by: str = "",
    replace: bool = False,
) -> Registered:
    """Register one migration; its dependencies must be registered. See `register_all`."""
    register_all(conn, [Source(migration, source_text, file, by)], replace=replace)
    found = get(conn, migration.id)
    assert found is not None
    return found


def register_all(
    conn: psycopg.Connection[Any], sources: Sequence[Source], *, replace: bool = False
) -> list[str]:
    """Register migrations together, so that they may depend on one another; returns the ids that are new or changed.

    Atomic, inside the caller's transaction or in its own. What is registered with the same content is left alone.

    Parameters
    ----------
    replace: take an edited migration, provided that no rollout of it has started (or all were rolled back).

    Raises
    ------
    BadInput: everything that is wrong at once: edited migrations with the difference, an id used by two files, unknown
        dependencies, a cycle. Nothing is registered then.
    """
    with conn.transaction():
        # Two who register at once would each miss the other's half of a cycle.
        conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('zdm.schema_migrations', 0))")
        known = {found.id: found for found in all_of(conn)}
        problems = _duplicates(sources)
        changed: list[Source] = []
        for source in {s.migration.id: s for s in sources}.values():
            before = known.get(source.migration.id)
            if before is not None and before.checksum == source.migration.checksum:
                continue
            if before is not None:
                problem = _edited(conn, before, source, replace=replace)
                if problem is not None:
                    problems.append(problem)
            changed.append(source)
        edges = {found.id: found.depends_on for found in known.values()}
        edges |= {source.migration.id: source.migration.depends_on for source in changed}
        problems += _bad_dependencies(changed, edges)
        if problems:
            raise BadInput("The migrations cannot be registered.", problems=problems)
        for source in changed:
            _write(conn, source)
        return [source.migration.id for source in changed]


def get(conn: psycopg.Connection[Any], migration: str) -> Registered | None:
    """The migration with this id, or None."""
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute("SELECT * FROM zdm.schema_migrations WHERE id = %s", [migration])
        row = cursor.fetchone()
    return None if row is None else _registered(row)


def all_of(conn: psycopg.Connection[Any]) -> list[Registered]:
    """Every registered migration, in the order of registration."""
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute("SELECT * FROM zdm.schema_migrations ORDER BY registered_at, id")
        return [_registered(row) for row in cursor.fetchall()]


def set_sql(conn: psycopg.Connection[Any], migration: str, *, up_sql: str, down_sql: str) -> None:
    """Keep the statements as last rendered, for people. One write, in the caller's transaction."""
    conn.execute(
        "UPDATE zdm.schema_migrations SET up_sql = %s, down_sql = %s WHERE id = %s",
        [up_sql, down_sql, migration],
    )


def find_cycle(edges: Mapping[str, Iterable[str]]) -> list[str] | None:
    """A cycle of dependencies, its first id repeated at its end, or None. Ids that are not keys have no dependencies."""
    finished: set[str] = set()
    for start in edges:
        if start in finished:
            continue
        path = [start]
        stack = [iter(edges.get(start, ()))]
        while stack:
            following = next(stack[-1], None)
            if following is None:
                stack.pop()
                finished.add(path.pop())
            elif following in path:
                return [*path[path.index(following) :], following]
            elif following not in finished:
                stack.append(iter(edges.get(following, ())))
                path.append(following)
    return None


def _duplicates(sources: Sequence[Source]) -> list[Problem]:
    first: dict[str, Source] = {}
    problems: list[Problem] = []
    for source in sources:
        other = first.setdefault(source.migration.id, source)
        if other is not source:
            problems.append(
                Problem(
                    f"the id {source.migration.id!r} is used already, by {other.file or 'another migration'}",
                    where=source.file,
                    remedy="Give one of them another id.",
                )
            )
    return problems


def _edited(
    conn: psycopg.Connection[Any], before: Registered, source: Source, *, replace: bool
) -> Problem | None:
    """What is wrong with registering `source` over `before`, whose content differs."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            """
            SELECT string_agg(format('%%s (%%s)', target, state), ', ' ORDER BY id) FROM zdm.module_migrations
            WHERE migration = %s AND state NOT IN ('planned', 'rolled_back')
            """,
            [before.id],
        )
        row = cursor.fetchone()
    started = row[0] if row else None
    if replace and started is None:
        return None
    difference = "\n".join(
        difflib.unified_diff(
            _readable(before.canonical),
            _readable(json.loads(source.migration.canonical())),
            f"registered {before.registered_at:%Y-%m-%d %H:%M}",
            source.file or "given now",
            lineterm="",
        )
    )
    if source.file and before.file and source.file != before.file:
        what = f"the id {before.id!r} is registered already, from the file {before.file}"
    else:
        what = f"migration {before.id!r} was edited since it was registered"
    if started is None:
        remedy = "It has not started anywhere: to take the new content, register it with --replace."
    else:
        remedy = f"It has started: {started}. Undo the edit, and put the change into a new migration."
    return Problem(f"{what}:\n{difference}", where=source.file, remedy=remedy)


def _bad_dependencies(changed: Sequence[Source], edges: Mapping[str, tuple[str, ...]]) -> list[Problem]:
    problems = [
        Problem(
            f"{source.migration.id!r} depends on {needed!r}, which is not registered",
            where=source.file,
            remedy="Correct the id, or register that migration first or together with this one.",
        )
        for source in changed
        for needed in source.migration.depends_on
        if needed not in edges
    ]
    cycle = find_cycle(edges)
    if cycle is not None:
        files = {source.migration.id: source.file for source in changed}
        where = next((files[name] for name in cycle if name in files), "")
        problems.append(
            Problem(
                f"migrations depend on each other in a circle: {' -> '.join(cycle)}",
                where=where,
                remedy="Remove one of these from depends_on.",
            )
        )
    return problems


def _write(conn: psycopg.Connection[Any], source: Source) -> None:
    found = source.migration
    conn.execute(
        """
        INSERT INTO zdm.schema_migrations (id, module, version, from_version, checksum, canonical, file, source, depends_on,
                                           risk, description, estimated_time, registered_by)
        VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s, %s, %s, %s, %s, %s, coalesce(%s, session_user))
        ON CONFLICT (id) DO UPDATE SET
            module = excluded.module, version = excluded.version, from_version = excluded.from_version,
            checksum = excluded.checksum, canonical = excluded.canonical, file = excluded.file, source = excluded.source,
            depends_on = excluded.depends_on, risk = excluded.risk, description = excluded.description,
            estimated_time = excluded.estimated_time, up_sql = '', down_sql = '',
            registered_at = clock_timestamp(), registered_by = excluded.registered_by
        """,
        [
            found.id,
            found.module,
            found.version,
            found.from_version,
            found.checksum,
            found.canonical(),
            source.file,
            source.text,
            list(found.depends_on),
            str(found.risk),
            found.description,
            found.estimated_time,
            source.by or None,
        ],
    )


def _readable(canonical: Mapping[str, Any]) -> list[str]:
    return yaml.safe_dump(canonical, sort_keys=True, allow_unicode=True, width=1000).splitlines()


def _registered(row: dict[str, Any]) -> Registered:
    return Registered(**{**row, "depends_on": tuple(row["depends_on"])})
