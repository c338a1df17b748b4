"""Texts that would end the parentheses put around them are refused; whatever is lexically whole goes to the server."""

from __future__ import annotations

import pytest

from zdm.db.lexer import not_one_expression


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "f(a, b) + c[1]",
        "'it''s' || \"odd \"\" name\"",
        "E'it\\'s' || e'\\\\'",
        "$$ ) ; ' $$ || $tag$ $$ $tag$",
        "a -- ) comment",
        "a /* ) /* nested ; */ */ + 1",
        "a$b + 1",
        "(a, b) IS NULL",
        "U&'d\\0061t\\+000061'",
        "'a'\n'b'",
        "x'1F'",
        "'-- no comment' || '/* none */'",
    ],
)
def test_whole(text: str) -> None:
    assert not_one_expression(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  -- nothing",
        "1) IS NULL), ADD CHECK ((true",
        "a) IS NULL OR (b",
        "a]",
        "(a",
        "(a]",
        "a; DROP TABLE t",
        "a, b",
        "'open",
        '"open',
        "$$open",
        "/* open",
        "/* /* open */",
        "E'a\\'",
        # The server goes on by the rules of E'' in the second part.
        "E'a'\n'\\') IS NULL), ADD CHECK ((''='",
        # A no-break space is a letter to the server: this is the name "a…E" and a plain string, not an E'' string.
        "a\u00a0E'\\') OR (' '",
        # Older servers read a number, then an E'' string.
        "1E'\\') OR ('",
        "a\x00b",
    ],
)
def test_not_whole(text: str) -> None:
    assert not_one_expression(text) != ""
