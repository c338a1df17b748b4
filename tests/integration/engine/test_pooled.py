"""Through a transaction pooler: applications of both versions on the same few server connections, and zdm itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg

from tests.conformance.harness import OPEN_GATES
from tests.support.pooler import pgbouncer
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.engine.rollout import Engine
from zdm.engine.settings import EngineSettings
from zdm.model.phases import State
from zdm.operations.migration import Migration

MIGRATION = Migration.model_validate(
    {
        "id": "pooled",
        "gates": OPEN_GATES,
        "operations": [
            {
                "change_type": {
                    "table": "t",
                    "column": "a",
                    "to": "text",
                    "up": "'#' || a",
                    "down": "substr(a, 2)::int",
                }
            },
            {"create_index": {"table": "t", "name": "t_a", "columns": ["a"]}},
        ],
    }
)
Application = Callable[[psycopg.Connection[Any], int], None]


def old(conn: psycopg.Connection[Any], n: int) -> None:
    """Nobody has set its search_path."""
    conn.execute("UPDATE t SET a = %s WHERE id = %s", (n, n % 40 + 1))


def by_role(conn: psycopg.Connection[Any], n: int) -> None:
    """ALTER ROLE … SET search_path: what the server connections of its pool have."""
    conn.execute("UPDATE t SET a = %s WHERE id = %s", (f"#{n}", n % 40 + 41))


def by_transaction(conn: psycopg.Connection[Any], n: int) -> None:
    """What a session sets is anybody's behind a pooler, so each transaction sets it for itself."""
    conn.execute("SET LOCAL search_path = public_pooled, public")
    conn.execute(
        "INSERT INTO t (id, a) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET a = excluded.a",
        (n % 40 + 81, f"#{n}"),
    )


def by_name(conn: psycopg.Connection[Any], n: int) -> None:
    """It names the schema."""
    conn.execute("UPDATE public_pooled.t SET a = %s WHERE id = %s", (f"#{n}", n % 40 + 121))


@on_all_versions
def test_a_whole_rollout_with_both_applications(database: Database) -> None:
    """One server connection for each role carries both versions; nobody sees an error, nobody the other's search_path."""
    role = database.create_role("newapp")
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t SELECT g, g FROM generate_series(1, 200) g;"
        f'GRANT ALL ON t TO "{role}"; ALTER ROLE "{role}" SET search_path = public_pooled, public'
    )
    errors: list[str] = []
    over, started = threading.Event(), threading.Barrier(5)

    def run(url: str, application: Application) -> None:
        with psycopg.connect(url, prepare_threshold=None) as conn:
            for n in range(10**9):
                try:
                    with conn.transaction():
                        application(conn, n)
                except psycopg.Error as error:
                    errors.append(f"{application.__name__}: {error.sqlstate} {error}")
                if n == 0:
                    started.wait(60)
                if over.is_set():
                    return

    with pgbouncer(database, size=2, roles=[role]) as applications, pgbouncer(database, size=20) as ours:
        engine = Engine(ours.url(), settings=EngineSettings(workers=2))
        engine.init()
        assert engine.advance(MIGRATION).state is State.PREPARED
        threads = [
            threading.Thread(target=run, args=(url, application))
            for url, application in (
                (applications.url(), old),
                (applications.url(role), by_role),
                (applications.url(), by_transaction),
                (applications.url(), by_name),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            started.wait(60)
            for state in (State.MIGRATED, State.SWITCHED_OVER):
                assert engine.advance(MIGRATION).state is state
            assert engine.verify("pooled").tables[0].rows >= 200
        finally:
            over.set()
            for thread in threads:
                thread.join(60)
        assert errors == []
        assert database.value(
            "SELECT count(*) FROM t o JOIN public_pooled.t n USING (id) WHERE '#' || o.a = n.a"
        ) == database.value("SELECT count(*) FROM t")
        assert engine.advance(MIGRATION).state is State.COMPLETED
    assert database.value("SELECT count(*) FROM t WHERE a !~ '^#'") == 0
