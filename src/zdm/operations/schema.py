"""The JSON Schema of the migration file, for editors and reviews: generated from the models that read it."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from zdm.operations.base import Operation
from zdm.operations.migration import Migration, Validation
from zdm.operations.registry import operations

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def migration_schema(gates: dict[str, Any] | None = None) -> dict[str, Any]:
    """The schema, draft 2020-12. `gates` is the schema of the ``gates`` key, which a higher layer knows; without it anything goes."""
    kinds = operations()
    models = [
        (Migration, "validation"),
        (Validation, "validation"),
        *((k, "validation") for k in kinds.values()),
    ]
    references, collected = models_json_schema(models, ref_template="#/$defs/{model}")  # type: ignore[arg-type]
    definitions: dict[str, Any] = dict(collected["$defs"])
    migration = definitions.pop(_name(references[Migration, "validation"]))
    properties: dict[str, Any] = migration["properties"]

    properties["id"] |= {"pattern": "^[a-z][a-z0-9_]*$", "maxLength": 63}
    for key in ("version", "from_version"):
        properties[key] = {
            "type": ["string", "number"],
            "description": properties[key]["description"],
        }
    properties["operations"] = {
        "type": "array",
        "minItems": 1,
        "description": properties["operations"]["description"],
        "items": {
            "oneOf": [
                {
                    "type": "object",
                    "description": operation.summary,
                    "properties": {kind: references[operation, "validation"]},
                    "required": [kind],
                    "additionalProperties": False,
                }
                for kind, operation in kinds.items()
            ]
        },
    }
    properties["gates"] = (gates or {"type": "object"}) | {"description": properties["gates"]["description"]}
    for kind, operation in kinds.items():
        definition = definitions[_name(references[operation, "validation"])]
        definition["title"] = kind
        _short_forms(operation, definition)
        definition["description"] = operation.summary
    return {
        "$schema": DIALECT,
        "title": "zdm migration",
        "description": "One migration of zdm: the changes to a live PostgreSQL schema, with mappings both ways.",
        "type": "object",
        "properties": _without_titles({"properties": properties})["properties"],
        "required": ["id", "operations"],
        "additionalProperties": False,
        "$defs": {
            name: _without_titles(definitions[name]) for name in sorted(_used(properties, definitions))
        },
    }


def _short_forms(operation: type[Operation], definition: dict[str, Any]) -> None:
    """Let the schema take a bare text where the operation itself turns one into what it needs.

    A validator that runs before the type is checked is how an operation reads a short form (``columns: [id]``); the
    schema cannot see into it, and must not refuse what the reader takes. The reader has the last word.
    """
    for decorator in operation.__pydantic_decorators__.field_validators.values():
        if decorator.info.mode != "before":
            continue
        for name in decorator.info.fields:
            info = operation.model_fields[name]
            field = definition["properties"][info.alias or name]
            if field.get("type") != "array":
                continue
            items = field["items"]
            if items.get("type") == "string":
                forms = [{"type": "string"}, {"type": "array", "items": items}]
                field |= {"anyOf": forms}
                del field["type"], field["items"]
            else:
                field["items"] = {"anyOf": [{"type": "string"}, items]}


def _name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _without_titles(definition: dict[str, Any]) -> dict[str, Any]:
    """Pydantic titles every property with its own name, which tells nobody anything."""
    for value in definition.get("properties", {}).values():
        value.pop("title", None)
    return definition


def _used(value: Any, definitions: dict[str, Any], found: set[str] | None = None) -> set[str]:
    """The definitions that `value` refers to, directly or through others."""
    found = set() if found is None else found
    if isinstance(value, dict):
        name = _name(value) if isinstance(value.get("$ref"), str) else ""
        if name and name not in found:
            found.add(name)
            _used(definitions[name], definitions, found)
        for inner in value.values():
            _used(inner, definitions, found)
    elif isinstance(value, list):
        for inner in value:
            _used(inner, definitions, found)
    return found
