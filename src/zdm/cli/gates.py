"""What the command line tells about gates: their parameters in words, and their part of the JSON Schema."""

from __future__ import annotations

from typing import Any

from zdm.gates.registry import gates, is_off, resolve
from zdm.model.phases import PhaseMachine
from zdm.operations.migration import Migration


def gate_words(migration: Migration, machine: PhaseMachine) -> dict[str, list[tuple[str, str]]]:
    """For each phase its gates, with the parameters that the migration file leaves or sets."""
    found: dict[str, list[tuple[str, str]]] = {}
    for definition in machine.definitions:
        listed: list[tuple[str, str]] = []
        for name, defaults in definition.gates.items():
            overridden = name in migration.gates
            if overridden and is_off(migration.gates[name]):
                listed.append((name, "switched off by this migration"))
                continue
            gate = resolve(name, defaults, migration.gates) if name in gates() else None
            values = gate.model_dump(mode="json") if gate is not None else dict(defaults)
            words = ", ".join(
                f"{key} {_words(value)}" for key, value in values.items() if value not in (None, "", [], ())
            )
            listed.append((name, f"{words}, set by this migration" if overridden and words else words))
        found[definition.phase.value] = listed
    return found


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def gates_schema() -> dict[str, Any]:
    """The JSON Schema of the ``gates`` key: for each gate its parameters, its short form, or off."""
    properties: dict[str, Any] = {}
    for name, kind in gates().items():
        own = kind.model_json_schema()
        # Gates' parameters are plain values: nothing to refer to.
        fields = {
            key: {k: v for k, v in value.items() if k != "title"}
            for key, value in own.get("properties", {}).items()
        }
        forms: list[dict[str, Any]] = [
            {"type": "object", "properties": fields, "additionalProperties": False}
        ]
        if kind.scalar:
            forms.append(fields[kind.scalar])
        forms.append({"enum": ["off", False], "description": "do not ask it; recorded as switched off"})
        properties[name] = {"description": kind.asks, "anyOf": forms}
    return {"type": "object", "properties": properties, "additionalProperties": False}
