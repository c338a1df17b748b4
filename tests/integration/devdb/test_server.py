"""The development server: starts, crashes, comes back, and leaves nothing behind."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support import eventually
from zdm.devdb import DevServer, find_binaries, read_binaries
from zdm.devdb.account import Account
from zdm.devdb.process import free_port, is_running, shared_memory
from zdm.devdb.replica import replica_of
from zdm.errors import ZdmError

ROOT = Path(__file__).resolve().parents[3]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


@pytest.fixture(autouse=True)
def installed() -> None:
    try:
        find_binaries()
    except ZdmError as error:
        pytest.skip(str(error))


@pytest.fixture
def server() -> Iterator[DevServer]:
    """A server of the test's own; its tests are about servers."""
    with DevServer(durable=False) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def running() -> Iterator[DevServer]:
    """A server for tests that leave it as it was."""
    try:
        binaries = find_binaries()
    except ZdmError as error:
        pytest.skip(str(error))
    with DevServer(binaries, durable=False) as shared:
        yield shared


def processes_in(directory: Path) -> list[int]:
    """Who works in this directory, or below it (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = (entry / "cwd").readlink()
            except OSError:
                continue
            if where.is_relative_to(directory):
                found.append(int(entry.name))
    return found


class TestConnections:
    def test_by_socket(self, running: DevServer) -> None:
        with psycopg.connect(running.dsn()) as connection:
            assert connection.info.host == str(running.socket_directory)
            assert connection.info.server_version // 10_000 == running.version[0]

    def test_by_tcp_with_the_password_only(self, running: DevServer) -> None:
        with psycopg.connect(running.dsn(tcp=True)) as connection:
            assert connection.info.host == "127.0.0.1"
        for password in (None, "guess"):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(running.dsn(user="postgres", password=password or "", tcp=True))

    def test_the_socket_is_private(self, running: DevServer) -> None:
        mode = running.socket_directory.stat().st_mode
        assert stat.S_IMODE(mode) == 0o700

    def test_the_url_works_in_sqlalchemy(self, running: DevServer) -> None:
        from sqlalchemy import create_engine, text

        running.create_database("a b")
        for url in (running.dsn("a b"), running.dsn("a b", tcp=True)):
            engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
            with engine.connect() as connection:
                assert connection.execute(text("SELECT current_database()")).scalar_one() == "a b"
            engine.dispose()

    def test_databases(self, running: DevServer) -> None:
        dsn = running.create_database('od"d')
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE t (i int)")
        running.create_database("copy", template='od"d')
        with running.connect("copy") as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
        running.drop_database("copy")
        running.drop_database("copy")
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            running.connect("copy")

    def test_text_is_utf8_and_sorts_by_bytes(self, running: DevServer) -> None:
        with running.connect() as connection:
            row = connection.execute(
                "SELECT current_setting('server_encoding'), 'a' > 'B', upper('é')"
            ).fetchone()
        assert row is not None
        assert row[:2] == ("UTF8", True)
        assert row[2] == "É" or running.version[0] < 17


class TestClients:
    def test_pgbench(self, running: DevServer) -> None:
        running.create_database("bench")
        running.run_client(["pgbench", "-i", "-q", "-s", "1"], dbname="bench")
        done = running.run_client(["pgbench", "-t", "20"], dbname="bench", timeout=60)
        assert "number of transactions actually processed: 20/20" in done.stdout

    def test_a_failure_says_why(self, running: DevServer) -> None:
        with pytest.raises(ZdmError, match='database "nowhere" does not exist'):
            running.run_client(["psql", "-c", "SELECT 1"], dbname="nowhere")
        assert running.run_client(["psql"], dbname="nowhere", check=False).returncode != 0

    def test_other_servers_variables_do_not_lead_away(
        self, running: DevServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGHOST", "elsewhere")
        monkeypatch.setenv("PGSERVICE", "production")
        shown = running.run_client(["psql", "-Atc", "SELECT current_setting('port')"])
        assert shown.stdout.strip() == str(running.port)

    def test_in_the_background(self, running: DevServer) -> None:
        with running.start_client(["psql", "-c", "SELECT pg_sleep(60)"]) as client:
            client.terminate()
            client.communicate(timeout=30)
        assert client.returncode != 0

    def test_a_missing_program_is_named(self, running: DevServer) -> None:
        with pytest.raises(ZdmError, match="has no pgwhatever"):
            running.bin("pgwhatever")


class TestLifetime:
    def test_a_crash_keeps_what_was_committed(self, server: DevServer) -> None:
        with server.connect() as connection:
            connection.execute("CREATE TABLE t AS SELECT 1 AS i")
        open_ = server.connect()
        open_.execute("INSERT INTO t VALUES (2)")
        port, family = server.port, processes_in(server.data_directory)
        assert len(family) > 3

        server.crash()

        assert not server.is_running
        with pytest.raises(psycopg.OperationalError):
            open_.execute("SELECT 1")
        open_.close()
        assert processes_in(server.data_directory) == []
        server.restart()
        assert server.port == port
        with server.connect() as connection:
            assert connection.execute("SELECT i FROM t").fetchall() == [(1,)]
        assert "database system was not properly shut down" in server.log()

    def test_stop_and_start_with_another_setting(self, server: DevServer) -> None:
        server.stop()
        server.stop()
        assert not server.is_running
        server.start({"work_mem": "7MB", "log_line_prefix": "it's %p "})
        with server.connect() as connection:
            shown = connection.execute(
                "SELECT current_setting('work_mem'), current_setting('log_line_prefix')"
            )
            assert shown.fetchone() == ("7MB", "it's %p ")

    def test_misuse(self, server: DevServer) -> None:
        with pytest.raises(ZdmError, match="runs already"):
            server.start()
        server.stop(immediate=True)
        with pytest.raises(ZdmError, match="cannot crash"):
            server.crash()
        server.close()
        server.close()
        with pytest.raises(ZdmError, match="is closed"):
            server.dsn()

    def test_a_bad_setting_is_reported_and_leaves_nothing(self) -> None:
        server = DevServer(settings={"work_mem": "plenty"})
        with pytest.raises(ZdmError, match="work_mem") as caught, server:
            raise AssertionError("never reached")
        assert "plenty" in str(caught.value)
        with pytest.raises(ZdmError, match="is closed"):
            _ = server.socket_directory

    def test_a_taken_port_is_not_the_end(self, server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
        ports = iter([server.port, server.port, free_port()])
        monkeypatch.setattr("zdm.devdb.server.free_port", lambda: next(ports))
        with DevServer(durable=False) as second:
            assert second.port != server.port
            second.connect().close()

    def test_closing_removes_everything(self) -> None:
        with DevServer(durable=False) as server:
            replica = replica_of(server)
            places = [server.socket_directory, replica.socket_directory]
            memory = shared_memory(server.pid) | shared_memory(replica.pid)
            assert memory or sys.platform != "linux"
            # Nobody else releases the shared memory of a server that crashed and is not started again.
            server.crash()
        for place in places:
            assert not place.exists()
            assert processes_in(place) == []
        assert [file for file in memory if file.exists()] == []


class TestReplica:
    def test_it_streams(self, server: DevServer) -> None:
        replica = replica_of(server, "second", settings={"work_mem": "9MB"})
        with server.connect() as connection:
            connection.execute("CREATE TABLE t AS SELECT generate_series(1, 100) AS i")
        replica.catch_up()
        with replica.connect() as connection:
            shown = connection.execute(
                "SELECT count(*), pg_is_in_recovery(), current_setting('work_mem') FROM t"
            ).fetchone()
        assert shown == (100, True, "9MB")
        with server.connect() as connection:
            names = connection.execute("SELECT application_name, state FROM pg_stat_replication").fetchall()
        assert names == [("second", "streaming")]

    def test_a_paused_one_does_not_catch_up(self, server: DevServer) -> None:
        replica = replica_of(server)
        with replica.connect(autocommit=True) as here, server.connect() as connection:
            here.execute("SELECT pg_wal_replay_pause()")
            connection.execute("CREATE TABLE t (i int)")
            connection.commit()
            with pytest.raises(ZdmError, match="in vain"):
                replica.catch_up(seconds=0.2)
            here.execute("SELECT pg_wal_replay_resume()")
            replica.catch_up()

    def test_it_survives_a_crash_of_the_primary(self, server: DevServer) -> None:
        replica = replica_of(server)
        server.crash()
        assert replica.is_running
        server.start()
        with server.connect() as connection:
            connection.execute("CREATE TABLE later (i int)")
        replica.catch_up()


#: A program that starts a server, tells where it is, and then does what its argument says.
PROGRAM = textwrap.dedent(
    """
    import sys, threading
    from zdm.devdb import DevServer
    server = DevServer(durable=False)
    server.start()
    print(server.socket_directory, server.pid, flush=True)
    if sys.argv[1] == "exit":
        sys.exit(0)
    elif sys.argv[1] == "raise":
        raise RuntimeError("on purpose")
    elif sys.argv[1] == "run":
        server.connect().close()
        server.close()
    else:
        threading.Event().wait(60)
    """
)


def start_program(
    what: str, *, python: str = sys.executable, **options: object
) -> tuple[subprocess.Popen[str], Path, int]:
    process: subprocess.Popen[str] = subprocess.Popen(
        [python, "-c", PROGRAM, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    assert process.stdout is not None
    line = process.stdout.readline().split()
    assert line, "the program did not start its server"
    return process, Path(line[0]), int(line[1])


@pytest.mark.parametrize(
    "what, sign",
    [
        ("exit", None),
        ("raise", None),
        ("wait", signal.SIGINT),
        ("wait", signal.SIGTERM),
        ("wait", signal.SIGKILL),
    ],
)
def test_nothing_outlives_the_program_that_started_it(what: str, sign: signal.Signals | None) -> None:
    process, directory, pid = start_program(what)
    with process:
        if sign is not None:
            assert directory.exists()
            process.send_signal(sign)
        process.wait(timeout=60)
    eventually(lambda: not is_running(pid), what="the server's end")
    eventually(lambda: not directory.exists(), what="the directory's end")
    eventually(lambda: processes_in(directory) == [], what="the backends' end")


def modes(path: Path) -> dict[Path, tuple[int, int, int]]:
    """Permissions and owners of a path and everything above it."""
    found = {}
    for place in (path, *path.parents):
        status = place.stat()
        found[place] = (status.st_mode, status.st_uid, status.st_gid)
    return found


def tree(path: Path) -> dict[Path, tuple[int, int, int]]:
    """Permissions and owners of everything in a directory."""
    return {
        place: (place.lstat().st_mode, place.lstat().st_uid, place.lstat().st_gid)
        for place in (path, *path.rglob("*"))
    }


def test_no_permission_is_changed() -> None:
    """Neither above the programs, nor of the programs, nor above the data."""
    programs = find_binaries().directory.resolve()
    with DevServer(durable=False) as server:
        parents = modes(server.socket_directory.parent)
    before = modes(programs), tree(programs.parent), modes(ROOT), parents

    with DevServer(durable=False) as server:
        replica_of(server)
        server.run_client(["psql", "-c", "SELECT 1"])
        inside = modes(server.socket_directory.parent)

    assert (modes(programs), tree(programs.parent), modes(ROOT), inside) == before


@as_root
class TestAsRoot:
    def test_the_server_runs_as_nobody(self, running: DevServer) -> None:
        owner = Path(f"/proc/{running.pid}").stat().st_uid
        assert owner not in (0, os.getuid())
        assert pwd.getpwuid(owner).pw_name == "nobody"
        status = Path(f"/proc/{running.pid}/status").read_text(encoding="utf-8").splitlines()
        assert [line.split() for line in status if line.startswith("Groups:")] == [["Groups:"]]

    def test_programs_that_nobody_reaches_are_copied(self, tmp_path: Path) -> None:
        """As in a virtual environment below a private home directory."""
        private = tmp_path / "private"
        private.mkdir(mode=0o700)
        original = find_binaries().directory.resolve().parent
        copy = private / "x" / "y" / "pg"
        for part in ("bin", "lib", "share"):
            shutil.copytree(original / part, copy / part)
        for libraries in original.parent.parent.glob("*postgres*.libs"):
            shutil.copytree(libraries, private / "x" / libraries.name)
        before = tree(private)

        with DevServer(read_binaries(copy / "bin"), durable=False) as server:
            with server.connect() as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            replica_of(server).catch_up()

        assert tree(private) == before

    def test_an_ordinary_user_can_do_the_same(self) -> None:
        entry = pwd.getpwnam("nobody")
        account = Account(entry.pw_uid, entry.pw_gid)
        if not account.reaches(ROOT / "src"):
            pytest.skip("the checkout lies where no other user may read it")
        # Our own Python may lie in a private home directory; the system's, of the same version, does as well.
        system = Path(f"/usr/bin/python3.{sys.version_info.minor}")
        candidates = [path for path in (Path(sys.executable), system) if path.exists()]
        reachable = [path for path in candidates if account.reaches(path.resolve().parent)]
        if not reachable:
            pytest.skip("no Python lies where another user may run it")
        process, directory, _ = start_program(
            "run",
            python=str(reachable[0]),
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": os.defpath},
        )
        with process:
            assert process.wait(timeout=60) == 0
        assert not directory.exists()
