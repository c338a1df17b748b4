"""The demo's story: prepare, fill, die, resume, switch, go back, and do it all again to the end. Nobody may notice."""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg

from zdm.demo.command import Command
from zdm.demo.load import Latency, Pgbench, window
from zdm.demo.newcomer import Newcomer
from zdm.devdb import DevServer
from zdm.errors import ZdmError

DATABASE = "demo"
ID = "widen_balance"
STEP = 100_000
"""pgbench's tables grow in steps of so many accounts."""
QUIET = 5.0
"""Seconds of load before and after, to compare with."""
KILL_AT = 0.25
"""The share of the rows that is filled when the process is killed."""

Say = Callable[[str], None]


def run(say: Say, rows: int = 1_000_000, *, keep: bool = False) -> dict[str, Any]:
    """Tell the story, and return what ``--json`` prints.

    Parameters
    ----------
    rows: accounts to migrate; rounded up to a multiple of 100,000, pgbench's own step.
    keep: leave the server running until the person presses Enter.

    Raises
    ------
    ZdmError: a transaction failed, a row disagrees, or something was left behind. `partial` results are in its text.
    """
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="zdm-demo-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        server = stack.enter_context(DevServer(settings={"max_wal_size": "4GB", "shared_buffers": "256MB"}))
        story = _Story(server, directory, say, math.ceil(rows / STEP) * STEP)
        if story.rows != rows:
            say(f"pgbench counts in steps of {STEP:,}: {story.rows:,} rows it is.")
        result = story.tell()
        if keep:
            say(f"The server stays until you press Enter: {server.dsn(DATABASE)}")
            input()
        return result


class _Story:
    def __init__(self, server: DevServer, directory: Path, say: Say, rows: int) -> None:
        self.server, self.directory, self.say, self.rows = server, directory, say, rows
        self.dsn = server.create_database(DATABASE)
        self.file = directory / f"{ID}.yaml"
        self.file.write_text(
            files("zdm.demo").joinpath("migration.yaml").read_text(encoding="utf-8"), encoding="utf-8"
        )
        self.phases: list[dict[str, Any]] = []
        self.mismatches = 0
        self.resumed = False
        self.rate = 0.0
        self.filled = 0
        self.clean = False
        self.began = time.monotonic()

    # -- telling --------------------------------------------------------------------------------------------------

    def scene(self, text: str) -> None:
        self.say(f"[{time.monotonic() - self.began:5.1f} s] {text}")

    def tell(self) -> dict[str, Any]:
        self.scene(f"PostgreSQL {self.server.version[0]}, pgbench's tables, {self.rows:,} accounts")
        self.server.run_client(
            ["pgbench", "-i", "-q", f"--scale={self.rows // STEP}", DATABASE], dbname=DATABASE, timeout=600
        )
        self.zdm("init")
        before = self.schema()
        self.scene("the old application starts: pgbench, unmodified")
        old = Pgbench(self.server, DATABASE, self.directory)
        new = Newcomer(self.dsn, self.rows)
        try:
            begin = time.time()
            time.sleep(QUIET)
            migrating = time.time()
            self.first_attempt(new, before)
            self.second_attempt(new)
            done = time.time()
            self.scene("both applications go on")
            time.sleep(QUIET)
            end = time.time()
        finally:
            new.stop()
            time.sleep(1.0)  # lets pgbench write its log on
            old.stop()
        self.balance(new)
        logged = old.transactions()
        return self.conclude(
            old,
            new,
            {
                "before": window(logged, begin, migrating),
                "during": window(logged, migrating, done),
                "after": window(logged, done, end),
            },
        )

    def first_attempt(self, new: Newcomer, before: str) -> None:
        self.advance("preparation")
        self.scene("the new application starts, through schema public_widen_balance")
        new.start()
        self.killed()
        self.advance("migration", resumed=True)
        new.free()
        self.advance("switchover")
        time.sleep(1.0)
        self.scene("second thoughts: the new application is taken back, and the rollout rolled back")
        new.stop()
        answer = self.zdm("rollback", ID)
        same = self.schema() == before
        left = answer["leftovers"]
        self.balance(new)
        self.clean = same and not left and answer["state"] == "rolled_back"
        self.scene(
            f"rolled back in {answer['seconds']:.1f} s: schema {'as it was' if same else 'NOT as it was'}, "
            f"{len(left)} objects left behind, {new.inserted:,} rows of the new application kept"
        )

    def second_attempt(self, new: Newcomer) -> None:
        self.advance("preparation", "--restart")
        new.start()
        answer = self.advance("migration")
        for step in answer["steps"]:
            if step["id"].endswith(".backfill") and step["seconds"]:
                self.filled = step["rows"] or 0
                self.rate = self.filled / step["seconds"]
        new.free()
        self.advance("switchover")
        self.advance("cleanup")

    # -- zdm ------------------------------------------------------------------------------------------------------

    def zdm(self, *arguments: str) -> dict[str, Any]:
        return Command(self.dsn, self.say, *arguments).result()

    def advance(self, phase: str, *options: str, resumed: bool = False) -> dict[str, Any]:
        self.scene(f"zdm advance: {phase}")
        answer = self.zdm("advance", str(self.file), "--yes", *options)
        if answer["phase"] != phase:
            raise ZdmError(f"the demo expected {phase}, and zdm ran {answer['phase']}")
        if resumed:
            self.resumed = self.resumed and bool(answer["resumed"])
        self.phases.append({"name": phase, "seconds": round(answer["seconds"], 3)})
        if phase == "migration":
            found = self.zdm("verify", ID)
            wrong = sum(table["differences"] for table in found["tables"])
            self.mismatches += wrong
            self.scene(f"verified {sum(t['rows'] for t in found['tables']):,} rows: {wrong} mismatches")
        return answer

    def killed(self) -> None:
        """Begin the migration phase, and kill -9 the process in the middle of the backfill."""
        self.scene("zdm advance: migration, to be killed in the middle")
        command = Command(self.dsn, self.say, "advance", str(self.file), "--yes")
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            while command.running:
                row = conn.execute(
                    "SELECT coalesce(sum(rows_done), 0)::bigint FROM zdm.data_migration_ranges"
                ).fetchone()
                if row is not None and row[0] >= KILL_AT * self.rows:
                    break
                time.sleep(0.02)
            ended = command.kill()
            row = conn.execute(
                "SELECT coalesce(sum(rows_done), 0)::bigint FROM zdm.data_migration_ranges"
            ).fetchone()
        self.resumed = ended == -9
        self.scene(f"kill -9 after {row[0] if row else 0:,} rows; a new zdm continues")

    # -- proof ----------------------------------------------------------------------------------------------------

    def schema(self) -> str:
        """The public schema as pg_dump writes it."""
        text = subprocess.run(
            [self.server.bin("pg_dump"), "--schema-only", "--schema=public", f"--dbname={self.dsn}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return "\n".join(line for line in text.splitlines() if not line.startswith("\\"))

    def balance(self, new: Newcomer) -> None:
        """The books: every increment of pgbench and of the new application is in the balances, exactly once."""
        query = """
            SELECT (SELECT count(*) FROM pgbench_accounts) - %(rows)s,
                   (SELECT sum(abalance) FROM pgbench_accounts)::bigint - coalesce((SELECT sum(delta) FROM pgbench_history), 0)
        """
        with psycopg.connect(self.dsn) as conn:
            row = conn.execute(query, {"rows": self.rows}).fetchone()
        assert row is not None
        if (row[0], row[1]) != (new.inserted, new.added):
            self.mismatches += 1
            self.scene(
                f"the books do not balance: found {tuple(map(int, row))}, needed {(new.inserted, new.added)}"
            )

    def conclude(self, old: Pgbench, new: Newcomer, latency: dict[str, Latency]) -> dict[str, Any]:
        with psycopg.connect(self.dsn) as conn:
            row = conn.execute("SELECT count(*) FROM pgbench_history").fetchone()
        errors = old.errors + len(new.errors)
        result = {
            "rows": self.rows,
            "phases": self.phases,
            "backfill": {"rows": self.filled, "rows_per_second": round(self.rate, 1)},
            "clients": {
                "transactions": (row[0] if row else 0) + new.transactions,
                "errors": errors,
                "retried": new.retried,
            },
            "latency_ms": {
                name: {key: value for key, value in asdict(found).items() if key != "count"}
                for name, found in latency.items()
            },
            "mismatches": self.mismatches,
            "resumed_after_kill": self.resumed,
            "rolled_back_clean": self.clean,
            "seconds": round(time.monotonic() - self.began, 1),
        }
        for line in table(result):
            self.say(line)
        for complaint in [*old.complaints, *dict.fromkeys(new.errors)][:5]:
            self.say(f"error: {complaint}")
        return result


def passed(result: dict[str, Any]) -> bool:
    """Whether nobody noticed anything."""
    return bool(
        result["clients"]["errors"] == 0
        and result["mismatches"] == 0
        and result["resumed_after_kill"]
        and result["rolled_back_clean"]
    )


def table(result: dict[str, Any]) -> list[str]:
    """The result for people."""

    def row(name: str, text: str) -> str:
        return f"  {name:<22}{text}"

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    lines = ["", row("rows", f"{result['rows']:,}")]
    lines += [row(f"phase {p['name']}", f"{p['seconds']:.1f} s") for p in result["phases"]]
    lines.append(row("backfill", f"{result['backfill']['rows_per_second']:,.0f} rows/s under load"))
    lines.append(row("client transactions", f"{result['clients']['transactions']:,}"))
    lines.append(row("client errors", f"{result['clients']['errors']}"))
    lines.append(row("latency (ms)", f"{'p50':>9}{'p99':>9}{'max':>9}"))
    for name, found in result["latency_ms"].items():
        lines.append(row(f"  {name}", "".join(f"{shown(found[k]):>9}" for k in ("p50", "p99", "max"))))
    lines.append(row("mismatches", f"{result['mismatches']}"))
    lines.append(row("resumed after kill -9", "yes" if result["resumed_after_kill"] else "NO"))
    lines.append(row("rolled back clean", "yes" if result["rolled_back_clean"] else "NO"))
    return lines
