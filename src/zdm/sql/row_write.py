"""What the mirroring of one side's row writes in the other side's table, and what is asked about that row before and after.

Everything is over the names of the ``row_settle_*`` templates: ``zdm_at`` is the row as it was given, ``zdm_row`` as it is, ``zdm_t`` the one over there, and ``zdm_v0`` … what
that one is to hold.
"""

from __future__ import annotations

from collections.abc import Collection

from psycopg import sql

from zdm.model.expression import Expression
from zdm.model.row_mapping import (
    MirroredColumn,
    RowMapping,
    RowSide,
    SideKind,
    derived,
    parts,
)
from zdm.sql import row_conditions
from zdm.sql.identifiers import SCHEMA, all_of, any_of, column, comma, differs, qualified_name, trusted
from zdm.sql.row_objects import (
    RAISED,
    Function,
    Objects,
    Side,
    failed,
    name_of,
    record_failure,
    text_of,
)
from zdm.sql.rows import render
from zdm.sql.templates import dollar_quoted, load


def settle(mapping: RowMapping, rollout: int, side: Side) -> sql.Identifier:
    """The function that makes `side` hold what the other side's row says; called as ``f(row, false, false)``."""
    return sql.Identifier(SCHEMA, name_of(mapping, rollout, f"settle_{side}"))


def stale(mapping: RowMapping, rollout: int) -> sql.Identifier:
    """Of a mapping that joins: the function that says whether a row of the old side is not in the new side's columns."""
    return sql.Identifier(SCHEMA, name_of(mapping, rollout, "stale_old"))


class Writing(Objects):
    """Statements of the function that settles the other side (`yours`) by the rows of one (`mine`)."""

    def __init__(self, mapping: RowMapping, rollout: int, side: Side) -> None:
        super().__init__(mapping, rollout, side)
        self.yours = mapping.other(side)
        self.target = qualified_name(self.yours.table)

    @property
    def _direct(self) -> bool:
        """Whether what writes a row knows what the row holds then, so that the trigger over there need not look."""
        return not (
            self.mapping.logged
            or self.mapping.records
            or self.mapping.joins
            or self.mapping.one_way
            or self.mapping.where is not None
            or any(side.references or side.gone for side in (self.mapping.old, self.mapping.new))
        )

    @property
    def _adopts(self) -> bool:
        """Whether rows of this side are the new version's, and their columns come from rows of the other one."""
        return self.mapping.joins and self.side == "new"

    @property
    def _lazy(self) -> bool:
        """Whether a row of this side need not have one over there while it holds nothing."""
        return self.mine.kind is SideKind.COLUMNS and self.yours.kind is SideKind.ROWS

    @property
    def _over_both(self) -> bool:
        """Whether what is written over there depends on what that row holds already."""
        return any(c.value.own for c in self.yours.columns)

    @property
    def _values(self) -> list[sql.Composable]:
        """What the columns over there are computed into, in their order."""
        return [variable(number) for number, _ in enumerate(self.yours.columns)]

    @property
    def _settle_name(self) -> sql.Identifier:
        return settle(self.mapping, self.rollout, row_conditions.across(self.side))

    @property
    def _stored(self) -> sql.Composable:
        """Of a statement that writes the other row: whether it holds then what it was given."""
        return sql.SQL(" RETURNING {} INTO zdm_stored").format(self._follows) if self._direct else sql.SQL("")

    def _back(self) -> sql.Composable:
        """What a trigger of the application made of the other row, instead, is mirrored here."""
        if not self._direct:
            return sql.SQL("")
        return load("row_back").fill(
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            settle=settle(self.mapping, self.rollout, self.side),
            signature=self._signature,
        )

    @property
    def _signature(self) -> sql.Composable:
        """Of the function that makes this side hold what the other one's row says, as text: it is there once that side is mirrored, too."""
        arguments = sql.SQL("{}({}, pg_catalog.bool, pg_catalog.bool)")
        return sql.Literal(
            text_of(arguments.format(settle(self.mapping, self.rollout, self.side), self.target))
        )

    def _stale(self) -> Function:
        name = name_of(self.mapping, self.rollout, "stale_old")
        definition = dollar_quoted(
            "row_stale",
            function=sql.Identifier(SCHEMA, name),
            source=self.table,
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "zdm_row"),
            agree=sql.SQL("NOT {}").format(row_conditions.disagree(self.mapping, "zdm_row", "zdm_t")),
        )
        return Function(name, self.table, definition, self._label("row_stale", definition))

    def _keep(self) -> sql.Composable:
        """A part of the row that agrees stays as it is; derived anew, it would lose what only its own side can express."""
        if self.mapping.one_way or row_conditions.mirror_images(self.mapping):
            return sql.SQL("")
        kept: dict[str, sql.Composable] = {}
        for part in parts(self.mapping):
            mine, yours = (part.old, part.new) if self.side == "old" else (part.new, part.old)
            if not mine or all(c.plain for c in (*mine, *yours)):
                continue
            agrees = sql.SQL("NOT {}").format(row_conditions.any_differs(mine, "zdm_row", "zdm_t"))
            for c in yours:
                kept[c.name] = agrees
        numbered = [(number, c) for number, c in enumerate(self.yours.columns) if c.name in kept]
        # Where all is one part, it does not agree, or nothing would be written.
        if not numbered or len(parts(self.mapping)) == 1:
            return sql.SQL("")
        return load("row_keep").fill(
            target=self.target,
            match=row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            kept=comma(
                sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(
                    kept[c.name], column(c.name, "zdm_t"), variable(number)
                )
                for number, c in numbered
            ),
            values=comma(variable(number) for number, _ in numbered),
            raised=RAISED,
        )

    def _fill(self) -> sql.Composable:
        statement = sql.SQL("    UPDATE {} AS zdm_t SET {} WHERE {}{};").format(
            self.target,
            comma(
                sql.SQL("{} = {}").format(column(c.name), variable(number))
                for number, c in enumerate(self.yours.columns)
            ),
            row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            self._stored,
        )
        if self.side == "old":
            return self._recorded(statement) if self.yours.guarded else statement
        checks: list[sql.Composable] = []
        if self._filter is not None:
            checks.append(self._within_filter(self._filter))
        if self._repeating:
            checks.append(self._belonging())
        if not checks:
            return statement
        return sql.SQL("{}\n    IF FOUND THEN\n{}\n    END IF;").format(statement, sql.SQL("\n").join(checks))

    @property
    def _repeating(self) -> tuple[MirroredColumn, ...]:
        """The columns of the new side that say what stays in the old one, and is not written from here."""
        if self.side == "old":
            return ()
        written = {c.name for c in self.yours.followed}
        return tuple(c for c in self.mine.followed if not written.issuperset(c.value.columns))

    def _repeats_well(self) -> list[sql.Composable]:
        """Conditions over the row over there: what only repeats it does."""
        only = derived(self.mapping, "new") if self.side == "new" and not self.mapping.one_way else ()
        return (
            [sql.SQL("NOT {}").format(row_conditions.any_differs(only, "zdm_row", "zdm_t"))] if only else []
        )

    def _belonging(self) -> sql.Composable:
        """What repeats a column that stays cannot be written back, and must be what that is."""
        return sql.SQL(
            "    IF EXISTS (SELECT FROM {} AS zdm_t WHERE {} AND {}) THEN\n"
            "      RAISE integrity_constraint_violation USING MESSAGE = pg_catalog.concat('the row ', ROW({})::pg_catalog.text, {}),\n"
            "        HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';\n    END IF;"
        ).format(
            self.target,
            row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            row_conditions.any_differs(self._repeating, "zdm_row", "zdm_t"),
            comma(column(name, "zdm_at") for name in self.mine.key),
            sql.Literal(
                f" of {self.mine.table} repeats columns of its row of {self.yours.table}, and they differ: "
                + ", ".join(c.name for c in self._repeating)
            ),
        )

    def _recorded(self, statement: sql.Composable) -> sql.Composable:
        """What another table refuses is noted, and does not refuse the application's write."""
        return sql.SQL(
            "    BEGIN\n{body}\n    EXCEPTION\n{raised}      WHEN OTHERS THEN\n{failed}\n    END;"
        ).format(body=statement, raised=RAISED, failed=self._failed())

    def _emptied(self) -> sql.Composable:
        """The SET list that empties the row over there; what the filter leaves out is none of the mapping's."""
        where = self._filter
        if where is None:
            return row_conditions.cleared(self.yours, "zdm_t")
        return comma(
            sql.SQL("{} = {}").format(column(c.name), row_conditions.empty(c, "zdm_t"))
            if c.reference
            else sql.SQL("{} = CASE WHEN {} THEN {} ELSE {} END").format(
                column(c.name),
                render(where, "zdm_t"),
                row_conditions.empty(c, "zdm_t"),
                column(c.name, "zdm_t"),
            )
            for c in self.yours.columns
        )

    def _emptied_where(self) -> sql.Composable:
        parts = [row_conditions.holds(self.yours, "zdm_t")]
        if self._filter is not None:
            parts.append(sql.SQL("({} IS TRUE)").format(render(self._filter, "zdm_t")))
        return any_of([all_of(parts), *row_conditions.refers(self.yours, "zdm_t")])

    def _still(self, condition: sql.Composable) -> sql.Composable:
        """The condition, where what is seen is what is there; above READ COMMITTED all rows, so that one changed since is met."""
        if not self.mapping.joins:
            return condition
        return sql.SQL(
            "({} OR pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed')"
        ).format(condition)

    def _guard(self, side: Side, of: RowSide, alias: str) -> sql.Composable:
        key = comma(column(name, alias) for name in of.key)
        return sql.SQL("pg_catalog.concat_ws(':', {}, ROW({})::pg_catalog.text)").format(
            sql.Literal(f"{self.mapping.number}:{side}"), key
        )

    def _guard_across(self, alias: str) -> sql.Composable:
        key = comma(render(value, alias) for value in self.yours.key_values)
        return sql.SQL("pg_catalog.concat_ws(':', {}, ROW({})::pg_catalog.text)").format(
            sql.Literal(f"{self.mapping.number}:{row_conditions.across(self.side)}"), key
        )

    @property
    def _follows(self) -> sql.Composable:
        """A condition over the row over there: it holds what was computed."""
        return self._holds({c.name for c in self.yours.followed})

    def _holds(self, names: Collection[str]) -> sql.Composable:
        """The same of these columns alone."""
        return all_of(
            sql.SQL("NOT {}").format(differs(column(c.name, "zdm_t"), variable(number), c.comparison, c.type))
            for number, c in enumerate(self.yours.columns)
            if c.name in names
        )

    @property
    def _filter(self) -> Expression | None:
        """What the old side's row must meet, where that is the side across."""
        return self.mapping.where if self.side == "new" else None

    @property
    def _going(self) -> list[sql.Composable]:
        """Conditions over the row over there: it goes when this one does."""
        # A row that has left the filter by itself is why the new one goes, and stays as it is.
        return [] if self._filter is None else [sql.SQL("({} IS TRUE)").format(render(self._filter, "zdm_t"))]

    def _go(self) -> sql.Composable:
        match = all_of([row_conditions.match(self.yours, "zdm_t", "zdm_at"), *self._going])
        if self.yours.gone:
            assign = comma(
                sql.SQL("{} = {}").format(column(name), trusted(value)) for name, value in self.yours.gone
            )
            return sql.SQL("    UPDATE {} AS zdm_t SET {} WHERE {};").format(self.target, assign, match)
        passing: sql.Composable = sql.SQL("      NULL;")
        if self.side == "old" and self.mapping.countable:
            passing = load("row_pass").fill(
                target=self.target,
                match=match,
                filled=self._filled(self.mapping.id),
                closing=row_conditions.closing(self.mapping, self.rollout),
            )
        return load("row_go").fill(
            target=self.target,
            match=match,
            passing=passing,
            probe_columns=row_conditions.insert_columns(self.yours),
            probe_values=row_conditions.insert_values(self.yours, "zdm_at"),
            silent=sql.SQL("({} OPERATOR(pg_catalog.||) '!')").format(self._guard_across("zdm_at")),
        )

    def _upsert(self) -> sql.Composable:
        side = self.yours
        values: list[sql.Composable] = [render(value, "zdm_row") for value in side.key_values]
        values += [variable(number) for number, _ in enumerate(side.columns)]
        action: sql.Composable = sql.SQL("NOTHING")
        if side.followed:
            action = sql.SQL("UPDATE SET {}").format(
                comma(
                    sql.SQL("{} = EXCLUDED.{}").format(column(c.name), column(c.name)) for c in side.followed
                )
            )
        statement = sql.SQL(
            "    INSERT INTO {} AS zdm_t ({}) OVERRIDING SYSTEM VALUE VALUES ({}) ON CONFLICT ({}) DO {}{};"
        ).format(
            self.target,
            row_conditions.insert_columns(side),
            comma(values),
            comma(column(name) for name in side.key),
            action,
            self._stored,
        )
        if self._filter is not None:
            statement = sql.SQL("{}\n{}").format(statement, self._within_filter(self._filter))
        if self._repeating:
            statement = sql.SQL("{}\n{}").format(statement, self._belonging())
        return self._recorded(statement) if side.guarded and self.side == "old" else statement

    def _within_filter(self, where: Expression) -> sql.Composable:
        """The old row that was made must be one that the mapping takes; else the next look would let the new row go."""
        return sql.SQL(
            "    IF NOT EXISTS (SELECT FROM {} AS zdm_t WHERE {} AND ({}) IS TRUE) THEN\n"
            "      RAISE check_violation USING MESSAGE = pg_catalog.format({}, ROW({})::pg_catalog.text),\n"
            "        HINT = 'Until cleanup every row must have an old form, or a rollback would lose it.';\n    END IF;"
        ).format(
            self.target,
            row_conditions.match(self.yours, "zdm_t", "zdm_at"),
            render(where, "zdm_t"),
            sql.Literal(
                f"the row %s of {self.mine.table} has no old form: in {self.yours.table} it would not meet {where.source!r}".replace(
                    "%s", "\0"
                )
                .replace("%", "%%")
                .replace("\0", "%s")
            ),
            comma(column(name, "zdm_at") for name in self.mine.key),
        )

    def _failed(self) -> sql.Composable:
        """Record that this row has no form over there at present; the application's write goes through."""
        return sql.SQL(
            "        PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);\n{}\n        RETURN false;"
        ).format(record_failure(self.mapping, self.rollout, self.mine, "zdm_at"))

    @property
    def _may_fail(self) -> bool:
        """Whether rows of the old side may be recorded as having no new form."""
        new, mapping = self.mapping.new, self.mapping
        return new.raises or new.guarded or mapping.where is not None or mapping.joins

    def _forget_failure(self) -> sql.Composable:
        if self.side == "new" or not self._may_fail:
            return sql.SQL("")
        return sql.SQL("  DELETE {};").format(failed(self.mapping, self.rollout, self.mine, "zdm_at"))


OWN = sql.Identifier("zdm_own")
"""The row over there as it is, where what is written depends on it."""


def variable(number: int) -> sql.Identifier:
    """The variable of what a column over there is to hold."""
    return sql.Identifier(f"zdm_v{number}")
