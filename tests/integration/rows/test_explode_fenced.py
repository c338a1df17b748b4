"""A mapping of one row to many while the old version is set aside."""

from __future__ import annotations

import pytest

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.operations.explode import Explode


@pytest.mark.parametrize("sync", list(SyncMode))
def test_both_ways_while_the_fence_is_up(database: Database, sync: SyncMode) -> None:
    """The list goes by another name then, and follows nevertheless; lifted, the old version reads what was written."""
    rollout = Rollout(database, Explode.scenarios[0].model_copy(update={"sync": sync}))
    rollout.advance_to(State.SWITCHED_OVER)
    engine = rollout.engine()
    engine.fence(rollout.migration.id)
    rollout.execute_new("UPDATE product_tags SET tag = 'fenced' WHERE product_id = 1 AND position = 1")
    rollout.execute_new("DELETE FROM product_tags WHERE product_id = 3")
    assert engine.verify(rollout.migration.id).clean
    engine.fence(rollout.migration.id, lift=True)
    assert database.execute("SELECT tags FROM products WHERE id IN (1, 3) ORDER BY id") == [
        ("fenced",),
        (None,),
    ]
    database.execute("UPDATE products SET tags = 'x,y' WHERE id = 3")
    rollout.agree()


def test_what_the_list_cannot_hold_while_the_fence_is_up(database: Database) -> None:
    """It is recorded then as well, and stays so when the list has its name again."""
    rollout = Rollout(database, Explode.scenarios[2])
    rollout.advance_to(State.SWITCHED_OVER)
    engine = rollout.engine()
    engine.fence(rollout.migration.id)
    rollout.execute_new(
        "INSERT INTO phones (person, kind, number) VALUES (1, 'mobile', '6'), (1, 'work', '7')"
    )
    assert engine.verify(rollout.migration.id).clean
    engine.fence(rollout.migration.id, lift=True)
    assert database.execute("SELECT home, work FROM people WHERE id = 1") == [("1-1", "7")]
    rollout.execute_new("UPDATE phones SET kind = 'car' WHERE kind = 'mobile'")
    rollout.agree()
    assert [one.key["kind"] for one in engine.rollback(rollout.migration.id).without_old_form] == ["car"]
