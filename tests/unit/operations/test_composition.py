"""Several operations on one table make one new version of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.operations.helpers import Outcome, column, run, table
from zdm.model.mapping import Expose
from zdm.model.table import Constraint
from zdm.operations.shape import DraftGroup, TableShape

T = table(
    "t",
    column("id", not_null=True),
    column("a", "integer", default="0"),
    column("b", "text"),
    column("c", "text", not_null=True, collation='pg_catalog."C"'),
)


def op(kind: str, **parameters: Any) -> dict[str, Any]:
    return {kind: {"table": "t", **parameters}}


def shape_of(outcome: Outcome) -> TableShape:
    assert outcome.texts() == []
    return outcome.draft.shapes[T.name]


def only_group(outcome: Outcome) -> DraftGroup:
    (group,) = shape_of(outcome).groups
    return group


def shown(outcome: Outcome) -> list[tuple[str, str]]:
    return [(c.name, c.physical) for c in shape_of(outcome).columns]


def test_a_column_without_mapping_needs_no_group() -> None:
    outcome = run([T], op("add_column", column="x", type="int"))
    assert shape_of(outcome).groups == []
    assert shown(outcome)[-1] == ("x", "x")


def test_a_default_that_is_not_known_to_be_instant_fills_row_by_row() -> None:
    group = only_group(
        run([T], op("add_column", column="x", type="uuid", default="gen_random_uuid()", not_null=True))
    )
    (new,) = group.new
    assert (new.up, new.fill, new.default, new.not_null) == (
        None,
        "gen_random_uuid()",
        "gen_random_uuid()",
        True,
    )


def test_up_wins_over_default_for_the_old_rows() -> None:
    (new,) = only_group(run([T], op("add_column", column="x", type="int", default=7, up="a"))).new
    assert (new.up, new.fill, new.default) == ("a", None, "7")


def test_dropping_without_down_moves_no_data() -> None:
    shape = shape_of(run([T], op("drop_column", column="b")))
    assert (shape.groups, shape.removed) == ([], ["b"])


def test_type_changes_cast_both_ways_and_keep_the_place() -> None:
    outcome = run([T], op("change_type", column="a", to="bigint"))
    group = only_group(outcome)
    (new,) = group.new
    assert (new.up, group.old, new.default) == (
        'CAST("a" AS bigint)',
        {"a": 'CAST("a" AS integer)'},
        "CAST((0) AS bigint)",
    )
    assert shown(outcome) == [("id", "id"), ("a", "_zdm_a"), ("b", "b"), ("c", "c")]


def test_a_collation_follows_between_texts() -> None:
    (new,) = only_group(run([T], op("change_type", column="c", to="varchar(9)"))).new
    assert new.collation == 'pg_catalog."C"'
    (new,) = only_group(run([T], op("change_type", column="c", to="bytea", up="c::bytea"))).new
    assert new.collation is None


def test_what_the_server_changes_without_rewrite_is_altered_in_place() -> None:
    shape = shape_of(
        run([T], op("change_type", column="b", to="varchar"), rewrite_free={("text", "varchar")})
    )
    found = shape.column("b")
    assert found is not None
    assert (shape.groups, found.alter_type) == ([], "varchar")


def test_a_check_makes_altering_in_place_a_scan_so_it_is_mapped() -> None:
    checked = table(
        "t",
        column("b", "text"),
        constraints=(Constraint(name="k", kind="check", columns=("b",), definition=""),),
    )
    outcome = run([checked], op("change_type", column="b", to="varchar"), rewrite_free={("text", "varchar")})
    assert len(shape_of(outcome).groups) == 1


@pytest.mark.parametrize("first", ["change_type", "set_not_null"])
def test_type_and_not_null_share_one_successor(first: str) -> None:
    operations = [op("change_type", column="a", to="bigint"), op("set_not_null", column="a", up=7)]
    if first == "set_not_null":
        operations.reverse()
    group = only_group(run([T], *operations))
    (new,) = group.new
    assert (new.type, new.not_null, group.lossy) == ("bigint", True, True)
    assert new.up is not None
    assert "COALESCE" in new.up
    assert "CAST" in new.up
    assert group.old == {"a": 'CAST("a" AS integer)'}


def test_a_derived_down_follows_a_rename() -> None:
    group = only_group(
        run([T], op("change_type", column="a", to="bigint"), op("rename_column", column="a", to="amount"))
    )
    assert group.old == {"a": 'CAST("amount" AS integer)'}
    assert group.new[0].final == "amount"


def test_a_written_down_does_not() -> None:
    texts = run(
        [T],
        op("change_type", column="a", to="bigint", down="a::int"),
        op("rename_column", column="a", to="amount"),
    ).texts()
    assert texts == ["column a is new in this migration, and a `down` names it"]


def test_a_renamed_column_is_replaced_under_its_new_name() -> None:
    outcome = run(
        [T], op("rename_column", column="a", to="amount"), op("change_type", column="amount", to="bigint")
    )
    group = only_group(outcome)
    assert group.new[0].up == 'CAST("a" AS bigint)'
    assert group.old == {"a": 'CAST("amount" AS integer)'}
    assert ("amount", "amount") in shown(outcome)


def test_renames_need_no_data_in_views() -> None:
    outcome = run([T], op("rename_column", column="a", to="amount"))
    assert shape_of(outcome).groups == []
    assert ("amount", "a") in shown(outcome)


def test_renames_with_exposed_columns_are_kept_in_step() -> None:
    group = only_group(run([T], op("rename_column", column="b", to="body"), expose=Expose.COLUMNS))
    assert (group.new[0].physical, group.new[0].up, group.old) == ("body", '"b"', {"b": '"body"'})


def test_a_renamed_table_answers_to_its_new_name_only() -> None:
    rename = {"rename_table": {"table": "t", "to": "u"}}
    outcome = run([T], rename, {"add_column": {"table": "u", "column": "x", "type": "int"}})
    assert shape_of(outcome).final_name == "u"
    assert run([T], rename, op("drop_column", column="b")).texts() == ["there is no table public.t"]


def test_split_and_merge_take_the_place_of_what_they_replace() -> None:
    outcome = run(
        [T],
        op(
            "split_column",
            column="a",
            into=[{"name": "a", "type": "int", "up": "a / 2"}, {"name": "a2", "type": "int", "up": "a % 2"}],
            down="a * 2 + a2",
        ),
        op(
            "merge_columns",
            columns=["b", "c"],
            into={"name": "bc", "type": "text", "up": "b || c"},
            down={"b": "bc", "c": "bc"},
        ),
    )
    assert shown(outcome) == [("id", "id"), ("a", "_zdm_a"), ("a2", "a2"), ("bc", "bc")]


def test_null_may_be_let_in_with_a_value_for_the_old_version() -> None:
    group = only_group(run([T], op("drop_not_null", column="c", down="''")))
    assert (group.new[0].not_null, group.old) == (False, {"c": "COALESCE(\"c\", (''))"})


def test_defaults_live_on_the_view_until_cleanup() -> None:
    shape = shape_of(run([T], op("set_default", column="a", default=None)))
    found = shape.column("a")
    assert found is not None
    assert (found.default, found.default_changed, shape.groups) == (None, True, [])
