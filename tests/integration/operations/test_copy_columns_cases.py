"""Every statement and every foreign key, one after the other: what copies follow, what is repaired, who needs rights, what is refused."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.acceptance.test_roles import Roles
from tests.conformance.harness import OPEN_GATES, Rollout
from tests.integration.operations.copy_stage import (
    ADD,
    BAD,
    CASCADING,
    CHANGE,
    COLUMNS,
    SETUP,
    Assignees,
)
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.backfill.sweep import BadData
from zdm.db.session import connect
from zdm.engine.compile import compile_plan
from zdm.errors import BadInput, Drift
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.operations.migration import Migration
from zdm.sql.rows import Kind

# --- what an application can write --------------------------------------------------------------------------------------


@on_all_versions
def test_everything_that_can_be_written(database: Database) -> None:
    a = Assignees(database)
    a.fill()
    run = database.execute
    run(ADD.format(issue=5, who="plain"))
    run(ADD.format(issue="NULL", who="nobody"))
    assert (a.of("plain"), a.of("nobody")) == ((5, 5, 0), (None, None, None))
    run("UPDATE assignees SET issue_id = NULL WHERE who = 'plain'")
    run("UPDATE assignees SET issue_id = 6 WHERE who = 'nobody'")
    assert (a.of("plain"), a.of("nobody")) == ((None, None, None), (6, 6, 1))
    # What the new version writes is what the issue says, in the end.
    run(
        "SET search_path = public_try_it, public; INSERT INTO assignees (issue_id, project_id, who) VALUES (8, 3, 'wrong')"
    )
    run("UPDATE public_try_it.assignees SET project_id = NULL, team = 9 WHERE who = 'wrong'")
    assert a.of("wrong") == (8, 1, 3)
    # A row that is copied whole, and an upsert.
    run(
        'INSERT INTO assignees SELECT (t).* FROM (SELECT jsonb_populate_record(a, \'{"id": 900, "who": "copy"}\') AS t'
        " FROM assignees a WHERE who = 'wrong') AS s"
    )
    run(
        "INSERT INTO assignees (id, issue_id, who) VALUES (900, 9, 'upsert') ON CONFLICT (id) DO UPDATE SET issue_id = 9, project_id = 66"
    )
    assert a.of("copy") == (9, 2, 4)
    # The issue changes, in each way; many at once.
    run("UPDATE issues SET project_id = project_id + 1000 WHERE id < 30")
    run("INSERT INTO issues (id, project_id) VALUES (9, 1) ON CONFLICT (id) DO UPDATE SET team = 77")
    assert a.of("copy") == (9, 1002, 77)
    run("UPDATE issues SET id = 1009, team = 78 WHERE id = 9")
    assert a.of("copy") == (1009, 1002, 78)
    # A transaction that goes back.
    with psycopg.connect(database.dsn) as conn:
        conn.execute("SAVEPOINT s")
        conn.execute(CHANGE.format(issue=1009, value=1))
        conn.execute("ROLLBACK TO s")
        conn.execute("UPDATE issues SET team = 79 WHERE id = 1009")
    assert a.of("copy") == (1009, 1002, 79)
    # As a subscription applies it, and without the server's own triggers.
    with psycopg.connect(database.dsn) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute(CHANGE.format(issue=1009, value=80))
        conn.execute(ADD.format(issue=60, who="applied"))
    assert (a.of("copy"), a.of("applied")) == ((1009, 80, 80), (60, 4, None))
    # What is referred to, and what refers to it, in one statement, in either order.
    for first, number in (("issues", 2001), ("assignees", 2002)):
        issue = f"INSERT INTO issues (id, project_id, team) VALUES ({number}, 1, 2) RETURNING id"
        row = ADD.format(issue=number, who=f"with {number}") + " RETURNING id"
        both = (issue, row) if first == "issues" else (row, issue)
        run(f"WITH a AS ({both[0]}), b AS ({both[1]}) SELECT FROM a, b")
        assert a.of(f"with {number}") == (number, 1, 2)
    run("DELETE FROM issues WHERE id = 1009")
    run("TRUNCATE issues CASCADE")
    assert (a.bad(), a.found(), database.value("SELECT count(*) FROM zdm.sync_failures")) == (0, {}, 0)


REACTIONS: dict[str, tuple[tuple[str, tuple[object, ...] | str], ...]] = {
    "REFERENCES issues_{n} ON DELETE SET NULL": (
        ("DELETE FROM issues_{n} WHERE id = 1", (None, None, None)),
        ("UPDATE issues_{n} SET id = 1002, team = 9 WHERE id = 2", "23503"),
    ),
    "DEFAULT 7 REFERENCES issues_{n} ON DELETE SET DEFAULT": (
        ("DELETE FROM issues_{n} WHERE id = 1", (7, 0, 2)),
    ),
    "REFERENCES issues_{n} ON UPDATE RESTRICT": (
        ("DELETE FROM issues_{n} WHERE id = 1", "23503"),
        ("UPDATE issues_{n} SET id = 1002 WHERE id = 2", "23503"),
    ),
    "REFERENCES issues_{n} DEFERRABLE INITIALLY DEFERRED": (
        ("UPDATE issues_{n} SET id = 1001 WHERE id = 1", "23503"),
        ("DELETE FROM issues_{n} WHERE id = 2", "23503"),
        ("DELETE FROM issues_{n} WHERE id = 3; INSERT INTO issues_{n} VALUES (3, 31, 32)", (3, 31, 32)),
        (
            "UPDATE it_{n} SET issue_id = 1004 WHERE id = 4; INSERT INTO issues_{n} VALUES (1004, 33, NULL)",
            (1004, 33, None),
        ),
    ),
    "REFERENCES issues_{n} ON DELETE CASCADE DEFERRABLE": (
        (
            "SET CONSTRAINTS ALL IMMEDIATE; DELETE FROM issues_{n} WHERE id = 11; UPDATE issues_{n} SET team = 3 WHERE id = 1",
            (1, 1, 3),
        ),
    ),
}
"""By foreign key: what is done to issue 1, 2 …, and what becomes of the row of that number, or how it is refused."""


def test_what_the_foreign_key_does(database: Database) -> None:
    """Each of them between tables of its own; several operations in one migration."""
    setup = "".join(
        f"CREATE TABLE issues_{n} (id int PRIMARY KEY, project_id int NOT NULL, team int);"
        f"INSERT INTO issues_{n} SELECT g, g % 7, g % 5 FROM generate_series(1, 20) g;"
        f"CREATE TABLE it_{n} (id int PRIMARY KEY, issue_id int {reference.format(n=n)}); CREATE INDEX ON it_{n} (issue_id);"
        f"INSERT INTO it_{n} SELECT g, g FROM generate_series(1, 20) g;"
        for n, reference in enumerate(REACTIONS)
    )
    operations: tuple[dict[str, Any], ...] = tuple(
        {"copy_columns": {"table": f"it_{n}", "parent": f"issues_{n}", "columns": COLUMNS}}
        for n in range(len(REACTIONS))
    )
    r = Rollout(database, Scenario(setup=setup, operations=operations))
    r.advance_to(State.MIGRATED)
    for n, cases in enumerate(REACTIONS.values()):
        for row, (statement, outcome) in enumerate(cases, 1):
            code = None
            with psycopg.connect(database.dsn) as conn:
                try:
                    conn.execute(statement.format(n=n).encode())
                    conn.commit()
                except psycopg.errors.IntegrityError as error:
                    # RESTRICT has a code of its own from PostgreSQL 18 on.
                    code = "23503" if error.sqlstate == "23001" else error.sqlstate
                    conn.rollback()
            found = database.execute(f"SELECT issue_id, project_id, team FROM it_{n} WHERE id = {row}")
            assert (code or found[0]) == outcome, (n, statement)
            assert database.value(
                f"SELECT bool_and((a.project_id, a.team) IS NOT DISTINCT FROM (i.project_id, i.team)) FROM it_{n} a"
                f" LEFT JOIN issues_{n} i ON i.id = a.issue_id"
            ), statement
    r.sides_agree()
    r.engine().rollback(r.migration.id)


def test_a_copy_that_disagrees_is_refused_where_the_file_says_so(database: Database) -> None:
    a = Assignees(database, options={"conflict": "refuse"})
    a.fill()
    run = database.execute
    run(
        "SET search_path = public_try_it, public; INSERT INTO assignees (issue_id, project_id, team, who) VALUES (8, 1, 3, 'right')"
    )
    run(ADD.format(issue=8, who="unsaid"))
    run("UPDATE assignees SET project_id = 1, who = 'right too' WHERE who = 'right'")
    for statement in (
        "INSERT INTO assignees (issue_id, project_id, who) VALUES (8, 3, 'wrong')",
        "UPDATE assignees SET project_id = 3 WHERE who = 'unsaid'",
        "UPDATE assignees SET team = NULL WHERE who = 'unsaid'",
        "UPDATE assignees SET issue_id = 9, project_id = 5 WHERE who = 'unsaid'",
    ):
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="is a copy"):
            run(statement)
    run(CHANGE.format(issue=8, value=44))
    run("UPDATE issues SET id = 1008, team = 45 WHERE id = 8")
    assert (a.of("unsaid"), a.of("right too")) == ((1008, 44, 45), (1008, 44, 45))
    _break(database, "UPDATE assignees SET team = 1 WHERE issue_id = 7")
    assert (a.repair(), a.bad(), a.found()) == (2, 0, {})


def _break(database: Database, *statements: str) -> None:
    """What somebody does without any trigger, and then the triggers as they were."""
    database.execute("ALTER TABLE assignees DISABLE TRIGGER ALL")
    for statement in statements:
        database.execute(statement)
    database.execute("ALTER TABLE assignees ENABLE TRIGGER ALL")
    for (name,) in database.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'assignees'::regclass AND NOT tgisinternal"
    ):
        database.execute(f'ALTER TABLE assignees ENABLE ALWAYS TRIGGER "{name}"')


@on_all_versions
def test_what_somebody_broke_is_found_and_repaired(database: Database) -> None:
    a = Assignees(database)
    a.fill()
    _break(
        database,
        "UPDATE assignees SET project_id = 99 WHERE id = 1",
        "UPDATE assignees SET team = NULL WHERE id = 2",
        "UPDATE assignees SET issue_id = 77 WHERE id = 3",
        "UPDATE assignees SET issue_id = NULL WHERE id = 4",
    )
    assert (a.found(), a.bad()) == ({Kind.STALE_NEW: 4}, 4)
    assert a.repair() == 4
    assert (a.found(), a.bad(), a.repair()) == ({}, 0, 0)


def test_a_row_that_would_have_null_where_none_may_be(database: Database) -> None:
    """The old version's write goes through; it is recorded, and refuses the gates, until the row refers to something."""
    a = Assignees(
        database,
        options={"columns": {"project_id": "project_id"}, "not_null": True},
        extra="UPDATE assignees SET issue_id = NULL WHERE id = 3;",
    )
    (found,) = [
        f.text for f in a.rollout.engine().plan(a.rollout.migration).findings if f.rule == "up-raises"
    ]
    assert "1 of 200 rows of public.assignees (for example id=3) would have NULL for project_id" in found
    database.execute("UPDATE assignees SET issue_id = 3 WHERE id = 3")
    database.execute(ADD.format(issue="NULL", who="nobody"))
    assert database.execute("SELECT sqlstate FROM zdm.sync_failures") == [("23502",)]
    with pytest.raises(BadData, match="project_id would be NULL"):
        a.fill()
    assert a.found() == {Kind.FAILED: 1}
    database.execute("UPDATE assignees SET issue_id = 5 WHERE who = 'nobody'")
    a.fill()
    assert (a.found(), database.value("SELECT count(*) FROM zdm.sync_failures")) == ({}, 0)
    a.rollout.advance_to(State.COMPLETED)
    assert database.value(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'assignees'::regclass AND attname = 'project_id'"
    )


def test_nobody_but_the_owner_needs_rights(database: Database) -> None:
    """The application has none on the issues, zdm's role those of its page; and the rows' own triggers find what they name."""
    database.execute("DROP SCHEMA zdm CASCADE")
    roles = Roles(database, secured=False, column_grants=False)
    database.execute(
        f'SET ROLE "{roles.owner}"; {SETUP.format(reference=CASCADING)}'
        "CREATE TABLE audit (id int); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NEW; END';"
        "CREATE TRIGGER note BEFORE UPDATE ON assignees FOR EACH ROW EXECUTE FUNCTION note(); GRANT INSERT ON audit TO PUBLIC;"
        f'GRANT SELECT, INSERT, UPDATE ON assignees TO "{roles.app}"; RESET ROLE'
    )
    operation = {"copy_columns": {"table": "assignees", "parent": "issues", "columns": COLUMNS}}
    given = Migration.model_validate({"id": "try_it", "operations": [operation], "gates": OPEN_GATES})
    engine = roles.engine()
    engine.init()
    engine.advance(given)
    with database.connect(roles.app) as conn:
        conn.execute(ADD.format(issue=60, who="app"))
        conn.execute("UPDATE assignees SET issue_id = 10 WHERE who = 'u' AND id < 20")
    assert engine.advance(given).state is State.MIGRATED
    database.execute(f'SET ROLE "{roles.owner}"; {CHANGE.format(issue=60, value=5)}; RESET ROLE')
    assert database.execute("SELECT project_id, team FROM assignees WHERE who = 'app'") == [(5, 5)]
    assert database.value("SELECT EXISTS (SELECT FROM audit a JOIN assignees s USING (id) WHERE who = 'app')")
    assert database.value(BAD) == 0
    engine.rollback("try_it")


def test_a_row_of_a_partition_that_comes_before_what_it_refers_to(database: Database) -> None:
    setup = (
        "CREATE TABLE issues (id int PRIMARY KEY, team int NOT NULL); INSERT INTO issues VALUES (1, 1);"
        "CREATE TABLE parts (id int PRIMARY KEY, issue_id int REFERENCES issues) PARTITION BY RANGE (id);"
        "CREATE INDEX ON parts (issue_id); CREATE TABLE parts_0 PARTITION OF parts FOR VALUES FROM (0) TO (100)"
    )
    operation: dict[str, object] = {
        "copy_columns": {"table": "parts", "parent": "issues", "columns": {"team": "team"}}
    }
    r = Rollout(database, Scenario(setup=setup, operations=(operation,)))
    r.advance_to(State.PREPARED)
    database.execute(
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (100) TO (200);"
        "WITH p AS (INSERT INTO parts VALUES (150, 7)) INSERT INTO issues VALUES (7, 70)"
    )
    assert database.execute("SELECT team FROM parts WHERE id = 150") == [(70,)]
    database.execute("UPDATE parts SET id = 50 WHERE id = 150; UPDATE issues SET team = 71 WHERE id = 7")
    assert database.execute("SELECT id, team FROM parts_0") == [(50, 71)]
    r.advance_to(State.MIGRATED)
    r.sides_agree()


def test_behind_the_fence_and_under_other_names(database: Database) -> None:
    """What keeps the copies right goes by the names of the moment, and what is missing of it is drift."""
    operations: tuple[dict[str, object], ...] = (
        {"copy_columns": {"table": "assignees", "parent": "issues", "columns": COLUMNS, "index": True}},
        {"rename_column": {"table": "assignees", "column": "issue_id", "to": "ticket_id"}},
        {"rename_table": {"table": "assignees", "to": "assigned"}},
    )
    r = Rollout(database, Scenario(setup=SETUP.format(reference=CASCADING), operations=operations))
    engine = r.engine()
    r.advance_to(State.SWITCHED_OVER)
    engine.fence(r.migration.id)
    for value, issue in ((71, 10), (72, 60)):
        database.execute(
            f"INSERT INTO public_try_it.assigned (ticket_id, who) VALUES ({issue}, 'new');"
            + CHANGE.format(issue=issue, value=value)
        )
    assert database.execute("SELECT project_id, team FROM public_try_it.assigned WHERE who = 'new'") == [
        (71, 71),
        (72, 72),
    ]
    name = database.value("SELECT tgname FROM pg_trigger WHERE tgname ~ '^!zdm_copy_'")
    database.execute(f'ALTER TABLE issues DISABLE TRIGGER "{name}"')
    with pytest.raises(Drift, match=f"trigger {name} is not enabled ALWAYS"):
        engine.advance(r.migration)
    database.execute(f'ALTER TABLE issues ENABLE ALWAYS TRIGGER "{name}"')
    r.advance_to(State.COMPLETED)
    assert database.execute("SELECT ticket_id, team FROM assigned WHERE who = 'new'") == [(10, 71), (60, 72)]
    assert (
        database.value(
            "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'issues'::regclass"
        )
        == 0
    )
    assert database.value("SELECT count(*) FROM pg_class WHERE relname ~ '^(_zdm_cop|copies_)'") == 0


# --- what cannot be -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_by_name(database: Database) -> None:
    extra = """
    CREATE TABLE t_two (id int PRIMARY KEY, a int REFERENCES issues, b int REFERENCES issues);
    CREATE TABLE t_none (id int PRIMARY KEY, issue_id int);
    CREATE TABLE t_bare (id int PRIMARY KEY, issue_id int REFERENCES issues, team int);
    CREATE TABLE t_key (id int PRIMARY KEY, issue_id int REFERENCES issues); CREATE INDEX ON t_key (issue_id);
    CREATE TABLE t_valid (id int PRIMARY KEY, issue_id int);
    ALTER TABLE t_valid ADD FOREIGN KEY (issue_id) REFERENCES issues ON UPDATE SET NULL NOT VALID; CREATE INDEX ON t_valid (issue_id);
    ALTER TABLE issues ADD parent int REFERENCES issues, ADD twice int GENERATED ALWAYS AS (team * 2) STORED;
    """
    database.execute(SETUP.format(reference=CASCADING) + extra)

    def refused(*more: dict[str, Any], **options: object) -> str:
        operation = {"table": "assignees", "parent": "issues", "columns": {"team": "team"}, **options}
        given = Migration.model_validate({"id": "try_it", "operations": [{"copy_columns": operation}, *more]})
        with connect(database.dsn, application_name="stage") as conn, pytest.raises(BadInput) as caught:
            compile_plan(conn, given, "public")
        return "\n".join(f"{p.what} | {p.remedy} | {p.rule}" for p in caught.value.problems)

    assert "there is no table public.tasks" in refused(parent="tasks")
    assert "there is no column nope in public.issues" in refused(columns={"x": "nope"})
    assert "public.assignees already has a column who" in refused(columns={"who": "team"})
    assert "no foreign key of public.t_none refers to public.issues" in refused(table="t_none")
    assert "There is assignees_issue_id_fkey (issue_id)" in refused(reference=["who"])
    assert "by more than one foreign key: t_two_a_fkey (a); t_two_b_fkey (b)" in refused(table="t_two")
    found = refused(
        table="t_bare", columns={"team": "team", "title": "title", "twice": "twice", "again": "team"}
    )
    assert "no index of public.t_bare begins with issue_id" in found
    assert "public.t_bare already has a column team" in found
    assert "column title of public.issues is of type text" in found
    assert "twice of public.issues is generated" in found
    assert "team of public.issues would be copied twice" in found
    assert "so rows of public.t_key have it already" in refused(table="t_key", columns={"x": "id"})
    found = refused(table="t_valid")
    assert "is NOT VALID" in found
    assert "ON UPDATE SET NULL" in found
    assert "would copy from itself" in refused(table="issues", columns={"x": "team"})
    assert "table public.issues is changed by this migration" in refused(
        {"rename_table": {"table": "issues", "to": "tasks"}}
    )
    replaced = {"change_type": {"table": "assignees", "column": "issue_id", "to": "bigint"}}
    assert "column issue_id" in refused(replaced)
    database.execute(
        "ALTER TABLE issues ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE ROLE forced"
    )
    database.execute("ALTER TABLE issues OWNER TO forced; GRANT forced TO CURRENT_USER")
    assert "public.issues belongs to forced" in refused()
    database.execute("ALTER TABLE issues OWNER TO CURRENT_USER; DROP ROLE forced")


def test_a_foreign_key_with_on_update_does_not_go_with_refusing() -> None:
    key = {"columns": ["team"], "references": {"table": "teams"}, "on_update": "cascade"}
    operation = {
        "table": "a",
        "parent": "b",
        "columns": {"team": "team"},
        "conflict": "refuse",
        "foreign_keys": [key],
    }
    with pytest.raises(ValueError, match="before the parent follows"):
        Migration.model_validate({"id": "try_it", "operations": [{"copy_columns": operation}]})
