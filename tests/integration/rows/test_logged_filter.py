"""move_columns with a filter, copies and a reference, synced by log: what is noted, and which version's word counts."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.conformance.harness import Rollout
from tests.integration.rows.test_reference import OPERATION, SETUP, WRONG
from tests.support.interleave import Isolation
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.db.session import connect
from zdm.engine.reconcile import reconciling
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario

SCENARIO = Scenario(
    setup="CREATE TABLE providers (id bigserial PRIMARY KEY, tenant int NOT NULL, name text, config text);"
    " INSERT INTO providers (tenant, name, config) SELECT g % 5, 'p' || g, CASE g % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 's' || g END"
    " FROM generate_series(1, 300) g",
    operations=({"move_columns": OPERATION},),
    sync=SyncMode.LOGGED,
    old_writes=(
        "INSERT INTO providers (tenant, name, config) VALUES (1, 'old {n}', (ARRAY['old {n}', '', NULL])[{n} % 3 + 1])",
        "UPDATE providers SET config = 'old {n}' WHERE id = {n} % 300 + 1",
        "UPDATE providers SET config = '' WHERE id = {n} % 300 + 1",
        "UPDATE providers SET tenant = {n} % 7 WHERE id = {n} % 300 + 1",
        "DELETE FROM providers WHERE id = (SELECT max(id) FROM providers WHERE name LIKE 'old%')",
    ),
    new_writes=(
        (
            "WITH p AS (INSERT INTO providers (tenant, name) VALUES (2, 'new {n}') RETURNING id, tenant)"
            " INSERT INTO credentials (id, tenant, config) SELECT id, tenant, 'new {n}' FROM p"
        ),
        "UPDATE credentials SET config = 'new {n}' WHERE id = {n} % 300 + 1",
        "DELETE FROM credentials WHERE id = (SELECT max(id) FROM credentials WHERE config LIKE 'new%')",
    ),
    old_reads=("SELECT id, config FROM providers LIMIT 5",),
    new_reads=(
        "SELECT p.name, c.config FROM providers p JOIN credentials c ON c.id = p.credential_id LIMIT 5",
    ),
    agree="SELECT NOT EXISTS (SELECT FROM (SELECT * FROM public.providers WHERE config <> '') AS p"
    " FULL JOIN public.credentials AS c ON c.id = p.id WHERE (p.id, p.tenant, p.config) IS DISTINCT FROM (c.id, c.tenant, c.config))"
    " AND NOT EXISTS (SELECT FROM providers p WHERE p.credential_id IS DISTINCT FROM"
    " (SELECT c.id FROM public.credentials c WHERE c.id = p.id))",
    after="SELECT (SELECT count(*) FROM credentials) > 50",
)


def test_run_through(database: Database) -> None:
    rollout = Rollout(database, SCENARIO)
    with rollout.writing(new=False):
        rollout.advance_to(State.PREPARED)
    with rollout.writing() as writers:
        rollout.advance_to(State.SWITCHED_OVER)
        writers.wait_for(3)
    assert not [level for level, state in rollout.retried if state == "40P01"]
    rollout.agree()
    assert rollout.engine().verify("try_it").clean
    with rollout.writing(old=False):
        rollout.advance_to(State.COMPLETED)
    rollout.finished()
    rollout.nothing_left()
    assert database.execute("SELECT * FROM zdm.row_changes") == []


def filled(database: Database) -> Rollout:
    rollout = Rollout(
        database, Scenario(setup=SETUP, operations=({"move_columns": OPERATION},), sync=SyncMode.LOGGED)
    )
    rollout.advance_to(State.MIGRATED)
    assert database.execute(WRONG) == [(0,)]
    return rollout


def after(rollout: Rollout, *writes: str) -> None:
    """What both tables hold once these are carried over agrees."""
    for write in writes:
        rollout.database.execute(write)
    rollout.engine().reconcile("try_it")
    assert rollout.database.execute("SELECT key, failed FROM zdm.row_changes") == []
    assert rollout.database.execute(WRONG) == [(0,)], writes


@on_all_versions
def test_both_versions_write(database: Database) -> None:
    """As `test_reference` has it for the immediate triggers, all at once."""
    rollout = filled(database)
    after(
        rollout,
        "UPDATE providers SET config = '' WHERE id = 2",
        "UPDATE providers SET config = 'o' WHERE id IN (1, 3)",
        "UPDATE providers SET tenant = 9 WHERE id = 5",
        "UPDATE credentials SET config = 'n' WHERE id = 5",
        "DELETE FROM credentials WHERE id = 8",
        "INSERT INTO credentials VALUES (4, 'n4', 1)",
        "UPDATE providers SET id = 111 WHERE id = 11",
        "INSERT INTO providers (id, tenant, config) VALUES (20, 1, 'x'), (21, 1, ''), (23, 1, 'y')",
        (
            "WITH p AS (INSERT INTO public_try_it.providers (id, tenant, credential_id) VALUES (22, 2, 22) RETURNING id)"
            " INSERT INTO credentials SELECT id, 'n22', 2 FROM p"
        ),
        "DELETE FROM providers WHERE id = 20",
    )
    assert database.execute(
        "SELECT id, tenant, config FROM providers WHERE id IN (2, 4, 5, 8, 22, 111) ORDER BY 1"
    ) == [
        (2, 2, ""),
        (4, 1, "n4"),
        (5, 9, "n"),
        (8, 2, None),
        (22, 2, "n22"),
        (111, 2, "s11"),
    ]
    assert database.execute("SELECT * FROM zdm.row_conflicts") == []
    after(rollout, "UPDATE providers SET config = NULL WHERE id = 111", "TRUNCATE credentials")
    assert database.execute("SELECT count(*) FROM providers WHERE config = ''") == [(4,)]
    assert database.execute("SELECT count(*) FROM providers WHERE credential_id IS NOT NULL") == [(0,)]


@pytest.mark.parametrize(
    ("writes", "config", "lost"),
    [
        # The old version empties it, and the new one writes it: whoever was later.
        (
            ["UPDATE providers SET config = ''", "UPDATE credentials SET config = 'n'"],
            "n",
            [("new", {"config": ""})],
        ),
        (
            ["UPDATE credentials SET config = 'n'", "UPDATE providers SET config = ''"],
            "",
            [("old", {"config": "n"})],
        ),
        # It goes on the new side, and the old version writes it, or another column.
        (["DELETE FROM credentials", "UPDATE providers SET config = 'o'"], "o", []),
        (["UPDATE providers SET config = 'o'", "DELETE FROM credentials"], None, [("new", {"config": "o"})]),
        (["DELETE FROM credentials", "UPDATE providers SET tenant = 9"], None, []),
        (["DELETE FROM credentials", "UPDATE providers SET config = ''"], "", []),
        # What is copied follows, and what is moved goes the other way.
        (["UPDATE credentials SET config = 'n'", "UPDATE providers SET tenant = 9"], "n", []),
    ],
)
def test_both_versions_write_one_row(
    database: Database, writes: list[str], config: str | None, lost: list[tuple[str, dict[str, str]]]
) -> None:
    rollout = filled(database)
    after(rollout, *(f"{write} WHERE id = 5" for write in writes))
    assert database.execute("SELECT config FROM providers WHERE id = 5") == [(config,)]
    found = database.execute("SELECT won, lost FROM zdm.row_conflicts")
    assert [(won, {"config": kept["config"]}) for won, kept in found] == lost


def test_what_has_no_old_form_is_recorded(database: Database) -> None:
    """A filter, copies and a missing row refuse it once it is reconciled; the gates refuse, until it is put right."""
    rollout = filled(database)
    database.execute(
        "INSERT INTO credentials VALUES (500, 'pooled', 1), (6, 'of another', 7); UPDATE credentials SET config = '' WHERE id = 5"
    )
    rollout.engine().reconcile("try_it")
    assert database.execute("SELECT (key ->> 'id')::int, sqlstate FROM zdm.sync_failures ORDER BY 1") == [
        (5, "23514"),
        (6, "23000"),
        (500, "23503"),
    ]
    after(
        rollout,
        "DELETE FROM credentials WHERE id = 500",
        "UPDATE credentials SET config = 'n' WHERE id = 5",
        "UPDATE credentials SET tenant = 0 WHERE id = 6",
    )
    assert database.execute("SELECT * FROM zdm.sync_failures") == []


def test_a_filter_over_a_column_that_stays(database: Database) -> None:
    """A row that the old version takes out of the filter is gone for the new one, like one that it deletes; what the new one wrote is kept."""
    database.execute(
        "CREATE TABLE users (id int PRIMARY KEY, active boolean NOT NULL, bio text NOT NULL DEFAULT '');"
        " INSERT INTO users SELECT g, true, 'b' || g FROM generate_series(1, 6) g"
    )
    operation = {
        "table": "users",
        "to": "profiles",
        "key": {"id": "id"},
        "columns": ["bio"],
        "rows": "needed",
        "where": "active",
        "create": {"foreign_key": None},
    }
    rollout = Rollout(
        database, Scenario(setup="SELECT 1", operations=({"move_columns": operation},), sync=SyncMode.LOGGED)
    )
    rollout.advance_to(State.MIGRATED)
    database.execute(
        "UPDATE users SET active = false WHERE id < 4; UPDATE profiles SET bio = 'new' WHERE id = 2;"
        " DELETE FROM profiles WHERE id = 3; UPDATE profiles SET bio = 'new' WHERE id = 4; UPDATE users SET active = false WHERE id = 4"
    )
    rollout.engine().reconcile("try_it")
    assert database.execute("SELECT * FROM zdm.row_changes") == []
    assert database.execute("SELECT id FROM profiles ORDER BY id") == [(5,), (6,)]
    assert database.execute("SELECT id, bio FROM users WHERE id < 4 ORDER BY id") == [
        (1, "b1"),
        (2, "b2"),
        (3, "b3"),
    ]
    assert database.execute("SELECT key, won, lost FROM zdm.row_conflicts ORDER BY key") == [
        (["2"], "old", {"bio": "new"}),
        (["4"], "old", {"bio": "new"}),
    ]
    assert rollout.engine().verify("try_it").clean


def test_a_record_ends_with_its_row(database: Database) -> None:
    """The row that has no old form goes, and one of its key comes that has no new form: nothing is left over there to ask for its key."""
    rollout = filled(database)
    database.execute("DELETE FROM public.providers WHERE id = 7")
    rollout.engine().reconcile("try_it")
    database.execute("INSERT INTO public.credentials (id, tenant, config) VALUES (7, 1, 'alone')")
    rollout.engine().reconcile("try_it")
    assert database.execute("SELECT (key ->> 'id')::int FROM zdm.sync_failures") == [(7,)]
    database.execute(
        "DELETE FROM public.credentials WHERE id = 7; INSERT INTO public.providers VALUES (7, 1, '')"
    )
    rollout.engine().reconcile("try_it")
    assert database.execute("SELECT * FROM zdm.sync_failures") == []
    assert database.execute(WRONG) == [(0,)]


LEVELS: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


def test_both_versions_write_a_few_rows(database: Database) -> None:
    """While two reconcilers are at work, at all levels: in the end all agrees but what is recorded as having no old form."""
    rollout = filled(database)
    engine = rollout.engine()
    (mapping,) = engine.plan(rollout.migration).row_mappings

    def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        connection.execute(
            rng.choice(
                [
                    b"UPDATE public.providers SET config = 'o' || %(n)s WHERE id = %(key)s",
                    b"UPDATE public.providers SET config = '' WHERE id = %(key)s",
                    b"UPDATE public.providers SET tenant = %(n)s %% 3 WHERE id = %(key)s",
                    b"DELETE FROM public.providers WHERE id = %(key)s",
                    b"INSERT INTO public.providers VALUES (%(key)s, 1, 'i' || %(n)s) ON CONFLICT (id) DO UPDATE SET tenant = 5",
                    b"INSERT INTO public.providers VALUES (%(key)s, 1) ON CONFLICT (id) DO UPDATE SET config = NULL",
                ]
            ),
            {"key": rng.randrange(1, 9), "n": number},
        )

    def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        connection.execute(
            rng.choice(
                [
                    b"UPDATE public.credentials SET config = 'n' || %(n)s WHERE id = %(key)s",
                    b"DELETE FROM public.credentials WHERE id = %(key)s",
                    (
                        b"INSERT INTO public.credentials SELECT id, 'm' || %(n)s, tenant FROM public.providers WHERE id = %(key)s"
                        b" ON CONFLICT (id) DO UPDATE SET config = excluded.config"
                    ),
                ]
            ),
            {"key": rng.randrange(1, 9), "n": number},
        )

    def session() -> Any:
        return connect(database.dsn, application_name="zdm")

    with (
        reconciling(session, (mapping,), 1, lock_budget=timedelta(milliseconds=100)),
        reconciling(session, (mapping,), 1, lock_budget=timedelta(milliseconds=100)),
        Writers(database.dsn) as writers,
    ):
        for level in LEVELS:
            writers.add(f"old {level}", old, isolation=level)
            writers.add(f"new {level}", new, isolation=level)
        writers.wait_for(200)
    # 55000: the old version's row is there, and the new one's is about to be.
    writers.report.assert_only("40001", "55000")
    engine.reconcile("try_it")
    recorded = database.execute("SELECT (key ->> 'id')::int FROM zdm.sync_failures")
    assert sorted(database.execute(WRONG.replace("count(*)", "DISTINCT COALESCE(p.id, c.id)"))) == sorted(
        recorded
    )


def test_a_row_that_leaves_the_filter_by_what_the_new_version_writes(database: Database) -> None:
    """Whether or not the old version wrote it meanwhile: it has no old form, and is recorded as such, until it has one again."""
    part = {
        "to": "reports",
        "key": {"id": "id"},
        "where": "status = 'active'",
        "columns": ["amount", {"column": "state", "up": "status"}],
        "create": {},
    }
    rollout = Rollout(
        database,
        Scenario(
            setup="CREATE TABLE ledger (id int PRIMARY KEY, amount int, status text NOT NULL);"
            " INSERT INTO ledger SELECT g, g, 'active' FROM generate_series(1, 4) g",
            operations=({"split_table": {"table": "ledger", "keep": True, "into": [part]}},),
            sync=SyncMode.LOGGED,
        ),
    )
    rollout.advance_to(State.MIGRATED)
    database.execute(
        "UPDATE reports SET state = 'draft' WHERE id < 3; UPDATE ledger SET amount = 20 WHERE id IN (2, 3)"
    )
    rollout.engine().reconcile("try_it")
    assert database.execute("SELECT (key ->> 'id')::int, sqlstate FROM zdm.sync_failures ORDER BY 1") == [
        (1, "23514"),
        (2, "23514"),
    ]
    database.execute("UPDATE reports SET state = 'active' WHERE id < 3")
    rollout.engine().reconcile("try_it")
    assert database.execute("SELECT * FROM zdm.row_changes") == []
    assert database.execute("TABLE ledger ORDER BY id") == [
        (1, 1, "active"),
        (2, 20, "active"),
        (3, 20, "active"),
        (4, 4, "active"),
    ]
    assert rollout.engine().verify("try_it").clean
