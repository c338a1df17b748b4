"""What no rows of two tables can be kept in step by: refused when it is planned, with its place, before anything is changed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.harness import OPEN_GATES
from tests.support.servers import Database
from zdm.db.introspect import read_table
from zdm.db.session import connect
from zdm.engine.rollout import Engine
from zdm.errors import BadInput
from zdm.model.names import qualified
from zdm.operations.migration import Migration
from zdm.operations.target import unique_over

SETUP = """
CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY, v int); CREATE TABLE c (id int PRIMARY KEY, v int);
CREATE TABLE ledger (id int PRIMARY KEY, amount int, status text, data jsonb, late int UNIQUE DEFERRABLE);
INSERT INTO ledger SELECT g, g, CASE WHEN g % 2 = 0 THEN 'active' ELSE 'void' END FROM generate_series(1, 9) g;
"""


def copied(table: str, to: str) -> dict[str, Any]:
    part = {"to": to, "key": {"id": "id"}, "columns": ["v"]}
    return {"split_table": {"table": table, "keep": True, "into": [part]}}


def reports(down: dict[str, str], **options: Any) -> dict[str, Any]:
    part = {"to": "reports", "key": {"id": "id"}, "where": "status = 'active'", "columns": ["amount"]}
    part |= {"down": down, "create": {}, **options}
    return {"split_table": {"table": "ledger", "keep": True, "into": [part]}}


MOVED: dict[str, Any] = {"table": "ledger", "to": "more", "key": {"id": "id"}, "columns": ["amount"]}
FIELDS: dict[str, Any] = {
    "table": "ledger",
    "column": "data",
    "to": "more",
    "key": {"id": "id"},
    "create": {},
}
NO_TYPE = "'nosuch' is not a column type here"


@pytest.mark.parametrize(
    ("operations", "told"),
    [
        ([copied("a", "b"), copied("b", "a")], ["2:.*in a circle: public.a to public.b to public.a"]),
        (
            [copied("a", "b"), copied("b", "c"), copied("c", "a")],
            ["3:.*in a circle: public.a to public.b to public.c to public.a"],
        ),
        (
            [reports({"status": "'void'"})],
            ["4 rows of public.ledger meet .*for example id=2; id=4; id=6; id=8"],
        ),
        (
            [{"move_columns": {**MOVED, "create": {"columns": [{"name": "zdm_t", "type": "int"}]}}}],
            ["1:move_columns: zdm_t of public.more: columns whose names begin with zdm_ cannot be told"],
        ),
        # All that is wrong with one operation.
        (
            [
                {
                    "move_columns": {
                        **MOVED,
                        "columns": ["nowhere", "amount"],
                        "key": {"id": "nokey"},
                        "copies": {"c": "gone"},
                    }
                }
            ],
            [
                "no column nowhere in public.ledger",
                "no column nokey in public.ledger, which `key` names",
                "no column gone",
            ],
        ),
        (
            [
                {
                    "move_columns": {
                        **MOVED,
                        "copies": {"status": "status"},
                        "create": {
                            "columns": [{"name": "status", "type": "text"}],
                            "indexes": [["zz"]],
                            "primary_key": ["pk"],
                        },
                    }
                }
            ],
            [
                "public.more a column status, which the operation makes by itself",
                "no column zz",
                "no column pk",
            ],
        ),
        (
            [
                {
                    "explode": {
                        "table": "ledger",
                        "to": "more",
                        "key": {"ledger": "amount"},
                        "from": {"delimited": "status"},
                        "elements": ["value"],
                        "create": {"columns": [{"name": "value", "type": "text"}]},
                    }
                }
            ],
            [
                r"\(amount\) is no unique key of public.ledger",
                "public.more a column value, which the operation makes by itself",
            ],
        ),
        # What is another value later could never be verified.
        (
            [
                {
                    "change_type": {
                        "table": "a",
                        "column": "v",
                        "to": "timestamptz",
                        "up": "CASE WHEN v > 0 THEN now() END",
                        "down": "(v IS NOT NULL)::int + length(current_user)",
                    }
                },
                {"add_column": {"table": "a", "column": "at", "type": "timestamptz", "up": "now()"}},
                reports({"status": "'active'"}, where="amount < date_part('day', age(date '2000-01-01'))"),
                {
                    "explode": {
                        "table": "ledger",
                        "to": "notes",
                        "key": {"ledger_id": "id"},
                        "columns": [{"column": "status", "down": "max(note)"}],
                        "up": "SELECT status || current_date",
                        "elements": [{"column": "note", "type": "text"}],
                        "create": {},
                    }
                },
            ],
            [
                r"1:change_type: .*now\(\) is another value later",
                "1:change_type: .*CURRENT_USER is another value later",
                r"2:add_column: .*now\(\) is another value later.*\n.*their column's default",
                "4:explode: .*CURRENT_DATE is another value later",
                r"3:split_table: .*age\(timestamp.*is another value later",
            ],
        ),
        # Why a unique constraint is no key.
        (
            [{"move_columns": {**MOVED, "key": {"ledger": "late"}}}],
            [
                r"\(late\) is unique in public.ledger by ledger_late_key, which is deferrable.*\n +Add a unique constraint",
                r"\(late\) is unique in public.ledger by ledger_late_key, but late may be NULL.*\n +Make late NOT NULL",
            ],
        ),
        (
            [
                {
                    "split_table": {
                        "table": "ledger",
                        "into": [
                            {"to": "more", "key": {"id": "nokey"}, "columns": ["nowhere"], "create": {}},
                            {"to": "most", "key": {"id": "id"}, "columns": ["gone"], "create": {}},
                        ],
                    }
                }
            ],
            ["no column nokey in public.ledger, which `key` names", "no column nowhere", "no column gone"],
        ),
        (
            [{"move_columns": {**MOVED, "create": {"columns": [{"name": "x", "type": "nosuch"}]}}}],
            [f"1:move_columns: {NO_TYPE}"],
        ),
        (
            [
                {"extract_json": {**FIELDS, "fields": [{"path": "age", "type": "nosuch"}]}},
                {"drop_column": {"table": "ledger", "column": "nowhere"}},
            ],
            [f"1:extract_json: {NO_TYPE}", "2:drop_column: there is no column nowhere"],
        ),
    ],
)
def test_refused(database: Database, operations: list[dict[str, Any]], told: list[str]) -> None:
    database.execute(SETUP)
    engine = Engine(database.dsn)
    engine.init()
    migration = Migration.model_validate({"id": "bad", "operations": operations, "gates": OPEN_GATES})
    with pytest.raises(BadInput) as refused:
        engine.plan(migration)
    for part in told:
        refused.match(part)


def test_what_is_wrong_with_a_made_parent_is_told_once(database: Database) -> None:
    database.execute(SETUP)
    engine = Engine(database.dsn)
    engine.init()
    create = {"columns": [{"name": "id", "type": "int", "identity": "always"}], "primary_key": ["id"]}
    normalise = {"table": "ledger", "columns": ["status"], "parent": "kinds", "values": {"name": "status"}}
    normalise |= {"create": create, "reference": {"kind_id": "id"}}
    migration = Migration.model_validate({"id": "bad", "operations": [{"normalise": normalise}]})
    with pytest.raises(BadInput) as refused:
        engine.plan(migration)
    (problem,) = refused.value.problems
    assert problem.what == "there is no column name in kinds, which `values` names"
    assert problem.remedy == "`create` gives it id."


def test_wrong_expressions_of_all_operations_are_told_at_once(database: Database) -> None:
    """Of one table, of another one, between two tables, and of a constraint: in one run."""
    database.execute(SETUP)
    engine = Engine(database.dsn)
    engine.init()
    change = {"column": "v", "to": "text", "down": "v::int"}
    operations = [
        {"change_type": {"table": "a", "up": "nope", **change}},
        {"change_type": {"table": "b", "up": "v +", **change}},
        {"add_check": {"table": "c", "name": "c", "check": "nowhere > 1"}},
        {
            "move_columns": {
                **MOVED,
                "create": {},
                "columns": [{"column": "amount", "up": "gone", "down": "amount", "type": "int"}],
            }
        },
    ]
    migration = Migration.model_validate({"id": "bad", "operations": operations})
    with pytest.raises(BadInput) as refused:
        engine.plan(migration)
    assert sorted(problem.where for problem in refused.value.problems) == [
        "1:change_type",
        "2:change_type",
        "3:add_check",
        "4:move_columns",
    ]


def test_a_filter_that_what_comes_back_meets(database: Database) -> None:
    database.execute(SETUP)
    engine = Engine(database.dsn)
    engine.init()
    migration = Migration.model_validate({"id": "good", "operations": [reports({"status": "'active'"})]})
    assert engine.plan(migration).row_mappings


def test_a_unique_index_is_as_good_as_a_constraint(database: Database) -> None:
    """Over the columns alone: one with a condition, or over an expression, is not."""
    database.execute(
        SETUP + "CREATE TABLE beside (of int NOT NULL, status text, at int NOT NULL, note text NOT NULL);"
        "CREATE UNIQUE INDEX ON beside (of); CREATE UNIQUE INDEX ON beside (at) WHERE at > 0; CREATE UNIQUE INDEX ON beside (lower(note))"
    )
    with connect(database.dsn, application_name="test") as connection:
        table = read_table(connection, qualified("public", "beside"))
    assert table is not None
    assert unique_over(table, ["of"])
    assert not unique_over(table, ["at"])
    assert not unique_over(table, ["note"])


def test_who_gets_no_rights(database: Database) -> None:
    """Who may use the table that rows come from, and not the one that is made for them, is named before the new version is deployed."""
    app, reader, default = (database.create_role(stem) for stem in ("app", "reader", "default"))
    database.execute(
        SETUP
        + f'GRANT SELECT, INSERT, UPDATE ON ledger TO "{app}"; GRANT SELECT (id), REFERENCES ON ledger TO "{reader}";'
        f' GRANT SELECT ON ledger TO "{default}"; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO "{default}"'
    )
    engine = Engine(database.dsn)
    engine.init()

    def warned(create: dict[str, Any]) -> list[str]:
        migration = Migration.model_validate(
            {
                "id": "granted",
                "operations": [{"move_columns": {**MOVED, "create": create}}],
                "gates": OPEN_GATES,
            }
        )
        return [f.text for f in engine.plan(migration).findings if "gets no rights" in f.text]

    (text,) = warned({})
    assert app in text
    assert reader in text
    assert default not in text
    assert "on public.more" in text
    (text,) = warned({"grants": {app: ["select"]}})
    assert app not in text
    assert reader in text
    assert not warned({"grants": {"public": ["select"]}})


def test_row_security(database: Database) -> None:
    """Policies of a table say nothing of the one that gets its rows: nobody sees them there before it has its own. Forced on the owner, they hide rows."""
    owner, app = database.create_role("owner"), database.create_role("app")
    database.execute(
        SETUP + f'ALTER TABLE ledger OWNER TO "{owner}"; ALTER TABLE ledger ENABLE ROW LEVEL SECURITY'
    )
    engine = Engine(database.dsn)
    engine.init()
    tags = {
        "table": "ledger",
        "to": "states",
        "key": {"ledger": "id"},
        "from": {"delimited": "status"},
        "elements": ["value"],
    }
    kinds = {
        "table": "ledger",
        "columns": ["status"],
        "parent": "kinds",
        "values": {"name": "status"},
        "reference": {"columns": {"kind": "id"}},
        "create": {
            "columns": [
                {"name": "id", "type": "int", "identity": "always"},
                {"name": "name", "type": "text"},
            ],
            "primary_key": ["id"],
        },
    }
    granted = {"create": {"grants": {app: ["select"]}}}

    def migration(*operations: dict[str, Any]) -> Migration:
        return Migration.model_validate({"id": "secured", "operations": operations, "gates": OPEN_GATES})

    for operation, made in (({"explode": {**tags, **granted}}, "states"), ({"normalise": kinds}, "kinds")):
        found = [f.text for f in engine.plan(migration(operation)).findings if f.rule == "row-security-views"]
        assert len(found) == 1
        assert f"public.{made}: that gets row security without a policy" in found[0]
    moved = migration({"move_columns": {**MOVED, **granted}})
    engine.advance(moved)
    engine.advance(moved)
    assert database.value("SELECT count(*) FROM more") == 9
    with database.connect(app) as connection:
        assert connection.execute("SELECT FROM more").rowcount == 0
    engine.rollback("secured")
    database.execute("ALTER TABLE ledger FORCE ROW LEVEL SECURITY")
    for operation in (
        {"explode": {**tags, **granted}},
        {"normalise": kinds},
        {"move_columns": {**MOVED, **granted}},
    ):
        with pytest.raises(
            BadInput, match=r"1:.*public\.ledger has row security that holds for its owner as well"
        ):
            engine.plan(migration(operation))
