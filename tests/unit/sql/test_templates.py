"""The templates of ``triggers/`` say what they are, and cannot be filled wrongly."""

from __future__ import annotations

import pytest
from psycopg import sql

from zdm.errors import ZdmError
from zdm.resources import triggers
from zdm.sql.identifiers import differs, type_name
from zdm.sql.templates import dollar_quoted, load, parse

NAMES = sorted(path.stem for path in triggers().glob("*.sql"))
GOOD = "-- template: x\n-- version: 1\n-- parameters: a, b\n-- What it is.\n\nSELECT {a}, {b}\n"


def test_there_are_templates() -> None:
    assert len(NAMES) > 20


@pytest.mark.parametrize("name", NAMES)
def test_header_fits_text(name: str) -> None:
    template = load(name)
    assert template.name == name
    assert template.version >= 1


def test_filling() -> None:
    template = parse("x", GOOD)
    assert template.fill(a=sql.Literal(1), b=sql.Identifier('q"')).as_string(None) == 'SELECT 1, "q"""'
    with pytest.raises(ZdmError, match="b"):
        template.fill(a=sql.Literal(1))
    with pytest.raises(ZdmError, match="c"):
        template.fill(a=sql.Literal(1), b=sql.Literal(2), c=sql.Literal(3))


@pytest.mark.parametrize(
    "text, message",
    [
        (GOOD.replace("-- version: 1\n", ""), "header"),
        (GOOD.replace("template: x", "template: y"), "calls itself y"),
        (GOOD.replace("a, b", "a"), "other parameters"),
        (GOOD.replace("a, b", "a, b, c"), "other parameters"),
    ],
)
def test_bad_header(text: str, message: str) -> None:
    with pytest.raises(ZdmError, match=message):
        parse("x", text)


def test_missing_template() -> None:
    with pytest.raises(ZdmError):
        load("no_such_template")


def test_dollar_quote_never_ends_early() -> None:
    made = dollar_quoted("view_stamp", view=sql.Literal("$zdm$ $zdm1$"), label=sql.Literal("x")).as_string(
        None
    )
    assert made.startswith("DO $zdm2$")


@pytest.mark.parametrize(
    "type_, expected",
    [
        ("text", "pg_catalog.text"),
        ("text[]", "pg_catalog.text[]"),
        ('"char"', 'pg_catalog."char"'),
        ("numeric(18,2)", "numeric(18,2)"),
        ("timestamp with time zone", "timestamp with time zone"),
        ("app.mood", "app.mood"),
    ],
)
def test_type_names(type_: str, expected: str) -> None:
    assert type_name(type_).as_string(None) == expected


def test_native_comparison_only_where_it_needs_nothing() -> None:
    from zdm.model.mapping import Comparison

    a, b = sql.SQL("a"), sql.SQL("b")
    native = Comparison.NATIVE
    assert "pg_catalog.=" in differs(a, b, native, "integer").as_string(None)
    # Values of character(n) have all n characters; those of bpchar, which tells no number, may end in blanks that `=` does not see.
    for type_ in ("character varying(3)", "character(3)"):
        assert 'COLLATE pg_catalog."C"' in differs(a, b, native, type_).as_string(None)
    for type_ in ("citext", "app.mood", "bpchar", "double precision", "integer[]"):
        assert "record_image_ne" in differs(a, b, native, type_).as_string(None)
    assert "record_image_ne" in differs(a, b, Comparison.IMAGE, "integer").as_string(None)
