"""Generated tables, rows, migrations and interleavings; the model in Python says what both versions must show.

A failure shrinks, and prints what happened and a program that plays it again.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.properties.pairs import PAIRS, Column
from tests.properties.play import (
    Back,
    Begin,
    Case,
    End,
    Event,
    Kill,
    Path,
    Play,
    Sabotage,
    Table,
    Write,
    Zdm,
)
from tests.support.mortal import Mortal
from tests.support.servers import Database, Server
from tests.support.versions import on_all_versions
from zdm.engine.rollout import Engine

MINUTES = float(os.environ.get("ZDM_SOAK_MINUTES", "10"))
#: Seconds for making a failure small; a test that takes minutes is ended by its runner, and would say nothing.
SHRINKING = 100.0
STEMS = ("c", "Mixed Case", "select", 'quo"te', "ünï", "%s", "zdm", "state")
KEYS = ("id", "Key", "order")
TABLES = ("t", "Order Items", "user")


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, ...]:
    found: list[Table] = []
    for name in draw(st.lists(st.sampled_from(TABLES), min_size=1, max_size=2, unique=True)):
        kinds = draw(st.lists(st.sampled_from(sorted(PAIRS)), min_size=1, max_size=3 - len(found)))
        stems = draw(st.lists(st.sampled_from(STEMS), min_size=len(kinds), max_size=len(kinds), unique=True))
        columns = tuple(Column(kind, stem) for kind, stem in zip(kinds, stems, strict=True))
        rows = st.fixed_dictionaries(
            {n: st.sampled_from(c.values("old", n)) for c in columns for n in c.names("old")}
        )
        found.append(
            Table(name, draw(st.sampled_from(KEYS)), columns, tuple(draw(st.lists(rows, max_size=4))))
        )
    return tuple(found)


@st.composite
def writes(draw: st.DrawFn, among: tuple[Table, ...]) -> Write:
    number = draw(st.integers(0, len(among) - 1))
    path: Path = draw(st.sampled_from(("new view", "table", "old view")))
    side = "new" if path == "new view" else "old"
    names = [(c, n) for c in among[number].columns for n in c.names(side)]
    what = draw(st.sampled_from(("update", "update", "insert", "upsert", "delete")))
    chosen = draw(
        st.lists(
            st.sampled_from(names), unique=True, min_size=0 if what == "insert" else 1, max_size=len(names)
        )
    )
    values = {n: draw(st.sampled_from(c.values(side, n))) for c, n in chosen} if what != "delete" else {}
    return Write(
        draw(st.integers(0, 2)),
        number,
        path,
        what,  # type: ignore[arg-type]
        draw(st.integers(1, 5)),
        values,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    among = draw(tables())
    session = st.integers(0, 2)
    write = writes(among)
    zdm = st.builds(Zdm, st.one_of(st.integers(1, 40), st.just(10**9)))
    event: st.SearchStrategy[Event] = st.one_of(
        write,
        write,
        zdm,
        write,
        st.builds(Begin, session, st.sampled_from(("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"))),
        zdm,
        st.builds(End, session, st.sampled_from((True, True, False))),
        st.builds(Kill),
    )
    events = draw(st.lists(event, min_size=4, max_size=30))
    if draw(st.integers(0, 3)) == 0:
        events.insert(draw(st.integers(0, len(events))), Back())
    return Case(among, tuple(events), draw(st.booleans()))


@pytest.fixture(scope="session")
def mortal() -> Iterator[Mortal]:
    with Mortal() as starter:
        yield starter


@pytest.fixture(scope="module")
def prepared(server: Server) -> Iterator[Database]:
    """A database with zdm's catalog, which those of the examples are copies of."""
    database = Database(server)
    Engine(database.dsn).init()
    yield database
    database.drop()


def play(prepared: Database, mortal: Mortal, case: Case) -> Play:
    database = Database(prepared.server, template=prepared.name)
    try:
        played = Play(database, mortal, case)
        played.run()
    finally:
        database.drop()
    return played


def explore(prepared: Database, mortal: Mortal, number: int, *, examples: int, seconds: float) -> None:
    """Play generated cases; what fails is made as small as can be within `SHRINKING` seconds.

    Parameters
    ----------
    number: decides what is generated.
    seconds: when to stop, if there are examples left.
    """
    end = time.monotonic() + seconds
    failures: dict[str, AssertionError] = {}
    shrunk = float("inf")

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases())
    def check(case: Case) -> None:
        nonlocal shrunk
        if repr(case) in failures:
            raise failures[repr(case)]
        if time.monotonic() > min(end, shrunk):
            return
        try:
            play(prepared, mortal, case)
        except AssertionError as error:
            shrunk = min(shrunk, time.monotonic() + SHRINKING)
            failures[repr(case)] = error
            raise

    check()


@pytest.mark.parametrize("number", range(2))
def test_both_versions_show_what_was_written(prepared: Database, mortal: Mortal, number: int) -> None:
    explore(prepared, mortal, number, examples=3, seconds=120)


@pytest.mark.soak
@on_all_versions
def test_both_versions_show_what_was_written_for_long(prepared: Database, mortal: Mortal) -> None:
    number = secrets.randbelow(1_000_000)
    explore(prepared, mortal, number, examples=100_000, seconds=MINUTES * 60 / 2)


#: What was found once, or is hard to find.
KNOWN = {
    "a new value without an old image, woven into the backfill": Case(
        (Table("t", "id", (Column("widen", "c"),), ({"c": 7}, {"c": 0})),),
        (
            Zdm(10**9),
            Zdm(30),
            Write(0, 0, "new view", "update", 1, {"c": Decimal("7.4")}),
            Begin(1, "REPEATABLE READ"),
            Write(1, 0, "table", "update", 2, {"c": 7}),
            Zdm(20),
            Zdm(20),
            Zdm(20),
            End(1, commit=True),
            Kill(),
            Zdm(10**9),
            Write(0, 0, "old view", "upsert", 1, {"c": 7}),
        ),
        cleanup=True,
    ),
    "a new value before the backfill, a NULL through the new view, and an unchanged write of the old version": Case(
        (
            Table(
                "t",
                "id",
                (Column("widen", "c"), Column("flag", "f")),
                ({"c": 7, "f": True}, {"c": 0, "f": False}),
            ),
        ),
        (
            Zdm(10**9),
            Write(0, 0, "new view", "update", 1, {"c": Decimal("7.4"), "f_level": "shared"}),
            Write(0, 0, "new view", "insert", 3, {"f_level": None}),
            Zdm(10**9),
            Write(0, 0, "table", "update", 1, {"c": 7, "f": False}),
        ),
        cleanup=False,
    ),
}


@on_all_versions
@pytest.mark.parametrize("name", KNOWN)
def test_known(prepared: Database, mortal: Mortal, name: str) -> None:
    play(prepared, mortal, KNOWN[name])


def test_a_failure_says_how_to_see_it_again(prepared: Database, mortal: Mortal) -> None:
    case = Case(
        (Table("t", "id", (Column("widen", "c"),), ({"c": 7},)),),
        (
            Zdm(10**9),
            Write(0, 0, "new view", "update", 1, {"c": Decimal("7.4")}),
            Sabotage("ALTER TABLE t DISABLE TRIGGER USER; UPDATE t SET c = 8"),
        ),
        cleanup=False,
    )
    with pytest.raises(AssertionError) as failure:
        play(prepared, mortal, case)
    told = str(failure.value)
    assert "old side of t, prepared: [(1, 8)] and not [(1, 7)]" in told
    assert 'UPDATE "t" SET "c" = 7.4 WHERE "id" = 1' in told
    assert "COMMIT;  -- client 0" in told
    program = told.partition("from decimal")[2]
    scope: dict[str, object] = {
        "Decimal": Decimal,
        **{n.__name__: n for n in (Case, Table, Column, Zdm, Write, Sabotage)},
    }
    scope["again"] = lambda found: scope.update(found=found)
    exec(program.partition("import *")[2], scope)  # noqa: S102
    assert scope["found"] == case
