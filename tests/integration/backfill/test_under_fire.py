"""Nothing is lost: both versions of the application write, sessions are ended, the process and the server are killed.

The oracle shares nothing with zdm: each writer keeps a journal of what it added, in the transaction that added it.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.interleave import Isolation, eventually
from tests.support.mapped import Mapped
from tests.support.servers import Connection, Database, Server
from tests.support.versions import on_all_versions
from tests.support.writers import Writers
from zdm.backfill import Hooks, Options, backfill
from zdm.backfill.options import Wait
from zdm.devdb import DevServer
from zdm.errors import ZdmError

ROWS = 6000
RETRIED = ("40001", "40P01")


def old_writer(conn: Connection, rng: random.Random, n: int) -> None:
    row = rng.randint(1, ROWS)
    # No row: `churn` has just put it back as another one, which READ COMMITTED does not follow.
    if conn.execute("UPDATE account SET balance = balance + 1 WHERE id = %s", [row]).rowcount:
        conn.execute("INSERT INTO journal VALUES (%s, 1)", [row])


def new_writer(conn: Connection, rng: random.Random, n: int) -> None:
    # As the phases say: the new application reads the old side until everything is filled.
    row = rng.randint(1, ROWS)
    if conn.execute("UPDATE account SET balance_new = balance + 10 WHERE id = %s", [row]).rowcount:
        conn.execute("INSERT INTO journal VALUES (%s, 10)", [row])


def unrelated_writer(conn: Connection, rng: random.Random, n: int) -> None:
    """Moves rows that are not filled yet, past the bound and into blocks that are done."""
    conn.execute(
        "UPDATE account SET filler = repeat('y', %s) WHERE id = %s",
        [rng.randint(0, 400), rng.randint(1, ROWS)],
    )


def churn(conn: Connection, rng: random.Random, n: int) -> None:
    """Deletes rows and puts them back elsewhere, through either side."""
    row = rng.randint(1, ROWS)
    found = conn.execute("DELETE FROM account WHERE id = %s RETURNING balance", [row]).fetchone()
    if found is not None:
        column = rng.choice(["balance", "balance_new"])
        conn.execute(
            f"INSERT INTO account (id, {column}) VALUES (%s, %s) ON CONFLICT DO NOTHING".encode(),
            [row, found[0]],
        )


def assert_nothing_lost(table: Mapped) -> None:
    wrong = table.database.execute(
        """
        SELECT a.id, a.balance, a.balance_new, a._zdm_state, a.id %% 1000 + coalesce(j.added, 0) AS expected
        FROM generate_series(1, %s) g
        LEFT JOIN account a ON a.id = g
        LEFT JOIN (SELECT id, sum(delta) AS added FROM journal GROUP BY id) j ON j.id = g
        WHERE (a.balance = g %% 1000 + coalesce(j.added, 0) AND a.balance_new = a.balance) IS NOT TRUE
        """,
        ROWS,
    )
    assert wrong == []
    assert table.left() == 0


@on_all_versions
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_while_sessions_are_ended(database: Database, seed: int) -> None:
    table = Mapped(database, rows=ROWS)
    database.execute("CREATE TABLE journal (id integer NOT NULL, delta integer NOT NULL)")
    rng = random.Random(seed)
    with Writers(database.dsn, seed=seed) as writers:
        levels: tuple[Isolation, ...] = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
        for level in levels:
            writers.add(f"old {level}", old_writer, isolation=level)
            writers.add(f"new {level}", new_writer, isolation=level)
        writers.add("unrelated", unrelated_writer)
        writers.add("churn", churn)
        writers.wait_for(2)
        chunks = [0]
        ended = [0]

        def disturb(_: float) -> Wait:
            chunks[0] += 1
            # One at least; the others by chance.
            due = chunks[0] >= 3 and not ended[0]
            if due or rng.random() < 0.15:
                # Whichever of our sessions is in the middle of something, this one included.
                ended[0] += len(
                    database.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE application_name = 'zdm test' AND datname = current_database() "
                        "AND (state <> 'idle' OR %s)",
                        due or rng.random() < 0.3,
                    )
                )
            if chunks[0] % 5 == 0:
                writers.wait_for(1)
            return Wait(0)

        complete = False
        for turn in range(200):
            stop, left = threading.Event(), [rng.randint(5, 20)]

            def throttle(last: float, stop: threading.Event = stop, left: list[int] = left) -> Wait:
                left[0] -= 1
                if left[0] <= 0:
                    stop.set()
                return disturb(last)

            options = Options(workers=turn % 3 + 1, first_rows=100, most_rows=200, reconnects=50)
            result = backfill_whatever_happens(table, options, Hooks(throttle=throttle, stop=stop))
            if result:
                complete = True
                break
        assert complete
        writers.wait_for(2)
        report = writers.stop()
    report.assert_only(*RETRIED)
    assert ended[0] > 0
    assert_nothing_lost(table)


def backfill_whatever_happens(table: Mapped, options: Options, hooks: Hooks) -> bool:
    """One run. One that gave up because it lost its sessions too often is as if it had been stopped."""
    try:
        return backfill(table.connect, table.rollout, table.mapping, options, hooks).complete
    except ZdmError as error:
        if "connection was lost" not in error.message:
            raise
        return False


_CHILD = """
import sys
from pathlib import Path
from zdm.backfill import Options, backfill
from zdm.backfill.options import Hooks, Wait
from zdm.db.session import connect
from zdm.model.mapping import TableMapping

dsn, rollout, path = sys.argv[1:]
mapping = TableMapping.model_validate_json(Path(path).read_text())
chunks = 0

def throttle(_):
    global chunks
    chunks += 1
    print(chunks, flush=True)
    return Wait(0)

backfill(lambda: connect(dsn, application_name="zdm test"), int(rollout), mapping,
         Options(first_rows=200, most_rows=200), Hooks(throttle=throttle))
"""


def test_kill_9(database: Database, tmp_path: Path) -> None:
    table = Mapped(database, rows=ROWS)
    database.execute("CREATE TABLE journal (id integer NOT NULL, delta integer NOT NULL)")
    path = tmp_path / "mapping.json"
    path.write_text(table.mapping.model_dump_json())
    argv = [sys.executable, "-c", _CHILD, database.dsn, str(table.rollout), str(path)]
    with Writers(database.dsn) as writers:
        writers.add("old", old_writer)
        writers.add("new", new_writer)
        for limit in (1, 4, 7):
            with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                for line in child.stdout:
                    if int(line) >= limit:
                        child.send_signal(signal.SIGKILL)
                        break
            # What it left in the server ends by itself; nothing of it may come after the next run's work.
            eventually(
                lambda: (
                    database.value(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'zdm test'"
                    )
                    == 0
                )
            )
        assert 0 < table.left() < ROWS
        assert backfill(table.connect, table.rollout, table.mapping, Options(workers=2)).complete
        report = writers.stop()
    report.assert_only(*RETRIED)
    assert_nothing_lost(table)


def test_server_crash(own_server: DevServer) -> None:
    """Chunks are committed without waiting for the disk; what a crash takes of the rows, it takes of the cursor."""
    database = Database(Server(own_server.dsn(), own_server))
    table = Mapped(database, rows=ROWS)
    database.execute("CREATE TABLE journal (id integer NOT NULL, delta integer NOT NULL)")
    chunks = [0]

    def crash(_: float) -> Wait:
        chunks[0] += 1
        if chunks[0] in (5, 12):
            own_server.crash()
            own_server.start()
        return Wait(0)

    options = Options(first_rows=200, most_rows=200)
    for _ in range(10):
        if backfill_whatever_happens(table, options, Hooks(throttle=crash)):
            break
    assert chunks[0] > 12
    assert_nothing_lost(table)
