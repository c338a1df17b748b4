"""Does what the migration file itself says hold?"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar

import psycopg
from pydantic import Field

from zdm.db.session import search_path_of, transaction
from zdm.gates.base import Gate, counted, enumerated
from zdm.gates.context import GateContext
from zdm.gates.statements import OWN
from zdm.model.duration import Duration, format_duration
from zdm.model.verdict import Answer, Verdict
from zdm.operations.migration import Validation


class Validations(Gate):
    """Each query of the migration's ``validations`` gives what is expected, read-only and within a time limit."""

    name: ClassVar[str] = "validations"
    asks: ClassVar[str] = "Does what the migration file itself demands hold?"
    scalar: ClassVar[str | None] = "timeout"

    timeout: Duration = Field(default=timedelta(seconds=30), description="the longest one query may run")

    def evaluate(self, ctx: GateContext) -> Verdict:
        """Runs all of them, the new version's schema first in the search path, then the target."""
        validations = ctx.migration.validations
        threshold = f"each gives what it expects within {format_duration(self.timeout)}"
        if not validations:
            return self.passed("the migration states none", threshold)
        answers = [self._ask(ctx, validation) for validation in validations]
        wrong = [text for answer, text in answers if answer is not Answer.PASSED]
        if not wrong:
            return self.passed(
                f"{counted(len(answers), 'validation')} held: {enumerated([t for _, t in answers])}",
                threshold,
            )
        remedy = "Correct the data, or the validation in the migration file."
        if any(answer is Answer.UNREADABLE for answer, _ in answers):
            return self.unreadable("; ".join(wrong), threshold, remedy)
        return self.refused("; ".join(wrong), threshold, remedy)

    def _ask(self, ctx: GateContext, validation: Validation) -> tuple[Answer, str]:
        path = [schema for schema in (ctx.plan.new_schema, ctx.rollout.target) if schema]
        try:
            with transaction(ctx.conn, read_only=True, rollback=True, statement_timeout=self.timeout):
                ctx.conn.execute(search_path_of([*path, "pg_temp"]))
                # Binary results go through the extended protocol, which takes one statement only: text such as
                # "select 0; commit; delete …" is an error there instead of the end of the read-only transaction.
                with ctx.conn.cursor(binary=True) as cursor:
                    cursor.execute(f"{validation.sql.rstrip().rstrip(';')}\n{OWN}".encode())
                    rows = cursor.fetchmany(2) if cursor.description else []
                    width = len(cursor.description or ())
        except psycopg.Error as error:
            return (
                Answer.UNREADABLE,
                f"{validation.name}: {error.diag.message_primary or 'the connection was lost'}",
            )
        if len(rows) != 1 or width != 1:
            return Answer.UNREADABLE, f"{validation.name}: gave not one row of one column"
        value = rows[0][0]
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if matches(value, validation.expect):
            return Answer.PASSED, f"{validation.name} = {show(value)}"
        return Answer.REFUSED, f"{validation.name} = {show(value)}, expected {show(validation.expect)}"


def matches(value: Any, expect: float | bool | str | None) -> bool:
    """Whether a value of the database is the expected one: numbers by value, truth only by truth, all else as text."""
    if expect is None or value is None:
        return value is expect
    if isinstance(expect, bool) or isinstance(value, bool):
        return value is expect
    if isinstance(expect, int | float) and isinstance(value, int | float | Decimal):
        return Decimal(str(value)) == Decimal(str(expect))
    return str(value) == str(expect)


def show(value: Any) -> str:
    """A value as SQL people write it."""
    return (
        {None: "NULL", True: "true", False: "false"}.get(value, str(value)) if _plain(value) else str(value)
    )


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool)
