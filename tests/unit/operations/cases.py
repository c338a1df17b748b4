"""Migrations whose steps are kept word for word under golden/."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.unit.operations.helpers import PG15, PG18, column, table
from zdm.model.names import QualifiedName, qualified
from zdm.model.table import Constraint, Index, Table

ACCOUNTS = table(
    "accounts",
    column("id", not_null=True),
    column("owner_id", "integer"),
    column(
        "balance",
        "integer",
        comment="in whole euros",
        statistics=500,
        acl=("reader=r*/owner", '"Odd ""Role"=rw/owner', "=r/owner"),
    ),
    column("label", "character varying(20)", storage="external", compression="lz4"),
    constraints=(
        Constraint(
            name="accounts_pkey",
            kind="primary key",
            columns=("id",),
            definition="PRIMARY KEY (id)",
            index="accounts_pkey",
        ),
        Constraint(
            name="positive",
            kind="check",
            columns=("balance",),
            definition="CHECK ((balance > 0))",
            comment="no debts",
        ),
        Constraint(
            name="one_balance",
            kind="unique",
            columns=("balance", "owner_id"),
            definition="UNIQUE (balance, owner_id)",
            index="one_balance",
        ),
        Constraint(
            name="owner_fkey",
            kind="foreign key",
            columns=("owner_id",),
            definition="FOREIGN KEY (owner_id) REFERENCES public.owners(id)",
            references=qualified("public", "owners"),
        ),
    ),
    indexes=(
        Index(
            name="accounts_pkey",
            columns=("id",),
            definition="",
            unique=True,
            primary=True,
            constraint="accounts_pkey",
        ),
        Index(
            name="one_balance",
            columns=("balance", "owner_id"),
            definition="",
            unique=True,
            constraint="one_balance",
        ),
        Index(name="balance_idx", columns=("balance",), definition=""),
    ),
)
OWNERS = table(
    "owners",
    column("id", not_null=True),
    constraints=(
        Constraint(
            name="owners_pkey",
            kind="primary key",
            columns=("id",),
            definition="PRIMARY KEY (id)",
            index="owners_pkey",
        ),
    ),
    referenced_by=(
        Constraint(
            name="owner_fkey",
            kind="foreign key",
            columns=("id",),
            definition="",
            references=qualified("public", "accounts"),
        ),
    ),
)
ODD = table('It"s', column('a"b', "text"), column("c", "integer", not_null=True), schema="Odd Schema")


@dataclass(frozen=True)
class Case:
    """One migration, and what the server would have answered."""

    name: str
    operations: tuple[dict[str, Any], ...]
    tables: tuple[Table, ...] = (ACCOUNTS, OWNERS, ODD)
    version: int = PG18
    instant: set[tuple[str, str | None]] = field(default_factory=set)
    taken: set[QualifiedName] = field(default_factory=set)


CASES = (
    Case(
        "add_column_nullable",
        ({"add_column": {"table": "accounts", "column": "note", "type": "jsonb", "comment": "it's free"}},),
    ),
    Case(
        "add_column_constant_default",
        (
            {
                "add_column": {
                    "table": "accounts",
                    "column": "kind",
                    "type": "text",
                    "default": "'a'",
                    "not_null": True,
                    "collation": "C",
                }
            },
        ),
        instant={("text", "'a'")},
    ),
    Case(
        "add_column_volatile_default",
        (
            {
                "add_column": {
                    "table": "accounts",
                    "column": "token",
                    "type": "uuid",
                    "default": "gen_random_uuid()",
                    "comment": "x",
                }
            },
        ),
    ),
    Case(
        "change_type_carries", ({"change_type": {"table": "accounts", "column": "balance", "to": "bigint"}},)
    ),
    Case(
        "change_type_foreign_key",
        (
            {"change_type": {"table": "accounts", "column": "owner_id", "to": "bigint"}},
            {"drop_constraint": {"table": "accounts", "name": "one_balance"}},
        ),
    ),
    Case("change_type_storage", ({"change_type": {"table": "accounts", "column": "label", "to": "text"}},)),
    Case(
        "change_type_and_rename_table",
        (
            {"change_type": {"table": "accounts", "column": "balance", "to": "bigint", "name": "cents"}},
            {"rename_table": {"table": "accounts", "to": "ledger"}},
        ),
    ),
    Case("set_not_null_15", ({"set_not_null": {"table": "accounts", "column": "label"}},), version=PG15),
    Case("set_not_null_18", ({"set_not_null": {"table": "accounts", "column": "label"}},)),
    Case("drop_not_null", ({"drop_not_null": {"table": '"Odd Schema"."It""s"', "column": "c"}},)),
    Case("add_check", ({"add_check": {"table": '"Odd Schema"."It""s"', "name": "c's", "check": "c > 0"}},)),
    Case(
        "add_unique",
        (
            {
                "add_unique": {
                    "table": "accounts",
                    "columns": ["label", "owner_id"],
                    "nulls_not_distinct": True,
                    "deferrable": True,
                }
            },
        ),
    ),
    Case(
        "add_unique_on_fresh_columns",
        (
            {"add_column": {"table": "accounts", "column": "code", "type": "text", "up": "label"}},
            {"add_unique": {"table": "accounts", "columns": ["code"], "name": "code_key"}},
        ),
    ),
    Case(
        "add_foreign_key",
        (
            {
                "add_foreign_key": {
                    "table": "accounts",
                    "columns": ["balance"],
                    "references": {"table": "owners"},
                    "on_delete": "set null",
                    "on_update": "cascade",
                    "match": "full",
                    "deferrable": True,
                    "initially": "deferred",
                }
            },
        ),
    ),
    Case(
        "drop_constraint",
        (
            {"drop_constraint": {"table": "accounts", "name": "owner_fkey"}},
            {"drop_constraint": {"table": "accounts", "name": "positive"}},
        ),
    ),
    Case(
        "create_index_everything",
        (
            {
                "create_index": {
                    "table": "accounts",
                    "name": "many",
                    "columns": [
                        "owner_id",
                        {
                            "expression": "lower(label)",
                            "opclass": "text_pattern_ops",
                            "collation": "pg_catalog.C",
                            "order": "desc",
                            "nulls": "last",
                        },
                    ],
                    "include": ["id"],
                    "where": "balance > 0",
                    "with": {"fillfactor": 70, "deduplicate_items": False},
                    "tablespace": "fast",
                }
            },
            {
                "create_index": {
                    "table": "accounts",
                    "name": "tree",
                    "method": "gist",
                    "columns": [
                        {"column": "label", "opclass": "gist_trgm_ops", "opclass_parameters": {"siglen": 32}}
                    ],
                }
            },
            {
                "create_index": {
                    "table": "accounts",
                    "name": "rough",
                    "definition": "USING brin (id) WITH (pages_per_range = 8)",
                }
            },
            {
                "create_index": {
                    "table": "accounts",
                    "name": "single",
                    "columns": ["label"],
                    "unique": True,
                    "nulls_not_distinct": True,
                }
            },
        ),
    ),
    Case(
        "create_index_on_successor",
        (
            {"change_type": {"table": "accounts", "column": "label", "to": "text"}},
            {
                "create_index": {
                    "table": "accounts",
                    "name": "label_idx",
                    "columns": ["label"],
                    "where": "label <> ''",
                }
            },
        ),
    ),
    Case("drop_index", ({"drop_index": {"table": "accounts", "name": "balance_idx"}},)),
    Case(
        "create_table",
        (
            {"create_enum": {"name": "mood", "values": ["fine", "it's bad"]}},
            {
                "create_table": {
                    "name": "books",
                    "columns": [
                        {"name": "id", "type": "bigint", "identity": "always"},
                        {"name": "owner_id", "type": "int", "not_null": True},
                        {"name": "mood", "type": "mood", "default": "'fine'", "comment": "of the reader"},
                        {"name": "twice", "type": "int", "generated": "owner_id * 2"},
                    ],
                    "primary_key": ["id"],
                    "unique": [{"columns": ["owner_id", "mood"]}],
                    "checks": [{"name": "fair", "check": "owner_id > 0"}],
                    "foreign_keys": [
                        {"columns": ["owner_id"], "references": {"table": "owners"}, "on_delete": "cascade"}
                    ],
                    "comment": "read",
                    "grants": {"reader": ["select", "insert"], "public": ["select"]},
                }
            },
            {
                "create_index": {
                    "table": "books",
                    "name": "books_mood",
                    "columns": ["mood", {"expression": "owner_id % 7"}],
                }
            },
        ),
    ),
    Case("drop_table", ({"drop_table": {"table": "owners"}},)),
    Case(
        "sql",
        (
            {
                "sql": {
                    "name": "helpers",
                    "expand": [
                        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; $$",
                        "CREATE TRIGGER g BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION h();",
                    ],
                    "undo": ["DROP TRIGGER IF EXISTS g ON accounts", "DROP FUNCTION IF EXISTS f()"],
                    "contract": ["DROP FUNCTION IF EXISTS old()"],
                }
            },
        ),
    ),
)
