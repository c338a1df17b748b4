"""What went wrong past the triggers is put right by `zdm verify --repair`, from the side that is the authority; what cannot be is named."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.conformance.harness import Rollout
from tests.support.servers import Database
from zdm.engine.reporter import Silent
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.operations.collapse import Collapse
from zdm.operations.copy_columns import CopyColumns
from zdm.operations.explode import Explode
from zdm.operations.extract_json import ExtractJson
from zdm.operations.merge_tables import MergeTables
from zdm.operations.normalise import Normalise
from zdm.operations.split_table import SplitTable


def past_the_triggers(database: Database, table: str, *statements: str) -> None:
    """Write to a table as if zdm had never been there, nor foreign keys."""
    always = database.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND tgenabled = 'A'", table
    )
    again = "".join(f'ALTER TABLE {table} ENABLE ALWAYS TRIGGER "{name}";' for (name,) in always)
    database.execute(
        f"BEGIN; ALTER TABLE {table} DISABLE TRIGGER ALL; SET LOCAL session_replication_role = replica;"
        f" {';'.join(statements)}; ALTER TABLE {table} ENABLE TRIGGER ALL; {again} COMMIT"
    )


@dataclass(frozen=True)
class Case:
    """What is written past the triggers, and what the authority's tables must not lose by the repair.

    Parameters
    ----------
    old / new: the tables of either side that are written, each with its statements.
    after: of rows of the new side that the repair after switchover may add, since only the old version's table had them: a condition.
    """

    scenario: Scenario
    old: dict[str, tuple[str, ...]]
    new: dict[str, tuple[str, ...]]
    added: str = "false"


TAGS = Explode.scenarios[3]
CASES = {
    "reference by log": Case(
        Normalise.scenarios[4],
        {"tools": ("UPDATE tools SET maker = 'nobody' WHERE id IN (1, 2)",)},
        {
            "tools": (
                "UPDATE tools SET maker_id = NULL WHERE id IN (4, 6)",
                "UPDATE tools SET maker_id = 1 WHERE id = 7",
            )
        },
    ),
    "union by log": Case(
        MergeTables.scenarios[6],
        {
            "photo_comments": (
                "DELETE FROM photo_comments WHERE id = 10",
                "UPDATE photo_comments SET body = 'x' WHERE id IN (11, 12)",
                "INSERT INTO photo_comments (id, photo_id, body) VALUES (90001, 1, 'y')",
            )
        },
        {
            "comments": (
                "DELETE FROM comments WHERE subject = 'post' AND number IN (5, 6)",
                "UPDATE comments SET body = 'x' WHERE subject = 'photo' AND number = 7",
                "INSERT INTO comments (subject, number, subject_id, body) VALUES ('post', 90000, 1, 'y')",
            )
        },
        "number = 90001",
    ),
    "union on record": Case(
        MergeTables.scenarios[5],
        {
            "customers_us": (
                "DELETE FROM customers_us WHERE id = 10",
                "UPDATE customers_us SET email = 'x' WHERE id = 11",
                "INSERT INTO customers_us (id, email) VALUES (90001, 'Y')",
            )
        },
        {
            "customers": (
                "DELETE FROM customers WHERE region = 'eu' AND id = 5",
                "UPDATE customers SET email = 'x' WHERE region = 'us' AND id = 7",
                "INSERT INTO customers (region, id, email) VALUES ('us', 90000, 'y')",
            )
        },
        "id = 90001",
    ),
    "merged on record": Case(
        MergeTables.scenarios[7],
        {
            "account_stats": (
                "DELETE FROM account_stats WHERE account_id = 9",
                "UPDATE account_stats SET note = 'x' WHERE account_id = 10",
            )
        },
        {"accounts": ("UPDATE accounts SET statuses_count = 99, remark = NULL WHERE id IN (5, 8)",)},
    ),
    "copies": Case(
        CopyColumns.scenarios[0],
        {},
        {"assignees": ("UPDATE assignees SET project_id = project_id % 20 + 1 WHERE id < 5",)},
    ),
    "some elements": Case(
        Explode.scenarios[1],
        {"people": ("UPDATE people SET home = NULL, work = '0' WHERE id IN (9, 10)",)},
        {
            "phones": (
                "DELETE FROM phones WHERE person = 5 AND kind = 'home'",
                "UPDATE phones SET number = 'x' WHERE person = 6 AND kind = 'work'",
                "INSERT INTO phones (person, kind, number) VALUES (151, 'work', 'x'), (90000, 'home', 'x')",
            )
        },
    ),
    "elements on record": Case(
        Explode.scenarios[2],
        {"people": ("UPDATE people SET home = NULL, work = '0' WHERE id IN (9, 10)",)},
        {
            "phones": (
                "DELETE FROM phones WHERE person = 5 AND kind = 'home'",
                "UPDATE phones SET number = 'x' WHERE person = 6 AND kind = 'work'",
                "INSERT INTO phones (person, kind, number) VALUES (151, 'work', 'x'), (90000, 'home', 'x')",
            )
        },
    ),
    "elements by log": Case(
        TAGS,
        {"products": ("UPDATE products SET tags = 'x' WHERE id IN (9, 11)",)},
        {
            "product_tags": (
                "DELETE FROM product_tags WHERE product_id = 5",
                "UPDATE product_tags SET tag = 'x' WHERE product_id = 7",
                "INSERT INTO product_tags (product_id, position, tag) VALUES (7, 90, 'x'), (90000, 1, 'x')",
            )
        },
    ),
    "gathered by log": Case(
        Collapse.scenarios[3],
        {},
        {
            "order_totals": (
                "DELETE FROM order_totals WHERE order_id = 5",
                "UPDATE order_totals SET paid = 0 WHERE order_id = 6",
                "INSERT INTO order_totals (order_id, paid, last_status) VALUES (90000, 1, 'x')",
            )
        },
    ),
    "two tables of one": Case(
        SplitTable.scenarios[1],
        {
            "customers": (
                "DELETE FROM customers WHERE id = 9",
                "UPDATE customers SET nick = 'x', city = 'x' WHERE id = 10",
            )
        },
        {
            "logins": ("DELETE FROM logins WHERE id = 5",),
            "addresses": ("UPDATE addresses SET town = 'x' WHERE customer_id = 6",),
        },
    ),
}


def held(database: Database, tables: list[str], but: str = "false") -> list[tuple[str, str]]:
    """Every row of these tables, whole."""
    found = [
        (table, row)
        for table in tables
        for (row,) in database.execute(
            f"SELECT to_jsonb(zdm_t)::text FROM {table} AS zdm_t WHERE NOT ({but})"
        )
    ]
    return sorted(found)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_differs_follows_the_authority(database: Database, case: Case) -> None:
    """Missing, extra and different rows at once, before switchover and after it; what the authority holds stays as it is."""
    rollout = Rollout(database, case.scenario, compared=False)
    rollout.advance_to(State.MIGRATED)
    rollout.turns(State.MIGRATED)
    engine = rollout.engine()
    for state, damage, truth in (
        (State.MIGRATED, case.new, list(case.old)),
        (State.SWITCHED_OVER, case.old, list(case.new)),
    ):
        if rollout.state() != state.value:
            rollout.advance_to(state)
            rollout.turns(state)
        but = case.added if state is State.SWITCHED_OVER else "false"
        # Where both are columns of one table, what is damaged is not what decides.
        decides = [table for table in truth if table not in damage]
        before = held(database, decides)
        for table, statements in damage.items():
            past_the_triggers(database, table, *statements)
        assert engine.verify("try_it").clean is not bool(damage)
        found = engine.verify("try_it", repair=True)
        assert found.clean, found
        rollout.agree()
        assert held(database, decides, but) == before


def test_a_field_that_was_damaged_does_not_go_to_its_column(database: Database) -> None:
    """The rest of the document is repaired first, and that is no word of the old version's about its fields."""
    rollout = Rollout(database, ExtractJson.scenarios[3], compared=False)
    rollout.advance_to(State.SWITCHED_OVER)
    rollout.execute_new("UPDATE users SET data = jsonb_set(data, '{more}', '1') WHERE id = 7")
    past_the_triggers(
        database, "users", 'UPDATE users SET data = \'{"theme": "bad", "more": 3}\' WHERE id = 7'
    )
    engine = rollout.engine()
    assert not engine.verify("try_it").clean
    assert engine.verify("try_it", repair=True).clean
    assert database.execute("SELECT theme FROM preferences WHERE user_id = 7") == [("t7",)]
    assert database.execute("SELECT data FROM users WHERE id = 7") == [
        ({"theme": "t7", "more": 1, "other": 7},)
    ]


UNIQUE = Scenario(
    setup="CREATE TABLE accounts (id int PRIMARY KEY, name text NOT NULL, email text UNIQUE);"
    " INSERT INTO accounts SELECT g, 'a' || g, 'e' || g FROM generate_series(1, 20) g",
    operations=(
        {
            "move_columns": {
                "table": "accounts",
                "to": "contacts",
                "columns": ["email"],
                "key": {"id": "id"},
                "create": {"foreign_key": None},
            }
        },
    ),
)


class Telling(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_what_cannot_be_repaired_is_named_and_the_rest_is_repaired(database: Database) -> None:
    """Values that two rows exchanged, one that a third row has to let go of first, and a row whose old one has gone."""
    rollout = Rollout(database, UNIQUE, compared=False)
    rollout.advance_to(State.SWITCHED_OVER)
    past_the_triggers(
        database,
        "accounts",
        # In the order in which they are gone through, each takes what the next one has.
        "UPDATE accounts SET email = 'x' || id WHERE id IN (1, 2, 3, 5, 6)",
        "UPDATE accounts SET email = 'e2' WHERE id = 1",
        "UPDATE accounts SET email = 'e3' WHERE id = 2",
        "UPDATE accounts SET email = 'e6' WHERE id = 5",
        "UPDATE accounts SET email = 'e5' WHERE id = 6",
        "DELETE FROM accounts WHERE id = 9",
    )
    telling = Telling()
    found = rollout.engine(telling).verify("try_it", repair=True)
    (table,) = found.tables
    assert (table.missing, table.extra, table.different) == (0, 1, 2)
    assert set(table.sample_keys) == {"id=5", "id=6", "id=9"}
    left = "SELECT a.id FROM accounts a JOIN contacts c USING (id) WHERE a.email IS DISTINCT FROM c.email ORDER BY 1"
    assert database.execute(left) == [(5,), (6,)]
    assert sum("not repaired" in note for note in telling.notes) == 2, telling.notes
    assert any("duplicate key" in note for note in telling.notes)
    # What one lets go of by hand lets the other one have it, and the row that had gone may come again.
    database.execute("INSERT INTO accounts VALUES (9, 'a9', 'e9')")
    past_the_triggers(database, "accounts", "UPDATE accounts SET email = NULL WHERE id = 5")
    assert rollout.engine().verify("try_it", repair=True).clean
