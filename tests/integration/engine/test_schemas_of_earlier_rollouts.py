"""The version schema that a completed rollout leaves is the old version of later ones, possibly of several at once."""

from __future__ import annotations

from tests.conformance.harness import OPEN_GATES
from tests.support.servers import Database
from zdm.engine.rollout import Engine
from zdm.model.phases import State
from zdm.operations.migration import Migration


def widening(id_: str, *columns: tuple[str, str], to: str = "bigint") -> Migration:
    operations = [{"change_type": {"table": table, "column": column, "to": to}} for table, column in columns]
    return Migration.model_validate({"id": id_, "operations": operations, "gates": OPEN_GATES})


def test_one_rollouts_cleanup_leaves_the_schema_that_another_needs(database: Database) -> None:
    """Applications of the first rollout's version go on reading the second table through it until that table's rollout ends."""
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE TABLE u (id int PRIMARY KEY, a int);"
        "INSERT INTO t SELECT g, g FROM generate_series(1, 20) g; INSERT INTO u TABLE t"
    )
    engine = Engine(database.dsn)
    engine.init()

    def advance(migration: Migration, state: State) -> None:
        while engine.advance(migration).state is not state:
            pass

    advance(widening("first", ("t", "a"), ("u", "a")), State.COMPLETED)
    of_t, of_u = widening("of_t", ("t", "a"), to="numeric"), widening("of_u", ("u", "a"), to="numeric")
    advance(of_t, State.SWITCHED_OVER)
    advance(of_u, State.PREPARED)
    advance(of_t, State.COMPLETED)
    views = "SELECT viewname::text FROM pg_views WHERE schemaname = 'public_first' ORDER BY 1"
    assert database.execute(views) == [("u",)]
    assert database.value("UPDATE public_first.u SET a = a + 1 WHERE id = 1 RETURNING a") == 2
    assert database.value("SELECT a FROM public_of_u.u WHERE id = 1") == 2
    advance(of_u, State.COMPLETED)
    left = "SELECT nspname::text FROM pg_namespace WHERE nspname ~ '^public_' ORDER BY 1"
    assert database.execute(left) == [("public_of_t",), ("public_of_u",)]


def test_the_history_tells_of_every_rollout_of_a_migration(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    engine = Engine(database.dsn)
    engine.init()
    migration = widening("again", ("t", "a"))
    engine.advance(migration)
    engine.rollback("again")
    engine.advance(migration, restart=True)
    moves = [e for e in engine.history("again") if e.event == "rollout" and e.before is not e.state]
    told = [entry.text for entry in moves]
    assert told == [
        "again.public planned",
        "again.public planned → preparing",
        "again.public preparing → prepared",
        "again.public prepared → rolling_back",
        "again.public rolling_back → rolled_back",
        "again.public planned",
        "again.public planned → preparing",
        "again.public preparing → prepared",
    ]
