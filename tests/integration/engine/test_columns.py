"""Columns that were hard to replace: one called ``state``, and one whose domain refuses NULL."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.support.servers import Database
from zdm.engine.leftovers import leftovers
from zdm.engine.rollout import Engine
from zdm.errors import BadInput
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


LONG = "a_column_whose_name_is_nearly_as_long_as_a_name_can_be_at_all"


@pytest.mark.since(18)
def test_not_null_constraints_have_the_names_that_the_server_chooses(database: Database) -> None:
    """From PostgreSQL 18 on they have names; those of columns that were called differently for a while must not show it."""
    columns = f'id int PRIMARY KEY, gone int NOT NULL, old int, "{LONG}" int NOT NULL'
    database.execute(f"CREATE TABLE things ({columns})")
    database.execute("INSERT INTO things VALUES (1, 2, 3, 4)")
    engine = Engine(database.dsn)
    engine.init()
    migration = Migration.model_validate(
        {
            "id": "named",
            "operations": [
                *(
                    operation
                    for name in ("gone", LONG)
                    for operation in (
                        {"drop_column": {"table": "things", "column": name, "down": "0"}},
                        {
                            "add_column": {
                                "table": "things",
                                "column": name,
                                "type": "text",
                                "default": "'x'",
                                "not_null": True,
                            }
                        },
                    )
                ),
                {"rename_column": {"table": "things", "column": "old", "to": "renamed"}},
                {"set_not_null": {"table": "things", "column": "renamed"}},
            ],
            "gates": {
                "replication_lag": False,
                "soak": "0s",
                "old_version_unused": False,
                "approvals": False,
            },
        }
    )
    engine.advance(migration, until=Phase.CLEANUP)
    names = "SELECT array_agg(conname::text) FROM pg_constraint WHERE conrelid = 'things'::regclass AND contype = 'n'"
    found = sorted(database.value(names))
    database.execute("DROP SCHEMA public_named CASCADE")
    database.execute("DROP TABLE things")
    database.execute(
        f'CREATE TABLE things (id int PRIMARY KEY, gone text NOT NULL, renamed int NOT NULL, "{LONG}" text NOT NULL)'
    )
    assert found == sorted(database.value(names))


def test_what_the_application_calls_like_ours_is_no_leftover(database: Database) -> None:
    database.execute(
        "CREATE TABLE jobs (id serial PRIMARY KEY, runs int, CONSTRAINT _zdm_positive CHECK (id > 0));"
        "CREATE INDEX _zdm_mine ON jobs (id);"
        "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        'CREATE TRIGGER "~zdm_mine" AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION mine();'
    )
    engine = Engine(database.dsn)
    engine.init()
    change = {"table": "jobs", "column": "runs", "to": "bigint"}
    migration = Migration.model_validate(
        {"id": "plain", "operations": [{"change_type": change}], "gates": {"replication_lag": False}}
    )
    engine.advance(migration)
    plan = engine.plan(migration)
    with database.connect(autocommit=True) as conn:
        found = leftovers(conn, plan)
    # Before the rollback everything of the rollout's own is there, and nothing else is told.
    assert "trigger ~zdm_4_settle of jobs" in found, found
    assert not [what for what in found if "mine" in what or "positive" in what]
    assert engine.rollback("plain").leftovers == ()


def test_mappings_that_read_each_other_in_a_circle_are_refused(database: Database) -> None:
    database.execute("CREATE TABLE pairs (id int PRIMARY KEY, a int, b int)")
    engine = Engine(database.dsn)
    shared: dict[str, object] = {"table": "pairs", "to": "bigint", "lossy": True}
    one = {**shared, "column": "a", "up": "a + b", "down": "a"}
    other = {**shared, "column": "b", "up": "b", "down": "b - a"}

    def plan(*changes: Mapping[str, object]) -> None:
        engine.plan(
            Migration.model_validate(
                {"id": "round", "operations": [{"change_type": change} for change in changes]}
            )
        )

    with pytest.raises(BadInput) as refused:
        plan(one, other)
    (problem,) = refused.value.problems
    assert problem.rule == "mapping-circle"
    assert "`up` of a reads what `down` of b writes" in problem.what
    # One that reads the other is a chain, not a circle.
    plan(one, {**other, "down": "b"})


def test_a_default_is_carried_by_up_where_it_can_be(database: Database) -> None:
    database.execute(
        "CREATE TABLE d (id serial PRIMARY KEY, a int NOT NULL DEFAULT 3, b text DEFAULT 'x' || 'y', c int DEFAULT 0,"
        " n int DEFAULT nextval('d_id_seq'), at timestamptz DEFAULT now(), z int DEFAULT 1, o int DEFAULT 5);"
        "INSERT INTO d (c) VALUES (1)"
    )
    engine = Engine(database.dsn)
    engine.init()

    def change(column: str, to: str, up: str, down: str) -> dict[str, object]:
        return {"change_type": {"table": "d", "column": column, "to": to, "up": up, "down": down}}

    right = [
        change("a", "numeric(6,1)", "a * 2.5", "round(a / 2.5)::int"),
        change("b", "varchar(9)", "upper(b)", "lower(b)"),
        change("c", "text", "CASE WHEN c > 0 THEN c::text END", "coalesce(c, '0')::int"),
    ]
    wrong = [
        change("n", "text", "n::text", "n::int"),
        change("at", "text", "extract(epoch FROM at)::text", "to_timestamp(at::float)"),
        change("z", "int8", "(10 / (z - 1))::int8", "1"),
        change("o", "int8", "o + id", "(o - id)::int"),
    ]
    with pytest.raises(BadInput) as refused:
        engine.plan(Migration.model_validate({"id": "m", "operations": right + wrong}))
    told = [problem.what for problem in refused.value.problems]
    whys = ("another one each time", "another one each time", "division by zero", "other columns as well")
    assert [why in what for what, why in zip(told, whys, strict=True)] == [True] * 4, told
    migration = Migration.model_validate(
        {
            "id": "m",
            "operations": right,
            "gates": {"soak": "0s", "old_version_unused": False, "replication_lag": False},
        }
    )
    notes = [f.text for f in engine.plan(migration).findings if "the default of" in f.text]
    assert notes[0] == "the default of a becomes 7.5, which is `up` of the old one, 3"
    engine.advance(migration, until=Phase.SWITCHOVER)
    both = "WITH made AS (INSERT INTO {}.d DEFAULT VALUES RETURNING a, b, c) SELECT * FROM made"
    for schema, expected in (("public_m", [(7.5, "XY", None)]), ("public", [(3, "xy", 0)])):
        assert database.execute(both.format(schema)) == expected
    assert database.execute("SELECT DISTINCT a, b, c FROM public_m.d WHERE id > 1") == [(7.5, "XY", None)]
    engine.advance(migration)
    assert database.execute(both.format("public")) == [(7.5, "XY", None)]
