"""Everything wrong is said at once, by name, before anything changes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.operations.cases import ACCOUNTS, OWNERS
from tests.unit.operations.helpers import column, run, table
from zdm.model.mapping import Expose
from zdm.model.names import qualified
from zdm.model.requests import Dependents
from zdm.model.table import Constraint, Dependent, Index, TableKind, Trigger

T = table(
    "t",
    column("id", not_null=True),
    column("a", "integer"),
    column("b", "text", not_null=True),
    column("d", "text", not_null=True, default="'x'::text"),
    column("n", "bigint", not_null=True, identity="always"),
    column("g", "integer", generated="stored", default="(a * 2)"),
    constraints=(
        Constraint(name="t_pkey", kind="primary key", columns=("id",), definition="", index="t_pkey"),
        Constraint(name="both", kind="check", columns=("a", "b"), definition="CHECK (true)"),
    ),
    indexes=(
        Index(name="t_pkey", columns=("id",), definition="", unique=True, primary=True, constraint="t_pkey"),
        Index(name="a_b", columns=("a", "b"), definition=""),
    ),
)


def op(kind: str, **parameters: Any) -> dict[str, Any]:
    return {kind: {"table": "t", **parameters}}


INTO = {"name": "x", "type": "text", "up": "b"}


@pytest.mark.parametrize(
    "operation, expected",
    [
        ({"drop_column": {"table": "none", "column": "a"}}, "there is no table public.none"),
        (op("drop_column", column="z"), "there is no column z in public.t"),
        (op("drop_column", column="b"), "column b is NOT NULL without a default"),
        (op("add_column", column="a", type="int"), "public.t already has a column a"),
        (
            op("add_column", column="z", type="int", not_null=True),
            "nothing gives rows of the old version a value",
        ),
        (op("rename_column", column="a", to="b"), "public.t already has a column b"),
        (op("rename_column", column="a", to="a"), "already has that name"),
        (op("change_type", column="a", to="integer"), "is integer already"),
        (op("change_type", column="a", to="int8", default=1, drop_default=True), "exclude each other"),
        (op("change_type", column="n", to="text"), "n is an identity column, and text is no type"),
        (op("change_type", column="g", to="int8"), "g is a generated column"),
        (op("drop_column", column="id", down="1"), "the primary key t_pkey stands on id"),
        (op("drop_column", column="a"), "the check both stands on a, b, and drop_column removes column a"),
        (op("split_column", column="b", into=[INTO]), "nothing says how column b is put together again"),
        (op("split_column", column="b", into=[INTO], lossy=True), "column b is NOT NULL without a default"),
        (op("split_column", column="b", into=[INTO, INTO], down="x"), "named more than once"),
        (
            op("merge_columns", columns=["a", "b"], into=INTO, down={"b": "x"}),
            "how column a is taken out of x",
        ),
        (op("merge_columns", columns=["a", "b"], into=INTO, down={"z": "x"}), "`down` names z"),
        (
            op("merge_columns", columns=["a", "a"], into=INTO, down={"a": "1"}),
            "column a is named more than once",
        ),
        (op("set_not_null", column="b"), "is NOT NULL already"),
        (op("set_not_null", column="a", down="1"), "`down` without `up`"),
        (op("drop_not_null", column="a"), "may be NULL already"),
        (op("drop_not_null", column="id"), "part of the primary key"),
        (op("set_default", column="n", default=1), "is an identity column"),
        (op("add_check", name="both", check="true"), "the name both is taken"),
        (op("add_unique", columns=["a"], initially="deferred"), "needs `deferrable: true`"),
        (
            op("add_foreign_key", columns=["a"], references={"table": "u"}),
            "there is no table public.u to reference",
        ),
        (
            op("add_foreign_key", columns=["a", "b"], references={"table": "t"}),
            "2 columns cannot reference 1 columns",
        ),
        (op("drop_constraint", name="none"), "there is no constraint none"),
        (op("drop_index", name="t_pkey"), "belongs to a constraint"),
        (op("drop_index", name="none"), "there is no index none"),
        (op("create_index", name="a_b", columns=["a"]), "the name a_b is taken"),
        (op("create_index", name="i", columns=["z"]), "there is no column z"),
        (op("rename_table", to="t"), "already has that name"),
        ({"create_enum": {"name": "e", "values": ["a", "a"]}}, "the value 'a' is there more than once"),
        (
            {"create_table": {"name": "t", "columns": [{"name": "a", "type": "int"}]}},
            "the name public.t is taken",
        ),
        (
            {"create_table": {"name": "u", "columns": [{"name": "a", "type": "int"}], "primary_key": ["b"]}},
            "there is no column b in public.u",
        ),
        ({"sql": {"name": "s", "expand": ["CREATE TABLE u (id int)"]}}, "`expand` without `undo`"),
        (
            {"sql": {"name": "s", "contract": ["VACUUM FULL t"], "safe": True, "reason": "x"}},
            "rewrites the table",
        ),
        ({"sql": {"name": "s", "contract": ["SELECT 1"], "safe": True}}, "needs a `reason`"),
        ({"sql": {"name": "s"}}, "nothing to run"),
    ],
)
def test_nonsense_is_refused_by_name(operation: dict[str, Any], expected: str) -> None:
    texts = run([T], operation).texts()
    assert any(expected in text for text in texts), texts


def test_every_problem_is_told_not_only_the_first() -> None:
    outcome = run(
        [T],
        op("merge_columns", columns=["a", "z", "y"], into=INTO, down={}),
        op("drop_column", column="nothing"),
    )
    assert len(outcome.problems) >= 4
    assert all(problem.where == "" or ":" in problem.where for problem in outcome.problems)


@pytest.mark.parametrize(
    "kind", [k for k in TableKind if k not in {TableKind.TABLE, TableKind.PARTITIONED, TableKind.INHERITED}]
)
def test_only_ordinary_tables_are_changed(kind: TableKind) -> None:
    (text,) = run([table("t", column("a"), column("b"), kind=kind)], op("drop_column", column="a")).texts()
    assert f"public.t is a {kind.value}" in text


@pytest.mark.parametrize("written, meant", [("Post", "'\"Post\"'"), ("public.Post", "'public.\"Post\"'")])
def test_a_name_whose_capitals_were_folded_is_told_how_to_be_written(written: str, meant: str) -> None:
    (problem,) = run([T], {"drop_column": {"table": written, "column": "a"}}).problems
    assert problem.what == "there is no table public.post"
    assert meant in problem.remedy


def test_the_role_must_own_the_table() -> None:
    (text,) = run(
        [table("t", column("a"), column("b"), may_alter=False)], op("drop_column", column="a")
    ).texts()
    assert "belongs to owner" in text


@pytest.mark.parametrize(
    "hanging, expected",
    [
        ({"dependents": (Dependent(kind=k, name="v", columns=("a",)),)}, f"the {k} v uses a")
        for k in (
            "view",
            "materialized view",
            "replica identity",
            "user of the identity sequence",
        )
    ]
    + [
        (
            {
                "referenced_by": (
                    Constraint(
                        name="k",
                        kind="foreign key",
                        columns=("a",),
                        definition="",
                        references=qualified("public", "c"),
                    ),
                )
            },
            "the foreign key k of public.c points at a, and public.c is a table that cannot be read",
        ),
        (
            {
                "constraints": (Constraint(name="x", kind="exclusion", columns=("a",), definition=""),),
                "kind": TableKind.PARTITIONED,
            },
            "the exclusion constraint x stands on a, and public.t is partitioned",
        ),
        (
            {"indexes": (Index(name="i", columns=("a",), definition="", valid=False),)},
            "the index i is invalid",
        ),
    ],
)
def test_what_hangs_on_a_replaced_column_is_refused_by_name(hanging: dict[str, Any], expected: str) -> None:
    subject = table("t", column("a"), column("b"), **hanging)
    outcome = run([subject], op("change_type", column="a", to="bigint"))
    (problem,) = outcome.problems
    assert expected in problem.what
    assert problem.remedy
    assert problem.where == "1:change_type"
    assert run([subject], op("change_type", column="b", to="bigint")).texts() == []


def test_an_expression_in_the_place_of_an_indexed_column_is_told_how_it_is_written() -> None:
    (problem,) = run([T], op("create_index", name="i", columns=["lower(b)"])).problems
    assert problem.remedy == 'An expression is written {expression: "lower(b)"}.'


@pytest.mark.parametrize("declared", [Dependents.REFUSE, Dependents.RECREATE])
def test_a_view_over_a_column_without_a_successor_is_not_told_to_be_made_anew(declared: Dependents) -> None:
    dependent = Dependent(kind="view", name="v", columns=("a", "b"), oid=7)
    subject = table("t", column("a"), column("b", "text"), dependents=(dependent,))
    merged = op("split_column", column="b", into=[INTO], down="x")
    (problem,) = run(
        [subject], op("change_type", column="a", to="bigint"), merged, dependents=declared
    ).problems
    assert problem.what.startswith("the view v uses a, b, and split_column")
    assert problem.where == "2:split_column"
    assert "No single column takes the place of b," in problem.remedy
    assert "recreate" not in problem.remedy


@pytest.mark.parametrize("kind", ["policy", "statistics", "publication", "trigger", "function"])
def test_what_follows_needs_a_successor(kind: str) -> None:
    """It follows one column to another; where the column is split nothing could say what it shall look at."""
    if kind == "trigger":
        trigger = Trigger(name="g", definition="", timing="after", row=True, columns=("b",), oid=7)
        subject = table("t", column("a"), column("b", "text"), triggers=(trigger,))
    else:
        dependent = Dependent(kind=kind, name="g", columns=("b",), oid=7)
        subject = table("t", column("a"), column("b", "text"), dependents=(dependent,))
    followed = run([subject], op("change_type", column="b", to="varchar(9)"))
    assert [(f.kind, f.oid) for f in followed.draft.follows] == [(kind, 7)]
    (problem,) = run([subject], op("split_column", column="b", into=[INTO], down="x")).problems
    assert problem.remedy
    assert f"the {kind} g" in problem.what


STORED = Dependent(kind="generated column", name="g", columns=("a",), oid=7)
WIDER = op("change_type", column="a", to="bigint")


def test_a_generated_column_may_go_with_the_column_it_uses() -> None:
    subject = table("t", *T.columns, dependents=(STORED,), kind=TableKind.PARTITIONED)
    assert run([subject], op("drop_column", column="g"), WIDER).texts() == []
    assert "the generated column g uses a" in run([subject], WIDER).texts()[0]


def test_a_stored_generated_column_follows_where_the_server_finds_the_rewrite_short() -> None:
    outcome = run([table("t", *T.columns, dependents=(STORED,), size=2 * 2**20)], WIDER)
    assert outcome.texts() == []
    assert [f.kind for f in outcome.draft.follows] == ["generated column"]
    assert [f.rule for f in outcome.draft.findings] == ["stored-generated-column"]
    assert "2048 KiB" in outcome.draft.findings[0].text
    (problem,) = run(
        [table("t", *T.columns, dependents=(STORED,), kind=TableKind.PARTITIONED)], WIDER
    ).problems
    assert problem.rule == "stored-generated-column"
    assert "is partitioned" in problem.what
    # Before PostgreSQL 17 the column is made anew, and what hangs on it would go.
    indexed = table(
        "t",
        *T.columns,
        dependents=(STORED,),
        indexes=(Index(name="i", columns=("g",), definition="CREATE INDEX i ON t (g)"),),
    )
    assert run([indexed], WIDER, version=170000).texts() == []
    assert "the index i would go with it" in run([indexed], WIDER, version=150000).texts()[0]


def test_a_subscription_may_write_a_column_that_is_only_cast_under_its_name() -> None:
    """After cleanup nothing maps what the publisher sends."""
    subject = table(
        "t", column("a"), column("b"), dependents=(Dependent(kind="subscription", name="s", oid=7),)
    )
    outcome = run([subject], op("change_type", column="a", to="bigint"))
    assert outcome.texts() == []
    assert [f.rule for f in outcome.draft.findings] == ["subscribed-column"]
    for mapped in ({"up": "a * 100", "down": "a / 100"}, {"name": "c"}):
        (problem,) = run([subject], op("change_type", column="a", to="bigint", **mapped)).problems
        assert problem.rule == "subscribed-column"
        assert problem.remedy


def test_views_of_zdm_itself_do_not_stand_in_the_way() -> None:
    from zdm.operations import fidelity
    from zdm.operations.base import Draft
    from zdm.operations.change_type import ChangeType

    subject = table(
        "t", column("a"), dependents=(Dependent(kind="view", name="public_m0.t", columns=("a",)),)
    )
    draft = Draft("public", "m", 180000, tables={subject.name: subject}, own_views={"public_m0.t"})
    assert ChangeType(table="t", column="a", to="bigint").apply(draft, "1:change_type") == []
    assert fidelity.settle(draft) == []


def test_an_index_that_goes_with_its_only_column_is_told() -> None:
    subject = table("t", column("a"), column("b"), indexes=(Index(name="i", columns=("a",), definition=""),))
    outcome = run([subject], op("drop_column", column="a"))
    assert outcome.texts() == []
    assert [f.text for f in outcome.draft.findings] == [
        "cleanup drops the index i of public.t together with column a"
    ]


def test_what_the_migration_drops_itself_needs_no_carrying() -> None:
    outcome = run(
        [T], op("drop_index", name="a_b"), op("drop_constraint", name="both"), op("drop_column", column="a")
    )
    # The generated column g still reads a; introspection lists that as a dependent, and this sample does not.
    assert outcome.texts() == []


def test_an_index_of_the_migration_may_not_stand_on_a_column_that_goes() -> None:
    outcome = run(
        [ACCOUNTS, OWNERS],
        {"create_index": {"table": "accounts", "name": "i", "columns": ["label"]}},
        {"change_type": {"table": "accounts", "column": "label", "to": "text"}},
    )
    (text,) = outcome.texts()
    assert "the index i of this migration stands on it" in text


def test_exposed_columns_need_names_of_their_own() -> None:
    outcome = run(
        [ACCOUNTS, OWNERS],
        {"change_type": {"table": "accounts", "column": "label", "to": "text"}},
        expose=Expose.COLUMNS,
    )
    (text,) = outcome.texts()
    assert "needs a name of its own" in text


def test_two_documents_of_one_name_need_version_schemas() -> None:
    outcome = run(
        [table("t", column("id"), column("data", "jsonb"))],
        {
            "extract_json": {
                "table": "t",
                "column": "data",
                "remove": "keys",
                "fields": [{"path": "name", "type": "text"}],
            }
        },
        expose=Expose.COLUMNS,
    )
    (text,) = outcome.texts()
    assert "would be a second column data" in text


def test_a_dropped_table_is_left_alone() -> None:
    outcome = run(
        [ACCOUNTS, OWNERS],
        {"drop_table": {"table": "owners"}},
        {"add_column": {"table": "owners", "column": "x", "type": "int"}},
    )
    (text,) = outcome.texts()
    assert "is dropped by an earlier operation" in text
