"""What a migration file may hold in the place of an expression, a name, a collation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from zdm.operations.add_column import AddColumn
from zdm.operations.create_index import CreateIndex
from zdm.operations.params import Dotted, fragment_error
from zdm.operations.registry import operations


@pytest.mark.parametrize(
    "text",
    [
        "a + 1",
        "f('it''s; (', \"x)\"\"y\")",
        "E'\\'' || a",
        "$$ ; ) $$",
        "$t$ $$ ) $t$",
        "a[1]",
        "'--'",
        "a$1",
        "x -> '$.a'",
    ],
)
def test_one_expression_is_accepted(text: str) -> None:
    assert fragment_error(text) == ""


@pytest.mark.parametrize(
    "text",
    ["1; DROP TABLE t", "1) FROM t; --", "a -- b", "a /* b", "(a", "a)", "'a", '"a', "$$ a", "f(a]", "E'\\'"],
)
def test_whatever_could_end_the_statement_is_refused(text: str) -> None:
    assert fragment_error(text)
    with pytest.raises(ValidationError, match="is not one SQL expression"):
        AddColumn(table="t", column="c", type="int", up=text)


@given(st.text(alphabet="()[]'\"$-/*;aE\\ \n", max_size=30))
def test_an_accepted_fragment_stays_inside_parentheses(text: str) -> None:
    """What the scanner accepts leaves the text around it as it was: the closing parenthesis is still a closing one."""
    if not fragment_error(text) and not text.endswith(("-", "/", "$")):
        assert fragment_error(f"({text} )") == ""


def test_numbers_and_booleans_of_yaml_are_sql() -> None:
    assert AddColumn.model_validate({"table": "t", "column": "c", "type": "int", "default": 0}).default == "0"
    assert (
        AddColumn.model_validate({"table": "t", "column": "c", "type": "bool", "default": False}).default
        == "false"
    )


def test_names_longer_than_the_server_keeps_are_refused() -> None:
    with pytest.raises(ValidationError, match="64 bytes long"):
        AddColumn(table="t", column="c" * 64, type="int")


@pytest.mark.parametrize(
    "written, expected",
    [
        ("C", '"C"'),
        ("en_US.utf8", '"en_US.utf8"'),
        ("pg_catalog.C", '"pg_catalog"."C"'),
        ('pg_catalog."en-x-icu"', '"pg_catalog"."en-x-icu"'),
        ('"a.b"', '"a.b"'),
    ],
)
def test_collations_keep_their_case(written: str, expected: str) -> None:
    adapter = TypeAdapter(Dotted)
    assert adapter.validate_python(written) == expected
    assert adapter.validate_python(expected) == expected


def test_an_index_needs_keys_or_a_definition() -> None:
    with pytest.raises(ValidationError, match="needs `columns` or a `definition`"):
        CreateIndex(table="t", name="i")
    with pytest.raises(ValidationError, match="stands instead of"):
        CreateIndex.model_validate({"table": "t", "name": "i", "columns": ["a"], "definition": "(a)"})


@pytest.mark.parametrize("kind", operations())
def test_every_operation_says_what_it_is_and_what_its_parameters_are(kind: str) -> None:
    found = operations()[kind]
    assert found.kind == kind
    assert found.summary
    assert found.summary[-1] != "."
    assert found.scenarios, "the conformance suite needs a scenario"
    assert all(field.description for field in found.model_fields.values())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("startTime", "startTime"),
        ('"startTime"', "startTime"),
        ('"a ""b"""', 'a "b"'),
        ('quo"te', 'quo"te'),
        ('"a"b"', '"a"b"'),
        ('"', '"'),
    ],
)
def test_a_column_is_named_as_it_is_or_in_the_quotes_of_sql(written: str, meant: str) -> None:
    """A table that has capitals must be quoted, so people quote its columns too."""
    assert AddColumn(table='"T"', column=written, type="int").column == meant


def test_a_name_in_quotes_must_not_be_empty() -> None:
    with pytest.raises(ValidationError, match="a name is needed"):
        AddColumn(table="t", column='""', type="int")
