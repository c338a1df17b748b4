"""Commands about files: new, validate, schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Zdm
from tests.unit.cli.fake import FakeEngine, plan
from zdm.errors import BadInput, Problem
from zdm.model.plan import Plan
from zdm.operations import loader
from zdm.operations.migration import Migration
from zdm.operations.registry import operations


@pytest.mark.parametrize("kind", list(operations()))
def test_a_new_file_of_every_operation_is_valid(zdm: Zdm, place: Path, kind: str) -> None:
    assert zdm("new", "first", "--operation", kind).code == 0
    migration = loader.load(place / "migrations" / "first.yaml")
    assert [operation.kind for operation in migration.operations] == [kind]
    assert zdm("validate", "first", url=None).code == 0


def test_a_new_file_is_what_it_is(zdm: Zdm, snapshot: Callable[[str, str], None]) -> None:
    ended = zdm("new", "rename_it", "-o", "rename_column", "--stdout")
    lines = [line for line in ended.out.splitlines() if not line.startswith("# More operations")]
    snapshot("new.txt", "\n".join(lines) + "\n")


def test_new_does_not_overwrite(zdm: Zdm, place: Path) -> None:
    assert zdm("new", "widen_balance").code == 2
    assert zdm("new", "widen_balance", "--force").code == 0
    (place / "migrations" / "other.yaml").write_text("id: taken\n", encoding="utf-8")
    ended = zdm("new", "taken")
    assert ended.code == 2
    assert "migrations/other.yaml" in ended.err


@pytest.mark.parametrize("arguments", [("Bad-Id",), ("good", "--operation", "change_typ")])
def test_new_refuses_what_cannot_be(zdm: Zdm, place: Path, arguments: tuple[str, ...]) -> None:
    ended = zdm("new", *arguments)
    assert ended.code == 2
    assert [f.name for f in (place / "migrations").iterdir()] == ["widen_balance.yaml"]


def test_validate_tells_the_problems_of_all_files(
    zdm: Zdm, place: Path, snapshot: Callable[[str, str], None]
) -> None:
    (place / "migrations" / "a.yaml").write_text(
        "id: a\noperations:\n  - set_not_nul: {}\n", encoding="utf-8"
    )
    (place / "migrations" / "b.yaml").write_text("id: b\nrisk: none\n", encoding="utf-8")
    ended = zdm("validate", url=None)
    assert ended.code == 2
    lines = [line for line in ended.err.splitlines() if "List at least one of" not in line]
    snapshot("validate_problems.txt", "\n".join(lines) + "\n")
    told = zdm("validate", "--json", url=None)
    assert len(told.json["error"]["problems"]) == 3


def test_validate_asks_the_server_where_one_is_known(zdm: Zdm) -> None:
    def check(engine: FakeEngine, migration: Migration) -> Plan:
        del engine
        raise BadInput("no", problems=[Problem(f"no table for {migration.id}", "1:change_type.table")])

    ended = zdm("validate", plan=check)
    assert ended.code == 2
    assert "migrations/widen_balance.yaml:5: no table for widen_balance" in ended.err
    offline = zdm("validate", "--offline", plan=check)
    assert offline.code == 0
    assert offline.engine.calls == []


def test_validate_shows_what_the_server_found(zdm: Zdm) -> None:
    ended = zdm("validate", plan=plan())
    assert ended.code == 0
    assert "migrations/widen_balance.yaml:4: the view report reads balance" in ended.out
    assert ended.out.endswith("1 migration checked, by the server as well.\n")


def test_validate_needs_no_files(zdm: Zdm, place: Path) -> None:
    (place / "migrations" / "widen_balance.yaml").unlink()
    assert zdm("validate", url=None).code == 0


def test_two_files_of_one_id_are_told(zdm: Zdm, place: Path) -> None:
    text = (place / "migrations" / "widen_balance.yaml").read_text(encoding="utf-8")
    (place / "migrations" / "again.yaml").write_text(text, encoding="utf-8")
    for command in (("plan", "widen_balance"), ("validate",), ("advance", "widen_balance")):
        ended = zdm(*command)
        assert ended.code == 2
        assert "again.yaml" in ended.err
        assert "widen_balance.yaml" in ended.err


def test_an_unknown_id_is_suggested(zdm: Zdm) -> None:
    ended = zdm("plan", "widen_balanc")
    assert ended.code == 2
    assert "Did you mean 'widen_balance'?" in ended.err


def test_the_schema_is_one_json_object(zdm: Zdm) -> None:
    for flags in ((), ("--json",)):
        ended = zdm("schema", *flags, url=None)
        assert ended.code == 0
        assert json.loads(ended.out)["$schema"].startswith("https://json-schema.org/")


def test_metrics_are_printed_once(zdm: Zdm, monkeypatch: pytest.MonkeyPatch) -> None:
    def render(url: str, *, replicas: tuple[str, ...]) -> bytes:
        return f"# {url} {replicas}\nzdm_up 1\n".encode()

    monkeypatch.setattr("zdm.metrics.render", render)
    ended = zdm("metrics", url="postgresql://u@h/d")
    assert ended.out == "# postgresql://u@h/d ()\nzdm_up 1\n"
    assert zdm("metrics", "--json", url="postgresql://u@h/d").json["metrics"] == ended.out


def test_metrics_are_served_until_stopped(zdm: Zdm, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(listen: str, url: str, *, ready: Callable[[str, int], None], replicas: tuple[str, ...]) -> None:
        assert (listen, url, replicas) == ("[::1]:9", "postgresql://u@h/d", ())
        ready("::1", 9)

    monkeypatch.setattr("zdm.metrics.serve", serve)
    ended = zdm("metrics", "--listen", "[::1]:9", url="postgresql://u@h/d")
    assert ended.code == 0
    assert ended.out == ""
    assert ended.err == "Serving http://[::1]:9/metrics; stop with Ctrl-C.\n"
