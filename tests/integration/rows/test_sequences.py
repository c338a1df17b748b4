"""A sequence that numbers a column which goes to another table: it goes on counting there, and does not keep the old one from going."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from zdm.model.phases import State
from zdm.model.sample import Scenario

SPLIT = {"table": "t", "into": [{"to": "u", "key": {"id": "id"}, "columns": ["n", "v"], "create": {}}]}
MOVE = {"table": "t", "to": "u", "key": {"id": "id"}, "columns": ["n"], "create": {}}


@pytest.mark.parametrize("operation", [{"split_table": SPLIT}, {"move_columns": MOVE}])
def test_it_goes_with_the_column(database: Database, operation: dict[str, Any]) -> None:
    rollout = Rollout(
        database,
        Scenario(
            setup="CREATE TABLE t (id int PRIMARY KEY, n serial, v text); INSERT INTO t (id) SELECT generate_series(1, 5)",
            operations=(operation,),
        ),
    )
    rollout.advance_to(State.COMPLETED)
    assert database.value("SELECT pg_get_serial_sequence('u', 'n')") == "public.t_n_seq"
    if "move_columns" in operation:
        database.execute("INSERT INTO t (id) VALUES (6)")
    database.execute("INSERT INTO u (id) VALUES (6)")
    assert database.execute("SELECT n FROM u ORDER BY id") == [(n,) for n in range(1, 7)]
