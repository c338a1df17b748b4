"""A document as a list of blocks, written as text for a terminal or as Markdown for a review."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click

from zdm.cli.render.text import faint, heading, indented, table, wrapped


@dataclass(frozen=True, slots=True)
class Heading:
    """A title; `level` 1 is the document's."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table with headers; `right` numbers the columns aligned right."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Numbered:
    """Things done one after the other, each with what there is to say about it."""

    items: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Code:
    """SQL, left exactly as it is."""

    text: str


Block = Heading | Paragraph | Items | Numbered | Grid | Code


def as_text(blocks: Sequence[Block]) -> str:
    """For a terminal."""
    lines: list[str] = []
    for block in blocks:
        match block:
            case Heading(text, level):
                if lines:
                    lines.append("")
                line = heading(text)
                lines.append(line)
                if level <= 2:
                    lines.append(faint(("=" if level == 1 else "-") * len(click.unstyle(text))))
            case Paragraph(text):
                lines.append(wrapped(text))
            case Items(items):
                lines += [wrapped(item, first="- ") for item in items]
            case Numbered(entries):
                width = len(str(len(entries)))
                for position, (title, details) in enumerate(entries, 1):
                    lines.append(wrapped(title, first=f"{position:>{width}}  "))
                    lines += [wrapped(detail, indent=width + 4) for detail in details]
            case Grid(headers, rows, right):
                lines.append(table(rows, headers, right=right))
            case Code(text):
                lines.append(indented(text, 6))
    return "\n".join(lines)


def as_markdown(blocks: Sequence[Block]) -> str:
    """For a pull request."""
    parts: list[str] = []
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {text}")
            case Paragraph(text):
                parts.append(text)
            case Items(items):
                parts.append("\n".join(f"- {item}" for item in items))
            case Numbered(entries):
                numbered = (f"{i}. " + "  \n   ".join([t, *d]) for i, (t, d) in enumerate(entries, 1))
                parts.append("\n".join(numbered))
            case Grid(headers, rows, right):
                rule = ["---:" if i in right else "---" for i in range(len(headers))]
                grid = [headers, rule, *[[_cell(c) for c in row] for row in rows]]
                parts.append("\n".join(f"| {' | '.join(row)} |" for row in grid))
            case Code(text):
                fence = "````" if "```" in text else "```"
                parts.append(f"{fence}sql\n{text}\n{fence}")
    return click.unstyle("\n\n".join(parts))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
