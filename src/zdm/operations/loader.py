"""Reads migration files: YAML to `Migration`, every error at once, each with its file and line.

The text is read by the rules of YAML 1.2's core schema: only ``true`` and ``false`` are booleans, so a column called
``no`` or ``on`` needs no quotes, and ``version: 2.10`` stays ``2.10``. Anchors and aliases work; merge keys (``<<``)
do not, because a reviewer should see what an operation says where it says it.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from zdm.errors import BadInput, Problem
from zdm.operations.base import Operation
from zdm.operations.migration import Migration
from zdm.operations.registry import operations

GateCheck = Callable[[Mapping[str, Any]], Sequence[Problem]]
"""Checks the file's ``gates``, given one at a time; file and line are added here."""

Trail = tuple[str | int, ...]
"""Where a value lies in the document: keys and list positions from the root."""

SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 1 << 20
MAX_NODES = 100_000
"""Aliases can make a small text huge; no migration comes near this."""

_TEXT_KEYS: frozenset[Trail] = frozenset({("version",), ("from_version",), ("id",)})
_UNFIT = re.compile(r"[\0\ud800-\udfff]")
_MOST_DIGITS = 100
_LABEL = re.compile(
    r"(?P<position>\d+):(?P<kind>[a-z_]+)(?P<keys>(?:\.[A-Za-z0-9_]+)*)(?:/[^ :]*)?(?:[ :]+(?P<rest>.*))?",
    re.DOTALL,
)


# ---------------------------------------------------------------------------------------------------------- sources


@dataclass(frozen=True, slots=True)
class Source:
    """One file as it was read: its name for people, its text, and the line of every key and list item."""

    name: str
    text: str = ""
    lines: Mapping[Trail, int] = field(default_factory=dict)

    def place(self, trail: Trail = ()) -> str:
        """``file:line`` of the value at `trail`, or of the nearest thing around it; only the file where neither is known."""
        for end in range(len(trail), -1, -1):
            line = self.lines.get(trail[:end])
            if line is not None:
                return f"{self.name}:{line}"
        return self.name

    def locate(self, problem: Problem) -> Problem:
        """The same problem with file and line, if its `where` is an operation's label (``2:split_column``).

        The label may name a key below the operation (``2:split_column.into``), or an operation that it uses (``2:merge_tables/drop``); text after
        a space is kept.
        """
        found = _LABEL.fullmatch(problem.where)
        if found is None:
            return problem
        keys = tuple(k for k in found["keys"].split(".") if k)
        trail: Trail = ("operations", int(found["position"]) - 1, found["kind"], *keys)
        rest = f" {found['rest']}" if found["rest"] else ""
        return Problem(problem.what, f"{self.place(trail)}{rest}", problem.remedy, problem.rule)


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
    reader = _Reader(name)
    before = len(problems)
    root = reader.read(text)
    problems += reader.problems
    if root is None:
        return None
    migration = _build(root, reader, problems, check_gates)
    problems[before:] = sorted(problems[before:], key=_line)
    return Loaded(migration, reader.source) if migration is not None and len(problems) == before else None


def _line(problem: Problem) -> int:
    line = problem.where.rpartition(":")[2]
    return int(line) if line.isdigit() else 0


# ---------------------------------------------------------------------------------------------------------- YAML


def _core_resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """YAML 1.2's core schema, in the form PyYAML wants: by first character."""
    rules = (
        ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
        (
            "tag:yaml.org,2002:float",
            r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
            "-+.0123456789",
        ),
        ("tag:yaml.org,2002:merge", r"<<", "<"),
    )
    resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first in rules:
        for character in first:
            resolvers.setdefault(character, []).append((tag, re.compile(rf"(?:{pattern})\Z")))
    return resolvers


def _quoting_resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Everything that readers of either YAML take for something else than text."""
    old, new = yaml.SafeDumper.yaml_implicit_resolvers, _core_resolvers()
    return {key: [*old.get(key, []), *new.get(key, [])] for key in {*old, *new}}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _core_resolvers()


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would read as something else than text."""

    yaml_implicit_resolvers = _quoting_resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless
        super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _represent_text)


class _Reader:
    """Turns one text into plain values, and notes the line of every key and list item."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = ""
        self.lines: dict[Trail, int] = {}
        self.problems: list[Problem] = []
        self.raw: dict[Trail, str] = {}
        """The scalars that are not text, as written: for saying how to quote them."""
        self._nodes = 0

    @property
    def source(self) -> Source:
        return Source(self.name, self.text, self.lines)

    def problem(self, line: int, what: str, remedy: str = "") -> None:
        self.problems.append(Problem(what, f"{self.name}:{line}" if line else self.name, remedy))

    def read(self, text: str) -> dict[str, Any] | None:
        """The document's mapping; None after a problem that leaves nothing to look at."""
        self.text = text
        try:
            nodes = list(yaml.compose_all(text, _Loader))
            if not nodes or (len(nodes) == 1 and _is_null(nodes[0])):
                self.problem(0, "the file is empty", "Start from a template: `zdm new ID`.")
                return None
            if len(nodes) > 1:
                line = nodes[1].start_mark.line + 1
                self.problem(line, f"{len(nodes)} documents in one file", "Write one migration a file.")
                return None
            root = self._value(nodes[0], (), ())
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self.problem(line, f"the character U+{_code(error.character):04X} is not allowed in YAML")
            return None
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
            return None
        except RecursionError:
            self.problem(0, "the file is nested too deeply")
            return None
        except _TooManyError:
            self.problem(0, f"the file expands to more than {MAX_NODES} values", "Write it without aliases.")
            return None
        if not isinstance(root, dict):
            self.problem(1, f"a migration file is a mapping (id: …, operations: …), not {_kind_of(root)}", "")
            return None
        return root

    def _syntax(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        what = (error.problem or error.context or "the text cannot be read").replace("\n", " ")
        remedy = ""
        if "'\\t'" in what:
            what, remedy = "a tab where YAML allows only spaces", "Indent with spaces."
        elif "mapping values are not allowed here" in what:
            remedy = "Quote a value that holds a colon and a space; or check the indentation."
        elif error.context and error.context_mark and mark and error.context_mark.line != mark.line:
            what += f" ({error.context}, line {error.context_mark.line + 1})"
        column = f", column {mark.column + 1}" if mark else ""
        self.problem(mark.line + 1 if mark else 0, f"not valid YAML{column}: {what}", remedy)

    def _value(self, node: yaml.Node, trail: Trail, parents: tuple[int, ...]) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooManyError
        self.lines.setdefault(trail, node.start_mark.line + 1)
        if id(node) in parents:
            self.problem(node.start_mark.line + 1, "an alias refers to what it is part of")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, trail, (*parents, id(node)))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(n, (*trail, i), (*parents, id(node))) for i, n in enumerate(node.value)]
        return self._scalar(node, trail)

    def _mapping(self, node: yaml.MappingNode, trail: Trail, parents: tuple[int, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                self.problem(line, "merge keys (<<) are not read", "Write the keys out where they belong.")
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(line, "a key must be text")
                continue
            key = key_node.value
            if key in values:
                self.problem(
                    line, f"the key {key!r} is here twice; the first is in line {self.lines[(*trail, key)]}"
                )
                continue
            self.lines[(*trail, key)] = line
            values[key] = self._value(value_node, (*trail, key), parents)
        return values

    def _scalar(self, node: yaml.Node, trail: Trail) -> Any:
        tag, text = node.tag, node.value
        if unfit := _UNFIT.search(text):
            self.problem(
                node.start_mark.line + 1,
                f"the character U+{ord(unfit[0]):04X} is in it, which no text of the database can hold",
                "Leave it out.",
            )
            text = _UNFIT.sub("", text)
        if tag == "tag:yaml.org,2002:str" or (trail in _TEXT_KEYS and not _is_null(node)):
            return text
        self.raw[trail] = text
        match tag.rpartition(":")[2]:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int" if len(text) > _MOST_DIGITS:
                self.problem(
                    node.start_mark.line + 1, f"a number of {len(text)} digits", "Write a smaller one."
                )
                return None
            case "int":
                return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
            case "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            case _:
                self.problem(node.start_mark.line + 1, f"the tag {tag!r} is not read here", "Leave it out.")
                return None


class _TooManyError(Exception):
    pass


def _code(character: str | int) -> int:
    return character if isinstance(character, int) else ord(character)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _kind_of(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
    return f"a {type(value).__name__}"


# ---------------------------------------------------------------------------------------------------------- building


def _build(
    root: dict[str, Any], reader: _Reader, problems: list[Problem], check_gates: GateCheck | None
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
            for p in _translate(error, Migration, (), reader)
            # What is wrong with the operations has been said, one by one.
            if not p[0] or p[0][0] != "operations"
        ]
        problems += [p for _, p in found]
        return None


def _build_operations(
    root: dict[str, Any], reader: _Reader, problems: list[Problem]
) -> tuple[Operation, ...]:
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
                f"operations is a list, not {_kind_of(items)}",
                source.place(("operations",)),
                "Begin each operation with a dash: `- change_type:`.",
            )
        )
        return ()
    built: list[Operation] = []
    for position, item in enumerate(items):
        trail: Trail = ("operations", position)
        if not isinstance(item, dict) or len(item) != 1:
            found = f"{len(item)} keys ({', '.join(item)})" if isinstance(item, dict) else _kind_of(item)
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
                    f"{kind} needs a mapping of its parameters, not {_kind_of(parameters)}",
                    source.place(trail),
                )
            )
            continue
        try:
            built.append(known[kind].model_validate(parameters or {}))
        except ValidationError as error:
            problems += [p for _, p in _translate(error, known[kind], trail, reader, kind)]
    return tuple(built)


def suggest(word: str, choices: Iterable[str], otherwise: str) -> str:
    """``Did you mean 'x'?``, or `otherwise` with all the choices."""
    listed = list(choices)
    close = get_close_matches(word, listed, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else f"{otherwise} {', '.join(listed)}."


# ---------------------------------------------------------------------------------------------------------- messages


def _translate(
    error: ValidationError, model: type[BaseModel], base: Trail, reader: _Reader, kind: str = ""
) -> Iterator[tuple[Trail, Problem]]:
    """Pydantic's findings as problems, each with its trail inside `model`; several about one value become one."""
    by_place: dict[Trail, list[Any]] = {}
    for item in error.errors(include_url=False):
        loc = tuple(item["loc"])
        known = tuple(part for part in loc if _is_written(part, loc, base, reader)) or loc[:1]
        by_place.setdefault(known, []).append(item)
    for trail, items in by_place.items():
        messages = dict.fromkeys(_message(i, trail, model, base, reader, kind) for i in items)
        (what, remedy), *others = messages
        if others:
            what = f"{what}; or {'; or '.join(w for w, _ in others)}"
        yield trail, Problem(what, reader.source.place((*base, *trail)), remedy)


def _is_written(part: str | int, loc: Trail, base: Trail, reader: _Reader) -> bool:
    """Whether a part of pydantic's location is one of the document's: tags of unions are not."""
    if isinstance(part, int) or part == loc[0] or part == loc[-1]:
        return True
    return any(trail[: len(base)] == base and part in trail[len(base) :] for trail in reader.lines)


def _message(
    item: Any, trail: Trail, model: type[BaseModel], base: Trail, reader: _Reader, kind: str
) -> tuple[str, str]:
    """What is wrong in a person's words, and what to do."""
    name = ".".join(str(part + 1) if isinstance(part, int) else part for part in trail)
    key, of = (str(trail[-1]) if trail else ""), (f" of {kind}" if kind else "")
    value, context = item.get("input"), item.get("ctx", {})
    match item["type"]:
        case "extra_forbidden":
            return f"unknown key {name!r}{of}", suggest(key, _keys_at(model, trail[:-1]), "Keys are")
        case "missing":
            description = _description_at(model, trail)
            return f"the key {name!r}{of} is missing", f"It is {description}." if description else ""
        case "value_error":
            text = str(context.get("error", item["msg"]))
            return (f"{name}: {text}" if name else text), ""
        case "enum" | "literal_error":
            expected = str(context.get("expected", "")).replace("'", "")
            choices = [c for part in expected.split(" or ") for c in part.split(", ")]
            return f"{name} is {_shown(value)}", suggest(str(value), choices, "It is one of")
        case "string_type":
            written = reader.raw.get((*base, *trail))
            remedy = f'Quote it: {key}: "{written}"' if written and isinstance(value, int | float) else ""
            return f"{name} must be text, not {_shown(value)}", remedy
        case "string_too_short" | "too_short":
            return f"{name} must not be empty", ""
        case "bool_type" | "bool_parsing":
            return f"{name} must be true or false, not {_shown(value)}", ""
        case "int_type" | "int_parsing" | "int_from_float":
            return f"{name} must be a whole number, not {_shown(value)}", ""
        case "tuple_type" | "list_type":
            return (
                f"{name} must be a list, not {_kind_of(value)}",
                "Write it as [a, b], or one item a line after dashes.",
            )
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"{name} must be a mapping, not {_kind_of(value)}", ""
    message = item["msg"][:1].lower() + item["msg"][1:]
    return f"{name}: {message}, not {_shown(value)}", ""


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict | list | tuple):
        return _kind_of(value)
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models in a field's annotation; through optionals, lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in models_in(argument)]


def _models_at(model: type[BaseModel], trail: Trail) -> list[type[BaseModel]]:
    """The models that the value at `trail` may be; through optionals, lists and unions."""
    models = [model]
    for part in trail:
        if isinstance(part, int):
            continue
        below = [
            inner
            for m in models
            for field_name, info in m.model_fields.items()
            if part in (field_name, info.alias)
            for inner in models_in(info.annotation)
        ]
        models = below or models
    return models


def _keys_at(model: type[BaseModel], trail: Trail) -> list[str]:
    found = (info.alias or name for m in _models_at(model, trail) for name, info in m.model_fields.items())
    return list(dict.fromkeys(found))


def _description_at(model: type[BaseModel], trail: Trail) -> str:
    for m in _models_at(model, trail[:-1]):
        for name, info in m.model_fields.items():
            if trail and trail[-1] in (name, info.alias):
                return (info.description or "").rstrip(".")
    return ""


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


def to_yaml(value: Any, *, flow: bool = True) -> str:
    """One value as YAML: on one line without its line break, or in as many whole lines as it takes."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=flow, sort_keys=False, allow_unicode=True, width=10_000
    )
    return text.removesuffix("\n...\n").removesuffix("\n") if flow else text
