"""The small change of rendering: tables, numbers with units, durations, headings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime

import click

WIDTH = 100
"""Columns of text that is not fitted to a terminal: a review document reads the same everywhere."""


def heading(text: str) -> str:
    """A line that stands out on a terminal."""
    return click.style(text, bold=True)


def good(text: str) -> str:
    """What went well."""
    return click.style(text, fg="green")


def bad(text: str) -> str:
    """What needs somebody."""
    return click.style(text, fg="red", bold=True)


def careful(text: str) -> str:
    """What deserves a second look."""
    return click.style(text, fg="yellow")


def faint(text: str) -> str:
    """What may be skipped."""
    return click.style(text, dim=True)


def _visible(text: str) -> int:
    return len(click.unstyle(text))


def table(
    rows: Sequence[Sequence[str]], headers: Sequence[str] = (), *, indent: int = 2, right: Sequence[int] = ()
) -> str:
    """Aligned columns; the last one is wrapped to `WIDTH`. `right` numbers the columns that are aligned right."""
    if not rows:
        return ""
    shown = [list(headers), *map(list, rows)] if headers else [list(r) for r in rows]
    columns = max(len(row) for row in shown)
    widths = [max((_visible(r[i]) for r in shown if i < len(r)), default=0) for i in range(columns)]
    left = indent + sum(widths[:-1]) + 2 * (columns - 1)
    room = max(WIDTH - left, 30)
    lines: list[str] = []
    for number, row in enumerate(shown):
        cells: list[str] = []
        for i, cell in enumerate(row[:-1]):
            space = " " * (widths[i] - _visible(cell))
            cells.append(space + cell if i in right else cell + space)
        last = row[-1]
        if len(row) - 1 in right:
            last = " " * (widths[len(row) - 1] - _visible(last)) + last
        pieces = textwrap.wrap(last, room, break_on_hyphens=False) if _visible(last) > room else [last]
        head = " " * indent + "  ".join([*cells, pieces[0] if pieces else ""])
        line = head.rstrip()
        lines.append(heading(line) if headers and number == 0 else line)
        lines += [" " * left + piece for piece in pieces[1:]]
    return "\n".join(lines)


def wrapped(text: str, *, indent: int = 2, first: str = "", width: int = WIDTH) -> str:
    """A paragraph, wrapped; `first` stands before its first line, inside the indent's next columns."""
    space = " " * indent
    return textwrap.fill(
        text,
        width,
        initial_indent=space + first,
        subsequent_indent=space + " " * _visible(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def indented(text: str, by: int) -> str:
    """Every line moved to the right."""
    return textwrap.indent(text, " " * by)


def number(value: float | None) -> str:
    """``1,234,567``; ``unknown`` where it is not known, which is never zero."""
    return "unknown" if value is None or value < 0 else f"{value:,.0f}"


def size(value: float | None) -> str:
    """``1.2 GB``."""
    if value is None:
        return "unknown"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if abs(value) < 1024 or unit == "TB":
            return (
                f"{value:,.0f} {unit}" if unit in ("bytes", "kB") or value >= 100 else f"{value:.1f} {unit}"
            )
        value /= 1024
    raise AssertionError("the last unit takes everything")


def seconds(value: float | None) -> str:
    """``12 ms``, ``3.2 s``, ``42 s``, ``4 min 10 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if value is None:
        return "unknown"
    if value < 0.0005:
        return "0 s"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 59.5:
        return f"{value:.0f} s"
    whole = round(value)
    for big, small, big_name, small_name in (
        (86400, 3600, "d", "h"),
        (3600, 60, "h", "min"),
        (60, 1, "min", "s"),
    ):
        if whole >= big:
            rest = whole % big // small
            return f"{whole // big} {big_name}" + (f" {rest} {small_name}" if rest else "")
    raise AssertionError("below a minute was handled above")


def when(value: datetime | None, now: datetime | None = None) -> str:
    """``2026-03-04 05:06:07 UTC``, and how long ago that is if `now` is given."""
    if value is None:
        return "never"
    utc = value.astimezone(UTC)
    text = f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    if now is None:
        return text
    past = (now - value).total_seconds()
    return f"{text} ({seconds(past)} ago)" if past >= 0 else f"{text} (in {seconds(-past)})"


def plural(count: float, one: str, many: str = "") -> str:
    """``1 row``, ``2 rows``."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def joined(parts: Sequence[str]) -> str:
    """Blocks with one empty line between them; empty blocks are left out."""
    return "\n\n".join(part.rstrip("\n") for part in parts if part.strip())
