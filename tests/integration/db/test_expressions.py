"""The server's own understanding of expressions, cut at the columns; whatever is not one expression over a row is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.integration.db.support import public
from tests.support import Database, on_all_versions
from zdm.db.expressions import CheckColumn, ExpressionChecker, Request, measure_roundtrip, on_nulls
from zdm.db.introspect import type_comparison
from zdm.db.session import Session, fetch_value
from zdm.errors import Problem
from zdm.model.expression import ColumnRef, Expression, Volatility
from zdm.model.mapping import ColumnGroup, Comparison, NewColumn, OldColumn, TableMapping

pytestmark = on_all_versions

COLUMNS = [
    CheckColumn("id", "id", "integer"),
    CheckColumn("bal", "bal", "integer"),
    CheckColumn("name", "_zdm_name", "text"),
    CheckColumn("c", "c", "public.colour"),
    CheckColumn("p", "p", "public.pair"),
    CheckColumn("b", "b", "boolean"),
    CheckColumn("ts", "ts", "timestamp without time zone"),
    CheckColumn('Odd "col', 'Odd "col', "integer"),
]


@pytest.fixture(autouse=True)
def schema(database: Database) -> None:
    database.execute(
        """
        CREATE TYPE colour AS ENUM ('red', 'green'); CREATE TYPE pair AS (x int, y text);
        CREATE DOMAIN positive AS int CHECK (value > 0);
        CREATE FUNCTION fimm(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
        CREATE FUNCTION fvol(int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT $1';
        CREATE FUNCTION srf(int) RETURNS SETOF int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
        CREATE OPERATOR ### (FUNCTION = fvol, RIGHTARG = int);
        CREATE TABLE acc (id int PRIMARY KEY, bal int); INSERT INTO acc SELECT g, g FROM generate_series(1, 1000) g;
        """
    )


def check(conn: Session, *texts: str, assign: str | None = None) -> list[Expression | Problem]:
    requests = [Request("here", text, assign) for text in texts]
    return ExpressionChecker(conn).check(COLUMNS, requests, "acc", ["public"])


def accepted(
    conn: Session, text: str, columns: Sequence[CheckColumn] = COLUMNS, assign: str | None = None
) -> Expression:
    (found,) = ExpressionChecker(conn).check(columns, [Request("here", text, assign)], "acc", ["public"])
    assert isinstance(found, Expression), found
    return found


def shown(expression: Expression) -> str:
    return "".join(part if isinstance(part, str) else f"<{part.column}>" for part in expression.parts)


@pytest.mark.parametrize(
    ("text", "deparsed", "type_"),
    [
        ("bal::numeric(18,2)", "(<bal>)::numeric(18,2)", "numeric(18,2)"),
        ("acc.bal + 1", "(<bal> + 1)", "integer"),
        ("fimm(bal)", "public.fimm(<bal>)", "integer"),
        ("bal -- comment", "<bal>", "integer"),
        ("p", "<p>", "public.pair"),
        ("(p).x", "(<p>).x", "integer"),
        ("p IS NULL", "(<p> IS NULL)", "boolean"),
        ("bal IS NULL", "(<bal> IS NULL)", "boolean"),
        ("b OR bal > 3", "(<b> OR (<bal> > 3))", "boolean"),
        ("'red'::colour", "'red'::public.colour", "public.colour"),
        ("bal::positive", "(<bal>)::public.positive", "public.positive"),
        ("'_zdm_ bal' || name", "('_zdm_ bal'::text || <_zdm_name>)", "text"),
        ('"Odd ""col" * 2', '(<Odd "col> * 2)', "integer"),
        ("bal IN (1, 2)", "(<bal> = ANY (ARRAY[1, 2]))", "boolean"),
        ("NULL", "NULL", "text"),
        (
            "CASE WHEN b THEN 'x' ELSE name END",
            "CASE\n    WHEN <b> THEN 'x'::text\n    ELSE <_zdm_name>\nEND",
            "text",
        ),
    ],
)
def test_deparsed(conn: Session, text: str, deparsed: str, type_: str) -> None:
    found = accepted(conn, text)
    assert (shown(found), found.type, found.source) == (deparsed, type_, text)


def test_columns_are_physical(conn: Session) -> None:
    assert ColumnRef(column="_zdm_name") in accepted(conn, "upper(name)").parts


@pytest.mark.parametrize(
    ("text", "volatility"),
    [
        ("bal::text::int", Volatility.IMMUTABLE),
        ("to_char(ts, 'YYYY')", Volatility.STABLE),
        ("ts::text", Volatility.STABLE),
        ("ts::timestamptz", Volatility.STABLE),
        ("current_date", Volatility.STABLE),
        ("name::colour", Volatility.STABLE),
    ],
)
def test_volatility(conn: Session, text: str, volatility: Volatility) -> None:
    assert accepted(conn, text).volatility is volatility


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("random()", "volatile"),
        ("fvol(bal)", "public.fvol(integer) is volatile"),
        ("### bal", "volatile"),
        ("(SELECT 1)", "subquery"),
        ("sum(bal)", "aggregate"),
        ("srf(bal)", "set-returning"),
        ("row_number() OVER ()", "window"),
        ("nope", 'column "nope" does not exist'),
        ("acc", "whole row"),
        ("acc.*", "whole row"),
        ("ctid", "system column"),
        ("tableoid::int", "system column"),
        ("$1", "parameter"),
        ("ROW(bal, id)", "record"),
        ("bal, id", "comma"),
        ("bal; DROP TABLE acc", "semicolon"),
        ("1) IS NULL), ADD CHECK ((true", "nothing opens"),
        ("1) IS NULL OR (b", "nothing opens"),
        ("bal /* open", "not closed"),
        ("bal AS x", "syntax error"),
        ("", "empty"),
    ],
)
def test_refused(database: Database, conn: Session, text: str, reason: str) -> None:
    (found,) = check(conn, text)
    assert isinstance(found, Problem)
    assert reason in found.what
    assert found.where == "here"
    assert database.value("SELECT count(*) FROM acc") == 1000


def test_an_unknown_column_is_answered_with_those_that_there_are(conn: Session) -> None:
    for columns, remedy in (
        (COLUMNS[:2], "The columns are id, bal."),
        ([], "It cannot read any column here."),
    ):
        (found,) = ExpressionChecker(conn).check(columns, [Request("here", "nope")], "acc", ["public"])
        assert isinstance(found, Problem)
        assert found.remedy == remedy


def test_all_problems_at_once_and_the_good_ones_too(conn: Session) -> None:
    found = check(conn, "nope", "bal", "random()", "id")
    assert [type(answer) for answer in found] == [Problem, Expression, Problem, Expression]


@pytest.mark.parametrize(
    ("text", "assign", "sqlstate"),
    [
        ("bal", "bigint", None),
        ("bal", "text", None),
        ("'red'", "public.colour", None),
        ("bal", "public.positive", None),
        ("name", "integer", "42804"),
        ("'abc'", "integer", "22P02"),
        ("bal", "public.colour", "42804"),
    ],
)
def test_assignable(conn: Session, text: str, assign: str, sqlstate: str | None) -> None:
    (found,) = check(conn, text, assign=assign)
    if sqlstate is None:
        assert isinstance(found, Expression)
    else:
        assert isinstance(found, Problem)
        assert sqlstate in found.what


def test_user_functions_are_named(conn: Session) -> None:
    checker = ExpressionChecker(conn)
    checker.check(COLUMNS, [Request("a", "fimm(bal)"), Request("b", "bal")], "acc", ["public"])
    assert checker.user_functions == {"a": ("public.fimm(integer)",)}


def test_volatile_where_it_may_be(conn: Session) -> None:
    (found,) = ExpressionChecker(conn).check(
        COLUMNS, [Request("a", "random()", allow_volatile=True)], "acc", ["public"]
    )
    assert isinstance(found, Expression)
    assert found.volatility is Volatility.VOLATILE


def test_operators_that_search_path_would_change(database: Database, conn: Session) -> None:
    database.execute(
        """CREATE FUNCTION noteq(colour, colour) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT false';
           CREATE OPERATOR = (FUNCTION = noteq, LEFTARG = colour, RIGHTARG = colour)"""
    )
    plain, hidden = check(conn, "c = 'red'::colour", "nullif(c, 'red'::colour)")
    assert isinstance(plain, Expression)
    assert "OPERATOR(public.=)" in shown(plain)
    assert isinstance(hidden, Problem)
    assert "search_path" in hidden.what


def test_a_type_named_like_the_table(database: Database, conn: Session) -> None:
    database.execute("CREATE SCHEMA other; CREATE TYPE other.status AS ENUM ('on')")
    columns = [CheckColumn("a", "a", "text")]
    (found,) = ExpressionChecker(conn).check(
        columns, [Request("x", "status.a::status")], "status", ["other", "public"]
    )
    assert isinstance(found, Expression), found
    assert shown(found) == "(<a>)::other.status"


@pytest.mark.parametrize(
    ("text", "answer"),
    [("bal", True), ("coalesce(bal, 0)", False), ("1 / coalesce(bal, 0)", None), ("p", True)],
)
def test_on_nulls(conn: Session, text: str, answer: bool | None) -> None:
    types = {column.physical_name: column.type for column in COLUMNS}
    assert on_nulls(conn, types, accepted(conn, text)) is answer


# --- down(up(x)) ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("up", "type_", "down", "not_null", "lost", "failed"),
    [
        ("bal", "bigint", "big::int", False, 0, 0),
        ("bal", "numeric(18,2)", "round(big)::int", False, 0, 0),
        ("bal / 2", "bigint", "big * 2", False, 500, 0),
        # Too long for its column: assigned, not cast, so it raises instead of being cut.
        ("bal::text", "character varying(3)", "big::int", False, 0, 1),
        ("10 / (bal - 5)", "bigint", "bal", False, 0, 1),
        ("nullif(bal, 3)", "bigint", "coalesce(big, 3)", True, 0, 1),
    ],
)
def test_roundtrip(
    conn: Session, up: str, type_: str, down: str, not_null: bool, lost: int, failed: int
) -> None:
    new = NewColumn(
        name="_zdm_big",
        final="big",
        type=type_,
        comparison=type_comparison(conn, type_),
        up=accepted(conn, up, assign=type_),
        not_null=not_null,
    )
    over_new = [*COLUMNS, CheckColumn("big", "_zdm_big", type_)]
    old = OldColumn(
        name="bal",
        type="integer",
        comparison=Comparison.NATIVE,
        down=accepted(conn, down, over_new, "integer"),
    )
    group = ColumnGroup(name="g", number=0, old=(old,), new=(new,))
    oid = fetch_value(conn, "SELECT 'public.acc'::regclass::oid::int8")
    mapping = TableMapping(table=public("acc"), final_name="acc", oid=oid, key=("id",), groups=(group,))
    measured = measure_roundtrip(conn, mapping, group)
    assert measured.complete
    found = measured.roundtrip
    assert (found.rows, found.lost, found.failed) == (1000, lost, failed)
    assert len(found.sample_keys) == min(5, lost + failed)
    assert all(key.startswith("id=") for key in found.sample_keys)
    sampled = measure_roundtrip(conn, mapping, group, sample=100)
    assert not sampled.complete
