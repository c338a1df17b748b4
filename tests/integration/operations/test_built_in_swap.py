"""What only the swap can build: exclusion constraints, keys that are checked late, other expressions of stored columns."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.conformance.harness import OPEN_GATES, Rollout
from tests.support.dumps import dump
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.engine.rollout import Engine
from zdm.engine.settings import EngineSettings
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.operations.migration import Migration

PATIENT = EngineSettings(lock_budget=timedelta(seconds=2))
"""A machine that is busy with other tests builds a small index in more than the default budget."""

DEADLOCK = ("40P01",)
"""Who update one row at once may deadlock where exclusion constraints are checked, with zdm or without."""

TABLE = """
CREATE TABLE slots ({id} PRIMARY KEY DEFERRABLE, {place} NOT NULL, {during} NOT NULL, {room}, note text,
  CONSTRAINT one_place UNIQUE (place, room) INCLUDE (note) WITH (fillfactor = 70) DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT apart EXCLUDE USING gist (during WITH &&) WHERE (room > 0),
  CONSTRAINT alone EXCLUDE USING hash (note WITH =));
COMMENT ON CONSTRAINT apart ON slots IS 'one at a time';
COMMENT ON INDEX apart IS 'by range';
"""
WIDE = {"id": "id bigint", "place": "place bigint", "during": "during int8range", "room": "room bigint"}
NARROW = {"id": "id int", "place": "place int", "during": "during int4range", "room": "room int"}
ROWS = "INSERT INTO slots SELECT g, g, int4range(g * 10, g * 10 + 5), g % 3, 'n' || g FROM generate_series(1, 60) g"


def change(column: str, to: str, **more: Any) -> dict[str, object]:
    return {"change_type": {"table": "slots", "column": column, "to": to, **more}}


OPERATIONS: tuple[dict[str, object], ...] = (
    change("id", "bigint"),
    change("place", "bigint"),
    change(
        "during",
        "int8range",
        up="int8range(lower(during), upper(during))",
        down="int4range(lower(during)::int, upper(during)::int)",
    ),
    change("room", "bigint", name="chamber"),
    {"rename_column": {"table": "slots", "column": "note", "to": "remark"}},
)
SCENARIO = Scenario(
    setup="",
    operations=OPERATIONS,
    # Statements that exchange keys: what a key that checks at once refuses.
    old_writes=(
        "UPDATE slots SET id = CASE id WHEN 1 THEN 2 ELSE 1 END WHERE id IN (1, 2)",
        "UPDATE slots SET place = CASE place WHEN 3 THEN 4 ELSE 3 END, room = 1 WHERE place IN (3, 4)",
    ),
    new_writes=(
        "UPDATE slots SET id = CASE id WHEN 5 THEN 6 ELSE 5 END WHERE id IN (5, 6)",
        "UPDATE slots SET place = CASE place WHEN 7 THEN 8 ELSE 7 END, chamber = 1 WHERE place IN (7, 8)",
    ),
)


def ddl(columns: dict[str, str]) -> str:
    return TABLE.format(**columns)


@on_all_versions
def test_they_bind_both_versions_all_the_time_and_come_out_as_if_written_so(database: Database) -> None:
    rollout = Rollout(
        database,
        SCENARIO.model_copy(update={"setup": ddl(NARROW) + ROWS}),
        settings=PATIENT,
    )
    clash = "INSERT INTO slots (id, place, during, {}, {}) VALUES (999, 999, '[312,313)', 2, 'x')"
    old, new = clash.format("room", "note"), clash.format("chamber", "remark")
    with rollout.writing(new=False, allowed=DEADLOCK) as writers:
        rollout.advance_to(State.PREPARED)
        writers.wait_for(4)
        with rollout.writing(old=False, allowed=DEADLOCK) as more:
            for state in (State.MIGRATED, State.SWITCHED_OVER):
                rollout.advance_to(state)
                writers.wait_for(4)
                more.wait_for(4)
                for statement in (old, f"SET search_path = public_try_it; {new}"):
                    with pytest.raises(psycopg.errors.ExclusionViolation):
                        database.execute(statement)
        assert rollout.engine().rollback("try_it").state is State.ROLLED_BACK
        writers.wait_for(2)
    rollout.nothing_left()
    assert rollout.dump() == rollout.before
    rollout.engine().advance(rollout.migration, restart=True)
    rollout.advance_to(State.SWITCHED_OVER)
    with rollout.writing(old=False, allowed=DEADLOCK) as writers:
        rollout.advance_to(State.COMPLETED)
        writers.wait_for(4)
    rollout.nothing_left()
    with pytest.raises(psycopg.errors.ExclusionViolation):
        database.execute(new)
    assert database.value("SELECT count(*) FROM slots") == 60
    wished = Database(database.server)
    try:
        wished.execute(
            ddl(WIDE) + "ALTER TABLE slots RENAME room TO chamber; ALTER TABLE slots RENAME note TO remark"
        )
        database.execute("DROP SCHEMA public_try_it CASCADE")
        assert dump(database) == dump(wished)
        if database.server.major >= 18:
            constraints = "SELECT array_agg(conname::text ORDER BY conname) FROM pg_constraint WHERE conrelid = 'slots'::regclass"
            assert database.value(constraints) == wished.value(constraints)
    finally:
        wished.drop()


@pytest.mark.parametrize(
    ("column", "what"),
    [
        ("id", "the deferrable primary key constraint slots_pkey of public.slots"),
        ("place", "the deferrable unique constraint one_place of public.slots"),
        ("during", "the exclusion constraint apart of public.slots"),
    ],
)
def test_what_does_not_fit_into_the_lock_budget_is_refused(
    database: Database, column: str, what: str
) -> None:
    database.execute(
        ddl(NARROW)
        + "INSERT INTO slots SELECT g, g, int4range(g * 10, g * 10 + 5), g % 3, 'n' || g FROM generate_series(1, 3000) g"
    )
    engine = Engine(database.dsn, settings=EngineSettings(lock_budget=timedelta(milliseconds=1)))
    engine.init()
    operations = [o for o in OPERATIONS if o.get("change_type", {}).get("column") == column]  # type: ignore[attr-defined]
    with pytest.raises(BadInput) as refused:
        engine.advance(Migration.model_validate({"id": "try_it", "operations": operations}))
    problem = next(p for p in refused.value.problems if what in p.what)
    assert problem.rule == "built-in-the-swap"
    assert "the lock budget is 1 ms" in problem.what
    assert "shadow_table" in (problem.remedy or "")
    assert database.value("SELECT count(*) FROM pg_class WHERE relname ~ '^_zdm'") == 0


@on_all_versions
def test_a_stored_generated_column_of_a_table_that_is_too_large_is_refused(database: Database) -> None:
    database.execute(
        "CREATE TABLE items (id serial PRIMARY KEY, amount int, total int GENERATED ALWAYS AS (amount * 2) STORED);"
        "INSERT INTO items (amount) SELECT g FROM generate_series(1, 20000) g"
    )
    migration = Migration.model_validate(
        {
            "id": "try_it",
            "operations": [{"change_type": {"table": "items", "column": "amount", "to": "bigint"}}],
        }
    )
    hasty = Engine(database.dsn, settings=EngineSettings(lock_budget=timedelta(milliseconds=2)))
    hasty.init()
    with pytest.raises(BadInput) as refused:
        hasty.advance(migration)
    (problem,) = refused.value.problems
    assert problem.rule == "stored-generated-column"
    assert "the lock budget is 2 ms" in problem.what
    # Whoever may be stalled for longer says so, and gets it.
    patient = Engine(database.dsn, settings=EngineSettings(lock_budget=timedelta(seconds=30)))
    assert patient.plan(migration).steps


def test_rows_that_would_exclude_each_other_are_counted_before_the_swap(database: Database) -> None:
    """The old column keeps them apart, what `up` makes of them does not."""
    database.execute(
        "CREATE TABLE slots (id int PRIMARY KEY, during int4range, open bool, EXCLUDE USING gist (during WITH &&) WHERE (open));"
        "INSERT INTO slots SELECT g, int4range(g * 10, g * 10 + 5), true FROM generate_series(1, 20) g"
    )
    wider = change(
        "during",
        "int8range",
        up="int8range(lower(during), upper(during) + CASE lower(during) WHEN 50 THEN 10 ELSE 0 END)",
        down="int4range(lower(during)::int, upper(during)::int)",
        lossy=True,
    )
    engine = Engine(database.dsn, settings=PATIENT)
    engine.init()
    migration = Migration.model_validate({"id": "try_it", "operations": [wider], "gates": OPEN_GATES})
    found = [f.text for f in engine.plan(migration).findings if f.rule == "rows-break-constraint"]
    assert len(found) == 1
    assert "exclusion" in found[0]
    refused: list[str] = []
    for _ in range(3):
        refused = [v.gate for v in engine.advance(migration).verdicts if not v.lets_through]
    assert refused == ["verification"]
    # Corrected, it goes through.
    database.execute("UPDATE slots SET open = false WHERE id = 5")
    engine.verify(migration.id)
    for state in (State.SWITCHED_OVER, State.COMPLETED):
        assert engine.advance(migration).state is state
    with pytest.raises(psycopg.errors.ExclusionViolation):
        database.execute("INSERT INTO slots (id, during, open) VALUES (99, '[12,13)', true)")
