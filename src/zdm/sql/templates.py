"""The SQL templates of ``triggers/``: one per file, each with a header that names it, its version and its parameters.

A template is filled with psycopg's composition, so a placeholder receives a quoted identifier, a literal, or SQL composed
before, never bare text. The header is checked against the text; a released version is never edited, but gets a new number.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from functools import cache

from psycopg import sql

from zdm.errors import ZdmError
from zdm.resources import read_text

_HEADER = re.compile(
    r"\A-- template: (?P<name>\w+)\n-- version: (?P<version>\d+)\n-- parameters:(?P<parameters>[\w, ]*)\n"
    r"(?:-- [^\n]+\n)+\n"
)


@dataclass(frozen=True, slots=True)
class Template:
    """One file of ``triggers/``: its header and the SQL after it."""

    name: str
    version: int
    parameters: frozenset[str]
    text: str

    def fill(self, **pieces: sql.Composable) -> sql.Composed:
        """The SQL with each parameter replaced. Raises ZdmError if a parameter is missing or unknown."""
        if pieces.keys() != self.parameters:
            wrong = ", ".join(sorted(pieces.keys() ^ self.parameters))
            raise ZdmError(f"the template {self.name} was filled with the wrong parameters: {wrong}")
        return sql.SQL(self.text).format(**pieces)


@cache
def load(name: str) -> Template:
    """The template of that name. Raises ZdmError if there is none, or its header does not fit its text."""
    return parse(name, read_text("triggers", f"{name}.sql"))


def dollar_quoted(name: str, **pieces: sql.Composable) -> sql.Composed:
    """The filled template of a function or a DO block, its dollar-quote tag chosen so that it occurs in no piece."""
    texts = {parameter: piece.as_string(None) for parameter, piece in pieces.items()}
    inside = "".join(texts.values())
    tag, count = "$zdm$", 0
    while tag in inside:
        count += 1
        tag = f"$zdm{count}$"
    # As text, so that they are not composed once more whenever the whole is.
    return load(name).fill(
        quote=sql.SQL(tag), **{parameter: sql.SQL(text) for parameter, text in texts.items()}
    )


def parse(name: str, text: str) -> Template:
    """Read a template's header and check it. Raises ZdmError with what does not fit."""
    header = _HEADER.match(text)
    if header is None:
        raise ZdmError(
            f"the template {name} has no valid header",
            remedy="It starts with '-- template:', '-- version:', '-- parameters:', a description, and an empty line.",
        )
    if header["name"] != name:
        raise ZdmError(f"the template {name} calls itself {header['name']}")
    body = text[header.end() :].rstrip("\n")
    declared = frozenset(header["parameters"].replace(",", " ").split())
    used = {field for _, field, _, _ in string.Formatter().parse(body) if field is not None}
    if declared != used:
        wrong = ", ".join(sorted(declared ^ used))
        raise ZdmError(f"the template {name} declares other parameters than it uses: {wrong}")
    return Template(name, int(header["version"]), declared, body)
