"""What a migration calls without its schema is found in the target's and in public, when it is planned and when it is done."""

from __future__ import annotations

import pytest

from tests.acceptance.test_dump import advance
from tests.conformance.harness import OPEN_GATES
from tests.support.servers import Database
from zdm.engine.rollout import Engine
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.operations.migration import Migration

#: Stands for an extension: its types, operator classes, functions and collations are usually in public.
EXTENSION = """
CREATE TYPE public.mood AS ENUM ('low', 'high');
CREATE FUNCTION public.slug(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower(replace($1, ' ', '-')) $$;
CREATE FUNCTION public.mood_of(text) RETURNS public.mood LANGUAGE sql IMMUTABLE AS $$ SELECT 'low'::public.mood $$;
CREATE OPERATOR CLASS public.pattern FOR TYPE text USING btree AS
  OPERATOR 1 ~<~, OPERATOR 2 ~<=~, OPERATOR 3 =, OPERATOR 4 ~>=~, OPERATOR 5 ~>~, FUNCTION 1 bttext_pattern_cmp(text, text);
CREATE COLLATION public.plain FROM "C";
"""
TABLES = """
CREATE TABLE projects (id serial PRIMARY KEY, name text NOT NULL, state public.mood NOT NULL, note text);
INSERT INTO projects (name, state) SELECT 'Name ' || g, 'high' FROM generate_series(1, 20) g;
"""
OPERATIONS: list[dict[str, object]] = [
    {
        "create_index": {
            "table": "projects",
            "name": "by_class",
            "columns": [{"column": "name", "opclass": "pattern"}],
        }
    },
    {
        "create_index": {
            "table": "projects",
            "name": "by_text",
            "definition": "USING btree (slug(name) pattern)",
        }
    },
    {
        "create_index": {
            "table": "projects",
            "name": "by_part",
            "columns": [{"expression": "slug(name)", "collation": "plain"}],
            "where": "mood_of(name) = 'low'",
            "tablespace": "pg_default",
        }
    },
    {"add_column": {"table": "projects", "column": "mood", "type": "mood", "default": "'high'::mood"}},
    {"add_column": {"table": "projects", "column": "label", "type": "text", "collation": "plain"}},
    {
        "change_type": {
            "table": "projects",
            "column": "note",
            "to": "varchar(90)",
            "collation": "plain",
            "up": "note",
        }
    },
    {
        "create_table": {
            "name": "labels",
            "columns": [
                {"name": "id", "type": "bigint", "identity": "always"},
                {"name": "name", "type": "text", "not_null": True, "default": "slug('A b')"},
                {"name": "mood", "type": "mood", "default": "mood_of('x')"},
            ],
            "primary_key": ["id"],
            "checks": [{"name": "has_slug", "check": "slug(name) <> ''"}],
        }
    },
    {
        "create_index": {
            "table": "labels",
            "name": "labels_slug",
            "columns": [{"expression": "slug(name)", "opclass": "pattern"}],
            "where": "mood_of(name) = 'low'",
        }
    },
    {
        "move_columns": {
            "table": "projects",
            "to": "project_states",
            "key": {"project_id": "id"},
            "columns": [{"column": "state", "empty": "'low'::mood"}],
            "create": {},
        }
    },
    {
        "sql": {
            "name": "more",
            "expand": ["CREATE TABLE extra (mood mood DEFAULT mood_of('x'))"],
            "undo": ["DROP TABLE IF EXISTS extra"],
        }
    },
]


def migration(operations: list[dict[str, object]]) -> Migration:
    return Migration.model_validate({"id": "names", "operations": operations, "gates": OPEN_GATES})


@pytest.mark.parametrize("target", ["public", "Tenant 1"])
def test_names_mean_when_it_is_done_what_they_meant_when_it_was_planned(
    database: Database, target: str
) -> None:
    database.execute(EXTENSION)
    database.execute(f'CREATE SCHEMA IF NOT EXISTS "{target}"; SET search_path = "{target}"; {TABLES}')
    engine = Engine(database.dsn, target)
    engine.init()
    wanted = migration(OPERATIONS)
    advance(engine, wanted, State.SWITCHED_OVER)
    engine.rollback("names")
    advance(engine, wanted, State.COMPLETED)
    indexes = database.execute(
        "SELECT indexname, replace(substr(indexdef, position('USING' IN indexdef)), 'public.', '') FROM pg_indexes"
        " WHERE schemaname = %s AND indexname ~ '^by_|slug' ORDER BY 1",
        target,
    )
    assert indexes == [
        ("by_class", "USING btree (name pattern)"),
        ("by_part", "USING btree (slug(name) COLLATE plain) WHERE (mood_of(name) = 'low'::mood)"),
        ("by_text", "USING btree (slug(name) pattern)"),
        ("labels_slug", "USING btree (slug(name) pattern) WHERE (mood_of(name) = 'low'::mood)"),
    ]
    database.execute(
        f"SET search_path = \"{target}\"; INSERT INTO labels DEFAULT VALUES; INSERT INTO projects (name) VALUES ('x')"
    )
    assert database.execute(f'SELECT name, mood::text FROM "{target}".labels') == [("a-b", "low")]
    assert database.value(f'SELECT mood::text FROM "{target}".projects ORDER BY id DESC LIMIT 1') == "high"


@pytest.mark.parametrize(
    "index, said",
    [
        ({"columns": [{"column": "name", "opclass": "nope"}]}, 'operator class "nope" does not exist'),
        ({"columns": ["name"], "method": "tree"}, 'access method "tree" does not exist'),
        ({"columns": ["name"], "with": {"fill": 7}}, 'unrecognized parameter "fill"'),
        ({"columns": [{"expression": "now()::text"}]}, "must be marked IMMUTABLE"),
        ({"columns": ["state"], "method": "gin"}, "has no default operator class"),
        ({"columns": ["name"], "tablespace": "nowhere"}, 'tablespace "nowhere" does not exist'),
        ({"definition": "USING btree (nome)"}, 'column "nome" does not exist'),
        ({"definition": "(name) WHERE 1"}, "must be type boolean"),
    ],
)
def test_an_index_that_the_server_would_not_make_is_refused_before_anything_is_changed(
    database: Database, index: dict[str, object], said: str
) -> None:
    database.execute(EXTENSION + TABLES)
    engine = Engine(database.dsn)
    engine.init()
    with pytest.raises(BadInput) as refused:
        engine.plan(migration([{"create_index": {"table": "projects", "name": "i", **index}}]))
    (problem,) = refused.value.problems
    assert said in problem.what
    assert problem.where == "1:create_index"
