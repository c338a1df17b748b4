"""Making rows of two tables agree again: each by the function that the triggers call, under a lock on the row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
from psycopg import sql

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
from zdm.verify.repairing import ROWS, Repair, Repairs

_OLD, _NEW = sql.Identifier("zdm_o"), sql.Identifier("zdm_n")


def _ignore(_: str) -> None:
    return None


def repair_rows(
    connect: Callable[[], psycopg.Connection[Any]],
    mapping: RowMapping,
    rollout: int,
    authority: Authority,
    *,
    guard: Callable[[psycopg.Cursor[Any]], None],
    note: Callable[[str], None] = _ignore,
    lock_budget: timedelta = timedelta(milliseconds=100),
    patience: timedelta = timedelta(seconds=60),
) -> int:
    """Repair pairs that differ, and rows of the new side that no row of the old one makes. Returns how many were tried.

    Rows that are missing on the new side are the backfill's. The authority's side is the truth: under the old one a row too
    many goes, under the new one it is carried back. Rows that cannot be made right stay as they are; verify again afterwards.

    Parameters
    ----------
    note: told why rows could not be made right.

    Raises
    ------
    Busy: rows stayed locked by somebody.
    """
    back = authority is Authority.NEW and not mapping.one_way
    conn = connect()
    try:
        return Repairs(conn, mapping, guard, note, lock_budget, patience).run(
            _repairs(mapping, rollout, back=back)
        )
    finally:
        conn.close()


def _repairs(mapping: RowMapping, rollout: int, *, back: bool) -> Iterator[Repair]:
    """What is to be repaired, in this order.

    Parameters
    ----------
    back: the new side is the truth.
    """
    side: Side = "old" if back else "new"
    if mapping.parent is not None:
        linked = _Links(mapping, mapping.parent, rollout)
        if not back:
            yield linked.astray()
        yield linked.wrong(side)
    elif mapping.gathers:
        yield _groups(mapping, rollout)
    elif mapping.elements is not None:
        several = _Elements(mapping, mapping.elements, rollout)
        if mapping.elements.one == "old" and (mapping.logged or not back):
            yield several.astray(side)
        yield several.wrong(back=back)
    else:
        yield from _of_rows(_Statements(mapping, rollout), mapping, side)


def _of_rows(statements: _Statements, mapping: RowMapping, side: Side) -> Iterator[Repair]:
    if mapping.logged:
        # What is noted counts first, so that nothing that waits is written over.
        yield statements.reconciled(statements.pairs, statements.different(), side)
        yield statements.reconciled(statements.new, statements.extra(), side)
    else:
        if side == "old" and (only := derived(mapping, "new")):
            yield statements.repeated(only)
        yield statements.settled(statements.pairs, statements.different(), side)
        if mapping.old.references:
            # The values agree by now; what is left is which row is named.
            yield statements.settled(statements.pairs, statements.different(), "old")
    if mapping.old.references:
        yield statements.astray()
    if not mapping.logged:
        if side == "old":
            yield statements.settled(statements.new, statements.extra(own=True), side)
        else:
            yield statements.deleted()


class _Statements:
    """Which rows are wrong, and what makes them right; a few at a time, locked before they are looked at again."""

    def __init__(self, mapping: RowMapping, rollout: int) -> None:
        self._mapping, self._rollout = mapping, rollout
        self._old, self._new = qualified_name(mapping.old.table), qualified_name(mapping.new.table)
        self._joined = row_conditions.joined(mapping, "zdm_o", "zdm_n")
        # What is deleted, or repeated, here must not be mirrored.
        self._silent = {"zdm.row": row_conditions.backfilling(mapping)}
        self.old, self.new = (
            sql.SQL("{} AS {}").format(table, alias)
            for table, alias in ((self._old, _OLD), (self._new, _NEW))
        )
        self.pairs = sql.SQL("{} JOIN {} ON {}").format(self.new, self.old, self._joined)

    def different(self, only: Sequence[MirroredColumn] = ()) -> sql.Composable:
        """A condition over a pair: neither follows from the other.

        Parameters
        ----------
        only: these columns of the new side do not.
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
        return all_of([self._may, apart, *self._unknown("zdm_o")])

    def extra(self, *, own: bool = False) -> sql.Composable:
        """A condition over a row of the new side: no row of the old one makes, or fills it.

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
        return sql.SQL("{} AND NOT EXISTS (SELECT FROM {} WHERE {})").format(
            all_of([lone, answered, *self._unknown()]), self.old, all_of([self._joined, self._may])
        )

    def _unknown(self, old: str | None = None) -> list[sql.Composable]:
        """Conditions: the row is not one that is recorded as having no old form."""
        mapping = self._mapping
        if not mapping.records:
            return []
        if old is None:
            return [sql.SQL("NOT {}").format(records.recorded(mapping, self._rollout, "zdm_n"))]
        return [sql.SQL("NOT {}").format(records.known(mapping, self._rollout, old, "zdm_n"))]

    @property
    def _may(self) -> sql.Composable:
        where = self._mapping.where
        return sql.SQL("true") if where is None else sql.SQL("({} IS TRUE)").format(render(where, "zdm_o"))

    def astray(self) -> Repair:
        """Rows of the old side whose reference names a row that is not there: they name none from now on."""
        side = self._mapping.old

        def naming_none(wrong: sql.Composable) -> sql.Composed:
            return sql.SQL(
                "WITH found AS MATERIALIZED (SELECT {o}.* FROM {source} WHERE {wrong} LIMIT {rows} FOR NO KEY UPDATE OF {o}) "
                "UPDATE {old} AS {n} SET {clear} FROM found AS {o} WHERE {same}"
            ).format(
                n=_NEW,
                o=_OLD,
                source=self.old,
                wrong=wrong,
                rows=sql.Literal(ROWS),
                old=self._old,
                clear=comma(sql.SQL("{} = NULL").format(sql.Identifier(c.name)) for c in side.references),
                same=same_key(side, "zdm_n", "zdm_o"),
            )

        wrong = sql.SQL("{} AND NOT EXISTS (SELECT FROM {} WHERE {})").format(
            any_of(row_conditions.refers(side, "zdm_o")), self.new, self._joined
        )
        return Repair(self.old, "zdm_o", wrong, naming_none)

    def settled(self, source: sql.Composable, wrong: sql.Composable, side: Side) -> Repair:
        """Rows of which `side` is to hold what the other side's row says."""
        alias, name, table = (_NEW, "zdm_n", self._new) if side == "old" else (_OLD, "zdm_o", self._old)

        def settling(wrong: sql.Composable) -> sql.Composed:
            return sql.SQL(
                "WITH found AS MATERIALIZED (SELECT {alias}.* FROM {source} WHERE {wrong} LIMIT {rows} FOR NO KEY UPDATE OF {alias}) "
                "SELECT {settle}(ROW({alias}.*)::{table}, false, false) FROM found AS {alias}"
            ).format(
                alias=alias,
                source=source,
                wrong=wrong,
                rows=sql.Literal(ROWS),
                settle=row_write.settle(self._mapping, self._rollout, side),
                table=table,
            )

        return Repair(source, name, wrong, settling)

    def repeated(self, only: Sequence[MirroredColumn]) -> Repair:
        """Pairs of which these columns are to say again what the old side's row says, which alone can say it."""

        def repeating(wrong: sql.Composable) -> sql.Composed:
            return sql.SQL(
                "WITH found AS MATERIALIZED (SELECT {n}.*, {values} FROM {source} WHERE {wrong} LIMIT {rows} FOR NO KEY UPDATE OF {n}, {o}) "
                "UPDATE {new} AS {n} SET {assigned} FROM found WHERE {same}"
            ).format(
                n=_NEW,
                o=_OLD,
                values=comma(
                    sql.SQL("{} AS {}").format(render(c.value, "zdm_o"), column(f"zdm_v{number}"))
                    for number, c in enumerate(only)
                ),
                source=self.pairs,
                wrong=wrong,
                rows=sql.Literal(ROWS),
                new=self._new,
                assigned=comma(
                    sql.SQL("{} = {}").format(column(c.name), column(f"zdm_v{number}", "found"))
                    for number, c in enumerate(only)
                ),
                same=same_key(self._mapping.new, "zdm_n", "found"),
            )

        return Repair(self.pairs, "zdm_n", self.different(only), repeating, self._silent)

    def reconciled(self, source: sql.Composable, wrong: sql.Composable, side: Side) -> Repair:
        """Rows of the new side that are to agree with those of the old one; `side` follows where nothing is noted."""
        reconcile = row_log.reconcile(
            self._mapping, self._rollout, "new", "zdm_n", counts=row_conditions.across(side)
        )
        return Repair(source, "zdm_n", wrong, partial(_calling, source, "zdm_n", reconcile))

    def deleted(self) -> Repair:
        """Rows that nothing makes go; those that nothing fills are emptied."""
        side = self._mapping.new
        write = sql.SQL("DELETE FROM {new} AS {o} USING found AS {n} WHERE {same}")
        strength = sql.SQL("UPDATE")
        if self._mapping.joins:
            write = sql.SQL("UPDATE {new} AS {o} SET {clear} FROM found AS {n} WHERE {same}")
            strength = sql.SQL("NO KEY UPDATE")
        pieces = {"n": _NEW, "o": _OLD, "new": self._new, "same": same_key(side, "zdm_o", "zdm_n")}
        if self._mapping.joins:
            pieces["clear"] = row_conditions.cleared(side, "zdm_o")

        def deleting(wrong: sql.Composable) -> sql.Composed:
            return sql.SQL(
                "WITH found AS MATERIALIZED (SELECT {}.* FROM {} WHERE {} LIMIT {} FOR {} OF {}) {}"
            ).format(_NEW, self.new, wrong, sql.Literal(ROWS), strength, _NEW, write.format(**pieces))

        return Repair(self.new, "zdm_n", self.extra(), deleting, self._silent)


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

    def astray(self) -> Repair:
        """Links of no row of the source, which nothing could settle: they go."""
        wrong = sql.SQL("NOT EXISTS (SELECT FROM {} AS {} WHERE {})").format(
            self._old, _OLD, parent_conditions.links(self._mapping, "zdm_n", "zdm_o")
        )
        return _dropped(self._new, "zdm_n", wrong)

    def _counted(self, alias: str) -> list[sql.Composable]:
        """Conditions: the link is not one that is recorded as having no old form."""
        if not self._mapping.records:
            return []
        return [sql.SQL("NOT {}").format(records.recorded(self._mapping, self._rollout, alias))]

    def wrong(self, side: Side) -> Repair:
        """Links that do not follow from the source's row, nor it from them: `side` is to hold what the other one says."""
        mapping = self._mapping
        wrong = all_of([*self._counted("zdm_n"), sql.SQL("NOT ({})").format(self._right)])
        if side == "old":
            source, name = sql.SQL("{} AS {}").format(self._new, _NEW), "zdm_n"
        else:
            source, name = sql.SQL("{} AS zdm_s").format(self._old), "zdm_s"
            wrong = sql.SQL("EXISTS (SELECT FROM {} AS {} WHERE {} AND {})").format(
                self._new, _NEW, wrong, parent_conditions.links(mapping, "zdm_n", "zdm_s")
            )
        settle = parent_sync.settling(mapping, self._rollout, side, name)
        return Repair(source, name, wrong, partial(_calling, source, name, settle, lock=True))


class _Elements:
    """The same for a mapping of one to many: rows whose elements are not what they say, nor they what those say together."""

    def __init__(self, mapping: RowMapping, elements: Elements, rollout: int) -> None:
        self._mapping, self._elements, self._rollout = mapping, elements, rollout
        self._side = mapping.side(elements.one)
        self._one = qualified_name(self._side.table)
        self._many = qualified_name(mapping.side(elements.many).table)

    def astray(self, side: Side) -> Repair:
        """Elements of no row: they go, or follow what is noted; `side` follows where nothing is."""
        wrong = all_of(
            [
                *element_rows.is_element(self._mapping, "zdm_m"),
                sql.SQL("NOT EXISTS (SELECT FROM {} AS zdm_o WHERE {})").format(
                    self._one, element_rows.belongs(self._mapping, "zdm_m", "zdm_o")
                ),
            ]
        )
        if not self._mapping.logged:
            return _dropped(self._many, "zdm_m", wrong)

        def reconciling(wrong: sql.Composable) -> sql.Composed:
            return sql.SQL(
                "WITH found AS MATERIALIZED (SELECT DISTINCT {key} AS key FROM {many} AS zdm_m WHERE {wrong} LIMIT {rows})"
                " SELECT {reconcile} FROM found"
            ).format(
                key=key_text(element_log.group(self._mapping), "zdm_m"),
                many=self._many,
                wrong=wrong,
                rows=sql.Literal(ROWS),
                reconcile=row_log.reconcile_key(
                    self._mapping, self._rollout, sql.SQL("found.key"), row_conditions.across(side)
                ),
            )

        return Repair(sql.SQL("{} AS zdm_m").format(self._many), "zdm_m", wrong, reconciling)

    def wrong(self, *, back: bool) -> Repair:
        """Rows that disagree with their elements: made to agree by the old side, or by the new one; by what is noted before that."""
        mapping, one, name = self._mapping, self._elements.one, "zdm_s"
        source = sql.SQL("{} AS zdm_s").format(self._one)
        keys = comma(column(key, name) for key in self._side.key)
        wrong = sql.SQL("({}) IN (SELECT {} FROM ({}) AS zdm_w)").format(
            keys,
            comma(sql.Identifier(f"zdm_k{number}") for number, _ in enumerate(self._side.key)),
            element_rows.disagreeing(mapping, self._rollout),
        )
        if mapping.logged:
            settle = row_log.reconcile(mapping, self._rollout, one, name, counts="new" if back else "old")
        elif back == (one == "old"):
            settle = element_rows.settling_one(mapping, self._rollout, keys, "repair")
        else:
            settle = element_rows.settling_many(mapping, self._rollout, name, "repair")
        making = partial(_calling, source, name, settle, lock=not mapping.logged)
        return Repair(source, name, wrong, making, asks=True)


def _calling(
    source: sql.Composable, alias: str, call: sql.Composable, wrong: sql.Composable, *, lock: bool = False
) -> sql.Composed:
    """Call this for some rows that meet a condition; under their locks, where it does not take them itself."""
    name = sql.Identifier(alias)
    return sql.SQL(
        "WITH found AS MATERIALIZED (SELECT {name}.* FROM {source} WHERE {wrong} LIMIT {rows}{lock}) SELECT {call} FROM found AS {name}"
    ).format(
        name=name,
        source=source,
        wrong=wrong,
        rows=sql.Literal(ROWS),
        lock=sql.SQL(" FOR NO KEY UPDATE OF {}").format(name) if lock else sql.SQL(""),
        call=call,
    )


def _dropped(table: sql.Composable, alias: str, wrong: sql.Composable) -> Repair:
    """Rows that go."""
    source = sql.SQL("{} AS {}").format(table, sql.Identifier(alias))

    def dropping(wrong: sql.Composable) -> sql.Composed:
        return sql.SQL(
            "DELETE FROM {table} AS zdm_l USING (SELECT {alias}.tableoid, {alias}.ctid FROM {source} WHERE {wrong} LIMIT {rows}) AS zdm_a"
            " WHERE zdm_l.ctid OPERATOR(pg_catalog.=) zdm_a.ctid AND zdm_l.tableoid OPERATOR(pg_catalog.=) zdm_a.tableoid"
        ).format(table=table, alias=sql.Identifier(alias), source=source, wrong=wrong, rows=sql.Literal(ROWS))

    return Repair(source, alias, wrong, dropping)


def _groups(mapping: RowMapping, rollout: int) -> Repair:
    """Keys whose row is missing, one too many, or says something else."""
    names = [f"zdm_k{number}" for number, _ in enumerate(mapping.new.key)]
    source = sql.SQL("({}) AS zdm_w").format(group_sync.disagreeing(mapping, rollout))
    settle: sql.Composable = element_rows.settling_one(
        mapping, rollout, comma(map(sql.Identifier, names)), "repair"
    )
    if mapping.logged:
        texts = comma(sql.SQL("{}::pg_catalog.text").format(column(name)) for name in names)
        settle = row_log.reconcile_key(mapping, rollout, sql.SQL("ARRAY[{}]").format(texts), "old")
    key = sql.SQL("ROW({})::pg_catalog.text").format(comma(column(name, "zdm_w") for name in names))
    return Repair(source, "zdm_w", sql.SQL("true"), partial(_calling, source, "zdm_w", settle), name=key)
