"""zdm: zero-downtime schema migrations for PostgreSQL.

The names below are the public interface, described in docs/python-api.md. They are imported when they are first used, so
``import zdm`` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zdm.engine.reporter import Reporter
    from zdm.engine.rollout import Engine
    from zdm.engine.settings import EngineSettings
    from zdm.errors import BadInput, Busy, Drift, GateRefused, IllegalMove, Interrupted, Problem, ZdmError
    from zdm.model.phases import State
    from zdm.model.step import Phase
    from zdm.operations.loader import dump as dump_migration
    from zdm.operations.loader import load as load_migration
    from zdm.operations.migration import Migration, Risk, Validation

#: The release, kept here as a literal (a test holds it equal to pyproject.toml) because reading the
#: installed metadata costs more than importing everything else that ``zdm --version`` needs.
__version__ = "0.1.0"

__all__ = [
    "BadInput",
    "Busy",
    "Drift",
    "Engine",
    "EngineSettings",
    "GateRefused",
    "IllegalMove",
    "Interrupted",
    "Migration",
    "Phase",
    "Problem",
    "Reporter",
    "Risk",
    "State",
    "Validation",
    "ZdmError",
    "__version__",
    "dump_migration",
    "load_migration",
]

#: Where each public name is found: its module, and its name there where that is another.
_FOUND: Final[Mapping[str, tuple[str, str]]] = {
    "BadInput": ("zdm.errors", ""),
    "Busy": ("zdm.errors", ""),
    "Drift": ("zdm.errors", ""),
    "Engine": ("zdm.engine.rollout", ""),
    "EngineSettings": ("zdm.engine.settings", ""),
    "GateRefused": ("zdm.errors", ""),
    "IllegalMove": ("zdm.errors", ""),
    "Interrupted": ("zdm.errors", ""),
    "Migration": ("zdm.operations.migration", ""),
    "Phase": ("zdm.model.step", ""),
    "Problem": ("zdm.errors", ""),
    "Reporter": ("zdm.engine.reporter", ""),
    "Risk": ("zdm.operations.migration", ""),
    "State": ("zdm.model.phases", ""),
    "Validation": ("zdm.operations.migration", ""),
    "ZdmError": ("zdm.errors", ""),
    "dump_migration": ("zdm.operations.loader", "dump"),
    "load_migration": ("zdm.operations.loader", "load"),
}


def __getattr__(name: str) -> object:
    """Import a public name on its first use."""
    if name not in _FOUND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, there = _FOUND[name]
    value: object = getattr(import_module(module), there or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
