"""The server rewrites indexes, checks and foreign keys for the successors of their columns."""

from __future__ import annotations

import pytest

from tests.support.servers import Database
from zdm.db.carry import carry
from zdm.db.session import connect
from zdm.engine.rollout import Engine
from zdm.model.names import qualified
from zdm.model.requests import CarriedColumn, CarryRequest
from zdm.operations.migration import Migration

SETUP = """
CREATE SCHEMA "Odd Schema";
CREATE FUNCTION public.mine(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
CREATE TABLE public.parent (id int, part int, PRIMARY KEY (id, part));
CREATE TABLE "Odd Schema"."The Table" (
  id int PRIMARY KEY, balance int, "Owner Id" int, part int, label text COLLATE "C",
  CONSTRAINT positive CHECK (balance > 0 AND public.mine(id) > 1) NO INHERIT,
  CONSTRAINT "to parent" FOREIGN KEY ("Owner Id", part) REFERENCES public.parent ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT only_one UNIQUE (balance, id)
);
CREATE INDEX "plain idx" ON "Odd Schema"."The Table" (balance DESC NULLS LAST) INCLUDE (part) WITH (fillfactor = 70) WHERE balance <> 5;
CREATE INDEX expression_idx ON "Odd Schema"."The Table" (public.mine(balance), lower(label) text_pattern_ops);
CREATE INDEX hard_idx ON "Odd Schema"."The Table" ((balance::text COLLATE "C") text_pattern_ops);
CREATE INDEX flag_idx ON "Odd Schema"."The Table" (("Owner Id" & 1));
"""
TABLE = qualified("Odd Schema", "The Table")


def request(kind: str, name: str, *columns: tuple[str, str, str]) -> CarryRequest:
    return CarryRequest.model_validate(
        {
            "key": name,
            "table": TABLE,
            "kind": kind,
            "name": name,
            "where": "1:change_type",
            "columns": tuple(CarriedColumn(old=o, new=n, type=t) for o, n, t in columns),
        }
    )


BALANCE = ("balance", "_zdm_balance", "numeric(18,2)")


@pytest.mark.parametrize(
    "kind, name, columns, expected",
    [
        (
            "index",
            "plain idx",
            [BALANCE],
            "USING btree (_zdm_balance DESC NULLS LAST) INCLUDE (part) WITH (fillfactor='70') WHERE (_zdm_balance <> (5)::numeric)",
        ),
        ("index", "only_one", [BALANCE], "USING btree (_zdm_balance, id)"),
        (
            "index",
            "expression_idx",
            [("label", "Tag", "varchar(40)")],
            'USING btree (public.mine(balance), lower(("Tag")::text) text_pattern_ops)',
        ),
        (
            "index",
            "expression_idx",
            [("balance", "Tag", "int"), ("label", "balance", "text")],
            'USING btree (public.mine("Tag"), lower(balance) text_pattern_ops)',
        ),
        (
            "check",
            "positive",
            [("balance", "_zdm_balance", "bigint")],
            "CHECK (((_zdm_balance > 0) AND (public.mine(id) > 1))) NO INHERIT",
        ),
        (
            "foreign key",
            "to parent",
            [("Owner Id", "owner", "bigint")],
            (
                'FOREIGN KEY ("owner", "part") REFERENCES "public"."parent" ("id", "part") ON DELETE CASCADE'
                " DEFERRABLE INITIALLY DEFERRED"
            ),
        ),
    ],
)
def test_definitions_follow_the_column(
    database: Database, kind: str, name: str, columns: list[tuple[str, str, str]], expected: str
) -> None:
    database.execute(SETUP)
    with connect(database.dsn, application_name="test") as conn:
        found, problems = carry(conn, [request(kind, name, *columns)])
    assert problems == []
    assert found == {name: expected}
    assert database.value("SELECT count(*) FROM pg_class WHERE relname LIKE '\\_zdm%'") == 0


def test_what_cannot_follow_is_named_and_the_rest_is_carried(database: Database) -> None:
    database.execute(SETUP)
    with connect(database.dsn, application_name="test") as conn:
        found, problems = carry(
            conn,
            [
                request("index", "expression_idx", BALANCE),
                request("index", "flag_idx", ("Owner Id", "owner", "uuid")),
                request("foreign key", "to parent", ("Owner Id", "owner", "uuid")),
                request("index", "only_one", BALANCE),
                request("index", "no such", BALANCE),
            ],
        )
    assert list(found) == ["only_one"]
    assert [problem.what.split(":")[0] for problem in problems] == [
        f'the {kind} {name} of "Odd Schema"."The Table" cannot follow the replaced column'
        for kind, name in [
            ("index", "expression_idx"),
            ("index", "flag_idx"),
            ("foreign key", "to parent"),
            ("index", "no such"),
        ]
    ]
    assert all(problem.where == "1:change_type" and problem.remedy for problem in problems)


def test_several_columns_swap_their_names(database: Database) -> None:
    """A column may take the name of another that is replaced as well."""
    database.execute("CREATE TABLE t (a int, b text); CREATE INDEX i ON t (a, b DESC)")
    both = (
        CarriedColumn(old="a", new="_zdm_b", type="bigint"),
        CarriedColumn(old="b", new="_zdm_a", type="varchar(9)"),
    )
    asked = CarryRequest(key="i", table=qualified("public", "t"), kind="index", name="i", columns=both)
    with connect(database.dsn, application_name="test") as conn:
        found, problems = carry(conn, [asked])
    assert (found, problems) == ({"i": "USING btree (_zdm_b, _zdm_a DESC)"}, [])


def test_an_index_whose_constants_keep_the_old_type_is_told(database: Database) -> None:
    """The planner takes `v > 5` over a numeric column for another condition than `v::double precision > 5`."""
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v double precision, w text, z int); CREATE INDEX plain ON t (v);"
        "CREATE INDEX part ON t (id) WHERE v > 5 OR v = -1.5; CREATE INDEX twice ON t ((v * 2));"
        "CREATE INDEX words ON t (id) WHERE w IN ('x', 'it''s'); CREATE INDEX whole ON t (id) WHERE z > 5"
    )
    engine = Engine(database.dsn)
    engine.init()
    changes = [("v", "numeric(10,2)"), ("w", "varchar(20)"), ("z", "bigint")]
    operations = [{"change_type": {"table": "t", "column": c, "to": to}} for c, to in changes]
    plan = engine.plan(Migration.model_validate({"id": "try_it", "operations": operations}))
    told = [finding.text for finding in plan.findings if finding.rule == "index-keeps-casts"]
    assert [text.partition(" is carried over as ")[0] for text in told] == [
        "the index part of public.t",
        "the index twice of public.t",
    ]
    assert "(_zdm_v > (5)::numeric)" in told[0].partition(" written for the new type ")[2]
