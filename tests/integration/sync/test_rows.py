"""The pieces that backfill, verification and repair share: what they find and what they mend."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from tests.integration.sync.scenarios import ADDED, DROPPED, PARSED, PROMISED, ROUNDED, TWO, UNFILLED
from tests.integration.sync.stage import Design, Stage, expression, group, new
from tests.support import on_all_versions
from tests.support.servers import Database
from zdm.model.expression import Volatility
from zdm.model.mapping import Authority
from zdm.sql import rows

pytestmark = on_all_versions


def behind_the_sync(s: Stage, *statements: str) -> None:
    """Writes that no trigger sees: what a verification is there to find."""
    with s.connection.transaction():
        s.run("ALTER TABLE t DISABLE TRIGGER USER")
        for statement in statements:
            s.run(statement)
    s.install()


def repair(s: Stage, authority: Authority, number: int = 0) -> bool:
    assignments = rows.repair_assignments(s.mapping, s.mapping.groups[number], authority)
    if assignments is None:
        return False
    s.connection.execute(sql.SQL("UPDATE t SET {}").format(assignments))
    return True


def test_fill(database: Database) -> None:
    s = Stage.set(database, UNFILLED)
    assert s.mismatches() == [("unsettled", "", 3)]
    s.backfill()
    s.has(1, _c=5, new_last=[])
    s.agrees()


def test_fill_of_a_promised_null_is_recorded(database: Database) -> None:
    s = Stage.set(database, Design(PROMISED.columns, PROMISED.groups, before=UNFILLED.before))
    s.backfill()
    s.has(2, _c=None, failed=True)
    assert s.failures() == [({"id": 2}, "g", "23502")]
    assert s.mismatches() == [("failed", "", 1)]


def test_fill_that_raises_is_settled_row_by_row(database: Database) -> None:
    s = Stage.set(database, PARSED)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        s.backfill()
    s.connection.execute(
        sql.SQL("UPDATE t SET {} WHERE {}").format(
            rows.settle_assignments(s.mapping), rows.unsettled(s.mapping)
        )
    )
    s.has(1, _c=5)
    s.has(2, _c=None, failed=True)
    assert s.failures() == [({"id": 2}, "g", "22P02")]
    # And again, once the cause is gone.
    s.old("UPDATE t SET a = '7' WHERE id = 2")
    assert s.failures() == []
    s.agrees()


def test_retry_of_failed_rows(database: Database) -> None:
    s = Stage.set(database, PARSED)
    s.run("UPDATE t SET o = 'y'")
    behind_the_sync(s, "UPDATE t SET a = '7' WHERE id = 2")
    s.has(2, _c=None, failed=True)
    s.connection.execute(
        sql.SQL("UPDATE t SET {} WHERE {}").format(rows.settle_assignments(s.mapping), rows.failed(s.mapping))
    )
    s.has(2, _c=7, failed=False)
    assert s.failures() == []
    s.agrees()


def test_fill_once(database: Database) -> None:
    token = new("token", "token", "text", comparison="native").model_copy(
        update={"fill": expression("md5(random()::text)", Volatility.VOLATILE), "not_null": True}
    )
    flag = new("flag", "flag", "boolean", comparison="native", default="false")
    s = Stage.set(
        database,
        Design(
            "id int PRIMARY KEY, o text",
            (group(token, name="token"), group(flag, name="flag", number=1)),
            before=("INSERT INTO t SELECT generate_series(1, 3)",),
        ),
    )
    s.old("UPDATE t SET o = 'x' WHERE id = 1")
    s.backfill()
    s.old("INSERT INTO t VALUES (4)")
    assert s.run("SELECT count(DISTINCT token), bool_or(flag) FROM t") == [(4, False)]
    before = s.run("SELECT id, token FROM t ORDER BY id")
    s.old("UPDATE t SET o = 'z'")
    assert s.run("SELECT id, token FROM t ORDER BY id") == before
    s.new("UPDATE t SET token = 'mine', flag = true WHERE id = 4")
    s.has(4, token="mine", flag=True)
    s.agrees()


def test_stale_sides_are_found_and_repaired(database: Database) -> None:
    s = Stage.set(database, ROUNDED)
    s.run("INSERT INTO t VALUES (1, 5, 'x')")
    s.new("INSERT INTO t (id, a) VALUES (2, 6.4)")
    behind_the_sync(s, "UPDATE t SET _c = 50 WHERE id = 1", "UPDATE t SET a = 60 WHERE id = 2")
    assert s.mismatches() == [("stale_new", "g", 1), ("stale_old", "g", 1)]
    assert repair(s, Authority.OLD)
    s.has(1, a=5, _c=5, new_last=[])
    s.has(2, a=60, _c=60, new_last=[])
    s.agrees()
    behind_the_sync(s, "UPDATE t SET _c = 7.4")
    assert repair(s, Authority.NEW)
    s.has(1, a=7, _c=7.4, new_last=[0])
    s.agrees()
    # The marker is as any other: the next writes are seen.
    s.old("UPDATE t SET a = 8")
    s.has(1, _c=8, new_last=[])
    s.agrees()


def test_repair_of_one_group_leaves_the_other(database: Database) -> None:
    s = Stage.set(database, TWO)
    s.backfill()
    s.new("UPDATE t SET b = 2.6")
    behind_the_sync(s, "UPDATE t SET _c = 50")
    assert s.mismatches() == [("stale_new", "a", 1)]
    assert repair(s, Authority.OLD, 0)
    s.has(1, a=5, _c=5, b=3, _d=2.6, new_last=[1])
    s.agrees()


def test_null_where_none_is_promised(database: Database) -> None:
    s = Stage.set(database, PROMISED)
    s.new("INSERT INTO t (id, a) VALUES (1, 4)")
    s.new("UPDATE t SET a = NULL")
    assert s.mismatches() == [("null_new", "g", 1)]


def test_one_sided_groups(database: Database) -> None:
    s = Stage.set(database, ADDED)
    s.backfill()
    behind_the_sync(s, "UPDATE t SET slug = 'other' WHERE id = 1")
    assert s.mismatches() == [("stale_new", "g", 1)]
    assert not repair(s, Authority.NEW)
    assert repair(s, Authority.OLD)
    s.agrees()


def test_one_sided_groups_without_a_new_side(database: Database) -> None:
    s = Stage.set(database, DROPPED)
    assert s.mismatches() == [("unsettled", "", 1)]
    s.backfill()
    s.new("INSERT INTO t (id, name) VALUES (2, 'eve')")
    s.agrees()
    behind_the_sync(s, "UPDATE t SET legacy = 'other'")
    assert s.mismatches() == [("stale_old", "g", 1)]
    assert not repair(s, Authority.OLD)


def test_verification_is_not_stopped_by_a_failed_row(database: Database) -> None:
    s = Stage.set(database, PARSED)
    s.run("UPDATE t SET o = 'y'")
    assert s.mismatches() == [("failed", "", 1)]


def test_predicates_over_an_alias(database: Database) -> None:
    s = Stage.set(database, TWO)
    for _, _, predicate in rows.mismatch_kinds(s.mapping, alias="x"):
        s.connection.execute(sql.SQL("SELECT FROM t AS x CROSS JOIN t AS y WHERE {}").format(predicate))
