"""Every kind of statement, in every phase, by both versions: it ends as it would without a rollout, and the other version sees it."""

from __future__ import annotations

from typing import Any, Final

import psycopg

from tests.integration.traffic.stage import Statement, Traffic, Version
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.model.phases import State

# {k} is a number of its own for each execution. Rows 1 to 40 are there from the start.
OLD: Final = (
    "INSERT INTO people DEFAULT VALUES RETURNING id, code, name, balance, score, note",
    "INSERT INTO people (code, score) VALUES ({k}, NULL) RETURNING id, balance, score",
    "INSERT INTO people (code, score, note) VALUES ({k}, DEFAULT, NULL), ({k} + 50000, 3, DEFAULT) RETURNING score, note",
    "INSERT INTO people (name, balance) VALUES (NULL, 3)",
    "INSERT INTO people (name, balance) VALUES ('No Balance', NULL)",
    "INSERT INTO people (code) VALUES (4)",
    "INSERT INTO people (balance) VALUES (-1001)",
    "INSERT INTO people (code, name) SELECT code + {k} * 100, name || '!' FROM people WHERE id <= 3 RETURNING code, name, balance",
    (
        "INSERT INTO people (code, balance) VALUES (5, 1) ON CONFLICT (code) DO UPDATE SET balance = people.balance + excluded.balance"
        " RETURNING id, balance"
    ),
    "INSERT INTO people (code) VALUES (6), ({k}) ON CONFLICT DO NOTHING RETURNING code, name",
    "INSERT INTO people (id, name) VALUES (7, 'Up Sert') ON CONFLICT (id) DO UPDATE SET name = excluded.name, score = DEFAULT RETURNING name, score",
    "INSERT INTO people (code, score) VALUES (8, NULL) ON CONFLICT (code) DO UPDATE SET score = excluded.score, note = 'kept' WHERE people.balance > 0",
    "UPDATE people SET balance = balance + 5, name = upper(name) WHERE id IN (9, 10) RETURNING id, name, balance",
    "UPDATE people SET score = DEFAULT, note = DEFAULT, balance = DEFAULT, name = DEFAULT WHERE id = 11 RETURNING name, balance, score, note",
    "UPDATE people SET score = NULL WHERE id = 12",
    "UPDATE people SET (name, balance) = (SELECT p.name || 'x', p.balance + 1 FROM people p WHERE p.id = 1) WHERE id = 13",
    "UPDATE people SET balance = people.balance + p.balance FROM people p WHERE people.id = 14 AND p.id = 15 RETURNING people.balance, p.balance",
    "UPDATE people SET note = 'only this {k}' WHERE id = 16",
    "UPDATE people SET balance = -5000 WHERE id = 17",
    "UPDATE people SET code = 19 WHERE id = 18",
    "UPDATE people SET code = {k} WHERE code = 20 RETURNING code",
    "UPDATE people SET id = id + {k} * 1000 WHERE id = 21",
    (
        "WITH gone AS (DELETE FROM people WHERE id = (SELECT max(id) FROM people) RETURNING name, balance)"
        " INSERT INTO people (code, name, balance) SELECT {k}, name, balance FROM gone RETURNING name, balance"
    ),
    "DELETE FROM people USING people p WHERE people.id = p.id AND people.code = 22 RETURNING people.code, people.name",
    "SELECT id, name, balance FROM people WHERE id = 23 FOR UPDATE",
    "SELECT id, code, name, balance, score, note FROM people ORDER BY id",
)
NEW: Final = (
    "INSERT INTO people DEFAULT VALUES RETURNING id, code, first, last, balance, score, note",
    "INSERT INTO people (code, score) VALUES ({k}, NULL) RETURNING id, balance, score",
    "INSERT INTO people (code, score, note) VALUES ({k}, DEFAULT, NULL), ({k} + 50000, 3.5, DEFAULT) RETURNING score, note",
    "INSERT INTO people (first, last, balance) VALUES ('Ex', 'Plicit', 3.25) RETURNING first, last, balance",
    "INSERT INTO people (last) VALUES (NULL)",
    "INSERT INTO people (balance) VALUES (NULL)",
    "INSERT INTO people (balance) VALUES (-1001)",
)
# What computes from new columns, or wants their unique key, waits until they are filled.
NEW_FILLED: Final = (
    "INSERT INTO people (code) VALUES (24)",
    "INSERT INTO people (code, first) SELECT code + {k} * 100, first || '!' FROM people WHERE id <= 3 RETURNING code, first, last, balance",
    (
        "INSERT INTO people (code, balance) VALUES (25, 1.5) ON CONFLICT (code) DO UPDATE SET balance = people.balance + excluded.balance"
        " RETURNING id, balance"
    ),
    "INSERT INTO people (code) VALUES (26), ({k}) ON CONFLICT DO NOTHING RETURNING code, first",
    "INSERT INTO people (id, first) VALUES (27, 'Up') ON CONFLICT (id) DO UPDATE SET first = excluded.first, score = DEFAULT RETURNING first, score",
    "INSERT INTO people (code, score) VALUES (28, NULL) ON CONFLICT (code) DO UPDATE SET score = excluded.score, note = 'kept' WHERE people.balance > 0",
    "UPDATE people SET balance = balance + 5.05, first = upper(first) WHERE id IN (29, 30) RETURNING id, first, balance",
    "UPDATE people SET score = DEFAULT, note = DEFAULT, balance = DEFAULT, last = DEFAULT WHERE id = 31 RETURNING last, balance, score, note",
    "UPDATE people SET score = NULL WHERE id = 32",
    "UPDATE people SET (first, balance) = (SELECT p.first || 'x', p.balance + 1 FROM people p WHERE p.id = 1) WHERE id = 33",
    "UPDATE people SET balance = people.balance + p.balance FROM people p WHERE people.id = 34 AND p.id = 35 RETURNING people.balance, p.balance",
    "UPDATE people SET note = 'only this {k}' WHERE id = 36",
    "UPDATE people SET balance = -5000 WHERE id = 37",
    "UPDATE people SET code = 39 WHERE id = 38",
    "UPDATE people SET code = {k} WHERE code = 40 RETURNING code",
    "UPDATE people SET id = id + {k} * 1000 WHERE id = 6",
    (
        "WITH gone AS (DELETE FROM people WHERE id = (SELECT max(id) FROM people) RETURNING first, balance)"
        " INSERT INTO people (code, first, balance) SELECT {k}, first, balance FROM gone RETURNING first, last, balance"
    ),
    "DELETE FROM people USING people p WHERE people.id = p.id AND people.code = 2 RETURNING people.code, people.last",
    "SELECT id, first, last, balance FROM people WHERE id = 23 FOR UPDATE",
    "SELECT id, code, first, last, balance, score, note FROM people ORDER BY id",
)
# On the table itself, where what the server has no name for through a view works too.
BY_CONSTRAINT: Final = (
    "INSERT INTO people (code, balance) VALUES (30, 2) ON CONFLICT ON CONSTRAINT people_code DO UPDATE SET balance = people.balance + 2 RETURNING code, balance",
    "INSERT INTO people (code) VALUES (31) ON CONFLICT ON CONSTRAINT people_code DO NOTHING RETURNING code",
    "INSERT INTO people (id) VALUES (32) ON CONFLICT ON CONSTRAINT people_pkey DO UPDATE SET note = 'by key'",
)
MERGES: Final = {
    False: "MERGE INTO people USING (VALUES (1, 100), (2, -1), (3, 300), ({k}, 7)) AS v (code, amount) ON people.code = v.code"
    " WHEN MATCHED AND v.amount < 0 THEN DELETE"
    " WHEN MATCHED AND v.amount > 200 THEN UPDATE SET name = 'Merged ' || v.amount"
    " WHEN MATCHED THEN UPDATE SET balance = people.balance + v.amount, score = DEFAULT"
    " WHEN NOT MATCHED AND v.code > 1000 THEN INSERT (code, balance, score) VALUES (v.code, v.amount, NULL)",
    True: "MERGE INTO people USING (VALUES (33, 100.5), (34, -1), (35, 300), ({k}, 7.75)) AS v (code, amount) ON people.code = v.code"
    " WHEN MATCHED AND v.amount < 0 THEN DELETE"
    " WHEN MATCHED AND v.amount > 200 THEN UPDATE SET first = 'Merged', last = v.amount::text"
    " WHEN MATCHED THEN UPDATE SET balance = people.balance + v.amount, score = DEFAULT"
    " WHEN NOT MATCHED AND v.code > 1000 THEN INSERT (code, balance, score) VALUES (v.code, v.amount, NULL)",
}


def copy_in(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """COPY with some columns given, NULL among them, and the others' defaults."""
    with (
        connection.transaction(),
        connection.cursor().copy("COPY people (code, balance, note) FROM STDIN") as copy,
    ):
        for n in range(3):
            copy.write_row((None, 70 + n, None if n == 1 else f"copied {n}"))
    return []


def copy_out(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor().copy(
        "COPY (SELECT code, balance, note FROM people ORDER BY id) TO STDOUT"
    ) as copy:
        return [tuple(row) for row in copy.rows()]


def everything(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """SELECT *, its columns' names included."""
    cursor = connection.execute("SELECT * FROM people ORDER BY id")
    return [tuple(column.name for column in cursor.description or ()), *cursor.fetchall()]


def current_of(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """A cursor that is held open while its rows are changed one by one, and one that outlives its transaction."""
    with connection.transaction():
        connection.execute("DECLARE walk CURSOR FOR SELECT id, balance FROM people WHERE id > 36 FOR UPDATE")
        connection.execute(
            "DECLARE keep CURSOR WITH HOLD FOR SELECT id, balance FROM people WHERE id > 36 ORDER BY id"
        )
        while connection.execute("FETCH walk").fetchall():
            connection.execute(
                "UPDATE people SET balance = balance + 1, note = 'walked' WHERE CURRENT OF walk"
            )
    kept = connection.execute("FETCH ALL keep").fetchall()
    connection.execute("CLOSE keep")
    return kept


@on_all_versions
def test_statements_on_the_table_through_to_the_end(database: Database) -> None:
    through_all(database, view=False)


def test_statements_through_the_view_and_back(database: Database) -> None:
    through_all(database, view=True)


def through_all(database: Database, *, view: bool) -> None:
    """Tell both versions everything in every phase; the old one through its view, or on the table itself."""
    merges = not view or database.server.major >= 17
    with Traffic(database, old_view=view) as traffic:
        for state in traffic.through(back=view):

            def tell(who: Version, *statements: Statement, state: State = state) -> None:
                for statement in statements:
                    traffic.tell(who, statement, state)

            if state is not State.COMPLETED:
                tell(traffic.old, *OLD)
                tell(
                    traffic.old, *((everything,) if view else (*BY_CONSTRAINT, copy_in, copy_out, current_of))
                )
                if merges:
                    tell(traffic.old, MERGES[False])
            if state not in {State.PLANNED, State.ROLLED_BACK}:
                tell(traffic.new, *NEW)
            if state in {State.MIGRATED, State.SWITCHED_OVER, State.COMPLETED}:
                tell(traffic.new, *NEW_FILLED, copy_out)
                if database.server.major >= 17:
                    tell(traffic.new, MERGES[True])
