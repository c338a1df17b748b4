"""A default is of its column's type, whatever the server makes of its text."""

from __future__ import annotations

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.model.phases import State
from zdm.model.sample import Scenario


@on_all_versions
def test_whoever_inserts_beside_a_default_of_another_type(database: Database) -> None:
    """``numeric DEFAULT 0`` is deparsed as an integer, which has another image; the new version's value differs from it."""
    types = {"a": "numeric", "b": "double precision", "c": "real", "d": "bigint", "e": "char(3)"}
    rollout = Rollout(
        database,
        Scenario(
            setup="CREATE TABLE t (id int PRIMARY KEY, a numeric NOT NULL DEFAULT 0, b double precision NOT NULL DEFAULT 0, c real NOT NULL DEFAULT 1,"
            " d bigint NOT NULL DEFAULT 7, e char(3) NOT NULL DEFAULT 'x')",
            operations=tuple(
                {
                    "change_type": {
                        "table": "t",
                        "column": name,
                        "to": "text",
                        "up": f"{name}::text || '!'",
                        "down": f"rtrim({name}, '!')::{old}",
                        "default": "'0!'",
                    }
                }
                for name, old in types.items()
            ),
        ),
    )
    rollout.advance_to(State.MIGRATED)
    rollout.execute_new("INSERT INTO t (id, a, b, c, d, e) VALUES (1, '1.5!', '2.5!', '3.5!', '4!', 'y!')")
    database.execute("INSERT INTO t (id) VALUES (2)")
    assert database.execute("SELECT a, b, c, d, e FROM t ORDER BY id") == [
        (1.5, 2.5, 3.5, 4, "y  "),
        (0, 0, 1, 7, "x  "),
    ]
    rollout.agree()
