"""Rules over a replaced column: made anew over the new one where they are right by either, else refused by name."""

from __future__ import annotations

import pytest

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.engine.rollout import Engine
from zdm.errors import BadInput, ZdmError
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.operations.migration import Migration

TABLE = """
CREATE TABLE t (id int PRIMARY KEY, a int, b text);
INSERT INTO t SELECT g, g, 'x' FROM generate_series(1, 50) g;
CREATE TABLE log (id int, a numeric, what text);
CREATE TABLE orders (id int, wanted int);
"""
CHANGE: tuple[dict[str, object], ...] = (
    {
        "change_type": {
            "table": "t",
            "column": "a",
            "to": "numeric(10,2)",
            "up": "a::numeric(10,2)",
            "down": "round(a)::int",
        }
    },
)
RULES = """
CREATE RULE "Noted" AS ON DELETE TO t WHERE old.a > 0 DO ALSO
  (INSERT INTO log VALUES (old.id, old.a, 'gone'); UPDATE orders SET wanted = old.a::int WHERE id = old.id);
COMMENT ON RULE "Noted" ON t IS 'what went';
CREATE RULE ordered AS ON INSERT TO orders DO ALSO UPDATE t SET a = new.wanted WHERE id = new.id;
CREATE RULE off AS ON UPDATE TO t DO ALSO INSERT INTO log VALUES (new.id, new.a, 'changed');
ALTER TABLE t DISABLE RULE off;
"""


@on_all_versions
def test_carried(database: Database) -> None:
    rollout = Rollout(database, Scenario(setup=TABLE + RULES, operations=CHANGE))
    before = database.execute(
        "SELECT rulename, definition FROM pg_rules WHERE tablename IN ('t', 'orders') ORDER BY 1"
    )
    rollout.advance_to(State.SWITCHED_OVER)
    rollout.execute_new("UPDATE t SET a = 7.75 WHERE id = 7; DELETE FROM t WHERE id = 7")
    database.execute("INSERT INTO orders VALUES (8, 80)")
    assert database.execute("SELECT a, _zdm_a FROM t WHERE id = 8") == [(80, 80)]
    rollout.agree()
    rollout.advance_to(State.COMPLETED)
    rollout.nothing_left()
    after = database.execute(
        "SELECT rulename, definition FROM pg_rules WHERE tablename IN ('t', 'orders') ORDER BY 1"
    )
    assert [name for name, _ in after] == [name for name, _ in before]
    assert all("_zdm" not in definition for _, definition in after)
    database.execute(
        "UPDATE t SET a = 9.25 WHERE id = 9; DELETE FROM t WHERE id = 9; INSERT INTO orders VALUES (10, 100)"
    )
    # What the old column held is logged till cleanup, what the new one holds from then on.
    assert database.execute("SELECT id, a FROM log ORDER BY id") == [
        (7, 8),
        (9, database.value("SELECT 9.25")),
    ]
    assert database.value("SELECT a FROM t WHERE id = 10") == 100
    assert database.execute(
        "SELECT rulename, ev_enabled, obj_description(oid, 'pg_rewrite') FROM pg_rewrite WHERE ev_class = 't'::regclass ORDER BY 1"
    ) == [("Noted", "O", "what went"), ("off", "D", None)]


UPDATES = """
CREATE RULE renamed AS ON UPDATE TO t WHERE old.b IS DISTINCT FROM new.b DO ALSO INSERT INTO log VALUES (new.id, old.a, new.b);
COMMENT ON RULE renamed ON t IS 'whom it was told';
CREATE RULE counted AS ON UPDATE TO t DO ALSO UPDATE orders SET wanted = wanted + 1 WHERE id = old.id;
INSERT INTO orders SELECT g, 0 FROM generate_series(1, 50) g;
"""


@on_all_versions
def test_a_rule_on_update_is_applied_to_what_applications_write_and_to_nothing_else(
    database: Database,
) -> None:
    rollout = Rollout(database, Scenario(setup=TABLE + UPDATES, operations=CHANGE))
    assert any("renamed on public.t" in f.text for f in rollout.engine().plan(rollout.migration).findings)
    rollout.advance_to(State.SWITCHED_OVER)
    assert database.value("SELECT max(wanted) FROM orders") == 0
    rollout.execute_new("UPDATE t SET a = 7.75, b = 'y' WHERE id = 7")
    database.execute("UPDATE t SET a = 8, b = 'y' WHERE id = 8; UPDATE t SET a = 9 WHERE id = 9")
    assert database.execute("SELECT id, a, what FROM log ORDER BY id") == [(7, 7, "y"), (8, 8, "y")]
    assert database.execute("SELECT id FROM orders WHERE wanted = 1 ORDER BY id") == [(7,), (8,), (9,)]
    rollout.agree()
    rollout.engine().rollback("try_it")
    assert rollout.dump() == rollout.before
    rollout.advance_to(State.COMPLETED, restart=True)
    rollout.nothing_left()
    database.execute("UPDATE t SET b = 'z' WHERE id = 9")
    assert database.value("SELECT a FROM log WHERE id = 9") == 9
    assert database.value("SELECT count(*) FROM orders WHERE wanted > 2") == 0


def test_a_role_to_which_rules_are_applied_fills_nothing(database: Database) -> None:
    role = database.create_role()
    database.execute(
        f"DROP SCHEMA IF EXISTS zdm CASCADE; GRANT CREATE ON SCHEMA public TO {role}; GRANT CREATE ON DATABASE {database.name} TO {role}"
    )
    with database.connect(role, autocommit=True) as connection:
        connection.execute((TABLE + UPDATES).encode())
    engine = Engine(database.dsn_for(role))
    engine.init()
    migration = Migration.model_validate({"id": "try_it", "operations": list(CHANGE)})
    with pytest.raises(BadInput, match=r"counted on public\.t rewrites each UPDATE") as raised:
        engine.plan(migration)
    assert all("session_replication_role" in problem.remedy for problem in raised.value.problems)
    database.execute("ALTER TABLE t DISABLE RULE counted; ALTER TABLE t DISABLE RULE renamed")
    engine.advance(migration)
    database.execute("ALTER TABLE t ENABLE RULE counted")
    with pytest.raises(ZdmError, match=r"counted on public\.t would rewrite the statements that fill"):
        engine.advance(migration)


@pytest.mark.parametrize(
    "rule, said",
    [
        ("ON UPDATE TO t DO ALSO INSERT INTO log VALUES (new.id, new.a)", {"dependent-object", "table-rule"}),
        ("ON INSERT TO t DO ALSO INSERT INTO log VALUES (new.id, new.a)", {"dependent-object"}),
        (
            "ON UPDATE TO t WHERE old.b <> (SELECT max(n.b) FROM t m, t n WHERE n.a = new.a) DO ALSO NOTHING",
            {"dependent-object", "table-rule"},
        ),
        ("ON UPDATE TO t DO INSTEAD NOTHING", {"table-rule"}),
        ("ON DELETE TO t DO ALSO INSERT INTO log VALUES (old.a::bit(8)::int, 1)", {"cannot-be-carried"}),
    ],
)
def test_refused_by_name(database: Database, rule: str, said: set[str]) -> None:
    rollout = Rollout(database, Scenario(setup=f"{TABLE} CREATE RULE r AS {rule};", operations=CHANGE))
    with pytest.raises(BadInput) as raised:
        rollout.engine().plan(rollout.migration)
    assert {problem.rule for problem in raised.value.problems} == said
    assert all("r on public.t" in problem.what and problem.remedy for problem in raised.value.problems)
