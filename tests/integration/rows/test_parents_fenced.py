"""A mapping of many to one while the old version is set aside."""

from __future__ import annotations

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from zdm.model.phases import State
from zdm.operations.normalise import Normalise


def test_links_both_ways_while_the_fence_is_up(database: Database) -> None:
    """The old column goes by another name then, and follows nevertheless; lifted, the old version reads what was written."""
    rollout = Rollout(database, Normalise.scenarios[0])
    rollout.advance_to(State.SWITCHED_OVER)
    engine = rollout.engine()
    engine.fence(rollout.migration.id)
    rollout.execute_new("UPDATE countries SET title = 'Fenced' WHERE title = 'Kenya'")
    rollout.execute_new(
        "DELETE FROM customer_countries USING countries c WHERE c.id = country_id AND title = 'Peru'"
    )
    rollout.execute_new(
        "WITH c AS (INSERT INTO customers (name) VALUES ('late') RETURNING id)"
        " INSERT INTO customer_countries SELECT c.id, p.id FROM c, countries p WHERE title = 'Nepal'"
    )
    assert engine.verify(rollout.migration.id).clean
    engine.fence(rollout.migration.id, lift=True)
    assert database.execute("SELECT country, count(*) FROM customers GROUP BY country ORDER BY country") == [
        ("Fenced", 75),
        ("Nepal", 76),
        (None, 150),
    ]
    database.execute("UPDATE customers SET country = 'Chad' WHERE name = 'late'")
    rollout.agree()


def test_references_both_ways_while_the_fence_is_up(database: Database) -> None:
    rollout = Rollout(database, Normalise.scenarios[1])
    rollout.advance_to(State.SWITCHED_OVER)
    engine = rollout.engine()
    engine.fence(rollout.migration.id)
    rollout.execute_new("UPDATE categories SET title = 'Fenced' WHERE title = 'Books'")
    rollout.execute_new("DELETE FROM categories WHERE title = 'Tools'")
    rollout.execute_new(
        "INSERT INTO products (label, category_id) SELECT 'late', id FROM categories WHERE title = 'Toys'"
    )
    assert engine.verify(rollout.migration.id).clean
    engine.fence(rollout.migration.id, lift=True)
    assert database.execute(
        "SELECT category, count(*) FROM products GROUP BY category ORDER BY category"
    ) == [
        ("Fenced", 75),
        ("Toys", 76),
        (None, 150),
    ]
    database.execute("UPDATE products SET category = 'Games' WHERE label = 'late'")
    rollout.agree()


def test_links_that_the_old_version_cannot_hold_while_the_fence_is_up(database: Database) -> None:
    """They are recorded then as well, and one takes the place of the one that goes."""
    rollout = Rollout(database, Normalise.scenarios[3])
    rollout.advance_to(State.SWITCHED_OVER)
    engine = rollout.engine()
    engine.fence(rollout.migration.id)
    rollout.execute_new("INSERT INTO topics (id, name) VALUES (-1, 'fire'), (-2, 'none')")
    rollout.execute_new("INSERT INTO paper_topics (paper, topic) VALUES (1, -1), (1, -2), (2, -1)")
    assert engine.verify(rollout.migration.id).clean
    rollout.execute_new("DELETE FROM paper_topics WHERE paper = 1 AND topic > 0")
    engine.fence(rollout.migration.id, lift=True)
    assert database.execute("SELECT topic FROM papers WHERE id <= 2 ORDER BY id") == [("fire",), ("tea",)]
    rollout.agree()
    kept = {tuple(row.key.values()) for row in engine.rollback(rollout.migration.id).without_old_form}
    assert {(1, -2), (2, -1)} <= kept
