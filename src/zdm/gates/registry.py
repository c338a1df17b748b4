"""Finds the gates, reads their overrides, and evaluates all gates of a move."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

import psycopg
from pydantic import ValidationError

import zdm.gates as package
from zdm.db.session import abandon
from zdm.errors import Problem, ZdmError
from zdm.gates.base import Gate
from zdm.gates.context import GateContext
from zdm.model.phases import PhaseDefinition
from zdm.model.verdict import Answer, Verdict

_SECRET = re.compile(r"(password\s*=\s*)('[^']*'|\S+)|(://[^:/@\s]*:)[^@\s]*@", re.IGNORECASE)


@cache
def gates() -> dict[str, type[Gate]]:
    """Every gate by its name, in alphabetical order."""
    found: dict[str, type[Gate]] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda i: i.name):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if not inspect.isclass(value) or not issubclass(value, Gate) or inspect.isabstract(value):
                continue
            if value.__module__ == module.__name__ and value.name == info.name:
                found[value.name] = value
    return found


def is_off(value: Any) -> bool:
    """Whether an override switches its gate off. YAML reads a bare ``off`` as False; TOML and JSON keep the word."""
    return value is False or (isinstance(value, str) and value.strip().lower() == "off")


def check_overrides(overrides: Mapping[str, Any]) -> list[Problem]:
    """Everything that is wrong with the ``gates`` of a migration file; `where` is left to the loader."""
    found: list[Problem] = []
    for name, value in overrides.items():
        known = gates().get(name)
        if known is None:
            near = get_close_matches(name, gates(), n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(gates())}."
            found.append(Problem(f"there is no gate {name!r}", remedy=hint))
            continue
        if is_off(value):
            continue
        try:
            known.model_validate(value)
        except ValidationError as error:
            found += [
                Problem(
                    f"gate {'.'.join((name, *map(str, e['loc'])))}: "
                    + ("there is no such key" if e["type"] == "extra_forbidden" else _plain(e["msg"])),
                    remedy=f"It takes {_usage(known)}.",
                )
                for e in error.errors()
            ]
    return found


def resolve(name: str, defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> Gate | None:
    """The gate with its parameters: the phase's defaults, overridden by the migration file; None if switched off.

    Raises
    ------
    KeyError, ValidationError: the definition or the override is malformed (the loader has refused the latter).
    """
    kind = gates()[name]
    override = overrides.get(name)
    if name in overrides and is_off(override):
        return None
    # Only what the file sets replaces a default: `verification: {max_age: 1h}` keeps the phase's other parameters.
    given = kind.model_validate(override).model_dump(exclude_unset=True)
    return kind.model_validate({**defaults, **given})


def evaluate_all(ctx: GateContext, definition: PhaseDefinition) -> list[Verdict]:
    """The verdict of every gate of the move into the phase, in the definition's order; none stops another."""
    return [_evaluate(ctx, name, defaults) for name, defaults in definition.gates.items()]


def _evaluate(ctx: GateContext, name: str, defaults: Mapping[str, Any]) -> Verdict:
    try:
        gate = resolve(name, defaults, ctx.migration.gates)
        if gate is None:
            return Verdict(
                gate=name,
                answer=Answer.SKIPPED,
                observed="not asked",
                threshold="switched off in the migration file",
            )
        return gate.evaluate(ctx)
    except Exception as error:  # noqa: BLE001  # whatever goes wrong while reading is an answer: unreadable, refuse
        return Verdict(
            gate=name,
            answer=Answer.UNREADABLE,
            observed=f"could not be read: {describe(error)}",
            threshold="must be readable",
            remedy="Mend what it names and try again. What cannot be read refuses.",
        )
    finally:
        abandon(ctx.conn)


def describe(error: Exception) -> str:
    """One line about an exception, for people, without anything secret."""
    if isinstance(error, KeyError):
        text = f"there is no {error.args[0]!r}" if error.args else "something is missing"
    elif isinstance(error, ZdmError):
        text = error.message
    elif isinstance(error, psycopg.Error) and error.diag.message_primary:
        text = f"{error.diag.message_primary} (SQLSTATE {error.sqlstate})"
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    return mask(text)


def mask(text: str) -> str:
    """`text` without the passwords of connection strings that it may quote."""
    return _SECRET.sub(lambda m: f"{m[1]}***" if m[1] else f"{m[3]}***@", text)


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


def _usage(kind: type[Gate]) -> str:
    fields = ", ".join(kind.model_fields) or "no parameters"
    short = f", or a bare value for {kind.scalar}" if kind.scalar else ""
    return f"{fields}{short}, or off"
