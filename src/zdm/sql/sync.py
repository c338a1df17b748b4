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

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from psycopg import sql

from zdm.model.expression import Expression, Volatility
from zdm.model.mapping import (
    FAILED,
    MAX_GROUPS,
    TOGGLE,
    Authority,
    ColumnGroup,
    Copied,
    TableMapping,
)
from zdm.model.names import QualifiedName
from zdm.sql import children, copies
from zdm.sql.identifiers import all_of, any_of, comma, look_up, qualified_name
from zdm.sql.rows import PINNED_SETTINGS, REPAIR
from zdm.sql.sync_conditions import (
    changed_in,
    has,
    new_changed,
    old_changed,
    reads_beside_down,
    reads_beside_up,
    two_sided,
)
from zdm.sql.sync_functions import FunctionBodies
from zdm.sql.templates import dollar_quoted, load

SCHEMA = "zdm"
"""The schema of zdm's own objects, the sync functions included."""

PREFIX = "~zdm_"
"""How the names of the sync triggers begin. A row trigger of the application whose name sorts bytewise after it would
undo what the sync has done, and is refused when a rollout is planned."""


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


@dataclass(frozen=True, slots=True)
class SyncObjects:
    """The statements that install the sync of one table, in the order in which they run, in one transaction.

    Parameters
    ----------
    watching: what watches tables of whose columns this one has copies, each in a transaction of its own that comes before.
    """

    functions: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    comments: tuple[str, ...] = ()
    watching: tuple[tuple[QualifiedName, tuple[str, ...]], ...] = ()

    @property
    def statements(self) -> tuple[str, ...]:
        """All of them."""
        watching = tuple(statement for _, statements in self.watching for statement in statements)
        return self.functions + watching + self.triggers + self.comments


def install(mapping: TableMapping, rollout: int, authority: Authority) -> SyncObjects:
    """What installs the sync, or brings it up to date. Takes SHARE ROW EXCLUSIVE on the table; repeatable."""
    if not mapping.needs_sync:
        return SyncObjects()
    return _generator(mapping, rollout, authority).objects()


def install_one_by_one(mapping: TableMapping, rollout: int, there: Collection[str]) -> list[tuple[str, ...]]:
    """What makes those triggers that are not `there`, a transaction's statements for each, in the order in which they must come.

    The one that settles new rows is the last: a row that is settled must be kept in step from then on.
    """
    generator = _generator(mapping, rollout, Authority.OLD)
    return [
        (
            _text(trigger.definition),
            _text(
                sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(
                    generator.table, sql.Identifier(trigger.name)
                )
            ),
            _text(generator.comments((), (trigger,))),
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
    generator = _Generator(mapping, rollout, Authority.OLD)
    generator.table, generator.leaf = qualified_name(child), not parent
    left_out = {children.TRUNCATED} if parent else {children.TRUNCATED, children.ROUTED}
    made = [trigger for trigger in generator.triggers if trigger.name not in left_out]
    always = comma(sql.SQL("ENABLE ALWAYS TRIGGER {}").format(sql.Identifier(t.name)) for t in made)
    return (
        *(_text(trigger.definition) for trigger in made),
        _text(sql.SQL("ALTER TABLE {} {}").format(generator.table, always)),
    )


def function_names(mapping: TableMapping, rollout: int) -> str:
    """How the names of the table's sync functions begin."""
    return _function_name(mapping, rollout, "")


def switch(mapping: TableMapping, rollout: int, authority: Authority) -> tuple[str, ...]:
    """What makes `authority` the side that wins. Only functions are replaced: no lock on the table, nothing waits."""
    if not mapping.needs_sync:
        return ()
    generator = _generator(mapping, rollout, authority)
    statements = [s for f in generator.functions for s in f.statements]
    return tuple(_text(s) for s in (*statements, generator.comments(generator.functions, ())))


def remove(mapping: TableMapping, rollout: int) -> tuple[str, ...]:
    """What removes the sync, whether all, some or nothing of it is there. Takes ACCESS EXCLUSIVE on the table, briefly."""
    watching = [statement for _, _, statement in copies.unwatch(mapping)]
    return (*drop_triggers(mapping), *watching, *drop_functions(mapping, rollout))


def drop_triggers(mapping: TableMapping) -> list[str]:
    """What removes the triggers alone: for a transaction that changes the columns beneath them."""
    if not mapping.needs_sync:
        return []
    table = qualified_name(mapping.table)
    return [
        _text(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(t.name), table))
        for t in _generator(mapping, 0, Authority.OLD).triggers
    ]


def drop_functions(mapping: TableMapping, rollout: int) -> list[str]:
    """What removes the functions once no trigger calls them; no lock on the table."""
    if not mapping.needs_sync:
        return []
    functions = _generator(mapping, rollout, Authority.OLD).functions
    return [_text(sql.SQL("DROP FUNCTION IF EXISTS {}()").format(f.qualified)) for f in functions]


def expected_objects(mapping: TableMapping, rollout: int, authority: Authority) -> tuple[ExpectedObject, ...]:
    """What must be there while the sync is installed, for `findings`."""
    if not mapping.needs_sync:
        return ()
    generator = _generator(mapping, rollout, authority)
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
    return _text(
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
            prefix=sql.Literal(_function_name(mapping, rollout, "")),
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


@dataclass(frozen=True, slots=True)
class _Function:
    name: str
    definition: sql.Composed
    label: str
    origin: str

    @property
    def qualified(self) -> sql.Identifier:
        return sql.Identifier(SCHEMA, self.name)

    @property
    def statements(self) -> tuple[sql.Composable, ...]:
        revoke = sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(self.qualified)
        return (self.definition, revoke)


@dataclass(frozen=True, slots=True)
class _Trigger:
    name: str
    definition: sql.Composed
    label: str
    origin: str


@dataclass
class _Generator:
    """Everything for one mapping under one authority."""

    mapping: TableMapping
    rollout: int
    authority: Authority
    table: sql.Identifier = field(init=False)
    marker: sql.Identifier = field(init=False)
    leaf: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        assert all(0 <= group.number < MAX_GROUPS for group in self.mapping.groups)
        self.table = qualified_name(self.mapping.table)
        self.marker = sql.Identifier(self.mapping.marker)

    # --- what there is ------------------------------------------------------------------------------------------------

    def objects(self) -> SyncObjects:
        functions = [statement for f in self.functions for statement in f.statements]
        functions += self._ownership()
        triggers: list[sql.Composable] = [t.definition for t in self.triggers]
        always = [sql.SQL("ENABLE ALWAYS TRIGGER {}").format(sql.Identifier(t.name)) for t in self.triggers]
        triggers.append(sql.SQL("ALTER TABLE {} {}").format(self.table, comma(always)))
        triggers += map(sql.SQL, copies.begins(self.mapping))
        comments = [self.comments(self.functions, self.triggers)]
        return SyncObjects(
            tuple(map(_text, functions)),
            tuple(map(_text, triggers)),
            tuple(map(_text, comments)),
            tuple(self._watches()),
        )

    def _watches(self) -> Iterator[tuple[QualifiedName, tuple[str, ...]]]:
        for _, copied in copies.copied_groups(self.mapping):
            made = [trigger for found, trigger in self.watching if found is copied]
            always = comma(sql.SQL("ENABLE ALWAYS TRIGGER {}").format(sql.Identifier(t.name)) for t in made)
            stamp = self.comments((), made, copied.oid)
            yield (
                copied.table,
                (
                    *(_text(trigger.definition) for trigger in made),
                    _text(sql.SQL("ALTER TABLE {} {}").format(qualified_name(copied.table), always)),
                    _text(stamp),
                ),
            )

    def _ownership(self) -> list[sql.Composable]:
        """What lets functions that go to other tables' rows run as the table's owner, and look up what they have to."""
        if not (self.mapping.looks_up or self._parents):
            return []
        table = sql.Literal(_text(self.table))
        names = sql.Literal([f.name for f in self.functions])
        made: list[sql.Composable] = [
            dollar_quoted("row_owner", schema=sql.Literal(SCHEMA), table=table, functions=names)
        ]
        pairs = {_text(qualified_name(g.lookup.pairs)) for g in self.mapping.groups if g.lookup is not None}
        if pairs:
            made.append(dollar_quoted("lookup_rights", table=table, views=sql.Literal(sorted(pairs))))
        return made

    def comments(
        self, functions: Sequence[_Function], triggers: Sequence[_Trigger], oid: int = 0
    ) -> sql.Composed:
        """One statement that stamps what has been made; `oid` of another table that the triggers are on."""
        return dollar_quoted(
            "comments",
            schema=sql.Literal(SCHEMA),
            table=sql.Literal(oid or self.mapping.oid),
            functions=sql.Literal([f.name for f in functions]),
            function_labels=sql.Literal([f.label for f in functions]),
            triggers=sql.Literal([t.name for t in triggers]),
            trigger_labels=sql.Literal([t.label for t in triggers]),
        )

    @cached_property
    def functions(self) -> tuple[_Function, ...]:
        bodies = FunctionBodies(self.mapping, self.rollout, self.authority)
        made = [
            self._function("insert", bodies.insert()),
            self._function("marker", {}),
            self._function("settle", bodies.settle()),
            self._function("failed", bodies.failed()),
        ]
        if any(map(self._named_triggers, self.mapping.groups)):
            made.append(self._function("named", {}))
        if two_sided(self.mapping):
            made.append(self._function("both", bodies.both()))
        if self._retries:
            made.append(self._function("late", bodies.late()))
        made += [
            self._function("follow", copies.follow(self.mapping, group, copied), group.number)
            for group, copied in copies.copied_groups(self.mapping)
        ]
        if self.mapping.has_children:
            pieces = {
                "written": children.written(self.mapping),
                "called": sql.Literal(str(self.mapping.table)),
            }
            made.append(self._function("route", {"oid": sql.Literal(str(self.mapping.oid)), **pieces}))
        return tuple(made)

    @cached_property
    def triggers(self) -> tuple[_Trigger, ...]:
        made = [self._trigger("1_insert", "trigger_insert", "insert"), self._marker_trigger()]
        made += [trigger for group in self.mapping.groups for trigger in self._named_triggers(group)]
        made += [self._both_trigger(group) for group in two_sided(self.mapping)]
        made.append(self._settle_trigger())
        for event in ("insert", "update", "delete"):
            made.append(
                self._trigger(f"5_failed_{event}", f"trigger_failed_{event}", "failed", marker=self.marker)
            )
        made.append(self._trigger("5_failed_truncate", "trigger_failed_truncate", "failed"))
        if self._retries:
            made += [self._late_trigger("insert"), self._late_trigger("update")]
        if self.mapping.has_children:
            made.append(self._trigger(children.ROUTED.removeprefix(PREFIX), "trigger_routed", "route"))
            made.append(self._route_trigger())
        return tuple(made)

    def _route_trigger(self) -> _Trigger:
        template = "trigger_arrive" if self.leaf else "trigger_route"
        loaded = load(template)
        pieces: dict[str, sql.Composable] = {"oid": sql.Literal(str(self.mapping.oid))} if self.leaf else {}
        definition = loaded.fill(
            trigger=sql.Identifier(children.ROUTE),
            table=self.table,
            function=sql.Identifier(SCHEMA, _function_name(self.mapping, self.rollout, "route")),
            **pieces,
        )
        return _Trigger(
            children.ROUTE,
            definition,
            self._label(template, loaded.version, definition),
            self._origin(template),
        )

    @property
    def _retries(self) -> bool:
        """Whether a row whose reference was not found is tried again at the end of the transaction: by its key, if it has one."""
        return bool(self.mapping.looks_up and self.mapping.key)

    def _late_trigger(self, event: str) -> _Trigger:
        condition: sql.Composable = has(sql.SQL("NEW.{}").format(self.marker), FAILED)
        if event == "update":
            # Being tried again is no change, so that nothing goes round in circles. A row that moved is found by its key of now.
            written = [old_changed(g) for g in self.mapping.groups if g.lookup is not None]
            written += [copies.refers(self.mapping, c) for _, c in copies.copied_groups(self.mapping)]
            moved = [changed_in(self.mapping, name) for name in self.mapping.key]
            condition = all_of([condition, any_of([*written, *moved])])
        name = f"{PREFIX}6_late_{event}"
        definition = dollar_quoted(
            "trigger_late",
            trigger=sql.Identifier(name),
            called=sql.Literal(name),
            table=self.table,
            relation=sql.Literal(self.table.as_string(None)),
            function=sql.Identifier(SCHEMA, _function_name(self.mapping, self.rollout, "late")),
            event=sql.SQL("INSERT") if event == "insert" else sql.SQL("UPDATE"),
            condition=condition,
        )
        label = self._label("trigger_late", load("trigger_late").version, definition)
        return _Trigger(name, definition, label, self._origin("trigger_late"))

    @cached_property
    def watching(self) -> tuple[tuple[Copied, _Trigger], ...]:
        """The triggers on tables of whose columns this one has copies."""
        made: list[tuple[Copied, _Trigger]] = []
        for group, copied in copies.copied_groups(self.mapping):
            name = _function_name(self.mapping, self.rollout, f"follow_{group.number}")
            function = sql.Identifier(SCHEMA, name)
            for arrival in (False, True) if copied.deferrable else (False,):
                definition = copies.watch(self.mapping, group, copied, function, arrival=arrival)
                loaded, called = (
                    load("trigger_follow"),
                    copies.trigger_name(self.mapping, group, arrival=arrival),
                )
                # Without the mapping: its names differ behind the fence, and nothing of this trigger does.
                origin = f"zdm rollout {self.rollout} trigger_follow"
                label = self._stamped(origin, loaded.version, definition)
                made.append((copied, _Trigger(called, definition, label, origin)))
        return tuple(made)

    def _function(
        self, purpose: str, pieces: dict[str, sql.Composable], number: int | None = None
    ) -> _Function:
        name = _function_name(
            self.mapping, self.rollout, purpose if number is None else f"{purpose}_{number}"
        )
        template = load(f"function_{purpose}")
        if "settings" in template.parameters:
            pieces = {"settings": self._settings, **pieces}
        if "path" in template.parameters:
            pieces = {"path": look_up(self.mapping.path), **pieces}
        if "marker" in template.parameters:
            pieces = {"marker": self.marker, **pieces}
        definition = dollar_quoted(template.name, function=sql.Identifier(SCHEMA, name), **pieces)
        return _Function(
            name,
            definition,
            self._label(template.name, template.version, definition),
            self._origin(template.name),
        )

    def _trigger(self, name: str, template: str, purpose: str, **pieces: sql.Composable) -> _Trigger:
        loaded = load(template)
        definition = loaded.fill(
            trigger=sql.Identifier(PREFIX + name),
            table=self.table,
            function=sql.Identifier(SCHEMA, _function_name(self.mapping, self.rollout, purpose)),
            **pieces,
        )
        return _Trigger(
            PREFIX + name,
            definition,
            self._label(template, loaded.version, definition),
            self._origin(template),
        )

    def _label(self, template: str, version: int, definition: sql.Composed) -> str:
        return self._stamped(self._origin(template), version, definition)

    @staticmethod
    def _stamped(origin: str, version: int, definition: sql.Composed) -> str:
        source = hashlib.sha256(_text(definition).encode()).hexdigest()[:16]
        return f"{origin} version {version} source {source} server "

    def _origin(self, template: str) -> str:
        # A trigger is the same under either authority; `switch` replaces the functions alone.
        side = f" authority {self.authority}" if template.startswith("function_") else ""
        return f"zdm rollout {self.rollout} {template}{side} mapping {self._mapped}"

    @cached_property
    def _mapped(self) -> str:
        # Without defaults, so that a field which a later zdm adds changes nothing.
        return hashlib.sha256(self.mapping.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:16]

    @cached_property
    def _parents(self) -> bool:
        """Whether the functions write a shared table, to which the application's role need have no rights."""
        return any(group.parent is not None for group in self.mapping.groups)

    @cached_property
    def _settings(self) -> sql.Composable:
        """SET clauses where a stable expression needs them, or a literal in one is read by the server's own rules."""
        found = list(self._compared())
        names: Iterable[str] = ()
        # What refers to another table's rows reads them with its own rights, not the application's.
        elsewhere = self.mapping.looks_up or self._parents
        own = sql.SQL("\n  SECURITY DEFINER SET search_path = {}").format(look_up(self.mapping.path))
        if any(e.volatility is not Volatility.IMMUTABLE for e in found) or any(
            not group.noted.plain for group in self.mapping.groups if group.noted is not None
        ):
            names = PINNED_SETTINGS
        elif any("\\" in part for e in found for part in e.parts if isinstance(part, str)):
            names = ("standard_conforming_strings",)
        return sql.Composed(
            [
                *([own] if elsewhere else []),
                *(
                    sql.SQL("\n  SET {} = {}").format(
                        sql.Identifier(name), sql.Literal(PINNED_SETTINGS[name])
                    )
                    for name in names
                ),
            ]
        )

    def _compared(self) -> Iterable[Expression]:
        """The expressions whose value must come out the same whoever evaluates them: all but the fills."""
        for group in self.mapping.groups:
            yield from (n.up for n in group.new if n.up is not None)
            yield from (o.down for o in group.old if o.down is not None)

    # --- triggers -----------------------------------------------------------------------------------------------------

    def _marker_trigger(self) -> _Trigger:
        return self._trigger("1_marker", "trigger_marker", "marker", marker=self.marker)

    def _named_triggers(self, group: ColumnGroup) -> list[_Trigger]:
        made: list[_Trigger] = []
        if group.copied is not None:
            return made
        still = sql.SQL("NOT {}").format(any_of([old_changed(group), new_changed(group)]))
        others = any_of(changed_in(self.mapping, name) for name in self._beside(group))
        last = has(sql.SQL("OLD.{}").format(self.marker), group.bit)
        if group.new:
            matters: list[sql.Composable] = [self._unfilled()]
            if group.old:
                matters.append(all_of([old_changed(group), new_changed(group)]))
            if reads_beside_up(group):
                wrote = [sql.SQL("NOT {}").format(last)] * (group.parent is None)
                matters.append(all_of([*wrote, still, others]))
            made.append(
                self._named_trigger(f"2_new_{group.number}", group, [n.name for n in group.new], matters)
            )
        if reads_beside_down(group):
            matters = [all_of([last, still, others])]
            made.append(
                self._named_trigger(f"2_old_{group.number}", group, [o.name for o in group.old], matters)
            )
        return made

    def _named_trigger(
        self, name: str, group: ColumnGroup, columns: list[str], matters: list[sql.Composable]
    ) -> _Trigger:
        return self._trigger(
            name,
            "trigger_named",
            "named",
            columns=comma(map(sql.Identifier, columns)),
            bit=sql.Literal(str(group.bit)),
            open=self._open(),
            matters=any_of(matters),
        )

    def _both_trigger(self, group: ColumnGroup) -> _Trigger:
        return self._trigger(
            f"3_both_{group.number}",
            "trigger_both",
            "both",
            columns=comma(sql.Identifier(o.name) for o in group.old),
            marker=self.marker,
            bits=sql.Literal(REPAIR | group.bit),
            group=sql.Literal(str(group.number)),
        )

    def _settle_trigger(self) -> _Trigger:
        noted = any(group.noted is not None for group in self.mapping.groups)
        changed = [
            changed_in(self.mapping, name)
            for name in dict.fromkeys((*self._relevant, *(self.mapping.key if noted else ())))
        ]
        due = any_of([self._unfilled(), *changed])
        return self._trigger("4_settle", "trigger_settle", "settle", open=self._open(), due=due)

    @property
    def _relevant(self) -> tuple[str, ...]:
        """Every column that the mapping reads or writes."""
        names: list[str] = []
        for group in self.mapping.groups:
            names += [o.name for o in group.old] + [n.name for n in group.new]
            names += [*group.reads_of_up, *group.reads_of_down]
        return tuple(dict.fromkeys(names))

    def _beside(self, group: ColumnGroup) -> list[str]:
        """The relevant columns that are none of the group's own."""
        own = {o.name for o in group.old} | {n.name for n in group.new}
        return [name for name in self._relevant if name not in own]

    def _open(self) -> sql.Composed:
        """The row was not settled in this operation: the marker's lowest bit is as it was."""
        side = sql.SQL("(COALESCE({}.{}, 0) OPERATOR(pg_catalog.&) {})")
        new, old = (side.format(sql.SQL(row), self.marker, sql.Literal(TOGGLE)) for row in ("NEW", "OLD"))
        return sql.SQL("({} OPERATOR(pg_catalog.=) {})").format(new, old)

    def _unfilled(self) -> sql.Composable:
        """Nobody settled the row yet, or its new side could not be derived."""
        return sql.SQL("(OLD.{0} IS NULL OR {1})").format(
            self.marker, has(sql.SQL("OLD.{}").format(self.marker), FAILED)
        )


@lru_cache(maxsize=16)
def _generator(mapping: TableMapping, rollout: int, authority: Authority) -> _Generator:
    """Kept, since to plan, estimate, install and check ask for the same ones, and to compose them takes long. Not to be changed."""
    return _Generator(mapping, rollout, authority)


def _function_name(mapping: TableMapping, rollout: int, purpose: str) -> str:
    return f"sync_{rollout}_{mapping.oid}_{purpose}"


def _text(statement: sql.Composable) -> str:
    return statement.as_string(None)
