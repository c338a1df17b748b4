"""Every operation, found by discovery, through every phase, rolled back from every phase, and killed at every step."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from _pytest.mark import ParameterSet

from tests.conformance.harness import Abort, Dying, Rollout
from tests.conftest import ServerFactory
from tests.support.interleave import eventually
from tests.support.mortal import How, Mortal
from tests.support.servers import Database, Server
from tests.support.versions import on_all_versions
from zdm.devdb import DevServer
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.row_mapping import SideKind
from zdm.model.sample import Scenario
from zdm.operations.registry import operations

SCENARIOS = [
    pytest.param(scenario, id=f"{kind}-{number}" if number else kind)
    for kind, operation in operations().items()
    for number, scenario in enumerate(operation.scenarios)
]


def some(every: int, first: int = 0) -> list[ParameterSet]:
    """Each `every`-th scenario from `first` on; the others belong to the soak test, because `make test` has to stay short."""
    return [
        parameter
        if number % every == first
        else pytest.param(*parameter.values, id=parameter.id, marks=pytest.mark.soak)
        for number, parameter in enumerate(SCENARIOS)
    ]


#: What a statement that a session has prepared meets once, where cleanup changes the type of its result.
REPLANS = ("0A000",)
REVERSIBLE = (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER)


def test_every_operation_has_a_scenario() -> None:
    assert [kind for kind, operation in operations().items() if not operation.scenarios] == []


@pytest.fixture(scope="session")
def mortal() -> Iterator[Mortal]:
    with Mortal() as starter:
        yield starter


@pytest.mark.parametrize(
    ("server", "scenario"),
    [
        pytest.param(
            server, *parameter.values, id=f"{parameter.id}-{server}", marks=[*parameter.marks, *marks]
        )
        for server, marks, parameters in (("default", [], SCENARIOS), ("pg15", [pytest.mark.pg15], some(7)))
        for parameter in parameters
    ],
    indirect=["server"],
)
def test_run_through(database: Database, scenario: Scenario) -> None:
    rollout = Rollout(database, scenario, compared=False)
    with rollout.writing(new=False) as writers:
        writers.wait_for(1) if scenario.old_writes else None
        rollout.advance_to(State.PREPARED)
        rollout.sides_agree(complete=False)
    with rollout.writing():
        rollout.advance_to(State.MIGRATED)
        rollout.sides_agree()
        rollout.advance_to(State.SWITCHED_OVER)
        rollout.sides_agree()
    rollout.agree()
    with rollout.writing(old=False, allowed=REPLANS if scenario.replans else ()):
        rollout.advance_to(State.COMPLETED)
    rollout.finished()
    rollout.nothing_left()


@pytest.mark.parametrize(
    ("scenario", "state"),
    [
        pytest.param(*parameter.values, state, id=f"{parameter.id}-{state.value}", marks=parameter.marks)
        for first, state in enumerate(REVERSIBLE)
        for parameter in some(8, 2 * first)
    ],
)
def test_roll_back(database: Database, scenario: Scenario, state: State) -> None:
    rollout = Rollout(database, scenario)
    with rollout.writing(new=False) as writers:
        rollout.advance_to(State.PREPARED)
        with rollout.writing(old=False):
            if state is not State.PREPARED:
                rollout.advance_to(state)
            rollout.sides_agree(complete=state is not State.PREPARED)
        assert rollout.engine().rollback("try_it").state is State.ROLLED_BACK
        del writers
    rollout.nothing_left()
    assert rollout.dump() == rollout.before


@pytest.mark.parametrize("scenario", some(10))
def test_killed_at_every_step(database: Database, scenario: Scenario) -> None:
    """The process dies before each step of each phase, one after the other; each time a new one continues."""
    rollout = Rollout(database, scenario, compared=False)
    with rollout.writing(new=False):
        rollout.advance_dying_to(State.SWITCHED_OVER)
        rollout.sides_agree()
    rollout.advance_dying_to(State.COMPLETED)
    rollout.finished()
    rollout.nothing_left()


@pytest.mark.parametrize("scenario", some(16, 1))
def test_killed_then_rolled_back(database: Database, scenario: Scenario) -> None:
    """The process dies before step n of the way to switchover; the way back leaves the schema as it was, for every n."""
    rollout = Rollout(database, scenario)
    for step in range(1, 200):
        reporter = Dying(step)
        try:
            for _ in range(3):
                rollout.engine(reporter).advance(rollout.migration, restart=True)
            died = False
        except Abort:
            died = True
        rollout.engine().rollback("try_it")
        rollout.nothing_left()
        assert rollout.dump() == rollout.before, f"after dying before step {step}"
        if not died:
            return


@pytest.mark.parametrize("scenario", some(10, 2))
def test_killed_on_the_way_back(database: Database, scenario: Scenario) -> None:
    """From switchover, where both sides are compared first: what is undone already cannot be compared any more."""
    rollout = Rollout(database, scenario)
    with rollout.writing(new=False):
        rollout.advance_to(State.SWITCHED_OVER)
        rollout.roll_back_dying()
    rollout.nothing_left()
    assert rollout.dump() == rollout.before


def killed_for_real(rollout: Rollout, mortal: Mortal, seed: str, kills: int) -> None:
    """kill -9 at round trips by chance in every phase; once it goes back, killed as well, and begins again.

    Not again where the new version's table existed: it keeps the rows that it got, and the old version has written since.
    """
    rng = random.Random(seed)
    sides = [mapping.new for mapping in rollout.engine().plan(rollout.migration).row_mappings]
    once = any(side.kind is SideKind.ROWS and not side.created for side in sides)
    back = REVERSIBLE.index(rng.choice(REVERSIBLE))
    with rollout.writing(new=False) as writers:
        writers.wait_for(1) if rollout.scenario.old_writes else None
        for state in REVERSIBLE[: back + 1]:
            rollout.advance_mortally_to(mortal, state, rng, kills)
        rollout.roll_back_mortally(mortal, rng, kills)
    rollout.nothing_left()
    assert rollout.dump() == rollout.before
    if once:
        return
    with rollout.writing(new=False):
        rollout.advance_mortally_to(mortal, State.PREPARED, rng, kills)
        with rollout.writing(old=False):
            rollout.advance_mortally_to(mortal, State.MIGRATED, rng, kills)
            rollout.advance_mortally_to(mortal, State.SWITCHED_OVER, rng, kills)
            rollout.sides_agree()
    rollout.agree()
    with rollout.writing(old=False, allowed=REPLANS if rollout.scenario.replans else ()):
        rollout.advance_mortally_to(mortal, State.COMPLETED, rng, kills)
    rollout.finished()
    rollout.nothing_left()


@pytest.mark.parametrize("scenario", SCENARIOS[::8])
def test_killed_for_real(
    database: Database, scenario: Scenario, mortal: Mortal, request: pytest.FixtureRequest
) -> None:
    killed_for_real(Rollout(database, scenario), mortal, request.node.name, 1)


def struck(mortal_server: DevServer, scenario: Scenario, how: str, at: int) -> bool:
    """The server, or one backend of zdm's (with which the server ends all others), is killed -9 when a step begins; False if there
    are fewer steps."""
    database = Database(Server(mortal_server.dsn(), mortal_server))
    try:
        rollout = Rollout(database, scenario)

        def strike() -> None:
            if how == "server":
                mortal_server.crash()
                mortal_server.start()
                return
            with database.connect(autocommit=True) as witness:
                pids = witness.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'zdm%' ORDER BY pid"
                ).fetchall()
                os.kill(pids[at % len(pids)][0], signal.SIGKILL)
                # The server takes a moment to notice; until then it answers as if nothing had happened.
                eventually(lambda: ended(witness), seconds=60, what="the server to end all backends")
            eventually(lambda: answers(database), seconds=60, what="the server to recover")

        happened = rollout.advance_struck_to(State.COMPLETED, at, strike)
        rollout.finished()
        rollout.nothing_left()
        database.drop()
        return happened
    finally:
        if not mortal_server.is_running:
            mortal_server.start()


def ended(witness: psycopg.Connection[Any]) -> bool:
    try:
        witness.execute("SELECT")
    except psycopg.OperationalError:
        return True
    return False


def answers(database: Database) -> bool:
    try:
        return bool(database.value("SELECT true"))
    except psycopg.OperationalError:
        return False


@pytest.mark.parametrize("how", ["server", "backend"])
def test_the_server_is_killed(make_server: ServerFactory, how: str) -> None:
    """A few operations, at a few steps; the rest is for the long run."""
    server, rng = make_server(), random.Random(how)
    for parameter in rng.sample(SCENARIOS, 3):
        struck(server, parameter.values[0], how, rng.randint(2, 12))  # type: ignore[arg-type]


@pytest.mark.soak
@pytest.mark.parametrize("how", ["server", "backend"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_server_is_killed_at_every_step(make_server: ServerFactory, scenario: Scenario, how: str) -> None:
    server = make_server()
    for at in itertools.count(1):
        if not struck(server, scenario, how, at):
            return


@pytest.mark.soak
@on_all_versions
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_for_real_again_and_again(
    database: Database, scenario: Scenario, mortal: Mortal, seed: int, request: pytest.FixtureRequest
) -> None:
    killed_for_real(Rollout(database, scenario), mortal, request.node.name, 4)


@pytest.mark.soak
@pytest.mark.parametrize("how", How)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_round_trip(database: Database, scenario: Scenario, mortal: Mortal, how: How) -> None:
    """Each phase is killed at its first round trip, then, going on, at the second, and so on until it is done."""
    rollout = Rollout(database, scenario)
    for state in (*REVERSIBLE, State.COMPLETED):
        for at in itertools.count(1):
            ended = mortal.advance(database.dsn, rollout.migration, at=at, how=how)
            assert not ended.error, (at, ended.error)
            rollout.sides_agree(complete=False)
            if rollout.state() == state.value:
                break
        rollout.turns(state)
    rollout.finished()
    rollout.nothing_left()


@pytest.mark.parametrize("scenario", some(10, 2))
def test_exposed_columns(database: Database, scenario: Scenario) -> None:
    """Teams without version schemas: the new application uses the table itself, by the new columns' own names."""
    rollout = Rollout(database, scenario, expose="columns")
    refusal: BadInput | None = None
    try:
        rollout.engine().plan(rollout.migration)
    except BadInput as error:
        refusal = error
    if refusal is not None:
        # What cannot be told apart by name alone is refused, with a remedy.
        assert all(problem.remedy for problem in refusal.problems)
        return
    with rollout.writing(new=False) as writers:
        writers.wait_for(1) if scenario.old_writes else None
        rollout.advance_to(State.PREPARED)
    # An index that follows a column is built after the data, so ON CONFLICT on the new name has to wait for it.
    with rollout.writing(allowed=("42P10",)):
        rollout.advance_to(State.MIGRATED)
    with rollout.writing():
        rollout.advance_to(State.SWITCHED_OVER)
    rollout.agree()
    with rollout.writing(old=False, allowed=REPLANS if scenario.replans else ()):
        rollout.advance_to(State.COMPLETED)
    rollout.finished()
    rollout.nothing_left()
