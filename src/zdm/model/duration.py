"""Durations as people write them: ``5s``, ``1m30s``, ``24h``, ``250ms``, or a bare number of seconds."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


_LONGEST = timedelta(days=36_500)


def parse_duration(value: Any) -> timedelta:
    """Turn ``"1m30s"``, a number of seconds or a timedelta into a timedelta. Raises ValueError with what is accepted."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and _PART.sub("", value.replace(" ", "")) == "" and value.strip():
        seconds = sum(float(n) * _UNITS[u] for n, u in _PART.findall(value))
    else:
        raise ValueError(f"{value!r} is not a duration; write it as 250ms, 5s, 1m30s, 24h or 7d")
    if not seconds <= _LONGEST.total_seconds():
        raise ValueError(
            f"{str(value)[:40]!r} is longer than the {_LONGEST.days} days that a duration may take"
        )
    found = timedelta(seconds=seconds)
    if found < timedelta(0):
        raise ValueError(f"{value!r} is negative; a duration is zero or more")
    return found


def format_duration(value: timedelta) -> str:
    """The shortest exact writing: ``1m30s``, ``24h``, ``250ms``; ``0s`` for nothing."""
    left = round(value.total_seconds() * 1000)
    text = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": ["string", "number"], "examples": ["5s", "1m30s", "24h"]}),
]
