"""Reading migration files: everything that is wrong, at once, with file and line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from zdm.cli.gates import gates_schema
from zdm.errors import BadInput, Problem
from zdm.gates.registry import check_overrides
from zdm.operations import loader, yaml_text
from zdm.operations.registry import operations
from zdm.operations.schema import migration_schema

GOOD = """\
id: widen_balance
version: 2.10
depends_on: [create_accounts]
operations:
  - change_type:
      table: accounts
      column: no
      to: numeric(18,2)
      up: |
        balance
          ::numeric(18,2)
"""


def problems(text: str) -> list[Problem]:
    with pytest.raises(BadInput) as caught:
        loader.read_text(text, "m.yaml", check_gates=check_overrides)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def told(text: str) -> list[str]:
    return [f"{p.where}: {p.what}" for p in problems(text)]


def test_a_good_file_becomes_a_migration() -> None:
    loaded = loader.read_text(GOOD, "m.yaml", check_gates=check_overrides)
    assert loaded.migration.id == "widen_balance"
    assert loaded.migration.version == "2.10"  # a version is text, not a number that loses its zero
    assert loaded.source.text == GOOD
    [operation] = loaded.migration.operations
    assert operation.model_dump()["column"] == "no"  # the rules of YAML 1.2: not a boolean


def test_everything_that_is_wrong_is_told_at_once() -> None:
    text = """\
id: 5Widen
descripton: x
depends_on: a
risk: hihg
estimated_time: 10 parsecs
operations:
  - change_type:
      table: t
      colum: c
      to: int
      collation: 2
      lossy: maybe
  - move_columns: {table: t, to: u, key: {a: b}, columns: [{colum: c}]}
  - chnge_type: {}
  - change_type:
    table: t
  - 7
  - rename_column: [a]
validations:
  - {name: x, sql: "", expct: 0}
gates: {replication_lagg: 5s, soak: soon}
"""
    assert [(p.where, p.what, p.remedy) for p in problems(text)] == [
        (
            "m.yaml:1",
            "id: '5Widen' is not an id; use lower-case letters, digits and underscores, beginning with a letter, 63 characters at most",
            "",
        ),
        ("m.yaml:2", "unknown key 'descripton'", "Did you mean 'description'?"),
        (
            "m.yaml:3",
            "depends_on must be a list, not text",
            "Write it as [a, b], or one item a line after dashes.",
        ),
        ("m.yaml:4", "risk is 'hihg'", "Did you mean 'high'?"),
        (
            "m.yaml:5",
            "estimated_time: '10 parsecs' is not a duration; write it as 250ms, 5s, 1m30s, 24h or 7d",
            "",
        ),
        ("m.yaml:7", "the key 'column' of change_type is missing", "It is the column."),
        ("m.yaml:9", "unknown key 'colum' of change_type", "Did you mean 'column'?"),
        ("m.yaml:11", "collation must be text, not 2", 'Quote it: collation: "2"'),
        ("m.yaml:12", "lossy must be true or false, not 'maybe'", ""),
        ("m.yaml:13", "the key 'columns.1.column' of move_columns is missing", "It is the column."),
        ("m.yaml:13", "unknown key 'columns.1.colum' of move_columns", "Did you mean 'column'?"),
        ("m.yaml:14", "there is no operation 'chnge_type'", "Did you mean 'change_type'?"),
        (
            "m.yaml:15",
            "operation 4 is one key, its kind, with its parameters below it; found 2 keys (change_type, table)",
            "Indent the parameters below the kind, and begin each operation with a dash.",
        ),
        (
            "m.yaml:17",
            "operation 5 is one key, its kind, with its parameters below it; found a number",
            "Indent the parameters below the kind, and begin each operation with a dash.",
        ),
        ("m.yaml:18", "rename_column needs a mapping of its parameters, not a list", ""),
        ("m.yaml:20", "validations.1.sql must not be empty", ""),
        ("m.yaml:20", "the key 'validations.1.expect' is missing", "It is the value it must return."),
        ("m.yaml:20", "unknown key 'validations.1.expct'", "Did you mean 'expect'?"),
        ("m.yaml:21", "there is no gate 'replication_lagg'", "Did you mean replication_lag?"),
        (
            "m.yaml:21",
            "gate soak.min: 'soon' is not a duration; write it as 250ms, 5s, 1m30s, 24h or 7d",
            "It takes min, or a bare value for min, or off.",
        ),
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "m.yaml: the file is empty"),
        ("# only this\n", "m.yaml: the file is empty"),
        ("- a\n", "m.yaml:1: a migration file is a mapping (id: …, operations: …), not a list"),
        ("id: a\n---\nid: b\n", "m.yaml:3: 2 documents in one file"),
        ("a:\n\t- x\n", "m.yaml:2: not valid YAML, column 1: a tab where YAML allows only spaces"),
        ("a: b: c\n", "m.yaml:1: not valid YAML, column 5: mapping values are not allowed here"),
        ("id: a\nx: \x07\n", "m.yaml:2: the character U+0007 is not allowed in YAML"),
        ("id: !!python/name:os.system\n", None),
        ("a: &a [*a]\n", None),
        ("a: " + "[" * 2000 + "]" * 2000, "m.yaml: the file is nested too deeply"),
        ("a: {<<: {b: 1}}\n", None),
        ("? [a]\n: b\n", None),
    ],
)
def test_texts_that_are_no_migration(text: str, expected: str | None) -> None:
    found = told(text)
    assert found
    if expected is not None:
        assert found == [expected]


def test_a_key_twice_is_refused() -> None:
    assert told(GOOD + "id: b\n") == ["m.yaml:12: the key 'id' is here twice; the first is in line 1"]


def test_aliases_work_but_do_not_explode() -> None:
    shared = "id: a\noperations:\n  - set_not_null: &p {table: t, column: c}\n  - drop_not_null: *p\n"
    kinds = [o.kind for o in loader.read_text(shared).migration.operations]
    assert kinds == ["set_not_null", "drop_not_null"]
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    for before, after in zip("abcdef", "bcdefg", strict=True):
        bomb += f"{after}: &{after} [{','.join([f'*{before}'] * 10)}]\n"
    assert told(bomb) == ["m.yaml: the file expands to more than 100000 values"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("id: a\ndescription: gr\xfcn\n".encode("latin-1"))
    (tmp_path / "big.yaml").write_bytes(b"#" * (loader.MAX_BYTES + 1))
    for name, what in (
        ("latin.yaml", "byte 0xfc is not UTF-8"),
        ("big.yaml", "the file is larger than 1 MiB; a migration file is a few lines"),
        ("nowhere.yaml", "there is no such file"),
        (".", "it is a directory"),
    ):
        with pytest.raises(BadInput) as caught:
            loader.read(tmp_path / name)
        assert [p.what for p in caught.value.problems] == [what]


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert loader.load(path).id == "widen_balance"
    assert loader.peek_id(path) == "widen_balance"


def _file(directory: Path, identifier: str, depends_on: str = "[]", name: str = "") -> None:
    text = (
        f"id: {identifier}\ndepends_on: {depends_on}\noperations: [set_not_null: {{table: t, column: c}}]\n"
    )
    (directory / (name or f"{identifier}.yaml")).write_text(text, encoding="utf-8")


def test_a_directory_is_read_in_the_order_of_dependencies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _file(tmp_path, "a", "[c, elsewhere]")
    _file(tmp_path, "b")
    _file(tmp_path, "c", "[b]")
    (tmp_path / "readme.txt").write_text("no migration", encoding="utf-8")
    (tmp_path / ".hidden.yaml").write_text("no: migration", encoding="utf-8")
    assert list(loader.load_directory(tmp_path)) == ["b", "c", "a"]


def test_a_directory_tells_what_is_wrong_between_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _file(tmp_path, "a", "[b]")
    _file(tmp_path, "b", "[c]")
    _file(tmp_path, "c", "[a]")
    _file(tmp_path, "a", name="z.yaml")
    (tmp_path / "broken.yaml").write_text("id: [\n", encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        loader.load_directory(Path())
    found = [f"{p.where}: {p.what}" for p in caught.value.problems]
    assert "z.yaml:1: the id 'a' is taken by a.yaml:1 as well" in found
    assert "a.yaml:2: depends_on goes round in a circle: a → b → c → a" in found
    assert any(line.startswith("broken.yaml:") for line in found)
    assert len(found) == 3


def test_labels_of_operations_get_their_line() -> None:
    source = loader.read_text(GOOD, "m.yaml").source
    for where, expected in (
        ("1:change_type", "m.yaml:5"),
        ("1:change_type.up", "m.yaml:9"),
        ("1:change_type.down", "m.yaml:5"),
        ("1:change_type column no", "m.yaml:5 column no"),
        ("1:change_type/0/drop", "m.yaml:5"),
        ("public.accounts", "public.accounts"),
        ("", ""),
    ):
        assert source.locate(Problem("x", where)).where == expected


@pytest.mark.parametrize("kind", list(operations()))
def test_every_scenario_survives_writing_and_reading(kind: str) -> None:
    for scenario in operations()[kind].scenarios:
        text = yaml.safe_dump({"id": "m", "operations": list(scenario.operations)})
        migration = loader.read_text(text).migration
        assert loader.read_text(loader.dump(migration)).migration == migration


def test_what_looks_like_something_else_is_quoted() -> None:
    value: Mapping[str, Any] = {
        "texts": ["yes", "no", "1e3", "2020-01-01", "0o7", "null", "1:30", "", " x", "a\nb\n"]
    }
    assert yaml.load(yaml_text.to_yaml(value, flow=False), Loader=yaml_text.CoreLoader) == value  # noqa: S506  a SafeLoader
    assert yaml.safe_load(yaml_text.to_yaml(value, flow=False)) == value


# ------------------------------------------------------------------------------------------------------ the schema


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return migration_schema(gates_schema())


def test_the_schema_is_one(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)


def test_every_key_is_described(schema: dict[str, Any]) -> None:
    described = {"migration": schema, **schema["$defs"]}
    missing = [
        f"{name}.{key}"
        for name, definition in described.items()
        for key, value in definition.get("properties", {}).items()
        if not value.get("description")
    ]
    assert missing == []


@pytest.mark.parametrize("kind", list(operations()))
def test_the_schema_takes_every_scenario(kind: str, schema: dict[str, Any]) -> None:
    for scenario in operations()[kind].scenarios:
        document = loader.read_text(yaml.safe_dump({"id": "m", "operations": list(scenario.operations)}))
        jsonschema.validate(yaml.safe_load(document.source.text), schema)


EXAMPLES = sorted(
    # Beside each migration lies writes.yaml: what its applications do, for the test that runs it.
    f
    for f in (Path(__file__).parents[2] / "examples").rglob("*.yaml")
    if f.name != "writes.yaml"
)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_the_examples_are_valid(path: Path, schema: dict[str, Any]) -> None:
    loader.read(path, check_gates=check_overrides)
    values = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml_text.CoreLoader)  # noqa: S506  a SafeLoader
    jsonschema.validate(values, schema)


@pytest.mark.parametrize(
    "gates", [{"soak": "24h"}, {"soak": {"min": "1h"}}, {"soak": "off"}, {"replication_lag": {"max": "5s"}}]
)
def test_the_schema_and_the_reader_take_the_same_gates(gates: dict[str, Any], schema: dict[str, Any]) -> None:
    document = {"id": "m", "operations": [{"set_not_null": {"table": "t", "column": "c"}}], "gates": gates}
    jsonschema.validate(document, schema)
    loader.read_text(yaml.safe_dump(document), check_gates=check_overrides)


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"operations": []},
        {"operations": [{"set_not_null": {"table": "t", "column": "c", "x": 1}}]},
        {"operations": [{"nope": {}}]},
        {"gates": {"nope": 1}},
        {"id": "Bad Id"},
    ],
)
def test_the_schema_and_the_reader_refuse_the_same(change: dict[str, Any], schema: dict[str, Any]) -> None:
    document = {"id": "m", "operations": [{"set_not_null": {"table": "t", "column": "c"}}]} | change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)
    with pytest.raises(BadInput):
        loader.read_text(yaml.safe_dump(document), check_gates=check_overrides)
