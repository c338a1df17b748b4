"""What hangs on a replaced column without being part of any definition is there after cleanup as before."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.support.servers import Database
from zdm.engine.rollout import Engine
from zdm.engine.settings import EngineSettings
from zdm.model.step import Phase
from zdm.operations.migration import Migration

SETUP = """
CREATE TABLE topics (id serial PRIMARY KEY, views int NOT NULL, code text);
INSERT INTO topics (views, code) SELECT g, 'c' || g FROM generate_series(1, 20) g;
CREATE INDEX topics_views ON topics (views DESC) WITH (fillfactor = 70);
CREATE INDEX topics_twice ON topics ((views * 2));
ALTER TABLE topics ADD CONSTRAINT topics_once UNIQUE (views);
ALTER INDEX topics_twice ALTER COLUMN 1 SET STATISTICS 700;
ALTER TABLE topics ALTER views SET (n_distinct = -0.5), ALTER views SET STATISTICS 500;
ALTER TABLE topics CLUSTER ON topics_views;
COMMENT ON INDEX topics_views IS 'most read first';
COMMENT ON INDEX topics_once IS 'the index';
COMMENT ON CONSTRAINT topics_once ON topics IS 'the constraint';
"""

ATTRIBUTES = """
SELECT x.relname, obj_description(x.oid, 'pg_class'), i.indisclustered, x.reloptions,
  (SELECT array_agg(a.attstattarget ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = x.oid),
  (SELECT obj_description(c.oid, 'pg_constraint') FROM pg_constraint c WHERE c.conindid = x.oid)
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = 'topics'::regclass
UNION ALL
SELECT attname, col_description(attrelid, attnum), NULL, attoptions, ARRAY[attstattarget], NULL
FROM pg_attribute WHERE attrelid = 'topics'::regclass AND attnum > 0 AND NOT attisdropped
ORDER BY 1
"""


WIDEN = Migration.model_validate(
    {
        "id": "widen",
        "operations": [{"change_type": {"table": "topics", "column": "views", "to": "bigint"}}],
        "gates": {"soak": "0s", "old_version_unused": False, "replication_lag": False},
    }
)


def test_index_and_column_attributes_follow(database: Database) -> None:
    database.execute(SETUP)
    before: list[tuple[Any, ...]] = database.execute(ATTRIBUTES)
    engine = Engine(database.dsn)
    engine.init()
    engine.advance(WIDEN, until=Phase.CLEANUP)
    assert database.execute(ATTRIBUTES) == before


def test_an_index_lies_where_the_old_one_did(database: Database) -> None:
    """Neither `pg_get_indexdef` nor `pg_get_constraintdef` says where."""
    place = f"place_{database.name}"
    with database.server.admin() as admin:
        admin.execute("SET allow_in_place_tablespaces = on")
        admin.execute(f"CREATE TABLESPACE {place} LOCATION ''".encode())
    try:
        database.execute(
            "CREATE TABLE topics (id serial PRIMARY KEY, views int NOT NULL, code text);"
            f"CREATE INDEX topics_some ON topics (views) TABLESPACE {place} WHERE views > 3 AND code <> ' WHERE ';"
            f"CREATE UNIQUE INDEX topics_all ON topics (views) TABLESPACE {place};"
            f"ALTER TABLE topics ADD CONSTRAINT topics_late UNIQUE (views) WITH (fillfactor = 60) USING INDEX TABLESPACE {place}"
            " DEFERRABLE; INSERT INTO topics (views) SELECT g FROM generate_series(1, 20) g"
        )
        query = (
            "SELECT c.relname, s.spcname, c.reloptions, pg_get_indexdef(c.oid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE i.indrelid = 'topics'::regclass ORDER BY 1"
        )
        before = database.execute(query)
        assert [row[1] for row in before] == [place, place, None, place]
        engine = Engine(database.dsn, settings=EngineSettings(lock_budget=timedelta(seconds=2)))
        engine.init()
        engine.advance(WIDEN, until=Phase.CLEANUP)
        assert database.execute(query) == before
    finally:
        database.execute("DROP TABLE topics CASCADE")
        with database.server.admin() as admin:
            admin.execute(f"DROP TABLESPACE {place}".encode())
