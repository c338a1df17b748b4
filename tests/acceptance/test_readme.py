"""The tour of the README, run as it stands on a fresh database, and the program of docs/python-api.md."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.support.servers import Database

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<language>\w+)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Shown:
    """One command of the tour with what the README shows of its output."""

    command: str
    output: str


def tour() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.partition("## A tour of five minutes\n")[2].partition("\n## ")[0]


def files(text: str) -> dict[str, str]:
    """The files that the tour writes: a block whose introduction ends with its name."""
    found = {}
    for fence in FENCE.finditer(text):
        name = re.search(r"`([\w.]+\.(?:sql|yaml))`:$", fence["before"])
        if name:
            found[name[1]] = fence["body"]
    return found


def commands(text: str) -> Iterator[Shown]:
    """What is typed, in order."""
    for fence in FENCE.finditer(text):
        if fence["language"] == "console":
            for part in re.split(r"^\$ ", fence["body"], flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield Shown(command, output)


def plain(text: str) -> str:
    """Without what differs from run to run: durations, how things are aligned."""
    return " ".join(re.sub(r"\b\d+(\.\d+)? ?(ms|s|m|h)\b", "#", text).split())


def missing(shown: str, said: str) -> list[str]:
    """The pieces of the shown output, between ellipses, that were not said in this order."""
    rest, found = plain(said), []
    pieces = [plain(piece) for line in shown.splitlines() for piece in line.split("…")]
    for piece in filter(None, pieces):
        before, there, after = rest.partition(piece)
        if not there:
            found.append(piece)
        rest = after if there else before
    return found


class Reader:
    """Types what the README says."""

    def __init__(self, directory: Path, dsn: str) -> None:
        self.directory, self.dsn, self.code = directory, dsn, 0

    def type(self, command: str) -> str:
        """Run a command and return what it says; `code` is its exit code."""
        match shlex.split(command):
            case ["echo", "$?"]:
                return str(self.code)
            case ["export", _]:
                return ""
            case ["psql", "$ZDM_DATABASE_URL", "-q", "-f", name]:
                return self.query((self.directory / name).read_text(encoding="utf-8"))
            case ["psql", "$ZDM_DATABASE_URL", "-Atqc", statement]:
                return self.query(statement)
            case ["zdm", *arguments]:
                return self.zdm(arguments)
        raise AssertionError(f"the tour does something new: {command}")

    def query(self, statement: str) -> str:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
        self.code = 0
        return "\n".join("|".join(str(value) for value in row) for row in rows)

    def zdm(self, arguments: list[str]) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "zdm", *arguments],
            cwd=self.directory,
            env={**os.environ, "ZDM_DATABASE_URL": self.dsn, "COLUMNS": "100"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        self.code = ended.returncode
        return ended.stdout


def test_the_tour_is_as_the_readme_says(database: Database, tmp_path: Path) -> None:
    text = tour()
    for name, body in files(text).items():
        (tmp_path / name).write_text(body, encoding="utf-8")
    typed = list(commands(text))
    assert len(typed) > 15
    reader = Reader(tmp_path, database.dsn)
    for number, shown in enumerate(typed):
        said = reader.type(shown.command)
        asks = number + 1 < len(typed) and typed[number + 1].command == "echo $?"
        if not asks and not shown.command.startswith("echo"):
            assert reader.code == 0, f"{shown.command}\n{said}"
        assert missing(shown.output, said) == [], f"{shown.command}\n{said}"
    assert not database.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE '%split_owner'")


def test_the_comparison_can_fail() -> None:
    assert missing("took 3 ms …\nend", "it took 17 s\nand the end") == []
    assert missing("took 3 ms\nrefused", "it took 17 s") == ["refused"]
    assert missing("b\na", "a b") == ["a"]


def test_the_program_of_the_python_page_runs(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    database.execute(files(tour())["shop.sql"])
    database.execute("UPDATE accounts SET balance = 0 WHERE balance < 0")
    page = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    names: dict[str, object] = {"url": database.dsn, "__name__": "page"}
    for fence in FENCE.finditer(page):
        if fence["language"] == "python":
            exec(compile(fence["body"], "docs/python-api.md", "exec"), names)  # noqa: S102  our own page
    said = capsys.readouterr().out
    assert "switched_over True" in said
    assert "4/4 show the new version" in said
