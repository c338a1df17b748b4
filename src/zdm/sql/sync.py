"""The sync functions and triggers of one table: what to install, to switch, to remove, and what must then be there.

`docs/architecture.md` states the rules; the SQL around them is in ``triggers/``; this module decides which pieces a
mapping needs and fills them. Names:

* functions ``zdm.sync_<rollout>_<table oid>_<purpose>``,
* triggers ``~zdm_<n>_<purpose>``, so that they sort, and fire, after the application's.

All functions are SECURITY INVOKER and call nothing in schema zdm, so an application's role needs no rights there; only
the recorder of failures is SECURITY DEFINER. Functions whose expressions are all immutable have no SET clause (one costs
more than the rest of the call); with a stable expression `rows.PINNED_SETTINGS` are pinned on the function.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from psycopg import sql

from zdm.model.expression import Expression, Volatility
from zdm.model.mapping import (
    FAILED,
    FIRST_GROUP_BIT,
    MAX_GROUPS,
    TOGGLE,
    Authority,
    ColumnGroup,
    Comparison,
    Conflict,
    Expose,
    NewColumn,
    OldColumn,
    TableMapping,
)
from zdm.sql.identifiers import all_of, any_of, comma, differs, qualified_name, trusted
from zdm.sql.rows import PINNED_SETTINGS, REPAIR, filled_once
from zdm.sql.templates import dollar_quoted, load

SCHEMA = "zdm"
"""The schema of zdm's own objects, the sync functions included."""

PREFIX = "~zdm_"
"""How the names of the sync triggers begin. A row trigger of the application whose name sorts bytewise after it would
undo what the sync has done, and is refused when a rollout is planned."""

_ALL_GROUPS = ((1 << MAX_GROUPS) - 1) << FIRST_GROUP_BIT
_CONSTANT = re.compile(r"\(*(-?\d+(\.\d+)?|'([^']|'')*'|true|false|NULL)\)*(::[\w \".(),\[\]]+)*")
_IDENTITY_TYPES = ("smallint", "integer", "bigint")

_EMPTY = sql.SQL("")
_LINES = sql.SQL("\n")


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
    """The statements that install the sync of one table, in the order in which they run, in one transaction."""

    functions: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    comments: tuple[str, ...] = ()

    @property
    def statements(self) -> tuple[str, ...]:
        """All of them."""
        return self.functions + self.triggers + self.comments


def install(mapping: TableMapping, rollout: int, authority: Authority) -> SyncObjects:
    """What installs the sync, or brings it up to date. Takes SHARE ROW EXCLUSIVE on the table; repeatable."""
    if not mapping.needs_sync:
        return SyncObjects()
    return _Generator(mapping, rollout, authority).objects()


def install_one_by_one(mapping: TableMapping, rollout: int, there: Collection[str]) -> list[tuple[str, ...]]:
    """What makes those triggers that are not `there`, a transaction's statements for each, in the order in which they must come.

    The one that settles new rows is the last: a row that is settled must be kept in step from then on.
    """
    generator = _Generator(mapping, rollout, Authority.OLD)
    return [
        (
            _text(trigger.definition),
            _text(
                sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(
                    generator.table, sql.Identifier(trigger.name)
                )
            ),
            _text(generator.comments((), (trigger,))),
        )
        for trigger in reversed(generator.triggers)
        if trigger.name not in there
    ]


def switch(mapping: TableMapping, rollout: int, authority: Authority) -> tuple[str, ...]:
    """What makes `authority` the side that wins. Only functions are replaced: no lock on the table, nothing waits."""
    if not mapping.needs_sync:
        return ()
    generator = _Generator(mapping, rollout, authority)
    statements = [s for f in generator.functions for s in f.statements]
    return tuple(_text(s) for s in (*statements, generator.comments(generator.functions, ())))


def remove(mapping: TableMapping, rollout: int) -> tuple[str, ...]:
    """What removes the sync, whether all, some or nothing of it is there. Takes ACCESS EXCLUSIVE on the table, briefly."""
    return (*drop_triggers(mapping), *drop_functions(mapping, rollout))


def drop_triggers(mapping: TableMapping) -> list[str]:
    """What removes the triggers alone: for a transaction that changes the columns beneath them."""
    if not mapping.needs_sync:
        return []
    table = qualified_name(mapping.table)
    return [
        _text(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(t.name), table))
        for t in _Generator(mapping, 0, Authority.OLD).triggers
    ]


def drop_functions(mapping: TableMapping, rollout: int) -> list[str]:
    """What removes the functions once no trigger calls them; no lock on the table."""
    if not mapping.needs_sync:
        return []
    functions = _Generator(mapping, rollout, Authority.OLD).functions
    return [_text(sql.SQL("DROP FUNCTION IF EXISTS {}()").format(f.qualified)) for f in functions]


def expected_objects(mapping: TableMapping, rollout: int, authority: Authority) -> tuple[ExpectedObject, ...]:
    """What must be there while the sync is installed, for `findings`."""
    if not mapping.needs_sync:
        return ()
    generator = _Generator(mapping, rollout, authority)
    return tuple(
        [ExpectedObject("function", f.name, f.label, f.origin) for f in generator.functions]
        + [ExpectedObject("trigger", t.name, t.label, t.origin) for t in generator.triggers]
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
            " FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = {oid}::pg_catalog.oid AND starts_with(t.tgname, {triggers})"
        ).format(
            schema=sql.Literal(SCHEMA),
            prefix=sql.Literal(_function_name(mapping, rollout, "")),
            oid=sql.Literal(mapping.oid),
            triggers=sql.Literal(PREFIX),
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

    def __post_init__(self) -> None:
        assert all(0 <= group.number < MAX_GROUPS for group in self.mapping.groups)
        self.table = qualified_name(self.mapping.table)
        self.marker = sql.Identifier(self.mapping.marker)

    # --- what there is ------------------------------------------------------------------------------------------------

    def objects(self) -> SyncObjects:
        functions = [statement for f in self.functions for statement in f.statements]
        triggers: list[sql.Composable] = [t.definition for t in self.triggers]
        always = [sql.SQL("ENABLE ALWAYS TRIGGER {}").format(sql.Identifier(t.name)) for t in self.triggers]
        triggers.append(sql.SQL("ALTER TABLE {} {}").format(self.table, comma(always)))
        comments = [self.comments(self.functions, self.triggers)]
        return SyncObjects(
            tuple(map(_text, functions)), tuple(map(_text, triggers)), tuple(map(_text, comments))
        )

    def comments(self, functions: Sequence[_Function], triggers: Sequence[_Trigger]) -> sql.Composed:
        """One statement that stamps what has been made."""
        return dollar_quoted(
            "comments",
            schema=sql.Literal(SCHEMA),
            table=sql.Literal(self.mapping.oid),
            functions=sql.Literal([f.name for f in functions]),
            function_labels=sql.Literal([f.label for f in functions]),
            triggers=sql.Literal([t.name for t in triggers]),
            trigger_labels=sql.Literal([t.label for t in triggers]),
        )

    @cached_property
    def functions(self) -> tuple[_Function, ...]:
        made = [
            self._function("insert", self._insert()),
            self._function("marker", {}),
            self._function("settle", self._settle()),
            self._function("failed", self._failed()),
        ]
        if any(map(self._named_triggers, self.mapping.groups)):
            made.append(self._function("named", {}))
        if self._two_sided:
            made.append(self._function("both", self._both()))
        return tuple(made)

    @cached_property
    def triggers(self) -> tuple[_Trigger, ...]:
        made = [self._trigger("1_insert", "trigger_insert", "insert"), self._marker_trigger()]
        made += [trigger for group in self.mapping.groups for trigger in self._named_triggers(group)]
        made += [self._both_trigger(group) for group in self._two_sided]
        made.append(self._settle_trigger())
        for event in ("insert", "update", "delete"):
            made.append(
                self._trigger(f"5_failed_{event}", f"trigger_failed_{event}", "failed", marker=self.marker)
            )
        made.append(self._trigger("5_failed_truncate", "trigger_failed_truncate", "failed"))
        return tuple(made)

    @property
    def _two_sided(self) -> list[ColumnGroup]:
        return [group for group in self.mapping.groups if group.new and group.old]

    def _function(self, purpose: str, pieces: dict[str, sql.Composable]) -> _Function:
        name = _function_name(self.mapping, self.rollout, purpose)
        template = load(f"function_{purpose}")
        if "settings" in template.parameters:
            pieces = {"settings": self._settings, **pieces}
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
        source = hashlib.sha256(_text(definition).encode()).hexdigest()[:16]
        return f"{self._origin(template)} version {version} source {source} server "

    def _origin(self, template: str) -> str:
        # A trigger is the same under either authority; `switch` replaces the functions alone.
        side = f" authority {self.authority}" if template.startswith("function_") else ""
        return f"zdm rollout {self.rollout} {template}{side} mapping {self._mapped}"

    @cached_property
    def _mapped(self) -> str:
        # Without defaults, so that a field which a later zdm adds changes nothing.
        return hashlib.sha256(self.mapping.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:16]

    @cached_property
    def _settings(self) -> sql.Composable:
        """SET clauses where a stable expression needs them, or a literal in one is read by the server's own rules."""
        found = list(self._compared())
        names: Iterable[str] = ()
        if any(e.volatility is not Volatility.IMMUTABLE for e in found):
            names = PINNED_SETTINGS
        elif any("\\" in part for e in found for part in e.parts if isinstance(part, str)):
            names = ("standard_conforming_strings",)
        return sql.Composed(
            [
                sql.SQL("\n  SET {} = {}").format(sql.Identifier(name), sql.Literal(PINNED_SETTINGS[name]))
                for name in names
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
        still = sql.SQL("NOT {}").format(any_of([_old_changed(group), _new_changed(group)]))
        others = any_of(self._changed(name) for name in self._beside(group))
        last = _has(sql.SQL("OLD.{}").format(self.marker), group.bit)
        if group.new:
            matters: list[sql.Composable] = [self._unfilled()]
            if group.old:
                matters.append(all_of([_old_changed(group), _new_changed(group)]))
            if _reads_beside_up(group):
                matters.append(all_of([sql.SQL("NOT {}").format(last), still, others]))
            made.append(
                self._named_trigger(f"2_new_{group.number}", group, [n.name for n in group.new], matters)
            )
        if _reads_beside_down(group):
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
        changed = [self._changed(name) for name in self._relevant]
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
            self.marker, _has(sql.SQL("OLD.{}").format(self.marker), FAILED)
        )

    def _changed(self, name: str) -> sql.Composable:
        for group in self.mapping.groups:
            sides: list[OldColumn | NewColumn] = [*group.old, *group.new]
            for column in sides:
                if column.name == name:
                    return _changed(column.name, column.comparison, column.type)
        return _changed(name, Comparison.IMAGE, "")

    # --- functions ----------------------------------------------------------------------------------------------------

    def _insert(self) -> dict[str, sql.Composable]:
        decide = sql.SQL(_INSERT).format(
            marker=self.marker,
            failed=_was(FAILED),
            whole=_LINES.join(self._settled_as(group) for group in self.mapping.groups),
            groups=sql.Literal(_ALL_GROUPS),
            decide=_LINES.join(self._decide_insert(group) for group in self.mapping.groups),
        )
        return self._body(decide, update=False)

    def _settled_as(self, group: ColumnGroup) -> sql.Composable:
        """Sets zdm_agree to false if the group does not hold what the row's marker says of it."""
        ups = [n for n in group.new if n.up is not None]
        downs = [o for o in group.old if o.down is not None]
        promised = [
            sql.SQL("NEW.{} IS NOT NULL").format(sql.Identifier(n.name)) for n in group.new if n.not_null
        ]
        parts: list[sql.Composable] = [_comment(group.name)]
        if promised:
            parts.append(sql.SQL("IF NOT {} THEN zdm_agree := false; END IF;").format(all_of(promised)))
        for columns, wrote in ((ups, sql.SQL("NOT {}").format(_was(group.bit))), (downs, _was(group.bit))):
            if columns:
                text = sql.SQL("IF zdm_agree AND {} THEN\n{}\nEND IF;")
                parts.append(text.format(wrote, _try(columns)))
        return _LINES.join(parts)

    def _settle(self) -> dict[str, sql.Composable]:
        decide = _LINES.join(self._decide_update(group) for group in self.mapping.groups)
        return {**self._body(decide, update=True), "groups": sql.Literal(_ALL_GROUPS)}

    def _body(self, decide: sql.Composable, *, update: bool) -> dict[str, sql.Composable]:
        names = [f"  zdm_d{group.number} integer := 0;" for group in self.mapping.groups]
        names += [
            f"  zdm_f{group.number} boolean := {'false' if update else 'true'};"
            for group in self.mapping.groups
        ]
        return {
            "declare": _LINES.join([trusted("\n".join(names)), _DECLARE]),
            "enter": _part("part_enter"),
            "leave": _part("part_leave"),
            "decide": decide,
            "derive": _LINES.join([self._derive(update=update), *self._guards(update=update)]),
        }

    def _guards(self, *, update: bool) -> list[sql.Composable]:
        """For each key that stands twice: whoever gives a row a key waits for whoever is giving it to another one."""
        made: list[sql.Composable] = []
        for number, key in enumerate(self.mapping.guarded):
            columns = [sql.SQL("NEW.{}").format(sql.Identifier(name)) for name in key]
            when = all_of(sql.SQL("{} IS NOT NULL").format(column) for column in columns)
            if update:
                when = all_of([any_of(self._changed(name) for name in key), when])
            same = all_of(
                sql.SQL("zdm_table.{0} OPERATOR(pg_catalog.=) NEW.{0}").format(sql.Identifier(name))
                for name in key
            )
            made.append(
                _part(
                    "part_guard",
                    when=when,
                    row=sql.SQL("ROW({})").format(comma(columns)),
                    seed=sql.Literal(self.mapping.oid * MAX_GROUPS + number),
                    table=self.table,
                    same=same,
                )
            )
        return made

    def _decide_update(self, group: ColumnGroup) -> sql.Composable:
        fresh = sql.SQL("(OLD.{} IS NULL OR ({} AND NOT {}))").format(
            self.marker, _was(FAILED), _was(group.bit)
        )
        pieces = {
            "name": _comment(group.name),
            "fresh": fresh,
            "f": _variable("f", group),
            "d": _variable("d", group),
            "named": _has(sql.SQL("zdm_named"), group.bit),
            "was": _was(group.bit),
            "own": _own(group),
            "old": _old_changed(group),
            "new": _new_changed(group),
            "refuse": self._refuse_unfilled(group),
            "unsettled": sql.SQL("OLD.{} IS NULL").format(self.marker),
        }
        if group.new and group.old:
            text = _DECIDE_BOTH
        elif group.new:
            text = _DECIDE_ADDED
        else:
            text = _DECIDE_DROPPED
        return sql.SQL(text).format(**{key: pieces[key] for key in _fields(text)})

    def _refuse_unfilled(self, group: ColumnGroup) -> sql.Composable:
        """Rule 7."""
        derived = [n for n in group.new if n.up is not None or filled_once(n) is not None]
        if not derived:
            return _EMPTY
        missing = [
            sql.SQL("(NEW.{0} IS NULL AND OLD.{0} IS NULL)").format(sql.Identifier(n.name)) for n in derived
        ]
        fits = [
            sql.SQL("(NEW.{0} IS NOT NULL OR OLD.{0} IS NOT NULL OR zdm_try.{0} IS NULL)").format(
                sql.Identifier(n.name)
            )
            for n in derived
        ]
        new = ", ".join(_human(n.final) for n in group.new)
        reads = [c for c in group.reads_of_up if self._is_old(c)] or list(group.reads_of_up)
        source = ", ".join(_human(c) for c in reads)
        refusal = self._raise(
            code="55000",
            message=f"NULL written to {new} of {self.mapping.table}, which is not filled in this row yet",
            detail="It cannot be told whether NULL is meant, or was computed from the column that is still empty; taken as "
            "it is, it would replace what "
            + (f"{source} holds." if source else "the row is still to be given."),
            hint="Until the migration has filled every row, read the old structure and write a value, or write the old "
            "structure instead.",
            column=group.new[0].name,
        )
        return sql.SQL("    IF {} THEN\n{}\n    IF NOT zdm_agree THEN\n{}\n    END IF;\n    END IF;").format(
            any_of(missing), _part("part_try", assign=_tries_new(derived), result=all_of(fits)), refusal
        )

    def _is_old(self, name: str) -> bool:
        return any(o.name == name for group in self.mapping.groups for o in group.old)

    def _decide_insert(self, group: ColumnGroup) -> sql.Composable:
        given = any_of(sql.SQL("NEW.{} IS NOT NULL").format(sql.Identifier(n.name)) for n in group.new)
        elsewhere = any_of(
            sql.SQL("NEW.{} IS NOT NULL").format(sql.Identifier(n.name))
            for g in self.mapping.groups
            for n in g.new
        )
        pieces: dict[str, sql.Composable] = {
            "name": _comment(group.name),
            "d": _variable("d", group),
            "own": _own(group),
            "given": given,
            "elsewhere": elsewhere,
            "supplied": any_of(_supplied(o) for o in group.old),
            # Without views nothing shows who inserts. But the old application supplies what is NOT NULL, or fails.
            "missing": any_of(
                sql.SQL("NEW.{} IS NULL").format(sql.Identifier(o.name))
                for o in group.old
                if o.not_null and self.mapping.expose is Expose.COLUMNS
            ),
            "failed": all_of([_was(FAILED), sql.SQL("NOT {}").format(_was(group.bit))]),
            # A row that the new version inserts without its number has the one that the old column was given.
            "view": all_of([sql.SQL("zdm_view"), given])
            if any(n.numbered for n in group.new)
            else sql.SQL("zdm_view"),
        }
        if group.new and group.old:
            text = _INSERT_BOTH
            pieces["follows"] = self._try_new(group)
            pieces["complete"] = all_of(
                sql.SQL("NEW.{} IS NOT NULL").format(sql.Identifier(o.name)) for o in group.old
            )
            pieces["leads"] = self._try_old(group)
            pieces["policy"] = self._policy_insert(group)
        elif group.new:
            text = _INSERT_ADDED
        else:
            text = _INSERT_DROPPED
        return sql.SQL(text).format(**{key: pieces[key] for key in _fields(text)})

    def _policy_insert(self, group: ColumnGroup) -> sql.Composable:
        match self._policy(group):
            case Conflict.OLD:
                return sql.SQL("{} := 1;").format(_variable("d", group))
            case Conflict.NEW:
                return sql.SQL("{} := 2; {}").format(_variable("d", group), _own(group))
            case _:
                return self._conflict(group)

    def _both(self) -> dict[str, sql.Composable]:
        groups = [self._decide_both(group) for group in self._two_sided]
        return {
            "declare": _DECLARE,
            "enter": _part("part_enter"),
            "leave": _part("part_leave"),
            "groups": _LINES.join(groups),
        }

    def _decide_both(self, group: ColumnGroup) -> sql.Composable:
        withdraw = sql.SQL("NEW.{0} := NEW.{0} OPERATOR(pg_catalog.&) {1};").format(
            self.marker, sql.SQL("({})").format(sql.Literal(~group.bit))
        )
        policy = self._policy(group)
        decision: sql.Composable = sql.SQL("NULL;")
        if policy is Conflict.OLD:
            decision = withdraw
        elif policy is Conflict.REFUSE:
            decision = self._conflict(group)
        return sql.SQL(_BOTH).format(
            name=_comment(group.name),
            number=sql.Literal(group.number),
            new=_new_changed(group),
            old=_old_changed(group),
            withdraw=withdraw,
            last=_has(sql.SQL("COALESCE(OLD.{}, 0)").format(self.marker), group.bit),
            follows=self._try_new(group),
            leads=self._try_old(group),
            policy=decision,
        )

    def _policy(self, group: ColumnGroup) -> Conflict:
        if group.conflict is not Conflict.AUTHORITY:
            return group.conflict
        return Conflict.OLD if self.authority is Authority.OLD else Conflict.NEW

    def _conflict(self, group: ColumnGroup) -> sql.Composable:
        old, new = (
            ", ".join(map(_human, names))
            for names in ([o.name for o in group.old], [n.final for n in group.new])
        )
        stored = ", ".join(_human(n.name) for n in group.new)
        return self._raise(
            code="23000",
            message=f"the statement writes both the old {old} and the new {new} of {self.mapping.table}, and they disagree",
            detail=f"While a schema migration runs, {new} (stored as {stored}) is the new form of {old}: one has to "
            "follow from the other.",
            hint="Write one of them and the other follows, or write both so that they agree.",
            column=group.new[0].name,
        )

    def _raise(self, *, code: str, message: str, detail: str, hint: str, column: str) -> sql.Composed:
        return load("part_raise").fill(
            code=sql.Literal(code),
            message=sql.Literal(message),
            detail=sql.Literal(detail),
            hint=sql.Literal(hint),
            schema=sql.Literal(self.mapping.table.schema_),
            table=sql.Literal(self.mapping.table.name),
            column=sql.Literal(column),
        )

    def _try_new(self, group: ColumnGroup) -> sql.Composable:
        """Sets zdm_agree: the new side follows from the old. Not asked where a part of it follows from nothing."""
        if any(n.up is None for n in group.new) or self._up_reads_others(group):
            return sql.SQL("    zdm_agree := false;")
        return _part(
            "part_try",
            assign=_tries_new(group.new),
            result=_same([(n.name, n.comparison, n.type) for n in group.new]),
        )

    def _try_old(self, group: ColumnGroup) -> sql.Composable:
        """Sets zdm_agree: the old side follows from the new."""
        if not group.two_way or self._down_reads_others(group):
            return sql.SQL("    zdm_agree := false;")
        assign = _LINES.join(
            sql.SQL("      zdm_try.{} := {};").format(sql.Identifier(o.name), _over_new(o.down))
            for o in group.old
            if o.down is not None
        )
        return _part(
            "part_try", assign=assign, result=_same([(o.name, o.comparison, o.type) for o in group.old])
        )

    # --- deriving -----------------------------------------------------------------------------------------------------

    def _up_reads_others(self, group: ColumnGroup) -> bool:
        """Whether `up` reads an old column of another group, which that group's `down` may be about to change."""
        others = {o.name for g in self.mapping.groups if g is not group for o in g.old if o.down is not None}
        return bool(others.intersection(group.reads_of_up))

    def _down_reads_others(self, group: ColumnGroup) -> bool:
        others = {n.name for g in self.mapping.groups if g is not group for n in g.new if n.up is not None}
        return bool(others.intersection(group.reads_of_down))

    def _derive(self, *, update: bool) -> sql.Composable:
        """The derivations, in an order in which what is read has been derived before."""
        groups = self.mapping.groups
        settled = [self._settle_new(g) for g in groups if update and g.new and g.old]
        downs = [p for g in groups for p in self._down(g, update=update)]
        ups = [p for g in groups for p in self._up(g, update=update)]
        if not any(map(self._down_reads_others, groups)):
            order = [*downs, *ups]
        elif not any(map(self._up_reads_others, groups)):
            order = [*ups, *downs]
        else:
            order = [*downs, *ups, *downs, *ups]
        return _LINES.join([*settled, *order])

    def _settle_new(self, group: ColumnGroup) -> sql.Composable:
        """Rule 3: what the new side wrote may agree already."""
        return sql.SQL(_SETTLE_NEW).format(
            d=_variable("d", group), own=_own(group), follows=self._try_new(group)
        )

    def _up(self, group: ColumnGroup, *, update: bool) -> list[sql.Composable]:
        assign = [
            sql.SQL("      NEW.{} := {};").format(sql.Identifier(n.name), _over_new(n.up))
            for n in group.new
            if n.up is not None
        ]
        once = [n for n in group.new if filled_once(n) is not None]
        for new in once:
            value = _over_new(new.fill) if new.fill is not None else filled_once(new)
            assert value is not None
            assign.append(
                sql.SQL(
                    "      IF {f} AND {d} = 1 AND NEW.{c} IS NULL THEN NEW.{c} := {value}; END IF;"
                ).format(
                    f=_variable("f", group), d=_variable("d", group), c=sql.Identifier(new.name), value=value
                )
            )
        if not assign:
            return []
        derived = [n for n in group.new if n.up is not None]
        promised = [n for n in group.new if n.not_null and (n.up is not None or n in once)]
        keep = [
            sql.SQL("        NEW.{0} := {1};").format(
                sql.Identifier(n.name),
                sql.SQL("OLD.{}").format(sql.Identifier(n.name)) if update else sql.NULL,
            )
            for n in derived
        ]
        when = self._when(group, (1, 3), _reads_beside_up(group), update=update)
        return [
            _part(
                "part_up",
                when=when,
                assign=_LINES.join(assign),
                unless=any_of(sql.SQL("NEW.{} IS NULL").format(sql.Identifier(n.name)) for n in promised),
                keep=_LINES.join(keep),
            )
        ]

    def _down(self, group: ColumnGroup, *, update: bool) -> list[sql.Composable]:
        downs = [o for o in group.old if o.down is not None]
        if not downs:
            return []
        assign = _LINES.join(
            sql.SQL("    NEW.{} := {};").format(sql.Identifier(o.name), _over_new(o.down)) for o in downs
        )
        direction = _variable("d", group)
        parts: list[sql.Composable] = []
        if group.new or not update:
            written = _equals(direction, 2)
            parts.append(_part("part_down", when=written, assign=assign))
        reads = _reads_beside_down(group)
        if update and reads:
            keep = _LINES.join(
                sql.SQL("        NEW.{0} := OLD.{0};").format(sql.Identifier(o.name)) for o in downs
            )
            when = all_of([_equals(direction, 4), any_of([_was(FAILED), *map(self._changed, reads)])])
            parts.append(_part("part_down_again", when=when, assign=assign, keep=keep))
        return parts

    def _when(
        self, group: ColumnGroup, kinds: tuple[int, int], reads: Sequence[str], *, update: bool
    ) -> sql.Composable:
        written, again = (_equals(_variable("d", group), kind) for kind in kinds)
        if not update or not reads:
            return written
        return any_of([written, all_of([again, any_of(map(self._changed, reads))])])

    # --- recording failures -------------------------------------------------------------------------------------------

    def _failed(self) -> dict[str, sql.Composable]:
        facts: dict[str, sql.Composable] = {
            "rollout": sql.Literal(self.rollout),
            "table_oid": sql.SQL("{}::pg_catalog.oid").format(sql.Literal(self.mapping.oid)),
        }
        groups: list[sql.Composable] = []
        for group in self.mapping.groups:
            wrote = _has(sql.SQL("NEW.{}").format(self.marker), group.bit)
            ups = [n for n in group.new if n.up is not None]
            if ups:
                tries = [_tries_new(ups)] + [self._null_is_failure(n) for n in ups if n.not_null]
                groups.append(
                    _part(
                        "part_failed",
                        when=sql.SQL("NOT {}").format(wrote),
                        **{"try": _LINES.join([sql.SQL("      zdm_try := NEW;"), *tries])},
                        group=sql.Literal(group.name),
                        **facts,
                    )
                )
            downs = [o for o in group.old if o.down is not None]
            if downs:
                tries = [
                    sql.SQL("      zdm_try.{} := {};").format(sql.Identifier(o.name), _over_new(o.down))
                    for o in downs
                ]
                groups.append(
                    _part(
                        "part_failed",
                        when=wrote,
                        **{"try": _LINES.join([sql.SQL("      zdm_try := NEW;"), *tries])},
                        group=sql.Literal(group.name),
                        **facts,
                    )
                )
        return {
            **facts,
            "declare": sql.SQL("  zdm_try pg_catalog.record;"),
            "groups": _LINES.join(groups),
            "old_key": self._key("OLD"),
            "new_key": self._key("NEW"),
        }

    def _null_is_failure(self, new: NewColumn) -> sql.Composable:
        message = f"up gives NULL for {_human(new.final)}, which the new version declares NOT NULL"
        return sql.SQL(
            "      IF zdm_try.{} IS NULL THEN RAISE EXCEPTION USING ERRCODE = '23502', MESSAGE = {}; END IF;"
        ).format(sql.Identifier(new.name), sql.Literal(message))

    def _key(self, row: str) -> sql.Composable:
        pairs = [
            sql.SQL("{}, {}.{}").format(sql.Literal(name), trusted(row), sql.Identifier(name))
            for name in self.mapping.key
        ]
        return sql.SQL("jsonb_build_object({})").format(comma(pairs))


# --- pieces -----------------------------------------------------------------------------------------------------------
#
# zdm_d<n> is the direction decided for group n: 0 nothing, 1 up because the old side was written or the row is not filled,
# 2 down because the new side was written, 3 up if a column that up reads changed, 4 down if one that down reads changed.
# zdm_f<n>: group n of the row is not filled yet, or could not be derived.

_DECLARE = sql.SQL(
    "  zdm_try pg_catalog.record;\n  zdm_path pg_catalog.text := pg_catalog.current_setting('search_path');"
)

_DECIDE_BOTH = """  {name}
  {f} := {fresh};
  IF {f} AND {named} AND ({unsettled} OR {new}) THEN
{refuse}
    {d} := 2;
  ELSIF {f} THEN
    {d} := 1;
  ELSIF {new} AND ({named} OR NOT {old}) THEN
    {d} := 2;
  ELSIF {old} THEN
    {d} := 1;
  ELSIF {was} AND {named} THEN
    {d} := 1;
  ELSIF {was} THEN
    {d} := 4; {own}
  ELSIF {named} THEN
    {d} := 2;
  ELSE
    {d} := 3;
  END IF;"""

_DECIDE_ADDED = """  {name}
  {f} := {fresh};
  IF {f} AND {named} THEN
{refuse}
  END IF;
  IF {new} OR {was} OR ({named} AND ({unsettled} OR NOT {f})) THEN
    {own}
  ELSIF {f} THEN
    {d} := 1;
  ELSE
    {d} := 3;
  END IF;"""

_DECIDE_DROPPED = """  {name}
  IF {was} AND NOT {old} AND NOT {named} THEN
    {d} := 4; {own}
  END IF;"""

_SETTLE_NEW = """  IF {d} OPERATOR(pg_catalog.=) 2 THEN
{follows}
    IF zdm_agree THEN {d} := 3; ELSE {own} END IF;
  END IF;"""

# A row that comes with a settled marker was moved here from another partition, or is copied or restored. If both sides agree
# as the marker says, they stay; to decide anew who wrote them would be to guess.
_INSERT = """  zdm_agree := COALESCE(NEW.{marker} OPERATOR(pg_catalog.>=) 0, false) AND NOT {failed};
  IF zdm_agree THEN
{whole}
  END IF;
  IF zdm_agree THEN
    zdm_bits := zdm_was OPERATOR(pg_catalog.&) {groups};
  ELSE
{decide}
  END IF;"""

_INSERT_BOTH = """  {name}
  IF {view} THEN
    {d} := 2; {own}
  ELSIF {failed} OR NOT {given} THEN
    {d} := 1;
  ELSE
    IF {complete} THEN
{follows}
    ELSE
      zdm_agree := false;
    END IF;
    IF zdm_agree THEN
      NULL;
    ELSIF NOT {supplied} THEN
      {d} := 2; {own}
    ELSE
{leads}
      IF zdm_agree THEN
        {own}
      ELSE
        {policy}
      END IF;
    END IF;
  END IF;"""

_INSERT_ADDED = """  {name}
  IF zdm_view OR ({given} AND NOT {failed}) THEN
    {own}
  ELSE
    {d} := 1;
  END IF;"""

_INSERT_DROPPED = """  {name}
  IF zdm_view OR {missing} OR ({elsewhere} AND NOT {supplied}) THEN
    {d} := 2; {own}
  END IF;"""

_BOTH = """  {name}
  IF CAST(TG_ARGV[0] AS integer) OPERATOR(pg_catalog.=) {number} THEN
    IF NOT {new} THEN
      IF NOT {last} THEN {withdraw} END IF;
    ELSIF {old} THEN
{follows}
      IF NOT zdm_agree THEN
{leads}
      END IF;
      IF NOT zdm_agree THEN
        {policy}
      END IF;
    END IF;
  END IF;"""


def _function_name(mapping: TableMapping, rollout: int, purpose: str) -> str:
    return f"sync_{rollout}_{mapping.oid}_{purpose}"


def _text(statement: sql.Composable) -> str:
    return statement.as_string(None)


def _part(template: str, **pieces: sql.Composable) -> sql.Composed:
    return load(template).fill(**pieces)


def _fields(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def _comment(name: str) -> sql.SQL:
    """A line comment that names a group; nothing in the name may end it."""
    return trusted("-- " + " ".join(name.split()))


def _variable(kind: str, group: ColumnGroup) -> sql.SQL:
    return trusted(f"zdm_{kind}{group.number}")


def _own(group: ColumnGroup) -> sql.SQL:
    """The new side of the group wrote last."""
    return trusted(f"zdm_bits := zdm_bits OPERATOR(pg_catalog.|) {group.bit};")


def _equals(variable: sql.Composable, value: int) -> sql.Composed:
    return sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(variable, sql.Literal(value))


def _has(marker: sql.Composable, bits: int) -> sql.Composed:
    return sql.SQL("(({} OPERATOR(pg_catalog.&) {}) OPERATOR(pg_catalog.<>) 0)").format(
        marker, sql.Literal(bits)
    )


def _was(bits: int) -> sql.Composed:
    return _has(sql.SQL("zdm_was"), bits)


def _over_new(expression: Expression | None) -> sql.Composed:
    assert expression is not None
    return expression.render(lambda name: sql.SQL("NEW.{}").format(sql.Identifier(name)))


def _tries_new(columns: Iterable[NewColumn]) -> sql.Composed:
    made: list[sql.Composable] = []
    for new in columns:
        value = _over_new(new.up) if new.up is not None else filled_once(new)
        if value is not None:
            made.append(sql.SQL("      zdm_try.{} := {};").format(sql.Identifier(new.name), value))
    return _LINES.join(made)


def _changed(name: str, comparison: Comparison, type_: str) -> sql.Composable:
    old, new = (sql.SQL("{}.{}").format(sql.SQL(row), sql.Identifier(name)) for row in ("OLD", "NEW"))
    return differs(new, old, comparison, type_)


def _old_changed(group: ColumnGroup) -> sql.Composable:
    return any_of(_changed(o.name, o.comparison, o.type) for o in group.old)


def _reads_beside_up(group: ColumnGroup) -> list[str]:
    """What `up` reads besides the group's own old side."""
    own = {o.name for o in group.old}
    return [name for name in group.reads_of_up if name not in own]


def _reads_beside_down(group: ColumnGroup) -> list[str]:
    """What `down` reads besides the group's own columns; it may write a part of an old one, and read the rest."""
    own = {n.name for n in group.new} | {o.name for o in group.old}
    return [name for name in group.reads_of_down if name not in own]


def _new_changed(group: ColumnGroup) -> sql.Composable:
    return any_of(_changed(n.name, n.comparison, n.type) for n in group.new)


def _try(columns: Sequence[NewColumn] | Sequence[OldColumn]) -> sql.Composable:
    """Sets zdm_agree: what derives the columns gives what the row holds."""
    made = [(column, column.up if isinstance(column, NewColumn) else column.down) for column in columns]
    assign = _LINES.join(
        sql.SQL("      zdm_try.{} := {};").format(sql.Identifier(column.name), _over_new(expression))
        for column, expression in made
    )
    result = _same([(column.name, column.comparison, column.type) for column in columns])
    return _part("part_try", assign=assign, result=result)


def _same(columns: Iterable[tuple[str, Comparison, str]]) -> sql.Composable:
    """Whether what was tried is what the row holds."""
    make: Callable[[str, str], sql.Composable] = lambda row, name: sql.SQL("{}.{}").format(  # noqa: E731
        trusted(row), sql.Identifier(name)
    )
    return sql.SQL("NOT {}").format(
        any_of(differs(make("NEW", name), make("zdm_try", name), how, type_) for name, how, type_ in columns)
    )


def _supplied(old: OldColumn) -> sql.Composable:
    """Whether an INSERT certainly gave the old column its value: it is neither a default nor an identity's number."""
    column = sql.SQL("NEW.{}").format(sql.Identifier(old.name))
    if old.default is None:
        if old.not_null and old.type in _IDENTITY_TYPES:
            return sql.SQL("false")
        return sql.SQL("{} IS NOT NULL").format(column)
    if not _CONSTANT.fullmatch(old.default):
        return sql.SQL("false")
    return differs(column, sql.SQL("({})").format(trusted(old.default)), old.comparison, old.type)


def _human(name: str) -> str:
    return f'"{name}"'
