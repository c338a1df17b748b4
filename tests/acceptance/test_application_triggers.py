"""The application's triggers where zdm writes the rows: as the tables' owner, and with names looked up where the owner's are."""

from __future__ import annotations

import pytest

from tests.conformance.harness import OPEN_GATES
from tests.support.servers import Database
from zdm.db.session import connect
from zdm.db.write_path import split_path, write_path
from zdm.engine.rollout import Engine
from zdm.model.phases import State
from zdm.operations.migration import Migration

SETUP = """
CREATE TABLE audit (id bigserial, what text);
CREATE FUNCTION tools.mark(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1';
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
  INSERT INTO audit (what) VALUES (TG_TABLE_NAME);
  NEW.touched := mark(coalesce(NEW.touched, 0));
  RETURN NEW;
END$$;
CREATE TABLE accounts (id bigint PRIMARY KEY, score int NOT NULL DEFAULT 0, rank int, touched int);
INSERT INTO accounts SELECT g, g, g FROM generate_series(1, 40) g;
CREATE TRIGGER note BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION note();
"""


@pytest.mark.parametrize("sync", ["immediate", "logged"])
def test_they_find_what_they_do_not_qualify(database: Database, sync: str) -> None:
    """Filled, mirrored, reconciled and repaired rows fire them; none of what wrote them has the application's search_path."""
    owner, zdm = database.create_role("owner", options="NOLOGIN"), database.create_role("zdm")
    database.execute(
        f'CREATE SCHEMA shop AUTHORIZATION "{owner}"; CREATE SCHEMA tools AUTHORIZATION "{owner}";'
        f'GRANT CREATE, TEMPORARY ON DATABASE {database.name} TO "{zdm}"; GRANT "{owner}" TO "{zdm}";'
        f'ALTER ROLE "{owner}" IN DATABASE {database.name} SET search_path = "$user", tools;'
        f'SET ROLE "{owner}"; SET search_path = shop, tools; {SETUP}'
    )
    migration = Migration.model_validate(
        {
            "id": "apart",
            "sync": sync,
            "operations": [
                {"change_type": {"table": "accounts", "column": "rank", "to": "bigint"}},
                {
                    "move_columns": {
                        "table": "accounts",
                        "to": "scores",
                        "key": {"account_id": "id"},
                        "columns": ["score"],
                        "create": {},
                    }
                },
            ],
            "gates": {**OPEN_GATES, "long_transactions": False, "replication_lag": False},
        }
    )
    engine = Engine(database.dsn_for(zdm), "shop")
    engine.init()
    assert engine.advance(migration).state is State.PREPARED
    assert engine.advance(migration).state is State.MIGRATED
    assert database.value("SELECT min(touched) FROM shop.accounts") == 1, "this role cannot silence them"

    database.execute("UPDATE shop.scores SET score = 1000 + account_id WHERE account_id <= 20")
    if sync == "logged":
        engine.reconcile("apart")
    assert database.execute(
        "SELECT id, score, touched FROM shop.accounts WHERE id IN (20, 21) ORDER BY 1"
    ) == [
        (20, 1020, 2),
        (21, 21, 1),
    ]
    database.execute(
        "ALTER TABLE shop.accounts DISABLE TRIGGER USER; UPDATE shop.accounts SET rank = 7 WHERE id = 30"
    )
    database.execute(
        "ALTER TABLE shop.accounts ENABLE TRIGGER USER; DO $$ DECLARE t text; BEGIN FOR t IN SELECT tgname FROM pg_trigger"
        " WHERE tgrelid = 'shop.accounts'::regclass AND tgname ~ 'zdm' LOOP"
        " EXECUTE format('ALTER TABLE shop.accounts ENABLE ALWAYS TRIGGER %I', t); END LOOP; END $$"
    )
    assert engine.verify("apart", repair=True).clean
    assert database.value("SELECT touched FROM shop.accounts WHERE id = 30") == 2
    assert engine.advance(migration).state is State.SWITCHED_OVER
    assert engine.advance(migration).state is State.COMPLETED


def test_the_owners_path_comes_before_the_tables_schemas(database: Database) -> None:
    """A path of the role in this database goes before one of the role, and that before one of the database."""
    owner = database.create_role("owner", options="NOLOGIN")
    database.execute('CREATE SCHEMA app; CREATE SCHEMA "a, ""b"""; CREATE SCHEMA one; CREATE SCHEMA two')
    with connect(database.dsn, application_name="test") as conn:
        assert write_path(conn, owner, ["app", "public"]) == ("public", "app")
        database.execute(f"ALTER DATABASE {database.name} SET search_path = one, pg_catalog, gone")
        assert write_path(conn, owner, ["app"]) == ("one", "app")
        database.execute(f'ALTER ROLE "{owner}" SET search_path = "$user", two, "a, ""b"""')
        assert write_path(conn, owner, ["app"]) == ("two", 'a, "b"', "app")
        database.execute(f"ALTER ROLE \"{owner}\" IN DATABASE {database.name} SET search_path = ''")
        assert write_path(conn, owner, ["app"]) == ("app",)
    assert split_path('"$user", Public , "Ä ""x"""') == ["$user", "public", 'Ä "x"']


def test_a_schema_in_which_everybody_may_create_functions_is_told(database: Database) -> None:
    """One of theirs could go before a function of the server's that takes any type, and would run as the owner."""
    database.execute(
        "CREATE TABLE accounts (id bigint PRIMARY KEY, score int); GRANT CREATE ON SCHEMA public TO PUBLIC"
    )
    moved = {"table": "accounts", "to": "scores", "key": {"id": "id"}, "columns": ["score"], "create": {}}
    migration = Migration.model_validate({"id": "apart", "operations": [{"move_columns": moved}]})
    engine = Engine(database.dsn)
    engine.init()
    told = "every role may create functions in schema public"
    assert any(told in finding.text for finding in engine.plan(migration).findings)
    database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    assert not any(told in finding.text for finding in engine.plan(migration).findings)


def test_what_stands_in_for_a_function_of_the_servers_is_not_called_by_the_backfill(
    database: Database,
) -> None:
    """A backfill that silences the application's triggers has no need of their path."""
    database.execute(
        "CREATE TABLE accounts (id bigint PRIMARY KEY, score int); INSERT INTO accounts VALUES (1, 7)"
    )
    added = {"table": "accounts", "column": "document", "type": "jsonb", "up": "to_jsonb(score)"}
    migration = Migration.model_validate(
        {"id": "apart", "operations": [{"add_column": added}], "gates": OPEN_GATES}
    )
    engine = Engine(database.dsn)
    engine.init()
    assert engine.advance(migration).state is State.PREPARED
    database.execute(
        "CREATE FUNCTION public.to_jsonb(int) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN RAISE 'not the server''s'; END$$"
    )
    assert engine.advance(migration).state is State.MIGRATED
    assert database.value("SELECT document FROM accounts") == 7
