"""What the functions and triggers of every kind of mapping that is synced by log have in common: the log, and who goes through it."""

from __future__ import annotations

from abc import abstractmethod

from psycopg import sql

from zdm.model.row_mapping import RowMapping, RowSide
from zdm.sql import row_conditions
from zdm.sql.identifiers import SCHEMA, all_of, column, comma, trusted, type_name
from zdm.sql.row_conditions import across
from zdm.sql.row_objects import Function, Objects, Side, name_of, sides, text_of
from zdm.sql.templates import dollar_quoted

CHANGES = sql.Identifier(SCHEMA, "row_changes")
CONFLICTS = sql.Identifier(SCHEMA, "row_conflicts")

_NOTHING = sql.SQL("")


def of_mapping(mapping: RowMapping, rollout: int, alias: str = "zdm_c") -> sql.Composable:
    """A condition: the entry of the log is this mapping's."""
    return sql.SQL("{} OPERATOR(pg_catalog.=) {} AND {} OPERATOR(pg_catalog.=) {}").format(
        column("rollout", alias), sql.Literal(rollout), column("mapping", alias), sql.Literal(mapping.number)
    )


def function_of(mapping: RowMapping, rollout: int, purpose: str) -> sql.Identifier:
    """One of the functions of a mapping."""
    return sql.Identifier(SCHEMA, name_of(mapping, rollout, purpose))


def keyed(side: RowSide, alias: str, key: str) -> sql.Composable:
    """A condition: the row has the key that an array of text holds."""
    named = [
        sql.SQL("({} OPERATOR(pg_catalog.=) CAST({}[{}] AS {}))").format(
            column(name, alias), trusted(key), sql.Literal(number), type_name(type_)
        )
        for number, (name, type_) in enumerate(side.shared, 1)
    ]
    return all_of([*named, *([row_conditions.theirs(side, alias)] if side.told else [])])


class Logged(Objects):
    """Of the objects of one side: what adds to the log, and what goes through it."""

    @property
    def _here(self) -> sql.Composable:
        """A condition: the entry is this mapping's."""
        return of_mapping(self.mapping, self.rollout)

    @property
    def _lock(self) -> sql.Composable:
        """How the advisory locks on its keys begin."""
        return sql.Literal(f"zdm.row_changes:{self.rollout}:{self.mapping.number}:")

    def owner(self) -> sql.Composed:
        grants = dollar_quoted(
            "log_grants", schema=sql.Literal(SCHEMA), table=sql.Literal(text_of(self.table))
        )
        return sql.SQL("{};\n{}").format(super().owner(), grants)

    def _logged(self, purpose: str, template: str, arguments: str, **pieces: sql.Composable) -> Function:
        name = name_of(self.mapping, self.rollout, purpose)
        definition = self._definition(template, function=sql.Identifier(SCHEMA, name), **pieces)
        return Function(name, sql.SQL(arguments), definition, self._label(template, definition))

    def _expanding(self, *, old_gone: sql.Composable, new_gone: sql.Composable) -> Function:
        """What makes of one entry that stands for many rows an entry of each; `old_gone` and `new_gone` say which, by whose it is."""
        return self._logged(
            "expand",
            "log_expand",
            "pg_catalog.int8",
            lock=self._lock,
            changes=CHANGES,
            filter=self._here,
            old_gone=old_gone,
            new_gone=new_gone,
        )

    @property
    def _whose(self) -> sql.Composable:
        """How an entry of this side begins."""
        return comma([sql.Literal(self.rollout), sql.Literal(self.mapping.number), sql.Literal(self.side)])

    def _keyed(
        self,
        *,
        declare: str,
        read: sql.Composable,
        bring: sql.Composable,
        failure: sql.Composable,
        forget: sql.Composable,
        also: sql.Composable = _NOTHING,
        settings: sql.Composable = _NOTHING,
        **types: sql.Composable,
    ) -> Function:
        """What brings a key to agree.

        Parameters
        ----------
        declare: its variables, of which `types` are filled in.
        read: statements that lock the rows of the key, and read what they hold and what was noted of it.
        bring: those that make them agree.
        failure: those that record what was raised meanwhile; `forget` removes what they recorded.
        also: settings of the transaction, besides that of the row which is mirrored.
        """
        return self._logged(
            "reconcile",
            "log_keyed",
            "pg_catalog.text[], pg_catalog.text",
            also=also,
            settings=settings,
            declare=sql.SQL(declare).format(**types),
            lock=self._lock,
            read=read,
            changes=CHANGES,
            filter=self._here,
            bring=bring,
            failure=failure,
            forget=forget,
        )

    def _moved(
        self,
        take: sql.Composable,
        noted: sql.Composable,
        *,
        also: sql.Composable = _NOTHING,
        settings: sql.Composable = _NOTHING,
    ) -> Function:
        """What follows a row to another key.

        Parameters
        ----------
        take: statements that take the other side's rows along.
        noted: those that take along what was noted.
        also: what else becomes of the entry.
        """
        return self._logged(
            "move",
            "log_moved",
            "pg_catalog.int8",
            settings=settings,
            lock=self._lock,
            changes=CHANGES,
            filter=self._here,
            take=take,
            noted=noted,
            also=also,
        )

    def _work(self) -> Function:
        return self._logged(
            "work",
            "log_work",
            "pg_catalog.int8, pg_catalog.int4, pg_catalog.timestamptz",
            changes=CHANGES,
            filter=self._here,
            reconcile=function_of(self.mapping, self.rollout, "reconcile"),
            move=self._moving(),
            expand=function_of(self.mapping, self.rollout, "expand"),
        )

    def _moving(self) -> sql.Identifier:
        """What follows a row to another key."""
        return function_of(self.mapping, self.rollout, "move")

    def _last(self) -> Function:
        return self._logged(
            "last",
            "log_last",
            "pg_catalog.text",
            changes=CHANGES,
            filter=self._here,
            work=function_of(self.mapping, self.rollout, "work"),
            keep=sql.SQL("\n").join(self._keeping(side) for side in self._noted_sides),
        )

    @property
    def _noted_sides(self) -> tuple[Side, ...]:
        """The sides that entries name."""
        return sides(self.mapping)

    @abstractmethod
    def _lost(self, side: Side) -> sql.Composable | None:
        """What the row of a failed entry (``zdm_c``) holds on that side, as jsonb; None if that is somewhere else as well."""

    def _keeping(self, side: Side) -> sql.Composable:
        """What keeps that, as a conflict that it lost."""
        lost = self._lost(side)
        if lost is None:
            return sql.SQL("  NULL;")
        return sql.SQL(
            "  INSERT INTO {conflicts} (rollout, schema_name, table_name, key, won, lost, reason)\n"
            "  SELECT DISTINCT {rollout}, {schema}, {name}, zdm_c.key, {won},\n"
            "    {lost},\n"
            "    COALESCE((SELECT pg_catalog.min(zdm_f.message) FROM {schema_of}.sync_failures AS zdm_f WHERE zdm_f.rollout = {rollout}"
            " AND zdm_f.group_name = {id} AND (SELECT pg_catalog.array_agg(zdm_v.value) FROM pg_catalog.jsonb_each_text(zdm_f.key) AS zdm_v) @> zdm_c.key), '')\n"
            "  FROM {changes} AS zdm_c WHERE {filter} AND zdm_c.failed AND zdm_c.side OPERATOR(pg_catalog.=) {side};"
        ).format(
            conflicts=CONFLICTS,
            rollout=sql.Literal(self.rollout),
            schema=sql.Literal(self.mapping.id.schema_),
            name=sql.Literal(self.mapping.id.name),
            won=sql.Literal(across(side)),
            lost=lost,
            schema_of=sql.Identifier(SCHEMA),
            id=sql.Literal(str(self.mapping.id)),
            changes=CHANGES,
            filter=self._here,
            side=sql.Literal(side),
        )

    def _conflict(self, won: str, lost: sql.Composable, kept: sql.Composable) -> sql.Composable:
        return sql.SQL(
            "          INSERT INTO {} (rollout, schema_name, table_name, key, won, lost, kept)"
            " VALUES ({}, {}, {}, zdm_key, {}, {}, {});"
        ).format(
            CONFLICTS,
            sql.Literal(self.rollout),
            sql.Literal(self.mapping.id.schema_),
            sql.Literal(self.mapping.id.name),
            sql.Literal(won),
            lost,
            kept,
        )
