"""The frame around the commands: imports, help, signals, streams."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from zdm.cli.app import COMMANDS, group
from zdm.cli.command import PHASES, Command
from zdm.cli.reference import GENERATED, keys_reference, reference
from zdm.gates.registry import check_overrides
from zdm.model.step import Phase
from zdm.operations.loader import read_text

NAMES = [name for names in COMMANDS.values() for name in names]
ROOT = Path(__file__).parents[3]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


IMPORTS = """
import sys
from zdm.cli.app import run
heavy = {"pydantic", "sqlalchemy", "psycopg", "sqlglot", "alembic", "yaml"}
for arguments in (["--help"], ["--version"], *([name, "--help"] for name in sys.argv[1:])):
    assert run(arguments) == 0
    assert not heavy & set(sys.modules), (arguments, heavy & set(sys.modules))
"""


def test_help_imports_nothing_heavy() -> None:
    ended = python(IMPORTS, *NAMES)
    assert ended.returncode == 0, ended.stderr


def test_help_is_quick() -> None:
    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python("from zdm.cli import main; main()", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time, not the clock: another process may have the processor.
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(once() for _ in range(3)) < 0.3


def test_there_is_a_file_for_every_command_and_no_other() -> None:
    files = (ROOT / "src" / "zdm" / "cli" / "commands").glob("*.py")
    assert sorted(f.stem for f in files if f.stem != "__init__") == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_and_an_example(name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert isinstance(command, Command)
    assert command.name == name
    assert command.help
    assert f"zdm {name}" in command.example
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_the_phases_are_the_models() -> None:
    assert tuple(Phase) == PHASES


def test_the_reference_is_what_help_says() -> None:
    path = ROOT / "docs" / "cli.md"
    if os.environ.get("ZDM_UPDATE_SNAPSHOTS"):
        path.write_text(reference(), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == reference()


WAITING = """
import sys, time
from zdm.cli import run as run_module
from zdm.cli.app import run
class Engine:
    def backfill(self, *a, **k):
        print("ready", file=sys.stderr, flush=True)
        time.sleep(60)
run_module.open_engine = lambda run, settings: Engine()
sys.exit(run(["backfill", "widen_balance", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_with_one_and_say_what_is_left(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert out == ""
    assert "Traceback" not in err
    assert "Run the same command again; it continues." in err
    assert "Every chunk that was committed stays" in err


LOADING = """
import sys
class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            sys.meta_path.remove(self)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Impatient())
from zdm.cli import main
main(["advance", "x", *sys.argv[1:]])
"""


@pytest.mark.parametrize("option", ["", "--json"])
def test_an_interruption_while_the_program_is_loaded(option: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOADING, *filter(None, [option])],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    if option:
        assert json.loads(ended.stdout)["exit_code"] == 1
    else:
        assert ended.stderr == "Error: Interrupted.\nNothing was changed.\n"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    code = "import sys; from zdm.cli.app import run; sys.exit(run(['schema']))"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert ended.returncode == 1
    assert ended.stderr == ""


def test_a_terminal_without_unicode_is_no_traceback() -> None:
    code = "import sys; from zdm.cli.app import run; sys.exit(run(['new', 'a', '--stdout', '--description', 'größer']))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr


def test_the_lists_of_the_migration_file_are_the_codes() -> None:
    path = ROOT / "docs" / "migration-file.md"
    written, mark, lists = path.read_text(encoding="utf-8").partition(GENERATED)
    assert mark
    if os.environ.get("ZDM_UPDATE_SNAPSHOTS"):
        lists = f"\n\n{keys_reference()}"
        path.write_text(f"{written}{mark}{lists}", encoding="utf-8")
    assert lists.strip() == keys_reference().strip()


def test_the_examples_of_the_migration_file_work() -> None:
    text = (ROOT / "docs" / "migration-file.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(# yaml.*?)```", text, re.DOTALL)
    assert example is not None
    read_text(example[1], check_gates=check_overrides)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    ended = python(code[1])
    assert ended.returncode == 0, ended.stderr
    assert read_text(ended.stdout).migration.id == "require_owner"
