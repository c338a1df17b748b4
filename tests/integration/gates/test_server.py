"""Gates that ask the server: replicas and their lag, transactions that are open for long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.integration.gates.sample import context, session
from tests.support.servers import TEST_SETTINGS, Connection, Database
from zdm.devdb import DevServer
from zdm.devdb.process import wait_until
from zdm.devdb.replica import replica_of
from zdm.gates.context import GateContext
from zdm.gates.long_transactions import LongTransactions
from zdm.gates.replication_lag import ReplicationLag
from zdm.model.verdict import Answer, Verdict


@pytest.fixture
def ctx(database: Database) -> Iterator[GateContext]:
    with session(database.dsn) as conn:
        yield context(conn)


class TestLongTransactions:
    def test_none(self, ctx: GateContext) -> None:
        assert LongTransactions.model_validate("5m").evaluate(ctx).answer is Answer.PASSED

    def test_names_the_oldest_and_how_to_end_it(
        self, ctx: GateContext, connect: Callable[..., Connection]
    ) -> None:
        open_ = connect()
        open_.execute("SET application_name = 'report'")
        open_.execute("SELECT 1")
        verdict = LongTransactions.model_validate("0s").evaluate(ctx)
        assert verdict.answer is Answer.REFUSED
        assert (
            f"process {open_.info.backend_pid} report of postgres (idle in transaction), open for 0s"
            in verdict.observed
        )
        assert f"pg_terminate_backend({open_.info.backend_pid})" in verdict.remedy

    def test_others_that_are_hidden_refuse(
        self, database: Database, connect: Callable[..., Connection]
    ) -> None:
        role = database.create_role("zdm")
        connect().execute("SELECT 1")
        with session(database.dsn_for(role)) as conn:
            verdict = LongTransactions.model_validate("5m").evaluate(context(conn))
        assert verdict.answer is Answer.UNREADABLE
        assert "pg_monitor" in verdict.remedy


class TestReplicationLag:
    def test_no_replicas_pass_and_it_says_so(self, ctx: GateContext) -> None:
        verdict = ReplicationLag.model_validate("5s").evaluate(ctx)
        assert (verdict.answer, verdict.observed) == (Answer.PASSED, "there are no replicas")

    def test_too_few(self, ctx: GateContext) -> None:
        verdict = ReplicationLag.model_validate({"require": 2}).evaluate(ctx)
        assert (verdict.answer, verdict.observed) == (Answer.REFUSED, "0 replicas seen")

    def test_one_that_does_not_answer_refuses_without_its_password(self, ctx: GateContext) -> None:
        configured = replace(ctx, replicas=("postgresql://zdm:hunter2@127.0.0.1:1/postgres",))
        verdict = ReplicationLag().evaluate(configured)
        assert verdict.answer is Answer.UNREADABLE
        assert "127.0.0.1" in verdict.observed
        assert "hunter2" not in repr(verdict)

    def test_a_streaming_replica(self) -> None:
        def ask(ctx: GateContext, **parameters: object) -> Verdict:
            return ReplicationLag.model_validate(parameters).evaluate(ctx)

        with ExitStack() as stack:
            primary = stack.enter_context(DevServer(settings=TEST_SETTINGS, durable=False))
            standby = replica_of(primary, "replica_a")
            stack.callback(standby.close)
            standby.catch_up()
            ctx = context(stack.enter_context(session(primary.dsn())))

            def near() -> bool:
                return ask(ctx, max="5s", require=1).answer is Answer.PASSED

            wait_until(near, seconds=30, what="the replica to report its position")
            asked = ask(ctx, max="5s", require=2, replicas=[standby.dsn()])
            assert asked.answer is Answer.PASSED, asked

            # Replay stands still while a reader on the standby is in the way of nothing: pause it outright.
            with standby.connect(autocommit=True) as there:
                there.execute("SELECT pg_wal_replay_pause()")
                with primary.connect(autocommit=True) as here:
                    here.execute("CREATE TABLE behind AS SELECT 1 AS one")

                def behind() -> bool:
                    verdict = ask(ctx, max="0s", replicas=[standby.dsn()])
                    return verdict.answer is not Answer.PASSED

                wait_until(behind, seconds=30, what="the lag to show")
                there.execute("SELECT pg_wal_replay_resume()")
            standby.catch_up()
            wait_until(near, seconds=30, what="the replica to catch up")
