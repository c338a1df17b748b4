"""Every example under examples/ reads, plans, and its writes and reads are good SQL for the version they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.examples import EXAMPLES, FOLDERS, Example
from tests.support.servers import Database
from zdm.db.session import connect
from zdm.engine.compile import compile_plan
from zdm.model.step import Phase, Sync
from zdm.operations.migration import Migration
from zdm.operations.registry import operations


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_an_example_plans_on_its_tables(database: Database, folder: Path) -> None:
    example = Example.read(folder)
    database.execute(example.setup)
    with connect(database.dsn, application_name="test") as conn:
        for migration in example.migrations[:-1]:
            for step in compile_plan(conn, migration, "public").of(Phase.PREPARATION):
                if isinstance(step.action, Sync):
                    continue  # What it would mirror, nobody writes here.
                statements = getattr(step.action, "statements", None) or (step.action.statement,)  # type: ignore[union-attr]
                if not any("VIEW" in s or "SCHEMA" in s for s in statements):
                    database.execute(";\n".join(statements))
        if example.rows:
            database.execute(example.rows)
        plan = compile_plan(conn, example.migrations[-1], "public")
    assert plan.steps
    assert not [r for r in plan.roundtrips if r.failed]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_an_example_is_a_scenario(folder: Path) -> None:
    scenario = Example.read(folder).scenario()
    assert scenario.after
    for text in (*scenario.old_writes, *scenario.new_writes, *scenario.old_reads, *scenario.new_reads):
        assert text.format(n=7)


def test_the_examples_are_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [f.name for f in FOLDERS if f"`{f.name}`" not in listed] == []


def test_every_operation_has_its_page() -> None:
    pages = {path.stem for path in (EXAMPLES.parent / "docs" / "operations").glob("*.md")} - {"README"}
    assert pages == set(operations())


@pytest.mark.parametrize("kind", operations())
def test_a_page_names_every_parameter_and_its_example_reads(kind: str) -> None:
    text = (EXAMPLES.parent / "docs" / "operations" / f"{kind}.md").read_text(encoding="utf-8")
    names = [field.alias or name for name, field in operations()[kind].model_fields.items()]
    assert [name for name in names if f"| `{name}` |" not in text] == []
    example = text.partition("```yaml\n")[2].partition("```")[0]
    (operation,) = Migration.model_validate({"id": "m", "operations": yaml.safe_load(example)}).operations
    assert operation.kind == kind
