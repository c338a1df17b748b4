"""Does nobody use the old version any more? Only what is certain passes; everything else is called by its name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.integration.gates.sample import (
    SETUP,
    KnownFacts,
    context,
    mapping,
    migration,
    plan,
    server_now,
    session,
)
from tests.support.servers import TEST_SETTINGS, Database, Server
from zdm.db.session import transaction
from zdm.devdb import DevServer
from zdm.devdb.process import wait_until
from zdm.devdb.replica import replica_of
from zdm.gates.context import GateContext
from zdm.gates.old_version_unused import OldVersionUnused
from zdm.gates.statements import Use, Vocabulary, Watch, read_counters
from zdm.gates.validations import Validations
from zdm.model.mapping import Authority, TableMapping, ViewColumn
from zdm.model.names import qualified
from zdm.model.verdict import Answer
from zdm.sql.fence import raise_fence

ONE_LOOK = {"sample": "1ms", "every": "1ms"}


@pytest.fixture(scope="module")
def watching_server() -> Iterator[Server]:
    settings = {
        **TEST_SETTINGS,
        "shared_preload_libraries": "pg_stat_statements",
        "pg_stat_statements.max": 500,
    }
    with DevServer(settings=settings, durable=False) as dev:
        yield Server(dev.dsn(), dev)


@pytest.fixture
def watched(watching_server: Server) -> Iterator[Database]:
    database = Database(watching_server)
    try:
        database.execute(SETUP)
        # Counters of earlier tests would fill the table.
        database.execute("CREATE EXTENSION pg_stat_statements; SELECT pg_stat_statements_reset()")
        yield database
    finally:
        database.drop()


@pytest.fixture
def ctx(watched: Database) -> Iterator[GateContext]:
    with session(watched.dsn) as conn:
        # A table whose old column is gone, so that texts are unambiguous.
        yield context(conn, plan=plan(split()))


def split() -> TableMapping:
    """``amount`` and ``note`` gone in the new version; nothing keeps its name but ``id``."""
    return mapping().model_copy(
        update={
            "new_columns": (
                ViewColumn(physical="id", name="id"),
                ViewColumn(physical="_zdm_amount", name="cents"),
            )
        }
    )


def later(ctx: GateContext, **span: float) -> GateContext:
    return replace(ctx, now=server_now(ctx.conn) + timedelta(**span))


def gate(**parameters: object) -> OldVersionUnused:
    return OldVersionUnused.model_validate({**ONE_LOOK, **parameters})


# --- the fence --------------------------------------------------------------------------------------------------------


def nothing(of: TableMapping, authority: Authority) -> Sequence[str]:
    return ()


def test_a_fence_passes_once_it_has_stood(database: Database) -> None:
    database.execute(SETUP)
    oid = database.value("SELECT 'public.orders'::regclass::oid::bigint")
    with session(database.dsn) as conn:
        planned = plan(mapping(oid))
        for part in raise_fence(planned, Authority.NEW, nothing):
            with transaction(conn):
                for statement in part.action.statements:
                    conn.execute(statement.encode())
        ctx = context(conn, plan=planned)
        ctx = replace(ctx, rollout=replace(ctx.rollout, fenced_at=ctx.now - timedelta(seconds=59)))
        young = gate().evaluate(ctx)
        assert (young.answer, young.observed) == (Answer.REFUSED, "fenced 59s ago, and not lifted since")
        assert "--lift" in young.remedy
        assert gate().evaluate(later(ctx, seconds=2)).answer is Answer.PASSED

        database.execute("ALTER TABLE public.orders RENAME COLUMN _zdm_fenced_gone TO gone")
        assert (
            gate().evaluate(later(ctx, seconds=2)).observed
            == "a fence is recorded but does not stand as it was raised"
        )


def test_without_counters_and_fence_it_refuses_and_names_the_fence(database: Database) -> None:
    database.execute(SETUP)
    with session(database.dsn) as conn:
        verdict = gate().evaluate(context(conn))
    assert verdict.answer is Answer.UNREADABLE
    assert "pg_stat_statements is not installed" in verdict.observed
    assert "zdm fence widen" in verdict.remedy


def test_nothing_to_miss_passes(database: Database) -> None:
    same = tuple(ViewColumn(physical=c, name=c) for c in ("id", "note"))
    plain = TableMapping(
        table=qualified("public", "orders"), final_name="orders", oid=1, old_columns=same, new_columns=same
    )
    with session(database.dsn) as conn:
        assert gate().evaluate(context(conn, plan=plan(plain, old_schema=""))).answer is Answer.PASSED


# --- locks ------------------------------------------------------------------------------------------------------------


def test_an_open_transaction_on_an_old_view_is_seen(database: Database) -> None:
    database.execute(SETUP)
    reader = database.connect()
    reader.execute("SET application_name = 'legacy shop'")
    reader.execute("SELECT count(*) FROM public_before_widen.orders")
    with session(database.dsn) as conn:
        verdict = gate().evaluate(context(conn))
        assert verdict.answer is Answer.REFUSED
        assert "public_before_widen.orders was read by legacy shop as postgres" in verdict.observed
        reader.rollback()
        assert gate().evaluate(context(conn)).answer is Answer.UNREADABLE


def test_before_it_passes_locks_are_looked_at_again_and_again(ctx: GateContext, watched: Database) -> None:
    reader = watched.connect()
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            reader.execute("SELECT count(*) FROM public_before_widen.orders")

    patient = gate(sample="10s", every="100ms")
    patient.evaluate(ctx)
    assert patient.evaluate(later(replace(ctx, sleep=pause), minutes=9)).answer is Answer.REFUSED
    assert pauses == []  # it would not pass anyhow
    verdict = patient.evaluate(later(replace(ctx, sleep=pause), minutes=11))
    assert verdict.answer is Answer.REFUSED
    assert "was read by" in verdict.observed
    assert pauses == [0.1] * 3


# --- counters ---------------------------------------------------------------------------------------------------------


def test_no_use_for_the_window_passes(ctx: GateContext, watched: Database) -> None:
    first = gate().evaluate(ctx)
    assert first.answer is Answer.UNREADABLE
    assert "the watch starts now" in first.observed
    watched.execute("SELECT id FROM public_widen.orders")
    early = gate().evaluate(later(ctx, minutes=9))
    assert early.answer is Answer.REFUSED
    assert "no statement of the old version" in early.observed
    assert gate().evaluate(later(ctx, minutes=11)).answer is Answer.PASSED


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT gone FROM public.orders WHERE id = 1",
        "UPDATE orders SET note = 'x' WHERE id = 2",
        "SELECT id FROM public_before_widen.orders",
        'SELECT id FROM "public_before_widen"."orders"',
        "WITH o AS (SELECT * FROM orders) SELECT amount FROM o",
    ],
)
def test_use_is_seen_and_starts_the_window_anew(ctx: GateContext, watched: Database, statement: str) -> None:
    gate().evaluate(ctx)
    watched.execute(statement)
    verdict = gate().evaluate(later(ctx, minutes=11))
    assert verdict.answer is Answer.REFUSED, verdict
    assert "1 times “" in verdict.observed
    again = gate().evaluate(later(ctx, minutes=12))
    assert (again.answer, "no statement" in again.observed) == (Answer.REFUSED, True)
    assert gate().evaluate(later(ctx, minutes=22)).answer is Answer.PASSED


def test_what_reads_the_same_through_both_versions_is_not_decided(
    ctx: GateContext, watched: Database
) -> None:
    kept = replace(ctx, plan=plan())  # amount has the same name in both versions
    gate().evaluate(kept)
    watched.execute("SELECT amount FROM public_widen.orders")
    verdict = gate().evaluate(later(kept, minutes=11))
    assert verdict.answer is Answer.UNREADABLE
    assert "read the same through the old and the new version" in verdict.observed
    assert "zdm fence" in verdict.remedy


def test_roles_of_the_old_application_decide(ctx: GateContext, watched: Database) -> None:
    legacy = watched.create_role("legacy")
    watched.execute(f'GRANT SELECT ON public.orders TO "{legacy}"')
    kept, by_role = replace(ctx, plan=plan()), gate(old_roles=[legacy])
    by_role.evaluate(kept)
    watched.execute("SELECT amount FROM public_widen.orders")
    assert by_role.evaluate(later(kept, minutes=11)).answer is Answer.PASSED
    watched.connect(legacy).execute("SELECT id FROM public.orders")
    assert by_role.evaluate(later(kept, minutes=11)).answer is Answer.REFUSED


def test_reset_counters_start_over(ctx: GateContext, watched: Database) -> None:
    gate().evaluate(ctx)
    watched.execute("SELECT pg_stat_statements_reset()")
    verdict = gate().evaluate(later(ctx, minutes=11))
    assert verdict.answer is Answer.UNREADABLE
    assert "was reset" in verdict.observed


def test_counters_that_were_forgotten_start_over(ctx: GateContext, watched: Database) -> None:
    gate().evaluate(ctx)
    with watched.connect(autocommit=True) as busy:
        for n in range(700):
            busy.execute(f"SELECT {', '.join(['1'] * (n + 1))}".encode())
    verdict = gate().evaluate(later(ctx, minutes=11))
    assert verdict.answer is Answer.UNREADABLE
    assert "forgot statements" in verdict.observed


def test_who_may_not_see_others_statements_cannot_tell(watched: Database) -> None:
    role = watched.create_role("zdm")
    with session(watched.dsn_for(role)) as conn:
        verdict = gate().evaluate(context(conn))
    assert verdict.answer is Answer.UNREADABLE
    assert "GRANT pg_monitor" in verdict.observed


def test_zdm_does_not_see_itself(ctx: GateContext, watched: Database) -> None:
    def asks(statement: str, expect: int) -> Answer:
        one = migration(validations=[{"name": "v", "sql": statement, "expect": expect}])
        return Validations().evaluate(replace(ctx, migration=one)).answer

    gate().evaluate(ctx)
    watched.execute("SELECT count(*) FROM public.orders WHERE _zdm_state IS NULL AND amount IS NOT NULL")
    assert asks("SELECT count(*) FROM public.orders WHERE gone IS NULL;", 0) is Answer.PASSED
    assert gate().evaluate(later(ctx, minutes=11)).answer is Answer.PASSED


def test_a_standby_may_serve_reads_that_nobody_counts_here(
    ctx: GateContext, watched: Database, watching_server: Server
) -> None:
    assert watching_server.dev is not None
    gate().evaluate(ctx)
    with ExitStack() as stack:
        replica = replica_of(watching_server.dev)
        stack.callback(watched.execute, f"SELECT pg_drop_replication_slot('{replica.name}')")
        stack.callback(cut, replica, watched)
        replica.catch_up()
        streaming = gate().evaluate(later(ctx, minutes=11))
        cut(replica, watched)
        for verdict in (streaming, gate().evaluate(later(ctx, minutes=11))):
            assert verdict.answer is Answer.UNREADABLE
            assert "1 standby may serve reads" in verdict.observed
        assert gate(ignore_standbys=True).evaluate(later(ctx, minutes=11)).answer is Answer.PASSED


def cut(replica: DevServer, primary: Database) -> None:
    """Stop the standby, and wait until its primary has noticed."""
    replica.close()
    wait_until(
        lambda: not primary.execute("SELECT 1 FROM pg_replication_slots WHERE active"),
        seconds=30,
        what="the standby's connection to end",
    )


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query, use",
    [
        ("SELECT id FROM orders", None),
        ("SELECT count(*) FROM orders", None),
        ("SELECT id * $1 FROM orders", None),
        ("SELECT amount FROM orders", Use.AMBIGUOUS),
        ('SELECT "amount" FROM "orders"', Use.AMBIGUOUS),
        ("SELECT o.* FROM orders AS o", Use.AMBIGUOUS),
        ("SELECT * FROM orders", Use.AMBIGUOUS),
        ("INSERT INTO orders VALUES ($1, $2)", Use.AMBIGUOUS),
        ("INSERT INTO orders (id) VALUES ($1)", None),
        ("COPY orders TO STDOUT", Use.AMBIGUOUS),
        ("SELECT gone FROM orders", Use.OLD),
        ("SELECT note FROM orders", Use.OLD),
        ("SELECT gone FROM customers", None),
        ("SELECT * FROM PUBLIC_BEFORE_WIDEN.whatever", Use.OLD),
        ("UPDATE orders SET _zdm_amount = amount", None),
    ],
)
def test_what_a_text_tells(query: str, use: Use | None) -> None:
    assert Vocabulary.of(plan()).classify(query) == use


def test_a_watch_survives_being_stored(ctx: GateContext) -> None:
    watch = Watch.start(ctx.now, read_counters(ctx.conn, Vocabulary.of(ctx.plan)))
    assert watch is not None
    assert Watch.load(watch.dump()) == watch
    assert Watch.load({}) is None
    assert isinstance(ctx.facts, KnownFacts)
