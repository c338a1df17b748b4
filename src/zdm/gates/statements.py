"""Which statements pg_stat_statements counted that can only, or may, come from the old version's application."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

import psycopg
from psycopg import sql

from zdm.db.session import fetch_value
from zdm.model.mapping import TableMapping
from zdm.model.plan import Plan
from zdm.sql.fence import old_schemas

OWN = "/* zdm */"
"""Put at the end of statements of zdm that speak the application's words, so that they are not taken for its own.

At the end, because the server does not count a leading comment as part of the statement.
"""

_WORD = re.compile(r'"((?:[^"]|"")+)"|([A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*)')
_STAR = re.compile(r"(?:\bselect|\bdistinct|\ball|\breturning|,|\.)\s*\*", re.IGNORECASE)
_POSITIONAL = re.compile(
    r"\binsert\s+into\s+[^\s(]+(?:\s+as\s+\S+)?\s+(?:overriding|values|select|default|table|with)\b"
    r"|^\s*copy\s+[^\s(]+\s+(?:to|from)\b|^\s*table\s",
    re.IGNORECASE,
)


class Use(StrEnum):
    """What a statement's text tells."""

    OLD = "old"
    AMBIGUOUS = "ambiguous"


def words_of(query: str) -> frozenset[str]:
    """The identifiers in a statement's text, as the catalog would store them."""
    found = (m[1].replace('""', '"') if m[1] is not None else m[2].lower() for m in _WORD.finditer(query))
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class TableWords:
    """One table: its names, the columns that only the old version has, and those that both have with different content."""

    names: frozenset[str]
    old_name_only: bool
    gone: frozenset[str]
    changed: frozenset[str]
    positional: bool  # whether a statement that names no column gets something else from the new version

    @classmethod
    def of(cls, mapping: TableMapping) -> Self:
        """The words of a mapping."""
        new = {column.name: column.physical for column in mapping.new_columns}
        old = {column.name: column.physical for column in mapping.old_columns}
        gone = frozenset(name for name in old if name not in new)
        changed = frozenset(name for name, physical in old.items() if name in new and new[name] != physical)
        renamed = mapping.dropped_in_new or mapping.final_name != mapping.table.name
        return cls(
            names=frozenset((mapping.table.name, mapping.final_name)),
            old_name_only=renamed,
            gone=frozenset() if mapping.dropped_in_new else gone,
            changed=changed,
            positional=list(old.items()) != list(new.items()),
        )


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What to look for in a statement's text."""

    schemas: frozenset[str]
    tables: tuple[tuple[str, TableWords], ...]

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """The words of a plan."""
        return cls(
            frozenset(old_schemas(plan)), tuple((m.table.name, TableWords.of(m)) for m in plan.mappings)
        )

    @property
    def names(self) -> list[str]:
        """Every word one of which a statement must have to be of interest."""
        found = {name for _, table in self.tables for name in table.names}
        return sorted(found | self.schemas)

    def classify(self, query: str) -> Use | None:
        """What the text alone tells; None if it has nothing to do with the old version, or is zdm's own."""
        words = words_of(query)
        if OWN in query or any(word.startswith(("_zdm_", "~zdm")) or word == "zdm" for word in words):
            return None
        if words & self.schemas:
            return Use.OLD
        ambiguous = False
        for name, table in self.tables:
            if not words & table.names:
                continue
            if (table.old_name_only and name in words) or words & table.gone:
                return Use.OLD
            unnamed = table.positional and (_STAR.search(query) or _POSITIONAL.search(query))
            ambiguous = ambiguous or bool(words & table.changed) or bool(unnamed)
        return Use.AMBIGUOUS if ambiguous else None

    def touches(self, query: str) -> bool:
        """Whether the statement names one of the tables (or the old schema) at all."""
        return OWN not in query and bool(words_of(query) & set(self.names))


@dataclass(frozen=True, slots=True)
class Counter:
    """One statement of interest and how often it ran."""

    query: str
    calls: int
    use: Use


@dataclass(frozen=True, slots=True)
class Counters:
    """What pg_stat_statements holds now. `unavailable` says why it cannot be used; empty if it can."""

    statements: Mapping[str, Counter] = field(default_factory=dict)
    epoch: str = ""  # changes when counters were reset or forgotten
    evicted: int = 0
    unavailable: str = ""


def read_counters(
    conn: psycopg.Connection[Any], vocabulary: Vocabulary, old_roles: Sequence[str] = ()
) -> Counters:
    """Read the counters of this database's statements that use a word of the vocabulary."""
    schema = fetch_value(
        conn,
        "SELECT n.nspname FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace "
        "WHERE e.extname = 'pg_stat_statements'",
    )
    if schema is None:
        return Counters(unavailable="pg_stat_statements is not installed in this database")
    unavailable = _unavailable(conn, schema)
    if unavailable:
        return Counters(unavailable=unavailable)
    info = conn.execute(
        sql.SQL("SELECT stats_reset::text, dealloc FROM {}").format(
            sql.Identifier(schema, "pg_stat_statements_info")
        )
    ).fetchone()
    assert info is not None  # the view has one row
    pattern = "|".join(re.sub(r"([^\w])", r"\\\1", name) for name in vocabulary.names)
    rows = conn.execute(
        sql.SQL(
            "SELECT concat_ws(':', s.userid, s.queryid, s.toplevel), s.query, s.calls, r.rolname "
            "FROM {} AS s LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.userid "
            "WHERE s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) "
            "AND (s.query IS NULL OR s.query ~* %s)"
        ).format(sql.Identifier(schema, "pg_stat_statements")),
        (pattern,),
    ).fetchall()
    if any(query is None for _, query, _, _ in rows):
        return Counters(unavailable="pg_stat_statements has lost the texts of statements; reset it")
    found: dict[str, Counter] = {}
    for key, query, calls, role in rows:
        use = vocabulary.classify(query)
        if old_roles:
            use = Use.OLD if role in old_roles and vocabulary.touches(query) else None
        if use is not None:
            found[key] = Counter(query, int(calls), use)
    return Counters(found, epoch=str(info[0]), evicted=int(info[1]))


def _unavailable(conn: psycopg.Connection[Any], schema: str) -> str:
    if not fetch_value(conn, "SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')"):
        return "our role may not see others' statements (GRANT pg_monitor)"
    track = fetch_value(
        conn, "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'pg_stat_statements.track'"
    )
    if track is None:
        return "pg_stat_statements is installed but not in shared_preload_libraries"
    if track == "none":
        return "pg_stat_statements.track is none"
    exists = fetch_value(
        conn,
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relname = 'pg_stat_statements_info')",
        (schema,),
    )
    return (
        "" if exists else "pg_stat_statements is older than 1.9 (ALTER EXTENSION pg_stat_statements UPDATE)"
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """What ran since a watch began. `gap` says why the counters are not complete for that time; empty if they are."""

    used: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    gap: str = ""


@dataclass(frozen=True, slots=True)
class Watch:
    """The counters as they were when a watch began; kept between evaluations."""

    at: datetime
    epoch: str
    evicted: int
    calls: Mapping[str, int]

    @classmethod
    def start(cls, now: datetime, counters: Counters) -> Self | None:
        """A watch that begins now; None if there is nothing to watch with."""
        if counters.unavailable:
            return None
        calls = {key: counter.calls for key, counter in counters.statements.items()}
        return cls(now, counters.epoch, counters.evicted, calls)

    @classmethod
    def load(cls, memory: Mapping[str, Any]) -> Self | None:
        """The watch that was stored, or None."""
        if not memory:
            return None
        return cls(
            datetime.fromisoformat(memory["at"]), memory["epoch"], memory["evicted"], dict(memory["calls"])
        )

    def dump(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "at": self.at.isoformat(),
            "epoch": self.epoch,
            "evicted": self.evicted,
            "calls": dict(self.calls),
        }

    def since(self, counters: Counters) -> Seen:
        """What ran between the beginning of the watch and `counters`."""
        used: list[str] = []
        ambiguous: list[str] = []
        for key, counter in counters.statements.items():
            before = self.calls.get(key, 0)
            # Fewer than before: the entry was forgotten and made anew, so all of them are new.
            ran = counter.calls - before if counter.calls >= before else counter.calls
            if ran:
                (used if counter.use is Use.OLD else ambiguous).append(
                    f"{ran} times {_shortened(counter.query)}"
                )
        gap = ""
        if counters.epoch != self.epoch:
            gap = "pg_stat_statements was reset"
        elif counters.evicted != self.evicted:
            gap = "pg_stat_statements was full and forgot statements (raise pg_stat_statements.max)"
        return Seen(tuple(used), tuple(ambiguous), gap)


def _shortened(query: str) -> str:
    text = " ".join(query.split())
    return f"“{text}”" if len(text) <= 80 else f"“{text[:79]}…”"
