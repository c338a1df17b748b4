"""A partitioned table through all phases: range, list, hash and default partitions, which come and go meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.conformance.harness import OPEN_GATES, Rollout
from tests.support import Scene
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.backfill.options import Hooks, Options, Wait
from zdm.backfill.run import backfill
from zdm.catalog import rollouts
from zdm.db.session import connect
from zdm.engine.reporter import Silent
from zdm.engine.rollout import Engine
from zdm.engine.settings import EngineSettings
from zdm.errors import BadInput, ZdmError
from zdm.model.mapping import TableMapping
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.model.step import Phase, Step
from zdm.operations.migration import Migration

EVENTS = """
CREATE TABLE owners (id int PRIMARY KEY);
INSERT INTO owners SELECT generate_series(1, 50);
CREATE TABLE events (id bigint NOT NULL, day int NOT NULL, owner int NOT NULL REFERENCES owners,
  amount int DEFAULT 5 CONSTRAINT positive CHECK (amount >= 0), note text, PRIMARY KEY (id, day),
  CONSTRAINT once UNIQUE (owner, id, day)) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
CREATE TABLE events_2 (note text, gone int, amount int DEFAULT 5 CONSTRAINT positive CHECK (amount >= 0), owner int NOT NULL,
  day int NOT NULL, id bigint NOT NULL);
ALTER TABLE events_2 DROP COLUMN gone;
ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES FROM (10) TO (20);
CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM (20) TO (30) PARTITION BY HASH (id);
CREATE TABLE "Events 3a" PARTITION OF events_3 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE events_3b PARTITION OF events_3 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE INDEX events_amount_idx ON events (amount) INCLUDE (note);
CREATE INDEX events_partial ON events (lower(note), owner DESC) WHERE amount > 10;
INSERT INTO events SELECT g, g % 35, g % 50 + 1, g, 'n' || g FROM generate_series(1, 600) g;
"""
DOWN = "round(amount)::int"
CHANGES: tuple[dict[str, object], ...] = (
    {
        "change_type": {
            "table": "events",
            "column": "amount",
            "to": "numeric(18,2)",
            "up": "amount::numeric(18,2)",
            "down": DOWN,
            "default": "5",
        }
    },
    {"change_type": {"table": "events", "column": "owner", "to": "bigint"}},
    {"rename_column": {"table": "events", "column": "note", "to": "remark"}},
    {"create_index": {"table": "events", "name": "events_remark", "columns": ["remark", "amount"]}},
    {"add_unique": {"table": "events", "columns": ["amount", "id", "day"]}},
    {"add_check": {"table": "events", "name": "small", "check": "amount < 100000000"}},
    {"set_not_null": {"table": "events", "column": "amount"}},
)
SCENARIO = Scenario(
    setup=EVENTS,
    operations=CHANGES,
    old_writes=(
        "INSERT INTO events (id, day, owner, amount, note) VALUES ({n}, {n} % 35, 3, {n} % 900, 'o')",
        "UPDATE events SET amount = amount + 1 WHERE id = {n} % 300 + 1",
        "UPDATE events SET day = ({n} * 7) % 35 WHERE id = {n} % 300 + 1",
        "DELETE FROM events WHERE id = {n} - 20",
    ),
    new_writes=(
        "INSERT INTO events (id, day, owner, amount, remark) VALUES ({n}, {n} % 35, 4, {n} % 900 + 0.25, 'w')",
        "UPDATE events SET amount = ({n} % 1000) + 0.5 WHERE id = {n} % 300 + 1",
        "UPDATE events SET day = ({n} * 11) % 35, remark = 'moved' WHERE id = {n} % 300 + 1",
    ),
    agree="SELECT count(*) > 500 AND bool_and(round(n.amount)::int = o.amount AND n.owner = o.owner)"
    " FROM events n JOIN public.events o USING (id, day)",
)
INDEXES = """
SELECT t.relname, x.relname, pg_get_indexdef(x.oid) FROM pg_partition_tree('events') p JOIN pg_class t ON t.oid = p.relid
JOIN pg_index i ON i.indrelid = t.oid JOIN pg_class x ON x.oid = i.indexrelid ORDER BY 1, 2
"""
# The catalogs of eight tables with six indexes each are changed at once, on a machine that runs other tests.
PATIENT = EngineSettings(workers=1, lock_budget=timedelta(milliseconds=500))
# What a maintenance job does every month, its rows included, by the old names only.
BY_HAND = "INSERT INTO events_{n} (id, day, owner, amount, note) SELECT {n}000 + g, {n}0, 7, g, 'loaded' FROM generate_series(1, 50) g;"
CREATED = "CREATE TABLE events_{n} PARTITION OF events FOR VALUES FROM ({n}0) TO ({n}1);" + BY_HAND
ATTACHED = (
    "CREATE TABLE events_{n} (LIKE events INCLUDING ALL);"
    + BY_HAND
    + "ALTER TABLE events ATTACH PARTITION events_{n} FOR VALUES FROM ({n}0) TO ({n}1);"
)


def migration(*operations: object, **more: object) -> Migration:
    return Migration.model_validate({"id": "try_it", "operations": list(operations), **more})


def refused(database: Database, *operations: object) -> list[str]:
    """What planning the operations says, by rule; nothing is changed."""
    engine = Engine(database.dsn)
    engine.init()
    with pytest.raises(BadInput) as raised:
        engine.advance(migration(*operations))
    assert all(problem.remedy for problem in raised.value.problems)
    assert database.value("SELECT count(*) FROM pg_attribute WHERE attname ~ '^_zdm'") == 0
    return [problem.rule for problem in raised.value.problems]


@on_all_versions
def test_partitions_come_and_go_in_every_phase(database: Database) -> None:
    """Writers of both versions move rows between partitions; a maintenance job creates, loads, attaches, detaches, drops."""
    rollout = Rollout(database, SCENARIO, settings=PATIENT)
    kept = {row for row in database.execute(INDEXES) if "amount" not in row[2] and "owner" not in row[2]}
    with rollout.writing(new=False):
        rollout.advance_to(State.PREPARED)
        database.execute(CREATED.format(n=9))
        database.execute(ATTACHED.format(n=10))
    with rollout.writing():
        rollout.advance_to(State.MIGRATED)
        rollout.advance_to(State.SWITCHED_OVER)
        database.execute(CREATED.format(n=11))
        database.execute(ATTACHED.format(n=12))
    # Nothing has filled what was loaded into a table that was not a partition yet; no phase goes on before somebody has.
    result = rollout.engine().advance(rollout.migration)
    (wrong,) = [v for v in result.verdicts if not v.lets_through]
    assert (wrong.gate, "public.events_12 became a partition" in wrong.observed) == ("verification", True)
    assert "--repair" in wrong.observed
    rollout.engine().verify("try_it", repair=True)
    rollout.agree()
    database.execute("ALTER TABLE events DETACH PARTITION events_9; DROP TABLE events_9, events_1")
    with rollout.writing(old=False):
        rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    after = set(database.execute(INDEXES))
    assert {row for row in kept if row[0] != "events_1"} <= after
    parts = {table for table, *_ in after}
    for table in parts - {"events"}:
        assert sum(1 for row in after if row[0] == table) == 6, table
    assert {(t, i) for t, i, _ in after if t == "Events 3a"} >= {
        ("Events 3a", "Events 3a_amount_note_idx"),
        ("Events 3a", "Events 3a_lower_owner_idx"),
        ("Events 3a", "Events 3a_owner_id_day_key"),
    }
    assert database.value(
        "SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid IN (SELECT relid FROM pg_partition_tree('events'))"
    )
    keys = database.execute(
        "SELECT conname, convalidated, count(*) FROM pg_constraint"
        " WHERE conrelid IN (SELECT relid FROM pg_partition_tree('events')) AND contype = 'f' GROUP BY 1, 2"
    )
    assert keys == [("events_owner_fkey", True, len(parts))]


@on_all_versions
def test_the_way_back_from_every_phase(database: Database) -> None:
    """The schema is as it was, whatever partitions came meanwhile, and the rows of the new version are there."""
    rollout = Rollout(database, SCENARIO, settings=PATIENT)
    for number, state in enumerate((State.PREPARED, State.MIGRATED, State.SWITCHED_OVER), 5040):
        with rollout.writing(new=False):
            rollout.engine().advance(rollout.migration, until=Phase.PREPARATION, restart=True)
            if state is not State.PREPARED:
                rollout.advance_to(state)
            rollout.execute_new(
                f"INSERT INTO events (id, day, owner, amount) VALUES ({number}, {number}, 1, 7.25)"
            )
            rollout.execute_new(f"UPDATE events SET day = 3 WHERE id = {number} AND day = {number}")
            assert rollout.engine().rollback("try_it").state is State.ROLLED_BACK
        rollout.nothing_left()
        assert rollout.dump() == rollout.before
        assert database.value(f"SELECT amount FROM events WHERE id = {number} AND day = 3") == 7


def test_a_row_that_moves_is_settled_as_it_was(database: Database) -> None:
    """Who wrote last is told by the marker alone; a move must neither derive anew nor make the new side the owner."""
    database.execute(
        "CREATE TABLE t (id int, k int, a int, b int) PARTITION BY LIST (k);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 (b int, a int, k int, id int);"
        "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2); INSERT INTO t VALUES (1, 1, 10, 1), (2, 1, 20, 2), (3, 1, 30, 3)"
    )
    engine = Engine(database.dsn)
    engine.init()
    engine.advance(
        migration(
            {"add_column": {"table": "t", "column": "c", "type": "int", "up": "a * 10"}},
            {
                "change_type": {
                    "table": "t",
                    "column": "b",
                    "to": "text",
                    "up": "b::text",
                    "down": "length(b)",
                    "lossy": True,
                }
            },
        ),
        until=Phase.MIGRATION,
    )
    # 1: derived; 2: an explicit NULL of the new version, and a text whose old form says little; 3: as it was, in one statement.
    database.execute("UPDATE public_try_it.t SET c = NULL, b = 'xyz' WHERE id = 2")
    database.execute("UPDATE t SET k = 2 WHERE id IN (1, 2); UPDATE t SET k = 2, a = 31 WHERE id = 3")
    new = "SELECT v.id, v.c, v.b, t.tableoid::regclass::text FROM public_try_it.t v JOIN t USING (id) ORDER BY id"
    assert database.execute(new) == [(1, 100, "1", "t2"), (2, None, "xyz", "t2"), (3, 310, "3", "t2")]
    # Still derived where it was derived, still the new version's where that wrote.
    database.execute("UPDATE t SET a = a + 1")
    assert [row[1:3] for row in database.execute(new)] == [(110, "1"), (None, "xyz"), (320, "3")]
    assert database.execute("SELECT b FROM t ORDER BY id") == [(1,), (3,), (3,)]
    (found,) = engine.verify("try_it").tables
    assert (found.rows, found.unsettled, found.old_disagrees, found.new_disagrees) == (3, 0, 0, 0)


NUMBERS = (
    "CREATE TABLE t (id int, k int, a int) PARTITION BY LIST (k);"
    + "".join(f"CREATE TABLE t{k} PARTITION OF t FOR VALUES IN ({k});" for k in range(1, 6))
    + "INSERT INTO t SELECT g, g % 5 + 1, g FROM generate_series(1, 5000) g;"
)


def prepared(database: Database, setup: str = NUMBERS) -> tuple[int, TableMapping]:
    """A prepared rollout that widens ``t.a``: its number, and how the two versions relate."""
    database.execute(setup)
    engine = Engine(database.dsn)
    engine.init()
    engine.advance(
        migration({"change_type": {"table": "t", "column": "a", "to": "bigint"}}), until=Phase.PREPARATION
    )
    with connect(database.dsn, application_name="test") as conn:
        found = rollouts.find(conn, "try_it", "public")
        assert found is not None
        return found.id, rollouts.plan(conn, found.id).mappings[0]


def filled(database: Database, rollout: int, mapping: TableMapping, *events: Callable[[], object]) -> None:
    """Run the backfill with small chunks; before each chunk the next event happens."""
    left = list(events)

    def throttle(_: float) -> Wait:
        if left:
            left.pop(0)()
        return Wait(0)

    options = Options(first_rows=200, most_rows=200)
    result = backfill(
        lambda: connect(database.dsn, application_name="test"),
        rollout,
        mapping,
        options,
        Hooks(throttle=throttle),
    )
    assert result.complete
    assert not left
    assert database.value("SELECT count(*) FROM t WHERE _zdm_state IS NULL OR _zdm_a IS DISTINCT FROM a") == 0


@on_all_versions
def test_rows_that_move_while_they_are_filled(database: Database, scene: Scene) -> None:
    """From a partition that is still to be filled into one that is done, seen and unseen by the chunks: nothing is left."""
    rollout, mapping = prepared(database)
    mover = scene.session("mover")

    def begin() -> None:
        mover.begin()
        mover.run("UPDATE t SET k = 1 WHERE id IN (4, 9)")  # from t5, before anything is filled
        mover.run("UPDATE t SET k = 5 WHERE id = 5")  # from t1, which is filled next, into the last

    def turn() -> None:
        mover.run("COMMIT")
        mover.begin()
        mover.run("UPDATE t SET k = 2, a = a + 1 WHERE id = 14")
        mover.run("UPDATE t SET k = 5 WHERE id = 6")
        mover.run("COMMIT")

    wait: list[Callable[[], object]] = [lambda: None] * 6
    filled(database, rollout, mapping, begin, *wait, turn)
    assert database.value("SELECT count(*) FROM t") == 5000


@on_all_versions
def test_partitions_change_while_they_are_filled(database: Database) -> None:
    """One is attached with rows, one dropped, one emptied, one detached, one renamed, each while others are gone through."""
    rollout, mapping = prepared(database)
    one = database.execute
    filled(
        database,
        rollout,
        mapping,
        lambda: one(
            "CREATE TABLE t6 (LIKE t INCLUDING ALL); INSERT INTO t6 SELECT g, 6, g FROM generate_series(1, 700) g;"
            "ALTER TABLE t ATTACH PARTITION t6 FOR VALUES IN (6)"
        ),
        lambda: one("DROP TABLE t2"),
        lambda: one("TRUNCATE t3; INSERT INTO t VALUES (-3, 3, 5)"),
        lambda: one("ALTER TABLE t4 RENAME TO t44"),
        lambda: one("ALTER TABLE t DETACH PARTITION t5"),
        lambda: one("CREATE TABLE t7 PARTITION OF t FOR VALUES IN (7); INSERT INTO t VALUES (-7, 7, 7)"),
    )
    counts = "SELECT tableoid::regclass::text, count(*)::int FROM t GROUP BY 1 ORDER BY 1"
    assert database.execute(counts) == [("t1", 1000), ("t3", 1), ("t44", 1000), ("t6", 700), ("t7", 1)]
    # A finished backfill begins again for what comes after it, and for nothing else.
    one(
        "CREATE TABLE t8 (LIKE t INCLUDING ALL); INSERT INTO t8 VALUES (-8, 8, 8), (-9, 8, 9);"
        "ALTER TABLE t ATTACH PARTITION t8 FOR VALUES IN (8)"
    )
    filled(database, rollout, mapping)


@pytest.mark.parametrize("how", ["DROP TABLE t1", "TRUNCATE t1", "ALTER TABLE t DETACH PARTITION t1"])
def test_failures_go_with_their_partition(database: Database, how: str) -> None:
    """No trigger sees the rows of a partition go; what was recorded of them must not block the gates for ever."""
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10); CREATE TABLE t2 PARTITION OF t DEFAULT;"
        "INSERT INTO t SELECT g, g::text FROM generate_series(1, 20) g"
    )
    engine = Engine(database.dsn)
    engine.init()
    wanted = migration(
        {"change_type": {"table": "t", "column": "a", "to": "int", "up": "a::int", "down": "a::text"}},
        gates=OPEN_GATES,
    )
    engine.advance(wanted, until=Phase.MIGRATION)
    database.execute("UPDATE t SET a = 'no number' WHERE id IN (3, 13)")
    database.execute(how)
    database.execute("UPDATE t SET a = '13' WHERE id = 13")
    (refused,) = [v.gate for v in engine.advance(wanted).verdicts if not v.lets_through]
    assert refused == "sync_failures"
    engine.verify("try_it", repair=True)
    assert engine.advance(wanted).state is State.SWITCHED_OVER


def test_the_swap_looks_at_partitions_that_came_after_the_verification(database: Database) -> None:
    """Between the gates and the swap a job attaches a loaded partition: nothing of it may be lost."""
    scenario = Scenario(
        setup=NUMBERS, operations=({"change_type": {"table": "t", "column": "a", "to": "bigint"}},)
    )
    rollout = Rollout(database, scenario)
    rollout.advance_to(State.SWITCHED_OVER)

    class Attaches(Silent):
        def step_started(self, step: Step, number: int, total: int) -> None:
            del number, total
            if step.id.endswith(".swap"):
                database.execute(
                    "CREATE TABLE t6 (LIKE t INCLUDING ALL); INSERT INTO t6 VALUES (1, 6, 77);"
                    "ALTER TABLE t ATTACH PARTITION t6 FOR VALUES IN (6)"
                )

    with pytest.raises(
        ZdmError, match=r"public\.t6 became a partition of .* after that was verified"
    ) as raised:
        rollout.engine(Attaches()).advance(rollout.migration)
    assert "both versions of the application go on working" in str(raised.value)
    rollout.engine().verify("try_it", repair=True)
    rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    assert database.execute("SELECT a, pg_typeof(a)::text FROM t6") == [(77, "bigint")]


@on_all_versions
def test_the_key_takes_partitions_that_come_late(database: Database, scene: Scene) -> None:
    """Their indexes are built before the swap locks anything; one that comes while it waits for its locks makes it begin again."""
    scenario = Scenario(
        setup=NUMBERS + "ALTER TABLE t ADD PRIMARY KEY (id, k);",
        operations=({"change_type": {"table": "t", "column": "id", "to": "bigint"}},),
    )
    rollout = Rollout(database, scenario)
    rollout.advance_to(State.SWITCHED_OVER)
    reader = scene.session("reader")
    comes = "CREATE TABLE t{n} PARTITION OF t FOR VALUES IN ({n}); INSERT INTO t VALUES (1, {n}, 1)"
    left = [7]

    class Comes(Silent):
        def step_started(self, step: Step, number: int, total: int) -> None:
            del number, total
            if step.id.endswith(".swap"):
                database.execute(comes.format(n=6))
                reader.begin()
                reader.run("SELECT FROM t LIMIT 1")

        def waiting(self, text: str) -> None:
            del text
            if left:
                reader.run("COMMIT")
                database.execute(comes.format(n=left.pop()))

    with pytest.raises(
        ZdmError, match=r"t7 became a partition of public\.t while its primary key was exchanged"
    ):
        rollout.engine(Comes()).advance(rollout.migration)
    database.execute("INSERT INTO t VALUES (2, 7, 2)")
    rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    keys = "SELECT count(*), bool_and(indisvalid) FROM pg_index WHERE indisprimary AND indrelid IN (SELECT relid FROM pg_partition_tree('t'))"
    assert database.execute(keys) == [(8, True)]
    assert database.value("SELECT count(*) FROM t") == 5003


@pytest.mark.parametrize(
    ("setup", "operation", "rule"),
    [
        pytest.param(
            NUMBERS,
            {"change_type": {"table": "t", "column": "k", "to": "bigint"}},
            "partition-key-column",
            id="the partition key",
        ),
        pytest.param(
            EVENTS,
            {"add_unique": {"table": "events", "columns": ["amount"]}},
            "unique-without-partition-key",
            id="a unique constraint without the partition key",
        ),
        pytest.param(
            EVENTS + "ALTER TABLE events_2 ALTER amount SET STATISTICS 7",
            CHANGES[0],
            "partition-of-its-own",
            id="a setting of one partition",
        ),
        pytest.param(
            EVENTS + "ALTER TABLE events_2 ALTER COLUMN amount SET DEFAULT 6",
            CHANGES[0],
            "partition-of-its-own",
            id="a default of one partition",
        ),
        pytest.param(
            EVENTS + "CREATE VIEW shown AS SELECT amount FROM events_2",
            CHANGES[0],
            "dependent-object",
            id="a view of one partition",
        ),
        pytest.param(
            EVENTS
            + "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            + 'CREATE TRIGGER "~zz" BEFORE INSERT ON events_3b FOR EACH ROW EXECUTE FUNCTION f()',
            CHANGES[0],
            "trigger-sorts-last",
            id="a trigger of one partition after ours",
        ),
        pytest.param(
            NUMBERS
            + "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
            + "CREATE FOREIGN TABLE far PARTITION OF t FOR VALUES IN (9) SERVER s",
            {"rename_column": {"table": "t", "column": "a", "to": "b"}},
            "not-an-ordinary-table",
            id="a foreign partition",
        ),
        pytest.param(
            EVENTS,
            {"rename_column": {"table": "events_2", "column": "note", "to": "remark"}},
            "not-an-ordinary-table",
            id="a partition by itself",
        ),
    ],
)
def test_refused_by_name(database: Database, setup: str, operation: object, rule: str) -> None:
    database.execute(setup)
    assert refused(database, operation) == [rule]
