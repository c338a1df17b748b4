"""Changes of columns, each with a model in Python of what both versions must hold: what the generated cases are made of.

A model knows nothing of markers, triggers or backfills. It says what a write of either version means for the other one, as
docs/architecture.md promises it, as if every row had been filled from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

Value = Any
Row = dict[str, Value]
Both = dict[tuple[str, str], Value]
"""Both sides of a row: ("old" or "new", column) to value."""

TENTH = Decimal("0.1")


@dataclass(frozen=True)
class Pair:
    """Old columns that become new ones, by expressions and by functions that must mean the same.

    Parameters
    ----------
    old / new: name of a column to its type; ``{c}`` in a name is the stem that the case gives it.
    olds / news: values that the applications write, by name. They go into statements as literals.
    operation: the operation of a migration file; ``{t}`` is the table.
    up / down: the model: the other side's values in the order of the columns.
    """

    old: dict[str, str]
    new: dict[str, str]
    olds: dict[str, tuple[Value, ...]]
    news: dict[str, tuple[Value, ...]]
    operation: dict[str, dict[str, Any]]
    up: Callable[..., tuple[Value, ...]]
    down: Callable[..., tuple[Value, ...]]


def _round(x: Decimal | None) -> int | None:
    return None if x is None else int(Decimal(x).quantize(Decimal(1), ROUND_HALF_UP))


def _part(text: str | None, separator: str, number: int) -> str | None:
    if text is None:
        return None
    return [*text.split(separator), "", ""][number - 1]


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


#: None is NULL. Values that are no image of any other side's value (0.4, n007, "x y") tell whose write was lost.
PAIRS: dict[str, Pair] = {
    "widen": Pair(
        {"{c}": "integer"},
        {"{c}": "numeric(12,1)"},
        {"{c}": (None, 0, 7, -3)},
        {"{c}": (None, Decimal("7.0"), Decimal("7.4"), Decimal("-2.5"), Decimal("0.0"))},
        {
            "change_type": {
                "table": "{t}",
                "column": "{c}",
                "to": "numeric(12,1)",
                "up": '"{c}"::numeric(12,1)',
                "down": 'round("{c}")::int',
            }
        },
        lambda x: (None if x is None else Decimal(x).quantize(TENTH),),
        lambda x: (_round(x),),
    ),
    "tag": Pair(
        {"{c}": "integer NOT NULL DEFAULT 5"},
        {"{c}_tag": "varchar(9)"},
        {"{c}": (5, 0, 7)},
        {"{c}_tag": ("n5", "n007", "n7")},
        {
            "change_type": {
                "table": "{t}",
                "column": "{c}",
                "name": "{c}_tag",
                "to": "varchar(9)",
                "up": "'n' || \"{c}\"",
                "down": 'substr("{c}_tag", 2)::int',
                "default": "'n006'",
            }
        },
        lambda x: (f"n{x}",),
        lambda x: (_number(x[1:]),),
    ),
    "flag": Pair(
        {"{c}": "boolean"},
        {"{c}_level": "text"},
        {"{c}": (None, True, False)},
        {"{c}_level": (None, "public", "private", "shared")},
        {
            "change_type": {
                "table": "{t}",
                "column": "{c}",
                "name": "{c}_level",
                "to": "text",
                "up": "CASE WHEN \"{c}\" THEN 'public' ELSE 'private' END",
                "down": "\"{c}_level\" = 'public'",
                "lossy": True,
            }
        },
        lambda x: ("public" if x else "private",),
        lambda x: (None if x is None else x == "public",),
    ),
    "split": Pair(
        {"{c}": "text"},
        {"{c}_l": "text", "{c}_r": "text"},
        {"{c}": (None, "", "a b", "a", "x y z")},
        {"{c}_l": (None, "a", "x y"), "{c}_r": (None, "", "b")},
        {
            "split_column": {
                "table": "{t}",
                "column": "{c}",
                "into": [
                    {"name": "{c}_l", "type": "text", "up": "split_part(\"{c}\", ' ', 1)"},
                    {"name": "{c}_r", "type": "text", "up": "split_part(\"{c}\", ' ', 2)"},
                ],
                "down": 'concat_ws(\' \', "{c}_l", "{c}_r")',
                "lossy": True,
            }
        },
        lambda x: (_part(x, " ", 1), _part(x, " ", 2)),
        lambda a, b: (" ".join(part for part in (a, b) if part is not None),),
    ),
    "merge": Pair(
        {"{c}_a": "integer", "{c}_b": "integer"},
        {"{c}": "text"},
        {"{c}_a": (None, 1, 20), "{c}_b": (None, 1, 3)},
        {"{c}": (None, "1-1", "01-3", "20-003")},
        {
            "merge_columns": {
                "table": "{t}",
                "columns": ["{c}_a", "{c}_b"],
                "into": {"name": "{c}", "type": "text", "up": '"{c}_a" || \'-\' || "{c}_b"'},
                "down": {
                    "{c}_a": "split_part(\"{c}\", '-', 1)::int",
                    "{c}_b": "split_part(\"{c}\", '-', 2)::int",
                },
                "lossy": True,
            }
        },
        lambda a, b: (None if a is None or b is None else f"{a}-{b}",),
        lambda x: (_number(_part(x, "-", 1)), _number(_part(x, "-", 2))),
    ),
    "rename": Pair(
        {"{c}": "text"},
        {"{c}_renamed": "text"},
        {"{c}": (None, "p", "q")},
        {"{c}_renamed": (None, "q", "r")},
        {"rename_column": {"table": "{t}", "column": "{c}", "to": "{c}_renamed"}},
        lambda x: (x,),
        lambda x: (x,),
    ),
}

#: What a column holds that an INSERT of each version does not name: of the old version, and of the new one.
DEFAULTS: dict[str, tuple[Row, Row]] = {"tag": ({"{c}": 5}, {"{c}_tag": "n006"})}


@dataclass(frozen=True)
class Column:
    """One pair in one table, under a stem."""

    kind: str
    stem: str

    @property
    def pair(self) -> Pair:
        return PAIRS[self.kind]

    def name(self, name: str) -> str:
        return name.replace("{c}", self.stem)

    def names(self, side: str) -> list[str]:
        return [self.name(n) for n in (self.pair.old if side == "old" else self.pair.new)]

    def values(self, side: str, name: str) -> tuple[Value, ...]:
        values = self.pair.olds if side == "old" else self.pair.news
        return next(v for n, v in values.items() if self.name(n) == name)

    def default(self, side: str, name: str) -> Value:
        found = DEFAULTS.get(self.kind, ({}, {}))[side == "new"]
        return next((v for n, v in found.items() if self.name(n) == name), None)

    def operation(self, table: str) -> dict[str, Any]:
        def filled(value: Any) -> Any:
            if isinstance(value, str):
                if value in ("{c}", "{c}_a", "{c}_b", "{t}"):
                    return value.replace("{c}", self.stem).replace("{t}", table)
                # Inside expressions the name stands in double quotes.
                stem = self.stem.replace('"', '""') if '"{c}' in value else self.stem
                return value.replace("{c}", stem)
            if isinstance(value, dict):
                return {filled(k): filled(v) for k, v in value.items()}
            return [filled(v) for v in value] if isinstance(value, list) else value

        found: dict[str, Any] = filled(self.pair.operation)
        return found

    def write(self, side: str, row: Both, written: Row) -> None:
        """What a write of one version to a row does to both its sides."""
        mine, other = ("old", "new") if side == "old" else ("new", "old")
        before = [row[mine, n] for n in self.names(mine)]
        after = [written.get(n, row[mine, n]) for n in self.names(mine)]
        if after == before:
            return  # nothing is derived anew, or a lossy mapping would destroy what the other version wrote
        for name, value in zip(self.names(mine), after, strict=True):
            row[mine, name] = value
        derived = (self.pair.up if side == "old" else self.pair.down)(*after)
        if side == "new":
            image = list(self.pair.up(*[row["old", n] for n in self.names("old")]))
            if image == after:
                return  # the old side says so already
        for name, value in zip(self.names(other), derived, strict=True):
            row[other, name] = value
