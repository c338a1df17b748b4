"""Rows that `up` cannot map: the backfill names them, nobody else notices, and the rollout goes on once they are mended."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import psycopg

from tests.acceptance.command import Command
from tests.support.servers import Database
from tests.support.writers import Writers

SETUP = """
CREATE TABLE visit (id integer PRIMARY KEY, day text NOT NULL, seen integer NOT NULL DEFAULT 0);
INSERT INTO visit (id, day) SELECT g, CASE WHEN g IN (777, 1500) THEN 'tomorrow ' || g ELSE '2024-02-29' END
  FROM generate_series(1, 2000) g;
"""

MIGRATION: dict[str, Any] = {
    "id": "days",
    "operations": [
        {
            "change_type": {
                "table": "visit",
                "column": "day",
                "to": "date",
                "up": "to_date(day, 'YYYY-MM-DD')",
                "down": "to_char(day, 'YYYY-MM-DD')",
            }
        }
    ],
}


def work(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
    """An application that also touches the bad rows."""
    connection.execute(
        "UPDATE visit SET seen = seen + 1 WHERE id = %s", [rng.choice([777, 1500, rng.randrange(1, 2000)])]
    )
    del number


def test_rows_that_cannot_be_mapped(database: Database, tmp_path: Path) -> None:
    database.execute(SETUP)
    zdm = Command(database.dsn, tmp_path)
    file = zdm.write(MIGRATION)
    zdm("init").done()
    told = zdm("plan", file).done().out
    said = "raises (or gives NULL for day, which is NOT NULL) on 2 of 2000 rows of public.visit (for example id=777; id=1500)"
    assert said in " ".join(told.split())

    with Writers(database.dsn) as writers:
        writers.add("old", work)
        zdm("advance", file).done()
        database.execute("INSERT INTO visit VALUES (5000, 'someday')")
        database.execute("UPDATE visit SET day = 'never' WHERE id = 10")
        writers.wait_for(6)

        # The application's own bad values went in, and are on record.
        recorded = "SELECT key, sqlstate FROM zdm.sync_failures"
        failures = database.execute(recorded)
        assert ["22007"] * len(failures) == [state for _, state in failures]
        assert {"5000", "10"} <= {str(key["id"]) for key, _ in failures}

        stopped = zdm("advance", file)
        assert stopped.code == 1, stopped.text
        assert "Traceback" not in stopped.text
        for key in ("777", "1500", "10", "5000"):
            assert key in stopped.err, stopped.err
        assert database.value("SELECT state FROM zdm.module_migrations") == "migration_failed"
        writers.wait_for(2)

        # Mended through the old version, two of four: still named, and only those.
        database.execute("UPDATE visit SET day = '2024-03-01' WHERE id IN (777, 5000)")
        again = zdm("advance", file)
        assert again.code == 1, again.text
        assert "1500" in again.err
        assert "777" not in again.err
        database.execute("UPDATE visit SET day = '2024-03-02' WHERE id = 1500")
        database.execute("UPDATE visit SET day = '2024-03-02' WHERE id = 10")
        zdm("advance", file).done()

        # A bad value after the backfill: the write succeeds, and the gate of the switchover refuses until it is mended.
        database.execute("UPDATE visit SET day = 'whenever' WHERE id = 11")
        refused = zdm("advance", file)
        assert refused.code == 3, refused.text
        assert "1 row could not be mapped" in refused.text
        assert "11" in refused.text
        database.execute("UPDATE visit SET day = '2024-03-03' WHERE id = 11")
        assert database.value("SELECT count(*) FROM zdm.sync_failures") == 0
        zdm("advance", file).done()
        writers.wait_for(2)
    writers.report.assert_only()
    wrong = "SELECT count(*) FROM visit o JOIN public_days.visit n USING (id) WHERE o.day IS DISTINCT FROM n.day::text"
    assert database.value(wrong) == 0
    assert database.value("SELECT count(*) FROM public_days.visit WHERE day >= '2024-03-01'") == 5
