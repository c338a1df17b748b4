"""Telling whether a text is at most one SQL expression, by PostgreSQL's own lexical rules.

Whether it is a *valid* expression only the server can say. What matters here is that the text cannot end the parentheses
that are put around it: quotes, comments and brackets are closed, nothing closes what it did not open, and nothing at the
top level separates statements or list items. Holds with ``standard_conforming_strings = on``, which is pinned.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
    (?P<space>[\ \t\n\r\f\v]+)
  | (?P<line>--[^\n\r]*)
  | (?P<comment>/\*)
  | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*+')
  | (?P<string>(?:[uU]&|[bBxXnN])?'(?:[^']|'')*+')
  | (?P<name>(?:[uU]&)?"(?:[^"]|"")*+")
  | (?P<bad>['"]|[eE]')
  | (?P<dollar>\$(?P<tag>(?:[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_\u0080-\U0010ffff]*)?)\$)
  | (?P<word>[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*)
  | (?P<number>[0-9][A-Za-z0-9_.]*)
  | (?P<open>[(\[])
  | (?P<close>[)\]])
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PAIRS = {")": "(", "]": "["}


def not_one_expression(text: str) -> str:
    """Why `text` cannot be one expression; empty if it may be one."""
    if "\x00" in text:
        return "it contains a NUL character"
    position, previous, stack = 0, "", list[str]()
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None
        kind, piece = _kind(match), match.group()
        position = match.end()
        if kind in ("space", "line"):
            continue
        if kind in ("comment", "dollar"):
            position = _comment_end(text, position) if kind == "comment" else _after(text, piece, position)
            if position < 0:
                return f"what {piece} opens is not closed"
            previous = previous if kind == "comment" else kind
            continue
        why = _refused(kind, piece, previous, text[position : position + 1], stack)
        if why:
            return why
        previous = kind
    if stack:
        return f"a {stack[-1]} is not closed"
    return "" if previous else "it is empty"


def _kind(match: re.Match[str]) -> str:
    if match.group("dollar") is not None:
        return "dollar"
    assert match.lastgroup is not None
    return match.lastgroup


def _refused(kind: str, piece: str, previous: str, following: str, stack: list[str]) -> str:
    """Why this token cannot be part of the expression; opens and closes brackets on `stack`."""
    if kind == "bad":
        return "a quote is not closed"
    if kind == "open":
        stack.append(piece)
    if kind == "close" and (not stack or stack.pop() != _PAIRS[piece]):
        return f"there is a {piece} that nothing opens"
    if kind == "other" and piece == ";":
        return "a semicolon ends it"
    if kind == "other" and piece == "," and not stack:
        return "there is a comma outside parentheses"
    if kind == "string" and previous == "escaped":
        # The server reads the second part by the rules of the first.
        return "an E'' string goes on in another string; write it as one"
    if kind == "number" and following and following in "'\"$":
        return "a number runs into a string"
    return ""


def _after(text: str, tag: str, position: int) -> int:
    end = text.find(tag, position)
    return -1 if end < 0 else end + len(tag)


def _comment_end(text: str, position: int) -> int:
    """Where the block comment that starts before `position` ends (they nest), or -1."""
    depth = 1
    while depth:
        start, end = text.find("/*", position), text.find("*/", position)
        if end < 0:
            return -1
        if 0 <= start < end:
            depth, position = depth + 1, start + 2
        else:
            depth, position = depth - 1, end + 2
    return position
