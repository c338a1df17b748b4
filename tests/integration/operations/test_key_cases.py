"""Keys of other types, what depends on them, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.harness import OPEN_GATES, Rollout
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.operations.migration import Migration


def change(table: str, column: str, to: str, **more: Any) -> dict[str, object]:
    return {"change_type": {"table": table, "column": column, "to": to, **more}}


PEOPLE = """
CREATE TABLE people (id serial PRIMARY KEY, name text NOT NULL, born date);
CREATE TABLE pets (name text, person int REFERENCES people ON UPDATE CASCADE, UNIQUE (person, name));
CREATE TABLE things (id text PRIMARY KEY, part_of text REFERENCES things);
CREATE VIEW owners AS SELECT p.id, p.name, p.born, count(*) AS pets
FROM people p JOIN pets t ON t.person = p.id GROUP BY p.id, p.name, p.born;
INSERT INTO people (name) SELECT 'p' || g FROM generate_series(1, 20) g;
INSERT INTO pets SELECT 'pet' || g, g % 20 + 1 FROM generate_series(1, 60) g;
INSERT INTO things SELECT '00000000-0000-0000-0000-' || lpad(g::text, 12, '0') FROM generate_series(1, 9) g;
UPDATE things SET part_of = '00000000-0000-0000-0000-000000000001';
"""


def test_a_key_becomes_text_and_another_uuid_with_all_that_refers_to_them(database: Database) -> None:
    """Both sides of each reference get the same mapping; views that group by the key are made anew with the new one."""
    back = {"down": "substr(id, 3)::int", "up": "'n-' || id"}
    operations = [
        change(
            "people",
            "id",
            "text",
            default="'n-' || nextval('people_id_seq')",
            **back,
        ),
        change(
            "pets",
            "person",
            "text",
            up="'n-' || person",
            down="substr(person, 3)::int",
        ),
        change("things", "id", "uuid"),
        change("things", "part_of", "uuid"),
    ]
    rollout = Rollout(
        database,
        Scenario(setup=PEOPLE, operations=()),
        given=Migration.model_validate(
            {"id": "try_it", "operations": operations, "gates": OPEN_GATES, "dependents": "recreate"}
        ),
    )
    for state in (State.MIGRATED, State.SWITCHED_OVER):
        rollout.advance_to(state, restart=True)
        rollout.execute_new(
            "INSERT INTO people (id, name) VALUES ('n-500', 'new'); INSERT INTO people (name) VALUES ('numbered')"
        )
        rollout.execute_new(
            "INSERT INTO pets VALUES ('rex', 'n-500'); UPDATE people SET id = 'n-501' WHERE id = 'n-500'"
        )
        database.execute("INSERT INTO people (name) VALUES ('old')")
        assert database.value("SELECT person FROM pets WHERE name = 'rex'") == 501
        rollout.engine().rollback("try_it")
        assert rollout.dump() == rollout.before
        database.execute("DELETE FROM pets WHERE name = 'rex'; DELETE FROM people WHERE id = 501")
    rollout.advance_to(State.COMPLETED, restart=True)
    rollout.nothing_left()
    database.execute("INSERT INTO people (name) VALUES ('after')")
    last = database.value("SELECT max(substr(id, 3)::int) FROM people")
    assert database.execute("SELECT id FROM people WHERE name = 'after'") == [(f"n-{last}",)]
    assert database.execute("SELECT name, pets FROM owners WHERE id = 'n-7'") == [("p7", 3)]
    assert database.value("SELECT pg_get_serial_sequence('people', 'id')") == "public.people_id_seq"
    assert database.execute("SELECT DISTINCT part_of::text FROM things") == [
        ("00000000-0000-0000-0000-000000000001",)
    ]


@pytest.mark.parametrize(
    "setup, operation, what",
    [
        (
            "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE c (id int REFERENCES t); INSERT INTO t VALUES (2); INSERT INTO c TABLE t",
            change("t", "id", "bigint", up="id + 10::bigint", down="(id - 10)::int"),
            "1 row of public.c would break foreign key c_id_fkey",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE c (id int REFERENCES t)",
            change("t", "id", "text"),
            "the foreign key c_id_fkey of public.c cannot follow the replaced column",
        ),
        (
            (
                "CREATE TABLE t (id int PRIMARY KEY, a int DEFAULT 1); CREATE TABLE u (id int DEFAULT 1 REFERENCES t ON DELETE SET DEFAULT UNIQUE);"
                "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u (id) ON DELETE SET DEFAULT"
            ),
            [change("t", "a", "bigint"), change("u", "id", "bigint")],
            "the foreign key u_id_fkey of public.u cannot follow the replaced column: it sets id to a default",
        ),
        (
            "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY); CREATE TABLE u (id int DEFAULT nextval('t_id_seq'))",
            change("t", "id", "bigint"),
            "the user of the identity sequence default value for column id of table public.u uses id",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE VIEW v AS SELECT id, a FROM t GROUP BY id",
            change("t", "id", "bigint"),
            "the view that groups by the key public.v uses id",
        ),
        (
            "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY)",
            change("t", "id", "numeric"),
            "id is an identity column, and numeric is no type that PostgreSQL numbers",
        ),
    ],
)
def test_what_cannot_follow_is_refused_before_anything_changes(
    database: Database, setup: str, operation: dict[str, object] | list[dict[str, object]], what: str
) -> None:
    operations = operation if isinstance(operation, list) else [operation]
    migration = Migration.model_validate({"id": "try_it", "operations": operations, "dependents": "recreate"})
    rollout = Rollout(database, Scenario(setup=setup, operations=()), given=migration)
    with pytest.raises(BadInput) as caught:
        rollout.engine().plan(rollout.migration)
    (problem,) = caught.value.problems
    assert what in problem.what
    assert problem.remedy
    assert problem.rule


@pytest.mark.parametrize("numbered", ["serial", "int GENERATED ALWAYS AS IDENTITY"])
def test_a_key_under_a_name_of_its_own_beside_the_old_one(database: Database, numbered: str) -> None:
    """Without version schemas: both versions use the table itself, and neither needs to give a number."""
    rollout = Rollout(
        database,
        Scenario(
            setup=f"CREATE TABLE t (id {numbered} PRIMARY KEY, n text); INSERT INTO t (n) VALUES ('first');"
            " CREATE TABLE c (t int REFERENCES t ON DELETE CASCADE); INSERT INTO c VALUES (1)",
            operations=(change("t", "id", "bigint", name="number"),),
        ),
        expose="columns",
    )
    for state in (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER):
        rollout.advance_to(state)
        database.execute("INSERT INTO t (n) VALUES ('plain')")
        rollout.execute_new("INSERT INTO t (n, number) VALUES ('given', 1000 + (SELECT count(*) FROM t))")
        assert database.value("SELECT bool_and(id = number) FROM t WHERE n <> 'first'") is True
    rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    ((number,),) = database.execute("INSERT INTO t (n) VALUES ('after') RETURNING number")
    assert 3 < number < 1000
    assert database.value("SELECT count(*) = count(DISTINCT number) FROM t") is True
    assert database.value("SELECT pg_get_serial_sequence('t', 'number')") == "public.t_id_seq"
    database.execute("DELETE FROM t WHERE n = 'first'")
    assert database.value("SELECT count(*) FROM c") == 0


def test_an_identity_that_gets_narrower_ends_where_its_type_does(database: Database) -> None:
    rollout = Rollout(
        database,
        Scenario(
            setup="CREATE TABLE t (id bigint GENERATED BY DEFAULT AS IDENTITY (MINVALUE -9000000000 MAXVALUE 9000000000 START 5), n int);"
            " INSERT INTO t (n) VALUES (1)",
            operations=(change("t", "id", "int"),),
        ),
    )
    rollout.advance_to(State.COMPLETED)
    assert database.execute("INSERT INTO t (n) VALUES (2) RETURNING id") == [(6,)]
    query = "SELECT seqmin, seqmax, seqstart FROM pg_sequence WHERE seqrelid = 't_id_seq'::regclass"
    assert database.execute(query) == [(-2147483648, 2147483647, 5)]


@on_all_versions
@pytest.mark.parametrize("deferrable", ["", " DEFERRABLE INITIALLY DEFERRED"])
def test_a_key_that_sets_its_column_to_a_default(database: Database, deferrable: str) -> None:
    """The old key acts until the swap, and the column it sets is mirrored; the new one acts from the swap on, by the new default."""
    rollout = Rollout(
        database,
        Scenario(
            setup="CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 50);"
            "CREATE TABLE c (n int PRIMARY KEY, t int DEFAULT 1 CONSTRAINT keeps REFERENCES t ON UPDATE CASCADE ON DELETE SET DEFAULT"
            f"{deferrable}); COMMENT ON CONSTRAINT keeps ON c IS 'one of them';"
            "INSERT INTO c SELECT g, g % 50 + 1 FROM generate_series(1, 100) g;",
            operations=(
                change("c", "t", "bigint"),
                {"rename_column": {"table": "c", "column": "t", "to": "owner"}},
            ),
            old_writes=(
                "INSERT INTO c VALUES ({n}, 2)",
                "UPDATE c SET t = {n} % 20 + 1 WHERE n = {n} % 100 + 1",
            ),
            new_writes=("INSERT INTO c (n, owner) VALUES ({n}, 3)",),
        ),
    )
    rollout.advance_to(State.PREPARED)
    with rollout.writing():
        rollout.advance_to(State.SWITCHED_OVER)
    database.execute("INSERT INTO c VALUES (9001, 41), (9002, 42), (9003, 43), (9004, 44)")
    database.execute("DELETE FROM t WHERE id = 41; UPDATE t SET id = 142 WHERE id = 42")
    assert database.execute("SELECT t, _zdm_t FROM c WHERE n IN (9001, 9002) ORDER BY n") == [
        (1, 1),
        (142, 142),
    ]
    rollout.agree()
    with rollout.writing(old=False):
        rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    database.execute("DELETE FROM t WHERE id = 43; UPDATE t SET id = 144 WHERE id = 44")
    assert database.execute("SELECT owner FROM c WHERE n IN (9003, 9004) ORDER BY n") == [(1,), (144,)]
    assert database.execute(
        "SELECT pg_get_constraintdef(oid), convalidated, obj_description(oid, 'pg_constraint') FROM pg_constraint"
        " WHERE conrelid = 'c'::regclass AND contype = 'f'"
    ) == [
        (
            f"FOREIGN KEY (owner) REFERENCES t(id) ON UPDATE CASCADE ON DELETE SET DEFAULT{deferrable}",
            True,
            "one of them",
        )
    ]


@on_all_versions
def test_a_key_that_sets_its_column_to_a_default_and_what_it_refers_to(database: Database) -> None:
    """To a table that is replaced and renamed in the same migration, and to its own: each swap makes the key before the other side's."""
    action = "ON UPDATE CASCADE ON DELETE SET DEFAULT"
    rollout = Rollout(
        database,
        Scenario(
            setup=f"CREATE TABLE t (id int PRIMARY KEY, up int DEFAULT 1 CONSTRAINT own REFERENCES t {action});"
            f"CREATE TABLE a (n int PRIMARY KEY, t int DEFAULT 1 CONSTRAINT keeps REFERENCES t {action});"
            "INSERT INTO t SELECT g, 1 FROM generate_series(1, 50) g; INSERT INTO a SELECT g, g % 50 + 1 FROM generate_series(1, 100) g;"
            "INSERT INTO a SELECT 9000 + g, 40 + g FROM generate_series(1, 4) g;",
            operations=(
                change("t", "id", "bigint"),
                change("t", "up", "bigint"),
                {"rename_column": {"table": "t", "column": "id", "to": "key"}},
                {"rename_table": {"table": "t", "to": "things"}},
                change("a", "t", "bigint"),
            ),
            old_writes=(
                "INSERT INTO t VALUES ({n}, 2)",
                "INSERT INTO a VALUES ({n}, 2)",
                "UPDATE a SET t = {n} % 20 + 1 WHERE n = {n} % 100 + 1",
                "DELETE FROM t WHERE id = {n} - 20",
            ),
            new_writes=(
                "INSERT INTO things (key, up) VALUES ({n}, 3)",
                "INSERT INTO a (n, t) VALUES ({n}, 3)",
                "DELETE FROM things WHERE key = {n} - 20",
            ),
        ),
    )
    rollout.advance_to(State.PREPARED)
    with rollout.writing():
        rollout.advance_to(State.SWITCHED_OVER)
    rollout.execute_new("DELETE FROM things WHERE key = 41; UPDATE things SET key = 142 WHERE key = 42")
    assert database.execute("SELECT n, t, _zdm_t FROM a WHERE n IN (9001, 9002) ORDER BY n") == [
        (9001, 1, 1),
        (9002, 142, 142),
    ]
    rollout.agree()
    rollout.engine().rollback("try_it")
    assert rollout.dump() == rollout.before
    rollout.advance_to(State.SWITCHED_OVER, restart=True)
    with rollout.writing(old=False):
        rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    database.execute(
        "UPDATE things SET up = 43 WHERE key = 10; DELETE FROM things WHERE key = 43; UPDATE things SET key = 144 WHERE key = 44"
    )
    assert database.execute("SELECT t FROM a WHERE n IN (9003, 9004) ORDER BY n") == [(1,), (144,)]
    assert database.value("SELECT up FROM things WHERE key = 10") == 1
    assert database.execute(
        "SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace ORDER BY 1"
    ) == [
        ("keeps", f"FOREIGN KEY (t) REFERENCES things(key) {action}", True),
        ("own", f"FOREIGN KEY (up) REFERENCES things(key) {action}", True),
    ]
