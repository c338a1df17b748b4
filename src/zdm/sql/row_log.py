"""A row mapping that is synced by log: triggers that note which row was written, and functions that bring both sides to agree.

Names, besides the ``settle`` functions of `zdm.sql.row_write`:

* ``log_<side>`` and ``first_new`` are what the triggers call;
* ``reconcile(key, side)`` brings one key to agree; ``move`` follows a row to another key, ``expand`` a TRUNCATE;
* ``work(after, rows, until)`` does so for what is noted, and ``last(side)`` for all that one side noted, under a lock that keeps its writers away.

The mapping's columns fall into *parts*, which do not depend on each other: what one version writes to one part and the other
version to another goes both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from psycopg import sql

from zdm.model.expression import Volatility
from zdm.model.row_mapping import Presence, RowMapping, RowSide, parts_by_field
from zdm.sql import log_fields, row_conditions
from zdm.sql.identifiers import SCHEMA, all_of, any_of, comma, qualified_name
from zdm.sql.log_objects import CHANGES, function_of, of_mapping
from zdm.sql.row_objects import (
    Function,
    Side,
    Trigger,
    key_text,
    name_of,
    pinned,
    plain_keys,
    text_of,
    trigger_of,
)
from zdm.sql.row_reconcile import NEW, OLD, Reconciling, all_held
from zdm.sql.templates import dollar_quoted, load


def noted(
    mapping: RowMapping, rollout: int, side: RowSide, alias: str, *, failed: bool = True
) -> sql.Composable:
    """A condition over a row: the log has something of it.

    Parameters
    ----------
    failed: also what has no form on the other side at present, and is not looked at again by itself.
    """
    known = sql.SQL("") if failed else sql.SQL(" AND NOT zdm_c.failed")
    key = key_text(side, alias)
    found = [
        sql.SQL("zdm_c.key OPERATOR(pg_catalog.=) {}").format(key),
        sql.SQL("zdm_c.was OPERATOR(pg_catalog.=) {}").format(key),
        sql.SQL("zdm_c.event OPERATOR(pg_catalog.=) 'truncate'"),
    ]
    return any_of(
        sql.SQL("EXISTS (SELECT FROM {} AS zdm_c WHERE {} AND {}{})").format(
            CHANGES, of_mapping(mapping, rollout), condition, known
        )
        for condition in found
    )


def reconcile(
    mapping: RowMapping, rollout: int, named: Side, alias: str, *, counts: Side | None = None
) -> sql.Composable:
    """Bring a row of the side `named` to agree with the other side.

    Parameters
    ----------
    counts: the side whose row counts where nothing is noted of it; the named one if not given.
    """
    return reconcile_key(mapping, rollout, key_text(mapping.side(named), alias), counts or named)


def reconcile_key(
    mapping: RowMapping, rollout: int, key: sql.Composable, counts: Side | None
) -> sql.Composable:
    """The same of a key as the log has it; where nothing is noted of it, and no side counts, there is nothing to do."""
    return sql.SQL("{}({}, {})").format(function_of(mapping, rollout, "reconcile"), key, sql.Literal(counts))


def work(mapping: RowMapping, rollout: int) -> sql.Identifier:
    """The function that reconciles what is noted: ``work(after, rows, until)``."""
    return function_of(mapping, rollout, "work")


def end(mapping: RowMapping, side: Side, *, over: bool) -> str:
    """What carries the rest of what `side` noted over in the transaction that drops its triggers, whose table it has locked.

    Parameters
    ----------
    over: what the log says cannot be carried over afterwards.
    """
    table, watched, event = mapping.side(side).table, side, "update"
    if mapping.in_place:
        # Both sides are on one row.
        table, watched, event = mapping.old.table, "old", "delete"
    return text_of(
        dollar_quoted(
            "log_end",
            schema=sql.Literal(SCHEMA),
            table=sql.Literal(text_of(qualified_name(table))),
            trigger=sql.Literal(trigger_of(mapping, f"{watched}_{event}")),
            purpose=sql.Literal(f"log_{watched}"),
            side=sql.Literal(side),
            over=sql.Literal(over),
        )
    )


def forget(mapping: RowMapping, rollout: int) -> str:
    """What removes all that is noted, once no trigger adds to it."""
    return text_of(sql.SQL("DELETE FROM {} AS zdm_c WHERE {}").format(CHANGES, of_mapping(mapping, rollout)))


def drop_first(mapping: RowMapping) -> tuple[str, ...]:
    """What removes the triggers that read the other side; ACCESS EXCLUSIVE on the new side's table, briefly."""
    purposes = ("new_first", "new_first_update") if mapping.joins or mapping.unites else ("new_first",)
    return tuple(
        text_of(
            sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
                sql.Identifier(trigger_of(mapping, purpose)), qualified_name(mapping.new.table)
            )
        )
        for purpose in purposes
    )


def function_names(mapping: RowMapping, rollout: int, side: Side) -> list[str]:
    """The functions that are installed with one side."""
    purposes = [f"log_{side}", f"settle_{row_conditions.across(side)}"]
    purposes += ["reconcile", "move", "expand", "work", "last"] if side == "old" else ["first_new"]
    if side == "old":
        purposes += ["stale_old"] if mapping.joins else []
        purposes += ["fields_old"] if any(part.field for part in parts_by_field(mapping)) else []
    return [name_of(mapping, rollout, purpose) for purpose in purposes]


class LogObjects(Reconciling):
    """Everything that notes the writes of one side; with the old side's, what brings both to agree."""

    @property
    def functions(self) -> tuple[Function, ...]:
        made = [self._settle(), self._log()]
        if self.side == "new":
            made.append(self._check())
        else:
            made += [self._reconcile(), self._follow(), self._expand(), self._work(), self._last()]
            if self.mapping.joins:
                made.append(self._stale())
            if self._fields:
                made.insert(0, self._fields_of())
        return tuple(made)

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        log = self._function_name("log")
        inserted = [*self._backfilled]
        # What the other side fills may have been there before.
        if self._lazy and self.mapping.presence is Presence.NEEDED and not self.mapping.joins:
            inserted.append(row_conditions.holds(self.mine, "new"))
        made = [
            self._trigger("insert", "INSERT", log, all_of(inserted)),
            self._trigger("update", "UPDATE", log),
            self._trigger("delete", "DELETE", log),
            self._statement_trigger(log),
        ]
        if self.side == "new":
            first = self._function_name("first")
            if self.mapping.joins:
                made.insert(0, self._trigger("first_update", "UPDATE", first, self._overwriting()))
                inserted.append(row_conditions.holds(self.mine, "new"))
            made.insert(0, self._trigger("first", "INSERT", first, all_of(inserted)))
        return tuple(made)

    def _overwriting(self) -> sql.Composable:
        """Columns are written that held nothing: nobody may have filled them yet."""
        return all_of(
            [
                self._changed([c.name for c in self.mine.columns]),
                sql.SQL("NOT {}").format(row_conditions.holds(self.mine, "old")),
            ]
        )

    @property
    def _key_settings(self) -> sql.Composable:
        """A key's text is the same whoever writes, and whoever reads it."""
        if plain_keys(self.mine.key_types) and not any(
            e.volatility is not Volatility.IMMUTABLE for e in self._expressions
        ):
            return sql.SQL("")
        return pinned()

    def _log(self) -> Function:
        return self._logged(
            f"log_{self.side}",
            "log_trigger",
            "",
            settings=self._key_settings,
            changes=CHANGES,
            here=self._whose,
            mine=self._guard(self.side, self.mine, "new"),
            mine_before=self._guard(self.side, self.mine, "old"),
            all=sql.Literal(f"{self.mapping.number}:{self.side}:*"),
            key=key_text(self.mine, "new"),
            key_before=key_text(self.mine, "old"),
            changed=self._changed(self._reads),
            key_changed=self._changed(self.mine.key),
            inserted=self._inserted(),
            updated=self._with_fields(
                {
                    number: self._changed(part.old_reads if self.side == "old" else part.new_reads)
                    for number, part in enumerate(self._parts, 1)
                },
                "OLD, NEW, false",
            ),
            declare=sql.SQL(
                "  zdm_left constant pg_catalog.text[] := NULLIF(pg_catalog.current_setting('zdm.left', true), '')::pg_catalog.text[];"
            )
            if self.mine.within
            else sql.SQL(""),
            arrived=self._arrived(),
            left=self._leaving(),
            # What it says is said by the row that takes its place, if one does.
            went=sql.SQL("'{}'" if self.mine.within else "NULL"),
            came_here=self._came,
            went_away=self._went,
        )

    @property
    def _came(self) -> sql.Composable:
        """A condition over an update's row: it was not the mapping's before."""
        return sql.SQL("false")

    @property
    def _went(self) -> sql.Composable:
        """The same of one that is not any more."""
        return sql.SQL("false")

    def _leaving(self) -> sql.Composable:
        """Leave word of the row that goes, for the one that takes its place in another partition."""
        if not self.mine.within:
            return sql.SQL("")
        return load("log_left").fill(
            word=comma([*self._word("old"), *self._reads_of("old")]),
        )

    def _arrived(self) -> sql.Composable:
        """A row that the same statement has taken out of another partition is the same row, and was written like any other."""
        if not self.mine.within:
            return sql.SQL("")
        word = self._word("new")
        return load("log_arrived").fill(
            same=sql.SQL(
                "zdm_left[1] OPERATOR(pg_catalog.=) {} AND zdm_left[2] OPERATOR(pg_catalog.<>) {}"
            ).format(*word),
            mine=self._guard(self.side, self.mine, "new"),
            all=sql.Literal(f"{self.mapping.number}:{self.side}:*"),
            changes=CHANGES,
            here=self._whose,
            key=key_text(self.mine, "new"),
            updated=_numbers(
                {
                    number: sql.SQL("zdm_left[{}] IS DISTINCT FROM {}").format(
                        sql.Literal(number + len(word)), said
                    )
                    for number, said in enumerate(self._reads_of("new"), 1)
                }
            ),
        )

    def _word(self, alias: str) -> list[sql.Composable]:
        """Which row it is, and of which partition."""
        return [self._guard(self.side, self.mine, alias), sql.SQL("TG_RELID::pg_catalog.text")]

    def _inserted(self) -> sql.Composable:
        """The parts that a new row says something of."""
        if self._lazy:
            mine = [part.old if self.side == "old" else part.new for part in self._parts]
            return self._with_fields(
                {
                    n: all_held(columns, "new") if columns else sql.SQL("true")
                    for n, columns in enumerate(mine, 1)
                },
                "NEW, NEW, true",
            )
        everything = sql.SQL("NULL::pg_catalog.int4[]")
        if not self._shared:
            return everything
        # Another mapping makes the row, whose new side the application wrote first.
        return sql.SQL("CASE WHEN {} THEN {} ELSE '{{}}' END").format(self._genuine, everything)

    def _with_fields(self, conditions: dict[int, sql.Composable], rows: str) -> sql.Composable:
        """The numbers of the parts for which a condition holds, and of the fields of these versions of a row."""
        if self.side != "old" or not self._fields:
            return _numbers(conditions)
        return sql.SQL("({} OPERATOR(pg_catalog.||) {}({}))").format(
            _numbers({n: what for n, what in conditions.items() if n not in self._fields}),
            function_of(self.mapping, self.rollout, "fields_old"),
            sql.SQL(rows),
        )

    def _fields_of(self) -> Function:
        """What says which fields of a document differ."""
        made = self._logged(
            "fields_old",
            "log_fields",
            "",
            source=self.table,
            emptied=log_fields.emptied(self._fields),
            parts=log_fields.compared(self._fields),
            all=sql.SQL("{}::pg_catalog.int4[]").format(sql.Literal(list(self._fields))),
        )
        return replace(made, arguments=sql.SQL("{0}, {0}, pg_catalog.bool").format(self.table))

    def _check(self) -> Function:
        return self._logged(
            "first_new",
            "log_first",
            "",
            settings=self._key_settings,
            source=self.table,
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            claimed=self._claimed,
            mine=self._guard(self.side, self.mine, "zdm_at"),
            names=sql.Literal(", ".join(c.name for c in self.yours.columns)),
            changes=CHANGES,
            filter=self._here,
            key=key_text(self.mine, "zdm_at"),
            updated=self._unfilled_yet(),
        )

    def _unfilled_yet(self) -> sql.Composable:
        """Of columns that are filled: whether an update would write over what has not come yet."""
        if not self.mapping.joins:
            return sql.SQL("    RETURN NULL;")
        return load("log_unfilled").fill(
            filled=self._filled(self.mapping.id),
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "old"),
            disagree=row_conditions.disagree(self.mapping, "zdm_t", "old"),
            changes=CHANGES,
            filter=self._here,
            key=key_text(self.mine, "old"),
            mine=self._guard(self.side, self.mine, "old"),
            names=sql.Literal(", ".join(c.name for c in self.yours.columns)),
        )

    def _expand(self) -> Function:
        mapping = self.mapping
        joined = row_conditions.joined(mapping, OLD, NEW)
        # A row that stands on its own has none over there, as long as it holds nothing.
        made = row_conditions.holds(mapping.new, NEW) if mapping.joins else sql.SQL("true")
        if mapping.unites:
            made = row_conditions.theirs(mapping.new, NEW)
        new_gone: sql.Composable = sql.SQL("    NULL;")
        if not mapping.one_way:
            new_gone = self._gone("new", mapping.old, OLD, NEW, all_of([joined]), self._may(OLD))
        return self._expanding(
            old_gone=self._gone(
                "old",
                mapping.new,
                NEW,
                OLD,
                joined,
                made,
            ),
            new_gone=new_gone,
        )


def _numbers(conditions: Mapping[int, sql.Composable]) -> sql.Composable:
    """The numbers of the parts for which a condition holds."""
    found = [
        sql.SQL("CASE WHEN {} THEN {} END").format(condition, sql.Literal(number))
        for number, condition in conditions.items()
    ]
    return sql.SQL("pg_catalog.array_remove(ARRAY[{}]::pg_catalog.int4[], NULL)").format(comma(found))
