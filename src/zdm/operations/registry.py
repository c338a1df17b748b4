"""Finds the operations: every module of this package with one `Operation` subclass whose `kind` is the module's name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

import zdm.operations as package
from zdm.operations.base import Operation


@cache
def operations() -> dict[str, type[Operation]]:
    """Every operation by its kind, in alphabetical order."""
    found: dict[str, type[Operation]] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda i: i.name):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if not inspect.isclass(value) or value.__module__ != module.__name__ or inspect.isabstract(value):
                continue
            if issubclass(value, Operation) and value.kind == info.name:
                found[value.kind] = value
    return found
