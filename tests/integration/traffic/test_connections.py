"""Sessions that find their version in every way there is: the role's search_path, the database's, the connection's, or by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from tests.conformance.harness import Rollout
from tests.support.pooler import pgbouncer
from tests.support.servers import Database
from zdm.model.phases import State
from zdm.model.sample import Scenario

OPERATIONS: Final[tuple[dict[str, object], ...]] = (
    {
        "change_type": {
            "table": "items",
            "column": "amount",
            "to": "text",
            "up": "'#' || amount",
            "down": "substr(amount, 2)::int",
            "default": "'#3'",
        }
    },
    {
        "split_column": {
            "table": "items",
            "column": "name",
            "into": [
                {"name": "first", "type": "text", "up": "split_part(name, ' ', 1)", "default": "'a'"},
                {"name": "last", "type": "text", "up": "split_part(name, ' ', 2)", "default": "'b'"},
            ],
            "down": "first || ' ' || last",
        }
    },
)
SETUP: Final = (
    "CREATE TABLE items (id int PRIMARY KEY, amount int NOT NULL DEFAULT 3, name text NOT NULL DEFAULT 'a b');"
    "INSERT INTO items (id) SELECT generate_series(1, 20)"
)
NEW_PATH: Final = "public_try_it, public"


class Client:
    """One application's connection, kept through all phases. `named`: the schema that its statements name, if any."""

    def __init__(
        self, dsn: str, stack: ExitStack, *, named: str = "", local: str = "", pooled: bool = False
    ) -> None:
        self._table = f"{named}.items" if named else "items"
        self._local = local
        threshold = None if pooled else 0
        self._connection = stack.enter_context(psycopg.connect(dsn, prepare_threshold=threshold))

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        with self._connection.transaction():
            if self._local:
                self._connection.execute(f"SET LOCAL search_path = {self._local}".encode())
            cursor = self._connection.execute(statement.format(t=self._table).encode())
            return cursor.fetchall() if cursor.description else []


@contextmanager
def clients(database: Database, old_role: str, new_role: str) -> Iterator[dict[str, tuple[Client, Client]]]:
    """Pairs of the old and the new version's connections; who says nothing of a search_path gets the database's, which is the new one's."""
    with (
        ExitStack() as stack,
        pgbouncer(database, size=1, roles=[old_role, new_role]) as pool,
    ):

        def direct(user: str | None = None, **more: Any) -> Client:
            return Client(database.dsn if user is None else database.dsn_for(user), stack, **more)

        def pooled(user: str | None = None, **more: Any) -> Client:
            return Client(pool.url(user), stack, pooled=True, **more)

        options = make_conninfo(database.dsn, options="-c search_path=public")
        yield {
            "role": (direct(old_role), direct(new_role)),
            "database": (Client(options, stack), direct()),
            "name": (direct(named="public"), direct(named="public_try_it")),
            "transaction": (direct(local="public"), direct(local=NEW_PATH)),
            "hostile": (
                direct(local="pg_temp, public_try_it", named="public"),
                direct(local="pg_temp", named="public_try_it"),
            ),
            "pooled, role": (pooled(old_role), pooled(new_role)),
            "pooled, database": (pooled(local="public"), pooled()),
        }


def test_every_way_to_say_which_version(database: Database) -> None:
    """The database's own search_path is the new version's, for zdm's connections as well; then it goes back, and so does the rollout."""
    old_role, new_role = (database.create_role(name) for name in ("oldapp", "newapp"))
    database.execute(SETUP)
    database.execute(f'GRANT ALL ON items TO "{old_role}", "{new_role}"')
    rollout = Rollout(database, Scenario(setup="SELECT 1", operations=OPERATIONS))
    rollout.advance_to(State.PREPARED)
    database.execute(
        f'ALTER DATABASE "{database.name}" SET search_path = {NEW_PATH};'
        f'ALTER ROLE "{old_role}" SET search_path = public; ALTER ROLE "{new_role}" SET search_path = {NEW_PATH}'
    )
    with clients(database, old_role, new_role) as ways:
        key = 100
        for state in (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER):
            if state is not State.PREPARED:
                rollout.advance_to(state)
            for way, (old, new) in ways.items():
                key += 10
                told = (state, way)
                # Defaults, an explicit value, an explicit NULL; each is what the version says, and the other one sees it.
                assert old.run(f"INSERT INTO {{t}} (id) VALUES ({key}) RETURNING amount, name") == [
                    (3, "a b")
                ], told
                assert new.run(f"SELECT amount, first, last FROM {{t}} WHERE id = {key}") == [
                    ("#3", "a", "b")
                ], told
                assert new.run(
                    f"INSERT INTO {{t}} (id, last) VALUES ({key} + 1, 'x') RETURNING amount, first, last"
                ) == [("#3", "a", "x")], told
                assert old.run(f"SELECT amount, name FROM {{t}} WHERE id = {key} + 1") == [(3, "a x")], told
                assert new.run(
                    f"INSERT INTO {{t}} AS i (id, amount) VALUES ({key}, '#8') ON CONFLICT (id) DO UPDATE"
                    " SET amount = excluded.amount, first = i.first || '!' RETURNING amount, first"
                ) == [("#8", "a!")], told
                assert old.run(
                    f"UPDATE {{t}} SET amount = amount + 1 WHERE id = {key} RETURNING amount, name"
                ) == [(9, "a! b")], told
                assert new.run(f"DELETE FROM {{t}} WHERE id = {key} + 1 RETURNING amount, last") == [
                    ("#3", "x")
                ], told
                assert new.run(f"SELECT amount FROM {{t}} WHERE id BETWEEN {key} AND {key} + 1") == [
                    ("#9",)
                ], told
            rollout.sides_agree(complete=state is not State.PREPARED)
        for _, new in ways.values():
            new.run("SELECT 1")
        assert rollout.engine().rollback("try_it").state is State.ROLLED_BACK
        # Whoever says nothing has the table itself again.
        for way, (old, new) in ways.items():
            assert old.run("SELECT amount, name FROM {t} WHERE id = 1") == [(3, "a b")], way
            if "name" not in way and "hostile" not in way:
                assert new.run("UPDATE {t} SET amount = amount WHERE id = 1 RETURNING amount, name") == [
                    (3, "a b")
                ], way
    database.execute(f'ALTER DATABASE "{database.name}" RESET search_path')
    rollout.nothing_left()
    assert rollout.dump() == rollout.before
