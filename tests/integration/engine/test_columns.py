"""Columns that were hard to replace: one called ``state``, and one whose domain refuses NULL."""

from __future__ import annotations

from tests.support.servers import Database
from zdm.engine.rollout import Engine
from zdm.model.step import Phase
from zdm.operations.migration import Migration

SETUP = """
CREATE DOMAIN label AS varchar(30) NOT NULL CHECK (VALUE <> '');
CREATE TABLE tickets (id serial PRIMARY KEY, state label DEFAULT 'open');
INSERT INTO tickets (state) SELECT 's' || g FROM generate_series(1, 20) g;
"""


def test_a_column_called_state_of_a_domain_that_refuses_null(database: Database) -> None:
    """The new column's name must not be the marker's; and no variable of the domain may be empty, even for a moment."""
    database.execute(SETUP)
    engine = Engine(database.dsn)
    engine.init()
    change = {
        "table": "tickets",
        "column": "state",
        "to": "text",
        "up": "state || ''",
        "down": "state",
        "default": "'open'",
    }
    migration = Migration.model_validate(
        {"id": "plain", "operations": [{"change_type": change}], "gates": {"replication_lag": False}}
    )
    (found,) = engine.plan(migration).roundtrips
    assert (found.rows, found.lost, found.failed) == (20, 0, 0)
    engine.advance(migration, until=Phase.SWITCHOVER)
    database.execute("INSERT INTO public_plain.tickets (state) VALUES ('new')")
    database.execute("INSERT INTO tickets (state) VALUES ('old')")
    for table in ("public_plain.tickets", "tickets"):
        rows = database.execute(f"SELECT state FROM {table} WHERE id > 20 ORDER BY id")
        assert rows == [("new",), ("old",)]


def test_a_column_that_is_called_like_the_marker_is_no_leftover(database: Database) -> None:
    database.execute(
        "CREATE TABLE jobs (id serial PRIMARY KEY, runs int, _zdm_state int); INSERT INTO jobs (runs) VALUES (1)"
    )
    engine = Engine(database.dsn)
    engine.init()
    change = {"table": "jobs", "column": "runs", "to": "bigint"}
    migration = Migration.model_validate(
        {"id": "plain", "operations": [{"change_type": change}], "gates": {"replication_lag": False}}
    )
    engine.advance(migration)
    assert engine.rollback("plain").leftovers == ()


def test_a_type_with_a_precision_leaves_no_default_behind(database: Database) -> None:
    """The server keeps DEFAULT NULL where the type has a precision or a length, and shows it ever after."""
    database.execute(
        "CREATE TABLE jobs (id serial PRIMARY KEY, runs int); INSERT INTO jobs (runs) VALUES (1)"
    )
    engine = Engine(database.dsn)
    engine.init()
    gates = {"replication_lag": False, "soak": "0s", "old_version_unused": False}
    for number, type_ in enumerate(("numeric(9,2)", "varchar(12)", "bigint")):
        change: dict[str, object] = {"table": "jobs", "column": "runs", "to": type_}
        if type_ == "bigint":
            # Refused without a default of its own, had there been one.
            change |= {"up": "runs::numeric::bigint", "down": "runs::varchar", "lossy": True}
        migration = Migration.model_validate(
            {"id": f"m{number}", "operations": [{"change_type": change}], "gates": gates}
        )
        engine.advance(migration, until=Phase.CLEANUP)
        assert database.execute("SELECT count(*) FROM pg_attrdef WHERE adrelid = 'jobs'::regclass") == [(1,)]
