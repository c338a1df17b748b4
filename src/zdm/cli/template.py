"""The commented migration file that `zdm new` writes. It is valid as it stands, so that editing it starts from green."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from zdm.operations.base import Operation
from zdm.operations.registry import operations
from zdm.operations.yaml_text import to_yaml

_WIDTH = 44
"""The column where comments begin, if the value before leaves room."""


def template(identifier: str, kinds: Sequence[str], description: str = "") -> str:
    """A file with the operations of those kinds, each with its parameters and what they mean."""
    known = operations()
    lines = [
        "# yaml-language-server: $schema=migration.schema.json   (written by `zdm schema`)",
        f"# Check it with `zdm validate`, read what it would do with `zdm plan {identifier}`.",
        _commented(f"id: {identifier}", "unique; do not change it once the rollout has begun"),
        f"description: {to_yaml(description or 'what this changes, and why')}",
        _commented("risk: low", "low, medium or high: what approvals the gates ask for"),
        _commented("# depends_on: [other_id]", "migrations that must be complete first"),
        "",
        "operations:",
    ]
    for kind in kinds:
        lines += _operation(known[kind])
    others = [kind for kind in known if kind not in kinds]
    if others:
        lines += [
            "",
            f"# More operations: {', '.join(others)}.",
            "# `zdm new ID --operation KIND` shows one.",
        ]
    lines += [
        "",
        "# SQL that must hold before switchover and before cleanup.",
        "# validations:",
        '#   - {name: nothing is negative, sql: "SELECT count(*) FROM my_table WHERE amount < 0", expect: 0}',
        "",
        "# What the phases' gates ask, if it is to be something else than in phases/*.toml.",
        "# gates: {replication_lag: 5s, soak: 24h}",
    ]
    return "\n".join(lines) + "\n"


def _operation(kind: type[Operation]) -> Iterator[str]:
    yield f"  # {kind.kind}: {kind.summary}"
    yield f"  - {kind.kind}:"
    sample = _sample(kind)
    for name, info in kind.model_fields.items():
        key = info.alias or name
        if key in sample:
            yield from _key(key, sample[key], info, commented=False)
        elif info.is_required():
            yield from _key(key, f"my_{key}", info, commented=False)
    for name, info in kind.model_fields.items():
        key = info.alias or name
        if key not in sample and not info.is_required():
            yield from _key(key, _default(info), info, commented=True)


def _key(key: str, value: Any, info: FieldInfo, *, commented: bool) -> Iterator[str]:
    written = "" if value is None else to_yaml(value)
    space = "      # " if commented else "      "
    if "\n" in written or len(written) > 80:
        yield f"{space}# {info.description}" if not commented else f"{space}{info.description}"
        yield from (space + line for line in to_yaml({key: value}, flow=False).splitlines())
        return
    yield _commented(f"{space}{key}: {written}".rstrip(), info.description or "")


def _commented(text: str, comment: str) -> str:
    return f"{text:<{_WIDTH}}  # {comment}" if comment else text


def _default(info: FieldInfo) -> Any:
    default = info.get_default(call_default_factory=False)
    if default is PydanticUndefined or default is None or default == ():
        return None
    return getattr(default, "value", default)


def _sample(kind: type[Operation]) -> dict[str, Any]:
    """The operation's parameters in its own first scenario: real ones, known to work together."""
    for scenario in kind.scenarios:
        for operation in scenario.operations:
            parameters = operation.get(kind.kind)
            if isinstance(parameters, dict):
                return dict(parameters)
    return {}
