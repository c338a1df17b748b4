"""A migration: the typed form of one migration file. Constructible from Python as well."""

from __future__ import annotations

import hashlib
import json
import re
from enum import StrEnum
from typing import Any

from pydantic import Field, SerializeAsAny, field_serializer, field_validator, model_validator

from zdm.model.duration import Duration
from zdm.model.mapping import Expose
from zdm.model.names import MAX_IDENTIFIER_BYTES, Value
from zdm.model.requests import Dependents
from zdm.model.row_mapping import SyncMode
from zdm.operations.base import Operation
from zdm.operations.registry import operations

_ID = re.compile(r"[a-z][a-z0-9_]*")


class Risk(StrEnum):
    """How dangerous the authors think it is. Decides which approvals and backups the gates demand."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


_QUERY = re.compile(
    r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(?:select|with|values|table)\b", re.IGNORECASE | re.DOTALL
)


class Validation(Value):
    """SQL that must hold before switchover and before cleanup."""

    name: str = Field(min_length=1, description="what people call it")
    sql: str = Field(min_length=1, description="a query of one row and one column, run read-only")
    expect: int | float | bool | str | None = Field(description="the value it must return")

    @field_validator("sql")
    @classmethod
    def _is_a_query(cls, text: str) -> str:
        if not _QUERY.match(text):
            raise ValueError(
                "a validation is a query (SELECT, WITH, VALUES or TABLE), since it is run read-only"
            )
        return text


class Migration(Value):
    """One migration file.

    The canonical JSON of the whole value is its checksum: comments and layout of the YAML do not count.
    """

    id: str = Field(description="unique; the version schema is named <schema>_<id>")
    description: str = Field(default="", description="one sentence for people")
    module: str | None = Field(default=None, description="the packaged module it belongs to")
    version: str | None = Field(default=None, description="the module's version it leads to")
    from_version: str | None = Field(default=None, description="the module's version it starts from")
    depends_on: tuple[str, ...] = Field(
        default=(), description="ids of migrations that must be complete first"
    )
    risk: Risk = Field(default=Risk.LOW, description="low, medium or high")
    estimated_time: Duration | None = Field(default=None, description="the authors' own estimate, e.g. 10s")
    expose: Expose = Field(
        default=Expose.VIEWS,
        description="views: version schemas; columns: the new columns by their own names",
    )
    dependents: Dependents = Field(
        default=Dependents.REFUSE,
        description="the user's views over replaced columns: refuse the migration, or recreate them at cleanup",
    )
    sync: SyncMode = Field(
        default=SyncMode.IMMEDIATE,
        description="of rows in two tables: immediate, in the application's transaction; or logged, and reconciled afterwards",
    )
    operations: tuple[SerializeAsAny[Operation], ...] = Field(
        min_length=1, description="the changes, in order"
    )
    validations: tuple[Validation, ...] = Field(
        default=(), description="SQL that must hold before switchover and cleanup"
    )
    gates: dict[str, Any] = Field(
        default_factory=dict, description="overrides of the gates' thresholds in phases/*.toml"
    )

    @field_validator("id")
    @classmethod
    def _check_id(cls, value: str) -> str:
        if not _ID.fullmatch(value) or len(value) > MAX_IDENTIFIER_BYTES:
            raise ValueError(
                f"{value!r} is not an id; use lower-case letters, digits and underscores, beginning with a letter, "
                f"{MAX_IDENTIFIER_BYTES} characters at most"
            )
        return value

    @field_validator("version", "from_version", mode="before")
    @classmethod
    def _version_is_text(cls, value: Any) -> Any:
        # YAML reads an unquoted 2.0 as a float; a version is text.
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("operations", mode="before")
    @classmethod
    def _read_operations(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        known = operations()
        read: list[Any] = []
        for item in value:
            if isinstance(item, Operation):
                read.append(item)
                continue
            if not isinstance(item, dict) or len(item) != 1:
                raise ValueError("each operation is one key, its kind, with its parameters below it")
            kind, parameters = next(iter(item.items()))
            if kind not in known:
                raise ValueError(f"there is no operation {kind!r}; there are {', '.join(known)}")
            read.append(known[kind].model_validate(parameters if parameters is not None else {}))
        return tuple(read)

    @field_serializer("operations")
    def _write_operations(self, value: tuple[Operation, ...]) -> list[dict[str, Any]]:
        return [
            {item.kind: item.model_dump(mode="json", exclude_defaults=True, by_alias=True)} for item in value
        ]

    @model_validator(mode="after")
    def _check_dependencies(self) -> Migration:
        if self.id in self.depends_on:
            raise ValueError(f"{self.id!r} depends on itself")
        return self

    @property
    def checksum(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def canonical(self) -> str:
        """Sorted, compact JSON without defaults: what is stored, compared and hashed."""
        return json.dumps(
            self.model_dump(mode="json", exclude_defaults=True), sort_keys=True, ensure_ascii=False
        )
