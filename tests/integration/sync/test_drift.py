"""Whatever somebody else does to the sync's functions, triggers and views is found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.integration.sync.scenarios import ROUNDED, TWO
from tests.integration.sync.stage import ROLLOUT, Stage
from tests.support import on_all_versions
from tests.support.servers import Database
from zdm.model.mapping import Authority
from zdm.sql import sync, sync_generator, templates, views

pytestmark = on_all_versions


def found(s: Stage, authority: Authority = Authority.OLD) -> list[str]:
    with s.database.connect(autocommit=True) as connection:
        connection.execute("SET search_path = ''")
        state = connection.execute(sync.state_query(s.mapping, ROLLOUT).encode()).fetchall()
    return sync.findings(sync.expected_objects(s.mapping, ROLLOUT, authority), state)


def test_nothing_is_found_after_install_switch_and_reinstall(database: Database) -> None:
    s = Stage.set(database, TWO)
    assert found(s) == []
    s.connection.execute("SET search_path = zdm, public")
    s.install()
    assert found(s) == []
    for statement in sync.switch(s.mapping, ROLLOUT, Authority.NEW):
        s.connection.execute(statement.encode())
    assert found(s, Authority.NEW) == []
    assert len(found(s, Authority.OLD)) == 6
    for statement in sync.remove(s.mapping, ROLLOUT):
        s.connection.execute(statement.encode())
    assert len(found(s)) == 17
    s.install()
    assert found(s) == []


@pytest.mark.parametrize(
    "change, expected",
    [
        ("CREATE OR REPLACE FUNCTION zdm.{f}_settle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'", "edited"),
        ("ALTER FUNCTION zdm.{f}_settle() SET search_path = public", "edited"),
        ("ALTER FUNCTION zdm.{f}_failed() SECURITY INVOKER", "edited"),
        ('DROP TRIGGER "~zdm_4_settle" ON t', "missing"),
        ('ALTER TABLE t DISABLE TRIGGER "~zdm_4_settle"', "ALWAYS"),
        ('ALTER TABLE t ENABLE TRIGGER "~zdm_1_insert"', "ALWAYS"),
        ('COMMENT ON TRIGGER "~zdm_1_insert" ON t IS NULL', "not the one"),
        ('CREATE OR REPLACE TRIGGER "~zdm_1_insert" BEFORE INSERT ON t FOR EACH ROW WHEN (false) EXECUTE FUNCTION zdm.{f}_insert()', "edited"),
        ('CREATE TRIGGER "~zdm_9" BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION zdm.{f}_insert()', "none of"),
    ],
)  # fmt: skip
def test_change_is_found(database: Database, change: str, expected: str) -> None:
    s = Stage.set(database, ROUNDED)
    s.connection.execute(change.format(f=f"sync_{ROLLOUT}_{s.mapping.oid}").encode())
    problems = found(s)
    assert len(problems) == 1
    assert expected in problems[0]


def test_what_another_zdm_installed_is_no_drift(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zdm is upgraded in the middle of a rollout: its templates differ, what stands does not. An edit is found as ever."""
    s = Stage.set(database, TWO)
    real = templates.load

    def newer(name: str) -> templates.Template:
        found = real(name)
        if not name.startswith(("function_", "trigger_")):
            return found
        return replace(found, version=found.version + 1, text=f"{found.text}\n-- a later version says more")

    def other() -> list[str]:
        expected = sync.expected_objects(s.mapping, ROLLOUT, Authority.OLD)
        with s.database.connect(autocommit=True) as connection:
            state = connection.execute(sync.state_query(s.mapping, ROLLOUT).encode()).fetchall()
        return sync.by_another_zdm(expected, state)

    assert other() == []
    monkeypatch.setattr(sync_generator, "load", newer)
    sync_generator.generator_of.cache_clear()  # what a process of another version would not have
    assert found(s) == []
    assert len(other()) == 17
    # The other authority, and another mapping, are drift whoever wrote them.
    assert len(found(s, Authority.NEW)) == 6
    s.run(f"ALTER FUNCTION zdm.sync_{ROLLOUT}_{s.mapping.oid}_settle() SET work_mem = '5MB'")
    (problem,) = found(s)
    assert problem.endswith("was edited")
    s.install()
    assert found(s) == []
    assert other() == []


def test_views(database: Database) -> None:
    s = Stage.set(database, ROUNDED)
    expected = {
        views.view_name(s.mapping, schema, old=is_old): views.view_label(s.mapping, old=is_old)
        for schema, is_old in (("before", True), ("after", False))
    }

    def problems() -> list[str]:
        with s.database.connect(autocommit=True) as connection:
            connection.execute("SET search_path = ''")
            state = connection.execute(views.state_query(["before", "after"]).encode()).fetchall()
        return views.findings(expected, state)

    assert problems() == []
    s.run("ALTER TABLE t RENAME COLUMN o TO other")
    assert len(problems()) == 2
    for schema, is_old in (("before", True), ("after", False)):
        s.run(views.stamp_view(s.mapping, schema, old=is_old))
    assert problems() == []
    s.run("CREATE OR REPLACE VIEW after.t AS SELECT id, _c AS a, other || 'x' AS o FROM t")
    assert problems() == ["view after.t was edited"]
    s.run("DROP VIEW before.t")
    assert "view before.t is missing" in problems()
