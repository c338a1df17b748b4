"""Keys of every type and collation: rows are found by them, or the migration is refused before anything is changed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.sample import Scenario

TREES = """
CREATE EXTENSION ltree;
CREATE TABLE nodes (path ltree PRIMARY KEY, n int);
CREATE TABLE places (id int PRIMARY KEY, place ltree, places ltree[] NOT NULL DEFAULT '{}');
INSERT INTO nodes VALUES ('a.b', 1); INSERT INTO places VALUES (1, 'a.b', ARRAY['a.b'::ltree]);
"""


def planned(database: Database, scenario: Scenario) -> None:
    rollout = Rollout(database, scenario, compared=False)
    rollout.engine().plan(rollout.migration)


ID: dict[str, Any] = {"name": "id", "type": "bigint", "identity": "by default"}


@pytest.mark.parametrize(
    "operation",
    [
        {
            "move_columns": {
                "table": "nodes",
                "to": "n",
                "key": {"path": "path"},
                "columns": ["n"],
                "create": {},
            }
        },
        {"shadow_table": {"table": "nodes", "columns": [{"column": "n", "type": "bigint"}]}},
        {
            "explode": {
                "table": "places",
                "to": "p",
                "key": {"id": "id"},
                "from": {"array": "places"},
                "elements": ["position", {"column": "place", "type": "ltree"}],
                "element_key": ["place"],
                "create": {},
            }
        },
        {
            "normalise": {
                "table": "places",
                "columns": ["place"],
                "parent": "p",
                "values": {"place": "place"},
                "create": {"columns": [ID, {"name": "place", "type": "ltree"}], "primary_key": ["id"]},
                "reference": {"place_id": "id"},
            }
        },
    ],
    ids=lambda operation: next(iter(operation)),
)
def test_a_type_whose_equality_is_an_extensions(database: Database, operation: dict[str, object]) -> None:
    """Triggers do not look it up, so each write of the applications would fail."""
    scenario = Scenario(setup=TREES, operations=(operation,))
    with pytest.raises(BadInput, match=r"is public.ltree, whose = is not the server's own") as caught:
        planned(database, scenario)
    assert {problem.rule for problem in caught.value.problems} == {"no-key"}


def test_collations_come_along(database: Database) -> None:
    """A new table's columns sort, and are unique, as those that they come from."""
    columns = 'k text COLLATE "C" PRIMARY KEY, a text COLLATE "C", b text COLLATE "POSIX", c text, l text[]'
    rollout = Rollout(
        database,
        Scenario(
            setup=f"CREATE TABLE moved ({columns}); CREATE TABLE split ({columns}); CREATE TABLE listed ({columns});"
            f' CREATE TABLE one ({columns}); CREATE TABLE two ({columns}); CREATE TABLE said (k text COLLATE "C", a text COLLATE "C", at int, id int PRIMARY KEY);'
            " CREATE INDEX ON said (k);"
            " INSERT INTO moved VALUES ('k', 'a', 'b', 'c', '{l}');",
            operations=(
                {
                    "move_columns": {
                        "table": "moved",
                        "to": "moved_to",
                        "key": {"k": "k"},
                        "columns": ["a", "c"],
                        "copies": {"b": "b"},
                        "create": {},
                    }
                },
                {
                    "split_table": {
                        "table": "split",
                        "keep": True,
                        "into": [
                            {"to": "split_to", "key": {"k": "k"}, "columns": ["a", "b", "c"], "create": {}}
                        ],
                    }
                },
                {
                    "explode": {
                        "table": "listed",
                        "to": "listed_to",
                        "key": {"k": "k"},
                        "from": {"array": "l"},
                        "elements": ["place", "value"],
                        "create": {},
                    }
                },
                {
                    "collapse": {
                        "table": "said",
                        "to": "last",
                        "key": {"k": "k"},
                        "columns": [{"column": "a", "latest": "a", "by": ["at"]}],
                        "create": {},
                        "one_way": True,
                    }
                },
                {
                    "merge_tables": {
                        "to": "united",
                        "key": ["k"],
                        "create": {},
                        "tables": [
                            {"table": name, "values": {"of": f"'{name}'"}, "columns": ["a", "b", "c", "l"]}
                            for name in ("one", "two")
                        ],
                    }
                },
            ),
        ),
    )
    rollout.advance_to(State.PREPARED)
    for table in ("moved_to", "split_to", "listed_to", "united", "last"):
        for name, collation in database.execute(
            "SELECT attname::text, collname::text FROM pg_attribute JOIN pg_collation AS c ON c.oid = attcollation"
            " WHERE attrelid = %s::regclass AND attnum > 0",
            table,
        ):
            assert collation == {"k": "C", "a": "C", "b": "POSIX"}.get(name, "default"), (table, name)


def test_a_table_that_exists_has_another_collation(database: Database) -> None:
    """The server would not know by which of them to compare, at the first write of an application."""
    scenario = Scenario(
        setup='CREATE TABLE a (k text COLLATE "C" PRIMARY KEY, n int); CREATE TABLE b (k text COLLATE "POSIX" PRIMARY KEY, n int)',
        operations=(
            {
                "move_columns": {
                    "table": "a",
                    "to": "b",
                    "key": {"k": "k"},
                    "columns": ["n"],
                    "rows": "needed",
                }
            },
        ),
    )
    with pytest.raises(BadInput, match="the same collation"):
        planned(database, scenario)
