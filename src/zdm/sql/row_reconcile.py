"""What brings both sides of a row mapping that is synced by log to agree, one key at a time: ``reconcile``, ``move`` and ``expand``."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from zdm.model.row_mapping import MirroredColumn, Presence, RowMapping, RowSide, SideKind, parts_by_field
from zdm.sql import log_fields, row_conditions, row_generator, row_write
from zdm.sql.identifiers import all_of, any_of, column, comma, differs, qualified_name, type_name
from zdm.sql.log_objects import CHANGES, Logged, function_of, keyed
from zdm.sql.row_objects import (
    Function,
    Side,
    failed,
    key_text,
    record_failure,
)
from zdm.sql.rows import render
from zdm.sql.templates import load

OLD, NEW = "zdm_o", "zdm_n"
"""The two rows of a key, as they are under their locks."""

_DECLARED = """\
  zdm_o {old};
  zdm_n {new};
  zdm_has_o pg_catalog.bool;
  zdm_has_n pg_catalog.bool;
  zdm_last_o pg_catalog.int8;
  zdm_last_n pg_catalog.int8;
  zdm_gone_o pg_catalog.int8;
  zdm_gone_n pg_catalog.int8;
  zdm_made_o pg_catalog.int8;
  zdm_made_n pg_catalog.int8;
{parts}
  zdm_from pg_catalog.text;"""


class Reconciling(Logged, row_generator.Generator):
    """The functions that go through what is noted; they are made with the old side's objects."""

    def __init__(self, mapping: RowMapping, rollout: int, side: Side) -> None:
        super().__init__(mapping, rollout, side)
        # Which row a reference names follows from the rest.
        self._parts = [
            part for part in parts_by_field(mapping) if part.new or any(not c.reference for c in part.old)
        ]
        self._fields = log_fields.fields(self._parts)

    def _reads_of(self, alias: str) -> list[sql.Composable]:
        """What this side's row says to each part, as text."""
        return [
            sql.SQL("ROW({})::pg_catalog.text").format(
                comma(
                    column(name, alias) for name in (part.old_reads if self.side == "old" else part.new_reads)
                )
            )
            for part in self._parts
        ]

    def _reconcile(self) -> Function:
        mapping = self.mapping
        old, new = self.table, self.target
        old_key, new_key = (keyed(side, "zdm_s", "zdm_key") for side in (mapping.old, mapping.new))
        name_old, name_new = _named(mapping.old, OLD), _named(mapping.new, NEW)
        both: dict[str, sql.Composable] = {
            "old": old,
            "new": new,
            "old_key": old_key,
            "new_key": new_key,
            "name_old": name_old,
            "name_new": name_new,
        }
        told = ["zdm_last_o", "zdm_last_n", "zdm_gone_o", "zdm_gone_n", "zdm_made_o", "zdm_made_n"]
        asked = [
            _latest(side, what)
            for what in (
                sql.SQL("true"),
                sql.SQL("zdm_c.event OPERATOR(pg_catalog.=) 'delete'"),
                sql.SQL("zdm_c.event OPERATOR(pg_catalog.=) 'insert'"),
            )
            for side in ("old", "new")
        ]
        for number, _ in enumerate(self._parts, 1):
            told += [f"zdm_o{number}", f"zdm_n{number}"]
            claims = sql.SQL("(zdm_c.parts IS NULL OR {} OPERATOR(pg_catalog.=) ANY (zdm_c.parts))").format(
                sql.Literal(number)
            )
            asked += [_latest("old", claims), _latest("new", claims)]
        declared: list[sql.Composable] = [
            sql.SQL("  {} {};").format(sql.Identifier(f"zdm_{side}{number}"), type_name(type_))
            for number, _ in enumerate(self._parts, 1)
            for side, type_ in (("o", "bigint"), ("n", "bigint"), ("w", "text"))
        ]
        declared.append(sql.SQL("  zdm_may pg_catalog.bool;"))
        lazy = sql.Literal(mapping.presence is Presence.NEEDED)
        to_new = sql.SQL("{}(zdm_o, {}, false)").format(row_write.settle(mapping, self.rollout, "new"), lazy)
        to_old: sql.Composable = sql.SQL("{}(zdm_n, {}, false)").format(
            row_write.settle(mapping, self.rollout, "old"),
            sql.Literal(mapping.joins and mapping.presence is Presence.NEEDED),
        )
        failure = sql.SQL(
            "        IF zdm_from OPERATOR(pg_catalog.=) 'new' THEN\n{}\n        ELSE\n{}\n        END IF;"
        ).format(
            record_failure(mapping, self.rollout, mapping.new, NEW),
            record_failure(mapping, self.rollout, mapping.old, OLD),
        )
        forgotten = sql.SQL("      DELETE {};\n      DELETE {};").format(
            failed(mapping, self.rollout, mapping.old, OLD), failed(mapping, self.rollout, mapping.new, NEW)
        )
        decide: sql.Composable = sql.SQL("      zdm_from := 'old';")
        merge: sql.Composable = sql.SQL("")
        again: sql.Composable = sql.SQL("")
        if mapping.one_way:
            to_old = sql.SQL("WHERE false")
        else:
            decide = self._decide()
            merge = self._merge(old_key, new_key)
            missing: sql.Composable = sql.SQL("        NULL;")
            if mapping.old.kind is SideKind.COLUMNS:
                missing = sql.SQL("        PERFORM {};").format(to_new)
                if mapping.old.references:
                    missing = sql.SQL("{}\n{}").format(
                        missing, self._referring(new_key, old_key, name_new, to_old)
                    )
            again = load("log_again").fill(
                **both,
                differ=all_of([self._may(OLD), row_conditions.disagree(mapping, OLD, NEW)]),
                back=to_old,
                forth=to_new,
                missing=missing,
            )
        return self._keyed(
            settings=self._by_index,
            declare=_DECLARED,
            old=old,
            new=new,
            parts=sql.SQL("\n").join(declared),
            read=load("log_reconcile_read").fill(
                **both,
                changes=CHANGES,
                filter=self._here,
                winners=comma(asked),
                told=comma(sql.Identifier(name) for name in told),
                alone=self._alone(new_key),
            ),
            bring=load("log_reconcile").fill(
                changes=CHANGES,
                filter=self._here,
                decide=decide,
                merge=merge,
                settle_new=to_new,
                settle_old=to_old,
                again=again,
            ),
            failure=failure,
            forget=forgotten,
        )

    @property
    def _by_index(self) -> sql.Composable:
        """Plans are made while the table is empty, when to read it in whole looks cheaper than to look into an index that is not unique."""
        return sql.SQL("\n  SET enable_seqscan = off" if self.mapping.new.loose else "")

    def _alone(self, new_key: sql.Composable) -> sql.Composable:
        """Where no index keeps the key unique, one row alone of those that have it has a form on the other side; nobody can tell which."""
        if not self.mapping.new.loose:
            return sql.SQL("")
        return load("log_alone").fill(
            new=self.target,
            new_key=new_key,
            message=sql.Literal(
                f"several rows of {self.mapping.new.table} have the same ({', '.join(self.mapping.new.key)}), and {self.mapping.old.table}"
                " can hold one of them"
            ),
        )

    def _recorded(self, statement: sql.Composable) -> sql.Composable:
        # The reconciler records what is refused; what another row stands in the way of may go later.
        return statement

    def _upsert(self) -> sql.Composable:
        if not self.yours.loose:
            return super()._upsert()
        # The row over here is locked, and so is the one over there, if there is one: nobody else makes it.
        return load("log_write").fill(
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            assigned=comma(
                sql.SQL("{} = {}").format(column(c.name), value)
                for c, value in zip(self.yours.columns, self._values, strict=True)
                if not c.once
            ),
            columns=row_conditions.insert_columns(self.yours),
            values=comma([*(render(value, "zdm_row") for value in self.yours.key_values), *self._values]),
        )

    def _may(self, alias: str) -> sql.Composable:
        where = self.mapping.where
        return sql.SQL("true") if where is None else sql.SQL("({} IS TRUE)").format(render(where, alias))

    def _decide(self) -> sql.Composable:
        lost_new = self._conflict("old", _values(self.mapping.new.followed, NEW), sql.SQL("NULL"))
        if self.mapping.old.kind is SideKind.COLUMNS:
            return load("log_decide_columns").fill(
                may=self._may(OLD), emptied=self._left_empty("old"), lost_new=lost_new
            )
        if self.mapping.joins:
            return load("log_decide_joins").fill(
                emptied=self._left_empty("new"),
                lost_old=self._conflict("new", _values(self.mapping.old.mapped, OLD), sql.SQL("NULL")),
            )
        # A row that a key takes to another partition goes there and comes here: whoever took it has not seen what the old side wrote.
        moves = bool(self.mapping.new.within) and not self.mapping.new.loose
        return load("log_decide_rows").fill(
            may=self._may(OLD),
            unseen=sql.SQL("true") if moves else sql.SQL("zdm_last_o OPERATOR(pg_catalog.>) zdm_gone_n"),
            lost_old=self._conflict("new", _values(self.mapping.old.mapped, OLD), sql.SQL("NULL")),
            lost_new=lost_new,
        )

    def _referring(
        self,
        new_key: sql.Composable,
        old_key: sql.Composable,
        name_new: sql.Composable,
        to_old: sql.Composable,
    ) -> sql.Composable:
        """A reference names the row that there is now, or none."""
        return load("log_referring").fill(
            old=self.table,
            new=self.target,
            old_key=old_key,
            new_key=new_key,
            name_new=name_new,
            astray=row_conditions.disagree(self.mapping, OLD, NEW),
            back=to_old,
            clear=comma(sql.SQL("{} = NULL").format(column(c.name)) for c in self.mapping.old.references),
            refers=any_of(row_conditions.refers(self.mapping.old, "zdm_s")),
        )

    def _left_empty(self, side: Side) -> sql.Composable:
        """The other side's row went: what this side has not written since is empty."""
        other, alias = row_conditions.across(side), OLD if side == "old" else NEW
        mine, theirs = side[0], other[0]
        lines: list[sql.Composable] = []
        assigned: list[sql.Composable] = []
        for number, part in enumerate(self._parts, 1):
            columns = part.old if side == "old" else part.new
            m, t, w = (sql.Identifier(f"zdm_{letter}{number}") for letter in (mine, theirs, "w"))
            held = all_held(columns, alias)
            if part.field:
                held = sql.SQL("{} OPERATOR(pg_catalog.=) ANY ({}({}, {}, true))").format(
                    sql.Literal(number),
                    function_of(self.mapping, self.rollout, "fields_old"),
                    sql.Identifier(alias),
                    sql.Identifier(alias),
                )
            lines.append(
                sql.SQL(
                    "        {w} := CASE WHEN {t} IS NULL OR {m} OPERATOR(pg_catalog.>) {t} OR NOT {held} THEN {side} ELSE {other} END;\n"
                    "        IF {m} IS NOT NULL AND {w} OPERATOR(pg_catalog.=) {other} THEN\n{lost}\n        END IF;"
                ).format(
                    w=w,
                    m=m,
                    t=t,
                    held=held,
                    side=sql.Literal(side),
                    other=sql.Literal(other),
                    lost=self._conflict(other, _values(columns, alias), sql.SQL("NULL")),
                )
            )
            if part.field:
                # The row that went is there once more, with the fields that the document keeps.
                lines.append(
                    sql.SQL("        {} := CASE {} WHEN {} THEN {} END;").format(
                        column(part.new[0].name, NEW), w, sql.Literal(side), render(part.new[0].value, alias)
                    )
                )
                continue
            assigned += [
                sql.SQL("{c} = CASE {w} WHEN {other} THEN {empty} ELSE zdm_t.{c} END").format(
                    c=column(c.name),
                    w=w,
                    other=sql.Literal(other),
                    empty=row_conditions.empty(c, "zdm_t"),
                )
                for c in columns
            ]
        assigned += log_fields.put_back(self._fields, NEW)
        if assigned:
            lines.append(self._written(self.mapping.side(side), side, alias, assigned, other))
        return sql.SQL("\n").join(lines) if lines else sql.SQL("        NULL;")

    def _merge(self, old_key: sql.Composable, new_key: sql.Composable) -> sql.Composable:
        lines: list[sql.Composable] = []
        to_new: list[sql.Composable] = []
        to_old: list[sql.Composable] = []
        for number, part in enumerate(self._parts, 1):
            o, n, w = (sql.Identifier(f"zdm_{letter}{number}") for letter in "onw")
            apart = [any_of(_differ(c, NEW, OLD) for c in part.new)] if part.new else []
            apart += [any_of(_differ(c, OLD, NEW) for c in part.old)] if part.old else []
            lost_old = self._conflict("new", _values(part.old, OLD), _values(part.new, NEW))
            lost_new = self._conflict("old", _values(part.new, NEW), _values(part.old, OLD))
            if not part.old:
                # What repeats a column that stays follows it. A new row was given what that held then.
                lost_old = sql.SQL("            NULL;")
                lost_new = sql.SQL("          IF zdm_made_n IS NULL THEN\n{}\n          END IF;").format(
                    lost_new
                )
            lines.append(
                sql.SQL(
                    "        {w} := NULL;\n"
                    "        IF ({o} IS NOT NULL OR {n} IS NOT NULL) AND {apart} THEN\n"
                    "          {w} := CASE WHEN {n} IS NULL OR {o} OPERATOR(pg_catalog.>) {n} THEN 'old' ELSE 'new' END;\n"
                    "          IF {o} IS NOT NULL AND {w} OPERATOR(pg_catalog.=) 'new' THEN\n{lost_old}\n"
                    "          ELSIF {n} IS NOT NULL AND {w} OPERATOR(pg_catalog.=) 'old' THEN\n{lost_new}\n"
                    "          END IF;\n        END IF;"
                ).format(
                    w=w,
                    o=o,
                    n=n,
                    apart=all_of(apart),
                    lost_old=lost_old,
                    lost_new=lost_new,
                )
            )
            to_new += [_taken(c, w, "old", OLD) for c in part.new]
            to_old += [] if part.field else [_taken(c, w, "new", NEW) for c in part.old]
        again: sql.Composable = sql.SQL("")
        if self._fields:
            # A document gets each field from whoever has won it.
            to_old += log_fields.put_back(self._fields, NEW)
            again = sql.SQL("        SELECT zdm_s.* INTO {} FROM {} AS zdm_s WHERE {};\n").format(
                sql.Identifier(NEW), self.target, new_key
            )
        return load("log_merge").fill(
            parts=sql.SQL("\n").join(lines),
            to_new=self._written(self.mapping.new, "new", NEW, to_new, "old"),
            to_old=sql.SQL("{}{}").format(again, self._written(self.mapping.old, "old", OLD, to_old, "new")),
            old=self.table,
            new=self.target,
            old_key=old_key,
            new_key=new_key,
            may=self._may(OLD),
            lost_new=self._conflict("old", _values(self.mapping.new.followed, NEW), sql.SQL("NULL")),
            disagree=row_conditions.disagree(self.mapping, OLD, NEW),
        )

    def _written(
        self, side: RowSide, name: Side, alias: str, assigned: list[sql.Composable], winner: str
    ) -> sql.Composable:
        """Write one side's row where any part is the other's."""
        if not assigned:
            return sql.SQL("        NULL;")
        flags = comma(sql.Identifier(f"zdm_w{number}") for number, _ in enumerate(self._parts, 1))
        return sql.SQL(
            "        IF {winner} OPERATOR(pg_catalog.=) ANY (ARRAY[{flags}]) THEN\n"
            "          PERFORM pg_catalog.set_config('zdm.row', {guard}, true);\n"
            "          UPDATE {table} AS zdm_t SET {assigned} WHERE {key};\n"
            "          PERFORM pg_catalog.set_config('zdm.row', '', true);\n        END IF;"
        ).format(
            winner=sql.Literal(winner),
            flags=flags,
            guard=self._guard(name, side, alias),
            table=qualified_name(side.table),
            assigned=comma(assigned),
            key=keyed(side, "zdm_t", "zdm_key"),
        )

    def _follow(self) -> Function:
        mapping = self.mapping
        return self._moved(
            load("log_move").fill(
                old=self.table,
                new=self.target,
                old_key=keyed(mapping.old, "zdm_s", "zdm_key"),
                new_key=keyed(mapping.new, "zdm_s", "zdm_key"),
                old_was=keyed(mapping.old, "zdm_s", "zdm_was"),
                new_was=keyed(mapping.new, "zdm_s", "zdm_was"),
                move_new=self._taking("old", "new"),
                move_old=self._taking("new", "old"),
            ),
            load("log_move_noted").fill(changes=CHANGES, filter=self._here),
            settings=self._by_index,
        )

    def _taking(self, leader: Side, follower: Side) -> sql.Composable:
        """Take the row over there along, unless another one has the new key, or the old key is taken again."""
        mine, yours = self.mapping.side(leader), self.mapping.side(follower)
        # A key that no UPDATE may write ends with its row, and another one is made.
        if yours.kind is not SideKind.ROWS or yours.fixed or (follower == "old" and self.mapping.one_way):
            return sql.SQL("      NULL;")
        values: dict[str, sql.Composable] = {
            name: sql.SQL("CAST(zdm_key[{}] AS {})").format(sql.Literal(number), type_name(type_))
            for number, (name, type_) in enumerate(yours.shared, 1)
        }
        assigned = comma(sql.SQL("{} = {}").format(column(name), value) for name, value in values.items())
        values |= {t.name: render(t.value) for t in yours.told}
        guard: sql.Composable = sql.SQL("pg_catalog.concat_ws(':', {}, ROW({})::pg_catalog.text)").format(
            sql.Literal(f"{self.mapping.number}:{follower}"), comma(values[name] for name in yours.key)
        )
        if yours.within:
            # In another partition it is another row, and both are meant.
            guard = sql.Literal(f"{self.mapping.number}:{follower}:*")
        return sql.SQL(
            "      PERFORM pg_catalog.set_config('zdm.row', {guard}, true);\n"
            "      UPDATE {yours} AS zdm_t SET {assigned} WHERE {was}\n"
            "        AND NOT EXISTS (SELECT FROM {yours} AS zdm_s WHERE {key} AND NOT {still})"
            " AND NOT EXISTS (SELECT FROM {mine} AS zdm_s WHERE {taken} AND NOT {same});\n"
            "      zdm_moved := FOUND;\n"
            "      PERFORM pg_catalog.set_config('zdm.row', '', true);"
        ).format(
            guard=guard,
            yours=qualified_name(yours.table),
            mine=qualified_name(mine.table),
            assigned=assigned,
            was=keyed(yours, "zdm_t", "zdm_was"),
            key=keyed(yours, "zdm_s", "zdm_key"),
            taken=keyed(mine, "zdm_s", "zdm_was"),
            # A key that is only spelled in another way is the same row's.
            still=keyed(yours, "zdm_s", "zdm_was"),
            same=keyed(mine, "zdm_s", "zdm_key"),
        )

    def _gone(
        self,
        side: Side,
        left: RowSide,
        alias: str,
        other: str,
        joined: sql.Composable,
        where: sql.Composable,
    ) -> sql.Composable:
        return sql.SQL(
            "    INSERT INTO {changes} (rollout, mapping, side, event, key, origin)\n"
            "    SELECT {rollout}, {number}, {side}, 'delete', {key}, zdm_id FROM {left} AS {alias}\n"
            "    WHERE {where} AND NOT EXISTS (SELECT FROM {truncated} AS {other} WHERE {joined});"
        ).format(
            changes=CHANGES,
            rollout=sql.Literal(self.rollout),
            number=sql.Literal(self.mapping.number),
            side=sql.Literal(side),
            key=key_text(left, alias),
            left=qualified_name(left.table),
            alias=sql.Identifier(alias),
            where=where,
            truncated=qualified_name(self.mapping.side(side).table),
            other=sql.Identifier(other),
            joined=joined,
        )

    def _lost(self, side: Side) -> sql.Composable:
        mine = self.mapping.side(side)
        return sql.SQL("(SELECT {} FROM {} AS zdm_s WHERE {})").format(
            _values(mine.mapped, "zdm_s"), qualified_name(mine.table), keyed(mine, "zdm_s", "zdm_c.key")
        )


def _latest(side: str, what: sql.Composable) -> sql.Composable:
    return sql.SQL(
        "pg_catalog.max(COALESCE(zdm_c.origin, zdm_c.id)) FILTER (WHERE zdm_c.side OPERATOR(pg_catalog.=) {} AND {})"
    ).format(sql.Literal(side), what)


def _named(side: RowSide, alias: str) -> sql.Composable:
    """Give a row that is not there its key."""
    named = [
        sql.SQL("        {} := CAST(zdm_key[{}] AS {});").format(
            column(name, alias), sql.Literal(number), type_name(type_)
        )
        for number, (name, type_) in enumerate(side.shared, 1)
    ]
    told = [sql.SQL("        {} := {};").format(column(t.name, alias), render(t.value)) for t in side.told]
    return sql.SQL("\n").join([*named, *told])


def all_held(columns: Iterable[MirroredColumn], alias: str) -> sql.Composable:
    """A condition over a row: some of these hold anything but what they are empty with."""
    return any_of(
        differs(column(c.name, alias), row_conditions.empty(c, alias), c.comparison, c.type)
        if c.known_empty
        else sql.SQL("true")
        for c in columns
    )


def _differ(found: MirroredColumn, mine: str, other: str) -> sql.Composable:
    return differs(
        column(found.name, mine),
        sql.SQL("CAST({} AS {})").format(render(found.value, other, mine), type_name(found.type)),
        found.comparison,
        found.type,
    )


def _taken(found: MirroredColumn, winner: sql.Identifier, side: str, alias: str) -> sql.Composable:
    return sql.SQL("{c} = CASE {w} WHEN {side} THEN {value} ELSE zdm_t.{c} END").format(
        c=column(found.name), w=winner, side=sql.Literal(side), value=render(found.value, alias, "zdm_t")
    )


def _values(columns: tuple[MirroredColumn, ...], alias: str) -> sql.Composable:
    pairs = comma(sql.SQL("{}, {}").format(sql.Literal(c.name), column(c.name, alias)) for c in columns)
    return sql.SQL("pg_catalog.jsonb_build_object({})").format(pairs)
