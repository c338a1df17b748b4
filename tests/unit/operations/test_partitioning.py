"""The partitions that a migration file asks for, by name and bounds."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from zdm.errors import Problem
from zdm.model.names import qualified
from zdm.operations.partitioning import PartitionBy, PartitionSpec, partitions_of

TABLE = qualified("public", "t")


def made(
    by: str, *specs: dict[str, object], columns: tuple[str, ...] = ("a",)
) -> tuple[dict[str, str], list[str]]:
    """Name and bounds of each partition, and what is wrong."""
    problems: list[Problem] = []
    asked = tuple(PartitionSpec.model_validate(spec) for spec in specs)
    found = partitions_of(TABLE, PartitionBy.model_validate({"by": by, "columns": columns}), asked, problems)
    bounds = {one.name.name: one.bounds.as_string(None).removeprefix("FOR VALUES ") for one in found}
    return bounds, [problem.what for problem in problems]


@pytest.mark.parametrize(
    ("every", "start", "end", "names", "last"),
    [
        (
            "day",
            "2024-02-28",
            "2024-03-01",
            ["t_2024_02_28", "t_2024_02_29"],
            "FROM ('2024-02-29') TO ('2024-03-01')",
        ),
        (
            "week",
            "2024-01-03",
            "2024-01-16",
            ["t_2024_01_03", "t_2024_01_08", "t_2024_01_15"],
            "FROM ('2024-01-15') TO ('2024-01-16')",
        ),
        ("month", "2023-12", "2024-02", ["t_2023_12", "t_2024_01"], "FROM ('2024-01-01') TO ('2024-02-01')"),
        (
            "quarter",
            "2023-11-15",
            "2024-04",
            ["t_2023_11_15", "t_2024_01_01"],
            "FROM ('2024-01-01') TO ('2024-04-01')",
        ),
        ("year", "2023-01", "2025-01", ["t_2023", "t_2024"], "FROM ('2024-01-01') TO ('2025-01-01')"),
    ],
)
def test_one_for_each(every: str, start: str, end: str, names: list[str], last: str) -> None:
    bounds, problems = made("range", {"every": every, "start": start, "end": end})
    assert (list(bounds), list(bounds.values())[-1], problems) == (names, last, [])


def test_the_other_kinds() -> None:
    assert made("range", {"name": "old", "start": "MINVALUE", "end": 5}, {"default": True})[0] == {
        "old": "FROM (MINVALUE) TO ('5')",
        "t_default": "DEFAULT",
    }
    assert made("range", {"start": [1, "x'"], "end": [2, "maxvalue"]}, columns=("a", "b"))[0] == {
        "t_1_x'": "FROM ('1', 'x''') TO ('2', MAXVALUE)"
    }
    assert made("list", {"values": ["de", None]})[0] == {"t_de_null": "IN ('de', NULL)"}
    assert list(made("hash", {"count": 3})[0].values())[2] == "WITH (MODULUS 3, REMAINDER 2)"


@pytest.mark.parametrize(
    ("by", "specs", "said"),
    [
        ("list", [{"start": 1, "end": 2}], "is described as one of a range"),
        ("hash", [{"default": True}], "no default partition"),
        ("range", [{"start": [1, 2], "end": [3, 4]}], "a bound has 2 values"),
        (
            "range",
            [{"name": "p", "start": 1, "end": 2}, {"name": "p", "start": 2, "end": 3}],
            "would be called p",
        ),
        ("range", [], "would have no partitions"),
    ],
)
def test_what_does_not_fit(by: str, specs: list[dict[str, object]], said: str) -> None:
    _, problems = made(by, *specs)
    assert said in problems[0]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"start": 1},
        {"start": 1, "end": 2, "default": True},
        {"every": "month", "values": [1]},
        {"every": "month", "start": "soon", "end": "2024-01"},
        {"every": "month", "start": "2024-02", "end": "2024-01"},
    ],
)
def test_what_says_nothing_clear(spec: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PartitionSpec.model_validate(spec)
