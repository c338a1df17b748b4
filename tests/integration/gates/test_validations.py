"""The migration's own SQL: read-only, bounded, and compared by value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.integration.gates.sample import SETUP, context, migration, session
from tests.support.servers import Database
from zdm.gates.context import GateContext
from zdm.gates.validations import Validations
from zdm.model.verdict import Answer, Verdict
from zdm.operations.migration import Validation


@pytest.fixture
def ctx(database: Database) -> Iterator[GateContext]:
    database.execute(SETUP)
    with session(database.dsn) as conn:
        yield context(conn)


def ask(ctx: GateContext, statement: str, expect: Any, **parameters: Any) -> Verdict:
    # Not validated: the gate does not trust that what it is given was.
    asked = Validation.model_construct(name="check", sql=statement, expect=expect)
    one = migration().model_copy(update={"validations": (asked,)})
    return Validations(**parameters).evaluate(replace(ctx, migration=one))


@pytest.mark.parametrize(
    "statement, expect",
    [
        ("SELECT count(*) FROM orders WHERE amount IS NULL", 0),
        ("SELECT sum(amount) FROM orders", 50500),
        ("SELECT 1.50::numeric", 1.5),
        ("SELECT true", True),
        ("SELECT NULL::int", None),
        ("SELECT 'ok'::text", "ok"),
        ("SELECT pg_typeof(amount)::text FROM orders LIMIT 1", "numeric"),
        ("SELECT '1 day'::interval = '24 hours'", True),
        ("SELECT 10 % 3", 1),
        ("SELECT remark FROM orders WHERE id = 1 -- trailing comment", "n1"),
        ("SELECT 1;", 1),
    ],
)
def test_holds(ctx: GateContext, statement: str, expect: Any) -> None:
    verdict = ask(ctx, statement, expect)
    assert verdict.answer is Answer.PASSED, verdict


@pytest.mark.parametrize(
    "statement, expect, said",
    [
        ("SELECT count(*) FROM orders", 0, "check = 100, expected 0"),
        ("SELECT 1", True, "check = 1, expected true"),
        ("SELECT NULL::int", 0, "check = NULL, expected 0"),
    ],
)
def test_does_not_hold(ctx: GateContext, statement: str, expect: Any, said: str) -> None:
    verdict = ask(ctx, statement, expect)
    assert (verdict.answer, verdict.observed) == (Answer.REFUSED, said)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM public.orders RETURNING 1",
        "SELECT 1; DELETE FROM public.orders; SELECT 1",
        "COMMIT; DELETE FROM public.orders",
        "COMMIT",
        "SELECT 1, 2",
        "SELECT 1 WHERE false",
        "SELECT * FROM generate_series(1, 3)",
        "SELECT nothing FROM orders",
        "not sql",
    ],
)
def test_changes_nothing_and_cannot_be_read(ctx: GateContext, statement: str, database: Database) -> None:
    assert ask(ctx, statement, 1).answer is Answer.UNREADABLE
    assert database.value("SELECT count(*) FROM public.orders") == 100
    assert ask(ctx, "SELECT 1", 1).answer is Answer.PASSED


def test_is_bounded(ctx: GateContext) -> None:
    verdict = ask(ctx, "SELECT count(*) FROM pg_sleep(60)", 1, timeout="50ms")
    assert verdict.answer is Answer.UNREADABLE
    assert "statement timeout" in verdict.observed
