"""Making rows of two tables agree again: each by the function that the triggers call, under a lock on the row."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from zdm.db.session import transaction
from zdm.errors import Busy
from zdm.model.mapping import Authority
from zdm.model.row_mapping import Elements, MirroredColumn, ParentSide, RowMapping, derived
from zdm.sql import (
    element_log,
    element_rows,
    group_sync,
    parent_conditions,
    parent_sync,
    records,
    row_conditions,
    row_log,
    row_write,
)
from zdm.sql.identifiers import all_of, any_of, column, comma, qualified_name
from zdm.sql.row_objects import Side, key_text, same_key
from zdm.sql.rows import render

ROWS = 200

_OLD, _NEW = sql.Identifier("zdm_o"), sql.Identifier("zdm_n")


def repair_rows(
    connect: Callable[[], psycopg.Connection[Any]],
    mapping: RowMapping,
    rollout: int,
    authority: Authority,
    *,
    guard: Callable[[psycopg.Cursor[Any]], None],
    lock_budget: timedelta = timedelta(milliseconds=100),
    patience: timedelta = timedelta(seconds=60),
) -> int:
    """Repair pairs that differ, and rows of the new side that no row of the old one makes. Returns how many were tried.

    Rows that are missing on the new side are the backfill's. The authority's side is the truth: under the old one a row too
    many goes, under the new one it is carried back.

    Raises
    ------
    Busy: rows stayed locked by somebody.
    psycopg.Error: a row could not be carried over; those before it are repaired.
    """
    back = authority is Authority.NEW and not mapping.one_way
    side: Side = "old" if back else "new"
    conn = connect()
    try:
        job = _Job(conn, mapping, guard, lock_budget, patience)
        if mapping.parent is not None:
            linked = _Links(mapping, mapping.parent, rollout)
            total = job.run(linked.astray(), linked.dropping()) if not back else 0
            return total + job.run(linked.wrong(), linked.settling(side))
        if mapping.gathers:
            return job.run(*_groups(mapping, rollout))
        if mapping.elements is not None:
            several = _Elements(mapping, mapping.elements, rollout)
            if mapping.logged:
                # What is noted counts first, so that nothing that waits is written over.
                orphans = mapping.elements.one == "old"
                total = job.run(several.astray(), several.reconciling_astray(side)) if orphans else 0
                return total + job.run(several.wrong(), several.reconciling(side))
            astray = mapping.elements.one == "old" and not back
            total = job.run(several.astray(), several.dropping()) if astray else 0
            return total + job.run(several.wrong(), several.settling(back=back))
        statements = _Statements(mapping, rollout)
        if mapping.logged:
            # What is noted counts first, so that nothing that waits is written over.
            total = job.run(
                statements.different(),
                statements.reconciling(statements.different(), "new", row_conditions.across(side)),
            )
            total += job.run(
                statements.extra(),
                statements.reconciling(statements.extra(), "new", row_conditions.across(side)),
            )
            if mapping.old.references:
                total += job.run(statements.astray(), statements.naming_none())
            return total
        # What is deleted, or repeated, here must not be mirrored.
        silent = {"zdm.row": row_conditions.backfilling(mapping)}
        total = 0
        if back and (only := derived(mapping, "new")):
            total += job.run(statements.different(only), statements.repeating(only), silent)
        total += job.run(statements.different(), statements.settling(statements.different(), side))
        if mapping.old.references:
            # The values agree by now; what is left is which row is named.
            total += job.run(statements.different(), statements.settling(statements.different(), "old"))
            total += job.run(statements.astray(), statements.naming_none())
        if back:
            extra = statements.extra(own=True)
            return total + job.run(extra, statements.settling(extra, side))
        return total + job.run(statements.extra(), statements.deleting(), silent)
    finally:
        conn.close()


class _Statements:
    """Which rows are wrong, and what makes them right; a few at a time, locked before they are looked at again."""

    def __init__(self, mapping: RowMapping, rollout: int) -> None:
        self._mapping, self._rollout = mapping, rollout
        self._old, self._new = qualified_name(mapping.old.table), qualified_name(mapping.new.table)
        self._joined = row_conditions.joined(mapping, "zdm_o", "zdm_n")

    def different(self, only: Sequence[MirroredColumn] = ()) -> sql.Composed:
        """Pairs of which neither follows from the other.

        Parameters
        ----------
        only: those in which these columns of the new side do not.
        """
        if only:
            apart = row_conditions.any_differs(only, "zdm_n", "zdm_o")
        else:
            known = (
                records.known(self._mapping, self._rollout, "zdm_o", "zdm_n")
                if self._mapping.records
                else None
            )
            apart = row_conditions.disagree(self._mapping, "zdm_o", "zdm_n", known=known)
        return sql.SQL("FROM {} AS {} JOIN {} AS {} ON {} WHERE {}").format(
            self._new,
            _NEW,
            self._old,
            _OLD,
            self._joined,
            all_of(
                [
                    self._may,
                    apart,
                    *self._unknown("zdm_o"),
                ]
            ),
        )

    def extra(self, *, own: bool = False) -> sql.Composed:
        """Rows of the new side that no row of the old one makes, or fills.

        Parameters
        ----------
        own: of a table that several fill, only this mapping's, and none that is nobody's.
        """
        answered = (
            row_conditions.theirs(self._mapping.new, "zdm_n")
            if own
            else row_conditions.answered(self._mapping, "zdm_n")
        )
        lone = row_conditions.holds(self._mapping.new, "zdm_n") if self._mapping.joins else sql.SQL("true")
        return sql.SQL("FROM {} AS {} WHERE {} AND NOT EXISTS (SELECT FROM {} AS {} WHERE {})").format(
            self._new,
            _NEW,
            all_of([lone, answered, *self._unknown()]),
            self._old,
            _OLD,
            all_of([self._joined, self._may]),
        )

    def _unknown(self, old: str | None = None) -> list[sql.Composable]:
        """Conditions: the row is not one that is recorded as having no old form."""
        mapping = self._mapping
        if not mapping.records:
            return []
        if old is None:
            return [sql.SQL("NOT {}").format(records.recorded(mapping, self._rollout, "zdm_n"))]
        return [sql.SQL("NOT {}").format(records.known(mapping, self._rollout, old, "zdm_n"))]

    def astray(self) -> sql.Composed:
        """Rows of the old side whose reference names a row that is not there."""
        return sql.SQL("FROM {} AS {} WHERE {} AND NOT EXISTS (SELECT FROM {} AS {} WHERE {})").format(
            self._old,
            _OLD,
            any_of(row_conditions.refers(self._mapping.old, "zdm_o")),
            self._new,
            _NEW,
            self._joined,
        )

    def naming_none(self) -> sql.Composed:
        """Let some of these name none."""
        side = self._mapping.old
        return sql.SQL(
            "WITH found AS MATERIALIZED (SELECT {o}.* {found} LIMIT {rows} FOR NO KEY UPDATE OF {o}) "
            "UPDATE {old} AS {n} SET {clear} FROM found AS {o} WHERE {same}"
        ).format(
            n=_NEW,
            o=_OLD,
            found=self.astray(),
            rows=sql.Literal(ROWS),
            old=self._old,
            clear=comma(sql.SQL("{} = NULL").format(sql.Identifier(c.name)) for c in side.references),
            same=same_key(side, "zdm_n", "zdm_o"),
        )

    @property
    def _may(self) -> sql.Composable:
        where = self._mapping.where
        return sql.SQL("true") if where is None else sql.SQL("({} IS TRUE)").format(render(where, "zdm_o"))

    def settling(self, found: sql.Composable, side: Side) -> sql.Composed:
        """Make `side` of some of them hold what the other side's row says."""
        alias, table = (_NEW, self._new) if side == "old" else (_OLD, self._old)
        return sql.SQL(
            "WITH found AS MATERIALIZED (SELECT {alias}.* {found} LIMIT {rows} FOR NO KEY UPDATE OF {alias}) "
            "SELECT {settle}(ROW({alias}.*)::{table}, false, false) FROM found AS {alias}"
        ).format(
            alias=alias,
            found=found,
            rows=sql.Literal(ROWS),
            settle=row_write.settle(self._mapping, self._rollout, side),
            table=table,
        )

    def repeating(self, only: Sequence[MirroredColumn]) -> sql.Composed:
        """Let these columns of some of them say again what the old side's row says, which alone can say it."""
        return sql.SQL(
            "WITH found AS MATERIALIZED (SELECT {n}.*, {values} {found} LIMIT {rows} FOR NO KEY UPDATE OF {n}, {o}) "
            "UPDATE {new} AS {n} SET {assigned} FROM found WHERE {same}"
        ).format(
            n=_NEW,
            o=_OLD,
            values=comma(
                sql.SQL("{} AS {}").format(render(c.value, "zdm_o"), column(f"zdm_v{number}"))
                for number, c in enumerate(only)
            ),
            found=self.different(only),
            rows=sql.Literal(ROWS),
            new=self._new,
            assigned=comma(
                sql.SQL("{} = {}").format(column(c.name), column(f"zdm_v{number}", "found"))
                for number, c in enumerate(only)
            ),
            same=same_key(self._mapping.new, "zdm_n", "found"),
        )

    def reconciling(self, found: sql.Composable, named: Side, side: Side) -> sql.Composed:
        """Bring some of them to agree, by the key of the row on one side (`named`); what `side` says counts."""
        return sql.SQL(
            "WITH found AS MATERIALIZED (SELECT {alias}.* {found} LIMIT {rows}) SELECT {reconcile} FROM found AS {alias}"
        ).format(
            alias=_NEW,
            found=found,
            rows=sql.Literal(ROWS),
            reconcile=row_log.reconcile(self._mapping, self._rollout, named, "zdm_n", counts=side),
        )

    def deleting(self) -> sql.Composed:
        """Let some of the rows go that nothing makes; or empty those that nothing fills."""
        if self._mapping.joins:
            return sql.SQL(
                "WITH found AS MATERIALIZED (SELECT {n}.* {found} LIMIT {rows} FOR NO KEY UPDATE OF {n}) "
                "UPDATE {new} AS {o} SET {clear} FROM found AS {n} WHERE {same}"
            ).format(
                n=_NEW,
                o=_OLD,
                found=self.extra(),
                rows=sql.Literal(ROWS),
                new=self._new,
                clear=row_conditions.cleared(self._mapping.new, "zdm_o"),
                same=same_key(self._mapping.new, "zdm_o", "zdm_n"),
            )
        return sql.SQL(
            "WITH found AS MATERIALIZED (SELECT {n}.* {found} LIMIT {rows} FOR UPDATE OF {n}) "
            "DELETE FROM {new} AS {o} USING found AS {n} WHERE {same}"
        ).format(
            n=_NEW,
            o=_OLD,
            found=self.extra(),
            rows=sql.Literal(ROWS),
            new=self._new,
            same=same_key(self._mapping.new, "zdm_o", "zdm_n"),
        )


class _Links:
    """The same for a mapping of many to one: links of which the source's row wants none, or another one."""

    def __init__(self, mapping: RowMapping, parent: ParentSide, rollout: int) -> None:
        self._mapping, self._parent, self._rollout = mapping, parent, rollout
        self._old, self._new = qualified_name(mapping.old.table), qualified_name(mapping.new.table)

    @property
    def _right(self) -> sql.Composable:
        mapping, parent = self._mapping, self._parent
        # A link beyond the first has no place either, whatever it says.
        before = all_of([same_key(mapping.new, "zdm_l", "zdm_n"), *self._counted("zdm_l")])
        several = sql.SQL("EXISTS (SELECT FROM {} AS zdm_l WHERE {} AND zdm_l.ctid < {}.ctid)").format(
            self._new, before, _NEW
        )
        return sql.SQL(
            "EXISTS (SELECT FROM {} AS {} JOIN {} AS zdm_p ON {} WHERE {} AND CASE WHEN {} THEN {} ELSE false END) AND NOT {}"
        ).format(
            self._old,
            _OLD,
            qualified_name(parent.table),
            parent_conditions.refers(parent, "zdm_n", "zdm_p"),
            parent_conditions.links(mapping, "zdm_n", "zdm_o"),
            parent_conditions.wants(mapping, parent, "zdm_o"),
            parent_conditions.follows(mapping, parent, "zdm_o", "zdm_p"),
            several,
        )

    def astray(self) -> sql.Composed:
        """Links of no row of the source, which nothing could settle."""
        return sql.SQL("FROM {} AS {} WHERE NOT EXISTS (SELECT FROM {} AS {} WHERE {})").format(
            self._new, _NEW, self._old, _OLD, parent_conditions.links(self._mapping, "zdm_n", "zdm_o")
        )

    def dropping(self) -> sql.Composed:
        """Let some of those go."""
        return sql.SQL(
            "DELETE FROM {} AS zdm_l USING (SELECT {}.ctid {} LIMIT {}) AS zdm_a WHERE zdm_l.ctid = zdm_a.ctid"
        ).format(self._new, _NEW, self.astray(), sql.Literal(ROWS))

    def wrong(self) -> sql.Composed:
        """Links that do not follow from the source's row, nor it from them."""
        return sql.SQL("FROM {} AS {} WHERE {}").format(
            self._new, _NEW, all_of([*self._counted("zdm_n"), sql.SQL("NOT ({})").format(self._right)])
        )

    def _counted(self, alias: str) -> list[sql.Composable]:
        """Conditions: the link is not one that is recorded as having no old form."""
        if not self._mapping.records:
            return []
        return [sql.SQL("NOT {}").format(records.recorded(self._mapping, self._rollout, alias))]

    def settling(self, side: Side) -> sql.Composed:
        """Make `side` of some of them hold what the other side says."""
        mapping = self._mapping
        if side == "old":
            return sql.SQL(
                "WITH found AS MATERIALIZED (SELECT {n}.* {found} LIMIT {rows} FOR NO KEY UPDATE OF {n}) SELECT {settle} FROM found AS {n}"
            ).format(
                n=_NEW,
                found=self.wrong(),
                rows=sql.Literal(ROWS),
                settle=parent_sync.settling(mapping, self._rollout, "old", "zdm_n"),
            )
        return sql.SQL(
            "WITH found AS MATERIALIZED (SELECT {o}.* FROM {old} AS {o} WHERE EXISTS (SELECT {wrong} AND {linked}) LIMIT {rows}"
            " FOR NO KEY UPDATE OF {o}) SELECT {settle} FROM found AS {o}"
        ).format(
            o=sql.Identifier("zdm_s"),
            old=self._old,
            wrong=self.wrong(),
            linked=parent_conditions.links(mapping, "zdm_n", "zdm_s"),
            rows=sql.Literal(ROWS),
            settle=parent_sync.settling(mapping, self._rollout, "new", "zdm_s"),
        )


class _Elements:
    """The same for a mapping of one to many: rows whose elements are not what they say, nor they what those say together."""

    def __init__(self, mapping: RowMapping, elements: Elements, rollout: int) -> None:
        self._mapping, self._elements, self._rollout = mapping, elements, rollout
        self._side = mapping.side(elements.one)
        self._one = qualified_name(self._side.table)
        self._many = qualified_name(mapping.side(elements.many).table)

    def astray(self) -> sql.Composed:
        """Elements of no row."""
        return sql.SQL("FROM {} AS zdm_m WHERE {}").format(
            self._many,
            all_of(
                [
                    *element_rows.is_element(self._mapping, "zdm_m"),
                    sql.SQL("NOT EXISTS (SELECT FROM {} AS zdm_o WHERE {})").format(
                        self._one, element_rows.belongs(self._mapping, "zdm_m", "zdm_o")
                    ),
                ]
            ),
        )

    def dropping(self) -> sql.Composed:
        """Let some of those go."""
        return sql.SQL(
            "DELETE FROM {} AS zdm_l USING (SELECT zdm_m.ctid {} LIMIT {}) AS zdm_a WHERE zdm_l.ctid = zdm_a.ctid"
        ).format(self._many, self.astray(), sql.Literal(ROWS))

    def wrong(self) -> sql.Composed:
        """Rows that disagree with their elements."""
        keys = [sql.Identifier(f"zdm_k{number}") for number, _ in enumerate(self._side.key)]
        return sql.SQL("FROM {} AS zdm_s WHERE ({}) IN (SELECT {} FROM ({}) AS zdm_w)").format(
            self._one,
            comma(column(name, "zdm_s") for name in self._side.key),
            comma(keys),
            element_rows.disagreeing(self._mapping, self._rollout),
        )

    def settling(self, *, back: bool) -> sql.Composed:
        """Make some of them agree, by the old side, or by the new one."""
        if back == (self._elements.one == "old"):
            keys = comma(column(name, "zdm_s") for name in self._side.key)
            settle = element_rows.settling_one(self._mapping, self._rollout, keys, "repair")
        else:
            settle = element_rows.settling_many(self._mapping, self._rollout, "zdm_s", "repair")
        return sql.SQL(
            "WITH found AS MATERIALIZED (SELECT zdm_s.* {} LIMIT {} FOR NO KEY UPDATE OF zdm_s) SELECT {} FROM found AS zdm_s"
        ).format(self.wrong(), sql.Literal(ROWS), settle)

    def reconciling(self, side: Side) -> sql.Composed:
        """Make some of them agree; what `side` says counts where nothing is noted."""
        return sql.SQL(
            "WITH found AS MATERIALIZED (SELECT zdm_s.* {} LIMIT {}) SELECT {} FROM found AS zdm_s"
        ).format(
            self.wrong(),
            sql.Literal(ROWS),
            row_log.reconcile(
                self._mapping, self._rollout, self._elements.one, "zdm_s", counts=row_conditions.across(side)
            ),
        )

    def reconciling_astray(self, side: Side) -> sql.Composed:
        """The same of keys that no row has."""
        return sql.SQL(
            "WITH found AS MATERIALIZED (SELECT DISTINCT {key} AS key {astray} LIMIT {rows}) SELECT {reconcile} FROM found"
        ).format(
            key=key_text(element_log.group(self._mapping), "zdm_m"),
            astray=self.astray(),
            rows=sql.Literal(ROWS),
            reconcile=row_log.reconcile_key(
                self._mapping, self._rollout, sql.SQL("found.key"), row_conditions.across(side)
            ),
        )


def _groups(mapping: RowMapping, rollout: int) -> tuple[sql.Composed, sql.Composed]:
    """Keys whose row is missing, one too many, or says something else; and what makes some of them right."""
    keys = comma(sql.Identifier(f"zdm_k{number}") for number, _ in enumerate(mapping.new.key))
    found = sql.SQL("FROM ({}) AS zdm_w").format(group_sync.disagreeing(mapping, rollout))
    settle: sql.Composable = element_rows.settling_one(mapping, rollout, keys, "repair")
    if mapping.logged:
        texts = comma(
            sql.SQL("{}::pg_catalog.text").format(column(f"zdm_k{number}"))
            for number, _ in enumerate(mapping.new.key)
        )
        settle = row_log.reconcile_key(mapping, rollout, sql.SQL("ARRAY[{}]").format(texts), "old")
    return found, sql.SQL("WITH found AS MATERIALIZED (SELECT {} {} LIMIT {}) SELECT {} FROM found").format(
        keys, found, sql.Literal(ROWS), settle
    )


@dataclass(frozen=True, slots=True)
class _Job:
    conn: psycopg.Connection[Any]
    mapping: RowMapping
    guard: Callable[[psycopg.Cursor[Any]], None]
    lock_budget: timedelta
    patience: timedelta

    def run(
        self, found: sql.Composed, statement: sql.Composed, settings: Mapping[str, str] | None = None
    ) -> int:
        """Repeat the statement as often as it can have something to do: a row can stay wrong whatever is done."""
        with transaction(self.conn, read_only=True):
            row = self.conn.execute(sql.SQL("SELECT pg_catalog.count(*) {}").format(found)).fetchone()
        left, total = int(row[0]) if row else 0, 0
        while left > 0:
            total += self._some(statement, settings)
            left -= ROWS
        return total

    def _some(self, statement: sql.Composed, settings: Mapping[str, str] | None) -> int:
        deadline = time.monotonic() + self.patience.total_seconds()
        while True:
            try:
                with transaction(
                    self.conn, lock_timeout=self.lock_budget / 2, settings=settings, path=self.mapping.path
                ):
                    self.guard(self.conn.cursor())
                    return self.conn.execute(statement).rowcount
            except (pg.LockNotAvailable, pg.DeadlockDetected, pg.SerializationFailure) as error:
                if time.monotonic() >= deadline:
                    raise Busy(
                        f"rows of {self.mapping.id} that need repair have been locked for "
                        f"{self.patience.total_seconds():.0f} s",
                        remedy="Let the transaction that holds them end, and run again.",
                    ) from error
            time.sleep(random.uniform(0.005, 0.1))  # noqa: S311  # jitter
