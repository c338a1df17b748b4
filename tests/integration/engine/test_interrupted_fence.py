"""A fence that was cut off half-way, or whose schemas another rollout has removed, is no dead end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.servers import Database
from zdm.db.locks import run_locked
from zdm.engine.results import Outcome
from zdm.engine.rollout import Engine
from zdm.model.phases import State
from zdm.model.step import Phase
from zdm.operations.migration import Migration

OPEN_GATES: dict[str, Any] = {
    "soak": "0s",
    "old_version_unused": False,
    "approvals": 0,
    "dependencies": False,
    "replication_lag": False,
}


class Died(BaseException):
    """Stands for the death of the process."""


def widen(table: str, name: str) -> Migration:
    return Migration.model_validate(
        {
            "id": name,
            "operations": [{"change_type": {"table": table, "column": "amount", "to": "bigint"}}],
            "gates": OPEN_GATES,
        }
    )


def make(database: Database, *tables: str) -> Engine:
    for table in tables:
        database.execute(
            f"CREATE TABLE {table} (id serial PRIMARY KEY, amount int, note text);"
            f"INSERT INTO {table} (amount, note) SELECT g, g FROM generate_series(1, 5) g"
        )
    engine = Engine(database.dsn)
    engine.init()
    return engine


def die_after(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    """The process dies once `parts` transactions of the fence are committed, or before it is recorded."""
    real, left = run_locked, [parts]

    def run(*arguments: Any, **named: Any) -> None:
        if not left[0]:
            raise Died
        left[0] -= 1
        real(*arguments, **named)

    def record(*_: Any, **__: Any) -> None:
        raise Died

    monkeypatch.setattr("zdm.engine.fence.run_locked", run)
    monkeypatch.setattr("zdm.catalog.rollouts.set_fenced", record)


def shape(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT n.nspname, c.relname, a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " WHERE n.nspname ~ '^(public|_zdm)' AND c.relkind IN ('r', 'v') ORDER BY 1, 2, a.attname"
    )


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("lift", [False, True])
def test_rollback_brings_the_names_back(
    database: Database, monkeypatch: pytest.MonkeyPatch, parts: int, lift: bool
) -> None:
    engine, migration = make(database, "orders"), widen("orders", "widen")
    before = shape(database)
    engine.advance(migration, until=Phase.SWITCHOVER)
    if lift:
        engine.fence("widen")
    with monkeypatch.context() as patched:
        die_after(patched, parts)
        with pytest.raises(Died):
            engine.fence("widen", lift=lift)
    assert engine.rollback("widen").leftovers == ()
    assert shape(database) == before


@pytest.mark.parametrize("parts", [1, 2])
def test_raising_it_again_goes_on(database: Database, monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    engine, migration = make(database, "orders"), widen("orders", "widen")
    engine.advance(migration, until=Phase.SWITCHOVER)
    with monkeypatch.context() as patched:
        die_after(patched, parts)
        with pytest.raises(Died):
            engine.fence("widen")
    assert engine.fence("widen").fenced
    engine.verify("widen")
    assert engine.advance(migration).state is State.COMPLETED


def test_cleanup_after_an_interrupted_fence(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, migration = make(database, "orders"), widen("orders", "widen")
    engine.advance(migration, until=Phase.SWITCHOVER)
    with monkeypatch.context() as patched:
        die_after(patched, 1)
        with pytest.raises(Died):
            engine.fence("widen")
    found = engine.advance(migration)
    assert found.outcome is Outcome.DONE, found.verdicts
    assert found.state is State.COMPLETED


def test_a_schema_behind_two_fences_comes_back_with_the_last(database: Database) -> None:
    """Two rollouts have one earlier version for their old one: lifting the fence of one leaves the other's as it is."""
    engine = make(database, "orders", "items")
    both = Migration(
        id="first",
        operations=(*widen("orders", "first").operations, *widen("items", "first").operations),
        gates=OPEN_GATES,
    )
    engine.advance(both, until=Phase.CLEANUP)
    rename = {
        name: Migration.model_validate(
            {
                "id": name,
                "operations": [{"rename_column": {"table": table, "column": "note", "to": "remark"}}],
                "gates": OPEN_GATES,
            }
        )
        for name, table in (("second", "orders"), ("third", "items"))
    }
    for migration in rename.values():
        engine.advance(migration, until=Phase.SWITCHOVER)
    there = "SELECT count(*) FROM pg_namespace WHERE nspname = 'public_first'"
    assert engine.fence("second").fenced
    assert engine.fence("third").fenced
    assert not engine.fence("second", lift=True).fenced
    assert database.value(there) == 0
    assert database.value("SELECT count(note) FROM orders") == 5
    # Nothing of the other's fence has to be mended, and only its end brings the schema back.
    assert engine.fence("third").changed is False
    assert engine.fence("second").fenced
    assert not engine.fence("third", lift=True).fenced
    assert database.value(there) == 0
    assert not engine.fence("second", lift=True).fenced
    assert database.value(there) == 1
    assert engine.fence("third").fenced
    # The last to be completed removes the earlier version, also where its own fence has set it aside.
    anywhere = "SELECT count(*) FROM pg_namespace WHERE nspname ~ 'public_first'"
    assert engine.advance(rename["second"]).state is State.COMPLETED
    assert database.value(anywhere) == 1
    assert engine.advance(rename["third"]).state is State.COMPLETED
    assert database.value(anywhere) == 0


def test_an_earlier_version_that_another_rollout_has_done_with(database: Database) -> None:
    """Two rollouts take the same earlier version for theirs; the one that completes first leaves it to the other."""
    engine = make(database, "orders", "items")
    both = Migration(
        id="first",
        operations=(*widen("orders", "first").operations, *widen("items", "first").operations),
        gates=OPEN_GATES,
    )
    engine.advance(both, until=Phase.CLEANUP)
    second = Migration.model_validate(
        {
            "id": "second",
            "operations": [{"rename_column": {"table": "orders", "column": "note", "to": "remark"}}],
            "gates": OPEN_GATES,
        }
    )
    engine.advance(second, until=Phase.SWITCHOVER)
    third = Migration.model_validate(
        {
            "id": "third",
            "operations": [{"rename_column": {"table": "items", "column": "note", "to": "remark"}}],
            "gates": OPEN_GATES,
        }
    )
    engine.advance(third, until=Phase.CLEANUP)
    there = "SELECT count(*) FROM pg_namespace WHERE nspname = 'public_first'"
    assert database.value(there) == 1

    assert engine.fence("second").fenced
    assert not engine.fence("second", lift=True).fenced
    assert database.value("SELECT count(note) FROM orders") == 5
    assert engine.fence("second").fenced
    engine.verify("second")
    assert engine.advance(second).state is State.COMPLETED
    assert database.value(there) == 0
