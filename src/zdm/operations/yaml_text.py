"""YAML as migration files are written in it: texts to plain values with their lines, and values to text.

The text is read by the rules of YAML 1.2's core schema: only ``true`` and ``false`` are booleans, so a column called
``no`` or ``on`` needs no quotes, and ``version: 2.10`` stays ``2.10``. Anchors and aliases work; merge keys (``<<``)
do not, because a reviewer should see what an operation says where it says it.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from zdm.errors import Problem
from zdm.operations.source import Source, Trail

MAX_NODES = 100_000
"""Aliases can make a small text huge; no migration comes near this."""

_TEXT_KEYS: frozenset[Trail] = frozenset({("version",), ("from_version",), ("id",)})
_UNFIT = re.compile(r"[\0\ud800-\udfff]")
_MOST_DIGITS = 100


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


class CoreLoader(yaml.SafeLoader):
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


class Reader:
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
            nodes = list(yaml.compose_all(text, CoreLoader))
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
            self.problem(1, f"a migration file is a mapping (id: …, operations: …), not {kind_of(root)}", "")
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


def kind_of(value: Any) -> str:
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


def to_yaml(value: Any, *, flow: bool = True) -> str:
    """One value as YAML: on one line without its line break, or in as many whole lines as it takes."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=flow, sort_keys=False, allow_unicode=True, width=10_000
    )
    return text.removesuffix("\n...\n").removesuffix("\n") if flow else text
