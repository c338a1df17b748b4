"""The sync functions and triggers of one table: what to install, to switch, to remove, and what must then be there.

`docs/architecture.md` states the rules; the SQL is in ``triggers/``; `sync_functions` decides what the functions do, this
module which functions and triggers a mapping needs. Names:

* functions ``zdm.sync_<rollout>_<table oid>_<purpose>``,
* triggers ``~zdm_<n>_<purpose>``, so that they sort, and fire, after the application's.

All functions are SECURITY INVOKER and call nothing in schema zdm, so an application's role needs no rights there; only
the recorder of failures is SECURITY DEFINER, and, as the table's owner, those of a table whose rows refer to a shared one, which they
write, or to rows that they look up (`ColumnGroup.lookup`). Functions whose expressions are all immutable have no SET clause (one costs
more than the rest of the call); with a stable expression `rows.PINNED_SETTINGS` are pinned on the function.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from psycopg import sql

from zdm.model.mapping import (
    Authority,
    TableMapping,
)
from zdm.model.names import QualifiedName
from zdm.sql import children, copies
from zdm.sql.identifiers import SCHEMA, comma, qualified_name
from zdm.sql.sync_generator import PREFIX, SyncGenerator, SyncObjects, function_name, generator_of, text


@dataclass(frozen=True, slots=True)
class ExpectedObject:
    """One function or trigger that must exist, and how its comment begins; the server's own hash follows there.

    Parameters
    ----------
    origin: the part of the label that another version of zdm would have written as well: the rollout, what it is, the
        authority, the mapping. What such a one installed, and nobody has edited since, is as good; empty if that is not known.
    """

    kind: str
    name: str
    label: str
    origin: str = ""


def install(mapping: TableMapping, rollout: int, authority: Authority) -> SyncObjects:
    """What installs the sync, or brings it up to date. Takes SHARE ROW EXCLUSIVE on the table; repeatable."""
    if not mapping.needs_sync:
        return SyncObjects()
    return generator_of(mapping, rollout, authority).objects()


def install_one_by_one(mapping: TableMapping, rollout: int, there: Collection[str]) -> list[tuple[str, ...]]:
    """What makes those triggers that are not `there`, a transaction's statements for each, in the order in which they must come.

    The one that settles new rows is the last: a row that is settled must be kept in step from then on.
    """
    generator = generator_of(mapping, rollout, Authority.OLD)
    return [
        (
            text(trigger.definition),
            text(
                sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(
                    generator.table, sql.Identifier(trigger.name)
                )
            ),
            text(generator.comments((), (trigger,))),
            *(copies.begins(mapping) if trigger is generator.triggers[0] else ()),
        )
        for trigger in reversed(generator.triggers)
        if trigger.name not in there
    ]


def install_on(mapping: TableMapping, rollout: int, child: QualifiedName, *, parent: bool) -> tuple[str, ...]:
    """What gives a child of the table triggers of its own, on the table's functions, in one transaction; repeatable.

    Parameters
    ----------
    parent: the child has children itself.
    """
    generator = SyncGenerator(mapping, rollout, Authority.OLD)
    generator.table, generator.leaf = qualified_name(child), not parent
    left_out = {children.TRUNCATED} if parent else {children.TRUNCATED, children.ROUTED}
    made = [trigger for trigger in generator.triggers if trigger.name not in left_out]
    always = comma(sql.SQL("ENABLE ALWAYS TRIGGER {}").format(sql.Identifier(t.name)) for t in made)
    return (
        *(text(trigger.definition) for trigger in made),
        text(sql.SQL("ALTER TABLE {} {}").format(generator.table, always)),
    )


def function_names(mapping: TableMapping, rollout: int) -> str:
    """How the names of the table's sync functions begin."""
    return function_name(mapping, rollout, "")


def switch(mapping: TableMapping, rollout: int, authority: Authority) -> tuple[str, ...]:
    """What makes `authority` the side that wins. Only functions are replaced: no lock on the table, nothing waits."""
    if not mapping.needs_sync:
        return ()
    generator = generator_of(mapping, rollout, authority)
    statements = [s for f in generator.functions for s in f.statements]
    return tuple(text(s) for s in (*statements, generator.comments(generator.functions, ())))


def remove(mapping: TableMapping, rollout: int, *ending: str) -> tuple[str, ...]:
    """What removes the sync, whether all, some or nothing of it is there. Takes ACCESS EXCLUSIVE on the table, briefly.

    Parameters
    ----------
    ending: what is done together with the end of the triggers.
    """
    watching = [statement for _, _, statement in copies.unwatch(mapping)]
    return (*drop_triggers(mapping), *ending, *watching, *drop_functions(mapping, rollout))


def drop_triggers(mapping: TableMapping) -> list[str]:
    """What removes the triggers alone: for a transaction that changes the columns beneath them."""
    return _drops(mapping, "")


def drop_accounts(mapping: TableMapping) -> list[str]:
    """What removes those that carry nothing over, but keep account of what could not be."""
    return _drops(mapping, f"{PREFIX}5_failed", f"{PREFIX}6_late")


def _drops(mapping: TableMapping, *names: str) -> list[str]:
    if not mapping.needs_sync:
        return []
    table = qualified_name(mapping.table)
    return [
        text(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(t.name), table))
        for t in generator_of(mapping, 0, Authority.OLD).triggers
        if t.name.startswith(names)
    ]


def drop_functions(mapping: TableMapping, rollout: int) -> list[str]:
    """What removes the functions once no trigger calls them; no lock on the table."""
    if not mapping.needs_sync:
        return []
    functions = generator_of(mapping, rollout, Authority.OLD).functions
    return [text(sql.SQL("DROP FUNCTION IF EXISTS {}()").format(f.qualified)) for f in functions]


def expected_objects(mapping: TableMapping, rollout: int, authority: Authority) -> tuple[ExpectedObject, ...]:
    """What must be there while the sync is installed, for `findings`."""
    if not mapping.needs_sync:
        return ()
    generator = generator_of(mapping, rollout, authority)
    return tuple(
        [ExpectedObject("function", f.name, f.label, f.origin) for f in generator.functions]
        + [ExpectedObject("trigger", t.name, t.label, t.origin) for t in generator.triggers]
        + [ExpectedObject("trigger", t.name, t.label, t.origin) for _, t in generator.watching]
    )


def state_query(mapping: TableMapping, rollout: int) -> str:
    """A query of (kind, name, comment, hash, enabled) over what is there: run it with an empty search_path.

    The hash is of the server's own definition as it is now, so a function or trigger that somebody edited differs from the
    hash in its comment. `enabled` is the trigger's ``tgenabled``, NULL for functions.
    """
    return text(
        sql.SQL(
            "SELECT 'function', p.proname::text, pg_catalog.obj_description(p.oid, 'pg_proc'),"
            " encode(sha256(convert_to(pg_catalog.pg_get_functiondef(p.oid), 'UTF8')), 'hex'), NULL::text"
            " FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace"
            " WHERE n.nspname = {schema} AND starts_with(p.proname, {prefix}) AND p.prokind = 'f'"
            " UNION ALL "
            "SELECT 'trigger', t.tgname::text, pg_catalog.obj_description(t.oid, 'pg_trigger'),"
            " encode(sha256(convert_to(pg_catalog.pg_get_triggerdef(t.oid), 'UTF8')), 'hex'), t.tgenabled::text"
            " FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = {oid}::pg_catalog.oid"
            " AND (starts_with(t.tgname, {triggers}) OR t.tgname = {route})"
            " OR NOT t.tgisinternal AND t.tgname = ANY ({watching}::pg_catalog.text[])"
        ).format(
            schema=sql.Literal(SCHEMA),
            prefix=sql.Literal(function_name(mapping, rollout, "")),
            oid=sql.Literal(mapping.oid),
            triggers=sql.Literal(PREFIX),
            route=sql.Literal(children.ROUTE),
            watching=sql.Literal([name for _, name, _ in copies.unwatch(mapping)]),
        )
    )


def findings(
    expected: Iterable[ExpectedObject], found: Iterable[tuple[str, str, str | None, str, str | None]]
) -> list[str]:
    """What is not as it must be, in words: missing, edited, outdated, disabled or unknown objects. Empty if all is well."""
    there = {(kind, name): (comment or "", digest, enabled) for kind, name, comment, digest, enabled in found}
    problems: list[str] = []
    for item in expected:
        comment, digest, enabled = there.pop((item.kind, item.name), (None, "", None))
        stamp = _STAMP.fullmatch(comment.removeprefix(item.origin)) if comment and item.origin else None
        ours = stamp is not None and comment is not None and comment.startswith(item.origin)
        if comment is None:
            problems.append(f"{item.kind} {item.name} is missing")
        elif not comment.startswith(item.label) and not ours:
            problems.append(f"{item.kind} {item.name} is not the one this rollout installed")
        elif not comment.endswith(f" server {digest}"):
            problems.append(f"{item.kind} {item.name} was edited")
        elif item.kind == "trigger" and enabled != "A":
            problems.append(f"trigger {item.name} is not enabled ALWAYS")
    problems += [f"{kind} {name} is none of this rollout's" for kind, name in there]
    return problems


def by_another_zdm(
    expected: Iterable[ExpectedObject], found: Iterable[tuple[str, str, str | None, str, str | None]]
) -> list[str]:
    """Objects that are as they were installed, but by a zdm whose templates differ from ours: no drift."""
    there = {(kind, name): comment or "" for kind, name, comment, _, _ in found}
    return [
        f"{item.kind} {item.name}"
        for item in expected
        if item.origin
        and (comment := there.get((item.kind, item.name), "")).startswith(item.origin)
        and not comment.startswith(item.label)
        and _STAMP.fullmatch(comment.removeprefix(item.origin))
    ]


_STAMP = re.compile(r" version \d+ source [0-9a-f]{16} server [0-9a-f]{64}")
