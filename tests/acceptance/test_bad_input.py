"""What is wrong is told once, all of it, with its place; nothing is changed, and no password is shown."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.command import Answer, Command
from tests.support.servers import Database
from zdm.devdb import DevServer
from zdm.devdb.replica import replica_of
from zdm.model.phases import State

SETUP = """
CREATE TABLE account (id integer PRIMARY KEY, balance integer NOT NULL, owner text, made timestamptz);
INSERT INTO account SELECT g, CASE WHEN g = 7 THEN -1 ELSE g END, 'o' || g, '2024-01-01' FROM generate_series(1, 100) g;
CREATE VIEW seen AS SELECT id FROM account;
"""

PASSWORD = "s3cr3t-never-shown"

WIDEN = """\
id: widen
operations:
  - change_type:
      table: account
      column: balance
      to: numeric(18,2)
      up: "balance::numeric(18,2)"
      down: "round(balance)::int"
gates: {soak: 0s, old_version_unused: off}
"""


def with_password(dsn: str) -> str:
    """The same database by a URL with a password in it, which a trusting server ignores."""
    return dsn.replace("@", f":{PASSWORD}@", 1) if "password" not in dsn and dsn.count(":") < 3 else dsn


@pytest.fixture
def zdm(database: Database, tmp_path: Path) -> Command:
    database.execute(SETUP)
    made = Command(with_password(database.dsn), tmp_path)
    made("init").done()
    return made


@pytest.fixture
def unchanged(database: Database) -> Callable[[], None]:
    """Compares the application's schema with what it was; made after the first call."""
    seen: list[str] = []

    def check() -> None:
        dev = database.server.dev
        if dev is None:
            pytest.skip("the programs of the server are elsewhere")
        text = subprocess.run(
            [dev.bin("pg_dump"), "--exclude-schema=zdm", f"--dbname={database.dsn}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        seen.append(re.sub(r"(?m)^\\.*$", "", text))
        assert seen[0] == seen[-1]

    return check


def refused(answer: Answer, code: int, *told: str) -> None:
    """One clear message on stderr, with everything that was to be told, in this order."""
    assert answer.code == code, answer.text
    assert "Traceback" not in answer.text
    assert PASSWORD not in answer.text
    assert answer.err.startswith("Busy: " if code == 4 else "Error: ")
    assert len(re.findall(r"(?m)^(Error|Busy): ", answer.err)) == 1
    at = 0
    for text in told:
        found = answer.err.find(text, at)
        assert found >= 0, f"{text!r} is not told (in this order):\n{answer.err}"
        at = found


def operations(*lines: str) -> str:
    return "id: bad\noperations:\n" + "\n".join(f"  - {line}" for line in lines) + "\n"


def change(
    up: str, *, column: str = "balance", to: str = "bigint", down: str = "balance::int", more: str = ""
) -> str:
    return f'change_type: {{table: account, column: {column}, to: "{to}", up: "{up}", down: "{down}"{more}}}'


BAD: dict[str, tuple[str, tuple[str, ...]]] = {
    "not YAML": ("id: [bad\n", ("m.yaml:2",)),
    "unknown keys and kinds": (
        "id: bad\nopertions: []\noperations:\n  - change_typ: {table: account}\n  - rename_column: {table: account, colum: a, to: b}\n",
        (
            "m.yaml:2: unknown key 'opertions'",
            "Did you mean 'operations'?",
            "m.yaml:4: there is no operation 'change_typ'",
            "m.yaml:5",
            "'colum'",
        ),
    ),
    "no such table, column, type": (
        operations(
            "drop_column: {table: acount, column: owner}",
            "rename_column: {table: account, column: ownr, to: x}",
            "add_column: {table: account, column: x, type: text}",
            "drop_table: {table: seen}",
        ),
        (
            "m.yaml:3: there is no table public.acount",
            "m.yaml:4: there is no column ownr in public.account",
            "It has id, balance, owner, made",
            "m.yaml:6: public.seen is a view",
        ),
    ),
    "no such type": (operations(change("balance", to="no_such_type")), ("m.yaml:3", "no_such_type")),
    "up does not parse": (operations(change("balance *")), ("m.yaml:3", "syntax error")),
    "up is not one expression": (
        operations(change("balance); DROP TABLE account; --")),
        ("m.yaml:3", "is not one SQL expression"),
    ),
    "up of another type": (
        operations(change("made")),
        ("m.yaml:3", "is of type bigint", "timestamp with time zone"),
    ),
    "up over no such column, and a volatile one": (
        operations(
            change("balanc * 2"),
            "add_column: {table: account, column: luck, type: double precision, up: random()}",
        ),
        ("m.yaml:3", "balanc", "m.yaml:4", "volatile"),
    ),
    "up with an aggregate or a query": (
        operations(
            change("sum(balance)"), change("(SELECT 1)", column="owner", to="integer", down="owner::text")
        ),
        ("m.yaml:3", "aggregate", "m.yaml:4", "quer"),
    ),
    "lossy, not declared": (
        operations(change("balance / 10", down="balance * 10")),
        ("m.yaml:3", "lossy: true"),
    ),
    "depends on what is not there": (
        "id: bad\ndepends_on: [nobody]\n" + operations("drop_column: {table: account, column: owner}")[8:],
        ("nobody", "not registered"),
    ),
    "two tables of one name": (
        operations(
            "drop_column: {table: account, column: owner}",
            "drop_column: {table: other.account, column: owner}",
        ),
        ("public.account and other.account would both be shown as account",),
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file(zdm: Command, database: Database, unchanged: Callable[[], None], kind: str) -> None:
    if kind.startswith("two tables"):
        database.execute("CREATE SCHEMA other; CREATE TABLE other.account (id integer, owner text)")
    text, told = BAD[kind]
    unchanged()
    file = zdm.write_text(text)
    for command in ("plan", "advance"):
        if command == "plan" and "depends" in kind:
            continue  # a dependency is looked for when it is registered
        refused(zdm(command, file), 2, *told)
    if "depends" not in kind:
        answer = zdm("advance", file, "--json")
        assert (answer.code, answer.json["exit_code"], answer.err) == (2, 2, "")
        assert answer.json["error"]["type"] == "bad_input"
        assert PASSWORD not in answer.out
    unchanged()
    assert database.value("SELECT count(*) FROM zdm.module_migrations WHERE state <> 'planned'") == 0


def test_ids_and_dependencies_of_files(zdm: Command, unchanged: Callable[[], None]) -> None:
    unchanged()
    (zdm.directory / "migrations").mkdir()
    one = operations("drop_column: {table: account, column: owner}")
    zdm.write_text(one.replace("id: bad", "id: a\ndepends_on: [b]"), "migrations/a.yaml")
    zdm.write_text(one.replace("id: bad", "id: b\ndepends_on: [a]"), "migrations/b.yaml")
    refused(zdm("validate"), 2, "circle", "a → b → a")
    zdm.write_text(one.replace("id: bad", "id: a"), "migrations/b.yaml")
    refused(zdm("validate"), 2, "migrations/b.yaml", "'a'", "a.yaml")
    unchanged()


def test_a_file_that_was_edited(zdm: Command, unchanged: Callable[[], None]) -> None:
    file = zdm.write_text(WIDEN)
    zdm("advance", file).done()
    unchanged()
    zdm.write_text(WIDEN.replace("(18,2)", "(20,2)"))
    answer = zdm("advance", file)
    refused(
        answer,
        2,
        "migration 'widen' was edited since it was registered",
        "-    to: numeric(18,2)",
        "+    to: numeric(20,2)",
        "It has started: public (prepared)",
    )
    unchanged()
    zdm.write_text("# only a comment\n" + WIDEN)
    zdm("advance", file).done()


def test_another_rollout_has_the_table(
    zdm: Command, database: Database, unchanged: Callable[[], None]
) -> None:
    zdm("advance", zdm.write_text(WIDEN)).done()
    unchanged()
    other = zdm.write_text(operations("drop_column: {table: account, column: owner}"), "other.yaml")
    answer = zdm("advance", other)
    refused(
        answer,
        4,
        "other.yaml:3",
        "the rollout of widen on public is at table public.account (prepared)",
        "roll it back",
    )
    refused(zdm("plan", other), 4, "other.yaml:3")
    unchanged()
    assert (
        database.value("SELECT state FROM zdm.module_migrations WHERE migration = 'widen'") == State.PREPARED
    )


def test_no_rights(zdm: Command, database: Database, unchanged: Callable[[], None]) -> None:
    role = database.create_role("stranger")
    dsn = with_password(database.dsn_for(role))
    unchanged()
    file = zdm.write_text(WIDEN)
    refused(zdm("advance", file, dsn=dsn), 2, "may not read the zdm catalog", "zdm init")
    refused(zdm("init", dsn=dsn), 2, "may not read the zdm catalog")
    database.execute("DROP SCHEMA zdm CASCADE")
    refused(zdm("init", dsn=dsn), 2, "may not create schema zdm", "GRANT CREATE ON DATABASE")
    database.execute(f'GRANT CREATE, TEMPORARY ON DATABASE {database.name} TO "{role}"')
    zdm("init", dsn=dsn).done()
    refused(zdm("advance", file, dsn=dsn), 2, "m.yaml:3", "belongs to", "not a member")
    unchanged()


def test_a_catalog_of_a_newer_zdm_or_none(
    zdm: Command, database: Database, unchanged: Callable[[], None]
) -> None:
    unchanged()
    file = zdm.write_text(WIDEN)
    database.execute("UPDATE zdm.alembic_version SET version_num = '9999'")
    for arguments in (("advance", file), ("rollback", "widen"), ("status",), ("init",)):
        refused(zdm(*arguments), 2, "9999", "Upgrade zdm")
    database.execute("DROP SCHEMA zdm CASCADE")
    refused(zdm("advance", file), 2, "no zdm catalog", "zdm init")
    unchanged()


def test_what_another_version_of_zdm_wrote(zdm: Command, database: Database) -> None:
    """A migration with an operation, or a plan with a key, of which this one has never heard."""
    zdm("advance", zdm.write_text(WIDEN)).done()
    database.execute(
        "SET session_replication_role = replica;"
        "UPDATE zdm.schema_migrations SET canonical = replace(canonical::text, 'change_type', 'teleport')::jsonb;"
        "UPDATE zdm.module_migrations SET plan = plan || '{\"portal\": 1}'"
    )
    refused(zdm("advance", "widen"), 2, "was written by another version of zdm", "teleport", "upgrade zdm")
    refused(zdm("rollback", "widen"), 2, "was written by another version of zdm", "upgrade zdm")


def test_nobody_answers(zdm: Command, database: Database) -> None:
    nobody = f"postgresql://app:{PASSWORD}@127.0.0.1:1/shop"
    file = zdm.write_text(WIDEN)
    refused(zdm("advance", file, dsn=nobody), 1, "127.0.0.1", "Nothing was changed")
    refused(zdm("advance", file, "--url", f"postgresql://app:{PASSWORD}@x@y/shop"), 2, "%40")
    refused(
        zdm("advance", file, "--url", "mysql://app:" + PASSWORD + "@h/shop"),
        2,
        "is not a PostgreSQL connection URL",
    )
    wrong = re.sub(r"zdm_test_\w+", "no_such_database", database.dsn)
    refused(zdm("advance", file, dsn=wrong), 2, "no_such_database")


def test_what_is_not_there(zdm: Command) -> None:
    refused(zdm("advance", "nothing.yaml"), 2, "nothing.yaml")
    refused(zdm("advance", "nothing"), 2, "nothing")
    refused(zdm("rollback", "nothing"), 2, "There is no migration nothing in the catalog.")
    refused(zdm("advance", zdm.write_text(WIDEN), "--until", "lunch"), 2, "lunch")
    refused(zdm("advance", "m.yaml", "--target", "no_such_schema"), 2, "no_such_schema")
    zdm("advance", "m.yaml").done()
    zdm("rollback", "widen").done()
    refused(zdm("rollback", "widen"), 2, "rolled back already")
    refused(zdm("advance", "m.yaml"), 2, "was rolled back", "--restart")


DROP = "operations:\n  - drop_column: {table: account, column: owner}\n"

#: What is no migration at all, as bytes, and what is told.
FILES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("m.yaml: the file is empty", "zdm new")),
    "a list": (b"- id: x\n", ("m.yaml:1: a migration file is a mapping", "not a list")),
    "a text": (b"hello\n", ("m.yaml:1: a migration file is a mapping", "not text")),
    "tabs": (
        b"id: bad\noperations:\n\t- drop_table: {table: a}\n",
        ("m.yaml:3", "a tab where YAML allows only spaces"),
    ),
    "UTF-16": (WIDEN.encode("utf-16"), ("m.yaml:1: byte 0xff is not UTF-8",)),
    "Latin 1": (b"id: bad\ndescription: caf\xe9\n" + DROP.encode(), ("m.yaml:2: byte 0xe9 is not UTF-8",)),
    "NUL": (b"id: bad\x00\n" + DROP.encode(), ("m.yaml:1: the character U+0000 is not allowed",)),
    "NUL, escaped": (
        b'id: bad\ndescription: "a\\0b"\n' + DROP.encode(),
        ("m.yaml:2: the character U+0000 is in it",),
    ),
    "half a character": (
        b'id: bad\ndescription: "\\ud800"\n' + DROP.encode(),
        ("m.yaml:2: the character U+D800 is in it",),
    ),
    "keys twice": (
        b"id: a\nid: b\noperations:\n  - drop_column: {table: t, column: c, table: u}\n",
        (
            "m.yaml:2: the key 'id' is here twice; the first is in line 1",
            "m.yaml:4: the key 'table' is here twice",
        ),
    ),
    "two documents": (b"id: a\n---\nid: b\n", ("m.yaml:3: 2 documents in one file",)),
    "no operations": (b"id: a\noperations:\n", ("m.yaml:2: there are no operations",)),
    "operations are a mapping": (
        b"id: a\noperations: {drop_table: {table: a}}\n",
        ("m.yaml:2: operations is a list",),
    ),
    "two kinds in one": (
        b"id: a\noperations:\n  - {drop_table: {table: a}, sql: {}}\n",
        ("m.yaml:3: operation 1 is one key, its kind", "found 2 keys"),
    ),
    "ids that are none": (f"id: 'Dr. No; --'\n{DROP}".encode(), ("m.yaml:1: id: 'Dr. No; --' is not an id",)),
    "a name of four parts": (
        b"id: a\noperations:\n  - drop_column: {table: a.b.c.d, column: x}\n  - drop_column: {table: account, column: y}\n",
        ("m.yaml:3: 'a.b.c.d' has 4 parts", "m.yaml:4: there is no column y"),
    ),
    "durations": (
        f"id: a\n{DROP}gates: {{soak: {'9' * 30}d, replication_lag: soon}}\n".encode(),
        (
            "m.yaml:4: gate soak.min",
            "is longer than the 36500 days",
            "m.yaml:4: gate replication_lag",
            "is not a duration",
        ),
    ),
    "a huge number": (
        f"id: a\n{DROP}gates: {{sync_failures: {'9' * 5000}}}\n".encode(),
        ("m.yaml:4: a number of 5000 digits",),
    ),
    "a gate that is none": (
        f"id: a\n{DROP}gates: {{soka: 5s}}\n".encode(),
        ("m.yaml:4: there is no gate 'soka'", "soak"),
    ),
    "a bomb of aliases": (
        b"a: &a [x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (n + 1, n + 1, b",".join([b"*%c" % n] * 8)) for n in b"abcdef"),
        ("expands to more than 100000 values",),
    ),
    "nested without end": (b"id: " + b"[" * 3000 + b"]" * 3000, ("nested too deeply",)),
    "an alias of itself": (b"id: &a [*a]\n", ("m.yaml:1: an alias refers to what it is part of",)),
    "an object": (b"id: !!python/object/apply:os.system ['true']\n", ("m.yaml:1: id must be text",)),
    "a validation that writes": (
        f"id: a\n{DROP}validations:\n  - {{name: x, sql: 'drop table account', expect: 0}}\n".encode(),
        ("m.yaml:5", "a validation is a query"),
    ),
}

#: Arguments after `advance m.yaml`, or instead of it; the code; what is told.
ARGUMENTS: tuple[tuple[tuple[str, ...], int, tuple[str, ...]], ...] = (
    (("advance", "m.yaml", "--wait", "soon"), 2, ("--wait", "is not a duration")),
    (("advance", "m.yaml", "--wait", "-5s"), 2, ("--wait", "is not a duration")),
    (("advance", "m.yaml", "--wait", "9" * 40 + "d"), 2, ("--wait", "longer than the 36500 days")),
    (("advance", "m.yaml", "--workers", "0"), 2, ("--workers", "0 is not in the range")),
    (("advance", "m.yaml", "--workers", "-3"), 2, ("--workers", "-3 is not in the range")),
    (("advance", "m.yaml", "--target", ""), 2, ("--target is empty",)),
    (("advance", "m.yaml", "--url", " "), 2, ("--url is empty",)),
    (("advance", "m.yaml", "--target", 'a"b'), 2, ("there is no table",)),
    (("advance", "m.yaml", "--nonsense"), 2, ("--nonsense",)),
    (("nonsense",), 2, ("No such command 'nonsense'",)),
    (("advance",), 2, ("Missing argument",)),
    (("advance", "m\0.yaml"), 2, ("m\\0.yaml holds a character that is no text",)),
    (("status", "\udcff"), 2, ("\\udcff holds a character that is no text",)),
    (("rollback", "x" * 5000), 2, ("There is no migration x",)),
    *(
        ((command, "ghost"), 2, ("There is no migration ghost",))
        for command in ("status", "verify", "pause", "history", "fence")
    ),
    (("approve", "widen", "lunch"), 2, ("'lunch' is not one of",)),
    (("plan", "m.yaml", "--url", "postgresql://h:notaport/db"), 2, ("--url cannot be read",)),
    (("plan", "m.yaml", "--url", "postgresql://[::1/db"), 2, ("cannot be read",)),
    (("plan", "m.yaml", "--url", "host=/nowhere dbname=x"), 1, ("cannot connect", "Nothing was changed")),
    (("plan", "m.yaml", "--url", "postgresql://127.0.0.1:1/db?sslmode=banana"), 2, ("sslmode",)),
    (("plan", "m.yaml", "--url", "service=ghost"), 2, ("ghost",)),
)


def test_what_is_no_migration_and_what_is_no_command(zdm: Command, unchanged: Callable[[], None]) -> None:
    unchanged()
    for kind, (data, told) in FILES.items():
        (zdm.directory / "m.yaml").write_bytes(data)
        try:
            refused(zdm("plan", "m.yaml"), 2, *told)
        except AssertionError as error:
            raise AssertionError(kind) from error
    # A mark of the byte order says nothing wrong.
    (zdm.directory / "m.yaml").write_bytes(b"\xef\xbb\xbf" + WIDEN.encode())
    zdm("plan", "m.yaml").done()
    for arguments, code, told in ARGUMENTS:
        try:
            refused(zdm(*arguments), code, *told)
        except AssertionError as error:
            raise AssertionError(arguments) from error
    for text, line in {
        "nonsense = 1": "unknown key 'nonsense'",
        "workers = -1": "workers must be a whole number of 1 or more",
        "lock_budget = '-1s'": "lock_budget: '-1s' is not a duration",
        "= broken": "is not valid TOML",
        "target = 5": "target must be text",
    }.items():
        (zdm.directory / "zdm.toml").write_text(text)
        refused(zdm("plan", "m.yaml"), 2, "zdm.toml", line)
    unchanged()


def test_a_standby_takes_no_writes(own_server: DevServer, tmp_path: Path) -> None:
    with psycopg.connect(own_server.dsn(), autocommit=True) as conn:
        conn.execute(SETUP.encode())
    primary = Command(own_server.dsn(), tmp_path)
    primary("init").done()
    file = primary.write_text(WIDEN)
    standby = Command(replica_of(own_server, "readonly").dsn(), tmp_path)
    for command in (("init",), ("plan", file), ("advance", file)):
        refused(
            standby(*command),
            2,
            "this server takes no writes",
            "Connect to the primary",
            "Nothing was changed",
        )
    # What only reads may ask there.
    standby("status").done()
