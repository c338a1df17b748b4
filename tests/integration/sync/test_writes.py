"""Every way in which rows are written: through the table, both views, by constraints, by replication, by whom."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.sync.scenarios import PARSED, ROUNDED, TRIMMED, UNFILLED
from tests.integration.sync.stage import ROLLOUT, Design, Stage, group, new, old
from tests.support import on_all_versions
from tests.support.interleave import eventually
from tests.support.servers import Database
from zdm.model.expression import Volatility
from zdm.model.mapping import Authority, Comparison
from zdm.sql import sync

pytestmark = on_all_versions


def test_upsert(database: Database) -> None:
    s = Stage.set(database, ROUNDED)
    for n, who in enumerate((s.run, s.old), start=1):
        statement = f"INSERT INTO t (id, a) VALUES ({n}, %s) ON CONFLICT (id) DO UPDATE SET a = EXCLUDED.a"
        who(statement, 5)
        s.has(n, a=5, _c=5)
        who(statement, 6)
        s.has(n, a=6, _c=6, new_last=[])
    statement = "INSERT INTO t (id, a) VALUES (3, %s) ON CONFLICT (id) DO UPDATE SET a = EXCLUDED.a + t.a"
    s.new(statement, 1.6)
    s.has(3, a=2, _c=1.6)
    s.new(statement, 1.6)
    s.has(3, a=3, _c=3.2, new_last=[0])
    s.old("INSERT INTO t (id, a) VALUES (3, 9) ON CONFLICT DO NOTHING")
    s.has(3, a=3, _c=3.2, new_last=[0])
    s.agrees()


def test_upsert_that_fails_to_derive_and_does_nothing_leaves_no_record(database: Database) -> None:
    s = Stage.set(database, PARSED)
    s.old("INSERT INTO t VALUES (1, 'bad') ON CONFLICT DO NOTHING")
    assert s.failures() == []


def test_upsert_that_writes_the_marker_back(database: Database) -> None:
    s = Stage.set(database, Design(ROUNDED.columns, ROUNDED.groups, marker_in_view=True))
    s.new("INSERT INTO t (id, a) VALUES (1, 5)")
    s.new(
        "INSERT INTO t (id, a) VALUES (1, 6.4) "
        "ON CONFLICT (id) DO UPDATE SET a = EXCLUDED.a, _zdm_state = EXCLUDED._zdm_state"
    )
    s.has(1, a=6, _c=6.4, new_last=[0])
    s.agrees()


@pytest.mark.since(15)
def test_merge(database: Database) -> None:
    s = Stage.set(database, ROUNDED)
    s.run("INSERT INTO t VALUES (1, 5, 'x')")
    merge = (
        "MERGE INTO t USING (VALUES (1, {0}), ({1}, 4)) AS v (id, a) ON t.id = v.id "
        "WHEN MATCHED THEN UPDATE SET a = v.a WHEN NOT MATCHED THEN INSERT (id, a) VALUES (v.id, v.a)"
    )
    s.run(merge.format(6, 2))
    s.has(1, a=6, _c=6)
    s.has(2, a=4, _c=4)
    if s.connection.info.server_version >= 170000:
        s.new(merge.format(7.4, 3))
        s.has(1, a=7, _c=7.4, new_last=[0])
        s.old(merge.format(8, 5))
        s.has(1, a=8, _c=8, new_last=[])
    s.agrees()


def test_copy(database: Database) -> None:
    s = Stage.set(database, ROUNDED)
    with s.connection.cursor().copy("COPY t (id, a) FROM STDIN") as copy:
        copy.write("1\t5\n2\t\\N\n")
    with s.connection.cursor().copy("COPY t (id, _c) FROM STDIN") as copy:
        copy.write("3\t6.4\n")
    s.has(1, _c=5)
    s.has(2, _c=None)
    s.has(3, a=6, _c=6.4, new_last=[0])
    s.agrees()


def test_rows_copied_with_their_marker(database: Database) -> None:
    s = Stage.set(database, PARSED)
    s.run("UPDATE t SET o = 'y'")
    s.new("INSERT INTO t (id, a) VALUES (3, 7)")
    s.run("CREATE TEMP TABLE kept AS SELECT * FROM t; DELETE FROM t")
    assert s.failures() == []
    s.run("INSERT INTO t SELECT * FROM kept")
    s.has(1, a="5", _c=5, new_last=[])
    s.has(2, a="bad", _c=None, failed=True)
    assert len(s.failures()) == 1


def test_key_change_delete_truncate(database: Database) -> None:
    s = Stage.set(database, UNFILLED)
    s.run("UPDATE t SET id = id + 10")
    s.agrees()
    s.has(11, a=5, _c=5)
    s.new("DELETE FROM t WHERE id = 11")
    s.old("DELETE FROM t WHERE id = 12")
    s.run("TRUNCATE t")
    s.agrees()


def test_foreign_key_cascades(database: Database) -> None:
    database.execute("CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (5), (6), (7), (8)")
    columns = "id int PRIMARY KEY, a int REFERENCES p ON DELETE SET NULL ON UPDATE CASCADE, o text"
    s = Stage.set(
        database,
        Design(columns, ROUNDED.groups, before=("INSERT INTO t VALUES (1, 5), (2, 6), (3, 7), (4, 8)",)),
    )
    s.run("UPDATE p SET id = 50 WHERE id = 5")
    s.has(1, a=50, _c=50)
    s.run("DELETE FROM p WHERE id = 6")
    s.has(2, a=None, _c=None, settled=True)
    s.backfill()
    s.new("UPDATE t SET a = 7.4 WHERE id = 3")
    s.run("UPDATE p SET id = 70 WHERE id = 7")
    s.has(3, a=70, _c=70, new_last=[])
    s.run("DELETE FROM p WHERE id = 8")
    s.has(4, a=None, _c=None)
    # The new application meets the old constraint: there is no row for what it would write.
    assert s.refused(s.new, "UPDATE t SET a = 99 WHERE id = 1").sqlstate == "23503"
    s.agrees()


def test_session_replication_role(database: Database) -> None:
    s = Stage.set(database, UNFILLED)
    s.run("SET session_replication_role = replica")
    s.run("UPDATE t SET a = 8 WHERE id = 1")
    s.run("INSERT INTO t (id, a) VALUES (9, 9)")
    s.has(1, _c=8)
    s.has(9, _c=9)


def test_backfill_calls_no_function(database: Database) -> None:
    s = Stage.set(database, UNFILLED)
    s.run("SET track_functions = 'all'")
    with s.connection.transaction():
        s.backfill()
        assert s.calls() == 0
        s.run("UPDATE t SET o = 'z'")
        assert s.calls() == 0, "an update that changes nothing relevant"
        s.run("UPDATE t SET a = a, o = 'z'")
        assert s.calls() == 0, "a rewrite that changes nothing"
        s.run("UPDATE t SET a = 6 WHERE id = 1")
        assert s.calls() == 1, "an ordinary write"
        s.new("UPDATE t SET a = 6.4 WHERE id = 1")
        assert s.calls() == 2, "an ordinary write of the new side"
    s.agrees()


def test_role_without_rights_in_zdm(database: Database) -> None:
    s = Stage.set(database, PARSED)
    role = database.create_role("app")
    s.run(f'GRANT SELECT, INSERT, UPDATE, DELETE ON t TO "{role}"')
    with database.connect(role, autocommit=True) as app:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("SELECT * FROM zdm.sync_failures")
        app.execute("UPDATE t SET o = 'y'")
        app.execute("INSERT INTO t VALUES (3, 'worse', 'x')")
        assert len(s.failures()) == 2
        app.execute("UPDATE t SET a = '4' WHERE id IN (2, 3)")
        app.execute("UPDATE t SET _c = 5 WHERE id = 3")
        with pytest.raises(psycopg.Error):
            app.execute(f"SELECT zdm.sync_{ROLLOUT}_{s.mapping.oid}_failed()".encode())
    assert s.failures() == []
    s.has(3, a="5", new_last=[0])
    s.agrees()


def test_row_security(database: Database) -> None:
    s = Stage.set(database, ROUNDED)
    role = database.create_role("app")
    s.run(f'GRANT SELECT, INSERT, UPDATE ON t TO "{role}"')
    s.run("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    s.run("CREATE POLICY small ON t USING (a < 100) WITH CHECK (a < 100)")
    with database.connect(role, autocommit=True) as app:
        app.execute("INSERT INTO t (id, _c) VALUES (1, 5.4)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("UPDATE t SET _c = 100")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("INSERT INTO t (id, _c) VALUES (2, 100)")
    s.has(1, a=5, _c=5.4)
    s.agrees()


@pytest.mark.parametrize(
    "names",
    [
        ('T"able', 'o"ld', 'n"ew'),
        ("Upper", "Select", "Group"),
        ("order", "user", "end"),
        ("tisch_ä", "größe", "naïve"),
        ("t" * 63, "a" * 63, "b" * 63),
        ("a b", "$zdm$", "%s {x} \\ '"),
    ],
)
def test_odd_identifiers(database: Database, names: tuple[str, str, str]) -> None:
    table, a, c = names
    quoted = [name.replace('"', '""') for name in names]
    mapped = group(
        old(a, down="round({" + c + "})::integer") if "}" not in c else old(a),
        new(c, c, up="{" + a + "}::numeric"),
        name=f"{a} -- \n; {c}",
    )
    s = Stage.set(
        database, Design(f'"{quoted[1][:8]} id" int PRIMARY KEY, "{quoted[1]}" int', (mapped,), table=table)
    )
    t, qa, qc = (f'"{name}"' for name in quoted)
    s.connection.execute(f"INSERT INTO {t} VALUES (1, 5)".encode())
    s.has(1, **{a: 5, c: 5})
    s.connection.execute(f"UPDATE {t} SET {qc} = 6.4".encode())
    s.has(1, **({a: 6, c: 6.4} if mapped.two_way else {c: 6.4}))
    s.connection.execute(f"UPDATE {t} SET {qa} = 7".encode())
    s.has(1, **{a: 7, c: 7})
    error = s.refused(s.connection.execute, f"UPDATE {t} SET {qa} = 8, {qc} = 9")
    assert error.sqlstate == "23000"
    assert f'"{a}"' in str(error.diag.message_primary)
    s.agrees()
    for statement in sync.remove(s.mapping, ROLLOUT) * 2:
        s.connection.execute(statement.encode())


def test_prepared_statements_outlive_install_switch_and_removal(database: Database) -> None:
    s = Stage.set(database, ROUNDED, install=False)
    with database.connect(autocommit=True) as app:

        def write(a: int) -> None:
            app.execute("UPDATE t SET a = %s WHERE id = 1", [a], prepare=True)
            app.execute("INSERT INTO t (id, a) VALUES (%s, %s)", [a, a], prepare=True)

        s.run("INSERT INTO t VALUES (1, 1)")
        write(2)
        s.install()
        write(3)
        s.has(1, _c=3)
        s.has(3, _c=3)
        for statement in sync.switch(s.mapping, ROLLOUT, Authority.NEW):
            s.run(statement)
        write(4)
        s.has(1, _c=4)
        s.has(4, _c=4)
        for statement in sync.remove(s.mapping, ROLLOUT):
            s.run(statement)
        write(5)
        s.has(1, _c=4)
        s.install()
        write(6)
        s.has(1, _c=6)


def test_switch_locks_no_table(database: Database) -> None:
    s = Stage.set(database, ROUNDED)
    writer = database.connect()
    writer.execute("INSERT INTO t VALUES (1, 1)")
    s.run("SET lock_timeout = '1s'")
    for statement in sync.switch(s.mapping, ROLLOUT, Authority.NEW):
        s.run(statement)
    writer.rollback()


def test_nondeterministic_collation(database: Database) -> None:
    try:
        database.execute(
            "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except psycopg.Error:
        pytest.skip("this server has no ICU")
    mapped = group(
        old("a", "text", "{_c}", comparison=Comparison.IMAGE),
        new("_c", "a", "text", "{a}", comparison=Comparison.IMAGE, collation="ci"),
    )
    s = Stage.set(database, Design("id int PRIMARY KEY, a text COLLATE ci, o text", (mapped,)))
    s.old("INSERT INTO t VALUES (1, 'abc')")
    s.old("UPDATE t SET a = 'ABC'")
    s.has(1, _c="ABC")
    s.new("UPDATE t SET a = 'Abc'")
    s.has(1, a="Abc", new_last=[0])
    s.agrees()


def test_equal_but_not_identical(database: Database) -> None:
    mapped = group(
        old("a", "numeric", "{_c}::numeric", comparison=Comparison.IMAGE),
        new("_c", "a", "text", "{a}::text", comparison="native"),
    )
    s = Stage.set(database, Design("id int PRIMARY KEY, a numeric", (mapped,)))
    s.old("INSERT INTO t VALUES (1, 1.0)")
    s.old("UPDATE t SET a = 1.00")
    s.has(1, _c="1.00")
    s.agrees()


def test_types_without_equality(database: Database) -> None:
    mapped = group(
        old("a", "json", "{_c}::json", comparison=Comparison.IMAGE),
        new("_c", "a", "jsonb", "{a}::jsonb", comparison=Comparison.IMAGE),
    )
    s = Stage.set(database, Design("id int PRIMARY KEY, a json", (mapped,)))
    s.old("""INSERT INTO t VALUES (1, '{"x": 1}')""")
    s.old("""UPDATE t SET a = '{"x": 1.0}'""")
    s.new("""UPDATE t SET a = '{"x": 2}'""")
    s.agrees()


def test_stable_expressions_ignore_the_session(database: Database) -> None:
    mapped = group(
        old("a", "timestamp with time zone", comparison="native"),
        new("_c", "a", "text", comparison="native"),
    )
    up = mapped.new[0].model_copy(
        update={"up": old("x", down="{a}::text").down.model_copy(update={"volatility": Volatility.STABLE})}  # type: ignore[union-attr]
    )
    s = Stage.set(
        database,
        Design("id int PRIMARY KEY, a timestamptz", (mapped.model_copy(update={"new": (up,)}),)),
    )
    s.run("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'")
    s.run("INSERT INTO t VALUES (1, '2024-01-02 03:04:05+00')")
    s.run("RESET DateStyle")
    s.has(1, _c="2024-01-02 03:04:05+00")


def test_literals_with_backslashes(database: Database) -> None:
    mapped = group(
        old("a", "text", comparison="native"),
        new("_c", "a", "text", r"({a} || '\t\\'::text)", comparison="native"),
    )
    s = Stage.set(database, Design("id int PRIMARY KEY, a text", (mapped,)))
    s.run("SET standard_conforming_strings = off")
    s.run("INSERT INTO t VALUES (1, 'x')")
    s.has(1, _c="x\\t\\\\")


def test_expressions_are_never_run_twice_for_a_trimmed_rewrite(database: Database) -> None:
    s = Stage.set(database, TRIMMED)
    s.old("INSERT INTO t VALUES (1, ' Blue', 'x')")
    s.run("SET track_functions = 'all'")
    with s.connection.transaction():
        s.old("UPDATE t SET a = a, o = o")
        s.new("UPDATE t SET a = a, o = o")
        assert s.calls() == 0
    s.agrees()


def test_table_without_a_key(database: Database) -> None:
    s = Stage.set(database, Design("id int, a text, o text", PARSED.groups, key=()))
    s.old("INSERT INTO t VALUES (1, 'bad', 'x'), (2, 'worse', 'x')")
    assert s.failures() == [({}, "g", "22P02")]
    assert s.mismatches() == [("failed", "", 2)]
    s.old("UPDATE t SET a = '1'")
    s.agrees()


def test_logical_replication_applies_through_the_sync(
    database: Database, request: pytest.FixtureRequest
) -> None:
    if database.server.major < 18:
        pytest.skip("one version is enough")
    server = request.getfixturevalue("make_server")(settings={"wal_level": "logical", "max_connections": 60})
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE source")
        admin.execute("CREATE DATABASE target")
    from psycopg.conninfo import make_conninfo

    with psycopg.connect(make_conninfo(server.dsn(), dbname="source"), autocommit=True) as source:
        # Only what is flushed is sent.
        source.execute("SET synchronous_commit = on")
        source.execute("CREATE TABLE t (id int PRIMARY KEY, a int, o text)")
        source.execute("CREATE PUBLICATION p FOR TABLE t")
        source.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")

        class Target:
            """Just enough of a `Database` for a stage."""

            dsn = make_conninfo(server.dsn(), dbname="target")

            def connect(self, autocommit: bool = False) -> psycopg.Connection[tuple[object, ...]]:
                return psycopg.connect(self.dsn, autocommit=autocommit)

            def value(self, _: str) -> int:
                return 0

        s = Stage.set(Target(), ROUNDED)  # type: ignore[arg-type]
        dsn = make_conninfo(server.dsn(), dbname="source")
        s.connection.execute(
            f"CREATE SUBSCRIPTION s CONNECTION '{dsn}' PUBLICATION p WITH (create_slot = false, copy_data = false)".encode()
        )
        source.execute("INSERT INTO t VALUES (1, 5, 'x'), (2, 6, 'x')")
        source.execute("UPDATE t SET a = 7 WHERE id = 2")
        source.execute("UPDATE t SET o = 'done' WHERE id = 2")

        eventually(lambda: s.run("SELECT 1 FROM t WHERE o = 'done'"), what="the change's arrival")
        s.has(1, a=5, _c=5)
        s.has(2, a=7, _c=7)
        s.new("UPDATE t SET a = 1.6 WHERE id = 2")
        source.execute("UPDATE t SET a = 9, o = 'again' WHERE id = 2")
        eventually(lambda: s.run("SELECT 1 FROM t WHERE o = 'again'"), what="the change's arrival")
        s.has(2, a=9, _c=9, new_last=[])
        s.agrees()
        s.connection.execute("DROP SUBSCRIPTION s")
        s.connection.close()
