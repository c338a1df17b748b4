"""A successor's default where `up` is the user's own: `up` of the old default, if that does not depend on the row or the moment."""

from __future__ import annotations

from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from zdm.db.expressions import CheckColumn, ExpressionChecker, Request
from zdm.db.session import Session, fetch_value, transaction
from zdm.errors import Problem
from zdm.model.expression import Expression, Volatility
from zdm.model.plan import Finding, Severity
from zdm.operations.shape import DraftNew, TableShape


@dataclass(slots=True)
class DerivedDefaults:
    """Gives the columns of one table their defaults; what cannot be derived is a problem that asks for one."""

    conn: Session
    target: str
    shape: TableShape
    problems: list[Problem] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def derive(self, ups: dict[str, Expression]) -> None:
        """Derive every default that an operation left to `up`; `ups` are the checked expressions by physical column."""
        for group in self.shape.groups:
            for new in group.new:
                if new.default_by_up is not None and new.inherits and new.physical in ups:
                    self._derive(new, ups[new.physical], group.operation)

    def _derive(self, new: DraftNew, up: Expression, label: str) -> None:
        old, why = new.default_by_up, ""
        original = self.shape.original(new.replaces or "")
        assert old is not None
        assert original is not None
        checked = ExpressionChecker(self.conn).check(
            [CheckColumn(original.name, original.name, original.type, original.collation)],
            [Request(label, old, original.type, original.collation)],
            self.shape.name.name,
            [self.target, "public"],
        )[0]
        if isinstance(checked, Problem) or checked.volatility is not Volatility.IMMUTABLE:
            why = "which is another one each time"
        elif up.volatility is not Volatility.IMMUTABLE:
            why = "and `up` depends on settings of the session"
        elif set(up.columns) - {original.name}:
            why = "and `up` reads other columns as well"
        else:
            default = sql.SQL("CAST({} AS {})").format(checked.render(sql.Identifier), sql.SQL(original.type))
            try:
                value = self._value(up.render(lambda _: default), new.type)
            except psycopg.DataError as error:
                why = f"and `up` of it raises: {(error.diag.message_primary or str(error)).strip()}"
            else:
                self._settle(new, value, old, label)
                return
        self.problems.append(
            Problem(
                f"column {original.name} has the default {old}, {why}, so nothing says what it is in the new version",
                label,
                "Give `default` for the new version, or `drop_default: true`.",
            )
        )

    def _value(self, expression: sql.Composable, type_: str) -> str | None:
        """The value as text of the new type."""
        query = sql.SQL("SELECT CAST({} AS {})::pg_catalog.text").format(expression, sql.SQL(type_))
        with transaction(self.conn, read_only=True, rollback=True):
            found: str | None = fetch_value(self.conn, query)
        return found

    def _settle(self, new: DraftNew, value: str | None, old: str, label: str) -> None:
        shown = next(column for column in self.shape.columns if column.physical == new.physical)
        self.findings.append(
            Finding(
                severity=Severity.NOTE,
                text=f"the default of {new.final} becomes {'NULL' if value is None else value}, which is `up` of the old one, {old}",
                where=label,
            )
        )
        if value is not None:
            new.default = shown.default = (
                sql.SQL("CAST({} AS {})").format(sql.Literal(value), sql.SQL(new.type)).as_string(None)
            )
