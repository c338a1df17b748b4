"""Rows of the new version that the old one has no form for: recorded by policy, and neither lost nor counted twice."""

from __future__ import annotations

import pytest

from tests.integration.rows.stage import Rows
from tests.integration.rows.test_interleaved import fill
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.db.session import connect
from zdm.sql.rows import Kind
from zdm.verify.rows import verify_rows
from zdm.verify.run import Found

RECORDED = "SELECT key, new_row, old_row, sqlstate FROM zdm.rows_without_old_form ORDER BY key"


def recording(database: Database, **options: object) -> Rows:
    made = Rows(database, rows=3, options={"without_old_form": "record", **options})
    fill(made)
    return made


def found(rows: Rows) -> Found:
    return verify_rows(
        lambda: connect(rows.database.dsn, application_name="verify"), rows.mapping, rows.rollout
    )


@on_all_versions
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("presence", ["every", "needed"])
def test_a_row_that_no_row_of_the_old_table_has(database: Database, isolation: str, presence: str) -> None:
    """It stands alone, is known, follows what is written to it, and is taken over by the old row that comes."""
    rows = recording(database, rows=presence)

    def run(statement: str) -> None:
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")

    run("INSERT INTO account_stats (account_id, statuses, followers) VALUES (77, 1, 2)")
    ((key, new_row, old_row, sqlstate),) = database.execute(RECORDED)
    assert (key, old_row, sqlstate) == ({"account_id": 77}, None, "23503")
    assert {**new_row, "serial": 0} == {"account_id": 77, "statuses": 1, "followers": 2, "serial": 0}
    assert found(rows).clean
    assert found(rows).without_old_form == 1
    run("UPDATE account_stats SET followers = 9 WHERE account_id = 77")
    assert database.value("SELECT new_row ->> 'followers' FROM zdm.rows_without_old_form") == "9"
    run("UPDATE account_stats SET account_id = 78 WHERE account_id = 77")
    assert database.execute("SELECT key FROM zdm.rows_without_old_form") == [({"account_id": 78},)]
    run("INSERT INTO accounts (id) VALUES (78)")
    assert database.execute(RECORDED) == []
    assert database.execute("SELECT statuses, followers FROM accounts WHERE id = 78") == [(1, 9)]
    run("INSERT INTO account_stats (account_id, statuses, followers) VALUES (79, 1, 2)")
    run("DELETE FROM account_stats WHERE account_id = 79")
    assert database.execute(RECORDED) == []
    assert rows.bad() == (0, 0, 0)
    assert found(rows).clean
    assert found(rows).without_old_form == 0


@pytest.mark.parametrize("presence", ["every", "needed"])
def test_an_old_row_that_says_something_else_wins_and_what_lost_is_kept(
    database: Database, presence: str
) -> None:
    rows = recording(database, rows=presence)
    database.execute("INSERT INTO account_stats (account_id, statuses, followers) VALUES (77, 1, 2)")
    database.execute("INSERT INTO accounts (id, statuses) VALUES (77, 5)")
    assert database.execute(RECORDED) == []
    assert rows.bad() == (0, 0, 0)
    ((won, lost, kept),) = database.execute("SELECT won, lost, kept FROM zdm.row_conflicts")
    assert (won, lost["statuses"], lost["followers"]) == ("old", 1, 2)
    assert kept == {"statuses": 5, "followers": 0}


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SERIALIZABLE"])
@pytest.mark.parametrize(
    "options", [{"rows": "every"}, {"rows": "needed"}, {"rows": "needed", "where": "statuses > 0"}]
)
def test_both_halves_of_a_row_in_one_statement(
    database: Database, isolation: str, options: dict[str, object]
) -> None:
    """The trigger of the one fires before that of the other, and finds a row that nobody has looked at yet."""
    rows = recording(database, **options)
    for statement in (
        "WITH a AS (INSERT INTO accounts (id) VALUES (77) RETURNING id) INSERT INTO account_stats (account_id, statuses, followers) SELECT id, 1, 2 FROM a",
        "WITH s AS (INSERT INTO account_stats (account_id, statuses, followers) VALUES (78, 1, 2) RETURNING account_id) INSERT INTO accounts (id) SELECT account_id FROM s",
    ):
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")
    assert database.execute(RECORDED) == []
    both = "SELECT a.id, a.statuses, s.followers FROM accounts a JOIN account_stats s ON account_id = id WHERE id > 70 ORDER BY 1"
    assert database.execute(both) == [(77, 1, 2), (78, 1, 2)]
    assert found(rows).clean


def test_one_that_is_not_recorded_is_found(database: Database) -> None:
    """Extra rows count as they did, beside those that are known."""
    rows = recording(database)
    database.execute(
        "INSERT INTO account_stats (account_id, statuses, followers) VALUES (77, 1, 2);"
        " ALTER TABLE account_stats DISABLE TRIGGER USER;"
        " INSERT INTO account_stats (account_id, statuses, followers) VALUES (78, 1, 2)"
    )
    looked = found(rows)
    assert looked.counts == {Kind.EXTRA: 1}
    assert looked.without_old_form == 1
