"""Minutes of everything at once: both applications at every isolation level, while zdm, its connections and the server are killed.

The invariant: what a client was told is committed is there, on every side that exists, at every checkpoint and at the end.

``ZDM_SOAK_MINUTES`` is how long in all (10), ``ZDM_SOAK_SEED`` what happens; the seed is printed. Load and kills come at
moments that the machine decides, so a seed repeats the kind of a run and not its every statement.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.command import Answer, Zdm, ended, kill
from tests.conftest import ServerFactory
from tests.support.interleave import Isolation, eventually
from tests.support.versions import OLD
from tests.support.writers import Writers
from zdm.devdb import DevServer

MINUTES = float(os.environ.get("ZDM_SOAK_MINUTES", "10"))
SEED = int(os.environ.get("ZDM_SOAK_SEED") or secrets.randbelow(1_000_000))

ROWS = 20_000
HOT = 40
"""Rows that are written all the time, so that writers meet; the others are written now and then."""

SETUP = f"""
CREATE TABLE account (
  id bigint PRIMARY KEY, balance integer NOT NULL, owner text NOT NULL, version integer NOT NULL DEFAULT 0);
CREATE INDEX account_owner ON account (owner);
CREATE INDEX account_balance ON account (balance DESC) WHERE balance > 5;
-- What the applications themselves know of what they did, in the same transactions; zdm never touches it.
CREATE TABLE ledger (
  token bigint PRIMARY KEY, account bigint NOT NULL, amount integer NOT NULL, owner text, version integer NOT NULL, gone boolean NOT NULL);
CREATE INDEX ledger_account ON ledger (account);
INSERT INTO account SELECT g, g % 1000, 'Ann Other' || g FROM generate_series(1, {ROWS}) g;
INSERT INTO ledger SELECT -id, id, balance, owner, 0, false FROM account;
"""

WHOLE_TO_SPLIT: list[dict[str, Any]] = [
    {"drop_index": {"table": "account", "name": "account_owner"}},
    {
        "change_type": {
            "table": "account",
            "column": "balance",
            "to": "numeric(18,2)",
            "up": "balance::numeric(18,2)",
            "down": "round(balance)::int",
        }
    },
    {
        "split_column": {
            "table": "account",
            "column": "owner",
            "into": [
                {"name": "first", "type": "text", "up": "split_part(owner, ' ', 1)", "not_null": True},
                {
                    "name": "rest",
                    "type": "text",
                    "up": "substr(owner, strpos(owner, ' ') + 1)",
                    "not_null": True,
                },
            ],
            "down": "first || ' ' || rest",
        }
    },
    {"create_index": {"table": "account", "name": "account_rest", "columns": ["rest"]}},
]
SPLIT_TO_WHOLE: list[dict[str, Any]] = [
    {"drop_index": {"table": "account", "name": "account_rest"}},
    {
        "change_type": {
            "table": "account",
            "column": "balance",
            "to": "integer",
            "up": "round(balance)::int",
            "down": "balance::numeric(18,2)",
        }
    },
    {
        "merge_columns": {
            "table": "account",
            "columns": ["first", "rest"],
            "into": {"name": "owner", "type": "text", "up": "first || ' ' || rest", "not_null": True},
            "down": {
                "first": "split_part(owner, ' ', 1)",
                "rest": "substr(owner, strpos(owner, ' ') + 1)",
            },
        }
    },
    {"create_index": {"table": "account", "name": "account_owner", "columns": ["owner"]}},
]

PHASES = ("preparation", "migration", "switchover", "cleanup")
DONE = ("prepared", "migrated", "switched_over", "completed")
LEVELS: tuple[Isolation, ...] = ("READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
SERVER_GONE = ("08006", "57P01", "57P02", "57P03")

#: Rows that are not what the applications know that they wrote.
WRONG = """
SELECT id, a, l FROM (SELECT id, balance::numeric AS balance, {owner} AS owner FROM {table}) AS a
FULL JOIN (
  SELECT account AS id, sum(amount)::numeric AS balance,
    (array_agg(owner ORDER BY version DESC) FILTER (WHERE owner IS NOT NULL))[1] AS owner
  FROM public.ledger GROUP BY account HAVING NOT bool_or(gone)) AS l USING (id)
WHERE (a.balance, a.owner) IS DISTINCT FROM (l.balance, l.owner) LIMIT 10
"""


@dataclass
class Ledger:
    """What the clients were told.

    Parameters
    ----------
    acknowledged: writes whose COMMIT was answered.
    unknown: writes whose connection was lost while they committed.
    """

    acknowledged: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    last: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def token(self) -> int:
        with self.lock:
            self.last += 1
            return self.last


@dataclass(frozen=True)
class Application:
    """One version of the application.

    Parameters
    ----------
    path: its search_path.
    split: whether the owner is two columns for it.
    filled: whether it may compute from what it finds.
    """

    ledger: Ledger
    path: str
    split: bool
    filled: bool

    def work(self, connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
        token = self.ledger.token()
        connection.execute(f"SET LOCAL search_path = {self.path}".encode())
        wrote = self._write(connection, rng, token)
        try:
            connection.commit()
        except psycopg.Error as error:
            if error.sqlstate is None or connection.closed or connection.broken:
                self.ledger.unknown.add(token)
            raise
        if wrote:
            self.ledger.acknowledged.add(token)
        time.sleep(
            0.002
        )  # an application does other things as well; without, it would take the processors from zdm
        del number

    def _write(self, connection: psycopg.Connection[Any], rng: random.Random, token: int) -> bool:
        some = rng.randint(1, HOT) if rng.random() < 0.5 else rng.randint(1, ROWS)
        names, values = (
            ("first, rest", f"'New', 'Made{token}'") if self.split else ("owner", f"'New Made{token}'")
        )
        chance = rng.random()
        if chance < 0.2 or not self.filled:
            text = f"INSERT INTO account (id, balance, {names}) VALUES ({ROWS} + {token}, 7, {values})"
            return self._with(connection, text, f"{token}, id, 7, named, 0, false")
        if chance < 0.3:
            named = f"first = 'Re', rest = 'Named{token}'" if self.split else f"owner = 'Re Named{token}'"
            text = f"UPDATE account SET {named}, version = version + 1 WHERE id = {some}"
            return self._with(connection, text, f"{token}, id, 0, named, version, false")
        if chance < 0.4:
            text = (
                f"INSERT INTO account (id, balance, {names}) VALUES ({some}, 0, {values}) ON CONFLICT (id) "
                "DO UPDATE SET balance = account.balance + 3, version = account.version + 1"
            )
            return self._with(connection, text, f"{token}, id, 3, NULL, version, false")
        if chance < 0.5:
            text = f"DELETE FROM account WHERE id = {ROWS} + {rng.randint(1, token)}"
            return self._with(connection, text, f"{token}, id, 0, NULL, 0, true")
        text = f"UPDATE account SET balance = balance + 1 WHERE id = {some}"
        return self._with(connection, text, f"{token}, id, 1, NULL, 0, false")

    def _with(self, connection: psycopg.Connection[Any], statement: str, entry: str) -> bool:
        named = "first || ' ' || rest" if self.split else "owner"
        done = connection.execute(
            f"WITH w AS ({statement} RETURNING id, version, {named} AS named) INSERT INTO ledger SELECT {entry} FROM w".encode(),
            prepare=False,
        )
        return done.rowcount == 1


class Soak:
    """The server, the applications, and zdm with everything that can happen to it."""

    def __init__(self, server: DevServer, directory: Path, seed: str) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.dsn = server.create_database("shop")
        self.zdm = Zdm(self.dsn, directory, settings='lock_budget = "300ms"')
        self.ledger = Ledger()
        self.happened: Counter[str] = Counter()
        self.met: Counter[str] = Counter()
        self.file = self.id = ""
        self.split = False
        self.execute(SETUP)
        self.zdm("init").done()

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def state(self) -> str:
        found = self.execute(
            f"SELECT state FROM zdm.module_migrations WHERE migration = '{self.id}' ORDER BY id DESC LIMIT 1"
        )
        return str(found[0][0]) if found else "planned"

    # -- applications -------------------------------------------------------------------------------------------

    def _application(self, name: str, *, filled: bool) -> Application:
        path, split = {
            "old": ("public", self.split),
            "new": (f"public_{self.id}, public", not self.split),
        }[name]
        return Application(self.ledger, path, split, filled)

    @contextlib.contextmanager
    def working(self, *names: str, filled: bool) -> Iterator[Writers]:
        with Writers(self.dsn, seed=self.random.randrange(1_000_000)) as writers:
            for name in names:
                application = self._application(name, filled=filled or name == "old")
                for level in LEVELS:
                    writers.add(f"{name} {level}", application.work, isolation=level)
            writers.wait_for(1)
            yield writers
        report = writers.report
        for error in report.errors:
            expected = error.sqlstate in SERVER_GONE or (
                error.sqlstate in ("40001", "40P01") and "READ COMMITTED" not in error.writer
            )
            assert expected, error
            self.met[error.sqlstate] += 1

    # -- what happens to zdm ------------------------------------------------------------------------------------

    def run(self, *arguments: str) -> None:
        """A command, repeated until it is done; at first things happen to it, in the end none does."""
        deadline = time.monotonic() + 900
        for attempt in range(100):
            happens = self.random.random() < 0.8 and attempt < 4
            answer, what = self._run_once(happens, arguments)
            if answer.code == 0:
                return
            told = f"{arguments} after {what}: {answer.code}: {answer.text}"
            assert "Traceback" not in answer.text, told
            # Killed; or its connections were; or the one that was killed before is still seen.
            assert answer.code in (-9, 1, 4), told
            assert answer.code != 1 or what not in ("nothing", "kill zdm"), told
            assert time.monotonic() < deadline, told
        pytest.fail(f"{arguments} never ended")

    def _run_once(self, happens: bool, arguments: tuple[str, ...]) -> tuple[Answer, str]:
        process = self.zdm.start(*arguments)
        if not happens:
            return ended(process, seconds=400), "nothing"
        wait = self.random.uniform(0.3, 3.5)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
            return ended(process, seconds=400), "nothing"
        what = self.random.choice(
            ("kill zdm", "kill zdm", "end its connections", "kill a backend", "kill the server")
        )
        self.happened[what] += 1
        if what == "kill zdm":
            return kill(process), what
        if what == "kill the server":
            self.server.crash()
            if self.random.random() < 0.5:
                kill(process)
            self.server.start()
        else:
            self._strike(what)
        return ended(process, seconds=400), what

    def _strike(self, what: str) -> None:
        ours = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'zdm%'"
        if what == "end its connections":
            self.execute(f"SELECT pg_terminate_backend(pid) {ours}")
            return
        found = [pid for (pid,) in self.execute(f"SELECT pid {ours}")]
        if not found:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.random.choice(found), signal.SIGKILL)
        # The server ends all its other processes and recovers.
        eventually(self._answers, seconds=60, what="the server to recover")

    def _answers(self) -> bool:
        try:
            return self.execute("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False

    # -- truth --------------------------------------------------------------------------------------------------

    def nothing_lost(self, *, new: bool = False, old: bool = True) -> None:
        acknowledged = set(self.ledger.acknowledged)
        present = {token for (token,) in self.execute("SELECT token FROM public.ledger WHERE token > 0")}
        assert not acknowledged - present
        sides = ([("public.account", self.split)] if old else []) + (
            [(f"public_{self.id}.account", not self.split)] if new else []
        )
        for table, split in sides:
            owner = "first || ' ' || rest" if split else "owner"
            assert self.execute(WRONG.format(table=table, owner=owner)) == [], table

    def nothing_made_up(self) -> None:
        """No write is there that no client made; asked while nobody writes."""
        present = {token for (token,) in self.execute("SELECT token FROM public.ledger WHERE token > 0")}
        assert self.ledger.acknowledged <= present <= self.ledger.acknowledged | self.ledger.unknown

    def schema(self) -> str:
        text = subprocess.run(
            [self.server.bin("pg_dump"), "--schema-only", "--schema=public", f"--dbname={self.dsn}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return re.sub(r"(?m)^\\.*$", "", text)

    # -- a migration --------------------------------------------------------------------------------------------

    def rollout(self, number: int, deadline: float) -> None:
        """One migration from the shape there is to the other one, with ways back in between."""
        self.id = f"change_{number}"
        self.file = self.zdm.write(
            {
                "id": self.id,
                "operations": SPLIT_TO_WHOLE if self.split else WHOLE_TO_SPLIT,
                "gates": {"soak": "0s", "old_version_unused": "off"},
            }
        )
        before = self.schema()
        at = 0
        while at < 3:
            # Which applications there are during this move, and what the new one may do.
            names = ("old",) if at == 0 else ("old", "new")
            with self.working(*names, filled=at >= 2) as writers:
                self.run("advance", self.file, "--until", PHASES[at], "--restart")
                writers.wait_for(2, seconds=60)
                self.nothing_lost(new=at >= 1)
            at += 1
            self.nothing_made_up()
            assert self.state() == DONE[at - 1]
            if self.random.random() < 0.3 and time.monotonic() < deadline:
                self.happened["roll back"] += 1
                with self.working("old", filled=True):
                    self.run("rollback", self.id)
                    self.nothing_lost()
                assert self.state() == "rolled_back"
                assert self.schema() == before
                at = 0
        with self.working("new", filled=True):
            self.run("advance", self.file, "--until", "cleanup")
            self.nothing_lost(new=True, old=False)
        self.split = not self.split
        assert self.state() == "completed"
        self.nothing_lost()
        self.nothing_made_up()


@pytest.mark.soak
@pytest.mark.parametrize("major", [None, OLD], ids=["default", f"pg{OLD}"])
def test_soak(make_server: ServerFactory, tmp_path: Path, major: int | None) -> None:
    print(f"\nZDM_SOAK_SEED={SEED}")  # noqa: T201
    soak = Soak(make_server(major=major), tmp_path, f"{SEED}:{major}")
    begun = time.monotonic()
    deadline = begun + MINUTES * 60 / 2
    rollouts = 0
    while rollouts == 0 or time.monotonic() < deadline:
        soak.rollout(rollouts, deadline)
        rollouts += 1
        print(  # noqa: T201
            f"{time.monotonic() - begun:5.0f} s: {rollouts} rollouts, {len(soak.ledger.acknowledged)} writes acknowledged, "
            f"{len(soak.ledger.unknown)} unknown, retried {dict(soak.met)}, {dict(soak.happened)}",
            flush=True,
        )
