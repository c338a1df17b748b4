"""What the sync functions of one table do: which side a statement wrote, and what follows from it.

The rules are in ``docs/architecture.md``, the SQL in ``triggers/part_*.sql``; here the pieces are chosen and filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from zdm.model.mapping import (
    FAILED,
    FIRST_GROUP_BIT,
    MAX_GROUPS,
    Authority,
    ColumnGroup,
    Conflict,
    Expose,
    NewColumn,
    SharedParent,
    TableMapping,
)
from zdm.sql.copies import copy, refers, unfound
from zdm.sql.identifiers import all_of, any_of, comma, qualified_name, trusted
from zdm.sql.pairs import dangling
from zdm.sql.rows import filled_once
from zdm.sql.sync_conditions import (
    EMPTY,
    LINES,
    calls_of,
    changed_in,
    comment,
    equals,
    has,
    human,
    new_changed,
    old_changed,
    over_new,
    own,
    part,
    raising,
    reads_beside_down,
    reads_beside_up,
    same,
    supplied,
    tried,
    tries_new,
    two_sided,
    variable,
    was,
)
from zdm.sql.templates import load

_ALL_GROUPS = ((1 << MAX_GROUPS) - 1) << FIRST_GROUP_BIT

_SETTLES = sql.SQL("(pg_catalog.current_setting('zdm.settling', true) IS NOT DISTINCT FROM 'on')")
"""zdm itself settles the row (`rows.SETTLING`)."""

_DECLARE = sql.SQL(
    "  zdm_try pg_catalog.record;\n  zdm_path pg_catalog.text := pg_catalog.current_setting('search_path');"
)


@dataclass(frozen=True)
class FunctionBodies:
    """The pieces of each function's template, for one mapping under one authority.

    zdm_d<n> is the direction decided for group n: 0 nothing, 1 up because the old side was written or the row is not filled,
    2 down because the new side was written, 3 up if a column that up reads changed, 4 down if one that down reads changed.
    zdm_f<n>: group n of the row is not filled yet, or could not be derived.
    """

    mapping: TableMapping
    rollout: int
    authority: Authority

    @property
    def marker(self) -> sql.Identifier:
        return sql.Identifier(self.mapping.marker)

    @property
    def table(self) -> sql.Identifier:
        return qualified_name(self.mapping.table)

    def insert(self) -> dict[str, sql.Composable]:
        decide = part(
            "part_insert",
            marker=self.marker,
            failed=was(FAILED),
            whole=LINES.join(self._settled_as(group) for group in self.mapping.groups),
            groups=sql.Literal(_ALL_GROUPS),
            decide=LINES.join(self._decide_insert(group) for group in self.mapping.groups),
        )
        return self._body(LINES.join([*self._copied(), decide]), update=False)

    def _copied(self) -> list[sql.Composable]:
        """Takes the new key from a copy of another row. Only where the old version alone can copy the marker."""
        if self.mapping.marker_in_view or self.mapping.expose is Expose.COLUMNS:
            return []
        return [
            part(
                "part_copied",
                marker=self.marker,
                table=self.table,
                old=sql.Identifier(group.old[0].name),
                new=sql.Identifier(group.new[0].name),
            )
            for group in self.mapping.groups
            if group.pairs is not None
        ]

    def _settled_as(self, group: ColumnGroup) -> sql.Composable:
        """Sets zdm_agree to false if the group does not hold what the row's marker says of it."""
        if group.copied is not None:
            # Looked up in any case: the row that is referred to must be held.
            return comment(group.name)
        ups = [n for n in group.new if n.up is not None]
        downs = [o for o in group.old if o.down is not None]
        promised = [
            sql.SQL("NEW.{} IS NOT NULL").format(sql.Identifier(n.name)) for n in group.new if n.not_null
        ]
        parts: list[sql.Composable] = [comment(group.name)]
        if promised:
            parts.append(sql.SQL("IF NOT {} THEN zdm_agree := false; END IF;").format(all_of(promised)))
        text = sql.SQL("IF zdm_agree AND {} THEN\n{}\nEND IF;")
        for columns, wrote in ((ups, sql.SQL("NOT {}").format(was(group.bit))), (downs, was(group.bit))):
            if columns and group.parent is not None:
                asked = self._asks_parent(group) if columns is ups else self._asks_back(group)
                parts.append(text.format(wrote, asked))
            elif columns:
                parts.append(text.format(wrote, tried(columns)))
        return LINES.join(parts)

    def settle(self) -> dict[str, sql.Composable]:
        decide = LINES.join(self._decide_update(group) for group in self.mapping.groups)
        return {**self._body(decide, update=True), "groups": sql.Literal(_ALL_GROUPS)}

    def _body(self, decide: sql.Composable, *, update: bool) -> dict[str, sql.Composable]:
        names = [f"  zdm_d{group.number} integer := 0;" for group in self.mapping.groups]
        names += [
            f"  zdm_f{group.number} boolean := {'false' if update else 'true'};"
            for group in self.mapping.groups
        ]
        return {
            "declare": LINES.join([trusted("\n".join(names)), _DECLARE, *self._looking()]),
            "enter": part("part_enter"),
            "leave": LINES.join([*self._unless_waiting(), part("part_leave")]),
            "decide": decide,
            "derive": LINES.join([self._derive(update=update), *self._guards(update=update)]),
        }

    def _looking(self) -> list[sql.Composable]:
        if not self.mapping.looks_up:
            return []
        return [sql.SQL("  zdm_wait boolean := false;\n  zdm_filled boolean;")]

    def _unless_waiting(self) -> list[sql.Composable]:
        return [part("part_lookup_leave", marker=self.marker)] if self.mapping.looks_up else []

    def _guards(self, *, update: bool) -> list[sql.Composable]:
        """For each key that stands twice: whoever gives a row a key waits for whoever is giving it to another one."""
        made: list[sql.Composable] = []
        for number, key in enumerate(self.mapping.guarded):
            columns = [sql.SQL("NEW.{}").format(sql.Identifier(name)) for name in key]
            when = all_of(sql.SQL("{} IS NOT NULL").format(column) for column in columns)
            if update:
                when = all_of([any_of(changed_in(self.mapping, name) for name in key), when])
            same = all_of(
                sql.SQL("zdm_table.{0} OPERATOR(pg_catalog.=) NEW.{0}").format(sql.Identifier(name))
                for name in key
            )
            if self.mapping.has_children:
                # A key is each table's own there, and another one's row of the same key is in nobody's way.
                same = sql.SQL("zdm_table.tableoid OPERATOR(pg_catalog.=) TG_RELID AND {}").format(same)
            made.append(
                part(
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
            self.marker, was(FAILED), was(group.bit)
        )
        pieces = {
            "name": comment(group.name),
            "fresh": fresh,
            "f": variable("f", group),
            "d": variable("d", group),
            "named": has(sql.SQL("zdm_named"), group.bit),
            "was": was(group.bit),
            "own": own(group),
            "old": old_changed(group),
            "new": new_changed(group),
            "refuse": self._refuse_unfilled(group),
            "unsettled": sql.SQL("OLD.{} IS NULL").format(self.marker),
        }
        if group.parent is not None:
            template = "part_decide_parent"
            # Only where it can matter: whoever changes the row would wait for whoever changes the parent that it had, and he for him.
            pieces["leads"] = (
                sql.SQL("    zdm_agree := false;") if group.parent.exact else self._asks_back(group)
            )
            pieces["beside"] = self._beside_changed(group)
            if group.noted is not None:
                template = "part_decide_logged"
        elif group.copied is not None:
            template = "part_decide_copied"
            pieces["refers"] = refers(self.mapping, group.copied)
        elif group.new and group.old:
            template = "part_decide_both"
        elif group.new:
            template = "part_decide_added"
        else:
            template = "part_decide_dropped"
        made = part(template, **{key: pieces[key] for key in load(template).parameters})
        return LINES.join([made, self._keep_paired(group)]) if group.pairs is not None else made

    def _beside_changed(self, group: ColumnGroup) -> sql.Composable:
        """Whether what else `up` reads changed, or what that follows from, which comes to it only afterwards."""
        beside = reads_beside_up(group)
        found = [changed_in(self.mapping, name) for name in beside]
        found += [
            new_changed(other)
            for other in two_sided(self.mapping)
            if any(old.name in beside and old.down is not None for old in other.old)
        ]
        return any_of(found)

    def _keep_paired(self, group: ColumnGroup) -> sql.Composable:
        """What may become of a new key once the row has one."""
        new = group.new[0]
        return part(
            "part_paired",
            new=sql.Identifier(new.name),
            changed=new_changed(group),
            early=sql.Literal(self.authority is Authority.OLD),
            missing=self._raise(
                code="23502",
                message=f"null value written to {human(new.final)} of {self.mapping.table}, which is the new version's key",
                detail=f"While a schema migration runs, the row's new key is stored as {human(new.name)}.",
                hint="Leave the key out of the statement.",
                column=new.name,
            ),
            refuse=self._raise(
                code="55000",
                message=f"{human(new.final)} of {self.mapping.table} cannot be given another value before switchover",
                detail="It is the new version's key, and no foreign key takes the rows along yet that refer to it.",
                hint="Change it after switchover, or let the row keep it.",
                column=new.name,
            ),
        )

    def _refuse_unfilled(self, group: ColumnGroup) -> sql.Composable:
        """Rule 7."""
        derived = [n for n in group.new if n.up is not None or filled_once(n) is not None]
        if not derived:
            return EMPTY
        missing = [
            sql.SQL("(NEW.{0} IS NULL AND OLD.{0} IS NULL)").format(sql.Identifier(n.name)) for n in derived
        ]
        fits = [
            sql.SQL("(NEW.{0} IS NOT NULL OR OLD.{0} IS NOT NULL OR {1})").format(
                sql.Identifier(n.name), self._gives_null(group, n)
            )
            for n in derived
        ]
        new = ", ".join(human(n.final) for n in group.new)
        reads = [c for c in group.reads_of_up if self._is_old(c)] or list(group.reads_of_up)
        source = ", ".join(human(c) for c in reads)
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
        if group.lookup is not None:
            # Not found, or not filled yet, says nothing of what NULL means.
            refers = sql.SQL("NEW.{} IS NOT NULL").format(sql.Identifier(group.old[0].name))
            return sql.SQL("    IF {} THEN\n{}\n    END IF;").format(
                all_of([any_of(missing), refers]), refusal
            )
        return sql.SQL("    IF {} THEN\n{}\n    IF NOT zdm_agree THEN\n{}\n    END IF;\n    END IF;").format(
            any_of(missing),
            part(
                "part_try",
                assign=EMPTY if group.parent is not None else tries_new(derived),
                result=all_of(fits),
            ),
            refusal,
        )

    def _gives_null(self, group: ColumnGroup, new: NewColumn) -> sql.Composable:
        """Whether `up` gave the column nothing, once it was tried; a parent is not made for the question."""
        if group.parent is not None:
            return sql.SQL("NOT {}(NEW)").format(calls_of(group.parent, self.rollout, "wanted"))
        return sql.SQL("zdm_try.{} IS NULL").format(sql.Identifier(new.name))

    def _asks_parent(self, group: ColumnGroup) -> sql.Composable:
        """Sets zdm_agree: the row refers to the parent that its old side says. None is made for the question."""
        assert group.parent is not None
        held = sql.SQL("{}(NEW)").format(calls_of(group.parent, self.rollout, "held"))
        return part("part_try", assign=EMPTY, result=held)

    def _asks_back(self, group: ColumnGroup) -> sql.Composable:
        """Sets zdm_agree: the row's old side is what its parent says."""
        assert group.parent is not None
        back = sql.SQL("      zdm_try := {}(NEW);").format(calls_of(group.parent, self.rollout, "back"))
        return part("part_try", assign=back, result=same([(o.name, o.comparison, o.type) for o in group.old]))

    def _is_old(self, name: str) -> bool:
        return any(o.name == name for group in self.mapping.groups for o in group.old)

    def _decide_insert(self, group: ColumnGroup) -> sql.Composable:
        if group.copied is not None:
            return comment(group.name)
        given = any_of(sql.SQL("NEW.{} IS NOT NULL").format(sql.Identifier(n.name)) for n in group.new)
        elsewhere = any_of(
            sql.SQL("NEW.{} IS NOT NULL").format(sql.Identifier(n.name))
            for g in self.mapping.groups
            for n in g.new
        )
        pieces: dict[str, sql.Composable] = {
            "name": comment(group.name),
            "d": variable("d", group),
            "own": own(group),
            "given": given,
            "elsewhere": elsewhere,
            "supplied": any_of(supplied(o) for o in group.old),
            # Without views nothing shows who inserts. But the old application supplies what is NOT NULL, or fails.
            "missing": any_of(
                sql.SQL("NEW.{} IS NULL").format(sql.Identifier(o.name))
                for o in group.old
                if o.not_null and self.mapping.expose is Expose.COLUMNS
            ),
            "failed": all_of([was(FAILED), sql.SQL("NOT {}").format(was(group.bit))]),
            # A row that the new version inserts without its number has the one that the old column was given.
            "view": all_of([sql.SQL("zdm_view"), given])
            if group.pairs is not None or any(n.numbered for n in group.new)
            else sql.SQL("zdm_view"),
        }
        if group.new and group.old:
            template = "part_insert_both"
            pieces["follows"] = self._try_new(group)
            pieces["complete"] = all_of(
                sql.SQL("NEW.{} IS NOT NULL").format(sql.Identifier(o.name)) for o in group.old
            )
            pieces["leads"] = self._try_old(group)
            pieces["policy"] = self._policy_insert(group)
        elif group.new:
            template = "part_insert_added"
        else:
            template = "part_insert_dropped"
        return part(template, **{key: pieces[key] for key in load(template).parameters})

    def _policy_insert(self, group: ColumnGroup) -> sql.Composable:
        match self._policy(group):
            case Conflict.OLD:
                return sql.SQL("{} := 1;").format(variable("d", group))
            case Conflict.NEW:
                return sql.SQL("{} := 2; {}").format(variable("d", group), own(group))
            case _:
                return self._conflict(group)

    def both(self) -> dict[str, sql.Composable]:
        groups = [self._decide_both(group) for group in two_sided(self.mapping)]
        return {
            "declare": _DECLARE,
            "enter": part("part_enter"),
            "leave": part("part_leave"),
            "groups": LINES.join(groups),
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
        return part(
            "part_both",
            name=comment(group.name),
            number=sql.Literal(group.number),
            new=new_changed(group),
            old=old_changed(group),
            withdraw=withdraw,
            last=has(sql.SQL("COALESCE(OLD.{}, 0)").format(self.marker), group.bit),
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
            ", ".join(map(human, names))
            for names in ([o.name for o in group.old], [n.final for n in group.new])
        )
        stored = ", ".join(human(n.name) for n in group.new)
        return self._raise(
            code="23000",
            message=f"the statement writes both the old {old} and the new {new} of {self.mapping.table}, and they disagree",
            detail=f"While a schema migration runs, {new} (stored as {stored}) is the new form of {old}: one has to "
            "follow from the other.",
            hint="Write one of them and the other follows, or write both so that they agree.",
            column=group.new[0].name,
        )

    def _raise(self, *, code: str, message: str, detail: str, hint: str, column: str) -> sql.Composed:
        return raising(self.mapping, code=code, message=message, detail=detail, hint=hint, column=column)

    def _try_new(self, group: ColumnGroup) -> sql.Composable:
        """Sets zdm_agree: the new side follows from the old. Not asked where a part of it follows from nothing."""
        if any(n.up is None for n in group.new) or self._up_reads_others(group):
            return sql.SQL("    zdm_agree := false;")
        if group.parent is not None:
            return self._asks_parent(group)
        return part(
            "part_try",
            assign=tries_new(group.new),
            result=same([(n.name, n.comparison, n.type) for n in group.new]),
        )

    def _try_old(self, group: ColumnGroup) -> sql.Composable:
        """Sets zdm_agree: the old side follows from the new."""
        if not group.two_way or self._down_reads_others(group):
            return sql.SQL("    zdm_agree := false;")
        if group.parent is not None:
            return self._asks_back(group)
        assign = LINES.join(
            sql.SQL("      zdm_try.{} := {};").format(sql.Identifier(o.name), over_new(o.down))
            for o in group.old
            if o.down is not None
        )
        return part(
            "part_try", assign=assign, result=same([(o.name, o.comparison, o.type) for o in group.old])
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
        settled = [self._settle_new(g) for g in groups if update and g.new and g.old and g.noted is None]
        # What a row's parent says is held against the other columns of the natural key, so it comes last.
        back = sorted(groups, key=lambda g: g.parent is not None)
        downs = [p for g in back for p in self._down(g, update=update)]
        ups = [p for g in groups for p in self._up(g, update=update)]
        if not any(map(self._down_reads_others, groups)):
            order = [*downs, *ups]
        elif not any(map(self._up_reads_others, groups)):
            order = [*ups, *downs]
        else:
            order = [*downs, *ups, *downs, *ups]
        notes = [self._note(g, g.noted, update=update) for g in groups if g.noted is not None]
        return LINES.join([*settled, *order, *notes])

    def _note(self, group: ColumnGroup, parent: SharedParent, *, update: bool) -> sql.Composable:
        """What a write of the group leaves to the reconciler."""
        direction = variable("d", group)
        written: sql.Composable = sql.SQL("{} OPERATOR(pg_catalog.<>) 0").format(direction)
        event: sql.Composable = sql.Literal("insert")
        was_called: sql.Composable = sql.NULL
        if update:
            moved = any_of(changed_in(self.mapping, name) for name in self.mapping.key)
            written = any_of([written, moved])
            event = sql.SQL("CASE WHEN {} THEN 'key' ELSE 'update' END").format(moved)
            was_called = sql.SQL("CASE WHEN {} THEN {} END").format(moved, self._key_text("OLD"))
        return part(
            "part_note",
            when=all_of([written, sql.SQL("NOT {}").format(_SETTLES)]),
            rollout=sql.Literal(self.rollout),
            number=sql.Literal(parent.number),
            wrote=has(sql.SQL("zdm_bits"), group.bit),
            d=direction,
            event=event,
            key=self._key_text("NEW"),
            was=was_called,
        )

    def _key_text(self, row: str) -> sql.Composable:
        """The row's key as the log has it."""
        texts = (
            sql.SQL("{}.{}::pg_catalog.text").format(trusted(row), sql.Identifier(name))
            for name in self.mapping.key
        )
        return sql.SQL("ARRAY[{}]").format(comma(texts))

    def _settle_new(self, group: ColumnGroup) -> sql.Composable:
        """Rule 3: what the new side wrote may agree already."""
        return part("part_settle_new", d=variable("d", group), own=own(group), follows=self._try_new(group))

    def _look_up(self, group: ColumnGroup, *, update: bool) -> list[sql.Composable]:
        assert group.lookup is not None
        direction = variable("d", group)
        return [
            part(
                "part_lookup_up",
                when=equals(direction, 1),
                old=sql.Identifier(group.old[0].name),
                new=sql.Identifier(group.new[0].name),
                wrote=old_changed(group) if update else sql.SQL("true"),
                view=qualified_name(group.lookup.pairs),
                **self._itself(group, "old"),
            )
        ]

    def _itself(self, group: ColumnGroup, by: str) -> dict[str, sql.Composable]:
        """Whether the row refers to itself, and its own key of the other version."""
        assert group.lookup is not None
        key = next((g for g in self.mapping.groups if g.pairs == group.lookup.pairs), None)
        if key is None:
            return {"itself": sql.SQL("false"), "own": sql.NULL}
        old, new = (sql.SQL("NEW.{}").format(sql.Identifier(c[0].name)) for c in (key.old, key.new))
        refers = group.old[0].name if by == "old" else group.new[0].name
        mine, other = (old, new) if by == "old" else (new, old)
        itself = sql.SQL("COALESCE(NEW.{} OPERATOR(pg_catalog.=) {}, false)").format(
            sql.Identifier(refers), mine
        )
        return {"itself": itself, "own": other}

    def _look_down(self, group: ColumnGroup) -> list[sql.Composable]:
        assert group.lookup is not None
        old, new = group.old[0], group.new[0]
        return [
            part(
                "part_lookup_down",
                when=equals(variable("d", group), 2),
                old=sql.Identifier(old.name),
                new=sql.Identifier(new.name),
                view=qualified_name(group.lookup.pairs),
                **self._itself(group, "new"),
                refuse=self._raise(
                    code="23503",
                    message=f"{human(new.final)} of {self.mapping.table} refers to a row of {group.lookup.table} that is not there",
                    detail=f"Until cleanup the row's {human(old.name)} must name the same row, whose old key is not known.",
                    hint="Insert the row that is referred to first, in a statement before this one.",
                    column=new.name,
                ),
            )
        ]

    def _up(self, group: ColumnGroup, *, update: bool) -> list[sql.Composable]:
        if group.lookup is not None:
            return self._look_up(group, update=update)
        if group.copied is not None:
            return [copy(self.mapping, group, group.copied, update=update)]
        assign: list[sql.Composable] = [
            sql.SQL("      NEW.{} := {};").format(sql.Identifier(n.name), over_new(n.up))
            for n in group.new
            if n.up is not None
        ]
        if group.parent is not None:
            assign = self._takes(group, group.parent, "NEW")
        once = [n for n in group.new if filled_once(n) is not None]
        for new in once:
            value = over_new(new.fill) if new.fill is not None else filled_once(new)
            assert value is not None
            assign.append(
                sql.SQL(
                    "      IF {f} AND {d} = 1 AND NEW.{c} IS NULL THEN NEW.{c} := {value}; END IF;"
                ).format(
                    f=variable("f", group), d=variable("d", group), c=sql.Identifier(new.name), value=value
                )
            )
        if not assign:
            return []
        derived = [n for n in group.new if n.up is not None]
        promised = [n for n in group.new if n.not_null and (n.up is not None or n in once)]
        keep = [
            sql.SQL("        NEW.{0} := {1};").format(
                sql.Identifier(n.name),
                # A row refers to no parent that it has not.
                sql.SQL("OLD.{}").format(sql.Identifier(n.name))
                if update and group.parent is None
                else sql.NULL,
            )
            for n in derived
        ]
        when = self._when(group, (1, 3), reads_beside_up(group), update=update)
        if group.noted is not None:
            when = all_of([when, _SETTLES])
        return [
            part(
                "part_up",
                when=when,
                assign=LINES.join(assign),
                unless=any_of(sql.SQL("NEW.{} IS NULL").format(sql.Identifier(n.name)) for n in promised),
                keep=LINES.join(keep),
            )
        ]

    def _down(self, group: ColumnGroup, *, update: bool) -> list[sql.Composable]:
        downs = [o for o in group.old if o.down is not None]
        if not downs or group.noted is not None:
            return []
        if group.lookup is not None:
            return self._look_down(group)
        assigned: list[sql.Composable] = [
            sql.SQL("    NEW.{} := {};").format(sql.Identifier(o.name), over_new(o.down)) for o in downs
        ]
        if group.parent is not None:
            assigned = [
                sql.SQL("    zdm_try := {}(NEW);").format(calls_of(group.parent, self.rollout, "back"))
            ]
            assigned += [sql.SQL("    NEW.{0} := zdm_try.{0};").format(sql.Identifier(o.name)) for o in downs]
        assign = LINES.join(assigned)
        direction = variable("d", group)
        parts: list[sql.Composable] = []
        if group.new or not update:
            written = equals(direction, 2)
            parts.append(part("part_down", when=written, assign=assign))
        reads = reads_beside_down(group)
        if update and reads:
            keep = LINES.join(
                sql.SQL("        NEW.{0} := OLD.{0};").format(sql.Identifier(o.name)) for o in downs
            )
            when = all_of(
                [
                    equals(direction, 4),
                    any_of([was(FAILED), *(changed_in(self.mapping, name) for name in reads)]),
                ]
            )
            parts.append(part("part_down_again", when=when, assign=assign, keep=keep))
        return parts

    def _takes(self, group: ColumnGroup, parent: SharedParent, row: str) -> list[sql.Composable]:
        """Assigns the reference of the parent that the old side says; one that is not there is made."""
        take = calls_of(parent, self.rollout, "take")
        return [
            sql.SQL("      {}.{} := ({}(NEW)).{};").format(
                trusted(row), sql.Identifier(n.name), take, sql.Identifier(name)
            )
            for n, name in zip(group.new, parent.identity, strict=True)
        ]

    def _when(
        self, group: ColumnGroup, kinds: tuple[int, int], reads: Sequence[str], *, update: bool
    ) -> sql.Composable:
        written, again = (equals(variable("d", group), kind) for kind in kinds)
        if not update or not reads:
            return written
        return any_of([written, all_of([again, any_of(changed_in(self.mapping, name) for name in reads)])])

    # --- recording failures -------------------------------------------------------------------------------------------

    def failed(self) -> dict[str, sql.Composable]:
        facts: dict[str, sql.Composable] = {
            "rollout": sql.Literal(self.rollout),
            "table_oid": sql.SQL("{}::pg_catalog.oid").format(sql.Literal(self.mapping.oid)),
        }
        groups: list[sql.Composable] = []
        for group in self.mapping.groups:
            wrote = has(sql.SQL("NEW.{}").format(self.marker), group.bit)
            ups = [n for n in group.new if n.up is not None]
            if ups:
                tries: list[sql.Composable] = [tries_new(ups)]
                if group.parent is not None:
                    tries = self._takes(group, group.parent, "zdm_try")
                tries += [self._null_is_failure(n) for n in ups if n.not_null]
                if group.lookup is not None:
                    tries = [tries_new(ups), self._dangling_is_failure(group)]
                if group.copied is not None:
                    tries = [tries_new(ups), unfound(group, group.copied)]
                groups.append(
                    part(
                        "part_failed",
                        when=sql.SQL("NOT {}").format(wrote),
                        **{"try": LINES.join([sql.SQL("      zdm_try := NEW;"), *tries])},
                        group=sql.Literal(group.name),
                        **facts,
                    )
                )
            downs = [o for o in group.old if o.down is not None]
            # What a parent says is never tried for somebody who did not write the reference.
            if downs and group.parent is None:
                tries = [
                    sql.SQL("      zdm_try.{} := {};").format(sql.Identifier(o.name), over_new(o.down))
                    for o in downs
                ]
                groups.append(
                    part(
                        "part_failed",
                        when=wrote,
                        **{"try": LINES.join([sql.SQL("      zdm_try := NEW;"), *tries])},
                        group=sql.Literal(group.name),
                        **facts,
                    )
                )
        return {
            **facts,
            "declare": sql.SQL("  zdm_try pg_catalog.record;"),
            "groups": LINES.join(groups),
            "old_key": self._key("OLD"),
            "new_key": self._key("NEW"),
        }

    def _null_is_failure(self, new: NewColumn) -> sql.Composable:
        message = f"up gives NULL for {human(new.final)}, which the new version declares NOT NULL"
        return sql.SQL(
            "      IF zdm_try.{} IS NULL THEN RAISE EXCEPTION USING ERRCODE = '23502', MESSAGE = {}; END IF;"
        ).format(sql.Identifier(new.name), sql.Literal(message))

    def _dangling_is_failure(self, group: ColumnGroup) -> sql.Composable:
        assert group.lookup is not None
        old, new = group.old[0], group.new[0]
        message = f"{human(old.name)} refers to no row of {group.lookup.table} that has its new key"
        return sql.SQL(
            "      IF {} THEN RAISE EXCEPTION USING ERRCODE = '23503', MESSAGE = {}; END IF;"
        ).format(
            dangling(
                sql.SQL("zdm_try.{}").format(sql.Identifier(new.name)),
                sql.SQL("NEW.{}").format(sql.Identifier(old.name)),
            ),
            sql.Literal(message),
        )

    def late(self) -> dict[str, sql.Composable]:
        """The row by its key, as the statement that wrote it left it."""
        return {
            "only": EMPTY if self.mapping.partitioned else sql.SQL("ONLY "),
            "table": self.table,
            "marker": self.marker,
            "same": all_of(
                sql.SQL("zdm_t.{0} = NEW.{0}").format(sql.Identifier(name)) for name in self.mapping.key
            ),
        }

    def _key(self, row: str) -> sql.Composable:
        pairs = [
            sql.SQL("{}, {}.{}").format(sql.Literal(name), trusted(row), sql.Identifier(name))
            for name in self.mapping.key
        ]
        return sql.SQL("jsonb_build_object({})").format(comma(pairs))
