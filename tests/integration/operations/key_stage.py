"""Orders whose key is replaced, and items that refer to them: the stage of the tests that write them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conformance.harness import OPEN_GATES, Rollout
from tests.support.interleave import Isolation, Scene, Session
from tests.support.servers import Database
from zdm.engine.reporter import Silent
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.model.step import Step
from zdm.operations.migration import Migration

SETUP = """
CREATE TABLE orders (id serial PRIMARY KEY, customer text);
CREATE TABLE items (id serial PRIMARY KEY, order_id int NOT NULL REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE, what text);
CREATE TABLE refunds (id serial PRIMARY KEY,
  order_id int CONSTRAINT refunds_order REFERENCES orders ON DELETE SET NULL ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED, cents int);
INSERT INTO orders (customer) SELECT 'c' || g FROM generate_series(1, 50) g;
INSERT INTO items (order_id, what) SELECT g % 50 + 1, 'w' FROM generate_series(1, 200) g;
INSERT INTO refunds (order_id, cents) SELECT nullif(g % 40, 0), g FROM generate_series(1, 100) g;
"""


ISOLATIONS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


BOTH = (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER)


NEW = "SET search_path = public_try_it, public"


at_every_level = pytest.mark.parametrize("level", ISOLATIONS)


in_every_state_at_every_level = pytest.mark.parametrize(
    ("state", "level"),
    [
        # `make test`, which has to stay short, takes each state and each level once.
        pytest.param(state, level, id=f"{state.value}-{level}", marks=[] if m == n else [pytest.mark.soak])
        for m, state in enumerate(BOTH)
        for n, level in enumerate(ISOLATIONS)
    ],
)


in_every_state = pytest.mark.parametrize("state", BOTH, ids=[state.value for state in BOTH])


def replace(table: str = "orders", **more: Any) -> dict[str, Any]:
    return {"replace_key": {"table": table, "to": "uuid", "generate": "gen_random_uuid()", **more}}


def rollout(database: Database, setup: str = SETUP, *operations: dict[str, Any], **more: Any) -> Rollout:
    given = {"id": "try_it", "operations": list(operations) or [replace()], "gates": OPEN_GATES, **more}
    return Rollout(database, Scenario(setup=setup, operations=()), given=Migration.model_validate(given))


@contextmanager
def versions(database: Database) -> Iterator[tuple[Scene, Session, Session]]:
    """A session of the old application and one of the new."""
    with Scene(database.dsn) as scene:
        old, new = scene.session("old"), scene.session("new")
        new.run(NEW)
        yield scene, old, new


def failures(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM zdm.sync_failures"))


class Advance:
    """The next phase, in the background; `before` is called before each step."""

    def __init__(self, rollout: Rollout, before: Callable[[Step], None] = lambda _: None) -> None:
        class Watching(Silent):
            def step_started(self, step: Step, number: int, total: int) -> None:
                del number, total
                before(step)

        self.error: BaseException | None = None
        self._engine = rollout.engine(Watching())
        self._migration = rollout.migration
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            verdicts = self._engine.advance(self._migration).verdicts
            assert not [v for v in verdicts if not v.lets_through], verdicts
        except BaseException as error:  # noqa: BLE001  handed over by `end`
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
