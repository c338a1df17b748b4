"""Rows that refer to a shared table, synced by log: the row says who wrote it last, and what follows from that is found or made afterwards.

The source's own triggers note which row was written (`zdm.sql.sync_functions`), one on the parents which of them got another name. Both sides of
a row are on it, so a row that went needs nobody, and whose word counts is known from its marker. Names as in `zdm.sql.row_log`.
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from zdm.model.mapping import FAILED, TOGGLE
from zdm.model.row_mapping import RowMapping
from zdm.sql import reference_sync
from zdm.sql.identifiers import all_of, column, comma, qualified_name, type_name
from zdm.sql.log_objects import CHANGES, Logged, keyed
from zdm.sql.parent_conditions import back
from zdm.sql.reference_sync import ReferenceObjects
from zdm.sql.row_objects import (
    Function,
    Side,
    Trigger,
    failed,
    key_text,
    name_of,
    pinned,
    plain_keys,
    record_failure,
)
from zdm.sql.rows import REPAIR
from zdm.sql.templates import load

_SETTLING = sql.SQL(", pg_catalog.set_config('zdm.settling', 'on', true)")

_DECLARED = """\
  zdm_row {source};
  zdm_next {source};
  zdm_parent {parent};
  zdm_has pg_catalog.bool;
  zdm_own pg_catalog.bool;
  zdm_follows pg_catalog.bool;
  zdm_since pg_catalog.int8;
  zdm_old pg_catalog.int8;
  zdm_new pg_catalog.int8;
  zdm_beside pg_catalog.int8;"""


def function_names(mapping: RowMapping, rollout: int, side: Side) -> list[str]:
    """The functions that are made for one side, as `ReferenceLogObjects` makes them."""
    found = reference_sync.function_names(mapping, rollout, side)
    if side == "parent":
        return found
    purposes = ("log_old", "reconcile", "move", "expand", "work", "last")
    return [*found, *(name_of(mapping, rollout, purpose) for purpose in purposes)]


class ReferenceLogObjects(Logged, ReferenceObjects):
    """Everything that watches the parents (`parent`); with the source (`old`), what brings its rows to agree with them."""

    @property
    def functions(self) -> tuple[Function, ...]:
        if self.side == "parent":
            return (self._noting("on_parent"),)
        made = (self._find(), self._wanted(), self._take(), self._held(), self._back())
        reconcile = (self._reconcile(), self._move(), self._expand(), self._work(), self._last())
        return (*made, *reconcile, self._noting("log_old"))

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        if self.side == "parent":
            return (self._trigger("update", "UPDATE", self._named("on_parent"), self._changed(self._reads)),)
        log = self._named("log_old")
        return (self._trigger("delete", "DELETE", log), self._statement_trigger(log))

    def _noting(self, purpose: str) -> Function:
        mapping, identity = self.mapping, self.parent.identity
        plain = plain_keys([*mapping.old.key_types, *self.parent.identity_types])
        mine = (sql.Literal(self.rollout), sql.Literal(mapping.number))
        return self._logged(
            purpose,
            "log_reference_trigger",
            "",
            settings=self._settings if plain else pinned(),
            changes=CHANGES,
            source=comma([*mine, sql.Literal("old")]),
            parent=comma([*mine, sql.Literal("new")]),
            key=key_text(mapping.old, "old"),
            element=sql.SQL("ARRAY[{}]").format(
                comma(sql.SQL("{}::pg_catalog.text").format(column(name, "new")) for name in identity)
            ),
        )

    # --- what brings a row to agree -----------------------------------------------------------------------------------

    def _reconcile(self) -> Function:
        mapping, parent = self.mapping, self.parent
        source, own_key = self.names["source"], keyed(self.mapping.old, "zdm_s", "zdm_key")
        held, refer = [c.name for c in mapping.old.columns], list(parent.reference)
        named = sql.SQL("\n").join(
            sql.SQL("        {} := CAST(zdm_key[{}] AS {});").format(
                column(name, "zdm_row"), sql.Literal(number), type_name(type_)
            )
            for number, (name, type_) in enumerate(
                zip(mapping.old.key, mapping.old.key_types, strict=True), 1
            )
        )
        take, given = self._calls("take", "zdm_next"), self._given
        again = load("log_reference_again").fill(
            source=source,
            own_key=own_key,
            settled=self._settled,
            marker=sql.Identifier(parent.marker),
            failed=self._has(FAILED),
            changes=CHANGES,
            filter=self._here,
        )
        bring = load("log_reference").fill(
            source=source,
            own_key=own_key,
            settled=self._settled,
            held=self._calls("held", "zdm_row"),
            beside=load("log_reference_beside").fill(
                moved=sql.SQL("zdm_beside OPERATOR(pg_catalog.>) zdm_new"),
                none=self._none("zdm_row"),
                parent=self.names["parent"],
                referred=self._referred("zdm_row"),
                assign=sql.SQL("\n").join(
                    sql.SQL("          {} := {};").format(
                        column(c.name, "zdm_next"), back(c.value, "zdm_row", "zdm_parent")
                    )
                    for c in mapping.old.columns
                ),
                take=take,
                given=given,
                back=self._calls("back", "zdm_row"),
            ),
            differ=sql.SQL("pg_catalog.record_image_ne(ROW({}), ROW({}))").format(
                *(comma(column(name, row) for name in (*held, *refer)) for row in ("zdm_row", "zdm_next"))
            ),
            assigned_old=_assigned([*held, *refer]),
            assigned_new=_assigned(refer),
            settled_old=self._marked(REPAIR),
            settled_new=self._marked(REPAIR | parent.bit),
            lost_old=self._conflict("new", _values(held, "zdm_row"), _values(held, "zdm_next")),
            lost_new=self._conflict("old", _values(refer, "zdm_row"), _values(refer, "zdm_next")),
            take=take,
            given=given,
        )
        return self._keyed(
            also=_SETTLING,
            declare=_DECLARED,
            source=source,
            parent=self.names["parent"],
            read=load("log_reference_read").fill(
                source=source,
                own_key=own_key,
                named=named,
                changes=CHANGES,
                filter=self._here,
                own=self._has(parent.bit),
            ),
            bring=sql.SQL("{}\n{}").format(again, bring),
            failure=load("log_reference_failed").fill(
                source=source,
                own_key=own_key,
                unread=sql.SQL("NOT pg_catalog.record_image_ne(ROW({}), ROW({}))").format(
                    *(
                        comma(column(name, row) for name in (parent.marker, *held, *refer))
                        for row in ("zdm_s", "zdm_row")
                    )
                ),
                failing=comma(
                    [
                        *(sql.SQL("{} = NULL").format(column(name)) for name in refer),
                        self._marked(REPAIR | FAILED),
                    ]
                ),
                record=record_failure(mapping, self.rollout, mapping.old, "zdm_row"),
                changes=CHANGES,
                filter=self._here,
            ),
            forget=sql.SQL("      DELETE {};").format(failed(mapping, self.rollout, mapping.old, "zdm_row")),
        )

    def _calls(self, purpose: str, row: str) -> sql.Composable:
        return sql.SQL("{}({})").format(self._called(purpose), sql.Identifier(row))

    @property
    def _given(self) -> sql.Composable:
        """Let the row refer to the parent."""
        return sql.SQL("\n").join(
            sql.SQL("        {} := {};").format(column(name, "zdm_next"), column(theirs, "zdm_parent"))
            for name, theirs in zip(self.parent.reference, self.parent.identity, strict=True)
        )

    def _has(self, bits: int) -> sql.Composable:
        """A condition over the row: its marker has one of these bits."""
        return sql.SQL("((COALESCE({}, 0) OPERATOR(pg_catalog.&) {}) OPERATOR(pg_catalog.<>) 0)").format(
            column(self.parent.marker, "zdm_row"), sql.Literal(bits)
        )

    @property
    def _settled(self) -> sql.Composable:
        filled = sql.SQL("{} IS NOT NULL").format(column(self.parent.marker, "zdm_row"))
        return all_of([filled, sql.SQL("NOT {}").format(self._has(FAILED))])

    def _marked(self, added: int) -> sql.Composable:
        """Who wrote last; as the repair does it, so that the source's own triggers leave the row alone."""
        marker = column(self.parent.marker)
        return sql.SQL(
            "{0} = (COALESCE({0}, {1}) OPERATOR(pg_catalog.&) ({2})) OPERATOR(pg_catalog.|) {3}"
        ).format(marker, sql.Literal(TOGGLE), sql.Literal(~self.parent.bit), sql.Literal(added))

    def _move(self) -> Function:
        """What was noted of the row before is of its key of now."""
        noted = sql.SQL(
            "  UPDATE {} AS zdm_c SET key = zdm_key WHERE {} AND zdm_c.key OPERATOR(pg_catalog.=) zdm_was"
            " AND zdm_c.event OPERATOR(pg_catalog.<>) 'delete' AND zdm_c.id OPERATOR(pg_catalog.<) zdm_id;"
        ).format(CHANGES, self._here)
        return self._moved(sql.SQL("    NULL;"), noted)

    def _expand(self) -> Function:
        """All rows went: what failed of them is looked at again. A parent got another name: its rows are noted."""
        parent = self.parent
        element = sql.SQL(
            "(SELECT zdm_e.element[{}] FROM {} AS zdm_e WHERE zdm_e.id OPERATOR(pg_catalog.=) zdm_id)"
        )
        referring = all_of(
            sql.SQL("({} OPERATOR(pg_catalog.=) CAST({} AS {}))").format(
                column(name, "zdm_s"), element.format(sql.Literal(number), CHANGES), type_name(type_)
            )
            for number, (name, type_) in enumerate(
                zip(parent.reference, parent.identity_types, strict=True), 1
            )
        )
        return self._expanding(
            old_gone=sql.SQL(
                "    UPDATE {} AS zdm_c SET failed = false WHERE {} AND zdm_c.failed AND zdm_c.id OPERATOR(pg_catalog.<) zdm_id;"
            ).format(CHANGES, self._here),
            new_gone=sql.SQL(
                "    INSERT INTO {} (rollout, mapping, side, event, key, parts, origin)\n"
                "    SELECT {}, {}, 'new', 'update', {}, '{{}}', zdm_id FROM {} AS zdm_s WHERE {};"
            ).format(
                CHANGES,
                sql.Literal(self.rollout),
                sql.Literal(self.mapping.number),
                key_text(self.mapping.old, "zdm_s"),
                self.names["source"],
                referring,
            ),
        )

    @property
    def _noted_sides(self) -> tuple[Side, ...]:
        return ("old", "new")

    def _lost(self, side: Side) -> sql.Composable:
        """What the row holds on that side; of the new one with the parent, whose table may go."""
        lost = _values([c.name for c in self.mapping.old.columns], "zdm_s")
        if side == "new":
            lost = sql.SQL(
                "pg_catalog.jsonb_build_object({}, (SELECT pg_catalog.to_jsonb(zdm_p.*) FROM {} AS zdm_p WHERE {})) || {}"
            ).format(
                sql.Literal(str(self.parent.table)),
                self.names["parent"],
                self._referred("zdm_s"),
                _values(self.parent.reference, "zdm_s"),
            )
        return sql.SQL("(SELECT {} FROM {} AS zdm_s WHERE {})").format(
            lost, qualified_name(self.mapping.old.table), keyed(self.mapping.old, "zdm_s", "zdm_c.key")
        )


def _assigned(names: Iterable[str]) -> sql.Composable:
    return comma(sql.SQL("{} = {}").format(column(name), column(name, "zdm_next")) for name in names)


def _values(names: Iterable[str], row: str) -> sql.Composable:
    pairs = comma(sql.SQL("{}, {}").format(sql.Literal(name), column(name, row)) for name in names)
    return sql.SQL("pg_catalog.jsonb_build_object({})").format(pairs)
