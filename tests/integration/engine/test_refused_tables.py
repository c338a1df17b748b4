"""What the sync could not keep is refused when the rollout is planned, by name, and nothing is changed."""

from __future__ import annotations

import pytest

from tests.support.servers import Database
from zdm.engine.rollout import Engine
from zdm.errors import BadInput
from zdm.model.step import Phase
from zdm.operations.migration import Migration

WIDEN = {"change_type": {"table": "t", "column": "a", "to": "bigint"}}
TABLE = "CREATE TABLE t (id serial PRIMARY KEY, a int, b int); INSERT INTO t (a) VALUES (1);"
AFTER_OURS = (
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.a := 1; RETURN NEW; END';"
    'CREATE TRIGGER "~zz" BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f();'
)


def migration(*operations: object) -> Migration:
    return Migration.model_validate({"id": "refused", "operations": list(operations)})


@pytest.mark.parametrize(
    ("setup", "operation", "rule"),
    [
        pytest.param(TABLE + AFTER_OURS, WIDEN, "trigger-sorts-last", id="a trigger after ours"),
        pytest.param(
            TABLE + "ALTER TABLE t ADD COLUMN g int GENERATED ALWAYS AS (b + 1) STORED",
            {"add_column": {"table": "t", "column": "c", "type": "int", "up": "a + g"}},
            "reads-generated-column",
            id="up over a generated column",
        ),
        pytest.param(
            "CREATE DOMAIN d AS int NOT NULL; CREATE TABLE t (id serial PRIMARY KEY, a d)",
            WIDEN,
            "not-null-domain",
            id="a domain that refuses NULL",
        ),
        pytest.param(
            TABLE + "ALTER TABLE t ENABLE ROW LEVEL SECURITY; GRANT SELECT (a) ON t TO CURRENT_USER",
            WIDEN,
            "row-security-views",
            id="row security and column grants",
            marks=pytest.mark.since(15),  # 14 is refused for the row security alone
        ),
        pytest.param(
            TABLE + "CREATE RULE kept AS ON UPDATE TO t WHERE OLD.b = 5 DO INSTEAD NOTHING;"
            "CREATE RULE asleep AS ON UPDATE TO t DO INSTEAD NOTHING; ALTER TABLE t DISABLE RULE asleep;"
            "CREATE RULE other AS ON DELETE TO t DO INSTEAD NOTHING",
            WIDEN,
            "table-rule",
            id="a rule on UPDATE",
        ),
        pytest.param(
            TABLE
            + "CREATE TABLE u (id int PRIMARY KEY, b int); CREATE RULE kept AS ON DELETE TO t DO INSTEAD NOTHING",
            {"move_columns": {"table": "t", "columns": ["b"], "to": "u", "key": {"id": "id"}}},
            "table-rule",
            id="a rule on a table whose rows are mirrored",
        ),
        pytest.param(
            TABLE + "CREATE DOMAIN positive AS bigint CHECK (VALUE > 0)",
            {"change_type": {"table": "t", "column": "a", "to": "positive", "up": "a", "down": "a::int"}},
            "add-column-rewrites",
            id="a domain whose column cannot be added instantly",
        ),
    ],
)
def test_refused(database: Database, setup: str, operation: object, rule: str) -> None:
    database.execute(setup)
    engine = Engine(database.dsn)
    engine.init()
    with pytest.raises(BadInput) as refused:
        engine.advance(migration(operation))
    assert [problem.rule for problem in refused.value.problems] == [rule]
    assert all(problem.remedy for problem in refused.value.problems)
    assert (
        database.value(
            "SELECT count(*) FROM pg_attribute WHERE attname ~ '^_zdm' AND attrelid = 't'::regclass"
        )
        == 0
    )


def test_an_explicit_null_of_the_new_version_is_kept(database: Database) -> None:
    """Only the marker tells it from a column that the old version does not know."""
    database.execute(TABLE)
    engine = Engine(database.dsn)
    engine.init()
    engine.advance(
        migration({"add_column": {"table": "t", "column": "c", "type": "int", "up": "a * 10"}}),
        until=Phase.PREPARATION,
    )
    database.execute("INSERT INTO public_refused.t (a, c) VALUES (2, NULL)")
    database.execute("INSERT INTO t (a) VALUES (3)")
    found = database.execute("SELECT a, c FROM public_refused.t WHERE a > 1 ORDER BY a")
    assert found == [(2, None), (3, 30)]
