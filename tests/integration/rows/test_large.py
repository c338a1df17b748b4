"""What must not grow with the table: how the backfill and the comparison of two tables read them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.integration.rows.stage import Rows
from tests.support.servers import Connection, Database
from tests.support.versions import on_all_versions
from zdm.backfill import Options
from zdm.backfill.row_statements import RowStatements
from zdm.backfill.run import backfill
from zdm.db.session import connect
from zdm.sql.rows import Kind
from zdm.verify import rows as verification
from zdm.verify.rows import verify_rows


def fill(rows: Rows, options: Options | None = None) -> None:
    opened = partial(connect, rows.database.dsn, application_name="backfill")
    assert backfill(opened, rows.rollout, rows.mapping, options).complete


def explained(database: Database, statement: str) -> str:
    return "\n".join(line for (line,) in database.execute(f"EXPLAIN {statement}"))


def test_a_chunk_reads_no_more_of_the_other_table_than_it_must(database: Database) -> None:
    """Else each chunk would read all that is there already. And ranges that a sample gave compare every row all the same."""
    rows = Rows(database, rows=20_000)
    fill(rows)
    database.execute("ANALYZE accounts; ANALYZE account_stats")
    statement = RowStatements(rows.mapping, rows.rollout).fill(10, 20, careful=False).as_string(None)
    plan = "\n".join(line for (line,) in database.execute(f"EXPLAIN {statement}"))
    assert "Seq Scan on account_stats" not in plan
    database.execute(
        "SET session_replication_role = replica; ALTER TABLE accounts DISABLE TRIGGER USER;"
        " DELETE FROM accounts WHERE id IN (1, 9999); ALTER TABLE account_stats DISABLE TRIGGER USER;"
        " DELETE FROM account_stats WHERE account_id IN (2, 20000);"
    )
    opened = partial(connect, database.dsn, application_name="verify")
    found = verify_rows(opened, rows.mapping, rows.rollout, rows=1000)
    assert (found.rows, found.counts) == (20_000, {Kind.MISSING: 2, Kind.EXTRA: 2})


@on_all_versions
def test_rows_go_in_by_their_key(database: Database) -> None:
    """A join gives them in any order; the new table, and every index of it, would be as scattered as its hash table."""
    rows = Rows(database, rows=20_000)
    fill(rows)
    ((backwards,),) = database.execute(
        "SELECT count(*) FROM (SELECT account_id, lag(account_id) OVER (ORDER BY ctid) AS before FROM account_stats) s"
        " WHERE account_id < before"
    )
    assert backwards == 0


@on_all_versions
def test_what_is_left_is_found_by_one_join(database: Database) -> None:
    """Not by a look into the other table for each row; and a row that moved unseen is filled."""
    rows = Rows(database, rows=20_000)
    fill(rows)
    database.execute("ANALYZE accounts; ANALYZE account_stats")
    statements = RowStatements(rows.mapping, rows.rollout)
    look = statements.left(0, 2**32 - 2).as_string(None)
    assert "Anti Join" in explained(database, look)
    assert database.execute(look) == []
    database.execute(
        "ALTER TABLE account_stats DISABLE TRIGGER USER; DELETE FROM account_stats WHERE account_id IN (7, 19000)"
    )
    assert len(database.execute(look)) == 2
    fill(rows, Options(again=True))
    assert rows.bad() == (0, 0, 0)


@on_all_versions
@pytest.mark.parametrize("scattered", [False, True])
def test_compared_wherever_the_rows_lie(
    database: Database, scattered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Range by range, or both tables at once: the findings are the same."""
    order = "CREATE TABLE moved_about AS SELECT * FROM accounts ORDER BY hashint8(id); TRUNCATE accounts;"
    again = "INSERT INTO accounts SELECT * FROM moved_about; DROP TABLE moved_about"
    rows = Rows(database, rows=20_000, extra=f"{order} {again}" if scattered else "")
    fill(rows)
    database.execute("ANALYZE accounts; ANALYZE account_stats")
    database.execute(
        "ALTER TABLE accounts DISABLE TRIGGER USER; ALTER TABLE account_stats DISABLE TRIGGER USER;"
        " DELETE FROM accounts WHERE id IN (1, 9999); DELETE FROM account_stats WHERE account_id IN (2, 20000);"
        " UPDATE account_stats SET statuses = statuses + 1 WHERE account_id IN (3, 5000, 19999)"
    )
    ranges: list[object] = []
    compare = verification._Statements.compare

    def counted(self: Any, conn: Connection, start: Any, end: Any) -> Any:
        ranges.append(start)
        return compare(self, conn, start, end)

    monkeypatch.setattr(verification._Statements, "compare", counted)
    opened = partial(connect, database.dsn, application_name="verify")
    found = verify_rows(opened, rows.mapping, rows.rollout, rows=1000)
    assert found.counts == {Kind.MISSING: 2, Kind.EXTRA: 2, Kind.DIFFERENT: 3}
    assert {kind: len(keys) for kind, keys in found.samples.items()} == found.counts
    assert len(ranges) == 1 if scattered else len(ranges) > 10
