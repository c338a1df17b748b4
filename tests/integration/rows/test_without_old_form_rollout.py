"""Whole rollouts in which the new version writes rows that the old one has no form for: said before, counted, kept by a rollback."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conformance.harness import OPEN_GATES, Abort, Dying, Rollout
from tests.integration.rows.test_reference import prepared
from tests.support.servers import Database
from tests.support.versions import on_all_versions
from zdm.errors import BadInput
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario
from zdm.operations.explode import Explode
from zdm.operations.migration import Migration
from zdm.operations.move_columns import MoveColumns
from zdm.operations.normalise import Normalise
from zdm.operations.split_table import SplitTable

POOLED = "INSERT INTO credentials (id, config, label) VALUES (-7, 'pooled', 'more')"


def begun(database: Database, state: State = State.SWITCHED_OVER) -> Rollout:
    """A provider has pooled another credential."""
    rollout = Rollout(database, MoveColumns.scenarios[1])
    rollout.advance_to(state)
    rollout.execute_new(POOLED)
    return rollout


def zdm(database: Database, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "zdm", *arguments, "--url", database.dsn],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.parametrize("policy", ["refuse", "record"])
def test_the_plan_says_so_before(database: Database, policy: str) -> None:
    database.execute(SplitTable.scenarios[2].setup)
    operation = SplitTable.scenarios[2].operations[0]["split_table"]
    assert isinstance(operation, dict)
    part = {**operation["into"][0], "without_old_form": policy}
    migration = Migration.model_validate(
        {"id": "try_it", "operations": [{"split_table": {**operation, "into": [part]}}]}
    )
    engine = Rollout(database, MoveColumns.scenarios[0]).engine()
    found = [
        f.text
        for f in engine.plan(migration).findings
        if "without an old form" in f.text or "no old form" in f.text
    ]
    (text,) = found
    assert "one whose row of public.entries would not meet \"status = 'active'\" (23514)" in text
    assert ("are refused" in text) == (policy == "refuse")
    assert ("zdm.rows_without_old_form" in text) == (policy == "record")


@pytest.mark.parametrize("state", [State.PREPARED, State.MIGRATED, State.SWITCHED_OVER])
def test_a_rollback_names_each_row_and_keeps_it(database: Database, state: State) -> None:
    """From every phase: the rows are in a table of zdm's, whole, and in the answer; the schema is as it was."""
    rollout = begun(database, state)
    answer = json.loads(zdm(database, "rollback", "try_it", "--yes", "--json"))
    (row,) = answer["without_old_form"]
    assert (row["key"], row["sqlstate"]) == ({"id": -7}, "23503")
    assert row["new_row"] == {"id": -7, "config": "pooled", "label": "more"}
    assert database.execute("SELECT key, new_row FROM zdm.rows_without_old_form") == [
        ({"id": -7}, {"id": -7, "config": "pooled", "label": "more"})
    ]
    assert rollout.dump() == rollout.before
    rollout.nothing_left()
    status = json.loads(zdm(database, "status", "try_it", "--json"))
    assert "-7" in json.dumps(status)
    assert "kept in zdm.rows_without_old_form" in zdm(database, "status", "try_it")
    # The next attempt begins with a record of its own.
    rollout.advance_to(State.MIGRATED, restart=True)
    assert rollout.engine().verify("try_it").tables[0].without_old_form == 0
    rollout.execute_new(POOLED.replace("-7", "-8"))
    text = zdm(database, "rollback", "try_it", "--yes")
    assert "id=-8" in text
    assert "id=-7" not in text
    assert database.execute("SELECT (key ->> 'id')::int FROM zdm.rows_without_old_form ORDER BY 1") == [
        (-8,),
        (-7,),
    ]


@pytest.mark.parametrize("state", [State.MIGRATED, State.SWITCHED_OVER, State.COMPLETED])
def test_elements_that_the_list_cannot_hold(database: Database, state: State) -> None:
    """Said by the plan, counted by the verification, named and kept by a rollback; or the new table's alone after cleanup."""
    rollout = Rollout(database, Explode.scenarios[2])
    (said,) = [
        f.text for f in rollout.engine().plan(rollout.migration).findings if "without an old form" in f.text
    ]
    assert (
        "zdm.rows_without_old_form: one whose row of public.people is not there is refused in any case (23503)"
        in said
    )
    rollout.advance_to(State.MIGRATED)
    rollout.execute_new(
        "INSERT INTO phones (person, kind, number) VALUES (1, 'mobile', '6'), (1, 'work', '7')"
    )
    assert database.execute("SELECT home, work FROM people WHERE id = 1") == [("1-1", "7")]
    if state is not State.MIGRATED:
        rollout.advance_to(state)
    if state is State.COMPLETED:
        assert database.execute("SELECT * FROM zdm.rows_without_old_form") == []
        assert database.execute("SELECT kind FROM phones WHERE person = 1 ORDER BY kind") == [
            ("home",),
            ("mobile",),
            ("work",),
        ]
        return
    (found,) = rollout.engine().verify("try_it").tables
    assert (found.differences, found.without_old_form) == (0, 1)
    answer = json.loads(zdm(database, "rollback", "try_it", "--yes", "--json"))
    (row,) = answer["without_old_form"]
    assert row["key"] == {"person": 1, "kind": "mobile"}
    assert row["new_row"] == {"person": 1, "kind": "mobile", "number": "6", "calls": 0}
    assert database.execute("SELECT home, work FROM people WHERE id = 1") == [("1-1", "7")]
    assert rollout.dump() == rollout.before
    rollout.nothing_left()


@pytest.mark.parametrize("state", [State.PREPARED, State.MIGRATED, State.SWITCHED_OVER, State.COMPLETED])
def test_links_and_parents_that_no_value_says(database: Database, state: State) -> None:
    """A link is kept with the parent that it refers to, and a parent that no row has is kept as well, whatever the policy."""
    rollout = Rollout(database, Normalise.scenarios[3])
    (said,) = [
        f.text for f in rollout.engine().plan(rollout.migration).findings if "without an old form" in f.text
    ]
    assert "one beyond the first of a row of public.papers, which holds one value (21000)" in said
    if state is State.PREPARED:
        rollout.advance_to(state)
        rollout.execute_new("INSERT INTO topics (id, name) VALUES (-2, 'water')")
    else:
        rollout.advance_to(State.MIGRATED)
        rollout.execute_new("INSERT INTO topics (id, name) VALUES (-1, 'fire'), (-2, 'water')")
        rollout.execute_new("INSERT INTO paper_topics (paper, topic) VALUES (1, -1)")
        assert database.execute("SELECT topic FROM papers WHERE id = 1") == [("bees",)]
        (found,) = rollout.engine().verify("try_it").tables
        assert (found.differences, found.without_old_form) == (0, 1)
        if state is not State.MIGRATED:
            rollout.advance_to(state)
    if state is State.COMPLETED:
        assert database.execute("SELECT * FROM zdm.rows_without_old_form") == []
        return
    answer = json.loads(zdm(database, "rollback", "try_it", "--yes", "--json"))["without_old_form"]
    (topic,) = [row for row in answer if "name" in row["new_row"] and row["new_row"]["name"] == "water"]
    assert (topic["new_row"], topic["reason"]) == (
        {"id": -2, "name": "water"},
        "no row of public.papers has it",
    )
    if state is not State.PREPARED:
        (link,) = [row for row in answer if row["key"] == {"paper": 1, "topic": -1}]
        assert link["new_row"] == {
            "paper": 1,
            "topic": -1,
            "weight": 1,
            "public.topics": {"id": -1, "name": "fire"},
        }
    assert database.execute("SELECT topic FROM papers WHERE id = 1") == [("bees",)]
    assert rollout.dump() == rollout.before
    rollout.nothing_left()


def test_parents_that_no_reference_names(database: Database) -> None:
    """With a reference nothing is recorded; a rollback keeps those that would go with their table, when it has begun, and once."""
    rollout = Rollout(database, Normalise.scenarios[1])
    rollout.advance_to(State.SWITCHED_OVER)
    rollout.execute_new(
        "INSERT INTO categories (id, title, seen) VALUES (-1, 'Garden', '2024-05-06 07:08:09+00'), (-2, 'Taken', now())"
    )
    rollout.execute_new("INSERT INTO products (label, category_id) VALUES ('rake', -2)")
    assert database.execute("SELECT * FROM zdm.rows_without_old_form") == []
    with pytest.raises(Abort):
        rollout.engine(Dying(1)).rollback("try_it")
    rollout.execute_new("DELETE FROM categories WHERE id = -1")
    rollout.execute_new("INSERT INTO categories (id, title) VALUES (-3, 'Sea')")
    (row,) = rollout.engine().rollback("try_it").without_old_form
    assert (str(row.table), row.key, row.new_row["title"]) == ("public.categories", {"id": -3}, "Sea")
    assert database.execute("SELECT category FROM products WHERE label = 'rake'") == [("Taken",)]
    assert rollout.dump() == rollout.before


def test_it_is_known_and_no_mismatch_and_cleanup_goes_on(database: Database) -> None:
    rollout = begun(database, State.MIGRATED)
    found = rollout.engine().verify("try_it")
    assert found.clean
    assert [t.without_old_form for t in found.tables] == [1]
    assert "1 row without an old form recorded" in zdm(database, "verify", "try_it")
    status = rollout.engine().status("try_it")[0]
    (alone,) = status.without_old_form
    assert (str(alone.table), alone.rows, alone.sample_keys) == ("public.credentials", 1, ("id=-7",))
    (verdict,) = [v for v in status.verdicts if v.gate == "verification"]
    assert verdict.observed.endswith("none differs; 1 row without an old form, recorded")
    rollout.advance_to(State.COMPLETED)
    assert database.execute("SELECT * FROM zdm.rows_without_old_form") == []
    assert database.execute("SELECT config FROM credentials WHERE id = -7") == [("pooled",)]


@on_all_versions
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SERIALIZABLE"])
def test_a_filter_copies_and_a_reference(database: Database, isolation: str) -> None:
    """What each of them would refuse is recorded; the provider is then without a credential, until it can have that one."""
    rollout = prepared(database, State.MIGRATED, without_old_form="record")

    def run(statement: str) -> None:
        database.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}; COMMIT")

    def recorded() -> list[tuple[int, str]]:
        return database.execute(
            "SELECT (key ->> 'id')::int, sqlstate FROM zdm.rows_without_old_form ORDER BY 1"
        )

    run("INSERT INTO credentials VALUES (500, 'pooled', 1), (501, '', 1)")
    run("INSERT INTO credentials VALUES (6, 'of another', 7)")
    run("UPDATE credentials SET config = '' WHERE id = 5")
    run(
        "INSERT INTO public_try_it.providers (id, tenant) VALUES (22, 2); INSERT INTO credentials VALUES (22, 'n22', 2)"
    )
    assert recorded() == [(5, "23514"), (6, "23000"), (500, "23503"), (501, "23503")]
    assert (
        database.value(
            "SELECT old_row ->> 'config' FROM zdm.rows_without_old_form WHERE key @> '{\"id\": 5}'"
        )
        == "s5"
    )
    without = "SELECT id, config, credential_id FROM providers WHERE id IN (5, 6, 22, 500, 501) ORDER BY id"
    assert database.execute(without) == [(5, None, None), (6, None, None), (22, "n22", 22)]
    (found,) = rollout.engine().verify("try_it").tables
    assert (found.differences, found.without_old_form) == (0, 4)
    # The old version moves the provider to the credential's tenant, and makes one for each of those that had none.
    run("UPDATE providers SET tenant = 7 WHERE id = 6")
    run("INSERT INTO providers (id, tenant) VALUES (500, 1), (501, 1)")
    run("UPDATE credentials SET config = 'again' WHERE id = 5")
    assert recorded() == [(501, "23514")]
    assert database.execute(without) == [
        (5, "again", 5),
        (6, "of another", 6),
        (22, "n22", 22),
        (500, "pooled", 500),
        (501, None, None),
    ]
    (found,) = rollout.engine().verify("try_it").tables
    assert (found.differences, found.without_old_form) == (0, 1)
    run("DELETE FROM providers WHERE id = 501")
    assert recorded() == [(501, "23514")]
    rollout.advance_to(State.SWITCHED_OVER)
    assert [row.key for row in rollout.engine().rollback("try_it").without_old_form] == [{"id": 501}]
    assert rollout.dump() == rollout.before


SHADOW = Scenario(
    setup="CREATE TABLE parts (id bigserial PRIMARY KEY, code int NOT NULL, made date NOT NULL DEFAULT '2024-01-15');"
    " INSERT INTO parts (code, made) SELECT g, date '2024-01-01' + g % 60 FROM generate_series(1, 300) g",
    operations=(
        {
            "shadow_table": {
                "table": "parts",
                "columns": [{"column": "code", "type": "text", "up": "code::text", "down": "code::int"}],
                "partition_by": {"by": "range", "columns": ["made"]},
                "partitions": [{"every": "month", "start": "2024-01", "end": "2024-03"}, {"default": True}],
                "without_old_form": "record",
            }
        },
    ),
    old_writes=(
        "INSERT INTO parts (code) VALUES ({n})",
        "UPDATE parts SET code = code + 1 WHERE id = {n} % 300 + 1",
        "UPDATE parts SET made = made + 20 WHERE id = {n} % 300 + 1",
        "DELETE FROM parts WHERE id = (SELECT max(id) FROM parts WHERE id > 300)",
    ),
    new_writes=(
        "INSERT INTO parts (code, made) VALUES ('x{n}', '2024-02-02')",
        "UPDATE parts SET code = 'x{n}' WHERE id = {n} % 300 + 1",
        "UPDATE parts SET code = '{n}' WHERE id = {n} % 300 + 7",
        "UPDATE parts SET made = made - 25 WHERE id = (SELECT max(id) FROM parts WHERE code LIKE 'x%')",
        "DELETE FROM parts WHERE id = (SELECT min(id) FROM parts WHERE code LIKE 'x%')",
    ),
    agree="SELECT NOT EXISTS (SELECT FROM public.parts o FULL JOIN (SELECT * FROM parts WHERE code NOT LIKE 'x%') n USING (id)"
    " WHERE (o.code::text, o.made) IS DISTINCT FROM (n.code, n.made))"
    " AND NOT EXISTS (SELECT FROM (SELECT * FROM parts WHERE code LIKE 'x%') AS n FULL JOIN zdm.rows_without_old_form AS f"
    " ON f.key = jsonb_build_object('id', n.id, 'made', n.made) WHERE f.new_row IS DISTINCT FROM to_jsonb(n))",
)


@pytest.mark.parametrize("back", [True, False])
def test_a_table_that_takes_anothers_place(database: Database, back: bool) -> None:
    """Codes that are no numbers, in partitions that rows move between."""
    rollout = Rollout(database, SHADOW)
    with rollout.writing(new=False):
        rollout.advance_to(State.PREPARED)
    rollout.advance_to(State.MIGRATED)
    # 40001 is the server's own here: an UPDATE at READ COMMITTED meets a row that another one takes to another partition.
    with rollout.writing(allowed=("40001",)) as writers:
        rollout.advance_to(State.SWITCHED_OVER)
        writers.wait_for(5)
    rollout.agree()
    (found,) = rollout.engine().verify("try_it").tables
    recorded = database.value("SELECT count(*) FROM zdm.rows_without_old_form")
    assert (found.differences, found.without_old_form) == (0, recorded)
    assert recorded
    if back:
        assert len(rollout.engine().rollback("try_it").without_old_form) == recorded
        assert rollout.dump() == rollout.before
        return
    rollout.advance_to(State.COMPLETED)
    assert database.value("SELECT count(*) FROM parts WHERE code LIKE 'x%'") == recorded
    rollout.nothing_left()


def test_repair_leaves_recorded_rows_alone(database: Database) -> None:
    """Under either authority; an extra row that is not on record goes, or is put there."""
    rollout = begun(database, State.MIGRATED)
    # As the backfill inserts it: no trigger looks at it.
    planted = "SET \"zdm.row\" = '1:new:*'; INSERT INTO credentials VALUES (-9, 'planted')"
    database.execute(planted)
    result = rollout.engine().verify("try_it", repair=True)
    assert result.clean
    assert database.execute("SELECT id FROM credentials WHERE id < 0") == [(-7,)]
    rollout.advance_to(State.SWITCHED_OVER)
    database.execute(planted)
    result = rollout.engine().verify("try_it", repair=True)
    assert result.clean
    assert [t.without_old_form for t in result.tables] == [2]
    assert database.execute("SELECT id FROM credentials WHERE id < 0 ORDER BY id") == [(-9,), (-7,)]


def test_what_is_recorded_of_a_row_that_went_unseen_is_not_kept(database: Database) -> None:
    """A TRUNCATE above READ COMMITTED does not see what was recorded since its snapshot; the rollback looks under its lock."""
    begun(database)
    database.execute(
        "INSERT INTO zdm.rows_without_old_form SELECT rollout, mapping, schema_name, table_name, '{\"id\": -99}', new_row, NULL, '', ''"
        " FROM zdm.rows_without_old_form"
    )
    answer = json.loads(zdm(database, "rollback", "try_it", "--yes", "--json"))
    assert [row["key"] for row in answer["without_old_form"]] == [{"id": -7}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sync": "logged"}, "needs the triggers of `sync: immediate`"),
        ({"part": {"one_way": True}}, "does not flow back at all"),
        (
            {"more": [{"to": "others", "key": {"id": "entry_id"}, "columns": ["amount"], "create": {}}]},
            "others makes the same rows",
        ),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    database: Database, change: dict[str, object], message: str
) -> None:
    scenario = SplitTable.scenarios[2]
    rollout = Rollout(database, scenario)
    operation = scenario.operations[0]["split_table"]
    assert isinstance(operation, dict)
    part = {**operation["into"][0], **change.get("part", {})}  # type: ignore[dict-item]
    into = [part, *change.get("more", [])]  # type: ignore[misc]
    migration = Migration.model_validate(
        {
            "id": "refused",
            "sync": change.get("sync", "immediate"),
            "gates": OPEN_GATES,
            "operations": [{"split_table": {**operation, "into": into}}],
        }
    )
    with pytest.raises(BadInput, match=message.replace("(", r"\(")) as refused:
        rollout.engine().plan(migration)
    assert "Nothing was changed" in str(refused.value.changed) or refused.value.changed == ""


@pytest.mark.parametrize(
    ("scenario", "change", "message"),
    [
        (Explode.scenarios[2], {"one_way": True}, "with `one_way` nothing flows back"),
        (Normalise.scenarios[1], {"without_old_form": "record"}, "needs a `link`"),
    ],
)
def test_what_the_operation_itself_cannot_record(
    scenario: Scenario, change: dict[str, object], message: str
) -> None:
    """Said before any server is asked."""
    ((kind, operation),) = scenario.operations[0].items()
    assert isinstance(operation, dict)
    with pytest.raises(ValueError, match=message):
        Migration.model_validate({"id": "refused", "operations": [{kind: {**operation, **change}}]})


def test_elements_that_are_synced_by_log_are_not_recorded(database: Database) -> None:
    rollout = Rollout(database, Explode.scenarios[2])
    migration = rollout.migration.model_copy(update={"sync": SyncMode.LOGGED})
    with pytest.raises(BadInput, match="needs the triggers of `sync: immediate`"):
        rollout.engine().plan(migration)
