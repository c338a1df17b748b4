"""Every example, as its authors wrote it, with both versions of its application at work: forward, and back from each phase."""

from __future__ import annotations

from typing import Any

import pytest
from _pytest.mark import ParameterSet

from tests.conformance.harness import OPEN_GATES, Rollout
from tests.support.examples import EXAMPLES, FOLDERS, Example
from tests.support.servers import Database
from zdm.engine.results import Outcome
from zdm.model.phases import State
from zdm.operations.migration import Migration

REVERSIBLE = (State.PREPARED, State.MIGRATED, State.SWITCHED_OVER)

#: What is off because a test cannot wait so long. Dependencies are asked.
GATES: dict[str, Any] = {name: value for name, value in OPEN_GATES.items() if name != "dependencies"}

each_example = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)

#: Rows that only the new application wrote, and how the old one reads them once it is all taken back: a statement of the
#: new version (on rows that no writer touches), a query of the old one, and what it must return.
WROTE: dict[str, tuple[str, str, list[tuple[Any, ...]]]] = {
    "accounting_2_0_0": (
        "INSERT INTO financial_reports (ledger_id, title, ai_insights) VALUES (1, 'only new', '{\"score\": 1}')",
        "SELECT ledger_id, title FROM financial_reports WHERE title = 'only new'",
        [(1, "only new")],
    ),
    "bigint_counter": (
        "INSERT INTO page_views (page, views) VALUES ('only new', 2000000000)",
        "SELECT views FROM page_views WHERE page = 'only new'",
        [(2_000_000_000,)],
    ),
    "gitlab_push_event_payloads": (
        """WITH e AS (INSERT INTO events (author_id, action) VALUES (77, 5) RETURNING id)
           INSERT INTO push_event_payloads (commit_count, event_id, action, ref_type, ref) SELECT 1, id, 2, 0, 'only new' FROM e""",
        "SELECT author_id, action FROM events WHERE id = (SELECT event_id FROM push_event_payloads WHERE ref = 'only new')",
        [(77, 5)],
    ),
    "gitlab_build_stages": (
        (
            "WITH s AS (INSERT INTO ci_stages (pipeline_id, name) VALUES (1, 'only new') RETURNING id, pipeline_id)"
            " INSERT INTO ci_builds (pipeline_id, name, stage_id) SELECT pipeline_id, 'only new', id FROM s"
        ),
        "SELECT stage FROM ci_builds WHERE name = 'only new'",
        [("only new",)],
    ),
    "gitlab_sharding_key": (
        "INSERT INTO issue_assignees (user_id, issue_id, project_id) SELECT 77777, id, project_id FROM issues WHERE id = 149",
        "SELECT issue_id FROM issue_assignees WHERE user_id = 77777",
        [(149,)],
    ),
    "conversation_tags": (
        (
            "WITH c AS (INSERT INTO conversations (user_id, title) SELECT id, 'only new' FROM users WHERE email = 'user1'"
            " RETURNING id, user_id), t AS (INSERT INTO tags (user_id, name) SELECT user_id, 'only new' FROM c RETURNING id)"
            " INSERT INTO conversation_tags SELECT c.id, t.id FROM c, t"
        ),
        "SELECT metadata FROM conversations WHERE title = 'only new'",
        [({"category": "only new"},)],
    ),
    "dify_provider_credentials": (
        (
            "WITH p AS (INSERT INTO providers (tenant_id, provider_name) VALUES (gen_random_uuid(), 'only new')"
            " RETURNING id, tenant_id, provider_name) INSERT INTO provider_credentials (id, tenant_id, provider_name, encrypted_config)"
            " SELECT id, tenant_id, provider_name, 'secret' FROM p"
        ),
        "SELECT encrypted_config FROM providers WHERE provider_name = 'only new'",
        [("secret",)],
    ),
    "glance_visibility": (
        "INSERT INTO images (name, visibility) VALUES ('only new 1', 'public'), ('only new 2', 'community')",
        "SELECT name, is_public FROM images WHERE name LIKE 'only new%' ORDER BY name",
        [("only new 1", True), ("only new 2", False)],
    ),
    "ledger_reports": (
        "INSERT INTO financial_reports (value, notes, timestamp) VALUES (7.5, 'only new', '2026-01-02 03:04+00')",
        "SELECT amount::text, status FROM ledger_entries WHERE description = 'only new'",
        [("7.50", "active")],
    ),
    "customers_by_region": (
        "INSERT INTO customers (region, name, email, active) VALUES ('us', 'only new', 'only@new', false)",
        "SELECT email, state, status FROM customers_us WHERE name = 'only new'",
        [("only@new", "NY", "closed")],
    ),
    "mastodon_account_stats": (
        (
            "WITH a AS (INSERT INTO accounts (username) VALUES ('only new') RETURNING id)"
            " INSERT INTO account_stats (account_id, statuses_count) SELECT id, 7 FROM a"
        ),
        "SELECT statuses_count, following_count FROM accounts WHERE username = 'only new'",
        [(7, 0)],
    ),
    "mastodon_user_settings": (
        "INSERT INTO users (email, noindex, default_privacy) VALUES ('only new', true, 'direct')",
        "SELECT var, value FROM user_settings JOIN users AS u ON u.id = user_id WHERE email = 'only new' ORDER BY var",
        [("default_privacy", "direct"), ("noindex", "true")],
    ),
    "order_uuid": (
        """WITH o AS (INSERT INTO orders (customer) VALUES ('only new') RETURNING id),
             i AS (INSERT INTO order_items (order_id, line, product) SELECT id, 4, 'x' FROM o)
           INSERT INTO invoices (order_uuid, cents) SELECT id, 77 FROM o""",
        (
            "SELECT customer FROM orders WHERE customer = 'only new' AND id IN (SELECT order_id FROM order_items WHERE line = 4)"
            " AND id IN (SELECT order_id FROM invoices WHERE cents = 77)"
        ),
        [("only new",)],
    ),
    "partition_events": (
        "INSERT INTO events (user_id, kind, happened_at) VALUES (1, 'only new', '2024-06-01'), (2, 'only new', '2020-01-01')",
        "SELECT user_id, payload FROM events WHERE kind = 'only new' ORDER BY user_id",
        [(1, {}), (2, {})],
    ),
    "product_tags": (
        (
            "WITH p AS (INSERT INTO products (title) VALUES ('only new') RETURNING id)"
            " INSERT INTO product_tags (product_id, position, tag) SELECT id, g, 'only new ' || 3 - g FROM p, generate_series(1, 2) g"
        ),
        "SELECT tags FROM products WHERE title = 'only new'",
        [(["only new 2", "only new 1"],)],
    ),
    "naive_timestamps": (
        "INSERT INTO audit_entries (at, what) VALUES ('2024-10-27 02:30+02', 'only new')",
        "SELECT at::text FROM audit_entries WHERE what = 'only new'",
        [("2024-10-27 00:30:00",)],
    ),
    "payment_names": (
        "INSERT INTO payment_transactions (name, psp_reference, canceled_value) VALUES ('only new', 'x-1', 1.5)",
        "SELECT type, reference, voided_value::text FROM payment_transactions WHERE reference = 'x-1'",
        [("only new", "x-1", "1.500")],
    ),
    "pgbench_aid": (
        "INSERT INTO pgbench_accounts (aid, bid, abalance) VALUES (900, 2, 12)",
        "SELECT bid, abalance FROM pgbench_accounts WHERE aid = 900",
        [(2, 12)],
    ),
    "pgbench_balance": (
        "INSERT INTO pgbench_accounts (aid, bid, abalance, currency, note) VALUES (900, 1, 7.5, 'GBP', 'only new')",
        "SELECT abalance, rtrim(filler) FROM pgbench_accounts WHERE aid = 900",
        [(8, "GBP only new")],
    ),
    "saleor_checkout_metadata": (
        (
            "WITH c AS (INSERT INTO checkout_checkout (email) VALUES ('only new') RETURNING token)"
            " INSERT INTO checkout_metadata (checkout_id, private_metadata) SELECT token, '{\"new\": 1}' FROM c"
        ),
        "SELECT metadata, private_metadata FROM checkout_checkout WHERE email = 'only new'",
        [({}, {"new": 1})],
    ),
    "unique_email": (
        "INSERT INTO subscribers (email) VALUES ('only-new@example.org')",
        "SELECT list FROM subscribers WHERE email = 'only-new@example.org'",
        [(1,)],
    ),
    "zulip_usermessage": (
        """WITH m AS (INSERT INTO zerver_message (content) VALUES ('only new') RETURNING id)
           INSERT INTO zerver_usermessage (message_id, user_profile_id, flags) SELECT id, 7, 2 FROM m""",
        "SELECT flags FROM zerver_usermessage WHERE message_id IN (SELECT id FROM zerver_message WHERE content = 'only new')",
        [(2,)],
    ),
}


def opened(migration: Migration) -> Migration:
    return migration.model_copy(update={"gates": {**GATES, **migration.gates}})


def rollout_of(database: Database, folder: str, *, compared: bool = True) -> Rollout:
    example = Example.read(EXAMPLES / folder)
    *earlier, last = (opened(migration) for migration in example.migrations)
    return Rollout(
        database, example.scenario(), given=last, earlier=tuple(earlier), rows=example.rows, compared=compared
    )


def test_every_example_is_read_back_by_its_old_version() -> None:
    assert set(WROTE) == {folder.name for folder in FOLDERS}


@each_example
def test_forward(database: Database, folder: Any) -> None:
    rollout = rollout_of(database, folder.name, compared=False)
    with rollout.writing(new=False) as writers:
        writers.wait_for(1)
        rollout.advance_to(State.PREPARED)
    with rollout.writing() as writers:
        rollout.advance_to(State.MIGRATED)
        rollout.advance_to(State.SWITCHED_OVER)
        writers.wait_for(len(rollout.scenario.old_writes) * 2)
    rollout.agree()
    with rollout.writing(old=False, allowed=("0A000",) if rollout.scenario.replans else ()) as writers:
        rollout.advance_to(State.COMPLETED)
        writers.wait_for(len(rollout.scenario.new_writes) * 2)
    rollout.finished()
    rollout.nothing_left()


def ways_back() -> list[ParameterSet]:
    """Each example from each phase. `make test`, which has to stay short, takes one of the first two by turns, the soak test the other as well."""
    return [
        pytest.param(
            folder,
            state,
            id=f"{folder.name}-{state.value}",
            marks=[pytest.mark.soak] if number == turn % 2 else [],
        )
        for turn, folder in enumerate(FOLDERS)
        for number, state in enumerate(REVERSIBLE)
    ]


@pytest.mark.parametrize(("folder", "state"), ways_back())
def test_and_back(database: Database, folder: Any, state: State) -> None:
    """From a phase, with rows that only the new version has written."""
    rollout = rollout_of(database, folder.name)
    statement, query, expected = WROTE[folder.name]
    with rollout.writing(new=False) as old:
        rollout.advance_to(State.PREPARED)
        with rollout.writing(old=False) as new:
            if state is not State.PREPARED:
                rollout.advance_to(state)
                rollout.agree()
            new.wait_for(len(rollout.scenario.new_writes))
        rollout.execute_new(statement)
        assert rollout.engine().rollback(rollout.migration.id).state is State.ROLLED_BACK
        old.wait_for(len(rollout.scenario.old_writes))
        assert database.execute(query) == expected
        rollout.nothing_left()
        assert rollout.dump() == rollout.before


def test_again_after_each_way_back(database: Database) -> None:
    """On the same database: the second and third time it begins again after a rollback."""
    rollout = rollout_of(database, "mastodon_account_stats")
    with rollout.writing(new=False):
        for state in REVERSIBLE:
            rollout.advance_to(State.PREPARED, restart=True)
            with rollout.writing(old=False):
                if state is not State.PREPARED:
                    rollout.advance_to(state)
            assert rollout.engine().rollback(rollout.migration.id).state is State.ROLLED_BACK
            rollout.nothing_left()
            assert rollout.dump() == rollout.before, state


def test_a_dependency_must_be_complete_first(database: Database) -> None:
    example = Example.read(EXAMPLES / "accounting_2_0_0")
    first, second = (opened(migration) for migration in example.migrations)
    rollout = Rollout(database, example.scenario(), given=second)
    engine = rollout.engine()
    engine.advance(first)
    assert engine.advance(first).state is State.MIGRATED  # not complete, but its table is there
    refused = engine.advance(second)
    assert refused.outcome is Outcome.REFUSED
    (verdict,) = [v for v in refused.verdicts if not v.lets_through]
    assert (verdict.gate, verdict.observed) == ("dependencies", "create_financial_reports is migrated")
    assert "zdm advance create_financial_reports" in verdict.remedy
    assert refused.state is State.PLANNED
    rollout.advance_to(State.COMPLETED, first)
    rollout.advance_to(State.PREPARED)


def test_pooled_credentials_are_named_by_a_rollback_and_kept(database: Database) -> None:
    """They have no old form; the credential that the provider refers to has one."""
    rollout = rollout_of(database, "dify_provider_credentials")
    rollout.advance_to(State.SWITCHED_OVER)
    rollout.execute_new(
        "INSERT INTO provider_credentials (id, tenant_id, provider_name, credential_name, encrypted_config)"
        " SELECT gen_random_uuid(), tenant_id, provider_name, 'pool' || n, 'pooled' || n FROM providers, generate_series(1, 2) AS n"
        " WHERE provider_name = 'provider2'"
    )
    rollout.execute_new(
        "UPDATE provider_credentials SET encrypted_config = 'rotated' WHERE provider_name = 'provider2'"
    )
    kept = rollout.engine().rollback(rollout.migration.id).without_old_form
    assert sorted(row.new_row["credential_name"] for row in kept) == ["pool1", "pool2"]
    assert {row.new_row["encrypted_config"] for row in kept} == {"rotated"}
    assert database.execute("SELECT encrypted_config FROM providers WHERE provider_name = 'provider2'") == [
        ("rotated",)
    ]
    assert (
        database.value(
            "SELECT count(*) FROM zdm.rows_without_old_form, jsonb_populate_record(NULL::providers, new_row) AS r"
            " WHERE r.encrypted_config = 'rotated'"
        )
        == 2
    )
