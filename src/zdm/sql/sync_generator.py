"""Which sync functions and triggers a mapping needs, and the SQL that makes each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
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
from zdm.sql.identifiers import SCHEMA, all_of, any_of, comma, look_up, qualified_name
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

PREFIX = "~zdm_"
"""How the names of the sync triggers begin. A row trigger of the application whose name sorts bytewise after it would
undo what the sync has done, and is refused when a rollout is planned."""


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


@dataclass(frozen=True, slots=True)
class SyncFunction:
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
class SyncTrigger:
    name: str
    definition: sql.Composed
    label: str
    origin: str


@dataclass
class SyncGenerator:
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
            tuple(map(text, functions)),
            tuple(map(text, triggers)),
            tuple(map(text, comments)),
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
                    *(text(trigger.definition) for trigger in made),
                    text(sql.SQL("ALTER TABLE {} {}").format(qualified_name(copied.table), always)),
                    text(stamp),
                ),
            )

    def _ownership(self) -> list[sql.Composable]:
        """What lets functions that go to other tables' rows run as the table's owner, and look up what they have to."""
        if not (self.mapping.looks_up or self._parents):
            return []
        table = sql.Literal(text(self.table))
        names = sql.Literal([f.name for f in self.functions])
        made: list[sql.Composable] = [
            dollar_quoted("row_owner", schema=sql.Literal(SCHEMA), table=table, functions=names)
        ]
        pairs = {text(qualified_name(g.lookup.pairs)) for g in self.mapping.groups if g.lookup is not None}
        if pairs:
            made.append(dollar_quoted("lookup_rights", table=table, views=sql.Literal(sorted(pairs))))
        return made

    def comments(
        self, functions: Sequence[SyncFunction], triggers: Sequence[SyncTrigger], oid: int = 0
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
    def functions(self) -> tuple[SyncFunction, ...]:
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
    def triggers(self) -> tuple[SyncTrigger, ...]:
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

    def _route_trigger(self) -> SyncTrigger:
        template = "trigger_arrive" if self.leaf else "trigger_route"
        loaded = load(template)
        pieces: dict[str, sql.Composable] = {"oid": sql.Literal(str(self.mapping.oid))} if self.leaf else {}
        definition = loaded.fill(
            trigger=sql.Identifier(children.ROUTE),
            table=self.table,
            function=sql.Identifier(SCHEMA, function_name(self.mapping, self.rollout, "route")),
            **pieces,
        )
        return SyncTrigger(
            children.ROUTE,
            definition,
            self._label(template, loaded.version, definition),
            self._origin(template),
        )

    @property
    def _retries(self) -> bool:
        """Whether a row whose reference was not found is tried again at the end of the transaction: by its key, if it has one."""
        return bool(self.mapping.looks_up and self.mapping.key)

    def _late_trigger(self, event: str) -> SyncTrigger:
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
            function=sql.Identifier(SCHEMA, function_name(self.mapping, self.rollout, "late")),
            event=sql.SQL("INSERT") if event == "insert" else sql.SQL("UPDATE"),
            condition=condition,
        )
        label = self._label("trigger_late", load("trigger_late").version, definition)
        return SyncTrigger(name, definition, label, self._origin("trigger_late"))

    @cached_property
    def watching(self) -> tuple[tuple[Copied, SyncTrigger], ...]:
        """The triggers on tables of whose columns this one has copies."""
        made: list[tuple[Copied, SyncTrigger]] = []
        for group, copied in copies.copied_groups(self.mapping):
            name = function_name(self.mapping, self.rollout, f"follow_{group.number}")
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
                made.append((copied, SyncTrigger(called, definition, label, origin)))
        return tuple(made)

    def _function(
        self, purpose: str, pieces: dict[str, sql.Composable], number: int | None = None
    ) -> SyncFunction:
        name = function_name(self.mapping, self.rollout, purpose if number is None else f"{purpose}_{number}")
        template = load(f"function_{purpose}")
        if "settings" in template.parameters:
            pieces = {"settings": self._settings, **pieces}
        if "path" in template.parameters:
            pieces = {"path": look_up(self.mapping.path), **pieces}
        if "marker" in template.parameters:
            pieces = {"marker": self.marker, **pieces}
        definition = dollar_quoted(template.name, function=sql.Identifier(SCHEMA, name), **pieces)
        return SyncFunction(
            name,
            definition,
            self._label(template.name, template.version, definition),
            self._origin(template.name),
        )

    def _trigger(self, name: str, template: str, purpose: str, **pieces: sql.Composable) -> SyncTrigger:
        loaded = load(template)
        definition = loaded.fill(
            trigger=sql.Identifier(PREFIX + name),
            table=self.table,
            function=sql.Identifier(SCHEMA, function_name(self.mapping, self.rollout, purpose)),
            **pieces,
        )
        return SyncTrigger(
            PREFIX + name,
            definition,
            self._label(template, loaded.version, definition),
            self._origin(template),
        )

    def _label(self, template: str, version: int, definition: sql.Composed) -> str:
        return self._stamped(self._origin(template), version, definition)

    @staticmethod
    def _stamped(origin: str, version: int, definition: sql.Composed) -> str:
        source = hashlib.sha256(text(definition).encode()).hexdigest()[:16]
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

    def _marker_trigger(self) -> SyncTrigger:
        return self._trigger("1_marker", "trigger_marker", "marker", marker=self.marker)

    def _named_triggers(self, group: ColumnGroup) -> list[SyncTrigger]:
        made: list[SyncTrigger] = []
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
    ) -> SyncTrigger:
        return self._trigger(
            name,
            "trigger_named",
            "named",
            columns=comma(map(sql.Identifier, columns)),
            bit=sql.Literal(str(group.bit)),
            open=self._open(),
            matters=any_of(matters),
        )

    def _both_trigger(self, group: ColumnGroup) -> SyncTrigger:
        return self._trigger(
            f"3_both_{group.number}",
            "trigger_both",
            "both",
            columns=comma(sql.Identifier(o.name) for o in group.old),
            marker=self.marker,
            bits=sql.Literal(REPAIR | group.bit),
            group=sql.Literal(str(group.number)),
        )

    def _settle_trigger(self) -> SyncTrigger:
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
def generator_of(mapping: TableMapping, rollout: int, authority: Authority) -> SyncGenerator:
    """Kept, since to plan, estimate, install and check ask for the same ones, and to compose them takes long. Not to be changed."""
    return SyncGenerator(mapping, rollout, authority)


def function_name(mapping: TableMapping, rollout: int, purpose: str) -> str:
    return f"sync_{rollout}_{mapping.oid}_{purpose}"


def text(statement: sql.Composable) -> str:
    return statement.as_string(None)
