"""The exact steps of the operations. ``ZDM_WRITE_GOLDEN=1 pytest`` writes them anew; the diff is for a reviewer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.operations.cases import CASES, Case
from tests.unit.operations.helpers import run

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_steps_are_exactly_these(case: Case) -> None:
    outcome = run(
        list(case.tables), *case.operations, version=case.version, instant=case.instant, taken=case.taken
    )
    assert outcome.texts() == []
    path = GOLDEN / f"{case.name}.txt"
    if os.environ.get("ZDM_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(outcome.sql() + "\n", encoding="utf-8")
    assert outcome.sql() + "\n" == path.read_text(encoding="utf-8")


def test_every_file_belongs_to_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {case.name for case in CASES}
