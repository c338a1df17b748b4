"""A table that others inherit from, as partitions were made before there were any: a trigger routes rows, a job makes children."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.conformance.harness import OPEN_GATES, Rollout
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.engine.reporter import Silent
from zdm.engine.rollout import Engine
from zdm.engine.settings import EngineSettings
from zdm.errors import BadInput, Busy, Drift, ZdmError
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.model.step import Step
from zdm.operations.migration import Migration

MEASUREMENTS = """
CREATE TABLE measurement (city int NOT NULL, day int NOT NULL, peak int DEFAULT 7 CONSTRAINT sane CHECK (peak > -100), sold int);
CREATE TABLE measurement_1 (CHECK (day >= 0 AND day < 10)) INHERITS (measurement);
CREATE TABLE measurement_2 (LIKE measurement INCLUDING ALL, CHECK (day >= 10 AND day < 20));
ALTER TABLE measurement_2 INHERIT measurement;
CREATE TABLE measurement_2b () INHERITS (measurement_2);
CREATE INDEX measurement_1_day ON measurement_1 (day);
CREATE UNIQUE INDEX measurement_2_day ON measurement_2 (day, city);
CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.day < 10 THEN
    INSERT INTO public.measurement_1 VALUES (NEW.*);
  ELSIF NEW.day < 20 THEN
    INSERT INTO public.measurement_2 VALUES (NEW.*);
  ELSIF NEW.day < 30 THEN
    EXECUTE 'INSERT INTO public.measurement_' || NEW.day || ' SELECT ($1).*' USING NEW;
  ELSE
    RETURN NEW;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER route BEFORE INSERT ON measurement FOR EACH ROW EXECUTE FUNCTION route();
INSERT INTO measurement SELECT g, g % 20, g % 50, g FROM generate_series(1, 300) g;
INSERT INTO measurement SELECT g, g % 20 + 30, g % 50, g FROM generate_series(1, 100) g;
INSERT INTO measurement_2b SELECT g, 10 + g % 10, g % 50, g FROM generate_series(1, 50) g;
"""
CHANGES: tuple[dict[str, object], ...] = (
    {
        "change_type": {
            "table": "measurement",
            "column": "peak",
            "to": "numeric(10,2)",
            "up": "peak::numeric(10,2)",
            "down": "round(peak)::int",
            "default": "7",
        }
    },
    {"rename_column": {"table": "measurement", "column": "sold", "to": "sales"}},
    {"add_column": {"table": "measurement", "column": "remark", "type": "text"}},
    {"add_check": {"table": "measurement", "name": "small", "check": "peak < 100000000"}},
)
SCENARIO = Scenario(
    setup=MEASUREMENTS,
    operations=CHANGES,
    old_writes=(
        "INSERT INTO measurement (city, day, peak) VALUES ({n}, {n} % 20 + ({n} % 2) * 30, {n} % 90)",
        "UPDATE measurement SET peak = peak + 1 WHERE city = {n} % 300 + 1",
        "UPDATE measurement_1 SET peak = peak + 1 WHERE city = {n} % 300 + 1",
        "UPDATE measurement SET sold = {n} WHERE city = {n} % 300 + 1",
        "DELETE FROM measurement WHERE city = {n} - 20",
    ),
    new_writes=(
        "INSERT INTO measurement (city, day, peak, sales, remark) VALUES ({n}, {n} % 20 + ({n} % 2) * 30, {n} % 90 + 0.25, 1, 'n')",
        "UPDATE measurement SET peak = ({n} % 90) + 0.5 WHERE city = {n} % 300 + 1",
        "UPDATE measurement SET sales = {n}, remark = 'm' WHERE city = {n} % 300 + 1",
    ),
    agree="SELECT count(*) > 400 AND bool_and(abs(n.peak) < 100000) FROM measurement n",
)
# The catalogs of six tables are changed at once, on a machine that runs other tests.
PATIENT = EngineSettings(workers=1, lock_budget=timedelta(milliseconds=500))
SHAPE = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attislocal, a.attinhcount,
  pg_get_expr(d.adbin, d.adrelid)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relname ~ '^measurement' AND c.relkind = 'r' ORDER BY 1, 2
"""
CHECKS = """
SELECT conrelid::regclass::text, conname, conislocal, coninhcount::int, convalidated FROM pg_constraint
WHERE conrelid::regclass::text ~ '^measurement' AND contype = 'c' ORDER BY 1, 2
"""


def migration(*operations: object, **more: object) -> Migration:
    return Migration.model_validate(
        {"id": "try_it", "operations": list(operations), "gates": OPEN_GATES, **more}
    )


def refused(database: Database, *operations: object) -> list[tuple[str, str]]:
    """What planning the operations says, and by which rule; nothing is changed."""
    engine = Engine(database.dsn)
    engine.init()
    with pytest.raises(BadInput) as raised:
        engine.advance(migration(*operations))
    assert all(problem.remedy for problem in raised.value.problems)
    assert database.value("SELECT count(*) FROM pg_attribute WHERE attname ~ '^_zdm'") == 0
    return [(problem.rule, problem.what) for problem in raised.value.problems]


def drift(rollout: Rollout) -> str:
    """What the gate says has changed."""
    with pytest.raises(Drift) as raised:
        rollout.engine().advance(rollout.migration)
    return "; ".join(problem.what for problem in raised.value.problems)


@on_all_versions
def test_through_all_phases_with_a_router_and_children_that_come(database: Database) -> None:
    """Writers of both versions; the job makes a child in each phase, in the two ways that the server's manual shows."""
    rollout = Rollout(database, SCENARIO, settings=PATIENT)
    with rollout.writing(new=False):
        rollout.advance_to(State.PREPARED)
    with rollout.writing():
        rollout.advance_to(State.MIGRATED)
        # Made by the job: in step is it only once somebody has looked. Nothing of the new version's can be written till then.
        database.execute(
            "CREATE TABLE measurement_20 (CHECK (day >= 20 AND day < 30)) INHERITS (measurement)"
        )
        database.execute(
            "INSERT INTO measurement_20 (city, day, peak) SELECT 1000 + g, 20, g FROM generate_series(1, 50) g"
        )
        bare = "public.measurement_20, which inherits from public.measurement, has no sync triggers"
        assert bare in drift(rollout)
        rollout.engine().verify("try_it", repair=True)
        rollout.advance_to(State.SWITCHED_OVER)
        database.execute(
            "CREATE TABLE measurement_9 (LIKE measurement INCLUDING ALL); ALTER TABLE measurement_9 INHERIT measurement"
        )
        database.execute(
            "INSERT INTO measurement_9 (city, day, peak) SELECT 1000 + g, 90, g FROM generate_series(1, 50) g"
        )
        assert "measurement_9" in drift(rollout)
        rollout.engine().backfill("try_it")
        rollout.engine().verify("try_it")
    rollout.agree()
    before = {(t, c): rest for t, c, *rest in database.execute(SHAPE) if c in {"city", "day"}}
    rollout.engine().fence("try_it")
    with rollout.writing(old=False):
        rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    shape = {(t, c): rest for t, c, *rest in database.execute(SHAPE)}
    tables = {t for t, _ in shape}
    assert tables == {f"measurement{n}" for n in ("", "_1", "_2", "_2b", "_20", "_9")}
    for table in tables:
        assert {c for t, c in shape if t == table} == {"city", "day", "peak", "sales", "remark"}
        assert shape[table, "peak"][0] == "numeric(10,2)", table
        assert shape[table, "peak"][-1] == "7", table
        # Whoever had its columns by itself has the new ones so too.
        assert {key: shape[key][2] for key in shape if key[0] == table} == dict.fromkeys(
            [key for key in shape if key[0] == table], before[table, "city"][2]
        )
    assert {row[0] for row in database.execute(CHECKS) if row[1] == "sane"} == tables
    assert database.value("SELECT count(*) FROM pg_inherits WHERE inhparent = 'measurement'::regclass") == 4


@on_all_versions
def test_the_way_back(database: Database) -> None:
    rollout = Rollout(database, SCENARIO, settings=PATIENT)
    rollout.advance_to(State.PREPARED)
    with rollout.writing():
        rollout.advance_to(State.SWITCHED_OVER)
    rollout.agree()
    database.execute(
        "CREATE TABLE measurement_9 (LIKE measurement INCLUDING ALL); ALTER TABLE measurement_9 INHERIT measurement"
    )
    rollout.engine().rollback("try_it")
    rollout.nothing_left()
    database.execute("DROP TABLE measurement_9")
    assert rollout.dump() == rollout.before


def test_a_child_without_triggers_takes_nothing_of_the_new_versions(database: Database) -> None:
    """What nobody keeps in step may be written by the old version only: that is filled afterwards, and nothing is lost."""
    rollout = Rollout(database, SCENARIO)
    rollout.advance_to(State.PREPARED)
    database.execute("CREATE TABLE measurement_20 () INHERITS (measurement)")
    database.execute("INSERT INTO measurement (city, day, peak) VALUES (1, 20, 1), (2, 20, 2)")
    for statement in (
        "INSERT INTO measurement (city, day, peak) VALUES (3, 20, 3.5)",
        "INSERT INTO measurement (city, day, peak) VALUES (3, 20, NULL)",
        "UPDATE measurement SET peak = 4.5 WHERE city = 2 AND day = 20",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match="in_step"):
            rollout.execute_new(statement)
    rollout.engine().backfill("try_it")
    rollout.advance_to(State.MIGRATED)
    rollout.execute_new("UPDATE measurement SET peak = 4.5 WHERE city = 2 AND day = 20")
    assert database.execute("SELECT peak FROM measurement_20") == [(1,), (5,)]
    rollout.agree()


def test_a_router_that_comes_later_cannot_leave_anything_behind(database: Database) -> None:
    rollout = Rollout(database, SCENARIO)
    rollout.advance_to(State.MIGRATED)
    database.execute(
        "CREATE OR REPLACE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO public.measurement_1 (city, day, peak) VALUES (NEW.city, NEW.day, NEW.peak); RETURN NULL; END $$"
    )
    with pytest.raises(
        psycopg.errors.ObjectNotInPrerequisiteState, match="without what the new version wrote"
    ):
        rollout.execute_new("INSERT INTO measurement (city, day, peak) VALUES (1000, 1, 3.5)")
    database.execute(
        "INSERT INTO measurement (city, day, peak) VALUES (1000, 1, 3); INSERT INTO measurement_2 (city, day) VALUES (1001, 11)"
    )
    assert database.execute("SELECT peak, _zdm_peak FROM measurement WHERE city >= 1000 ORDER BY city") == [
        (3, 3),
        (7, 7),
    ]
    # A row that stays in the parent, or goes nowhere, leaves nothing behind for the next statement of its transaction.
    database.execute(
        "CREATE OR REPLACE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RETURN CASE WHEN NEW.day > 30 THEN NEW END; END $$"
    )
    with psycopg.connect(database.dsn) as connection:
        for day in (1, 31):
            connection.execute(
                "INSERT INTO public_try_it.measurement (city, day, peak) VALUES (1002, %s, 1.5)", (day,)
            )
            connection.execute(
                "INSERT INTO measurement_2 (city, day, peak) VALUES (%s, 11, 5)", (1003 + day,)
            )
    rollout.sides_agree()


CHILD = "CREATE TABLE t (a int, b text, c int); CREATE TABLE kid (d int) INHERITS (t);"
REFUSED: dict[str, tuple[str, dict[str, object] | list[object], str, str]] = {
    "an inherited column": (
        CHILD,
        {"change_type": {"table": "kid", "column": "a", "to": "bigint"}},
        "not-an-ordinary-table",
        "kid inherits the column a from public.t",
    ),
    "an inherited column's name": (
        CHILD,
        {"rename_column": {"table": "kid", "column": "a", "to": "z"}},
        "not-an-ordinary-table",
        "kid inherits the column a from public.t",
    ),
    "two parents": (
        CHILD + "CREATE TABLE u (e int); ALTER TABLE kid ADD e int; ALTER TABLE kid INHERIT u;",
        {"change_type": {"table": "t", "column": "a", "to": "bigint"}},
        "not-an-ordinary-table",
        "inherits from public.t and public.u",
    ),
    "a column that a child has": (
        CHILD,
        {"add_column": {"table": "t", "column": "d", "type": "int"}},
        "not-an-ordinary-table",
        "has a column d of its own",
    ),
    "an index of a child's that nothing succeeds": (
        CHILD + "CREATE INDEX ON kid (a, b);",
        {
            "split_column": {
                "table": "t",
                "column": "b",
                "into": [{"name": "x", "type": "text", "up": "b"}, {"name": "y", "type": "text", "up": "b"}],
                "down": "x",
            }
        },
        "partition-of-its-own",
        "the index kid_a_b_idx stands on a, b, and split_column removes column b of public.kid",
    ),
    "a setting of a child's": (
        CHILD + "ALTER TABLE kid ALTER a SET STATISTICS 7;",
        {"change_type": {"table": "t", "column": "a", "to": "bigint"}},
        "partition-of-its-own",
        "has of its own the setting a on a",
    ),
    "a child that is changed by itself as well": (
        CHILD + "CREATE INDEX ON kid (a);",
        [
            {"change_type": {"table": "t", "column": "a", "to": "bigint"}},
            {"rename_column": {"table": "kid", "column": "d", "to": "e"}},
        ],
        "partition-of-its-own",
        "this migration changes public.kid by itself as well",
    ),
    "a default of a child's": (
        CHILD + "ALTER TABLE kid ALTER a SET DEFAULT 3;",
        {"set_default": {"table": "t", "column": "a", "default": "4"}},
        "partition-of-its-own",
        "has another default of a",
    ),
    "an identity": (
        "CREATE TABLE t (a int GENERATED ALWAYS AS IDENTITY, b text); CREATE TABLE kid () INHERITS (t);",
        {"change_type": {"table": "t", "column": "a", "to": "bigint"}},
        "identity-column",
        "without the identity",
    ),
    "a router by columns": (
        CHILD + "CREATE FUNCTION r() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO kid (a, b, c)"
        " VALUES (NEW.a, NEW.b, NEW.c); RETURN NULL; END $$; CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION r();",
        {"change_type": {"table": "t", "column": "a", "to": "bigint"}},
        "not-an-ordinary-table",
        "on to kid by a list of columns",
    ),
    "a router, and columns in another order": (
        CHILD
        + "CREATE FUNCTION r() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO kid VALUES (NEW.*); RETURN NULL; END $$;"
        " CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION r();",
        {"change_type": {"table": "t", "column": "a", "to": "bigint"}},
        "not-an-ordinary-table",
        "kid has other columns or has them in another order",
    ),
    "a rule that routes": (
        CHILD + "CREATE RULE r AS ON INSERT TO t DO INSTEAD INSERT INTO kid VALUES (NEW.*);",
        {"add_column": {"table": "t", "column": "e", "type": "int"}},
        "table-rule",
        "routes rows by the columns",
    ),
    "a table that others inherit from goes": (
        CHILD,
        {"drop_table": {"table": "t"}},
        "dependent-object",
        "kid inherits from public.t",
    ),
    "rows of two tables": (
        CHILD,
        {"shadow_table": {"table": "t", "primary_key": ["a"]}},
        "not-an-ordinary-table",
        "inheritance parent or child (child public.kid)",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refused_by_name(database: Database, why: str) -> None:
    setup, operation, rule, text = REFUSED[why]
    database.execute(setup)
    found = refused(database, *(operation if isinstance(operation, list) else [operation]))
    assert any(rule == r and text in what for r, what in found), found


def test_a_child_by_itself(database: Database) -> None:
    """Its own columns are changed in place; writes by way of the parent fire its triggers as any others."""
    scenario = Scenario(
        setup=CHILD
        + "INSERT INTO kid SELECT g, 'x', g, g FROM generate_series(1, 100) g; INSERT INTO t VALUES (1, 'p', 1);",
        operations=(
            {"change_type": {"table": "kid", "column": "d", "to": "bigint"}},
            {"create_index": {"table": "kid", "name": "kid_a", "columns": ["a"]}},
        ),
        old_writes=(
            "UPDATE kid SET d = {n} WHERE a = {n} % 100 + 1",
            "UPDATE t SET c = {n} WHERE a = {n} % 100 + 1",
        ),
        new_writes=("UPDATE kid SET d = {n} WHERE a = {n} % 100 + 1",),
    )
    rollout = Rollout(database, scenario)
    with rollout.writing():
        rollout.advance_to(State.SWITCHED_OVER)
        rollout.agree()
        # Both have the child's rows, so one rollout at a time.
        with pytest.raises(Busy):
            Engine(database.dsn).advance(
                Migration.model_validate(
                    {
                        "id": "more",
                        "operations": [{"change_type": {"table": "t", "column": "c", "to": "bigint"}}],
                    }
                )
            )
    rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    assert (
        database.value(
            "SELECT format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = 'kid'::regclass AND attname = 'd'"
        )
        == "bigint"
    )


class Late(Silent):
    """Somebody does something in the moment of the swap."""

    def __init__(self, database: Database, what: str) -> None:
        self.database, self.what = database, what

    def step_started(self, step: Step, number: int, total: int) -> None:
        del number, total
        if step.id.endswith(".swap"):
            self.database.execute(self.what)


def test_a_child_that_comes_in_the_moment_of_the_swap(database: Database) -> None:
    rollout = Rollout(
        database,
        Scenario(
            setup=CHILD + "INSERT INTO kid SELECT g, 'x', g, g FROM generate_series(1, 10) g;",
            operations=({"change_type": {"table": "t", "column": "a", "to": "bigint"}},),
        ),
    )
    rollout.advance_to(State.SWITCHED_OVER)
    late = Late(database, "CREATE TABLE more () INHERITS (t); INSERT INTO more (a) VALUES (77)")
    with pytest.raises(ZdmError, match=r"public\.more became a child of .* after that was verified"):
        rollout.engine(late).advance(rollout.migration)
    rollout.engine().verify("try_it", repair=True)
    rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    assert database.execute("SELECT a, pg_typeof(a)::text FROM more") == [(77, "bigint")]


def test_a_table_that_gets_a_child_meanwhile(database: Database) -> None:
    """The plan knows no children, so nobody would keep their rows in step, and the swap would take their columns along."""
    rollout = Rollout(
        database,
        Scenario(
            setup="CREATE TABLE t (a int, b text); INSERT INTO t SELECT g, 'x' FROM generate_series(1, 10) g;",
            operations=({"change_type": {"table": "t", "column": "a", "to": "bigint"}},),
        ),
    )
    rollout.advance_to(State.MIGRATED)
    database.execute("CREATE TABLE kid () INHERITS (t); INSERT INTO kid VALUES (1, 'y')")
    assert "kid inherits from public.t since the plan" in drift(rollout)
    database.execute("ALTER TABLE kid NO INHERIT t")
    rollout.advance_to(State.SWITCHED_OVER)

    attach = "ALTER TABLE kid INHERIT t"
    # After the gate, in the moment of the swap, it is the swap that looks.
    with pytest.raises(ZdmError, match=r"kid inherits from public\.t since the plan"):
        rollout.engine(Late(database, attach)).advance(rollout.migration)
    assert database.value("SELECT count(*) FROM kid WHERE a = 1") == 1
    database.execute("ALTER TABLE kid NO INHERIT t")
    rollout.advance_to(State.COMPLETED)


def test_what_a_child_gets_of_its_own_meanwhile(database: Database) -> None:
    """It would go with the old column, and nobody would know."""
    rollout = Rollout(database, SCENARIO)
    rollout.advance_to(State.PREPARED)
    database.execute("CREATE INDEX late ON measurement_1 (peak)")
    assert "index late of public.measurement_1 was made after the plan" in drift(rollout)
    database.execute("DROP INDEX late")
    rollout.advance_to(State.MIGRATED)


@on_all_versions
def test_every_change_of_columns_goes_to_the_children(database: Database) -> None:
    """NOT NULL, columns that are split, dropped, added and filled, in three levels; a key of the parent's own, and its name."""
    scenario = Scenario(
        setup="CREATE TABLE people (id serial PRIMARY KEY, name text NOT NULL, born text, legacy int NOT NULL DEFAULT 1, points int);"
        "CREATE TABLE staff (desk int) INHERITS (people); CREATE TABLE bosses (car text) INHERITS (staff);"
        "INSERT INTO people (name, points) SELECT 'P ' || g, g FROM generate_series(1, 100) g;"
        "INSERT INTO staff (name, points, desk) SELECT 'S ' || g, g, g FROM generate_series(1, 100) g;"
        "INSERT INTO bosses (name, points, car) SELECT 'B ' || g, g, 'vw' FROM generate_series(1, 100) g;",
        operations=(
            {
                "split_column": {
                    "table": "people",
                    "column": "name",
                    "into": [
                        {"name": "first", "type": "text", "up": "split_part(name, ' ', 1)"},
                        {"name": "last", "type": "text", "up": "split_part(name, ' ', 2)"},
                    ],
                    "down": "first || ' ' || last",
                }
            },
            {"drop_column": {"table": "people", "column": "legacy", "down": "length(last)"}},
            {"set_not_null": {"table": "people", "column": "points", "up": "coalesce(points, 0)"}},
            {
                "add_column": {
                    "table": "people",
                    "column": "rank",
                    "type": "int",
                    "not_null": True,
                    "up": "points / 10",
                }
            },
            {"create_index": {"table": "people", "name": "people_rank", "columns": ["rank"]}},
            {"rename_table": {"table": "people", "to": "persons"}},
        ),
        old_writes=(
            "INSERT INTO people (name, points) VALUES ('O {n}', {n})",
            "INSERT INTO bosses (name, points) VALUES ('O {n}', {n})",
            "UPDATE people SET name = 'U {n}' WHERE id = {n} % 300 + 1",
            "UPDATE staff SET points = points + 1 WHERE id = {n} % 300 + 1",
        ),
        new_writes=(
            "INSERT INTO persons (first, last, points, rank) VALUES ('N', '{n}', {n}, 1)",
            "UPDATE persons SET last = 'l{n}', rank = 3 WHERE id = {n} % 300 + 1",
        ),
    )
    rollout = Rollout(database, scenario, settings=PATIENT)
    preview = rollout.engine().preview(rollout.migration)
    assert any(
        "on all that inherits from public.people" in text for step in preview for text in step.statements
    )
    assert any(
        "covers the rows of public.people itself only" in f.text
        for f in rollout.engine().plan(rollout.migration).findings
    )
    with rollout.writing(new=False):
        rollout.advance_to(State.MIGRATED)
    with rollout.writing():
        rollout.advance_to(State.SWITCHED_OVER)
    rollout.agree()
    rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    kept = ["id", "born", "points", "first", "last", "rank"]
    for table, own in (("persons", []), ("staff", ["desk"]), ("bosses", ["desk", "car"])):
        found = database.execute(
            "SELECT attname, attnotnull FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            table,
        )
        assert {name for name, _ in found} == {*kept, *own}, table
        assert {name for name, required in found if required} >= {"id", "points", "rank"}, table
    assert database.value("SELECT count(*) FROM persons WHERE first IS NULL OR rank IS NULL") == 0


def test_a_child_that_comes_with_some_columns_of_its_own(database: Database) -> None:
    """It would keep the old column and lose the new one: it is named until it has both, or its key waits for cleanup."""
    scenario = Scenario(
        setup="CREATE TABLE t (a int NOT NULL, b text); INSERT INTO t VALUES (1, 'x');"
        "CREATE TABLE kid (a int PRIMARY KEY) INHERITS (t); INSERT INTO kid VALUES (2, 'y');",
        operations=({"change_type": {"table": "t", "column": "a", "to": "bigint"}},),
    )
    rollout = Rollout(database, scenario)
    rollout.advance_to(State.PREPARED)
    database.execute("CREATE TABLE late (a int PRIMARY KEY) INHERITS (t); INSERT INTO late VALUES (3, 'z')")
    rollout.engine().backfill("try_it")
    said = drift(rollout)
    assert (
        "late inherits from public.t since the plan, and has by itself as well a column that is replaced"
        in said
    )
    assert "late_pkey" in said
    database.execute("DROP TABLE late; CREATE TABLE late () INHERITS (t); INSERT INTO late VALUES (3, 'z')")
    rollout.engine().backfill("try_it")
    rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    mine = "SELECT attrelid::regclass::text, attname::text, attislocal, attinhcount FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped"
    assert database.execute(mine + " AND attrelid IN ('kid'::regclass, 'late'::regclass) ORDER BY 1, 2") == [
        ("kid", "a", True, 1),
        ("kid", "b", False, 1),
        ("late", "a", False, 1),
        ("late", "b", False, 1),
    ]
