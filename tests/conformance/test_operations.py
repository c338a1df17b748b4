"""Every operation, found by discovery, through every phase, rolled back from every phase, and killed at every step."""

from __future__ import annotations

import pytest

from tests.conformance.harness import RETRYABLE, Abort, Dying, Rollout
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.operations.registry import operations

SCENARIOS = [
    pytest.param(scenario, id=f"{kind}-{number}" if number else kind)
    for kind, operation in operations().items()
    for number, scenario in enumerate(operation.scenarios)
]
REVERSIBLE = (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER)


def test_every_operation_has_a_scenario() -> None:
    assert [kind for kind, operation in operations().items() if not operation.scenarios] == []


@on_all_versions
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_run_through(database: Database, scenario: Scenario) -> None:
    rollout = Rollout(database, scenario)
    with rollout.writing(new=False) as writers:
        writers.wait_for(1) if scenario.old_writes else None
        rollout.advance_to(State.PREPARED)
    with rollout.writing() as writers:
        rollout.advance_to(State.MIGRATED)
        rollout.advance_to(State.SWITCHED_OVER)
    rollout.agree()
    with rollout.writing(old=False, allowed=(*RETRYABLE, "0A000") if scenario.replans else RETRYABLE):
        rollout.advance_to(State.COMPLETED)
    rollout.finished()
    rollout.nothing_left()


@pytest.mark.parametrize("state", REVERSIBLE)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_roll_back(database: Database, scenario: Scenario, state: State) -> None:
    rollout = Rollout(database, scenario)
    with rollout.writing(new=False) as writers:
        rollout.advance_to(State.PREPARED)
        with rollout.writing(old=False):
            if state is not State.PREPARED:
                rollout.advance_to(state)
        assert rollout.engine().rollback("try_it").state is State.ROLLED_BACK
        del writers
    rollout.nothing_left()
    assert rollout.dump() == rollout.before


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_step(database: Database, scenario: Scenario) -> None:
    """The process dies before each step of each phase, one after the other; each time a new one continues."""
    rollout = Rollout(database, scenario)
    with rollout.writing(new=False):
        rollout.advance_dying_to(State.SWITCHED_OVER)
    rollout.advance_dying_to(State.COMPLETED)
    rollout.finished()
    rollout.nothing_left()


@pytest.mark.parametrize("scenario", SCENARIOS)
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


@pytest.mark.parametrize("scenario", SCENARIOS)
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
    with rollout.writing(allowed=(*RETRYABLE, "42P10")):
        rollout.advance_to(State.MIGRATED)
    with rollout.writing():
        rollout.advance_to(State.SWITCHED_OVER)
    rollout.agree()
    with rollout.writing(old=False, allowed=(*RETRYABLE, "0A000") if scenario.replans else RETRYABLE):
        rollout.advance_to(State.COMPLETED)
    rollout.finished()
    rollout.nothing_left()
