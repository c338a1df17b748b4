"""What the tests of zdm.db share."""

from __future__ import annotations

from zdm.model.names import QualifiedName, qualified
from zdm.model.step import Lock, TableLock


def public(name: str) -> QualifiedName:
    return qualified("public", name)


def lock(name: str, mode: Lock = Lock.ACCESS_EXCLUSIVE) -> TableLock:
    return TableLock(table=public(name), mode=mode)
