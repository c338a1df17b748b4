"""Whatever somebody changes under zdm's hands is found and named; what they may change is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from tests.conformance.harness import Rollout
from tests.integration.gates.sample import SETUP, context, mapping, plan, session
from tests.support.servers import Database
from zdm.catalog import install
from zdm.db.session import Session, transaction
from zdm.errors import Drift as DriftError
from zdm.gates.context import GateContext
from zdm.gates.drift import Drift
from zdm.model.mapping import Authority, TableMapping
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.model.verdict import Answer
from zdm.sql import sync, views
from zdm.sql.fence import lift_fence, raise_fence

ROLLOUT = 1


def run(conn: Session, statements: Sequence[str]) -> None:
    with transaction(conn):
        for statement in statements:
            conn.execute(statement.encode())


@pytest.fixture
def ctx(database: Database) -> Iterator[GateContext]:
    database.execute(SETUP)
    oid = database.value("SELECT 'public.orders'::regclass::oid::bigint")
    with session(database.dsn) as conn:
        install.install(conn)
        one = mapping(oid)
        run(conn, sync.install(one, ROLLOUT, Authority.NEW).statements)
        database.execute("DROP VIEW public_before_widen.orders, public_widen.orders")
        version = conn.info.server_version
        run(conn, views.create_view(one, "public_before_widen", version, old=True))
        run(conn, views.create_view(one, "public_widen", version))
        yield context(conn, plan=plan(one), authority=Authority.NEW)


def test_untouched(ctx: GateContext) -> None:
    verdict = Drift().evaluate(ctx)
    assert verdict.answer is Answer.PASSED, verdict


@pytest.mark.parametrize(
    "change, said",
    [
        (
            'DROP TRIGGER "~zdm_4_settle" ON public.orders',
            "trigger ~zdm_4_settle is missing (on public.orders)",
        ),
        (
            'ALTER TABLE public.orders DISABLE TRIGGER "~zdm_1_insert"',
            "trigger ~zdm_1_insert is not enabled ALWAYS",
        ),
        (
            'ALTER TABLE public.orders ENABLE TRIGGER "~zdm_1_insert"',
            "trigger ~zdm_1_insert is not enabled ALWAYS",
        ),
        ('ALTER TABLE public.orders ENABLE REPLICA TRIGGER "~zdm_1_insert"', "is not enabled ALWAYS"),
        ("ALTER TABLE public.orders DISABLE TRIGGER USER", "trigger ~zdm_4_settle is not enabled ALWAYS"),
        (
            (
                "CREATE OR REPLACE FUNCTION zdm.sync_1_{oid}_settle() RETURNS trigger LANGUAGE plpgsql "
                "AS $$ BEGIN RETURN NEW; END $$"
            ),
            "sync_1_{oid}_settle was edited",
        ),
        (
            "ALTER FUNCTION zdm.sync_1_{oid}_settle() SET search_path = public",
            "sync_1_{oid}_settle was edited",
        ),
        ("COMMENT ON FUNCTION zdm.sync_1_{oid}_settle() IS NULL", "is not the one this rollout installed"),
        (
            "ALTER TABLE public.orders DROP COLUMN _zdm_amount CASCADE",
            "column _zdm_amount of public.orders is missing",
        ),
        (
            (
                'DROP VIEW public_widen.orders; DROP TRIGGER "~zdm_2_new_0" ON public.orders; '
                'DROP TRIGGER "~zdm_4_settle" ON public.orders; '
                "ALTER TABLE public.orders ALTER COLUMN _zdm_amount TYPE numeric(18,3)"
            ),
            "column _zdm_amount of public.orders is numeric(18,3), not numeric(18,2)",
        ),
        ("ALTER TABLE public.orders RENAME COLUMN gone TO lost", "column gone of public.orders is missing"),
        (
            "ALTER TABLE public.orders RENAME TO purchases",
            "table public.orders is called public.purchases now",
        ),
        ("DROP TABLE public.orders CASCADE", "table public.orders is gone"),
        ("DROP VIEW public_widen.orders", "view public_widen.orders is missing"),
        (
            "ALTER VIEW public_widen.orders RENAME COLUMN remark TO note",
            "view public_widen.orders was edited",
        ),
        (
            (
                "CREATE TABLE public.other AS TABLE public.orders; "
                "CREATE OR REPLACE VIEW public_before_widen.orders AS SELECT id, amount, note, gone FROM public.other"
            ),
            "view public_before_widen.orders was edited",
        ),
        (
            "DROP VIEW public_widen.orders; CREATE MATERIALIZED VIEW public_widen.orders AS SELECT 1 AS id",
            "view public_widen.orders is missing",
        ),
        (
            (
                "CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$; "
                'CREATE TRIGGER "~~late" BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.late()'
            ),
            "trigger ~~late of public.orders fires after the sync and may undo it",
        ),
        (
            (
                "CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$; "
                'CREATE TRIGGER "~zdm_9" BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.late()'
            ),
            "trigger ~zdm_9 is none of this rollout's",
        ),
    ],
)
def test_a_change_is_named(ctx: GateContext, database: Database, change: str, said: str) -> None:
    oid = str(ctx.plan.mappings[0].oid)
    database.execute(change.replace("{oid}", oid))
    verdict = Drift().evaluate(ctx)
    assert verdict.answer is Answer.REFUSED, verdict
    assert said.replace("{oid}", oid) in verdict.observed
    assert "zdm verify widen" in verdict.remedy


@pytest.mark.parametrize(
    "change",
    [
        "CREATE INDEX ON public.orders (note)",
        "ALTER TABLE public.orders ADD COLUMN theirs text",
        "COMMENT ON COLUMN public.orders.note IS 'theirs'",
        (
            "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$; "
            "CREATE TRIGGER early BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.f(); "
            'CREATE TRIGGER "~~after" AFTER UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.f(); '
            'CREATE TRIGGER "~~statement" BEFORE UPDATE ON public.orders EXECUTE FUNCTION public.f()'
        ),
        "CREATE VIEW public_widen.theirs AS SELECT 1 AS one",
        "VACUUM FULL public.orders",
    ],
)
def test_what_is_theirs_is_not_drift(ctx: GateContext, database: Database, change: str) -> None:
    for statement in change.split(";  ") if "VACUUM" in change else [change]:
        database.execute(statement)
    verdict = Drift().evaluate(ctx)
    assert verdict.answer is Answer.PASSED, verdict


def test_all_deviations_at_once(ctx: GateContext, database: Database) -> None:
    database.execute("ALTER TABLE public.orders DISABLE TRIGGER USER; DROP VIEW public_widen.orders")
    observed = Drift().evaluate(ctx).observed
    assert observed.count("is not enabled ALWAYS") >= 4
    assert "view public_widen.orders is missing" in observed


def test_the_wrong_authority_is_drift(ctx: GateContext) -> None:
    verdict = Drift().evaluate(replace(ctx, authority=Authority.OLD))
    assert verdict.answer is Answer.REFUSED


def test_what_a_step_has_made_and_somebody_dropped(database: Database) -> None:
    """Nothing of it hangs on a column that goes; the new version counts on it all the same."""
    rollout = Rollout(
        database,
        Scenario(
            setup="CREATE TABLE t (id int PRIMARY KEY, code text, note text); INSERT INTO t VALUES (1, 'a', 'b');",
            operations=(
                {"add_unique": {"table": "t", "name": "one_each", "columns": ["code"]}},
                {"create_index": {"table": "t", "name": "t_note", "columns": ["note"]}},
                {"add_check": {"table": "t", "name": "sane", "check": "id > 0"}},
            ),
        ),
    )
    rollout.advance_to(State.SWITCHED_OVER)
    database.execute("ALTER TABLE t DROP CONSTRAINT one_each, DROP CONSTRAINT sane; DROP INDEX t_note")
    with pytest.raises(DriftError) as raised:
        rollout.engine().advance(rollout.migration)
    said = "; ".join(problem.what for problem in raised.value.problems).split("; ")
    assert len(said) == 3
    for step in ("the unique index one_each on", "the index t_note on", "the check sane for"):
        assert any("not there any more" in what and step in what for what in said), step


def test_a_fence_is_not_drift(ctx: GateContext) -> None:
    def again(of: TableMapping, authority: Authority) -> Sequence[str]:
        return sync.install(of, ROLLOUT, authority).statements

    assert isinstance(ctx.conn, Session)
    for part in raise_fence(ctx.plan, Authority.NEW, again):
        run(ctx.conn, part.action.statements)
    fenced = replace(ctx, rollout=replace(ctx.rollout, fenced_at=ctx.now))
    verdict = Drift().evaluate(fenced)
    assert verdict.answer is Answer.PASSED, verdict
    # And not recorded, it is.
    assert Drift().evaluate(ctx).answer is Answer.REFUSED
    for part in lift_fence(ctx.plan, Authority.NEW, again):
        run(ctx.conn, part.action.statements)
    verdict = Drift().evaluate(ctx)
    assert verdict.answer is Answer.PASSED, verdict


def test_a_fence_lifts_even_where_a_view_is_missing(ctx: GateContext, database: Database) -> None:
    assert isinstance(ctx.conn, Session)
    for part in raise_fence(ctx.plan, Authority.NEW, lambda *_: ()):
        run(ctx.conn, part.action.statements)
    database.execute("DROP VIEW public_widen.orders")
    for part in lift_fence(ctx.plan, Authority.NEW, lambda *_: ()):
        run(ctx.conn, part.action.statements)
    assert database.value("SELECT count(amount) FROM public_before_widen.orders") == 100


def test_writes_of_the_new_version_are_mirrored_behind_the_fence(
    ctx: GateContext, database: Database
) -> None:
    def again(of: TableMapping, authority: Authority) -> Sequence[str]:
        return sync.install(of, ROLLOUT, authority).statements

    assert isinstance(ctx.conn, Session)
    for part in raise_fence(ctx.plan, Authority.NEW, again):
        run(ctx.conn, part.action.statements)
    database.execute("UPDATE public_widen.orders SET amount = 77.40 WHERE id = 3")
    database.execute("INSERT INTO public_widen.orders (id, amount, remark) VALUES (1000, 5, 'new')")
    found = database.execute(
        "SELECT id, _zdm_fenced_amount, _zdm_amount FROM public.orders WHERE id IN (3, 1000) ORDER BY 1"
    )
    assert [tuple(map(float, row)) for row in found] == [(3.0, 77.0, 77.4), (1000.0, 5.0, 5.0)]
