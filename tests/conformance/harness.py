"""One rollout of one scenario, with both versions of the application writing all the time, at every isolation level."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg
from psycopg import sql

from tests.support.interleave import Isolation
from tests.support.mortal import Ended, How, Mortal
from tests.support.servers import Database
from tests.support.writers import Writers
from zdm.engine.reporter import Silent
from zdm.engine.results import StepRun
from zdm.engine.rollout import Engine
from zdm.engine.settings import EngineSettings
from zdm.errors import ZdmError
from zdm.model.mapping import ColumnGroup, TableMapping, ViewColumn
from zdm.model.phases import State
from zdm.model.row_mapping import SyncMode
from zdm.model.sample import Scenario
from zdm.model.step import Step
from zdm.operations.migration import Migration

#: Gates whose waiting a test cannot afford, or which the test is itself the reason for.
OPEN_GATES: dict[str, Any] = {
    "soak": "0s",
    "old_version_unused": False,
    "approvals": 0,
    "dependencies": False,
    "sync_lag": "60s",
}

#: The longest that an application thinks between two statements, in seconds; without, five of them take the processors from zdm,
#: and the test from everybody. `make soak` gives them less.
THINKS = float(os.environ.get("ZDM_TEST_THINK", "0.04"))

#: SQLSTATEs an application that asks for a higher isolation level retries anyway. At READ COMMITTED nobody does, but where two
#: tables mirror each other (docs/architecture.md, "Two tables, one row"): who writes both halves of a row at once may deadlock.
RETRYABLE = ("40001", "40P01")

#: How often they do. A conflict is over when the other transaction is; what fails this often fails always.
PATIENCE = 100

#: Each version's writers: (isolation level, whether the old one writes through its compatibility view and not the table).
OLD_WRITERS: tuple[tuple[Isolation, bool], ...] = (
    ("READ COMMITTED", False),
    ("REPEATABLE READ", True),
    ("SERIALIZABLE", False),
)
NEW_WRITERS: tuple[Isolation, ...] = ("READ COMMITTED", "SERIALIZABLE")


class Abort(BaseException):
    """Stands for the death of the process: nothing of zdm's may catch it."""


class Dying(Silent):
    """A reporter that lets the process die just before step `at` (counting from 1 over all phases).

    Parameters
    ----------
    last: die after the last of the steps as well.
    """

    def __init__(self, at: int, *, last: bool = False) -> None:
        self.left, self.last = at, last

    def step_started(self, step: Step, number: int, total: int) -> None:
        del step, number, total
        self.left -= 1
        if self.left == 0:
            raise Abort

    def step_finished(self, step: Step, number: int, total: int, run: StepRun) -> None:
        del step, run
        if self.last and number == total:
            raise Abort


class Striking(Silent):
    """A reporter that does something dreadful to the server just when step `at` begins (counting from 1 over all phases)."""

    def __init__(self, at: int, strike: Callable[[], None]) -> None:
        self.left = at
        self.strike = strike

    def step_started(self, step: Step, number: int, total: int) -> None:
        del step, number, total
        self.left -= 1
        if self.left == 0:
            self.strike()


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
    compared: bool = True
    migration: Migration = field(init=False)
    before: str = field(init=False, default="")
    numbers: Iterator[int] = field(init=False, default_factory=lambda: count(10_000))
    retried: Counter[tuple[str, str]] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        self.database.execute(self.scenario.setup)
        self.migration = self.given or Migration.model_validate(
            {
                "id": "try_it",
                "operations": list(self.scenario.operations),
                "gates": OPEN_GATES,
                "expose": self.expose,
                "sync": self.scenario.sync,
            }
        )
        self.engine().init()
        for migration in self.earlier:
            self.advance_to(State.COMPLETED, migration)
        if self.rows:
            self.database.execute(self.rows)
        if self.compared:
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

    def roll_back_dying(self) -> None:
        """The first process of the way back dies before its first step, the next before its second …, one after the last."""
        at = 1
        while True:
            try:
                assert (
                    self.engine(Dying(at, last=True)).rollback(self.migration.id).state is State.ROLLED_BACK
                )
            except Abort:
                at += 1
                continue
            return

    def dump(self) -> str:
        """Everything but zdm's own schema as pg_dump writes it: what must be the same after a rollback."""
        dev = self.database.server.dev
        program = str(dev.bin("pg_dump")) if dev is not None else "pg_dump"
        text = subprocess.run(
            [program, "--schema-only", "--exclude-schema=zdm", f"--dbname={self.database.dsn}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        # pg_dump of recent versions writes a random key into \restrict.
        return "\n".join(line for line in text.splitlines() if not line.startswith("\\"))

    def advance_mortally_to(self, mortal: Mortal, state: State, rng: random.Random, kills: int) -> None:
        """As `advance_to`, in processes of their own, which are killed -9 at some round trip `kills` times a phase."""
        left = kills
        while True:
            at = rng.randint(1, 120) if left else 0
            ended = mortal.advance(self.database.dsn, self.migration, at=at, how=rng.choice(list(How)))
            left -= 1
            if ended.killed:
                self.sides_agree(complete=False)
                # Killed after its last commit, the phase is done; another run would begin the next one.
                if self.state() == state.value:
                    return
                continue
            assert not ended.error, ended.error
            if ended.state == state.value:
                return
            left = kills

    def state(self) -> str:
        """Where the rollout stands, by the catalog."""
        found = self.database.execute(
            "SELECT state FROM zdm.module_migrations WHERE migration = %s ORDER BY id DESC LIMIT 1",
            self.migration.id,
        )
        return str(found[0][0]) if found else State.PLANNED.value

    def advance_struck_to(self, state: State, at: int, strike: Callable[[], None]) -> bool:
        """As `advance_to`, with something that happens to the server once, at a step; False if there are fewer steps.

        The process lives, and may say that it failed; the next one goes on. After each phase the versions that live then take
        their turns, and both sides must hold what they wrote, whatever had happened to the server.
        """
        reporter = Striking(at, strike)
        struck = False
        while True:
            try:
                result = self.engine(reporter).advance(self.migration)
            except (ZdmError, psycopg.Error):
                assert reporter.left <= 0, "nothing had happened yet"
                assert not struck, "it failed again, without a reason"
                struck = True
                continue
            assert not [v for v in result.verdicts if not v.lets_through]
            self.turns(result.state)
            if result.state is state:
                return reporter.left <= 0

    def roll_back_mortally(self, mortal: Mortal, rng: random.Random, kills: int) -> None:
        """Roll back, killed -9 on the way, and again."""
        ended = Ended(killed=True)
        for left in range(kills, -1, -1):
            at = rng.randint(1, 90) if left else 0
            ended = mortal.roll_back(self.database.dsn, self.migration.id, at=at, how=rng.choice(list(How)))
            if not ended.killed:
                break
            if self.state() == State.ROLLED_BACK.value:
                return
        assert not ended.error, ended.error
        assert ended.state == State.ROLLED_BACK.value

    @contextmanager
    def writing(
        self, *, old: bool = True, new: bool = True, allowed: tuple[str, ...] = ()
    ) -> Iterator[Writers]:
        """Both versions of the application at work; every error that zdm could be blamed for fails the test.

        Parameters
        ----------
        allowed: SQLSTATEs that this phase of this scenario explains. `RETRYABLE` ones need not be among them: they are
            retried, and counted in `retried`.
        """
        with Writers(self.database.dsn) as writers:
            if old and self.scenario.old_writes:
                statements = (*self.scenario.old_writes, *self.scenario.old_reads)
                for level, through_view in OLD_WRITERS:
                    path = (f"public_before_{self.migration.id}", "public") if through_view else ("public",)
                    name = f"old {level}{' view' if through_view else ''}"
                    writers.add(name, self._work(statements, path, level), isolation=level)
            if new and self.scenario.new_writes:
                statements = (*self.scenario.new_writes, *self.scenario.new_reads)
                for level in NEW_WRITERS:
                    writers.add(f"new {level}", self._work(statements, self.new_path, level), isolation=level)
            yield writers
        writers.report.assert_only(*allowed)

    def turns(self, state: State) -> None:
        """What those who die while nobody writes meet between two phases: each statement of both versions has its turn, the old one's
        through the table and through its view, and both sides hold what they wrote."""
        if state is State.COMPLETED:
            return
        for path in (("public",), (f"public_before_{self.migration.id}", "public")):
            for statement in self.scenario.old_writes:
                self._execute(statement.format(n=next(self.numbers)), path)
        if state is State.PREPARED:
            self.sides_agree(complete=False)
            return
        for statement in self.scenario.new_writes:
            self._execute(statement.format(n=next(self.numbers)), self.new_path)
        self.agree()

    def _work(self, statements: tuple[str, ...], path: tuple[str, ...], level: Isolation) -> Any:
        names = sql.SQL(", ").join(sql.Identifier(name) for name in path)

        def once(connection: psycopg.Connection[Any], text: str) -> None:
            connection.execute(sql.SQL("SET LOCAL search_path = {}").format(names))
            connection.execute(text.encode())
            connection.commit()

        def work(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
            text = statements[number % len(statements)].format(n=next(self.numbers))
            for attempt in count(1):
                try:
                    once(connection, text)
                except psycopg.Error as error:
                    # What is tried again and again and never succeeds is no conflict, but a failure by another name.
                    if not self._is_conflict(level, error.sqlstate) or attempt == PATIENCE:
                        raise
                    connection.rollback()
                    self.retried[level, str(error.sqlstate)] += 1
                else:
                    break
            time.sleep(rng.uniform(0, THINKS))

        return work

    def _is_conflict(self, level: Isolation, sqlstate: str | None) -> bool:
        if level != "READ COMMITTED":
            return sqlstate in RETRYABLE
        return sqlstate == "40P01" and bool(
            self.database.value(
                "SELECT EXISTS (SELECT FROM zdm.module_migrations WHERE plan -> 'row_mappings' <> '[]')"
            )
        )

    def execute_new(self, statement: str) -> None:
        """Run one statement as the new application does."""
        self._execute(statement, self.new_path)

    def _execute(self, statement: str, path: tuple[str, ...]) -> None:
        with psycopg.connect(self.database.dsn) as connection:
            names = sql.SQL(", ").join(sql.Identifier(name) for name in path)
            connection.execute(sql.SQL("SET LOCAL search_path = {}").format(names))
            connection.execute(statement.encode())

    def agree(self) -> None:
        """Both sides hold the same: by the scenario's own query, and by `sides_agree`."""
        if self.scenario.sync is SyncMode.LOGGED:
            self.engine().reconcile(self.migration.id)
        self.sides_agree(reconciled=True)
        if self.scenario.agree:
            assert self._ask(self.scenario.agree, ", ".join(self.new_path)) is True

    def sides_agree(self, *, complete: bool = True, reconciled: bool = False) -> None:
        """In every row each side is the image of the other, by the migration's own expressions as they were written.

        Nothing of zdm's triggers, backfill or verification is asked. It is one statement, so one snapshot, and may be
        asked while applications write.

        Parameters
        ----------
        complete: whether every row must be filled; else those that are not must have nothing on the new side.
        reconciled: nothing waits in a log, so that tables whose rows are synced by log agree as well.
        """
        standing = self.database.execute(
            "SELECT tgrelid::int8 FROM pg_trigger WHERE tgname ~ '^~zdm' AND NOT tgisinternal"
        )
        # A parent's triggers are the first to go at cleanup; from then on rows that the old version cannot read any more need not follow.
        watched = self.database.value(
            "SELECT array_agg(tgname::text) FROM pg_trigger WHERE tgname ~ '^!zdm_rows_[0-9]+_parent' AND NOT tgisinternal"
        )
        mappings = self.engine().plan(self.migration).mappings
        for mapping in mappings:
            noted = any(group.noted is not None for group in mapping.groups)
            if any(
                f"!zdm_rows_{group.parent.number}_parent_update" not in (watched or ())
                for group in mapping.groups
                if group.parent is not None
            ):
                continue
            if mapping.groups and (mapping.oid,) in standing and (reconciled or not noted):
                wrong = self.database.execute(disagreeing(mapping, mappings, complete=complete))
                assert wrong == [], f"{mapping.table}: {wrong}"

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
                 WHERE pronamespace = 'zdm'::regnamespace AND proname ~ '^(sync|rows|closed)_'
               UNION ALL SELECT 'view ' || relname FROM pg_class WHERE relname ~ '^pairs_' AND relnamespace = 'zdm'::regnamespace"""
        )
        assert left == []


def disagreeing(mapping: TableMapping, mappings: Sequence[TableMapping], *, complete: bool) -> str:
    """A query for rows of a table whose sides do not agree.

    Parameters
    ----------
    mappings: those of all tables of the rollout, since a row may refer to another one by both its keys.
    """

    def version(
        columns: tuple[ViewColumn, ...], name: str, before: tuple[ViewColumn, ...] = ()
    ) -> sql.Composed:
        named = [(c.physical, c.name) for c in columns if c.physical != mapping.marker]
        named += [(c.physical, f"old.{c.name}") for c in before]
        listed = sql.SQL(", ").join(
            sql.SQL("b.{} AS {}").format(sql.Identifier(physical), sql.Identifier(shown))
            for physical, shown in named
        )
        return sql.SQL("(SELECT {}) AS {}").format(listed, sql.Identifier(name))

    def same(physical: str, source: str, type_: str, of: sql.Composed) -> sql.Composed:
        derived = sql.SQL("(SELECT CAST(({}) AS {}) FROM {})").format(sql.SQL(source), sql.SQL(type_), of)
        return sql.SQL("b.{}::text IS NOT DISTINCT FROM {}::text").format(sql.Identifier(physical), derived)

    old = version(mapping.old_columns, mapping.table.name)
    new = version(mapping.new_columns, mapping.final_name, mapping.old_columns)
    marker = sql.Identifier(mapping.marker)

    def referring(group: ColumnGroup) -> sql.Composed:
        assert group.lookup is not None
        table = next(m for m in mappings if m.table == group.lookup.table)
        key = next(g for g in table.groups if g.pairs is not None)
        return sql.SQL(
            "((b.{old} IS NULL AND b.{new} IS NULL) OR EXISTS (SELECT FROM {table} AS p WHERE p.{key_old} = b.{old}"
            " AND p.{key_new} = b.{new}))"
        ).format(
            old=sql.Identifier(group.old[0].name),
            new=sql.Identifier(group.new[0].name),
            table=sql.Identifier(table.table.schema_, table.table.name),
            key_old=sql.Identifier(key.old[0].name),
            key_new=sql.Identifier(key.new[0].name),
        )

    def consistent(group: ColumnGroup) -> sql.Composed:
        if group.lookup is not None:
            return referring(group)
        ups = [same(n.name, n.up.source, n.type, old) for n in group.new if n.up is not None]
        downs = [same(o.name, o.down.source, o.type, new) for o in group.old if o.down is not None]
        sides = [sql.SQL(" AND ").join(side) for side in (ups, downs) if side]
        return sql.SQL("(({}))").format(sql.SQL(") OR (").join(sides))

    # What only one version knows may hold anything.
    rules: list[sql.Composable] = [
        consistent(group) for group in mapping.groups if group.two_way and group.new
    ] or [sql.SQL("true")]
    rules.append(sql.SQL("true"))
    empty = [
        sql.SQL("b.{} IS NULL").format(sql.Identifier(n.name))
        for g in mapping.groups
        if g.pairs is None or not mapping.looks_up  # a row that waits for another one may have a key itself
        for n in g.new
    ]
    unfilled: sql.Composable = sql.SQL(" AND ").join([sql.SQL("b.{} IS NULL").format(marker), *empty])
    if complete:
        unfilled = sql.SQL("false")
        rules.append(sql.SQL("b.{} IS NOT NULL").format(marker))
    return (
        sql.SQL("SELECT b FROM {} AS b WHERE NOT ({} OR ({})) LIMIT 5")
        .format(
            sql.Identifier(mapping.table.schema_, mapping.table.name),
            sql.SQL("({})").format(unfilled),
            sql.SQL(" AND ").join(rules),
        )
        .as_string(None)
    )
