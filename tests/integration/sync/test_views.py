"""Version schemas: what each version of the application sees, may do, and gets as defaults."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.integration.sync.scenarios import DEFAULTED, ROUNDED, SPLIT
from tests.integration.sync.stage import Design, Stage, group, new, old
from tests.support import on_all_versions
from tests.support.servers import Database
from zdm.model.mapping import Expose, TableMapping, ViewColumn
from zdm.model.names import qualified
from zdm.sql import views

pytestmark = on_all_versions


def columns(s: Stage, relation: str) -> list[str]:
    found = s.run(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
        relation,
    )
    return [name for (name,) in found]


def acl(s: Stage, relation: str) -> set[tuple[Any, ...]]:
    return set(
        s.run(
            "SELECT pg_get_userbyid(a.grantee), a.privilege_type, a.is_grantable "
            "FROM pg_class AS c, aclexplode(c.relacl) AS a WHERE c.oid = %s::regclass AND a.grantee <> c.relowner",
            relation,
        )
    )


def test_columns_in_order(database: Database) -> None:
    s = Stage.set(database, DEFAULTED)
    assert columns(s, "before.t") == ["id", "a", "o"]
    assert columns(s, "after.t") == ["id", "a", "o", "_zdm_state"]
    s2 = Stage.set(database, Design(SPLIT.columns, SPLIT.groups, table="t2"))
    assert columns(s2, "after.t2") == ["id", "first", "last", "o"]


@pytest.mark.since(15)
def test_security_invoker(database: Database) -> None:
    s = Stage.set(database, ROUNDED)
    assert s.run("SELECT reloptions FROM pg_class WHERE oid = 'after.t'::regclass") == [
        (["security_invoker=true"],)
    ]
    before_15 = views.create_view(s.mapping, "x", 140000)
    assert "security_invoker" not in before_15[0]


def test_grants_and_owner_are_the_tables(database: Database) -> None:
    owner, reader, clerk = (database.create_role(name) for name in ("owner", "reader", "clerk"))
    database.execute(
        f'GRANT CREATE ON SCHEMA public TO "{owner}"; GRANT ALL ON DATABASE {database.name} TO "{owner}"'
    )
    design = Design(
        ROUNDED.columns,
        ROUNDED.groups,
        before=(
            f'ALTER TABLE t OWNER TO "{owner}"',
            f'GRANT SELECT ON t TO "{reader}" WITH GRANT OPTION',
            f'GRANT SELECT (id, a), INSERT (id, a), UPDATE (a) ON t TO "{clerk}"',
        ),
    )
    s = Stage.set(database, design)
    assert acl(s, "after.t") == acl(s, "before.t") == acl(s, "t") == {(reader, "SELECT", True)}
    assert s.run("SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = 'after.t'::regclass") == [
        (owner,)
    ]
    with database.connect(clerk, autocommit=True) as app:
        app.execute("SET search_path = after")
        app.execute("INSERT INTO t (id, a) VALUES (1, 5.4)")
        app.execute("UPDATE t SET a = 6.4")
        ((shown,),) = app.execute("SELECT a FROM t").fetchall()
        assert float(shown) == 6.4
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("SELECT o FROM t")
        app.execute("SET search_path = before")
        app.execute("UPDATE t SET a = 7")
    s.has(1, a=7, _c=7)


@pytest.mark.since(15)
def test_row_policies_hold_through_the_views(database: Database) -> None:
    role = database.create_role("app")
    s = Stage.set(database, Design(ROUNDED.columns, ROUNDED.groups, before=(f'GRANT ALL ON t TO "{role}"',)))
    s.run("INSERT INTO t VALUES (1, 5), (2, 500)")
    s.run("ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY small ON t USING (a < 100)")
    with database.connect(role, autocommit=True) as app:
        for schema in ("before", "after"):
            assert app.execute(f"SELECT id FROM {schema}.t".encode()).fetchall() == [(1,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("UPDATE after.t SET a = 100")


def test_a_merged_column_gets_what_a_role_has_on_all_its_parts(database: Database) -> None:
    some, both = database.create_role("some"), database.create_role("both")
    merged = group(
        old("x", "text", "split_part({_f}, ' '::text, 1)"),
        old("y", "text", "split_part({_f}, ' '::text, 2)"),
        new("_f", "full", "text", "(({x} || ' '::text) || {y})", comparison="native"),
    )
    design = Design(
        "id int PRIMARY KEY, x text, y text",
        (merged,),
        before=(f'GRANT SELECT (x) ON t TO "{some}", "{both}"', f'GRANT SELECT (y) ON t TO "{both}"'),
    )
    s = Stage.set(database, design)
    for role, allowed in ((some, False), (both, True)):
        for relation, name in (("after.t", "full"), ("t", "_f")):
            assert s.run(f"SELECT has_column_privilege('{role}', '{relation}', '{name}', 'SELECT')") == [
                (allowed,)
            ]


def test_schema_usage_is_the_targets(database: Database) -> None:
    role = database.create_role("app")
    database.execute(f'REVOKE USAGE ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO "{role}"')
    s = Stage.set(database, ROUNDED)
    other = database.create_role("other")
    assert s.run(
        f"SELECT has_schema_privilege('{role}', 'after', 'USAGE'), has_schema_privilege('{other}', 'after', 'USAGE')"
    ) == [(True, False)]


def test_defaults_of_the_version(database: Database) -> None:
    design = Design(
        "id serial PRIMARY KEY, a int DEFAULT 3, o text DEFAULT 'o', p text",
        DEFAULTED.groups,
        marker_in_view=True,
        defaults={"a": "(4.5)::numeric", "o": "NULL", "p": "'p'::text"},
    )
    s = Stage.set(database, design)
    s.new("INSERT INTO t DEFAULT VALUES")
    s.has(1, _c=4.5, a=5, o=None, p="p", new_last=[0])
    s.old("INSERT INTO t DEFAULT VALUES")
    s.has(2, _c=3, a=3, o="o", p=None, new_last=[])
    s.agrees()


def test_identity_through_views(database: Database) -> None:
    s = Stage.set(database, Design("id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int", ROUNDED.groups))
    s.new("INSERT INTO t (a) VALUES (1.4)")
    s.old("INSERT INTO t (a) VALUES (2)")
    assert s.run("SELECT id, a FROM t ORDER BY id") == [(1, 1), (2, 2)]


def test_renamed_dropped_and_exposed_tables(database: Database) -> None:
    s = Stage.set(database, ROUNDED)
    renamed = s.mapping.model_copy(update={"final_name": "accounts"})
    (create, *_) = views.create_view(renamed, "after", 180000)
    assert create.startswith('CREATE VIEW "after"."accounts"')
    assert views.create_view(renamed, "before", 180000, old=True)[0].startswith('CREATE VIEW "before"."t"')
    dropped = s.mapping.model_copy(update={"dropped_in_new": True})
    assert views.create_view(dropped, "after", 180000) == ()
    assert views.create_view(dropped, "before", 180000, old=True)
    assert views.create_view(s.mapping.model_copy(update={"expose": Expose.COLUMNS}), "after", 180000) == ()


def test_table_that_the_migration_creates(database: Database) -> None:
    s = Stage.set(database, ROUNDED)
    s.run("CREATE TABLE made (id int)")
    made = TableMapping(
        table=qualified("public", "made"),
        final_name="made",
        oid=0,
        new_columns=(ViewColumn(physical="id", name="id"),),
    )
    for statement in views.create_view(made, "after", s.connection.info.server_version):
        s.run(statement)
    s.new("INSERT INTO made VALUES (1)")


def test_drop_leaves_what_is_not_ours(database: Database) -> None:
    s = Stage.set(database, ROUNDED)
    s.run("CREATE VIEW after.mine AS SELECT 1")
    for statement in views.drop_schema("after") * 2:
        s.run(statement)
    assert columns(s, "after.mine")
    assert s.run("SELECT to_regclass('after.t')") == [(None,)]
    s.run("DROP VIEW after.mine")
    for statement in views.drop_schema("after") * 2:
        s.run(statement)
    assert s.run("SELECT to_regnamespace('after')") == [(None,)]
    s.run("CREATE VIEW hanging AS SELECT * FROM before.t")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        s.run(views.drop_schema("before")[0])
    s.run("CREATE SCHEMA theirs")
    for statement in (*views.create_schema("theirs", "public"), *views.drop_schema("theirs")):
        s.run(statement)
    assert s.run("SELECT to_regnamespace('theirs') IS NOT NULL") == [(True,)]


def test_odd_names(database: Database) -> None:
    design = Design(
        'id int PRIMARY KEY, "a""$zdm$" int, "SELECT" text DEFAULT \'x\'',
        (group(old('a"$zdm$'), new("%c", "f'i n", up='{a"$zdm$}::numeric')),),
        table="T'\"t",
        defaults={"SELECT": "NULL"},
    )
    s = Stage.set(database, design)
    s.connection.execute("""INSERT INTO after."T'""t" (id, "f'i n") VALUES (1, 2)""")
    s.has(1, **{"%c": 2, "SELECT": None})
    for schema in ("before", "after"):
        for statement in views.drop_view(s.mapping, schema, old=schema == "before") + views.drop_schema(
            schema
        ):
            s.connection.execute(statement.encode())
    assert s.run("SELECT to_regnamespace('after'), to_regnamespace('before')") == [(None, None)]
