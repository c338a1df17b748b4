"""The rights that docs/privileges.md lists are enough for the catalog, and applications need none."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.support import Database, on_all_versions
from tests.support.catalog import FakeMigration, make_plan
from zdm.catalog import events, install, lease, registry, rollouts, steps
from zdm.model.phases import State

PAGE = Path(__file__).parents[3] / "docs" / "privileges.md"


@pytest.fixture
def role(database: Database) -> str:
    """The role that the page's statements make, under a name of the test's own (roles belong to the whole server)."""
    owner = database.create_role("app_owner", options="NOLOGIN")
    made = database.create_role("zdm")
    (script,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    script = script.replace("CREATE ROLE zdm LOGIN;\n", "")
    script = script.replace("DATABASE app ", f"DATABASE {database.name} ").replace("TO zdm", f'TO "{made}"')
    # Nothing that every role may do by default: what the page grants must do.
    database.execute(f"REVOKE ALL ON DATABASE {database.name} FROM PUBLIC")
    database.execute(script.replace("app_owner", f'"{owner}"'))
    return made


@on_all_versions
def test_a_rollout_with_the_documented_rights(database: Database, role: str) -> None:
    conn = database.connect(role)
    assert install.install(conn).current
    registry.register(conn, FakeMigration("m"), "id: m")
    rollout = rollouts.create(conn, make_plan()).id
    conn.commit()
    with lease.acquire(lambda: psycopg.connect(database.dsn_for(role)), rollout, "zdm advance") as held:
        with conn.transaction(), conn.cursor() as cursor:
            held.guard(cursor)
            rollouts.move(conn, rollout, State.PREPARING)
            steps.mark_started(conn, rollout, "preparation.t.columns")
            steps.mark_finished(conn, rollout, "preparation.t.columns")
        held.check()
    assert {event.actor for event in events.all_of(conn, rollout=rollout)} == {role}


def test_a_member_of_the_owner_works_with_the_catalog(database: Database, role: str) -> None:
    install.install(database.connect(role))
    member = database.create_role("ana")
    database.execute(f'GRANT "{role}" TO "{member}"; GRANT CONNECT ON DATABASE {database.name} TO "{member}"')
    conn = database.connect(member)
    assert install.install(conn).current
    registry.register(conn, FakeMigration("m"), "id: m")
    rollout = rollouts.create(conn, make_plan()).id
    conn.commit()
    with lease.acquire(
        lambda: psycopg.connect(database.dsn_for(member)), rollout, "zdm advance", patience=timedelta(0)
    ):
        assert lease.holder(conn, rollout) is not None
    assert events.all_of(conn, rollout=rollout)[0].actor == member


def test_an_application_may_do_nothing(database: Database, role: str) -> None:
    install.install(database.connect(role))
    application = database.create_role("app")
    database.execute(f'GRANT CONNECT ON DATABASE {database.name} TO "{application}"')
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.connect(application).execute("SELECT * FROM zdm.module_migrations")
