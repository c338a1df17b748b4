"""Plays a case: writes of several connections, woven into the round trips of a rollout, against the model."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
from psycopg import sql

from tests.conformance.harness import OPEN_GATES
from tests.properties.pairs import Both, Column, Row, Value
from tests.support.interleave import Isolation, Pending, Scene, Session, eventually
from tests.support.mortal import Led, Mortal
from tests.support.servers import Database
from zdm.operations.migration import Migration

ID = "try_it"
Path = Literal["table", "old view", "new view"]

PATHS: dict[Path, str] = {
    "table": "public",
    "old view": f"public_before_{ID}, public",
    "new view": f"public_{ID}, public",
}


@dataclass(frozen=True)
class Table:
    """A table: its name, its key's, what becomes of its columns, and its rows by key."""

    name: str
    key: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Write:
    """A statement of one connection. Outside a transaction it is one of its own, at READ COMMITTED."""

    session: int
    table: int
    path: Path
    what: Literal["insert", "update", "upsert", "delete"]
    id: int
    values: Row


@dataclass(frozen=True)
class Begin:
    session: int
    level: Isolation


@dataclass(frozen=True)
class End:
    session: int
    commit: bool


@dataclass(frozen=True)
class Zdm:
    """zdm makes some round trips; the next phase begins if none is under way."""

    trips: int


@dataclass(frozen=True)
class Kill:
    """``kill -9`` of zdm, wherever it is."""


@dataclass(frozen=True)
class Back:
    """From here on it rolls back; if a phase is under way, its process is killed first."""


@dataclass(frozen=True)
class Sabotage:
    """Something that must not happen; for the test of this test."""

    statement: str


Event = Write | Begin | End | Zdm | Kill | Back | Sabotage


@dataclass(frozen=True)
class Case:
    """Tables, the events, and whether it ends with cleanup or with a rollback after switchover."""

    tables: tuple[Table, ...]
    events: tuple[Event, ...]
    cleanup: bool

    def setup(self) -> str:
        """The tables and their rows, as SQL."""
        statements: list[sql.Composable] = []
        for table in self.tables:
            columns = [sql.SQL("{} integer PRIMARY KEY").format(sql.Identifier(table.key))] + [
                sql.SQL("{} {}").format(sql.Identifier(c.name(name)), sql.SQL(type_))
                for c in table.columns
                for name, type_ in c.pair.old.items()
            ]
            statements.append(
                sql.SQL("CREATE TABLE {} ({})").format(
                    sql.Identifier(table.name), sql.SQL(", ").join(columns)
                )
            )
            for number, row in enumerate(table.rows, 1):
                statements.append(insert(table, number, row))
        return sql.SQL(";\n").join(statements).as_string(None)

    def migration(self) -> Migration:
        def quoted(name: str) -> str:
            return '"' + name.replace('"', '""') + '"'

        return Migration.model_validate(
            {
                "id": ID,
                "operations": [c.operation(quoted(t.name)) for t in self.tables for c in t.columns],
                "gates": OPEN_GATES,
            }
        )


def insert(table: Table, id_: int, values: Row) -> sql.Composed:
    names = [table.key, *values]
    return sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table.name),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(map(sql.Literal, (id_, *values.values()))),
    )


def statement(table: Table, write: Write) -> str:
    t, key = sql.Identifier(table.name), sql.Identifier(table.key)
    where = sql.SQL(" WHERE {} = {}").format(key, sql.Literal(write.id))
    if write.what == "delete":
        text = sql.SQL("DELETE FROM {}").format(t) + where
    elif write.what == "update":
        assignments = [
            sql.SQL("{} = {}").format(sql.Identifier(n), sql.Literal(v)) for n, v in write.values.items()
        ]
        text = sql.SQL("UPDATE {} SET {}").format(t, sql.SQL(", ").join(assignments)) + where
    else:
        text = insert(table, write.id, write.values)
        if write.what == "upsert":
            assignments = [
                sql.SQL("{} = EXCLUDED.{}").format(sql.Identifier(n), sql.Identifier(n)) for n in write.values
            ]
            text += sql.SQL(" ON CONFLICT ({}) DO UPDATE SET {}").format(key, sql.SQL(", ").join(assignments))
    return (text + sql.SQL(" RETURNING {}").format(key)).as_string(None)


class Model:
    """What both versions must show, row by row: (side, column) to value."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.tables: list[dict[int, Both]] = [{} for _ in case.tables]
        for number, table in enumerate(case.tables):
            for id_, row in enumerate(table.rows, 1):
                self.apply(Write(0, number, "table", "insert", id_, row))

    def apply(self, write: Write) -> None:
        """A write that was committed, in the order of the commits."""
        rows, columns = self.tables[write.table], self.case.tables[write.table].columns
        if write.what == "delete":
            del rows[write.id]
            return
        side = "new" if write.path == "new view" else "old"
        if write.what == "insert" or (write.what == "upsert" and write.id not in rows):
            assert write.id not in rows
            rows[write.id] = {}
            for column in columns:
                mine = [write.values.get(n, column.default(side, n)) for n in column.names(side)]
                derived = (column.pair.up if side == "old" else column.pair.down)(*mine)
                other = "new" if side == "old" else "old"
                rows[write.id] |= {(side, n): v for n, v in zip(column.names(side), mine, strict=True)}
                rows[write.id] |= {(other, n): v for n, v in zip(column.names(other), derived, strict=True)}
            return
        for column in columns:
            column.write(side, rows[write.id], write.values)

    def shown(self, table: int, side: str) -> list[tuple[Value, ...]]:
        names = [n for c in self.case.tables[table].columns for n in c.names(side)]
        return [(id_, *(row[side, n] for n in names)) for id_, row in sorted(self.tables[table].items())]


@dataclass
class Client:
    """One connection: what it has written in its transaction, and the statement that waits."""

    session: Session
    open: bool = False
    level: Isolation = "READ COMMITTED"
    alone: bool = False
    written: list[Write] = field(default_factory=list)
    waiting: tuple[Pending, Write] | None = None


class Play:
    """One run of a case on a database with zdm's catalog."""

    def __init__(self, database: Database, mortal: Mortal, case: Case) -> None:
        self.database, self.mortal, self.case = database, mortal, case
        self.migration = case.migration()
        self.model = Model(case)
        self.journal: list[str] = []
        self.led: Led | None = None
        self.state = "planned"
        self.back = False
        self.cleanup_begun = False

    def run(self) -> None:
        """Play it to its end.

        Raises
        ------
        AssertionError: what is found is not what the model says, or a statement failed that must not; with everything
            that is needed to see it again.
        """
        try:
            with Scene(self.database.dsn) as scene:
                self.scene = scene
                self.clients = [Client(scene.session(f"client {n}")) for n in range(3)]
                self.database.execute(self.case.setup())
                self.before = self.catalog()
                try:
                    for event in self.case.events:
                        self._event(event)
                        self._settle()
                    self._finish()
                finally:
                    if self.led is not None:
                        self.led.kill()
        except AssertionError as error:
            raise AssertionError(f"{error}\n\n{self.script()}") from error

    # -- events -------------------------------------------------------------------------------------------------

    def _event(self, event: Event) -> None:
        match event:
            case Write():
                self._write(event)
            case Begin():
                client = self.clients[event.session]
                if not client.open and client.waiting is None:
                    self._begin(client, event.level, alone=False)
            case End():
                client = self.clients[event.session]
                if client.open and client.waiting is None:
                    self._end(client, commit=event.commit)
            case Zdm():
                self._advance(event.trips)
            case Kill():
                self._kill()
            case Back() if self.state != "completed" and not self._cleaning:
                self._kill()
                self.back = True
            case Sabotage():
                self._say(f"-- {event.statement}")
                self.database.execute(event.statement)
            case _:
                pass

    @property
    def _cleaning(self) -> bool:
        return self.cleanup_begun or (
            self.led is not None and self.state == "switched_over" and not self.back
        )

    def _may(self, path: Path) -> bool:
        """Whether an application of that version is at work now."""
        if path == "new view":
            return self.state in ("prepared", "migrated", "switched_over", "completed") and not self.back
        return self.state != "completed" and not self._cleaning

    def _write(self, write: Write) -> None:
        client = self.clients[write.session]
        if client.waiting is not None or not self._may(write.path):
            return
        if not client.open:
            self._begin(client, "READ COMMITTED", alone=True)
        client.session.run(f"SET LOCAL search_path = {PATHS[write.path]}")
        text = statement(self.case.tables[write.table], write)
        self._say(f"{text};  -- {client.session.name}, {write.path}")
        client.waiting = (client.session.start(text), write)

    def _begin(self, client: Client, level: Isolation, *, alone: bool) -> None:
        client.open, client.level, client.alone, client.written = True, level, alone, []
        client.session.begin(level)
        self._say(f"BEGIN ISOLATION LEVEL {level};  -- {client.session.name}")

    def _end(self, client: Client, *, commit: bool) -> None:
        client.open = False
        if not commit:
            client.session.run("ROLLBACK")
            self._say(f"ROLLBACK;  -- {client.session.name}")
            return
        try:
            client.session.run("COMMIT")
        except psycopg.Error as error:
            self._failed(client, error, None)
            return
        self._say(f"COMMIT;  -- {client.session.name}")
        for write in client.written:
            self.model.apply(write)

    def _failed(self, client: Client, error: psycopg.Error, write: Write | None) -> None:
        self._say(f"ROLLBACK;  -- {client.session.name}: {error.sqlstate} {str(error).splitlines()[0]}")
        client.session.run("ROLLBACK")
        client.open = False
        allowed = {"40P01"} if sum(c.open for c in self.clients) else set()
        if client.level != "READ COMMITTED":
            allowed |= {"40001", "40P01"}
        if write is not None and write.what == "insert":
            allowed.add("23505")
        if write is not None and write.path == "new view" and self.state == "prepared":
            allowed.add("55000")  # NULL into a new column of a row that is not filled yet
        assert error.sqlstate in allowed, f"{error.sqlstate} {error}"

    def _settle(self) -> None:
        """Until every statement has ended or is waiting for a lock."""
        deadline = time.monotonic() + 60
        while waiting := [c for c in self.clients if c.waiting is not None]:
            for client in waiting:
                assert client.waiting is not None
                pending, write = client.waiting
                if pending.done:
                    client.waiting = None
                    try:
                        rows = pending.result()
                    except psycopg.Error as error:
                        self._failed(client, error, write)
                        break
                    client.written += [write] if rows else []
                    if client.alone:
                        self._end(client, commit=True)
                    break
            else:
                if all(self.scene.blockers(c.session.pid) for c in waiting if c.waiting is not None):
                    return
                assert time.monotonic() < deadline, "statements neither end nor wait"
                time.sleep(0.001)

    # -- zdm ----------------------------------------------------------------------------------------------------

    def _advance(self, trips: int) -> None:
        if self.led is None and not self._start():
            return
        assert self.led is not None
        begun = time.monotonic()
        deadline = begun + 60
        granted = False
        while True:
            self.led.look(0.002)
            if self.led.ended is not None:
                self._ended(self.led)
                return
            if self.led.standing:
                if granted:
                    return
                self.led.grant(trips)
                granted = True
            elif self.scene.waits_for_us("zdm"):
                return
            elif any(c.open for c in self.clients) and time.monotonic() > begun + 0.3:
                return  # it looks again and again whether a client's transaction has ended, before it asks for a lock
            assert time.monotonic() < deadline, "zdm neither ends nor waits for a client"

    def _start(self) -> bool:
        done = "rolled_back" if self.back else "completed" if self.case.cleanup else "switched_over"
        if self.state == done:
            return False
        if self.back or self.state == "switched_over":
            # One of the versions is taken out of service first.
            self._end_all()
        if self.back and self.state == "planned":
            return False
        what = "rollback" if self.back else "advance"
        self._say(f"-- zdm {what} begins, {self.state}")
        self.led = self.mortal.lead(self.database.dsn, self.migration, what)
        return True

    def _ended(self, led: Led) -> None:
        assert led.ended is not None
        self.led = None
        self._say(f"-- zdm ended: {led.ended}")
        if led.ended.error.startswith("Busy"):
            return  # the one that was killed is still seen, or a client holds a lock
        assert not led.ended.error, led.ended.error
        self.state = led.ended.state
        if not any(client.open for client in self.clients):
            self.check()

    def _kill(self) -> None:
        if self.led is None:
            return
        self.led.kill()
        assert self.led.ended is not None
        if not self.led.ended.killed:
            self._ended(self.led)
            return
        self._say("-- kill -9 of zdm")
        self.led = None
        self._look()

    def _look(self) -> None:
        """Where the rollout stands: who was killed may have come further than it could tell."""
        # What it had sent last is done, or undone, by the server processes that it left.
        eventually(lambda: self.scene.waits_for_us("zdm") or not self.scene.connected("zdm"))
        found = self.database.execute(
            "SELECT state FROM zdm.module_migrations WHERE migration = %s ORDER BY id DESC LIMIT 1", ID
        )
        stored = found[0][0] if found else "planned"
        if stored in ("planned", "prepared", "migrated", "switched_over", "completed", "rolled_back"):
            self.state = stored
        self.cleanup_begun = stored in ("cleaning_up", "cleanup_failed")

    def _end_all(self) -> None:
        deadline = time.monotonic() + 60
        while any(client.open for client in self.clients):
            self._settle()
            for client in self.clients:
                if client.open and client.waiting is None:
                    self._end(client, commit=True)
            assert time.monotonic() < deadline, "clients do not come to an end"

    def _finish(self) -> None:
        deadline = time.monotonic() + 120
        if self.led is not None:
            self._advance(10**9)
        while self.led is not None:
            self._settle()
            for client in self.clients:
                if client.open and client.waiting is None:
                    self._end(client, commit=True)
            self.led.look(0.005)
            if self.led.ended is not None:
                self._ended(self.led)
            elif self.led.standing:
                self.led.grant(10**9)
            assert time.monotonic() < deadline, "zdm does not come to an end"
        self._end_all()
        self.check()
        if not self.back and not self.case.cleanup:
            self._run_to("switched_over")
            self.back = True
        self._run_to("rolled_back" if self.back else "completed")
        if self.back:
            changed = set(self.catalog()) ^ set(self.before)
            assert not changed, f"after the rollback: {changed}"

    def _run_to(self, state: str) -> None:
        deadline = time.monotonic() + 120
        while self.state != state:
            if self.back and self.state == "planned" and not self._begun():
                return
            if self.led is None:
                what = "rollback" if self.back else "advance"
                self._say(f"-- zdm {what} begins, {self.state}")
                self.led = self.mortal.lead(self.database.dsn, self.migration, what)
            self._advance(10**9)
            assert time.monotonic() < deadline, f"it does not become {state}"
        self.check()

    def _begun(self) -> bool:
        return bool(
            self.database.value("SELECT count(*) FROM zdm.module_migrations WHERE state <> 'planned'")
        )

    # -- truth --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Every side that exists shows what the model says. Asked while no transaction is open."""
        sides: list[tuple[str, str]] = []
        if self.state != "completed" and not self._cleaning:
            sides.append(("old", "public"))
        if self.state in ("migrated", "switched_over") and not self.back:
            sides.append(("new", f"public_{ID}"))
        if self.state == "completed":
            sides.append(("new", "public"))
        for side, schema in sides:
            for number, table in enumerate(self.case.tables):
                names = [table.key, *(n for c in table.columns for n in c.names(side))]
                query = sql.SQL("SELECT {} FROM {} ORDER BY 1").format(
                    sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(schema, table.name)
                )
                found = self.database.execute(query.as_string(None))
                wanted = self.model.shown(number, side)
                assert found == wanted, f"{side} side of {table.name}, {self.state}: {found} and not {wanted}"

    def catalog(self) -> list[tuple[Any, ...]]:
        """Every object outside zdm's schema, as the server describes it (but for TOAST tables, which stay when a column goes)."""
        return self.database.execute(
            """SELECT pg_describe_object(classid, objid, objsubid), NULL FROM pg_depend WHERE deptype <> 'p'
                 AND pg_describe_object(classid, objid, objsubid) !~ '^default value|toast|zdm[.]|schema zdm$|information_schema'
                 AND objid >= 16384 AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = objid AND c.relnamespace = 'zdm'::regnamespace)
                 AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.oid = objid AND c.connamespace = 'zdm'::regnamespace)
                 AND NOT EXISTS (SELECT FROM pg_proc c WHERE c.oid = objid AND c.pronamespace = 'zdm'::regnamespace)
               UNION SELECT attrelid::regclass || '.' || attname || ' ' || attnum, format_type(atttypid, atttypmod) || attnotnull
                 FROM pg_attribute WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
                 AND attnum > 0 AND NOT attisdropped
               UNION SELECT 'schema ' || nspname, NULL FROM pg_namespace WHERE nspname !~ '^pg_'
               ORDER BY 1, 2"""
        )

    # -- for people ---------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self.journal.append(text)

    def script(self) -> str:
        """What happened, as SQL to read; and a program that plays it again."""
        happened = "\n".join(self.journal)
        case = re.sub(r"(?<=[(\[ ])(?=(?:Write|Begin|End|Zdm|Kill|Back|Table)\()", "\n    ", repr(self.case))
        return (
            f"-- What happened:\n{self.case.setup()};\n{happened}\n\n"
            f"# The migration:\n{self.migration.canonical()}\n\n"
            "# To see it again, put this into a file and run it with the Python of the tests, from the repository:\n"
            "from decimal import Decimal\n"
            "from tests.properties.again import *\n"
            f"again({case})\n"
        )
