"""move_columns with a reference: which rows there are, what names them, and what is refused meanwhile."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.sample import Scenario

SETUP = """
CREATE TABLE providers (id bigint PRIMARY KEY, tenant int NOT NULL, config text);
INSERT INTO providers SELECT g, g % 3, CASE g % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 's' || g END FROM generate_series(1, 12) g;
"""
OPERATION: dict[str, Any] = {
    "table": "providers",
    "to": "credentials",
    "key": {"id": "id"},
    "columns": ["config"],
    "copies": {"tenant": "tenant"},
    "rows": "needed",
    "where": "config <> ''",
    "reference": "credential_id",
    "create": {"foreign_key": None},
}
WRONG = """
SELECT count(*) FROM providers p FULL JOIN credentials c ON c.id = p.id WHERE p.id IS NULL
  OR CASE WHEN p.config <> '' THEN (p.tenant, p.config, p.credential_id) IS DISTINCT FROM (c.tenant, c.config, p.id)
     ELSE c.id IS NOT NULL OR p.credential_id IS NOT NULL END
"""


def prepared(database: Database, state: State, **options: Any) -> Rollout:
    scenario = Scenario(setup=SETUP, operations=({"move_columns": {**OPERATION, **options}},))
    rollout = Rollout(database, scenario)
    rollout.advance_to(state)
    return rollout


def wrong(database: Database) -> int:
    return int(database.execute(WRONG)[0][0])


@on_all_versions
def test_both_versions_write(database: Database) -> None:
    rollout = prepared(database, State.MIGRATED)
    assert wrong(database) == 0
    # Blank and missing ones stay what they are.
    before = (
        "SELECT count(*) FILTER (WHERE config = ''), count(*) FILTER (WHERE config IS NULL) FROM providers"
    )
    assert database.execute(before) == [(4, 4)]
    for write in (
        "UPDATE providers SET config = '' WHERE id = 2",
        "UPDATE providers SET config = 'o' WHERE id IN (1, 3)",
        "UPDATE providers SET tenant = 9 WHERE id = 5",
        "UPDATE credentials SET config = 'n' WHERE id = 5",
        "DELETE FROM credentials WHERE id = 8",
        "INSERT INTO credentials VALUES (4, 'n4', 1)",
        "UPDATE providers SET id = 111 WHERE id = 11",
        "INSERT INTO providers (id, tenant, config) VALUES (20, 1, 'x'), (21, 1, '')",
        (
            "WITH p AS (INSERT INTO providers (id, tenant, credential_id) VALUES (22, 2, 22) RETURNING id)"
            " INSERT INTO credentials SELECT id, 'n22', 2 FROM p"
        ),
        "DELETE FROM providers WHERE id = 20",
    ):
        database.execute(write)
        assert wrong(database) == 0, write
    assert database.execute("SELECT id, config FROM providers WHERE id IN (2, 4, 8, 22) ORDER BY 1") == [
        (2, ""),
        (4, "n4"),
        (8, None),
        (22, "n22"),
    ]
    for write, error in (
        ("INSERT INTO credentials VALUES (500, 'pooled', 1)", pg.ForeignKeyViolation),
        ("INSERT INTO credentials VALUES (6, 'of another', 7)", pg.IntegrityConstraintViolation),
        ("UPDATE credentials SET config = '' WHERE id = 5", pg.CheckViolation),
    ):
        with pytest.raises(error):
            database.execute(write)
    database.execute("TRUNCATE credentials")
    assert wrong(database) == 0
    assert database.execute("SELECT count(*) FROM providers WHERE config = ''") == [(4,)]
    rollout.advance_to(State.SWITCHED_OVER)
    rollout.engine().rollback("try_it")
    rollout.nothing_left()


@on_all_versions
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_snapshot_from_before_the_row_was_made(database: Database, level: str) -> None:
    prepared(database, State.PREPARED)
    writes = (
        "UPDATE providers SET config = NULL WHERE id = 2",
        "UPDATE providers SET config = 'later' WHERE id = 5",
        "DELETE FROM providers WHERE id = 8",
    )
    fill = "SELECT zdm.rows_1_1_settle_new(p, false, false) FROM providers p"
    with psycopg.connect(database.dsn) as old:
        for write in writes:
            old.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
            old.execute("SELECT count(*) FROM providers")
            database.execute(f"{fill} WHERE id = {write[-1]}")
            try:
                old.execute(write.encode())
            except pg.SerializationFailure:
                assert level != "READ COMMITTED"
                old.rollback()
                old.execute(write.encode())
            old.commit()
    database.execute(fill)
    assert wrong(database) == 0


@pytest.mark.parametrize("state", [State.MIGRATED, State.SWITCHED_OVER])
def test_what_names_the_wrong_row_is_found_and_put_right(database: Database, state: State) -> None:
    rollout = prepared(database, state)
    engine = rollout.engine()
    database.execute("UPDATE public_try_it.providers SET credential_id = NULL WHERE id = 2")
    database.execute("UPDATE public_try_it.providers SET credential_id = 5 WHERE id IN (8, 3)")
    found = engine.verify("try_it")
    assert [(t.missing, t.extra, t.different) for t in found.tables] == [(1, 0, 2)]
    assert engine.verify("try_it", repair=True).clean
    assert wrong(database) == 0


def test_refusals(database: Database) -> None:
    database.execute(SETUP)
    scenario = Scenario(setup="SELECT 1", operations=({"move_columns": OPERATION},))
    rollout = Rollout(database, scenario)
    for change, expected in (
        ({"rows": "every"}, 1),
        ({"copies": {"tenant": "config"}}, 1),
        ({"reference": "tenant"}, 1),
    ):
        changed = rollout.migration.model_validate(
            {"id": "try_it", "operations": [{"move_columns": {**OPERATION, **change}}]}
        )
        with pytest.raises(BadInput) as raised:
            rollout.engine().plan(changed)
        assert len(raised.value.problems) == expected, [problem.what for problem in raised.value.problems]
