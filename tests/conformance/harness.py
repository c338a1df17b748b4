"""One rollout of one scenario, with both versions of the application writing all the time."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg
from psycopg import sql

from tests.support.servers import Database
from tests.support.writers import Writers
from zdm.engine.reporter import Silent
from zdm.engine.rollout import Engine
from zdm.engine.settings import EngineSettings
from zdm.model.phases import State
from zdm.model.sample import Scenario
from zdm.model.step import Step
from zdm.operations.migration import Migration

#: Gates whose waiting a test cannot afford, or which the test is itself the reason for.
OPEN_GATES: dict[str, Any] = {
    "soak": "0s",
    "old_version_unused": False,
    "approvals": 0,
    "dependencies": False,
}

#: SQLSTATEs an application that asks for a higher isolation level retries anyway.
RETRYABLE = ("40001", "40P01")


class Abort(BaseException):
    """Stands for the death of the process: nothing of zdm's may catch it."""


class Dying(Silent):
    """A reporter that lets the process die just before step `at` (counting from 1 over all phases)."""

    def __init__(self, at: int) -> None:
        self.left = at

    def step_started(self, step: Step, number: int, total: int) -> None:
        del step, number, total
        self.left -= 1
        if self.left == 0:
            raise Abort


@dataclass
class Rollout:
    """A scenario prepared in a database of its own.

    Parameters
    ----------
    given: the migration as its authors wrote it, its id and gates included; made from the scenario if not given.
    earlier: migrations that are completed first, without any application at work.
    rows: what is inserted after them.
    settings: the engine's.
    """

    database: Database
    scenario: Scenario
    expose: str = "views"
    given: Migration | None = None
    earlier: tuple[Migration, ...] = ()
    rows: str = ""
    settings: EngineSettings = EngineSettings(workers=1)  # noqa: RUF009 - a frozen value
    migration: Migration = field(init=False)
    before: str = field(init=False, default="")
    numbers: Iterator[int] = field(init=False, default_factory=lambda: count(10_000))

    def __post_init__(self) -> None:
        self.database.execute(self.scenario.setup)
        self.migration = self.given or Migration.model_validate(
            {
                "id": "try_it",
                "operations": list(self.scenario.operations),
                "gates": OPEN_GATES,
                "expose": self.expose,
            }
        )
        self.engine().init()
        for migration in self.earlier:
            self.advance_to(State.COMPLETED, migration)
        if self.rows:
            self.database.execute(self.rows)
        self.before = self.dump()

    def engine(self, reporter: Silent | None = None) -> Engine:
        """A new engine, as a new process would have it."""
        return Engine(self.database.dsn, "public", reporter=reporter or Silent(), settings=self.settings)

    @property
    def new_path(self) -> tuple[str, ...]:
        """The search_path of the new application."""
        return ("public",) if self.expose == "columns" else (f"public_{self.migration.id}", "public")

    def advance_to(self, state: State, migration: Migration | None = None, *, restart: bool = False) -> None:
        """Advance phase by phase until the rollout is in `state`."""
        while True:
            result = self.engine().advance(migration or self.migration, restart=restart)
            refused = [v for v in result.verdicts if not v.lets_through]
            assert not refused, refused
            if result.state is state:
                return

    def advance_dying_to(self, state: State) -> None:
        """As `advance_to`, but the first process of a phase dies before its first step, the next before its second …"""
        at = 1
        while True:
            try:
                result = self.engine(Dying(at)).advance(self.migration)
            except Abort:
                at += 1
                continue
            assert not [v for v in result.verdicts if not v.lets_through]
            at = 1
            if result.state is state:
                return

    def dump(self) -> str:
        """The target schema as pg_dump writes it: what must be the same after a rollback."""
        dev = self.database.server.dev
        program = str(dev.bin("pg_dump")) if dev is not None else "pg_dump"
        text = subprocess.run(
            [program, "--schema-only", "--schema=public", f"--dbname={self.database.dsn}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        # pg_dump of recent versions writes a random key into \restrict.
        return "\n".join(line for line in text.splitlines() if not line.startswith("\\"))

    @contextmanager
    def writing(
        self, *, old: bool = True, new: bool = True, allowed: tuple[str, ...] = RETRYABLE
    ) -> Iterator[Writers]:
        """Both versions of the application at work; every error that zdm could be blamed for fails the test."""
        with Writers(self.database.dsn) as writers:
            if old and self.scenario.old_writes:
                writers.add(
                    "old",
                    self._work(self.scenario.old_writes, self.scenario.old_reads, ("public",)),
                    threads=2,
                )
            if new and self.scenario.new_writes:
                writers.add(
                    "new",
                    self._work(self.scenario.new_writes, self.scenario.new_reads, self.new_path),
                    threads=1,
                )
            yield writers
        writers.report.assert_only(*allowed)

    def _work(self, writes: tuple[str, ...], reads: tuple[str, ...], path: tuple[str, ...]) -> Any:
        statements = (*writes, *reads)
        names = sql.SQL(", ").join(sql.Identifier(name) for name in path)

        def work(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
            connection.execute(sql.SQL("SET LOCAL search_path = {}").format(names))
            text = statements[number % len(statements)].format(n=next(self.numbers))
            connection.execute(text.encode())
            del rng

        return work

    def execute_new(self, statement: str) -> None:
        """Run one statement as the new application does."""
        with psycopg.connect(self.database.dsn) as connection:
            names = sql.SQL(", ").join(sql.Identifier(name) for name in self.new_path)
            connection.execute(sql.SQL("SET LOCAL search_path = {}").format(names))
            connection.execute(statement.encode())

    def agree(self) -> None:
        """Both sides hold the same, by the scenario's own query (independent of zdm's verification)."""
        if self.scenario.agree:
            assert self._ask(self.scenario.agree, ", ".join(self.new_path)) is True

    def finished(self) -> None:
        """The scenario's own idea of what the schema must look like in the end."""
        if self.scenario.after:
            assert self._ask(self.scenario.after, "public") is True

    def _ask(self, query: str, path: str) -> Any:
        with psycopg.connect(self.database.dsn) as connection:
            connection.execute(f"SET LOCAL search_path = {path}".encode())
            row = connection.execute(query.encode()).fetchone()
            assert row is not None
            return row[0]

    def nothing_left(self) -> None:
        """No object of zdm's is left outside its own schema, and the catalog has no function of this rollout."""
        left = self.database.execute(
            """SELECT 'column ' || attrelid::regclass || '.' || attname FROM pg_attribute
                 WHERE attname ~ '^_zdm' AND NOT attisdropped AND attrelid::regclass::text !~ '^zdm[.]'
               UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger WHERE tgname ~ 'zdm' AND NOT tgisinternal
                 AND tgrelid::regclass::text !~ '^zdm[.]'
               UNION ALL SELECT 'constraint ' || conname FROM pg_constraint WHERE conname ~ '_zdm'
               UNION ALL SELECT 'index ' || relname FROM pg_class WHERE relname ~ '_zdm' AND relkind = 'i' AND relnamespace <> 'zdm'::regnamespace
               UNION ALL SELECT 'invalid index ' || indexrelid::regclass FROM pg_index WHERE NOT indisvalid
               UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc
                 WHERE pronamespace = 'zdm'::regnamespace AND proname ~ '^(sync|rows)_'"""
        )
        assert left == []
