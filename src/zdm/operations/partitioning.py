"""How a new table is partitioned: what a migration file says of it, and the partitions that follow."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal

from psycopg import sql
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from zdm.errors import Problem
from zdm.model.names import QualifiedName, Value, fit, qualified
from zdm.operations.params import Name
from zdm.operations.shadows import Partition

_WORDS = {"MINVALUE", "MAXVALUE"}
_MOST = 2000
"""Partitions that one migration makes; locking more at once takes longer than anybody wants to wait."""


def _bound(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value) if isinstance(value, int | float) else value


def _bounds(value: Any) -> Any:
    return (value,) if value is None or not isinstance(value, list | tuple) else tuple(value)


_SCALAR = {"type": ["string", "number", "boolean"]}
Bound = Annotated[str, BeforeValidator(_bound), WithJsonSchema(_SCALAR)]
"""One value of a bound, as text that the server reads as the column's type."""

Bounds = Annotated[
    tuple[Bound, ...],
    BeforeValidator(_bounds),
    WithJsonSchema({"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]}),
]
"""The bound of a range: one value for each column that decides; alone, it needs no list."""


class PartitionBy(Value):
    """What decides in which partition a row is."""

    by: Literal["range", "list", "hash"] = Field(description="how")
    columns: tuple[Name, ...] = Field(min_length=1, description="the columns that decide")


class PartitionSpec(Value):
    """One partition, or several of one kind."""

    name: Name | None = Field(
        default=None, description="its name; of several, or if not given: the table's and the bound"
    )
    start: Bounds | None = Field(
        default=None, description="of a range: the first value; MINVALUE for no bound. With `every`, a date"
    )
    end: Bounds | None = Field(
        default=None, description="of a range: the first value after it; MAXVALUE for no bound"
    )
    every: Literal["day", "week", "month", "quarter", "year"] | None = Field(
        default=None,
        description="one partition for each of these from `start` to `end`, called by its first day",
    )
    values: tuple[Bound | None, ...] = Field(default=(), description="of a list: its values")
    count: int | None = Field(
        default=None, ge=1, le=_MOST, description="of a hash: how many there are in all"
    )
    default: bool = Field(default=False, description="takes what fits no other partition")

    @model_validator(mode="after")
    def _one_kind(self) -> PartitionSpec:
        kinds = [
            self.start is not None or self.end is not None,
            bool(self.values),
            self.count is not None,
            self.default,
        ]
        if sum(kinds) != 1:
            raise ValueError(
                "a partition has either `start` and `end`, or `values`, or `count`, or `default: true`"
            )
        if kinds[0] and (self.start is None or self.end is None):
            raise ValueError("a range has both a `start` and an `end`")
        if self.every is not None:
            if self.start is None or self.end is None:
                raise ValueError("`every` needs a `start` and an `end`")
            first, last = _day(self.start), _day(self.end)
            if first >= last:
                raise ValueError(f"`start` {first} is not before `end` {last}")
        return self


def partitions_of(
    table: QualifiedName, by: PartitionBy, specs: tuple[PartitionSpec, ...], problems: list[Problem]
) -> tuple[Partition, ...]:
    """Every partition that is asked for, in that order; what is wrong with them is appended to `problems`."""
    found: list[Partition] = []
    for spec in specs:
        wrong = _unsuitable(by, spec)
        if wrong:
            problems.append(Problem(wrong))
            continue
        for name, bounds in _expanded(table.name, spec):
            found.append(Partition(qualified(table.schema_, fit(name)), bounds))
    if not specs:
        problems.append(
            Problem(
                f"{table} would have no partitions, and no row a place",
                remedy="List them in `partitions`.",
            )
        )
    if len(found) > _MOST:
        problems.append(Problem(f"{table} would have {len(found)} partitions; {_MOST} are the most"))
    names = [one.name.name for one in found]
    problems += [
        Problem(
            f"two partitions of {table} would be called {name}", remedy="Give one of them another `name`."
        )
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    return tuple(found)


def _unsuitable(by: PartitionBy, spec: PartitionSpec) -> str:
    kind = "range" if spec.start is not None else "list" if spec.values else "hash" if spec.count else by.by
    if kind != by.by:
        return f"the table is partitioned by {by.by}, and a partition is described as one of a {kind}"
    if spec.default and by.by == "hash":
        return "a table that is partitioned by hash has no default partition"
    for bound in (spec.start, spec.end):
        if bound is not None and len(bound) != len(by.columns) and (spec.every is None or len(bound) != 1):
            return f"a bound has {len(bound)} values, and {len(by.columns)} columns decide ({', '.join(by.columns)})"
    if spec.every is not None and len(by.columns) != 1:
        return "`every` needs a single column that decides"
    return ""


def _expanded(table: str, spec: PartitionSpec) -> Iterator[tuple[str, sql.Composed | sql.SQL]]:
    if spec.default:
        yield spec.name or f"{table}_default", sql.SQL("DEFAULT")
    elif spec.values:
        listed = sql.SQL(", ").join(sql.Literal(value) for value in spec.values)
        name = spec.name or f"{table}_{'_'.join('null' if v is None else v for v in spec.values)}"
        yield name, sql.SQL("FOR VALUES IN ({})").format(listed)
    elif spec.count is not None:
        for number in range(spec.count):
            yield (
                f"{spec.name or table}_{number}",
                sql.SQL("FOR VALUES WITH (MODULUS {}, REMAINDER {})").format(
                    sql.Literal(spec.count), sql.Literal(number)
                ),
            )
    else:
        assert spec.start is not None
        assert spec.end is not None
        if spec.every is None:
            yield spec.name or f"{table}_{'_'.join(spec.start)}", _range(spec.start, spec.end)
            return
        first, end = _day(spec.start), _day(spec.end)
        while first < end:
            following = min(_next(first, spec.every), end)
            called = first.strftime({"month": "%Y_%m", "year": "%Y"}.get(spec.every, "%Y_%m_%d"))
            yield f"{spec.name or table}_{called}", _range((first.isoformat(),), (following.isoformat(),))
            first = following


def _range(start: tuple[str, ...], end: tuple[str, ...]) -> sql.Composed:
    return sql.SQL("FOR VALUES FROM ({}) TO ({})").format(
        *(
            sql.SQL(", ").join(
                sql.SQL(value.upper()) if value.upper() in _WORDS else sql.Literal(value) for value in bound
            )
            for bound in (start, end)
        )
    )


def _day(bound: tuple[str, ...]) -> date:
    text = bound[0]
    try:
        return date.fromisoformat(text if len(text) > 7 else f"{text}-01")
    except ValueError:
        raise ValueError(f"{text!r} is not a date like 2024-01-01, which `every` needs") from None


def _next(day: date, every: str) -> date:
    """The first day of the following one; the first may begin anywhere."""
    if every == "day":
        return day + timedelta(days=1)
    if every == "week":
        return day + timedelta(days=7 - day.weekday())
    months = {"month": 1, "quarter": 3, "year": 12}[every]
    begun = (day.year * 12 + day.month - 1) // months * months + months
    return date(begun // 12, begun % 12 + 1, 1)
