"""Reads migration files: YAML to `Migration`, every error at once, each with its file and line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zdm.errors import BadInput, Problem
from zdm.operations.base import Operation
from zdm.operations.migration import Migration
from zdm.operations.mistakes import suggest, translate
from zdm.operations.registry import operations
from zdm.operations.source import Source, Trail
from zdm.operations.yaml_text import Reader, kind_of, to_yaml

GateCheck = Callable[[Mapping[str, Any]], Sequence[Problem]]
"""Checks the file's ``gates``, given one at a time; file and line are added here."""

SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """A migration and where it was read from."""

    migration: Migration
    source: Source


# ---------------------------------------------------------------------------------------------------------- reading


def load(path: Path | str, *, check_gates: GateCheck | None = None) -> Migration:
    """The migration in the file at `path`. Raises `BadInput` with everything that is wrong with it."""
    return read(path, check_gates=check_gates).migration


def read(path: Path | str, *, check_gates: GateCheck | None = None) -> Loaded:
    """The migration in the file at `path`, with its lines. Raises `BadInput` with everything that is wrong with it."""
    path = Path(path)
    problems: list[Problem] = []
    loaded = _read_file(path, problems, check_gates)
    if loaded is None:
        raise _refusal(problems, f"{display(path)} is not a valid migration")
    return loaded


def read_text(text: str, name: str = "<text>", *, check_gates: GateCheck | None = None) -> Loaded:
    """As `read`, of a text that is in memory; `name` stands for the file in messages."""
    problems: list[Problem] = []
    loaded = _read_document(text, name, problems, check_gates)
    if loaded is None:
        raise _refusal(problems, f"{name} is not a valid migration")
    return loaded


def load_directory(path: Path | str, *, check_gates: GateCheck | None = None) -> dict[str, Loaded]:
    """Every migration of a directory (``*.yaml``, ``*.yml``; not below it), by id, dependencies before dependents.

    Raises
    ------
    BadInput: all problems of all files, two files with one id, and cycles in ``depends_on``. A dependency that no file
        has is none of them: it may be a migration that the database knows and the directory no longer holds.
    """
    path = Path(path)
    if not path.is_dir():
        raise BadInput(
            f"{display(path)} is not a directory", remedy="Name the directory of the migration files."
        )
    problems: list[Problem] = []
    found: dict[str, Loaded] = {}
    for file in migration_files(path):
        loaded = _read_file(file, problems, check_gates)
        if loaded is None:
            continue
        other = found.get(loaded.migration.id)
        if other is not None:
            problems.append(
                Problem(
                    f"the id {loaded.migration.id!r} is taken by {other.source.place(('id',))} as well",
                    loaded.source.place(("id",)),
                    "Give each migration an id of its own.",
                )
            )
            continue
        found[loaded.migration.id] = loaded
    ordered, cycles = _order(found)
    problems += cycles
    if problems:
        raise _refusal(problems, f"The migrations in {display(path)} are not valid")
    return {identifier: found[identifier] for identifier in ordered}


def migration_files(path: Path) -> list[Path]:
    """The migration files of a directory, by name; hidden files and what lies below are left out."""
    return sorted(
        f for f in path.iterdir() if f.suffix in SUFFIXES and f.is_file() and not f.name.startswith(".")
    )


def peek_id(path: Path) -> str:
    """The ``id`` of a file without reading the rest of it, which may be broken; empty if there is none to be seen."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""
    found = re.search(r"^id\s*:\s*['\"]?([^\s'\"#]+)", text, re.MULTILINE)
    return found[1] if found else ""


def display(path: Path) -> str:
    """The path as a person would write it: relative to the working directory where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except (ValueError, OSError):
        return str(path)


def _refusal(problems: Sequence[Problem], message: str) -> BadInput:
    count = f"{len(problems)} problems" if len(problems) != 1 else "1 problem"
    return BadInput(f"{message}: {count}", problems=problems)


def _read_file(path: Path, problems: list[Problem], check_gates: GateCheck | None) -> Loaded | None:
    name = display(path)
    try:
        if path.is_dir():
            problems.append(Problem("it is a directory", name, "Name one migration file."))
            return None
        if path.stat().st_size > MAX_BYTES:
            problems.append(Problem("the file is larger than 1 MiB; a migration file is a few lines", name))
            return None
        raw = path.read_bytes()
    except FileNotFoundError:
        problems.append(Problem("there is no such file", name))
        return None
    except OSError as error:
        problems.append(Problem(f"the file cannot be read: {error.strerror or error}", name))
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problems.append(
            Problem(
                f"byte 0x{raw[error.start]:02x} is not UTF-8", f"{name}:{line}", "Save the file as UTF-8."
            )
        )
        return None
    return _read_document(text, name, problems, check_gates)


def _read_document(
    text: str, name: str, problems: list[Problem], check_gates: GateCheck | None
) -> Loaded | None:
    reader = Reader(name)
    before = len(problems)
    root = reader.read(text)
    problems += reader.problems
    if root is None:
        return None
    migration = _build(root, reader, problems, check_gates)
    problems[before:] = sorted(problems[before:], key=reader.source.line)
    return Loaded(migration, reader.source) if migration is not None and len(problems) == before else None


# ---------------------------------------------------------------------------------------------------------- building


def _build(
    root: dict[str, Any], reader: Reader, problems: list[Problem], check_gates: GateCheck | None
) -> Migration | None:
    source = reader.source
    read_operations = _build_operations(root, reader, problems)
    values = dict(root, operations=read_operations)
    if isinstance(values.get("gates"), dict) and check_gates is not None:
        for gate, override in values["gates"].items():
            for problem in check_gates({gate: override}):
                place = source.place(("gates", gate))
                problems.append(Problem(problem.what, place, problem.remedy, problem.rule))
    try:
        return Migration.model_validate(values)
    except ValidationError as error:
        found = [
            p
            for p in translate(error, Migration, (), reader)
            # What is wrong with the operations has been said, one by one.
            if not p[0] or p[0][0] != "operations"
        ]
        problems += [p for _, p in found]
        return None


def _build_operations(root: dict[str, Any], reader: Reader, problems: list[Problem]) -> tuple[Operation, ...]:
    source, known = reader.source, operations()
    items = root.get("operations")
    if items is None or items == []:
        problems.append(
            Problem(
                "there are no operations" if "operations" in root else "the key 'operations' is missing",
                source.place(("operations",)),
                f"List at least one of {', '.join(known)}.",
            )
        )
        return ()
    if not isinstance(items, list):
        problems.append(
            Problem(
                f"operations is a list, not {kind_of(items)}",
                source.place(("operations",)),
                "Begin each operation with a dash: `- change_type:`.",
            )
        )
        return ()
    built: list[Operation] = []
    for position, item in enumerate(items):
        trail: Trail = ("operations", position)
        if not isinstance(item, dict) or len(item) != 1:
            found = f"{len(item)} keys ({', '.join(item)})" if isinstance(item, dict) else kind_of(item)
            problems.append(
                Problem(
                    f"operation {position + 1} is one key, its kind, with its parameters below it; found {found}",
                    source.place(trail),
                    "Indent the parameters below the kind, and begin each operation with a dash.",
                )
            )
            continue
        kind, parameters = next(iter(item.items()))
        trail = (*trail, kind)
        if kind not in known:
            problems.append(
                Problem(
                    f"there is no operation {kind!r}",
                    source.place(trail),
                    suggest(kind, known, "Operations are"),
                )
            )
            continue
        if parameters is not None and not isinstance(parameters, dict):
            problems.append(
                Problem(
                    f"{kind} needs a mapping of its parameters, not {kind_of(parameters)}",
                    source.place(trail),
                )
            )
            continue
        try:
            built.append(known[kind].model_validate(parameters or {}))
        except ValidationError as error:
            problems += [p for _, p in translate(error, known[kind], trail, reader, kind)]
    return tuple(built)


# ---------------------------------------------------------------------------------------------------------- directories


def _order(found: Mapping[str, Loaded]) -> tuple[list[str], list[Problem]]:
    """Ids with dependencies first, and a problem for each cycle, named once, in the order it goes round."""
    ordered: list[str] = []
    problems: list[Problem] = []
    state: dict[str, bool] = {}  # False while its dependencies are followed, True when it is placed

    def visit(identifier: str, path: tuple[str, ...]) -> None:
        if state.get(identifier) is True:
            return
        if identifier in path:
            cycle = (*path[path.index(identifier) :], identifier)
            problems.append(
                Problem(
                    f"depends_on goes round in a circle: {' → '.join(cycle)}",
                    found[identifier].source.place(("depends_on",)),
                    "Remove one of these dependencies.",
                )
            )
            return
        for dependency in found[identifier].migration.depends_on:
            if dependency in found:
                visit(dependency, (*path, identifier))
        if state.get(identifier) is not True:
            state[identifier] = True
            ordered.append(identifier)

    for identifier in found:
        visit(identifier, ())
    return ordered, problems


# ---------------------------------------------------------------------------------------------------------- writing


def dump(migration: Migration) -> str:
    """The migration as YAML, without what is as by default, in the order of the documentation. `read_text` reads it back."""
    values = migration.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    ordered = {name: values[name] for name in Migration.model_fields if name in values}
    return to_yaml(ordered, flow=False)
