"""Rows between two tables on which the mapping raises: the plan says how many, which and why, whatever raises, and measures the others all the same."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.harness import OPEN_GATES
from tests.support.servers import Database
from zdm.engine.rollout import Engine
from zdm.errors import BadInput
from zdm.model.plan import Plan
from zdm.operations.migration import Migration

SETUP = """
CREATE DOMAIN small AS int CHECK (VALUE < 100);
CREATE FUNCTION picky(text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
  $$BEGIN IF $1 = 'bad' THEN RAISE 'picky says no'; END IF; RETURN length($1); END$$;
CREATE TABLE stock (id int PRIMARY KEY, shop int NOT NULL DEFAULT 1, amount text);
INSERT INTO stock SELECT g, g % 3, g::text FROM generate_series(1, 20) g;
CREATE TABLE shops (id int PRIMARY KEY);
INSERT INTO shops SELECT generate_series(0, 2);
ALTER TABLE stock ADD FOREIGN KEY (shop) REFERENCES shops; CREATE INDEX ON stock (shop);
UPDATE stock SET amount = 'bad' WHERE id = 7;
UPDATE stock SET amount = '500' WHERE id = 9;
"""


def moved(up: str, type_: str, down: str, **options: Any) -> dict[str, Any]:
    column = {"column": "amount", "up": up, "type": type_, "down": down}
    options = {
        "table": "stock",
        "to": "more",
        "key": {"id": "id"},
        "columns": [column],
        "create": {},
        **options,
    }
    return {"move_columns": options}


def planned(database: Database, operation: dict[str, Any]) -> Plan:
    migration = Migration.model_validate({"id": "odd", "operations": [operation], "gates": OPEN_GATES})
    return Engine(database.dsn).plan(migration)


def test_rows_that_raise_are_counted_and_named(database: Database) -> None:
    database.execute(SETUP)
    Engine(database.dsn).init()

    def told(operation: dict[str, Any]) -> str:
        (text,) = [f.text for f in planned(database, operation).findings if f.rule == "up-raises"]
        return text

    invalid = 'invalid input syntax for type integer: "bad"'
    text = told(moved("amount::int", "int", down="amount::text"))
    assert "1 of 20 rows of public.stock have no form in public.more, for example id=7 (" in text
    assert invalid in text
    # Whatever raises: a domain's check, or a function of the application; also where nothing comes back.
    text = told(moved("amount::int", "small", down="amount::text"))
    assert "2 of 20 rows of public.stock have no form in public.more, for example id=7; id=9 (" in text
    assert "picky says no" in told(moved("picky(amount)", "int", down="amount::text", lossy=True))
    # Several rows that say together what one of another table is: without that table, and with it.
    summed: dict[str, Any] = {
        "table": "stock",
        "key": {"shop": "id"},
        "columns": [{"column": "total", "type": "int", "up": "sum(amount::int)"}],
    }
    text = told({"collapse": {**summed, "to": "shops", "one_way": True}})
    assert (
        "`up` over the rows of public.stock raises for 1 of 3 rows of public.shops, for example id=1 ("
        in text
    )
    assert invalid in text


def test_what_the_other_rows_lose_is_told_as_well(database: Database) -> None:
    database.execute(SETUP)
    Engine(database.dsn).init()
    with pytest.raises(BadInput) as caught:
        planned(database, moved("amount::int / 10", "int", down="(amount * 10)::text"))
    (problem,) = caught.value.problems
    assert problem.rule == "lossy-mapping"
    assert (
        "down(up(x)) differs from x in 16 of 20 rows of public.stock (for example id=1; id=2; id=3)"
        in problem.what
    )


def test_a_row_without_a_parent_where_each_must_have_one(database: Database) -> None:
    database.execute(SETUP + "UPDATE stock SET amount = NULL WHERE id IN (3, 4)")
    Engine(database.dsn).init()
    create = {
        "columns": [
            {"name": "id", "type": "int", "identity": "always"},
            {"name": "amount", "type": "varchar(3)"},
        ],
        "primary_key": ["id"],
    }
    normalise: dict[str, Any] = {"table": "stock", "columns": ["amount"], "parent": "amounts"}
    normalise |= {"values": {"amount": "amount"}, "create": create}
    required = {"columns": {"amount_id": "id"}, "not_null": True}
    plan = planned(database, {"normalise": {**normalise, "reference": required}})
    (text,) = [f.text for f in plan.findings if f.rule == "up-raises"]
    assert "2 of 20 rows of public.stock have no form in public.amounts, for example id=3; id=4 (" in text
    assert "the row has none, and amount_id is NOT NULL" in text
    plan = planned(database, {"normalise": {**normalise, "reference": {"amount_id": "id"}}})
    assert [f.text for f in plan.findings if f.rule == "up-raises"] == []
