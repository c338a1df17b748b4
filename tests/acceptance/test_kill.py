"""zdm dies at any moment, or the server does; the next run goes on at once, and nothing that was written is lost."""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.command import Answer, Command, ended, kill
from tests.conftest import ServerFactory
from tests.support.interleave import eventually
from tests.support.proxy import BreakingWire
from tests.support.servers import Database
from tests.support.writers import Writers

ROWS = 30_000

SETUP = f"""
CREATE TABLE account (id bigint PRIMARY KEY, balance integer NOT NULL, owner text NOT NULL);
-- What the applications themselves know of what they did, in the same transactions; zdm never touches it.
CREATE TABLE ledger (account bigint NOT NULL, amount integer NOT NULL);
INSERT INTO account SELECT g, g % 1000, 'Ann Other ' || g FROM generate_series(1, {ROWS}) g;
INSERT INTO ledger SELECT id, balance FROM account;
CREATE SEQUENCE fresh START 1000000;
"""

MIGRATION: dict[str, Any] = {
    "id": "widen",
    "operations": [
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
    ],
    "gates": {"soak": "0s", "old_version_unused": "off"},
}

PHASES = ("preparation", "migration", "switchover", "cleanup")

#: What an application meets when the server dies, besides what it retries anyway.
RETRYABLE = ("40001", "40P01")
SERVER_GONE = ("08006", "57P01", "57P02", "57P03")

#: On a busy machine even a trigger takes its time.
SETTINGS = 'lock_budget = "300ms"'

#: Columns of the book: what is there, against what the applications know that they did.
WRONG = """
SELECT count(*) FROM (SELECT id, balance::numeric AS is FROM {table}) a
FULL JOIN (SELECT account AS id, sum(amount) AS should FROM ledger GROUP BY account) l USING (id)
WHERE a."is" IS DISTINCT FROM l.should
"""


class Stage:
    """The table, both applications, and zdm on the command line."""

    def __init__(self, dsn: str, directory: Path, seed: int) -> None:
        self.dsn = dsn
        self.random = random.Random(seed)
        self.zdm = Command(dsn, directory, settings=SETTINGS)
        self.execute(SETUP)
        self.file = self.zdm.write(MIGRATION)
        self.zdm("init").done()
        self.died: list[str] = []

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def state(self) -> str:
        found = self.execute("SELECT state FROM zdm.module_migrations ORDER BY id DESC LIMIT 1")
        return str(found[0][0]) if found else "planned"

    # -- applications -------------------------------------------------------------------------------------------

    @contextmanager
    def old_application(self, *allowed: str) -> Iterator[Writers]:
        with Writers(self.dsn) as writers:
            writers.add("old", old, threads=2)
            writers.wait_for(1)
            yield writers
        writers.report.assert_only(*RETRYABLE, *allowed)

    @contextmanager
    def new_application(self, *allowed: str) -> Iterator[Writers]:
        filled = self.state() not in ("prepared", "migrating", "migration_failed")
        with Writers(self.dsn) as writers:
            writers.add("new", new if filled else new_inserts)
            writers.wait_for(1)
            yield writers
        writers.report.assert_only(*RETRYABLE, *allowed)

    # -- death --------------------------------------------------------------------------------------------------

    def advance_killed(self, phase: str, times: int) -> Answer:
        """Run a phase, killed `times` times at random moments of its work; the last run is left alone."""
        begun = self.state()
        for _ in range(times):
            process = self.zdm.start("advance", self.file, "--until", phase)
            eventually(
                lambda p=process: self.state() != begun or p.poll() is not None,  # type: ignore[misc]
                seconds=60,
                what="a phase to begin",
            )
            time.sleep(self.random.uniform(0, 0.35))
            answer = kill(process) if process.poll() is None else ended(process)
            if answer.code != -9:
                return answer  # it was quicker
            self.died.append(self.state())
        return self.zdm("advance", self.file, "--until", phase)

    def terminating(self, process: subprocess.Popen[str], moments: int) -> Answer:
        """While it runs, end all of its connections at some moments."""
        ended_connections = 0
        while process.poll() is None:
            time.sleep(self.random.uniform(0.05, 0.3))
            if ended_connections < moments:
                rows = self.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND application_name LIKE 'zdm%'"
                )
                ended_connections += bool(rows)
        return ended(process)

    # -- truth --------------------------------------------------------------------------------------------------

    def nothing_lost(self, *, new: bool = False) -> None:
        tables = ["public.account", *(["public_widen.account"] if new else [])]
        for table in tables:
            assert self.execute(WRONG.format(table=table)) == [(0,)], table

    def nothing_left(self) -> None:
        left = self.execute(
            "SELECT attrelid::regclass::text || '.' || attname FROM pg_attribute WHERE attname LIKE '\\_zdm%' AND NOT attisdropped "
            "AND attrelid::regclass::text NOT LIKE 'zdm.%' UNION ALL SELECT tgname FROM pg_trigger WHERE tgname LIKE '~zdm%' "
            "UNION ALL SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid "
            "UNION ALL SELECT nspname FROM pg_namespace WHERE nspname LIKE 'public\\_before%'"
        )
        assert left == []


def old(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
    """Add to a row's balance through the table, or make a row."""
    if number % 5 == 0:
        connection.execute(
            "WITH n AS (INSERT INTO account SELECT nextval('fresh'), 7, 'Old Made' RETURNING id) "
            "INSERT INTO ledger SELECT id, 7 FROM n"
        )
        return
    one = rng.randrange(1, ROWS)
    connection.execute("UPDATE account SET balance = balance + 1 WHERE id = %s", [one])
    connection.execute("INSERT INTO ledger VALUES (%s, 1)", [one])


def new_inserts(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
    """Make a row of the new version."""
    del rng, number
    connection.execute("SET LOCAL search_path = public_widen, public")
    connection.execute(
        "WITH n AS (INSERT INTO account (id, balance, first, rest) SELECT nextval('fresh'), 9, 'New', 'Made' RETURNING id) "
        "INSERT INTO ledger SELECT id, 9 FROM n"
    )


def new(connection: psycopg.Connection[Any], rng: random.Random, number: int) -> None:
    """Add to a row's balance through the new version."""
    if number % 5 == 0:
        new_inserts(connection, rng, number)
        return
    one = rng.randrange(1, ROWS)
    connection.execute("SET LOCAL search_path = public_widen, public")
    connection.execute("UPDATE account SET balance = balance + 2, first = 'New' WHERE id = %s", [one])
    connection.execute("INSERT INTO ledger VALUES (%s, 2)", [one])


@pytest.fixture
def stage(database: Database, tmp_path: Path) -> Callable[[int], Stage]:
    return lambda seed: Stage(database.dsn, tmp_path, seed)


def all_phases(stage: Stage, advance: Callable[[str], Answer]) -> None:
    """Through all four phases, each by `advance`, checked after each."""
    with stage.old_application():
        assert advance("preparation").code == 0
        stage.nothing_lost()
        with stage.new_application():
            assert advance("migration").code == 0
        stage.nothing_lost(new=True)
        with stage.new_application() as writers:
            assert advance("switchover").code == 0
            writers.wait_for(5)
        stage.nothing_lost(new=True)
    with stage.new_application():
        assert advance("cleanup").code == 0
    stage.nothing_lost(new=True)
    stage.nothing_left()
    assert stage.state() == "completed"


def killed_through(stage: Stage, times: int) -> None:
    def advance(phase: str) -> Answer:
        answer = stage.advance_killed(phase, times)
        assert answer.code == 0, f"{phase}: {answer.text}"
        return answer

    all_phases(stage, advance)
    assert stage.died, "nothing was killed"


def test_killed_in_every_phase(stage: Callable[[int], Stage]) -> None:
    killed_through(stage(1), 2)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 20))
def test_killed_in_every_phase_again_and_again(stage: Callable[[int], Stage], seed: int) -> None:
    killed_through(stage(seed), 6)


@pytest.mark.parametrize("until", ["preparation", "migration", "switchover"])
def test_killed_then_rolled_back(stage: Callable[[int], Stage], database: Database, until: str) -> None:
    here = stage(2)
    before = schema_of(database)
    with here.old_application():
        for phase in PHASES[: PHASES.index(until)]:
            here.zdm("advance", here.file, "--until", phase).done()
        begun = here.state()
        process = here.zdm.start("advance", here.file)
        eventually(lambda: here.state() != begun, seconds=60, what="the phase to begin")
        time.sleep(here.random.uniform(0, 0.15))
        kill(process)
        going_back = here.zdm.start("rollback", "widen")
        eventually(lambda: here.state() in ("rolling_back", "rolled_back"), seconds=60, what="the way back")
        kill(going_back)
        if here.state() != "rolled_back":
            here.zdm("rollback", "widen").done()
    here.nothing_lost()
    here.nothing_left()
    assert schema_of(database) == before


def schema_of(database: Database) -> str:
    if database.server.dev is None:
        pytest.skip("the programs of the server are elsewhere")
    text = subprocess.run(
        [database.server.dev.bin("pg_dump"), "--schema-only", "--schema=public", f"--dbname={database.dsn}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return re.sub(r"(?m)^\\.*$", "", text)


def test_its_connections_are_ended(stage: Callable[[int], Stage]) -> None:
    """An administrator ends zdm's connections, several times in each phase; run again, it goes on."""
    here = stage(3)

    def advance(phase: str) -> Answer:
        moments = iter((3, 1))
        while True:
            process = here.zdm.start("advance", here.file, "--until", phase)
            answer = here.terminating(process, next(moments, 0))
            if answer.code == 0:
                return answer
            assert answer.code == 1, answer.text
            assert "Traceback" not in answer.text

    all_phases(here, advance)


def test_the_server_dies_in_the_middle_of_the_backfill(make_server: ServerFactory, tmp_path: Path) -> None:
    with_server = make_server()
    here = Stage(with_server.create_database("shop"), tmp_path, 4)
    here.zdm("advance", here.file).done()
    with here.old_application(*SERVER_GONE), here.new_application(*SERVER_GONE):
        process = here.zdm.start("advance", here.file)
        filled = "SELECT count(*) > 2000 FROM account WHERE _zdm_state IS NOT NULL"
        eventually(lambda: here.execute(filled) == [(True,)], seconds=60, what="some rows to be filled")
        with_server.crash()
        time.sleep(0.2)
        with_server.start()
        answer = ended(process)
        assert answer.code in (0, 1), answer.text
        assert "Traceback" not in answer.text
        here.zdm("advance", here.file, "--until", "migration").done()
    here.nothing_lost(new=True)
    with here.old_application(), here.new_application():
        here.zdm("advance", here.file).done()
    here.nothing_lost(new=True)
    here.zdm("rollback", "widen").done()
    here.nothing_lost()
    here.nothing_left()


def test_the_wire_breaks_at_commit(stage: Callable[[int], Stage]) -> None:
    """Whether a commit happened is looked up, never guessed: both kinds of broken commits, in every phase."""
    here = stage(5)
    with BreakingWire(here.dsn, share=0.05, seed=5) as wire:

        def advance(phase: str) -> Answer:
            while True:
                answer = here.zdm("advance", here.file, "--until", phase, dsn=wire.dsn)
                if answer.code == 0:
                    return answer
                assert answer.code == 1, answer.text
                assert "Traceback" not in answer.text

        all_phases(here, advance)
    assert wire.lost
    assert wire.unanswered


def test_two_at_once(stage: Callable[[int], Stage]) -> None:
    """The second is told who is at it, and is refused; the first does not notice."""
    here = stage(6)
    here.zdm("advance", here.file).done()
    # A row that an application keeps locked holds the first at its work.
    with psycopg.connect(here.dsn) as blocker:
        blocker.execute("SELECT FROM account WHERE id = 1 FOR UPDATE")
        first = here.zdm.start("advance", here.file)
        eventually(lambda: here.state() == "migrating", seconds=60, what="the backfill to begin")
        second = here.zdm("advance", here.file)
        assert second.code == 4
        assert re.search(rf"held by zdm advance widen by .* process {first.pid}\)", second.text), second.text
        assert "Traceback" not in second.text
        third = here.zdm("rollback", "widen", "--json")
        assert (third.code, third.json["error"]["type"]) == (4, "busy")
    assert ended(first).code == 0
