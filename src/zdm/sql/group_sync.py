"""The functions and triggers of a mapping that makes a row of the new version for all rows of the old one that have the same key.

The row is there as long as there are such rows; it is the lock of its key as well, so whoever writes rows of a key makes it first.
"""

from __future__ import annotations

from psycopg import sql

from zdm.model.row_mapping import RowMapping
from zdm.sql.element_rows import Besides, belongs, is_element, is_joined
from zdm.sql.gathered_sync import GatheredObjects
from zdm.sql.identifiers import all_of, any_of, column, comma, qualified_name
from zdm.sql.row_objects import Function, Trigger, equal, failed, record_failure, same_key, truncated

_MANY = "zdm_m"


def keyed(mapping: RowMapping, alias: str) -> sql.Composable:
    """A condition over a row of the old version: it counts, and has a key."""
    assert mapping.elements is not None
    filled = (sql.SQL("({} IS NOT NULL)").format(column(name, alias)) for name in mapping.elements.of)
    return all_of([*filled, *is_element(mapping, alias)])


def key_of(mapping: RowMapping, alias: str) -> sql.Composed:
    """The key of a row of the old version."""
    assert mapping.elements is not None
    return comma(column(name, alias) for name in mapping.elements.of)


def groups(mapping: RowMapping, alias: str) -> sql.Composed:
    """A FROM item: each key of the old version's rows once, under the names that the new version gives its columns."""
    elements = mapping.elements
    assert elements is not None
    return sql.SQL("(SELECT DISTINCT {} FROM {} AS zdm_m WHERE {}) AS {}").format(
        comma(
            sql.SQL("{} AS {}").format(column(name, _MANY), column(own))
            for name, own in zip(elements.of, mapping.new.key, strict=True)
        ),
        qualified_name(mapping.old.table),
        keyed(mapping, _MANY),
        sql.Identifier(alias),
    )


def disagreeing(
    mapping: RowMapping, rollout: int, *, known: bool = True, besides: Besides = lambda _: sql.SQL("false")
) -> sql.Composed:
    """What is wrong, as `zdm.sql.element_rows.disagreeing` has it: rows missing, rows of no key, rows that say something else."""
    names = mapping.new.key
    keys = [sql.SQL("COALESCE({}, {})").format(column(n, "zdm_o"), column(n, "zdm_g")) for n in names]
    failure = failed(mapping, rollout, mapping.old, "zdm_g", keys)
    return sql.SQL(
        "SELECT zdm_p.* FROM (SELECT CASE WHEN {failed} THEN NULL WHEN zdm_o.zdm_there IS NULL THEN 'missing'"
        " WHEN zdm_g.zdm_there IS NULL THEN 'extra' WHEN NOT {joined} THEN 'different' END AS kind,"
        " pg_catalog.concat_ws(', ', {texts}) AS key, {keys}"
        " FROM (SELECT *, true AS zdm_there FROM {groups}) AS zdm_g"
        " FULL JOIN (SELECT *, true AS zdm_there FROM {one}) AS zdm_o ON {same}) AS zdm_p WHERE kind IS NOT NULL"
    ).format(
        failed=any_of(
            [
                *([sql.SQL("EXISTS (SELECT {})").format(failure)] if known else []),
                besides(keys),
            ]
        ),
        joined=is_joined(mapping, "zdm_o", rollout),
        texts=comma(
            sql.SQL("{} || {}::text").format(sql.Literal(f"{name}="), key)
            for name, key in zip(names, keys, strict=True)
        ),
        keys=comma(
            sql.SQL("{} AS {}").format(key, column(f"zdm_k{number}")) for number, key in enumerate(keys)
        ),
        groups=groups(mapping, "zdm_d"),
        one=qualified_name(mapping.new.table),
        same=equal(names, "zdm_o", names, "zdm_g"),
    )


class GroupObjects(GatheredObjects):
    """Everything that watches one of the two sides."""

    @property
    def functions(self) -> tuple[Function, ...]:
        return (*super().functions, self._late()) if self.side == "new" else super().functions

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        if self.side == "old":
            return super().triggers
        on, late = self._named("on_new"), self._named("late_new")
        moved = self._changed(self.one.key)
        ours = sql.SQL("(pg_catalog.current_setting('zdm.row', true) IS DISTINCT FROM {})").format(
            self._guard(self._key("old"))
        )
        held = self._changed([c.name for c in self.elements.held])
        return (
            self._trigger("insert", "INSERT", on),
            self._trigger("update", "UPDATE", on, all_of([held, sql.SQL("NOT {}").format(moved)])),
            self._trigger("late_update", "UPDATE", late, all_of([moved, ours]), late=True),
            self._trigger("late_delete", "DELETE", late, ours, late=True),
            self._statement_trigger(late),
        )

    # --- functions ------------------------------------------------------------------------------------------------------

    def _agree(self) -> Function:
        there = sql.SQL("EXISTS (SELECT FROM {} AS zdm_m WHERE {})").format(
            self.tables["many"], belongs(self.mapping, _MANY, "zdm_row")
        )
        joined = is_joined(self.mapping, "zdm_row", self.rollout)
        return self._agreeing(sql.SQL("false"), all_of([there, joined]))

    def _gather(self) -> Function:
        pieces = self._of_one()
        keys = self._arguments
        held = self.elements.held
        return self._made(
            "settle_new",
            "element_group",
            self._takes,
            **{name: piece for name, piece in pieces.items() if name != "many"},
            many=self.tables["many"],
            keyless=any_of(sql.SQL("({} IS NULL)").format(key) for key in keys),
            named=sql.SQL("\n").join(
                sql.SQL("      {} := {};").format(column(name, "zdm_row"), key)
                for name, key in zip(self.one.key, keys, strict=True)
            ),
            columns=comma(column(name) for name in (*self.one.key, *(c.name for c in held))),
            values=comma([*keys, *(column(f"zdm_c{number}", "zdm_j") for number, _ in enumerate(held))]),
            arbiter=comma(column(name) for name in self.one.key),
            hidden=sql.Literal(
                f"a row of {self.one.table} can neither be found nor made: a trigger or a policy hides it"
            ),
            fail=record_failure(self.mapping, self.rollout, self.many, "zdm_row", keys),
            forget=sql.SQL("  DELETE {};").format(
                failed(self.mapping, self.rollout, self.many, "zdm_row", keys)
            ),
        )

    def _follow(self) -> Function:
        return self._made(
            "on_new",
            "element_group_follow",
            sql.SQL(""),
            settings=self._settings,
            **self.tables,
            guard=self._guard(self._key("new")),
            empty=all_of(sql.SQL("({} IS NULL)").format(column(c.name, "new")) for c in self.elements.held),
            match=belongs(self.mapping, _MANY, "new"),
            settle=self._called("settle_new"),
            keys=self._key("new"),
            own_key=same_key(self.one, "zdm_s", "new"),
            agree=self._agrees("zdm_row"),
            append=self._append(),
            message=self._message,
            hint=self._hint,
        )

    def _late(self) -> Function:
        return self._made(
            "late_new",
            "element_group_late",
            sql.SQL(""),
            settings=self._settings,
            **self.tables,
            kept=keyed(self.mapping, _MANY),
            was_match=belongs(self.mapping, _MANY, "old"),
            was_key=same_key(self.one, "zdm_s", "old"),
            was_guard=self._guard(self._key("old")),
            now_key=same_key(self.one, "zdm_s", "new"),
            now_guard=self._guard(self._key("new")),
            agree=self._agrees("zdm_row"),
            message=self._message,
        )

    @property
    def _message(self) -> sql.Literal:
        name = str(self.one.table).replace("%", "%%")
        return sql.Literal(
            f"the row %s of {name} follows from {str(self.many.table).replace('%', '%%')}, whose rows do not say so"
        )

    def _on_many(self) -> dict[str, sql.Composable]:
        return {
            **super()._on_many(),
            "truncated": sql.SQL(
                "{}\n    DELETE FROM zdm.sync_failures WHERE rollout = {} AND group_name = {};"
            ).format(
                truncated(self.tables["one"], self.others),
                sql.Literal(self.rollout),
                sql.Literal(str(self.mapping.id)),
            ),
        }
