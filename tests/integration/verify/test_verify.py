"""The verification finds every kind of disagreement, and nothing else; the repair ends it."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.support.interleave import Scene, eventually
from tests.support.mapped import Mapped
from tests.support.servers import Connection, Database
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.backfill import backfill
from zdm.errors import Busy, ZdmError
from zdm.model.expression import ColumnRef
from zdm.model.mapping import Authority
from zdm.sql.rows import Kind
from zdm.verify import ExtraCheck, repair, verify


def filled(database: Database, rows: int = 2000, **options: object) -> Mapped:
    table = Mapped(database, rows=rows, **options)  # type: ignore[arg-type]
    backfill(table.connect, table.rollout, table.mapping)
    return table


def behind_the_triggers(table: Mapped, statement: str) -> None:
    """As if a trigger had failed to do its work."""
    table.database.execute("ALTER TABLE account DISABLE TRIGGER USER")
    table.database.execute(statement)
    table.database.execute("ALTER TABLE account ENABLE TRIGGER USER")
    table.always()


@on_all_versions
def test_agreement(database: Database) -> None:
    table = filled(database)
    database.execute("UPDATE account SET balance_new = 1.25 WHERE id <= 10")
    database.execute("UPDATE account SET balance = 77 WHERE id BETWEEN 11 AND 20")
    before = database.value("SELECT pg_current_wal_insert_lsn()::text")
    found = verify(table.connect, table.mapping)
    assert found.clean
    assert found.rows == 2000
    assert found.counts == {}
    assert database.value("SELECT %s::pg_lsn >= %s::pg_lsn", found.lsn, before)
    assert database.value("SELECT %s <= now()", found.started_at)


@on_all_versions
@pytest.mark.parametrize(
    "kind,change,ids",
    [
        (Kind.UNSETTLED, "SET balance_new = NULL, _zdm_state = NULL WHERE id IN (5, 6)", [5, 6]),
        (Kind.FAILED, "SET _zdm_state = 3 WHERE id = 5", [5]),
        (Kind.STALE_NEW, "SET balance = 5555 WHERE id IN (5, 6, 7)", [5, 6, 7]),
        (Kind.STALE_NEW, "SET balance_new = NULL WHERE id = 9", [9]),
        (Kind.STALE_OLD, "SET balance_new = 8.25, _zdm_state = 5 WHERE id = 9", [9]),
    ],
)
def test_finds(database: Database, kind: Kind, change: str, ids: list[int]) -> None:
    table = filled(database)
    behind_the_triggers(table, f"UPDATE account {change}")
    found = verify(table.connect, table.mapping)
    assert found.counts == {kind: len(ids)}
    assert sorted(found.samples[kind]) == [f"id={i}" for i in ids]
    assert found.rows == 2000


def test_finds_nulls_that_the_new_version_does_not_allow(database: Database) -> None:
    table = filled(database, not_null=True)
    behind_the_triggers(table, "UPDATE account SET balance = NULL, balance_new = NULL WHERE id = 3")
    found = verify(table.connect, table.mapping)
    assert found.counts == {Kind.NULL_NEW: 1}
    assert found.samples == {Kind.NULL_NEW: ["id=3"]}


def test_names_ten_and_counts_all(database: Database) -> None:
    table = filled(database)
    behind_the_triggers(table, "UPDATE account SET balance = balance + 1 WHERE id > 500")
    found = verify(table.connect, table.mapping)
    assert found.counts == {Kind.STALE_NEW: 1500}
    assert len(found.samples[Kind.STALE_NEW]) == 10


@on_all_versions
def test_an_expression_that_raises_is_a_finding(database: Database) -> None:
    """It was settled, and then somebody went behind the triggers: the rows are sought out, the others counted."""
    table = filled(
        database,
        rows=5000,
        old_type="text",
        old_value="g::text",
        up=(ColumnRef(column="balance"), "::numeric(18,2)"),
        down=(ColumnRef(column="balance_new"), "::text"),
    )
    behind_the_triggers(table, "UPDATE account SET balance = 'many' WHERE id IN (17, 18, 4000)")
    behind_the_triggers(table, "UPDATE account SET balance = '0' WHERE id = 3000")
    found = verify(table.connect, table.mapping)
    assert found.counts == {Kind.FAILED: 3, Kind.STALE_NEW: 1}
    assert sorted(found.samples[Kind.FAILED]) == ["id=17", "id=18", "id=4000"]
    assert found.rows == 5000
    assert found.raised == '22P02: invalid input syntax for type numeric: "many"'


def test_a_comparison_that_cannot_run_is_an_error_at_once(database: Database) -> None:
    """A column that is gone is no row's fault: it was sought in ever smaller pieces of the table, for minutes."""
    table = filled(database)
    database.execute("ALTER TABLE account DROP COLUMN balance_new CASCADE")
    asked = 0

    class Counting(psycopg.Connection[Any]):
        def wait(self, *arguments: Any, **options: Any) -> Any:
            nonlocal asked
            asked += 1
            return super().wait(*arguments, **options)

    with pytest.raises(ZdmError, match='column "balance_new" does not exist'):
        verify(lambda: Counting.connect(database.dsn, autocommit=True), table.mapping)
    assert asked < 20


def test_no_false_alarm_while_both_versions_write(database: Database) -> None:
    table = filled(database)

    def old(conn: Connection, rng: random.Random, n: int) -> None:
        conn.execute("UPDATE account SET balance = balance + 1 WHERE id = %s", [rng.randint(1, 2000)])

    def new(conn: Connection, rng: random.Random, n: int) -> None:
        conn.execute(
            "UPDATE account SET balance_new = balance_new + 0.5 WHERE id = %s", [rng.randint(1, 2000)]
        )

    with Writers(database.dsn) as writers:
        writers.add("old", old)
        writers.add("new", new)
        for _ in range(15):
            writers.wait_for(1)
            found = verify(table.connect, table.mapping)
            assert found.clean, found
            assert found.rows == 2000


def test_extra_checks(database: Database) -> None:
    table = filled(database)
    checks = [
        ExtraCheck(
            name="one row for each balance",
            count=sql.SQL(
                "SELECT count(*) FROM (SELECT FROM public.account GROUP BY balance_new HAVING count(*) > 1) d"
            ),
            samples=sql.SQL(
                "SELECT 'balance=' || balance_new FROM public.account GROUP BY balance_new HAVING count(*) > 1 ORDER BY 1"
            ),
        ),
        ExtraCheck(
            name="no negative", count=sql.SQL("SELECT count(*) FROM public.account WHERE balance_new < 0")
        ),
    ]
    found = verify(table.connect, table.mapping, checks=checks)
    assert not found.clean
    assert found.extra == {"one row for each balance": 1000}
    assert found.extra_samples["one row for each balance"][0] == "balance=0.00"
    assert len(found.extra_samples["one row for each balance"]) == 10


@on_all_versions
@pytest.mark.parametrize("authority", list(Authority))
def test_repair(database: Database, authority: Authority) -> None:
    table = filled(database)
    behind_the_triggers(table, "UPDATE account SET balance = 5000 WHERE id <= 700")
    expected = database.value("SELECT balance_new::text FROM account WHERE id = 5")
    assert repair(table.connect, table.mapping, authority) == 700
    found = verify(table.connect, table.mapping)
    assert found.clean
    if authority is Authority.OLD:
        assert (
            database.value("SELECT count(*) FROM account WHERE balance = 5000 AND balance_new = 5000") == 700
        )
    else:
        assert database.value("SELECT balance FROM account WHERE id = 5") == int(float(expected))
    assert repair(table.connect, table.mapping, authority) == 0


@pytest.mark.parametrize("authority", list(Authority))
def test_repair_looks_again_once_the_row_is_locked(
    database: Database, scene: Scene, authority: Authority
) -> None:
    """An application puts the row right while the repair waits for it: what it wrote stays."""
    table = filled(database)
    behind_the_triggers(table, "UPDATE account SET balance = 5000 WHERE id = 9")
    application = scene.session("application")
    application.begin()
    application.run("UPDATE account SET balance_new = 1.25 WHERE id = 9")
    ours = table.connect()
    with ThreadPoolExecutor(1) as pool:
        repaired = pool.submit(
            repair, lambda: ours, table.mapping, authority, lock_budget=timedelta(seconds=60)
        )
        eventually(lambda: scene.blockers(ours.info.backend_pid) == [application.pid])
        application.run("COMMIT")
        assert repaired.result() == 0
    assert database.value("SELECT balance_new::text FROM account WHERE id = 9") == "1.25"
    assert verify(table.connect, table.mapping).clean


def test_repair_gives_up_on_rows_that_stay_locked(database: Database, scene: Scene) -> None:
    table = filled(database)
    behind_the_triggers(table, "UPDATE account SET balance = 5000 WHERE id = 9")
    holder = scene.session("holder")
    holder.begin()
    holder.run("SELECT FROM account WHERE id = 9 FOR UPDATE")
    with pytest.raises(Busy):
        repair(table.connect, table.mapping, Authority.OLD, patience=timedelta(0))
