"""What pydantic found wrong with a migration's values, in a person's words and with the line of each."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from zdm.errors import Problem
from zdm.operations.source import Trail
from zdm.operations.yaml_text import Reader, kind_of


def translate(
    error: ValidationError, model: type[BaseModel], base: Trail, reader: Reader, kind: str = ""
) -> Iterator[tuple[Trail, Problem]]:
    """Pydantic's findings as problems, each with its trail inside `model`; several about one value become one."""
    by_place: dict[Trail, list[Any]] = {}
    errors = error.errors(include_url=False)
    for item in errors:
        loc = tuple(item["loc"])
        if item["type"] == "too_short" and any(
            tuple(e["loc"])[: len(loc)] == loc != e["loc"] for e in errors
        ):
            continue  # pydantic counts only the items that are right
        known = tuple(part for part in loc if _is_written(part, loc, base, reader)) or loc[:1]
        by_place.setdefault(known, []).append(item)
    for trail, items in by_place.items():
        messages = dict.fromkeys(_message(i, trail, model, base, reader, kind) for i in items)
        (what, remedy), *others = messages
        if others:
            what = f"{what}; or {'; or '.join(w for w, _ in others)}"
        yield trail, Problem(what, reader.source.place((*base, *trail)), remedy)


def _is_written(part: str | int, loc: Trail, base: Trail, reader: Reader) -> bool:
    """Whether a part of pydantic's location is one of the document's: tags of unions are not."""
    if isinstance(part, int) or part == loc[0] or part == loc[-1]:
        return True
    return any(trail[: len(base)] == base and part in trail[len(base) :] for trail in reader.lines)


def _message(
    item: Any, trail: Trail, model: type[BaseModel], base: Trail, reader: Reader, kind: str
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
                f"{name} must be a list, not {kind_of(value)}",
                "Write it as [a, b], or one item a line after dashes.",
            )
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"{name} must be a mapping, not {kind_of(value)}", ""
    message = item["msg"][:1].lower() + item["msg"][1:]
    return f"{name}: {message}, not {_shown(value)}", ""


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict | list | tuple):
        return kind_of(value)
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def suggest(word: str, choices: Iterable[str], otherwise: str) -> str:
    """``Did you mean 'x'?``, or `otherwise` with all the choices."""
    listed = list(choices)
    close = get_close_matches(word, listed, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else f"{otherwise} {', '.join(listed)}."


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
